/* SPDX-License-Identifier: MIT */
/*
 * killed.c - libholdfast and the real agent, over Unix sockets instead of a virtual machine.
 *
 * usage: killed AGENT		runs the tests
 *        killed --child DIR RAMP	one life of an application: it runs `cat` in the guest,
 * feeds it a ramp of prime length and writes what comes back to DIR/output
 *
 * The parent kills the child with SIGKILL again and again. At the end the output is the ramp, byte
 * for byte, and the command was started once.
 */
#include "base/fd.h"
#include "holdfast/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define WINDOW      (64u << 10)
#define KILLS       60u   /* at most; the child then lives as long as it needs */
#define DEADLINE_MS 60000 /* a stall is for ever, and a busy machine is none */

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                 \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static uint32_t ramp; /* bytes; prime */

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- the application --- */

struct app {
	char dir[64];
	struct hf_guest *g;
	struct hf_guest_stream *in, *out;
	int output;
	/* What the application itself knows; it is saved together with the library's state. */
	int pid, exit_code;
	bool exited, in_over, out_ended, out_over, started;
	/* for the test of an agent that dies */
	int stale, unknown;
};

static char *app_path(struct app *a, const char *name)
{
	static char path[128];
	snprintf(path, sizeof(path), "%s/%s", a->dir, name);
	return path;
}

static int app_save(struct app *a)
{
	char *text = hf_guest_state(a->g), from[128];
	json_t *j = json_pack("{s:s, s:i, s:i, s:b, s:b, s:b}", "state", text, "pid", a->pid,
		"code", a->exit_code, "exited", a->exited, "in_over", a->in_over, "out_ended",
		a->out_ended);
	CHECK(j);
	snprintf(from, sizeof(from), "%s", app_path(a, "state.new"));
	CHECK(json_dump_file(j, from, 0) == 0);
	CHECK(rename(from, app_path(a, "state")) == 0);
	json_decref(j);
	free(text);
	return 0;
}

static int on_state(void *ctx, struct hf_guest *g)
{
	struct app *a = ctx;
	a->g = g;
	return app_save(a);
}

static void feed(struct app *a)
{
	uint8_t buf[4096];
	uint64_t at;
	while (a->in && (at = hf_guest_stream_written(a->in)) < ramp) {
		size_t n = ramp - at < sizeof(buf) ? (size_t)(ramp - at) : sizeof(buf);
		for (size_t i = 0; i < n; i++)
			buf[i] = (uint8_t)((at + i) % 251);
		ssize_t k = hf_guest_stream_write(a->in, buf, n);
		if (k < (ssize_t)n)
			return;
	}
	if (a->in && hf_guest_stream_written(a->in) == ramp)
		hf_guest_stream_end(a->in);
}

static void drain(struct app *a)
{
	struct iovec iov[2];
	int k = hf_guest_stream_read(a->out, iov);
	for (int i = 0; i < k; i++) {
		CHECK(fd_write_all(a->output, iov[i].iov_base, iov[i].iov_len) == 0);
		hf_guest_stream_take(a->out, iov[i].iov_len);
	}
}

static void on_stream(void *ctx, struct hf_guest_stream *s, unsigned events)
{
	struct app *a = ctx;
	if (s == a->out && (events & HF_GUEST_READABLE))
		drain(a);
	if (s == a->out && (events & HF_GUEST_ENDED)) {
		a->out_ended = true;
		app_save(a);
		hf_guest_stream_take_end(s);
	}
	if (s == a->in && (events & HF_GUEST_WRITABLE))
		feed(a);
	if (events & HF_GUEST_DEAD)
		a->unknown += strcmp(hf_guest_stream_why(s), "unknown session") == 0;
	if (events & (HF_GUEST_FINISHED | HF_GUEST_DEAD)) {
		if (s == a->in)
			a->in_over = true;
		else
			a->out_over = true;
	}
}

static void on_answer(void *ctx, const struct hf_guest_answer *r)
{
	struct app *a = ctx;
	if (r->code == -ESTALE) {
		a->stale++;
		return;
	}
	if (r->code < 0)
		fprintf(stderr, "%s: %s\n", r->tag, r->message);
	CHECK(r->code == 0);
	if (strcmp(r->tag, "exec") == 0) {
		struct hf_guest_call call = { .tag = "wait" };
		a->pid = (int)r->pid;
		CHECK(hf_guest_wait(a->g, &call, HF_GUEST_UVM, r->pid, UINT32_MAX) > 0);
	} else {
		a->exited = true;
		a->exit_code = (int)r->exit_code;
	}
}

