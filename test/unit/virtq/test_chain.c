/* SPDX-License-Identifier: MIT */
#include "guest.h"

#define F_NEXT     1
#define F_WRITE    2
#define F_INDIRECT 4

static void fill(struct guest *g, uint64_t gpa, const char *text)
{
	for (; *text; text++)
		*at(g, gpa++) = (uint8_t)*text;
}

static void test_every_shape_gives_the_same_bytes(void **state)
{
	(void)state;
	struct guest *g = guest_new(16, VQ_START_INDIRECT, 0);
	fill(g, DATA, "headpayload");
	fill(g, GPA_B - 4, "headpayload"); /* over two regions */
	struct drv_buf one[] = { { DATA, 11, false } };
	struct drv_buf two[] = { { DATA, 4, false }, { DATA + 4, 7, false } };
	struct drv_buf many[] = { { DATA, 3, false }, { DATA + 3, 0, false },
		{ DATA + 3, 1, false }, { DATA + 4, 2, false }, { DATA + 6, 5, false } };
	struct drv_buf split[] = { { GPA_B - 4, 11, false } };
	assert_true(drv_add(&g->d, one, 1) >= 0); /* D2.6: header and payload in one */
	assert_true(drv_add(&g->d, two, 2) >= 0);
	assert_true(drv_add(&g->d, many, 5) >= 0);
	assert_true(drv_add(&g->d, split, 1) >= 0);
	assert_true(drv_add_indirect(&g->d, at(g, DATA + 512), DATA + 512, many, 5) >= 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 64), 5);
	for (int i = 0; i < 5; i++) {
		char buf[16] = { 0 };
		assert_int_equal(g->chain[i].out_len, 11);
		assert_int_equal(g->chain[i].n_in, 0);
		assert_int_equal(vq_read(&g->chain[i], 0, buf, sizeof(buf)), 11); /* D2.5 */
		assert_string_equal(buf, "headpayload");
		memset(buf, 0, sizeof(buf));
		assert_int_equal(vq_read(&g->chain[i], 4, buf, 7), 7);
		assert_string_equal(buf, "payload");
		assert_int_equal(vq_read(&g->chain[i], 11, buf, 1), 0);
		struct iovec iov[8];
		size_t n = vq_iov_slice(g->chain[i].iov, g->chain[i].n_out, 4, 7, iov, 8), sum = 0;
		for (size_t k = 0; k < n; k++)
			sum += iov[k].iov_len;
		assert_int_equal(sum, 7);
		assert_memory_equal(iov[0].iov_base, "pa", 2);
	}
	assert_int_equal(pop(g, 64), 0);
	guest_free(g);
}

static void test_chain_before_an_indirect_table(void **state)
{
	(void)state;
	/* virtio 1.2, 2.7.5.3.2: normal descriptors and then one indirect */
	struct guest *g = guest_new(8, VQ_START_INDIRECT, 0);
	fill(g, DATA, "abc");
	drv_desc(at(g, DATA + 64), 0, DATA + 1, 2, F_NEXT, 1);
	drv_desc(at(g, DATA + 64), 1, DATA + 8, 8, F_WRITE, 0);
	drv_desc(g->d.desc, 0, DATA, 1, F_NEXT, 1);
	drv_desc(g->d.desc, 1, DATA + 64, 32, F_INDIRECT, 0);
	drv_avail(&g->d, 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), 1);
	char buf[4] = { 0 };
	assert_int_equal(vq_read(&g->chain[0], 0, buf, 3), 3);
	assert_string_equal(buf, "abc");
	assert_int_equal(g->chain[0].in_len, 8);
	guest_free(g);
}

static void test_indirect_table_over_two_regions(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, VQ_START_INDIRECT, 0);
	uint8_t table[32];
	drv_desc(table, 0, DATA, 1, F_NEXT, 1);
	drv_desc(table, 1, DATA, 2, 0, 0);
	for (size_t i = 0; i < 32; i++)
		*at(g, GPA_B - 7 + i) = table[i];
	drv_desc(g->d.desc, 0, GPA_B - 7, 32, F_INDIRECT, 0);
	drv_avail(&g->d, 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), 1);
	assert_int_equal(g->chain[0].out_len, 3);
	guest_free(g);
}

static void test_copied_once(void **state)
{
	(void)state;
	/* E7.2: what the driver writes after the pop changes nothing */
	struct guest *g = guest_new(8, VQ_START_INDIRECT, 0);
	struct drv_buf b[] = { { DATA, 4, false }, { DATA + 64, 4, true } };
	int head = drv_add(&g->d, b, 2);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), 1);
	drv_desc(g->d.desc, (uint16_t)head, 0xdead0000, UINT32_MAX, F_WRITE, 99);
	assert_int_equal(vq_write(&g->vq, &g->chain[0], 0, "1234567", 7), 4);
	assert_memory_equal(at(g, DATA + 64), "1234\0\0\0", 7);
	g->chain[0].written = 4;
	vq_push(&g->vq, g->chain, 1);
	uint16_t h;
	uint32_t len;
	assert_true(drv_take(&g->d, &h, &len));
	assert_int_equal(h, head);
	assert_int_equal(len, 4);
	guest_free(g);
}

