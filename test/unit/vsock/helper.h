/* SPDX-License-Identifier: MIT */
/* helper.h - one engine with a few slots, and a guest that says exactly what the test wants. */
#ifndef TEST_VSOCK_HELPER_H
#define TEST_VSOCK_HELPER_H

#include "../../lib/unit.h"
#include "vsock/vsock.h"
#include <errno.h>

#define CID   5u
#define GPORT 4000u
#define HPORT 1024u
#define BUF   8192u
#define SLOTS 10

struct rig {
	struct vsk v;
	struct vsk_conn *buckets[4];
	struct vsk_conn slots[SLOTS];
	struct vsk_ev ev;    /* of the last call */
	struct vsk_out out;  /* of the last call */
	struct vsk_pkt sent; /* the header in it */
	struct vsk_pkt p;    /* what the guest says next; fields stay until changed */
	uint64_t now;
};

static inline void rig_init(struct rig *g)
{
	*g = (struct rig){ .now = 1000 };
	const struct vsk_config cfg = {
		.guest_cid = CID, .buf_alloc = BUF, .hash_seed = 1, .siblings = true
	};
	assert_int_equal(vsk_init(&g->v, &cfg, g->buckets, 4), 0);
	vsk_give_slots(&g->v, g->slots, SLOTS, sizeof(g->slots[0]));
	g->p = (struct vsk_pkt){ .src_cid = CID,
		.dst_cid = VSK_CID_HOST,
		.src_port = GPORT,
		.dst_port = HPORT,
		.type = VSK_TYPE_STREAM,
		.buf_alloc = BUF };
}

/* The guest sends one packet; returns what the engine said. */
static inline int guest(struct rig *g, uint16_t op, uint32_t len, uint32_t flags)
{
	uint8_t hdr[VSK_HDR_BYTES];
	g->p.op = op;
	g->p.len = len;
	g->p.flags = flags;
	vsk_pkt_encode(&g->p, hdr);
	return vsk_from_guest(&g->v, g->now, hdr, len, &g->ev);
}

/* What comes next for the guest. */
static inline enum vsk_send next(struct rig *g)
{
	enum vsk_send s = vsk_to_guest(&g->v, &g->out);
	if (s == VSK_SEND_CONTROL)
		vsk_pkt_decode(g->out.hdr, &g->sent);
	return s;
}

#define expect_op(g, o)                                                                            \
	do {                                                                                       \
		assert_int_equal(next(g), VSK_SEND_CONTROL);                                       \
		assert_int_equal((g)->sent.op, o);                                                 \
	} while (0)
#define expect_nothing(g)                                                                          \
	do {                                                                                       \
		assert_false(vsk_wants_guest(&(g)->v));                                            \
		assert_int_equal(next(g), VSK_SEND_NOTHING);                                       \
	} while (0)
#define expect_closed(g, reason)                                                                   \
	do {                                                                                       \
		assert_int_equal((g)->ev.kind, VSK_EV_CLOSED);                                     \
		assert_int_equal((g)->ev.why, reason);                                             \
	} while (0)

/* A connection that the guest began, open, with the RESPONSE sent. */
static inline struct vsk_conn *guest_opens(struct rig *g)
{
	assert_int_equal(guest(g, VSK_OP_REQUEST, 0, 0), 0);
	assert_int_equal(g->ev.kind, VSK_EV_DIAL);
	struct vsk_conn *c = g->ev.conn;
	vsk_dialled(&g->v, c, true);
	expect_op(g, VSK_OP_RESPONSE);
	return c;
}

/* The host sends n bytes on the connection whose turn it is. */
static inline void host_sends(struct rig *g, struct vsk_conn *c, uint32_t n)
{
	assert_int_equal(next(g), VSK_SEND_DATA);
	assert_ptr_equal(g->out.conn, c);
	assert_true(n <= g->out.max);
	vsk_data(&g->v, c, n, 0, g->out.hdr);
	vsk_pkt_decode(g->out.hdr, &g->sent);
	assert_int_equal(g->sent.op, VSK_OP_RW);
	assert_int_equal(g->sent.len, n);
}

/* The host sends n bytes as a message or a part of one, with what the engine grants. */
static inline void host_sends_part(
	struct rig *g, struct vsk_conn *c, uint32_t n, uint32_t flags, uint32_t room)
{
	assert_int_equal(next(g), VSK_SEND_DATA);
	assert_ptr_equal(g->out.conn, c);
	assert_int_equal(g->out.max, room);
	vsk_data(&g->v, c, n, flags, g->out.hdr);
	vsk_pkt_decode(g->out.hdr, &g->sent);
	assert_int_equal(g->sent.op, VSK_OP_RW);
	assert_int_equal(g->sent.type, VSK_TYPE_SEQPACKET);
	assert_int_equal(g->sent.len, n);
	assert_int_equal(g->sent.flags, flags);
}

static inline void took(struct rig *g, struct vsk_conn *c, uint32_t n)
{
	vsk_host_took(&g->v, g->now, c, n, &g->ev);
}

static inline void host_shuts(struct rig *g, struct vsk_conn *c, uint8_t bits)
{
	vsk_host_shutdown(&g->v, g->now, c, bits, &g->ev);
}

#endif
