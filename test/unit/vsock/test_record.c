/* SPDX-License-Identifier: MIT */
/*
 * test_record.c - usage: test_vsock_record FOLDER [--write]
 * FOLDER/record-v1.bin and record-v2.bin are the golden files of versions 1 and 2: they must be
 * read for ever. --write made them, each when its version was new.
 */
#include "helper.h"
#include "vsock/vsock_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;
static const struct vsk_bytes none;

/* The bytes that a device would hold, made from the counters so that a test can foresee them. */
static uint8_t pattern[VSK_BUF_MAX];

static struct vsk_bytes in_flight(uint32_t n)
{
	return (struct vsk_bytes){ .p = { pattern, pattern + n / 2 }, .n = { n / 2, n - n / 2 } };
}

/* Of the SEQPACKET connection, see rig_add_messages(). */
static uint8_t ends_to_host[2 * VSK_END_BYTES], ends_to_guest[2 * VSK_END_BYTES];

static void add_ends(struct vsk_bytes *b, const uint8_t *ends)
{
	b->ends_p[0] = ends;
	b->ends_p[1] = ends + VSK_END_BYTES;
	b->ends_n[0] = b->ends_n[1] = VSK_END_BYTES;
}

static size_t save(struct rig *g, uint8_t *buf, size_t cap, uint32_t to_guest)
{
	struct vsk_save s;
	size_t len = 0;
	vsk_save_begin(&s, &g->v, buf, cap);
	for (struct vsk_conn *c = NULL; (c = vsk_next(&g->v, c));) {
		struct vsk_bytes h = in_flight(vsk_unread(c));
		struct vsk_bytes t = in_flight(c->host_shut & VSK_SHUT_SEND ? 0 : to_guest);
		if (c->type == VSK_TYPE_SEQPACKET) {
			add_ends(&h, ends_to_host);
			add_ends(&t, ends_to_guest);
		}
		vsk_save_conn(&s, c, true, &h, &t);
	}
	assert_int_equal(vsk_save_end(&s, &len), 0);
	return len;
}

