/* SPDX-License-Identifier: MIT */
#include "guest.h"

static uint8_t host[4 * 4096];

static void test_regions_that_cannot_be(void **state)
{
	(void)state;
	struct vq_mem m = { 0 };
	struct vq_region empty = { 0, 0, 0, host };
	struct vq_region no_map = { 0, 4096, 0, NULL };
	struct vq_region gpa_end = { UINT64_MAX - 4094, 4096, 0, host };
	struct vq_region user_end = { 0, 4096, UINT64_MAX - 4094, host };
	struct vq_region huge = { 0, UINT64_MAX - 4096, 0, host };
	assert_int_equal(vq_mem_add(&m, &empty), -EINVAL); /* E7.2 */
	assert_int_equal(vq_mem_add(&m, &no_map), -EINVAL);
	assert_int_equal(vq_mem_add(&m, &gpa_end), -EINVAL);
	assert_int_equal(vq_mem_add(&m, &user_end), -EINVAL);
	assert_int_equal(vq_mem_add(&m, &huge), -EINVAL);
	assert_int_equal(m.n, 0);
}

static void test_overlap_is_refused_in_each_space(void **state)
{
	(void)state;
	struct vq_mem m = { 0 };
	struct vq_region r = { 0x10000, 4096, 0x50000, host };
	assert_int_equal(vq_mem_add(&m, &r), 0);
	struct vq_region gpa = { 0x10fff, 4096, 0x90000, host + 4096 };
	struct vq_region below = { 0xf001, 4096, 0x90000, host + 4096 };
	struct vq_region around = { 0x1000, 0x100000, 0x90000, host + 4096 };
	struct vq_region user = { 0x20000, 4096, 0x50fff, host + 4096 };
	struct vq_region same_host = { 0x20000, 4096, 0x90000, host + 4095 };
	struct vq_region next = { 0x11000, 4096, 0x51000, host + 4096 };
	assert_int_equal(vq_mem_add(&m, &gpa), -EEXIST); /* E7.2 */
	assert_int_equal(vq_mem_add(&m, &below), -EEXIST);
	assert_int_equal(vq_mem_add(&m, &around), -EEXIST);
	assert_int_equal(vq_mem_add(&m, &user), -EEXIST);
	assert_int_equal(vq_mem_add(&m, &same_host), -EEXIST);
	assert_int_equal(vq_mem_add(&m, &next), 0);
}

static void test_table_limit_and_removal(void **state)
{
	(void)state;
	static uint8_t pages[(VQ_REGIONS_MAX + 1) * 16];
	struct vq_mem m = { 0 };
	struct vq_region r = { 0, 16, 1 << 20, pages }, got;
	for (int i = 0; i < VQ_REGIONS_MAX; i++) {
		assert_int_equal(vq_mem_add(&m, &r), 0);
		r = (struct vq_region){ r.gpa + 16, 16, r.uaddr + 16, r.host + 16 };
	}
	assert_int_equal(vq_mem_add(&m, &r), -ENOSPC);
	assert_int_equal(vq_mem_remove(&m, 32, (1 << 20) + 32, 15, &got), -ENOENT); /* E7.1 */
	assert_int_equal(vq_mem_remove(&m, 32, (1 << 20) + 32, 16, &got), 0);
	assert_ptr_equal(got.host, pages + 32);
	struct iovec iov[2];
	assert_int_equal(vq_mem_iov(&m, 32, 1, iov, 2), -EFAULT);
	assert_int_equal(vq_mem_add(&m, &r), 0);
}

static void test_translation_at_the_edges(void **state)
{
	(void)state;
	struct vq_mem m = { 0 };
	struct vq_region a = { 0x1000, 4096, 0xa000, host };
	struct vq_region b = { 0x2000, 4096, 0xf000, host + 8192 };
	struct iovec iov[2];
	assert_int_equal(vq_mem_add(&m, &a), 0);
	assert_int_equal(vq_mem_add(&m, &b), 0);
	assert_int_equal(vq_mem_iov(&m, 0x1000, 0, iov, 2), 0);
	assert_int_equal(vq_mem_iov(&m, 0xfff, 2, iov, 2), -EFAULT);
	assert_int_equal(vq_mem_iov(&m, 0x2fff, 2, iov, 2), -EFAULT);
	assert_int_equal(vq_mem_iov(&m, UINT64_MAX, 2, iov, 2), -EFAULT);
	assert_int_equal(vq_mem_iov(&m, 0x1000, UINT64_MAX, iov, 2), -EFAULT);
	assert_int_equal(vq_mem_iov(&m, 0x1fff, 2, iov, 1), -ENOBUFS);
	assert_int_equal(vq_mem_iov(&m, 0x1fff, 2, iov, 2), 2); /* over two regions */
	assert_ptr_equal(iov[0].iov_base, host + 4095);
	assert_ptr_equal(iov[1].iov_base, host + 8192);
	assert_int_equal(iov[0].iov_len + iov[1].iov_len, 2);
	assert_ptr_equal(vq_mem_user(&m, 0xafff, 1), host + 4095);
	assert_null(vq_mem_user(&m, 0xafff, 2));
	assert_null(vq_mem_user(&m, 0xb000, 0));
	assert_null(vq_mem_user(&m, 0xa000, UINT64_MAX));
}

static void test_log_marks_whole_pages_and_stays_inside(void **state)
{
	(void)state;
	uint8_t bits[4] = { 0 };
	struct vq_log log = { bits, 3 }, off = { 0 };
	vq_log_mark(&off, 0, 1);
	vq_log_mark(&log, 0, 0);
	assert_int_equal(bits[0], 0);
	vq_log_mark(&log, 4095, 1); /* E3.3: bit is gpa / 4096 */
	assert_int_equal(bits[0], 1);
	vq_log_mark(&log, 4095, 2);
	assert_int_equal(bits[0], 3);
	vq_log_mark(&log, 15 * 4096, 4096 + 1); /* last byte decides */
	assert_int_equal(bits[1], 0x80);
	assert_int_equal(bits[2], 1);
	vq_log_mark(&log, 23 * 4096, 1 << 20); /* E3.3: past the log's end */
	assert_int_equal(bits[2], 0x81);
	vq_log_mark(&log, UINT64_MAX - 1, 4096);
	vq_log_mark(&log, 24 * 4096, UINT64_MAX);
	assert_int_equal(bits[3], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_regions_that_cannot_be),
		cmocka_unit_test(test_overlap_is_refused_in_each_space),
		cmocka_unit_test(test_table_limit_and_removal),
		cmocka_unit_test(test_translation_at_the_edges),
		cmocka_unit_test(test_log_marks_whole_pages_and_stays_inside),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
