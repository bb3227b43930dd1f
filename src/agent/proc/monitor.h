/* SPDX-License-Identifier: MIT */
/*
 * monitor.h - helper programs that run as long as the agent does: started again when they end.
 *
 * The delay before a start grows by half with each end, from AGT_RESTART_MIN_MS to
 * AGT_RESTART_MAX_MS, each time a quarter more or less at random; a run of AGT_RESTART_STABLE_MS
 * sets it back. What the program writes goes into the agent's log, line by line.
 *
 * A file lists them (-helpers), one command per line, quoted as a shell does; # begins a remark.
 * Besides, when there is a PTP clock of the hypervisor and a chronyd, chronyd follows the clock;
 * without one of them the guest's clock is left alone, which is told once.
 */
#ifndef AGT_PROC_MONITOR_H
#define AGT_PROC_MONITOR_H

#include "base/base.h"

#define AGT_HELPERS_MAX       16
#define AGT_RESTART_MIN_MS    500u
#define AGT_RESTART_MAX_MS    60000u
#define AGT_RESTART_STABLE_MS 30000

struct agt;

/* Starts what the file lists (NULL or absent: nothing), and chronyd unless told not to. */
void agt_monitor_start(struct agt *a, const char *file, bool time_sync);

/* The delay after one of `delay_ms` and a run of `ran_ms`, before the jitter. */
uint32_t agt_restart_delay(uint32_t delay_ms, uint64_t ran_ms);

/* The i-th helper, for people: its line, or false when there are not so many. */
bool agt_monitor_describe(size_t i, char *text, size_t cap);

#endif
