/* SPDX-License-Identifier: MIT */
/* Streams of the client against a dialling end in the same thread; killing and moving the client.
 */
#include "far.h"
#include <sys/un.h>

static void start_exec(struct world *w, struct hf_guest_stream **in, struct hf_guest_stream **out)
{
	fake_connect(w, "new");
	hf_guest_stream_new(w->g, true, "in", NULL, in);
	hf_guest_stream_new(w->g, false, "out", NULL, out);
	struct hf_guest_exec e = { .container = "c1",
		.oci_process_json = "{\"args\":[\"cat\"]}",
		.in = *in,
		.out = *out };
	assert_int_equal(hf_guest_exec(w->g, NULL, &e), 1);
	expect_frame(w, BRG_EXECUTE_PROCESS, 1);
	assert_non_null(strstr(w->body, "\"StdIn\":1073741825"));
	assert_non_null(strstr(w->body, hf_guest_stream_token(*in)));
	assert_non_null(strstr(w->body, hf_guest_stream_token(*out)));
	w->log[0] = '\0';
}

static void test_both_ways_to_the_end(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far fin, fout;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&fin, hf_guest_stream_token(in), false);
	far_init(&fout, hf_guest_stream_token(out), true);
	far_dial(&w, &fin);
	far_dial(&w, &fout);
	far_write(&fout, "hello");
	far_run(&w, &fout, 7);
	assert_int_equal(hf_guest_stream_write(in, "input", 5), 5);
	hf_guest_stream_end(in);
	far_run(&w, &fin, 7);
	take(out, "hello");
	rs_end(&fout.rs);
	far_run(&w, &fout, 500);
	assert_int_equal(rs_tx_acked(&fout.rs), 5);
	assert_int_equal(hf_guest_stream_take_end(out), 0);
	rs_take(&fin.rs, 5);
	rs_take_end(&fin.rs);
	far_run(&w, &fin, 500);
	far_run(&w, &fout, 500);
	expect_log(&w, "out: readable\nout: ended\nin: finished\nout: finished\n");
	assert_true(rs_over(&fin.rs) && rs_over(&fout.rs));
	assert_int_equal(rs_state(&fout.rs), RS_FINISHED);
	hf_guest_stream_free(in);
	hf_guest_stream_free(out);
	world_pump(&w);
	assert_non_null(strstr(w.saved, "\"Streams\":[]"));
	fd_closep(&fin.fd);
	fd_closep(&fout.fd);
	world_done(&w);
}

static void test_back_pressure_and_redial(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far fin, fout;
	static char much[TEST_WINDOW + 10];
	memset(much, 'm', sizeof(much));
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&fin, hf_guest_stream_token(in), false);
	far_init(&fout, hf_guest_stream_token(out), true);
	assert_int_equal(hf_guest_stream_write(in, much, sizeof(much)), TEST_WINDOW);
	far_dial(&w, &fin);
	far_run(&w, &fin, 500);
	expect_log(&w, ""); /* not taken, not writable */
	rs_take(&fin.rs, 100);
	far_run(&w, &fin, 500);
	expect_log(&w, "in: writable\n");
	assert_int_equal(hf_guest_stream_acked(in), 100);
	far_dial(&w, &fin); /* displaces */
	far_run(&w, &fin, 3);
	assert_int_equal(hf_ring_len(&fin.rs.rx), TEST_WINDOW - 100);
	/* garbage ends the connection, not the stream */
	far_dial(&w, &fout);
	far_run(&w, &fout, 500);
	assert_int_equal(send(fout.fd, much, 64, MSG_NOSIGNAL), 64);
	world_pump(&w);
	far_dial(&w, &fout);
	far_write(&fout, "alive");
	far_run(&w, &fout, 500);
	take(out, "alive");
	fd_closep(&fin.fd);
	fd_closep(&fout.fd);
	world_done(&w);
}

