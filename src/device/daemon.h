/* SPDX-License-Identifier: MIT */
/* daemon.h - what the whole process shares. */
#ifndef DEVICE_DAEMON_H
#define DEVICE_DAEMON_H

#include "control.h"
#include "link.h"
#include "loop.h"
#include "metrics.h"
#include "options.h"

#define DEV_RETRY_US 100000 /* a listener that ran out of descriptors is tried again */

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
	bool poked; /* one VM has given another something to do */
};

#endif
