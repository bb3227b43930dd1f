/* SPDX-License-Identifier: MIT */
/*
 * app.c - the host's application of the nested test: libholdfast over the kernel's AF_VSOCK.
 *
 * usage: nested-app VSOCK_BASE DIR	runs until DIR/finish is there; exit status 0: all is right
 *
 * The guest counts aloud, echoes a ramp of bytes, and is asked to write numbers into a file, one
 * request a number. Whatever happens to connections, guest CID and this program: its next life
 * carries on from DIR/state, and in the end every line, every byte and every number is there once.
 *
 *	counter		prints "line 1", "line 2", ... until /run/stop is there; DIR/counter
 *	echo		cat: the ramp there and back, until we end it; DIR/echo
 *	note N		echo N >> /run/notes, a few of them unanswered at any time
 *	notes		cat /run/notes, when the rest is over; DIR/notes
 */
#include "base/fd.h"
#include "holdfast/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define RAMP        251 /* byte i of the ramp is i % RAMP */
#define RAMP_STEP   509 /* bytes that are written at a time */
#define NOTES_OPEN  2   /* requests unanswered at a time */
#define TURN_MS     100
#define COUNTER_END 7

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("app: %s:%d: %s\n", __FILE__, __LINE__, #cond);                     \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

enum stream { COUNTER, ECHO, NOTES, INPUT, STREAM_N_ };
static const char *const stream_names[] = { "counter", "echo", "notes", "input" };

/* Everything but the descriptors is saved, together with the library's state. */
static struct app {
	const char *dir;
	struct hf_guest *g;
	struct hf_guest_stream *s[STREAM_N_];
	int file[STREAM_N_];
	bool ended[STREAM_N_]; /* what came of it is complete, and written down */
	int began, stopping;
	int asked, answered;   /* notes */
	int exits, exit_codes; /* of counter and echo */
} app;

static const char *in_dir(const char *name)
{
	static char path[2][128];
	static int turn;
	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", app.dir, name);
	return path[turn];
}

static int on_state(void *ctx, struct hf_guest *g)
{
	char *text = hf_guest_state(g);
	(void)ctx;
	json_t *j = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:[b,b,b]}", "state", text,
		"began", app.began, "stopping", app.stopping, "asked", app.asked, "answered",
		app.answered, "exits", app.exits, "exit_codes", app.exit_codes, "ended",
		app.ended[COUNTER], app.ended[ECHO], app.ended[NOTES]);
	CHECK(j && json_dump_file(j, in_dir("state.new"), 0) == 0);
	CHECK(rename(in_dir("state.new"), in_dir("state")) == 0);
	json_decref(j);
	free(text);
	return 0;
}

/* A command of the guest's own, outside of containers. */
static void command(const char *tag, const char *text, enum stream out, enum stream in)
{
	char params[512];
	struct hf_guest_call call = { .tag = tag };
	struct hf_guest_exec e = { .container = HF_GUEST_UVM, .params_json = params };
	snprintf(params, sizeof(params),
		"{\"CommandArgs\":[\"/bin/sh\",\"-c\",\"%s\"],\"WorkingDirectory\":\"/\","
		"\"Environment\":{\"PATH\":\"/bin:/usr/bin\"}}",
		text);
	if (out != STREAM_N_) {
		CHECK(hf_guest_stream_new(app.g, false, stream_names[out], NULL, &app.s[out]) == 0);
		e.out = app.s[out];
	}
	if (in != STREAM_N_) {
		CHECK(hf_guest_stream_new(app.g, true, stream_names[in], NULL, &app.s[in]) == 0);
		e.in = app.s[in];
	}
	CHECK(hf_guest_exec(app.g, &call, &e) > 0);
}

