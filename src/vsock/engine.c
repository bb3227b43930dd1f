/* SPDX-License-Identifier: MIT */
/*
 * engine.c - connections, credit and control packets of one device. vsock.h tells how to use it.
 *
 * Where a connection is
 *   hash      from its birth until it is closed, and on until its RST was sent (D5.7): packets of
 *             a guest that has not seen the RST yet are dropped instead of answered one by one.
 *   life[x]   while it is not closed. Every list has one constant delay, so appending keeps it
 *             sorted by deadline: timers cost O(1).
 *   ctl       while control packets wait. These are bits, so what waits is bounded by the number of
 *             connections. RSTs stand in front: a hold does not stop them (D7.8).
 *   data      while it may send payload now: open, the host socket has something, there is credit.
 *             Connections take turns: who has sent goes to the end.
 *   free      otherwise: the device has released it, and no RST waits.
 *
 * Control packets go before payload, so RESPONSE precedes data; SHUTDOWN follows it because the
 * end of the host's data is reported after the last byte was sent (D5.5).
 *
 * Credit. What the guest may send is bounded by bytes that the host has not taken (rx_cnt - fwd_cnt
 * <= buf_alloc), whatever was announced. Counters are 64 bits wide; the wire has the low 32. A new
 * stream beside some others is told of VSK_WINDOW_FIRST only: many that send at once stay within
 * the cache then. One that sends while few others do is told of all. What was told is not taken
 * back, since Linux counts that wrong; and a message may need all from the start.
 */
#include "vsock/vsock_internal.h"
#include <errno.h>

#define PORT_TRIES  64    /* host ports tried for one vsk_connect() */
#define CROWD       4     /* so many may send at once with all of their windows */
#define SEGMENT_MIN 1024u /* D4.10: less credit than this is not worth a packet */

static const char *const state_names[] = { "free", "dialling", "asking", "open", "closed" };
_Static_assert(HF_ARRAY_SIZE(state_names) == VSK_STATE_N_, "a name per state");

static const char *const why_names[] = { "clean", "reset by the guest", "timeout",
	"protocol error of the guest", "guest exceeded its credit", "not claimed", "device reset" };
_Static_assert(HF_ARRAY_SIZE(why_names) == VSK_WHY_N_, "a name per reason");

const char *vsk_state_name(enum vsk_state s)
{
	return s < VSK_STATE_N_ ? state_names[s] : "?";
}

const char *vsk_why_name(enum vsk_why w)
{
	return w < VSK_WHY_N_ ? why_names[w] : "?";
}

/* ---- hash ---- */

static struct vsk_conn **bucket_of(
	const struct vsk *v, uint32_t peer_cid, uint32_t host_port, uint32_t guest_port)
{
	/* Keyed, because the guest chooses ports: a finalizer of splitmix64 per word. */
	uint64_t h = v->cfg.hash_seed ^ ((uint64_t)host_port << 32 | guest_port);
	h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
	h = (h ^ h >> 27 ^ peer_cid ^ v->cfg.hash_seed >> 7) * 0x94d049bb133111ebu;
	return &v->buckets[(h ^ h >> 31) & (v->n_buckets - 1)];
}

struct vsk_conn *vsk_find(struct vsk *v, uint32_t peer_cid, uint32_t host_port, uint32_t guest_port)
{
	struct vsk_conn *c = *bucket_of(v, peer_cid, host_port, guest_port);
	while (c && (c->guest_port != guest_port || c->host_port != host_port ||
			    c->peer_cid != peer_cid))
		c = c->hash_next;
	return c;
}

static void hash_add(struct vsk *v, struct vsk_conn *c)
{
	struct vsk_conn **b = bucket_of(v, c->peer_cid, c->host_port, c->guest_port);
	c->hash_next = *b;
	*b = c;
	c->linked = true;
	v->n_conns++;
}

static void hash_remove(struct vsk *v, struct vsk_conn *c)
{
	if (!c->linked)
		return;
	struct vsk_conn **at = bucket_of(v, c->peer_cid, c->host_port, c->guest_port);
	while (*at != c)
		at = &(*at)->hash_next;
	*at = c->hash_next;
	c->linked = false;
	v->n_conns--;
}

struct vsk_conn **vsk_set_buckets(struct vsk *v, struct vsk_conn **buckets, uint32_t n)
{
	hf_assert(n && (n & (n - 1)) == 0);
	struct vsk_conn **old = v->buckets;
	uint32_t n_old = v->n_buckets;
	memset(buckets, 0, n * sizeof(struct vsk_conn *));
	v->buckets = buckets;
	v->n_buckets = n;
	v->n_conns = 0;
	for (uint32_t i = 0; i < n_old; i++)
		for (struct vsk_conn *c = old[i], *next; c; c = next) {
			next = c->hash_next;
			hash_add(v, c);
		}
	return old;
}

/* ---- set-up ---- */

bool vsk_cid_usable(uint32_t cid)
{
	return cid > VSK_CID_HOST && cid != UINT32_MAX; /* D1.3 */
}

