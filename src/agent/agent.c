/* SPDX-License-Identifier: MIT */
#include "agent.h"
#include "base/fd.h"
#include "base/log.h"
#include "boot/ports.h"
#include "host/oom.h"
#include "keep/restore.h"
#include "proc/monitor.h"
#include "proc/words.h"
#include "proc/worker.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

void agt_stop(struct agt *a, const char *why)
{
	if (a->stopping)
		return;
	hf_info("stopping: %s", why);
	a->stopping = true;
	agt_link_stop(&a->link);
	uv_stop(&a->loop);
}

static void on_signal(uv_signal_t *h, int signo)
{
	agt_stop(h->data, signo == SIGTERM ? "SIGTERM" : "SIGINT");
}

static int watch_signal(struct agt *a, uv_signal_t *h, int signo)
{
	int r = uv_signal_init(&a->loop, h);
	h->data = a;
	return r < 0 ? r : uv_signal_start(h, on_signal, signo);
}

static int set_up(struct agt *a, struct hf_err *reterr)
{
	hf_list_init(&a->containers);
	hf_list_init(&a->processes);
	hf_list_init(&a->resumables);
	hf_list_init(&a->namespaces);
	hf_list_init(&a->workers);
	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail; writers look at EPIPE */
	a->children.ends = a->keeper->ends;
	a->children.state = &a->state;
	int r = uv_loop_init(&a->loop);
	if (r == 0)
		r = agt_children_init(&a->children, &a->loop);
	if (r == 0)
		r = watch_signal(a, &a->sigterm, SIGTERM);
	if (r == 0)
		r = watch_signal(a, &a->sigint, SIGINT);
	if (r == 0)
		r = agt_oom_init(a);
	if (r == 0)
		r = agt_link_init(&a->link, a);
	if (r < 0)
		return hf_err_set(reterr, r, "event loop: %s", strerror(-r));
	if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		return hf_err_set(reterr, -errno, "cannot become a subreaper: %s", strerror(errno));
	agt_session_init(&a->session, a);
	return agt_runtime_init(&a->runtime, a, reterr);
}

static void set_core_pattern(const char *pattern)
{
	static const char path[] = "/proc/sys/kernel/core_pattern";
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, pattern, strlen(pattern)) < 0)
		hf_warn("-core-dump-location=%s: %s: %s", pattern, path, strerror(errno));
}

/* The kernel looks for others first. Children give it up (proc/child.c). */
static void protect(void)
{
	static const char path[] = "/proc/self/oom_score_adj";
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "-999", 4) < 0)
		hf_info("%s: %s: the agent may be killed when memory is short", path,
			strerror(errno));
}

/* The machine has another init, which is told to end it. */
static void switch_off(const char *command)
{
	size_t n = 0;
	struct hf_err err = { 0 };
	char **argv = agt_words_split(command, &n);
	if (!argv || n == 0)
		hf_error("-on-shutdown: \"%s\": no command", command);
	else if (agt_work_run((const char *const *)argv, &err) < 0)
		hf_error("-on-shutdown: %s", err.text);
	free(argv);
}

/* What the agent before this one left, if there was one. */
static int take_over(struct agt *a, struct agt_heir *h, struct hf_err *reterr)
{
	json_t *map = NULL;
	int r = agt_state_open(
		&a->state, a->runtime.dir, a->keeper->ends->id, a->keeper->poisoned, &map, reterr);
	if (r < 0)
		return r;
	agt_state_begin(&a->state);
	agt_heir_restore(h, map);
	agt_state_end(&a->state);
	return 0;
}

int agt_run(struct agt *a, const struct agt_flags *flags, const struct agt_keeper *keeper)
{
	struct hf_err err = { 0 };
	struct agt_heir heir = { 0 };
	a->flags = flags;
	a->keeper = keeper;
	a->init = keeper->pid == 1;
	a->state.fd = -1;
	if (flags->core_location)
		set_core_pattern(flags->core_location);
	protect();
	int r = keeper->ends ? agt_heir_init(&heir, a) : 0;
	if (r == 0)
		r = set_up(a, &err);
	if (r == 0 && keeper->ends)
		r = take_over(a, &heir, &err);
	if (r == 0) {
		r = agt_link_start(&a->link);
		if (r < 0)
			(void)hf_err_set(&err, r, "standard input and output: %s", strerror(-r));
	}
	if (r < 0) {
		hf_error("%s", err.text);
		return EXIT_FAILURE;
	}
	if (flags->entropy_port)
		agt_entropy(a, (uint32_t)flags->entropy_port);
	if (flags->log_port && !flags->logfile && agt_log_relay(a, (uint32_t)flags->log_port) < 0)
		hf_warn("the log goes nowhere: no memory");
	if (a->init)
		agt_kmsg(a, flags->kmsg_level);
	agt_monitor_start(a, flags->helpers, !flags->no_time_sync && a->init);
	(void)uv_run(&a->loop, UV_RUN_DEFAULT); /* returns when stopped */
	if (a->shut_down && !a->init && flags->on_shutdown)
		switch_off(flags->on_shutdown);
	return EXIT_SUCCESS;
}
