/* SPDX-License-Identifier: MIT */
#include "helper.h"

/* ---- set-up ---- */

static void test_reserved_cids_are_refused(void **state)
{
	(void)state;
	static const uint32_t bad[] = { 0, 1, 2, UINT32_MAX }; /* D1.3 */
	struct vsk v;
	struct vsk_conn *b[1];
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		const struct vsk_config cfg = { .guest_cid = bad[i], .buf_alloc = BUF };
		assert_int_equal(vsk_init(&v, &cfg, b, 1), -EINVAL);
	}
	const struct vsk_config cfg = { .guest_cid = 3, .buf_alloc = VSK_BUF_MAX };
	assert_int_equal(vsk_init(&v, &cfg, b, 1), 0);
	const struct vsk_config big = { .guest_cid = 3, .buf_alloc = VSK_BUF_MAX + 1 };
	assert_int_equal(vsk_init(&v, &big, b, 1), -EINVAL);
}

/* ---- validation and RST: D3 ---- */

static void test_unknown_flow_is_answered_rst(void **state)
{
	(void)state;
	struct rig g;
	static const uint16_t ops[] = { 0, VSK_OP_RESPONSE, VSK_OP_SHUTDOWN, VSK_OP_RW,
		VSK_OP_CREDIT_UPDATE, VSK_OP_CREDIT_REQUEST, 8, 0xffff };
	for (size_t i = 0; i < HF_ARRAY_SIZE(ops); i++) {
		rig_init(&g);
		assert_int_equal(guest(&g, ops[i], 0, 0), 0);
		assert_int_equal(g.ev.kind, VSK_EV_NONE);
		expect_op(&g, VSK_OP_RST); /* D3.5: addresses swapped, same type */
		assert_int_equal(g.sent.src_cid, VSK_CID_HOST);
		assert_int_equal(g.sent.dst_cid, CID);
		assert_int_equal(g.sent.src_port, HPORT);
		assert_int_equal(g.sent.dst_port, GPORT);
		assert_int_equal(g.sent.type, VSK_TYPE_STREAM);
		assert_int_equal(g.sent.buf_alloc, BUF); /* D4.1 */
		expect_nothing(&g);
	}
}

static void test_rst_is_never_answered(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest(&g, VSK_OP_RST, 0, 0); /* D3.4, D3.6 */
	expect_nothing(&g);
	g.p.type = 77;
	guest(&g, VSK_OP_RST, 0, 0);
	expect_nothing(&g);
}

static void test_other_types_and_other_guests_get_rst(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.type = VSK_TYPE_SEQPACKET;
	guest(&g, VSK_OP_REQUEST, 0, 0); /* D3.2 */
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.sent.type, VSK_TYPE_SEQPACKET);
	g.p.type = 3; /* D1.10: datagrams are in no specification */
	guest(&g, VSK_OP_RW, 9, 0);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.sent.type, 3);
	guest(&g, VSK_OP_REQUEST, 0, 0);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_op(&g, VSK_OP_RST);
	g.p.type = VSK_TYPE_STREAM;
	static const uint32_t nobody[] = { 0, 1, CID, UINT32_MAX }; /* D1.3, and itself */
	for (size_t i = 0; i < HF_ARRAY_SIZE(nobody); i++) {
		g.p.dst_cid = nobody[i];
		guest(&g, VSK_OP_REQUEST, 0, 0);
		expect_op(&g, VSK_OP_RST);
		assert_int_equal(g.sent.src_cid, nobody[i]);
	}
	g.v.cfg.siblings = false;
	g.p.dst_cid = 6; /* D1.4 */
	guest(&g, VSK_OP_REQUEST, 0, 0);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.sent.src_cid, 6);
	assert_int_equal(g.v.n_free, SLOTS);
}

/* D1.6, D1.7, D1.8: which types a driver may use with which features. */
static void test_features_decide_the_types(void **state)
{
	(void)state;
	static const struct {
		uint64_t features;
		bool stream, seqpacket;
	} cases[] = {
		{ 0, true, false },
		{ VSK_F_STREAM, true, false },
		{ VSK_F_SEQPACKET, true, true },
		{ VSK_F_NO_IMPLIED_STREAM, false, false },
		{ VSK_F_NO_IMPLIED_STREAM | VSK_F_SEQPACKET, false, true },
		{ VSK_F_NO_IMPLIED_STREAM | VSK_F_SEQPACKET | VSK_F_STREAM, true, true },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++)
		for (uint16_t type = VSK_TYPE_STREAM; type <= VSK_TYPE_SEQPACKET; type++) {
			struct rig g;
			struct vsk_conn *c;
			rig_init(&g);
			vsk_set_features(&g.v, cases[i].features);
			bool served =
				type == VSK_TYPE_STREAM ? cases[i].stream : cases[i].seqpacket;
			g.p.type = type;
			guest(&g, VSK_OP_REQUEST, 0, 0);
			assert_int_equal(g.ev.kind, served ? VSK_EV_DIAL : VSK_EV_NONE);
			assert_int_equal(vsk_connect(&g.v, 0, type, GPORT, &c),
				served ? 0 : -EPROTONOSUPPORT);
			if (!served)
				continue;
			assert_int_equal(g.ev.conn->type, type);
			expect_op(&g, VSK_OP_REQUEST);
			assert_int_equal(g.sent.type, type);
		}
}

/* ---- messages ---- */

static struct vsk_conn *message_rig(struct rig *g)
{
	rig_init(g);
	vsk_set_features(&g->v, VSK_F_SEQPACKET);
	g->p.type = VSK_TYPE_SEQPACKET;
	return guest_opens(g);
}

static void guest_part(struct rig *g, uint32_t len, uint32_t flags, uint32_t flags_seen)
{
	assert_int_equal(guest(g, VSK_OP_RW, len, flags), 0);
	assert_int_equal(g->ev.kind, VSK_EV_DATA);
	assert_int_equal(g->ev.len, len);
	assert_int_equal(g->ev.flags, flags_seen);
}

/* D6.1, D6.2: each end is told, that of an empty message too; the guest's end comes after all. */
static void test_messages_of_the_guest(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c = message_rig(&g);
	guest_part(&g, 100, VSK_MSG_EOM, VSK_MSG_EOM);
	guest_part(&g, 50, 0, 0);
	guest_part(&g, 0, VSK_MSG_EOM | VSK_MSG_EOR | 4, VSK_MSG_EOM | VSK_MSG_EOR);
	guest_part(&g, 0, VSK_MSG_EOM, VSK_MSG_EOM);
	assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), 0); /* says nothing */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	took(&g, c, 100);
	took(&g, c, 50);
	assert_int_equal(c->fwd_cnt, 150);
	assert_int_equal(g.ev.kind, VSK_EV_NONE); /* the empty one waits */
	took(&g, c, 0);
	assert_int_equal(g.ev.kind, VSK_EV_END);
}

static void test_streams_know_no_messages(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest_part(&g, 9, VSK_MSG_EOM, 0);
	assert_int_equal(c->msgs, 0);
	assert_int_equal(guest(&g, VSK_OP_RW, 0, VSK_MSG_EOM), 0);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
}