int vsk_init(struct vsk *v, const struct vsk_config *cfg, struct vsk_conn **buckets, uint32_t n)
{
	if (!vsk_cid_usable(cfg->guest_cid) || cfg->buf_alloc < 4096 ||
		cfg->buf_alloc > VSK_BUF_MAX || n == 0 || (n & (n - 1)) != 0)
		return -EINVAL;
	if (cfg->port_floor &&
		(cfg->port_floor < VSK_HOST_PORT_MIN || cfg->port_floor > VSK_HOST_PORT_MAX))
		return -EINVAL;
	*v = (struct vsk){ .cfg = *cfg };
	v->next_port = cfg->port_floor ? cfg->port_floor : VSK_HOST_PORT_MIN;
	if (!v->cfg.claim_us)
		v->cfg.claim_us = VSK_CLAIM_US;
	hf_list_init(&v->free);
	hf_list_init(&v->ctl);
	hf_list_init(&v->data);
	for (int i = 0; i < VSK_LIFE_N_; i++)
		hf_list_init(&v->life[i]);
	vsk_set_buckets(v, buckets, n);
	return 0;
}

void vsk_give_slots(struct vsk *v, void *first, size_t count, size_t stride)
{
	for (size_t i = 0; i < count; i++) {
		struct vsk_conn *c = (struct vsk_conn *)(void *)((char *)first + i * stride);
		*c = (struct vsk_conn){ 0 };
		hf_list_init(&c->ctl_node);
		hf_list_init(&c->data_node);
		hf_list_init(&c->life_node);
		hf_list_append(&v->free, &c->life_node);
	}
	v->n_slots += (uint32_t)count;
	v->n_free += (uint32_t)count;
}

int vsk_set_cid(struct vsk *v, uint32_t guest_cid)
{
	if (!vsk_cid_usable(guest_cid))
		return -EINVAL;
	for (int i = 0; i < VSK_LIFE_N_; i++)
		if (!hf_list_empty(&v->life[i]))
			return -EBUSY;
	v->cfg.guest_cid = guest_cid;
	return 0;
}

void vsk_set_features(struct vsk *v, uint64_t features)
{
	v->cfg.features = features;
}

/* ---- a connection's lists ---- */

static uint64_t life_delay(const struct vsk *v, uint8_t life)
{
	switch (life) {
	case VSK_LIFE_CONNECT:
		return VSK_CONNECT_US;
	case VSK_LIFE_CLOSE:
		return VSK_CLOSE_US;
	case VSK_LIFE_CLAIM:
		return v->cfg.claim_us;
	}
	return 0;
}

void vsk_conn_life(struct vsk *v, struct vsk_conn *c, uint8_t life, uint64_t now_us)
{
	hf_list_remove(&c->life_node);
	hf_list_append(&v->life[life], &c->life_node);
	c->life = life;
	c->deadline_us = life == VSK_LIFE_STEADY ? VSK_NEVER : now_us + life_delay(v, life);
}

void vsk_conn_ctl(struct vsk *v, struct vsk_conn *c, uint8_t bits)
{
	c->ctl |= bits;
	hf_list_remove(&c->ctl_node);
	if (bits & VSK_CTL_RST)
		hf_list_append(v->ctl.next, &c->ctl_node); /* in front */
	else
		hf_list_append(&v->ctl, &c->ctl_node);
}

static void ctl_clear(struct vsk_conn *c, uint8_t bits)
{
	c->ctl &= (uint8_t)~bits;
	if (!c->ctl)
		hf_list_remove(&c->ctl_node);
}

/* Puts the connection into the list of senders or takes it out, after a change of what counts. */
static void data_refresh(struct vsk *v, struct vsk_conn *c)
{
	bool willing = c->state == VSK_OPEN && c->readable && !(c->host_shut & VSK_SHUT_SEND) &&
		       !(c->guest_shut & VSK_SHUT_RCV);
	/* In the midst of a message anything counts: the guest takes out only whole ones. And what
	 * a sibling sends was cut by its own credit, which is this. */
	bool any = c->tx_mid || c->relayed;
	uint32_t enough = any ? 1 : HF_MIN(SEGMENT_MIN, c->peer_buf_alloc / 4 + 1);
	if (willing && vsk_host_room(c) >= enough) {
		if (hf_list_empty(&c->data_node))
			hf_list_append(&v->data, &c->data_node);
		return;
	}
	hf_list_remove(&c->data_node);
	if (willing && !c->asked) {
		c->asked = true;
		v->stats.stalls++;
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_REQUEST);
	}
}

/* A guest that has sent little beside these bytes of the connection may send all of the buffer. */
static void widen(const struct vsk *v, struct vsk_conn *c, uint32_t bytes)
{
	uint32_t all = (uint32_t)v->stats.rx_bytes - c->begun;
	c->begun += all;
	c->first &= all / CROWD > bytes;
}

