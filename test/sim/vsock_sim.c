/* SPDX-License-Identifier: MIT */
/*
 * vsock_sim.c - the engine between a model of the Linux driver and a model of host sockets.
 *
 * The world is deterministic: one seed decides who acts next and how much. Guest and host
 * applications follow a script per connection: so many bytes each way, then a half-close or a
 * close. Every byte has a value that its place foretells, so both ends check what they read, in
 * order. A SEQPACKET connection carries so many messages instead, whose lengths are foretold as
 * well, empty ones among them: both ends check where each ends.
 *
 * The guest checks what Linux relies on: credit is never exceeded, nothing comes after the end, no
 * RST answers an RST. A world is over when nobody has anything left to do; then everything that
 * was promised must have arrived, and every slot must be free. A world that does not end has
 * stalled.
 */
#include "../lib/unit.h"
#include "base/ring.h"
#include "vsock/vsock.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CID         7u
#define SLOTS       8
#define FLOWS       6
#define RX_BUFS     8
#define RX_PAYLOAD  3712u /* D2.7 */
#define TX_QUEUE    256
#define TX_DATA_MAX 16 /* data packets only go in while the queue is shorter than this */
#define HOST_QUEUE  4096u
#define HELD_MAX    (1u << 18) /* bytes for the guest that the device holds after a load */
#define ENDS_MAX    (1u << 10) /* bytes of ends of messages, either way */
#define MSGS_MAX    30
#define STEPS_MAX   400000

enum close_mode { HALF_THEN_CLOSE, CLOSE_AT_ONCE, CLOSE_MODES };

struct script {
	bool host_opens, refused, messages;
	uint32_t guest_bytes, host_bytes, guest_buf; /* with messages: their number */
	enum close_mode guest_close, host_close;
};

/* A place in the messages of one direction. */
struct place {
	uint32_t msg, off;
};

/* The guest's socket, as far as af_vsock and virtio_transport_common go. */
enum gstate { G_NONE, G_SYN, G_OPEN, G_CLOSING, G_GONE };

struct gsock {
	enum gstate state;
	uint32_t port, host_port;
	uint64_t tx, rx, read; /* bytes sent, received, read by the application */
	struct place tx_at, rx_at;
	uint32_t read_msg;
	uint32_t peer_fwd, peer_buf, last_fwd, buf;
	uint8_t shut, peer_shut;
	bool in_table, ended, reset;
};

struct hsock {
	bool open, peer_ended, shut, closed, done;
	uint32_t queued; /* written by the application, not read by the device */
	uint64_t wrote, got;
	uint32_t wrote_msg, read_msg, got_msg; /* read: by the device */
	uint32_t room;                         /* what it takes from the device now */
};

/* The device's slot. */
struct dconn {
	struct vsk_conn c;
	int flow;
	struct hf_ring ring;     /* to the host */
	struct hf_ring to_guest; /* after a load, and the rest of a message */
	struct hf_ring ends, guest_ends;
	uint32_t part; /* of the guest's message that has not ended */
};

struct txpkt {
	uint8_t hdr[VSK_HDR_BYTES];
	int flow;
	uint64_t off;
};

struct rxpkt {
	uint8_t hdr[VSK_HDR_BYTES];
	uint8_t data[RX_PAYLOAD];
};

struct world {
	uint64_t seed, rnd, now;
	unsigned long step;
	struct vsk v;
	struct vsk_conn *buckets[8];
	struct dconn *slots;
	struct script script[FLOWS];
	struct gsock g[FLOWS];
	struct hsock h[FLOWS];
	struct dconn *d[FLOWS];
	int n_flows;
	struct txpkt tx[TX_QUEUE];
	unsigned tx_head, tx_tail;
	struct rxpkt rx[RX_BUFS];
	unsigned rx_head, rx_tail;
	bool event; /* in the guest's event queue, not yet seen */
	bool save_each_step, disturbed;
	uint32_t buf_alloc;
	uint64_t start[FLOWS]; /* where counters begin */
	uint64_t trace;
	unsigned long packets;
};

#define CHECK(w, cond)                                                                             \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail_msg("seed %llu step %lu: line %d: %s", (unsigned long long)(w)->seed, \
				(w)->step, __LINE__, #cond);                                       \
	} while (0)

static uint32_t rnd(struct world *w, uint32_t n)
{
	w->rnd ^= w->rnd << 13;
	w->rnd ^= w->rnd >> 7;
	w->rnd ^= w->rnd << 17;
	return n ? (uint32_t)((w->rnd >> 20) % n) : 0;
}

static uint8_t byte_at(int flow, bool from_host, uint64_t off)
{
	return (uint8_t)(off * 31 + off / 256 * 7 + (uint64_t)flow * 101 + (from_host ? 57 : 0));
}

/* Lengths of messages; both ends' buffers hold each (D6.3). */
static uint32_t msg_len(const struct world *w, int flow, bool from_host, uint32_t msg)
{
	uint32_t max = HF_MIN(w->script[flow].guest_buf, w->buf_alloc);
	uint32_t h =
		(msg * 2654435761u) ^ ((uint32_t)flow * 40503u) ^ (from_host ? 0x5bd1e995u : 0);
	h ^= h >> 15;
	static const uint32_t kinds[] = { 0, 100, 3000, UINT32_MAX };
	return h / 4 % (HF_MIN(max, kinds[h % 4]) + 1);
}

static uint32_t msg_flags(uint32_t msg)
{
	return VSK_MSG_EOM | (msg % 3 ? 0 : VSK_MSG_EOR);
}