/* Connections in every state that a record can hold, with everything in it that may differ. */
static void rig_fill(struct rig *g)
{
	rig_init(g);
	g->v.cfg.features = 0x150000000u;
	g->p.src_port = 1;
	struct vsk_conn *c = guest_opens(g);
	g->p.src_port = 2;
	struct vsk_conn *d = guest_opens(g);
	g->p.src_port = 1; /* half-closed by the guest, bytes in flight, credit to tell */
	guest(g, VSK_OP_RW, 5000, 0);
	took(g, c, 3000);
	guest(g, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	g->p.src_port = 2; /* half-closed by the host; counters have wrapped */
	d->tx_cnt = 0x1fffffff0u;
	g->p.fwd_cnt = 0xffffff00u;
	host_shuts(g, d, VSK_SHUT_SEND);
	guest(g, VSK_OP_CREDIT_UPDATE, 0, 0);
	g->p.fwd_cnt = 0;
	g->p.src_port = 3; /* dialling */
	guest(g, VSK_OP_REQUEST, 0, 0);
	g->p.src_port = 4; /* response waits */
	guest(g, VSK_OP_REQUEST, 0, 0);
	vsk_dialled(&g->v, g->ev.conn, true);
	assert_int_equal(vsk_connect(&g->v, g->now, VSK_TYPE_STREAM, 77, &c), 0); /* asking */
	g->p.src_port = 5; /* an RST waits, of a flow that was known */
	guest(g, VSK_OP_REQUEST, 0, 0);
	vsk_dialled(&g->v, g->ev.conn, false);
	vsk_release(&g->v, g->ev.conn);
	g->p.src_port = 6; /* and of one that was not */
	guest(g, VSK_OP_RW, 0, 0);
	g->p.src_port = 1; /* and of another type beside a live connection */
	g->p.type = 9;
	guest(g, VSK_OP_RW, 0, 0);
	g->p.type = VSK_TYPE_STREAM;
}

/* And one with messages: to the host a whole one, an empty one and a part; to the guest the rest of
 * one and a whole one, 100 bytes. */
static void rig_add_messages(struct rig *g)
{
	g->v.cfg.features |= VSK_F_SEQPACKET;
	g->p.src_port = 7;
	g->p.type = VSK_TYPE_SEQPACKET;
	guest(g, VSK_OP_REQUEST, 0, 0);
	struct vsk_conn *c = g->ev.conn;
	vsk_dialled(&g->v, c, true);
	guest(g, VSK_OP_RW, 100, VSK_MSG_EOM);
	guest(g, VSK_OP_RW, 0, VSK_MSG_EOM | VSK_MSG_EOR);
	guest(g, VSK_OP_RW, 30, 0);
	vsk_data(&g->v, c, 10, 0, g->out.hdr);
	le32_to(ends_to_host, 100);
	le32_to(ends_to_host + 4, VSK_END_EOR);
	le32_to(ends_to_guest, 60);
	le32_to(ends_to_guest + 4, VSK_END_EOR | 40);
}

static struct vsk_conn *same(struct rig *b, const struct vsk_conn *a)
{
	struct vsk_conn *c = vsk_find(&b->v, a->peer_cid, a->host_port, a->guest_port);
	assert_non_null(c);
	assert_int_equal(c->state, a->state);
	assert_int_equal(c->type, a->type);
	assert_int_equal(c->ctl, a->ctl);
	assert_int_equal(c->tx_cnt, a->tx_cnt);
	assert_int_equal(c->rx_cnt, a->rx_cnt);
	assert_int_equal(c->fwd_cnt, a->fwd_cnt);
	assert_int_equal(c->announced, a->announced);
	assert_int_equal(c->buf_alloc, a->buf_alloc);
	assert_int_equal(c->peer_buf_alloc, a->peer_buf_alloc);
	assert_int_equal(c->peer_fwd_cnt, a->peer_fwd_cnt);
	assert_int_equal(c->guest_shut, a->guest_shut);
	assert_int_equal(c->host_shut, a->host_shut);
	assert_int_equal(c->request_sent, a->request_sent);
	assert_int_equal(c->asked, a->asked);
	assert_int_equal(c->msgs, a->msgs);
	assert_int_equal(c->rx_mid, a->rx_mid);
	assert_int_equal(c->tx_mid, a->tx_mid);
	return c;
}

static void check_filled(struct rig *a, struct rig *b, const uint8_t *buf, size_t len)
{
	int messages = 0;
	struct vsk_load l;
	struct vsk_bytes h, t;
	assert_int_equal(vsk_load_begin(&l, &b->v, b->now, buf, len), 0);
	int n = 0;
	for (struct vsk_conn *c; (c = vsk_load_next(&l, &h, &t)); n++) {
		assert_int_equal(h.n[0] + h.n[1], vsk_unread(c));
		assert_memory_equal(h.p[0], pattern, h.n[0]);
		assert_int_equal(t.n[0], c->host_shut & VSK_SHUT_SEND ? 0 : 100);
		assert_memory_equal(t.p[0], pattern, t.n[0]);
		if (c->type == VSK_TYPE_STREAM) {
			assert_int_equal(h.ends_n[0] + t.ends_n[0], 0);
			continue;
		}
		messages++;
		assert_true(c->tx_mid && c->rx_mid);
		assert_int_equal(c->msgs, 2);
		assert_int_equal(h.ends_n[0], sizeof(ends_to_host));
		assert_memory_equal(h.ends_p[0], ends_to_host, sizeof(ends_to_host));
		assert_int_equal(t.ends_n[0], sizeof(ends_to_guest));
		assert_memory_equal(t.ends_p[0], ends_to_guest, sizeof(ends_to_guest));
	}
	assert_int_equal(n, 5 + messages);
	assert_int_equal(b->v.cfg.features, a->v.cfg.features);
	assert_int_equal(b->v.next_port, a->v.next_port); /* D7.7 */
	for (struct vsk_conn *c = NULL; (c = vsk_next(&a->v, c));)
		same(b, c);
	int rst = 0, other = 0;
	while (next(b) == VSK_SEND_CONTROL) {
		rst += b->sent.op == VSK_OP_RST;
		other += b->sent.op != VSK_OP_RST;
	}
	assert_int_equal(rst, 2);
	assert_int_equal(other, 4 + messages); /* CREDIT_UPDATE, SHUTDOWN, RESPONSE, REQUEST */
	assert_int_equal(b->v.n_conns, 5 + messages);
}

/* E4.8: whatever a connection is made of, in every state. */
static void test_round_trip(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384], again[16384];
	rig_fill(&a);
	size_t len = save(&a, buf, sizeof(buf), 100);
	assert_true(len <= vsk_save_size(&a.v) + 2000 + 4 * 100);
	rig_fill(&b); /* E4.6: saving changed nothing */
	assert_int_equal(save(&a, again, sizeof(again), 100), len);
	assert_memory_equal(buf, again, len);
	assert_int_equal(save(&b, again, sizeof(again), 100), len);
	assert_memory_equal(buf, again, len);
	rig_init(&b);
	check_filled(&a, &b, buf, len);
	assert_int_equal(le16_at(buf + 10), 1); /* version 1 may read it too */

	rig_add_messages(&a);
	len = save(&a, buf, sizeof(buf), 100);
	assert_int_equal(le16_at(buf + 10), 2); /* not so messages */
	rig_init(&b);
	check_filled(&a, &b, buf, len);
}

/* ---- what applications leave, and records of one connection ---- */

static size_t save_one(
	struct rig *g, const struct vsk_conn *c, uint8_t *buf, size_t cap, size_t app)
{
	struct vsk_save s;
	size_t len = 0;
	struct vsk_bytes h = in_flight(vsk_unread(c)), t = in_flight(7);
	vsk_save_begin_one(&s, &g->v, buf, cap);
	vsk_save_conn(&s, c, true, &h, &t);
	vsk_save_app(&s, pattern, app);
	return vsk_save_end(&s, &len) == 0 ? len : 0;
}

