/* SPDX-License-Identifier: MIT */
#include "guest.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void add(struct guest *g, int n)
{
	struct drv_buf b = { DATA, 64, true };
	for (int i = 0; i < n; i++)
		assert_true(drv_add(&g->d, &b, 1) >= 0);
}

/* Pops and pushes up to n chains. */
static int serve(struct guest *g, size_t n)
{
	int r = pop(g, n);
	if (r > 0)
		vq_push(&g->vq, g->chain, (size_t)r);
	return r;
}

static int take_all(struct guest *g)
{
	uint16_t head;
	uint32_t len;
	int n = 0;
	while (drv_take(&g->d, &head, &len))
		n++;
	return n;
}

static void test_setup_refusals(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	struct vq_addr addr = g->vq.addr;
	assert_int_equal(vq_set_size(&g->vq, 16), -EBUSY);
	assert_int_equal(vq_set_base(&g->vq, 1), -EBUSY);
	addr.used += 4;
	assert_int_equal(vq_set_addr(&g->vq, &addr), -EBUSY);
	vq_stop(&g->vq);
	assert_int_equal(pop(g, 1), -EPIPE);
	assert_false(vq_must_notify(&g->vq));
	assert_int_equal(vq_set_size(&g->vq, 0), -EINVAL);
	assert_int_equal(vq_set_size(&g->vq, 24), -EINVAL);
	assert_int_equal(vq_set_size(&g->vq, 2 * VQ_SIZE_MAX), -EINVAL);
	assert_int_equal(vq_set_size(&g->vq, VQ_SIZE_MAX), 0);
	assert_int_equal(vq_start(&g->vq, 0), -EFAULT); /* does not fit its region */
	assert_int_equal(vq_set_size(&g->vq, 8), 0);
	addr.used += 2;
	assert_int_equal(vq_set_addr(&g->vq, &addr), -EINVAL);
	addr.used += 2;
	addr.desc += 8;
	assert_int_equal(vq_set_addr(&g->vq, &addr), -EINVAL);
	struct vq fresh;
	vq_init(&fresh, &g->mem);
	assert_int_equal(vq_start(&fresh, 0), -EINVAL); /* E2.8 */
	guest_free(g);
}

static void test_indices_wrap(void **state)
{
	(void)state;
	for (uint16_t base = 65530; base != 2; base++) {
		struct guest *g = guest_new(4, VQ_START_EVENT_IDX, base);
		for (int round = 0; round < 10; round++) {
			add(g, 3);
			(void)drv_publish(&g->d);
			assert_int_equal(serve(g, 64), 3);
			assert_int_equal(take_all(g), 3);
		}
		assert_int_equal(vq_base(&g->vq), (uint16_t)(base + 30));
		guest_free(g);
	}
}

static void test_batch_is_one_store(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	add(g, 8); /* a full ring */
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 64), 8);
	for (uint32_t i = 0; i < 8; i++)
		g->chain[i].written = i * 10;
	assert_int_equal(drv_used_idx(&g->d), 0); /* D2.3: nothing visible before */
	vq_push(&g->vq, g->chain, 8);
	assert_int_equal(drv_used_idx(&g->d), 8);
	uint16_t head;
	uint32_t len;
	for (uint32_t i = 0; i < 8; i++) {
		assert_true(drv_take(&g->d, &head, &len));
		assert_int_equal(head, i);
		assert_int_equal(len, i * 10);
	}
	guest_free(g);
}

static void test_unpop(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 65535);
	add(g, 4);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 64), 4);
	vq_unpop(&g->vq, 3);
	vq_push(&g->vq, g->chain, 1);
	assert_int_equal(vq_base(&g->vq), 0);
	assert_int_equal(serve(g, 64), 3);
	assert_int_equal(take_all(g), 4);
	guest_free(g);
}

static void test_index_that_jumps_breaks_the_ring(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	g->d.avail_idx = 9;
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), -EPIPE);
	assert_int_equal(g->vq.broken, VQ_BROKEN_INDEX);
	guest_free(g);

	/* a driver that reuses what we still hold: never more than the ring's size is out */
	g = guest_new(8, 0, 0);
	add(g, 8);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 64), 8);
	g->d.avail_idx = 9;
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 1), -EPIPE);
	assert_int_equal(g->vq.broken, VQ_BROKEN_INDEX);
	/* E1.8: a new start forgets it */
	vq_stop(&g->vq);
	g->d.avail_idx = 8;
	(void)drv_publish(&g->d);
	assert_int_equal(vq_start(&g->vq, 0), 0);
	assert_int_equal(pop(g, 1), 0);
	guest_free(g);
}

