/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "bridge/reconnect.h"

static void test_first_redial_at_once_then_fixed(void **state)
{
	(void)state;
	struct brg_reconnect r;
	uint64_t at = 0, now = 1000000;
	brg_reconnect_init(&r, BRG_RECONNECT_INTERVAL_US, 0);
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_NONE, now, &at));
	assert_int_equal(at, now);
	brg_reconnect_dialling(&r, now);
	now += 5000000; /* connected for 5 s, then lost */
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_LOST, now, &at));
	assert_int_equal(at, now);
	for (int i = 0; i < 100000; i++) { /* for ever, and never slower */
		brg_reconnect_dialling(&r, now);
		assert_true(brg_reconnect_next(&r, BRG_OUTCOME_REFUSED, now + 100, &at));
		assert_int_equal(at, now + 10000);
		now = at;
	}
	assert_int_equal(r.attempts, 100001);
}

static void test_a_slow_refusal_is_not_paid_for_twice(void **state)
{
	(void)state;
	struct brg_reconnect r;
	uint64_t at;
	brg_reconnect_init(&r, 10000, 0);
	brg_reconnect_dialling(&r, 0);
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_REFUSED, 500000, &at));
	assert_int_equal(at, 500000);
}

/* A peer that accepts and hangs up must not make the guest spin. */
static void test_useless_connections_wait(void **state)
{
	(void)state;
	struct brg_reconnect r;
	uint64_t at;
	brg_reconnect_init(&r, 10000, 0);
	brg_reconnect_dialling(&r, 50);
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_USELESS, 60, &at));
	assert_int_equal(at, 10050);
}

static void test_limit_and_stop(void **state)
{
	(void)state;
	struct brg_reconnect r;
	uint64_t at;
	brg_reconnect_init(&r, 10000, 2);
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_REFUSED, 0, &at));
	assert_true(brg_reconnect_next(
		&r, BRG_OUTCOME_LOST, 0, &at)); /* success starts the count anew */
	assert_true(brg_reconnect_next(&r, BRG_OUTCOME_REFUSED, 0, &at));
	assert_false(brg_reconnect_next(&r, BRG_OUTCOME_REFUSED, 0, &at));
	brg_reconnect_init(&r, 10000, 0);
	brg_reconnect_stop(&r);
	assert_false(brg_reconnect_next(&r, BRG_OUTCOME_LOST, 0, &at)); /* shutdown, not loss */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_redial_at_once_then_fixed),
		cmocka_unit_test(test_a_slow_refusal_is_not_paid_for_twice),
		cmocka_unit_test(test_useless_connections_wait),
		cmocka_unit_test(test_limit_and_stop),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
