/* SPDX-License-Identifier: MIT */
/*
 * virtq_internal.h - access to memory that the guest may change at any time.
 *
 * Every value is loaded once, and what is checked is what was loaded. Rings are little-endian.
 */
#ifndef VIRTQ_VIRTQ_INTERNAL_H
#define VIRTQ_VIRTQ_INTERNAL_H

#include "virtq.h"
#include <endian.h>
#include <string.h>

/* Offsets in the rings, virtio 1.2, 2.7.6 and 2.7.8; the event field follows the entries. */
#define AVAIL_FLAGS       0
#define AVAIL_IDX         2
#define AVAIL_ENTRY(i)    (4 + 2 * (size_t)(i))
#define AVAIL_BYTES(size) (AVAIL_ENTRY(size) + 2)
#define USED_FLAGS        0
#define USED_IDX          2
#define USED_ENTRY(i)     (4 + 8 * (size_t)(i))
#define USED_BYTES(size)  (USED_ENTRY(size) + 2)
#define DESC_BYTES        16

#define AVAIL_F_NO_INTERRUPT 1
#define USED_F_NO_NOTIFY     1

/* p is 2-aligned: vq_start() checked it. */
static inline uint16_t vq_load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED));
}

/* What the other side wrote before it stored this value can be read afterwards. */
static inline uint16_t vq_load16_acquire(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static inline void vq_store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELAXED);
}

/* Who sees this value sees everything that was written before it. */
static inline void vq_store16_release(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

/* Copies out of guest memory; the compiler may not look at the source again. */
static inline void vq_copy(void *dst, const void *src, size_t n)
{
	memcpy(dst, src, n);
	__asm__ volatile("" ::: "memory");
}

static inline uint16_t vq_available(const struct vq *vq)
{
	return (uint16_t)(vq_load16_acquire(vq->avail + AVAIL_IDX) - vq->next_avail);
}

/* inflight.c: around the used index that gives n chains back, while an area is set; and when the
 * queue starts: 0 or -EINVAL. */
void vq_inflight_begin(struct vq *vq, const struct vq_chain *chains, size_t n);
void vq_inflight_end(struct vq *vq, const struct vq_chain *chains, size_t n);
int vq_inflight_start(struct vq *vq);

/* Marks guest memory that was written through a host pointer. */
void vq_log_host(const struct vq_mem *m, const void *p, size_t len);

#endif
