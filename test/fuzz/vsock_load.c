/* SPDX-License-Identifier: MIT */
/*
 * vsock_load.c - a record from anywhere. As it is, and with its length and checksum put right so
 * that the rest is reached. What loads must behave, and what does not must leave nothing behind.
 */
#include "vsock/vsock.h"
#include "vsock/vsock_internal.h"
#include <stdlib.h>
#include <string.h>

#define SLOTS 16

static volatile uint8_t sum; /* bytes in flight are read, so that a sanitizer sees where they lie */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool cond)
{
	if (!cond)
		abort();
}

static void use(struct vsk *v, struct vsk_load *l)
{
	struct vsk_bytes h, t;
	struct vsk_ev ev;
	struct vsk_out out;
	uint8_t hdr[VSK_HDR_BYTES];
	for (struct vsk_conn *c; (c = vsk_load_next(l, &h, &t));) {
		must(h.n[0] <= vsk_unread(c) && h.n[0] <= c->buf_alloc);
		must(vsk_unread(c) <= c->buf_alloc || c->relayed);
		must(h.n[0] == vsk_unread(c) || c->peer_cid != VSK_CID_HOST);
		for (size_t i = 0; i < h.n[0]; i++)
			sum ^= ((const uint8_t *)h.p[0])[i];
		for (size_t i = 0; i < t.n[0]; i++)
			sum ^= ((const uint8_t *)t.p[0])[i];
		for (size_t i = 0; i < h.ends_n[0] + t.ends_n[0]; i++)
			sum ^= ((const uint8_t *)(i < h.ends_n[0] ? h.ends_p[0] : t.ends_p[0]))
				[i < h.ends_n[0] ? i : i - h.ends_n[0]];
		must(h.ends_n[0] == (size_t)c->msgs * VSK_END_BYTES);
		(void)sum; /* what counts is that the bytes can be read */
		if (c->state == VSK_DIALLING)
			vsk_dialled(v, c, true);
		else
			(void)vsk_claim(v, 0, c); /* a closing one has nothing to claim, nor one
						   * that has an owner */
		vsk_host_readable(v, c);
	}
	vsk_resume(v, 5);
	vsk_transport_reset(v, 5, false);
	for (int i = 0; i < 1000; i++) {
		bool wants = vsk_wants_guest(v);
		enum vsk_send s = vsk_to_guest(v, &out);
		must(wants == (s != VSK_SEND_NOTHING) && (s != VSK_SEND_DATA || out.max));
		if (s == VSK_SEND_NOTHING)
			break;
		if (s == VSK_SEND_DATA)
			vsk_data(v, out.conn, out.max, 0, hdr);
	}
	while (vsk_expire(v, VSK_NEVER - 1, &ev))
		vsk_release(v, ev.conn);
}

static void load(const uint8_t *data, size_t size)
{
	static struct vsk v;
	static struct vsk_conn *buckets[4], slots[SLOTS];
	struct vsk_record_info info;
	struct vsk_config cfg = { .guest_cid = 5, .buf_alloc = 65536 };
	bool takeover = vsk_record_info(data, size, &info) == 0 && info.takeover;
	if (vsk_record_info(data, size, &info) == 0 && info.guest_cid > 2 &&
		info.guest_cid != UINT32_MAX)
		cfg.guest_cid = info.guest_cid;
	struct vsk_load l;
	struct vsk_ev ev;
	must(vsk_init(&v, &cfg, buckets, 4) == 0);
	vsk_give_slots(&v, slots, SLOTS, sizeof(slots[0]));
	if ((takeover ? vsk_load_takeover : vsk_load_begin)(&l, &v, 0, data, size) == 0)
		use(&v, &l);
	else
		must(v.n_free == SLOTS && v.n_conns == 0);
	while (vsk_drop(&v, false, &ev))
		vsk_release(&v, ev.conn);
	vsk_clear(&v);
	must(v.n_free == SLOTS && v.n_conns == 0 && !vsk_wants_guest(&v));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	load(data, size);
	if (size < 28)
		return 0;
	uint8_t *copy = malloc(size);
	must(copy != NULL);
	memcpy(copy, data, size);
	le64_to(copy + 16, size);
	le32_to(copy + 24, 0);
	le32_to(copy + 24, vsk_crc32c(0, copy, size));
	load(copy, size);
	free(copy);
	return 0;
}