static void test_one_connection_joins_others(void **state)
{
	(void)state;
	static uint8_t buf[VSK_APP_MAX + 16384];
	struct rig a, b;
	struct vsk_load l;
	struct vsk_bytes h, t;
	size_t n;
	rig_fill(&a); /* RSTs wait: they stay here */
	struct vsk_conn *c = vsk_find(&a.v, VSK_CID_HOST, HPORT, 1);
	size_t len = save_one(&a, c, buf, sizeof(buf), VSK_APP_MAX);
	assert_true(len > VSK_APP_MAX);

	rig_init(&b);
	b.p.src_port = 50;
	(void)guest_opens(&b);
	uint32_t port = b.v.next_port;
	assert_int_equal(vsk_load_add(&l, &b.v, b.now, buf, len), 0);
	assert_ptr_equal(vsk_load_next(&l, &h, &t), same(&b, c));
	assert_int_equal(t.n[0], 7);
	assert_memory_equal(vsk_load_app(&l, &n), pattern, VSK_APP_MAX);
	assert_int_equal(n, VSK_APP_MAX);
	assert_null(vsk_load_next(&l, &h, &t));
	assert_null(vsk_load_app(&l, &n));
	assert_int_equal(b.v.n_conns, 2);
	assert_int_equal(b.v.next_port, port);
	expect_op(&b, VSK_OP_CREDIT_UPDATE); /* the connection's; no RST of the other host */
	expect_nothing(&b);

	assert_int_equal(vsk_load_add(&l, &b.v, b.now, buf, len), -EEXIST);
	assert_int_equal(b.v.n_conns, 2);
	assert_int_equal(save_one(&a, c, buf, sizeof(buf), VSK_APP_MAX + 1), 0);
	rig_init(&b);
	len = save(&a, buf, sizeof(buf), 0);
	assert_int_equal(vsk_load_add(&l, &b.v, b.now, buf, len), -EINVAL); /* five */
	assert_int_equal(b.v.n_conns, 0);
}

static void test_a_state_stands_behind_its_connection(void **state)
{
	(void)state;
	uint8_t buf[1024];
	struct vsk_record_info info;
	struct vsk_save s;
	struct rig g;
	size_t len;
	rig_init(&g);
	vsk_save_begin(&s, &g.v, buf, sizeof(buf));
	vsk_save_app(&s, "x", 1);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(vsk_record_info(buf, len, &info), -EINVAL);
	struct vsk_conn *c = guest_opens(&g);
	vsk_save_begin(&s, &g.v, buf, sizeof(buf));
	vsk_save_conn(&s, c, true, &none, &none);
	vsk_save_app(&s, "x", 1);
	vsk_save_app(&s, "y", 1);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(vsk_record_info(buf, len, &info), -EINVAL);
}

static void test_where_the_host_end_is_stands_there_too(void **state)
{
	(void)state;
	uint8_t buf[1024];
	struct vsk_record_info info;
	struct vsk_save s;
	struct vsk_load l;
	struct vsk_bytes to_host, to_guest;
	struct rig g, to;
	size_t len, n;
	rig_init(&g);
	rig_init(&to);
	struct vsk_conn *c = guest_opens(&g);
	vsk_save_begin(&s, &g.v, buf, sizeof(buf));
	vsk_save_conn(&s, c, true, &none, &none);
	vsk_save_relay(&s, "over there", 10);
	vsk_save_app(&s, "x", 1);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(vsk_load_begin(&l, &to.v, 0, buf, len), 0);
	assert_non_null(vsk_load_next(&l, &to_host, &to_guest));
	assert_memory_equal(vsk_load_relay(&l, &n), "over there", 10);
	assert_int_equal(n, 10);
	assert_memory_equal(vsk_load_app(&l, &n), "x", 1);
	assert_null(vsk_load_next(&l, &to_host, &to_guest));
	assert_null(vsk_load_relay(&l, &n));
	/* In another order it belongs to nothing. */
	vsk_save_begin(&s, &g.v, buf, sizeof(buf));
	vsk_save_conn(&s, c, true, &none, &none);
	vsk_save_app(&s, "x", 1);
	vsk_save_relay(&s, "over there", 10);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(vsk_record_info(buf, len, &info), -EINVAL);
}

static void check_golden(int version)
{
	char path[4096];
	uint8_t buf[16384];
	snprintf(path, sizeof(path), "%s/record-v%d.bin", folder, version);
	FILE *f = fopen(path, "rb");
	assert_non_null(f);
	size_t len = fread(buf, 1, sizeof(buf), f);
	fclose(f);
	struct rig a, b;
	rig_fill(&a);
	if (version > 1)
		rig_add_messages(&a);
	rig_init(&b);
	check_filled(&a, &b, buf, len);
}

static void test_golden_files_of_all_versions(void **state)
{
	(void)state;
	for (int version = 1; version <= (int)VSK_RECORD_VERSION; version++)
		check_golden(version);
}

static void test_idle_connections_are_small(void **state)
{
	(void)state;
	struct rig g;
	uint8_t buf[16384];
	rig_init(&g);
	size_t empty = save(&g, buf, sizeof(buf), 0);
	guest_opens(&g);
	assert_true(save(&g, buf, sizeof(buf), 0) - empty <= 128);
	assert_true(vsk_save_size(&g.v) >= save(&g, buf, sizeof(buf), 0));
}

static void test_save_that_does_not_fit(void **state)
{
	(void)state;
	struct rig g;
	uint8_t buf[16384];
	size_t len;
	rig_fill(&g);
	size_t need = save(&g, buf, sizeof(buf), 0);
	for (size_t cap = 0; cap <= need; cap++) {
		struct vsk_save s;
		vsk_save_begin(&s, &g.v, buf, cap);
		for (struct vsk_conn *c = NULL; (c = vsk_next(&g.v, c));) {
			struct vsk_bytes h = in_flight(vsk_unread(c));
			vsk_save_conn(&s, c, true, &h, &none);
		}
		assert_int_equal(vsk_save_end(&s, &len), cap < need ? -ENOSPC : 0);
	}
	struct vsk_save s;
	vsk_save_begin(&s, &g.v, buf, sizeof(buf));
	struct vsk_bytes big = { .p = { pattern }, .n = { VSK_FLIGHT_MAX + 1 } };
	struct vsk_conn *c = vsk_next(&g.v, NULL);
	struct vsk_bytes h = in_flight(vsk_unread(c));
	vsk_save_conn(&s, c, true, &h, &big);
	assert_int_equal(vsk_save_end(&s, &len), -EMSGSIZE);
}

