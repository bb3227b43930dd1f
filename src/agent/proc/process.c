/* SPDX-License-Identifier: MIT */
#include "process.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

static void answer_wait(struct agt_process *p, struct agt_request *rq)
{
	p->told = true;
	agt_answer(rq, json_pack("{s:I}", "ExitCode", (json_int_t)p->exit_code));
}

/* Forgets the oldest exited processes beyond so many, of those whose exit was told, or of all;
 * inits belong to their container. */
static void forget_old(struct agt *a, bool told, size_t most)
{
	size_t exited = 0;
	hf_list_for_each (l, &a->processes) {
		const struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		exited += p->state == AGT_PROCESS_EXITED && !p->init && p->told >= told;
	}
	hf_list_for_each_safe (l, &a->processes) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (exited <= most)
			return;
		if (p->state == AGT_PROCESS_EXITED && !p->init && p->told >= told) {
			agt_process_free(p);
			exited--;
		}
	}
}

/* The exit may be told now. */
static void on_drained(void *arg)
{
	struct agt_process *p = arg;
	struct agt *a = p->a;
	agt_state_begin(&a->state); /* the exit, and that it was told */
	p->state = AGT_PROCESS_EXITED;
	agt_process_put(p);
	while (!hf_list_empty(&p->waits)) {
		struct agt_request *rq = HF_CONTAINER_OF(p->waits.next, struct agt_request, wait);
		hf_list_remove(&rq->wait);
		answer_wait(p, rq);
	}
	if (p->init)
		agt_container_exited(p->container);
	forget_old(a, true, AGT_EXITED_MAX); /* may free p */
	agt_state_end(&a->state);
}

static void drain(struct agt_process *p)
{
	if (p->stdio)
		agt_stdio_exited(p->stdio, on_drained, p);
	else
		on_drained(p);
}

static void on_exit_status(void *arg, int status)
{
	struct agt_process *p = arg;
	p->exit_code = agt_exit_code(status);
	p->state = AGT_PROCESS_DRAINING;
	fd_closep(&p->pidfd);
	hf_debug("process %d: exit code %u", (int)p->pid, p->exit_code);
	agt_process_put(p);
	if (p->init)
		agt_container_init_gone(p->container);
	drain(p);
}

struct agt_process *agt_process_new(
	struct agt *a, struct agt_container *c, bool init, struct agt_stdio *stdio, int console)
{
	if (a->n_processes == AGT_PROCESSES_MAX)
		forget_old(a, false, AGT_PROCESSES_MAX / 2);
	struct agt_process *p = a->n_processes < AGT_PROCESSES_MAX ? calloc(1, sizeof(*p)) : NULL;
	if (!p)
		return NULL;
	*p = (struct agt_process){ .a = a, .container = c, .init = init, .pidfd = -1 };
	p->stdio = stdio;
	p->console = console;
	p->child.fn = on_exit_status;
	p->child.arg = p;
	p->serial = ++a->state.serial;
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
	agt_process_put(p);
}

void agt_process_put(struct agt_process *p)
{
	if (!agt_state_kept(&p->a->state))
		return;
	agt_state_put_n(&p->a->state, "process", p->serial,
		json_pack("{s:i, s:s*, s:b, s:i, s:I, s:i}", "pid", (int)p->pid, "container",
			p->container ? p->container->id : NULL, "init", (int)p->init, "state",
			(int)p->state, "code", (json_int_t)p->exit_code, "console", p->console));
}

static void restore(struct agt_heir *h, uint64_t serial, json_t *o)
{
	struct agt *a = h->a;
	struct agt_fields f = { .obj = o, .prefix = "process." };
	const char *id = agt_field_string(&f, "container", NULL);
	bool init = agt_field_bool(&f, "init", false);
	pid_t pid = (pid_t)agt_field_int(&f, "pid", 1, INT32_MAX, 0);
	uint64_t state = agt_field_uint(&f, "state", AGT_PROCESS_EXITED, 0);
	uint32_t code = (uint32_t)agt_field_uint(&f, "code", UINT32_MAX, 0);
	struct agt_container *c = id ? agt_container_find(a, id) : NULL;
	int console = agt_heir_fd(h, agt_field(&f, "console"), AGT_HEIR_TERMINAL);
	if (f.err.code != 0 || pid == 0 || (id && !c) || (init && (!c || c->init)))
		agt_heir_refuse(h, f.err.code ? f.err.text : "process");
	struct agt_process *p = agt_process_new(a, c, init, NULL, console);
	bool waits = init && c->state == AGT_CONTAINER_CREATED && !c->starting; /* no streams yet */
	if (p && !waits)
		p->stdio = agt_stdio_inherited(a);
	if (!p || (!waits && !p->stdio)) {
		agt_heir_refuse(h, "more processes than there can be");
		return;
	}
	p->serial = serial;
	p->pid = pid;
	p->state = (enum agt_process_state)state;
	p->exit_code = code;
	if (init)
		c->init = p;
	if (p->state != AGT_PROCESS_RUNNING)
		return;
	agt_child_watch(&a->children, &p->child, pid);
	/* If it has ended and the number is another's by now, the keeper's note of its end is read
	 * after this. */
	p->pidfd = (int)syscall(SYS_pidfd_open, pid, 0u);
}

void agt_processes_restore(struct agt_heir *h)
{
	uint64_t serial, last = h->a->state.serial;
	for (json_t *v = agt_heir_first(h, "process", &serial); v; v = agt_heir_next(h, &serial))
		restore(h, serial, v);
	h->a->state.serial = last; /* those that were given out in between are none's */
}

void agt_processes_settle(struct agt *a)
{
	struct agt_process *all[AGT_PROCESSES_MAX];
	size_t n = 0;
	hf_list_for_each (l, &a->processes) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (p->state == AGT_PROCESS_DRAINING)
			all[n++] = p;
	}
	while (n > 0)
		drain(all[--n]); /* forgets exited ones only, and of these the oldest */
}

struct agt_process *agt_process_by_serial(struct agt *a, uint64_t serial)
{
	hf_list_for_each (l, &a->processes) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (p->serial == serial)
			return p;
	}
	return NULL;
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
	agt_state_put_n(&p->a->state, "process", p->serial, NULL);
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
	agt_request_stage(rq, "the process", p->pid, timeout_ms == BRG_NO_TIMEOUT ? 0 : timeout_ms);
	if (p->state == AGT_PROCESS_EXITED) {
		answer_wait(p, rq);
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
