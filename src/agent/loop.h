/* SPDX-License-Identifier: MIT */
/*
 * loop.h - watches and timers over libuv whose owner may free them at any moment.
 *
 * libuv gives a handle's memory back in a later turn of the loop; here the handle is separate from
 * its owner, so that "free" means: no callback comes any more, from now on.
 */
#ifndef AGT_LOOP_H
#define AGT_LOOP_H

#include "base/base.h"
#include <uv.h>

struct agt_watch;
struct agt_timer;

/* `events` is a set of UV_READABLE and UV_WRITABLE. After an error on the descriptor all that were
 * asked for are reported: the read or write then tells which error. */
typedef void agt_watch_fn(void *arg, int events);
typedef void agt_timer_fn(void *arg);

/* The descriptor stays the owner's, who frees the watch before closing it. -errno on failure
 * (-EPERM: a plain file cannot be watched). */
int agt_watch_new(uv_loop_t *loop, int fd, agt_watch_fn *fn, void *arg, struct agt_watch **ret);
void agt_watch_set(struct agt_watch *w, int events);
void agt_watch_free(struct agt_watch *w); /* accepts NULL */

/* NULL: no memory. */
struct agt_timer *agt_timer_new(uv_loop_t *loop, agt_timer_fn *fn, void *arg);
void agt_timer_set(struct agt_timer *t, uint64_t in_ms); /* once; sets again if it is set */
void agt_timer_stop(struct agt_timer *t);
void agt_timer_free(struct agt_timer *t); /* accepts NULL */

#endif