static void test_unknown_token_and_failed_request(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far f;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&f, "00112233445566778899aabbccddeeff", true);
	far_dial(&w, &f);
	far_run(&w, &f, 500);
	assert_int_equal(rs_state(&f.rs), RS_UNKNOWN);
	fake_answer(&w, BRG_EXECUTE_PROCESS, 1,
		"{\"Result\":-1070137074,\"ErrorMessage\":\"no container\"}");
	expect_log(&w, "answer 1  code=-2 pid=0 exit=0 no container\n"
		       "in: dead no container\nout: dead no container\n");
	assert_int_equal(hf_guest_stream_write(in, "x", 1), -EPIPE);
	fd_closep(&f.fd);
	/* noise at the door */
	for (int i = 0; i < 300; i++) {
		f.fd = fake_dial(&w, 0x40000001);
		assert_int_equal(send(f.fd, i % 2 ? "HFS1" : "nonsense", 4, 0), 4);
		world_pump(&w);
		if (i % 3 == 0)
			fd_closep(&f.fd);
		else
			f.fd = -1; /* left open */
	}
	world_done(&w);
}

/* Until the end is saved the guest does not hear our last word: it would forget the stream. */
static void test_last_word_waits_for_the_state(void **state)
{
	(void)state;
	for (int reset = 0; reset < 2; reset++) {
		struct world w;
		struct hf_guest_stream *in, *out;
		struct far f;
		world_init(&w);
		start_exec(&w, &in, &out);
		far_init(&f, hf_guest_stream_token(in), false);
		far_dial(&w, &f);
		if (reset)
			rs_reset(&f.rs, 32);
		else
			hf_guest_stream_end(in);
		w.save_result = -ENOSPC;
		far_run(&w, &f, 500);
		if (!reset)
			rs_take_end(&f.rs);
		far_run(&w, &f, 500);
		expect_log(&w, reset ? "in: dead reset: 32\n" : "in: finished\n");
		assert_false(rs_over(&f.rs));
		far_dial(&w, &f); /* nor on another connection */
		uint8_t b;
		(void)!send(f.fd, "HFS1", 4, MSG_NOSIGNAL);
		world_pump(&w);
		assert_true(recv(f.fd, &b, 1, MSG_DONTWAIT) < 0);
		w.save_result = 0;
		usleep((useconds_t)hf_guest_timeout_us(w.g) + 1000);
		world_pump(&w);
		assert_null(strstr(w.saved, "\"Tag\":\"in\""));
		far_dial(&w, &f);
		far_run(&w, &f, 500);
		assert_true(rs_over(&f.rs));
		fd_closep(&f.fd);
		world_done(&w);
	}
}

static void test_reset_by_the_guest(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far f;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&f, hf_guest_stream_token(in), false);
	far_dial(&w, &f);
	rs_reset(&f.rs, 32);
	far_run(&w, &f, 500);
	expect_log(&w, "in: dead reset: 32\n");
	assert_true(rs_over(&f.rs));
	fd_closep(&f.fd);
	world_done(&w);
}

static void test_killed_client_goes_on(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far fin, fout;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&fin, hf_guest_stream_token(in), false);
	far_init(&fout, hf_guest_stream_token(out), true);
	far_dial(&w, &fin);
	far_dial(&w, &fout);
	far_write(&fout, "0123456789");
	hf_guest_stream_write(in, "abcdefgh", 8);
	far_run(&w, &fin, 500);
	far_run(&w, &fout, 500);
	assert_int_equal(hf_guest_stream_take(out, 4), 0);
	rs_take(&fin.rs, 3);
	world_kill(&w);
	world_start(&w, w.saved);
	in = find(&w, "in");
	out = find(&w, "out");
	assert_int_equal(hf_guest_stream_set_position(in, 0, false), -EALREADY);
	assert_int_equal(hf_guest_stream_set_position(out, 4, false), 0);
	assert_true(hf_guest_stream_written(in) == UINT64_MAX);
	assert_int_equal(hf_guest_stream_write(in, "x", 1), 0);
	far_dial(&w, &fin);
	far_dial(&w, &fout);
	far_run(&w, &fin, 500);
	far_run(&w, &fout, 500);
	assert_non_null(strstr(w.log, "in: writable"));
	assert_int_equal(hf_guest_stream_acked(in), 3);
	assert_int_equal(hf_guest_stream_written(in), 8);
	take(out, "456789");
	hf_guest_stream_write(in, "ij", 2);
	far_run(&w, &fin, 500);
	char got[8];
	assert_int_equal(hf_ring_peek(&fin.rs.rx, 0, got, 8), 7);
	assert_memory_equal(got, "defghij", 7);
	fd_closep(&fin.fd);
	fd_closep(&fout.fd);
	world_done(&w);
}

