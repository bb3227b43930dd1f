/* SPDX-License-Identifier: MIT */
/*
 * shutdown.c - the end of the virtual machine: containers are asked, then killed, then the agent
 * stops. The link is not dialled again from the moment the request was accepted; it stays up while
 * containers end, so that their exits are still told.
 */
#include "agent/agent.h"
#include "base/log.h"
#include "boot.h"
#include <signal.h>

#define LOOK_MS 20 /* between looks whether all have ended */

static struct {
	struct agt *a;
	struct agt_timer *timer;
	bool killed;
	uint64_t until_us;
} down; /* there is one machine */

static size_t running(struct agt *a, int signo)
{
	size_t n = 0;
	hf_list_for_each (l, &a->processes) {
		const struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (!p->init || p->state != AGT_PROCESS_RUNNING)
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
	bool late = agt_now_us() >= down.until_us;
	if (n == 0 || (late && down.killed)) {
		if (n > 0)
			hf_warn("shutdown: %zu containers did not end", n);
		agt_stop(a, "shutdown by the host");
		return;
	}
	if (late) {
		down.killed = true;
		down.until_us = agt_now_us() + AGT_SHUTDOWN_KILL_MS * 1000ull;
		(void)running(a, SIGKILL); /* the next look counts */
	}
	agt_timer_set(down.timer, LOOK_MS);
}

void agt_shutdown(struct agt *a, bool graceful)
{
	if (!down.timer)
		down.timer = agt_timer_new(&a->loop, look, a);
	if (!down.timer) {
		agt_stop(a, "shutdown by the host");
		return;
	}
	brg_reconnect_stop(&a->link.reconnect);
	down.killed = !graceful;
	down.until_us =
		agt_now_us() + (graceful ? AGT_SHUTDOWN_GRACE_MS : AGT_SHUTDOWN_KILL_MS) * 1000ull;
	(void)running(a, graceful ? SIGTERM : SIGKILL); /* the first look counts */
	agt_timer_set(down.timer, LOOK_MS);
}
