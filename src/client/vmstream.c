/* SPDX-License-Identifier: MIT */
/*
 * vmstream.c - a standard stream of a process over the supervisor's control socket.
 *
 * One struct rs lasts as long as the stream; connections come and go below it: connect, ask
 * `attach`, read the answer's line, then speak docs/stream.md. The supervisor's end begins anew
 * with each connection and takes its position from our hello (output) or tells the guest's (input).
 */
#include "base/hex.h"
#include "stream/stream.h"
#include "vm_internal.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define WINDOW (256 * 1024)

struct hf_vm_stream {
	struct vm_link link;
	struct rs rs;
	bool speaking; /* `attach` was granted on this connection */
	uint64_t gone; /* bytes that were dropped before we could read them */
	char request[512];
	struct hf_err err; /* final */
	uint8_t window[WINDOW];
};

int hf_vm_stream_open(const char *node, const char *name, const char *process, const char *stream,
	uint64_t offset, enum hf_vm_read how, struct hf_vm_stream **ret_s, struct hf_err *reterr)
{
	bool input = !strcmp(stream, "stdin");
	struct rs_config config = { .dials = true };
	char token[2 * RS_TOKEN_SIZE + 1];
	struct hf_vm_stream *s = calloc(1, sizeof(*s));
	if (!s)
		return hf_err_set(reterr, -ENOMEM, "no memory for a stream");
	int r = vm_link_init(&s->link, node, name, reterr);
	if (r == 0 &&
		getrandom(config.token, sizeof(config.token), 0) != (ssize_t)sizeof(config.token))
		r = hf_err_set(reterr, -EIO, "no random bytes for a token");
	if (r < 0) {
		free(s);
		return r;
	}
	if (input) {
		config.tx_buf = s->window;
		config.tx_cap = WINDOW;
	} else {
		config.rx_buf = s->window;
		config.rx_cap = WINDOW;
		config.rx_start = offset;
	}
	(void)rs_init(&s->rs, &config); /* the sizes are constants of ours */
	hex_encode(config.token, sizeof(config.token), token);
	json_t *request = json_pack("{s:i, s:s, s:s, s:s, s:s, s:b, s:b}", "id", 1, "cmd", "attach",
		"process", process, "stream", stream, "token", token, "follow",
		how != HF_VM_READ_NOW, "hold", how == HF_VM_READ_HOLD);
	char *text = request ? json_dumps(request, JSON_COMPACT) : NULL;
	json_decref(request);
	if (!text || (size_t)snprintf(s->request, sizeof(s->request), "%s\n", text) >=
			     sizeof(s->request))
		r = hf_err_set(
			reterr, -EINVAL, "process \"%.40s\": no process has such a name", process);
	free(text);
	if (r < 0) {
		hf_vm_stream_free(s);
		return r;
	}
	*ret_s = s;
	return 0;
}

void hf_vm_stream_free(struct hf_vm_stream *s)
{
	if (!s)
		return;
	vm_link_done(&s->link);
	free(s);
}

bool hf_vm_stream_done(const struct hf_vm_stream *s)
{
	return rs_over(&s->rs) || rs_state(&s->rs) != RS_OPEN || s->err.code != 0;
}

int hf_vm_stream_poll(const struct hf_vm_stream *s, struct pollfd *ret_poll)
{
	struct iovec iov[RS_OUTPUT_IOV];
	struct rs *rs = (struct rs *)&s->rs; /* rs_output() prepares what it shows, nothing else */
	bool writes = s->speaking && rs_output(rs, iov) > 0;
	*ret_poll = (struct pollfd){ .fd = s->link.fd,
		.events = (short)(POLLIN | (writes ? POLLOUT : 0)) };
	return hf_vm_stream_done(s) ? -1 : vm_link_timeout(&s->link);
}

static void lost(struct hf_vm_stream *s)
{
	if (s->speaking)
		rs_detach(&s->rs);
	s->speaking = false;
	vm_link_lost(&s->link);
}

/* Of output only the newest is kept. What lies between that and what we have is gone; false: what
 * was received is to be read first. */
static bool skip_to(struct hf_vm_stream *s, uint64_t begins)
{
	struct iovec iov[2];
	struct rs_config config = {
		.dials = true, .rx_buf = s->window, .rx_cap = WINDOW, .rx_start = begins
	};
	uint64_t have = rs_rx_taken(&s->rs);
	for (int i = 0, k = rs_read(&s->rs, iov); i < k; i++)
		have += iov[i].iov_len;
	if (s->rs.rx.cap == 0 || begins <= have)
		return true;
	if (have > rs_rx_taken(&s->rs))
		return false;
	memcpy(config.token, s->rs.token, sizeof(config.token));
	(void)rs_init(&s->rs, &config); /* as in hf_vm_stream_open() */
	s->gone += begins - have;
	return true;
}