/* What a device does: the old connection's bytes are read out, and it goes on at another socket. */
static int far_hand_over(struct far *f)
{
	uint8_t buf[2 * TEST_WINDOW];
	int pair[2];
	ssize_t n = recv(f->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n > 0)
		assert_int_equal(rs_input(&f->rs, buf, (size_t)n), 0);
	fd_closep(&f->fd);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	f->fd = pair[0];
	return pair[1];
}

static void send_part(struct far *f, size_t n)
{
	struct iovec iov[RS_OUTPUT_IOV];
	while (n > 0 && rs_output(&f->rs, iov) > 0) {
		size_t k = HF_MIN(n, iov[0].iov_len);
		assert_int_equal(send(f->fd, iov[0].iov_base, k, 0), k);
		rs_sent(&f->rs, k);
		n -= k;
	}
}

/* Live connections are moved in the middle of frames; nothing is negotiated or dialled again. */
static void test_connections_move(void **state)
{
	(void)state;
	for (int cancelled = 0; cancelled < 2; cancelled++) {
		struct world w;
		struct hf_guest_stream *in, *out;
		struct far fin, fout;
		struct hf_err err;
		struct hf_guest_connection c;
		world_init(&w);
		start_exec(&w, &in, &out);
		far_init(&fin, hf_guest_stream_token(in), false);
		far_init(&fout, hf_guest_stream_token(out), true);
		far_dial(&w, &fin);
		far_dial(&w, &fout);
		far_run(&w, &fin, 500);
		far_run(&w, &fout, 500);
		far_write(&fout, "0123456789");
		send_part(&fout, RS_FRAME_SIZE + 5);
		hf_guest_stream_write(in, "abcdef", 6);
		uint8_t h[16];
		le32_to(h, brg_answer_type(BRG_EXECUTE_PROCESS));
		le32_to(h + 4, 16 + 12);
		le64_to(h + 8, 1);
		assert_int_equal(send(w.fd, h, 9, 0), 9);
		assert_int_equal(hf_guest_connection(w.g, 0, &c), -EBUSY);
		assert_int_equal(hf_guest_quiesce(w.g, &err), 0);
		assert_int_equal(hf_guest_timeout_us(w.g), -1);
		int fd_bridge = -1;
		if (cancelled) {
			assert_int_equal(hf_guest_resume_here(w.g), 0);
			assert_int_equal(hf_guest_resume_here(w.g), -EALREADY);
		} else {
			char *moved = hf_guest_state(w.g);
			world_kill(&w);
			world_start(&w, moved);
			free(moved);
			assert_int_equal(hf_guest_connection(w.g, 0, &c), 0);
			assert_string_equal(c.key, "bridge");
			assert_int_equal(hf_guest_connection(w.g, 2, &c), 0);
			assert_int_equal(hf_guest_connection(w.g, 3, &c), -ENOENT);
			in = find(&w, "in");
			out = find(&w, "out");
			int pair[2];
			assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
			fd_closep(&w.fd);
			w.fd = pair[0];
			fd_bridge = pair[1];
			assert_int_equal(hf_guest_adopt_connection(w.g, "bridge", fd_bridge), 0);
			assert_int_equal(
				hf_guest_adopt_connection(w.g, "bridge", fd_bridge), -EALREADY);
			assert_int_equal(
				hf_guest_adopt_connection(w.g, "nonsense", fd_bridge), -ENOENT);
			assert_int_equal(hf_guest_adopt_connection(w.g, hf_guest_stream_token(in),
						 far_hand_over(&fin)),
				0);
			assert_int_equal(hf_guest_adopt_connection(w.g, hf_guest_stream_token(out),
						 far_hand_over(&fout)),
				0);
			assert_int_equal(hf_guest_resume_here(w.g), 0);
		}
		w.log[0] = '\0';
		assert_int_equal(send(w.fd, h + 9, 7, 0), 7);
		assert_int_equal(send(w.fd, "{\"Result\":0}", 12, 0), 12);
		far_run(&w, &fin, 500);
		far_run(&w, &fout, 500);
		take(out, "0123456789");
		char got[8];
		assert_int_equal(hf_ring_peek(&fin.rs.rx, 0, got, 8), 6);
		assert_memory_equal(got, "abcdef", 6);
		assert_non_null(strstr(w.log, "answer 1  code=0"));
		assert_null(strstr(w.log, "negotiated"));
		assert_null(strstr(w.log, "lost"));
		assert_true(hf_guest_is_connected(w.g));
		hf_guest_start(w.g, NULL, "c2");
		do
			assert_true(fake_read(&w));
		while (w.type == BRG_ACKNOWLEDGE);
		assert_int_equal(w.type, BRG_START);
		assert_int_equal(w.id, 2);
		fd_closep(&fin.fd);
		fd_closep(&fout.fd);
		world_done(&w);
	}
}

