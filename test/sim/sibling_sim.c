/* SPDX-License-Identifier: MIT */
/*
 * sibling_sim.c - two guests that talk to each other through the device's own code.
 *
 * Two VMs of one holdfastd, without a descriptor: their memory, rings and connections are real, and
 * so is everything of src/device that moves a packet from one ring to the other; only front ends
 * and host sockets are left out. The world is deterministic: one seed decides who acts next and how
 * much. Guests are models of Linux's sockets with a script each, streams or messages, either one
 * connecting. Every byte has a value that its place foretells.
 *
 * What is checked at each packet: a sender never sees room that the receiver has not announced
 * (D4.2), a receiver never gets more than it has room for, nothing comes after the end, messages
 * keep their ends (D6.2). A world is over when nobody has anything left to do; then everything that
 * was promised must have arrived, and every slot must be free. A world that does not end has
 * stalled.
 */
#include "../lib/driver.h"
#include "../lib/unit.h"
#include "base/log.h"
#include "device/vm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLOWS      5
#define RX_SIZE    16u
#define RX_SLOT    4160u
#define TX_SIZE    32u
#define TX_SLOT    (VSK_PAYLOAD_MAX + 64u)
#define RING_BYTES 4096u
#define MEM_BYTES  (2 * RING_BYTES + RX_SIZE * RX_SLOT + TX_SIZE * TX_SLOT)
#define UPDATE_AT  65536u /* Linux tells of room when less than this of what it has told is left */
#define MSGS_MAX   20
#define STEPS_MAX  1000000
#define PORT       100u

enum state { NONE, SYN, OPEN, CLOSING, GONE };

/* One end of a flow: a guest's socket. What it sends is direction `side`. */
struct sock {
	enum state state;
	uint64_t tx, rx, read;
	uint32_t tx_msg, tx_off, rx_msg, rx_off, read_msg;
	uint32_t buf, peer_buf, peer_fwd, told_fwd;
	uint64_t edge; /* the most that it has ever announced: fwd_cnt + buf_alloc */
	uint8_t shut, peer_shut;
	bool reset;
};

struct script {
	int opener;
	bool messages, refused, half[2];
	bool waits[2];      /* reads only when its buffer is full (SO_RCVLOWAT), or at the end */
	uint32_t amount[2]; /* bytes, or messages */
	uint32_t buf[2];
};

struct guest {
	struct dev_vm *vm;
	uint8_t *mem;
	struct drv rx, tx;
	uint32_t rx_bytes;
	struct sock sock[FLOWS];
};

static struct world {
	uint64_t seed, rnd;
	unsigned long step, packets;
	struct dev_daemon d;
	struct guest g[2];
	struct script script[FLOWS];
	uint32_t msg[FLOWS][2][MSGS_MAX]; /* lengths */
	unsigned long refused;            /* messages, by the sender's socket */
	bool opened[FLOWS], disturbed;
} w;

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail_msg("seed %llu step %lu: line %d: %s", (unsigned long long)w.seed,    \
				w.step, __LINE__, #cond);                                          \
	} while (0)

static uint32_t rnd(uint32_t n)
{
	w.rnd ^= w.rnd << 13;
	w.rnd ^= w.rnd >> 7;
	w.rnd ^= w.rnd << 17;
	return n ? (uint32_t)((w.rnd >> 20) % n) : 0;
}

static uint8_t byte_at(int flow, int side, uint64_t off)
{
	return (uint8_t)(off * 31 + off / 256 * 7 + (uint64_t)flow * 101 + (side ? 57 : 0));
}

/* Both ends' buffers hold each message (D6.3, D4.9); the device in between perhaps not. */
static uint32_t first_len(int flow, int side, uint32_t msg)
{
	static const uint32_t kinds[] = { 0, 100, 3000, UINT32_MAX };
	const struct script *s = &w.script[flow];
	uint32_t h = (msg * 2654435761u) ^ ((uint32_t)flow * 40503u) ^ (side ? 0x5bd1e995u : 0);
	uint32_t most = HF_MIN(s->buf[0], s->buf[1]);
	h ^= h >> 15;
	return h / 4 % (HF_MIN(most, kinds[h % 4]) + 1);
}