/* D4.7: tells the guest of room before it runs dry. The measure is what was announced, and the
 * guest's own buffer where that is smaller, because Linux limits its credit to it (D4.9). With a
 * message half sent the guest may need every byte of it: the host takes only whole ones. And so may
 * one that has used up what it was told of a sibling's room, or its own buffer: the device's room,
 * which counts in that as well, may have grown by little when nothing else will. */
static void credit_refresh(struct vsk *v, struct vsk_conn *c)
{
	uint32_t window = HF_MIN(c->first ? VSK_WINDOW_FIRST : c->buf_alloc, c->peer_buf_alloc);
	uint32_t untold = vsk_taken(c) - c->announced;
	bool all = c->rx_mid;
	if (vsk_is_relayed(c)) {
		untold = vsk_taken(c) + vsk_grant(c) - (c->announced + c->announced_buf);
		window = HF_MIN(window, c->far_buf);
		all |= (uint32_t)c->rx_cnt - c->announced >=
		       HF_MIN(c->announced_buf, c->peer_buf_alloc);
	}
	if (c->state == VSK_OPEN && !(c->guest_shut & VSK_SHUT_SEND) &&
		untold > (all ? 0 : window / 4) && !(c->ctl & VSK_CTL_CREDIT_UPDATE)) {
		widen(v, c, untold);
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_UPDATE);
	}
}

/* ---- birth and end ---- */

/* Linux sends without copying only what the room that it was told takes whole: where there is no
 * crowd, none is kept back. */
static bool begins_small(const struct vsk *v, uint16_t type)
{
	return type == VSK_TYPE_STREAM && v->cfg.buf_alloc > VSK_WINDOW_FIRST &&
	       v->n_conns >= CROWD;
}

struct vsk_conn *vsk_conn_new(struct vsk *v, uint16_t type, uint32_t peer_cid, uint32_t host_port,
	uint32_t guest_port, enum vsk_state state)
{
	if (hf_list_empty(&v->free))
		return NULL;
	struct vsk_conn *c = HF_CONTAINER_OF(v->free.next, struct vsk_conn, life_node);
	hf_list_remove(&c->life_node);
	v->n_free--;
	uint32_t gen = c->gen;
	*c = (struct vsk_conn){
		.peer_cid = peer_cid,
		.host_port = host_port,
		.guest_port = guest_port,
		.gen = gen,
		.type = type,
		.state = (uint8_t)state,
		.buf_alloc = v->cfg.buf_alloc,
		.begun = (uint32_t)v->stats.rx_bytes,
		.first = begins_small(v, type),
		.held_by_device = true,
	};
	hf_list_init(&c->ctl_node);
	hf_list_init(&c->data_node);
	hf_list_init(&c->life_node);
	hash_add(v, c);
	return c;
}

void vsk_conn_free(struct vsk *v, struct vsk_conn *c)
{
	hash_remove(v, c);
	hf_list_remove(&c->ctl_node);
	hf_list_remove(&c->data_node);
	hf_list_remove(&c->life_node);
	c->state = VSK_FREE;
	c->ctl = 0;
	c->gen++;
	hf_list_append(&v->free, &c->life_node);
	v->n_free++;
}

void vsk_conn_close(struct vsk *v, struct vsk_conn *c, bool rst)
{
	hf_list_remove(&c->data_node);
	hf_list_remove(&c->life_node);
	hf_list_remove(&c->ctl_node);
	c->state = VSK_CLOSED;
	c->ctl = 0;
	if (rst)
		vsk_conn_ctl(v, c, VSK_CTL_RST);
	else
		hash_remove(v, c);
	v->stats.closed++;
}

/* The RST was sent, or is not wanted any more. */
static void rst_done(struct vsk *v, struct vsk_conn *c)
{
	ctl_clear(c, VSK_CTL_RST);
	hash_remove(v, c);
	if (!c->held_by_device)
		vsk_conn_free(v, c);
}

void vsk_release(struct vsk *v, struct vsk_conn *c)
{
	hf_assert(c->state == VSK_CLOSED && c->held_by_device);
	c->held_by_device = false;
	if (!c->ctl)
		vsk_conn_free(v, c);
}

static void close_event(
	struct vsk *v, struct vsk_conn *c, bool rst, enum vsk_why why, struct vsk_ev *ev)
{
	vsk_conn_close(v, c, rst);
	*ev = (struct vsk_ev){ .kind = VSK_EV_CLOSED, .conn = c, .why = why };
}

/* ---- RST for flows that are not known ---- */

static void rst_forget(struct vsk *v, uint32_t peer_cid, const struct vsk_pkt *p)
{
	for (uint32_t i = 0; i < v->n_rst; i++) {
		const struct vsk_rst *r = &v->rst[i];
		if (r->peer_cid == peer_cid && r->host_port == p->dst_port &&
			r->guest_port == p->src_port && r->type == p->type) {
			v->rst[i] = v->rst[--v->n_rst];
			return;
		}
	}
}

