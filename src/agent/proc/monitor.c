/* SPDX-License-Identifier: MIT */
#include "monitor.h"
#include "agent/agent.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/line.h"
#include "base/log.h"
#include "words.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define LINE_LEN_MAX 900 /* bytes of a program's line that are logged */

struct agt_helper {
	struct hf_list link;
	struct agt *a;
	struct agt_helper_spec spec;
	struct agt_child child;
	struct agt_timer *timer;
	struct agt_watch *watch;
	struct hf_lines lines;
	int out; /* its output; -1 when it does not run */
	uint64_t began_us;
	uint32_t delay_ms;
	unsigned long starts;
};

static struct hf_list helpers = { &helpers, &helpers };
static size_t n_helpers;

uint32_t agt_restart_delay(uint32_t delay_ms, uint64_t ran_ms)
{
	if (delay_ms == 0 || ran_ms >= AGT_RESTART_STABLE_MS)
		return AGT_RESTART_MIN_MS;
	return HF_MIN(delay_ms + delay_ms / 2, AGT_RESTART_MAX_MS);
}

static void stop_reading(struct agt_helper *h)
{
	agt_watch_free(h->watch);
	h->watch = NULL;
	fd_closep(&h->out);
	hf_lines_done(&h->lines);
}

static void on_output(void *arg, int events)
{
	struct agt_helper *h = arg;
	char buf[2048], *line;
	(void)events;
	ssize_t n = read(h->out, buf, sizeof(buf));
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || hf_lines_feed(&h->lines, buf, (size_t)n) < 0) {
		stop_reading(h);
		return;
	}
	int r;
	while ((r = hf_lines_next(&h->lines, &line)) == 1) {
		hf_info("%s: %s", h->spec.argv[0], line);
		if (h->spec.line)
			h->spec.line(h->spec.arg, line);
	}
	if (r < 0) { /* too long, or no text: from the next bytes on again */
		hf_lines_done(&h->lines);
		hf_lines_init(&h->lines, LINE_LEN_MAX);
	}
}

static void again(struct agt_helper *h, uint64_t ran_ms)
{
	uint16_t random = 0;
	h->delay_ms = agt_restart_delay(h->delay_ms, ran_ms);
	(void)getrandom(&random, sizeof(random), GRND_NONBLOCK); /* else no jitter */
	agt_timer_set(h->timer, h->delay_ms * 3 / 4 + h->delay_ms / 2 * random / UINT16_MAX);
}

static void on_ended(void *arg, int status)
{
	struct agt_helper *h = arg;
	uint64_t ran_ms = (hf_now_us() - h->began_us) / 1000;
	again(h, ran_ms);
	hf_warn("%s: ended after %lu ms, exit code %u; start %lu follows in about %u ms",
		h->spec.argv[0], (unsigned long)ran_ms, agt_exit_code(status), h->starts + 1,
		h->delay_ms);
}

static int spawn(struct agt_helper *h, struct hf_err *reterr)
{
	int fds[2];
	stop_reading(h);
	hf_lines_init(&h->lines, LINE_LEN_MAX);
	h->began_us = hf_now_us();
	h->starts++;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return hf_err_set(
			reterr, -errno, "%s: no pipe: %s", h->spec.argv[0], strerror(errno));
	const struct agt_spawn s = { .argv = h->spec.argv,
		.env = h->spec.env,
		.netns = h->spec.netns,
		.fd = { -1, fds[1], fds[1] },
		.console = -1,
		.dies_with_agent = true };
	int r = agt_child_spawn(&h->a->children, &s, &h->child, reterr);
	(void)close(fds[1]);
	h->out = fds[0];
	(void)fd_set_nonblock(h->out, true); /* a pipe; fails on bad descriptors only */
	if (r == 0 && agt_watch_new(&h->a->loop, h->out, on_output, h, &h->watch) == 0)
		agt_watch_set(h->watch, UV_READABLE);
	return r;
}

static void start_again(void *arg)
{
	struct agt_helper *h = arg;
	struct hf_err err = { 0 };
	if (h->a->stopping || spawn(h, &err) == 0)
		return;
	again(h, 0);
	hf_warn("start %lu: %s", h->starts, err.text);
}

