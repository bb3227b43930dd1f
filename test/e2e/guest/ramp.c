/* SPDX-License-Identifier: MIT */
/*
 * ramp - a guest program that notices every byte lost, doubled or changed.
 *
 * It connects to the host's port 1234. Both sides send a ramp: the byte at offset n is n modulo a
 * prime (251 from the guest, 241 from the host), so that no buffer size is a multiple of it. A
 * connection that fails is dialled again at once and both ramps begin anew. When the host ends its
 * side the guest ends its own, says how much went either way, and ends. Meanwhile it greets whoever
 * connects to its port 5000 with its CID, from one listening socket that it never touches.
 *
 * What it prints is what the test waits for.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define HOST_PORT  1234
#define GUEST_PORT 5000
#define GUEST_RAMP 251
#define HOST_RAMP  241
#define CHUNK      4093
#define PAUSE_MS   5

static unsigned local_cid(void)
{
	unsigned cid = 0;
	int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);

	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
		printf("ramp: no CID: %s\n", strerror(errno));
	close(fd);
	return cid;
}

static int listen_for_host(void)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = GUEST_PORT
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0) {
		printf("ramp: listen: %s\n", strerror(errno));
		exit(1);
	}
	return fd;
}

static void greet(int listener)
{
	char text[32];
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	int n = snprintf(text, sizeof(text), "guest %u\n", local_cid());

	if (fd < 0)
		return;
	if (write(fd, text, (size_t)n) != n)
		printf("ramp: greeting: %s\n", strerror(errno));
	close(fd);
}

static int dial(void)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = HOST_PORT
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
		fcntl(fd, F_SETFL, O_NONBLOCK) == 0)
		return fd;
	close(fd);
	return -1;
}

struct ramp {
	int fd;
	uint64_t sent, received;
};

/* 0, or -errno when the connection has failed. */
static int send_some(struct ramp *r)
{
	unsigned char chunk[CHUNK];
	ssize_t n;

	for (size_t i = 0; i < sizeof(chunk); i++)
		chunk[i] = (unsigned char)((r->sent + i) % GUEST_RAMP);
	n = send(r->fd, chunk, sizeof(chunk), MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	r->sent += (uint64_t)n;
	return 0;
}

/* 1 at the end of the stream, 0, or -errno. A wrong byte ends the program. */
static int receive_some(struct ramp *r)
{
	unsigned char chunk[CHUNK];
	ssize_t n = recv(r->fd, chunk, sizeof(chunk), 0);

	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	for (ssize_t i = 0; i < n; i++, r->received++) {
		if (chunk[i] != r->received % HOST_RAMP) {
			printf("ramp: WRONG BYTE at %llu: %u\n", (unsigned long long)r->received,
				chunk[i]);
			exit(1);
		}
	}
	return n == 0;
}

/* Until the end of the stream: 1; or -errno. */
static int run(struct ramp *r, int listener)
{
	int end = 0;

	while (end == 0) {
		struct pollfd p[] = { { .fd = r->fd, .events = POLLIN },
			{ .fd = listener, .events = POLLIN } };

		if (poll(p, 2, PAUSE_MS) < 0)
			return -errno;
		if (p[1].revents)
			greet(listener);
		if (p[0].revents)
			end = receive_some(r);
		if (end == 0)
			end = send_some(r);
	}
	return end;
}

/* The errors that a connection may fail with; a name reads better than a text. */
static const char *error_name(int e)
{
	switch (e) {
	case ECONNRESET:
		return "ECONNRESET";
	case ENOTCONN:
		return "ENOTCONN";
	case EPIPE:
		return "EPIPE";
	default:
		return strerror(e);
	}
}

int main(void)
{
	int listener = listen_for_host();

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (;;) {
		struct ramp r = { .fd = dial() };
		int end;

		if (r.fd < 0) {
			poll(NULL, 0, PAUSE_MS);
			continue;
		}
		printf("ramp: connected from CID %u\n", local_cid());
		end = run(&r, listener);
		if (end > 0) {
			shutdown(r.fd, SHUT_WR);
			printf("ramp: ended, sent %llu received %llu\n", (unsigned long long)r.sent,
				(unsigned long long)r.received);
			fflush(stdout);
			return 0;
		}
		printf("ramp: lost the connection: %s\n", error_name(-end));
		close(r.fd);
	}
}
