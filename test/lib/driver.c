/* SPDX-License-Identifier: MIT */
#include "driver.h"
#include "base/bytes.h"
#include <endian.h>
#include <errno.h>
#include <string.h>

#define F_NEXT     1
#define F_WRITE    2
#define F_INDIRECT 4

static uint16_t load16(const uint8_t *p)
{
	return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void store16(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, htole16(v), __ATOMIC_RELEASE);
}

size_t drv_avail_offset(uint16_t size)
{
	return 16u * size;
}

size_t drv_used_offset(uint16_t size)
{
	return (drv_avail_offset(size) + 6 + 2u * size + 3) & ~(size_t)3;
}

size_t drv_bytes(uint16_t size)
{
	return (drv_used_offset(size) + 6 + 8u * size + 4095) & ~(size_t)4095;
}

void drv_init(struct drv *d, void *mem, uint64_t gpa, uint16_t size, bool event_idx)
{
	hf_assert(size <= DRV_SIZE_MAX);
	uint8_t *p = mem;
	memset(p, 0, drv_bytes(size));
	*d = (struct drv){ .desc = p,
		.avail = p + drv_avail_offset(size),
		.used = p + drv_used_offset(size),
		.gpa = gpa,
		.size = size,
		.event_idx = event_idx,
		.n_free = size };
	for (uint16_t i = 0; i < size; i++)
		d->next[i] = (uint16_t)(i + 1);
}

void drv_desc(void *table, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
	uint8_t *p = (uint8_t *)table + 16u * i;
	le64_to(p, gpa);
	le32_to(p + 8, len);
	le16_to(p + 12, flags);
	le16_to(p + 14, next);
}

void drv_avail(struct drv *d, uint16_t head)
{
	le16_to(d->avail + 4 + 2u * (d->avail_idx & (d->size - 1u)), head);
	d->avail_idx++;
}

int drv_add(struct drv *d, const struct drv_buf *bufs, size_t n)
{
	if (n == 0 || n > d->n_free)
		return -ENOSPC;
	uint16_t head = d->free_head, i = head, last = head;
	for (size_t k = 0; k < n; k++) {
		uint16_t flags =
			(uint16_t)((bufs[k].write ? F_WRITE : 0) | (k + 1 < n ? F_NEXT : 0));
		drv_desc(d->desc, i, bufs[k].gpa, bufs[k].len, flags, d->next[i]);
		last = i;
		i = d->next[i];
	}
	d->free_head = d->next[last];
	d->n_free = (uint16_t)(d->n_free - n);
	d->count[head] = (uint16_t)n;
	drv_avail(d, head);
	return head;
}

int drv_add_indirect(
	struct drv *d, void *table, uint64_t table_gpa, const struct drv_buf *bufs, size_t n)
{
	struct drv_buf one = { .gpa = table_gpa, .len = (uint32_t)(16 * n) };
	for (size_t k = 0; k < n; k++)
		drv_desc(table, (uint16_t)k, bufs[k].gpa, bufs[k].len,
			(uint16_t)((bufs[k].write ? F_WRITE : 0) | (k + 1 < n ? F_NEXT : 0)),
			(uint16_t)(k + 1));
	int head = drv_add(d, &one, 1);
	if (head >= 0)
		le16_to(d->desc + 16u * (unsigned)head + 12, F_INDIRECT);
	return head;
}

bool drv_publish(struct drv *d)
{
	uint16_t old = d->published;
	d->published = d->avail_idx;
	store16(d->avail + 2, d->avail_idx);
	/* The index is visible before we look whether the device sleeps. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (d->event_idx)
		return (uint16_t)(d->avail_idx - drv_avail_event(d) - 1) <
		       (uint16_t)(d->avail_idx - old);
	return d->avail_idx != old && !(load16(d->used) & 1);
}

bool drv_take(struct drv *d, uint16_t *ret_head, uint32_t *ret_len)
{
	if (drv_used_idx(d) == d->used_seen)
		return false;
	const uint8_t *e = d->used + 4 + 8u * (d->used_seen & (d->size - 1u));
	uint32_t head = le32_at(e);
	hf_assert(head < d->size && d->count[head] > 0); /* the device used what it was given */
	*ret_head = (uint16_t)head;
	*ret_len = le32_at(e + 4);
	d->used_seen++;
	uint16_t last = *ret_head;
	for (uint16_t k = 1; k < d->count[head]; k++)
		last = d->next[last];
	d->next[last] = d->free_head;
	d->free_head = *ret_head;
	d->n_free = (uint16_t)(d->n_free + d->count[head]);
	d->count[head] = 0;
	return true;
}

bool drv_arm(struct drv *d)
{
	if (d->event_idx)
		store16(d->avail + 4 + 2u * d->size, d->used_seen);
	else
		store16(d->avail, 0);
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish before the look */
	return drv_used_idx(d) != d->used_seen;
}

void drv_disarm(struct drv *d)
{
	if (!d->event_idx)
		store16(d->avail, 1);
}

uint16_t drv_used_idx(const struct drv *d)
{
	return load16(d->used + 2);
}

uint16_t drv_avail_event(const struct drv *d)
{
	return load16(d->used + 4 + 8u * d->size);
}
