/* SPDX-License-Identifier: MIT */
/*
 * shutdown.c - the end of the virtual machine:
 *
 *     ASKED --grace is over--> KILLED --all have ended, or time is up--> FLUSHING --> the agent
 * stops
 *
 * Containers and external processes get SIGTERM (graceful) or SIGKILL. FLUSHING: what they wrote
 * last is given time to reach the host. The link is not dialled again once the request was
 * accepted, but it stays up until the end, so that exits are still told.
 */
#include "agent/agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "boot.h"
#include <signal.h>

#define LOOK_MS 20 /* between looks whether all have ended */

static struct {
	struct agt_timer *timer;
	enum { ASKED, KILLED, FLUSHING } phase;
	uint64_t until_us;
} down; /* there is one machine */

static void enter(int phase, uint64_t for_ms)
{
	down.phase = phase;
	down.until_us = hf_now_us() + for_ms * 1000;
}

/* How many processes of the agent's own still run; inits stand for their containers. */
static size_t running(struct agt *a, int signo)
{
	size_t n = 0;
	hf_list_for_each (l, &a->processes) {
		const struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if ((p->container && !p->init) || p->state != AGT_PROCESS_RUNNING)
			continue;
		n++;
		if (signo)
			(void)agt_process_signal(p, signo); /* one that has just ended is fine */
	}
	return n;
}

static void look(void *arg)
{
	struct agt *a = arg;
	size_t n = running(a, 0);
	bool late = hf_now_us() >= down.until_us;
	if (down.phase == FLUSHING && (late || a->n_streams == 0)) {
		agt_stop(a, "shutdown by the host");
		return;
	}
	if (down.phase == ASKED && n > 0 && late) {
		enter(KILLED, AGT_SHUTDOWN_KILL_MS);
		(void)running(a, SIGKILL); /* the next look counts */
	} else if (down.phase != FLUSHING && (n == 0 || late)) {
		if (n > 0)
			hf_warn("shutdown: %zu processes did not end", n);
		enter(FLUSHING, AGT_SHUTDOWN_FLUSH_MS);
	}
	agt_timer_set(down.timer, LOOK_MS);
}

void agt_shutdown(struct agt *a, bool graceful)
{
	a->shut_down = true;
	if (!down.timer)
		down.timer = agt_timer_new(&a->loop, look, a);
	if (!down.timer) {
		agt_stop(a, "shutdown by the host");
		return;
	}
	agt_state_put(&a->state, "shutdown", "", json_boolean(graceful));
	brg_reconnect_stop(&a->link.reconnect);
	enter(graceful ? ASKED : KILLED, graceful ? AGT_SHUTDOWN_GRACE_MS : AGT_SHUTDOWN_KILL_MS);
	(void)running(a, graceful ? SIGTERM : SIGKILL); /* the first look counts */
	agt_timer_set(down.timer, LOOK_MS);
}