static void app_start(struct app *a)
{
	char params[512];
	struct hf_guest_call call = { .tag = "exec" };
	CHECK(hf_guest_stream_new(a->g, true, "in", NULL, &a->in) == 0);
	CHECK(hf_guest_stream_new(a->g, false, "out", NULL, &a->out) == 0);
	snprintf(params, sizeof(params),
		"{\"CommandArgs\":[\"/bin/sh\",\"-c\",\"echo run >> %s/runs; cat; exit 7\"],"
		"\"WorkingDirectory\":\"/\",\"Environment\":{\"PATH\":\"/bin:/usr/bin\"}}",
		a->dir);
	struct hf_guest_exec e = {
		.container = HF_GUEST_UVM, .params_json = params, .in = a->in, .out = a->out
	};
	CHECK(hf_guest_exec(a->g, &call, &e) > 0);
	feed(a);
}

static void on_negotiated(void *ctx, const struct hf_guest_info *i)
{
	struct app *a = ctx;
	if (i->session == HF_GUEST_NEW && !a->started) {
		a->started = true;
		app_start(a);
	}
}

static void app_load(struct app *a, struct hf_guest_config *c, json_t **ret_saved)
{
	struct hf_err e = { 0 };
	json_t *j = json_load_file(app_path(a, "state"), 0, NULL);
	int in_over = 0, out_ended = 0, exited = 0;
	if (j) {
		const char *text;
		CHECK(json_unpack(j, "{s:s, s:i, s:i, s:b, s:b, s:b}", "state", &text, "pid",
			      &a->pid, "code", &a->exit_code, "exited", &exited, "in_over",
			      &in_over, "out_ended", &out_ended) == 0);
		c->state = text;
	}
	a->in_over = in_over;
	a->out_ended = out_ended;
	a->exited = exited;
	int r = hf_guest_new(c, &a->g, &e);
	if (r < 0)
		fprintf(stderr, "%s\n", e.text);
	CHECK(r == 0);
	*ret_saved = j;
}

static void app_open(struct app *a, const char *dir)
{
	char base[96];
	struct stat st;
	json_t *saved;
	memset(a, 0, sizeof(*a));
	snprintf(a->dir, sizeof(a->dir), "%s", dir);
	snprintf(base, sizeof(base), "%s/vsock", dir);
	struct hf_guest_config c = { .vsock_base = base,
		.window = WINDOW,
		.events = { .ctx = a,
			.state_changed = on_state,
			.negotiated = on_negotiated,
			.answer = on_answer,
			.stream = on_stream } };
	app_load(a, &c, &saved);
	a->output = open(app_path(a, "output"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	CHECK(a->output >= 0 && fstat(a->output, &st) == 0);
	for (struct hf_guest_stream *s = NULL; (s = hf_guest_stream_next(a->g, s));) {
		if (hf_guest_stream_is_to_guest(s)) {
			a->in = s;
			continue;
		}
		a->out = s;
		CHECK(hf_guest_stream_set_position(s, (uint64_t)st.st_size, a->out_ended) == 0);
	}
	a->started = saved && (a->in || a->out || a->pid > 0);
	if (a->started && !a->out)
		a->out_over = true; /* finished and saved so */
	if (a->started && !a->in)
		a->in_over = true;
	json_decref(saved);
}

static void app_step(struct app *a, int64_t deadline_ms)
{
	struct hf_err e = { 0 };
	int64_t us = hf_guest_timeout_us(a->g), left = deadline_ms - now_ms();
	int ms = us < 0 || us / 1000 > left ? (int)left : (int)((us + 999) / 1000);
	CHECK(left > 0);
	(void)poll(&(struct pollfd){ .fd = hf_guest_fd(a->g), .events = POLLIN }, 1, ms);
	CHECK(hf_guest_dispatch(a->g, &e) == 0);
}

static int child(const char *dir)
{
	struct app a;
	int64_t deadline = now_ms() + DEADLINE_MS;
	app_open(&a, dir);
	while (!(a.exited && a.in_over && (a.out_over || a.out_ended)))
		app_step(&a, deadline);
	CHECK(a.exit_code == 7);
	hf_guest_free(a.g);
	return 0;
}

/* --- the tests --- */

static pid_t spawn(const char *const argv[])
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);    /* a failed test leaves nobody behind */
		execv(argv[0], (char *const *)argv); /* it does not write there */
		_exit(127);
	}
	CHECK(pid > 0);
	return pid;
}