/* D3.5: same type, addresses swapped; one RST for any number of packets that wait for it. */
static int rst_add(struct vsk *v, const struct vsk_pkt *p)
{
	rst_forget(v, (uint32_t)p->dst_cid, p);
	if (v->n_rst == VSK_RST_MAX)
		return -ENOSPC;
	v->rst[v->n_rst++] = (struct vsk_rst){
		.peer_cid = (uint32_t)p->dst_cid,
		.host_port = p->dst_port,
		.guest_port = p->src_port,
		.type = p->type,
	};
	return 0;
}

/* ---- guest to host ---- */

static int guest_unknown(struct vsk *v, uint64_t now_us, const struct vsk_pkt *p, struct vsk_ev *ev)
{
	if (p->op == VSK_OP_RST)
		return 0; /* D3.6 */
	if (p->op != VSK_OP_REQUEST)
		return rst_add(v, p);

	struct vsk_conn *c = vsk_conn_new(
		v, p->type, (uint32_t)p->dst_cid, p->dst_port, p->src_port, VSK_DIALLING);
	if (!c) {
		int r = rst_add(v, p);
		if (r == 0)
			v->stats.no_slot++;
		return r;
	}
	c->peer_buf_alloc = p->buf_alloc; /* D5.2 */
	c->peer_fwd_cnt = p->fwd_cnt;
	vsk_conn_life(v, c, VSK_LIFE_CONNECT, now_us);
	*ev = (struct vsk_ev){ .kind = VSK_EV_DIAL, .conn = c };
	return 0;
}

/* With both directions at their end nothing can flow any more: ask for the close (D5.4). */
static void finish_if_both_ended(struct vsk *v, uint64_t now_us, struct vsk_conn *c)
{
	if (vsk_guest_ended(c) && c->host_shut == VSK_SHUT_SEND && !c->unclaimed) {
		c->host_shut = VSK_SHUT_BOTH;
		vsk_conn_ctl(v, c, VSK_CTL_SHUTDOWN);
		vsk_conn_life(v, c, VSK_LIFE_CLOSE, now_us);
	}
}

/* The guest's last byte was taken, or it ended with none to take: D5.4 when it reads no more
 * either. */
static void guest_ended(struct vsk *v, uint64_t now_us, struct vsk_conn *c, struct vsk_ev *ev)
{
	if (c->guest_shut == VSK_SHUT_BOTH) {
		close_event(v, c, true, VSK_WHY_CLEAN, ev);
		return;
	}
	*ev = (struct vsk_ev){ .kind = VSK_EV_END, .conn = c };
	finish_if_both_ended(v, now_us, c);
}

static void guest_shutdown(struct vsk *v, uint64_t now_us, struct vsk_conn *c,
	const struct vsk_pkt *p, struct vsk_ev *ev)
{
	uint8_t fresh = (uint8_t)(p->flags & VSK_SHUT_BOTH & ~c->guest_shut);
	if ((fresh & VSK_SHUT_SEND) && c->rx_mid) { /* its last message will never be whole */
		close_event(v, c, true, VSK_WHY_GUEST_RST, ev);
		return;
	}
	c->guest_shut |= fresh; /* D5.3: hints are permanent */
	data_refresh(v, c);
	if (fresh && vsk_guest_ended(c) &&
		(c->guest_shut == VSK_SHUT_BOTH || fresh == VSK_SHUT_SEND))
		guest_ended(v, now_us, c, ev);
	else if (fresh & VSK_SHUT_RCV)
		*ev = (struct vsk_ev){ .kind = VSK_EV_DEAF, .conn = c };
}

static void guest_rw(struct vsk *v, struct vsk_conn *c, const struct vsk_pkt *p, struct vsk_ev *ev)
{
	if (p->len > VSK_PAYLOAD_MAX || (c->guest_shut & VSK_SHUT_SEND)) {
		close_event(v, c, true, VSK_WHY_PROTOCOL, ev); /* D2.8, D5.3 */
		return;
	}
	bool end = c->type == VSK_TYPE_SEQPACKET && (p->flags & VSK_MSG_EOM);
	uint32_t held = vsk_is_relayed(c) ? (uint32_t)c->rx_cnt - c->far_tx : vsk_unread(c);
	if (p->len > c->buf_alloc - held || (end && c->msgs == VSK_MSGS_MAX)) {
		v->stats.overruns++;
		close_event(v, c, true, VSK_WHY_OVERRUN, ev); /* D4.8 */
		return;
	}
	c->rx_cnt += p->len;
	v->stats.rx_bytes += p->len;
	if (c->host_shut & VSK_SHUT_RCV) {
		c->fwd_cnt = c->rx_cnt;
		credit_refresh(v, c);
		return;
	}
	if (p->len || end)
		*ev = (struct vsk_ev){ .kind = VSK_EV_DATA,
			.conn = c,
			.len = p->len,
			.flags = end ? p->flags & (VSK_MSG_EOM | VSK_MSG_EOR) : 0 };
	if (c->type == VSK_TYPE_SEQPACKET) {
		c->msgs += end;
		c->rx_mid = !end && (c->rx_mid || p->len);
		credit_refresh(v, c);
	}
}