static uint32_t msg_len(int flow, int side, uint32_t msg)
{
	return msg < MSGS_MAX ? w.msg[flow][side][msg] : 0;
}

/* EMSGSIZE: virtio_transport_seqpacket_enqueue(). Its application sends a shorter one instead. */
static void refuse_long(int flow, int side, const struct sock *s)
{
	uint32_t *len = &w.msg[flow][side][s->tx_msg], most = HF_MIN(s->peer_buf, s->buf);
	w.refused += *len > most;
	*len = HF_MIN(*len, most);
}

static uint32_t msg_flags(uint32_t msg)
{
	return VSK_MSG_EOM | (msg % 3 ? 0 : VSK_MSG_EOR);
}

/* ---- a guest's rings ---- */

static uint64_t rx_at(uint32_t slot)
{
	return 2 * RING_BYTES + slot * RX_SLOT;
}

static uint64_t tx_at(uint32_t slot)
{
	return 2 * RING_BYTES + RX_SIZE * RX_SLOT + slot * TX_SLOT;
}

static void kick(struct guest *g, unsigned queue)
{
	g->vm->q[queue].ready = true;
}

static void fill_rx(struct guest *g)
{
	for (;;) {
		struct drv_buf b = { rx_at(g->rx.free_head), g->rx_bytes, true };
		if (g->rx.n_free == 0 || drv_add(&g->rx, &b, 1) < 0)
			break;
	}
	if (drv_publish(&g->rx))
		kick(g, DEV_RX);
}

static void start_queue(struct guest *g, unsigned i, struct drv *d, uint16_t size)
{
	struct vq *vq = &g->vm->q[i].vq;
	uint64_t at = (uintptr_t)g->mem + i * RING_BYTES;
	drv_init(d, g->mem + i * RING_BYTES, i * RING_BYTES, size, true);
	CHECK(drv_bytes(size) <= RING_BYTES);
	const struct vq_addr addr = {
		.desc = at, .avail = at + drv_avail_offset(size), .used = at + drv_used_offset(size)
	};
	vq_stop(vq);
	CHECK(vq_set_size(vq, size) == 0 && vq_set_base(vq, 0) == 0);
	CHECK(vq_set_addr(vq, &addr) == 0 && vq_start(vq, VQ_START_EVENT_IDX) == 0);
	kick(g, i);
}

static void start_rings(struct guest *g)
{
	start_queue(g, DEV_RX, &g->rx, RX_SIZE);
	start_queue(g, DEV_TX, &g->tx, TX_SIZE);
	g->vm->running = true;
	fill_rx(g);
}

static bool can_send(struct guest *g)
{
	uint16_t head;
	uint32_t len;
	while (drv_take(&g->tx, &head, &len)) {
	}
	return g->tx.n_free > 0;
}

static uint32_t cid_of(int side)
{
	return 10 + (uint32_t)side;
}

/* One packet of a socket; the caller has asked can_send(). */
static void sends(int side, int flow, uint16_t op, uint32_t len, uint32_t flags)
{
	struct guest *g = &w.g[side];
	struct sock *s = &g->sock[flow];
	const struct vsk_pkt p = { cid_of(side), cid_of(!side), PORT + (uint32_t)flow,
		PORT + (uint32_t)flow, len,
		w.script[flow].messages ? VSK_TYPE_SEQPACKET : VSK_TYPE_STREAM, op, flags, s->buf,
		(uint32_t)s->read };
	uint64_t at = tx_at(g->tx.free_head);
	vsk_pkt_encode(&p, g->mem + at);
	for (uint32_t i = 0; i < len; i++)
		g->mem[at + VSK_HDR_BYTES + i] = byte_at(flow, side, s->tx + i);
	struct drv_buf b = { at, VSK_HDR_BYTES + len, false };
	CHECK(drv_add(&g->tx, &b, 1) >= 0);
	if (drv_publish(&g->tx))
		kick(g, DEV_TX);
	s->told_fwd = p.fwd_cnt;
	s->edge = HF_MAX(s->edge, s->read + s->buf);
	s->tx += len;
	w.packets++;
}

