/* SPDX-License-Identifier: MIT */
/*
 * stream.c - standard streams of the guest's processes, and the connections that carry them.
 *
 * With a Holdfast guest all streams share one port: an accepted connection waits at the "door"
 * until its first RS_HELLO_SIZE bytes tell the token, and is then the stream's, displacing an older
 * one. A connection that is lost is forgotten; the guest dials again. With an upstream guest each
 * stream has a port of its own, which accepts once, and bytes are plain: "taken" means nothing to
 * the guest, and a lost connection is the end.
 *
 * Life: fresh (stream_new) - in use (named by a request) - finished or dead (told once) - freed by
 * the application - gone: a freed stream stays in the list until the guest has heard its end, so
 * that no "unknown token" is said of a stream that was merely done with first.
 */
#include "base/hex.h"
#include "guest_internal.h"
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>

/* --- doors --- */

void door_close(struct hf_guest *g, struct door *d)
{
	source_close(g, &d->source);
	hf_list_remove(&d->link);
	g->n_doors--;
	free(d);
}

void door_accept(struct hf_guest *g, int fd)
{
	/* The oldest gives way: a peer that says nothing cannot keep others out. */
	if (g->n_doors >= GUEST_DOORS_MAX)
		door_close(g, HF_CONTAINER_OF(g->doors.next, struct door, link));
	struct door *d = calloc(1, sizeof(*d));
	if (!d) {
		fd_closep(&fd);
		return;
	}
	source_init(&d->source, SOURCE_DOOR, d);
	d->source.fd = fd;
	hf_list_append(&g->doors, &d->link);
	g->n_doors++;
	if (source_want(g, &d->source, EPOLLIN) < 0)
		door_close(g, d);
}

void door_input(struct hf_guest *g, struct door *d)
{
	uint8_t token[RS_TOKEN_SIZE], answer[RS_HELLO_SIZE];
	char text[2 * RS_TOKEN_SIZE + 1];
	ssize_t n = recv(d->source.fd, d->hello + d->len, sizeof(d->hello) - d->len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0)
		d->len += (size_t)n;
	int r = n > 0 ? rs_hello_token(d->hello, d->len, token) : -EPROTO;
	if (r == -EAGAIN)
		return;
	if (r == 0) {
		hex_encode(token, sizeof(token), text);
		struct hf_guest_stream *s = stream_by_token(g, text);
		if (s) {
			(void)source_want(
				g, &d->source, 0); /* leaves the epoll set as the door's */
			stream_connect(s, fd_take(&d->source.fd), d->hello);
		} else {
			rs_hello_unknown(token, answer);
			/* Too small not to fit; if the guest is gone it need not know. */
			(void)!send(d->source.fd, answer, sizeof(answer), MSG_NOSIGNAL);
		}
	}
	door_close(g, d);
}

/* --- streams --- */

struct hf_guest_stream *stream_by_token(struct hf_guest *g, const char *token)
{
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (strcmp(s->token, token) == 0)
			return s;
	}
	return NULL;
}

struct hf_guest_stream *stream_add(
	struct hf_guest *g, bool to_guest, const char *tag, const char *token)
{
	struct hf_guest_stream *s = calloc(1, sizeof(*s));
	struct rs_config c = { 0 };
	if (!s || !(s->mem = malloc(g->window)) || hex_decode(token, c.token, RS_TOKEN_SIZE) < 0) {
		free(s ? s->mem : NULL);
		free(s);
		return NULL;
	}
	if (to_guest) {
		c.tx_buf = s->mem;
		c.tx_cap = g->window;
	} else {
		c.rx_buf = s->mem;
		c.rx_cap = g->window;
	}
	int r = rs_init(&s->rs, &c);
	hf_assert(r == 0); /* the window was checked by hf_guest_new */
	s->g = g;
	s->to_guest = to_guest;
	source_init(&s->source, SOURCE_STREAM, s);
	source_init(&s->port, SOURCE_PORT, s);
	(void)snprintf(s->token, sizeof(s->token), "%s", token);
	(void)snprintf(s->tag, sizeof(s->tag), "%s", tag);
	hf_list_append(&g->streams, &s->link);
	g->n_streams++;
	return s;
}

int hf_guest_stream_new(struct hf_guest *g, bool to_guest, const char *tag, void *ctx,
	struct hf_guest_stream **ret_s)
{
	uint8_t id[RS_TOKEN_SIZE];
	char token[2 * RS_TOKEN_SIZE + 1];
	if (g->n_streams >= HF_GUEST_STREAMS_MAX)
		return -EBUSY;
	if (tag && strlen(tag) > HF_GUEST_TAG_MAX)
		return -EINVAL;
	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return -errno;
	hex_encode(id, sizeof(id), token);
	struct hf_guest_stream *s = stream_add(g, to_guest, tag ? tag : "", token);
	if (!s)
		return -ENOMEM;
	s->ctx = ctx;
	*ret_s = s;
	return 0;
}

