/* SPDX-License-Identifier: MIT */
/* The bridge's side of the client: docs/bridge.md rule by rule, against a guest that frames. */
#include "fake.h"

#define OK "{\"Result\":0}"

static void test_new_session_request_answer_ack(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	assert_int_equal(hf_guest_start(w.g, NULL, "c1"), -ENOTCONN);
	w.fd = fake_dial(&w, BRG_PORT);
	expect_frame(&w, BRG_NEGOTIATE, 0);
	json_t *j = json_loads(w.body, 0, NULL);
	json_t *h = json_object_get(j, "Holdfast");
	assert_int_equal(json_integer_value(json_object_get(j, "MaximumVersion")), 4);
	assert_int_equal(json_string_length(json_object_get(h, "Session")), 32);
	assert_true(json_is_false(json_object_get(h, "Resume")));
	json_decref(j);
	fake_connect(&w, "new");
	expect_log(&w, "lost: the guest closed the connection\nnegotiated new boot:1 4\n");
	struct hf_guest_call call = { .tag = "mine" };
	assert_int_equal(hf_guest_start(w.g, &call, "c1"), 1);
	assert_int_equal(hf_guest_wait(w.g, NULL, "c1", 7, UINT32_MAX), 2);
	expect_frame(&w, BRG_START, 1);
	assert_string_equal(w.body,
		"{\"ContainerId\":\"c1\",\"ActivityId\":\"00000000-0000-0000-0000-000000000000\"}");
	expect_frame(&w, BRG_WAIT_FOR_PROCESS, 2);
	expect_nothing(&w);
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 2, "{\"Result\":0,\"ExitCode\":137}");
	fake_answer(&w, BRG_START, 1, "{\"Result\":-1070137074,\"ErrorMessage\":\"no such\"}");
	expect_log(&w, "answer 2  code=0 pid=0 exit=137 \n"
		       "answer 1 mine code=-2 pid=0 exit=0 no such\n");
	expect_frame(&w, BRG_ACKNOWLEDGE, 0);
	assert_string_equal(w.body, "{\"Answers\":[2],\"Notifications\":0}");
	expect_frame(&w, BRG_ACKNOWLEDGE, 0);
	assert_string_equal(w.body, "{\"Answers\":[1],\"Notifications\":0}");
	world_done(&w);
}

static void test_resumed_session_sends_again(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	hf_guest_start(w.g, NULL, "c1");
	hf_guest_start(w.g, NULL, "c2");
	hf_guest_start(w.g, NULL, "c3");
	for (int i = 1; i <= 3; i++)
		expect_frame(&w, BRG_START, (uint64_t)i);
	fake_answer(&w, BRG_START, 2, OK);
	fd_closep(&w.fd); /* with the acknowledgement unread */
	world_pump(&w);
	hf_guest_start(w.g, NULL, "c4");
	w.log[0] = '\0';
	fake_connect(&w, "resumed");
	expect_log(&w, "negotiated resumed boot:1 4\n");
	expect_frame(&w, BRG_ACKNOWLEDGE, 0); /* again */
	assert_string_equal(w.body, "{\"Answers\":[2],\"Notifications\":0}");
	expect_frame(&w, BRG_START, 1);
	expect_frame(&w, BRG_START, 3);
	expect_frame(&w, BRG_START, 4);
	fake_answer(&w, BRG_START, 2, OK); /* nobody waits for it */
	fake_answer(&w, BRG_START, 4, OK); /* was sent after the acknowledgement: that is proven */
	expect_log(&w, "answer 4  code=0 pid=0 exit=0 \n");
	expect_frame(&w, BRG_ACKNOWLEDGE, 0);
	assert_string_equal(w.body, "{\"Answers\":[4],\"Notifications\":0}");
	assert_null(strstr(w.saved, "\"Acknowledge\":[2"));
	world_done(&w);
}

static void test_unknown_session_fails_everything_at_once(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	struct hf_guest_stream *out;
	assert_int_equal(hf_guest_stream_new(w.g, false, "out", NULL, &out), 0);
	struct hf_guest_exec e = { .container = "c1", .out = out };
	assert_int_equal(hf_guest_exec(w.g, NULL, &e), 1);
	assert_int_equal(hf_guest_exec(w.g, NULL, &e), -EINVAL); /* a stream is used once */
	hf_guest_start(w.g, NULL, "c2");
	w.log[0] = '\0';
	world_pump(&w);
	fake_connect(&w, "unknown");
	assert_non_null(strstr(w.log, "answer 1  code=-116"));
	assert_non_null(strstr(w.log, "answer 2  code=-116"));
	assert_non_null(strstr(w.log, "negotiated unknown boot:1 4\n"));
	assert_non_null(strstr(w.log, "out: dead unknown session\n"));
	expect_nothing(&w);
	assert_int_equal(hf_guest_start(w.g, NULL, "c3"), 3); /* ids go on */
	expect_frame(&w, BRG_START, 3);
	world_done(&w);
}