/* ---- a guest's sockets ---- */

/* D4.9: Linux limits what it has in flight to its own buffer as well. */
static uint32_t room(const struct sock *s)
{
	uint32_t used = (uint32_t)s->tx - s->peer_fwd, all = HF_MIN(s->peer_buf, s->buf);
	return used < all ? HF_MIN(all - used, VSK_PAYLOAD_MAX) : 0;
}

static bool has_more(int side, int flow)
{
	const struct sock *s = &w.g[side].sock[flow];
	uint32_t all = w.script[flow].amount[side];
	return w.script[flow].messages ? s->tx_msg < all : s->tx < all;
}

static void send_data(int side, int flow)
{
	struct sock *s = &w.g[side].sock[flow];
	bool messages = w.script[flow].messages;
	if (messages && s->tx_off == 0)
		refuse_long(flow, side, s);
	uint32_t left = messages ? msg_len(flow, side, s->tx_msg) - s->tx_off
				 : w.script[flow].amount[side] - (uint32_t)s->tx;
	uint32_t n = HF_MIN(room(s), left);
	n = rnd(3) ? n : HF_MIN(n, 1 + rnd(300));
	if (n == 0 && (left > 0 || !messages))
		return;
	bool last = messages && n == left;
	sends(side, flow, VSK_OP_RW, n, last ? msg_flags(s->tx_msg) : 0);
	s->tx_off = last ? 0 : s->tx_off + n;
	s->tx_msg += last;
}

static void close_socket(int side, int flow)
{
	struct sock *s = &w.g[side].sock[flow];
	if (s->peer_shut == VSK_SHUT_BOTH) {
		sends(side, flow, VSK_OP_RST, 0, 0);
		s->state = GONE;
		return;
	}
	sends(side, flow, VSK_OP_SHUTDOWN, 0, VSK_SHUT_BOTH);
	s->shut = VSK_SHUT_BOTH;
	s->state = CLOSING;
}

/* How much must be there before the application reads. */
static uint64_t low_water(int side, int flow)
{
	const struct script *s = &w.script[flow];
	const struct sock *k = &w.g[side].sock[flow];
	uint64_t left = s->amount[!side] - k->read;
	if (!s->waits[side] || s->messages || k->peer_shut)
		return 1;
	uint64_t full = HF_MIN(s->buf[0], s->buf[1]);
	return HF_MIN(left, full);
}

/* The application reads something; false: there is nothing, or it does not want to. */
static bool reads(int side, int flow)
{
	struct sock *s = &w.g[side].sock[flow];
	uint64_t before = s->read, low = low_water(side, flow);
	if (rnd(2))
		return false;
	if (w.script[flow].messages && s->read_msg < s->rx_msg)
		s->read += msg_len(flow, !side, s->read_msg++);
	else if (!w.script[flow].messages && s->rx > s->read && s->rx - s->read >= low)
		s->read += 1 + rnd((uint32_t)(s->rx - s->read));
	else
		return false;
	/* virtio_transport_stream_do_dequeue(): little room is left, or nothing more is there */
	uint32_t untold = (uint32_t)s->read - s->told_fwd;
	bool dry = s->rx - s->read < low || w.script[flow].messages;
	if (s->read > before && untold > 0 && !(s->peer_shut & VSK_SHUT_SEND) &&
		(s->buf - HF_MIN(untold, s->buf) < UPDATE_AT || dry))
		sends(side, flow, VSK_OP_CREDIT_UPDATE, 0, 0);
	return true;
}

