/* SPDX-License-Identifier: MIT */
/* Every way in which a migration can end, as the trace of what its owner is told to do. */
#include "../../lib/unit.h"
#include "migrate/migrate.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum how { SUCCEED, FAIL, TIME_OUT, CANCEL };

/* Runs a migration whose phase `at` ends as `how`; undos end as `undo`. Returns the trace. */
static const char *run(struct mig *m, enum mig_phase at, enum how how, enum how undo)
{
	static char trace[1024];
	size_t n = 0;
	uint64_t now = 1000;
	const struct hf_err broken = { .code = -EIO, .text = "broken" };
	trace[0] = '\0';
	mig_start(m, MIG_SEAMLESS, now);
	for (;;) {
		enum mig_phase p;
		enum mig_action a = mig_next(m, &p);
		enum how end = a == MIG_UNDO ? undo : p == at ? how : SUCCEED;
		assert_int_not_equal(a, MIG_WAIT);
		assert_int_equal(mig_next(m, &p), MIG_WAIT); /* each action is said once */
		if (a == MIG_FINISHED)
			return trace;
		n += (size_t)snprintf(trace + n, sizeof(trace) - n, "%s%s%s", n ? " " : "",
			a == MIG_UNDO ? "-" : "", mig_phase_name(p));
		now++;
		if (end == CANCEL && mig_cancel(m, now) < 0) {
			n += (size_t)snprintf(trace + n, sizeof(trace) - n, "(no)");
			end = SUCCEED;
		}
		if (end == FAIL)
			mig_fail(m, p, &broken, now);
		if (end == TIME_OUT) {
			mig_tick(m, m->deadline_ms - 1);
			assert_int_equal(mig_next(m, &p), MIG_WAIT);
			now = m->deadline_ms;
			mig_tick(m, now);
		}
		if (end == SUCCEED) {
			mig_done(m, p, now);
			mig_done(m, p, now); /* a late repetition changes nothing */
		}
	}
}

static const char *const way = "prepare setup precopy quiesce save load switchover commit";

static void test_success(void **state)
{
	(void)state;
	struct mig m;
	assert_string_equal(run(&m, MIG_PHASE_N_, SUCCEED, FAIL), way);
	assert_true(m.moved);
	assert_int_equal(m.err.code, 0);
	assert_false(mig_active(&m));
	assert_true(m.ended_ms > m.began_ms[MIG_COMMIT]);
}

/* QEMU completed what was being given up: no further undo, whatever phase was next. */
static void test_moved_after_all(void **state)
{
	(void)state;
	struct mig m;
	enum mig_phase p;
	struct hf_err err;
	mig_start(&m, MIG_SEAMLESS, 1);
	for (int i = MIG_PREPARE; i < MIG_SWITCHOVER; i++) {
		assert_int_equal(mig_next(&m, &p), MIG_ENTER);
		mig_done(&m, p, 2);
	}
	assert_int_equal(mig_next(&m, &p), MIG_ENTER);
	hf_err_set(&err, -ETIMEDOUT, "late");
	mig_fail(&m, MIG_SWITCHOVER, &err, 3);
	while (mig_next(&m, &p) == MIG_UNDO && p != MIG_PRECOPY)
		mig_done(&m, p, 3);
	mig_moved(&m, 4);
	assert_true(m.moved);
	assert_int_equal(mig_next(&m, &p), MIG_FINISHED);
	assert_int_equal(mig_next(&m, &p), MIG_WAIT);
	assert_int_equal(m.err.code, -ETIMEDOUT);
	m.moved = false;
	mig_moved(&m, 5); /* it is over */
	assert_false(m.moved);
}

static const char *const after_failure[MIG_PHASE_N_] = {
	"prepare -prepare",
	"prepare setup -prepare",
	"prepare setup precopy -precopy -prepare",
	"prepare setup precopy quiesce -quiesce -precopy -prepare",
	"prepare setup precopy quiesce save -quiesce -precopy -prepare",
	"prepare setup precopy quiesce save load -load -quiesce -precopy -prepare",
	("prepare setup precopy quiesce save load switchover "
	 "-switchover -load -quiesce -precopy -prepare"),
	"prepare setup precopy quiesce save load switchover commit",
};