/* Empty messages need no credit: their number is bounded by itself. */
static void test_messages_at_the_limit_and_past_it(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c = message_rig(&g);
	for (uint32_t i = 0; i < VSK_MSGS_MAX; i++)
		guest_part(&g, 0, VSK_MSG_EOM, VSK_MSG_EOM);
	guest_part(&g, 1, 0, 0);
	took(&g, c, 0);
	guest_part(&g, 1, VSK_MSG_EOM, VSK_MSG_EOM);
	guest(&g, VSK_OP_RW, 0, VSK_MSG_EOM);
	expect_closed(&g, VSK_WHY_OVERRUN);
	assert_int_equal(g.v.stats.overruns, 1);
}

/* D6.3: a message as large as the buffer passes, though the guest learns late of room: once a part
 * has come, it is told of every byte. */
static void test_room_is_told_for_a_message_that_has_begun(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c = message_rig(&g);
	guest_part(&g, 100, VSK_MSG_EOM, VSK_MSG_EOM);
	took(&g, c, 100);
	expect_nothing(&g); /* a little is not worth a packet */
	guest_part(&g, BUF - 100, 0, 0);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, 100);
	guest_part(&g, 50, 0, 0);
	expect_nothing(&g); /* nothing new */
	guest_part(&g, 50, VSK_MSG_EOM, VSK_MSG_EOM);
	took(&g, c, BUF);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	/* The other order: the part came first, then the host took what was before it. */
	guest_part(&g, 10, VSK_MSG_EOM, VSK_MSG_EOM);
	guest_part(&g, BUF - 10, 0, 0);
	expect_nothing(&g);
	took(&g, c, 10);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
}

static void test_a_message_that_never_ends(void **state)
{
	(void)state;
	struct rig g;
	(void)message_rig(&g);
	guest_part(&g, 10, VSK_MSG_EOM, VSK_MSG_EOM);
	guest_part(&g, 10, 0, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_RCV);
	assert_int_equal(g.ev.kind, VSK_EV_DEAF);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	expect_closed(&g, VSK_WHY_GUEST_RST); /* what was whole is still the host's */
	expect_op(&g, VSK_OP_RST);
	struct vsk_conn *c = message_rig(&g);
	guest_part(&g, 10, 0, 0);
	host_shuts(&g, c, VSK_SHUT_RCV); /* nobody wants it: no reason to end */
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_RW, 10, VSK_MSG_EOM);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	assert_int_equal(c->msgs, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	assert_int_equal(g.ev.kind, VSK_EV_END);
}

/* D6.4: flags on the last part only. A message that has begun goes on however little room there
 * is: the guest takes out only whole ones. */
static void test_messages_of_the_host(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c = message_rig(&g);
	assert_int_equal(vsk_message_max(c), BUF);
	vsk_host_readable(&g.v, c);
	host_sends_part(&g, c, 0, VSK_MSG_EOM, BUF);
	host_sends_part(&g, c, 10, VSK_MSG_EOM | VSK_MSG_EOR, BUF);
	host_sends_part(&g, c, BUF - 11, 0, BUF - 10);
	host_sends_part(&g, c, 1, 0, 1); /* in the midst of one: not held back */
	expect_op(&g, VSK_OP_CREDIT_REQUEST);
	expect_nothing(&g);
	g.p.fwd_cnt = 10;
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	host_sends_part(&g, c, 10, VSK_MSG_EOM, 10);
	g.p.fwd_cnt = 20;
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	expect_op(&g, VSK_OP_CREDIT_REQUEST); /* a new one waits for more, as streams do */
	expect_nothing(&g);
}

static void test_another_type_on_a_live_flow_gets_rst(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c = message_rig(&g);
	g.p.type = VSK_TYPE_STREAM;
	guest(&g, VSK_OP_RST, 0, 0);
	expect_nothing(&g);
	guest(&g, VSK_OP_REQUEST, 0, 0);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.sent.type, VSK_TYPE_STREAM);
	assert_int_equal(c->state, VSK_OPEN);
}

/* ---- siblings ---- */

static void test_a_sibling_is_dialled(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.dst_cid = 6;
	struct vsk_conn *c = guest_opens(&g); /* D1.4 */
	assert_int_equal(g.sent.src_cid, 6);
	assert_int_equal(c->peer_cid, 6);
	g.p.dst_cid = VSK_CID_HOST; /* the same ports, yet another flow */
	struct vsk_conn *d = guest_opens(&g);
	assert_ptr_not_equal(c, d);
	assert_ptr_equal(vsk_find(&g.v, 6, HPORT, GPORT), c);
	g.p.dst_cid = 6;
	guest(&g, VSK_OP_RW, 10, 0);
	assert_ptr_equal(g.ev.conn, c);
}

/* D4.2, D6.3: between siblings each guest is told of the other one's room, and of no other. */
static void test_credit_of_siblings_is_from_end_to_end(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, far = { .peer_buf_alloc = 3000 };
	rig_init(&g);
	g.p.dst_cid = 6;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	c = g.ev.conn;
	vsk_relay(&g.v, c, &far, false);
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	assert_int_equal(g.sent.buf_alloc, 3000);
	far.peer_buf_alloc = UINT32_MAX; /* more than the device holds */
	vsk_relay(&g.v, c, &far, true);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.buf_alloc, BUF);

	/* what lies in the far guest's memory is not taken yet */
	guest(&g, VSK_OP_RW, 2900, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	far.tx_cnt = 2900;
	far.peer_buf_alloc = 3000; /* less is told at once */
	vsk_relay(&g.v, c, &far, false);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	vsk_host_took(&g.v, g.now, c, 2900, &g.ev);
	vsk_relay(&g.v, c, &far, false);
	expect_nothing(&g);
	assert_int_equal(vsk_guest_room(c), 100);
	far.peer_fwd_cnt = 10; /* along with other things: too little to tell */
	vsk_relay(&g.v, c, &far, false);
	expect_nothing(&g);
	vsk_relay(&g.v, c, &far, true); /* unless it is a packet of its own */
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, 10);
	vsk_relay(&g.v, c, &far, true); /* told */
	expect_nothing(&g);
	far.peer_fwd_cnt = 20;
	vsk_relay(&g.v, c, &far, true);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, 20);
	assert_int_equal(vsk_guest_room(c), 120);
	far.peer_fwd_cnt = 1000;
	vsk_relay(&g.v, c, &far, false);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, 1000);
	guest(&g, VSK_OP_RW, 1100, 0); /* all that it was told of: now every byte is told */
	far.tx_cnt = 4000;
	far.peer_fwd_cnt = 1001;
	vsk_host_took(&g.v, g.now, c, 1100, &g.ev);
	vsk_relay(&g.v, c, &far, false);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(vsk_guest_room(c), 1);

	/* nor is it believed that it took what it does not have, or gave back */
	static const uint32_t lies[] = { 4001, 999, 0, UINT32_MAX, 0x80000000u };
	for (size_t i = 0; i < HF_ARRAY_SIZE(lies); i++) {
		far.peer_fwd_cnt = lies[i];
		vsk_relay(&g.v, c, &far, true);
		expect_nothing(&g);
		assert_int_equal(vsk_guest_room(c), 1);
	}
	/* a buffer that shrinks does not break who has sent by what it was told (D4.6, D4.8) */
	far.peer_fwd_cnt = 1001;
	far.peer_buf_alloc = 0;
	vsk_relay(&g.v, c, &far, true);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.buf_alloc, 0);
	guest(&g, VSK_OP_RW, BUF, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	guest(&g, VSK_OP_RW, 1, 0);
	assert_int_equal(g.ev.why, VSK_WHY_OVERRUN);
}

