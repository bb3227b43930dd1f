/* SPDX-License-Identifier: MIT */
/*
 * message.c - messages of SEQPACKET connections.
 *
 * A message of the guest goes to the host socket with one sendmsg(2), straight from guest memory
 * when it came in one packet; else, or when the socket is full, its bytes wait in a ring and its
 * end in a second one. A message of the host goes straight into guest buffers as far as there is
 * room; the rest waits likewise.
 *
 * AF_UNIX says "end of data" and "empty message" the same way, a read of no bytes. The sender's
 * credentials tell them apart: only a message carries them.
 */
#include "base/log.h"
#include "vm.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: recvmsg setsockopt(2=SO_PASSCRED) setsockopt(2=SO_SNDBUF) */

int dev_message_setup(int fd, uint32_t buf_alloc)
{
	const int one = 1, room = (int)buf_alloc + 4096;
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) < 0)
		return -errno;
	/* A message larger than the send buffer cannot be sent; the kernel may grant less. */
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	return 0;
}

int dev_message_end(struct hf_ring *ends, size_t len, bool eor)
{
	uint8_t b[VSK_END_BYTES];
	int r = dev_conn_reserve(ends, sizeof(b));
	if (r < 0)
		return r;
	le32_to(b, (uint32_t)len | (eor ? VSK_END_EOR : 0));
	(void)hf_ring_put(ends, b, sizeof(b)); /* fits: reserved */
	return 0;
}

/* Where the first end lies: entries do not wrap, because all are of one size. */
static uint8_t *first_end(const struct hf_ring *ends)
{
	return ends->buf + (ends->head & (ends->cap - 1));
}

size_t dev_message_len(const struct hf_ring *ends)
{
	return le32_at(first_end(ends)) & ~VSK_END_EOR;
}

uint32_t dev_message_flags(const struct hf_ring *ends)
{
	return VSK_MSG_EOM | (le32_at(first_end(ends)) & VSK_END_EOR ? VSK_MSG_EOR : 0);
}

size_t dev_message_take(struct hf_ring *bytes, struct hf_ring *ends, const struct iovec *iov,
	size_t n_iov, uint32_t *ret_flags)
{
	uint32_t end = le32_at(first_end(ends));
	size_t left = end & ~VSK_END_EOR, n = 0;
	for (size_t i = 0; i < n_iov; i++)
		n += hf_ring_get(bytes, iov[i].iov_base, HF_MIN(iov[i].iov_len, left - n));
	if (n == left) {
		*ret_flags = VSK_MSG_EOM | (end & VSK_END_EOR ? VSK_MSG_EOR : 0);
		hf_ring_consumed(ends, VSK_END_BYTES);
	} else {
		*ret_flags = 0;
		le32_to(first_end(ends), end - (uint32_t)n);
	}
	return n;
}

/* ---- from the host ---- */

static uint8_t overflow[VSK_BUF_MAX];

/* Receives a message into iovecs of `room` bytes and, where it is longer, into overflow: its
 * length, -ENODATA at the end of data, -EMSGSIZE when the guest could never take it. One more
 * element than n_iov must be there. */
static ssize_t receive(struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t room)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	size_t max = vsk_message_max(&c->core);
	iov[n_iov] = (struct iovec){ .iov_base = overflow, .iov_len = max - HF_MIN(max, room) };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n_iov + 1, .msg_control = &control };
	ssize_t n;
	do {
		mh.msg_controllen = sizeof(control);
		n = recvmsg(c->fd, &mh, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	if (mh.msg_flags & MSG_TRUNC) {
		hf_warn("conn %u<-%u: the host application sent a message of more than %zu bytes, "
			"which the guest's socket cannot hold",
			c->core.host_port, c->core.guest_port, max);
		return -EMSGSIZE;
	}
	return n == 0 && mh.msg_controllen == 0 ? -ENODATA : n;
}

/* n bytes of overflow and an end wait for the guest. */
static int hold(struct dev_conn *c, size_t n)
{
	int r = dev_conn_reserve(&c->to_guest, n);
	if (r == 0)
		r = dev_message_end(&c->to_guest_ends, n, false);
	if (r == 0)
		(void)hf_ring_put(&c->to_guest, overflow, n); /* fits: reserved */
	return r;
}

ssize_t dev_message_read(
	struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t len, uint32_t *ret_flags)
{
	*ret_flags = 0;
	if (hf_ring_len(&c->to_guest_ends) > 0)
		return (ssize_t)dev_message_take(
			&c->to_guest, &c->to_guest_ends, iov, n_iov, ret_flags);
	if (c->fd < 0)
		return -EAGAIN; /* nobody has claimed it yet */
	ssize_t n = receive(c, iov, n_iov, len);
	if (n == -ENODATA)
		return 0;
	if (n > (ssize_t)len) {
		int r = hold(c, (size_t)n - len);
		return r < 0 ? r : (ssize_t)len;
	}
	if (n >= 0)
		*ret_flags = VSK_MSG_EOM;
	return n;
}

int dev_message_drain(struct dev_conn *c)
{
	struct iovec iov[1];
	for (;;) {
		ssize_t n = receive(c, iov, 0, 0);
		if (n == -EAGAIN || n == -ENODATA)
			return 0;
		int r = n < 0 ? (int)n : hold(c, (size_t)n);
		if (r < 0)
			return r;
		if (hf_ring_len(&c->to_guest) > VSK_FLIGHT_MAX ||
			hf_ring_len(&c->to_guest_ends) > (size_t)VSK_MSGS_MAX * VSK_END_BYTES)
			return -EMSGSIZE;
	}
}
