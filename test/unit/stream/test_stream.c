/* SPDX-License-Identifier: MIT */
/* One end at a time against bytes that the test writes: docs/stream.md rule by rule. */
#include "pair.h"

enum { DATA = 1, ACK, END, RESET, FIN };

static int give(struct end *e, const void *data, size_t n)
{
	return rs_input(&e->rs, data, n);
}

static void hello(uint8_t *h, uint16_t status, uint64_t taken, uint32_t window, uint32_t flags)
{
	/* received is taken here, unless a test changes it */
	rs_hello_unknown(pair_token, h);
	le16_to(h + 6, status);
	le64_to(h + 24, taken);
	le64_to(h + 32, taken);
	le32_to(h + 40, window);
	le32_to(h + 44, flags);
}

static int give_hello(
	struct end *e, uint16_t status, uint64_t taken, uint32_t window, uint32_t flags)
{
	uint8_t h[RS_HELLO_SIZE];
	hello(h, status, taken, window, flags);
	return give(e, h, sizeof(h));
}

static int give_frame(struct end *e, uint8_t type, uint8_t flags, uint32_t len, uint64_t offset)
{
	uint8_t h[RS_FRAME_SIZE] = { type, flags };
	le32_to(h + 4, len);
	le64_to(h + 8, offset);
	return give(e, h, sizeof(h));
}

static int give_data(struct end *e, uint64_t offset, const char *text)
{
	int r = give_frame(e, DATA, 0, (uint32_t)strlen(text), offset);
	return r < 0 ? r : give(e, text, strlen(text));
}

static void expect_frame(struct end *e, uint8_t type, uint8_t flags, uint32_t len, uint64_t offset)
{
	while (end_send(e, WIRE_CAP) > 0)
		;
	assert_true(e->wire_len >= RS_FRAME_SIZE);
	assert_int_equal(e->wire[0], type);
	assert_int_equal(e->wire[1], flags);
	assert_int_equal(le32_at(e->wire + 4), len);
	assert_true(le64_at(e->wire + 8) == offset);
	size_t n = RS_FRAME_SIZE + (type == DATA ? len : 0);
	e->wire_len -= n;
	memmove(e->wire, e->wire + n, e->wire_len);
}

static void expect_nothing(struct end *e)
{
	assert_int_equal(end_send(e, WIRE_CAP), 0);
	assert_int_equal(e->wire_len, 0);
}

static void expect_read(struct end *e, const char *text)
{
	struct iovec iov[2];
	char got[256];
	size_t n = 0;
	int k = rs_read(&e->rs, iov);
	for (int i = 0; i < k; i++) {
		memcpy(got + n, iov[i].iov_base, iov[i].iov_len);
		n += iov[i].iov_len;
	}
	assert_int_equal(n, strlen(text));
	assert_memory_equal(got, text, n);
}

/* An end with 16-byte windows, connected to a peer that has taken nothing and grants 16 bytes. */
static void open_end(struct end *e, bool dials)
{
	end_init(e, dials, 16, 16, 0);
	rs_attach(&e->rs);
	if (dials)
		end_send(e, WIRE_CAP);
	assert_int_equal(give_hello(e, 0, 0, 16, 0), 0);
	if (!dials)
		end_send(e, WIRE_CAP);
	assert_int_equal(e->wire_len, RS_HELLO_SIZE);
	e->wire_len = 0;
}

static void again(struct end *e)
{
	rs_detach(&e->rs);
	rs_attach(&e->rs);
	e->wire_len = 0;
}

static void test_hello_layout(void **state)
{
	(void)state;
	struct end e;
	end_init(&e, true, 16, 16, 0);
	expect_nothing(&e); /* not connected */
	rs_attach(&e.rs);
	end_send(&e, WIRE_CAP);
	uint8_t want[RS_HELLO_SIZE] = "HFS1\1\0\0\0";
	memcpy(want + 8, pair_token, RS_TOKEN_SIZE);
	want[40] = 16;
	assert_int_equal(e.wire_len, RS_HELLO_SIZE);
	assert_memory_equal(e.wire, want, RS_HELLO_SIZE);
}