/* A sibling that leaves has got a part of a message: the device has room for what it holds only,
 * and the guest is told. */
static void test_a_sibling_is_reached_in_another_way(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, far = { .peer_buf_alloc = BUF };
	rig_init(&g);
	g.v.cfg.features |= VSK_F_SEQPACKET;
	g.p.dst_cid = 6;
	g.p.type = VSK_TYPE_SEQPACKET;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	c = g.ev.conn;
	vsk_relay(&g.v, c, &far, false);
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	guest(&g, VSK_OP_RW, BUF, VSK_MSG_EOM);
	far.tx_cnt = 1000;
	vsk_relay(&g.v, c, &far, false);
	expect_nothing(&g);
	assert_int_equal(vsk_guest_room(c), 0);
	vsk_unrelay(&g.v, c, 1000);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(vsk_guest_room(c), 1000);
	guest(&g, VSK_OP_RW, 1000, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	vsk_host_took(&g.v, g.now, c, BUF - 1000, &g.ev);
	assert_int_equal(c->msgs, 0);
	assert_int_equal(vsk_unread(c), 1000);
}

/* A sibling's buffer may be larger than what the device holds for it: what it was given is no
 * burden any more. */
static void test_credit_of_a_large_sibling(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, far = { .peer_buf_alloc = 3 * BUF };
	rig_init(&g);
	g.p.dst_cid = 6;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	c = g.ev.conn;
	vsk_relay(&g.v, c, &far, false);
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	static const uint32_t granted[] = { BUF, 2 * BUF, 3 * BUF, 3 * BUF };
	for (size_t i = 0; i < HF_ARRAY_SIZE(granted); i++) {
		assert_int_equal(g.sent.buf_alloc, granted[i]);
		if (i == 3)
			break;
		guest(&g, VSK_OP_RW, BUF, 0);
		assert_int_equal(g.ev.kind, VSK_EV_DATA);
		far.tx_cnt += BUF;
		vsk_relay(&g.v, c, &far, false);
		vsk_host_took(&g.v, g.now, c, BUF, &g.ev);
		if (i < 2)
			expect_op(&g, VSK_OP_CREDIT_UPDATE);
	}
	expect_nothing(&g);
	assert_int_equal(vsk_guest_room(c), 0);

	/* who reads no more takes everything */
	vsk_host_shutdown(&g.v, g.now, c, VSK_SHUT_RCV, &g.ev);
	expect_op(&g, VSK_OP_SHUTDOWN);
	assert_int_equal(vsk_guest_room(c), BUF);
	guest(&g, VSK_OP_RW, BUF, 0);
	guest(&g, VSK_OP_RW, BUF, 0);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	assert_int_equal(vsk_guest_room(c), BUF);
}

/* D4.9: a guest whose own buffer is smaller than its sibling's has used up its room long before
 * what it was told; from then on every byte is told. */
static void test_credit_of_a_small_guest_to_a_sibling(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, far = { .peer_buf_alloc = 3000 };
	rig_init(&g);
	g.p.dst_cid = 6;
	g.p.buf_alloc = 400;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	c = g.ev.conn;
	vsk_relay(&g.v, c, &far, false);
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	guest(&g, VSK_OP_RW, 399, 0);
	far.tx_cnt = 399;
	far.peer_fwd_cnt = 100;
	vsk_host_took(&g.v, g.now, c, 399, &g.ev);
	vsk_relay(&g.v, c, &far, false);
	expect_nothing(&g); /* it may send one more, and a quarter is no more than this */
	guest(&g, VSK_OP_RW, 1, 0);
	far.tx_cnt = 400;
	vsk_host_took(&g.v, g.now, c, 1, &g.ev);
	vsk_relay(&g.v, c, &far, false);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, 100);
	far.peer_fwd_cnt = 101;
	vsk_relay(&g.v, c, &far, false);
	expect_nothing(&g); /* it has room again */
}

/* Messages wait in the device until they are whole, so the guest's kernel is to refuse what is
 * longer than the device can hold (D6.3); but together they may fill the sibling's buffer. */
static void test_credit_for_messages_of_a_large_sibling(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, far = { .peer_buf_alloc = 5 * BUF / 2 };
	rig_init(&g);
	g.v.cfg.features |= VSK_F_SEQPACKET;
	g.p.dst_cid = 6;
	g.p.type = VSK_TYPE_SEQPACKET;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	c = g.ev.conn;
	vsk_relay(&g.v, c, &far, false);
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	static const uint32_t sent[] = { BUF, BUF, BUF / 2 };
	for (size_t i = 0; i < HF_ARRAY_SIZE(sent); i++) {
		assert_int_equal(g.sent.buf_alloc, BUF);
		assert_int_equal(vsk_guest_room(c), sent[i]);
		guest(&g, VSK_OP_RW, sent[i], VSK_MSG_EOM);
		assert_int_equal(g.ev.kind, VSK_EV_DATA);
		far.tx_cnt += sent[i]; /* given, and not read there */
		vsk_relay(&g.v, c, &far, false);
		vsk_host_took(&g.v, g.now, c, sent[i], &g.ev);
		if (i < 2)
			expect_op(&g, VSK_OP_CREDIT_UPDATE);
	}
	expect_nothing(&g);
	assert_int_equal(vsk_guest_room(c), 0);
	far.peer_fwd_cnt = BUF;
	vsk_relay(&g.v, c, &far, true);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.buf_alloc, BUF);
	assert_int_equal(g.sent.fwd_cnt, 5 * BUF / 2);
	assert_int_equal(vsk_guest_room(c), BUF);
}

/* A sibling that leaves has a smaller buffer than the device: no message may be longer than that
 * afterwards, either (D6.3). */
static void test_a_small_sibling_is_reached_in_another_way(void **state)
{
	(void)state;
	static const uint32_t held[] = { 0, BUF / 2 };
	for (size_t i = 0; i < HF_ARRAY_SIZE(held); i++) {
		struct rig g;
		struct vsk_conn *c, far = { .peer_buf_alloc = BUF / 2 };
		rig_init(&g);
		g.v.cfg.features |= VSK_F_SEQPACKET;
		g.p.dst_cid = 6;
		g.p.type = VSK_TYPE_SEQPACKET;
		guest(&g, VSK_OP_REQUEST, 0, 0);
		c = g.ev.conn;
		vsk_relay(&g.v, c, &far, false);
		vsk_dialled(&g.v, c, true);
		expect_op(&g, VSK_OP_RESPONSE);
		guest(&g, VSK_OP_RW, held[i], VSK_MSG_EOM);
		far.peer_buf_alloc = BUF / 4; /* its buffer has become smaller */
		vsk_relay(&g.v, c, &far, false);
		vsk_unrelay(&g.v, c, 0);
		expect_op(&g, VSK_OP_CREDIT_UPDATE);
		assert_int_equal(g.sent.buf_alloc, HF_MAX(BUF / 4, held[i]));
		assert_int_equal(vsk_guest_room(c), g.sent.buf_alloc - held[i]);
	}
}

