/* SPDX-License-Identifier: MIT */
/*
 * io.c - a process's standard streams between the terminal and the VM, for run, exec and logs.
 *
 * One poll loop over: our stdin, the process's streams, the wait for its exit code, and for a tty
 * the requests that tell its size. With --json output comes as one object per piece.
 */
#include "base/hex.h"
#include "cli.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { IN, OUT, ERR, N_STREAMS };

struct session {
	const struct cli *cli;
	const struct cli_io *io;
	struct hf_vm_stream *stream[N_STREAMS];
	uint64_t gone[N_STREAMS]; /* as told */
	struct hf_vm *wait, *resize;
	bool waiting, resizing, stdin_open;
	char pending[65536]; /* read from stdin, not taken yet */
	size_t pending_len;
	int exit_code;
};

static volatile sig_atomic_t size_changed;
static struct termios saved;
static volatile sig_atomic_t is_raw;

static void on_winch(int signo)
{
	(void)signo;
	size_changed = 1;
}

static void restore_terminal(void)
{
	if (is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &saved); /* nothing can be done about it */
	is_raw = false;
}

/* Ends as the signal would have ended us, with the terminal as we found it. */
static void on_end(int signo)
{
	restore_terminal();
	(void)raise(signo); /* its action is the default again: SA_RESETHAND */
}

static void make_raw(void)
{
	static const int ends[] = { SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGPIPE };

	if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &saved) < 0)
		return;
	struct termios raw = saved;
	cfmakeraw(&raw);
	is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
	(void)atexit(restore_terminal);
	for (size_t i = 0; i < HF_ARRAY_SIZE(ends); i++)
		(void)sigaction(ends[i],
			&(struct sigaction){
				.sa_handler = on_end, .sa_flags = SA_RESETHAND | SA_NODEFER },
			NULL);
	/* Without SA_RESTART: a change of size must end the poll. */
	(void)sigaction(SIGWINCH, &(struct sigaction){ .sa_handler = on_winch }, NULL);
	size_changed = 1;
}

static void tell_size(struct session *s)
{
	struct winsize w;
	char request[256];
	if (!size_changed || s->resizing || ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0)
		return;
	size_changed = 0;
	(void)snprintf(request, sizeof(request),
		"{\"cmd\":\"resize\",\"process\":\"%s\",\"rows\":%d,\"cols\":%d}", s->io->process,
		w.ws_row, w.ws_col);
	s->resizing = hf_vm_send(s->resize, request, NULL) == 0;
}

static void print_piece(
	const struct session *s, const char *name, const char *data, size_t n, FILE *f)
{
	if (!s->cli->json) {
		(void)fwrite(data, 1, n, f); /* a closed pipe is told by fflush, and by SIGPIPE */
		(void)fflush(f);
		return;
	}
	json_t *text = json_stringn(data, n);
	char *hex = text ? NULL : malloc(2 * n + 1);
	if (hex)
		hex_encode(data, n, hex);
	cli_print_json(json_pack("{s:s, s:s, s:o}", "event", "output", "stream", name,
		text ? "data" : "data_hex", text ? text : json_string(hex ? hex : "")));
	free(hex);
}

static void tell_gone(struct session *s, int i, const char *name)
{
	uint64_t n = hf_vm_stream_gone(s->stream[i]) - s->gone[i];
	if (n == 0)
		return;
	s->gone[i] += n;
	if (s->cli->json)
		cli_print_json(json_pack("{s:s, s:s, s:I}", "event", "gone", "stream", name,
			"bytes", (json_int_t)n));
	else
		fprintf(stderr,
			"holdfast: %s: %llu bytes are gone: only the newest are kept "
			"(vm run --log-max)\n",
			name, (unsigned long long)n);
}

static void pump_output(struct session *s, int i)
{
	const char *name = i == OUT ? "stdout" : "stderr";
	char buf[32768];
	ssize_t n;
	tell_gone(s, i, name);
	while (s->stream[i] && (n = hf_vm_stream_read(s->stream[i], buf, sizeof(buf))) > 0)
		print_piece(s, name, buf, (size_t)n, i == OUT ? stdout : stderr);
}

static void pump_input(struct session *s, bool readable)
{
	struct hf_vm_stream *in = s->stream[IN];
	if (s->stdin_open && readable && s->pending_len == 0) {
		ssize_t n = read(STDIN_FILENO, s->pending, sizeof(s->pending));
		if (n > 0)
			s->pending_len = (size_t)n;
		else if (n == 0 || errno != EINTR)
			s->stdin_open = false;
	}
	if (s->pending_len > 0) {
		ssize_t n = hf_vm_stream_write(in, s->pending, s->pending_len);
		if (n > 0) {
			s->pending_len -= (size_t)n;
			memmove(s->pending, s->pending + n, s->pending_len);
		} else if (n != -EAGAIN) { /* nobody reads any more */
			s->pending_len = 0;
			s->stdin_open = false;
		}
	}
	if (!s->stdin_open && s->pending_len == 0)
		hf_vm_stream_end(in);
}

