/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/ring.h"

static void test_full_capacity_is_usable(void **state)
{
	(void)state;
	uint8_t mem[8];
	struct hf_ring r;
	hf_ring_init(&r, mem, sizeof(mem));
	assert_int_equal(hf_ring_put(&r, "0123456789", 10), 8);
	assert_int_equal(hf_ring_room(&r), 0);
	assert_int_equal(hf_ring_put(&r, "x", 1), 0);
	char out[8];
	assert_int_equal(hf_ring_get(&r, out, 8), 8);
	assert_memory_equal(out, "01234567", 8);
	assert_int_equal(hf_ring_get(&r, out, 8), 0);
}

static void test_wrap_at_every_offset(void **state)
{
	(void)state;
	for (size_t start = 0; start < 8; start++) {
		uint8_t mem[8];
		struct hf_ring r;
		hf_ring_init(&r, mem, sizeof(mem));
		r.head = r.tail = SIZE_MAX - 3 + start; /* the counters themselves wrap as well */
		assert_int_equal(hf_ring_put(&r, "abcdefgh", 8), 8);
		struct iovec iov[2];
		int k = hf_ring_read_iov(&r, iov);
		size_t sum = 0;
		for (int i = 0; i < k; i++)
			sum += iov[i].iov_len;
		assert_int_equal(sum, 8);
		char out[8];
		assert_int_equal(hf_ring_peek(&r, 2, out, 8), 6);
		assert_memory_equal(out, "cdefgh", 6);
		assert_int_equal(hf_ring_get(&r, out, 8), 8);
		assert_memory_equal(out, "abcdefgh", 8);
	}
}

static void test_no_memory_means_no_room(void **state)
{
	(void)state;
	struct hf_ring r;
	hf_ring_init(&r, NULL, 0);
	struct iovec iov[2];
	assert_int_equal(hf_ring_put(&r, "a", 1), 0);
	assert_int_equal(hf_ring_write_iov(&r, iov), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_full_capacity_is_usable),
		cmocka_unit_test(test_wrap_at_every_offset),
		cmocka_unit_test(test_no_memory_means_no_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