static void test_notify_by_flag(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	add(g, 3);
	(void)drv_publish(&g->d);
	drv_disarm(&g->d);
	assert_int_equal(serve(g, 1), 1);
	assert_true(vq_must_notify(&g->vq)); /* D8.3: the first one after start always */
	assert_int_equal(serve(g, 1), 1);
	assert_false(vq_must_notify(&g->vq)); /* NO_INTERRUPT */
	(void)drv_arm(&g->d);
	assert_false(vq_must_notify(&g->vq)); /* nothing new */
	assert_int_equal(serve(g, 1), 1);
	assert_true(vq_must_notify(&g->vq));
	guest_free(g);
}

static void set_used_event(struct guest *g, uint16_t event)
{
	memcpy(g->d.avail + 4 + 2 * g->d.size, &event, 2);
}

static void test_event_index_at_its_edges(void **state)
{
	(void)state;
	for (unsigned start = 65530; start < 65546; start++) { /* over the wrap */
		uint16_t base = (uint16_t)start;
		for (uint16_t wish = 0; wish < 6; wish++) {
			struct guest *g = guest_new(8, VQ_START_EVENT_IDX, base);
			(void)vq_must_notify(&g->vq);
			add(g, 4);
			(void)drv_publish(&g->d);
			set_used_event(g, (uint16_t)(base + wish));
			assert_int_equal(serve(g, 2), 2);
			assert_int_equal(vq_must_notify(&g->vq), wish < 2);
			assert_int_equal(serve(g, 2), 2);
			assert_int_equal(vq_must_notify(&g->vq), wish == 2 || wish == 3);
			guest_free(g);
		}
	}
}

static void test_kick_suppression(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, VQ_START_EVENT_IDX, 0);
	assert_int_equal(drv_avail_event(&g->d), 0); /* D8.2: armed by the start */
	add(g, 1);
	assert_true(drv_publish(&g->d));
	add(g, 1);
	assert_false(drv_publish(&g->d));
	assert_int_equal(serve(g, 64), 2);
	assert_false(vq_arm(&g->vq));
	add(g, 1);
	assert_true(drv_publish(&g->d));
	assert_true(vq_arm(&g->vq)); /* D2.3: came before we looked */
	guest_free(g);

	g = guest_new(8, 0, 0);
	vq_disarm(&g->vq);
	add(g, 1);
	assert_false(drv_publish(&g->d));
	assert_true(vq_arm(&g->vq));
	add(g, 1);
	assert_true(drv_publish(&g->d));
	guest_free(g);
}

static void test_restart_from_a_base(void **state)
{
	(void)state;
	/* D8.1-D8.3: the destination knows the base only, the rest is in guest memory */
	struct guest *g = guest_new(8, VQ_START_EVENT_IDX, 65534);
	add(g, 5);
	(void)drv_publish(&g->d);
	assert_int_equal(serve(g, 3), 3);
	vq_stop(&g->vq);
	struct vq dst;
	vq_init(&dst, &g->mem);
	assert_int_equal(vq_set_addr(&dst, &g->vq.addr), 0);
	assert_int_equal(vq_set_size(&dst, 8), 0);
	assert_int_equal(vq_set_base(&dst, vq_base(&g->vq)), 0);
	set_used_event(g, 30000);
	assert_int_equal(vq_start(&dst, VQ_START_EVENT_IDX), 0);
	assert_int_equal(drv_avail_event(&g->d), vq_base(&g->vq));
	assert_true(vq_must_notify(&dst));
	g->vq = dst;
	assert_int_equal(serve(g, 64), 2); /* no kick needed */
	assert_int_equal(take_all(g), 5);
	assert_false(vq_must_notify(&g->vq));
	vq_stop(&g->vq); /* E2.7: the same one again */
	assert_int_equal(vq_start(&g->vq, VQ_START_EVENT_IDX), 0);
	assert_true(vq_must_notify(&g->vq));
	guest_free(g);
}

static void test_used_ring_is_logged_at_its_own_address(void **state)
{
	(void)state;
	struct guest *g = guest_new(8, 0, 0);
	add(g, 4);
	(void)drv_publish(&g->d);
	log_on(g, false);
	assert_int_equal(serve(g, 1), 1);
	assert_int_equal(dirty_pages(g), 0); /* flag not set */
	log_on(g, true);                     /* E3.5: on a live ring */
	assert_int_equal(serve(g, 1), 1);
	assert_int_equal(dirty_pages(g), 1);
	assert_true(dirty(g, GPA_A));

	struct vq_addr addr = g->vq.addr;
	addr.log_gpa = 0x1f0000 - 2; /* E3.4: may be outside the memory table */
	assert_int_equal(vq_set_addr(&g->vq, &addr), 0);
	memset(g->log, 0, sizeof(g->log));
	(void)vq_arm(&g->vq); /* flags: bytes 0 and 1 */
	assert_true(dirty(g, 0x1ef000) && !dirty(g, 0x1f0000));
	guest_free(g);
}