static int step_vm(struct hf_vm *vm, bool *under_way, json_t **ret_answer, struct hf_err *err)
{
	const char *json;
	int r = 2;
	while (*under_way && r == 2)
		r = hf_vm_step(vm, &json, err);
	if (*under_way && r != 0)
		*under_way = false;
	if (r == 1 && ret_answer)
		*ret_answer = json_loads(json, 0, NULL);
	return r;
}

/* Moves everything once; 0 go on, 1 over, -errno. */
static int step(struct session *s, bool readable, struct hf_err *err)
{
	json_t *answer = NULL;
	bool open = false;
	for (int i = 0; i < N_STREAMS; i++) {
		if (!s->stream[i])
			continue;
		if (hf_vm_stream_step(s->stream[i], err) < 0)
			return err->code;
		if (i == IN)
			pump_input(s, readable);
		else
			pump_output(s, i);
		open = open || (i != IN && !hf_vm_stream_done(s->stream[i]));
	}
	if (step_vm(s->wait, &s->waiting, &answer, err) < 0)
		return err->code;
	if (answer)
		s->exit_code = (int)json_integer_value(json_object_get(answer, "exit_code"));
	json_decref(answer);
	struct hf_err ignored; /* a size that cannot be told is no reason to end */
	(void)step_vm(s->resize, &s->resizing, NULL, &ignored);
	if (s->io->tty)
		tell_size(s);
	return !open && !s->waiting;
}

static int wait_for_events(struct session *s, bool *ret_readable)
{
	struct pollfd p[N_STREAMS + 3];
	nfds_t n = 0;
	int timeout = -1, t;
	for (int i = 0; i < N_STREAMS; i++)
		if (s->stream[i]) {
			t = hf_vm_stream_poll(s->stream[i], &p[n++]);
			timeout = t >= 0 && (timeout < 0 || t < timeout) ? t : timeout;
		}
	struct hf_vm *vms[] = { s->waiting ? s->wait : NULL, s->resizing ? s->resize : NULL };
	for (size_t i = 0; i < HF_ARRAY_SIZE(vms); i++)
		if (vms[i]) {
			t = hf_vm_poll(vms[i], &p[n++]);
			timeout = t >= 0 && (timeout < 0 || t < timeout) ? t : timeout;
		}
	bool wants = s->stdin_open && s->pending_len == 0;
	p[n] = (struct pollfd){ .fd = wants ? STDIN_FILENO : -1, .events = POLLIN };
	int r = poll(p, n + 1, timeout);
	*ret_readable = r > 0 && p[n].revents != 0;
	return r < 0 && errno != EINTR ? -errno : 0;
}

static int open_all(struct session *s, struct hf_err *err)
{
	static const char *const names[] = { "stdin", "stdout", "stderr" };
	const struct cli_io *io = s->io;
	const bool wanted[] = { io->in, true, io->err };
	enum hf_vm_read how = io->wait     ? HF_VM_READ_HOLD
			      : io->follow ? HF_VM_READ_FOLLOW
					   : HF_VM_READ_NOW;
	char request[256];
	int r = 0;
	for (int i = 0; i < N_STREAMS && r == 0; i++)
		if (wanted[i])
			r = hf_vm_stream_open(s->cli->node, io->vm, io->process, names[i], 0, how,
				&s->stream[i], err);
	if (r == 0)
		r = hf_vm_new(s->cli->node, io->vm, &s->wait, err);
	if (r == 0)
		r = hf_vm_new(s->cli->node, io->vm, &s->resize, err);
	(void)snprintf(
		request, sizeof(request), "{\"cmd\":\"wait\",\"process\":\"%s\"}", io->process);
	if (r == 0 && io->wait)
		r = hf_vm_send(s->wait, request, err);
	s->waiting = io->wait;
	s->stdin_open = io->in;
	if (io->tty)
		make_raw();
	return r;
}

int cli_io(const struct cli *cli, const struct cli_io *io)
{
	struct hf_err err = { 0 };
	struct session *s = calloc(1, sizeof(*s));
	if (!s)
		return cli_fail(cli, &(struct hf_err){ -ENOMEM, "no memory" }, CLI_NO_CODE);
	s->cli = cli;
	s->io = io;
	s->exit_code = CLI_OK;
	(void)signal(SIGPIPE, SIG_DFL);
	int r = open_all(s, &err);
	bool readable = false;
	while (r == 0) {
		r = step(s, readable, &err);
		if (r == 0)
			r = wait_for_events(s, &readable);
	}
	restore_terminal();
	int exit_code =
		r < 0 ? cli_fail(cli, &err, io->wait ? CLI_NO_CODE : CLI_FAILED) : s->exit_code;
	for (int i = 0; i < N_STREAMS; i++)
		hf_vm_stream_free(s->stream[i]);
	hf_vm_free(s->wait);
	hf_vm_free(s->resize);
	free(s);
	return exit_code;
}
