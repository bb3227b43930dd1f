/* SPDX-License-Identifier: MIT */
/* process.c - WaitForProcess, SignalProcess, ResizeConsole, and the shutdown requests. */
#include "agent/agent.h"
#include "agent/boot/boot.h"
#include "agent/stdio/local.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

/* The process that the request names, or NULL when it was refused. */
static struct agt_process *need_process(struct agt_request *rq, uint32_t pid)
{
	struct agt_container *c = NULL;
	if (strcmp(rq->container, BRG_UVM_ID)) {
		c = agt_container_find(rq->a, rq->container);
		if (!c) {
			agt_refuse(rq, BRG_E_SYSTEM_NOT_FOUND, "container %s: no such container",
				rq->container);
			return NULL;
		}
	}
	struct agt_process *p = agt_process_find(rq->a, c, pid);
	if (!p)
		agt_refuse(rq, BRG_E_NOT_FOUND, "container %s: no process %u", rq->container, pid);
	return p;
}

void agt_rpc_wait(struct agt_request *rq)
{
	uint32_t pid = (uint32_t)agt_field_uint(&rq->f, "ProcessId", UINT32_MAX, 0);
	uint32_t timeout = (uint32_t)agt_field_uint(&rq->f, "TimeoutInMs", UINT32_MAX, 0);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	struct agt_process *p = need_process(rq, pid);
	if (!p)
		return;
	agt_session_adopt(&rq->a->session, rq->container, pid);
	agt_process_wait(p, rq, timeout);
}

/* The exit of a container that was asked to end is told as such. */
static void note_exit_type(const struct agt_process *p, int signo)
{
	if (p->init && signo == SIGTERM)
		p->container->exit_type = "GracefulExit";
	if (p->init && signo == SIGKILL)
		p->container->exit_type = "ForcedExit";
	if (p->init)
		agt_container_put(p->container);
}

void agt_rpc_signal(struct agt_request *rq)
{
	uint32_t pid = (uint32_t)agt_field_uint(&rq->f, "ProcessId", UINT32_MAX, 0);
	struct agt_fields options = agt_field_fields(&rq->f, "Options", "Options.");
	int signo = (int)agt_field_int(&options, "Signal", 0, SIGRTMAX, 0);
	agt_fields_join(&rq->f, &options);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	struct agt_process *p = need_process(rq, pid);
	if (!p)
		return;
	signo = signo ? signo : SIGKILL;
	int r = agt_process_signal(p, signo);
	if (r < 0) {
		agt_refuse(rq, r == -ESRCH ? BRG_E_NOT_FOUND : BRG_E_FAIL,
			"process %u: signal %d: %s", pid, signo,
			r == -ESRCH ? "it has ended" : strerror(-r));
		return;
	}
	note_exit_type(p, signo);
	agt_answer(rq, NULL);
}

void agt_rpc_resize(struct agt_request *rq)
{
	uint32_t pid = (uint32_t)agt_field_uint(&rq->f, "ProcessId", UINT32_MAX, 0);
	uint16_t rows = (uint16_t)agt_field_uint(&rq->f, "Height", UINT16_MAX, 0);
	uint16_t cols = (uint16_t)agt_field_uint(&rq->f, "Width", UINT16_MAX, 0);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	struct agt_process *p = need_process(rq, pid);
	if (!p)
		return;
	int r = p->console < 0 ? -ENOTTY : agt_terminal_resize(p->console, rows, cols);
	if (r < 0 && p->state == AGT_PROCESS_RUNNING)
		agt_refuse(rq, BRG_E_FAIL, "process %u: %s", pid,
			r == -ENOTTY ? "has no terminal" : strerror(-r));
	else
		agt_answer(rq, NULL);
}

void agt_rpc_shutdown(struct agt_request *rq)
{
	bool graceful = rq->type == BRG_SHUTDOWN_GRACEFUL;
	int signo = graceful ? SIGTERM : SIGKILL;
	if (!strcmp(rq->container, BRG_UVM_ID)) {
		struct agt *a = rq->a;
		agt_answer(rq, NULL);
		agt_shutdown(a, graceful);
		return;
	}
	struct agt_container *c =
		agt_container_need(rq, 1u << AGT_CONTAINER_CREATED | 1u << AGT_CONTAINER_RUNNING);
	if (!c)
		return;
	int r = agt_process_signal(c->init, signo);
	if (r < 0) {
		agt_refuse(rq, r == -ESRCH ? BRG_E_ALREADY_STOPPED : BRG_E_FAIL,
			"container %s: signal %d: %s", c->id, signo, strerror(-r));
		return;
	}
	note_exit_type(c->init, signo);
	agt_answer(rq, NULL);
}
