/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/clock.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[] = "/tmp/holdfast-test-XXXXXX";
static char path[64];

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(path, sizeof(path), "%s/s", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)unlink(path);
	return rmdir(dir);
}

static void test_addr_bounds(void **state)
{
	(void)state;
	struct sockaddr_un sa;
	char name[109];
	memset(name, 'a', sizeof(name));
	name[107] = '\0';
	assert_int_equal(unix_addr(name, &sa), 0);
	name[107] = 'a';
	name[108] = '\0';
	assert_int_equal(unix_addr(name, &sa), -ENAMETOOLONG);
	assert_int_equal(unix_addr("", &sa), -EINVAL);
}

static void test_listen_replaces_only_dead_sockets(void **state)
{
	(void)state;
	int a = -1, b = -1;
	struct stat st;
	assert_int_equal(unix_listen(path, 0600, 4, &a), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(unix_listen(path, 0600, 4, &b), -EADDRINUSE);
	fd_closep(&a);
	assert_int_equal(unix_listen(path, 0600, 4, &b), 0);
	fd_closep(&b);
	assert_int_equal(unlink(path), 0);

	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(unix_listen(path, 0600, 4, &b), -EEXIST); /* never deletes a file */
	fd_closep(&fd);
	assert_int_equal(unlink(path), 0);
}

static void test_fds_travel_and_surplus_is_closed(void **state)
{
	(void)state;
	int sv[2], got[2];
	size_t n;
	char c;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	int send[3] = { 0, 1, 2 };
	assert_int_equal(unix_send_fds(sv[0], "x", 1, send, 2), 1);
	assert_int_equal(unix_recv_fds(sv[1], &c, 1, got, 2, &n), 1);
	assert_int_equal(n, 2);
	assert_true(fcntl(got[0], F_GETFD) & FD_CLOEXEC);
	fd_closep(&got[0]);
	fd_closep(&got[1]);

	int lowest = dup(0);
	int next = lowest;
	fd_closep(&next);
	assert_int_equal(unix_send_fds(sv[0], "x", 1, send, 3), 1);
	assert_int_equal(unix_recv_fds(sv[1], &c, 1, got, 2, &n), -EMSGSIZE);
	assert_int_equal(n, 0);
	next = dup(0);
	assert_int_equal(next, lowest); /* nothing leaked */
	fd_closep(&next);
	fd_closep(&sv[0]);
	assert_int_equal(unix_recv_fds(sv[1], &c, 1, got, 2, &n), 0);
	fd_closep(&sv[1]);
}

static void test_read_all_says_when_input_ends_early(void **state)
{
	(void)state;
	int p[2];
	char buf[4];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fd_write_all(p[1], "abc", 3), 0);
	fd_closep(&p[1]);
	assert_int_equal(fd_read_all(p[0], buf, 4), -ENODATA);
	fd_closep(&p[0]);
}

static void test_wait_ends_in_time(void **state)
{
	(void)state;
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	uint64_t until_us = hf_now_us() + 1500;
	assert_int_equal(fd_wait(p[0], POLLIN, until_us), -ETIMEDOUT);
	assert_true(hf_now_us() >= until_us);
	assert_int_equal(fd_write_all(p[1], "a", 1), 0);
	assert_int_equal(fd_wait(p[0], POLLIN, UINT64_MAX), 0);
	assert_int_equal(fd_wait(p[0], POLLIN, 0), 0); /* what is there is there */
	fd_closep(&p[0]);
	fd_closep(&p[1]);
}

static void test_send_all_waits_for_room(void **state)
{
	(void)state;
	static char out[1 << 20], in[sizeof(out)];
	int sv[2], got[1];
	size_t n_fds = 0;
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (char)(i % 251);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv), 0);
	int fd = 0;
	assert_int_equal(
		unix_send_all(sv[0], out, sizeof(out), &fd, 1, hf_now_us() + 1000), -ETIMEDOUT);
	assert_int_equal(unix_recv_fds(sv[1], in, 1, got, 1, &n_fds), 1);
	assert_int_equal(n_fds, 1);
	fd_closep(&got[0]);
	fd_closep(&sv[0]);
	fd_closep(&sv[1]);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	assert_int_equal(fd_set_nonblock(sv[0], true), 0);
	pid_t reader = fork();
	assert_true(reader >= 0);
	if (reader == 0) {
		fd_closep(&sv[0]);
		int r = fd_read_all(sv[1], in, sizeof(in));
		_exit(r < 0 || memcmp(in, out, sizeof(in)) != 0);
	}
	fd_closep(&sv[1]);
	assert_int_equal(unix_send_all(sv[0], out, sizeof(out), NULL, 0, UINT64_MAX), 0);
	int status;
	assert_int_equal(waitpid(reader, &status, 0), reader);
	assert_int_equal(status, 0);
	assert_int_equal(unix_send_all(sv[0], out, 1, NULL, 0, UINT64_MAX), -EPIPE);
	fd_closep(&sv[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addr_bounds),
		cmocka_unit_test(test_listen_replaces_only_dead_sockets),
		cmocka_unit_test(test_fds_travel_and_surplus_is_closed),
		cmocka_unit_test(test_read_all_says_when_input_ends_early),
		cmocka_unit_test(test_wait_ends_in_time),
		cmocka_unit_test(test_send_all_waits_for_room),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
