/* SPDX-License-Identifier: MIT */
#include "control.h"
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "command.h"
#include "vm.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: accept4 geteuid */

#define RECEIVE_BYTES 65536

/* ---- lines ---- */

static int set_answer(struct dev_client *cl, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	char *line = realloc(text, n + 2);
	if (!line) {
		free(text);
		return -ENOMEM;
	}
	memcpy(line + n, "\n", 2);
	cl->out = line;
	cl->out_len = n + 1;
	cl->out_sent = 0;
	return 0;
}

static json_t *error_json(json_t *id, const struct hf_err *err)
{
	const char *code = strerrorname_np(-err->code);
	return json_pack("{s:O?,s:b,s:{s:s,s:s}}", "id", id, "ok", 0, "error", "code",
		code ? code : "EIO", "text", err->text);
}

/* Handles one line; leaves an answer or a request that waits, or fails. */
static int handle_line(struct dev_control *c, struct dev_client *cl, const char *line)
{
	struct hf_err err = { 0 };
	json_error_t jerr;
	json_t *args = json_loads(line, JSON_REJECT_DUPLICATES, &jerr);
	if (!json_is_object(args)) {
		json_decref(args);
		(void)hf_err_set(&err, -EBADMSG, "the line is not a JSON object: %s",
			args ? "another value" : jerr.text); /* the answer carries it */
		cl->closing = true;
		return set_answer(cl, error_json(NULL, &err));
	}
	json_t *id = json_object_get(args, "id");
	struct dev_request rq = { .daemon = c->daemon,
		.client = cl,
		.args = args,
		.answer = json_pack("{s:O?,s:b}", "id", id, "ok", 1) };
	int r = rq.answer ? dev_command_run(&rq, &err) : -ENOMEM;
	json_t *answer = rq.answer;
	if (r == DEV_LATER) {
		json_decref(answer);
		json_decref(args);
		return 0;
	}
	if (r < 0) {
		json_decref(rq.answer);
		fd_closep(&cl->out_fd);
		if (err.code == 0) /* only memory fails without a text */
			(void)hf_err_set(&err, -ENOMEM, "out of memory"); /* the answer has it */
		answer = error_json(id, &err);
	}
	r = set_answer(cl, answer);
	json_decref(args);
	return r;
}

/* ---- clients ---- */

static struct dev_tag client_tag(const struct dev_control *c, const struct dev_client *cl)
{
	return (struct dev_tag){
		.what = DEV_ON_CONTROL, .slot = (uint32_t)(cl - c->client), .gen = (uint16_t)cl->gen
	};
}

static void client_close(struct dev_control *c, struct dev_client *cl)
{
	dev_loop_close(&c->daemon->loop, &cl->fd);
	fd_closep(&cl->in_fd);
	fd_closep(&cl->out_fd);
	hf_lines_done(&cl->in);
	free(cl->out);
	json_decref(cl->quiesce_id);
	*cl = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1, .gen = cl->gen + 1 };
	c->retry_us = 0;
}

/* Sends what is left of the answer: 1 when all is out, 0 when the socket is full, or -errno. */
static int client_send(struct dev_client *cl)
{
	while (cl->out_sent < cl->out_len) {
		ssize_t n = unix_send_fds(cl->fd, cl->out + cl->out_sent,
			cl->out_len - cl->out_sent, &cl->out_fd, cl->out_fd >= 0);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		fd_closep(&cl->out_fd);
		cl->out_sent += (size_t)n;
	}
	free(cl->out);
	cl->out = NULL;
	cl->out_len = cl->out_sent = 0;
	return cl->closing ? -ESHUTDOWN : 1;
}

/* Receives once: 1 when bytes came, 0 when none are there, or -errno. */
static int client_receive(struct dev_client *cl)
{
	char buf[RECEIVE_BYTES];
	int fds[1];
	size_t n_fds = 0;
	ssize_t n = unix_recv_fds(cl->fd, buf, sizeof(buf), fds, 1, &n_fds);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ESHUTDOWN;
	if (n_fds > 0) {
		fd_closep(&cl->in_fd);
		cl->in_fd = fds[0];
	}
	int r = hf_lines_feed(&cl->in, buf, (size_t)n);
	return r < 0 ? r : 1;
}

/* A line that is too long or holds a NUL: says so, and that is the end. */
static int bad_line(struct dev_client *cl, int error)
{
	struct hf_err err = { 0 };
	(void)hf_err_set(&err, error, "a line is longer than %u bytes or contains a NUL",
		DEV_CONTROL_LINE_MAX); /* the answer carries it */
	cl->closing = true;
	return set_answer(cl, error_json(NULL, &err));
}

