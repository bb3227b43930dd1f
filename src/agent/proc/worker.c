/* SPDX-License-Identifier: MIT */
#include "worker.h"
#include "agent/agent.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

struct worker {
	struct hf_list link; /* of agt.workers */
	struct agt *a;
	struct agt_work work;
	struct agt_child child;
	struct agt_timer *deadline;
	int pipe; /* -1: waits for its turn */
	uint64_t began_us;
	bool told; /* at the deadline */
};

static void free_worker(struct worker *w)
{
	hf_list_remove(&w->link);
	fd_closep(&w->pipe);
	agt_timer_free(w->deadline);
	free(w);
}

static void begin_next(struct agt *a);

static void on_ended(void *arg, int status)
{
	struct worker *w = arg;
	struct hf_err err = { 0 };
	ssize_t n = read(w->pipe, &err, sizeof(err));
	err.text[sizeof(err.text) - 1] = '\0';
	if (n != (ssize_t)sizeof(err))
		(void)hf_err_set(&err, -EIO, "%s: its worker died, exit code %u", w->work.what,
			agt_exit_code(status));
	struct agt_work work = w->work;
	bool told = w->told;
	struct agt *a = w->a;
	a->n_workers--;
	a->n_hung -= told;
	free_worker(w);
	begin_next(a);
	if (!told)
		work.done(work.arg, &err);
}

static void on_deadline(void *arg)
{
	struct worker *w = arg;
	struct agt_work work = w->work;
	struct hf_err err;
	(void)hf_err_set(&err, -ETIMEDOUT, "%s: no end after %d s", w->work.what,
		AGT_WORK_DEADLINE_MS / 1000);
	hf_error("%s (pid %d)", err.text, (int)w->child.pid);
	if (w->pipe < 0) { /* its turn has not come */
		w->a->n_work_waiting--;
		free_worker(w);
	} else {
		(void)kill(w->child.pid, SIGKILL); /* not reaped yet: the pid is its own */
		w->told = true;
		w->a->n_hung++;
	}
	work.done(work.arg, &err);
}

/* Everything that the child is: signals as a program has them, no descriptors of the agent's. */
static _Noreturn void run_child(const struct agt_work *work, int out)
{
	struct hf_err err = { 0 };
	sigset_t none;
	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL); /* the two that refuse are at their default */
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL); /* cannot fail with these arguments */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);      /* of an agent that has gone nobody asks */
	hf_log_setup("holdfast-agent", -1, HF_LOG_ERROR, HF_LOG_TEXT);
	unsigned low = (unsigned)HF_MIN(out, work->keep_fd ? work->keep_fd : out);
	unsigned high = (unsigned)HF_MAX(out, work->keep_fd);
	if (low > 3)
		(void)close_range(3, low - 1, 0); /* what stays open harms nobody */
	if (high > low + 1)
		(void)close_range(low + 1, high - 1, 0);
	(void)close_range(high + 1, ~0u, 0);
	int r = work->fn(work->arg, &err);
	if (r < 0 && err.code == 0)
		(void)hf_err_set(&err, r, "%s: %s", work->what, strerror(-r));
	ssize_t n = write(out, &err, sizeof(err)); /* fits into a pipe; without it: "died" */
	_exit(n < 0);
}

static pid_t start(const struct agt_work *work, int out)
{
	sigset_t all, old;
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, &old); /* no handler of ours may run in the child */
	pid_t pid = fork();
	if (pid == 0)
		run_child(work, out);
	(void)sigprocmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -errno : pid;
}

static int begin(struct worker *w, struct hf_err *reterr)
{
	int fds[2];
	const char *what = w->work.what;
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return hf_err_set(reterr, -errno, "%s: no pipe: %s", what, strerror(errno));
	pid_t pid = start(&w->work, fds[1]);
	(void)close(fds[1]);
	w->pipe = fds[0];
	if (pid < 0)
		return hf_err_set(reterr, pid, "%s: no process for it: %s", what, strerror(-pid));
	agt_child_watch(&w->a->children, &w->child, pid);
	w->a->n_workers++;
	agt_request_stage(w->work.rq, what, pid, AGT_WORK_DEADLINE_MS);
	return 0;
}

