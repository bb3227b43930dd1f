/* SPDX-License-Identifier: MIT */
/* daemon.h - what the whole process shares. */
#ifndef DEVICE_DAEMON_H
#define DEVICE_DAEMON_H

#include "control.h"
#include "link.h"
#include "loop.h"
#include "metrics.h"
#include "options.h"
#include "vsock/vsock.h"

#define DEV_RETRY_US 100000 /* a listener that ran out of descriptors is tried again */

/* A takeover while its record is read. */
struct dev_handover {
	struct dev_daemon *daemon;
	struct dev_vm *vm;     /* that came last and is not at its end; NULL: none */
	struct vsk_load conns; /* its connections that have not come yet */
	bool has_conns;
	struct dev_relay *joins; /* half of a JOIN, whose other half comes next; NULL: none */
	bool running[DEV_VMS_MAX];
};

struct dev_daemon {
	struct dev_loop loop;
	struct dev_options opt;
	struct dev_vm *vm[DEV_VMS_MAX]; /* NULL: none, the options beside it mean nothing */
	size_t n_vms;                   /* no slot behind this one was ever used */
	uint64_t turn;
	uint64_t freed_turn[DEV_VMS_MAX]; /* when the slot was last freed */
	struct dev_control control;
	struct dev_metrics metrics;
	struct dev_link link;
	bool retiring; /* VMs are gone; ends with the last relay */
	bool poked;    /* one VM has given another something to do */
	int taker;     /* who asks to take over; -1: nobody */
	bool given;    /* all of this is another process's now */
	struct dev_handover taken;
};

/* Of a zeroed one: it has a loop, whose on_turn is the caller's, and no VM or socket. */
int dev_daemon_init(struct dev_daemon *d);
/* Closes all. */
void dev_daemon_done(struct dev_daemon *d);

/* Everything but a takeover, which waits (takeover.h). Returns as on_turn. */
uint64_t dev_daemon_turn(struct dev_daemon *d);

#endif