static void test_nothing_leaves_before_it_is_saved(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	w.save_result = -ENOSPC;
	hf_guest_start(w.g, NULL, "c1");
	expect_nothing(&w);
	unsigned saves = w.saves;
	expect_nothing(&w);
	assert_int_equal(w.saves, saves); /* not asked again at once ... */
	int64_t wait = hf_guest_timeout_us(w.g);
	assert_true(wait > 0 && wait <= 1000000);
	w.save_result = 0;
	usleep((useconds_t)wait + 1000);
	expect_frame(&w, BRG_START, 1); /* ... but a second later */
	assert_non_null(strstr(w.saved, "\"Id\":1,"));
	world_done(&w);
}

static void test_killed_and_resumed_from_the_state(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	struct hf_guest_call call = { .tag = "the wait" };
	hf_guest_wait(w.g, &call, "c1", 7, UINT32_MAX);
	hf_guest_start(w.g, NULL, "c1");
	expect_frame(&w, BRG_WAIT_FOR_PROCESS, 1);
	expect_frame(&w, BRG_START, 2);
	fake_answer(&w, BRG_START, 2, OK);
	fake_frame(&w, BRG_NOTIFICATION, 0,
		"{\"ContainerId\":\"c0\",\"Type\":\"UnexpectedExit\",\"Holdfast\":{\"Seq\":1}}");
	world_kill(&w);
	world_start(&w, w.saved);
	assert_int_equal(hf_guest_start(w.g, NULL, "c3"), 3); /* before it is connected */
	fd_closep(&w.fd);
	w.fd = fake_dial(&w, BRG_PORT);
	expect_frame(&w, BRG_NEGOTIATE, 0);
	assert_non_null(strstr(w.body, "\"Resume\":true"));
	fake_connect(&w, "resumed");
	expect_frame(&w, BRG_ACKNOWLEDGE, 0);
	assert_string_equal(w.body, "{\"Answers\":[2],\"Notifications\":1}");
	expect_frame(&w, BRG_WAIT_FOR_PROCESS, 1);
	expect_frame(&w, BRG_START, 3);
	w.log[0] = '\0';
	fake_frame(&w, BRG_NOTIFICATION, 0,
		"{\"ContainerId\":\"c0\",\"Type\":\"UnexpectedExit\",\"Holdfast\":{\"Seq\":1}}");
	fake_frame(&w, BRG_NOTIFICATION, 0,
		"{\"ContainerId\":\"c1\",\"Type\":\"ForcedExit\",\"Holdfast\":{\"Seq\":2}}");
	fake_answer(&w, BRG_WAIT_FOR_PROCESS, 1, "{\"Result\":0,\"ExitCode\":3}");
	expect_log(&w, "exit c1 ForcedExit 2\nanswer 1 the wait code=0 pid=0 exit=3 \n");
	world_done(&w);
}

static void test_upstream_guest(void **state)
{
	(void)state;
	struct world w;
	char buf[64];
	world_init(&w);
	fake_connect(&w, NULL);
	expect_log(&w, "negotiated upstream  0\n");
	struct hf_guest_stream *in, *out;
	hf_guest_stream_new(w.g, true, "in", NULL, &in);
	hf_guest_stream_new(w.g, false, "out", NULL, &out);
	struct hf_guest_exec e = { .container = "c1", .in = in, .out = out };
	assert_int_equal(hf_guest_exec(w.g, NULL, &e), 1);
	expect_frame(&w, BRG_EXECUTE_PROCESS, 1);
	assert_non_null(strstr(w.body,
		"\"VsockStdioRelaySettings\":{\"StdIn\":1073741826,\"StdOut\":1073741827}"));
	assert_null(strstr(w.body, "HoldfastStreams"));
	int fin = fake_dial(&w, 0x40000002), fout = fake_dial(&w, 0x40000003);
	fake_answer(&w, BRG_EXECUTE_PROCESS, 1, "{\"Result\":0,\"ProcessId\":9}");
	expect_log(&w, "answer 1  code=0 pid=9 exit=0 \n");
	expect_nothing(&w); /* no acknowledgement */
	assert_int_equal(hf_guest_stream_write(in, "hello", 5), 5);
	hf_guest_stream_end(in);
	world_pump(&w);
	assert_int_equal(recv(fin, buf, sizeof(buf), 0), 5);
	assert_int_equal(recv(fin, buf, sizeof(buf), 0), 0);
	assert_int_equal(send(fout, "world", 5, 0), 5);
	shutdown(fout, SHUT_WR);
	world_pump(&w);
	struct iovec iov[2];
	assert_int_equal(hf_guest_stream_read(out, iov), 1);
	assert_memory_equal(iov[0].iov_base, "world", 5);
	hf_guest_stream_take(out, 5);
	world_pump(&w);
	assert_int_equal(recv(fout, buf, 1, MSG_DONTWAIT), -1); /* the host has not closed yet */
	assert_int_equal(hf_guest_stream_take_end(out), 0);
	world_pump(&w);
	assert_int_equal(recv(fout, buf, 1, MSG_DONTWAIT), 0);
	assert_non_null(strstr(w.log, "out: ended"));
	assert_non_null(strstr(w.log, "out: finished"));
	hf_guest_start(w.g, NULL, "c2");
	world_pump(&w);
	w.log[0] = '\0';
	fd_closep(&w.fd);
	world_pump(&w);
	assert_non_null(strstr(w.log, "answer 2  code=-104"));
	assert_non_null(strstr(w.log, "lost: "));
	assert_int_equal(hf_guest_start(w.g, NULL, "c2"), -ENOTCONN);
	fd_closep(&fin);
	fd_closep(&fout);
	world_done(&w);
}

