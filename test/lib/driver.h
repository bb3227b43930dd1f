/* SPDX-License-Identifier: MIT */
/*
 * driver.h - the driver's side of a split virtqueue, for tests and benchmarks.
 *
 * The ring lives in memory that the caller shares with a device: [mem, mem + drv_bytes(size)),
 * which the device knows as guest address `gpa`. Barriers are the real ones, so both sides may run
 * at once, in threads or processes. One use:
 *
 *	drv_add(&d, bufs, n);		   any number of times
 *	if (drv_publish(&d)) ...	   kick: write the eventfd
 *	while (drv_take(&d, &head, &len)) ...
 *	if (drv_arm(&d)) ...		   there is more already; else wait for the call eventfd
 */
#ifndef TEST_DRIVER_H
#define TEST_DRIVER_H

#include "base/base.h"

#define DRV_SIZE_MAX 1024

struct drv_buf {
	uint64_t gpa;
	uint32_t len;
	bool write; /* the device writes it */
};

struct drv {
	uint8_t *desc, *avail, *used;
	uint64_t gpa; /* of the descriptor table */
	uint16_t size;
	bool event_idx;
	uint16_t avail_idx, published, used_seen;
	uint16_t n_free, free_head;
	uint16_t next[DRV_SIZE_MAX];  /* our own chaining: the shared one is not trusted */
	uint16_t count[DRV_SIZE_MAX]; /* descriptors of the chain at this head */
};

/* Offsets of the parts from the ring's start; the whole is a multiple of 4096. */
size_t drv_avail_offset(uint16_t size);
size_t drv_used_offset(uint16_t size);
size_t drv_bytes(uint16_t size);

/* Clears the ring. `mem` is 4096-aligned. */
void drv_init(struct drv *d, void *mem, uint64_t gpa, uint16_t size, bool event_idx);

/* Adds a chain, readable buffers first; returns its head, or -ENOSPC. Visible after publish. */
int drv_add(struct drv *d, const struct drv_buf *bufs, size_t n);

/* The same with one ring descriptor and an indirect table at `table` (16 * n bytes). */
int drv_add_indirect(
	struct drv *d, void *table, uint64_t table_gpa, const struct drv_buf *bufs, size_t n);

/* Writes descriptor i as it is, for tests that break rules. */
void drv_desc(void *table, uint16_t i, uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next);

/* Puts any head into the available ring. */
void drv_avail(struct drv *d, uint16_t head);

/* Makes what was added visible. True: the device wants a kick. */
bool drv_publish(struct drv *d);

/* Takes one used entry and frees its descriptors. */
bool drv_take(struct drv *d, uint16_t *ret_head, uint32_t *ret_len);

/* Asks for an interrupt on the next used entry; true when there is one already. */
bool drv_arm(struct drv *d);

/* Asks for silence (without EVENT_IDX: NO_INTERRUPT). */
void drv_disarm(struct drv *d);

uint16_t drv_used_idx(const struct drv *d);
uint16_t drv_avail_event(const struct drv *d);

#endif
