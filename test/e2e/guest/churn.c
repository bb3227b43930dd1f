/* SPDX-License-Identifier: MIT */
/*
 * churn - connections that open and close, many a second. Each has a number: who dials sends it and
 * gets its complement, who serves notes it before it answers. Then either end closes, in turns.
 *
 *	churn				in a guest: dials port 7001 of the host, serves port 7002
 *	churn serve PATH NOTES		on the host: a Unix socket; numbers are appended to NOTES
 *	churn dial PATH PORT FIRST RATE	on the host: port PORT of the guest, by hybrid vsock
 *
 * Twice a second it tells how it stands. A connection ends in one of these ways:
 *	done	answered		failed	ended without an answer
 *	refused	it never was open	wrong	another answer, or a part of one
 *	hung	none of these in 12 s
 *
 * Seconds are those in which it was let run: on a machine that has too much to do it is the machine
 * that hangs, and a look at the connections that was late counts for TURN_MS.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HOST_PORT  7001
#define GUEST_PORT 7002
#define GUEST_RATE 1000 /* dials a second */
#define CONNS      1024 /* of which half may be dialled */
#define HANG_MS    12000
#define TURN_MS    100
#define TELL_MS    500

enum stage { FREE, CONNECTING, GREETING, ASKED, ANSWERED, SERVING, SERVED };

struct conn {
	enum stage stage;
	int fd;
	uint64_t id, got;
	size_t n; /* bytes of got */
	int64_t began;
};

static struct conn conns[CONNS];
static unsigned open_now;
static unsigned long done, refused, failed, hung, wrong, served;
static int ep, listener = -1, notes = -1;
static uint64_t next_id;
static const char *dial_path; /* NULL: AF_VSOCK */
static unsigned dial_port = HOST_PORT;

static int64_t run_ms; /* the time by which connections are measured */

static int64_t now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void fail(const char *what)
{
	printf("churn: %s: %s\n", what, strerror(errno));
	exit(1);
}

static struct conn *begin(int fd, enum stage stage, uint32_t events)
{
	for (int i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];
		if (c->stage != FREE)
			continue;
		*c = (struct conn){ .stage = stage, .fd = fd, .began = run_ms };
		struct epoll_event e = { events, { .ptr = c } };
		if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e) < 0)
			fail("epoll_ctl");
		open_now++;
		return c;
	}
	close(fd);
	return NULL;
}

static void end(struct conn *c, unsigned long *count)
{
	if (count)
		++*count;
	close(c->fd);
	c->stage = FREE;
	open_now--;
}

static void want_input(struct conn *c)
{
	struct epoll_event e = { EPOLLIN, { .ptr = c } };
	(void)epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

static bool say(struct conn *c, const void *data, size_t n)
{
	return send(c->fd, data, n, MSG_NOSIGNAL) == (ssize_t)n; /* a fresh socket has the room */
}

/* --- dialling --- */

static void ask(struct conn *c)
{
	c->stage = ASKED;
	c->id = next_id++;
	c->n = 0;
	if (!say(c, &c->id, sizeof(c->id)))
		end(c, &failed);
}

static void dial(void)
{
	struct sockaddr_vm vm = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = dial_port
	};
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct timeval patience = { .tv_sec = HANG_MS / 1000 };
	char line[32];
	if (dial_path)
		strncpy(un.sun_path, dial_path, sizeof(un.sun_path) - 1);
	int fd = socket(dial_path ? AF_UNIX : AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0)
		fail("socket");
	if (!dial_path)
		(void)setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience,
			sizeof(patience)); /* a slow machine is no failure */
	int r = dial_path ? connect(fd, (struct sockaddr *)&un, sizeof(un))
			  : connect(fd, (struct sockaddr *)&vm, sizeof(vm));
	if (r < 0 && errno != EINPROGRESS) {
		refused++;
		close(fd);
		return;
	}
	struct conn *c =
		begin(fd, dial_path ? GREETING : CONNECTING, dial_path ? EPOLLIN : EPOLLOUT);
	int n = snprintf(line, sizeof(line), "CONNECT %u\n", dial_port);
	if (c && dial_path && !say(c, line, (size_t)n))
		end(c, &refused);
}

static void connected(struct conn *c)
{
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0 || error) {
		end(c, &refused);
		return;
	}
	want_input(c);
	ask(c);
}

