/* SPDX-License-Identifier: MIT */
#include "floor.h"
#include "base/fd.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BACKLOG    4096
#define HOSTS_MAX  1024
#define WINDOW     (256u << 10) /* of one connection; of many the ring's 128 buffers, twice that */
#define RX_BYTES   4096u        /* of payload in an rx buffer ... */
#define RX_SLOT    4160u        /* ... and of all of it */
#define RX_SLOTS   128u
#define READ_SLOTS 16
#define UPDATE_AT  (192u << 10) /* Linux tells of room when so much of it is used */

static uint8_t memory[16u << 20]; /* the guest's: as much of it is in use as with a device */

static void check(const char *what, ssize_t r)
{
	if (r < 0)
		bench_die(what, errno);
}

static void wait_for(int fd)
{
	uint64_t n;
	check("eventfd", read(fd, &n, sizeof(n)));
}

static void wake(int fd)
{
	static const uint64_t one = 1;
	check("eventfd", write(fd, &one, sizeof(one)));
}

enum { GUEST, MIDDLE }; /* mem->asleep */

/* While just so many bytes are on their way. Who waits says so and looks again. */
static void wait_while(struct floor *f, int who, int fd, uint64_t held)
{
	while (f->mem->filled - f->mem->taken == held) {
		f->mem->asleep[who] = true;
		if (f->mem->filled - f->mem->taken == held)
			wait_for(fd);
		f->mem->asleep[who] = false;
	}
}

static void wake_asleep(struct floor *f, int who, int fd)
{
	if (atomic_exchange(&f->mem->asleep[who], false))
		wake(fd);
}

static void start(struct floor *f)
{
	memset(memory, 1, sizeof(memory)); /* else all of it would be the one page of zeros */
	f->kick = eventfd(0, EFD_CLOEXEC);
	f->call = eventfd(0, EFD_CLOEXEC);
	f->mem = mmap(
		NULL, sizeof(*f->mem), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->kick < 0 || f->call < 0 || f->mem == MAP_FAILED)
		bench_die("floor", errno);
	host_start(&f->relay);
}

void floor_end(struct floor *f)
{
	host_end(&f->relay);
	fd_closep(&f->kick);
	fd_closep(&f->call);
	(void)munmap(f->mem, sizeof(*f->mem)); /* ours, whole */
}

static int listen_at(const char *path)
{
	int fd = -1;
	int r = unix_listen(path, 0600, BACKLOG, &fd);
	if (r < 0)
		bench_die(path, r);
	check("fcntl", fd_set_nonblock(fd, false));
	return fd;
}

void floor_g2h_connect(struct floor *f, const char *host_path)
{
	start(f);
	for (int fd = -1; f->relay.pid == 0;) {
		wait_for(f->kick);
		fd_closep(&fd);
		fd = host_connect(host_path, NULL);
		wake(f->call);
	}
}

void floor_h2g_connect(struct floor *f, const char *path)
{
	int listener = listen_at(path);
	char line[32];
	start(f);
	while (f->relay.pid == 0) {
		int fd = accept(listener, NULL, NULL);
		check("accept", fd);
		if (read(fd, line, sizeof(line)) <= 0)
			exit(EXIT_SUCCESS); /* the measurement is over */
		wake(f->call);
		wait_for(f->kick);
		if (write(fd, "OK 1\n", 5) < 0 || read(fd, line, sizeof(line)) < 0)
			exit(EXIT_SUCCESS);
		check("close", close(fd));
	}
	fd_closep(&listener);
}

/* Room in the guest for the next bytes; waits when there is none. */
static size_t room(struct floor *f, unsigned n)
{
	uint64_t window = n > 1 ? 2 * WINDOW : WINDOW, used;
	while ((used = f->mem->filled - f->mem->taken) >= window)
		wait_for(f->kick);
	return (size_t)(window - used);
}

/* Into the guest's buffers, each in turn. */
static void move(struct floor *f, int fd, unsigned n, size_t message, uint64_t *told)
{
	struct iovec iov[READ_SLOTS];
	size_t free = room(f, n), most = HF_MIN(message, free);
	int n_iov = 0;
	for (; n_iov < READ_SLOTS && most > 0; n_iov++, f->slot = (f->slot + 1) % RX_SLOTS) {
		iov[n_iov] = (struct iovec){ memory + f->slot * RX_SLOT, HF_MIN(most, RX_BYTES) };
		most -= iov[n_iov].iov_len;
	}
	ssize_t k = readv(fd, iov, n_iov);
	if (k <= 0)
		exit(EXIT_SUCCESS);
	f->mem->filled += (uint64_t)k;
	if (f->mem->filled - *told < UPDATE_AT)
		return;
	*told = f->mem->filled;
	wake(f->call);
}

void floor_h2g(struct floor *f, const char *path, unsigned n, size_t message)
{
	int listener = listen_at(path), ep = epoll_create1(EPOLL_CLOEXEC), fd = -1;
	uint64_t told = 0;
	start(f);
	if (f->relay.pid == 0) {
		for (unsigned i = 0; i < n; i++) {
			fd = accept(listener, NULL, NULL);
			check("accept", fd);
			struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };
			check("epoll_ctl", epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
		}
		while (n == 1)
			move(f, fd, n, message, &told);
		for (;;) {
			struct epoll_event ev[64];
			int m = epoll_wait(ep, ev, 64, -1);
			for (int i = 0; i < m; i++)
				move(f, ev[i].data.fd, n, message, &told);
		}
	}
	fd_closep(&listener);
	fd_closep(&ep);
}

/* Bytes to the host, of which the guest has always as many as the window holds. */
void floor_g2h(struct floor *f, const char *host_path, unsigned n, size_t message)
{
	int fd[HOSTS_MAX];
	check("connections", n <= HOSTS_MAX ? 0 : -1);
	start(f);
	for (unsigned i = 0; f->relay.pid == 0 && i < n; i++)
		fd[i] = host_connect(host_path, NULL);
	for (unsigned i = 0; f->relay.pid == 0; i = (i + 1) % n) {
		wait_while(f, MIDDLE, f->kick, 0);
		size_t there = f->mem->filled - f->mem->taken,
		       at = f->mem->taken % HF_MIN((size_t)n * WINDOW, sizeof(memory) / 2);
		size_t most = HF_MIN(message, sizeof(memory) / 2);
		ssize_t k = write(fd[i], memory + at, HF_MIN(most, there));
		if (k <= 0)
			exit(EXIT_SUCCESS);
		f->mem->taken += (uint64_t)k;
		if (f->mem->filled - f->mem->taken <= n * WINDOW / 2)
			wake_asleep(f, GUEST, f->call);
	}
}

void floor_give(struct floor *f, unsigned n)
{
	wait_while(f, GUEST, f->call, n * WINDOW);
	f->mem->filled = f->mem->taken + n * WINDOW;
	wake_asleep(f, MIDDLE, f->kick);
}

void floor_ping(struct floor *f, const char *host_path, size_t message)
{
	start(f);
	if (f->relay.pid != 0)
		return;
	int fd = host_connect(host_path, NULL);
	for (;;) {
		wait_for(f->kick);
		check("host", write(fd, memory, message));
		check("host", read(fd, memory, message));
		wake(f->call);
	}
}

void floor_ask(struct floor *f)
{
	wake(f->kick);
	wait_for(f->call);
}

void floor_answer(struct floor *f)
{
	wait_for(f->call);
	wake(f->kick);
}

uint64_t floor_take(struct floor *f)
{
	wait_for(f->call);
	f->mem->taken = f->mem->filled;
	wake(f->kick);
	return f->mem->taken;
}
