/* SPDX-License-Identifier: MIT */
#include "link.h"
#include "agent/agent.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "dial.h"
#include <errno.h>
#include <string.h>

static void go_on(struct agt_link *l);

static void on_dialled(void *arg, int fd);

static void dial_now(void *arg)
{
	struct agt_link *l = arg;
	brg_reconnect_dialling(&l->reconnect, hf_now_us());
	l->state = AGT_LINK_DIALLING;
	l->dial = agt_dial_start(&l->a->loop, &l->a->flags->transport, BRG_PORT, on_dialled, l);
	if (!l->dial)
		on_dialled(l, -ENOMEM);
}

static void next_attempt(struct agt_link *l, enum brg_outcome outcome)
{
	uint64_t now = hf_now_us(), at;
	l->state = AGT_LINK_IDLE;
	if (!brg_reconnect_next(&l->reconnect, outcome, now, &at)) {
		l->state = AGT_LINK_STOPPED;
		return;
	}
	if (at <= now)
		dial_now(l);
	else
		agt_timer_set(l->redial, (at - now + 999) / 1000);
}

/* Frees all of a connection: nothing of it is used again. */
static void drop(struct agt_link *l)
{
	agt_watch_free(l->watch_in);
	if (l->watch_out != l->watch_in)
		agt_watch_free(l->watch_out);
	l->watch_in = l->watch_out = NULL;
	if (l->in != l->out)
		fd_closep(&l->out);
	fd_closep(&l->in);
	l->out = -1;
	free(l->reader_mem);
	free(l->mux_mem);
	l->reader_mem = l->mux_mem = NULL;
	agt_timer_stop(l->more);
	l->lost_us = hf_now_us();
}

static void lost(struct agt_link *l, const char *why)
{
	bool useful = l->negotiated;
	hf_log(useful ? HF_LOG_WARNING : HF_LOG_DEBUG, "bridge: connection %lu lost: %s",
		(unsigned long)l->connections, why);
	l->negotiated = false;
	drop(l);
	l->state = AGT_LINK_IDLE;
	agt_session_down(&l->a->session);
	if (l->a->flags->use_inouterr) {
		l->state = AGT_LINK_STOPPED;
		agt_stop(l->a, "standard input has ended");
		return;
	}
	next_attempt(l, useful ? BRG_OUTCOME_LOST : BRG_OUTCOME_USELESS);
}

/* Which events are wanted now, from the state of reader and mux alone. */
static void want(struct agt_link *l)
{
	struct iovec iov[2];
	int in = brg_mux_room(&l->mux) >= BRG_ANSWER_MAX ? UV_READABLE : 0;
	int out = brg_mux_out(&l->mux, iov) > 0 ? UV_WRITABLE : 0;
	if (l->watch_in == l->watch_out) {
		agt_watch_set(l->watch_in, in | out);
		return;
	}
	agt_watch_set(l->watch_in, in);
	agt_watch_set(l->watch_out, out);
}

/* 0, or -errno when the connection is broken. */
static int flush(struct agt_link *l)
{
	struct iovec iov[2];
	int k;
	while ((k = brg_mux_out(&l->mux, iov)) > 0) {
		ssize_t n = writev(l->out, iov, k);
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		brg_mux_written(&l->mux, (size_t)n);
	}
	return 0;
}

/* Makes the reader's buffer as large as the frame at hand, or small again. */
static int resize_reader(struct agt_link *l, size_t cap)
{
	uint8_t *mem = malloc(cap);
	if (!mem)
		return -ENOMEM;
	brg_reader_rebase(&l->reader, mem, cap);
	free(l->reader_mem);
	l->reader_mem = mem;
	return 0;
}

/* Handles what was read. 1: frames may be left; 0: none; -errno: the connection is over. */
static int handle_frames(struct agt_link *l)
{
	uint64_t connection = l->connections;
	for (int i = 0; i < AGT_FRAMES_BATCH; i++) {
		struct brg_frame f;
		if (brg_mux_room(&l->mux) < BRG_ANSWER_MAX)
			return 0; /* writing brings us back */
		int r = brg_reader_next(&l->reader, &f);
		if (r == -ENOBUFS)
			return resize_reader(l, brg_reader_want(&l->reader));
		if (r <= 0)
			return r;
		agt_session_frame(&l->a->session, &f);
		if (l->state != AGT_LINK_UP || l->connections != connection)
			return 0; /* the frame's handler stopped us */
	}
	return 1;
}

/* Reads once. 0, or -errno: the connection is over. */
static int fill(struct agt_link *l)
{
	size_t room;
	void *p = brg_reader_space(&l->reader, &room);
	if (room == 0)
		return 0;
	ssize_t n = read(l->in, p, room);
	if (n == 0)
		return -ECONNRESET;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	brg_reader_filled(&l->reader, (size_t)n);
	return 0;
}