/* "OK <port>\n", byte for byte: what follows is the answer's. */
static void greeted(struct conn *c)
{
	char b;
	ssize_t n = recv(c->fd, &b, 1, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		end(c, &refused);
	else if (b == '\n')
		ask(c);
}

/* --- both --- */

/* 1: all of the number is there; 0: not yet; -1: it has ended before. */
static int take(struct conn *c)
{
	ssize_t n = recv(c->fd, (char *)&c->got + c->n, sizeof(c->got) - c->n, 0);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return -1;
	c->n += (size_t)n;
	return c->n == sizeof(c->got);
}

static void answered(struct conn *c)
{
	int r = take(c);
	if (r == 0)
		return;
	if (r < 0 && c->n > 0)
		end(c, &wrong);
	else if (r < 0)
		end(c, &failed);
	else if (c->got != ~c->id)
		end(c, &wrong);
	else if (c->id % 2)
		end(c, &done);
	else
		c->stage = ANSWERED; /* the other end closes */
}

static void serve(struct conn *c)
{
	int r = take(c);
	if (r < 0)
		end(c, NULL);
	if (r <= 0)
		return;
	if (notes >= 0 && write(notes, &c->got, sizeof(c->got)) != sizeof(c->got))
		fail("notes");
	served++;
	c->id = ~c->got;
	if (!say(c, &c->id, sizeof(c->id)) || c->got % 2 == 0)
		end(c, NULL);
	else
		c->stage = SERVED; /* the other end closes */
}

/* Nothing but the end may come. */
static void over(struct conn *c, unsigned long *count)
{
	char b;
	ssize_t n = recv(c->fd, &b, 1, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	end(c, n > 0 ? &wrong : count);
}

static void event(struct conn *c)
{
	switch (c->stage) {
	case FREE: /* ended by an event before this one */
		break;
	case CONNECTING:
		connected(c);
		break;
	case GREETING:
		greeted(c);
		break;
	case ASKED:
		answered(c);
		break;
	case ANSWERED:
		over(c, &done);
		break;
	case SERVING:
		serve(c);
		break;
	case SERVED:
		over(c, NULL);
		break;
	}
}

static void hang_up(void)
{
	for (int i = 0; i < CONNS; i++) {
		struct conn *c = &conns[i];
		if (c->stage != FREE && run_ms - c->began > HANG_MS)
			end(c, c->stage == SERVING || c->stage == SERVED ? NULL : &hung);
	}
}

static void listen_at(int family, const void *address, socklen_t n)
{
	listener = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (listener < 0 || bind(listener, address, n) < 0 || listen(listener, 1024) < 0)
		fail("listen");
	struct epoll_event e = { EPOLLIN, { .ptr = NULL } };
	(void)epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e);
}

static void loop(unsigned rate)
{
	int64_t start = now_ms(), told = start, before = start;
	uint64_t begun = 0;
	for (;;) {
		struct epoll_event e[64];
		int n = epoll_wait(ep, e, 64, 1);
		int64_t now = now_ms();
		run_ms += now - before < TURN_MS ? now - before : TURN_MS;
		before = now;
		for (int i = 0; i < n; i++) {
			int fd;
			if (e[i].data.ptr)
				event(e[i].data.ptr);
			else
				while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0)
					(void)begin(fd, SERVING, EPOLLIN);
		}
		if (now - start > 1000) { /* what was not to be had in a second is not made up */
			start = now;
			begun = 0;
		}
		for (; begun < rate * (uint64_t)(now - start) / 1000 && open_now < CONNS / 2;
			begun++)
			dial();
		if (now - told < TELL_MS)
			continue;
		told = now;
		hang_up();
		printf("churn: %lu done, %lu refused, %lu failed, %lu hung, %lu wrong, %lu served, "
		       "%u open, after %lld ms\n",
			done, refused, failed, hung, wrong, served, open_now, (long long)run_ms);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_vm vm = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = GUEST_PORT
	};
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	unsigned rate = 0;
	setlinebuf(stdout);
	ep = epoll_create1(0);
	if (argc == 1) {
		listen_at(AF_VSOCK, &vm, sizeof(vm));
		rate = GUEST_RATE;
	} else if (argc == 4 && !strcmp(argv[1], "serve")) {
		strncpy(un.sun_path, argv[2], sizeof(un.sun_path) - 1);
		listen_at(AF_UNIX, &un, sizeof(un));
		notes = open(argv[3], O_WRONLY | O_CREAT | O_APPEND, 0600);
	} else if (argc == 6 && !strcmp(argv[1], "dial")) {
		dial_path = argv[2];
		dial_port = (unsigned)atoi(argv[3]);
		next_id = strtoull(argv[4], NULL, 10);
		rate = (unsigned)atoi(argv[5]);
	} else {
		return 2;
	}
	printf("churn: ready\n");
	loop(rate);
}