static void test_log_of_event_field_index_and_ring_wrap(void **state)
{
	(void)state;
	struct guest *g = guest_new(1024, VQ_START_EVENT_IDX, 1022);
	log_on(g, true);
	struct vq_addr addr = g->vq.addr;
	addr.log_gpa = 0x101000 - 4; /* flags and index end a page, entries begin one */
	assert_int_equal(vq_set_addr(&g->vq, &addr), 0);
	(void)vq_arm(&g->vq); /* E3.4: avail_event, at 4 + 8 * 1024 */
	assert_true(dirty(g, 0x103000));
	assert_int_equal(dirty_pages(g), 1);
	memset(g->log, 0, sizeof(g->log));
	add(g, 2);
	(void)drv_publish(&g->d);
	assert_int_equal(serve(g, 64), 2); /* entries 1022 and 1023, and the index */
	assert_true(dirty(g, 0x100000) && !dirty(g, 0x101000) && dirty(g, 0x102000));
	memset(g->log, 0, sizeof(g->log));
	g->vq.next_used = 1023;
	add(g, 2);
	(void)drv_publish(&g->d);
	assert_int_equal(serve(g, 64), 2); /* entries 1023 and 0 */
	assert_true(dirty(g, 0x101000) && dirty(g, 0x102000));
	guest_free(g);
}

static void test_nothing_is_touched_after_stop(void **state)
{
	(void)state;
	/* E2.5, E3.8 */
	struct guest *g = guest_new(8, VQ_START_EVENT_IDX, 0);
	add(g, 2);
	(void)drv_publish(&g->d);
	assert_int_equal(pop(g, 64), 2);
	log_on(g, true);
	vq_stop(&g->vq);
	vq_push(&g->vq, g->chain, 2);
	(void)vq_arm(&g->vq);
	vq_disarm(&g->vq);
	assert_int_equal(drv_used_idx(&g->d), 0);
	assert_int_equal(dirty_pages(g), 0);
	guest_free(g);
}

static void test_remap(void **state)
{
	(void)state;
	/* E7.1: the table is replaced while the ring runs */
	struct guest *g = guest_new(8, 0, 0);
	struct vq_region was;
	uint8_t *moved = aligned_alloc(4096, REGION);
	memcpy(moved, g->a, REGION);
	assert_int_equal(vq_mem_remove(&g->mem, GPA_A, USER + GPA_A, REGION, &was), 0);
	struct vq_region now = { GPA_A, REGION, USER + GPA_A, moved };
	assert_int_equal(vq_mem_add(&g->mem, &now), 0);
	assert_int_equal(vq_remap(&g->vq), 0);
	g->d.avail = moved + drv_avail_offset(8);
	g->d.desc = moved;
	add(g, 1);
	(void)drv_publish(&g->d);
	assert_int_equal(serve(g, 1), 1);
	assert_int_equal(vq_mem_remove(&g->mem, GPA_A, USER + GPA_A, REGION, &was), 0);
	assert_int_equal(vq_remap(&g->vq), -EFAULT);
	assert_false(vq_started(&g->vq));
	assert_int_equal(vq_remap(&g->vq), 0);
	free(moved);
	guest_free(g);
}

/* Both sides at once, each sleeping whenever it may: a lost wake-up would time out. */
#define STRESS 100000

struct stress {
	struct guest *g;
	int kick, call;
};

static void sleep_on(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t x;
	assert_int_equal(poll(&p, 1, 10000), 1);
	assert_int_equal(read(fd, &x, 8), 8);
}

static void wake(int fd)
{
	uint64_t one = 1;
	assert_int_equal(write(fd, &one, 8), 8);
}

static void *stress_driver(void *arg)
{
	struct stress *s = arg;
	struct drv *d = &s->g->d;
	struct drv_buf b = { DATA, 64, false };
	unsigned sent = 0, back = 0;
	while (back < STRESS) {
		while (sent < STRESS && drv_add(d, &b, 1) >= 0)
			sent++;
		if (drv_publish(d))
			wake(s->kick);
		uint16_t head;
		uint32_t len;
		unsigned before = back;
		while (drv_take(d, &head, &len))
			back++;
		if (back == before && !drv_arm(d))
			sleep_on(s->call);
	}
	return NULL;
}

