/* SPDX-License-Identifier: MIT */
/*
 * pump.h - a plain leg: bytes from one descriptor to another until the end.
 *
 * Output: local -> host. At the end of input the host's side is half-closed; the pump is over when
 * the host closes, or AGT_PUMP_CLOSE_MS later. A terminal's is closed at once.
 * Input: host -> local. At the end of input the local side is closed.
 * A broken receiver ends the pump and closes both sides, so the sender sees it.
 */
#ifndef AGT_STDIO_PUMP_H
#define AGT_STDIO_PUMP_H

#include "stdio.h"

#define AGT_PUMP_SIZE     (32u << 10)
#define AGT_PUMP_CLOSE_MS 5000

struct agt_pump;

/* Takes both descriptors in any case. remote -1: output is discarded. The set may be NULL. */
int agt_pump_new(struct agt *a, struct agt_stdio *set, int leg, int local, int remote, bool tty,
	struct agt_pump **ret);
void agt_pump_disown(struct agt_pump *p); /* the set is gone */
void agt_pump_stop(struct agt_pump *p);   /* ends it now; the set is not told */

#endif