/* ---- what applications are told ---- */

void dev_control_tell(struct dev_control *c, struct dev_vm *vm, enum dev_says what)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->watches != vm)
			continue;
		cl->says = what;
		cl->busy = what == DEV_SAYS_QUIESCE;
	}
}

/* Until when those who watch may take to be still. */
static uint64_t quiesce_ms_of(const struct dev_control *c, const struct dev_vm *vm)
{
	uint64_t ms = 0;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].quiesces == vm)
			ms = HF_MAX(ms, c->client[i].quiesce_ms);
	return ms;
}

static int put_event(const struct dev_control *c, struct dev_client *cl)
{
	static const char *const names[DEV_SAYS_N_] = { "", "quiesce", "loaded", "resume" };
	struct dev_vm_info info;
	dev_vm_info(cl->watches, &info);
	json_t *e = json_pack("{s:s,s:s}", "event", names[cl->says], "vm", info.name);
	if (e && cl->says == DEV_SAYS_QUIESCE &&
		json_object_set_new(e, "deadline_ms",
			json_integer((json_int_t)quiesce_ms_of(c, cl->watches))) < 0)
		return -ENOMEM;
	cl->says = DEV_SAYS_NOTHING;
	return set_answer(cl, e);
}

/* Answers a request to quiesce when its time has come: 1; else 0, or -errno. */
static int settle_quiesce(struct dev_control *c, struct dev_client *cl)
{
	size_t n = 0, late = 0;
	struct hf_err err = { 0 };
	bool over = !cl->quiesces->frozen;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		n += c->client[i].watches == cl->quiesces;
		late += c->client[i].watches == cl->quiesces && c->client[i].busy;
	}
	if (!over && late > 0 && c->daemon->loop.now_us < cl->quiesce_until_us)
		return 0;
	cl->quiesces = NULL;
	json_t *id = cl->quiesce_id, *answer;
	cl->quiesce_id = NULL;
	if (over) {
		(void)hf_err_set(&err, -ECANCELED, "the rings run again"); /* the answer has it */
		answer = error_json(id, &err);
	} else {
		answer = json_pack("{s:O?,s:b,s:I,s:I}", "id", id, "ok", 1, "applications",
			(json_int_t)n, "late", (json_int_t)late);
	}
	json_decref(id);
	int r = set_answer(cl, answer);
	return r < 0 ? r : 1;
}

/* What client_lines() waits for. */
enum { FOR_ROOM, FOR_INPUT, FOR_OTHERS };

/* Handles the lines that are complete, one answer at a time, until it must wait for something; or
 * -errno. */
static int client_lines(struct dev_control *c, struct dev_client *cl)
{
	for (;;) {
		char *line;
		int r = !cl->out && cl->says ? put_event(c, cl) : 0;
		if (r == 0)
			r = cl->out ? client_send(cl) : 1;
		if (r <= 0)
			return r < 0 ? r : FOR_ROOM;
		if (cl->quiesces)
			return FOR_OTHERS;
		if (cl->closing)
			return -ESHUTDOWN;
		r = hf_lines_next(&cl->in, &line);
		if (r == 0)
			return FOR_INPUT;
		r = r < 0 ? bad_line(cl, r) : handle_line(c, cl, line);
		if (r < 0)
			return r;
	}
}

/* After client_lines(): watches for what it waits for, or closes the client. */
static void client_wait(struct dev_control *c, struct dev_client *cl, int r)
{
	static const uint32_t events[] = { EPOLLOUT, EPOLLIN, 0 };
	if (r >= 0)
		r = dev_loop_watch(&c->daemon->loop, cl->fd, events[r], client_tag(c, cl));
	if (r < 0)
		client_close(c, cl);
}

void dev_control_on_client(struct dev_control *c, struct dev_tag tag)
{
	struct dev_client *cl = &c->client[tag.slot];
	if (cl->fd < 0 || !dev_tag_is(tag, cl->gen))
		return;
	if (cl->quiesces && !cl->out) { /* nothing is watched for but its leaving */
		client_close(c, cl);
		return;
	}
	int r = client_lines(c, cl);
	if (r == FOR_INPUT) {
		r = client_receive(cl);
		if (r > 0)
			r = client_lines(c, cl);
		else if (r == 0)
			r = FOR_INPUT;
	}
	client_wait(c, cl, r);
}

