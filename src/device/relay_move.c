/* SPDX-License-Identifier: MIT */
/*
 * relay_move.c - relays when a VM moves, or when another process takes over.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* syscalls: getrandom */

/* In a record, in front of the address and the stream's own record. */
enum {
	REC_VERSION = 0,
	REC_WHAT = 1,
	REC_ADDRESS_LEN = 2,
	REC_LEFT = 4,
	REC_WINDOW = 8,
	REC_FLAGS = 12,
	REC_TOKEN = 16,
	REC_BYTES = 32,
};
enum { REC_FIN_IN = 1, REC_DEAF_IN = 2, REC_FIN_OUT = 4, REC_DEAF_OUT = 8 };

/* ---- the source ---- */

int dev_relay_bequeath(struct dev_vm *vm, struct dev_conn *c)
{
	uint8_t token[RS_TOKEN_SIZE];
	if (c->heir)
		return 0;
	if (getrandom(token, sizeof(token), 0) != sizeof(token))
		return -EIO;
	int r = dev_relay_new(vm, c, token, false, dev_relay_window_for(c), &c->heir);
	if (r < 0)
		return r;
	c->heir->kind = DEV_RELAY_HEIR;
	return 0;
}

static void disinherit(struct dev_conn *c)
{
	if (c->heir)
		dev_relay_free(c->heir);
	c->heir = NULL;
}

void dev_relay_disown(struct dev_conn *c)
{
	struct dev_relay *r = c->heir;
	c->heir = NULL;
	dev_relay_close(r, false);
	dev_relay_wait(r);
}

/* The host socket of the connection goes on without it. */
static void inherit_socket(struct dev_relay *r, struct dev_conn *c)
{
	r->kind = DEV_RELAY_HOST;
	dev_conn_take_line(c);
	r->fd = fd_take(&c->fd);
	r->hup = c->hup;
	r->readable = true;
	r->asks = c->core.state == VSK_ASKING && !c->forwarded;
	if (c->core.host_shut & VSK_SHUT_RCV)
		dev_relay_host_deaf(r);
	if (c->core.host_shut & VSK_SHUT_SEND)
		dev_relay_say_fin(r);
	dev_relay_said(r);
	dev_relay_watch_host(r, false);
}

static void inherit_relay(struct dev_relay *r, struct dev_conn *c)
{
	r->kind = c->relay->kind = DEV_RELAY_JOIN;
	r->join = c->relay;
	c->relay->join = r;
	c->relay->c = NULL;
	c->relay->vm = NULL;
	dev_relay_work(c->relay);
	c->relay = NULL;
}

/* The VM has left: its connection's host end is the heir's from now on. */
static void take_over(struct dev_relay *r)
{
	struct dev_conn *c = r->c;
	hf_debug("vm %s: relay %u<-%u: the VM has left", r->vm_name, r->host_port, r->guest_port);
	c->heir = NULL;
	c->gone = true;
	r->c = NULL;
	r->vm = NULL;
	if (c->relay) {
		inherit_relay(r, c);
	} else if (c->sibling) {
		dev_sibling_inherit(c, r);
	} else if (c->fd >= 0) {
		inherit_socket(r, c);
	} else { /* its host end has ended meanwhile */
		r->kind = DEV_RELAY_ORPHAN;
		dev_relay_shut(r, VSK_SHUT_BOTH);
	}
	if (r->chan.id == 0)
		dev_relay_wait(r);
	dev_relay_work(r);
}

bool dev_relay_dialled(struct dev_relay *r)
{
	if (r->kind == DEV_RELAY_HEIR) {
		if (!r->vm->frozen)
			return false;
		take_over(r);
	}
	dev_relay_wait_none(r);
	if (r->peer)
		rs_mux_unbind(&r->peer->mux, &r->chan);
	if (r->peer)
		dev_link_unuse(r->peer);
	r->peer = NULL;
	return true;
}

bool dev_relay_moves(const struct dev_relay *r)
{
	return r && r->chan.rs.dials && r->peer && r->peer->address[0];
}

void dev_relay_freeze(struct dev_vm *vm)
{
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;) {
		struct dev_relay *r = dev_conn_of(v)->relay;
		if (!dev_relay_moves(r) || r->asleep)
			continue;
		r->asleep = true;
		dev_relay_wait_none(r);
		if (r->peer)
			rs_mux_unbind(&r->peer->mux, &r->chan);
	}
}