static void test_not_kept_is_reset_on_arrival(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	size_t len;
	rig_init(&a);
	guest_opens(&a);
	a.p.src_port = 9;
	guest_opens(&a);
	struct vsk_save s;
	vsk_save_begin(&s, &a.v, buf, sizeof(buf));
	for (struct vsk_conn *c = NULL; (c = vsk_next(&a.v, c));)
		vsk_save_conn(&s, c, c->guest_port == 9, &none, &none);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	rig_init(&b);
	struct vsk_load l;
	struct vsk_bytes h, t;
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), 0);
	assert_int_equal(vsk_load_next(&l, &h, &t)->guest_port, 9);
	assert_null(vsk_load_next(&l, &h, &t));
	expect_op(&b, VSK_OP_RST);
	assert_int_equal(b.sent.dst_port, GPORT);
	expect_nothing(&b);
	assert_int_equal(b.v.n_conns, 1);
}

static struct vsk_conn *loaded(struct rig *a, struct rig *b)
{
	uint8_t buf[16384];
	size_t len = save(a, buf, sizeof(buf), 0);
	struct vsk_load l;
	struct vsk_bytes h, t;
	rig_init(b);
	assert_int_equal(vsk_load_begin(&l, &b->v, b->now, buf, len), 0);
	return vsk_load_next(&l, &h, &t);
}

static void test_claim(void **state)
{
	(void)state;
	struct rig a, b;
	rig_init(&a);
	guest_opens(&a);
	struct vsk_conn *c = loaded(&a, &b);
	vsk_resume(&b.v, 50000000);
	assert_int_equal(vsk_deadline(&b.v), 50000000 + VSK_CLAIM_US);
	guest(&b, VSK_OP_RW, 10, 0); /* the guest notices nothing */
	assert_int_equal(b.ev.kind, VSK_EV_DATA);
	assert_int_equal(vsk_claim(&b.v, 0, c), 0);
	assert_int_equal(vsk_claim(&b.v, 0, c), -EALREADY);
	assert_int_equal(vsk_deadline(&b.v), VSK_NEVER);

	c = loaded(&a, &b);
	vsk_resume(&b.v, 0);
	assert_true(vsk_expire(&b.v, VSK_CLAIM_US, &b.ev));
	expect_closed(&b, VSK_WHY_UNCLAIMED);
	expect_op(&b, VSK_OP_RST);

	host_shuts(&a, vsk_next(&a.v, NULL), VSK_SHUT_BOTH); /* only the guest's RST is missing */
	c = loaded(&a, &b);
	assert_int_equal(vsk_claim(&b.v, 0, c), -EALREADY);
	assert_int_equal(vsk_deadline(&b.v), b.now + VSK_CLOSE_US);

	rig_init(&a); /* ended by the guest while it waits for its owner, who had ended it before */
	host_shuts(&a, guest_opens(&a), VSK_SHUT_SEND);
	expect_op(&a, VSK_OP_SHUTDOWN);
	c = loaded(&a, &b);
	guest(&b, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
	expect_nothing(&b);
	assert_int_equal(vsk_claim(&b.v, 0, c), 0);
	assert_true(vsk_guest_ended(c));
	expect_op(&b, VSK_OP_SHUTDOWN);
	assert_int_equal(b.sent.flags, VSK_SHUT_BOTH);
}

/* E4.8, D7.10: an event that the source owes is the destination's to send. */
static void test_pending_reset_event_moves(void **state)
{
	(void)state;
	struct rig a, b;
	rig_init(&a);
	vsk_transport_reset(&a.v, 0, true);
	assert_null(loaded(&a, &b));
	assert_true(b.v.event_pending);
	assert_int_equal(b.v.hold_until_us, b.now + VSK_HOLD_US);
}

static int try_load(const uint8_t *buf, size_t len)
{
	struct rig g;
	struct vsk_load l;
	rig_init(&g);
	int r = vsk_load_begin(&l, &g.v, 0, buf, len);
	if (r < 0) { /* E4.6: as if nothing had been */
		assert_int_equal(g.v.n_conns, 0);
		assert_int_equal(g.v.n_free, SLOTS);
		assert_int_equal(g.v.next_port, VSK_HOST_PORT_MIN);
		assert_false(vsk_wants_guest(&g.v));
		assert_null(vsk_next(&g.v, NULL));
	}
	return r;
}

/* Changes one byte and makes the checksum right again. */
static int try_changed(const uint8_t *buf, size_t len, size_t at, uint8_t value)
{
	uint8_t copy[16384];
	memcpy(copy, buf, len);
	copy[at] = value;
	le32_to(copy + 24, 0);
	le32_to(copy + 24, vsk_crc32c(0, copy, len));
	return try_load(copy, len);
}

static void test_damaged_records_are_refused(void **state)
{
	(void)state;
	struct rig g;
	uint8_t buf[16384];
	rig_fill(&g);
	size_t len = save(&g, buf, sizeof(buf), 10);
	assert_int_equal(try_load(buf, 0), -ENODATA); /* E4.9 */
	for (size_t n = 1; n < len; n++)
		assert_int_equal(try_load(buf, n), -EBADMSG);
	for (size_t at = 0; at < len; at++) { /* every bit counts */
		buf[at] ^= 0x10;
		assert_int_equal(try_load(buf, len), -EBADMSG);
		buf[at] ^= 0x10;
	}
	for (size_t at = 0; at < 700; at++) /* and with a right checksum nothing breaks */
		for (int v = 0; v < 256; v += at < 160 ? 1 : 51)
			try_changed(buf, len, at, (uint8_t)v);
	assert_int_equal(try_load(buf, len), 0);
}

static void test_contradictions_are_refused(void **state)
{
	(void)state;
	struct rig g;
	uint8_t buf[16384];
	rig_init(&g);
	guest_opens(&g);
	guest(&g, VSK_OP_RW, 4, 0);
	size_t len = save(&g, buf, sizeof(buf), 4), b = 56 + 8; /* the connection's fields */
	static const struct {
		size_t at;
		uint8_t value;
		int error;
	} cases[] = {
		{ 64 + 64, 3, -EPROTONOSUPPORT }, /* type */
		{ 64 + 64, 2, -EINVAL },          /* messages, and the host's is not whole */
		{ 64 + 70, 4, -EINVAL },          /* a stream in the midst of a message */
		{ 64 + 72, 1, -EINVAL },          /* with ends of messages */
		{ 64 + 66, 9, -EPROTONOSUPPORT }, /* state */
		{ 64 + 66, 0, -EINVAL },
		{ 64 + 66, 1, -EINVAL }, /* dialling with payload */
		{ 64 + 67, 1, -EINVAL }, /* an RST that waits in an open connection */
		{ 64 + 67, 8, -EINVAL }, /* SHUTDOWN without bits */
		{ 64 + 68, 4, -EINVAL }, /* shut bits */
		{ 64 + 69, 1, -EINVAL }, /* the host reads no more, yet bytes wait for it */
		{ 64 + 69, 2, -EINVAL }, /* it sends no more, yet bytes wait for the guest */
		{ 64 + 71, 1, -EPROTONOSUPPORT }, /* flags */
		{ 64 + 70, 32, -EPROTONOSUPPORT },
		{ 64 + 70, 8, -EINVAL }, /* of a takeover */
		{ 64 + 20, 1, -EINVAL }, /* other end */
		{ 64 + 32, 5, -EINVAL }, /* rx_cnt - fwd_cnt is not what is in flight */
		{ 64 + 40, 9, -EINVAL }, /* fwd_cnt beyond rx_cnt */
		{ 64 + 4, 5, -EINVAL },  /* lengths do not add up */
		{ 64 + 0, 71, -EINVAL },
		{ 64 + 55, 1, -EINVAL },         /* buf_alloc too large */
		{ 56 + 0, 7, -EPROTONOSUPPORT }, /* unknown part that must be understood */
		{ 56 + 4, 87, -EINVAL },         /* length of the part */
		{ 28, 2, -EINVAL },              /* number of parts */
		{ 12, 55, -EINVAL },             /* length of the head */
		{ 10, 3, -EPROTONOSUPPORT },     /* oldest reader is newer than we are */
		{ 8, 0, -EPROTONOSUPPORT },      /* older than we read */
		{ 32, CID + 1, -EADDRNOTAVAIL },
		{ 51, 0, -EINVAL }, /* port floor */
		{ 52, 8, -EPROTONOSUPPORT },
		{ 52, 4, -EINVAL }, /* flags */
		{ 0, 'X', -EBADMSG },
	};
	assert_int_equal(buf[b + 66], VSK_OPEN);
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++)
		if (try_changed(buf, len, cases[i].at, cases[i].value) != cases[i].error)
			fail_msg("byte %zu = %u: not error %d", cases[i].at, cases[i].value,
				cases[i].error);
	assert_int_equal(
		try_changed(buf, len, 8, 200), 0); /* newer, and says that we can read it */
}