static void test_accepting_end_waits_for_the_hello(void **state)
{
	(void)state;
	struct end e;
	end_init(&e, false, 16, 16, 0);
	rs_attach(&e.rs);
	expect_nothing(&e);
	give_hello(&e, 0, 0, 16, 0);
	assert_int_equal(end_send(&e, WIRE_CAP), RS_HELLO_SIZE);
}

static void test_token_of_a_first_look(void **state)
{
	(void)state;
	uint8_t h[RS_HELLO_SIZE], token[RS_TOKEN_SIZE];
	rs_hello_unknown(pair_token, h);
	for (size_t n = 0; n < RS_HELLO_SIZE; n++)
		assert_int_equal(rs_hello_token(h, n, token), -EAGAIN);
	assert_int_equal(rs_hello_token(h, RS_HELLO_SIZE, token), 0);
	assert_memory_equal(token, pair_token, RS_TOKEN_SIZE);
	h[4] = 2;
	assert_int_equal(rs_hello_token(h, RS_HELLO_SIZE, token), -EPROTO);
	h[1] = 'T';
	assert_int_equal(rs_hello_token(h, 1, token), -EAGAIN);
	assert_int_equal(rs_hello_token(h, 2, token), -EPROTO);
}

static void test_bad_hellos(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		uint8_t value;
	} bad[] = { { 0, 'G' }, { 4, 2 }, { 6, 2 }, { 8, 'x' }, { 39, 0x80 }, { 24, 1 },
		{ 44, 2 } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		struct end e;
		uint8_t h[RS_HELLO_SIZE];
		end_init(&e, true, 16, 16, 0);
		rs_attach(&e.rs);
		hello(h, 0, 0, 16, 0);
		h[bad[i].at] = bad[i].value;
		assert_int_equal(give(&e, h, sizeof(h)), -EPROTO);
		assert_int_equal(rs_state(&e.rs), RS_OPEN);
	}
}

static void test_unknown_token_is_final(void **state)
{
	(void)state;
	struct end e;
	end_init(&e, true, 16, 16, 0);
	assert_true(rs_wants_dial(&e.rs));
	rs_attach(&e.rs);
	assert_int_equal(give_hello(&e, 1, 0, 0, 0), 0);
	assert_int_equal(rs_state(&e.rs), RS_UNKNOWN);
	assert_true(rs_over(&e.rs));
	rs_detach(&e.rs);
	assert_false(rs_wants_dial(&e.rs));
	assert_int_equal(rs_write(&e.rs, "x", 1), -EPIPE);
	/* the dialling end cannot refuse */
	end_init(&e, false, 16, 16, 0);
	rs_attach(&e.rs);
	assert_int_equal(give_hello(&e, 1, 0, 0, 0), -EPROTO);
}

static void test_full_window_stops_the_writer(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	assert_int_equal(rs_write(&e.rs, "0123456789abcdefXYZ", 19), 16);
	assert_int_equal(rs_write(&e.rs, "X", 1), 0);
	expect_frame(&e, DATA, 0, 16, 0);
	assert_int_equal(rs_write(&e.rs, "X", 1), 0); /* sent is not acknowledged */
	assert_int_equal(give_frame(&e, ACK, 0, 0, 3), 0);
	assert_int_equal(rs_room(&e.rs), 3);
	assert_int_equal(rs_write(&e.rs, "XYZ!", 4), 3);
	expect_frame(&e, DATA, 0, 3, 16);
}

static void test_sender_keeps_to_the_grant(void **state)
{
	(void)state;
	struct end e;
	end_init(&e, true, 16, 16, 0);
	rs_attach(&e.rs);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	assert_int_equal(give_hello(&e, 0, 0, 5, 0), 0);
	assert_int_equal(rs_write(&e.rs, "0123456789", 10), 10);
	expect_frame(&e, DATA, 0, 5, 0);
	expect_nothing(&e);
	assert_int_equal(give_frame(&e, ACK, 0, 0, 2), 0);
	expect_frame(&e, DATA, 0, 2, 5);
}

