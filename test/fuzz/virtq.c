/* SPDX-License-Identifier: MIT */
/*
 * A hostile driver. Byte 0: log2 of the ring's size, byte 1: what was negotiated, bytes 2-3: base,
 * byte 4: how many operations follow, of 4 bytes each; some of them are the guest's, which writes
 * its memory between two calls. The rest is what guest memory holds at first.
 *
 * Guest memory is two regions at neighbouring guest addresses, not neighbours in the host.
 */
#include "virtq/virtq.h"
#include "base/bytes.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define A_BYTES  4096u
#define B_BYTES  256u
#define GPA      0x10000u
#define SIZE_LOG 5
#define N_CHAIN  8

enum op { POP, PUSH, UNPOP, ARM, DISARM, NOTIFY, READ, WRITE, SET, ADVANCE, RESTART, OP_N_ };

static uint8_t *mem_a, *mem_b;
static uint8_t dirty[4];

static bool inside(const struct iovec *v)
{
	const uint8_t *p = v->iov_base;
	return v->iov_len > 0 &&
	       ((p >= mem_a && v->iov_len <= (size_t)(mem_a + A_BYTES - p)) ||
		       (p >= mem_b && v->iov_len <= (size_t)(mem_b + B_BYTES - p)));
}

/* Whatever the driver did, a chain lies in guest memory and its sums are right. */
static void check_chains(const struct vq_chain *c, int n)
{
	for (int i = 0; i < n; i++) {
		uint64_t out = 0, in = 0;
		hf_assert(c[i].n_out + c[i].n_in <= VQ_CHAIN_IOV_MAX);
		for (unsigned k = 0; k < c[i].n_out; k++) {
			hf_assert(inside(&c[i].iov[k]));
			out += c[i].iov[k].iov_len;
		}
		for (unsigned k = 0; k < c[i].n_in; k++) {
			hf_assert(inside(&vq_chain_in(&c[i])[k]));
			in += vq_chain_in(&c[i])[k].iov_len;
		}
		hf_assert(out == c[i].out_len && in == c[i].in_len);
	}
}

static void guest_writes(uint16_t at, uint8_t value)
{
	at %= A_BYTES + B_BYTES;
	if (at < A_BYTES)
		mem_a[at] = value;
	else
		mem_b[at - A_BYTES] = value;
}

static void run(struct vq *vq, unsigned flags, const uint8_t *ops, size_t n_ops)
{
	static struct iovec iov[VQ_CHAIN_IOV_MAX + 8];
	static struct vq_chain chain[N_CHAIN];
	uint8_t buf[64] = { 0 };
	int have = 0; /* chains that we hold */
	for (size_t i = 0; i < n_ops; i++, ops += 4) {
		uint16_t x = le16_at(ops + 2);
		switch ((enum op)(ops[0] % OP_N_)) {
		case POP:
			have = vq_pop(vq, chain, N_CHAIN, iov, HF_ARRAY_SIZE(iov));
			have = HF_MAX(have, 0);
			check_chains(chain, have);
			break;
		case PUSH:
			vq_push(vq, chain, (size_t)have);
			have = 0;
			break;
		case UNPOP:
			vq_unpop(vq, (size_t)have);
			have = 0;
			break;
		case ARM:
			(void)vq_arm(vq);
			break;
		case DISARM:
			vq_disarm(vq);
			break;
		case NOTIFY:
			(void)vq_must_notify(vq);
			break;
		case READ:
			for (int k = 0; k < have; k++)
				(void)vq_read(&chain[k], x, buf, sizeof(buf));
			break;
		case WRITE:
			for (int k = 0; k < have; k++) {
				(void)vq_write(vq, &chain[k], x, buf, sizeof(buf));
				vq_wrote(vq, vq_chain_in(&chain[k]), chain[k].n_in, x);
			}
			break;
		case SET:
			guest_writes(x, ops[1]);
			break;
		case ADVANCE: /* the available index, so that scripts get somewhere */
			if (vq_started(vq))
				le16_to(vq->avail + 2, (uint16_t)(le16_at(vq->avail + 2) + ops[1]));
			break;
		case RESTART:
			vq_stop(vq);
			have = 0;
			hf_assert(vq_start(vq, flags) == 0);
			break;
		case OP_N_:
			break;
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vq_mem mem = { .log = { dirty, sizeof(dirty) } };
	struct vq vq;
	if (size < 5 || size - 5 < data[4] * 4u)
		return 0;
	uint16_t n = (uint16_t)(1u << data[0] % (SIZE_LOG + 1));
	size_t n_ops = data[4];
	const uint8_t *fill = data + 5 + 4 * n_ops;
	size_t n_fill = size - 5 - 4 * n_ops;
	mem_a = aligned_alloc(4096, A_BYTES);
	mem_b = aligned_alloc(256, B_BYTES);
	memset(mem_a, 0, A_BYTES);
	memset(mem_b, 0, B_BYTES);
	for (size_t i = 0; i < n_fill && i < A_BYTES + B_BYTES; i++)
		guest_writes((uint16_t)i, fill[i]);

	struct vq_region a = { GPA, A_BYTES, GPA, mem_a };
	struct vq_region b = { GPA + A_BYTES, B_BYTES, GPA + A_BYTES, mem_b };
	hf_assert(vq_mem_add(&mem, &a) == 0 && vq_mem_add(&mem, &b) == 0);
	vq_init(&vq, &mem);
	struct vq_addr addr = { GPA, GPA + 16u * n, GPA + 1024, data[1] & 4 ? UINT64_MAX - 8 : GPA,
		data[1] & 8 };
	hf_assert(vq_set_size(&vq, n) == 0 && vq_set_addr(&vq, &addr) == 0);
	hf_assert(vq_set_base(&vq, le16_at(data + 2)) == 0);
	hf_assert(vq_start(&vq, data[1] & 3) == 0);
	run(&vq, data[1] & 3, data + 5, n_ops);
	hf_assert(vq.broken < VQ_BROKEN_N_);
	free(mem_a);
	free(mem_b);
	return 0;
}