static void test_contradictions_of_messages_are_refused(void **state)
{
	(void)state;
	struct rig g;
	uint8_t buf[16384];
	rig_init(&g);
	rig_add_messages(&g);
	size_t len = save(&g, buf, sizeof(buf), 100);
	const size_t ends = 64 + 80 + 130 + 100; /* of the connection */
	const struct {
		size_t at;
		uint8_t value;
		int error;
	} cases[] = {
		{ 64 + 64, 1, -EINVAL },   /* a stream with messages */
		{ 64 + 68, 2, -EINVAL },   /* ended with a part of a message */
		{ 64 + 69, 1, -EINVAL },   /* the host reads no more, yet messages wait */
		{ 64 + 69, 2, -EINVAL },   /* it sends no more, yet messages wait */
		{ 64 + 66, 2, -EINVAL },   /* asking with messages */
		{ 64 + 72, 1, -EINVAL },   /* fewer ends than said */
		{ 64 + 72, 3, -EINVAL },   /* more */
		{ 64 + 75, 255, -EINVAL }, /* too many */
		{ 64 + 76, 3, -EINVAL }, { 64 + 79, 255, -EINVAL },
		{ ends, 131, -EINVAL },                      /* longer than what is there */
		{ ends + 8, 61, -EINVAL },                   /* the host's are whole */
		{ ends + 8, 59, -EINVAL }, { ends, 130, 0 }, /* just the whole of it */
		{ ends + 3, 0x80, 0 }, { 64 + 70, 0, 0 },    /* not in the midst of one */
	};
	assert_int_equal(try_load(buf, len), 0);
	assert_int_equal(buf[ends], 100);
	assert_int_equal(buf[ends + 8], 60);
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++)
		if (try_changed(buf, len, cases[i].at, cases[i].value) != cases[i].error)
			fail_msg("byte %zu = %u: not error %d", cases[i].at, cases[i].value,
				cases[i].error);
	for (size_t at = 0; at < len; at++) /* and nothing breaks */
		for (int v = 0; v < 256; v += 51)
			try_changed(buf, len, at, (uint8_t)v);

	/* In the midst of a message, of which the rest is with the host end. */
	struct rig h;
	rig_init(&h);
	rig_add_messages(&h);
	h.slots[0].tx_mid = false;
	struct vsk_save s;
	vsk_save_begin(&s, &h.v, buf, sizeof(buf));
	struct vsk_bytes to_host = in_flight(130);
	add_ends(&to_host, ends_to_host);
	vsk_save_conn(&s, &h.slots[0], true, &to_host, &none);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(try_load(buf, len), 0);
	assert_int_equal(try_changed(buf, len, 64 + 70, 4), 0);

	/* Empty messages alone: they are something, too. */
	le32_to(ends_to_guest, 0);
	le32_to(ends_to_guest + 4, 0);
	le32_to(ends_to_host, 0);
	le32_to(ends_to_host + 4, 0);
	rig_init(&h);
	h.v.cfg.features |= VSK_F_SEQPACKET;
	h.p.type = VSK_TYPE_SEQPACKET;
	struct vsk_conn *c = guest_opens(&h);
	guest(&h, VSK_OP_RW, 0, VSK_MSG_EOM);
	guest(&h, VSK_OP_RW, 0, VSK_MSG_EOM);
	len = save(&h, buf, sizeof(buf), 0);
	assert_int_equal(try_load(buf, len), 0);
	assert_int_equal(try_changed(buf, len, 64 + 66, VSK_DIALLING), -EINVAL);
	assert_int_equal(try_changed(buf, len, 64 + 69, VSK_SHUT_RCV), -EINVAL);
	took(&h, c, 0);
	took(&h, c, 0);
	vsk_save_begin(&s, &h.v, buf, sizeof(buf));
	struct vsk_bytes to_guest = { 0 };
	add_ends(&to_guest, ends_to_guest);
	vsk_save_conn(&s, c, true, &none, &to_guest);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(try_load(buf, len), 0);
	assert_int_equal(try_changed(buf, len, 64 + 69, VSK_SHUT_SEND), -EINVAL);
}