/* Those that wait are begun in the order of their coming. */
static void begin_next(struct agt *a)
{
	hf_list_for_each_safe (l, &a->workers) {
		struct worker *w = HF_CONTAINER_OF(l, struct worker, link);
		struct agt_work work = w->work;
		struct hf_err err = { 0 };
		if (a->n_work_waiting == 0 || a->n_workers >= AGT_WORKERS_MAX)
			return;
		if (w->pipe >= 0)
			continue;
		a->n_work_waiting--;
		if (begin(w, &err) == 0)
			continue;
		free_worker(w);
		work.done(work.arg, &err);
		return; /* which may have changed the list; the next end comes back */
	}
}

int agt_work_start(struct agt *a, const struct agt_work *work, struct hf_err *reterr)
{
	int r = 0;
	if (a->n_hung >= AGT_WORKERS_MAX || a->n_work_waiting >= AGT_WORK_WAITING_MAX)
		return hf_err_set(reterr, -EBUSY,
			"%s: %zu pieces of work hang and %zu wait: try again later", work->what,
			a->n_hung, a->n_work_waiting);
	struct worker *w = calloc(1, sizeof(*w));
	if (!w)
		return hf_err_set(reterr, -ENOMEM, "%s: no memory", work->what);
	*w = (struct worker){ .a = a, .work = *work, .pipe = -1 };
	w->began_us = hf_now_us();
	hf_list_append(&a->workers, &w->link);
	w->child.fn = on_ended;
	w->child.arg = w;
	w->deadline = agt_timer_new(&a->loop, on_deadline, w);
	if (!w->deadline)
		r = hf_err_set(reterr, -ENOMEM, "%s: no memory", work->what);
	else if (a->n_workers < AGT_WORKERS_MAX)
		r = begin(w, reterr);
	else
		a->n_work_waiting++;
	if (r < 0) {
		free_worker(w);
		return r;
	}
	agt_timer_set(w->deadline, AGT_WORK_DEADLINE_MS);
	return 0;
}

bool agt_work_describe(const struct agt *a, size_t i, char *text, size_t cap)
{
	hf_list_for_each (l, &a->workers) {
		const struct worker *w = HF_CONTAINER_OF(l, struct worker, link);
		if (i-- > 0)
			continue;
		(void)snprintf(text, cap, "worker %d: %s, for %lu of %d ms%s", (int)w->child.pid,
			w->work.what, (unsigned long)((hf_now_us() - w->began_us) / 1000),
			AGT_WORK_DEADLINE_MS, w->told ? ", given up, does not end" : "");
		return true;
	}
	return false;
}

json_t *agt_work_list(const struct agt *a)
{
	json_t *list = json_array();
	hf_list_for_each (l, &a->workers) {
		const struct worker *w = HF_CONTAINER_OF(l, struct worker, link);
		json_int_t age = (json_int_t)((hf_now_us() - w->began_us) / 1000);
		(void)json_array_append_new(
			list, json_pack("{s:i, s:s, s:I, s:I, s:b}", "Pid", (int)w->child.pid,
				      "What", w->work.what, "AgeMs", age, "DeadlineMs",
				      HF_MAX(AGT_WORK_DEADLINE_MS - age, (json_int_t)0), "GivenUp",
				      (int)w->told)); /* without memory one is missing */
	}
	return list;
}

int agt_work_run(const char *const argv[], struct hf_err *reterr)
{
	int status;
	volatile int err = 0;
	pid_t pid = vfork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* it ends with the worker */
		(void)execvp(argv[0], (char *const *)argv);
		err = errno;
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return hf_err_set(reterr, -errno, "%s: %s", argv[0], strerror(errno));
	if (err)
		return hf_err_set(reterr, -err, "%s: cannot start: %s", argv[0], strerror(err));
	if (status != 0)
		return hf_err_set(reterr, -EIO, "%s: exit code %u", argv[0], agt_exit_code(status));
	return 0;
}