static void acts(int side, int flow)
{
	struct guest *g = &w.g[side];
	struct sock *s = &g->sock[flow];
	const struct script *sc = &w.script[flow];
	if (s->state != OPEN || !can_send(g) || reads(side, flow) || !can_send(g))
		return;
	bool all_read = s->rx == s->read && s->read_msg == s->rx_msg;
	bool ended = all_read && (s->peer_shut & VSK_SHUT_SEND);
	if (rnd(400) == 0) /* SO_VM_SOCKETS_BUFFER_SIZE; never below a message */
		s->buf = sc->buf[side] + rnd(2) * 5000;
	if (has_more(side, flow) && !(s->peer_shut & VSK_SHUT_RCV) && !s->shut)
		send_data(side, flow);
	else if (!sc->half[side] || ended)
		close_socket(side, flow);
	else if (!s->shut) {
		sends(side, flow, VSK_OP_SHUTDOWN, 0, VSK_SHUT_SEND);
		s->shut = VSK_SHUT_SEND;
	}
}

/* An answer from no socket: virtio_transport_reset_no_sock(). */
static void refuse(int side, const struct vsk_pkt *in)
{
	if (in->op != VSK_OP_RST)
		sends(side, (int)(in->dst_port - PORT), VSK_OP_RST, 0, 0);
}

static void receives_data(int side, int flow, const struct vsk_pkt *p, const uint8_t *data)
{
	struct sock *s = &w.g[side].sock[flow];
	CHECK(!(s->peer_shut & VSK_SHUT_SEND));
	for (uint32_t i = 0; i < p->len; i++)
		CHECK(data[i] == byte_at(flow, !side, s->rx + i));
	s->rx += p->len;
	CHECK(s->rx <= s->edge); /* D4.2 */
	if (!w.script[flow].messages) {
		CHECK(p->len > 0 && p->flags == 0);
		return;
	}
	uint32_t len = msg_len(flow, !side, s->rx_msg);
	s->rx_off += p->len;
	CHECK(s->rx_off <= len && (p->flags != 0) <= (s->rx_off == len));
	CHECK(p->flags == 0 || p->flags == msg_flags(s->rx_msg));
	CHECK(p->len > 0 || p->flags);
	if (p->flags) {
		s->rx_off = 0;
		s->rx_msg++;
	}
}

static void receives(int side, const struct vsk_pkt *p, const uint8_t *data)
{
	int flow = (int)p->dst_port - (int)PORT;
	CHECK(flow >= 0 && flow < FLOWS && p->src_port == p->dst_port);
	CHECK(p->src_cid == cid_of(!side) && p->dst_cid == cid_of(side));
	struct sock *s = &w.g[side].sock[flow];
	const struct sock *far = &w.g[!side].sock[flow];
	if (p->op == VSK_OP_REQUEST && s->state == NONE && !w.script[flow].refused) {
		*s = (struct sock){ .state = OPEN, .buf = w.script[flow].buf[side] };
		sends(side, flow, VSK_OP_RESPONSE, 0, 0);
	} else if (s->state == NONE || s->state == GONE) {
		refuse(side, p);
		return;
	}
	if (p->op != VSK_OP_RST) {
		/* Nothing is sent any more, or everything is taken. */
		bool deaf = s->shut || far->state == GONE || (far->shut & VSK_SHUT_RCV);
		CHECK((uint32_t)s->tx - p->fwd_cnt <= s->tx);
		/* Of messages, what lies in the other guest's memory may count as taken. */
		CHECK(deaf || w.script[flow].messages || p->fwd_cnt <= far->read);
		CHECK(deaf || (uint64_t)p->fwd_cnt + p->buf_alloc <= far->edge); /* it is there */
		s->peer_buf = p->buf_alloc;
		s->peer_fwd = p->fwd_cnt;
	}
	switch (p->op) {
	case VSK_OP_RESPONSE:
		CHECK(s->state == SYN);
		s->state = OPEN;
		break;
	case VSK_OP_RW:
		if (s->state == OPEN)
			receives_data(side, flow, p, data);
		break;
	case VSK_OP_CREDIT_REQUEST:
		sends(side, flow, VSK_OP_CREDIT_UPDATE, 0, 0);
		break;
	case VSK_OP_SHUTDOWN:
		s->peer_shut |= p->flags & VSK_SHUT_BOTH;
		break;
	case VSK_OP_RST:
		s->reset = s->state == OPEN;
		s->state = GONE;
		break;
	}
}