static void test_later_additions_are_stepped_over(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384], more[16384] = { 0 };
	rig_init(&a);
	guest_opens(&a);
	guest(&a, VSK_OP_RW, 4, 0);
	size_t len = save(&a, buf, sizeof(buf), 0);
	size_t n = 0;
	memcpy(more, buf, 56); /* the head grows by 8 */
	n = 64;
	memcpy(more + n, buf + 56, 8 + 80); /* the connection's fields by 4 */
	le32_to(more + n + 4, 80 + 4 + 4);
	le32_to(more + n + 8, 84);
	n += 8 + 84;
	memcpy(more + n, buf + 56 + 8 + 80, 4);
	n += 4;
	le16_to(more + n, 500); /* a part of a kind that is not known, and need not be */
	le32_to(more + n + 4, 3);
	n += 8 + 3;
	assert_int_equal(len, 56 + 8 + 80 + 4);
	le16_to(more + 8, VSK_RECORD_VERSION + 1);
	le32_to(more + 12, 64);
	le64_to(more + 16, n);
	le32_to(more + 28, 2);
	le32_to(more + 24, 0);
	le32_to(more + 24, vsk_crc32c(0, more, n));
	rig_init(&b);
	struct vsk_load l;
	struct vsk_bytes h, t;
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, more, n), 0);
	same(&b, vsk_next(&a.v, NULL));
	assert_non_null(vsk_load_next(&l, &h, &t));
	assert_int_equal(h.n[0], 4);
	assert_memory_equal(h.p[0], pattern, 4);
}

static void test_no_room_no_duplicates_no_second_load(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	rig_init(&a);
	guest_opens(&a);
	a.p.src_port = 2;
	guest_opens(&a);
	size_t len = save(&a, buf, sizeof(buf), 0);
	struct vsk_record_info info;
	assert_int_equal(vsk_record_info(buf, len, &info), 0);
	assert_int_equal(info.n_conns, 2);
	assert_int_equal(info.guest_cid, CID);
	assert_int_equal(info.version, VSK_RECORD_VERSION);
	struct vsk_load l;
	assert_int_equal(vsk_load_begin(&l, &a.v, 0, buf, len), -EBUSY);

	const struct vsk_config cfg = { .guest_cid = CID, .buf_alloc = BUF };
	rig_init(&b);
	vsk_init(&b.v, &cfg, b.buckets, 4);
	vsk_give_slots(&b.v, b.slots, 1, sizeof(b.slots[0]));
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), -ENOBUFS);
	assert_int_equal(b.v.n_free, 1);

	memcpy(buf + 56 + 88, buf + 56, 88); /* the same connection twice */
	assert_int_equal(try_changed(buf, len, 0, buf[0]), -EINVAL);
}

/* ---- takeover ---- */

static size_t save_takeover(
	struct rig *g, uint8_t *buf, size_t cap, const struct vsk_bytes *to_host)
{
	struct vsk_save s;
	size_t len = 0;
	vsk_save_begin_takeover(&s, &g->v, buf, cap);
	for (struct vsk_conn *c = NULL; (c = vsk_next(&g->v, c));) {
		struct vsk_bytes h = to_host ? *to_host : in_flight(vsk_unread(c));
		vsk_save_conn(&s, c, true, &h, &none);
	}
	assert_int_equal(vsk_save_end(&s, &len), 0);
	return len;
}

