/* SPDX-License-Identifier: MIT */
/*
 * queue.c - life of a split virtqueue, the used ring, and who wakes whom.
 *
 * A queue is set up (size, addresses, base), started and stopped; between start and stop the three
 * parts of the ring are mapped pointers. Counters run freely over 16 bits, an entry's slot is the
 * counter modulo the size.
 *
 * Three orders matter (virtio 1.2, 2.7.10, 2.7.13, 2.7.14):
 *  - a used entry before the used index: the index is stored with release;
 *  - the used index before the look at used_event or NO_INTERRUPT: a full fence, else both sides
 *    could miss each other;
 *  - avail_event or NO_NOTIFY before the second look at the available index: a full fence,
 * likewise.
 *
 * Every write into the used ring is logged at log_gpa when the address says so, after the write.
 */
#include "virtq_internal.h"
#include <errno.h>

static const char *const broken_text[] = {
	[VQ_FINE] = "fine",
	[VQ_BROKEN_INDEX] = "more entries available and in flight than the queue has",
	[VQ_BROKEN_HEAD] = "descriptor index outside the table",
	[VQ_BROKEN_LOOP] = "descriptor chain loops",
	[VQ_BROKEN_LONG] = "descriptor chain has too many parts",
	[VQ_BROKEN_BYTES] = "descriptor chain of 4 GiB or more",
	[VQ_BROKEN_ORDER] = "readable descriptor after a writable one",
	[VQ_BROKEN_ADDRESS] = "descriptor points outside guest memory",
	[VQ_BROKEN_INDIRECT] = "indirect descriptor, which was not negotiated",
	[VQ_BROKEN_INDIRECT_TABLE] = "indirect table of bad length, nested or chained on",
};
_Static_assert(HF_ARRAY_SIZE(broken_text) == VQ_BROKEN_N_, "a text for each reason");

const char *vq_broken_text(enum vq_broken b)
{
	return (unsigned)b < VQ_BROKEN_N_ ? broken_text[b] : "unknown";
}

void vq_init(struct vq *vq, struct vq_mem *mem)
{
	*vq = (struct vq){ .mem = mem };
}

int vq_set_size(struct vq *vq, uint32_t size)
{
	if (vq_started(vq))
		return -EBUSY;
	if (size == 0 || size > VQ_SIZE_MAX || (size & (size - 1)) != 0)
		return -EINVAL;
	vq->size = (uint16_t)size;
	return 0;
}

int vq_set_addr(struct vq *vq, const struct vq_addr *addr)
{
	if (vq_started(vq) && (addr->desc != vq->addr.desc || addr->avail != vq->addr.avail ||
				      addr->used != vq->addr.used))
		return -EBUSY;
	if (addr->desc % 16 != 0 || addr->avail % 2 != 0 || addr->used % 4 != 0)
		return -EINVAL;
	vq->addr = *addr;
	vq->addr_set = true;
	return 0;
}

int vq_set_base(struct vq *vq, uint16_t next_avail)
{
	if (vq_started(vq))
		return -EBUSY;
	vq->next_avail = next_avail;
	return 0;
}

/* All three parts or none. A mapping may shift the address, so its alignment is looked at again. */
static int map_ring(struct vq *vq)
{
	uint8_t *desc = vq_mem_user(vq->mem, vq->addr.desc, DESC_BYTES * (uint64_t)vq->size);
	uint8_t *avail = vq_mem_user(vq->mem, vq->addr.avail, AVAIL_BYTES(vq->size));
	uint8_t *used = vq_mem_user(vq->mem, vq->addr.used, USED_BYTES(vq->size));
	if (!desc || !avail || !used)
		return -EFAULT;
	if ((uintptr_t)desc % 16 != 0 || (uintptr_t)avail % 2 != 0 || (uintptr_t)used % 4 != 0)
		return -EFAULT;
	vq->desc = desc;
	vq->avail = avail;
	vq->used = used;
	return 0;
}