static void begin(void)
{
	app.began = 1;
	command("counter",
		"mkfifo /run/f; exec 3<>/run/f; i=0; while [ ! -e /run/stop ]; do i=$((i+1)); "
		"echo line $i; read -t 0.1 -u 3 x; done; exit 7", /* a pause without a fork */
		COUNTER, STREAM_N_);
	command("echo", "cat; exit 7", ECHO, INPUT);
}

static void on_negotiated(void *ctx, const struct hf_guest_info *i)
{
	static const char *const sessions[] = { "new", "resumed", "unknown", "upstream" };
	(void)ctx;
	printf("app: negotiated: %s, cid %u\n", sessions[i->session], i->cid);
	CHECK(i->session == (app.began ? HF_GUEST_RESUMED : HF_GUEST_NEW));
	if (!app.began)
		begin();
}

static void on_lost(void *ctx, const struct hf_err *why)
{
	(void)ctx;
	printf("app: lost: %s\n", why->text);
}

static void on_answer(void *ctx, const struct hf_guest_answer *r)
{
	int n;
	(void)ctx;
	if (r->code < 0)
		printf("app: %s: %s\n", r->tag, r->message);
	CHECK(r->code == 0);
	if (sscanf(r->tag, "note %d", &n) == 1) {
		app.answered++;
	} else if (strcmp(r->tag, "exit") == 0) {
		app.exits++;
		app.exit_codes += (int)r->exit_code;
	} else if (strcmp(r->tag, "counter") == 0 || strcmp(r->tag, "echo") == 0) {
		struct hf_guest_call call = { .tag = "exit" };
		CHECK(hf_guest_wait(app.g, &call, HF_GUEST_UVM, r->pid, UINT32_MAX) > 0);
	}
}

static enum stream which(const struct hf_guest_stream *s)
{
	enum stream i = 0;
	while (i < STREAM_N_ && strcmp(hf_guest_stream_tag(s), stream_names[i]) != 0)
		i++;
	CHECK(i < STREAM_N_);
	return i;
}

static void on_stream(void *ctx, struct hf_guest_stream *s, unsigned events)
{
	enum stream i = which(s);
	struct iovec iov[2];
	(void)ctx;
	if (events & HF_GUEST_READABLE) {
		int k = hf_guest_stream_read(s, iov);
		for (int j = 0; j < k; j++) {
			CHECK(fd_write_all(app.file[i], iov[j].iov_base, iov[j].iov_len) == 0);
			hf_guest_stream_take(s, iov[j].iov_len);
		}
	}
	if (events & HF_GUEST_ENDED) {
		app.ended[i] = true;
		CHECK(on_state(NULL, app.g) == 0);
		hf_guest_stream_take_end(s);
	}
	CHECK(!(events & HF_GUEST_DEAD));
	if (events & HF_GUEST_FINISHED) {
		hf_guest_stream_free(s);
		app.s[i] = NULL;
	}
}

static void feed(void)
{
	uint8_t buf[RAMP_STEP];
	if (!app.s[INPUT])
		return;
	if (app.stopping) {
		(void)hf_guest_stream_end(app.s[INPUT]); /* said once; more often does no harm */
		return;
	}
	uint64_t at = hf_guest_stream_written(app.s[INPUT]);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)((at + i) % RAMP);
	(void)hf_guest_stream_write(app.s[INPUT], buf, sizeof(buf)); /* the rest in the next turn */
}

/* What is to be asked by now. */
static void ask(void)
{
	char tag[32], text[64];
	if (!app.began || app.stopping == 3)
		return;
	if (!app.stopping && access(in_dir("finish"), F_OK) == 0) {
		app.stopping = 1;
		command("stop", "touch /run/stop", STREAM_N_, STREAM_N_);
	}
	while (!app.stopping && app.asked - app.answered < NOTES_OPEN) {
		snprintf(tag, sizeof(tag), "note %d", ++app.asked);
		snprintf(text, sizeof(text), "echo %d >> /run/notes", app.asked);
		command(tag, text, STREAM_N_, STREAM_N_);
	}
	if (app.stopping == 1 && app.asked == app.answered && app.exits == 2) {
		app.stopping = 2;
		command("notes", "sort -n /run/notes", NOTES, STREAM_N_);
	}
}