/* Takes one packet off the rx ring, unless its answer would find no room. */
static void takes_packet(int side)
{
	struct guest *g = &w.g[side];
	struct vsk_pkt p;
	uint16_t head;
	uint32_t len;
	if (!can_send(g) || !drv_take(&g->rx, &head, &len))
		return;
	vsk_pkt_decode(g->mem + rx_at(head), &p);
	CHECK(len == VSK_HDR_BYTES + p.len && len <= g->rx_bytes);
	receives(side, &p, g->mem + rx_at(head) + VSK_HDR_BYTES);
	if (rnd(3) == 0)
		fill_rx(g);
}

/* ---- the world ---- */

static void vm_init(int side, struct dev_vm_options *opt)
{
	static struct vsk_conn *buckets[2][64];
	struct guest *g = &w.g[side];
	struct dev_vm *vm = calloc(1, sizeof(*vm));
	*opt = (struct dev_vm_options){ .guest_cid = cid_of(side),
		.guard = dev_guard_default(),
		.groups = { "x" },
		.name = { (char)('a' + side) } };
	vm->daemon = &w.d;
	vm->loop = &w.d.loop;
	vm->opt = opt;
	vm->index = (uint8_t)side;
	vm->front = vm->backend = vm->transfer.fd = vm->front_listen = INT32_MAX; /* never used */
	for (int i = 0; i < DEV_QUEUES; i++) {
		vq_init(&vm->q[i].vq, &vm->mem);
		vm->q[i].kick = vm->q[i].call = -1;
	}
	for (int i = 0; i < DEV_HELLOS_MAX; i++)
		vm->hello[i].fd = -1;
	hf_list_init(&vm->dials);
	dev_limits_init(vm);
	const struct vsk_config cfg = { .guest_cid = cid_of(side),
		.buf_alloc = 4096u << rnd(7),
		.features = VSK_F_SEQPACKET,
		.siblings = true };
	CHECK(vsk_init(&vm->vsk, &cfg, buckets[side], 64) == 0);
	const struct vq_region r = {
		.size = MEM_BYTES, .uaddr = (uintptr_t)g->mem, .host = g->mem
	};
	CHECK(vq_mem_add(&vm->mem, &r) == 0);
	g->vm = w.d.vm[side] = vm;
	g->rx_bytes = VSK_HDR_BYTES + (rnd(3) ? 4096 : 1 + rnd(4096));
	start_rings(g);
}

static void flow_init(struct script *s)
{
	static const uint32_t bufs[] = { 1, 100, 4096, 65536, 262144 };
	*s = (struct script){ .opener = (int)rnd(2), .messages = rnd(2), .refused = rnd(8) == 0 };
	uint32_t least = UINT32_MAX;
	for (int i = 0; i < 2; i++) {
		s->buf[i] = bufs[rnd(5)];
		least = HF_MIN(least, s->buf[i]);
		s->half[i] = rnd(2);
		s->waits[i] = rnd(2);
	}
	for (int i = 0; i < 2; i++) /* byte by byte takes its time */
		s->amount[i] = s->messages ? rnd(MSGS_MAX) : rnd(least < 4096 ? 300 : 200000);
}

