/* SPDX-License-Identifier: MIT */
/*
 * virtq.h - guest memory, dirty log and the device side of a split virtqueue.
 *
 * This folder is the only code that follows guest addresses or writes rings. The device maps the
 * memory and the log and hands the pointers in; nothing here makes a system call.
 *
 * A chain comes out as iovecs that point into guest memory, readable part first, so the device can
 * writev(2) from it or readv(2) into it, over many chains in one call. Typical use:
 *
 *	n = vq_pop(vq, chains, N, iov, cap);	   many chains, one look at the guest's index
 *	... readv into the iovecs, vq_wrote() tells what the kernel wrote, set chain->written ...
 *	vq_unpop(vq, unused);			   gives the last ones back, unused
 *	vq_push(vq, chains, used);		   one store of the used index
 *	if (vq_must_notify(vq)) ...		   write the call eventfd
 *
 * What the guest puts into its memory can make a queue broken (vq->broken says why, every later
 * call is harmless and finds nothing), never the program.
 */
#ifndef VIRTQ_VIRTQ_H
#define VIRTQ_VIRTQ_H

#include "base/base.h"
#include <sys/uio.h>

#define VQ_REGIONS_MAX   64    /* regions of one guest's memory */
#define VQ_SIZE_MAX      32768 /* virtio 1.2, 2.7: largest queue */
#define VQ_CHAIN_IOV_MAX 1024  /* iovecs of one chain: what one readv(2) takes */
#define VQ_PAGE          4096  /* unit of the dirty log, whatever the host's page size */

/* ---- guest memory ---- */

/* Guest bytes [gpa, gpa + size), known to the front end as [uaddr, uaddr + size), mapped by the
 * device at `host`. */
struct vq_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t uaddr;
	uint8_t *host;
};

/* Bitmap of dirty pages: bit gpa / 4096. `map` NULL: nothing is logged. `size` in bytes. */
struct vq_log {
	uint8_t *map;
	uint64_t size;
};

struct vq_mem {
	struct vq_region region[VQ_REGIONS_MAX];
	size_t n;
	struct vq_log log; /* the device sets and clears it, with no write in progress */
};

/* Adds a region: -EINVAL when empty or past the end of the address space, -EEXIST when it overlaps
 * another one as guest, user or host address, -ENOSPC when the table is full. */
int vq_mem_add(struct vq_mem *m, const struct vq_region *r);

/* Removes the region with exactly these addresses and says what it was, for unmapping; -ENOENT. */
int vq_mem_remove(struct vq_mem *m, uint64_t gpa, uint64_t uaddr, uint64_t size,
	struct vq_region *ret_region);

/* The host pointer to [uaddr, uaddr + len) if one region holds all of it, else NULL. */
void *vq_mem_user(const struct vq_mem *m, uint64_t uaddr, uint64_t len);

/* [gpa, gpa + len) as iovecs, over neighbouring regions where needed. Returns how many, -EFAULT
 * when a byte of it is not guest memory, -ENOBUFS when cap iovecs are too few. */
int vq_mem_iov(const struct vq_mem *m, uint64_t gpa, uint64_t len, struct iovec *iov, size_t cap);

/* Marks the pages of [gpa, gpa + len) dirty; what is beyond the log is left out. Call it after the
 * write. */
void vq_log_mark(const struct vq_log *log, uint64_t gpa, uint64_t len);

/* ---- queue ---- */

enum vq_broken {
	VQ_FINE,
	VQ_BROKEN_INDEX,          /* available index is ahead by more than the queue's size */
	VQ_BROKEN_HEAD,           /* head or next outside the descriptor table */
	VQ_BROKEN_LOOP,           /* more descriptors than the queue has: a loop */
	VQ_BROKEN_LONG,           /* more than VQ_CHAIN_IOV_MAX parts */
	VQ_BROKEN_BYTES,          /* 4 GiB or more in one chain */
	VQ_BROKEN_ORDER,          /* readable descriptor after a writable one */
	VQ_BROKEN_ADDRESS,        /* buffer or table outside guest memory */
	VQ_BROKEN_INDIRECT,       /* indirect descriptor, but not negotiated */
	VQ_BROKEN_INDIRECT_TABLE, /* indirect table: bad length, nested, or chained on */
	VQ_BROKEN_N_
};

const char *vq_broken_text(enum vq_broken b);

/* Addresses as SET_VRING_ADDR gives them: user addresses, and the guest address at which writes to
 * the used ring are logged. */
struct vq_addr {
	uint64_t desc, avail, used;
	uint64_t log_gpa;
	bool log;
};

/* inflight.c: what back ends that died had taken. */
struct vq_inflight {
	uint8_t *area;   /* NULL: nobody keeps it */
	uint16_t n;      /* entries of it */
	uint16_t *again; /* heads to be taken again first, by the caller's memory: n entries */
	uint16_t n_again, at_again, n_given; /* of them; n_again 0: all were given back */
	uint64_t counter;
};

struct vq {
	struct vq_mem *mem;
	struct vq_addr addr;
	bool addr_set;
	uint16_t size; /* 0: not set */