static int load_takeover(struct rig *g, const uint8_t *buf, size_t len)
{
	struct vsk_load l;
	rig_init(g);
	return vsk_load_takeover(&l, &g->v, 0, buf, len);
}

static void test_takeover_keeps_owners_and_siblings(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	rig_init(&a);
	struct vsk_conn *host = guest_opens(&a);
	a.p.dst_cid = 9;
	struct vsk_conn *sibling = guest_opens(&a);
	guest(&a, VSK_OP_RW, 100, 0);
	a.p.dst_port++;
	guest(&a, VSK_OP_REQUEST, 0, 0);
	vsk_transport_reset(&a.v, 0, true);
	vsk_event_placed(&a.v);
	size_t len = save_takeover(&a, buf, sizeof(buf), NULL);
	assert_int_equal(load_takeover(&b, buf, len), 0);
	struct vsk_conn *c = vsk_find(&b.v, VSK_CID_HOST, host->host_port, host->guest_port);
	assert_int_equal(c->life, VSK_LIFE_STEADY);
	assert_false(c->unclaimed);
	same(&b, sibling);
	assert_false(vsk_find(&b.v, 9, sibling->host_port, sibling->guest_port)->unclaimed);
	assert_int_equal(vsk_find(&b.v, 9, HPORT + 1, GPORT)->state, VSK_DIALLING);
	assert_true(b.v.hold_until_us && !b.v.event_pending); /* D7.8 */
	vsk_event_used(&b.v);
	assert_int_equal(b.v.hold_until_us, 0);
}

static void test_takeover_keeps_what_waits_for_its_owner(void **state)
{
	(void)state;
	struct rig a, b, c;
	uint8_t buf[16384];
	struct vsk_load l;
	rig_init(&a);
	guest_opens(&a);
	size_t len = save(&a, buf, sizeof(buf), 0);
	rig_init(&b);
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), 0); /* nobody has claimed it */
	len = save_takeover(&b, buf, sizeof(buf), NULL);
	assert_int_equal(load_takeover(&c, buf, len), 0);
	assert_true(vsk_next(&c.v, NULL)->unclaimed);
	assert_int_equal(vsk_next(&c.v, NULL)->life, VSK_LIFE_CLAIM);
}

/* The other guest has got the beginning of a message; what it has not. */
static struct vsk_bytes rest_of_a_message(struct rig *a)
{
	static uint8_t end[VSK_END_BYTES];
	rig_init(a);
	a->v.cfg.features |= VSK_F_SEQPACKET;
	a->p.dst_cid = 9;
	a->p.type = VSK_TYPE_SEQPACKET;
	guest_opens(a);
	guest(a, VSK_OP_RW, 100, VSK_MSG_EOM);
	struct vsk_bytes rest = in_flight(60);
	le32_to(end, 60);
	rest.ends_p[0] = end;
	rest.ends_n[0] = sizeof(end);
	return rest;
}

/* It is a message of its own where the guest arrives; and none is longer than its sibling takes. */
static void test_the_rest_of_a_siblings_message_moves(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	struct vsk_bytes rest = rest_of_a_message(&a);
	struct vsk_conn *c = vsk_next(&a.v, NULL);
	struct vsk_save s;
	struct vsk_load l;
	size_t len;
	vsk_relay(&a.v, c, &(struct vsk_conn){ .peer_buf_alloc = 200 }, false);
	vsk_save_begin(&s, &a.v, buf, sizeof(buf));
	vsk_save_conn(&s, c, true, &rest, &none);
	assert_int_equal(vsk_save_end(&s, &len), 0);
	assert_int_equal(vsk_unread(c), 100); /* here it goes on as before */
	assert_int_equal(c->buf_alloc, a.v.cfg.buf_alloc);
	rig_init(&b);
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), 0);
	c = vsk_next(&b.v, NULL);
	assert_int_equal(vsk_unread(c), 60);
	assert_int_equal(c->buf_alloc, 200);
	assert_int_equal(c->fwd_cnt, 40);
	assert_int_equal(c->msgs, 1);
	le64_to(buf + 64 + 40, 0); /* as if it had been given nothing */
	le32_to(buf + 24, 0);
	le32_to(buf + 24, vsk_crc32c(0, buf, len));
	rig_init(&b);
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), -EINVAL);
}

static void test_takeover_in_the_midst_of_a_siblings_message(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	struct vsk_bytes rest = rest_of_a_message(&a);
	size_t len = save_takeover(&a, buf, sizeof(buf), &rest);
	assert_int_equal(load_takeover(&b, buf, len), 0);
	assert_int_equal(vsk_unread(vsk_next(&b.v, NULL)), 100);
	assert_int_equal(vsk_next(&b.v, NULL)->msgs, 1);
	buf[64 + 20] = VSK_CID_HOST; /* the host takes whole messages */
	le32_to(buf + 24, 0);
	le32_to(buf + 24, vsk_crc32c(0, buf, len));
	assert_int_equal(load_takeover(&b, buf, len), -EINVAL);
}

