/* SPDX-License-Identifier: MIT */
/*
 * sandbox.h - what the process gives up once its sockets are open.
 *
 * Four walls, each on its own: no new privileges and no capabilities; Landlock, if the kernel has
 * it: no file may be opened, sockets may be made and removed in the named folders and nowhere else,
 * no TCP port may be bound or, without links over TCP, dialled, no signal sent to other processes;
 * and a seccomp filter of the system calls that the sources declare beside their use
 * (tools/syscalls). No file can be opened and no program started then: what the daemon needs later
 * comes as a descriptor.
 *
 * A call that is not declared is not made: the process logs it and ends, because what follows a
 * call that nobody has written is not to be trusted. Only opening a file merely fails.
 */
#ifndef DEVICE_SANDBOX_H
#define DEVICE_SANDBOX_H

#include "base/err.h"

#define DEV_SANDBOX_DIRS_MAX 160
#define DEV_EXIT_SANDBOX     3

struct dev_sandbox {
	char *dir[DEV_SANDBOX_DIRS_MAX]; /* where sockets may be made and removed */
	size_t n_dirs;
	bool tcp; /* other hosts are dialled */
};

/* Adds the folder of a socket's path, or the folder itself. "" is nothing. 0, -ENOMEM, -ENOSPC. */
int dev_sandbox_add_socket(struct dev_sandbox *s, const char *path);
int dev_sandbox_add_dir(struct dev_sandbox *s, const char *dir);
void dev_sandbox_done(struct dev_sandbox *s);

/* Changes to USER or USER:GROUP, with that user's groups. Before the sandbox. */
int dev_sandbox_user(const char *user, struct hf_err *reterr);

/* Enters; there is no way back. In a build with a sanitizer, which makes calls of its own, this
 * says so and does nothing. */
int dev_sandbox_enter(const struct dev_sandbox *s, struct hf_err *reterr);

#endif
