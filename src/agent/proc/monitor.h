/* SPDX-License-Identifier: MIT */
/*
 * monitor.h - helper programs that run as long as the agent does, or until they are stopped:
 * started again when they end.
 *
 * The delay before a start grows by half with each end, from AGT_RESTART_MIN_MS to
 * AGT_RESTART_MAX_MS, each time a quarter more or less at random; a run of AGT_RESTART_STABLE_MS
 * sets it back. What the program writes goes into the agent's log, line by line.
 *
 * A file lists them (-helpers), one command per line, quoted as a shell does; # begins a remark.
 * Besides, when there is a PTP clock of the hypervisor and a chronyd, chronyd follows the clock;
 * without one of them the guest's clock is left alone, which is told once. DHCP clients
 * (net/lease.h) come and go.
 */
#ifndef AGT_PROC_MONITOR_H
#define AGT_PROC_MONITOR_H

#include "base/err.h"

#define AGT_HELPERS_MAX       80 /* of all kinds */
#define AGT_HELPERS_FILE_MAX  16 /* that the file lists */
#define AGT_RESTART_MIN_MS    500u
#define AGT_RESTART_MAX_MS    60000u
#define AGT_RESTART_STABLE_MS 30000

struct agt;
struct agt_helper;
typedef void agt_helper_line_fn(void *arg, const char *line);

/* What it names stays the caller's, for as long as the helper is. */
struct agt_helper_spec {
	const char *const *argv;
	const char *const *env; /* NULL: the agent's own */
	const char *netns; /* path of the network name space to run in; NULL: the agent's own */
	agt_helper_line_fn *line; /* besides the log, not to stop the helper in; or NULL */
	void *arg;
};

/* Starts what the file lists (NULL or absent: nothing), and chronyd unless told not to. */
void agt_monitor_start(struct agt *a, const char *file, bool time_sync);

/* Starts a helper. When it cannot be started: NULL and a text. */
struct agt_helper *agt_helper_start(
	struct agt *a, const struct agt_helper_spec *spec, struct hf_err *reterr);

/* Kills it, for good; no line comes any more. Accepts NULL. */
void agt_helper_stop(struct agt_helper *h);

/* The delay after one of `delay_ms` and a run of `ran_ms`, before the jitter. */
uint32_t agt_restart_delay(uint32_t delay_ms, uint64_t ran_ms);

/* The i-th helper, for people: its line, or false when there are not so many. */
bool agt_monitor_describe(size_t i, char *text, size_t cap);

#endif