void dev_relay_left(struct dev_vm *vm)
{
	for (size_t i = 0; vm->frozen && i < vm->n_chunks * DEV_CONNS_CHUNK; i++) {
		struct dev_conn *c = dev_conn_at(vm, i);
		if (c->heir)
			take_over(c->heir);
	}
}

size_t dev_relay_record_size(const struct dev_conn *c)
{
	if (!c->relay && !c->heir)
		return 0;
	return REC_BYTES + DEV_ADDRESS_MAX +
	       (dev_relay_moves(c->relay) ? rs_save_size(&c->relay->chan.rs) : 0);
}

uint8_t *dev_relay_record(const struct dev_conn *c, size_t *ret_n)
{
	const struct dev_relay *r = dev_relay_moves(c->relay) ? c->relay : c->heir;
	*ret_n = 0;
	if (!r)
		return NULL;
	bool moves = r == c->relay;
	/* Who comes to an end that a relay has read from goes on where that has stopped. */
	const struct dev_relay *at = c->relay;
	const char *address = moves ? r->peer->address : r->link->daemon->opt.link;
	size_t n_address = strlen(address), n_stream = moves ? rs_save_size(&r->chan.rs) : 0;
	uint8_t *p = calloc(1, REC_BYTES + n_address + n_stream);
	if (!p)
		return NULL;
	p[REC_VERSION] = 1;
	le16_to(p + REC_ADDRESS_LEN, (uint16_t)n_address);
	le32_to(p + REC_WINDOW, (uint32_t)r->chan.rs.rx.cap);
	memcpy(p + REC_TOKEN, r->chan.rs.token, RS_TOKEN_SIZE);
	if (at) {
		p[REC_WHAT] = at->what;
		le32_to(p + REC_LEFT, at->left);
		le32_to(p + REC_FLAGS, (at->fin_in ? REC_FIN_IN : 0u) |
					       (at->deaf_in ? REC_DEAF_IN : 0u) |
					       (at->fin_out ? REC_FIN_OUT : 0u) |
					       (at->deaf_out ? REC_DEAF_OUT : 0u));
	}
	memcpy(p + REC_BYTES, address, n_address);
	if (moves && rs_save(&r->chan.rs, p + REC_BYTES + n_address, n_stream) < 0) {
		free(p); /* cannot be: the size is right */
		return NULL;
	}
	*ret_n = REC_BYTES + n_address + n_stream;
	return p;
}

/* ---- the destination ---- */

/* Room for what an end may still have to say without payload. */
static bool may_say(struct dev_relay *r)
{
	size_t heads = (size_t)3 - r->fin_out - r->deaf_out; /* READY is the third */
	bool says = r->kind == DEV_RELAY_CONN || r->kind == DEV_RELAY_HOST;
	return !says || hf_ring_room(&stream(r)->tx) >= heads * DEV_HEAD_BYTES;
}

int dev_relay_load_stream(struct dev_relay *r, const void *data, size_t n)
{
	struct rs *rs = stream(r), was = *rs;
	int e = rs_load(rs, data, n, was.tx.buf, was.tx.cap, was.rx.buf, was.rx.cap);
	if (e == 0 && rs->dials == was.dials && memcmp(rs->token, was.token, RS_TOKEN_SIZE) == 0 &&
		may_say(r)) {
		rs_detach(rs);
		return 0;
	}
	*rs = was;
	return -EINVAL;
}

