/* SPDX-License-Identifier: MIT */
/*
 * oom.h - processes of containers that the kernel killed for want of memory: told when it happens.
 *
 * The kernel marks memory.events of a control group (v2) as modified; one inotify descriptor
 * watches them all, nothing is polled. On version 1 an eventfd is written to instead, a moment
 * before it happens: the count is looked at for 2 s from then on. A host with a Holdfast session
 * gets an event (docs/bridge.md) and the sum with the container's exit; every other host gets a
 * line of the log, and the statistics.
 */
#ifndef AGT_HOST_OOM_H
#define AGT_HOST_OOM_H

#include "base/base.h"

struct agt;
struct agt_container;

int agt_oom_init(struct agt *a);

/* Begins and ends with the container's control group. Without one, or without a memory controller,
 * there is nothing to watch. */
void agt_oom_watch(struct agt_container *c);
void agt_oom_unwatch(struct agt_container *c);

/* Reads the count now, and tells what is new. */
void agt_oom_look(struct agt_container *c);

#endif