static void test_what_arrived_stays(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	assert_int_equal(give_frame(&e, DATA, 0, 12, 0), 0);
	assert_int_equal(give(&e, "hello", 5), 0); /* and the rest is lost */
	rs_take(&e.rs, 2);
	again(&e);
	end_send(&e, WIRE_CAP);
	assert_true(le64_at(e.wire + 24) == 2);
	assert_true(le64_at(e.wire + 32) == 5);
	assert_int_equal(give_hello(&e, 0, 0, 16, 0), 0);
	assert_int_equal(give_data(&e, 5, ", world"), 0);
	expect_read(&e, "llo, world");
	assert_int_equal(give_data(&e, 11, "d"), -EPROTO);
}

static void test_sends_from_what_arrived(void **state)
{
	(void)state;
	struct end e;
	uint8_t h[RS_HELLO_SIZE];
	open_end(&e, true);
	rs_write(&e.rs, "0123456789", 10);
	assert_int_equal(end_send(&e, RS_FRAME_SIZE + 7), RS_FRAME_SIZE + 7);
	again(&e);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	hello(h, 0, 2, 16, 0);
	le64_to(h + 32, 4);
	assert_int_equal(give(&e, h, sizeof(h)), 0);
	assert_int_equal(rs_room(&e.rs), 8);
	expect_frame(&e, DATA, 0, 6, 4);
	again(&e);
	le64_to(h + 32, 11); /* never sent */
	assert_int_equal(give(&e, h, sizeof(h)), 0);
	assert_int_equal(rs_state(&e.rs), RS_GAP);
}

/* A successor without memory sends what comes after all that its predecessor got across. */
static void test_adopts_the_position(void **state)
{
	(void)state;
	struct end e;
	uint8_t h[RS_HELLO_SIZE];
	struct rs_config c = {
		.tx_adopt = true, .tx_buf = e.tx_mem, .tx_cap = 16, .rx_buf = e.rx_mem, .rx_cap = 16
	};
	memset(&e, 0, sizeof(e));
	memcpy(c.token, pair_token, RS_TOKEN_SIZE);
	assert_int_equal(rs_init(&e.rs, &c), 0);
	assert_int_equal(rs_write(&e.rs, "x", 1), 0);
	rs_attach(&e.rs);
	hello(h, 0, 1000, 16, 0);
	le64_to(h + 32, 1010);
	assert_int_equal(give(&e, h, sizeof(h)), 0);
	assert_true(rs_tx_acked(&e.rs) == 1000 && rs_tx_end(&e.rs) == 1010);
	assert_int_equal(rs_write(&e.rs, "0123456789", 10), 10);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	expect_frame(&e, DATA, 0, 6, 1010); /* the grant counts from 1000 */
	assert_int_equal(give_frame(&e, ACK, 0, 0, 1007), 0);
	expect_frame(&e, DATA, 0, 4, 1016);
	assert_int_equal(rs_room(&e.rs), 6);
	assert_int_equal(give_frame(&e, ACK, 0, 0, 1020), 0);
	assert_int_equal(rs_room(&e.rs), 16);
}

static void test_window_at_the_limit_and_one_more(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	assert_int_equal(give_data(&e, 0, "0123456789abcdef"), 0);
	open_end(&e, true);
	assert_int_equal(give_data(&e, 0, "0123456789abcdefX"), -EPROTO);
	open_end(&e, true);
	assert_int_equal(give_data(&e, 1, "gap"), -EPROTO);
	open_end(&e, true);
	assert_int_equal(give_data(&e, 0, "0123456789abcdef"), 0);
	rs_take(&e.rs, 1);
	assert_int_equal(give_data(&e, 16, "X"), 0);
	assert_int_equal(give_data(&e, 17, "X"), -EPROTO);
	assert_int_equal(rs_state(&e.rs), RS_OPEN); /* the connection ends, the stream does not */
}

