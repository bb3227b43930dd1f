/* SPDX-License-Identifier: MIT */
/*
 * record.c - a stream as a record of bytes, and back.
 *
 * The record is a list of little-endian integers in the order of the fields() function, which both
 * directions walk, followed by the contents of the two windows. A record may come from a file
 * or another host: it is checked against every invariant of struct rs before anything is changed.
 */
#include "base/bytes.h"
#include "stream.h"
#include "stream_internal.h"
#include <errno.h>

#define RECORD_MAGIC   0x52534648u /* "HFSR" */
#define RECORD_VERSION 1u
#define RECORD_FIXED   208u

/* Writes to `out`, or reads from `in`, at the same positions. */
struct walk {
	uint8_t *out;
	const uint8_t *in;
	size_t pos;
};

static void walk_bytes(struct walk *w, void *v, size_t n)
{
	if (w->out)
		memcpy(w->out + w->pos, v, n);
	else
		memcpy(v, w->in + w->pos, n);
	w->pos += n;
}

static void walk_u32(struct walk *w, uint32_t *v)
{
	if (w->out)
		le32_to(w->out + w->pos, *v);
	else
		*v = le32_at(w->in + w->pos);
	w->pos += 4;
}

static void walk_u64(struct walk *w, uint64_t *v)
{
	if (w->out)
		le64_to(w->out + w->pos, *v);
	else
		*v = le64_at(w->in + w->pos);
	w->pos += 8;
}

static void walk_flag(const struct walk *w, uint32_t *flags, unsigned bit, bool *v)
{
	if (w->out)
		*flags |= (uint32_t)*v << bit;
	else
		*v = *flags >> bit & 1;
}

/* The flags in their order; calling it with `out` collects them, with `in` spreads them. */
static void walk_flags(struct walk *w, struct rs *rs)
{
	bool *const all[] = { &rs->dials, &rs->tx_adopt, &rs->tx_ended, &rs->tx_end_sent,
		&rs->tx_end_acked, &rs->rx_ended, &rs->rx_end_taken, &rs->attached, &rs->hello_in,
		&rs->hello_out, &rs->end_out, &rs->bye_in, &rs->bye_out, &rs->rx_end_acked };
	uint32_t flags = 0;
	if (!w->out)
		flags = le32_at(w->in + w->pos);
	for (unsigned i = 0; i < HF_ARRAY_SIZE(all); i++)
		walk_flag(w, &flags, i, all[i]);
	walk_u32(w, &flags);
}

struct sizes {
	uint32_t magic, version, state, rx_cap, tx_len, rx_len;
};

static void fields(struct walk *w, struct rs *rs, struct sizes *s)
{
	walk_u32(w, &s->magic);
	walk_u32(w, &s->version);
	walk_u32(w, &s->state);
	walk_flags(w, rs);
	walk_bytes(w, rs->token, sizeof(rs->token));
	walk_u32(w, &rs->reset_code);
	walk_u32(w, &rs->tx_window);
	walk_u64(w, &rs->tx_base);
	walk_u64(w, &rs->tx_acked);
	walk_u64(w, &rs->tx_next);
	walk_u64(w, &rs->rx_taken);
	walk_u64(w, &rs->rx_acked);
	walk_u32(w, &rs->in_len);
	walk_u32(w, &rs->in_data);
	walk_u32(w, &rs->out_len);
	walk_u32(w, &rs->out_pos);
	walk_u32(w, &rs->out_data);
	walk_u32(w, &s->rx_cap);
	walk_u32(w, &s->tx_len);
	walk_u32(w, &s->rx_len);
	walk_bytes(w, rs->in, sizeof(rs->in));
	walk_bytes(w, rs->out, sizeof(rs->out));
	hf_assert(w->pos == RECORD_FIXED);
}

size_t rs_save_size(const struct rs *rs)
{
	return RECORD_FIXED + hf_ring_len(&rs->tx) + hf_ring_len(&rs->rx);
}