/* One broken chain: descriptor 0 (and what the test wrote) is made available. */
static void expect_broken(struct guest *g, enum vq_broken why)
{
	drv_avail(&g->d, 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 8), -EPIPE);
	assert_int_equal(g->vq.broken, why);
	assert_int_equal(pop(g, 8), -EPIPE);
	assert_false(vq_arm(&g->vq));
	assert_true(strlen(vq_broken_text(why)) > 0);
	guest_free(g);
}

static void test_broken_addresses_and_order(void **state)
{
	(void)state;
	struct guest *g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, GPA_A - 1, 4, 0, 0);
	expect_broken(g, VQ_BROKEN_ADDRESS);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, GPA_B + REGION - 1, 2, F_WRITE, 0);
	expect_broken(g, VQ_BROKEN_ADDRESS);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, UINT64_MAX, 2, F_WRITE, 0);
	expect_broken(g, VQ_BROKEN_ADDRESS);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, DATA, 4, F_WRITE | F_NEXT, 1);
	drv_desc(g->d.desc, 1, DATA, 4, 0, 0);
	expect_broken(g, VQ_BROKEN_ORDER);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, DATA, 4, F_NEXT, 4);
	expect_broken(g, VQ_BROKEN_HEAD);
}

static void test_broken_loops_and_lengths(void **state)
{
	(void)state;
	struct guest *g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, DATA, 4, F_NEXT, 0);
	expect_broken(g, VQ_BROKEN_LOOP);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, DATA, 0, F_NEXT, 1); /* empty ones loop as well */
	drv_desc(g->d.desc, 1, DATA, 0, F_NEXT, 0);
	expect_broken(g, VQ_BROKEN_LOOP);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, DATA, 16 * 2, F_INDIRECT, 0);
	drv_desc(at(g, DATA), 0, DATA, 1, F_NEXT, 1);
	drv_desc(at(g, DATA), 1, DATA, 1, F_NEXT, 2);
	expect_broken(g, VQ_BROKEN_HEAD); /* next outside the indirect table */
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, GPA_B, 16 * (VQ_CHAIN_IOV_MAX + 1), F_INDIRECT, 0);
	for (uint16_t i = 0; i <= VQ_CHAIN_IOV_MAX; i++)
		drv_desc(g->b, i, DATA, 1, F_NEXT, (uint16_t)(i + 1));
	expect_broken(g, VQ_BROKEN_LONG); /* limit + 1 */
}

static void test_longest_chain_passes(void **state)
{
	(void)state;
	struct guest *g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, GPA_B, 16 * VQ_CHAIN_IOV_MAX, F_INDIRECT, 0);
	for (uint16_t i = 0; i < VQ_CHAIN_IOV_MAX; i++)
		drv_desc(
			g->b, i, DATA, 1, i + 1 < VQ_CHAIN_IOV_MAX ? F_NEXT : 0, (uint16_t)(i + 1));
	drv_avail(&g->d, 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), 1);
	assert_int_equal(g->chain[0].n_out, VQ_CHAIN_IOV_MAX);
	/* one iovec more than the limit, by a buffer over two regions */
	drv_desc(g->b, VQ_CHAIN_IOV_MAX - 1, GPA_B - 1, 2, 0, 0);
	expect_broken(g, VQ_BROKEN_LONG);
}

static void test_broken_tables_and_bytes(void **state)
{
	(void)state;
	struct guest *g = guest_new(4, 0, 0);
	drv_desc(g->d.desc, 0, DATA, 16, F_INDIRECT, 0);
	expect_broken(g, VQ_BROKEN_INDIRECT);
	for (int i = 0; i < 3; i++) {
		g = guest_new(4, VQ_START_INDIRECT, 0);
		drv_desc(g->d.desc, 0, DATA, (uint32_t[]){ 0, 17, 16 }[i],
			i == 2 ? F_INDIRECT | F_NEXT : F_INDIRECT, 1);
		expect_broken(g, VQ_BROKEN_INDIRECT_TABLE);
	}
	g = guest_new(4, VQ_START_INDIRECT, 0); /* nested */
	drv_desc(g->d.desc, 0, DATA, 16, F_INDIRECT, 0);
	drv_desc(at(g, DATA), 0, DATA, 16, F_INDIRECT, 0);
	expect_broken(g, VQ_BROKEN_INDIRECT_TABLE);
	g = guest_new(4, VQ_START_INDIRECT, 0); /* table outside, and past the end */
	drv_desc(g->d.desc, 0, GPA_B + REGION - 8, 16, F_INDIRECT, 0);
	expect_broken(g, VQ_BROKEN_ADDRESS);
	g = guest_new(4, VQ_START_INDIRECT, 0);
	drv_desc(g->d.desc, 0, UINT64_MAX - 8, 16, F_INDIRECT, 0);
	expect_broken(g, VQ_BROKEN_ADDRESS);
}

