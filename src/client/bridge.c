/* SPDX-License-Identifier: MIT */
/*
 * bridge.c - the connection that carries requests.
 *
 * A connection begins with NegotiateProtocol (id 0) and nothing else until it is answered. Then,
 * whenever the out buffer has run empty and the state is saved, it is filled again: first the
 * acknowledgements, then every request that was not sent on this connection, by ascending id.
 * So a resumed session re-sends what is unanswered before anything new, with no further code.
 *
 * A connection that breaks a rule of the frame format is closed and the guest dials again. Answers
 * nobody waits for, and types that we do not know, are ignored.
 */
#include "guest_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>

#define READER_FIRST  (64u << 10)
#define ZERO_ACTIVITY "00000000-0000-0000-0000-000000000000"

/* --- out --- */

static int out_frame(struct bridge *b, uint32_t type, uint64_t id, const void *body, size_t len)
{
	size_t need = b->out_len + BRG_HEADER + len;
	if (need > b->out_cap) {
		size_t cap = HF_MAX(need, (size_t)GUEST_OUT_CHUNK);
		uint8_t *p = realloc(b->out, cap);
		if (!p)
			return -ENOMEM;
		b->out = p;
		b->out_cap = cap;
	}
	brg_header_write(b->out + b->out_len, type, id, (uint32_t)len);
	memcpy(b->out + b->out_len + BRG_HEADER, body, len);
	b->out_len = need;
	return 0;
}

static int out_json(struct bridge *b, uint32_t type, uint64_t id, json_t *body)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	int r = text ? out_frame(b, type, id, text, strlen(text)) : -ENOMEM;
	free(text);
	json_decref(body);
	return r;
}

/* Whatever is sent after this moment on this connection has this id or a higher one. */
static uint64_t first_unsent(const struct hf_guest *g)
{
	hf_list_for_each (n, &g->requests) {
		const struct request *q = HF_CONTAINER_OF(n, struct request, link);
		if (!q->sent)
			return q->id;
	}
	return g->next_id;
}

static int fill_acks(struct hf_guest *g)
{
	json_t *ids = json_array();
	size_t n = 0;
	for (size_t i = 0; i < g->n_acks; i++)
		if (g->acks[i].mark == UINT64_MAX) {
			json_array_append_new(ids, json_integer((json_int_t)g->acks[i].id));
			n++;
		}
	if (n == 0 && !g->seq_due) {
		json_decref(ids);
		return 0;
	}
	int r = out_json(&g->bridge, BRG_ACKNOWLEDGE, 0,
		json_pack("{s:o, s:I}", "Answers", ids, "Notifications", (json_int_t)g->last_seq));
	if (r < 0)
		return r;
	uint64_t mark = first_unsent(g);
	for (size_t i = 0; i < g->n_acks; i++)
		if (g->acks[i].mark == UINT64_MAX)
			g->acks[i].mark = mark;
	g->seq_due = false;
	return 0;
}

static int fill(struct hf_guest *g)
{
	struct bridge *b = &g->bridge;
	int r = g->mode == MODE_HOLDFAST ? fill_acks(g) : 0;
	hf_list_for_each (n, &g->requests) {
		struct request *q = HF_CONTAINER_OF(n, struct request, link);
		if (r < 0 || b->out_len >= GUEST_OUT_CHUNK)
			break;
		if (q->sent)
			continue;
		r = out_frame(b, q->type, q->id, q->body, q->len);
		q->sent = r == 0;
	}
	return r;
}

