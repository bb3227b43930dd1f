/* SPDX-License-Identifier: MIT */
/*
 * ring.h - a byte ring with free-running counters.
 *
 * The capacity is a power of two; length = tail - head, so no slot is ever reserved. The memory
 * belongs to the caller. Readable and writable parts come as at most two iovecs, so that readv(2)
 * and writev(2) work on the ring without a copy.
 */
#ifndef HF_RING_H
#define HF_RING_H

#include "base.h"
#include <string.h>
#include <sys/uio.h>

struct hf_ring {
	uint8_t *buf;
	size_t cap; /* power of two, or 0 for "no memory yet" */
	size_t head;
	size_t tail;
};

static inline void hf_ring_init(struct hf_ring *r, void *buf, size_t cap)
{
	hf_assert((cap & (cap - 1)) == 0);
	*r = (struct hf_ring){ .buf = buf, .cap = cap };
}

static inline size_t hf_ring_len(const struct hf_ring *r)
{
	return r->tail - r->head;
}

static inline size_t hf_ring_room(const struct hf_ring *r)
{
	return r->cap - hf_ring_len(r);
}

/* The n bytes from counter `at` on as at most two iovecs; returns how many were filled. */
static inline int hf_ring_iov_(const struct hf_ring *r, size_t at, size_t n, struct iovec iov[2])
{
	if (n == 0)
		return 0;
	size_t off = at & (r->cap - 1);
	size_t first = HF_MIN(n, r->cap - off);
	iov[0] = (struct iovec){ .iov_base = r->buf + off, .iov_len = first };
	if (first == n)
		return 1;
	iov[1] = (struct iovec){ .iov_base = r->buf, .iov_len = n - first };
	return 2;
}

/* What can be read, in order, as iovecs; nothing is consumed. */
static inline int hf_ring_read_iov(const struct hf_ring *r, struct iovec iov[2])
{
	return hf_ring_iov_(r, r->head, hf_ring_len(r), iov);
}

/* Where bytes can be written, as iovecs; hf_ring_produced() then makes them readable. */
static inline int hf_ring_write_iov(const struct hf_ring *r, struct iovec iov[2])
{
	return hf_ring_iov_(r, r->tail, hf_ring_room(r), iov);
}

static inline void hf_ring_consumed(struct hf_ring *r, size_t n)
{
	hf_assert(n <= hf_ring_len(r));
	r->head += n;
}

static inline void hf_ring_produced(struct hf_ring *r, size_t n)
{
	hf_assert(n <= hf_ring_room(r));
	r->tail += n;
}

/* Copies in as much of n bytes as there is room for; returns how many. */
static inline size_t hf_ring_put(struct hf_ring *r, const void *data, size_t n)
{
	struct iovec iov[2];
	n = HF_MIN(n, hf_ring_room(r));
	int k = hf_ring_iov_(r, r->tail, n, iov);
	const uint8_t *p = data;
	for (int i = 0; i < k; i++) {
		memcpy(iov[i].iov_base, p, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	r->tail += n;
	return n;
}

/* Copies out n bytes that begin `skip` bytes after the head, without consuming; returns how many
 * there were. */
static inline size_t hf_ring_peek(const struct hf_ring *r, size_t skip, void *data, size_t n)
{
	struct iovec iov[2];
	if (skip >= hf_ring_len(r))
		return 0;
	n = HF_MIN(n, hf_ring_len(r) - skip);
	int k = hf_ring_iov_(r, r->head + skip, n, iov);
	uint8_t *p = data;
	for (int i = 0; i < k; i++) {
		memcpy(p, iov[i].iov_base, iov[i].iov_len);
		p += iov[i].iov_len;
	}
	return n;
}

static inline size_t hf_ring_get(struct hf_ring *r, void *data, size_t n)
{
	n = hf_ring_peek(r, 0, data, n);
	r->head += n;
	return n;
}

#endif