static void test_bad_frames(void **state)
{
	(void)state;
	static const struct {
		uint8_t type, flags;
		uint32_t len;
		uint64_t offset;
	} bad[] = {
		{ 0, 0, 0, 0 }, { 6, 0, 0, 0 }, { 255, 0, 0, 0 }, { DATA, 0, 0, 0 },
		{ DATA, 0, RS_DATA_MAX + 1, 0 }, { DATA, 1, 1, 0 }, { DATA, 0, 1, UINT64_MAX },
		{ ACK, 2, 0, 0 }, { ACK, 0, 1, 0 }, { ACK, 0, 0, 1 }, /* never sent */
		{ ACK, 0, 0, UINT64_MAX }, { ACK, 1, 0, 0 },          /* no end was sent */
		{ END, 0, 1, 0 }, { END, 0, 0, 1 }, { END, 1, 0, 0 }, { RESET, 0, 0, 1 },
		{ FIN, 0, 0, 0 }, /* not done */
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		struct end e;
		open_end(&e, true);
		assert_int_equal(
			give_frame(&e, bad[i].type, bad[i].flags, bad[i].len, bad[i].offset),
			-EPROTO);
		assert_int_equal(rs_state(&e.rs), RS_OPEN);
	}
}

static void test_all_bytes_are_not_the_end(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	rs_write(&e.rs, "abc", 3);
	rs_end(&e.rs);
	assert_int_equal(rs_write(&e.rs, "d", 1), -EPIPE);
	expect_frame(&e, DATA, 0, 3, 0);
	expect_frame(&e, END, 0, 0, 3);
	assert_int_equal(give_frame(&e, ACK, 0, 0, 3), 0);
	again(&e);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	assert_int_equal(give_hello(&e, 0, 3, 16, 0), 0);
	expect_frame(&e, END, 0, 0, 3); /* again, on the new connection */
	expect_nothing(&e);
	assert_int_equal(give_frame(&e, ACK, 1, 0, 3), 0);
	again(&e);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	assert_int_equal(give_hello(&e, 0, 3, 16, 1), 0);
	expect_nothing(&e);
}

static void test_data_after_the_end(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	assert_int_equal(give_data(&e, 0, "abc"), 0);
	assert_int_equal(give_frame(&e, END, 0, 0, 3), 0);
	assert_false(rs_readable_end(&e.rs));
	rs_take(&e.rs, 3);
	assert_true(rs_readable_end(&e.rs));
	expect_frame(&e, ACK, 0, 0, 3);
	rs_take_end(&e.rs);
	expect_frame(&e, ACK, 1, 0, 3);
	assert_int_equal(give_data(&e, 3, "d"), -EPROTO);
}

static void test_accepting_end_answers_fin_and_forgets(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, false);
	rs_end(&e.rs);
	expect_frame(&e, END, 0, 0, 0);
	assert_int_equal(give_frame(&e, END, 0, 0, 0), 0);
	rs_take_end(&e.rs);
	assert_int_equal(give_frame(&e, FIN, 0, 0, 0), -EPROTO); /* not yet */
	again(&e);
	assert_int_equal(give_hello(&e, 0, 0, 16, 1), 0);
	assert_true(rs_done(&e.rs));
	assert_int_equal(rs_state(&e.rs), RS_OPEN);
	assert_int_equal(end_send(&e, WIRE_CAP), RS_HELLO_SIZE);
	e.wire_len = 0;
	expect_nothing(&e);
	assert_int_equal(give_frame(&e, FIN, 0, 0, 0), 0);
	assert_int_equal(rs_state(&e.rs), RS_FINISHED);
	assert_false(rs_over(&e.rs)); /* the last word is not out yet */
	expect_frame(&e, FIN, 0, 0, 0);
	assert_true(rs_over(&e.rs));
}

static void done_dialler(struct end *e)
{
	open_end(e, true);
	rs_end(&e->rs);
	expect_frame(e, END, 0, 0, 0);
	assert_int_equal(give_frame(e, END, 0, 0, 0), 0);
	rs_take_end(&e->rs);
	expect_frame(e, ACK, 1, 0, 0);
	assert_int_equal(give_frame(e, ACK, 1, 0, 0), 0);
	expect_frame(e, FIN, 0, 0, 0);
	assert_true(rs_done(&e->rs));
	assert_int_equal(rs_state(&e->rs), RS_OPEN); /* the peer may not know yet */
}

static void test_dialling_end_stays_until_the_last_word(void **state)
{
	(void)state;
	struct end e;
	done_dialler(&e);
	assert_int_equal(give_frame(&e, FIN, 0, 0, 0), 0);
	assert_int_equal(rs_state(&e.rs), RS_FINISHED);
	assert_true(rs_over(&e.rs));

	done_dialler(&e);
	rs_detach(&e.rs);
	assert_true(rs_wants_dial(&e.rs));
	rs_attach(&e.rs);
	assert_int_equal(give_hello(&e, 1, 0, 0, 0), 0); /* forgotten there: that is all right */
	assert_int_equal(rs_state(&e.rs), RS_FINISHED);
	assert_true(rs_over(&e.rs));
}