static void test_malformed_frames_end_the_connection(void **state)
{
	(void)state;
	static const uint32_t sizes[] = { 0, 15, (16u << 20) + 1, UINT32_MAX };
	struct world w;
	world_init(&w);
	for (size_t i = 0; i < HF_ARRAY_SIZE(sizes); i++) {
		uint8_t h[16] = { 1, 1, 0x10, 0x20 };
		le32_to(h + 4, sizes[i]);
		fake_connect(&w, i == 0 ? "new" : "resumed");
		w.log[0] = '\0';
		assert_int_equal(send(w.fd, h, 16, 0), 16);
		world_pump(&w);
		assert_non_null(strstr(w.log, "lost: the guest sent a frame of"));
		assert_false(hf_guest_is_connected(w.g));
	}
	world_done(&w);
}

static void test_strange_frames_are_ignored(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	hf_guest_start(w.g, NULL, "c1");
	hf_guest_start(w.g, NULL, "c2");
	expect_frame(&w, BRG_START, 1);
	w.log[0] = '\0';
	fake_frame(&w, 0x10100101, 5, "{}");   /* a request */
	fake_frame(&w, 0x30100201, 0, "{}");   /* another notification */
	fake_frame(&w, 0xffffffff, 1, "");     /* garbage */
	fake_answer(&w, BRG_START, 99, OK);    /* nobody asked */
	fake_answer(&w, BRG_CREATE, 1, OK);    /* another type */
	fake_answer(&w, BRG_NEGOTIATE, 0, OK); /* a second time */
	fake_frame(&w, BRG_NOTIFICATION, 0, "not json");
	fake_frame(&w, BRG_NOTIFICATION, 0, "[]");
	expect_log(&w, "exit   0\n");
	fake_answer(&w, BRG_START, 1, "\"text\"");
	fake_answer(&w, BRG_START, 2, "{\"Result\":\"wrong\",\"ErrorMessage\":7}");
	expect_log(&w, "answer 1  code=-74 pid=0 exit=0 the guest's answer is not a JSON object\n"
		       "answer 2  code=0 pid=0 exit=0 \n");
	assert_true(hf_guest_is_connected(w.g));
	world_done(&w);
}

static void test_large_answers(void **state)
{
	(void)state;
	struct world w;
	enum { n = 1000000 };
	static char body[n + 64];
	int k = sprintf(body, "{\"Result\":0,\"GuestStacks\":\"");
	memset(body + k, 's', n);
	strcpy(body + k + n, "\"}");
	world_init(&w);
	fake_connect(&w, "new");
	hf_guest_dump_stacks(w.g, NULL);
	expect_frame(&w, BRG_DUMP_STACKS, 1);
	w.log[0] = '\0';
	uint8_t h[16];
	le32_to(h, brg_answer_type(BRG_DUMP_STACKS));
	le32_to(h + 4, (uint32_t)(16 + strlen(body)));
	le64_to(h + 8, 1);
	assert_int_equal(send(w.fd, h, 16, 0), 16);
	for (size_t sent = 0; sent < strlen(body);) {
		ssize_t s = send(w.fd, body + sent, strlen(body) - sent, MSG_DONTWAIT);
		sent += s > 0 ? (size_t)s : 0;
		world_pump(&w);
	}
	expect_log(&w, "answer 1  code=0 pid=0 exit=0 \n");
	fake_connect(&w, NULL); /* upstream: 64 KiB and no more */
	w.log[0] = '\0';
	hf_guest_dump_stacks(w.g, NULL);
	expect_frame(&w, BRG_DUMP_STACKS, 2);
	assert_int_equal(send(w.fd, h, 16, 0), 16);
	world_pump(&w);
	assert_non_null(strstr(w.log, "allowed: 16 to 65536"));
	world_done(&w);
}

