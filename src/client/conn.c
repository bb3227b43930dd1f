/* SPDX-License-Identifier: MIT */
/*
 * conn.c - an application's connection to holdfastd: one request at a time, and events.
 *
 * Events come between answers. What is read while an answer is waited for is kept: how things
 * stand, so the last one is enough.
 */
#include "holdfast/conn.h"
#include "base/fd.h"
#include "base/hex.h"
#include "vm_internal.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define CONN_LINE_MAX (1024 * 1024)

struct hf_conn_ctl {
	int fd;
	int got_fd; /* came with the answer; -1: none */
	int deadline_ms;
	struct hf_lines lines;
	uint64_t id;
	enum hf_conn_event event; /* read, and not yet told */
	int event_ms;
	char vm[];
};

int hf_conn_open(
	const char *control, const char *vm, struct hf_conn_ctl **ret_c, struct hf_err *reterr)
{
	struct hf_conn_ctl *c = calloc(1, sizeof(*c) + strlen(vm) + 1);
	if (!c)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	memcpy(c->vm, vm, strlen(vm) + 1);
	c->got_fd = -1;
	c->deadline_ms = HF_CONN_DEADLINE_MS;
	hf_lines_init(&c->lines, CONN_LINE_MAX);
	int r = unix_connect(control, &c->fd);
	if (r < 0) {
		free(c);
		return hf_err_set(
			reterr, r, "%s: no holdfastd answers there: %s", control, strerror(-r));
	}
	*ret_c = c;
	return 0;
}

void hf_conn_close(struct hf_conn_ctl *c)
{
	if (!c)
		return;
	fd_closep(&c->fd);
	fd_closep(&c->got_fd);
	hf_lines_done(&c->lines);
	free(c);
}

void hf_conn_set_deadline(struct hf_conn_ctl *c, int ms)
{
	c->deadline_ms = ms;
}

int hf_conn_fd(const struct hf_conn_ctl *c)
{
	return c->fd;
}

/* ---- messages ---- */

static int failed(const struct hf_conn_ctl *c, int r, struct hf_err *reterr)
{
	if (r == -ETIMEDOUT)
		return hf_err_set(reterr, r, "vm \"%s\": holdfastd does not answer", c->vm);
	return hf_err_set(reterr, -ECONNRESET,
		"vm \"%s\": holdfastd has ended, or the VM has moved away", c->vm);
}

/* Keeps an event; an answer is returned. */
static json_t *sort(struct hf_conn_ctl *c, const char *line)
{
	static const char *const names[] = { "", "quiesce", "loaded", "resume" };
	json_t *msg = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	const char *event = json_string_value(json_object_get(msg, "event"));
	if (!event)
		return msg;
	for (int i = HF_CONN_QUIESCE; i <= HF_CONN_RESUME; i++)
		if (strcmp(event, names[i]) == 0)
			c->event = i;
	c->event_ms = (int)json_integer_value(json_object_get(msg, "deadline_ms"));
	json_decref(msg);
	return NULL;
}

/* What has come: *ret_msg is an answer. 0: nothing more for now. */
static int receive(struct hf_conn_ctl *c, json_t **ret_msg, struct hf_err *reterr)
{
	char buf[16384], *line;
	for (;;) {
		int r = hf_lines_next(&c->lines, &line);
		if (r < 0)
			return failed(c, -ECONNRESET, reterr);
		if (r > 0) {
			*ret_msg = sort(c, line);
			if (*ret_msg)
				return 1;
			continue;
		}
		int fd = -1;
		size_t n_fds = 0;
		ssize_t n = unix_recv_fds(c->fd, buf, sizeof(buf), &fd, 1, &n_fds);
		if (n == -EAGAIN)
			return 0;
		if (n_fds > 0) {
			fd_closep(&c->got_fd);
			c->got_fd = fd;
		}
		if (n <= 0 || hf_lines_feed(&c->lines, buf, (size_t)n) < 0)
			return failed(c, -ECONNRESET, reterr);
	}
}