/* A sibling's question for credit goes to who has it (D4.5). */
static void test_a_sibling_asks(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	vsk_ask(&g.v, guest_opens(&g));
	expect_op(&g, VSK_OP_CREDIT_REQUEST);
	expect_nothing(&g);
}

static void test_a_sibling_calls(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c, *d;
	rig_init(&g);
	assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 6, HPORT, GPORT, &c), 0);
	assert_int_equal(
		vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 6, HPORT, GPORT, &d), -EADDRINUSE);
	assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 7, HPORT, GPORT, &d), 0);
	assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_SEQPACKET, 6, 1, GPORT, &d),
		-EPROTONOSUPPORT);
	expect_op(&g, VSK_OP_REQUEST);
	assert_int_equal(g.sent.src_cid, 6);
	assert_int_equal(g.sent.src_port, HPORT);
	assert_int_equal(g.sent.dst_port, GPORT);
	assert_int_equal(g.sent.buf_alloc, BUF); /* D5.2 */
	g.p.dst_cid = 6;
	guest(&g, VSK_OP_RESPONSE, 0, 0);
	assert_int_equal(g.ev.kind, VSK_EV_CONNECTED);
	assert_ptr_equal(g.ev.conn, c);
	for (int i = 2; i < SLOTS; i++)
		assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 6,
					 HPORT + (uint32_t)i, GPORT, &d),
			0);
	assert_int_equal(
		vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 6, HPORT + 99, GPORT, &d), -ENOBUFS);
}

static void test_spoofed_and_cut_packets_are_dropped(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.src_cid = CID + 1; /* D3.1 */
	assert_int_equal(guest(&g, VSK_OP_REQUEST, 0, 0), -EBADMSG);
	g.p.src_cid = CID | 1ull << 32; /* D1.2 */
	assert_int_equal(guest(&g, VSK_OP_REQUEST, 0, 0), -EBADMSG);
	g.p.src_cid = CID;
	g.p.dst_cid = VSK_CID_HOST | 1ull << 40;
	assert_int_equal(guest(&g, VSK_OP_REQUEST, 0, 0), -EBADMSG);
	g.p.dst_cid = VSK_CID_HOST;
	struct vsk_conn *c = guest_opens(&g);
	uint8_t hdr[VSK_HDR_BYTES];
	g.p.op = VSK_OP_RW;
	g.p.len = 10;
	vsk_pkt_encode(&g.p, hdr);
	assert_int_equal(vsk_from_guest(&g.v, 0, hdr, 9, &g.ev), -EBADMSG); /* D2.5 */
	assert_int_equal(c->rx_cnt, 0);
	assert_int_equal(vsk_from_guest(&g.v, 0, hdr, 11, &g.ev), 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	assert_int_equal(g.v.stats.dropped, 4);
}

static void test_rst_table_is_bounded_and_holds_each_flow_once(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	for (uint32_t i = 0; i < VSK_RST_MAX; i++) {
		g.p.src_port = i;
		assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), 0);
		assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), 0); /* no second one */
	}
	g.p.src_port = VSK_RST_MAX;
	assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), -ENOSPC); /* limit + 1: D2.1 */
	assert_int_equal(next(&g), VSK_SEND_CONTROL);
	assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), 0);
	for (int i = 0; i < VSK_RST_MAX; i++)
		expect_op(&g, VSK_OP_RST);
	expect_nothing(&g);
}

static void test_a_stale_rst_does_not_hit_a_new_connection(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest(&g, VSK_OP_RW, 0, 0);
	guest_opens(&g); /* the first packet out is the RESPONSE */
	expect_nothing(&g);
}

static void test_unknown_ops_close_a_live_flow(void **state)
{
	(void)state;
	static const uint16_t ops[] = { 0, VSK_OP_REQUEST, VSK_OP_RESPONSE, 8 }; /* D3.3, D5.11 */
	for (size_t i = 0; i < HF_ARRAY_SIZE(ops); i++) {
		struct rig g;
		rig_init(&g);
		struct vsk_conn *c = guest_opens(&g);
		guest(&g, ops[i], 0, 0);
		expect_closed(&g, VSK_WHY_PROTOCOL);
		guest(&g, VSK_OP_RW, 5, 0); /* the RST is on its way: no second one */
		assert_int_equal(g.ev.kind, VSK_EV_NONE);
		expect_op(&g, VSK_OP_RST);
		expect_nothing(&g);
		vsk_release(&g.v, c);
		assert_int_equal(g.v.n_free, SLOTS);
	}
}

/* ---- opening ---- */

static void test_guest_connects(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	assert_int_equal(guest(&g, VSK_OP_REQUEST, 0, 0), 0);
	assert_int_equal(g.ev.kind, VSK_EV_DIAL);
	assert_int_equal(g.ev.conn->host_port, HPORT);
	struct vsk_conn *c = g.ev.conn;
	guest(&g, VSK_OP_REQUEST, 0, 0); /* D5.11: again, while dialling */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_nothing(&g);
	vsk_host_readable(&g.v, c); /* data of an early host must wait for RESPONSE */
	vsk_dialled(&g.v, c, true);
	expect_op(&g, VSK_OP_RESPONSE);
	assert_int_equal(g.sent.buf_alloc, BUF); /* D5.2 */
	host_sends(&g, c, 7);
}

static void test_refused_dial_and_no_slot(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest(&g, VSK_OP_REQUEST, 0, 0);
	struct vsk_conn *c = g.ev.conn;
	uint32_t gen = c->gen;
	vsk_dialled(&g.v, c, false); /* D5.1 */
	vsk_release(&g.v, c);
	assert_int_equal(g.v.n_free, SLOTS - 1); /* in use until the RST went out */
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.v.n_free, SLOTS);
	assert_int_not_equal(c->gen, gen);
	for (uint32_t i = 0; i < SLOTS; i++) {
		g.p.src_port = i;
		guest_opens(&g);
	}
	g.p.src_port = SLOTS;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.v.stats.no_slot, 1);
}

static struct vsk_conn *host_asks(struct rig *g)
{
	struct vsk_conn *c = NULL;
	assert_int_equal(vsk_connect(&g->v, g->now, VSK_TYPE_STREAM, GPORT, &c), 0);
	g->p.dst_port = c->host_port;
	return c;
}

static void test_host_connects(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = host_asks(&g);
	assert_int_equal(c->host_port, VSK_HOST_PORT_MIN);
	expect_op(&g, VSK_OP_REQUEST);
	assert_int_equal(g.sent.dst_port, GPORT);
	guest(&g, VSK_OP_RESPONSE, 0, 0);
	assert_int_equal(g.ev.kind, VSK_EV_CONNECTED);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 3);
}

