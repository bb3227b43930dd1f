/* SPDX-License-Identifier: MIT */
/* guest.h - a guest of two neighbouring regions with one ring, a dirty log, and its driver. */
#ifndef TEST_VIRTQ_GUEST_H
#define TEST_VIRTQ_GUEST_H

#include "../../lib/driver.h"
#include "../../lib/unit.h"
#include "virtq/virtq.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REGION    0x10000u
#define GPA_A     0x100000u /* the ring is at its start */
#define GPA_B     (GPA_A + REGION)
#define USER      0x7f0000000000ull
#define DATA      (GPA_A + 0x8000u) /* free for buffers */
#define LOG_BYTES 64u               /* pages 0 .. 511: up to gpa 0x200000 */

struct guest {
	uint8_t *a, *b; /* not neighbours in the host */
	uint8_t log[LOG_BYTES];
	struct vq_mem mem;
	struct vq vq;
	struct drv d;
	struct iovec iov[VQ_CHAIN_IOV_MAX];
	struct vq_chain chain[64];
};

/* The host pointer to a guest byte. */
static inline uint8_t *at(struct guest *g, uint64_t gpa)
{
	return gpa < GPA_B ? g->a + (gpa - GPA_A) : g->b + (gpa - GPA_B);
}

static inline struct guest *guest_new(uint16_t size, unsigned flags, uint16_t base)
{
	struct guest *g = calloc(1, sizeof(*g));
	g->a = aligned_alloc(4096, REGION);
	g->b = aligned_alloc(4096, REGION);
	memset(g->a, 0, REGION);
	memset(g->b, 0, REGION);
	struct vq_region a = { GPA_A, REGION, USER + GPA_A, g->a };
	struct vq_region b = { GPA_B, REGION, USER + GPA_B, g->b };
	assert_int_equal(vq_mem_add(&g->mem, &a), 0);
	assert_int_equal(vq_mem_add(&g->mem, &b), 0);
	drv_init(&g->d, g->a, GPA_A, size, flags & VQ_START_EVENT_IDX);
	/* a ring that has been in use: all counters at `base` */
	g->d.avail_idx = g->d.published = g->d.used_seen = base;
	memcpy(g->d.avail + 2, &base, 2);
	memcpy(g->d.used + 2, &base, 2);
	vq_init(&g->vq, &g->mem);
	struct vq_addr addr = { .desc = USER + GPA_A,
		.avail = USER + GPA_A + drv_avail_offset(size),
		.used = USER + GPA_A + drv_used_offset(size),
		.log_gpa = GPA_A + drv_used_offset(size) };
	assert_int_equal(vq_set_size(&g->vq, size), 0);
	assert_int_equal(vq_set_addr(&g->vq, &addr), 0);
	assert_int_equal(vq_set_base(&g->vq, base), 0);
	assert_int_equal(vq_start(&g->vq, flags), 0);
	return g;
}

static inline void guest_free(struct guest *g)
{
	free(g->a);
	free(g->b);
	free(g);
}

static inline int pop(struct guest *g, size_t cap)
{
	return vq_pop(&g->vq, g->chain, cap, g->iov, VQ_CHAIN_IOV_MAX);
}

static inline void log_on(struct guest *g, bool used_ring)
{
	memset(g->log, 0, sizeof(g->log));
	g->mem.log = (struct vq_log){ g->log, LOG_BYTES };
	struct vq_addr addr = g->vq.addr;
	addr.log = used_ring;
	assert_int_equal(vq_set_addr(&g->vq, &addr), 0);
}

static inline bool dirty(const struct guest *g, uint64_t gpa)
{
	return g->log[gpa / 4096 / 8] >> (gpa / 4096 % 8) & 1;
}

static inline int dirty_pages(const struct guest *g)
{
	int n = 0;
	for (size_t i = 0; i < LOG_BYTES; i++)
		n += __builtin_popcount(g->log[i]);
	return n;
}

#endif
