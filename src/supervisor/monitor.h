/* SPDX-License-Identifier: MIT */
/* monitor.h - QEMU's monitor on the loop: commands with answers, and events. */
#ifndef HF_SUPERVISOR_MONITOR_H
#define HF_SUPERVISOR_MONITOR_H

#include "base/err.h"
#include "chan.h"

struct monitor;

/* `result` (NULL when err is set) is borrowed. Exactly one call per command. */
typedef void monitor_done_fn(void *ctx, const struct hf_err *err, json_t *result);

struct monitor_ops {
	void (*on_ready)(void *ctx, json_t *version);
	void (*on_event)(void *ctx, const char *name, json_t *data);
	void (*on_lost)(void *ctx); /* after the outstanding commands were failed */
};

int monitor_open(uv_loop_t *loop, const char *path, const struct monitor_ops *ops, void *ctx,
	struct monitor **ret_m);
void monitor_close(struct monitor *m); /* outstanding commands are forgotten */

/* args is taken over; NULL: none. done may be NULL: a failure is then logged. */
void monitor_call(
	struct monitor *m, const char *command, json_t *args, monitor_done_fn *done, void *ctx);

pid_t monitor_peer_pid(const struct monitor *m);

#endif