void stream_delete(struct hf_guest_stream *s)
{
	source_close(s->g, &s->source);
	if (s->port.fd >= 0) {
		struct sockaddr_un sa;
		socklen_t n = sizeof(sa);
		if (getsockname(s->port.fd, (struct sockaddr *)&sa, &n) == 0)
			(void)unlink(sa.sun_path); /* a stale socket file does no harm */
	}
	source_close(s->g, &s->port);
	hf_list_remove(&s->link);
	s->g->n_streams--;
	free(s->mem);
	free(s);
}

void stream_touch(struct hf_guest_stream *s)
{
	s->touched = true;
	guest_wake(s->g);
}

static bool is_dead(const struct hf_guest_stream *s)
{
	return s->why[0] != '\0';
}

/*
 * The last word lets the guest forget the stream, so it waits until a successor could not wait for
 * the guest any more: the application was told of the end, and the state was saved without it.
 */
static bool may_speak(const struct hf_guest_stream *s)
{
	return rs_state(&s->rs) == RS_OPEN || s->settled;
}

bool stream_is_listed(const struct hf_guest_stream *s)
{
	return s->in_use && !s->plain && !s->freed &&
	       !(s->reported & (HF_GUEST_FINISHED | HF_GUEST_DEAD));
}

bool stream_settle(struct hf_guest_stream *s)
{
	if (s->settled || stream_is_listed(s) || !s->in_use)
		return false;
	s->settled = s->touched = true;
	return true;
}

void stream_die(struct hf_guest_stream *s, const char *why)
{
	if (is_dead(s))
		return;
	(void)snprintf(s->why, sizeof(s->why), "%s", why[0] ? why : "dead");
	source_close(s->g, &s->source);
	source_close(s->g, &s->port);
	rs_detach(&s->rs);
	stream_touch(s);
}

static bool is_finished(const struct hf_guest_stream *s)
{
	if (!s->plain)
		return rs_done(&s->rs) || rs_state(&s->rs) == RS_FINISHED;
	return s->end_done;
}

bool stream_is_gone(const struct hf_guest_stream *s)
{
	if (!s->freed)
		return false;
	if (s->plain || !s->in_use || rs_over(&s->rs))
		return true;
	return is_dead(s) && s->source.fd < 0;
}

void hf_guest_stream_free(struct hf_guest_stream *s)
{
	if (!s)
		return;
	s->freed = true;
	s->ctx = NULL;
	if (!is_finished(s))
		rs_reset(&s->rs, 0);
	stream_touch(s);
	guest_dirty(s->g);
}

struct hf_guest_stream *hf_guest_stream_next(struct hf_guest *g, struct hf_guest_stream *prev)
{
	struct hf_list *n = prev ? prev->link.next : g->streams.next;
	for (; n != &g->streams; n = n->next) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (!s->freed)
			return s;
	}
	return NULL;
}

int hf_guest_stream_set_position(struct hf_guest_stream *s, uint64_t offset, bool end)
{
	struct rs_config c = {
		.rx_buf = s->mem, .rx_cap = s->g->window, .rx_start = offset, .rx_end_taken = end
	};
	if (!s->unpositioned)
		return -EALREADY;
	memcpy(c.token, s->rs.token, RS_TOKEN_SIZE);
	int r = rs_init(&s->rs, &c);
	if (r == 0)
		s->unpositioned = false;
	return r;
}

/* --- connections --- */

static void disconnect(struct hf_guest_stream *s)
{
	source_close(s->g, &s->source);
	if (s->plain) {
		if (!is_finished(s))
			stream_die(s, "connection lost");
		return;
	}
	rs_detach(&s->rs);
}

void stream_arm(struct hf_guest_stream *s)
{
	uint32_t want = EPOLLIN;
	struct iovec iov[RS_OUTPUT_IOV];
	if (s->source.fd < 0)
		return;
	if (s->plain) {
		bool in = s->to_guest ? false : hf_ring_room(&s->ring) > 0 && !s->end;
		bool out = s->to_guest && hf_ring_len(&s->ring) > 0;
		want = (in ? (uint32_t)EPOLLIN : 0) | (out ? (uint32_t)EPOLLOUT : 0);
	} else if (may_speak(s) && rs_output(&s->rs, iov) > 0) {
		want |= EPOLLOUT;
	}
	if (source_want(s->g, &s->source, want) < 0)
		disconnect(s);
}