static void test_host_connect_refused_timed_out_abandoned(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = host_asks(&g);
	expect_op(&g, VSK_OP_REQUEST);
	guest(&g, VSK_OP_RST, 0, 0);
	expect_closed(&g, VSK_WHY_GUEST_RST);
	vsk_release(&g.v, c);

	c = host_asks(&g);
	assert_int_equal(c->host_port, VSK_HOST_PORT_MIN + 1); /* never the same again soon: D7.7 */
	expect_op(&g, VSK_OP_REQUEST);
	assert_int_equal(vsk_deadline(&g.v), g.now + VSK_CONNECT_US);
	assert_false(vsk_expire(&g.v, g.now + VSK_CONNECT_US - 1, &g.ev));
	assert_true(vsk_expire(&g.v, g.now + VSK_CONNECT_US, &g.ev));
	expect_closed(&g, VSK_WHY_TIMEOUT);
	vsk_release(&g.v, c);
	expect_op(&g, VSK_OP_RST);

	c = host_asks(&g);
	vsk_host_reset(&g.v, c); /* the REQUEST never went out: not a word */
	vsk_release(&g.v, c);
	expect_nothing(&g);
	c = host_asks(&g);
	expect_op(&g, VSK_OP_REQUEST);
	vsk_host_reset(&g.v, c);
	vsk_release(&g.v, c);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.v.n_free, SLOTS);
	assert_int_equal(g.v.n_conns, 0);
}

static void test_response_before_request_is_an_error(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	host_asks(&g);
	guest(&g, VSK_OP_RESPONSE, 0, 0);
	expect_closed(&g, VSK_WHY_PROTOCOL);
	expect_op(&g, VSK_OP_RST);
	expect_nothing(&g);
}

static void test_host_ports_wrap_and_skip_those_in_use(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	const struct vsk_config cfg = {
		.guest_cid = CID, .buf_alloc = BUF, .port_floor = VSK_HOST_PORT_MAX
	};
	assert_int_equal(vsk_init(&g.v, &cfg, g.buckets, 4), 0);
	vsk_give_slots(&g.v, g.slots, SLOTS, sizeof(g.slots[0]));
	struct vsk_conn *c;
	assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT, &c), 0);
	assert_int_equal(c->host_port, VSK_HOST_PORT_MAX);
	assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT, &c), 0);
	assert_int_equal(c->host_port, VSK_HOST_PORT_MIN);
	g.v.next_port = VSK_HOST_PORT_MAX;
	assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT, &c), 0);
	assert_int_equal(c->host_port, VSK_HOST_PORT_MIN + 1);
	assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT + 1, &c), 0);
	for (int i = 0; i < SLOTS - 4; i++)
		assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT, &c), 0);
	assert_int_equal(vsk_connect(&g.v, 0, VSK_TYPE_STREAM, GPORT, &c), -ENOBUFS);
}

/* ---- credit: D4 ---- */

static void test_guest_credit_at_the_limit_and_past_it(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, BUF, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	assert_int_equal(g.ev.len, BUF);
	took(&g, c, 1);
	guest(&g, VSK_OP_RW, 1, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	guest(&g, VSK_OP_RW, 1, 0); /* D4.8 */
	expect_closed(&g, VSK_WHY_OVERRUN);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.v.stats.overruns, 1);
}

/* One packet of a stream, taken by the host; returns what the guest is granted then. */
static uint32_t sends_first_window(struct rig *g, struct vsk_conn *c)
{
	g->p.src_port = c->guest_port;
	guest(g, VSK_OP_RW, VSK_WINDOW_FIRST, 0);
	assert_int_equal(g->ev.kind, VSK_EV_DATA);
	took(g, c, VSK_WINDOW_FIRST);
	expect_op(g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g->sent.fwd_cnt, (uint32_t)c->fwd_cnt);
	return g->sent.buf_alloc;
}

static void test_streams_of_a_crowd_have_small_windows(void **state)
{
	(void)state;
	struct rig g;
	struct vsk_conn *c[9]; /* four may send at once with all of the buffer */
	rig_init(&g);
	g.v.cfg.buf_alloc = VSK_BUF_MAX;
	for (uint32_t i = 0; i < 9; i++) {
		g.p.src_port = GPORT + i;
		c[i] = guest_opens(&g);
		assert_int_equal(
			g.sent.buf_alloc, i < 4 ? VSK_BUF_MAX : VSK_WINDOW_FIRST); /* D5.2 */
	}
	for (int turn = 0; turn < 3; turn++) {
		for (int i = 4; i < 8; i++)
			assert_int_equal(sends_first_window(&g, c[i]), VSK_BUF_MAX);
		assert_int_equal(sends_first_window(&g, c[8]), VSK_WINDOW_FIRST);
	}
	assert_int_equal(sends_first_window(&g, c[8]), VSK_BUF_MAX);
	assert_int_equal(sends_first_window(&g, c[8]), VSK_BUF_MAX); /* D4.6: for good */
	g.p.src_port = GPORT + 9;
	g.p.type = VSK_TYPE_SEQPACKET;
	g.v.cfg.features = VSK_F_SEQPACKET;
	(void)guest_opens(&g);
	assert_int_equal(g.sent.buf_alloc, VSK_BUF_MAX); /* a message may be as long */
}

static void test_payload_limit_per_packet(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.v.cfg.buf_alloc = VSK_BUF_MAX;
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, VSK_PAYLOAD_MAX, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	took(&g, c, VSK_PAYLOAD_MAX);
	guest(&g, VSK_OP_RW, 0, 0); /* empty, legal */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	guest(&g, VSK_OP_RW, VSK_PAYLOAD_MAX + 1, 0); /* D2.8 */
	expect_closed(&g, VSK_WHY_PROTOCOL);
}

static void test_updates_compare_with_what_was_announced(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, BUF, 0);
	took(&g, c, BUF / 4);
	expect_nothing(&g);
	took(&g, c, 1); /* D4.7: more than a quarter is untold */
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, BUF / 4 + 1);
	took(&g, c, BUF / 4);
	expect_nothing(&g);
	guest(&g, VSK_OP_CREDIT_REQUEST, 0, 0); /* D4.5 */
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, BUF / 2 + 1);
}

/* D4.9: a guest whose own buffer is small limits its credit to it, and would stall on our
 * threshold. */
static void test_updates_follow_a_small_guest_buffer(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.buf_alloc = 100;
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 100, 0);
	took(&g, c, 25);
	expect_nothing(&g);
	took(&g, c, 1);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	g.p.buf_alloc = 0;
	took(&g, c, 1);
	expect_nothing(&g);
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0); /* it shrank: every byte counts now */
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
}

static void test_payload_carries_credit(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, BUF, 0);
	took(&g, c, BUF / 4);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 5);
	assert_int_equal(g.sent.fwd_cnt, BUF / 4); /* D4.1 */
	vsk_host_idle(&g.v, c);
	took(&g, c, BUF / 4);
	expect_nothing(&g);
}

/* D4.3: only payload counts, both ways: control packets cost nothing. */
static void test_control_packets_cost_no_credit(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	g.p.buf_alloc = 3000;
	for (int i = 0; i < 1000; i++) {
		guest(&g, VSK_OP_CREDIT_REQUEST, 0, 0);
		expect_op(&g, VSK_OP_CREDIT_UPDATE);
		assert_int_equal(g.sent.fwd_cnt, 0);
	}
	guest(&g, VSK_OP_RW, BUF, 0); /* all of the buffer is still there */
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 3000); /* and all of the guest's */
	took(&g, c, BUF);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, BUF);
}