static void test_reset(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, true);
	rs_reset(&e.rs, 32);
	assert_int_equal(rs_write(&e.rs, "x", 1), -EPIPE);
	expect_frame(&e, RESET, 0, 32, 0);
	assert_false(rs_over(&e.rs)); /* may be lost */
	assert_int_equal(give_data(&e, 0, "ignored"), 0);
	again(&e);
	end_send(&e, WIRE_CAP);
	e.wire_len = 0;
	assert_int_equal(give_hello(&e, 0, 0, 16, 0), 0);
	expect_frame(&e, RESET, 0, 32, 0);
	assert_int_equal(give_frame(&e, RESET, 0, 32, 0), 0);
	assert_true(rs_over(&e.rs));

	open_end(&e, false);
	assert_int_equal(give_data(&e, 0, "last words"), 0);
	assert_int_equal(give_frame(&e, RESET, 0, 9, 0), 0);
	assert_int_equal(rs_state(&e.rs), RS_RESET);
	assert_int_equal(rs_reset_code(&e.rs), 9);
	assert_int_equal(give(&e, "garbage after the last word", 27), 0);
	expect_read(&e, "last words");
	assert_false(rs_over(&e.rs));
	expect_frame(&e, RESET, 0, 9, 0);
	assert_true(rs_over(&e.rs));
}

static void test_gap_is_not_hidden(void **state)
{
	(void)state;
	static const struct {
		uint64_t taken;
		uint32_t flags;
	} gaps[] = { { 2, 0 }, { 6, 0 }, { 5, 1 } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(gaps); i++)
		for (int dials = 0; dials < 2; dials++) {
			struct end e;
			open_end(&e, dials);
			rs_write(&e.rs, "abcde", 5);
			expect_frame(&e, DATA, 0, 5, 0);
			assert_int_equal(give_frame(&e, ACK, 0, 0, 3), 0);
			again(&e);
			assert_int_equal(give_hello(&e, 0, gaps[i].taken, 16, gaps[i].flags), 0);
			assert_int_equal(rs_state(&e.rs), RS_GAP);
			assert_int_equal(end_send(&e, WIRE_CAP), RS_HELLO_SIZE);
			e.wire_len = 0;
			expect_frame(&e, RESET, 0, RS_CODE_GAP, 0);
		}
	struct end e;
	open_end(&e, false);
	assert_int_equal(give_frame(&e, RESET, 0, RS_CODE_GAP, 0), 0);
	assert_int_equal(rs_state(&e.rs), RS_GAP);
}

static void test_unused_directions(void **state)
{
	(void)state;
	struct end a, b; /* a only writes, b only reads */
	end_init(&a, true, 16, 0, 40);
	end_init(&b, false, 0, 16, 0);
	pair_connect(&a, &b);
	for (int i = 0; i < 100; i++) {
		end_run(&a, 0);
		end_run(&b, 99);
		end_send(&a, 99);
		end_send(&b, 99);
		end_arrive(&a, &b, 99);
		end_arrive(&b, &a, 99);
	}
	assert_int_equal(b.got, 40);
	assert_true(rs_over(&a.rs) && rs_over(&b.rs));
	assert_int_equal(rs_state(&a.rs), RS_FINISHED);
	open_end(&a, true);
	end_init(&a, true, 16, 0, 40);
	rs_attach(&a.rs);
	assert_int_equal(give_hello(&a, 0, 0, 16, 0), 0);
	assert_int_equal(give_data(&a, 0, "x"), -EPROTO);
}