static void guest_accepts(struct vsk *v, uint64_t now_us, struct vsk_conn *c, struct vsk_ev *ev)
{
	c->state = VSK_OPEN;
	v->stats.opened++;
	vsk_conn_life(v, c, c->unclaimed ? VSK_LIFE_CLAIM : VSK_LIFE_STEADY, now_us);
	data_refresh(v, c);
	*ev = (struct vsk_ev){ .kind = VSK_EV_CONNECTED, .conn = c };
}

/* A packet of an open connection; false: it is not one that may come there. */
static bool guest_open(struct vsk *v, uint64_t now_us, struct vsk_conn *c, const struct vsk_pkt *p,
	struct vsk_ev *ev)
{
	switch (p->op) {
	case VSK_OP_RW:
		guest_rw(v, c, p, ev);
		return true;
	case VSK_OP_SHUTDOWN:
		guest_shutdown(v, now_us, c, p, ev);
		return true;
	case VSK_OP_CREDIT_UPDATE:
		return true;
	case VSK_OP_CREDIT_REQUEST:
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_UPDATE); /* D4.5 */
		return true;
	}
	return false;
}

static void guest_known(struct vsk *v, uint64_t now_us, struct vsk_conn *c, const struct vsk_pkt *p,
	struct vsk_ev *ev)
{
	if (c->state == VSK_CLOSED) {
		if (p->op == VSK_OP_RST)
			rst_done(v, c); /* D3.4 */
		return;                 /* else: its RST is on the way */
	}
	if (p->op == VSK_OP_RST) {
		bool asked_for = c->host_shut == VSK_SHUT_BOTH;
		close_event(v, c, false, asked_for ? VSK_WHY_CLEAN : VSK_WHY_GUEST_RST, ev);
		return;
	}
	if (c->peer_buf_alloc != p->buf_alloc || c->peer_fwd_cnt != p->fwd_cnt) {
		c->peer_buf_alloc = p->buf_alloc; /* D4.6: it may shrink */
		c->peer_fwd_cnt = p->fwd_cnt;
		c->asked = false;
		data_refresh(v, c);
		credit_refresh(v, c);
	}
	if (c->state == VSK_OPEN && guest_open(v, now_us, c, p, ev))
		return;
	if (c->state == VSK_DIALLING && p->op == VSK_OP_REQUEST)
		return; /* D5.11: one dial per connection */
	if (c->state == VSK_ASKING && c->request_sent && p->op == VSK_OP_RESPONSE)
		guest_accepts(v, now_us, c, ev);
	else
		close_event(v, c, true, VSK_WHY_PROTOCOL, ev); /* D3.3 */
}

/* D1.6, D1.7, D1.8: streams go without saying unless the driver says otherwise. */
static bool type_served(const struct vsk *v, uint16_t type)
{
	uint64_t f = v->cfg.features;
	if (type == VSK_TYPE_STREAM)
		return (f & VSK_F_STREAM) || !(f & VSK_F_NO_IMPLIED_STREAM);
	return type == VSK_TYPE_SEQPACKET && (f & VSK_F_SEQPACKET);
}

/* D1.4: who else may be reached is the device's to say when it dials. */
static bool cid_served(const struct vsk *v, uint32_t cid)
{
	return cid == VSK_CID_HOST ||
	       (v->cfg.siblings && vsk_cid_usable(cid) && cid != v->cfg.guest_cid);
}

int vsk_from_guest(struct vsk *v, uint64_t now_us, const uint8_t hdr[VSK_HDR_BYTES], size_t avail,
	struct vsk_ev *ev)
{
	struct vsk_pkt p;
	vsk_pkt_decode(hdr, &p);
	*ev = (struct vsk_ev){ .kind = VSK_EV_NONE };

	/* D3.1, D1.2, D2.5 */
	if (p.src_cid != v->cfg.guest_cid || p.dst_cid > UINT32_MAX || p.len > avail) {
		v->stats.dropped++;
		return -EBADMSG;
	}
	int r = 0;
	if (p.op == VSK_OP_RST || p.op == VSK_OP_REQUEST)
		rst_forget(v, (uint32_t)p.dst_cid, &p);
	struct vsk_conn *c = vsk_find(v, (uint32_t)p.dst_cid, p.dst_port, p.src_port);
	if (!type_served(v, p.type) || !cid_served(v, (uint32_t)p.dst_cid) ||
		(c && c->type != p.type)) {
		if (p.op != VSK_OP_RST)
			r = rst_add(v, &p); /* D3.2 */
	} else if (c) {
		guest_known(v, now_us, c, &p, ev);
		if (ev->kind == VSK_EV_NONE && c->state == VSK_OPEN)
			ev->conn = c;
	} else {
		r = guest_unknown(v, now_us, &p, ev);
	}
	if (r == 0)
		v->stats.from_guest++;
	return r;
}

