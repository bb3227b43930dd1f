/* SPDX-License-Identifier: MIT */
/*
 * mux.c - streams on one connection (docs/link.md).
 *
 * Each end sends a hello, then frames: a head (channel, length, kind) and that many bytes. A frame
 * of a stream holds what one rs_output() gave, whole, so its first byte begins a hello or a frame
 * of the stream; by that a dial is told from what is still under way for a channel that was left.
 *
 * Channels that the end which made the connection dials are odd, the others even; a number is used
 * once. Frames on a channel that nobody knows are stepped over, but for a dial of the peer's.
 *
 * Output. `out` goes first, then out_left bytes of out_chan's stream. A channel that is unbound in
 * the middle of its frame leaves the rest in `tail`: the peer was promised those bytes, and the
 * stream counts them as sent.
 */
#include "mux.h"
#include "base/bytes.h"
#include <errno.h>

enum { KIND_STREAM = 1, KIND_ASK };
#define LEN_MAX 0xffffffu

static const uint8_t magic[4] = { 'H', 'F', 'L', '1' };

void rs_mux_init(struct rs_mux *m, bool dials, const uint8_t self[RS_TOKEN_SIZE])
{
	memset(m, 0, offsetof(struct rs_mux, out));
	m->dials = dials;
	m->next_id = dials ? 1 : 2;
	memcpy(m->self, self, RS_TOKEN_SIZE);
	hf_list_init(&m->ready);
	m->out_len = m->out_pos = m->out_left = m->tail_len = m->tail_pos = 0;
	m->out_chan = NULL;
	m->n_refusals = 0;
}

/* --- channels --- */

static struct rs_chan **bucket_of(struct rs_mux *m, uint32_t id)
{
	return &m->bucket[id / 2 % RS_MUX_BUCKETS];
}

static struct rs_chan *find(struct rs_mux *m, uint32_t id)
{
	struct rs_chan *c = *bucket_of(m, id);
	while (c && c->id != id)
		c = c->next;
	return c;
}

static void bind_chan(struct rs_mux *m, struct rs_chan *c, uint32_t id)
{
	hf_assert(c->id == 0);
	c->id = id;
	c->next = *bucket_of(m, id);
	*bucket_of(m, id) = c;
	hf_list_init(&c->ready);
	c->queued = c->ask_out = false;
	m->n_chans++;
	rs_attach(&c->rs);
}

static void queue(struct rs_mux *m, struct rs_chan *c)
{
	if (c->queued)
		return;
	c->queued = true;
	hf_list_append(&m->ready, &c->ready);
}

void rs_mux_wake(struct rs_mux *m, struct rs_chan *c)
{
	if (c->id != 0 && m->out_chan != c && rs_urgent(&c->rs))
		queue(m, c);
}

int rs_mux_open(struct rs_mux *m, struct rs_chan *c)
{
	if (m->next_id > UINT32_MAX - 2)
		return -EMFILE;
	bind_chan(m, c, m->next_id);
	m->next_id += 2;
	rs_mux_wake(m, c);
	return 0;
}

int rs_mux_accept(struct rs_mux *m, struct rs_chan *c, uint32_t id)
{
	hf_assert(m->in_stalled);
	m->in_stalled = false;
	bind_chan(m, c, id);
	int r = rs_input(&c->rs, m->in, RS_HELLO_SIZE);
	m->in_len = 0;
	rs_mux_wake(m, c);
	return r;
}

void rs_mux_refuse(struct rs_mux *m, uint32_t id, const uint8_t token[RS_TOKEN_SIZE])
{
	hf_assert(m->in_stalled && m->n_refusals < RS_MUX_REFUSALS_MAX);
	m->in_stalled = false;
	m->in_len = 0;
	m->refusal[m->n_refusals].id = id;
	memcpy(m->refusal[m->n_refusals++].token, token, RS_TOKEN_SIZE);
}

static void keep_tail(struct rs_mux *m)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k = rs_output(&m->out_chan->rs, iov);
	m->tail_len = m->tail_pos = 0;
	for (int i = 0; i < k; i++) {
		memcpy(m->tail + m->tail_len, iov[i].iov_base, iov[i].iov_len);
		m->tail_len += (uint32_t)iov[i].iov_len;
	}
	hf_assert(m->tail_len == m->out_left);
	rs_sent(&m->out_chan->rs, m->tail_len);
	m->out_chan = NULL;
}

