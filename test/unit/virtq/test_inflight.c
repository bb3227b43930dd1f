/* SPDX-License-Identifier: MIT */
/* What a back end leaves that died, and what the next one makes of it (E5.2, E5.3, E5.4). */
#include "guest.h"

#define SIZE 8

struct area {
	uint64_t features;
	uint16_t version, desc_num, last_batch, used_idx;
	struct {
		uint8_t inflight, pad[5];
		uint16_t next;
		uint64_t counter;
	} desc[SIZE];
	uint8_t pad[64];
};

static struct area area;
static uint16_t again[SIZE];

/* A back end that has just been started in front of what is in the area. */
static void come_back(struct guest *g)
{
	struct vq_addr addr = g->vq.addr;
	vq_init(&g->vq, &g->mem);
	assert_int_equal(vq_set_size(&g->vq, SIZE), 0);
	assert_int_equal(vq_set_addr(&g->vq, &addr), 0);
	assert_int_equal(vq_set_base(&g->vq, drv_used_idx(&g->d)), 0); /* as a front end does */
	assert_int_equal(vq_set_inflight(&g->vq, (uint8_t *)&area, SIZE, again), 0);
	assert_int_equal(vq_start(&g->vq, VQ_START_EVENT_IDX), 0);
}

static struct guest *begin(uint16_t base)
{
	struct guest *g = guest_new(SIZE, VQ_START_EVENT_IDX, base);
	memset(&area, 0, sizeof(area));
	vq_stop(&g->vq);
	come_back(g);
	return g;
}

static uint16_t add(struct guest *g)
{
	struct drv_buf b = { DATA, 64, false };
	int head = drv_add(&g->d, &b, 1);
	assert_true(head >= 0);
	(void)drv_publish(&g->d);
	return (uint16_t)head;
}

static void expect_heads(struct guest *g, const uint16_t *heads, int n)
{
	for (int i = 0; i < n;) {
		int got = pop(g, 64);
		assert_true(got > 0);
		for (int k = 0; k < got; k++)
			assert_int_equal(g->chain[k].head, heads[i++]);
		vq_push(&g->vq, g->chain, (size_t)got);
	}
	assert_int_equal(pop(g, 64), 0);
}

static void test_layout(void **state)
{
	(void)state;
	assert_int_equal(vq_inflight_bytes(SIZE), 192); /* 16 + 8 * 16, to a multiple of 64 */
	struct guest *g = begin(7);
	assert_int_equal(area.version, 1);
	assert_int_equal(area.desc_num, SIZE);
	assert_int_equal(area.used_idx, 7);
	const uint16_t heads[] = { add(g), add(g), add(g) };
	expect_heads(g, heads, 3);
	assert_int_equal(area.used_idx, 10);
	assert_int_equal(area.last_batch, heads[2]);
	assert_int_equal(area.desc[heads[2]].next, heads[1]);
	assert_int_equal(area.desc[heads[1]].next, heads[0]);
	for (int i = 0; i < SIZE; i++)
		assert_int_equal(area.desc[i].inflight, 0);
	assert_true(area.desc[heads[2]].counter == area.desc[heads[0]].counter + 2);
	guest_free(g);
}

/* Chains that were only looked at are there again, whoever died. */
static void test_what_was_looked_at_is_not_lost(void **state)
{
	(void)state;
	for (uint16_t base = 65534; base != 3; base++) {
		struct guest *g = begin(base);
		const uint16_t heads[] = { add(g), add(g), add(g), add(g) };
		assert_int_equal(pop(g, 3), 3);
		vq_push(&g->vq, g->chain, 1);
		come_back(g);
		assert_int_equal(g->vq.inflight.n_again, 0);
		expect_heads(g, heads + 1, 3);
		guest_free(g);
	}
}

