/* SPDX-License-Identifier: MIT */
/* What upstream's host is known to do wrong, each with the number that docs/agent.md gives it. */
#include "far.h"

#define OK "{\"Result\":0}"

/* W31: what was not sent when the connection broke is not glued to what comes next. */
static void test_w31_nothing_is_left_in_a_send_buffer(void **state)
{
	(void)state;
	struct world w;
	static char big[600000];
	memset(big, 'x', sizeof(big) - 1);
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), 1);
	for (int i = 0; i < 8; i++) /* more than a socket takes: part of a frame stays behind */
		(void)hf_guest_modify(w.g, NULL, "c1", "{\"x\":1}");
	fd_closep(&w.fd);
	world_pump(&w);
	w.log[0] = '\0';
	fake_connect(&w, "resumed"); /* the first frame is a whole NegotiateProtocol */
	expect_log(&w, "negotiated resumed boot:1 4\n");
	expect_frame(&w, BRG_START, 1);
	world_done(&w);
}

/* W23: the host is told, as it happens and with the exit. */
static void test_w23_kills_for_want_of_memory(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	w.log[0] = '\0';
	fake_frame(&w, BRG_OOM, 0, "{\"ContainerId\":\"c\",\"OomKills\":2}");
	fake_frame(&w, BRG_OOM, 0, "{\"ContainerId\":\"c\",\"OomKills\":-2}");
	fake_frame(&w, BRG_OOM, 0, "[]");
	fake_frame(&w, BRG_NOTIFICATION, 0,
		"{\"ContainerId\":\"c\",\"Type\":\"UnexpectedExit\","
		"\"Holdfast\":{\"Seq\":1,\"OomKills\":3}}");
	expect_log(&w, "oom c 2\nexit c UnexpectedExit 1\nof these killed 3\n");
	world_done(&w);
}

/* W32, W33: what nobody waits for is dropped, and nothing else is. */
static void test_w32_early_answers_and_notifications(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	w.log[0] = '\0';
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 77, "{\"Result\":0,\"ExitCode\":3}");
	fake_frame(&w, BRG_NOTIFICATION, 0,
		"{\"ContainerId\":\"unheard-of\",\"Type\":\"UnexpectedExit\",\"Holdfast\":{\"Seq\":"
		"1}}");
	assert_true(hf_guest_is_connected(w.g));
	expect_log(&w, "exit unheard-of UnexpectedExit 1\n");
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), 1);
	while (fake_read(&w) && w.type != BRG_START) /* acknowledgements */
		;
	fake_answer(&w, BRG_START, 1, OK);
	expect_log(&w, "answer 1  code=0 pid=0 exit=0 \n");
	world_done(&w);
}

static void test_w33_one_bad_message_is_one_bad_message(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), 1);
	assert_int_equal(hf_guest_start(w.g, NULL, "c2"), 2);
	w.log[0] = '\0';
	fake_frame(&w, BRG_OOM, 0, "{\"ContainerId\":\"c1\",\"OomKills\":1}"); /* unknown to it */
	fake_answer(&w, BRG_START, 1, "{\"Result\":0,\"ActivityId\":\"no guid\"}");
	fake_answer(&w, BRG_START, 2, "no json");
	assert_true(hf_guest_is_connected(w.g));
	assert_non_null(strstr(w.log, "answer 1  code=0"));
	assert_non_null(strstr(w.log, "answer 2  code=-74"));
	world_done(&w);
}

/* W34: a request that takes long is no reason to end the bridge. */
static void test_w34_slow_requests_do_not_end_the_bridge(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	struct hf_guest_call call = { .tag = "slow" };
	assert_int_equal(hf_guest_wait(w.g, &call, "c1", 7, UINT32_MAX), 1);
	w.log[0] = '\0';
	for (int i = 0; i < 3; i++) {
		fd_closep(&w.fd);
		world_pump(&w);
		fake_connect(&w, "resumed");
		expect_frame(&w, BRG_WAIT_FOR_PROCESS, 1);
	}
	w.log[0] = '\0';
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 1, "{\"Result\":0,\"ExitCode\":5}");
	expect_log(&w, "answer 1 slow code=0 pid=0 exit=5 \n");
	world_done(&w);
}

/* W35, W36, W37: exits are not probed for. A wait is asked again under its own number, which is
 * part of the state from the moment it was given, on a host that took over; on one that rolled back
 * it is as it was. */
