/* SPDX-License-Identifier: MIT */
/* The library's client of a supervisor, against one that dies, moves and refuses. One thread: the
 * client never blocks, so the test plays both ends in turn. */
#include "../../lib/unit.h"
#include "base/fd.h"
#include "holdfast/vm.h"
#include "stream/stream.h"
#include <errno.h>
#include <ftw.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

static char dir[32], node[2][40];

static void path_of(int n, const char *file, char path[128])
{
	(void)snprintf(path, 128, "%s/vms/v/%s", node[n], file);
}

static int listen_at(int n)
{
	char path[128];
	int fd = -1;
	path_of(n, "control.sock", path);
	assert_int_equal(unix_listen(path, 0600, 4, &fd), 0);
	return fd;
}

static void stop_listening(int n, int *fd, bool end)
{
	char path[128];
	path_of(n, "control.sock", path);
	fd_closep(fd);
	if (end)
		(void)unlink(path);
}

static void move_to(int from, int to)
{
	char path[128];
	path_of(from, "moved.json", path);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fprintf(f, "{\"to\": \"%s\"}", node[to]);
	assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
	(void)state;
	strcpy(dir, "/tmp/holdfast-test-XXXXXX");
	assert_non_null(mkdtemp(dir));
	for (int i = 0; i < 2; i++) {
		char path[128];
		(void)snprintf(node[i], sizeof(node[i]), "%s/%d", dir, i);
		(void)snprintf(path, sizeof(path), "%s/vms", node[i]);
		assert_int_equal(mkdir(node[i], 0700) | mkdir(path, 0700), 0);
		path_of(i, "", path);
		assert_int_equal(mkdir(path, 0700), 0);
	}
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	(void)state;
	return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int accept_one(int listener)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 2000), 1);
	return accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

/* Steps the client until its request has come here; the request. */
static json_t *receive(struct hf_vm *vm, int listener, int *ret_fd)
{
	char buf[4096];
	const char *json;
	struct hf_err err;
	ssize_t n = -1;
	*ret_fd = -1;
	for (int i = 0; i < 200 && n <= 0; i++) {
		assert_int_equal(hf_vm_step(vm, &json, &err), 0);
		struct pollfd p = { .fd = listener, .events = POLLIN };
		if (*ret_fd < 0 && poll(&p, 1, 10) == 1)
			*ret_fd = accept_one(listener);
		n = *ret_fd < 0 ? -1 : recv(*ret_fd, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	}
	assert_true(n > 0);
	buf[n] = '\0';
	json_t *request = json_loads(buf, 0, NULL);
	assert_non_null(request);
	return request;
}

static void reply(int fd, const char *line)
{
	assert_int_equal(send(fd, line, strlen(line), MSG_NOSIGNAL), strlen(line));
}

static const char *text(json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static void test_a_request_is_sent_again_under_its_key(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	int fd, listener = listen_at(0);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"run\"}", &err), 0);
	json_t *first = receive(vm, listener, &fd);
	assert_int_equal(strlen(text(first, "key")), 32);
	fd_closep(&fd); /* the supervisor dies, */
	stop_listening(0, &listener, false);
	assert_int_equal(hf_vm_step(vm, &json, &err), 0);
	listener = listen_at(0); /* another one comes */
	json_t *second = receive(vm, listener, &fd);
	assert_true(json_equal(first, second));
	reply(fd, "{\"id\":1,\"ok\":false,\"error\":{\"code\":\"EAGAIN\",\"text\":\"moving\"}}\n");
	json_t *third; /* "not now" is no answer either */
	int again;
	third = receive(vm, listener, &again);
	assert_true(json_equal(first, third));
	reply(again, "{\"event\":\"e\"}\n{\"id\":7,\"ok\":true}\n{\"id\":1,\"ok\":true,\"x\":5}\n");
	assert_int_equal(hf_vm_step(vm, &json, &err), 2);
	assert_int_equal(hf_vm_step(vm, &json, &err), 1); /* that of id 7 is not ours */
	assert_non_null(strstr(json, "\"x\":5"));
	json_decref(first);
	json_decref(second);
	json_decref(third);
	fd_closep(&fd);
	fd_closep(&again);
	hf_vm_free(vm);
	stop_listening(0, &listener, true);
}

