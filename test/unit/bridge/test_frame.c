/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/bytes.h"
#include "bridge/frame.h"
#include "bridge/mux.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <string.h>

#define LIMIT 64u

static void feed(struct brg_reader *r, const void *data, size_t n)
{
	size_t room;
	void *p = brg_reader_space(r, &room);
	assert_true(n <= room);
	memcpy(p, data, n);
	brg_reader_filled(r, n);
}

static size_t make(uint8_t *buf, uint32_t type, uint64_t id, const char *payload)
{
	size_t n = strlen(payload);
	brg_header_write(buf, type, id, (uint32_t)n);
	memcpy(buf + BRG_HEADER, payload, n);
	return n + BRG_HEADER;
}

/* gcs-protocol 1: little-endian type, total size, id. */
static void test_header_bytes(void **state)
{
	(void)state;
	uint8_t buf[BRG_HEADER];
	brg_header_write(buf, BRG_WAIT_FOR_PROCESS, 0x0102030405060708, 3);
	const uint8_t expected[] = { 0x01, 0x06, 0x10, 0x10, 19, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1 };
	assert_memory_equal(buf, expected, sizeof(expected));
	assert_int_equal(brg_answer_type(BRG_CREATE), 0x20100101);
	assert_int_equal(brg_answer_type(0xdeadbeef), 0x2eadbeef);
	assert_int_equal(brg_kind_of(BRG_NOTIFICATION), BRG_KIND_NOTIFICATION);
}

/* Two frames, cut at every byte: the same two frames come out. */
static void test_cut_at_every_byte(void **state)
{
	(void)state;
	uint8_t wire[128], mem[LIMIT];
	size_t first = make(wire, 1, 10, "{}");
	size_t all = first + make(wire + first, 2, 11, "");
	for (size_t cut = 0; cut <= all; cut++) {
		struct brg_reader r;
		struct brg_frame f;
		int seen = 0;
		brg_reader_init(&r, mem, sizeof(mem), LIMIT);
		for (int part = 0; part < 2; part++) {
			feed(&r, wire + (part ? cut : 0), part ? all - cut : cut);
			while (brg_reader_next(&r, &f) == 1) {
				assert_int_equal(f.type, seen + 1);
				assert_int_equal(f.id, 10 + seen);
				assert_int_equal(f.len, seen ? 0 : 2);
				seen++;
			}
		}
		assert_int_equal(seen, 2);
		assert_int_equal(brg_reader_next(&r, &f), 0);
	}
}

static int next_of_size(uint32_t size, struct brg_reader *r, uint8_t *mem, size_t cap)
{
	uint8_t header[BRG_HEADER] = { 0 };
	struct brg_frame f;
	le32_to(header + 4, size);
	brg_reader_init(r, mem, cap, LIMIT);
	feed(r, header, sizeof(header));
	return brg_reader_next(r, &f);
}

/* W8: sizes below the header and above the limit are refused, at the limit and limit + 1. */
static void test_sizes(void **state)
{
	(void)state;
	struct brg_reader r;
	uint8_t mem[LIMIT];
	const uint32_t bad[] = { 0, 1, 15, LIMIT + 1, INT32_MAX, UINT32_MAX };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		struct brg_frame f;
		size_t room;
		assert_int_equal(next_of_size(bad[i], &r, mem, sizeof(mem)), -EBADMSG);
		assert_int_equal(r.bad_size, bad[i]);
		assert_int_equal(brg_reader_next(&r, &f), -EBADMSG); /* for ever */
		(void)brg_reader_space(&r, &room);
		assert_int_equal(room, 0);
	}
	assert_int_equal(next_of_size(16, &r, mem, sizeof(mem)), 1);
	assert_int_equal(next_of_size(LIMIT, &r, mem, sizeof(mem)), 0);
}

static void test_grows(void **state)
{
	(void)state;
	struct brg_reader r;
	struct brg_frame f;
	uint8_t small[BRG_HEADER + 4], large[LIMIT], wire[LIMIT];
	size_t n = make(wire, 7, 8, "twenty bytes exactly");
	brg_reader_init(&r, small, sizeof(small), LIMIT);
	feed(&r, wire, sizeof(small));
	assert_int_equal(brg_reader_next(&r, &f), -ENOBUFS);
	assert_int_equal(brg_reader_want(&r), n);
	brg_reader_rebase(&r, large, brg_reader_want(&r));
	feed(&r, wire + sizeof(small), n - sizeof(small));
	assert_int_equal(brg_reader_next(&r, &f), 1);
	assert_int_equal(f.len, 20);
	assert_memory_equal(f.payload, "twenty bytes exactly", 20);
}

static void test_mux_is_bounded_and_whole(void **state)
{
	(void)state;
	uint8_t mem[64];
	struct brg_mux m;
	struct iovec iov[2];
	brg_mux_init(&m, mem, sizeof(mem));
	assert_int_equal(brg_mux_out(&m, iov), 0);
	assert_int_equal(brg_mux_put(&m, 1, 1, "0123456789abcdef0123456789abcdef", 32), 0);
	assert_int_equal(brg_mux_room(&m), 16);
	assert_int_equal(brg_mux_put(&m, 1, 2, "x", 1), -ENOSPC);
	assert_int_equal(brg_mux_room(&m), 16); /* nothing of it was queued */
	assert_int_equal(brg_mux_put(&m, 1, 2, "", 0), 0);
	assert_int_equal(brg_mux_put(&m, 1, 3, "", 0), -ENOSPC);
	assert_int_equal(brg_mux_out(&m, iov), 1);
	brg_mux_written(&m, 47);
	assert_int_equal(brg_mux_put(&m, 1, 3, "wrap", 4), 0);
	assert_int_equal(brg_mux_out(&m, iov), 2);
	assert_int_equal(iov[0].iov_len + iov[1].iov_len, 1 + 16 + 20);
	brg_mux_written(&m, 37);
	assert_int_equal(brg_mux_room(&m), 64);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_header_bytes),
		cmocka_unit_test(test_cut_at_every_byte),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_grows),
		cmocka_unit_test(test_mux_is_bounded_and_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