/* The room of a sibling's guest goes from end to end: what was told of it stays told. */
static void test_takeover_keeps_a_siblings_credit(void **state)
{
	(void)state;
	struct rig a, b, far;
	uint8_t buf[16384];
	rig_init(&a);
	rig_init(&far);
	a.p.dst_cid = far.p.dst_cid = 9;
	struct vsk_conn *c = guest_opens(&a), *f = guest_opens(&far);
	guest(&a, VSK_OP_RW, 100, 0);
	f->tx_cnt = 60;
	f->peer_buf_alloc = 5000;
	f->peer_fwd_cnt = 20;
	vsk_relay(&a.v, c, f, false);
	c->fwd_cnt = 60; /* as the device would by vsk_host_took() */
	size_t len = save_takeover(&a, buf, sizeof(buf), NULL);
	assert_int_equal(load_takeover(&b, buf, len), 0);
	struct vsk_conn *d = vsk_next(&b.v, NULL);
	assert_int_equal(vsk_guest_room(d), vsk_guest_room(c));
	assert_int_equal(vsk_taken(d), 20);
	assert_int_equal(d->announced_buf, c->announced_buf);
	const uint8_t far_tx[] = { 59, 61, 255 };
	for (size_t i = 0; i < sizeof(far_tx); i++) { /* more or less in the device than is */
		buf[64 + 84] = far_tx[i];
		le32_to(buf + 24, 0);
		le32_to(buf + 24, vsk_crc32c(0, buf, len));
		assert_int_equal(load_takeover(&b, buf, len), -EINVAL);
	}
}

static void test_takeover_and_migration_do_not_mix(void **state)
{
	(void)state;
	struct rig a, b;
	uint8_t buf[16384];
	struct vsk_load l;
	struct vsk_record_info info;
	rig_init(&a);
	guest_opens(&a);
	size_t len = save(&a, buf, sizeof(buf), 0);
	assert_int_equal(load_takeover(&b, buf, len), -EINVAL);
	len = save_takeover(&a, buf, sizeof(buf), NULL);
	assert_int_equal(vsk_record_info(buf, len, &info), 0);
	assert_true(info.takeover);
	assert_int_equal(vsk_load_begin(&l, &b.v, 0, buf, len), -EINVAL);
	assert_int_equal(vsk_load_add(&l, &b.v, 0, buf, len), -EINVAL);
	assert_int_equal(b.v.n_conns, 0);
	a.p.dst_cid = 9;
	a.p.dst_port++;
	guest_opens(&a);
	len = save_takeover(&a, buf, sizeof(buf), NULL);
	le32_to(buf + 52, 0); /* a sibling in a record of a migration */
	le32_to(buf + 24, 0);
	le32_to(buf + 24, vsk_crc32c(0, buf, len));
	assert_int_equal(vsk_record_info(buf, len, &info), -EINVAL);
}

static void test_lingering(void **state)
{
	(void)state;
	struct rig a;
	rig_init(&a);
	struct vsk_conn *c = vsk_load_lingering(&a.v, VSK_TYPE_STREAM, 2, 3, 4);
	assert_true(c->state == VSK_CLOSED && c->held_by_device);
	assert_int_equal(a.v.n_conns, 0);
	expect_nothing(&a);
	vsk_release(&a.v, c);
	assert_int_equal(a.v.n_free, SLOTS);
}

static void test_checksum(void **state)
{
	(void)state;
	assert_int_equal(vsk_crc32c(0, "123456789", 9), 0xe3069283);
	uint8_t zero[32] = { 0 };
	assert_int_equal(vsk_crc32c(0, zero, 32), 0x8a9136aa);
	for (size_t cut = 0; cut <= 32; cut++)
		assert_int_equal(vsk_crc32c(vsk_crc32c(0, pattern, cut), pattern + cut, 32 - cut),
			vsk_crc32c(0, pattern, 32));
}

static int write_golden(void)
{
	struct rig g;
	uint8_t buf[16384];
	char path[4096];
	rig_fill(&g);
	rig_add_messages(&g);
	size_t len = save(&g, buf, sizeof(buf), 100);
	snprintf(path, sizeof(path), "%s/record-v%u.bin", folder, VSK_RECORD_VERSION);
	FILE *f = fopen(path, "wb");
	return f && fwrite(buf, 1, len, f) == len && fclose(f) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_golden_files_of_all_versions),
		cmocka_unit_test(test_one_connection_joins_others),
		cmocka_unit_test(test_a_state_stands_behind_its_connection),
		cmocka_unit_test(test_where_the_host_end_is_stands_there_too),
		cmocka_unit_test(test_idle_connections_are_small),
		cmocka_unit_test(test_save_that_does_not_fit),
		cmocka_unit_test(test_not_kept_is_reset_on_arrival),
		cmocka_unit_test(test_claim),
		cmocka_unit_test(test_pending_reset_event_moves),
		cmocka_unit_test(test_damaged_records_are_refused),
		cmocka_unit_test(test_contradictions_are_refused),
		cmocka_unit_test(test_contradictions_of_messages_are_refused),
		cmocka_unit_test(test_later_additions_are_stepped_over),
		cmocka_unit_test(test_no_room_no_duplicates_no_second_load),
		cmocka_unit_test(test_takeover_keeps_owners_and_siblings),
		cmocka_unit_test(test_takeover_keeps_what_waits_for_its_owner),
		cmocka_unit_test(test_the_rest_of_a_siblings_message_moves),
		cmocka_unit_test(test_takeover_in_the_midst_of_a_siblings_message),
		cmocka_unit_test(test_takeover_keeps_a_siblings_credit),
		cmocka_unit_test(test_takeover_and_migration_do_not_mix),
		cmocka_unit_test(test_lingering),
		cmocka_unit_test(test_checksum),
	};
	for (size_t i = 0; i < sizeof(pattern); i++)
		pattern[i] = (uint8_t)(i * 7 + i / 251);
	folder = argc > 1 ? argv[1] : ".";
	if (argc > 2 && strcmp(argv[2], "--write") == 0)
		return write_golden();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