/* Another back end had taken four, out of their order in the table, and given the second back. */
static void test_taken_again_by_counter(void **state)
{
	(void)state;
	struct guest *g = begin(0);
	const uint16_t h[] = { add(g), add(g), add(g), add(g), add(g) };
	const uint64_t counters[] = { 900, 7, 800, 850 };
	for (int i = 0; i < 4; i++) {
		area.desc[h[i]].inflight = i != 1;
		area.desc[h[i]].counter = counters[i];
	}
	struct vq_chain second = { .head = h[1] };
	vq_push(&g->vq, &second, 1);
	area.desc[h[1]].inflight = 0;
	come_back(g);
	assert_int_equal(vq_base(&g->vq), 4);
	const uint16_t order[] = { h[2], h[3], h[0] };
	assert_int_equal(pop(g, 2), 2);
	assert_int_equal(g->chain[0].head, order[0]);
	vq_unpop(&g->vq, 2); /* looked at, and given back unused */
	assert_int_equal(pop(g, 64), 3);
	for (int i = 0; i < 3; i++)
		assert_int_equal(g->chain[i].head, order[i]);
	assert_int_equal(pop(g, 64), 0); /* first these */
	vq_push(&g->vq, g->chain, 2);
	vq_unpop(&g->vq, 1);
	assert_int_equal(area.desc[h[0]].inflight, 1);
	assert_int_equal(pop(g, 64), 1);
	vq_push(&g->vq, g->chain, 1);
	assert_int_equal(area.desc[h[0]].inflight, 0);
	expect_heads(g, h + 4, 1);
	assert_int_equal(drv_used_idx(&g->d), 5);
	assert_true(area.desc[h[4]].counter > 900);
	guest_free(g);
}

/* Killed at each step of giving two back. */
static void test_last_batch(void **state)
{
	(void)state;
	for (int step = 0; step < 5; step++) {
		struct guest *g = begin(65535);
		const uint16_t h[] = { add(g), add(g), add(g) };
		struct area before = area;
		assert_int_equal(pop(g, 2), 2);
		vq_push(&g->vq, g->chain, 2);
		if (step == 0) { /* nothing of it, but that they were taken */
			area = before;
			for (int i = 0; i < 2; i++) {
				area.desc[h[i]].inflight = 1;
				area.desc[h[i]].counter = (uint64_t)i;
			}
		} else if (step == 1) { /* on the list, and not seen by the driver */
			area.desc[h[0]].inflight = area.desc[h[1]].inflight = 1;
			area.used_idx = 65535;
		} else if (step == 2) { /* seen */
			area.desc[h[0]].inflight = area.desc[h[1]].inflight = 1;
			area.used_idx = 65535;
		} else if (step == 3) {
			area.desc[h[1]].inflight = 1;
			area.used_idx = 65535;
		}
		if (step < 2) {
			const uint16_t idx = 65535;
			memcpy(g->d.used + 2, &idx, 2);
		}
		come_back(g);
		assert_int_equal(area.used_idx, step < 2 ? 65535 : 1);
		expect_heads(g, step < 2 ? h : h + 2, step < 2 ? 3 : 1);
		assert_int_equal(drv_used_idx(&g->d), 2);
		for (int i = 0; i < SIZE; i++)
			assert_int_equal(area.desc[i].inflight, 0);
		guest_free(g);
	}
}

static void test_refusals(void **state)
{
	(void)state;
	struct guest *g = begin(0);
	assert_int_equal(vq_set_inflight(&g->vq, NULL, 0, NULL), -EBUSY);
	vq_stop(&g->vq);
	assert_int_equal(vq_set_inflight(&g->vq, (uint8_t *)&area + 4, SIZE, again), -EINVAL);
	assert_int_equal(vq_set_inflight(&g->vq, (uint8_t *)&area, SIZE / 2, again), 0);
	assert_int_equal(vq_start(&g->vq, 0), -EINVAL); /* smaller than the queue */
	assert_false(vq_started(&g->vq));
	assert_int_equal(vq_set_inflight(&g->vq, NULL, 0, NULL), 0);
	assert_int_equal(vq_start(&g->vq, 0), 0);
	guest_free(g);
}

/* Whatever stands in it: no more than the queue has is taken, and it goes on. */
static void test_any_area(void **state)
{
	(void)state;
	uint32_t seed = 1;
	for (int round = 0; round < 20000; round++) {
		struct guest *g = begin(3);
		(void)add(g);
		uint8_t *p = (uint8_t *)&area;
		for (size_t i = 0; i < sizeof(area); i++) {
			seed = seed * 1664525 + 1013904223;
			p[i] = (seed >> 28) ? p[i] : (uint8_t)(seed >> 16);
		}
		come_back(g);
		assert_true(g->vq.inflight.n_again <= SIZE);
		int n = 0;
		for (int r; (r = pop(g, 3)) > 0; n += r) {
			area.last_batch = (uint16_t)seed; /* changed under us */
			vq_push(&g->vq, g->chain, (size_t)r);
		}
		assert_true(n <= SIZE + 1);
		guest_free(g);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_what_was_looked_at_is_not_lost),
		cmocka_unit_test(test_taken_again_by_counter),
		cmocka_unit_test(test_last_batch),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_any_area),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