/* A connection that the destination does not get is redialled. */
static void test_what_is_not_handed_over_is_redialled(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far fout;
	struct hf_err err;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&fout, hf_guest_stream_token(out), true);
	far_dial(&w, &fout);
	far_write(&fout, "0123456789");
	far_run(&w, &fout, 500);
	assert_int_equal(hf_guest_stream_take(out, 4), 0);
	assert_int_equal(hf_guest_quiesce(w.g, &err), 0);
	char *moved = hf_guest_state(w.g);
	world_kill(&w);
	world_start(&w, moved);
	free(moved);
	assert_int_equal(hf_guest_resume_here(w.g), 0);
	out = find(&w, "out");
	take(out, "456789"); /* was in the window that moved */
	assert_false(hf_guest_is_connected(w.g));
	fake_connect(&w, "resumed");
	expect_frame(&w, BRG_EXECUTE_PROCESS, 1);
	far_dial(&w, &fout);
	far_write(&fout, "more");
	far_run(&w, &fout, 500);
	take(out, "more");
	assert_int_equal(rs_tx_acked(&fout.rs), 10);
	fd_closep(&fout.fd);
	world_done(&w);
}

static void test_tuple_by_name(void **state)
{
	(void)state;
	struct world w;
	struct hf_guest_stream *in, *out;
	struct far f;
	struct hf_err err;
	struct hf_guest_connection c;
	world_init(&w);
	start_exec(&w, &in, &out);
	far_init(&f, hf_guest_stream_token(out), true);
	struct sockaddr_un me = { .sun_family = AF_UNIX }, to = { .sun_family = AF_UNIX };
	int n = snprintf(me.sun_path + 1, sizeof(me.sun_path) - 1,
		"holdfast:4:49152:1073741825:%d-1", getpid());
	snprintf(to.sun_path, sizeof(to.sun_path), "%s_1073741825", w.base);
	f.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f.fd, (struct sockaddr *)&me,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)),
		0);
	assert_int_equal(connect(f.fd, (struct sockaddr *)&to, sizeof(to)), 0);
	rs_attach(&f.rs);
	far_run(&w, &f, 500);
	assert_int_equal(hf_guest_quiesce(w.g, &err), 0);
	assert_int_equal(hf_guest_connection(w.g, 0, &c), 0);
	assert_int_equal(c.guest_cid + c.guest_port + c.host_port, 0); /* nobody told */
	assert_int_equal(hf_guest_connection(w.g, 1, &c), 0);
	assert_string_equal(c.key, hf_guest_stream_token(out));
	assert_int_equal(c.guest_cid, 4);
	assert_int_equal(c.guest_port, 49152);
	assert_int_equal(c.host_port, 1073741825);
	fd_closep(&f.fd);
	world_done(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways_to_the_end),
		cmocka_unit_test(test_back_pressure_and_redial),
		cmocka_unit_test(test_unknown_token_and_failed_request),
		cmocka_unit_test(test_last_word_waits_for_the_state),
		cmocka_unit_test(test_reset_by_the_guest),
		cmocka_unit_test(test_killed_client_goes_on),
		cmocka_unit_test(test_connections_move),
		cmocka_unit_test(test_what_is_not_handed_over_is_redialled),
		cmocka_unit_test(test_tuple_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
