/* SPDX-License-Identifier: MIT */
/*
 * demo.c - `holdfast demo`: the main job on real parts, measured.
 *
 * Two nodes below a temporary folder. A VM on the first, a container whose init prints a numbered
 * line every 20 ms, and an exec that echoes numbered lines which are written to it all the time.
 * Then, per cycle: something is left in the container (a file, a process that is waited for), the
 * VM is migrated with all of it going on, and on the other side the file is read, the process is
 * killed, its exit code arrives at the wait that was begun before.
 *
 * It asks the library only; each line's number is checked against the one before it.
 */
#include "base/clock.h"
#include "cli.h"
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define VM        "demo"
#define LINE_MS   20
#define SETTLE_MS 1000
#define STEP_MS   30000 /* for anything that should take a second */
#define MOVE_MS   90000

/* A stream of lines "TEXT N", N counting from 1. */
struct lines {
	struct hf_vm_stream *stream;
	char part[64];
	size_t part_len;
	uint64_t seen, lost, doubled;
	uint64_t last_us, gap_us; /* the longest pause since the mark */
};

struct cycle {
	const char *mode;
	json_t *report;
	uint64_t gap_us, lost, doubled;
	bool file_right, code_right;
};

struct demo {
	struct cli *cli;
	char dir[64], node[2][80];
	int at; /* the node that has the VM */
	uint64_t began_us;
	struct lines counter, echo;
	struct hf_vm_stream *input;
	uint64_t sent, next_line_us;
	bool failed;
};

static void HF_PRINTF(2, 3) say(struct demo *d, const char *fmt, ...)
{
	char text[256];
	double s = (double)(hf_now_us() - d->began_us) / 1e6;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* a cut text is still a text */
	va_end(ap);
	if (d->cli->json)
		cli_print_json(json_pack("{s:s, s:f, s:s}", "event", "step", "s", s, "text", text));
	else
		printf("%7.2f s  %s\n", s, text);
	(void)fflush(stdout); /* whoever reads it wants it now */
}

static int fail(struct demo *d, const char *what, const struct hf_err *err)
{
	say(d, "FAILED: %s: %s", what, err->text);
	d->failed = true;
	return err->code ? err->code : -EIO;
}

/* ---- Streams ---- */

static void take_line(struct lines *l)
{
	l->part[l->part_len] = '\0';
	const char *space = strrchr(l->part, ' ');
	uint64_t n = space ? strtoull(space + 1, NULL, 10) : 0, now = hf_now_us();
	if (n == l->seen + 1)
		l->seen = n;
	else if (n > l->seen) {
		l->lost += n - l->seen - 1;
		l->seen = n;
	} else {
		l->doubled++;
	}
	if (l->last_us)
		l->gap_us = HF_MAX(l->gap_us, now - l->last_us);
	l->last_us = now;
	l->part_len = 0;
}