static void put_end(struct hf_ring *r, uint32_t len, bool eor)
{
	uint8_t b[VSK_END_BYTES];
	le32_to(b, len | (eor ? VSK_END_EOR : 0));
	if (!r->buf)
		hf_ring_init(r, malloc(ENDS_MAX), ENDS_MAX);
	assert_int_equal(hf_ring_put(r, b, sizeof(b)), sizeof(b));
}

/* The first end, which is left there. */
static uint32_t first_end(const struct hf_ring *r)
{
	struct hf_ring copy = *r;
	uint8_t b[VSK_END_BYTES];
	assert_int_equal(hf_ring_get(&copy, b, sizeof(b)), sizeof(b));
	return le32_at(b);
}

static void free_ring(struct hf_ring *r)
{
	free(r->buf);
	hf_ring_init(r, NULL, 0);
}

static uint16_t type_of(const struct world *w, int flow)
{
	return w->script[flow].messages ? VSK_TYPE_SEQPACKET : VSK_TYPE_STREAM;
}

static void trace(struct world *w, char dir, const uint8_t *hdr)
{
	w->packets++;
	w->trace = (w->trace ^ (uint8_t)dir) * 0x100000001b3u;
	for (int i = 0; i < VSK_HDR_BYTES; i++)
		w->trace = (w->trace ^ hdr[i]) * 0x100000001b3u;
}

/* ---- guest ---- */

static void guest_sends(struct world *w, int flow, uint16_t op, uint32_t len, uint32_t flags)
{
	struct gsock *g = &w->g[flow];
	CHECK(w, w->tx_tail - w->tx_head < TX_QUEUE);
	struct txpkt *t = &w->tx[w->tx_tail++ % TX_QUEUE];
	const struct vsk_pkt p = { CID, VSK_CID_HOST, g->port, g->host_port, len, type_of(w, flow),
		op, flags, g->buf, (uint32_t)(g->read + w->start[flow]) };
	vsk_pkt_encode(&p, t->hdr);
	t->flow = flow;
	t->off = g->tx;
	g->last_fwd = p.fwd_cnt;
}

/* An answer from no socket: virtio_transport_reset_no_sock. */
static void guest_resets(struct world *w, const struct vsk_pkt *in)
{
	if (in->op == VSK_OP_RST)
		return;
	CHECK(w, w->tx_tail - w->tx_head < TX_QUEUE);
	struct txpkt *t = &w->tx[w->tx_tail++ % TX_QUEUE];
	const struct vsk_pkt p = { CID, in->src_cid, in->dst_port, in->src_port, 0, in->type,
		VSK_OP_RST, 0, 0, 0 };
	vsk_pkt_encode(&p, t->hdr);
}

static void guest_gone(struct world *w, int flow)
{
	w->g[flow].state = G_GONE;
	w->g[flow].in_table = false;
	(void)w;
}

static uint32_t guest_room(const struct world *w, int flow)
{
	const struct gsock *g = &w->g[flow];
	uint32_t used = (uint32_t)(g->tx + w->start[flow]) - g->peer_fwd;
	uint32_t buf = HF_MIN(g->peer_buf, g->buf); /* D4.9 */
	return used < buf ? buf - used : 0;
}