void vsk_dialled(struct vsk *v, struct vsk_conn *c, bool ok)
{
	hf_assert(c->state == VSK_DIALLING);
	if (!ok) {
		vsk_conn_close(v, c, true); /* D5.1 */
		return;
	}
	c->state = VSK_OPEN;
	v->stats.opened++;
	vsk_conn_life(v, c, VSK_LIFE_STEADY, 0);
	vsk_conn_ctl(v, c, VSK_CTL_RESPONSE);
	data_refresh(v, c);
}

void vsk_host_took(
	struct vsk *v, uint64_t now_us, struct vsk_conn *c, uint32_t n, struct vsk_ev *ev)
{
	bool message = c->type == VSK_TYPE_SEQPACKET;
	hf_assert(c->state == VSK_OPEN && n <= vsk_unread(c) && (c->msgs || !message));
	*ev = (struct vsk_ev){ .kind = VSK_EV_NONE };
	c->fwd_cnt += n; /* D4.4 */
	c->msgs -= message;
	if ((n || message) && vsk_guest_ended(c))
		guest_ended(v, now_us, c, ev);
	else
		credit_refresh(v, c);
}

/* ---- host to guest ---- */

static void header(const struct vsk *v, struct vsk_conn *c, enum vsk_op op, uint32_t len,
	uint32_t flags, uint8_t *ret_hdr)
{
	struct vsk_pkt p = {
		.src_cid = c->peer_cid,
		.dst_cid = v->cfg.guest_cid,
		.src_port = c->host_port,
		.dst_port = c->guest_port,
		.len = len,
		.type = c->type,
		.op = (uint16_t)op,
		.flags = flags,
		.buf_alloc = vsk_grant(c), /* D4.1 */
		.fwd_cnt = vsk_taken(c),
	};
	c->announced = p.fwd_cnt;
	c->announced_buf = p.buf_alloc;
	ctl_clear(c, VSK_CTL_CREDIT_UPDATE); /* every header is one */
	vsk_pkt_encode(&p, ret_hdr);
}

static void send_rst(struct vsk *v, uint8_t *ret_hdr)
{
	struct vsk_rst r = v->rst[0];
	v->rst[0] = v->rst[--v->n_rst];
	struct vsk_pkt p = {
		.src_cid = r.peer_cid,
		.dst_cid = v->cfg.guest_cid,
		.src_port = r.host_port,
		.dst_port = r.guest_port,
		.type = r.type,
		.op = VSK_OP_RST,
		.buf_alloc = v->cfg.buf_alloc,
	};
	vsk_pkt_encode(&p, ret_hdr);
	v->stats.rst_sent++;
}

/* The connection's most urgent control packet; with more to say it goes to the end of the list. */
static void send_ctl(struct vsk *v, struct vsk_conn *c, uint8_t *ret_hdr)
{
	static const uint8_t ops[] = { VSK_OP_RST, VSK_OP_REQUEST, VSK_OP_RESPONSE, VSK_OP_SHUTDOWN,
		VSK_OP_CREDIT_UPDATE, VSK_OP_CREDIT_REQUEST };
	int i = __builtin_ctz(c->ctl);
	uint8_t bit = (uint8_t)(1u << i);
	header(v, c, ops[i], 0, bit == VSK_CTL_SHUTDOWN ? c->host_shut : 0, ret_hdr);
	ctl_clear(c, bit);
	if (bit == VSK_CTL_RST) {
		v->stats.rst_sent++;
		rst_done(v, c);
		return;
	}
	if (bit == VSK_CTL_REQUEST)
		c->request_sent = true;
	if (c->ctl)
		vsk_conn_ctl(v, c, 0);
}

static struct vsk_conn *first_ctl(const struct vsk *v)
{
	if (hf_list_empty(&v->ctl))
		return NULL;
	struct vsk_conn *c = HF_CONTAINER_OF(v->ctl.next, struct vsk_conn, ctl_node);
	return v->hold_until_us && !(c->ctl & VSK_CTL_RST) ? NULL : c;
}

bool vsk_wants_guest(const struct vsk *v)
{
	return v->n_rst || first_ctl(v) || (!v->hold_until_us && !hf_list_empty(&v->data));
}

enum vsk_send vsk_to_guest(struct vsk *v, struct vsk_out *out)
{
	struct vsk_conn *c = first_ctl(v);
	out->conn = NULL;
	out->max = 0;
	if (v->n_rst) {
		send_rst(v, out->hdr);
	} else if (c) {
		send_ctl(v, c, out->hdr);
	} else if (!v->hold_until_us && !hf_list_empty(&v->data)) {
		out->conn = HF_CONTAINER_OF(v->data.next, struct vsk_conn, data_node);
		out->max = HF_MIN(vsk_host_room(out->conn), VSK_PAYLOAD_MAX);
		return VSK_SEND_DATA;
	} else {
		return VSK_SEND_NOTHING;
	}
	v->stats.to_guest++;
	return VSK_SEND_CONTROL;
}