/* A supervisor that is there, and whose guest is not, is asked again until patience is over. */
static void test_not_now_ends(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	int r = 0, fd = -1, listener = listen_at(0);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	hf_vm_set_patience(vm, 100);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"run\"}", &err), 0);
	for (int i = 0; i < 500 && r == 0; i++) {
		struct pollfd p = { .fd = listener, .events = POLLIN };
		r = hf_vm_step(vm, &json, &err);
		if (poll(&p, 1, 10) == 1) {
			fd_closep(&fd);
			fd = accept_one(listener);
			reply(fd, "{\"id\":1,\"ok\":false,\"error\":{\"code\":\"EAGAIN\",\"text\":"
				  "\"starting\"}}\n");
		}
	}
	assert_int_equal(r, -EAGAIN);
	assert_string_equal(err.text, "starting");
	fd_closep(&fd);
	hf_vm_free(vm);
	stop_listening(0, &listener, true);
}

static void test_a_vm_that_moved_is_followed(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	int fd, a = listen_at(0), b = listen_at(1);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"wait\"}", &err), 0);
	json_decref(receive(vm, a, &fd));
	move_to(0, 1);
	fd_closep(&fd);
	stop_listening(0, &a, true);
	json_t *request = receive(vm, b, &fd);
	assert_string_equal(text(request, "cmd"), "wait");
	assert_null(text(request, "key")); /* asking twice does no harm */
	assert_string_equal(hf_vm_node(vm), node[1]);
	json_decref(request);
	fd_closep(&fd);
	hf_vm_free(vm);
	stop_listening(1, &b, true);
}

static void test_a_circle_of_moves_ends(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	move_to(0, 1);
	move_to(1, 0);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"ps\"}", &err), 0);
	assert_int_equal(hf_vm_step(vm, &json, &err), -ESRCH);
	hf_vm_free(vm);
}

static void test_what_is_not_there_is_told(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "no JSON", &err), -EINVAL);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"ps\"}", &err), 0);
	assert_int_equal(
		hf_vm_step(vm, &json, &err), -ESRCH); /* there is a folder, no supervisor */
	assert_non_null(strstr(err.text, "vm run"));
	hf_vm_free(vm);
	assert_int_equal(hf_vm_new(node[0], "w", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"ps\"}", &err), 0);
	assert_int_equal(hf_vm_step(vm, &json, &err), -ENOENT);
	hf_vm_free(vm);
	int listener = listen_at(0); /* a dead one: nobody has met it, so it is not waited for */
	stop_listening(0, &listener, false);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"ps\"}", &err), 0);
	assert_int_equal(hf_vm_step(vm, &json, &err), -ECONNREFUSED);
	hf_vm_free(vm);
	assert_int_equal(hf_vm_new("relative", "v", &vm, &err), -EINVAL);
}

/* An answer may be long in coming, and patience is for the time without a supervisor. */
static void test_patience_begins_with_the_loss(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	int fd, listener = listen_at(0);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	hf_vm_set_patience(vm, 1000);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"wait\"}", &err), 0);
	json_decref(receive(vm, listener, &fd));
	struct pollfd p;
	(void)hf_vm_poll(vm, &p);
	(void)poll(NULL, 0, 1100); /* only sleeps */
	fd_closep(&fd);
	stop_listening(0, &listener, false);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(hf_vm_step(vm, &json, &err), 0);
		(void)poll(&p, 0, hf_vm_poll(vm, &p));
	}
	listener = listen_at(0);
	json_decref(receive(vm, listener, &fd));
	fd_closep(&fd);
	hf_vm_free(vm);
	stop_listening(0, &listener, true);
}