ssize_t rs_save(const struct rs *rs, void *record, size_t cap)
{
	size_t size = rs_save_size(rs);
	if (cap < size)
		return -ENOSPC;
	struct rs copy = *rs; /* the walk reads only, but through pointers that could write */
	struct sizes s = {
		.magic = RECORD_MAGIC,
		.version = RECORD_VERSION,
		.state = (uint32_t)rs->state,
		.rx_cap = (uint32_t)rs->rx.cap,
		.tx_len = (uint32_t)hf_ring_len(&rs->tx),
		.rx_len = (uint32_t)hf_ring_len(&rs->rx),
	};
	struct walk w = { .out = record };
	memset(record, 0, RECORD_FIXED);
	fields(&w, &copy, &s);
	(void)hf_ring_peek(&rs->tx, 0, w.out + w.pos, s.tx_len); /* the length is exact */
	(void)hf_ring_peek(&rs->rx, 0, w.out + w.pos + s.tx_len, s.rx_len);
	return (ssize_t)size;
}

/* --- the checks of a load, by part of struct rs --- */

static bool send_window_ok(const struct rs *rs, const struct sizes *s)
{
	uint64_t end = rs->tx_base + s->tx_len;
	if (rs->tx_base > RS_OFFSET_MAX || s->tx_len > RS_WINDOW_MAX || rs->tx_acked > rs->tx_base)
		return false;
	if (rs->tx_next < rs->tx_base || rs->tx_next > end)
		return false;
	if (rs->tx_adopt && (rs->dials || s->tx_len > 0 || rs->tx_end_sent || rs->tx_end_acked))
		return false;
	if (rs->tx_end_acked && !(rs->tx_end_sent && rs->tx_acked == end))
		return false;
	return !rs->tx_end_sent || rs->tx_ended;
}

static bool receive_window_ok(const struct rs *rs, const struct sizes *s)
{
	if (rs->rx_taken > RS_OFFSET_MAX || s->rx_len > s->rx_cap || s->rx_cap > RS_WINDOW_MAX ||
		(s->rx_cap & (s->rx_cap - 1)) != 0)
		return false;
	return !rs->rx_end_taken || (rs->rx_ended && s->rx_len == 0);
}

static bool connection_ok(const struct rs *rs, const struct sizes *s)
{
	if (!rs->attached)
		return !rs->hello_in && !rs->hello_out && !rs->end_out && rs->in_len == 0 &&
		       rs->in_data == 0 && rs->out_len == 0 && rs->out_pos == 0 &&
		       rs->out_data == 0;
	if (rs->in_len >= (rs->hello_in ? RS_FRAME_SIZE : RS_HELLO_SIZE))
		return false;
	if (rs->in_data > 0) {
		bool fits = rs->in_data <= s->rx_cap - s->rx_len && !rs->rx_ended;
		if (!rs->hello_in || rs->in_len > 0 || rs->in_data > RS_DATA_MAX)
			return false;
		if (s->state == RS_OPEN && !fits)
			return false;
	}
	if (rs->out_len > RS_HELLO_SIZE || rs->out_pos > rs->out_len || rs->out_data > RS_DATA_MAX)
		return false;
	return rs->tx_next + rs->out_data <= rs->tx_base + s->tx_len;
}

int rs_load(struct rs *rs, const void *record, size_t n, void *tx_buf, size_t tx_cap, void *rx_buf,
	size_t rx_cap)
{
	struct rs new = { 0 };
	struct sizes s = { 0 };
	struct walk w = { .in = record };
	if (n < RECORD_FIXED)
		return -EBADMSG;
	fields(&w, &new, &s);
	if (s.magic != RECORD_MAGIC || s.version != RECORD_VERSION || s.state >= RS_N_STATES ||
		!send_window_ok(&new, &s) || !receive_window_ok(&new, &s) ||
		!connection_ok(&new, &s) || n - RECORD_FIXED != (size_t)s.tx_len + s.rx_len)
		return -EBADMSG;
	if (tx_cap < s.tx_len || rx_cap < s.rx_cap)
		return -ENOSPC;
	new.state = (enum rs_state)s.state;
	hf_ring_init(&new.tx, tx_buf, tx_cap);
	hf_ring_init(&new.rx, rx_buf, rx_cap);
	(void)hf_ring_put(&new.tx, w.in + w.pos, s.tx_len); /* both fit: checked above */
	(void)hf_ring_put(&new.rx, w.in + w.pos + s.tx_len, s.rx_len);
	*rs = new;
	return 0;
}
