/* SPDX-License-Identifier: MIT */
/*
 * vsock_engine.c - a guest that says anything, a device that keeps the rules. The input is a
 * script: a byte says who acts, the following ones how. Nothing may trap, no ring may pass its
 * bound, and in the end every slot must be free.
 */
#include "vsock/vsock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS    6
#define BUF      4096u
#define SAVE_CAP (1u << 16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct script {
	const uint8_t *p;
	size_t n;
};

static struct vsk v;
static struct vsk_conn *buckets[2], slots[SLOTS];
static uint64_t now;

static void must(bool cond)
{
	if (!cond)
		abort();
}

static uint8_t next(struct script *s)
{
	return s->n ? (s->n--, *s->p++) : 0;
}

/* Small values, and the edges of 32 bits. */
static uint32_t number(struct script *s)
{
	static const uint32_t edges[] = { 0, 1, 1023, 1024, BUF - 1, BUF, BUF + 1, 65536, 65537,
		0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff };
	uint8_t b = next(s);
	return b < HF_ARRAY_SIZE(edges) ? edges[b] : b * 16u;
}

static struct vsk_conn *pick(struct script *s)
{
	struct vsk_conn *c = &slots[next(s) % SLOTS];
	return c->state == VSK_OPEN ? c : NULL;
}

static void handle(const struct vsk_ev *ev)
{
	if (ev->kind == VSK_EV_CLOSED)
		vsk_release(&v, ev->conn);
	if (ev->kind == VSK_EV_DATA)
		must(vsk_unread(ev->conn) <= ev->conn->buf_alloc && ev->len <= ev->conn->buf_alloc);
	if (ev->kind == VSK_EV_END)
		must(vsk_unread(ev->conn) == 0);
}

static void guest(struct script *s)
{
	uint8_t hdr[VSK_HDR_BYTES], odd = next(s);
	struct vsk_ev ev;
	struct vsk_pkt p = { .src_cid = 5, .dst_cid = VSK_CID_HOST, .type = VSK_TYPE_STREAM };
	p.op = next(s) % 9;
	p.src_port = next(s) % 4;
	p.dst_port = odd & 1 ? VSK_HOST_PORT_MIN + next(s) % 4 : next(s) % 2;
	p.len = p.op == VSK_OP_RW ? number(s) : 0;
	p.flags = p.op == VSK_OP_SHUTDOWN ? next(s) % 4 : 0;
	p.buf_alloc = odd & 2 ? number(s) : 65536;
	p.fwd_cnt = odd & 4 ? number(s) : 0;
	if (odd > 250)
		p.src_cid = next(s);
	if (odd & 16) {
		p.type = VSK_TYPE_SEQPACKET;
		p.flags = p.op == VSK_OP_RW ? next(s) : p.flags;
	}
	if (odd & 32)
		p.dst_cid = 6;
	if (odd > 240)
		p.type = next(s);
	if (odd > 245)
		p.dst_cid = number(s);
	vsk_pkt_encode(&p, hdr);
	int r = vsk_from_guest(&v, now, hdr, odd == 8 ? 0 : p.len, &ev);
	must(r == 0 || r == -EBADMSG || (r == -ENOSPC && v.n_rst == VSK_RST_MAX));
	if (r == 0)
		handle(&ev);
}

static void to_guest(struct script *s)
{
	struct vsk_out out;
	struct vsk_ev ev;
	uint8_t hdr[VSK_HDR_BYTES], how = next(s);
	bool wants = vsk_wants_guest(&v);
	enum vsk_send r = vsk_to_guest(&v, &out);
	must(wants == (r != VSK_SEND_NOTHING));
	if (r != VSK_SEND_DATA)
		return;
	must(out.max >= 1 && out.max <= VSK_PAYLOAD_MAX);
	if (how < 200) {
		bool messages = out.conn->type == VSK_TYPE_SEQPACKET;
		if (messages && how < 100)
			vsk_data(&v, out.conn, how % out.max, VSK_MSG_EOM | (how & VSK_MSG_EOR),
				hdr);
		else
			vsk_data(&v, out.conn, 1 + how % out.max, 0, hdr);
	} else if (how < 220) {
		vsk_host_idle(&v, out.conn);
	} else if (how < 240) {
		vsk_host_shutdown(&v, now, out.conn, how & 1 ? VSK_SHUT_SEND : VSK_SHUT_BOTH, &ev);
		handle(&ev);
	} else {
		struct vsk_conn *c = out.conn;
		vsk_host_reset(&v, c);
		vsk_release(&v, c);
	}
}

/* Messages of any lengths that fit; the last one has not ended where it must not have. */
static struct vsk_bytes flight(uint8_t *ends, uint32_t bytes, uint32_t n_ends, bool part)
{
	static const uint8_t zero[BUF];
	for (uint32_t i = 0; i < n_ends; i++)
		le32_to(ends + i * VSK_END_BYTES, i == 0 && bytes ? bytes - part : 0);
	return (struct vsk_bytes){ .p = { zero },
		.n = { bytes },
		.ends_p = { ends },
		.ends_n = { n_ends * VSK_END_BYTES } };
}