int vq_start(struct vq *vq, unsigned flags)
{
	vq_stop(vq);
	if (vq->size == 0 || !vq->addr_set)
		return -EINVAL;
	int r = map_ring(vq);
	if (r < 0)
		return r;
	vq->event_idx = flags & VQ_START_EVENT_IDX;
	vq->indirect = flags & VQ_START_INDIRECT;
	vq->broken = VQ_FINE;
	vq->next_used = vq_load16(vq->used + USED_IDX);
	r = vq_inflight_start(vq);
	if (r < 0) {
		vq_stop(vq);
		return r;
	}
	vq->notified_valid = false;
	(void)vq_arm(vq); /* the caller pops in any case */
	return 0;
}

void vq_stop(struct vq *vq)
{
	vq->desc = vq->avail = vq->used = NULL;
}

int vq_remap(struct vq *vq)
{
	if (!vq_started(vq))
		return 0;
	int r = map_ring(vq);
	if (r < 0)
		vq_stop(vq);
	return r;
}

static void log_used(struct vq *vq, size_t off, size_t len)
{
	if (vq->addr.log)
		vq_log_mark(&vq->mem->log, vq->addr.log_gpa + off, len);
}

/* The n entries from counter `from` on: in one piece or, over the ring's end, in two. */
static void log_used_entries(struct vq *vq, uint16_t from, size_t n)
{
	size_t slot = from & (vq->size - 1u);
	size_t first;
	n = HF_MIN(n, (size_t)vq->size);
	first = HF_MIN(n, vq->size - slot);
	log_used(vq, USED_ENTRY(slot), 8 * first);
	if (first < n)
		log_used(vq, USED_ENTRY(0), 8 * (n - first));
}

void vq_push(struct vq *vq, const struct vq_chain *chains, size_t n)
{
	if (!vq_started(vq) || n == 0)
		return;
	uint16_t from = vq->next_used;
	if (vq->inflight.area)
		vq_inflight_begin(vq, chains, n);
	for (size_t i = 0; i < n; i++) {
		uint32_t entry[2] = { htole32(chains[i].head), htole32(chains[i].written) };
		size_t slot = vq->next_used & (vq->size - 1u);
		memcpy(vq->used + USED_ENTRY(slot), entry, sizeof(entry));
		vq->next_used++;
	}
	vq_store16_release(vq->used + USED_IDX, vq->next_used);
	if (vq->inflight.area)
		vq_inflight_end(vq, chains, n);
	log_used_entries(vq, from, n);
	log_used(vq, USED_IDX, 2);
}

bool vq_must_notify(struct vq *vq)
{
	if (!vq_started(vq))
		return false;
	/* The used index is visible before we look at what the driver wants. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	uint16_t old = vq->notified, now = vq->next_used;
	vq->notified = now;
	if (!vq->notified_valid) {
		vq->notified_valid = true;
		return true;
	}
	if (now == old)
		return false;
	if (!vq->event_idx)
		return !(vq_load16(vq->avail + AVAIL_FLAGS) & AVAIL_F_NO_INTERRUPT);
	/* Has the index passed used_event? virtio 1.2, 2.7.7.2: that entry or a later one. */
	uint16_t event = vq_load16(vq->avail + AVAIL_ENTRY(vq->size));
	return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

bool vq_waits(const struct vq *vq)
{
	return vq_started(vq) && !vq->broken && vq_available(vq) != 0;
}

bool vq_arm(struct vq *vq)
{
	if (!vq_started(vq) || vq->broken)
		return false;
	if (vq->event_idx) {
		vq_store16(vq->used + USED_ENTRY(vq->size), vq->next_avail);
		log_used(vq, USED_ENTRY(vq->size), 2);
	} else {
		vq_store16(vq->used + USED_FLAGS, 0);
		log_used(vq, USED_FLAGS, 2);
	}
	/* The wish is visible before we look whether it came too late. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return vq_available(vq) != 0;
}

void vq_disarm(struct vq *vq)
{
	if (!vq_started(vq) || vq->event_idx)
		return; /* with EVENT_IDX an old event index is silence enough */
	vq_store16(vq->used + USED_FLAGS, USED_F_NO_NOTIFY);
	log_used(vq, USED_FLAGS, 2);
}
