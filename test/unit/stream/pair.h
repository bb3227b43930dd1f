/* SPDX-License-Identifier: MIT */
/*
 * pair.h - two ends of a stream with a link between them that loses what is on its way when it is
 * cut, and applications that write a ramp of bytes and check the one they read.
 */
#ifndef TEST_STREAM_PAIR_H
#define TEST_STREAM_PAIR_H

#include "../../lib/unit.h"
#include "base/bytes.h"
#include "stream/stream.h"
#include <errno.h>
#include <string.h>

#define WIRE_CAP 4096

struct end {
	struct rs rs;
	uint8_t tx_mem[256], rx_mem[256], spare_tx[256], spare_rx[256];
	size_t tx_cap, rx_cap;
	uint64_t to_write, written, got;
	bool ended, got_end;
	uint8_t wire[WIRE_CAP]; /* sent by this end, not yet arrived */
	size_t wire_len;
};

static const uint8_t pair_token[RS_TOKEN_SIZE] = "0123456789abcde";

/* A byte of the ramp; 251 is prime, so that no window or frame size hides a shift. */
static inline uint8_t ramp(uint64_t offset)
{
	return (uint8_t)(offset % 251);
}

static inline void end_init(struct end *e, bool dials, size_t tx_cap, size_t rx_cap, uint64_t n)
{
	memset(e, 0, sizeof(*e));
	e->tx_cap = tx_cap;
	e->rx_cap = rx_cap;
	e->to_write = n;
	struct rs_config config = { .dials = dials,
		.tx_buf = e->tx_mem,
		.tx_cap = tx_cap,
		.rx_buf = e->rx_mem,
		.rx_cap = rx_cap };
	memcpy(config.token, pair_token, RS_TOKEN_SIZE);
	assert_int_equal(rs_init(&e->rs, &config), 0);
}

/* Writes what fits, reads and checks at most `take` bytes. */
static inline bool end_run(struct end *e, size_t take)
{
	bool moved = false;
	while (e->written < e->to_write) {
		uint8_t b = ramp(e->written);
		if (rs_write(&e->rs, &b, 1) != 1)
			break;
		e->written++;
		moved = true;
	}
	if (e->written == e->to_write && !e->ended && rs_state(&e->rs) == RS_OPEN) {
		rs_end(&e->rs);
		e->ended = moved = true;
	}
	struct iovec iov[2];
	int k = rs_read(&e->rs, iov);
	for (int i = 0; i < k && take > 0; i++) {
		size_t n = HF_MIN(take, iov[i].iov_len);
		for (size_t j = 0; j < n; j++)
			assert_int_equal(((uint8_t *)iov[i].iov_base)[j], ramp(e->got + j));
		rs_take(&e->rs, n);
		e->got += n;
		take -= n;
		moved = true;
	}
	if (rs_readable_end(&e->rs)) {
		rs_take_end(&e->rs);
		e->got_end = moved = true;
	}
	return moved;
}

/* Puts at most `n` bytes of output on the wire. */
static inline size_t end_send(struct end *e, size_t n)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k = rs_output(&e->rs, iov);
	size_t sum = 0;
	for (int i = 0; i < k; i++) {
		size_t room = HF_MIN(n - sum, WIRE_CAP - e->wire_len);
		size_t part = HF_MIN(room, iov[i].iov_len);
		memcpy(e->wire + e->wire_len, iov[i].iov_base, part);
		e->wire_len += part;
		sum += part;
	}
	rs_sent(&e->rs, sum);
	return sum;
}

/* Lets at most n bytes of `from` arrive at `to`. */
static inline size_t end_arrive(struct end *to, struct end *from, size_t n)
{
	n = HF_MIN(n, from->wire_len);
	assert_int_equal(rs_input(&to->rs, from->wire, n), 0);
	from->wire_len -= n;
	memmove(from->wire, from->wire + n, from->wire_len);
	return n;
}

static inline void pair_connect(struct end *a, struct end *b)
{
	a->wire_len = b->wire_len = 0;
	rs_attach(&a->rs);
	rs_attach(&b->rs);
}

static inline void pair_cut(struct end *a, struct end *b)
{
	a->wire_len = b->wire_len = 0;
	rs_detach(&a->rs);
	rs_detach(&b->rs);
}

/* Moves an end into other memory through its record. */
static inline void end_move(struct end *e)
{
	uint8_t record[1024];
	ssize_t n = rs_save(&e->rs, record, sizeof(record));
	assert_int_equal(n, rs_save_size(&e->rs));
	bool spare = e->rs.tx.buf == e->tx_mem;
	memset(&e->rs, 0xee, sizeof(e->rs));
	memset(spare ? e->tx_mem : e->spare_tx, 0xee, sizeof(e->tx_mem));
	memset(spare ? e->rx_mem : e->spare_rx, 0xee, sizeof(e->rx_mem));
	assert_int_equal(rs_load(&e->rs, record, (size_t)n, spare ? e->spare_tx : e->tx_mem,
				 e->tx_cap, spare ? e->spare_rx : e->rx_mem, e->rx_cap),
		0);
}

#endif
