/* SPDX-License-Identifier: MIT */
/*
 * chain.c - from available heads to iovecs, and bytes in and out of chains.
 *
 * A chain may have any shape: one descriptor or many, an indirect table at its end, buffers over
 * several regions, empty buffers. Each descriptor is copied once and only the copy is looked at;
 * the iovecs hold checked host pointers, so a driver that rewrites descriptors later changes
 * nothing. The bytes behind the iovecs stay the guest's: read what must be checked once.
 *
 * Whatever breaks a rule poisons the queue.
 */
#include "base/bytes.h"
#include "virtq_internal.h"
#include <errno.h>

#define DESC_F_NEXT     1
#define DESC_F_WRITE    2
#define DESC_F_INDIRECT 4

struct desc {
	uint64_t gpa;
	uint32_t len;
	uint16_t flags, next;
};

/* The ring's own table, or an indirect one in guest memory. */
struct table {
	bool indirect;
	uint64_t gpa;
	uint32_t n;
};

/* The chain that is being put together. */
struct walk {
	struct vq *vq;
	struct vq_chain *c;
	size_t cap; /* iovecs left, at most VQ_CHAIN_IOV_MAX */
	uint64_t bytes;
};

#define WALK_NO_ROOM VQ_BROKEN_N_ /* not broken: more iovecs are wanted than are left */

static bool read_desc(const struct vq *vq, const struct table *t, uint32_t i, struct desc *ret)
{
	uint8_t raw[DESC_BYTES];
	if (t->indirect) {
		struct iovec iov[2];
		int n = vq_mem_iov(vq->mem, t->gpa + (uint64_t)i * DESC_BYTES, DESC_BYTES, iov, 2);
		if (n < 0)
			return false;
		size_t off = 0;
		for (int k = 0; k < n; k++) {
			vq_copy(raw + off, iov[k].iov_base, iov[k].iov_len);
			off += iov[k].iov_len;
		}
	} else {
		vq_copy(raw, vq->desc + (size_t)i * DESC_BYTES, DESC_BYTES);
	}
	*ret = (struct desc){ le64_at(raw), le32_at(raw + 8), le16_at(raw + 12),
		le16_at(raw + 14) };
	return true;
}

/* Adds a descriptor's buffer to the chain. */
static int add_buffer(struct walk *w, const struct desc *d)
{
	struct vq_chain *c = w->c;
	size_t have = (size_t)c->n_out + c->n_in;
	bool write = d->flags & DESC_F_WRITE;
	if (!write && c->in_len > 0)
		return VQ_BROKEN_ORDER;
	w->bytes += d->len;
	if (w->bytes > UINT32_MAX)
		return VQ_BROKEN_BYTES;
	int n = vq_mem_iov(w->vq->mem, d->gpa, d->len, c->iov + have, w->cap - have);
	if (n == -ENOBUFS)
		return w->cap < VQ_CHAIN_IOV_MAX ? WALK_NO_ROOM : VQ_BROKEN_LONG;
	if (n < 0)
		return VQ_BROKEN_ADDRESS;
	if (write) {
		c->n_in = (uint16_t)(c->n_in + n);
		c->in_len += d->len;
	} else {
		c->n_out = (uint16_t)(c->n_out + n);
		c->out_len += d->len;
	}
	return VQ_FINE;
}

/* virtio 1.2, 2.7.5.3: a table is the end of a chain, holds whole descriptors, and no other table.
 */
static int enter_table(const struct vq *vq, const struct desc *d, struct table *t)
{
	if (!vq->indirect)
		return VQ_BROKEN_INDIRECT;
	if (t->indirect || (d->flags & DESC_F_NEXT) || d->len == 0 || d->len % DESC_BYTES != 0)
		return VQ_BROKEN_INDIRECT_TABLE;
	if (d->gpa > UINT64_MAX - d->len)
		return VQ_BROKEN_ADDRESS;
	*t = (struct table){ .indirect = true, .gpa = d->gpa, .n = d->len / DESC_BYTES };
	return VQ_FINE;
}

static int walk_chain(struct walk *w)
{
	struct table t = { .n = w->vq->size };
	uint32_t i = w->c->head, in_table = 0, buffers = 0;
	for (;;) {
		struct desc d;
		if (i >= t.n)
			return VQ_BROKEN_HEAD;
		if (in_table++ == t.n)
			return VQ_BROKEN_LOOP;
		if (!read_desc(w->vq, &t, i, &d))
			return VQ_BROKEN_ADDRESS;
		int r;
		if (d.flags & DESC_F_INDIRECT) {
			r = enter_table(w->vq, &d, &t);
			i = in_table = 0;
		} else {
			r = buffers++ < VQ_CHAIN_IOV_MAX ? add_buffer(w, &d) : VQ_BROKEN_LONG;
			i = d.next;
		}
		if (r != VQ_FINE)
			return r;
		if (!(d.flags & (DESC_F_NEXT | DESC_F_INDIRECT)))
			return VQ_FINE;
	}
}