static struct agt_helper *new_helper(
	struct agt *a, const struct agt_helper_spec *spec, struct hf_err *reterr)
{
	struct agt_helper *h = n_helpers < AGT_HELPERS_MAX ? calloc(1, sizeof(*h)) : NULL;
	struct agt_timer *timer = h ? agt_timer_new(&a->loop, start_again, h) : NULL;
	if (!timer) {
		free(h);
		(void)hf_err_set(reterr, -ENOMEM, "%s: no memory, or more than %d helpers",
			spec->argv[0], AGT_HELPERS_MAX);
		return NULL;
	}
	*h = (struct agt_helper){ .a = a, .spec = *spec, .out = -1, .timer = timer };
	h->child.fn = on_ended;
	h->child.arg = h;
	hf_list_append(&helpers, &h->link);
	n_helpers++;
	return h;
}

struct agt_helper *agt_helper_start(
	struct agt *a, const struct agt_helper_spec *spec, struct hf_err *reterr)
{
	struct agt_helper *h = new_helper(a, spec, reterr);
	if (!h || spawn(h, reterr) == 0)
		return h;
	agt_helper_stop(h);
	return NULL;
}

void agt_helper_stop(struct agt_helper *h)
{
	if (!h)
		return;
	if (h->child.pid > 0)
		(void)kill(h->child.pid, SIGKILL); /* not reaped yet: the pid is its own */
	agt_child_forget(&h->child);
	stop_reading(h);
	agt_timer_free(h->timer);
	hf_list_remove(&h->link);
	n_helpers--;
	free(h);
}

/* A command that runs as long as the agent does; its first start comes in a later turn. */
static void add(struct agt *a, const char *command)
{
	size_t n = 0;
	struct hf_err err = { 0 };
	char **argv = agt_words_split(command, &n);
	const struct agt_helper_spec spec = { .argv = (const char *const *)argv };
	struct agt_helper *h = NULL;
	if (!argv || n == 0)
		hf_warn("helper \"%s\": no command", command);
	else if (n_helpers >= AGT_HELPERS_FILE_MAX)
		hf_warn("helper \"%s\": too many", command);
	else if (!(h = new_helper(a, &spec, &err)))
		hf_warn("helper: %s", err.text);
	if (h)
		agt_timer_set(h->timer, 0);
	else
		free(argv);
}

/* The PTP clock of the hypervisor: of Hyper-V, or of KVM. */
static bool find_clock(char *device, size_t cap)
{
	bool found = false;
	DIR *d = opendir("/sys/class/ptp");
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		char path[300], name[32] = "";
		(void)snprintf(path, sizeof(path), "/sys/class/ptp/%s/clock_name", e->d_name);
		HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);
		name[HF_MAX(n, 0)] = '\0';
		found = (!strncmp(name, "hyperv", 6) || !strncmp(name, "KVM", 3)) &&
			snprintf(device, cap, "/dev/%s", e->d_name) < (int)cap;
	}
	if (d)
		(void)closedir(d);
	return found;
}

static void add_chronyd(struct agt *a)
{
	static const char config[] = "/run/holdfast-chrony.conf";
	char device[280], command[64];
	const char *chronyd =
		access("/usr/sbin/chronyd", X_OK) ? "/sbin/chronyd" : "/usr/sbin/chronyd";
	if (access(chronyd, X_OK) < 0 || !find_clock(device, sizeof(device))) {
		hf_info("no chronyd, or no PTP clock of a hypervisor: the clock is left alone");
		return;
	}
	FILE *f = fopen(config, "we");
	/* steps whenever the clock is off by 0.1 s: after a migration at once */
	if (!f ||
		fprintf(f, "refclock PHC %s poll 3 dpoll -2 offset 0 stratum 2\nmakestep 0.1 -1\n",
			device) < 0)
		hf_warn("%s: %s", config, strerror(errno));
	if (f && fclose(f) == 0) {
		(void)snprintf(command, sizeof(command), "%s -n -f %s", chronyd, config);
		add(a, command);
	}
}

void agt_monitor_start(struct agt *a, const char *file, bool time_sync)
{
	char line[1024];
	FILE *f = file ? fopen(file, "re") : NULL;
	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\r\n")] = '\0';
		if (line[0] && line[0] != '#')
			add(a, line);
	}
	if (f)
		(void)fclose(f); /* was only read */
	if (time_sync)
		add_chronyd(a);
}

bool agt_monitor_describe(size_t i, char *text, size_t cap)
{
	hf_list_for_each (l, &helpers) {
		const struct agt_helper *h = HF_CONTAINER_OF(l, struct agt_helper, link);
		if (i-- > 0)
			continue;
		(void)snprintf(text, cap, "helper %s: %s, %lu starts", h->spec.argv[0],
			h->child.pid ? "running" : "waiting to start", h->starts);
		return true;
	}
	return false;
}