static void test_w35_w36_w37_waits_need_no_probe(void **state)
{
	(void)state;
	struct world w;
	struct hf_err err;
	world_init(&w);
	fake_connect(&w, "new");
	struct hf_guest_call call = { .tag = "exit" };
	assert_int_equal(hf_guest_wait(w.g, &call, "c1", 7, UINT32_MAX), 1);
	char *at_once = hf_guest_state(w.g);
	world_kill(&w);
	world_start(&w, at_once);
	free(at_once);
	fake_connect(&w, "resumed");
	expect_frame(&w, BRG_WAIT_FOR_PROCESS, 1);
	assert_non_null(strstr(w.body, "4294967295")); /* no timeout of its own */
	expect_nothing(&w);
	w.log[0] = '\0';
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 1, "{\"Result\":0,\"ExitCode\":9}");
	expect_log(&w, "answer 1 exit code=0 pid=0 exit=9 \n");

	assert_int_equal(hf_guest_wait(w.g, &call, "c1", 8, UINT32_MAX), 2);
	assert_int_equal(hf_guest_quiesce(w.g, &err), 0);
	while (fake_read(&w) && w.type != BRG_WAIT_FOR_PROCESS) /* an acknowledgement */
		;
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 2, "{\"Result\":0,\"ExitCode\":4}");
	expect_log(&w, "");
	assert_int_equal(hf_guest_resume_here(w.g), 0);
	world_pump(&w);
	expect_log(&w, "answer 2 exit code=0 pid=0 exit=4 \n");
	while (fake_read(&w))
		assert_int_equal(w.type, BRG_ACKNOWLEDGE);
	world_done(&w);
}

/* W38: an exit that is not known is an error, not exit code 0. */
static void test_w38_unknown_is_not_zero(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_wait(w.g, NULL, "c1", 7, UINT32_MAX), 1);
	expect_frame(&w, BRG_WAIT_FOR_PROCESS, 1);
	w.log[0] = '\0';
	fake_answer(
		&w, BRG_WAIT_FOR_PROCESS, 1, "{\"Result\":-2147023728,\"ErrorMessage\":\"none\"}");
	assert_non_null(strstr(w.log, "answer 1  code=-"));
	world_done(&w);
}

/* W39: a host that waits for its guest is woken by the guest. */
static void test_w39_a_parked_host_goes_on_by_itself(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), 1);
	world_pump(&w); /* it is sent, and lost */
	fd_closep(&w.fd);
	world_pump(&w);
	assert_false(hf_guest_is_connected(w.g));
	w.log[0] = '\0';
	fake_connect(&w, "resumed");
	assert_true(hf_guest_is_connected(w.g));
	expect_frame(&w, BRG_START, 1); /* nobody had to say so */
	world_done(&w);
}

/* W40: an exec, and its streams, are part of the state as all else is. W41: streams have tokens, so
 * they share one port, whose listener stays. */
static void test_w40_w41_execs_are_carried_over(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *out;
	struct far far;
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_stream_new(w.g, false, "the output", NULL, &out), 0);
	struct hf_guest_exec e = { .container = "c1", .out = out };
	struct hf_guest_call call = { .tag = "the exec" };
	assert_int_equal(hf_guest_exec(w.g, &call, &e), 1);
	world_pump(&w);
	world_kill(&w);
	world_start(&w, w.saved);
	out = find(&w, "the output");
	assert_int_equal(hf_guest_stream_set_position(out, 0, false), 0);
	fake_connect(&w, "resumed");
	expect_frame(&w, BRG_EXECUTE_PROCESS, 1);
	assert_non_null(strstr(w.body, "HoldfastStreams"));
	assert_non_null(strstr(w.body, "\"StdOut\":1073741825"));
	w.log[0] = '\0';
	fake_answer(&w, BRG_EXECUTE_PROCESS, 1, "{\"Result\":0,\"ProcessId\":12}");
	expect_log(&w, "answer 1 the exec code=0 pid=12 exit=0 \n");
	far_init(&far, hf_guest_stream_token(out), true);
	far_dial(&w, &far);
	far_write(&far, "what it says");
	far_run(&w, &far, 500);
	take(out, "what it says");
	fd_closep(&far.fd);
	world_done(&w);
}

/* W42: a guest that does not know the session is not taken for the one that did. */
static void test_w42_another_guest_is_noticed(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), 1);
	fd_closep(&w.fd);
	world_pump(&w);
	w.log[0] = '\0';
	fake_connect(&w, "unknown");
	assert_non_null(strstr(w.log, "negotiated unknown"));
	assert_non_null(strstr(w.log, "answer 1  code=-")); /* not sent to a stranger */
	expect_nothing(&w);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_w31_nothing_is_left_in_a_send_buffer),
		cmocka_unit_test(test_w23_kills_for_want_of_memory),
		cmocka_unit_test(test_w32_early_answers_and_notifications),
		cmocka_unit_test(test_w33_one_bad_message_is_one_bad_message),
		cmocka_unit_test(test_w34_slow_requests_do_not_end_the_bridge),
		cmocka_unit_test(test_w35_w36_w37_waits_need_no_probe),
		cmocka_unit_test(test_w38_unknown_is_not_zero),
		cmocka_unit_test(test_w39_a_parked_host_goes_on_by_itself),
		cmocka_unit_test(test_w40_w41_execs_are_carried_over),
		cmocka_unit_test(test_w42_another_guest_is_noticed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