/* args is taken over; fd is lent (-1: none). *ret_answer is to be given back. */
static int call(struct hf_conn_ctl *c, const char *cmd, json_t *args, int fd, json_t **ret_answer,
	struct hf_err *reterr)
{
	uint64_t until_us = hf_now_us() + (uint64_t)c->deadline_ms * 1000;
	json_t *answer = NULL;
	if (!args)
		args = json_object();
	json_object_set_new(args, "id", json_integer((json_int_t)++c->id));
	json_object_set_new(args, "cmd", json_string(cmd));
	json_object_set_new(args, "vm", json_string(c->vm));
	HF_CLEANUP(hf_freep) char *text = json_dumps(args, JSON_COMPACT);
	json_decref(args);
	size_t n = text ? strlen(text) : 0;
	char *line = text ? realloc(text, n + 2) : NULL;
	if (!line)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	text = line;
	memcpy(text + n, "\n", 2);
	fd_closep(&c->got_fd);
	int r = unix_send_all(c->fd, text, strlen(text), &fd, fd >= 0, until_us);
	if (r < 0)
		return failed(c, r, reterr);
	while ((r = receive(c, &answer, reterr)) == 0)
		if ((r = fd_wait(c->fd, POLLIN, until_us)) < 0)
			return failed(c, r, reterr);
	if (r < 0)
		return r;
	r = vm_answer_error(answer, reterr);
	if (r < 0)
		json_decref(answer);
	else
		*ret_answer = answer;
	return r;
}

/* The same, of which only success counts. */
static int tell(struct hf_conn_ctl *c, const char *cmd, json_t *args, struct hf_err *reterr)
{
	json_t *answer;
	int r = call(c, cmd, args, -1, &answer, reterr);
	if (r == 0)
		json_decref(answer);
	return r;
}

static json_t *ports_json(uint32_t host_port, uint32_t guest_port)
{
	return json_pack("{s:I,s:I}", "host_port", (json_int_t)host_port, "guest_port",
		(json_int_t)guest_port);
}

/* ---- connections ---- */

int hf_conn_peer(int fd, uint32_t *ret_guest_cid, uint32_t *ret_host_port, uint32_t *ret_guest_port)
{
	struct sockaddr_un sa = { 0 };
	char name[sizeof(sa.sun_path) + 1] = { 0 };
	socklen_t n = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &n) < 0)
		return -errno;
	if (sa.sun_family != AF_UNIX || sa.sun_path[0] != '\0')
		return -ENOENT;
	memcpy(name, sa.sun_path + 1, sizeof(sa.sun_path) - 1);
	return sscanf(name, "holdfast:%u:%u:%u:", ret_guest_cid, ret_guest_port, ret_host_port) == 3
		       ? 0
		       : -ENOENT;
}

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static const char *text_of(const json_t *o, const char *key)
{
	const char *t = json_string_value(json_object_get(o, key));
	return t ? t : "";
}

static int list_some(const json_t *answer, hf_conn_list_fn *fn, void *ctx)
{
	const json_t *v;
	size_t i;
	int r = 0;
	json_array_foreach (json_object_get(answer, "connections"), i, v) {
		const struct hf_conn_info info = {
			.host_port = (uint32_t)number(v, "host_port"),
			.guest_port = (uint32_t)number(v, "guest_port"),
			.state = text_of(v, "state"),
			.policy = text_of(v, "policy"),
			.relay = text_of(v, "relay"),
			.claimed = json_is_true(json_object_get(v, "claimed")),
			.arrived = json_is_true(json_object_get(v, "arrived")),
			.rx_bytes = number(v, "rx_bytes"),
			.tx_bytes = number(v, "tx_bytes"),
			.to_host_pending = number(v, "to_host_pending"),
			.to_guest_pending = number(v, "to_guest_pending"),
			.state_bytes = number(v, "state_bytes"),
		};
		r = fn(ctx, &info);
		if (r != 0)
			break;
	}
	return r;
}

int hf_conn_list(struct hf_conn_ctl *c, hf_conn_list_fn *fn, void *ctx, struct hf_err *reterr)
{
	json_t *from = json_integer(0);
	int r = 0;
	while (r == 0 && from) {
		json_t *answer;
		r = call(c, "conn-list", json_pack("{s:o}", "from", from), -1, &answer, reterr);
		if (r < 0)
			break;
		from = json_incref(json_object_get(answer, "next"));
		r = list_some(answer, fn, ctx);
		json_decref(answer);
		if (r != 0)
			json_decref(from);
	}
	return r;
}