static pid_t spawn_agent(const char *agent, const char *dir)
{
	char transport[96], state[96], log[96];
	snprintf(transport, sizeof(transport), "unix:%s/vsock", dir);
	snprintf(state, sizeof(state), "%s/agent", dir);
	snprintf(log, sizeof(log), "%s/agent.log", dir);
	const char *argv[] = { agent, "-transport", transport, "-state", state, "-logfile", log,
		"-loglevel", "debug", NULL };
	return spawn(argv);
}

static void stop(pid_t pid)
{
	int status;
	CHECK(kill(pid, SIGKILL) == 0);
	CHECK(waitpid(pid, &status, 0) == pid);
}

static void check_output(const char *dir)
{
	char path[128], line[8];
	snprintf(path, sizeof(path), "%s/output", dir);
	FILE *f = fopen(path, "rb");
	CHECK(f);
	uint32_t n = 0;
	for (int c; (c = getc(f)) != EOF; n++)
		if (c != (int)(n % 251)) {
			fprintf(stderr, "byte %u is %d\n", n, c);
			CHECK(!"the ramp");
		}
	fclose(f);
	if (n != ramp)
		fprintf(stderr, "%u bytes\n", n);
	CHECK(n == ramp);
	snprintf(path, sizeof(path), "%s/runs", dir);
	f = fopen(path, "r");
	CHECK(f && fgets(line, sizeof(line), f) && !fgets(line, sizeof(line), f));
	fclose(f);
}

/* A child lives for 0.5 ms to 0.5 ms + life_us. */
static void test_killed(
	const char *self, const char *agent, const char *dir, unsigned random, unsigned life_us)
{
	char bytes[16];
	const char *argv[] = { self, "--child", dir, bytes, NULL };
	unsigned kills = 0;
	int64_t begin = now_ms();
	pid_t guest = spawn_agent(agent, dir);
	snprintf(bytes, sizeof(bytes), "%u", ramp);
	for (;;) {
		pid_t pid = spawn(argv);
		int status;
		random = random * 1103515245u + 12345u;
		usleep(500 + (random >> 16) % life_us);
		pid_t r = waitpid(pid, &status, kills < KILLS ? WNOHANG : 0);
		if (r == pid) {
			CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
			break;
		}
		stop(pid);
		kills++;
	}
	check_output(dir);
	stop(guest);
	printf("%u bytes there and back, %u times killed, %d ms\n", ramp, kills,
		(int)(now_ms() - begin));
}

/* A guest that was restarted: everything that was promised is void, at once. The ramp is one that
 * never ends, or the command might be over before its agent is. */
static void test_agent_restarted(const char *agent, const char *dir)
{
	struct app a;
	int64_t deadline = now_ms() + DEADLINE_MS;
	pid_t guest = spawn_agent(agent, dir);
	ramp = UINT32_MAX;
	app_open(&a, dir);
	while (a.pid == 0)
		app_step(&a, deadline);
	stop(guest);
	guest = spawn_agent(agent, dir);
	while (a.stale == 0 || a.unknown < 2)
		app_step(&a, deadline);
	printf("agent restarted: %d requests stale, %d streams unknown\n", a.stale, a.unknown);
	hf_guest_free(a.g);
	stop(guest);
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/hf-killed-XXXXXX", cmd[64];
	if (argc == 4 && strcmp(argv[1], "--child") == 0) {
		ramp = (uint32_t)atoi(argv[3]);
		return child(argv[2]);
	}
	CHECK(argc == 2 && mkdtemp(dir));
	snprintf(cmd, sizeof(cmd), "rm -rf %s/*", dir);
	ramp = 40000003;
	test_killed("/proc/self/exe", argv[1], dir, 1, 20000);
	CHECK(system(cmd) == 0);
	ramp = 10007; /* most kills hit the beginning and the end */
	for (unsigned i = 0; i < 12; i++) {
		test_killed("/proc/self/exe", argv[1], dir, i, 6000);
		CHECK(system(cmd) == 0);
	}
	test_agent_restarted(argv[1], dir);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	CHECK(system(cmd) == 0);
	return 0;
}