static void test_second_connection_displaces(void **state)
{
	(void)state;
	struct end e;
	open_end(&e, false);
	rs_write(&e.rs, "abc", 3);
	assert_int_equal(end_send(&e, 18), 18); /* in the middle of a frame, both ways */
	assert_int_equal(give_frame(&e, DATA, 0, 5, 0), 0);
	assert_int_equal(give(&e, "he", 2), 0);
	rs_attach(&e.rs);
	e.wire_len = 0;
	assert_int_equal(give_hello(&e, 0, 0, 16, 0), 0);
	assert_int_equal(end_send(&e, WIRE_CAP), RS_HELLO_SIZE);
	e.wire_len = 0;
	expect_frame(&e, DATA, 0, 3, 0);
	assert_int_equal(give_data(&e, 2, "llo"), 0);
	expect_read(&e, "hello");
}

/* A successor with its predecessor's window: whatever of it the other end has got, the rest comes.
 */
static void test_begins_with_what_was_kept(void **state)
{
	(void)state;
	for (uint64_t received = 14; received <= 17; received++) {
		struct end e;
		uint8_t h[RS_HELLO_SIZE];
		struct rs_config c = { .dials = true, .tx_buf = e.tx_mem, .tx_cap = 16 };
		memset(&e, 0, sizeof(e));
		memcpy(c.token, pair_token, RS_TOKEN_SIZE);
		memcpy(e.tx_mem + 14, "ab", 2); /* offset n at n modulo 16 */
		e.tx_mem[0] = 'c';
		c.tx_start = 14;
		c.tx_kept = 3;
		c.tx_ended = true;
		assert_int_equal(rs_init(&e.rs, &c), 0);
		rs_attach(&e.rs);
		assert_int_equal(end_send(&e, WIRE_CAP), RS_HELLO_SIZE);
		e.wire_len = 0;
		hello(h, 0, received, 16, received == 17);
		assert_int_equal(give(&e, h, sizeof(h)), 0);
		assert_int_equal(rs_state(&e.rs), RS_OPEN);
		if (received < 17) {
			uint32_t n = (uint32_t)(17 - received);
			while (end_send(&e, WIRE_CAP) > 0)
				;
			assert_int_equal(e.wire[0], DATA);
			assert_true(le64_at(e.wire + 8) == received);
			assert_memory_equal(e.wire + RS_FRAME_SIZE, &"abc"[3 - n], n);
			assert_int_equal(e.wire[RS_FRAME_SIZE + n], END);
			assert_int_equal(e.wire_len, 2 * RS_FRAME_SIZE + n);
		}
		assert_int_equal(e.rs.tx_end_acked, received == 17);
	}
}

static void test_config(void **state)
{
	(void)state;
	struct rs rs;
	uint8_t mem[16];
	struct rs_config c = { .tx_buf = mem, .tx_cap = 15 };
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.tx_cap = RS_WINDOW_MAX * 2;
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.tx_cap = 16;
	c.rx_start = UINT64_MAX;
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.rx_start = 0;
	c.tx_start = UINT64_MAX;
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.tx_start = 0;
	c.tx_kept = 17;
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.tx_kept = 0;
	c.dials = c.tx_adopt = true;
	assert_int_equal(rs_init(&rs, &c), -EINVAL);
	c.tx_adopt = false;
	assert_int_equal(rs_init(&rs, &c), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello_layout),
		cmocka_unit_test(test_begins_with_what_was_kept),
		cmocka_unit_test(test_accepting_end_waits_for_the_hello),
		cmocka_unit_test(test_token_of_a_first_look),
		cmocka_unit_test(test_bad_hellos),
		cmocka_unit_test(test_unknown_token_is_final),
		cmocka_unit_test(test_full_window_stops_the_writer),
		cmocka_unit_test(test_sender_keeps_to_the_grant),
		cmocka_unit_test(test_what_arrived_stays),
		cmocka_unit_test(test_sends_from_what_arrived),
		cmocka_unit_test(test_adopts_the_position),
		cmocka_unit_test(test_window_at_the_limit_and_one_more),
		cmocka_unit_test(test_bad_frames),
		cmocka_unit_test(test_all_bytes_are_not_the_end),
		cmocka_unit_test(test_data_after_the_end),
		cmocka_unit_test(test_accepting_end_answers_fin_and_forgets),
		cmocka_unit_test(test_dialling_end_stays_until_the_last_word),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_gap_is_not_hidden),
		cmocka_unit_test(test_unused_directions),
		cmocka_unit_test(test_second_connection_displaces),
		cmocka_unit_test(test_config),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
