/* SPDX-License-Identifier: MIT */
/*
 * inflight.h - what a holdfastd leaves behind for the next one, in a file that the front end keeps
 * (vhost-user: Inflight I/O tracking).
 *
 *	areas of the queues   which chains were taken and not given back: virtq/inflight.c
 *	flows                 which connections the guest has: the next holdfastd does not know
 *them, and resets each, so that nobody in the guest waits for ever
 *
 * The second part is ours alone, behind what the protocol wants; a file of another back end has
 * none. Only a front end that accepts INFLIGHT_SHMFD keeps such a file.
 */
#ifndef DEVICE_INFLIGHT_H
#define DEVICE_INFLIGHT_H

#include "base/base.h"

struct dev_vm;
struct dev_conn;

struct dev_inflight {
	void *map; /* NULL: no file */
	uint16_t n_queues, queue_size;
	uint16_t *again; /* memory for the queues' heads */
	uint8_t *flows;  /* NULL: none in this file */
};

/* A new file for these rings: 0 and its size, or -errno. */
int dev_inflight_make(uint16_t n_queues, uint16_t queue_size, int *ret_fd, uint64_t *ret_size);

/* Uses the file from here on; no ring is started. 0 or -errno. */
int dev_inflight_set(struct dev_vm *vm, int fd, uint64_t offset, uint64_t size, uint16_t n_queues,
	uint16_t queue_size);
void dev_inflight_drop(struct dev_vm *vm);

/* The guest knows of this connection, or does not any more. */
void dev_inflight_note(struct dev_vm *vm, const struct dev_conn *c);
void dev_inflight_forget(struct dev_vm *vm, const struct dev_conn *c);

/* Sends RST to all that somebody else has noted. */
void dev_inflight_reset(struct dev_vm *vm);
/* Notes all that live, and nothing else. */
void dev_inflight_rewrite(struct dev_vm *vm);

#endif