uint64_t hf_vm_stream_gone(const struct hf_vm_stream *s)
{
	return s->gone;
}

/* The supervisor's next message but events, which are for others; NULL: none yet, or it is lost. */
static json_t *read_message(struct hf_vm_stream *s)
{
	char *line;
	int r;
	while ((r = vm_link_read(&s->link, &line)) > 0) {
		json_t *msg = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
		if (!json_object_get(msg, "event"))
			return msg ? msg : json_object();
		json_decref(msg);
	}
	if (r < 0)
		lost(s);
	return NULL;
}

/* The answer to `attach`: 1 granted, 0 not yet or not now, -errno refused. */
static int read_answer(struct hf_vm_stream *s, struct hf_err *reterr)
{
	json_t *msg = read_message(s);
	if (!msg)
		return 0;
	int r = vm_answer_error(msg, reterr);
	json_int_t begins = json_integer_value(json_object_get(msg, "begins"));
	json_decref(msg);
	if ((r == 0 && !skip_to(s, begins > 0 ? (uint64_t)begins : 0)) ||
		(r == -EAGAIN && hf_now_us() < s->link.give_up_us)) {
		lost(s);
		return 0;
	}
	return r < 0 ? r : 1;
}

static int begin(struct hf_vm_stream *s, struct hf_err *reterr)
{
	if (s->link.fd < 0) {
		int r = vm_link_connect(&s->link, reterr);
		if (r <= 0)
			return r;
		/* A fresh socket takes a line of this size whole. */
		if (send(s->link.fd, s->request, strlen(s->request), MSG_NOSIGNAL | MSG_DONTWAIT) !=
			(ssize_t)strlen(s->request)) {
			lost(s);
			return 0;
		}
	}
	int r = read_answer(s, reterr);
	if (r <= 0)
		return r;
	const char *rest;
	s->speaking = true;
	rs_attach(&s->rs);
	size_t n = hf_lines_rest(&s->link.lines, &rest);
	if (n > 0 && rs_input(&s->rs, rest, n) < 0)
		lost(s);
	return s->speaking;
}

static void pump_in(struct hf_vm_stream *s)
{
	char buf[65536];
	while (s->speaking) {
		ssize_t n = recv(s->link.fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0 || rs_input(&s->rs, buf, (size_t)n) < 0)
			lost(s);
		else
			vm_link_works(&s->link);
	}
}

static void pump_out(struct hf_vm_stream *s)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k;
	while (s->speaking && (k = rs_output(&s->rs, iov)) > 0) {
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
		ssize_t n = sendmsg(s->link.fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			rs_sent(&s->rs, (size_t)n);
		else if (errno == EAGAIN)
			return;
		else if (errno != EINTR)
			lost(s);
	}
}

int hf_vm_stream_step(struct hf_vm_stream *s, struct hf_err *reterr)
{
	if (s->err.code == 0 && !hf_vm_stream_done(s) && !s->speaking) {
		struct hf_err err = { 0 };
		if (begin(s, &err) < 0)
			s->err = err;
	}
	if (s->speaking) {
		pump_in(s);
		pump_out(s);
	}
	if (rs_state(&s->rs) == RS_GAP || (rs_state(&s->rs) == RS_RESET && s->rs.tx.cap == 0))
		hf_err_set(&s->err, -EIO, "the output before this point is lost");
	if (s->err.code && reterr)
		*reterr = s->err;
	return s->err.code;
}

ssize_t hf_vm_stream_read(struct hf_vm_stream *s, void *buf, size_t n)
{
	struct iovec iov[2];
	size_t got = 0;
	for (int i = 0, k = rs_read(&s->rs, iov); i < k && got < n; i++) {
		size_t part = HF_MIN(iov[i].iov_len, n - got);
		memcpy((char *)buf + got, iov[i].iov_base, part);
		got += part;
	}
	if (got > 0) {
		rs_take(&s->rs, got);
		pump_out(s); /* the acknowledgement */
		return (ssize_t)got;
	}
	if (rs_readable_end(&s->rs)) {
		rs_take_end(&s->rs);
		pump_out(s);
	}
	return s->rs.rx_end_taken || rs_state(&s->rs) != RS_OPEN ? 0 : -EAGAIN;
}

ssize_t hf_vm_stream_write(struct hf_vm_stream *s, const void *data, size_t n)
{
	ssize_t r = rs_write(&s->rs, data, n);
	if (r > 0)
		pump_out(s);
	return r == 0 && n > 0 ? -EAGAIN : r;
}

void hf_vm_stream_end(struct hf_vm_stream *s)
{
	rs_end(&s->rs);
	pump_out(s);
}