static const char *why(const struct agt_link *l, int r, char *text, size_t cap)
{
	if (r == -EBADMSG)
		(void)snprintf(text, cap, "frame of %u bytes refused, 16 to %u are allowed",
			l->reader.bad_size, BRG_REQUEST_MAX);
	else
		(void)snprintf(
			text, cap, "%s", r == -ECONNRESET ? "closed by the host" : strerror(-r));
	return text;
}

static void go_on(struct agt_link *l)
{
	char text[100];
	l->busy = true;
	int r = handle_frames(l);
	l->busy = false;
	if (l->state != AGT_LINK_UP)
		return;
	if (r == 1)
		agt_timer_set(l->more, 0);
	if (r >= 0)
		r = flush(l);
	if (r < 0) {
		lost(l, why(l, r, text, sizeof(text)));
		return;
	}
	if (l->reader.cap > AGT_READER_SIZE && l->reader.begin == l->reader.end)
		(void)resize_reader(l, AGT_READER_SIZE); /* without memory it stays large */
	want(l);
}

static void on_more(void *arg)
{
	go_on(arg);
}

static void on_ready(void *arg, int events)
{
	struct agt_link *l = arg;
	char text[100];
	if (events & UV_READABLE) {
		int r = fill(l);
		if (r < 0) {
			lost(l, why(l, r, text, sizeof(text)));
			return;
		}
	}
	if (events & UV_WRITABLE)
		agt_session_pump(&l->a->session); /* there may be room again */
	go_on(l);
}

static int come_up(struct agt_link *l, int in, int out)
{
	l->in = in;
	l->out = out;
	l->reader_mem = malloc(AGT_READER_SIZE);
	l->mux_mem = malloc(AGT_MUX_SIZE);
	if (!l->reader_mem || !l->mux_mem)
		return -ENOMEM;
	brg_reader_init(&l->reader, l->reader_mem, AGT_READER_SIZE, BRG_REQUEST_MAX);
	brg_mux_init(&l->mux, l->mux_mem, AGT_MUX_SIZE);
	int r = agt_watch_new(&l->a->loop, in, on_ready, l, &l->watch_in);
	if (r < 0)
		return r;
	l->watch_out = l->watch_in;
	if (in != out) {
		l->watch_out = NULL;
		r = agt_watch_new(&l->a->loop, out, on_ready, l, &l->watch_out);
		if (r < 0)
			return r;
	}
	l->state = AGT_LINK_UP;
	l->connections++;
	want(l);
	return 0;
}

static void on_dialled(void *arg, int fd)
{
	struct agt_link *l = arg;
	l->dial = NULL;
	int r = fd < 0 ? fd : come_up(l, fd, fd);
	if (r == 0) {
		hf_info("bridge: connection %lu is up", (unsigned long)l->connections);
		return;
	}
	if (l->reconnect.failures == 0)
		hf_info("bridge: port %u: %s; trying again every %lu ms", BRG_PORT, strerror(-r),
			(unsigned long)(l->reconnect.interval_us / 1000));
	if (fd >= 0)
		drop(l);
	next_attempt(l, BRG_OUTCOME_REFUSED);
}

int agt_link_init(struct agt_link *l, struct agt *a)
{
	*l = (struct agt_link){ .a = a, .in = -1, .out = -1 };
	brg_reconnect_init(&l->reconnect, a->flags->reconnect_us, 0);
	l->redial = agt_timer_new(&a->loop, dial_now, l);
	l->more = agt_timer_new(&a->loop, on_more, l);
	return l->redial && l->more ? 0 : -ENOMEM;
}

int agt_link_start(struct agt_link *l)
{
	if (!l->a->flags->use_inouterr) {
		next_attempt(l, BRG_OUTCOME_NONE);
		return 0;
	}
	int r = fd_set_nonblock(STDIN_FILENO, true);
	if (r == 0)
		r = fd_set_nonblock(STDOUT_FILENO, true);
	return r < 0 ? r : come_up(l, STDIN_FILENO, STDOUT_FILENO);
}

void agt_link_stop(struct agt_link *l)
{
	brg_reconnect_stop(&l->reconnect);
	agt_timer_stop(l->redial);
	agt_dial_cancel(l->dial);
	l->dial = NULL;
	if (l->state == AGT_LINK_UP) {
		(void)flush(l); /* a host that does not read loses the last answer */
		drop(l);
	}
	l->state = AGT_LINK_STOPPED;
}

int agt_link_send(struct agt_link *l, uint32_t type, uint64_t id, const char *payload, size_t len)
{
	if (l->state != AGT_LINK_UP)
		return -ENOTCONN;
	int r = brg_mux_put(&l->mux, type, id, payload, len);
	if (r == 0 && !l->busy)
		want(l); /* not written at once: what it tells may not be in the state yet */
	return r;
}