int vq_pop(struct vq *vq, struct vq_chain *chains, size_t cap, struct iovec *iov, size_t cap_iov)
{
	hf_assert(cap_iov >= VQ_CHAIN_IOV_MAX);
	if (!vq_started(vq) || vq->broken)
		return -EPIPE;
	/* What the driver may have outstanding bounds what we may hold: chains that were popped and
	 * not pushed count as well. */
	struct vq_inflight *f = &vq->inflight;
	bool again = f->n_again > 0; /* nothing else until all of these were given back */
	size_t ready = again ? (size_t)f->n_again - f->at_again : vq_available(vq);
	uint16_t held = (uint16_t)(vq->next_avail - vq->next_used);
	if (!again && ready + held > vq->size) {
		vq->broken = VQ_BROKEN_INDEX;
		return -EPIPE;
	}
	size_t n = 0, iovs = 0;
	for (; n < cap && n < ready; n++) {
		struct vq_chain *c = &chains[n];
		size_t slot = vq->next_avail & (vq->size - 1u);
		*c = (struct vq_chain){ .head = again ? f->again[f->at_again]
						      : vq_load16(vq->avail + AVAIL_ENTRY(slot)),
			.iov = iov + iovs };
		struct walk w = {
			.vq = vq, .c = c, .cap = HF_MIN(cap_iov - iovs, (size_t)VQ_CHAIN_IOV_MAX)
		};
		int r = walk_chain(&w);
		if (r == WALK_NO_ROOM)
			break;
		if (r != VQ_FINE) {
			vq->broken = (enum vq_broken)r;
			break;
		}
		iovs += (size_t)c->n_out + c->n_in;
		if (again)
			f->at_again++;
		else
			vq->next_avail++;
	}
	return n == 0 && vq->broken ? -EPIPE : (int)n;
}

void vq_unpop(struct vq *vq, size_t n)
{
	if (vq->inflight.n_again > 0)
		vq->inflight.at_again = (uint16_t)(vq->inflight.at_again - n);
	else
		vq->next_avail = (uint16_t)(vq->next_avail - n);
}

size_t vq_iov_slice(const struct iovec *iov, size_t n_iov, size_t off, size_t len,
	struct iovec *ret_iov, size_t cap)
{
	size_t n = 0;
	for (size_t i = 0; i < n_iov && len > 0 && n < cap; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		size_t part = HF_MIN(len, iov[i].iov_len - off);
		ret_iov[n++] = (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + off,
			.iov_len = part };
		len -= part;
		off = 0;
	}
	return n;
}

size_t vq_read(const struct vq_chain *c, size_t off, void *buf, size_t n)
{
	uint8_t *p = buf;
	for (size_t i = 0; i < c->n_out && n > 0; i++) {
		if (off >= c->iov[i].iov_len) {
			off -= c->iov[i].iov_len;
			continue;
		}
		size_t part = HF_MIN(n, c->iov[i].iov_len - off);
		vq_copy(p, (const uint8_t *)c->iov[i].iov_base + off, part);
		p += part;
		n -= part;
		off = 0;
	}
	return (size_t)(p - (uint8_t *)buf);
}

size_t vq_write(struct vq *vq, const struct vq_chain *c, size_t off, const void *buf, size_t n)
{
	const struct iovec *in = vq_chain_in(c);
	const uint8_t *p = buf;
	for (size_t i = 0; i < c->n_in && n > 0; i++) {
		if (off >= in[i].iov_len) {
			off -= in[i].iov_len;
			continue;
		}
		size_t part = HF_MIN(n, in[i].iov_len - off);
		uint8_t *to = (uint8_t *)in[i].iov_base + off;
		memcpy(to, p, part);
		vq_log_host(vq->mem, to, part);
		p += part;
		n -= part;
		off = 0;
	}
	return (size_t)(p - (const uint8_t *)buf);
}

void vq_wrote(struct vq *vq, const struct iovec *iov, size_t n_iov, size_t n)
{
	for (size_t i = 0; i < n_iov && n > 0; i++) {
		size_t part = HF_MIN(n, iov[i].iov_len);
		vq_log_host(vq->mem, iov[i].iov_base, part);
		n -= part;
	}
}
