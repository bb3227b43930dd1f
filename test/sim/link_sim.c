/* SPDX-License-Identifier: MIT */
/*
 * Two ends of a link with streams that either end dials, cut at every byte. After a cut nothing of
 * what was under way arrives; the ends bind their streams to a new connection, and every byte and
 * every end must come once and in order.
 */
#include "../lib/unit.h"
#include "stream/mux.h"
#include <errno.h>
#include <string.h>

enum { STREAMS = 5, CAP = 64, WIRE = 1 << 17, ROUNDS_MAX = 4000 };

struct flow {
	struct rs_chan chan;
	uint8_t tx[CAP], rx[CAP];
	uint64_t to_write, written, got;
	bool got_end, over, asks;
};

struct end {
	struct rs_mux mux;
	struct flow flow[STREAMS];
	uint8_t wire[WIRE]; /* sent by this end, has not arrived */
	size_t wire_len;
	size_t asked;
};

static struct end ends[2];
static const uint8_t names[2][RS_TOKEN_SIZE] = { "this end", "that end" };
static const uint8_t wish[] = "the guest of that host, please";

static uint8_t ramp(uint64_t at, int stream)
{
	return (uint8_t)((at + (uint64_t)stream * 17) % 251);
}

static void token_of(int i, uint8_t *ret)
{
	memset(ret, 0, RS_TOKEN_SIZE);
	ret[0] = (uint8_t)(i + 1);
}

/* Stream i is dialled by end i % 2. */
static void flows_init(uint64_t bytes)
{
	for (int e = 0; e < 2; e++)
		for (int i = 0; i < STREAMS; i++) {
			struct flow *f = &ends[e].flow[i];
			*f = (struct flow){ .to_write = bytes + (uint64_t)i, .asks = i % 3 == 0 };
			struct rs_config c = { .dials = i % 2 == e,
				.tx_buf = f->tx,
				.tx_cap = CAP,
				.rx_buf = f->rx,
				.rx_cap = CAP };
			token_of(i, c.token);
			assert_int_equal(rs_init(&f->chan.rs, &c), 0);
			if (f->asks && c.dials) {
				f->chan.ask = wish;
				f->chan.ask_len = sizeof(wish);
			}
		}
}

static void connect_ends(void)
{
	for (int e = 0; e < 2; e++) {
		struct rs_chan *c;
		while ((c = rs_mux_any(&ends[e].mux)))
			rs_mux_unbind(&ends[e].mux, c);
		rs_mux_init(&ends[e].mux, e == 0, names[e]);
		ends[e].wire_len = 0;
		for (int i = 0; i < STREAMS; i++)
			if (i % 2 == e && rs_wants_dial(&ends[e].flow[i].chan.rs))
				assert_int_equal(
					rs_mux_open(&ends[e].mux, &ends[e].flow[i].chan), 0);
	}
}

static bool flow_run(struct end *e, int i)
{
	struct flow *f = &e->flow[i];
	struct iovec iov[2];
	struct rs *rs = &f->chan.rs;
	bool moved = false;
	while (rs_state(rs) == RS_OPEN && f->written < f->to_write) {
		uint8_t b = ramp(f->written, i);
		if (rs_write(rs, &b, 1) != 1)
			break;
		f->written++;
		moved = true;
	}
	if (f->written == f->to_write)
		rs_end(rs);
	int k = rs_read(rs, iov);
	for (int j = 0; j < k; j++) {
		for (size_t n = 0; n < iov[j].iov_len; n++)
			assert_int_equal(((uint8_t *)iov[j].iov_base)[n], ramp(f->got++, i));
		rs_take(rs, iov[j].iov_len);
		moved = true;
	}
	if (rs_readable_end(rs)) {
		rs_take_end(rs);
		f->got_end = moved = true;
	}
	rs_mux_wake(&e->mux, &f->chan);
	if (rs_over(rs) && !f->over) {
		assert_int_equal(rs_state(rs), RS_FINISHED);
		rs_mux_unbind(&e->mux, &f->chan);
		f->over = moved = true;
	}
	return moved;
}

static void on_hello(struct end *e, const struct rs_mux_ev *ev)
{
	int i = ev->token[0] - 1;
	assert_in_range(i, 0, STREAMS - 1);
	struct flow *f = &e->flow[i];
	if (f->over) { /* forgotten */
		rs_mux_refuse(&e->mux, ev->id, ev->token);
		return;
	}
	rs_mux_unbind(&e->mux, &f->chan);
	assert_int_equal(rs_mux_accept(&e->mux, &f->chan, ev->id), 0);
}

/* What has been sent to this end arrives, in pieces of `step` bytes. */
static void receive(struct end *e, struct end *from, size_t step)
{
	size_t at = 0;
	while (at < from->wire_len) {
		struct rs_mux_ev ev;
		ssize_t k = rs_mux_input(
			&e->mux, from->wire + at, HF_MIN(step, from->wire_len - at), &ev);
		assert_true(k >= 0);
		if (k == 0)
			break; /* refusals wait */
		at += (size_t)k;
		if (ev.kind == RS_MUX_HELLO)
			on_hello(e, &ev);
		if (ev.kind == RS_MUX_ASK) {
			assert_int_equal(ev.ask_len, sizeof(wish));
			assert_memory_equal(ev.ask, wish, sizeof(wish));
			e->asked++;
		}
	}
	memmove(from->wire, from->wire + at, from->wire_len - at);
	from->wire_len -= at;
}

