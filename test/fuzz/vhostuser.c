/* SPDX-License-Identifier: MIT */
/*
 * A hostile front end. Before each message stands one byte: descriptors that come along (bits 0-3),
 * whether the device refuses (bit 4), how the message is cut (bits 5-7).
 */
#include "vhostuser/vhostuser.h"
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int next_fd, fds_out;

/* Every descriptor comes out once, in the order in which it went in. */
static void take_fds(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		hf_assert(fds[i] == fds_out++);
}

static void check_event(const struct vhu *v, const struct vhu_event *ev)
{
	hf_assert(ev->kind < VHU_EVENT_N_ && ev->kind != VHU_NONE);
	hf_assert(vhu_request_name(ev->request) != NULL);
	if (ev->kind == VHU_REFUSED)
		hf_assert(ev->why && ev->why == v->why);
	if (ev->kind == VHU_MEM_TABLE)
		hf_assert(ev->mem.n <= VHU_REGIONS_MAX && ev->mem.n == ev->n_fds);
	if (ev->kind >= VHU_RING_NUM && ev->kind <= VHU_RING_ENABLE && ev->kind != VHU_RING_ADDR)
		hf_assert(ev->ring.index < v->offer.n_queues);
	if (ev->kind == VHU_RING_ADDR)
		hf_assert(ev->addr.index < v->offer.n_queues);
	if (ev->kind == VHU_SET_CONFIG)
		hf_assert(ev->config.offset + ev->config.size <= VHU_CONFIG_MAX);
}

/* What must hold between messages. */
static void check(const struct vhu *v)
{
	hf_assert(!(v->protocol_features & ~v->offer.protocol_features));
	hf_assert(!v->ring[3].started && !v->ring[3].enabled);
	hf_assert(v->out_len <= sizeof(v->out) && v->in_len <= sizeof(v->in));
}

/* One message. 0, or -errno when the connection or the input ends. */
static int message(struct vhu *v, const uint8_t **data, size_t *size)
{
	struct vhu_event ev;
	const void *out;
	void *room;
	size_t n;
	uint8_t how = **data;
	size_t n_fds = HF_MIN(how & 15, VHU_FDS_MAX), step = (how >> 5) ? how >> 5 : SIZE_MAX;
	++*data, --*size;
	for (;;) {
		int fds[VHU_FDS_MAX];
		vhu_room(v, &room, &n);
		hf_assert(n > 0 && (uint8_t *)room + n <= v->in + sizeof(v->in));
		n = HF_MIN(n, step);
		n = HF_MIN(n, *size);
		if (n == 0 && *size == 0)
			return -ENODATA;
		memcpy(room, *data, n);
		*data += n, *size -= n;
		for (size_t i = 0; i < n_fds; i++)
			fds[i] = next_fd++;
		int r = vhu_received(v, n, fds, n_fds, &ev);
		take_fds(ev.fds, ev.n_fds);
		n_fds = 0;
		check(v);
		if (r > 0) {
			check_event(v, &ev);
			if (ev.kind != VHU_REFUSED)
				r = vhu_answer(v, how & 16 ? -EIO : 0, 7);
		}
		vhu_sent(v, vhu_output(v, &out));
		if (r < 0)
			return r;
		if (v->in_len == 0)
			return 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct vhu_offer offer = { .features = 1ull << 32 | 1ull << 29,
		.protocol_features = VHU_P_SUPPORTED,
		.n_queues = 3,
		.queue_size_max = 1024,
		.mem_slots = 32 };
	static struct vhu v;
	int fds[VHU_FDS_MAX];
	size_t n;
	next_fd = fds_out = 0;
	vhu_init(&v, &offer);
	while (size > 0)
		if (message(&v, &data, &size) < 0)
			break;
	vhu_reset(&v, fds, &n);
	take_fds(fds, n);
	hf_assert(next_fd == fds_out);
	return 0;
}
