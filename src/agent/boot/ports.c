/* SPDX-License-Identifier: MIT */
#include "ports.h"
#include "agent/agent.h"
#include "agent/link/dial.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static struct {
	struct agt *a;
	int pipe, sock; /* sock -1: not connected */
	uint32_t port;
	struct agt_watch *pipe_watch, *sock_watch;
	struct agt_timer *timer;
	char buf[4096]; /* out of the pipe, not sent yet */
	size_t begin, end;
} relay = { .pipe = -1, .sock = -1 }; /* there is one log */

int agt_log_pipe(void)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	(void)fcntl(fds[1], F_SETPIPE_SZ, AGT_LOG_BUFFER); /* else it is the default's size */
	relay.pipe = fds[0];
	return fds[1];
}

int agt_log_pipe_end(void)
{
	return relay.pipe;
}

static void lost(void)
{
	agt_watch_free(relay.sock_watch);
	relay.sock_watch = NULL;
	fd_closep(&relay.sock);
	agt_watch_set(relay.pipe_watch, 0);
	agt_timer_set(relay.timer, AGT_LOG_DIAL_MS);
}

/* Moves what can be moved; then waits for the one that holds it up. */
static void move(void)
{
	for (;;) {
		if (relay.begin == relay.end) {
			ssize_t n = read(relay.pipe, relay.buf, sizeof(relay.buf));
			if (n <= 0) {
				agt_watch_set(relay.pipe_watch, UV_READABLE);
				agt_watch_set(relay.sock_watch, UV_READABLE);
				return;
			}
			relay.begin = 0;
			relay.end = (size_t)n;
		}
		ssize_t n = send(
			relay.sock, relay.buf + relay.begin, relay.end - relay.begin, MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN) {
			lost();
			return;
		}
		if (n < 0) {
			agt_watch_set(relay.pipe_watch, 0);
			agt_watch_set(relay.sock_watch, UV_READABLE | UV_WRITABLE);
			return;
		}
		relay.begin += (size_t)n;
	}
}

static void on_pipe(void *arg, int events)
{
	(void)arg;
	(void)events;
	move();
}

static void on_sock(void *arg, int events)
{
	char byte[64];
	(void)arg;
	if (events & UV_READABLE) { /* the host says nothing here: it has closed */
		ssize_t n = recv(relay.sock, byte, sizeof(byte), 0);
		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			lost();
			return;
		}
	}
	move();
}

static void on_log_dialled(void *arg, int fd)
{
	(void)arg;
	if (fd >= 0 && agt_watch_new(&relay.a->loop, fd, on_sock, NULL, &relay.sock_watch) < 0)
		fd_closep(&fd);
	if (fd < 0) {
		agt_timer_set(relay.timer, AGT_LOG_DIAL_MS);
		return;
	}
	relay.sock = fd;
	move();
}

static void dial(void *arg)
{
	(void)arg;
	if (relay.a->stopping)
		return;
	if (!agt_dial_start(
		    &relay.a->loop, &relay.a->flags->transport, relay.port, on_log_dialled, NULL))
		agt_timer_set(relay.timer, AGT_LOG_DIAL_MS);
}

int agt_log_relay(struct agt *a, uint32_t port)
{
	relay.a = a;
	relay.port = port;
	relay.timer = agt_timer_new(&a->loop, dial, NULL);
	if (!relay.timer)
		return -ENOMEM;
	int r = agt_watch_new(&a->loop, relay.pipe, on_pipe, NULL, &relay.pipe_watch);
	if (r == 0)
		agt_timer_set(relay.timer, 0);
	return r;
}

struct entropy {
	struct agt_watch *watch;
	int fd;
	size_t total;
};

/* Each piece is credited to the kernel's pool. */
static void on_entropy(void *arg, int events)
{
	struct entropy *e = arg;
	uint8_t bytes[512];
	uint32_t pool[2 + sizeof(bytes) / 4]; /* struct rand_pool_info: bits, bytes, the bytes */
	(void)events;
	ssize_t n = recv(e->fd, bytes, sizeof(bytes), 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n > 0 && e->total < AGT_ENTROPY_MAX) {
		HF_CLEANUP(fd_closep) int fd = open("/dev/random", O_RDWR | O_CLOEXEC);
		pool[0] = (uint32_t)n * 8;
		pool[1] = (uint32_t)n;
		memcpy(pool + 2, bytes, (size_t)n);
		if (fd < 0 || ioctl(fd, RNDADDENTROPY, pool) < 0)
			hf_warn("entropy: %s", strerror(errno));
		e->total += (size_t)n;
		return;
	}
	hf_info("entropy: %zu bytes from the host", e->total);
	agt_watch_free(e->watch);
	(void)close(e->fd);
	free(e);
}

static void on_entropy_dialled(void *arg, int fd)
{
	struct agt *a = arg;
	struct entropy *e = fd < 0 ? NULL : calloc(1, sizeof(*e));
	if (e)
		e->fd = fd;
	if (!e || agt_watch_new(&a->loop, fd, on_entropy, e, &e->watch) < 0) {
		hf_warn("entropy: none from the host: %s", fd < 0 ? strerror(-fd) : "no memory");
		fd_closep(&fd);
		free(e);
		return;
	}
	agt_watch_set(e->watch, UV_READABLE);
}

void agt_entropy(struct agt *a, uint32_t port)
{
	if (!agt_dial_once(&a->loop, &a->flags->transport, port, on_entropy_dialled, a))
		hf_warn("entropy: no memory");
}

static struct {
	int fd;
	uint64_t level;
	struct agt_watch *watch;
} kmsg; /* there is one kernel */

/* "PRIORITY,SEQ,MICROSECONDS,FLAGS[,...];TEXT\n KEY=VALUE..." */
int agt_kmsg_parse(char *record, unsigned *ret_priority, char **ret_text)
{
	char *end, *text = strchr(record, ';');
	unsigned long priority = strtoul(record, &end, 10);
	if (!text || end == record || *end != ',')
		return -EBADMSG;
	*ret_text = text + 1;
	text[1 + strcspn(text + 1, "\n")] = '\0';
	*ret_priority = priority & 7; /* above it the facility */
	return 0;
}

static void on_kmsg(void *arg, int events)
{
	char record[2048], *text;
	unsigned priority;
	(void)arg;
	(void)events;
	for (int i = 0; i < 64; i++) { /* then others get a turn */
		ssize_t n = read(kmsg.fd, record, sizeof(record) - 1);
		if (n < 0 && errno == EPIPE)
			continue; /* some were overwritten */
		if (n <= 0)
			return;
		record[n] = '\0';
		if (agt_kmsg_parse(record, &priority, &text) == 0 && priority <= kmsg.level)
			hf_info("kernel: <%u> %s", priority, text);
	}
}

void agt_kmsg(struct agt *a, uint64_t level)
{
	kmsg.level = level;
	kmsg.fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg.fd < 0 || agt_watch_new(&a->loop, kmsg.fd, on_kmsg, NULL, &kmsg.watch) < 0)
		hf_warn("/dev/kmsg: %s: the kernel's lines are not forwarded", strerror(errno));
	else
		agt_watch_set(kmsg.watch, UV_READABLE);
}