int hf_conn_attach_state(struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port,
	const void *data, size_t n, struct hf_err *reterr)
{
	if (n > HF_CONN_STATE_MAX)
		return hf_err_set(reterr, -EMSGSIZE, "a state of %zu bytes; at most %d can travel",
			n, HF_CONN_STATE_MAX);
	HF_CLEANUP(hf_freep) char *hex = malloc(2 * n + 1);
	if (!hex)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	hex_encode(data, n, hex);
	json_t *args = ports_json(host_port, guest_port);
	if (json_object_set_new(args, "state", json_string(hex)) < 0) {
		json_decref(args);
		return hf_err_set(reterr, -ENOMEM, "no memory");
	}
	return tell(c, "conn-attach-state", args, reterr);
}

static int take_fd(struct hf_conn_ctl *c, struct hf_err *reterr)
{
	return c->got_fd >= 0 ? fd_take(&c->got_fd)
			      : hf_err_set(reterr, -EPROTO, "holdfastd sent no descriptor");
}

int hf_conn_checkpoint(
	struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port, struct hf_err *reterr)
{
	int r = tell(c, "conn-checkpoint", ports_json(host_port, guest_port), reterr);
	return r < 0 ? r : take_fd(c, reterr);
}

/* The application's state of an answer. */
static int take_state(const json_t *answer, struct hf_conn_claim *claim, struct hf_err *reterr)
{
	const char *hex = text_of(answer, "state");
	size_t n = strlen(hex) / 2;
	if (n == 0)
		return 0;
	claim->state = malloc(n);
	if (!claim->state)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	claim->state_len = n;
	if (hex_decode(hex, claim->state, n) < 0) {
		free(claim->state);
		return hf_err_set(reterr, -EPROTO, "holdfastd sent no hex digits");
	}
	return 0;
}

int hf_conn_claim(struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port,
	struct hf_conn_claim *ret_claim, struct hf_err *reterr)
{
	json_t *answer;
	struct hf_conn_claim claim = { .host_port = host_port, .guest_port = guest_port };
	int r = call(c, "claim", ports_json(host_port, guest_port), -1, &answer, reterr);
	if (r < 0)
		return r;
	r = take_state(answer, &claim, reterr);
	json_decref(answer);
	if (r < 0)
		return r;
	claim.fd = take_fd(c, reterr);
	if (claim.fd < 0) {
		free(claim.state);
		return claim.fd;
	}
	*ret_claim = claim;
	return 0;
}

int hf_conn_restore(struct hf_conn_ctl *c, int record_fd, struct hf_conn_claim *ret_claim,
	struct hf_err *reterr)
{
	json_t *answer;
	int r = call(c, "conn-restore", NULL, record_fd, &answer, reterr);
	if (r < 0)
		return r;
	uint32_t host = (uint32_t)number(answer, "host_port");
	uint32_t guest = (uint32_t)number(answer, "guest_port");
	json_decref(answer);
	return hf_conn_claim(c, host, guest, ret_claim, reterr);
}

/* ---- events ---- */

int hf_conn_watch(struct hf_conn_ctl *c, struct hf_err *reterr)
{
	return tell(c, "watch", NULL, reterr);
}

int hf_conn_event(struct hf_conn_ctl *c, int *ret_deadline_ms, struct hf_err *reterr)
{
	json_t *stray = NULL;
	int r = receive(c, &stray, reterr);
	json_decref(stray);
	enum hf_conn_event e = c->event;
	if (e == HF_CONN_NOTHING)
		return r < 0 ? r : 0;
	c->event = HF_CONN_NOTHING;
	if (ret_deadline_ms)
		*ret_deadline_ms = c->event_ms;
	return e;
}

int hf_conn_quiesced(struct hf_conn_ctl *c, struct hf_err *reterr)
{
	return tell(c, "quiesced", NULL, reterr);
}
