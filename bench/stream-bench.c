/* SPDX-License-Identifier: MIT */
/*
 * stream-bench - throughput of the resumable stream between two processes over a Unix socket.
 *
 * usage: stream-bench [SECONDS]; prints one JSON line. One end writes 64 KiB at a time, the other
 * takes what has come at once. The same without the stream is vsock-bench g2h.
 */
#include "base/fd.h"
#include "host.h"
#include "stream/stream.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WINDOW  (1u << 20)
#define MESSAGE 65536

static uint8_t tx_buf[WINDOW], rx_buf[WINDOW], message[MESSAGE], in[256 << 10];

static double now(void)
{
	struct timespec ts;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void check(const char *what, ssize_t r)
{
	if (r < 0)
		bench_die(what, (int)r);
}

/* Sends what there is to send, as far as the socket takes it; true when it is full. */
static bool send_some(struct rs *rs, int fd)
{
	struct iovec iov[RS_OUTPUT_IOV];
	for (int k; (k = rs_output(rs, iov)) > 0;) {
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
		ssize_t n = sendmsg(fd, &mh, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return true;
		check("sendmsg", n < 0 ? -errno : n);
		rs_sent(rs, (size_t)n);
	}
	return false;
}

/* Takes what has come; returns how many bytes of the application. */
static size_t receive_some(struct rs *rs, int fd)
{
	size_t sum = 0;
	ssize_t n = read(fd, in, sizeof(in));
	if (n == 0)
		exit(EXIT_SUCCESS);
	if (n < 0 && errno == EAGAIN)
		return 0;
	check("read", n < 0 ? -errno : n);
	check("rs_input", rs_input(rs, in, (size_t)n));
	struct iovec iov[2];
	for (int k = rs_read(rs, iov), i = 0; i < k; i++)
		sum += iov[i].iov_len;
	rs_take(rs, sum);
	return sum;
}

static void end(int fd, bool dials, double seconds)
{
	struct rs rs;
	struct rs_config config = { .dials = dials,
		.tx_buf = tx_buf,
		.tx_cap = sizeof(tx_buf),
		.rx_buf = rx_buf,
		.rx_cap = sizeof(rx_buf) };
	check("rs_init", rs_init(&rs, &config));
	check("fd_set_nonblock", fd_set_nonblock(fd, true));
	rs_attach(&rs);
	double start = now();
	uint64_t got = 0;
	for (double t = start; t < start + seconds; t = now()) {
		while (dials && rs_room(&rs) >= sizeof(message))
			check("rs_write", rs_write(&rs, message, sizeof(message)));
		bool full = send_some(&rs, fd);
		struct pollfd p = { .fd = fd, .events = (short)(POLLIN | (full ? POLLOUT : 0)) };
		check("poll", poll(&p, 1, 1000));
		if (p.revents & POLLIN)
			got += receive_some(&rs, fd);
	}
	if (!dials)
		printf("{\"figure\":\"stream\",\"of\":\"rs\",\"message\":%d,\"gib_per_second\":%."
		       "4f}\n",
			MESSAGE, (double)got / 1073741824.0 / (now() - start));
}

int main(int argc, char **argv)
{
	int fds[2];
	double seconds = argc > 1 ? atof(argv[1]) : 0.5;
	check("socketpair",
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ? -errno : 0);
	pid_t child = fork();
	check("fork", child < 0 ? -errno : 0);
	fd_closep(&fds[child == 0]);
	end(fds[child != 0], child == 0, child == 0 ? seconds * 2 : seconds);
	if (child > 0) {
		check("kill", kill(child, SIGKILL) < 0 ? -errno : 0);
		check("waitpid", waitpid(child, NULL, 0) < 0 ? -errno : 0);
	}
	return EXIT_SUCCESS;
}