static void test_limits(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	for (int i = 0; i < HF_GUEST_REQUESTS_MAX; i++)
		assert_int_equal(hf_guest_start(w.g, NULL, "c"), i + 1);
	assert_int_equal(hf_guest_start(w.g, NULL, "c"), -EBUSY);
	assert_int_equal(hf_guest_request(w.g, NULL, BRG_START, "nonsense"), -EINVAL);
	assert_int_equal(hf_guest_request(w.g, NULL, BRG_NEGOTIATE, "{}"), -EINVAL);
	fd_closep(&w.fd);
	world_done(&w);
	world_init(&w);
	fake_connect(&w, "new");
	for (size_t n = HF_GUEST_REQUEST_MAX; n <= HF_GUEST_REQUEST_MAX + 1; n++) {
		char *body = malloc(n + 1);
		int k = sprintf(body, "{\"ContainerId\":\"c\",\"ActivityId\":\"\",\"X\":\"");
		memset(body + k, 'x', n - (size_t)k);
		strcpy(body + n - 2, "\"}");
		int64_t r = hf_guest_request(w.g, NULL, BRG_START, body);
		assert_int_equal(r, n == HF_GUEST_REQUEST_MAX ? 1 : -EMSGSIZE);
		free(body);
	}
	struct hf_guest_stream *s;
	for (int i = 0; i < HF_GUEST_STREAMS_MAX; i++)
		assert_int_equal(hf_guest_stream_new(w.g, false, "s", NULL, &s), 0);
	assert_int_equal(hf_guest_stream_new(w.g, false, "s", NULL, &s), -EBUSY);
	hf_guest_stream_free(s);
	world_pump(&w);
	assert_int_equal(hf_guest_stream_new(w.g, false, "s", NULL, &s), 0);
	world_done(&w);
}

static void test_damaged_states(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	fake_connect(&w, "new");
	struct hf_guest_stream *s;
	hf_guest_stream_new(w.g, false, "out", NULL, &s);
	struct hf_guest_exec e = { .container = "c", .out = s };
	assert_int_equal(hf_guest_exec(w.g, NULL, &e), 1);
	world_pump(&w);
	struct hf_err err;
	assert_int_equal(hf_guest_quiesce(w.g, &err), 0);
	char *good = hf_guest_state(w.g);
	world_kill(&w);
	size_t n = strlen(good), refused = 0;
	for (size_t i = 0; i < n; i++) {
		char *bad = strdup(good);
		struct hf_guest_config c = {
			.vsock_base = w.base, .state = bad, .window = TEST_WINDOW
		};
		struct hf_guest *g = NULL;
		bad[i] = i % 2 ? '9' : '\0';
		if (hf_guest_new(&c, &g, &err) < 0)
			refused++;
		hf_guest_free(g);
		free(bad);
	}
	assert_true(refused > n / 2);
	free(good);
	world_done(&w);
}

/* It gets its 10 s; without a connection nothing is waited for. */
static void test_a_guest_that_does_not_answer(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	world_pump(&w);
	assert_int_equal(hf_guest_timeout_us(w.g), -1);
	w.fd = fake_dial(&w, BRG_PORT);
	world_pump(&w);
	assert_in_range(hf_guest_timeout_us(w.g), 5000000, 10000000);
	fd_closep(&w.fd);
	world_pump(&w);
	assert_int_equal(hf_guest_timeout_us(w.g), -1);
	world_done(&w);
}

/* Refused before there is a socket. */
static void test_addresses(void **state)
{
	static const char *const bad[] = { "vsock:", "vsock:x", "vsock:2", "vsock:-3", "vsock: 3",
		"vsock:3x", "vsock:4294967295", "vsock:99999999999999999999", "vsock:anyone" };
	(void)state;
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		struct hf_guest_config c = { .vsock_base = bad[i] };
		struct hf_guest *g = NULL;
		struct hf_err err = { 0 };
		assert_int_equal(hf_guest_new(&c, &g, &err), -EINVAL);
		assert_non_null(strstr(err.text, "vsock:CID"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_new_session_request_answer_ack),
		cmocka_unit_test(test_resumed_session_sends_again),
		cmocka_unit_test(test_unknown_session_fails_everything_at_once),
		cmocka_unit_test(test_nothing_leaves_before_it_is_saved),
		cmocka_unit_test(test_killed_and_resumed_from_the_state),
		cmocka_unit_test(test_upstream_guest),
		cmocka_unit_test(test_malformed_frames_end_the_connection),
		cmocka_unit_test(test_strange_frames_are_ignored),
		cmocka_unit_test(test_large_answers),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_damaged_states),
		cmocka_unit_test(test_a_guest_that_does_not_answer),
		cmocka_unit_test(test_addresses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
