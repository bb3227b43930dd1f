/* SPDX-License-Identifier: MIT */
/*
 * control.h - the control socket: JSON, one object per line (docs/control.md).
 *
 * A client has one request in work at a time: no further line is read until its answer has been
 * sent whole, so neither buffer of a client grows beyond one line and one answer. A descriptor that
 * a client sends waits for its next request that takes one; at most one waits.
 *
 * A client may watch one VM: it is told what applications must know in a migration. What is said
 * is how things stand, so of two sayings that wait only the later one is kept. The request quiesce
 * is answered when all who watch have said that they are done, or at its deadline.
 */
#ifndef DEVICE_CONTROL_H
#define DEVICE_CONTROL_H

#include "base/line.h"
#include "loop.h"

#define DEV_CLIENTS_MAX      16
#define DEV_CONTROL_LINE_MAX (1U << 20)
#define DEV_LIST_MAX         2048 /* connections in one answer */
#define DEV_QUIESCE_MS_MAX   60000

struct dev_daemon;
struct dev_vm;

enum dev_says {
	DEV_SAYS_NOTHING,
	DEV_SAYS_QUIESCE, /* leave your state and be still */
	DEV_SAYS_LOADED,  /* connections have arrived and may be claimed */
	DEV_SAYS_RESUME,  /* the guest runs here */
	DEV_SAYS_N_
};

struct dev_client {
	int fd; /* -1: the slot is free */
	uint32_t gen;
	struct hf_lines in;
	int in_fd; /* sent by the client, waits for a request; -1: none */
	char *out; /* the answer under way; NULL: none */
	size_t out_len, out_sent;
	int out_fd;   /* goes with the first byte of the answer; -1: none */
	bool closing; /* closed when the answer is out */

	struct dev_vm *watches; /* NULL: none */
	enum dev_says says;     /* of it, to be sent */
	bool busy;              /* was told to quiesce and has not said that it did */

	struct dev_vm *quiesces; /* its request waits for those who watch; NULL: none does */
	void *quiesce_id;        /* JSON */
	uint64_t quiesce_ms, quiesce_until_us;
};

struct dev_control {
	struct dev_daemon *daemon;
	char *path;
	int listen_fd; /* -1: no control socket */
	bool full;     /* the listener waits for a slot or a descriptor, until retry_us */
	uint64_t retry_us;
	struct dev_client client[DEV_CLIENTS_MAX];
};

int dev_control_open(struct dev_control *c, struct dev_daemon *daemon, const char *path);
void dev_control_close(struct dev_control *c);

/* A control socket that was taken over, its clients, and when all is ours: they go on. */
int dev_control_adopt(struct dev_control *c, struct dev_daemon *daemon, const char *path, int fd);
struct dev_client *dev_control_add(struct dev_control *c, int fd); /* owns fd; NULL: no room */
void dev_control_carry_on(struct dev_control *c);
void dev_control_forget_all(struct dev_control *c); /* without a trace */

void dev_control_on_listen(struct dev_control *c);
void dev_control_on_client(struct dev_control *c, struct dev_tag tag);

/* Tells those who watch the VM, at the end of this turn. */
void dev_control_tell(struct dev_control *c, struct dev_vm *vm, enum dev_says what);

/* The VM is going: nobody watches it any more, and who waits for it is sent away. */
void dev_control_forget(struct dev_control *c, const struct dev_vm *vm);

/* Says what there is to say, answers those who wait, and takes clients again after there was no
 * room or no descriptor for them. Returns as on_turn. */
uint64_t dev_control_turn(struct dev_control *c);

#endif