/* D4.4: what one flow has delivered says nothing about another, nor does what has only arrived. */
static void test_each_flow_has_its_own_count(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.src_port = 1;
	struct vsk_conn *first = guest_opens(&g);
	guest(&g, VSK_OP_RW, 4000, 0);
	g.p.src_port = 2;
	(void)guest_opens(&g);
	guest(&g, VSK_OP_RW, 5000, 0);
	took(&g, first, 3999);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.dst_port, 1);
	assert_int_equal(g.sent.fwd_cnt, 3999);
	guest(&g, VSK_OP_CREDIT_REQUEST, 0, 0);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.dst_port, 2);
	assert_int_equal(g.sent.fwd_cnt, 0);
}

/* The last packet of a grant may be sent although what room was left before it is not worth asking
 * for (D4.10). */
static void test_one_grant_in_several_packets(void **state)
{
	(void)state;
	struct rig g;
	uint8_t hdr[VSK_HDR_BYTES];
	rig_init(&g);
	g.p.buf_alloc = 5000;
	struct vsk_conn *c = guest_opens(&g);
	vsk_host_readable(&g.v, c);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, 5000);
	vsk_data(&g.v, c, 4052, 0, hdr);
	vsk_data(&g.v, c, 948, 0, hdr);
	vsk_pkt_decode(hdr, &g.sent);
	assert_int_equal(g.sent.len, 948);
	expect_op(&g, VSK_OP_CREDIT_REQUEST);
	expect_nothing(&g);
}

static void test_host_sends_no_more_than_the_guest_has_room_for(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.buf_alloc = 5000;
	struct vsk_conn *c = guest_opens(&g);
	vsk_host_readable(&g.v, c);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, 5000); /* D4.2 */
	host_sends(&g, c, 3976);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, 1024);
	host_sends(&g, c, 1);
	expect_op(&g,
		VSK_OP_CREDIT_REQUEST); /* D4.10: 1023 bytes are not worth a packet; asks once */
	expect_nothing(&g);
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	expect_nothing(&g);
	g.p.fwd_cnt = 1;
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	host_sends(&g, c, 1024);
	expect_op(&g, VSK_OP_CREDIT_REQUEST);
	g.p.fwd_cnt = 5001;
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	host_sends(&g, c, 5000);
	g.p.buf_alloc = 10; /* D4.6: shrinks below what is in flight */
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	while (next(&g) == VSK_SEND_CONTROL)
		assert_int_equal(g.sent.op, VSK_OP_CREDIT_REQUEST);
	expect_nothing(&g);
	g.p.fwd_cnt = 99999; /* ahead of what was sent: counts as no room */
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	expect_op(&g, VSK_OP_CREDIT_REQUEST);
	expect_nothing(&g);
}

static void test_a_packet_is_at_most_64_kib(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.buf_alloc = UINT32_MAX;
	struct vsk_conn *c = guest_opens(&g);
	vsk_host_readable(&g.v, c);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, VSK_PAYLOAD_MAX);
}

static void test_counters_wrap(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	c->tx_cnt = c->rx_cnt = c->fwd_cnt = 0xfffffff0u;
	c->announced = 0xfffffff0u;
	g.p.fwd_cnt = 0xfffffff0u;
	guest(&g, VSK_OP_CREDIT_UPDATE, 0, 0);
	vsk_host_readable(&g.v, c);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, BUF);
	host_sends(&g, c, 0x20);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, BUF - 0x20);
	g.p.fwd_cnt = 0x10;
	guest(&g, VSK_OP_RW, BUF, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	assert_int_equal(next(&g), VSK_SEND_DATA);
	assert_int_equal(g.out.max, BUF);
	took(&g, c, BUF);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	assert_int_equal(g.sent.fwd_cnt, BUF - 0x10);
}

static void test_senders_take_turns(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c[3];
	for (uint32_t i = 0; i < 3; i++) {
		g.p.src_port = i;
		c[i] = guest_opens(&g);
		vsk_host_readable(&g.v, c[i]);
	}
	for (int round = 0; round < 4; round++)
		for (int i = 0; i < 3; i++)
			host_sends(&g, c[i], 10);
	vsk_host_idle(&g.v, c[0]);
	host_sends(&g, c[1], 10);
	host_sends(&g, c[2], 10);
	host_sends(&g, c[1], 10);
}

/* ---- half-close and close: D5 ---- */

static void test_guest_half_close(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	assert_int_equal(g.ev.kind, VSK_EV_NONE); /* D5.5: ten bytes come first */
	took(&g, c, 9);
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	took(&g, c, 1);
	assert_int_equal(g.ev.kind, VSK_EV_END);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 100); /* D5.8: the other direction lives */
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	assert_int_equal(g.ev.kind, VSK_EV_NONE); /* once */
	guest(&g, VSK_OP_RW, 1, 0);               /* D5.3: a promise is a promise */
	expect_closed(&g, VSK_WHY_PROTOCOL);
}

static void test_host_half_close(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	host_shuts(&g, c, VSK_SHUT_SEND);
	expect_op(&g, VSK_OP_SHUTDOWN);
	assert_int_equal(g.sent.flags, VSK_SHUT_SEND);
	vsk_host_readable(&g.v, c);
	expect_nothing(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	took(&g, c, 10);
	assert_int_equal(vsk_deadline(&g.v), VSK_NEVER);
}

static void test_guest_closes(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH); /* D5.4 */
	expect_closed(&g, VSK_WHY_CLEAN);
	vsk_release(&g.v, c);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(g.v.n_free, SLOTS);

	c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	assert_int_equal(g.ev.kind, VSK_EV_DEAF);
	expect_nothing(&g); /* no RST before everything was handled */
	took(&g, c, 10);
	expect_closed(&g, VSK_WHY_CLEAN);
	expect_op(&g, VSK_OP_RST);
	vsk_release(&g.v, c);

	c = guest_opens(&g); /* bit by bit */
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	assert_int_equal(g.ev.kind, VSK_EV_END);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_RCV);
	expect_closed(&g, VSK_WHY_CLEAN);
	expect_op(&g, VSK_OP_RST);
	vsk_release(&g.v, c);

	c = guest_opens(&g);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_RCV);
	assert_int_equal(g.ev.kind, VSK_EV_DEAF);
	vsk_host_readable(&g.v, c);
	expect_nothing(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	assert_int_equal(g.ev.kind, VSK_EV_DATA);
	host_shuts(&g, c, VSK_SHUT_BOTH); /* the host is gone as well, ten bytes are dropped */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_op(&g, VSK_OP_SHUTDOWN);
	guest(&g, VSK_OP_RST, 0, 0);
	expect_closed(&g, VSK_WHY_CLEAN);
	vsk_release(&g.v, c);
	assert_int_equal(g.v.n_conns, 0);
}

static void test_host_closes(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	host_shuts(&g, c, VSK_SHUT_BOTH);
	expect_op(&g, VSK_OP_SHUTDOWN);
	assert_int_equal(g.sent.flags, VSK_SHUT_BOTH);
	assert_int_equal(g.sent.fwd_cnt, 10);
	guest(&g, VSK_OP_RW, 20, 0); /* on its way when we closed */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	guest(&g, VSK_OP_RST, 0, 0);
	expect_closed(&g, VSK_WHY_CLEAN);
	vsk_release(&g.v, c);
	expect_nothing(&g); /* D3.4 */

	c = guest_opens(&g);
	host_shuts(&g, c, VSK_SHUT_BOTH);
	expect_op(&g, VSK_OP_SHUTDOWN);
	assert_false(vsk_expire(&g.v, g.now + VSK_CLOSE_US - 1, &g.ev));
	assert_true(vsk_expire(&g.v, g.now + VSK_CLOSE_US, &g.ev)); /* D5.4 */
	expect_closed(&g, VSK_WHY_TIMEOUT);
	expect_op(&g, VSK_OP_RST);
	vsk_release(&g.v, c);
	assert_int_equal(g.v.n_free, SLOTS);
}

