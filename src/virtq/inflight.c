/* SPDX-License-Identifier: MIT */
/*
 * inflight.c - what a back end that died had taken and not given back (vhost-user: Inflight I/O
 * tracking, split virtqueue).
 *
 * The front end keeps a file for its back ends, with an area per queue: a head, and an entry per
 * descriptor. Whoever dies leaves in it which heads it had, in which order, and how far its last
 * batch of used entries had come; whoever comes next gives those back first.
 *
 *	taking		entry: counter, in flight
 *	giving back	entries joined to a list (next, last_batch_head)
 *			used.idx, by which the driver sees them
 *			entries no longer in flight
 *			used_idx of the area = used.idx
 *	coming back	used_idx != used.idx: the last batch was seen by the driver: those of the
 *list are not in flight. The rest of what is in flight is taken again, by counter.
 *
 * Here chains are taken and given back in one turn and in order, and one that was not given back
 * had no effect that a second time would double (a connection does not outlive its process). So a
 * chain counts as taken when it is given back, and looking at chains costs nothing. Others may do
 * it otherwise: what they leave is taken again whatever it is, up to the queue's size.
 *
 * The front end may change the area at any time: an index is checked after it was read.
 */
#include "virtq_internal.h"
#include <errno.h>

enum { /* offsets; numbers are in the machine's byte order */
	AREA_FEATURES = 0,
	AREA_VERSION = 8,
	AREA_DESC_NUM = 10,
	AREA_LAST_BATCH = 12,
	AREA_USED_IDX = 14,
	AREA_HEAD = 16,
	ENTRY_INFLIGHT = 0,
	ENTRY_NEXT = 6,
	ENTRY_COUNTER = 8,
	ENTRY_BYTES = 16,
};
#define AREA_ALIGN 64u

size_t vq_inflight_bytes(uint16_t n)
{
	size_t bytes = AREA_HEAD + (size_t)n * ENTRY_BYTES;
	return (bytes + AREA_ALIGN - 1) / AREA_ALIGN * AREA_ALIGN;
}

int vq_set_inflight(struct vq *vq, uint8_t *area, uint16_t n, uint16_t *again)
{
	if (vq_started(vq))
		return -EBUSY;
	if (area && (uintptr_t)area % sizeof(uint64_t) != 0)
		return -EINVAL;
	vq->inflight = (struct vq_inflight){ .area = area, .n = n, .again = again };
	return 0;
}

static uint8_t *entry(const struct vq *vq, uint16_t head)
{
	return vq->inflight.area + AREA_HEAD + (size_t)head * ENTRY_BYTES;
}

static uint16_t get16(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_RELAXED);
}

/* Our death must not come between: each store is done before the next (the processor keeps stores
 * of one thread in order for itself, and so they lie in the memory that stays). */
static void set16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static void set_flying(uint8_t *e, uint8_t on)
{
	__atomic_store_n(e + ENTRY_INFLIGHT, on, __ATOMIC_RELEASE);
}

static uint64_t counter(const uint8_t *e)
{
	return __atomic_load_n(
		(const uint64_t *)(const void *)(e + ENTRY_COUNTER), __ATOMIC_RELAXED);
}

/* ---- giving back ---- */

void vq_inflight_begin(struct vq *vq, const struct vq_chain *chains, size_t n)
{
	struct vq_inflight *f = &vq->inflight;
	for (size_t i = 0; i < n; i++) {
		uint8_t *e = entry(vq, chains[i].head);
		if (f->n_again == 0) { /* else it is marked */
			__atomic_store_n((uint64_t *)(void *)(e + ENTRY_COUNTER), f->counter++,
				__ATOMIC_RELAXED);
			set_flying(e, 1);
		}
		set16(e + ENTRY_NEXT, get16(f->area + AREA_LAST_BATCH));
		set16(f->area + AREA_LAST_BATCH, chains[i].head);
	}
}

void vq_inflight_end(struct vq *vq, const struct vq_chain *chains, size_t n)
{
	struct vq_inflight *f = &vq->inflight;
	for (size_t i = 0; i < n; i++)
		set_flying(entry(vq, chains[i].head), 0);
	set16(f->area + AREA_USED_IDX, vq->next_used);
	if (f->n_again > 0 && (f->n_given += (uint16_t)n) >= f->n_again)
		f->n_again = f->at_again = f->n_given = 0;
}

/* ---- coming back ---- */

/* The driver has seen the last batch: those that are on its list are not in flight. */
static void finish_batch(struct vq *vq)
{
	uint8_t *area = vq->inflight.area;
	uint16_t left = (uint16_t)(vq->next_used - get16(area + AREA_USED_IDX));
	uint16_t head = get16(area + AREA_LAST_BATCH);
	for (; left > 0 && left <= vq->size && head < vq->size; left--) {
		set_flying(entry(vq, head), 0);
		head = get16(entry(vq, head) + ENTRY_NEXT);
	}
	set16(area + AREA_USED_IDX, vq->next_used);
}

/* Sorts it in by counter. */
static void take_again(struct vq_inflight *f, const struct vq *vq, uint16_t head)
{
	uint16_t i = f->n_again++;
	uint64_t c = counter(entry(vq, head));
	for (; i > 0 && counter(entry(vq, f->again[i - 1])) > c; i--)
		f->again[i] = f->again[i - 1];
	f->again[i] = head;
	f->counter = HF_MAX(f->counter, c + 1);
}

int vq_inflight_start(struct vq *vq)
{
	struct vq_inflight *f = &vq->inflight;
	if (!f->area)
		return 0;
	if (f->n < vq->size)
		return -EINVAL;
	f->n_again = f->at_again = f->n_given = 0;
	f->counter = 0;
	if (get16(f->area + AREA_VERSION) == 0) { /* nobody had it */
		set16(f->area + AREA_DESC_NUM, f->n);
		set16(f->area + AREA_USED_IDX, vq->next_used);
		set16(f->area + AREA_VERSION, 1);
		return 0;
	}
	if (get16(f->area + AREA_USED_IDX) != vq->next_used)
		finish_batch(vq);
	for (uint16_t head = 0; head < vq->size; head++)
		if (__atomic_load_n(entry(vq, head) + ENTRY_INFLIGHT, __ATOMIC_RELAXED))
			take_again(f, vq, head);
	vq->next_avail = (uint16_t)(vq->next_used + f->n_again);
	return 0;
}