void vsk_data(struct vsk *v, struct vsk_conn *c, uint32_t n, uint32_t flags,
	uint8_t ret_hdr[VSK_HDR_BYTES])
{
	bool messages = c->type == VSK_TYPE_SEQPACKET;
	hf_assert(c->state == VSK_OPEN && n <= vsk_host_room(c) && n <= VSK_PAYLOAD_MAX);
	hf_assert(n || (flags & VSK_MSG_EOM));
	hf_assert(!flags || (messages && (flags & VSK_MSG_EOM)));
	c->tx_mid = messages && !(flags & VSK_MSG_EOM);
	c->tx_cnt += n;
	v->stats.tx_bytes += n;
	v->stats.to_guest++;
	header(v, c, VSK_OP_RW, n, flags, ret_hdr);
	hf_list_remove(&c->data_node);
	data_refresh(v, c);
}

void vsk_host_readable(struct vsk *v, struct vsk_conn *c)
{
	hf_assert(c->state != VSK_CLOSED);
	c->readable = true;
	data_refresh(v, c);
}

void vsk_host_idle(struct vsk *v, struct vsk_conn *c)
{
	hf_assert(c->state != VSK_CLOSED);
	c->readable = false;
	data_refresh(v, c);
}

void vsk_host_shutdown(
	struct vsk *v, uint64_t now_us, struct vsk_conn *c, uint8_t bits, struct vsk_ev *ev)
{
	hf_assert(c->state == VSK_OPEN && (bits & ~VSK_SHUT_BOTH) == 0);
	*ev = (struct vsk_ev){ .kind = VSK_EV_NONE };
	if ((bits & ~c->host_shut) == 0)
		return;
	c->host_shut |= bits;
	if (bits & VSK_SHUT_RCV) {
		c->fwd_cnt = c->rx_cnt;
		c->msgs = 0;
		c->rx_mid = false;
	}
	if (c->guest_shut == VSK_SHUT_BOTH && vsk_guest_ended(c)) {
		close_event(v, c, true, VSK_WHY_CLEAN, ev);
		return;
	}
	vsk_conn_ctl(v, c, VSK_CTL_SHUTDOWN);
	data_refresh(v, c);
	if (c->host_shut == VSK_SHUT_BOTH)
		vsk_conn_life(v, c, VSK_LIFE_CLOSE, now_us);
	else
		finish_if_both_ended(v, now_us, c);
}

int vsk_reset_flow(
	struct vsk *v, uint16_t type, uint32_t peer_cid, uint32_t host_port, uint32_t guest_port)
{
	if (vsk_find(v, peer_cid, host_port, guest_port))
		return 0;
	struct vsk_conn *c = vsk_conn_new(v, type, peer_cid, host_port, guest_port, VSK_OPEN);
	if (!c)
		return -ENOBUFS;
	c->held_by_device = false;
	vsk_conn_close(v, c, true);
	return 0;
}

void vsk_host_reset(struct vsk *v, struct vsk_conn *c)
{
	hf_assert(c->state != VSK_CLOSED && c->state != VSK_FREE);
	vsk_conn_close(v, c, c->state != VSK_ASKING || c->request_sent);
}

/* ---- life ---- */

int vsk_connect_from(struct vsk *v, uint64_t now_us, enum vsk_type type, uint32_t peer_cid,
	uint32_t peer_port, uint32_t guest_port, struct vsk_conn **ret_conn)
{
	if (!type_served(v, (uint16_t)type))
		return -EPROTONOSUPPORT;
	if (vsk_find(v, peer_cid, peer_port, guest_port))
		return -EADDRINUSE;
	struct vsk_conn *c =
		vsk_conn_new(v, (uint16_t)type, peer_cid, peer_port, guest_port, VSK_ASKING);
	if (!c)
		return -ENOBUFS;
	vsk_conn_life(v, c, VSK_LIFE_CONNECT, now_us);
	vsk_conn_ctl(v, c, VSK_CTL_REQUEST);
	*ret_conn = c;
	return 0;
}

int vsk_connect(struct vsk *v, uint64_t now_us, enum vsk_type type, uint32_t guest_port,
	struct vsk_conn **ret_conn)
{
	for (int i = 0; i < PORT_TRIES; i++) {
		uint32_t port = v->next_port;
		int r = vsk_connect_from(v, now_us, type, VSK_CID_HOST, port, guest_port, ret_conn);
		if (r < 0 && r != -EADDRINUSE)
			return r;
		v->next_port = port == VSK_HOST_PORT_MAX ? VSK_HOST_PORT_MIN : port + 1;
		if (r == 0)
			return 0;
	}
	return -EADDRNOTAVAIL;
}

/* The far guest's numbers are its word only: that it has taken what it was not given, or has given
 * something back, is not believed. */