static void test_patience_ends(void **state)
{
	(void)state;
	struct hf_vm *vm;
	struct hf_err err;
	const char *json;
	int fd, r = 0, listener = listen_at(0);
	assert_int_equal(hf_vm_new(node[0], "v", &vm, &err), 0);
	hf_vm_set_patience(vm, 50);
	assert_int_equal(hf_vm_send(vm, "{\"cmd\": \"ps\"}", &err), 0);
	json_decref(receive(vm, listener, &fd));
	fd_closep(&fd);
	stop_listening(0, &listener, false);
	for (int i = 0; i < 100 && r == 0; i++) {
		struct pollfd p;
		r = hf_vm_step(vm, &json, &err);
		int timeout = hf_vm_poll(vm, &p);
		if (r == 0)
			(void)poll(&p, 1, timeout);
	}
	assert_int_equal(r, -ECONNREFUSED);
	hf_vm_free(vm);
}

/* ---- A stream whose connection is cut after every few bytes ---- */

#define TOTAL 1000

/* A supervisor's end of one connection: answers `attach`, then gives or takes until `cut` bytes
 * have gone over it. Returns false when the stream is over. */
static bool serve(
	struct hf_vm_stream *s, int listener, bool input, uint8_t *data, size_t *pos, size_t cut)
{
	static uint8_t window[4096];
	char request[1024], *end = NULL;
	uint8_t buf[512];
	size_t have = 0, moved = 0;
	ssize_t n;
	struct rs rs;
	struct rs_config config = { 0 };
	bool over = false;
	for (int i = 0; i < 20; i++)
		(void)hf_vm_stream_step(s, NULL);
	if (hf_vm_stream_done(s))
		return false;
	struct pollfd p = { .fd = listener, .events = POLLIN };
	for (int i = 0; i < 100 && poll(&p, 1, 5) == 0; i++)
		(void)hf_vm_stream_step(s, NULL);
	HF_CLEANUP(fd_closep) int fd = accept_one(listener);
	while (!end && (n = recv(fd, request + have, sizeof(request) - have, 0)) > 0) {
		have += (size_t)n;
		end = memchr(request, '\n', have);
	}
	*end = '\0';
	json_t *json = json_loads(request, 0, NULL);
	const char *token = text(json, "token");
	for (int i = 0; i < RS_TOKEN_SIZE; i++) {
		unsigned b;
		assert_int_equal(sscanf(token + 2 * i, "%2x", &b), 1);
		config.token[i] = (uint8_t)b;
	}
	json_decref(json);
	if (input) {
		config.rx_buf = window;
		config.rx_cap = sizeof(window);
		config.rx_start = *pos;
	} else {
		config.tx_buf = window;
		config.tx_cap = sizeof(window);
		config.tx_adopt = true;
	}
	assert_int_equal(rs_init(&rs, &config), 0);
	reply(fd, "{\"id\":1,\"ok\":true}\n");
	rs_attach(&rs);
	for (int turn = 0; turn < 200 && moved < cut && !over; turn++) {
		struct iovec iov[RS_OUTPUT_IOV];
		(void)hf_vm_stream_step(s, NULL);
		while (moved < cut &&
			(n = recv(fd, buf, HF_MIN(sizeof(buf), cut), MSG_DONTWAIT)) > 0) {
			/* An end that a predecessor sent, taken after the hello: the next hello
			 * tells it. */
			if (rs_input(&rs, buf, (size_t)n) < 0)
				return true;
			moved += (size_t)n;
		}
		if (input) {
			int k = rs_read(&rs, iov);
			size_t got = 0;
			for (int i = 0; i < k; i++) {
				memcpy(data + *pos + got, iov[i].iov_base, iov[i].iov_len);
				got += iov[i].iov_len;
			}
			rs_take(&rs, got);
			*pos += got;
			if (rs_readable_end(&rs))
				rs_take_end(&rs);
		} else {
			(void)rs_write(&rs, data + rs_tx_end(&rs), TOTAL - (size_t)rs_tx_end(&rs));
			if (rs_tx_end(&rs) == TOTAL)
				rs_end(&rs);
		}
		if (rs_output(&rs, iov) > 0) {
			n = send(fd, iov[0].iov_base, HF_MIN(iov[0].iov_len, cut),
				MSG_NOSIGNAL | MSG_DONTWAIT);
			if (n > 0) {
				rs_sent(&rs, (size_t)n);
				moved += (size_t)n;
			}
		}
		if (!input) {
			while ((n = hf_vm_stream_read(s, buf, sizeof(buf))) > 0) {
				for (ssize_t i = 0; i < n; i++)
					assert_int_equal(buf[i], data[*pos + (size_t)i]);
				*pos += (size_t)n;
			}
		}
		over = rs_over(&rs) && hf_vm_stream_done(s);
	}
	return !over;
}