static void test_both_ends_half_closed_is_closed(void **state)
{
	(void)state;
	for (int order = 0; order < 3; order++) {
		struct rig g;
		rig_init(&g);
		struct vsk_conn *c = guest_opens(&g);
		if (order == 0)
			host_shuts(&g, c, VSK_SHUT_SEND);
		guest(&g, VSK_OP_RW, 1, 0);
		guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
		if (order == 1)
			host_shuts(&g, c, VSK_SHUT_SEND);
		took(&g, c, 1);
		assert_int_equal(g.ev.kind, VSK_EV_END);
		if (order == 2)
			host_shuts(&g, c, VSK_SHUT_SEND);
		expect_op(&g, VSK_OP_SHUTDOWN);
		assert_int_equal(g.sent.flags, VSK_SHUT_BOTH);
		assert_int_equal(vsk_deadline(&g.v), g.now + VSK_CLOSE_US);
		guest(&g, VSK_OP_RST, 0, 0);
		expect_closed(&g, VSK_WHY_CLEAN);
	}
}

static void test_broken_pipe_of_the_host(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, BUF, 0);
	host_shuts(&g, c, VSK_SHUT_RCV);
	assert_int_equal(vsk_unread(c), 0);
	expect_op(&g, VSK_OP_SHUTDOWN);
	assert_int_equal(g.sent.flags, VSK_SHUT_RCV);
	guest(&g, VSK_OP_RW, BUF, 0); /* dropped, and credit is given back */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_op(&g, VSK_OP_CREDIT_UPDATE);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 10);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	expect_closed(&g, VSK_WHY_CLEAN);

	rig_init(&g); /* the guest had closed and waited for its bytes to be taken */
	c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	host_shuts(&g, c, VSK_SHUT_RCV);
	expect_closed(&g, VSK_WHY_CLEAN);
	expect_op(&g, VSK_OP_RST);
}

static void test_rst_in_any_state(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest(&g, VSK_OP_REQUEST, 0, 0);
	guest(&g, VSK_OP_RST, 0, 0);
	expect_closed(&g, VSK_WHY_GUEST_RST);
	vsk_release(&g.v, g.ev.conn);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_RST, 0, 0); /* D5.6 */
	expect_closed(&g, VSK_WHY_GUEST_RST);
	assert_int_equal(vsk_unread(c), 10);
	guest_opens(&g); /* the tuple is free while the device still writes ten bytes */
	vsk_release(&g.v, c);
	rig_init(&g);
	c = guest_opens(&g);
	vsk_host_reset(&g.v, c);
	guest(&g, VSK_OP_RST, 0, 0); /* they crossed: ours is not wanted any more */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	expect_nothing(&g);
	vsk_release(&g.v, c);
	assert_int_equal(g.v.n_free, SLOTS);
}

/* D5.7: the ports of a connection are used again when its RST has been sent or has come, not
 * before.
 */
static void test_ports_wait_for_the_reset(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	expect_closed(&g, VSK_WHY_CLEAN);
	guest(&g, VSK_OP_REQUEST, 0, 0); /* too early: its RST, on the way, is the answer */
	assert_int_equal(g.ev.kind, VSK_EV_NONE);
	vsk_release(&g.v, c);
	expect_op(&g, VSK_OP_RST);
	expect_nothing(&g);
	c = guest_opens(&g);

	host_shuts(&g, c, VSK_SHUT_BOTH);
	expect_op(&g, VSK_OP_SHUTDOWN);
	guest(&g, VSK_OP_REQUEST, 0, 0); /* the guest has not answered the SHUTDOWN */
	expect_closed(&g, VSK_WHY_PROTOCOL);
	vsk_release(&g.v, c);
	expect_op(&g, VSK_OP_RST);

	struct vsk_conn *again;
	assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 9, 1, GPORT, &c), 0);
	expect_op(&g, VSK_OP_REQUEST);
	vsk_host_reset(&g.v, c);
	vsk_release(&g.v, c);
	assert_int_equal(
		vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 9, 1, GPORT, &again), -EADDRINUSE);
	expect_op(&g, VSK_OP_RST);
	assert_int_equal(vsk_connect_from(&g.v, g.now, VSK_TYPE_STREAM, 9, 1, GPORT, &again), 0);
}

/* D5.9: Linux closes a socket with unread bytes by a bare RST, else waits 8 s for ours, and gives
 * up with an RST of its own: a host that never takes its bytes does not make us send one before. */
static void test_a_guest_that_gives_up_waiting(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	struct vsk_conn *c = guest_opens(&g);
	vsk_host_readable(&g.v, c);
	host_sends(&g, c, 100);
	guest(&g, VSK_OP_RST, 0, 0); /* unread */
	expect_closed(&g, VSK_WHY_GUEST_RST);
	vsk_release(&g.v, c);
	expect_nothing(&g);

	c = guest_opens(&g);
	guest(&g, VSK_OP_RW, 10, 0);
	guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	assert_int_equal(vsk_deadline(&g.v), VSK_NEVER);
	assert_false(vsk_expire(&g.v, g.now + 8000000, &g.ev));
	expect_nothing(&g);
	guest(&g, VSK_OP_RST, 0, 0);
	expect_closed(&g, VSK_WHY_GUEST_RST);
	assert_int_equal(vsk_unread(c), 10); /* the host may still have them */
	expect_nothing(&g);
}

static void test_unanswered_dial(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest(&g, VSK_OP_REQUEST, 0, 0);
	assert_true(vsk_expire(&g.v, g.now + VSK_CONNECT_US, &g.ev)); /* D5.10 */
	expect_closed(&g, VSK_WHY_TIMEOUT);
	expect_op(&g, VSK_OP_RST);
}

/* ---- reset: D7 ---- */

static void test_driver_reset_says_nothing(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	g.p.src_port = 3;
	struct vsk_conn *c = guest_opens(&g);
	vsk_host_reset(&g.v, c);
	vsk_release(&g.v, c);
	g.p.src_port = 0;
	assert_int_equal(guest(&g, VSK_OP_REQUEST, 0, 0), 0);
	vsk_dialled(&g.v, g.ev.conn, true);
	g.p.src_port = 1;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	g.p.src_port = 2;
	guest(&g, VSK_OP_RW, 0, 0);
	int n = 0;
	while (vsk_drop(&g.v, false, &g.ev)) {
		expect_closed(&g, VSK_WHY_RESET);
		vsk_release(&g.v, g.ev.conn);
		n++;
	}
	assert_int_equal(n, 2);
	vsk_clear(&g.v);
	expect_nothing(&g);
	assert_int_equal(g.v.n_conns, 0);
}