void vsk_relay(struct vsk *v, struct vsk_conn *c, const struct vsk_conn *far, bool tell)
{
	hf_assert(c->state != VSK_CLOSED && c->state != VSK_FREE);
	uint32_t in_flight = (uint32_t)far->tx_cnt - far->peer_fwd_cnt;
	uint32_t more = far->peer_fwd_cnt - c->far_fwd;
	c->relayed = true;
	c->first = false;
	c->far_buf = far->peer_buf_alloc;
	c->far_tx = (uint32_t)far->tx_cnt;
	if (in_flight <= INT32_MAX && more <= INT32_MAX)
		c->far_fwd = far->peer_fwd_cnt;
	bool fresh = c->announced != vsk_taken(c) || c->announced_buf != vsk_grant(c);
	if (tell && fresh && c->state == VSK_OPEN)
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_UPDATE);
	else
		credit_refresh(v, c);
}

void vsk_unrelay(struct vsk *v, struct vsk_conn *c, uint32_t given)
{
	hf_assert(given <= vsk_unread(c));
	c->fwd_cnt += given;
	c->buf_alloc = vsk_buf_alone(c, vsk_unread(c));
	c->relayed = false;
	if (c->state == VSK_OPEN)
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_UPDATE);
}

void vsk_ask(struct vsk *v, struct vsk_conn *c)
{
	if (c->state == VSK_OPEN)
		vsk_conn_ctl(v, c, VSK_CTL_CREDIT_REQUEST);
}

struct vsk_conn *vsk_next(struct vsk *v, struct vsk_conn *c)
{
	int i = c ? c->life : 0;
	struct hf_list *n = c ? c->life_node.next : v->life[0].next;
	while (n == &v->life[i]) {
		if (++i == VSK_LIFE_N_)
			return NULL;
		n = v->life[i].next;
	}
	return HF_CONTAINER_OF(n, struct vsk_conn, life_node);
}

static struct vsk_conn *first_alive(const struct vsk *v, int life)
{
	const struct hf_list *l = &v->life[life];
	return hf_list_empty(l) ? NULL : HF_CONTAINER_OF(l->next, struct vsk_conn, life_node);
}

uint64_t vsk_deadline(const struct vsk *v)
{
	uint64_t at = v->hold_until_us ? v->hold_until_us : VSK_NEVER;
	for (int i = VSK_LIFE_CONNECT; i < VSK_LIFE_N_; i++) {
		const struct vsk_conn *c = first_alive(v, i);
		if (c)
			at = HF_MIN(at, c->deadline_us);
	}
	return at;
}

bool vsk_expire(struct vsk *v, uint64_t now_us, struct vsk_ev *ev)
{
	*ev = (struct vsk_ev){ .kind = VSK_EV_NONE };
	if (v->hold_until_us && v->hold_until_us <= now_us)
		v->hold_until_us = 0;
	for (int i = VSK_LIFE_CONNECT; i < VSK_LIFE_N_; i++) {
		struct vsk_conn *c = first_alive(v, i);
		if (!c || c->deadline_us > now_us)
			continue;
		bool rst = c->state != VSK_ASKING || c->request_sent;
		close_event(
			v, c, rst, i == VSK_LIFE_CLAIM ? VSK_WHY_UNCLAIMED : VSK_WHY_TIMEOUT, ev);
		return true;
	}
	return false;
}

void vsk_resume(struct vsk *v, uint64_t now_us)
{
	for (int i = VSK_LIFE_CONNECT; i < VSK_LIFE_N_; i++) {
		hf_list_for_each (n, &v->life[i])
			HF_CONTAINER_OF(n, struct vsk_conn, life_node)->deadline_us =
				now_us + life_delay(v, (uint8_t)i);
	}
	if (v->hold_until_us)
		v->hold_until_us = now_us + VSK_HOLD_US;
}

bool vsk_drop(struct vsk *v, bool tell, struct vsk_ev *ev)
{
	*ev = (struct vsk_ev){ .kind = VSK_EV_NONE };
	struct vsk_conn *c = vsk_next(v, NULL);
	if (!c)
		return false;
	close_event(v, c, tell && c->state == VSK_DIALLING, VSK_WHY_RESET, ev);
	return true;
}

void vsk_clear(struct vsk *v)
{
	struct vsk_conn *c;
	v->hold_until_us = 0;
	v->event_pending = false;
	v->n_rst = 0;
	while ((c = first_ctl(v))) {
		hf_assert(c->state == VSK_CLOSED);
		rst_done(v, c);
	}
}

void vsk_transport_reset(struct vsk *v, uint64_t now_us, bool own_event)
{
	v->event_pending = own_event;
	v->hold_until_us = own_event ? now_us + VSK_HOLD_US : 0;
}

void vsk_event_placed(struct vsk *v)
{
	v->event_pending = false;
}

void vsk_event_used(struct vsk *v)
{
	if (!v->event_pending)
		v->hold_until_us = 0;
}

int vsk_claim(struct vsk *v, uint64_t now_us, struct vsk_conn *c)
{
	if (!c->unclaimed)
		return -EALREADY;
	c->unclaimed = false;
	if (c->life == VSK_LIFE_CLAIM)
		vsk_conn_life(v, c, VSK_LIFE_STEADY, now_us);
	finish_if_both_ended(v, now_us, c);
	return 0;
}