void rs_mux_unbind(struct rs_mux *m, struct rs_chan *c)
{
	if (c->id == 0)
		return;
	if (m->out_chan == c)
		keep_tail(m);
	struct rs_chan **p = bucket_of(m, c->id);
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	hf_list_remove(&c->ready);
	c->queued = false;
	c->id = 0;
	m->n_chans--;
	rs_detach(&c->rs);
}

struct rs_chan *rs_mux_any(const struct rs_mux *m)
{
	for (size_t i = 0; m->n_chans > 0 && i < RS_MUX_BUCKETS; i++)
		if (m->bucket[i])
			return m->bucket[i];
	return NULL;
}

/* --- input --- */

/* Collects up to `need` bytes; returns how many it took. */
static size_t collect(struct rs_mux *m, const uint8_t *p, size_t n, size_t need)
{
	size_t k = HF_MIN(n, need - m->in_len);
	memcpy(m->in + m->in_len, p, k);
	m->in_len += (uint32_t)k;
	return k;
}

static int input_hello(struct rs_mux *m)
{
	const uint8_t *h = m->in;
	m->in_len = 0;
	if (memcmp(h, magic, sizeof(magic)) != 0 || le16_at(h + 4) != RS_MUX_VERSION ||
		le16_at(h + 6) != 0)
		return -EPROTO;
	memcpy(m->peer, h + 8, RS_TOKEN_SIZE);
	m->hello_in = true;
	return 0;
}

/* Would this end have given the channel its number? */
static bool is_ours(const struct rs_mux *m, uint32_t id)
{
	return (id & 1) == (m->dials ? 1 : 0);
}

static int input_head(struct rs_mux *m)
{
	uint32_t id = le32_at(m->in), word = le32_at(m->in + 4);
	m->in_len = 0;
	m->in_id = id;
	m->in_left = word & LEN_MAX;
	m->in_kind = (uint8_t)(word >> 24);
	m->in_body = true;
	if (id == 0 || m->in_left == 0)
		return -EPROTO;
	switch (m->in_kind) {
	case KIND_STREAM:
		/* What may be a dial is looked at whole. */
		m->in_collect = m->in_left == RS_HELLO_SIZE && !is_ours(m, id) && !find(m, id);
		return m->in_left <= RS_MUX_FRAME_MAX ? 0 : -EPROTO;
	case KIND_ASK:
		m->in_collect = true;
		return m->in_left <= RS_MUX_ASK_MAX && !is_ours(m, id) && !find(m, id) ? 0
										       : -EPROTO;
	}
	return -EPROTO;
}

/* A body that was collected is complete. */
static void input_collected(struct rs_mux *m, struct rs_mux_ev *ev)
{
	m->in_body = m->in_collect = false;
	if (m->in_kind == KIND_ASK) {
		*ev = (struct rs_mux_ev){
			.kind = RS_MUX_ASK, .id = m->in_id, .ask = m->in, .ask_len = m->in_len
		};
		m->in_len = 0;
	} else if (rs_hello_token(m->in, m->in_len, ev->token) == 0) {
		ev->kind = RS_MUX_HELLO;
		ev->id = m->in_id;
		m->in_stalled = true;
	} else {
		m->in_len = 0; /* under way when the channel was left */
	}
}

static ssize_t input_stream(struct rs_mux *m, const uint8_t *p, size_t n, struct rs_mux_ev *ev)
{
	size_t k = HF_MIN(n, m->in_left);
	struct rs_chan *c = find(m, m->in_id);
	m->in_left -= (uint32_t)k;
	m->in_body = m->in_left > 0;
	if (!c)
		return (ssize_t)k;
	ev->kind = RS_MUX_INPUT;
	ev->chan = c;
	int r = rs_input(&c->rs, p, k);
	rs_mux_wake(m, c);
	return r < 0 ? r : (ssize_t)k;
}

ssize_t rs_mux_input(struct rs_mux *m, const void *data, size_t n, struct rs_mux_ev *ev)
{
	const uint8_t *p = data;
	size_t k;
	int r = 0;
	ev->kind = RS_MUX_NONE;
	if (m->in_stalled || m->n_refusals == RS_MUX_REFUSALS_MAX)
		return 0;
	if (!m->hello_in) {
		k = collect(m, p, n, RS_MUX_HELLO_SIZE);
		if (memcmp(m->in, magic, HF_MIN(m->in_len, sizeof(magic))) != 0)
			return -EPROTO;
		if (m->in_len == RS_MUX_HELLO_SIZE)
			r = input_hello(m);
	} else if (!m->in_body) {
		k = collect(m, p, n, RS_MUX_HEAD_SIZE);
		if (m->in_len == RS_MUX_HEAD_SIZE)
			r = input_head(m);
	} else if (m->in_collect) {
		k = collect(m, p, n, m->in_left);
		if (m->in_len == m->in_left)
			input_collected(m, ev);
	} else {
		return input_stream(m, p, n, ev);
	}
	return r < 0 ? r : (ssize_t)k;
}

