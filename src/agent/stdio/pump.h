/* SPDX-License-Identifier: MIT */
/*
 * pump.h - a plain leg: bytes from one descriptor to another until the end.
 *
 * Output: local -> host. At the end of input the host's side is half-closed; the pump is over when
 * the host closes, or AGT_PUMP_CLOSE_MS later. A terminal's is closed at once.
 * Input: host -> local. At the end of input the local side is closed.
 * A broken receiver ends the pump and closes both sides, so the sender sees it.
 *
 * With `redial` a lost host is dialled again at its port, at once and then every reconnect
 * interval, and output goes on with the first byte that the lost connection did not take: what an
 * upstream host that was migrated expects of a container's init. The process waits meanwhile. When
 * it has ended the pump gives up AGT_PUMP_CLOSE_MS later.
 */
#ifndef AGT_STDIO_PUMP_H
#define AGT_STDIO_PUMP_H

#include "stdio.h"

#define AGT_PUMP_SIZE     (32u << 10)
#define AGT_PUMP_CLOSE_MS 5000

struct agt_heir;
struct agt_pump;

struct agt_pump_config {
	struct agt_stdio *set; /* to be told; may be NULL */
	int leg;
	int local, remote; /* taken in any case; remote -1: output is discarded */
	bool tty;
	bool redial;    /* output only */
	bool inherited; /* the host is dialled first: remote is -1 */
	uint32_t port;
	uint64_t owner; /* the process's name in the state */
};

/* Those of the agent before this one whose host is dialled again. */
void agt_pump_restore(struct agt_heir *h);

int agt_pump_new(struct agt *a, const struct agt_pump_config *config, struct agt_pump **ret);
void agt_pump_exited(struct agt_pump *p); /* the process is gone */
void agt_pump_disown(struct agt_pump *p); /* the set is gone */
void agt_pump_stop(struct agt_pump *p);   /* ends it now; the set is not told */

#endif
