/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/clock.h"
#include "base/fd.h"
#include "device/loop.h"
#include <sys/eventfd.h>

#define LONG_US 1000000u

static struct {
	struct dev_loop l;
	uint64_t began_us;
	bool turned, rested;
} w;

static void on_event(void *owner, struct dev_tag tag, uint32_t events)
{
	(void)owner;
	(void)tag;
	(void)events;
}

static uint64_t on_turn(void *owner)
{
	(void)owner;
	w.turned = w.l.brisk = true;
	w.l.poll_us = w.l.poll_max_us; /* a look has paid */
	if (w.rested || w.l.now_us - w.began_us > LONG_US)
		dev_loop_stop(&w.l);
	return UINT64_MAX;
}

static bool on_look(void *owner)
{
	(void)owner;
	return true;
}

static bool on_rest(void *owner)
{
	(void)owner;
	w.rested = w.turned; /* before the first turn it always does */
	return false;
}

/* What waits until the loop rests, such as what a VM has to tell its guest, does not wait for ever
 * because of another VM. */
static void test_it_rests_where_something_always_happens(void **state)
{
	(void)state;
	for (uint64_t events = 0; events < 2; events++) {
		assert_int_equal(dev_loop_init(&w.l), 0);
		w.turned = w.rested = false;
		/* Level-triggered, and never read: there is always an event, or none. */
		int fd = eventfd((unsigned)events, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_int_equal(dev_loop_watch(&w.l, fd, EPOLLIN, (struct dev_tag){ 0 }), 0);
		w.l.on_event = on_event;
		w.l.on_turn = on_turn;
		w.l.on_look = on_look;
		w.l.on_rest = on_rest;
		w.l.poll_max_us = 100;
		w.began_us = w.l.rested_us = hf_now_us();
		dev_loop_run(&w.l);
		assert_true(w.rested);
		dev_loop_close(&w.l, &fd);
		dev_loop_done(&w.l);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_rests_where_something_always_happens),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