static void world_init(uint64_t seed)
{
	static uint8_t *mem[2];
	static struct dev_vm_options opt[2];
	w = (struct world){ .seed = seed, .rnd = seed * 0x9e3779b97f4a7c15u | 1, .d.n_vms = 2 };
	w.d.loop.now_us = 1;
	for (int i = 0; i < 2; i++) {
		if (!mem[i])
			mem[i] = aligned_alloc(4096, (MEM_BYTES + 4095) / 4096 * 4096);
		w.g[i].mem = mem[i];
		vm_init(i, &opt[i]);
	}
	for (int i = 0; i < FLOWS; i++)
		flow_init(&w.script[i]);
	for (uint32_t i = 0; i < FLOWS * 2 * MSGS_MAX; i++) {
		int flow = (int)(i / 2 / MSGS_MAX), side = i / MSGS_MAX % 2;
		w.msg[flow][side][i % MSGS_MAX] = first_len(flow, side, i % MSGS_MAX);
	}
}

static void world_free(void)
{
	for (int i = 0; i < 2; i++) {
		struct dev_vm *vm = w.g[i].vm;
		CHECK(vm->vsk.n_conns == 0 && vm->vsk.n_free == vm->vsk.n_slots);
		for (size_t k = 0; k < vm->n_chunks; k++)
			free(vm->chunk[k]);
		if (vm->buckets)
			free(vm->buckets);
		free(vm);
	}
}

static void open_flow(int flow)
{
	int side = w.script[flow].opener;
	if (w.opened[flow] || !can_send(&w.g[side]))
		return;
	w.opened[flow] = true;
	w.g[side].sock[flow] = (struct sock){ .state = SYN, .buf = w.script[flow].buf[side] };
	sends(side, flow, VSK_OP_REQUEST, 0, 0);
}

static bool idle(void)
{
	for (int i = 0; i < 2; i++) {
		struct guest *g = &w.g[i];
		if (g->vm->vsk.n_conns || vsk_wants_guest(&g->vm->vsk) || !g->vm->running ||
			drv_used_idx(&g->rx) != g->rx.used_seen ||
			vq_base(&g->vm->q[DEV_TX].vq) != g->tx.published)
			return false;
		for (int k = 0; k < FLOWS; k++)
			if (!w.opened[k] || (g->sock[k].state != NONE && g->sock[k].state != GONE))
				return false;
	}
	return true;
}

static void step(void)
{
	int side = (int)rnd(2), flow = (int)rnd(FLOWS);
	w.d.loop.now_us += rnd(3);
	switch (rnd(7)) {
	case 0:
		open_flow(flow);
		break;
	case 1:
	case 2:
		acts(side, flow);
		break;
	case 3:
	case 4:
		takes_packet(side);
		break;
	case 5:
		if (rnd(4) == 0)
			fill_rx(&w.g[side]);
		break;
	case 6:
		(void)dev_vm_turn(w.g[side].vm);
		break;
	}
}

/* What each application was promised, when nothing was disturbed. */
static void check_promises(void)
{
	for (int flow = 0; flow < FLOWS; flow++)
		for (int side = 0; side < 2; side++) {
			const struct script *sc = &w.script[flow];
			const struct sock *from = &w.g[side].sock[flow];
			const struct sock *to = &w.g[!side].sock[flow];
			if (sc->refused) {
				CHECK(from->rx == 0 && from->tx == 0);
			} else if (sc->half[!side]) { /* it waits for the end */
				CHECK(!has_more(side, flow) || !sc->half[side]);
				CHECK(to->rx == from->tx && to->rx_msg == from->tx_msg);
			}
		}
}

enum disturbance { NOTHING, GUEST_RST, DEVICE_RESET, DRIVER_RESET, PAUSE, DISTURBANCES };

static void disturb(enum disturbance what, int side, int flow)
{
	struct guest *g = &w.g[side];
	struct sock *s = &g->sock[flow];
	struct vsk_conn *c =
		vsk_find(&g->vm->vsk, cid_of(!side), PORT + (uint32_t)flow, PORT + (uint32_t)flow);
	w.disturbed = true;
	if (what == GUEST_RST && s->state != NONE && s->state != GONE && can_send(g)) {
		sends(side, flow, VSK_OP_RST, 0, 0);
		s->state = GONE;
	} else if (what == DEVICE_RESET && c && c->state != VSK_CLOSED) {
		dev_conn_failed(g->vm, dev_conn_of(c), -1);
	} else if (what == DRIVER_RESET) {
		dev_vm_drop_all(g->vm);
		for (int i = 0; i < FLOWS; i++)
			if (s[i - flow].state != NONE)
				s[i - flow].state = GONE;
		start_rings(g);
	} else if (what == PAUSE) {
		g->vm->running = false;
	}
}