/* --- output --- */

static void put_head(struct rs_mux *m, uint32_t id, uint8_t kind, size_t len)
{
	le32_to(m->out, id);
	le32_to(m->out + 4, (uint32_t)len | (uint32_t)kind << 24);
	m->out_len = RS_MUX_HEAD_SIZE;
	m->out_pos = 0;
}

static void put_hello(struct rs_mux *m)
{
	memcpy(m->out, magic, sizeof(magic));
	le16_to(m->out + 4, RS_MUX_VERSION);
	le16_to(m->out + 6, 0);
	memcpy(m->out + 8, m->self, RS_TOKEN_SIZE);
	m->out_len = RS_MUX_HELLO_SIZE;
	m->out_pos = 0;
	m->hello_out = true;
}

static void put_refusal(struct rs_mux *m)
{
	size_t i = --m->n_refusals;
	put_head(m, m->refusal[i].id, KIND_STREAM, RS_HELLO_SIZE);
	rs_hello_unknown(m->refusal[i].token, m->out + m->out_len);
	m->out_len += RS_HELLO_SIZE;
}

/* The next frame of a channel whose turn it is. */
static void put_frame(struct rs_mux *m)
{
	struct iovec iov[RS_OUTPUT_IOV];
	while (m->out_left == 0 && m->out_pos == m->out_len && !hf_list_empty(&m->ready)) {
		struct rs_chan *c = HF_CONTAINER_OF(m->ready.next, struct rs_chan, ready);
		if (c->ask && !c->ask_out) { /* it keeps its place */
			hf_assert(c->ask_len > 0 && c->ask_len <= RS_MUX_ASK_MAX);
			put_head(m, c->id, KIND_ASK, c->ask_len);
			memcpy(m->out + m->out_len, c->ask, c->ask_len);
			m->out_len += c->ask_len;
			c->ask_out = true;
			return;
		}
		hf_list_remove(&c->ready);
		c->queued = false;
		int k = rs_output(&c->rs, iov);
		uint32_t len = 0;
		for (int i = 0; i < k; i++)
			len += (uint32_t)iov[i].iov_len;
		if (len == 0)
			continue;
		put_head(m, c->id, KIND_STREAM, len);
		m->out_chan = c;
		m->out_left = len;
	}
}

int rs_mux_output(struct rs_mux *m, struct iovec iov[RS_MUX_OUTPUT_IOV])
{
	int k = 0;
	bool idle = m->out_pos == m->out_len && m->tail_pos == m->tail_len && m->out_left == 0;
	if (idle && !m->hello_out)
		put_hello(m);
	else if (idle && m->n_refusals > 0)
		put_refusal(m);
	else if (idle && m->hello_in)
		put_frame(m);
	if (m->out_pos < m->out_len)
		iov[k++] = (struct iovec){ m->out + m->out_pos, m->out_len - m->out_pos };
	if (m->tail_pos < m->tail_len)
		iov[k++] = (struct iovec){ m->tail + m->tail_pos, m->tail_len - m->tail_pos };
	return m->out_chan ? k + rs_output(&m->out_chan->rs, iov + k) : k;
}

struct rs_chan *rs_mux_sent(struct rs_mux *m, size_t n)
{
	size_t k = HF_MIN(n, m->out_len - m->out_pos);
	m->out_pos += (uint32_t)k;
	n -= k;
	k = HF_MIN(n, m->tail_len - m->tail_pos);
	m->tail_pos += (uint32_t)k;
	m->out_left -= m->out_chan ? 0 : (uint32_t)k;
	n -= k;
	if (!m->out_chan)
		return NULL;
	struct rs_chan *c = m->out_chan;
	hf_assert(n <= m->out_left);
	rs_sent(&c->rs, n);
	m->out_left -= (uint32_t)n;
	if (m->out_left > 0)
		return NULL;
	m->out_chan = NULL;
	rs_mux_wake(m, c);
	return c;
}