void dev_control_forget(struct dev_control *c, const struct dev_vm *vm)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->watches == vm) {
			cl->watches = NULL;
			cl->says = DEV_SAYS_NOTHING;
		}
		if (cl->quiesces == vm)
			client_close(c, cl);
	}
}

static struct dev_client *client_free_slot(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd < 0)
			return &c->client[i];
	return NULL;
}

static void watch_listener(struct dev_control *c, bool on)
{
	int r = dev_loop_watch(&c->daemon->loop, c->listen_fd, on ? EPOLLIN : 0,
		(struct dev_tag){ .what = DEV_ON_CONTROL_LISTEN });
	if (r < 0)
		hf_error("control %s: cannot watch: %s", c->path, strerror(-r));
	c->full = !on;
	c->retry_us = c->daemon->loop.now_us + DEV_RETRY_US;
}

void dev_control_on_listen(struct dev_control *c)
{
	struct dev_client *cl = client_free_slot(c);
	if (!cl) {
		watch_listener(c, false);
		return;
	}
	HF_CLEANUP(fd_closep)
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			watch_listener(c, false);
		return;
	}
	uid_t uid;
	int r = unix_peer_uid(fd, &uid);
	if (r < 0 || (uid != geteuid() && uid != 0)) {
		hf_warn("control %s: a client of user %d was refused: run it as user %d or root",
			c->path, r < 0 ? -1 : (int)uid, (int)geteuid());
		return;
	}
	cl->fd = fd_take(&fd);
	hf_lines_init(&cl->in, DEV_CONTROL_LINE_MAX);
	if (dev_loop_watch(&c->daemon->loop, cl->fd, EPOLLIN, client_tag(c, cl)) < 0)
		client_close(c, cl);
}

uint64_t dev_control_turn(struct dev_control *c)
{
	if (c->full && c->daemon->loop.now_us >= c->retry_us)
		watch_listener(c, true);
	uint64_t next_us = c->full ? c->retry_us : UINT64_MAX;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->fd < 0 || cl->out || !(cl->says || cl->quiesces))
			continue;
		int r = cl->quiesces ? settle_quiesce(c, cl) : 0;
		if (r < 0 || r > 0 || cl->says)
			client_wait(c, cl, r < 0 ? r : client_lines(c, cl));
		if (cl->fd >= 0 && cl->quiesces)
			next_us = HF_MIN(next_us, cl->quiesce_until_us);
	}
	return next_us;
}

int dev_control_open(struct dev_control *c, struct dev_daemon *daemon, const char *path)
{
	int fd = -1;
	int r = path[0] == '\0' ? 0 : dev_listen(SOCK_STREAM, path, 0600, DEV_CLIENTS_MAX, &fd);
	return r < 0 ? r : dev_control_adopt(c, daemon, path, fd);
}

int dev_control_adopt(struct dev_control *c, struct dev_daemon *daemon, const char *path, int fd)
{
	*c = (struct dev_control){ .daemon = daemon, .listen_fd = fd };
	json_object_seed(0); /* now, while /dev/urandom can be opened */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		c->client[i] = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1 };
	if (fd < 0)
		return 0;
	c->path = strdup(path);
	if (!c->path) {
		fd_closep(&c->listen_fd);
		return -ENOMEM;
	}
	watch_listener(c, true);
	return 0;
}

struct dev_client *dev_control_add(struct dev_control *c, int fd)
{
	struct dev_client *cl = c->listen_fd >= 0 && fd >= 0 ? client_free_slot(c) : NULL;
	if (!cl || fd_set_nonblock(fd, true) < 0) {
		fd_closep(&fd);
		return NULL;
	}
	cl->fd = fd;
	hf_lines_init(&cl->in, DEV_CONTROL_LINE_MAX);
	return cl;
}

void dev_control_carry_on(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_wait(c, &c->client[i], client_lines(c, &c->client[i]));
}

void dev_control_forget_all(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_close(c, &c->client[i]);
	dev_loop_close(&c->daemon->loop, &c->listen_fd);
	free(c->path);
	c->path = NULL;
}

void dev_control_close(struct dev_control *c)
{
	if (c->listen_fd < 0)
		return; /* never opened: there are no clients either */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_close(c, &c->client[i]);
	dev_loop_close(&c->daemon->loop, &c->listen_fd);
	dev_unlisten(c->path);
	free(c->path);
	c->path = NULL;
}