static void run(enum disturbance what, unsigned long when)
{
	for (w.step = 0; !idle(); w.step++) {
		CHECK(w.step < STEPS_MAX); /* else somebody waits for ever */
		if (what != NOTHING && w.step == when)
			disturb(what, (int)(when % 2), (int)(when % FLOWS));
		if (what == PAUSE && w.step == when + 500)
			for (int i = 0; i < 2; i++)
				w.g[i].vm->running = true;
		step();
		if (!w.disturbed || rnd(50))
			continue;
		w.d.loop.now_us += 100000; /* what was cut off ends by time-out */
		for (int i = 0; i < 2; i++)
			for (int k = 0; k < FLOWS; k++)
				if (w.g[i].sock[k].state == SYN && rnd(400) == 0)
					w.g[i].sock[k].state = GONE;
	}
	if (!w.disturbed)
		check_promises();
	world_free();
}

static void test_random_traffic(void **state)
{
	(void)state;
	unsigned long packets = 0, refused = 0;
	for (uint64_t seed = 1; seed <= 1000; seed++) {
		world_init(seed);
		run(NOTHING, 0);
		packets += w.packets;
		refused += w.refused;
	}
	print_message("%lu packets, %lu messages too long\n", packets, refused);
	assert_true(refused > 0);
}

static void test_disturbed_at_every_point(void **state)
{
	(void)state;
	for (int what = GUEST_RST; what < DISTURBANCES; what++)
		for (unsigned long when = 0; when < 400; when++) {
			world_init(1000 + when % 7);
			for (int i = 0; i < FLOWS; i++)
				for (int k = 0; k < 2; k++)
					w.script[i].amount[k] /= w.script[i].messages ? 2 : 8;
			run((enum disturbance)what, when * 3);
		}
}

/* D4.8: what a device of this size can hold is taken from a sender that does not care for credit;
 * one byte more ends the connection, for both. */
static void test_credit_at_its_limit(void **state)
{
	(void)state;
	for (uint32_t over = 0; over < 2; over++) {
		world_init(3);
		w.script[0] = (struct script){ .buf = { 65536, 1000 }, .half = { true, true } };
		w.opened[0] = false;
		open_flow(0);
		struct sock *from = &w.g[0].sock[0], *to = &w.g[1].sock[0];
		while (from->state != OPEN) {
			(void)dev_vm_turn(w.g[0].vm);
			(void)dev_vm_turn(w.g[1].vm);
			takes_packet(0);
			takes_packet(1);
		}
		CHECK(room(from) == 1000);
		uint32_t held = w.g[0].vm->vsk.cfg.buf_alloc + over;
		for (uint32_t n = 1000; held + 1000 > from->tx;
			n = HF_MIN(60000u, held + 1000 - (uint32_t)from->tx)) {
			CHECK(can_send(&w.g[0]));
			sends(0, 0, VSK_OP_RW, n, 0);
			for (int i = 0; i < 6; i++) {
				(void)dev_vm_turn(w.g[i % 2].vm);
				takes_packet(i % 2); /* nobody reads */
				fill_rx(&w.g[i % 2]);
			}
		}
		CHECK((from->state == GONE) == (over == 1));
		CHECK(to->rx <= 1000);
		dev_vm_drop_all(w.g[0].vm);
		dev_vm_drop_all(w.g[1].vm);
		world_free();
	}
}

int main(void)
{
	hf_log_setup("sim", 2, HF_LOG_ERROR, HF_LOG_TEXT);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_traffic),
		cmocka_unit_test(test_disturbed_at_every_point),
		cmocka_unit_test(test_credit_at_its_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