static void test_output_over_connections_that_are_cut(void **state)
{
	(void)state;
	uint8_t data[TOTAL];
	for (size_t i = 0; i < TOTAL; i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	for (size_t cut = 150; cut < 400; cut += 61) {
		struct hf_vm_stream *s;
		struct hf_err err;
		size_t pos = 0;
		int rounds = 0, listener = listen_at(0);
		assert_int_equal(
			hf_vm_stream_open(node[0], "v", "c", "stdout", 0, true, &s, &err), 0);
		while (serve(s, listener, false, data, &pos, cut))
			assert_true(++rounds < 100);
		assert_int_equal(pos, TOTAL);
		assert_true(rounds > 1);
		assert_int_equal(hf_vm_stream_read(s, data, 1), 0);
		hf_vm_stream_free(s);
		stop_listening(0, &listener, true);
	}
}

static void test_input_over_connections_that_are_cut(void **state)
{
	(void)state;
	uint8_t data[TOTAL], got[TOTAL + 4096];
	for (size_t i = 0; i < TOTAL; i++)
		data[i] = (uint8_t)(i * 5 + i / 256);
	for (size_t cut = 150; cut < 400; cut += 61) {
		struct hf_vm_stream *s;
		struct hf_err err;
		size_t pos = 0;
		int rounds = 0, listener = listen_at(0);
		assert_int_equal(
			hf_vm_stream_open(node[0], "v", "c", "stdin", 0, true, &s, &err), 0);
		assert_int_equal(hf_vm_stream_write(s, data, TOTAL), TOTAL);
		hf_vm_stream_end(s);
		assert_int_equal(hf_vm_stream_write(s, data, 1), -EPIPE);
		while (serve(s, listener, true, got, &pos, cut))
			assert_true(++rounds < 100);
		assert_int_equal(pos, TOTAL);
		assert_memory_equal(got, data, TOTAL);
		assert_true(rounds > 1);
		hf_vm_stream_free(s);
		stop_listening(0, &listener, true);
	}
}

/* Nothing would wake up who has left the answer unread. */
static void test_an_event_comes_with_the_answer_to_attach(void **state)
{
	(void)state;
	struct hf_vm_stream *s;
	struct hf_err err;
	char bytes[1024];
	int listener = listen_at(0);
	assert_int_equal(hf_vm_stream_open(node[0], "v", "c", "stdout", 0, true, &s, &err), 0);
	assert_int_equal(hf_vm_stream_step(s, &err), 0);
	HF_CLEANUP(fd_closep) int fd = accept_one(listener);
	assert_true(recv(fd, bytes, sizeof(bytes), 0) > 0);
	reply(fd, "{\"event\":\"a\"}\n{\"event\":\"b\"}\n{\"id\":1,\"ok\":true}\n");
	assert_int_equal(hf_vm_stream_step(s, &err), 0);
	assert_true(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0); /* its hello */
	hf_vm_stream_free(s);
	stop_listening(0, &listener, true);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_request_is_sent_again_under_its_key),
		TEST(test_not_now_ends),
		TEST(test_a_vm_that_moved_is_followed),
		TEST(test_a_circle_of_moves_ends),
		TEST(test_what_is_not_there_is_told),
		TEST(test_patience_begins_with_the_loss),
		TEST(test_patience_ends),
		TEST(test_an_event_comes_with_the_answer_to_attach),
		TEST(test_output_over_connections_that_are_cut),
		TEST(test_input_over_connections_that_are_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