	/* the mapped ring; NULL while not started */
	uint8_t *desc, *avail, *used;

	uint16_t next_avail; /* free-running: next available entry to take */
	uint16_t next_used;  /* free-running: next used entry to write */
	uint16_t notified;   /* next_used at the last notify decision */
	bool notified_valid; /* false after start: the next decision is "yes" */
	bool event_idx, indirect;
	enum vq_broken broken;
	struct vq_inflight inflight;
};

#define VQ_START_EVENT_IDX 1u /* VIRTIO_F_EVENT_IDX was accepted */
#define VQ_START_INDIRECT  2u /* VIRTIO_F_INDIRECT_DESC was accepted */

void vq_init(struct vq *vq, struct vq_mem *mem);

/* Setup, in any order. Size: a power of two up to VQ_SIZE_MAX, else -EINVAL. Address: -EINVAL when
 * misaligned (desc 16, avail 2, used 4). On a started queue all are refused (-EBUSY), but that the
 * log fields of the address may change. */
int vq_set_size(struct vq *vq, uint32_t size);
int vq_set_addr(struct vq *vq, const struct vq_addr *addr);
int vq_set_base(struct vq *vq, uint16_t next_avail);

/* What SET_VRING_BASE at the other end wants to know: chains popped and not given back count as
 * done, so finish or unpop them first. */
static inline uint16_t vq_base(const struct vq *vq)
{
	return vq->next_avail;
}

/* vhost-user: Inflight I/O tracking. The queue's part of the front end's file, for n descriptors,
 * and memory for n heads; NULL: none. It is 8-aligned and has vq_inflight_bytes(n) bytes, or is
 * refused (-EINVAL); -EBUSY on a started queue. The start then takes up where the last back end
 * died: the base is what that one's record says, and chains that it had not given back are popped
 * first, before any other. -EINVAL at the start: n is below the queue's size. */
size_t vq_inflight_bytes(uint16_t n);
int vq_set_inflight(struct vq *vq, uint8_t *area, uint16_t n, uint16_t *again);

/* Starts: maps the ring, reads the used index, forgets an earlier break, asks for kicks. Then pop
 * without waiting for a kick, for it may have gone to another process; the first notify decision
 * is "yes". -EINVAL: size or address not set. -EFAULT: ring not in guest memory. */
int vq_start(struct vq *vq, unsigned flags);

/* Stops: no access to guest memory until the next start. The base stays. */
void vq_stop(struct vq *vq);

static inline bool vq_started(const struct vq *vq)
{
	return vq->used != NULL;
}

/* After a change of the memory table: finds the rings of a started queue again; -EFAULT stops it.
 */
int vq_remap(struct vq *vq);

/* ---- data path ---- */

struct vq_chain {
	uint16_t head;
	uint16_t n_out; /* iovecs that the guest filled: iov[0 .. n_out) */
	uint16_t n_in;  /* iovecs for us to fill: iov[n_out .. n_out + n_in) */
	uint32_t out_len, in_len;
	uint32_t written; /* 0 from vq_pop(); the device sets it before vq_push() */
	struct iovec *iov;
};

static inline struct iovec *vq_chain_in(const struct vq_chain *c)
{
	return c->iov + c->n_out;
}

/* Takes up to cap available chains, their iovecs in the caller's `iov` (at least VQ_CHAIN_IOV_MAX
 * entries, so one chain always fits). Returns how many; 0: none; -EPIPE: broken, or not started.
 * Chains before the one that breaks the queue are still returned. */
int vq_pop(struct vq *vq, struct vq_chain *chains, size_t cap, struct iovec *iov, size_t cap_iov);

/* Gives the last n popped chains back, unused; the next pop takes them again. */
void vq_unpop(struct vq *vq, size_t n);

/* Puts n chains into the used ring and then makes them visible with one store. */
void vq_push(struct vq *vq, const struct vq_chain *chains, size_t n);

/* Whether the guest wants to be told of what was pushed since the last decision. */
bool vq_must_notify(struct vq *vq);

/* Whether there are chains to be popped. */
bool vq_waits(const struct vq *vq);

/* Asks for a kick on the next chain. True: there is one already, pop again, no kick may come.
 * vq_disarm() asks for silence while the device polls anyway. */
bool vq_arm(struct vq *vq);
void vq_disarm(struct vq *vq);

/* Copies n bytes of the readable part, from offset `off` on; returns how many there were. */
size_t vq_read(const struct vq_chain *c, size_t off, void *buf, size_t n);

/* Copies n bytes into the writable part at `off`, and logs them; returns how many fitted. */
size_t vq_write(struct vq *vq, const struct vq_chain *c, size_t off, const void *buf, size_t n);

/* Logs that the kernel has written the first n bytes of these iovecs (readv, recvmsg). */
void vq_wrote(struct vq *vq, const struct iovec *iov, size_t n_iov, size_t n);

/* The bytes [off, off + len) of some iovecs as iovecs: returns how many (cap at most). */
size_t vq_iov_slice(const struct iovec *iov, size_t n_iov, size_t off, size_t len,
	struct iovec *ret_iov, size_t cap);

#endif
