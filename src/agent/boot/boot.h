/* SPDX-License-Identifier: MIT */
/*
 * boot.h - the agent as PID 1: the system is set up before the host is dialled, and powered off
 * after. What fails is logged and the boot goes on: an agent that can be asked is worth more than
 * one that stopped.
 */
#ifndef AGT_BOOT_BOOT_H
#define AGT_BOOT_BOOT_H

#include "agent/flags.h"

#define AGT_SHUTDOWN_GRACE_MS 10000 /* for containers after SIGTERM */
#define AGT_SHUTDOWN_KILL_MS  2000  /* and after SIGKILL */
#define AGT_SHUTDOWN_FLUSH_MS 1000  /* for their last output */

struct agt;

/* File systems, kernel modules, loopback, host name. */
void agt_boot(const struct agt_flags *flags);

/* Ends what runs, unmounts what is mounted (what cannot be is made read-only), and switches the
 * machine off; does not return as PID 1. */
void agt_power_off(void);

/* Stops containers and processes, then the agent: as PID 1 that powers off. Forced: kills at once.
 */
void agt_shutdown(struct agt *a, bool graceful);

#endif