void bridge_flush(struct hf_guest *g)
{
	struct bridge *b = &g->bridge;
	while (b->source.fd >= 0) {
		if (b->out_pos == b->out_len) {
			b->out_pos = b->out_len = 0;
			int r = b->negotiated ? fill(g) : 0;
			if (r < 0) {
				bridge_lost(g, r, "no memory to send a request");
				return;
			}
			if (b->out_len == 0)
				break;
		}
		ssize_t n = send(
			b->source.fd, b->out + b->out_pos, b->out_len - b->out_pos, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			bridge_lost(g, -errno, "the connection was lost: %s", strerror(errno));
			return;
		}
		b->out_pos += (size_t)n;
	}
	if (b->source.fd >= 0)
		(void)source_want(g, &b->source, b->out_len > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* --- life --- */

void bridge_close(struct hf_guest *g)
{
	struct bridge *b = &g->bridge;
	source_close(g, &b->source);
	free(b->reader.buf);
	free(b->out);
	b->reader = (struct brg_reader){ 0 };
	b->out = NULL;
	b->out_pos = b->out_len = b->out_cap = 0;
	b->negotiated = false;
	b->tuple = (struct tuple){ 0 };
	hf_list_for_each (n, &g->requests)
		HF_CONTAINER_OF(n, struct request, link)->sent = false;
	for (size_t i = 0; i < g->n_acks; i++)
		g->acks[i].mark = UINT64_MAX;
	g->seq_due = g->last_seq > 0;
}

void bridge_lost(struct hf_guest *g, int code, const char *fmt, ...)
{
	struct hf_err why = { .code = code };
	va_list ap;
	if (g->bridge.source.fd < 0)
		return;
	va_start(ap, fmt);
	(void)vsnprintf(why.text, sizeof(why.text), fmt, ap); /* a cut text is still a text */
	va_end(ap);
	bridge_close(g);
	if (g->mode == MODE_UPSTREAM)
		request_fail_all(g, -ECONNRESET, why.text);
	if (g->events.lost)
		g->events.lost(g->events.ctx, &why);
}

static int bridge_open(struct hf_guest *g)
{
	struct bridge *b = &g->bridge;
	uint8_t *buf = malloc(READER_FIRST);
	if (!buf)
		return -ENOMEM;
	brg_reader_init(&b->reader, buf, READER_FIRST, BRG_ANSWER_MAX);
	return 0;
}

static int negotiate(struct hf_guest *g)
{
	return out_json(&g->bridge, BRG_NEGOTIATE, 0,
		json_pack("{s:s, s:s, s:i, s:i, s:{s:i, s:s, s:b}}", "ContainerId", BRG_UVM_ID,
			"ActivityId", ZERO_ACTIVITY, "MinimumVersion", BRG_VERSION,
			"MaximumVersion", BRG_VERSION, "Holdfast", "Version", 1, "Session",
			g->session, "Resume", g->mode == MODE_HOLDFAST));
}

/* A guest dials again only when it has given up the connection before. */
void bridge_accept(struct hf_guest *g, int fd)
{
	struct bridge *b = &g->bridge;
	bridge_lost(g, -ECONNRESET, "the guest has connected anew");
	bridge_close(g);
	b->source.fd = fd;
	b->tuple = guest_tuple(fd);
	b->deadline_us = hf_now_us() + GUEST_NEGOTIATE_US;
	int r = bridge_open(g);
	if (r == 0)
		r = negotiate(g);
	if (r == 0)
		r = source_want(g, &b->source, EPOLLIN);
	if (r < 0) {
		bridge_lost(g, r, "cannot use the connection: %s", strerror(-r));
		return;
	}
	bridge_flush(g);
}

int bridge_adopt(
	struct hf_guest *g, const uint8_t *in, size_t n_in, const uint8_t *out, size_t n_out)
{
	struct bridge *b = &g->bridge;
	int r = bridge_open(g);
	if (r < 0)
		return r;
	b->reader.limit = HF_GUEST_ANSWER_MAX;
	size_t cap = HF_MAX(n_in, (size_t)READER_FIRST);
	uint8_t *buf = malloc(cap);
	b->out = malloc(HF_MAX(n_out, (size_t)1));
	if (!buf || !b->out) {
		free(buf);
		return -ENOMEM;
	}
	free(b->reader.buf);
	brg_reader_init(&b->reader, buf, cap, HF_GUEST_ANSWER_MAX);
	memcpy(buf, in, n_in);
	brg_reader_filled(&b->reader, n_in);
	memcpy(b->out, out, n_out);
	b->out_len = b->out_cap = n_out;
	b->negotiated = true;
	return 0;
}

/* --- the negotiation's answer --- */

static const char *string_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

static int keep(char **where, const char *text)
{
	char *copy = text ? strdup(text) : NULL;
	if (!copy)
		return -ENOMEM;
	free(*where);
	*where = copy;
	return 0;
}

/* The promises of the session are void: everybody is told. */
static void session_gone(struct hf_guest *g)
{
	g->last_seq = 0;
	g->seq_due = false;
	g->n_acks = 0;
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (s->in_use)
			stream_die(s, "unknown session");
	}
	request_fail_all(g, -ESTALE, "the guest does not know the session (it was restarted)");
}

static void session_begins(
	struct hf_guest *g, const json_t *holdfast, struct hf_guest_info *ret_info)
{
	bool had = g->mode == MODE_HOLDFAST;
	const char *said = string_of(holdfast, "Session");
	g->bridge.reader.limit = HF_GUEST_ANSWER_MAX;
	g->mode = MODE_HOLDFAST;
	g->cid = (uint32_t)json_integer_value(json_object_get(holdfast, "Cid"));
	if (had && strcmp(said, "resumed") == 0) {
		ret_info->session = HF_GUEST_RESUMED;
		return;
	}
	ret_info->session = had ? HF_GUEST_UNKNOWN : HF_GUEST_NEW;
	session_gone(g);
}

static void upstream_begins(struct hf_guest *g, struct hf_guest_info *ret_info)
{
	if (g->mode == MODE_HOLDFAST)
		session_gone(g);
	g->mode = MODE_UPSTREAM;
	g->cid = 0;
	ret_info->session = HF_GUEST_UPSTREAM;
}

static void negotiated(struct hf_guest *g, const char *body, size_t len)
{
	struct hf_guest_info info = { 0 };
	json_t *answer = json_loadb(body, len, 0, NULL);
	json_t *caps = json_object_get(
		json_object_get(answer, "Capabilities"), "GuestDefinedCapabilities");
	json_t *holdfast = json_object_get(caps, "Holdfast");
	json_int_t result = json_integer_value(json_object_get(answer, "Result"));
	json_int_t version = json_integer_value(json_object_get(answer, "Version"));
	if (!json_is_object(answer) || result != 0 || version != (json_int_t)BRG_VERSION) {
		bridge_lost(g, -EPROTO,
			"the guest refused the negotiation: result %#x, version %d: %s",
			(unsigned)result, (int)version, string_of(answer, "ErrorMessage"));
		json_decref(answer);
		return;
	}
	char *text = caps ? json_dumps(caps, JSON_COMPACT) : strdup("{}");
	if (!text || keep(&g->instance, string_of(holdfast, "Instance")) < 0) {
		free(text);
		json_decref(answer);
		bridge_lost(g, -ENOMEM, "no memory");
		return;
	}
	free(g->capabilities);
	g->capabilities = text;
	g->bridge.negotiated = true;
	if (json_is_object(holdfast))
		session_begins(g, holdfast, &info);
	else
		upstream_begins(g, &info);
	json_decref(answer);
	guest_dirty(g);
	info.instance = g->instance;
	info.cid = g->cid;
	info.capabilities = g->capabilities;
	if (g->events.negotiated)
		g->events.negotiated(g->events.ctx, &info);
}

/* --- in --- */

static void notification(struct hf_guest *g, const char *body, size_t len)
{
	json_t *n = json_loadb(body, len, 0, NULL);
	json_t *seq = json_object_get(json_object_get(n, "Holdfast"), "Seq");
	json_t *kills = json_object_get(json_object_get(n, "Holdfast"), "OomKills");
	struct hf_guest_exit e = {
		.seq = (uint64_t)json_integer_value(seq),
		.oom_kills = (uint64_t)HF_MAX(json_integer_value(kills), (json_int_t)0),
	};
	char *text = n ? json_dumps(n, JSON_COMPACT) : NULL;
	if (!text || (seq && g->mode == MODE_HOLDFAST && e.seq <= g->last_seq)) {
		if (text)
			g->seq_due = true; /* the acknowledgement was lost */
		free(text);
		json_decref(n);
		return;
	}
	e.container = string_of(n, "ContainerId");
	e.type = string_of(n, "Type");
	e.body = text;
	if (g->events.container_exit)
		g->events.container_exit(g->events.ctx, &e);
	if (seq) {
		g->last_seq = e.seq;
		g->seq_due = true;
		guest_dirty(g);
	}
	free(text);
	json_decref(n);
}

static void oom(struct hf_guest *g, const char *body, size_t len)
{
	json_t *n = json_loadb(body, len, 0, NULL);
	json_int_t kills = json_integer_value(json_object_get(n, "OomKills"));
	if (kills > 0 && g->events.oom)
		g->events.oom(g->events.ctx, string_of(n, "ContainerId"), (uint64_t)kills);
	json_decref(n);
}

static void frame_in(struct hf_guest *g, const struct brg_frame *f)
{
	if (!g->bridge.negotiated && f->type == brg_answer_type(BRG_NEGOTIATE))
		negotiated(g, f->payload, f->len);
	else if (f->type == BRG_NOTIFICATION)
		notification(g, f->payload, f->len);
	else if (f->type == BRG_OOM)
		oom(g, f->payload, f->len);
	else if (brg_kind_of(f->type) == BRG_KIND_ANSWER && g->bridge.negotiated)
		request_answered(g, f->id, f->type, f->payload, f->len);
}

static int grow(struct brg_reader *r)
{
	size_t want = brg_reader_want(r);
	uint8_t *old = r->buf, *buf = malloc(want);
	if (!buf)
		return -ENOMEM;
	brg_reader_rebase(r, buf, want);
	free(old);
	return 0;
}

/* All complete frames. A callback of one may have closed the connection. */
static void frames_in(struct hf_guest *g)
{
	struct brg_frame f;
	int k = 0;
	while (g->bridge.source.fd >= 0 && (k = brg_reader_next(&g->bridge.reader, &f)) > 0)
		frame_in(g, &f);
	if (g->bridge.source.fd < 0)
		return;
	if (k == -EBADMSG)
		bridge_lost(g, -EPROTO, "the guest sent a frame of %u bytes (allowed: %u to %u)",
			g->bridge.reader.bad_size, BRG_HEADER, g->bridge.reader.limit);
	else if (k == -ENOBUFS && grow(&g->bridge.reader) < 0)
		bridge_lost(g, -ENOMEM, "no memory for an answer");
}

void bridge_input(struct hf_guest *g)
{
	struct bridge *b = &g->bridge;
	size_t room;
	void *space = brg_reader_space(&b->reader, &room);
	ssize_t n = recv(b->source.fd, space, room, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		bridge_lost(g, -errno, "the connection was lost: %s", strerror(errno));
		return;
	}
	if (n == 0) {
		bridge_lost(g, -ECONNRESET, "the guest closed the connection");
		return;
	}
	brg_reader_filled(&b->reader, (size_t)n);
	frames_in(g);
}