static void load(const char *base)
{
	struct hf_guest_config c = { .vsock_base = base,
		.events = { .state_changed = on_state,
			.negotiated = on_negotiated,
			.lost = on_lost,
			.answer = on_answer,
			.stream = on_stream } };
	int ended[3];
	struct hf_err e = { 0 };
	struct stat st;
	json_t *j = json_load_file(in_dir("state"), 0, NULL);
	CHECK(!j || json_unpack(j, "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:[b,b,b]}", "state",
			    &c.state, "began", &app.began, "stopping", &app.stopping, "asked",
			    &app.asked, "answered", &app.answered, "exits", &app.exits,
			    "exit_codes", &app.exit_codes, "ended", &ended[COUNTER], &ended[ECHO],
			    &ended[NOTES]) == 0);
	int r = hf_guest_new(&c, &app.g, &e);
	if (r < 0)
		printf("app: %s\n", e.text);
	CHECK(r == 0);
	for (enum stream i = COUNTER; i < INPUT; i++) {
		app.ended[i] = j && ended[i];
		app.file[i] = open(
			in_dir(stream_names[i]), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		CHECK(app.file[i] >= 0);
	}
	for (struct hf_guest_stream *s = NULL; (s = hf_guest_stream_next(app.g, s));) {
		enum stream i = which(s);
		app.s[i] = s;
		if (i == INPUT)
			continue;
		CHECK(fstat(app.file[i], &st) == 0);
		CHECK(hf_guest_stream_set_position(s, (uint64_t)st.st_size, app.ended[i]) == 0);
	}
	json_decref(j);
}

/* A file of lines that end with 1, 2, 3, ...; how many. */
static int count_lines(const char *name, const char *format)
{
	char line[64], want[64];
	int n = 0;
	FILE *f = fopen(in_dir(name), "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		snprintf(want, sizeof(want), format, ++n);
		if (strcmp(line, want) != 0) {
			printf("app: %s: line %d is %s", name, n, line);
			_exit(1);
		}
	}
	(void)fclose(f); /* it was only read */
	return n;
}

static int count_ramp(void)
{
	int n = 0, c;
	FILE *f = fopen(in_dir("echo"), "r");
	CHECK(f);
	for (; (c = getc(f)) != EOF; n++)
		if (c != n % RAMP) {
			printf("app: echo: byte %d is %d\n", n, c);
			_exit(1);
		}
	(void)fclose(f); /* it was only read */
	return n;
}

int main(int argc, char **argv)
{
	struct hf_err e;
	int64_t ramp = 0;
	CHECK(argc == 3);
	app.dir = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	load(argv[1]);
	while (!app.ended[COUNTER] || !app.ended[ECHO] || !app.ended[NOTES]) {
		int64_t us = hf_guest_timeout_us(app.g);
		int ms = us >= 0 && us / 1000 < TURN_MS ? (int)(us / 1000) + 1 : TURN_MS;
		(void)poll(&(struct pollfd){ .fd = hf_guest_fd(app.g), .events = POLLIN }, 1, ms);
		CHECK(hf_guest_dispatch(app.g, &e) == 0);
		if (app.s[INPUT])
			ramp = (int64_t)hf_guest_stream_written(app.s[INPUT]);
		feed();
		ask();
	}
	hf_guest_free(app.g);
	CHECK(app.exits == 2 && app.exit_codes == 2 * COUNTER_END);
	int bytes = count_ramp();
	CHECK(bytes > 0 && bytes == ramp);
	CHECK(count_lines("notes", "%d\n") == app.asked);
	printf("app: %d lines, %d bytes there and back, %d requests, each once\n",
		count_lines("counter", "line %d\n"), bytes, app.asked);
	return 0;
}