static void test_transport_reset_holds_back(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	guest_opens(&g);
	g.p.src_port = 1;
	guest(&g, VSK_OP_REQUEST, 0, 0);
	assert_int_equal(vsk_set_cid(&g.v, CID + 1), -EBUSY);
	while (vsk_drop(&g.v, true, &g.ev))
		vsk_release(&g.v, g.ev.conn);
	assert_int_equal(vsk_set_cid(&g.v, 2), -EINVAL);
	assert_int_equal(vsk_set_cid(&g.v, CID + 1), 0);
	vsk_transport_reset(&g.v, g.now, true);
	assert_true(g.v.event_pending);
	expect_op(&g, VSK_OP_RST); /* D7.6: only the REQUEST without an answer */
	assert_int_equal(g.sent.dst_port, 1);
	expect_nothing(&g);

	assert_int_equal(guest(&g, VSK_OP_RW, 0, 0), -EBADMSG); /* D7.8: old CID */
	g.p.src_cid = CID + 1;
	guest(&g, VSK_OP_RW, 0, 0);
	expect_op(&g, VSK_OP_RST);
	struct vsk_conn *c = host_asks(&g);
	expect_nothing(&g);
	vsk_event_used(&g.v); /* not yet placed: that was another event */
	expect_nothing(&g);
	vsk_event_placed(&g.v);
	expect_nothing(&g);
	vsk_event_used(&g.v);
	assert_true(vsk_wants_guest(&g.v));
	expect_op(&g, VSK_OP_REQUEST);
	(void)c;
}

static void test_hold_ends_by_itself(void **state)
{
	(void)state;
	struct rig g;
	rig_init(&g);
	vsk_transport_reset(&g.v, g.now, true);
	host_asks(&g);
	assert_int_equal(vsk_deadline(&g.v), g.now + VSK_HOLD_US);
	assert_false(vsk_expire(&g.v, g.now + VSK_HOLD_US, &g.ev));
	expect_op(&g, VSK_OP_REQUEST);
	assert_true(g.v.event_pending); /* D7.2: kept until there is a buffer */
	rig_init(&g);
	vsk_transport_reset(&g.v, g.now, false); /* D7.9: the front-end's event */
	host_asks(&g);
	expect_op(&g, VSK_OP_REQUEST);
}

/* ---- size ---- */

static void test_many_connections(void **state)
{
	(void)state;
	enum { N = 20000 };
	struct rig g;
	rig_init(&g);
	struct vsk_conn *slots = calloc(N, sizeof(*slots));
	vsk_give_slots(&g.v, slots, N, sizeof(*slots));
	struct vsk_conn **buckets = malloc(16384 * sizeof(*buckets));
	for (uint32_t i = 0; i < N; i++) {
		if (i == 100)
			assert_ptr_equal(vsk_set_buckets(&g.v, buckets, 16384), g.buckets);
		g.p.src_port = i;
		guest_opens(&g);
	}
	assert_int_equal(g.v.n_conns, N);
	for (uint32_t i = 0; i < N; i++) {
		g.p.src_port = i;
		guest(&g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
		expect_closed(&g, VSK_WHY_CLEAN);
		vsk_release(&g.v, g.ev.conn);
		expect_op(&g, VSK_OP_RST);
	}
	assert_int_equal(g.v.n_free, N + SLOTS);
	assert_true(sizeof(struct vsk_conn) <= 160);
	free(buckets);
	free(slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reserved_cids_are_refused),
		cmocka_unit_test(test_unknown_flow_is_answered_rst),
		cmocka_unit_test(test_rst_is_never_answered),
		cmocka_unit_test(test_other_types_and_other_guests_get_rst),
		cmocka_unit_test(test_features_decide_the_types),
		cmocka_unit_test(test_messages_of_the_guest),
		cmocka_unit_test(test_streams_know_no_messages),
		cmocka_unit_test(test_messages_at_the_limit_and_past_it),
		cmocka_unit_test(test_room_is_told_for_a_message_that_has_begun),
		cmocka_unit_test(test_a_message_that_never_ends),
		cmocka_unit_test(test_messages_of_the_host),
		cmocka_unit_test(test_another_type_on_a_live_flow_gets_rst),
		cmocka_unit_test(test_a_sibling_is_dialled),
		cmocka_unit_test(test_credit_of_siblings_is_from_end_to_end),
		cmocka_unit_test(test_a_sibling_is_reached_in_another_way),
		cmocka_unit_test(test_credit_of_a_large_sibling),
		cmocka_unit_test(test_credit_of_a_small_guest_to_a_sibling),
		cmocka_unit_test(test_credit_for_messages_of_a_large_sibling),
		cmocka_unit_test(test_a_small_sibling_is_reached_in_another_way),
		cmocka_unit_test(test_a_sibling_asks),
		cmocka_unit_test(test_a_sibling_calls),
		cmocka_unit_test(test_spoofed_and_cut_packets_are_dropped),
		cmocka_unit_test(test_rst_table_is_bounded_and_holds_each_flow_once),
		cmocka_unit_test(test_a_stale_rst_does_not_hit_a_new_connection),
		cmocka_unit_test(test_unknown_ops_close_a_live_flow),
		cmocka_unit_test(test_guest_connects),
		cmocka_unit_test(test_refused_dial_and_no_slot),
		cmocka_unit_test(test_host_connects),
		cmocka_unit_test(test_host_connect_refused_timed_out_abandoned),
		cmocka_unit_test(test_response_before_request_is_an_error),
		cmocka_unit_test(test_host_ports_wrap_and_skip_those_in_use),
		cmocka_unit_test(test_guest_credit_at_the_limit_and_past_it),
		cmocka_unit_test(test_payload_limit_per_packet),
		cmocka_unit_test(test_updates_compare_with_what_was_announced),
		cmocka_unit_test(test_updates_follow_a_small_guest_buffer),
		cmocka_unit_test(test_streams_of_a_crowd_have_small_windows),
		cmocka_unit_test(test_payload_carries_credit),
		cmocka_unit_test(test_control_packets_cost_no_credit),
		cmocka_unit_test(test_each_flow_has_its_own_count),
		cmocka_unit_test(test_one_grant_in_several_packets),
		cmocka_unit_test(test_host_sends_no_more_than_the_guest_has_room_for),
		cmocka_unit_test(test_a_packet_is_at_most_64_kib),
		cmocka_unit_test(test_counters_wrap),
		cmocka_unit_test(test_senders_take_turns),
		cmocka_unit_test(test_guest_half_close),
		cmocka_unit_test(test_host_half_close),
		cmocka_unit_test(test_guest_closes),
		cmocka_unit_test(test_host_closes),
		cmocka_unit_test(test_both_ends_half_closed_is_closed),
		cmocka_unit_test(test_broken_pipe_of_the_host),
		cmocka_unit_test(test_rst_in_any_state),
		cmocka_unit_test(test_ports_wait_for_the_reset),
		cmocka_unit_test(test_a_guest_that_gives_up_waiting),
		cmocka_unit_test(test_unanswered_dial),
		cmocka_unit_test(test_driver_reset_says_nothing),
		cmocka_unit_test(test_transport_reset_holds_back),
		cmocka_unit_test(test_hold_ends_by_itself),
		cmocka_unit_test(test_many_connections),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