void stream_connect(struct hf_guest_stream *s, int fd, const uint8_t *hello)
{
	bool must_wait = s->unpositioned || s->plain || !may_speak(s);
	bool is_void = is_dead(s) && rs_state(&s->rs) == RS_OPEN;
	if (must_wait || is_void) {
		fd_closep(&fd); /* the guest tries again */
		return;
	}
	source_close(s->g, &s->source);
	rs_attach(&s->rs);
	s->source.fd = fd;
	s->tuple = guest_tuple(fd);
	s->attached_once = true;
	if (rs_input(&s->rs, hello, RS_HELLO_SIZE) < 0)
		disconnect(s);
	stream_arm(s);
	stream_touch(s);
}

/* Plain streams: a port each, which accepts one connection. */
static int plain_use(struct hf_guest_stream *s)
{
	int r = guest_listen(s->g, &s->port, s->g->next_port, NULL);
	if (r < 0)
		return r;
	s->g->next_port++;
	s->plain = true;
	hf_ring_init(&s->ring, s->mem, s->g->window);
	return 0;
}

int stream_use(struct hf_guest_stream *s)
{
	s->in_use = true;
	return s->g->mode == MODE_UPSTREAM ? plain_use(s) : 0;
}

void stream_port_event(struct hf_guest_stream *s)
{
	int fd = guest_accept(s->g, &s->port);
	if (fd < 0)
		return;
	guest_unlisten(s->g, &s->port);
	s->source.fd = fd;
	s->tuple = guest_tuple(fd);
	stream_touch(s);
}

/* --- bytes --- */

static void plain_input(struct hf_guest_stream *s)
{
	struct iovec iov[2];
	int k = hf_ring_write_iov(&s->ring, iov);
	if (k == 0 || s->to_guest)
		return;
	ssize_t n = readv(s->source.fd, iov, k);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		disconnect(s);
	else if (n == 0)
		s->end = true;
	else
		hf_ring_produced(&s->ring, (size_t)n);
}

static void plain_output(struct hf_guest_stream *s)
{
	struct iovec iov[2];
	while (s->to_guest && s->source.fd >= 0 && hf_ring_len(&s->ring) > 0) {
		struct msghdr m = { .msg_iov = iov };
		m.msg_iovlen = (size_t)hf_ring_read_iov(&s->ring, iov);
		ssize_t n = sendmsg(s->source.fd, &m, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				disconnect(s);
			return;
		}
		hf_ring_consumed(&s->ring, (size_t)n);
		s->offset += (uint64_t)n;
	}
	if (s->to_guest && s->source.fd >= 0 && s->end && !s->end_done) {
		(void)shutdown(s->source.fd, SHUT_WR); /* fails only when the guest is gone */
		s->end_done = true;
	}
}

static void output(struct hf_guest_stream *s)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k;
	if (s->g->standing)
		return;
	while (s->source.fd >= 0 && (k = rs_output(&s->rs, iov)) > 0) {
		struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)k };
		ssize_t n = sendmsg(s->source.fd, &m, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				disconnect(s);
			return;
		}
		rs_sent(&s->rs, (size_t)n);
	}
}

void stream_event(struct hf_guest_stream *s, uint32_t events)
{
	stream_touch(s);
	if (s->plain) {
		if (s->to_guest && (events & (EPOLLHUP | EPOLLERR)))
			disconnect(s);
		else
			plain_input(s);
		return;
	}
	if (!(events & ~(uint32_t)EPOLLOUT))
		return;
	ssize_t n = recv(s->source.fd, s->g->scratch, GUEST_READ_MAX, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0 || rs_input(&s->rs, s->g->scratch, (size_t)n) < 0)
		disconnect(s);
}

/* --- what the application is told --- */

static size_t readable(const struct hf_guest_stream *s)
{
	return s->plain ? (s->to_guest ? 0 : hf_ring_len(&s->ring)) : hf_ring_len(&s->rs.rx);
}

static bool at_end(const struct hf_guest_stream *s)
{
	if (s->plain)
		return !s->to_guest && s->end && !s->end_done && hf_ring_len(&s->ring) == 0;
	return rs_readable_end(&s->rs);
}

static size_t writable(const struct hf_guest_stream *s)
{
	if (!s->to_guest || is_dead(s))
		return 0;
	return s->plain ? (s->end ? 0 : hf_ring_room(&s->ring)) : rs_room(&s->rs);
}

static void learn_of_death(struct hf_guest_stream *s)
{
	switch (rs_state(&s->rs)) {
	case RS_RESET:
		(void)snprintf(s->why, sizeof(s->why), "reset: %u", rs_reset_code(&s->rs));
		break;
	case RS_GAP:
		(void)snprintf(s->why, sizeof(s->why), "gap: an end has lost its state");
		break;
	default:
		break; /* the accepting end is never told "unknown" */
	}
}