int dev_relay_load(struct dev_vm *vm, struct dev_conn *c, const void *data, size_t n)
{
	const uint8_t *p = data;
	char address[DEV_ADDRESS_MAX + 1] = "";
	if (n < REC_BYTES || p[REC_VERSION] != 1)
		return -EINVAL;
	size_t n_address = le16_at(p + REC_ADDRESS_LEN), window = le32_at(p + REC_WINDOW);
	uint32_t flags = le32_at(p + REC_FLAGS);
	if (n_address > DEV_ADDRESS_MAX || n_address > n - REC_BYTES ||
		!dev_relay_window_ok(window) || le32_at(p + REC_LEFT) > DEV_RELAY_LEFT_MAX ||
		p[REC_WHAT] > DEV_HEAD_WHOLE_EOR)
		return -EINVAL;
	memcpy(address, p + REC_BYTES, n_address);
	struct dev_peer *peer = dev_link_peer(&vm->daemon->link, address);
	if (!peer)
		return -EHOSTUNREACH;
	struct dev_relay *r;
	int e = dev_relay_new(vm, c, p + REC_TOKEN, true, window, &r);
	if (e < 0)
		return e;
	r->peer = peer;
	dev_link_use(peer);
	r->kind = DEV_RELAY_CONN;
	r->asleep = true;
	r->left = le32_at(p + REC_LEFT);
	r->what = p[REC_WHAT];
	r->fin_in = flags & REC_FIN_IN;
	r->deaf_in = flags & REC_DEAF_IN;
	r->fin_out = flags & REC_FIN_OUT;
	r->deaf_out = flags & REC_DEAF_OUT;
	size_t at = REC_BYTES + n_address;
	e = n > at ? dev_relay_load_stream(r, p + at, n - at) : 0; /* else a new one */
	if (e < 0) {
		dev_relay_free(r);
		return e;
	}
	c->relay = r;
	return 0;
}

/* The other end of one that dials may be here. */
static void find_home(struct dev_relay *r)
{
	r->home = dev_relay_find(r->link, stream(r)->token);
	if (r->home)
		r->home->home = r;
}

void dev_relay_go_on(struct dev_vm *vm, struct dev_conn *c)
{
	struct dev_relay *r = c->relay;
	if (c->gone) { /* nobody should run this VM here any more */
		c->gone = false;
		dev_conn_failed(vm, c, -ECONNRESET);
		return;
	}
	disinherit(c);
	if (!r || !r->asleep)
		return;
	r->asleep = false;
	if (c->core.unclaimed && vsk_claim(&vm->vsk, vm->loop->now_us, &c->core) == 0) {
		c->since_us = vm->loop->now_us;
		hf_debug("vm %s: conn %u<-%u: relayed to %s", vm->opt->name, c->core.host_port,
			c->core.guest_port, r->peer->address);
	}
	if (c->core.peer_cid != VSK_CID_HOST)
		vsk_unrelay(&vm->vsk, &c->core, 0); /* it knows the room of its sibling alone */
	if (vsk_guest_ended(&c->core))
		dev_relay_say_fin(r);
	if (c->core.guest_shut & VSK_SHUT_RCV)
		dev_relay_say_deaf(r);
	dev_relay_said(r);
	find_home(r);
	if (dev_relay_come_home(r))
		return;
	dev_link_bind(r);
	dev_relay_work(r);
}

/* ---- a takeover ---- */

int dev_relay_make(struct dev_link *l, const uint8_t *token, bool dials, size_t window,
	const char *address, struct dev_relay **ret)
{
	if (!dev_relay_window_ok(window) || (address[0] && !dials))
		return -EINVAL;
	struct dev_peer *peer = address[0] ? dev_link_peer(l, address) : NULL;
	if (address[0] && !peer)
		return -EHOSTUNREACH;
	int e = dev_relay_alloc(l, token, dials, window, ret);
	if (e < 0)
		return e;
	(*ret)->peer = peer;
	if (peer)
		dev_link_use(peer);
	return 0;
}

int dev_relay_lead(struct dev_relay *r, struct dev_vm *vm, struct dev_conn *c)
{
	enum vsk_state s = c->core.state;
	if (s != VSK_OPEN && s != VSK_DIALLING && s != VSK_ASKING)
		return -EINVAL;
	r->vm = vm;
	r->c = c;
	c->relay = r;
	r->message = c->core.type == VSK_TYPE_SEQPACKET;
	return 0;
}

void dev_relay_adopt(struct dev_relay *r)
{
	r->readable = r->fd >= 0;
	if (r->fd >= 0)
		dev_relay_watch_host(r, false);
	if (r->kind == DEV_RELAY_CONN && stream(r)->dials)
		find_home(r);
	dev_link_bind(r);
	dev_relay_work(r);
}

void dev_relay_forget(struct dev_relay *r)
{
	if (r->c)
		r->c->relay = NULL;
	dev_relay_free(r);
}