static void guest_close(struct world *w, int flow)
{
	struct gsock *g = &w->g[flow];
	if (g->state == G_OPEN && g->peer_shut != VSK_SHUT_BOTH) {
		guest_sends(w, flow, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
		g->shut = VSK_SHUT_BOTH;
		g->state = G_CLOSING;
		return;
	}
	if (g->state == G_OPEN)
		guest_sends(w, flow, VSK_OP_RST, 0, 0);
	guest_gone(w, flow);
}

/* virtio_transport_seqpacket_enqueue: as much of the message as there is credit for. */
static void guest_sends_message(struct world *w, int flow)
{
	struct gsock *g = &w->g[flow];
	uint32_t len = msg_len(w, flow, false, g->tx_at.msg), left = len - g->tx_at.off;
	uint32_t room = guest_room(w, flow), n = HF_MIN(room, left);
	n = rnd(w, 3) ? n : HF_MIN(n, 1 + rnd(w, 300));
	if (left && !n)
		return;
	guest_sends(w, flow, VSK_OP_RW, n, n == left ? msg_flags(g->tx_at.msg) : 0);
	g->tx += n;
	g->tx_at.off += n;
	if (n == left)
		g->tx_at = (struct place){ g->tx_at.msg + 1, 0 };
}

static bool guest_has_more(const struct world *w, int flow)
{
	const struct gsock *g = &w->g[flow];
	const struct script *s = &w->script[flow];
	return s->messages ? g->tx_at.msg < s->guest_bytes : g->tx < s->guest_bytes;
}

/* What the application can read now: a part of the stream, or the next whole message. */
static bool guest_reads(struct world *w, int flow)
{
	struct gsock *g = &w->g[flow];
	uint32_t unread = (uint32_t)(g->rx - g->read);
	if (w->script[flow].messages) {
		if (g->read_msg == g->rx_at.msg || !rnd(w, 2))
			return false;
		g->read += msg_len(w, flow, true, g->read_msg++);
		return true;
	}
	if (!unread || !rnd(w, 2))
		return false;
	g->read += 1 + rnd(w, unread);
	return true;
}

static void guest_app(struct world *w, int flow)
{
	struct gsock *g = &w->g[flow];
	const struct script *s = &w->script[flow];
	if (g->state != G_OPEN || w->tx_tail - w->tx_head >= TX_DATA_MAX)
		return;
	if (guest_reads(w, flow)) {
		uint32_t fwd = (uint32_t)(g->read + w->start[flow]);
		if (g->in_table && fwd - g->last_fwd && g->buf - (fwd - g->last_fwd) < 65536 &&
			!(g->peer_shut & VSK_SHUT_SEND))
			guest_sends(w, flow, VSK_OP_CREDIT_UPDATE, 0, 0);
		return;
	}
	if (g->rx == g->read && g->read_msg == g->rx_at.msg && (g->peer_shut & VSK_SHUT_SEND))
		g->ended = true;
	if (guest_has_more(w, flow) && !(g->peer_shut & VSK_SHUT_RCV) && !g->shut) {
		if (s->messages) {
			guest_sends_message(w, flow);
			return;
		}
		uint32_t n = HF_MIN(guest_room(w, flow), (uint32_t)(s->guest_bytes - g->tx));
		n = HF_MIN(n, 1 + rnd(w, rnd(w, 3) ? 300 : 65536));
		if (n) {
			guest_sends(w, flow, VSK_OP_RW, n, 0);
			g->tx += n;
		}
	} else if (s->guest_close == CLOSE_AT_ONCE || g->ended) {
		guest_close(w, flow);
	} else if (!g->shut && g->in_table) {
		guest_sends(w, flow, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
		g->shut = VSK_SHUT_SEND;
	}
}

static void guest_shutdown(struct world *w, int flow, uint32_t flags)
{
	struct gsock *g = &w->g[flow];
	g->peer_shut |= flags & VSK_SHUT_BOTH;
	if (g->peer_shut == VSK_SHUT_BOTH) {
		g->in_table = false;
		if (g->rx == g->read) {
			g->ended = true;
			guest_sends(w, flow, VSK_OP_RST, 0, 0);
			guest_gone(w, flow);
		}
	}
}

/* D6.1, D6.2, D6.4: a packet has bytes of one message; flags stand on its last one only. */
static void guest_receives_part(struct world *w, int flow, const struct vsk_pkt *p)
{
	struct place *at = &w->g[flow].rx_at;
	if (!w->script[flow].messages) {
		CHECK(w, p->flags == 0 && p->len);
		return;
	}
	uint32_t len = msg_len(w, flow, true, at->msg);
	at->off += p->len;
	CHECK(w, at->off <= len && (p->len || p->flags));
	CHECK(w, p->flags == 0 || at->off == len);
	CHECK(w, p->flags == 0 || p->flags == msg_flags(at->msg));
	if (p->flags)
		*at = (struct place){ at->msg + 1, 0 };
}

static void guest_receives_open(
	struct world *w, int flow, const struct vsk_pkt *p, const uint8_t *data)
{
	struct gsock *g = &w->g[flow];
	switch (p->op) {
	case VSK_OP_RW:
		CHECK(w, !(g->peer_shut & VSK_SHUT_SEND));
		for (uint32_t i = 0; i < p->len; i++)
			CHECK(w, data[i] == byte_at(flow, true, g->rx + i));
		g->rx += p->len;
		CHECK(w, g->rx - g->read <= g->buf); /* D4.2 */
		guest_receives_part(w, flow, p);
		break;
	case VSK_OP_CREDIT_REQUEST:
		guest_sends(w, flow, VSK_OP_CREDIT_UPDATE, 0, 0);
		break;
	case VSK_OP_CREDIT_UPDATE:
		break;
	case VSK_OP_SHUTDOWN:
		guest_shutdown(w, flow, p->flags);
		break;
	case VSK_OP_RST:
		g->peer_shut = VSK_SHUT_BOTH;
		g->ended = true;
		guest_gone(w, flow);
		break;
	default:
		CHECK(w, !"operation");
	}
}

static void guest_receives(struct world *w, const struct rxpkt *r)
{
	struct vsk_pkt p;
	vsk_pkt_decode(r->hdr, &p);
	int flow = (int)p.dst_port - 100;
	CHECK(w, flow >= 0 && flow < w->n_flows);
	CHECK(w, p.dst_cid == CID && p.src_cid == VSK_CID_HOST && p.type == type_of(w, flow));
	struct gsock *g = &w->g[flow];
	if (p.op == VSK_OP_REQUEST) {
		if (w->script[flow].refused || g->state != G_NONE) {
			guest_resets(w, &p);
			return;
		}
		*g = (struct gsock){ .state = G_OPEN,
			.port = p.dst_port,
			.host_port = p.src_port,
			.buf = w->script[flow].guest_buf,
			.in_table = true,
			.peer_buf = p.buf_alloc,
			.peer_fwd = p.fwd_cnt };
		guest_sends(w, flow, VSK_OP_RESPONSE, 0, 0);
		return;
	}
	if (!g->in_table || g->host_port != p.src_port) {
		guest_resets(w, &p);
		return;
	}
	g->peer_buf = p.buf_alloc;
	g->peer_fwd = p.fwd_cnt;
	CHECK(w, p.op == VSK_OP_RST || (uint32_t)(g->tx + w->start[flow]) - p.fwd_cnt <= g->tx);
	if (g->state == G_SYN) {
		CHECK(w, p.op == VSK_OP_RESPONSE || p.op == VSK_OP_RST);
		g->state = G_OPEN;
		if (p.op == VSK_OP_RST)
			guest_gone(w, flow);
	} else if (g->state == G_OPEN) {
		guest_receives_open(w, flow, &p, r->data);
	} else if (g->state == G_CLOSING && p.op == VSK_OP_RST) {
		guest_gone(w, flow);
	}
}

/* TRANSPORT_RESET: virtio_vsock_reset_sock for each connected socket. */
static void guest_event(struct world *w)
{
	w->event = false;
	for (int i = 0; i < w->n_flows; i++)
		if (w->g[i].state == G_OPEN || w->g[i].state == G_CLOSING) {
			w->g[i].reset = true;
			guest_gone(w, i);
		}
	vsk_event_used(&w->v);
}

/* ---- device: what src/device does, in small ---- */

static void host_receives(struct world *w, int flow, struct hf_ring *ring, uint32_t n)
{
	struct hsock *h = &w->h[flow];
	for (uint32_t i = 0; i < n; i++) {
		uint8_t b;
		CHECK(w, hf_ring_get(ring, &b, 1) == 1 && b == byte_at(flow, false, h->got++));
	}
}

/* The next message, whole; returns its length. */
static uint32_t host_receives_message(struct world *w, struct dconn *d)
{
	struct hsock *h = &w->h[d->flow];
	uint32_t end = first_end(&d->ends), len = end & ~VSK_END_EOR;
	CHECK(w, len == msg_len(w, d->flow, false, h->got_msg));
	CHECK(w, (end & VSK_END_EOR) == (msg_flags(h->got_msg) & VSK_MSG_EOR ? VSK_END_EOR : 0));
	host_receives(w, d->flow, &d->ring, len);
	hf_ring_consumed(&d->ends, VSK_END_BYTES);
	h->got_msg++;
	return len;
}

static void drop_to_host(struct dconn *d)
{
	hf_ring_consumed(&d->ring, hf_ring_len(&d->ring));
	hf_ring_consumed(&d->ends, hf_ring_len(&d->ends));
	d->part = 0;
}

static void dev_end(struct world *w, struct dconn *d)
{
	struct hsock *h = &w->h[d->flow];
	while (hf_ring_len(&d->ends))
		(void)host_receives_message(w, d);
	if (!w->script[d->flow].messages) /* else: what has not ended is void */
		host_receives(w, d->flow, &d->ring, (uint32_t)hf_ring_len(&d->ring));
	h->peer_ended = true;
	h->open = false;
	w->d[d->flow] = NULL;
	free_ring(&d->ring);
	free_ring(&d->to_guest);
	free_ring(&d->ends);
	free_ring(&d->guest_ends);
	d->part = 0;
	vsk_release(&w->v, &d->c);
}

static void dev_event(struct world *w, const struct vsk_ev *ev)
{
	struct dconn *d = (struct dconn *)ev->conn;
	switch (ev->kind) {
	case VSK_EV_NONE:
	case VSK_EV_DATA:
		break;
	case VSK_EV_DIAL:
		d->flow = (int)d->c.host_port;
		w->d[d->flow] = d;
		if (w->script[d->flow].refused) {
			vsk_dialled(&w->v, &d->c, false);
			dev_end(w, d);
			break;
		}
		w->h[d->flow].open = true;
		d->c.tx_cnt = d->c.rx_cnt = d->c.fwd_cnt = w->start[d->flow];
		d->c.announced = (uint32_t)w->start[d->flow];
		vsk_dialled(&w->v, &d->c, true);
		break;
	case VSK_EV_CONNECTED:
		w->h[d->flow].open = true;
		break;
	case VSK_EV_END:
		CHECK(w, hf_ring_len(&d->ring) == 0);
		w->h[d->flow].peer_ended = true;
		break;
	case VSK_EV_DEAF:
		break;
	case VSK_EV_CLOSED:
		CHECK(w, w->disturbed || ev->why == VSK_WHY_CLEAN || ev->why == VSK_WHY_GUEST_RST);
		dev_end(w, d);
		break;
	}
}

static void dev_flush(struct world *w, struct dconn *d)
{
	struct hsock *h = &w->h[d->flow];
	struct vsk_ev ev;
	uint32_t n = HF_MIN((uint32_t)hf_ring_len(&d->ring), h->room);
	if (d->c.state != VSK_OPEN)
		return;
	if (h->closed && hf_ring_len(&d->ring) + hf_ring_len(&d->ends)) { /* EPIPE */
		drop_to_host(d);
		vsk_host_shutdown(&w->v, w->now, &d->c, VSK_SHUT_RCV, &ev);
		dev_event(w, &ev);
		return;
	}
	if (h->room == 0)
		return;
	if (hf_ring_len(&d->ends)) {
		n = host_receives_message(w, d);
		h->room -= HF_MIN(n, h->room);
		vsk_host_took(&w->v, w->now, &d->c, n, &ev);
		dev_event(w, &ev);
		return;
	}
	if (w->script[d->flow].messages || n == 0)
		return;
	host_receives(w, d->flow, &d->ring, n);
	h->room -= n;
	vsk_host_took(&w->v, w->now, &d->c, n, &ev);
	dev_event(w, &ev);
}

static void dev_tx(struct world *w)
{
	if (w->tx_head == w->tx_tail)
		return;
	struct txpkt *t = &w->tx[w->tx_head % TX_QUEUE];
	struct vsk_ev ev;
	struct vsk_pkt p;
	vsk_pkt_decode(t->hdr, &p);
	if (vsk_from_guest(&w->v, w->now, t->hdr, p.len, &ev) == -28)
		return;
	w->tx_head++;
	trace(w, '>', t->hdr);
	dev_event(w, &ev);
	if (ev.kind != VSK_EV_DATA)
		return;
	struct dconn *d = (struct dconn *)ev.conn;
	if (!d->ring.buf)
		hf_ring_init(&d->ring, malloc(w->buf_alloc), w->buf_alloc);
	for (uint32_t i = 0; i < ev.len; i++) {
		uint8_t b = byte_at(d->flow, false, t->off + i);
		CHECK(w, hf_ring_put(&d->ring, &b, 1) == 1); /* the engine keeps to buf_alloc */
	}
	CHECK(w, hf_ring_len(&d->ring) == vsk_unread(&d->c));
	d->part += ev.len;
	if (ev.flags & VSK_MSG_EOM) {
		put_end(&d->ends, d->part, ev.flags & VSK_MSG_EOR);
		d->part = 0;
	}
	if (rnd(w, 2))
		dev_flush(w, d);
}

/* At the end of what the host sent: has it ended? */
static void dev_host_end(struct world *w, struct dconn *d)
{
	struct hsock *h = &w->h[d->flow];
	struct vsk_ev ev;
	if (!h->shut && !h->closed) {
		vsk_host_idle(&w->v, &d->c);
		return;
	}
	if (h->closed) {
		drop_to_host(d);
		h->done = true;
	}
	vsk_host_shutdown(&w->v, w->now, &d->c, h->closed ? VSK_SHUT_BOTH : VSK_SHUT_SEND, &ev);
	dev_event(w, &ev);
}

static uint32_t dev_read(struct world *w, struct dconn *d, uint8_t *to, uint32_t max)
{
	struct hsock *h = &w->h[d->flow];
	uint32_t n = (uint32_t)hf_ring_get(&d->to_guest, to, max);
	uint32_t m = HF_MIN(h->queued, max - n);
	for (uint32_t i = 0; i < m; i++)
		to[n + i] = byte_at(d->flow, true, h->wrote - h->queued + i);
	h->queued -= m;
	return n + m;
}

/* Reads one message of the host into to_guest; false: there is none. */
static bool dev_read_message(
	struct world *w, struct dconn *d, struct hf_ring *to, struct hf_ring *ends)
{
	struct hsock *h = &w->h[d->flow];
	if (h->read_msg == h->wrote_msg)
		return false;
	uint32_t len = msg_len(w, d->flow, true, h->read_msg);
	if (!to->buf)
		hf_ring_init(to, malloc(HELD_MAX), HELD_MAX);
	for (uint32_t i = 0; i < len; i++) {
		uint8_t b = byte_at(d->flow, true, h->wrote - h->queued + i);
		CHECK(w, hf_ring_put(to, &b, 1) == 1);
	}
	put_end(ends, len, msg_flags(h->read_msg) & VSK_MSG_EOR);
	h->queued -= len;
	h->read_msg++;
	return true;
}

/* The next part of a message for the guest; false: there is none. */
static bool dev_send_part(struct world *w, struct dconn *d, uint32_t max, struct rxpkt *r)
{
	if (!hf_ring_len(&d->guest_ends) && !dev_read_message(w, d, &d->to_guest, &d->guest_ends))
		return false;
	uint32_t end = first_end(&d->guest_ends), left = end & ~VSK_END_EOR;
	uint32_t n = HF_MIN(left, max), flags = 0;
	CHECK(w, hf_ring_get(&d->to_guest, r->data, n) == n);
	if (n == left) {
		flags = VSK_MSG_EOM | (end & VSK_END_EOR ? VSK_MSG_EOR : 0);
		hf_ring_consumed(&d->guest_ends, VSK_END_BYTES);
	} else { /* the rest is a shorter message */
		uint32_t at = d->guest_ends.head & (ENDS_MAX - 1);
		le32_to(d->guest_ends.buf + at, end - n);
	}
	vsk_data(&w->v, &d->c, n, flags, r->hdr);
	return true;
}

/* Fills one rx buffer, if there is a packet for it. */
static void dev_rx(struct world *w)
{
	struct vsk_out out;
	while (w->rx_tail - w->rx_head < RX_BUFS) {
		struct rxpkt *r = &w->rx[w->rx_tail % RX_BUFS];
		bool wants = vsk_wants_guest(&w->v);
		enum vsk_send s = vsk_to_guest(&w->v, &out);
		CHECK(w, wants == (s != VSK_SEND_NOTHING));
		if (s == VSK_SEND_NOTHING)
			return;
		if (s == VSK_SEND_DATA) {
			struct dconn *d = (struct dconn *)out.conn;
			uint32_t max = HF_MIN(out.max, RX_PAYLOAD);
			bool messages = w->script[d->flow].messages;
			uint32_t n = messages ? 0 : dev_read(w, d, r->data, max);
			if (n) {
				vsk_data(&w->v, &d->c, n, 0, r->hdr);
			} else if (!messages || !dev_send_part(w, d, max, r)) {
				dev_host_end(w, d);
				continue;
			}
		} else {
			memcpy(r->hdr, out.hdr, sizeof(out.hdr));
		}
		w->rx_tail++;
		trace(w, '<', r->hdr);
		return;
	}
}

static void dev_timer(struct world *w)
{
	struct vsk_ev ev;
	if (vsk_deadline(&w->v) <= w->now)
		while (vsk_expire(&w->v, w->now, &ev))
			dev_event(w, &ev);
	if (w->v.event_pending) {
		vsk_event_placed(&w->v);
		w->event = true;
	}
}

/* ---- host application ---- */

static void host_app(struct world *w, int flow)
{
	struct hsock *h = &w->h[flow];
	const struct script *s = &w->script[flow];
	struct dconn *d = w->d[flow];
	if (!h->open || h->closed)
		return;
	if (h->room < HOST_QUEUE && rnd(w, 2))
		h->room += rnd(w, HOST_QUEUE - h->room + 1);
	bool deaf = d->c.guest_shut & VSK_SHUT_RCV;
	if (s->messages && h->wrote_msg < s->host_bytes && !deaf && !h->shut) {
		if (h->queued < HOST_QUEUE) {
			uint32_t n = msg_len(w, flow, true, h->wrote_msg++);
			h->wrote += n;
			h->queued += n;
		}
	} else if (!s->messages && h->wrote < s->host_bytes && !deaf && !h->shut) {
		uint32_t full = h->queued + (uint32_t)hf_ring_len(&d->to_guest);
		uint32_t n = full < HOST_QUEUE ? HOST_QUEUE - full : 0;
		n = HF_MIN(n, 1 + rnd(w, 2000));
		n = HF_MIN(n, (uint32_t)(s->host_bytes - h->wrote));
		h->wrote += n;
		h->queued += n;
	} else if (s->host_close == CLOSE_AT_ONCE || h->peer_ended) {
		h->closed = true;
	} else {
		h->shut = true;
	}
	if (deaf && h->closed && !h->done) { /* hung up, and nothing will be read */
		struct vsk_ev ev;
		h->done = true;
		drop_to_host(d);
		vsk_host_shutdown(&w->v, w->now, &d->c, VSK_SHUT_BOTH, &ev);
		dev_event(w, &ev);
		return;
	}
	vsk_host_readable(&w->v, &d->c);
	if (rnd(w, 2))
		dev_flush(w, d);
}

/* ---- save and load ---- */

static struct vsk_bytes bytes_of(const struct hf_ring *r, const struct hf_ring *ends)
{
	struct iovec iov[2] = { 0 }, e[2] = { 0 };
	hf_ring_read_iov(r, iov);
	hf_ring_read_iov(ends, e);
	return (struct vsk_bytes){ .p = { iov[0].iov_base, iov[1].iov_base },
		.n = { iov[0].iov_len, iov[1].iov_len },
		.ends_p = { e[0].iov_base, e[1].iov_base },
		.ends_n = { e[0].iov_len, e[1].iov_len } };
}

static void fill_rings(
	struct hf_ring *r, size_t cap, struct hf_ring *ends, const struct vsk_bytes *b)
{
	hf_ring_init(r, malloc(cap), cap);
	hf_ring_init(ends, malloc(ENDS_MAX), ENDS_MAX);
	if (hf_ring_put(r, b->p[0], b->n[0]) != b->n[0] ||
		hf_ring_put(ends, b->ends_p[0], b->ends_n[0]) != b->ends_n[0])
		abort();
}

/* What the host wrote and the device peeks at, a part of it, behind what the device holds. */
static void peek(struct world *w, struct dconn *d, struct hf_ring *to, struct hf_ring *ends)
{
	struct hsock *h = &w->h[d->flow];
	hf_ring_init(to, malloc(HELD_MAX), HELD_MAX);
	hf_ring_init(ends, malloc(ENDS_MAX), ENDS_MAX);
	if (d->c.state != VSK_OPEN || (d->c.host_shut & VSK_SHUT_SEND))
		return;
	static uint8_t tmp[HELD_MAX];
	hf_ring_put(to, tmp, hf_ring_get(&d->to_guest, tmp, sizeof(tmp)));
	hf_ring_put(ends, tmp, hf_ring_get(&d->guest_ends, tmp, sizeof(tmp)));
	uint32_t n = h->queued * (w->step % 3) / 2;
	if (w->script[d->flow].messages) {
		for (uint64_t k = w->step % 3; k && hf_ring_len(to) < HELD_MAX / 2; k--)
			(void)dev_read_message(w, d, to, ends);
		return;
	}
	hf_ring_put(to, tmp, dev_read(w, d, tmp, n));
}

/* Saves, with a part of what the host wrote peeked, and carries on with what was loaded: as after a
 * migration, or as the process that takes over. */
static void save_and_load(struct world *w)
{
	static uint8_t buf[1 << 22];
	size_t cap = vsk_save_size(&w->v) + SLOTS * (w->buf_alloc + HELD_MAX + 2 * ENDS_MAX), len;
	CHECK(w, cap <= sizeof(buf));
	struct hf_ring peeked[FLOWS], peeked_ends[FLOWS];
	struct vsk_save s;
	bool readable[FLOWS] = { 0 };
	bool takeover = w->step % 2;
	(takeover ? vsk_save_begin_takeover : vsk_save_begin)(&s, &w->v, buf, cap);
	for (struct vsk_conn *c = NULL; (c = vsk_next(&w->v, c));) {
		struct dconn *d = (struct dconn *)c;
		peek(w, d, &peeked[d->flow], &peeked_ends[d->flow]);
		readable[d->flow] = c->readable;
		struct vsk_bytes to_host = bytes_of(&d->ring, &d->ends);
		struct vsk_bytes to_guest = bytes_of(&peeked[d->flow], &peeked_ends[d->flow]);
		vsk_save_conn(&s, c, true, &to_host, &to_guest);
	}
	CHECK(w, vsk_save_end(&s, &len) == 0);

	struct dconn *old = w->slots;
	uint64_t hold = w->v.hold_until_us;
	const struct vsk_config cfg = { .guest_cid = CID, .buf_alloc = w->buf_alloc };
	w->slots = calloc(SLOTS, sizeof(*w->slots));
	CHECK(w, vsk_init(&w->v, &cfg, w->buckets, 8) == 0);
	vsk_give_slots(&w->v, w->slots, SLOTS, sizeof(*w->slots));
	struct vsk_load l;
	struct vsk_bytes h, t;
	CHECK(w, (takeover ? vsk_load_begin : vsk_load_takeover)(&l, &w->v, w->now, buf, len) ==
			 -EINVAL);
	CHECK(w, (takeover ? vsk_load_takeover : vsk_load_begin)(&l, &w->v, w->now, buf, len) == 0);
	CHECK(w, !takeover || !w->v.hold_until_us == !hold);
	w->v.hold_until_us = hold;
	int n = 0;
	for (struct vsk_conn *c; (c = vsk_load_next(&l, &h, &t)); n++) {
		struct dconn *d = (struct dconn *)c;
		for (d->flow = 0; d->flow < w->n_flows; d->flow++) {
			struct dconn *o = w->d[d->flow];
			if (o && o->c.host_port == c->host_port && o->c.guest_port == c->guest_port)
				break;
		}
		CHECK(w, d->flow < w->n_flows);
		struct dconn *o = w->d[d->flow];
		d->part = o->part;
		free_ring(&o->ring);
		free_ring(&o->to_guest);
		free_ring(&o->ends);
		free_ring(&o->guest_ends);
		w->d[d->flow] = d;
		fill_rings(&d->ring, w->buf_alloc, &d->ends, &h);
		fill_rings(&d->to_guest, HELD_MAX, &d->guest_ends, &t);
		free_ring(&peeked[d->flow]);
		free_ring(&peeked_ends[d->flow]);
		CHECK(w, !c->unclaimed || !takeover);
		if (c->unclaimed)
			CHECK(w, vsk_claim(&w->v, w->now, c) == 0);
		if (readable[d->flow] || t.n[0] || t.ends_n[0])
			vsk_host_readable(&w->v, c);
	}
	int live = 0;
	for (int i = 0; i < w->n_flows; i++)
		live += w->d[i] != NULL;
	CHECK(w, n == live);
	free(old);
}

/* ---- the world ---- */

static void world_init(struct world *w, uint64_t seed, int n_flows)
{
	*w = (struct world){
		.seed = seed, .rnd = seed * 0x9e3779b97f4a7c15u | 1, .n_flows = n_flows
	};
	w->buf_alloc = 4096u << rnd(w, 5);
	w->trace = 0xcbf29ce484222325u;
	const struct vsk_config cfg = {
		.guest_cid = CID, .buf_alloc = w->buf_alloc, .features = VSK_F_SEQPACKET
	};
	assert_int_equal(vsk_init(&w->v, &cfg, w->buckets, 8), 0);
	w->slots = calloc(SLOTS, sizeof(*w->slots));
	vsk_give_slots(&w->v, w->slots, SLOTS, sizeof(*w->slots));
	for (int i = 0; i < n_flows; i++) {
		static const uint32_t bufs[] = { 1, 100, 4096, 65536, 262144 };
		w->script[i] = (struct script){
			.host_opens = rnd(w, 2),
			.refused = rnd(w, 8) == 0,
			.guest_bytes = rnd(w, 4) ? rnd(w, 60000) : 0,
			.host_bytes = rnd(w, 4) ? rnd(w, 60000) : 0,
			.guest_buf = bufs[rnd(w, 5)],
			.guest_close = rnd(w, CLOSE_MODES),
			.host_close = rnd(w, CLOSE_MODES),
		};
		if (!w->script[i].host_opens && rnd(w, 2))
			w->start[i] = 0xffffffffu - rnd(w, 5000); /* counters wrap soon */
		if (w->script[i].guest_buf < 4096) {              /* byte by byte takes its time */
			w->script[i].guest_bytes /= 100;
			w->script[i].host_bytes /= 100;
		}
		w->script[i].messages = rnd(w, 2);
		if (w->script[i].messages) {
			w->script[i].guest_bytes = rnd(w, MSGS_MAX + 1);
			w->script[i].host_bytes = rnd(w, MSGS_MAX + 1);
		}
	}
}

static void open_flow(struct world *w, int flow)
{
	struct gsock *g = &w->g[flow];
	if (w->script[flow].host_opens) {
		struct vsk_conn *c;
		if (w->v.n_free == 0)
			return;
		CHECK(w, vsk_connect(&w->v, w->now, type_of(w, flow), 100 + (uint32_t)flow, &c) ==
				 0);
		w->d[flow] = (struct dconn *)c;
		w->d[flow]->flow = flow;
	} else {
		*g = (struct gsock){ .state = G_SYN,
			.port = 100 + (uint32_t)flow,
			.host_port = (uint32_t)flow,
			.buf = w->script[flow].guest_buf,
			.in_table = true };
		guest_sends(w, flow, VSK_OP_REQUEST, 0, 0);
	}
}

struct flow_start {
	bool opened[FLOWS];
};

static bool idle(const struct world *w, const struct flow_start *f)
{
	if (w->tx_head != w->tx_tail || w->rx_head != w->rx_tail || w->event ||
		vsk_wants_guest(&w->v) || w->v.n_conns)
		return false;
	for (int i = 0; i < w->n_flows; i++)
		if (!f->opened[i] || w->d[i] ||
			(w->g[i].state != G_NONE && w->g[i].state != G_GONE))
			return false;
	return true;
}

static void step(struct world *w, struct flow_start *f)
{
	int flow = (int)rnd(w, (uint32_t)w->n_flows);
	w->now += rnd(w, 3);
	switch (rnd(w, 9)) {
	case 0:
		if (!f->opened[flow]) {
			f->opened[flow] = true;
			open_flow(w, flow);
		}
		break;
	case 1:
	case 2:
		guest_app(w, flow);
		break;
	case 3:
		dev_tx(w);
		break;
	case 4:
		dev_rx(w);
		break;
	case 5:
		if (w->rx_head != w->rx_tail)
			guest_receives(w, &w->rx[w->rx_head++ % RX_BUFS]);
		break;
	case 6:
		host_app(w, flow);
		break;
	case 7:
		if (w->d[flow])
			dev_flush(w, w->d[flow]);
		break;
	case 8:
		dev_timer(w);
		if (w->event)
			guest_event(w);
		break;
	}
	if (w->disturbed && rnd(w, 50) == 0) /* what was cut off ends by time-out */
		w->now += 100000;
}

/* What each application was promised, when nothing was disturbed. */
static void check_promises(struct world *w)
{
	for (int i = 0; i < w->n_flows; i++) {
		const struct script *s = &w->script[i];
		const struct gsock *g = &w->g[i];
		const struct hsock *h = &w->h[i];
		if (s->refused) {
			CHECK(w, h->got == 0 && g->rx == 0);
			continue;
		}
		CHECK(w, h->peer_ended);
		if (s->host_close == HALF_THEN_CLOSE) {
			CHECK(w, !guest_has_more(w, i));
			CHECK(w, h->got == g->tx && h->got_msg == g->tx_at.msg);
		}
		if (s->guest_close == HALF_THEN_CLOSE) {
			CHECK(w, (s->messages ? h->wrote_msg : h->wrote) == s->host_bytes);
			CHECK(w, g->rx == h->wrote && g->rx_at.msg == h->wrote_msg);
		}
	}
}

enum disturbance { NOTHING, GUEST_RST, HOST_RESET, DRIVER_RESET, TRANSPORT_RESET, DISTURBANCES };

static void disturb(struct world *w, enum disturbance what, int flow)
{
	struct vsk_ev ev;
	w->disturbed = true;
	switch (what) {
	case GUEST_RST:
		if (w->g[flow].state != G_NONE && w->g[flow].state != G_GONE) {
			guest_sends(w, flow, VSK_OP_RST, 0, 0);
			guest_gone(w, flow);
		}
		break;
	case HOST_RESET:
		if (w->d[flow]) {
			vsk_host_reset(&w->v, &w->d[flow]->c);
			dev_end(w, w->d[flow]);
		}
		break;
	case DRIVER_RESET:
		while (vsk_drop(&w->v, false, &ev))
			dev_event(w, &ev);
		vsk_clear(&w->v);
		CHECK(w, w->v.n_conns == 0 && w->v.n_free == SLOTS && !vsk_wants_guest(&w->v));
		for (int i = 0; i < w->n_flows; i++)
			guest_gone(w, i);
		w->tx_head = w->tx_tail;
		w->rx_head = w->rx_tail;
		break;
	case TRANSPORT_RESET:
		while (vsk_drop(&w->v, true, &ev))
			dev_event(w, &ev);
		vsk_transport_reset(&w->v, w->now, true);
		break;
	default:
		break;
	}
}

static void run(struct world *w, enum disturbance what, unsigned long when)
{
	struct flow_start f = { 0 };
	for (w->step = 0; !idle(w, &f); w->step++) {
		CHECK(w, w->step < STEPS_MAX); /* else somebody waits for ever */
		if (w->save_each_step)
			save_and_load(w);
		if (what != NOTHING && w->step == when)
			disturb(w, what, (int)(when % (unsigned)w->n_flows));
		step(w, &f);
		/* A guest gives up a connect after two seconds and a close after eight. */
		for (int i = 0; w->disturbed && i < w->n_flows; i++)
			if (w->g[i].state == G_SYN && rnd(w, 20000) == 0)
				guest_gone(w, i);
	}
	CHECK(w, w->v.n_free == SLOTS);
	if (!w->disturbed)
		check_promises(w);
	free(w->slots);
}

static struct world w, w2; /* large */

static void test_random_traffic(void **state)
{
	(void)state;
	unsigned long packets = 0;
	for (uint64_t seed = 1; seed <= 200; seed++) {
		world_init(&w, seed, FLOWS);
		run(&w, NOTHING, 0);
		packets += w.packets;
	}
	print_message("%lu packets\n", packets);
}

static void test_saved_and_loaded_at_every_step(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 20; seed++) {
		world_init(&w, seed, FLOWS);
		w.save_each_step = true;
		run(&w, NOTHING, 0);
	}
}

/* With one connection nothing depends on turns: packet for packet the same as never saved. */
static void test_saving_leaves_no_trace(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 40; seed++) {
		world_init(&w, seed, 1);
		world_init(&w2, seed, 1);
		w2.save_each_step = true;
		run(&w, NOTHING, 0);
		run(&w2, NOTHING, 0);
		if (w.packets != w2.packets || w.trace != w2.trace)
			fail_msg("seed %llu: %lu packets, %lu when saved", (unsigned long long)seed,
				w.packets, w2.packets);
	}
}

static void test_resets_at_every_point(void **state)
{
	(void)state;
	for (int what = GUEST_RST; what < DISTURBANCES; what++)
		for (unsigned long when = 0; when < 400; when++) {
			world_init(&w, 1000 + when % 7, 4);
			for (int i = 0; i < 4; i++) {
				w.script[i].guest_bytes /= 8;
				w.script[i].host_bytes /= 8;
			}
			run(&w, (enum disturbance)what, when * 3);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_traffic),
		cmocka_unit_test(test_saved_and_loaded_at_every_step),
		cmocka_unit_test(test_saving_leaves_no_trace),
		cmocka_unit_test(test_resets_at_every_point),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
