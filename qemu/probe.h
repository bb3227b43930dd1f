/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * probe.h - reading and writing memory that may not be there.
 *
 * The module follows pointers that it has guessed. The kernel does the access, through a pipe:
 * write(2) of a bad address and read(2) to one answer EFAULT where a load or a store would end
 * QEMU.
 */
#ifndef HOLDFAST_QEMU_PROBE_H
#define HOLDFAST_QEMU_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#define PROBE_MAX 512 /* bytes per access; a pipe takes as much in one piece */

struct probe {
	int read_fd, write_fd;
};

/* 0, or -errno when no pipe can be had. */
int probe_open(struct probe *p);
void probe_close(struct probe *p);

/* Copies n bytes from or to an address that may be bad: false, and nothing promised of `to`, if it
 * is. */
bool probe_read(struct probe *p, void *to, const void *from, size_t n);
bool probe_write(struct probe *p, void *to, const void *from, size_t n);

/* Whether the word at `at` points to exactly this string. */
bool probe_points_to_string(struct probe *p, const void *at, const char *string);

#endif