static void stress(unsigned flags)
{
	struct stress s = { .g = guest_new(8, flags, 60000) };
	s.kick = eventfd(0, EFD_CLOEXEC);
	s.call = eventfd(0, EFD_CLOEXEC);
	pthread_t t;
	assert_int_equal(pthread_create(&t, NULL, stress_driver, &s), 0);
	for (unsigned done = 0; done < STRESS;) {
		int n = pop(s.g, 3);
		assert_true(n >= 0);
		if (n == 0) {
			if (!vq_arm(&s.g->vq))
				sleep_on(s.kick);
			vq_disarm(&s.g->vq);
			continue;
		}
		vq_push(&s.g->vq, s.g->chain, (size_t)n);
		done += (unsigned)n;
		if (vq_must_notify(&s.g->vq))
			wake(s.call);
	}
	assert_int_equal(pthread_join(t, NULL), 0);
	close(s.kick);
	close(s.call);
	guest_free(s.g);
}

static void test_no_wake_up_is_lost(void **state)
{
	(void)state;
	stress(VQ_START_EVENT_IDX);
	stress(0);
}

/* A driver that rewrites rings, tables and payload while we read them (E7.2): whatever is popped
 * lies in guest memory, and the worst that happens is a broken ring. */
struct scribbler {
	struct guest *g;
	bool stop;
};

static void *scribble(void *arg)
{
	struct scribbler *s = arg;
	uint64_t x = 88172645463325252ull;
	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		/* mostly plausible: half of the words that are written make a good descriptor */
		uint64_t gpa = x & 1 ? DATA + (x >> 8) % 4096 : x;
		uint16_t i = (uint16_t)(x >> 20) % 8;
		drv_desc(s->g->d.desc, i, gpa, (uint32_t)(x >> 32) % 300, (uint16_t)(x >> 3) % 8,
			(uint16_t)(x >> 40) % 9);
		drv_desc(at(s->g, DATA + (x >> 44) % 4000), 0, gpa, 8, (uint16_t)(x >> 5) % 4, i);
		volatile uint16_t *avail = (volatile uint16_t *)(void *)s->g->d.avail;
		avail[2 + i] = (uint16_t)(x >> 50) % 9;
		avail[1] = (uint16_t)(drv_used_idx(&s->g->d) + (x >> 54) % 9);
	}
	return NULL;
}

static bool in_guest(const struct guest *g, const struct iovec *v)
{
	const uint8_t *p = v->iov_base;
	return (p >= g->a && v->iov_len <= (size_t)(g->a + REGION - p)) ||
	       (p >= g->b && v->iov_len <= (size_t)(g->b + REGION - p));
}

static void test_memory_that_changes_while_it_is_read(void **state)
{
	(void)state;
	unsigned flags = VQ_START_EVENT_IDX | VQ_START_INDIRECT, good = 0, broken = 0;
	struct scribbler s = { .g = guest_new(8, flags, 0) };
	struct guest *g = s.g;
	pthread_t t;
	char buf[64] = { 0 };
	log_on(g, true);
	assert_int_equal(pthread_create(&t, NULL, scribble, &s), 0);
	for (unsigned round = 0; good < 2000 || broken < 100; round++) {
		assert_true(round < 50000000);
		int n = pop(g, 8);
		for (int i = 0; i < n; i++) {
			const struct vq_chain *c = &g->chain[i];
			for (unsigned k = 0; k < c->n_out + (unsigned)c->n_in; k++)
				assert_true(in_guest(g, &c->iov[k]));
			(void)vq_read(c, 3, buf, sizeof(buf));
			(void)vq_write(&g->vq, c, 3, buf, sizeof(buf));
			good++;
		}
		if (n > 0)
			vq_push(&g->vq, g->chain, (size_t)n);
		else
			(void)sched_yield(); /* the driver's turn */
		(void)vq_must_notify(&g->vq);
		if (!vq_arm(&g->vq) && g->vq.broken) {
			broken++;
			uint16_t used = g->vq.next_used;
			vq_stop(&g->vq);
			assert_int_equal(vq_set_base(&g->vq, used), 0);
			assert_int_equal(vq_start(&g->vq, flags), 0);
		}
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(t, NULL), 0);
	guest_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_setup_refusals),
		cmocka_unit_test(test_indices_wrap),
		cmocka_unit_test(test_batch_is_one_store),
		cmocka_unit_test(test_unpop),
		cmocka_unit_test(test_index_that_jumps_breaks_the_ring),
		cmocka_unit_test(test_notify_by_flag),
		cmocka_unit_test(test_event_index_at_its_edges),
		cmocka_unit_test(test_kick_suppression),
		cmocka_unit_test(test_restart_from_a_base),
		cmocka_unit_test(test_used_ring_is_logged_at_its_own_address),
		cmocka_unit_test(test_log_of_event_field_index_and_ring_wrap),
		cmocka_unit_test(test_nothing_is_touched_after_stop),
		cmocka_unit_test(test_remap),
		cmocka_unit_test(test_no_wake_up_is_lost),
		cmocka_unit_test(test_memory_that_changes_while_it_is_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
