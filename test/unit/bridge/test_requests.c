/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "bridge/requests.h"
#include <errno.h>
#include <string.h>

#define CAP 4

static struct brg_request entries[CAP];

static struct brg_requests fresh(bool forgetful)
{
	struct brg_requests t;
	brg_requests_init(&t, entries, CAP, 100, forgetful);
	return t;
}

/* Sends what is owed and says how many answers went out. */
static int pump(struct brg_requests *t)
{
	int n = 0;
	for (struct brg_request *e; (e = brg_requests_unsent(t)); n++)
		(void)brg_requests_sent(t, e);
	return n;
}

static void test_executed_once_answered_once_per_connection(void **state)
{
	(void)state;
	char answer[] = "a";
	struct brg_requests t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 5, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, 5, 1), BRG_SEEN_RUNNING);
	assert_int_equal(brg_requests_finish(&t, 5, answer, 1), 0);
	assert_int_equal(pump(&t), 1);
	assert_int_equal(brg_requests_begin(&t, 5, 1), BRG_SEEN_ANSWERED); /* a second time here */
	assert_int_equal(pump(&t), 0);
	brg_requests_rewind(&t); /* another connection: asks again, is answered from the record */
	assert_int_equal(pump(&t), 0);
	assert_int_equal(brg_requests_begin(&t, 5, 1), BRG_SEEN_ANSWERED);
	assert_int_equal(pump(&t), 1);
	assert_ptr_equal(brg_requests_acknowledge(&t, 5), answer);
	assert_null(brg_requests_acknowledge(&t, 5));
	assert_int_equal(brg_requests_begin(&t, 5, 1), BRG_SEEN_ACKNOWLEDGED);
	assert_int_equal(t.n, 0);
	assert_int_equal(t.bytes, 0);
}

/* A guest that has forgotten what it answered may carry a question out again. */
static void test_asked_again(void **state)
{
	(void)state;
	char answer[] = "a";
	struct brg_requests t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 9, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, 5, 2), BRG_SEEN_ACKNOWLEDGED);
	assert_int_equal(brg_requests_again(&t, 5, 2), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_type(&t, 5), 2);
	assert_int_equal(brg_requests_type(&t, 6), 0);
	assert_int_equal(t.highest, 9);
	assert_int_equal(brg_requests_finish(&t, 5, answer, 1), 0);
	assert_int_equal(pump(&t), 1);
	assert_int_equal(brg_requests_again(&t, 2, 2), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_again(&t, 3, 2), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_again(&t, 4, 2), BRG_SEEN_FULL);
}

/* The connection was lost while the request ran, and it finished in the gap. */
static void test_answer_waits_until_asked_for(void **state)
{
	(void)state;
	char answer[] = "a";
	struct brg_requests t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 1, 1), BRG_SEEN_NEW);
	brg_requests_rewind(&t);
	assert_int_equal(brg_requests_finish(&t, 1, answer, 1), 0);
	assert_int_equal(pump(&t), 0);
	assert_int_equal(brg_requests_begin(&t, 1, 1), BRG_SEEN_ANSWERED);
	assert_int_equal(pump(&t), 1);
}

static void test_ids_in_order_of_the_host(void **state)
{
	(void)state;
	struct brg_requests t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 3, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, UINT64_MAX, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, 4, 1), BRG_SEEN_ACKNOWLEDGED);
	assert_int_equal(brg_requests_begin(&t, 0, 1), BRG_SEEN_ACKNOWLEDGED);
	assert_int_equal(brg_requests_begin(&t, 3, 1), BRG_SEEN_RUNNING);
	assert_null(brg_requests_acknowledge(&t, 3)); /* a running one cannot be acknowledged */
	assert_int_equal(t.n, 2);
}

static void test_bounds(void **state)
{
	(void)state;
	char big[101];
	struct brg_requests t = fresh(false);
	for (uint64_t id = 0; id < CAP; id++)
		assert_int_equal(brg_requests_begin(&t, id, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, CAP, 1), BRG_SEEN_FULL);
	assert_int_equal(
		brg_requests_begin(&t, 2, 1), BRG_SEEN_RUNNING); /* known ones still work */
	assert_int_equal(brg_requests_finish(&t, 2, big, 100), 0);
	assert_ptr_equal(brg_requests_acknowledge(&t, 2), big);
	assert_int_equal(brg_requests_begin(&t, CAP, 1), BRG_SEEN_NEW);

	t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 0, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_finish(&t, 0, big, 99), 0);
	assert_int_equal(brg_requests_begin(&t, 1, 1), BRG_SEEN_NEW); /* 99 of 100 bytes are kept */
	assert_int_equal(brg_requests_finish(&t, 1, big, 1), 0);
	assert_int_equal(brg_requests_begin(&t, 2, 1), BRG_SEEN_FULL);
}

/* A host without sessions: answered means forgotten, and the id may come again. */
static void test_forgetful(void **state)
{
	(void)state;
	char answer[] = "a";
	struct brg_requests t = fresh(true);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(brg_requests_begin(&t, 0, 1), BRG_SEEN_NEW);
		assert_int_equal(brg_requests_begin(&t, 0, 1), BRG_SEEN_RUNNING);
		assert_int_equal(brg_requests_finish(&t, 0, answer, 1), 0);
		struct brg_request *e = brg_requests_unsent(&t);
		assert_non_null(e);
		assert_ptr_equal(brg_requests_sent(&t, e), answer);
		assert_int_equal(t.n, 0);
	}
}

static void test_drained_requests_answer_nowhere(void **state)
{
	(void)state;
	char answer[] = "a";
	struct brg_requests t = fresh(false);
	assert_int_equal(brg_requests_begin(&t, 0, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_begin(&t, 1, 1), BRG_SEEN_NEW);
	assert_int_equal(brg_requests_finish(&t, 0, answer, 1), 0);
	assert_ptr_equal(brg_requests_drain(&t), answer);
	assert_null(brg_requests_drain(&t));
	assert_int_equal(t.n + t.bytes + t.n_unsent, 0);
	assert_int_equal(brg_requests_finish(&t, 1, answer, 1), -ENOENT);
	assert_int_equal(brg_requests_finish(&t, 0, answer, 1), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_executed_once_answered_once_per_connection),
		cmocka_unit_test(test_asked_again),
		cmocka_unit_test(test_answer_waits_until_asked_for),
		cmocka_unit_test(test_ids_in_order_of_the_host),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_forgetful),
		cmocka_unit_test(test_drained_requests_answer_nowhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
