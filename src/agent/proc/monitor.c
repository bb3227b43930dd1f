/* SPDX-License-Identifier: MIT */
#include "monitor.h"
#include "agent/agent.h"
#include "base/fd.h"
#include "base/line.h"
#include "base/log.h"
#include "words.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define LINE_LEN_MAX 900 /* bytes of a program's line that are logged */

struct helper {
	struct agt *a;
	char **argv;
	struct agt_child child;
	struct agt_timer *timer;
	struct agt_watch *watch;
	struct hf_lines lines;
	int out; /* its output; -1 when it does not run */
	uint64_t began_us;
	uint32_t delay_ms;
	unsigned long starts;
};

static struct helper helpers[AGT_HELPERS_MAX];
static size_t n_helpers;

uint32_t agt_restart_delay(uint32_t delay_ms, uint64_t ran_ms)
{
	if (delay_ms == 0 || ran_ms >= AGT_RESTART_STABLE_MS)
		return AGT_RESTART_MIN_MS;
	return HF_MIN(delay_ms + delay_ms / 2, AGT_RESTART_MAX_MS);
}

static void stop_reading(struct helper *h)
{
	agt_watch_free(h->watch);
	h->watch = NULL;
	fd_closep(&h->out);
	hf_lines_done(&h->lines);
}

static void on_output(void *arg, int events)
{
	struct helper *h = arg;
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
	while ((r = hf_lines_next(&h->lines, &line)) == 1)
		hf_info("%s: %s", h->argv[0], line);
	if (r < 0) { /* too long, or no text: from the next bytes on again */
		hf_lines_done(&h->lines);
		hf_lines_init(&h->lines, LINE_LEN_MAX);
	}
}

static void again(struct helper *h, uint64_t ran_ms)
{
	uint16_t random = 0;
	h->delay_ms = agt_restart_delay(h->delay_ms, ran_ms);
	(void)getrandom(&random, sizeof(random), GRND_NONBLOCK); /* else no jitter */
	agt_timer_set(h->timer, h->delay_ms * 3 / 4 + h->delay_ms / 2 * random / UINT16_MAX);
}

static void on_ended(void *arg, int status)
{
	struct helper *h = arg;
	uint64_t ran_ms = (agt_now_us() - h->began_us) / 1000;
	again(h, ran_ms);
	hf_warn("%s: ended after %lu ms, exit code %u; start %lu follows in about %u ms",
		h->argv[0], (unsigned long)ran_ms, agt_exit_code(status), h->starts + 1,
		h->delay_ms);
}

static void start(void *arg)
{
	struct helper *h = arg;
	struct hf_err err = { 0 };
	int fds[2];
	if (h->a->stopping)
		return;
	stop_reading(h);
	hf_lines_init(&h->lines, LINE_LEN_MAX);
	h->began_us = agt_now_us();
	h->starts++;
	if (pipe2(fds, O_CLOEXEC) < 0) {
		again(h, 0);
		return;
	}
	const struct agt_spawn s = {
		.argv = (const char *const *)h->argv,
		.fd = { -1, fds[1], fds[1] },
		.console = -1,
		.dies_with_agent = true,
	};
	int r = agt_child_spawn(&h->a->children, &s, &h->child, &err);
	(void)close(fds[1]);
	h->out = fds[0];
	(void)fd_set_nonblock(h->out, true); /* a pipe; fails on bad descriptors only */
	if (r == 0 && agt_watch_new(&h->a->loop, h->out, on_output, h, &h->watch) == 0)
		agt_watch_set(h->watch, UV_READABLE);
	if (r < 0) {
		again(h, 0);
		hf_warn("%s: start %lu: %s", h->argv[0], h->starts, err.text);
	}
}

static void add(struct agt *a, const char *command)
{
	size_t n = 0;
	struct helper *h = &helpers[n_helpers];
	char **argv = agt_words_split(command, &n);
	if (!argv || n == 0 || n_helpers == AGT_HELPERS_MAX) {
		hf_warn("helper \"%s\": %s", command,
			n_helpers == AGT_HELPERS_MAX ? "too many" : "no command");
		free(argv);
		return;
	}
	*h = (struct helper){ .a = a, .argv = argv, .out = -1 };
	h->timer = agt_timer_new(&a->loop, start, h);
	h->child.fn = on_ended;
	h->child.arg = h;
	if (!h->timer) {
		free(argv);
		return;
	}
	n_helpers++;
	agt_timer_set(h->timer, 0);
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
	if (i >= n_helpers)
		return false;
	(void)snprintf(text, cap, "helper %s: %s, %lu starts", helpers[i].argv[0],
		helpers[i].child.pid ? "running" : "waiting to start", helpers[i].starts);
	return true;
}