/* Sends at most `room` bytes. */
static size_t transmit(struct end *e, size_t room, size_t step)
{
	size_t sent = 0;
	while (sent < room) {
		struct iovec iov[RS_MUX_OUTPUT_IOV];
		size_t n = 0, want = HF_MIN(step, room - sent);
		int k = rs_mux_output(&e->mux, iov);
		if (k == 0)
			break;
		for (int i = 0; i < k && n < want; i++) {
			size_t part = HF_MIN(iov[i].iov_len, want - n);
			assert_true(e->wire_len + part <= WIRE);
			memcpy(e->wire + e->wire_len, iov[i].iov_base, part);
			e->wire_len += part;
			n += part;
		}
		rs_mux_sent(&e->mux, n);
		sent += n;
	}
	return sent;
}

static bool all_over(void)
{
	for (int e = 0; e < 2; e++)
		for (int i = 0; i < STREAMS; i++)
			if (!ends[e].flow[i].over)
				return false;
	return true;
}

/* Runs to the end; the connection breaks when either end has sent `cut` bytes on it. Returns the
 * longest that a connection got. */
static size_t play(uint64_t bytes, size_t cut, size_t step)
{
	size_t sent[2] = { 0 }, longest = 0;
	memset(ends, 0, sizeof(ends));
	flows_init(bytes);
	connect_ends();
	for (int round = 0; !all_over(); round++) {
		assert_true(round < ROUNDS_MAX);
		for (int e = 0; e < 2; e++) {
			for (int i = 0; i < STREAMS; i++)
				(void)flow_run(&ends[e], i);
			sent[e] += transmit(&ends[e], cut - sent[e], step);
			longest = HF_MAX(longest, sent[e]);
		}
		for (int e = 0; e < 2; e++)
			receive(&ends[e], &ends[!e], step);
		if (sent[0] == cut || sent[1] == cut) {
			/* A connection that never gets anywhere is followed by one that does. */
			cut = HF_MAX(2 * cut, 1024ul);
			connect_ends();
			sent[0] = sent[1] = 0;
		}
	}
	for (int e = 0; e < 2; e++)
		for (int i = 0; i < STREAMS; i++) {
			struct flow *f = &ends[e].flow[i];
			assert_int_equal(f->got, f->to_write);
			assert_true(f->got_end);
		}
	return longest;
}

static void without_a_cut(void **state)
{
	(void)state;
	(void)play(1000, SIZE_MAX / 4, 64);
	assert_int_equal(ends[1].asked, 1); /* streams 0 and 3 ask, one each way */
	assert_int_equal(ends[0].asked, 1);
}

static void cut_at_every_byte(void **state)
{
	(void)state;
	static const size_t steps[] = { 1, 7, 4096 };
	for (size_t s = 0; s < HF_ARRAY_SIZE(steps); s++) {
		size_t all = play(100, SIZE_MAX / 4, steps[s]);
		assert_true(all > 1000);
		for (size_t cut = 1; cut <= all; cut++)
			(void)play(100, cut, steps[s]);
	}
}

/* A stream that leaves its connection in the middle of a frame comes back on the same one. */
static void left_and_bound_again(void **state)
{
	(void)state;
	memset(ends, 0, sizeof(ends));
	flows_init(500);
	connect_ends();
	unsigned dice = 1;
	for (int round = 0; !all_over(); round++) {
		assert_true(round < ROUNDS_MAX);
		for (int e = 0; e < 2; e++) {
			for (int i = 0; i < STREAMS; i++)
				(void)flow_run(&ends[e], i);
			dice = dice * 1103515245 + 12345;
			(void)transmit(&ends[e], (dice >> 16) % 200 + 1, 64);
			int i = (int)((dice >> 8) % STREAMS);
			struct flow *f = &ends[e].flow[i];
			if (i % 2 == e && !f->over && round % 3 == 0) {
				rs_mux_unbind(&ends[e].mux, &f->chan);
				assert_int_equal(rs_mux_open(&ends[e].mux, &f->chan), 0);
			}
		}
		for (int e = 0; e < 2; e++)
			receive(&ends[e], &ends[!e], 33);
	}
}

/* Bytes that are no link's, and frames that no end may send. */
static void refuses_what_is_wrong(void **state)
{
	(void)state;
	static const struct {
		uint8_t bytes[40];
		size_t n;
	} bad[] = {
		{ "GET / HTTP/1.1", 14 },
		{ "HFL1\x02\x00", 24 },                  /* version 2 */
		{ "HFL1\x01\x00\x00\x00................" /* channel 0 */
		  "\x00\x00\x00\x00\x10\x00\x00\x01",
			32 },
		{ "HFL1\x01\x00\x00\x00................" /* empty */
		  "\x02\x00\x00\x00\x00\x00\x00\x01",
			32 },
		{ "HFL1\x01\x00\x00\x00................" /* kind 9 */
		  "\x02\x00\x00\x00\x10\x00\x00\x09",
			32 },
		{ "HFL1\x01\x00\x00\x00................" /* too long */
		  "\x02\x00\x00\x00\x31\x00\x01\x01",
			32 },
		{ "HFL1\x01\x00\x00\x00................" /* asks for more */
		  "\x02\x00\x00\x00\x81\x01\x00\x02",
			32 },
		{ "HFL1\x01\x00\x00\x00................" /* asks on ours */
		  "\x01\x00\x00\x00\x10\x00\x00\x02",
			32 },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		static struct rs_mux m;
		struct rs_mux_ev ev;
		ssize_t k = 0;
		rs_mux_init(&m, true, names[0]);
		for (size_t at = 0; at < bad[i].n && k >= 0; at += (size_t)HF_MAX(k, 0))
			k = rs_mux_input(&m, bad[i].bytes + at, bad[i].n - at, &ev);
		if (k != -EPROTO)
			fail_msg("input %zu was taken", i);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_cut),
		cmocka_unit_test(cut_at_every_byte),
		cmocka_unit_test(left_and_bound_again),
		cmocka_unit_test(refuses_what_is_wrong),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
