/* SPDX-License-Identifier: MIT */
/*
 * mem.c - the guest's memory table and its dirty log.
 *
 * A table has few regions (two or three on a PC), so look-ups walk it. No region wraps around or
 * reaches the last byte of the address space: address - start < size is the whole test of
 * membership, and a span that would wrap leaves the regions first.
 *
 * The log is a bitmap that the front end reads and clears at the same time: bits are set with an
 * atomic OR, after the write that they announce (vhost-user: Migration).
 */
#include "virtq_internal.h"
#include <errno.h>

static bool wraps(uint64_t start, uint64_t size)
{
	return size > UINT64_MAX - start;
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_size, uint64_t b_size)
{
	return a - b < b_size || b - a < a_size;
}

int vq_mem_add(struct vq_mem *m, const struct vq_region *r)
{
	uintptr_t host = (uintptr_t)r->host;
	if (r->size == 0 || !r->host)
		return -EINVAL;
	if (wraps(r->gpa, r->size) || wraps(r->uaddr, r->size) || r->size > UINTPTR_MAX - host)
		return -EINVAL;
	for (size_t i = 0; i < m->n; i++) {
		const struct vq_region *o = &m->region[i];
		if (overlap(r->gpa, o->gpa, r->size, o->size) ||
			overlap(r->uaddr, o->uaddr, r->size, o->size) ||
			overlap(host, (uintptr_t)o->host, r->size, o->size))
			return -EEXIST;
	}
	if (m->n == VQ_REGIONS_MAX)
		return -ENOSPC;
	m->region[m->n++] = *r;
	return 0;
}

int vq_mem_remove(
	struct vq_mem *m, uint64_t gpa, uint64_t uaddr, uint64_t size, struct vq_region *ret_region)
{
	for (size_t i = 0; i < m->n; i++) {
		struct vq_region *r = &m->region[i];
		if (r->gpa != gpa || r->uaddr != uaddr || r->size != size)
			continue;
		*ret_region = *r;
		*r = m->region[--m->n];
		return 0;
	}
	return -ENOENT;
}

void *vq_mem_user(const struct vq_mem *m, uint64_t uaddr, uint64_t len)
{
	for (size_t i = 0; i < m->n; i++) {
		const struct vq_region *r = &m->region[i];
		uint64_t off = uaddr - r->uaddr;
		if (off < r->size && len <= r->size - off)
			return r->host + off;
	}
	return NULL;
}

static const struct vq_region *region_of(const struct vq_mem *m, uint64_t gpa)
{
	for (size_t i = 0; i < m->n; i++)
		if (gpa - m->region[i].gpa < m->region[i].size)
			return &m->region[i];
	return NULL;
}

int vq_mem_iov(const struct vq_mem *m, uint64_t gpa, uint64_t len, struct iovec *iov, size_t cap)
{
	size_t n = 0;
	while (len > 0) {
		const struct vq_region *r = region_of(m, gpa);
		if (!r)
			return -EFAULT;
		if (n == cap)
			return -ENOBUFS;
		uint64_t off = gpa - r->gpa;
		uint64_t part = HF_MIN(len, r->size - off);
		iov[n++] = (struct iovec){ .iov_base = r->host + off, .iov_len = part };
		gpa += part;
		len -= part;
	}
	return (int)n;
}

void vq_log_mark(const struct vq_log *log, uint64_t gpa, uint64_t len)
{
	if (!log->map || len == 0)
		return;
	uint64_t end = wraps(gpa, len - 1) ? UINT64_MAX : gpa + (len - 1);
	uint64_t last_page = end / VQ_PAGE;
	for (uint64_t page = gpa / VQ_PAGE; page <= last_page && page / 8 < log->size; page++) {
		/* release: the announced write comes first */
		(void)__atomic_fetch_or(
			&log->map[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_RELEASE);
	}
}

void vq_log_host(const struct vq_mem *m, const void *p, size_t len)
{
	if (!m->log.map)
		return;
	for (size_t i = 0; i < m->n; i++) {
		const struct vq_region *r = &m->region[i];
		uintptr_t off = (uintptr_t)p - (uintptr_t)r->host;
		if (off < r->size) {
			vq_log_mark(&m->log, r->gpa + off, len);
			return;
		}
	}
}