/* Every failure at every phase, with undos that work, fail, and hang. */
static void test_failures_run_the_undos_in_reverse(void **state)
{
	(void)state;
	static const enum how undos[] = { SUCCEED, FAIL, TIME_OUT };
	for (int p = 0; p < MIG_PHASE_N_; p++)
		for (int h = FAIL; h <= TIME_OUT; h++)
			for (size_t u = 0; u < HF_ARRAY_SIZE(undos); u++) {
				struct mig m;
				assert_string_equal(
					run(&m, (enum mig_phase)p, (enum how)h, undos[u]),
					after_failure[p]);
				assert_int_equal(m.err.code, h == FAIL ? -EIO : -ETIMEDOUT);
				assert_int_equal(m.moved, p == MIG_COMMIT);
				assert_int_equal(
					strncmp(m.err.text, mig_phase_name((enum mig_phase)p),
						strlen(mig_phase_name((enum mig_phase)p))),
					0);
				assert_int_equal(m.undo_failures > 0,
					undos[u] != SUCCEED && p != MIG_COMMIT);
			}
}

static void test_cancel_until_switchover(void **state)
{
	(void)state;
	for (int p = 0; p < MIG_PHASE_N_; p++) {
		struct mig m;
		const char *trace = run(&m, (enum mig_phase)p, CANCEL, SUCCEED);
		if (p < MIG_SWITCHOVER) {
			assert_string_equal(trace, after_failure[p]);
			assert_int_equal(m.err.code, -ECANCELED);
		} else {
			assert_true(m.moved);
			assert_non_null(strstr(trace, "(no)"));
		}
	}
}

static void test_late_and_foreign_tells_change_nothing(void **state)
{
	(void)state;
	struct mig m = { 0 };
	enum mig_phase p;
	const struct hf_err err = { .code = -EIO, .text = "late" };
	assert_int_equal(mig_next(&m, &p), MIG_WAIT); /* before the start */
	mig_done(&m, MIG_PREPARE, 1);
	mig_fail(&m, MIG_PREPARE, &err, 1);
	mig_tick(&m, 1);
	assert_int_equal(mig_cancel(&m, 1), -EBUSY);
	mig_start(&m, MIG_DISRUPTIVE, 1);
	mig_done(&m, MIG_PREPARE, 1); /* before it was given out */
	assert_int_equal(mig_next(&m, &p), MIG_ENTER);
	assert_int_equal(p, MIG_PREPARE);
	mig_fail(&m, MIG_COMMIT, &err, 1);
	mig_done(&m, MIG_COMMIT, 1);
	assert_int_equal(mig_next(&m, &p), MIG_WAIT);
	assert_int_equal(m.phase, MIG_PREPARE);
	/* A cancellation between the end of one phase and the giving out of the next. */
	mig_done(&m, MIG_PREPARE, 2);
	assert_int_equal(mig_cancel(&m, 2), 0);
	assert_int_equal(mig_next(&m, &p), MIG_UNDO);
	assert_int_equal(p, MIG_PREPARE);
}

static void test_modes_by_name(void **state)
{
	(void)state;
	enum mig_mode mode;
	assert_int_equal(mig_mode_parse("disruptive", &mode), 0);
	assert_string_equal(mig_mode_name(mode), "disruptive");
	assert_int_equal(mig_mode_parse("Seamless", &mode), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_success),
		cmocka_unit_test(test_moved_after_all),
		cmocka_unit_test(test_failures_run_the_undos_in_reverse),
		cmocka_unit_test(test_cancel_until_switchover),
		cmocka_unit_test(test_late_and_foreign_tells_change_nothing),
		cmocka_unit_test(test_modes_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