static unsigned news(struct hf_guest_stream *s)
{
	unsigned e = 0;
	if (readable(s) > s->seen)
		e |= HF_GUEST_READABLE;
	s->seen = readable(s);
	if (s->blocked && writable(s) > 0) {
		s->blocked = false;
		e |= HF_GUEST_WRITABLE;
	}
	if (at_end(s))
		e |= HF_GUEST_ENDED;
	if (is_dead(s))
		e |= HF_GUEST_DEAD;
	else if (is_finished(s))
		e |= HF_GUEST_FINISHED;
	unsigned once = HF_GUEST_ENDED | HF_GUEST_DEAD | HF_GUEST_FINISHED;
	e &= ~(s->reported & once);
	s->reported |= e & once;
	if (e & (HF_GUEST_DEAD | HF_GUEST_FINISHED))
		guest_dirty(s->g);
	return e;
}

void stream_run(struct hf_guest_stream *s)
{
	if (s->plain)
		plain_output(s);
	else if (may_speak(s))
		output(s);
	if (!s->plain && !is_dead(s))
		learn_of_death(s);
	if (!s->plain && s->source.fd >= 0 && rs_over(&s->rs))
		disconnect(s);
	if (s->plain && s->end_done && !s->to_guest)
		source_close(s->g, &s->source); /* an upstream guest waits for this */
	unsigned e = s->freed ? 0 : news(s);
	if (e && s->g->events.stream)
		s->g->events.stream(s->g->events.ctx, s, e);
	stream_arm(s);
}

/* --- the application's calls --- */

const char *hf_guest_stream_token(const struct hf_guest_stream *s)
{
	return s->plain ? "" : s->token;
}

const char *hf_guest_stream_tag(const struct hf_guest_stream *s)
{
	return s->tag;
}

bool hf_guest_stream_is_to_guest(const struct hf_guest_stream *s)
{
	return s->to_guest;
}

void hf_guest_stream_set_ctx(struct hf_guest_stream *s, void *ctx)
{
	s->ctx = ctx;
}

void *hf_guest_stream_ctx(const struct hf_guest_stream *s)
{
	return s->ctx;
}

int hf_guest_stream_read(const struct hf_guest_stream *s, struct iovec iov[2])
{
	if (s->plain)
		return s->to_guest ? 0 : hf_ring_read_iov(&s->ring, iov);
	return rs_read(&s->rs, iov);
}

int hf_guest_stream_take(struct hf_guest_stream *s, size_t n)
{
	if (n > readable(s))
		return -EINVAL;
	if (s->plain) {
		hf_ring_consumed(&s->ring, n);
		s->offset += n;
	} else {
		rs_take(&s->rs, n);
	}
	s->seen -= HF_MIN(s->seen, n);
	stream_touch(s);
	return 0;
}

int hf_guest_stream_take_end(struct hf_guest_stream *s)
{
	if (!at_end(s))
		return -EINVAL;
	if (s->plain)
		s->end_done = true;
	else
		rs_take_end(&s->rs);
	stream_touch(s);
	return 0;
}

ssize_t hf_guest_stream_write(struct hf_guest_stream *s, const void *data, size_t n)
{
	ssize_t k;
	if (!s->to_guest || is_dead(s))
		return -EPIPE;
	if (s->plain)
		k = s->end ? -EPIPE : (ssize_t)hf_ring_put(&s->ring, data, n);
	else
		k = rs_write(&s->rs, data, n);
	if (k < 0)
		return k;
	s->blocked = (size_t)k < n;
	stream_touch(s);
	return k;
}

int hf_guest_stream_end(struct hf_guest_stream *s)
{
	if (!s->to_guest)
		return -EINVAL;
	if (s->plain)
		s->end = true;
	else
		rs_end(&s->rs);
	stream_touch(s);
	return 0;
}

uint64_t hf_guest_stream_taken(const struct hf_guest_stream *s)
{
	return s->plain ? (s->to_guest ? 0 : s->offset) : rs_rx_taken(&s->rs);
}

uint64_t hf_guest_stream_acked(const struct hf_guest_stream *s)
{
	if (s->plain)
		return s->to_guest ? s->offset : 0;
	return s->rs.tx_adopt ? UINT64_MAX : rs_tx_acked(&s->rs);
}

uint64_t hf_guest_stream_written(const struct hf_guest_stream *s)
{
	if (s->plain)
		return s->to_guest ? s->offset + hf_ring_len(&s->ring) : 0;
	return s->rs.tx_adopt ? UINT64_MAX : rs_tx_end(&s->rs);
}

const char *hf_guest_stream_why(const struct hf_guest_stream *s)
{
	return s->why;
}