/* The same again after a save and a load; the bytes in flight do not matter here. */
static void save_and_load(void)
{
	static uint8_t buf[SAVE_CAP], ends[SLOTS][BUF];
	struct vsk_save s;
	size_t len;
	vsk_save_begin(&s, &v, buf, sizeof(buf));
	for (struct vsk_conn *c = NULL; (c = vsk_next(&v, c));) {
		uint8_t *e = ends[c - slots];
		if (c->msgs >= BUF / VSK_END_BYTES)
			return;
		struct vsk_bytes h = flight(e, vsk_unread(c), c->msgs, c->rx_mid);
		struct vsk_bytes t = flight(e + c->msgs * VSK_END_BYTES, 0, c->tx_mid, false);
		vsk_save_conn(&s, c, c->peer_cid == VSK_CID_HOST, &h, &t);
	}
	must(vsk_save_end(&s, &len) == 0);
	must(len <= vsk_save_size(&v) + 2 * SLOTS * BUF);
	struct vsk_record_info info;
	must(vsk_record_info(buf, len, &info) == 0);
	if (info.n_conns > SLOTS)
		return; /* RSTs of unknown flows need slots there */
	const struct vsk_config cfg = v.cfg;
	struct vsk_load l;
	struct vsk_bytes h, t;
	must(vsk_init(&v, &cfg, buckets, 2) == 0);
	vsk_give_slots(&v, slots, SLOTS, sizeof(slots[0]));
	must(vsk_load_begin(&l, &v, now, buf, len) == 0);
	for (struct vsk_conn *c; (c = vsk_load_next(&l, &h, &t));)
		(void)vsk_claim(&v, now, c); /* a closing one has nothing to claim */
}

static void act(struct script *s)
{
	struct vsk_ev ev;
	struct vsk_conn *c;
	bool ok;
	switch (next(s) % 16) {
	default:
		guest(s);
		break;
	case 6:
	case 7:
		to_guest(s);
		break;
	case 8: /* dials are answered */
		c = &slots[next(s) % SLOTS];
		if (c->state != VSK_DIALLING)
			break;
		ok = next(s) % 4;
		vsk_dialled(&v, c, ok);
		if (!ok)
			vsk_release(&v, c);
		break;
	case 9:
		if ((c = pick(s))) {
			if (c->type == VSK_TYPE_SEQPACKET && c->msgs == 0)
				break;
			/* The last message leaves nothing, unless another one has begun. */
			uint32_t n = HF_MIN(number(s), vsk_unread(c) - c->rx_mid);
			if (c->type == VSK_TYPE_SEQPACKET && c->msgs == 1 && !c->rx_mid)
				n = vsk_unread(c);
			vsk_host_took(&v, now, c, n, &ev);
			handle(&ev);
		}
		break;
	case 10:
		if ((c = pick(s)))
			vsk_host_readable(&v, c);
		break;
	case 11:
		if ((c = pick(s))) {
			vsk_host_shutdown(&v, now, c, next(s) % 4, &ev);
			handle(&ev);
		}
		break;
	case 12:
		ok = next(s) & 1;
		enum vsk_type type = ok ? VSK_TYPE_STREAM : VSK_TYPE_SEQPACKET;
		if (next(s) & 1) /* -ENOBUFS, -EADDRINUSE are fine */
			(void)vsk_connect(&v, now, type, next(s) % 4, &c);
		else
			(void)vsk_connect_from(&v, now, type, 6, next(s) % 2, next(s) % 4, &c);
		break;
	case 13:
		now += (uint64_t)next(s) * 50000;
		while (vsk_expire(&v, now, &ev))
			handle(&ev);
		break;
	case 14:
		save_and_load();
		break;
	case 15:
		if (next(s) > 200) {
			while (vsk_drop(&v, true, &ev))
				handle(&ev);
			vsk_transport_reset(&v, now, true);
		} else {
			vsk_event_placed(&v);
			vsk_event_used(&v);
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct script s = { data, HF_MIN(size, (size_t)1 << 14) };
	const struct vsk_config cfg = {
		.guest_cid = 5, .buf_alloc = BUF, .features = VSK_F_SEQPACKET, .siblings = true
	};
	struct vsk_ev ev;
	now = 0;
	must(vsk_init(&v, &cfg, buckets, 2) == 0);
	memset(slots, 0, sizeof(slots));
	vsk_give_slots(&v, slots, SLOTS, sizeof(slots[0]));
	while (s.n)
		act(&s);
	while (vsk_drop(&v, false, &ev))
		handle(&ev);
	vsk_clear(&v);
	must(v.n_free == SLOTS && v.n_conns == 0 && !vsk_wants_guest(&v));
	return 0;
}
