/* SPDX-License-Identifier: MIT */
#include "host.h"
#include "base/fd.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKLOG    4096
#define ECHO_BYTES 65536
#define HOP_BYTES  65536
#define HOPS_MAX   4096 /* descriptors of one */

static uint8_t buf[1 << 20];

void bench_die(const char *what, int error)
{
	(void)fprintf(stderr, "vsock-bench: %s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(EXIT_FAILURE);
}

static void check(const char *what, int r)
{
	if (r < 0)
		bench_die(what, errno);
}

void host_start(struct host *h)
{
	h->counts = mmap(NULL, sizeof(*h->counts), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (h->counts == MAP_FAILED)
		bench_die("mmap", errno);
	h->pid = fork();
	check("fork", h->pid);
	if (h->pid == 0)
		check("prctl", prctl(PR_SET_PDEATHSIG, SIGKILL));
}

void host_end(struct host *h)
{
	check("kill", kill(h->pid, SIGKILL));
	check("waitpid", waitpid(h->pid, NULL, 0));
	(void)munmap(h->counts, sizeof(*h->counts)); /* ours, whole */
}

static int listen_at(const char *path)
{
	int fd = -1;
	int r = unix_listen(path, 0600, BACKLOG, &fd);
	if (r < 0)
		bench_die(path, r);
	return fd;
}

static void watch(int ep, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };
	check("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

int host_connect(const char *path, const char *line)
{
	struct sockaddr_un sa;
	char answer[32];
	ssize_t n;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	check("socket", fd);
	check(path, unix_addr(path, &sa));
	check(path, connect(fd, (struct sockaddr *)&sa, sizeof(sa)));
	if (!line)
		return fd;
	check("CONNECT", (int)write(fd, line, strlen(line)));
	do { /* nothing comes behind it: the guest says nothing by itself */
		n = read(fd, answer, sizeof(answer));
		if (n <= 0)
			bench_die("CONNECT", ECONNREFUSED);
	} while (answer[n - 1] != '\n');
	return fd;
}

/* ---- roles, none of which returns ---- */

static void sink(int listener, unsigned n, size_t message, struct host_counts *counts)
{
	int ep = epoll_create1(EPOLL_CLOEXEC), fd = -1;
	ssize_t k;
	check("fcntl", fd_set_nonblock(listener, false));
	for (unsigned i = 0; i < n; i++) {
		fd = accept(listener, NULL, NULL);
		check("accept", fd);
		watch(ep, fd, EPOLLIN);
	}
	if (n == 1)
		while ((k = read(fd, buf, message)) > 0)
			counts->bytes += (uint64_t)k;
	for (;;) {
		struct epoll_event ev[64];
		int m = epoll_wait(ep, ev, 64, -1);
		for (int i = 0; i < m; i++) {
			k = read(ev[i].data.fd, buf, message);
			if (k <= 0)
				exit(EXIT_SUCCESS);
			counts->bytes += (uint64_t)k;
		}
	}
}

static void echo(int listener, struct host_counts *counts)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	watch(ep, listener, EPOLLIN);
	for (;;) {
		struct epoll_event ev[64];
		int m = epoll_wait(ep, ev, 64, -1);
		for (int i = 0; i < m; i++) {
			int fd = ev[i].data.fd;
			if (fd == listener) {
				fd = accept(listener, NULL, NULL);
				if (fd < 0) /* no descriptor left: what is open goes on */
					check("epoll_ctl",
						epoll_ctl(ep, EPOLL_CTL_DEL, listener, NULL));
				else
					watch(ep, fd, EPOLLIN);
				continue;
			}
			ssize_t k = read(fd, buf, ECHO_BYTES);
			if (k > 0 && write(fd, buf, (size_t)k) == k)
				continue;
			check("close", close(fd));
			counts->ops++;
		}
	}
}

static void source(
	const char *path, const char *line, unsigned n, size_t message, struct host_counts *counts)
{
	memset(buf, 1, sizeof(buf)); /* else all of it would be the one page of zeros */
	int ep = epoll_create1(EPOLL_CLOEXEC), fd = -1;
	ssize_t k;
	for (unsigned i = 0; i < n; i++) {
		fd = host_connect(path, line);
		check("fcntl", n > 1 ? fd_set_nonblock(fd, true) : 0);
		watch(ep, fd, EPOLLOUT);
	}
	if (n == 1)
		while ((k = write(fd, buf, message)) > 0)
			counts->bytes += (uint64_t)k;
	for (;;) {
		struct epoll_event ev[64];
		int m = epoll_wait(ep, ev, 64, -1);
		for (int i = 0; i < m; i++) {
			k = write(ev[i].data.fd, buf, message);
			if (k < 0 && errno != EAGAIN)
				exit(EXIT_SUCCESS);
			counts->bytes += k > 0 ? (uint64_t)k : 0;
		}
	}
}

/* Copies what has come on one of the pair to the other. */
static void hop_some(int ep, int from, int to)
{
	ssize_t k = read(from, buf, HOP_BYTES);
	if (k > 0) {
		check("hop", fd_write_all(to, buf, (size_t)k));
		return;
	}
	check("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_DEL, from, NULL));
	(void)shutdown(to, SHUT_WR); /* it may be gone as well */
}

/* All that wait, before any bytes are moved: the last in the chain takes all before it reads. */
static void hop_accept(int ep, int listener, const char *to, int other[HOPS_MAX])
{
	int fd;
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		int out = host_connect(to, NULL);
		check("descriptors", out < HOPS_MAX && fd < HOPS_MAX ? 0 : -1);
		other[fd] = out;
		other[out] = fd;
		watch(ep, fd, EPOLLIN);
		watch(ep, out, EPOLLIN);
	}
}

static void hop(int listener, const char *to)
{
	static int other[HOPS_MAX];
	int ep = epoll_create1(EPOLL_CLOEXEC);
	watch(ep, listener, EPOLLIN);
	for (;;) {
		struct epoll_event ev[64];
		int m = epoll_wait(ep, ev, 64, -1);
		hop_accept(ep, listener, to, other);
		for (int i = 0; i < m; i++)
			if (ev[i].data.fd != listener)
				hop_some(ep, ev[i].data.fd, other[ev[i].data.fd]);
	}
}

static void prepare(void)
{
	struct rlimit rl;
	check("getrlimit", getrlimit(RLIMIT_NOFILE, &rl));
	rl.rlim_cur = rl.rlim_max;
	check("setrlimit", setrlimit(RLIMIT_NOFILE, &rl));
}

void host_sink(struct host *h, const char *path, unsigned n, size_t message)
{
	int listener = listen_at(path);
	host_start(h);
	if (h->pid == 0)
		sink(listener, n, message, h->counts);
	check("close", close(listener));
}

void host_echo(struct host *h, const char *path)
{
	int listener = listen_at(path);
	prepare();
	host_start(h);
	if (h->pid == 0)
		echo(listener, h->counts);
	check("close", close(listener));
}

void host_hop(struct host *h, const char *path, const char *to)
{
	int listener = listen_at(path);
	host_start(h);
	if (h->pid == 0)
		hop(listener, to);
	check("close", close(listener));
}

void host_source(struct host *h, const char *path, const char *line, unsigned n, size_t message)
{
	host_start(h);
	if (h->pid == 0)
		source(path, line, n, message, h->counts);
}

void host_dial(struct host *h, const char *path, const char *line)
{
	host_start(h);
	while (h->pid == 0) {
		check("close", close(host_connect(path, line)));
		h->counts->ops++;
	}
}