static int pump_lines(struct lines *l, struct hf_err *err)
{
	char buf[4096];
	ssize_t n;
	int r = l->stream ? hf_vm_stream_step(l->stream, err) : 0;
	while (r == 0 && l->stream && (n = hf_vm_stream_read(l->stream, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++)
			if (buf[i] == '\n')
				take_line(l);
			else if (l->part_len < sizeof(l->part) - 1)
				l->part[l->part_len++] = buf[i];
	return r;
}

/* A numbered line for the echo every LINE_MS. */
static int pump_input(struct demo *d, struct hf_err *err)
{
	char line[32];
	int r = d->input ? hf_vm_stream_step(d->input, err) : 0;
	if (r < 0 || !d->input || hf_now_us() < d->next_line_us)
		return r;
	int n = snprintf(line, sizeof(line), "echo %llu\n", (unsigned long long)d->sent + 1);
	ssize_t w = hf_vm_stream_write(d->input, line, (size_t)n);
	if (w > 0 &&
		w < n) /* the window is 256 KiB: a line of it always fits or the demo is stuck */
		return hf_err_set(err, -EIO, "the input's window took half a line");
	d->sent += w == n;
	d->next_line_us = hf_now_us() + LINE_MS * 1000;
	return 0;
}

/* Moves everything until the request of `vm` is answered (NULL: until time is over). */
static int pump(struct demo *d, struct hf_vm *vm, uint64_t ms, json_t **ret_answer,
	hf_vm_event_fn *fn, struct hf_err *err)
{
	uint64_t deadline = hf_now_us() + ms * 1000;
	for (;;) {
		struct hf_vm_stream *const streams[] = { d->counter.stream, d->echo.stream,
			d->input };
		struct pollfd p[4];
		nfds_t n = 0;
		const char *json;
		int timeout = 5, r = pump_lines(&d->counter, err);
		if (r == 0)
			r = pump_lines(&d->echo, err);
		if (r == 0)
			r = pump_input(d, err);
		if (r == 0 && vm) {
			while ((r = hf_vm_step(vm, &json, err)) == 2)
				if (fn)
					fn(d, json);
			if (r == 1) {
				*ret_answer = json_loads(json, 0, NULL);
				return 0;
			}
		}
		if (r < 0)
			return r;
		if (hf_now_us() >= deadline)
			return vm ? hf_err_set(err, -ETIMEDOUT, "no answer within %llu ms",
					    (unsigned long long)ms)
				  : 0;
		for (size_t i = 0; i < HF_ARRAY_SIZE(streams); i++)
			if (streams[i])
				(void)hf_vm_stream_poll(streams[i], &p[n++]);
		if (vm)
			(void)hf_vm_poll(vm, &p[n++]);
		(void)poll(p, n, timeout); /* the short timeout bounds whatever it says */
	}
}

/* ---- Requests ---- */

static struct hf_vm *begin(struct demo *d, json_t *request, struct hf_err *err)
{
	struct hf_vm *vm = NULL;
	char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (hf_vm_new(d->node[0], VM, &vm, err) == 0 && hf_vm_send(vm, text, err) < 0) {
		hf_vm_free(vm);
		vm = NULL;
	}
	free(text);
	return vm;
}

static int ask(struct demo *d, json_t *request, json_t **ret_answer, struct hf_err *err)
{
	struct hf_vm *vm = begin(d, request, err);
	int r = vm ? pump(d, vm, STEP_MS, ret_answer, NULL, err) : err->code;
	hf_vm_free(vm);
	return r;
}

/* Starts a process; its name is to be freed. */
static int start(struct demo *d, const char *cmd, const char *script, bool in, char **ret_process,
	struct hf_err *err)
{
	json_t *answer;
	int r = ask(d,
		json_pack("{s:s, s:s, s:[s, s, s], s:b}", "cmd", cmd, "container", "counter",
			"args", "/bin/sh", "-c", script, "stdin", in),
		&answer, err);
	if (r < 0)
		return r;
	*ret_process = strdup(json_string_value(json_object_get(answer, "process")));
	json_decref(answer);
	return *ret_process ? 0 : hf_err_set(err, -ENOMEM, "no memory");
}

/* Runs a script to its end: output (at most cap - 1 bytes) and exit code. */
static int run_script(struct demo *d, const char *script, char *out, size_t cap, int *ret_code,
	struct hf_err *err)
{
	HF_CLEANUP(hf_freep) char *process = NULL;
	struct hf_vm_stream *s = NULL;
	json_t *answer = NULL;
	size_t len = 0;
	ssize_t n = -EAGAIN;
	int r = start(d, "exec", script, false, &process, err);
	if (r == 0)
		r = ask(d, json_pack("{s:s, s:s}", "cmd", "wait", "process", process), &answer,
			err);
	if (r == 0)
		r = hf_vm_stream_open(d->node[0], VM, process, "stdout", 0, true, &s, err);
	for (uint64_t end = hf_now_us() + STEP_MS * 1000ull;
		r == 0 && n != 0 && hf_now_us() < end;) {
		r = hf_vm_stream_step(s, err);
		if (r == 0 && len < cap - 1 &&
			(n = hf_vm_stream_read(s, out + len, cap - 1 - len)) > 0)
			len += (size_t)n;
		if (r == 0)
			r = pump(d, NULL, 1, NULL, NULL, err);
	}
	out[len] = '\0';
	*ret_code = (int)json_integer_value(json_object_get(answer, "exit_code"));
	json_decref(answer);
	hf_vm_stream_free(s);
	return r;
}

/* ---- One cycle ---- */

static void on_progress(void *ctx, const char *text)
{
	struct demo *d = ctx;
	json_t *e = json_loads(text, 0, NULL);
	const char *phase = json_string_value(json_object_get(e, "phase"));
	const char *what = json_string_value(json_object_get(e, "what"));
	if (phase && what && !strcmp(what, "begin"))
		say(d, "  migration: %s", phase);
	json_decref(e);
}

static void mark(struct demo *d)
{
	d->counter.gap_us = 0;
	d->counter.lost = d->counter.doubled = d->echo.lost = d->echo.doubled = 0;
}

static int move(struct demo *d, struct cycle *c, struct hf_err *err)
{
	struct hf_vm *vm = begin(d,
		json_pack("{s:s, s:s, s:s}", "cmd", "migrate", "to", d->node[!d->at], "mode",
			c->mode),
		err);
	int r = vm ? pump(d, vm, MOVE_MS, &c->report, on_progress, err) : err->code;
	hf_vm_free(vm);
	if (r == 0) {
		d->at = !d->at;
		r = pump(d, NULL, SETTLE_MS, NULL, NULL, err);
	}
	return r;
}

static int check_after(struct demo *d, struct cycle *c, const char *script, const char *process,
	struct hf_vm *wait, struct hf_err *err)
{
	char out[64];
	int code;
	json_t *answer = NULL;
	int r = run_script(d, script, out, sizeof(out), &code, err);
	c->file_right = r == 0 && code == 7 && !strcmp(out, c->mode);
	if (r == 0)
		r = ask(d,
			json_pack("{s:s, s:s, s:i}", "cmd", "kill", "process", process, "signal",
				SIGTERM),
			&answer, err);
	json_decref(answer);
	answer = NULL;
	if (r == 0)
		r = pump(d, wait, STEP_MS, &answer, NULL, err);
	c->code_right = json_integer_value(json_object_get(answer, "exit_code")) == 128 + SIGTERM;
	json_decref(answer);
	return r;
}

static int cycle(struct demo *d, struct cycle *c)
{
	HF_CLEANUP(hf_freep) char *process = NULL;
	char script[128], out[64];
	int code;
	struct hf_err err = { 0 };
	struct hf_vm *wait = NULL;
	say(d, "%s: node %c -> node %c, with traffic flowing", c->mode, 'A' + d->at, 'B' - d->at);
	mark(d);
	(void)snprintf(script, sizeof(script), "printf %s > /tmp/mark; exit 5", c->mode);
	int r = run_script(d, script, out, sizeof(out), &code, &err);
	if (r == 0 && code != 5)
		r = hf_err_set(&err, -EIO, "the file was not written: exit code %d", code);
	if (r == 0)
		r = start(d, "exec", "exec sleep 1000", false, &process, &err);
	if (r == 0 && !(wait = begin(d, json_pack("{s:s, s:s}", "cmd", "wait", "process", process),
				&err)))
		r = err.code;
	d->counter.gap_us = 0;
	if (r == 0)
		r = move(d, c, &err);
	c->gap_us = d->counter.gap_us;
	if (r == 0)
		r = check_after(d, c, "cat /tmp/mark; exit 7", process, wait, &err);
	c->lost = d->counter.lost + d->echo.lost;
	c->doubled = d->counter.doubled + d->echo.doubled;
	hf_vm_free(wait);
	return r < 0 ? fail(d, c->mode, &err) : 0;
}

/* ---- The whole ---- */

static int boot(struct demo *d)
{
	char *argv[] = { (char *)"run", (char *)"--node", d->node[0], (char *)VM, NULL };
	struct cli cli = { .node = d->node[0] };
	uint64_t began = hf_now_us();
	say(d, "booting a VM on node A");
	if (cli_vm_run.run(&cli, 4, argv) != CLI_OK) {
		d->failed = true;
		return -EIO;
	}
	say(d, "the guest is ready after %.1f s", (double)(hf_now_us() - began) / 1e6);
	return 0;
}

static int begin_traffic(struct demo *d)
{
	HF_CLEANUP(hf_freep) char *init = NULL;
	HF_CLEANUP(hf_freep) char *echo = NULL;
	struct hf_err err = { 0 };
	say(d, "starting a container that prints a line every %d ms, and an exec that echoes",
		LINE_MS);
	int r = start(d, "run", "i=0; while :; do i=$((i+1)); echo line $i; usleep 20000; done",
		false, &init, &err);
	if (r == 0)
		r = start(d, "exec", "cat", true, &echo, &err);
	if (r == 0)
		r = hf_vm_stream_open(
			d->node[0], VM, init, "stdout", 0, true, &d->counter.stream, &err);
	if (r == 0)
		r = hf_vm_stream_open(
			d->node[0], VM, echo, "stdout", 0, true, &d->echo.stream, &err);
	if (r == 0)
		r = hf_vm_stream_open(d->node[0], VM, echo, "stdin", 0, true, &d->input, &err);
	if (r == 0)
		r = pump(d, NULL, SETTLE_MS, NULL, NULL, &err);
	return r < 0 ? fail(d, "start", &err) : 0;
}

/* Every line that was written has come back, once. */
static bool echo_complete(struct demo *d)
{
	struct hf_err err;
	struct hf_vm_stream *input = d->input;
	hf_vm_stream_end(input);
	d->input = NULL;
	for (uint64_t end = hf_now_us() + STEP_MS * 1000ull;
		hf_now_us() < end && d->echo.seen < d->sent;)
		if (hf_vm_stream_step(input, &err) < 0 || pump(d, NULL, 1, NULL, NULL, &err) < 0)
			break;
	hf_vm_stream_free(input);
	say(d, "echo: %llu lines written, %llu came back", (unsigned long long)d->sent,
		(unsigned long long)d->echo.seen);
	return d->echo.seen == d->sent && !d->echo.lost && !d->echo.doubled;
}

static long long number(const struct cycle *c, const char *key)
{
	json_t *v = json_object_get(c->report, key);
	return json_is_integer(v) ? (long long)json_integer_value(v) : -1;
}

static bool good(const struct cycle *c)
{
	return c->report && !c->lost && !c->doubled && c->file_right && c->code_right &&
	       !json_object_get(c->report, "unconfirmed");
}

static void print_cycle(struct demo *d, const struct cycle *c)
{
	long long resume = number(c, "resume_to_negotiated_us");
	if (resume < 0) /* seamless: there is no negotiation, the connection carries on */
		resume = number(c, "resume_to_first_byte_us");
	if (d->cli->json) {
		cli_print_json(json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:b, s:b, s:O*}", "event",
			"cycle", "mode", c->mode, "ok", good(c), "gap_us", (json_int_t)c->gap_us,
			"lost", (json_int_t)c->lost, "doubled", (json_int_t)c->doubled,
			"exec_right", c->file_right, "exit_code_right", c->code_right, "migration",
			c->report));
		return;
	}
	printf("%-11s %7lld ms %6lld ms %7.1f ms %9.1f ms %5llu %8llu  %-5s %s\n", c->mode,
		number(c, "total_ms"), number(c, "downtime_ms"), (double)c->gap_us / 1e3,
		(double)resume / 1e3, (unsigned long long)c->lost, (unsigned long long)c->doubled,
		c->file_right ? "right" : "WRONG", c->code_right ? "right" : "WRONG");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void end(struct demo *d)
{
	struct hf_err err;
	json_t *answer = NULL;
	hf_vm_stream_free(d->counter.stream);
	hf_vm_stream_free(d->echo.stream);
	hf_vm_stream_free(d->input);
	d->counter.stream = d->echo.stream = d->input = NULL;
	(void)ask(d, json_pack("{s:s}", "cmd", "stop"), &answer,
		&err); /* one that is gone is stopped */
	json_decref(answer);
	if (d->failed) {
		say(d, "logs are left in %s", d->dir);
		return;
	}
	(void)usleep(300000); /* the programs take their sockets away */
	(void)nftw(d->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS); /* a rest in /tmp does no harm */
}

static int run(struct cli *cli, int argc, char **argv)
{
	struct demo *d = calloc(1, sizeof(*d));
	struct cycle cycles[] = { { .mode = "seamless" }, { .mode = "disruptive" } };
	int r = d ? cli_options(&cli_demo, cli, argc, argv, NULL, NULL, NULL, 0, 0) : CLI_FAILED;
	if (r != 0) {
		free(d);
		return cli_options_exit(r);
	}
	*d = (struct demo){
		.cli = cli, .dir = "/tmp/holdfast-demo-XXXXXX", .began_us = hf_now_us()
	};
	if (!mkdtemp(d->dir)) {
		free(d);
		return cli_fail(cli, &(struct hf_err){ -EIO, "no temporary folder can be made" },
			CLI_FAILED);
	}
	for (int i = 0; i < 2; i++)
		(void)snprintf(d->node[i], sizeof(d->node[i]), "%s/%c", d->dir, "ab"[i]);
	r = boot(d);
	if (r == 0)
		r = begin_traffic(d);
	for (size_t i = 0; i < HF_ARRAY_SIZE(cycles) && r == 0; i++)
		r = cycle(d, &cycles[i]);
	bool ok = r == 0 && echo_complete(d);
	if (!cli->json)
		printf("\nmode          total time downtime      gap  resume->up  lost  doubled  "
		       "exec  code\n");
	for (size_t i = 0; i < HF_ARRAY_SIZE(cycles); i++) {
		print_cycle(d, &cycles[i]);
		ok = ok && good(&cycles[i]);
		json_decref(cycles[i].report);
	}
	d->failed = !ok;
	end(d);
	say(d, ok ? "all holds" : "NOT all holds");
	free(d);
	return ok ? CLI_OK : CLI_FAILED;
}

const struct cli_verb cli_demo = { "demo", "show a container that outlives two migrations", "",
	"Shows the main job on two nodes of this machine: a container in a VM stays under control "
	"across\n"
	"two live migrations, one in each mode. Succeeds only if no line was lost or doubled and "
	"every exec\n"
	"and exit code was right.\n\n",
	run };
