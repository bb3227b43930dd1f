/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "bridge/publisher.h"

static int send_all(struct brg_publisher *p)
{
	int n = 0;
	for (struct brg_note *note; (note = brg_publisher_unsent(p)); n++)
		note->sent = true;
	return n;
}

static void test_kept_until_acknowledged(void **state)
{
	(void)state;
	struct brg_publisher p;
	struct brg_note a = { 0 }, b = { 0 };
	brg_publisher_init(&p);
	brg_publisher_begin(&p, true);
	assert_int_equal(brg_publisher_next_seq(&p), 1);
	assert_int_equal(brg_publisher_publish(&p, &a), BRG_PUBLISH_KEPT); /* no bridge is up */
	assert_int_equal(a.seq, 1);
	assert_int_equal(send_all(&p), 0);
	brg_publisher_up(&p);
	assert_int_equal(send_all(&p), 1);
	assert_int_equal(brg_publisher_publish(&p, &b), BRG_PUBLISH_KEPT);
	assert_int_equal(send_all(&p), 1);
	brg_publisher_down(&p);
	brg_publisher_up(&p); /* both again */
	assert_int_equal(send_all(&p), 2);
	assert_ptr_equal(brg_publisher_pop(&p, 1), &a);
	assert_null(brg_publisher_pop(&p, 1));
	brg_publisher_up(&p);
	assert_int_equal(send_all(&p), 1);
	assert_ptr_equal(brg_publisher_pop(&p, UINT64_MAX), &b);
	assert_int_equal(p.n, 0);
	assert_int_equal(brg_publisher_next_seq(&p), 3); /* numbers are not used again */
}

static void test_other_hosts_get_it_now_or_never(void **state)
{
	(void)state;
	struct brg_publisher p;
	struct brg_note a = { 0 };
	brg_publisher_init(&p);
	brg_publisher_begin(&p, false);
	assert_int_equal(brg_publisher_next_seq(&p), 0);
	assert_int_equal(brg_publisher_publish(&p, &a), BRG_PUBLISH_DROPPED);
	assert_int_equal(p.dropped, 1);
	brg_publisher_up(&p);
	assert_int_equal(brg_publisher_publish(&p, &a), BRG_PUBLISH_SEND_NOW);
	assert_int_equal(a.seq, 0);
	assert_null(brg_publisher_unsent(&p));
	brg_publisher_down(&p);
	assert_int_equal(brg_publisher_publish(&p, &a), BRG_PUBLISH_DROPPED);
	assert_int_equal(p.dropped, 2);
}

static void test_limit(void **state)
{
	(void)state;
	static struct brg_note notes[BRG_NOTES_MAX + 1];
	struct brg_publisher p;
	brg_publisher_init(&p);
	brg_publisher_begin(&p, true);
	for (size_t i = 0; i < BRG_NOTES_MAX; i++) {
		assert_true(brg_publisher_room(&p, 0));
		assert_int_equal(brg_publisher_publish(&p, &notes[i]), BRG_PUBLISH_KEPT);
	}
	assert_false(brg_publisher_room(&p, 0));
	assert_int_equal(brg_publisher_publish(&p, &notes[BRG_NOTES_MAX]), BRG_PUBLISH_DROPPED);
	assert_ptr_equal(brg_publisher_pop(&p, UINT64_MAX), &notes[0]);
	assert_true(brg_publisher_room(&p, 0));
	assert_false(brg_publisher_room(&p, 1));
	assert_false(brg_publisher_room(&p, SIZE_MAX));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_kept_until_acknowledged),
		cmocka_unit_test(test_other_hosts_get_it_now_or_never),
		cmocka_unit_test(test_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
