/* SPDX-License-Identifier: MIT */
#include "process.h"
#include "agent/agent.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

static void answer_wait(struct agt_request *rq, uint32_t exit_code)
{
	agt_answer(rq, json_pack("{s:I}", "ExitCode", (json_int_t)exit_code));
}

/* Forgets the oldest exited processes beyond the limit; inits belong to their container. */
static void forget_old(struct agt *a)
{
	size_t exited = 0;
	hf_list_for_each (l, &a->processes) {
		const struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		exited += p->state == AGT_PROCESS_EXITED && !p->init;
	}
	hf_list_for_each_safe (l, &a->processes) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (exited <= AGT_EXITED_MAX)
			return;
		if (p->state == AGT_PROCESS_EXITED && !p->init) {
			agt_process_free(p);
			exited--;
		}
	}
}

/* The exit may be told now. */
static void on_drained(void *arg)
{
	struct agt_process *p = arg;
	p->state = AGT_PROCESS_EXITED;
	while (!hf_list_empty(&p->waits)) {
		struct agt_request *rq = HF_CONTAINER_OF(p->waits.next, struct agt_request, wait);
		hf_list_remove(&rq->wait);
		answer_wait(rq, p->exit_code);
	}
	if (p->init)
		agt_container_exited(p->container);
	forget_old(p->a); /* may free p */
}

static void on_exit_status(void *arg, int status)
{
	struct agt_process *p = arg;
	p->exit_code = agt_exit_code(status);
	p->state = AGT_PROCESS_DRAINING;
	fd_closep(&p->pidfd);
	hf_debug("process %d: exit code %u", (int)p->pid, p->exit_code);
	if (p->init)
		agt_container_init_gone(p->container);
	if (p->stdio)
		agt_stdio_exited(p->stdio, on_drained, p);
	else
		on_drained(p);
}

struct agt_process *agt_process_new(
	struct agt *a, struct agt_container *c, bool init, struct agt_stdio *stdio, int console)
{
	struct agt_process *p = a->n_processes < AGT_PROCESSES_MAX ? calloc(1, sizeof(*p)) : NULL;
	if (!p)
		return NULL;
	*p = (struct agt_process){ .a = a, .container = c, .init = init, .pidfd = -1 };
	p->stdio = stdio;
	p->console = console;
	p->child.fn = on_exit_status;
	p->child.arg = p;
	hf_list_init(&p->waits);
	hf_list_append(&a->processes, &p->link);
	a->n_processes++;
	return p;
}

/* The pid is an unreaped child of ours, so it means this process and no other. */
static void began(struct agt_process *p, pid_t pid)
{
	p->pid = pid;
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0u);
}

int agt_process_spawn(struct agt_process *p, const struct agt_spawn *s, struct hf_err *reterr)
{
	int r = agt_child_spawn(&p->a->children, s, &p->child, reterr);
	if (r == 0)
		began(p, p->child.pid);
	return r;
}

void agt_process_adopt(struct agt_process *p, pid_t pid)
{
	int status;
	int ended = agt_child_adopt(&p->a->children, &p->child, pid, &status);
	if (!ended) {
		began(p, pid);
		return;
	}
	p->pid = pid;
	on_exit_status(p, status);
}

void agt_process_free(struct agt_process *p)
{
	if (!p)
		return;
	while (!hf_list_empty(&p->waits)) {
		struct agt_request *rq = HF_CONTAINER_OF(p->waits.next, struct agt_request, wait);
		hf_list_remove(&rq->wait);
		agt_refuse(
			rq, BRG_E_NOT_FOUND, "process %d: its container was deleted", (int)p->pid);
	}
	agt_child_forget(&p->child);
	agt_stdio_free(p->stdio);
	fd_closep(&p->pidfd);
	fd_closep(&p->console);
	hf_list_remove(&p->link);
	p->a->n_processes--;
	free(p);
}

struct agt_process *agt_process_find(struct agt *a, const struct agt_container *c, uint32_t pid)
{
	for (struct hf_list *l = a->processes.prev; l != &a->processes; l = l->prev) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (p->container == c && p->pid > 0 && (uint32_t)p->pid == pid)
			return p;
	}
	return NULL;
}

int agt_process_signal(const struct agt_process *p, int signo)
{
	if (p->state != AGT_PROCESS_RUNNING || p->pid <= 0)
		return -ESRCH;
	long r = p->pidfd >= 0 ? syscall(SYS_pidfd_send_signal, p->pidfd, signo, NULL, 0u)
			       : kill(p->pid, signo);
	return r < 0 ? -errno : 0;
}

static void on_wait_timeout(void *arg)
{
	struct agt_request *rq = arg;
	hf_list_remove(&rq->wait);
	agt_refuse(rq, BRG_E_TIMEOUT, "process %u: still running", rq->wait_pid);
}

void agt_process_wait(struct agt_process *p, struct agt_request *rq, uint32_t timeout_ms)
{
	rq->wait_pid = (uint32_t)p->pid;
	if (p->state == AGT_PROCESS_EXITED) {
		answer_wait(rq, p->exit_code);
		return;
	}
	if (timeout_ms != BRG_NO_TIMEOUT) {
		rq->wait_timer = agt_timer_new(&p->a->loop, on_wait_timeout, rq);
		if (!rq->wait_timer) {
			agt_refuse(rq, BRG_E_FAIL, "process %u: no memory to wait", rq->wait_pid);
			return;
		}
		agt_timer_set(rq->wait_timer, timeout_ms);
	}
	hf_list_append(&p->waits, &rq->wait);
}