static void test_four_gigabytes_are_too_much(void **state)
{
	(void)state;
	/* no memory is touched: a region may be larger than what backs it */
	struct guest *g = guest_new(4, 0, 0);
	uint8_t *far = (uint8_t *)(uintptr_t)0x100000000000u;
	struct vq_region r = { 1ull << 32, 1ull << 32, 1ull << 40, far };
	assert_int_equal(vq_mem_add(&g->mem, &r), 0);
	drv_desc(g->d.desc, 0, 1ull << 32, UINT32_MAX, F_NEXT, 1);
	drv_desc(g->d.desc, 1, 1ull << 32, 1, 0, 0);
	expect_broken(g, VQ_BROKEN_BYTES);
}

static void test_good_chains_before_the_broken_one(void **state)
{
	(void)state;
	struct guest *g = guest_new(4, 0, 0);
	struct drv_buf b = { DATA, 4, false };
	assert_int_equal(drv_add(&g->d, &b, 1), 0);
	drv_desc(g->d.desc, 3, 0, 1, 0, 0);
	drv_avail(&g->d, 3);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 8), 1);
	assert_int_equal(g->vq.broken, VQ_BROKEN_ADDRESS);
	vq_push(&g->vq, g->chain, 1); /* what was taken can still be given back */
	assert_int_equal(drv_used_idx(&g->d), 1);
	assert_int_equal(pop(g, 8), -EPIPE);
	guest_free(g);
}

static void test_iovecs_run_out_between_chains(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, VQ_START_INDIRECT, 0);
	struct drv_buf b[3] = { { DATA, 1, false }, { DATA, 1, false }, { DATA, 1, false } };
	drv_desc(g->d.desc, 7, GPA_B, 16 * (VQ_CHAIN_IOV_MAX - 1), F_INDIRECT, 0);
	for (uint16_t i = 0; i < VQ_CHAIN_IOV_MAX - 1; i++)
		drv_desc(
			g->b, i, DATA, 1, i + 2 < VQ_CHAIN_IOV_MAX ? F_NEXT : 0, (uint16_t)(i + 1));
	drv_avail(&g->d, 7);
	assert_true(drv_add(&g->d, b, 3) >= 0);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 8), 1); /* three iovecs do not fit into one */
	assert_int_equal(g->vq.broken, VQ_FINE);
	assert_int_equal(pop(g, 8), 1);
	assert_int_equal(g->chain[0].n_out, 3);
	guest_free(g);
}

static void test_payload_writes_are_logged(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	struct drv_buf b[] = { { DATA + 4090, 12, true }, { GPA_B - 4096, 8192, true } };
	assert_true(drv_add(&g->d, b, 2) >= 0);
	(void)drv_publish(&g->d);
	log_on(g, false);
	assert_int_equal(pop(g, 1), 1);
	assert_int_equal(dirty_pages(g), 0);
	assert_int_equal(vq_write(&g->vq, &g->chain[0], 4, "xyz", 3), 3); /* E3.4 */
	assert_true(dirty(g, DATA) && dirty(g, DATA + 4096));
	assert_int_equal(dirty_pages(g), 2);

	/* readv put 12 + 4097 bytes there: one byte of the other region as well */
	struct iovec iov[4];
	size_t n = vq_iov_slice(vq_chain_in(&g->chain[0]), g->chain[0].n_in, 0, 9999, iov, 4);
	assert_int_equal(n, 3);
	vq_wrote(&g->vq, iov, n, 12 + 4096);
	assert_false(dirty(g, GPA_B));
	vq_wrote(&g->vq, iov, n, 12 + 4097);
	assert_true(dirty(g, GPA_B - 1) && dirty(g, GPA_B));
	assert_int_equal(dirty_pages(g), 4);
	guest_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_shape_gives_the_same_bytes),
		cmocka_unit_test(test_chain_before_an_indirect_table),
		cmocka_unit_test(test_indirect_table_over_two_regions),
		cmocka_unit_test(test_copied_once),
		cmocka_unit_test(test_broken_addresses_and_order),
		cmocka_unit_test(test_broken_loops_and_lengths),
		cmocka_unit_test(test_longest_chain_passes),
		cmocka_unit_test(test_broken_tables_and_bytes),
		cmocka_unit_test(test_four_gigabytes_are_too_much),
		cmocka_unit_test(test_good_chains_before_the_broken_one),
		cmocka_unit_test(test_iovecs_run_out_between_chains),
		cmocka_unit_test(test_payload_writes_are_logged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
