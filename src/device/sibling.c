/* SPDX-License-Identifier: MIT */
/*
 * sibling.c - connections from one guest to another, both of this process.
 *
 * There are two connections, one per VM, and each is the host end of the other: what the guest of
 * one does is done to the other as its host. VMs that share a group may talk (D1.4).
 *
 *   dial         the other VM's guest is asked; its answer is the answer to the dial
 *   payload      goes from the tx chain of one guest straight into rx buffers of the other, as far
 *                as these go; the rest waits in the sender's ring, which its credit bounds, and is
 *                fetched when the receiver has buffers
 *   credit       is from end to end: each guest is told of the room that the other one has
 *   half-closes  pass; a close becomes a close, anything worse a reset
 *
 * A receiver that is stuck stops its senders' connections, not their other ones: payload for it is
 * always taken off the tx queue. When one of the VMs leaves, the other's connection gets a relay
 * for a host end, if there is a link (relay_move.c); else both guests are sent RST.
 */
#include "base/log.h"
#include "daemon.h"
#include "relay.h"
#include "vm.h"
#include <errno.h>
#include <string.h>

/* Payload of a tx chain that is being offered to the other guest. */
static struct {
	struct dev_conn *from; /* NULL: none */
	const struct iovec *iov;
	size_t n_iov, off, len;
	uint32_t flags;
	bool taken; /* to the end */
} lent;

/* The other VM has something to do. */
static void poke(struct dev_vm *vm)
{
	vm->daemon->poked = true;
}

static void pair(struct dev_vm *vm_a, struct dev_conn *a, struct dev_vm *vm_b, struct dev_conn *b)
{
	a->sibling = b;
	a->sibling_vm = vm_b;
	b->sibling = a;
	b->sibling_vm = vm_a;
}

static struct dev_conn *unpair(struct dev_conn *c)
{
	struct dev_conn *other = c->sibling;
	c->sibling = other->sibling = NULL;
	return other;
}

/* ---- life ---- */

static struct dev_vm *find(const struct dev_vm *from, uint32_t cid)
{
	for (size_t i = 0; i < from->daemon->n_vms; i++) {
		struct dev_vm *vm = from->daemon->vm[i];
		if (vm && vm != from && dev_options_cid(vm->opt) == cid && vm->front >= 0 &&
			!vm->frozen && dev_options_share_group(vm->opt, from->opt))
			return vm;
	}
	return NULL;
}

void dev_sibling_dial(struct dev_vm *vm, struct dev_conn *c)
{
	struct dev_vm *to = find(vm, c->core.peer_cid);
	struct vsk_conn *core;
	int r = -EHOSTUNREACH;
	if (to) {
		(void)dev_vm_reserve_slots(to, 1); /* without one the engine refuses, just below */
		r = vsk_connect_from(&to->vsk, vm->loop->now_us, c->core.type,
			dev_options_cid(vm->opt), c->core.guest_port, c->core.host_port, &core);
	}
	if (r < 0) {
		if (!to && vm->opt->groups[0] && dev_relay_ask(vm, c, 0) == 0)
			return; /* another daemon may have it */
		hf_debug("vm %s: guest port %u to %u:%u: %s", vm->opt->name, c->core.guest_port,
			c->core.peer_cid, c->core.host_port, strerror(-r));
		vsk_dialled(&vm->vsk, &c->core, false);
		dev_conn_finish(vm, c);
		return;
	}
	pair(vm, c, to, dev_conn_of(core));
	dev_inflight_note(to, dev_conn_of(core));
	vsk_relay(&to->vsk, core, &c->core, false);
	poke(to);
}

void dev_sibling_connected(struct dev_conn *c)
{
	vsk_relay(&c->sibling_vm->vsk, &c->sibling->core, &c->core, false);
	vsk_dialled(&c->sibling_vm->vsk, &c->sibling->core, true);
	poke(c->sibling_vm);
}

void dev_sibling_heard(struct dev_conn *c, uint16_t op)
{
	struct dev_conn *other = c->sibling;
	struct vsk *v = &c->sibling_vm->vsk;
	if (c->core.state != VSK_OPEN || other->core.state != VSK_OPEN)
		return;
	vsk_relay(v, &other->core, &c->core, op == VSK_OP_CREDIT_UPDATE);
	if (op == VSK_OP_CREDIT_REQUEST)
		vsk_ask(v, &other->core);
	poke(c->sibling_vm);
}

void dev_sibling_shut(struct dev_conn *c, uint8_t bits)
{
	poke(c->sibling_vm);
	dev_conn_host_shut(c->sibling_vm, c->sibling, bits);
}

void dev_sibling_closed(struct dev_conn *c, bool clean)
{
	struct dev_vm *vm = c->sibling_vm;
	struct dev_conn *other = unpair(c);
	poke(vm);
	if (other->core.state == VSK_DIALLING) {
		vsk_dialled(&vm->vsk, &other->core, false);
		dev_conn_finish(vm, other);
	} else if (clean) {
		dev_conn_host_shut(vm, other, VSK_SHUT_BOTH);
	} else {
		dev_conn_failed(vm, other, -ECONNRESET);
	}
}

void dev_sibling_inherit(struct dev_conn *c, struct dev_relay *r)
{
	struct dev_vm *vm = c->sibling_vm;
	struct dev_conn *other = unpair(c);
	other->relay = r;
	vsk_unrelay(&vm->vsk, &other->core, other->given);
	other->given = 0;
	r->kind = DEV_RELAY_CONN;
	dev_relay_give(r, vm, other);
	dev_relay_shut(r, (uint8_t)((vsk_guest_ended(&other->core) ? VSK_SHUT_SEND : 0) |
				    (other->core.guest_shut & VSK_SHUT_RCV)));
	poke(vm);
}

void dev_sibling_thaw(struct dev_conn *c)
{
	vsk_host_readable(&c->sibling_vm->vsk, &c->sibling->core);
	poke(c->sibling_vm);
}

/* The other one of a pair that was taken over. */
static struct dev_conn *other_of(
	struct dev_vm *vm, const struct dev_conn *c, struct dev_vm **ret_vm)
{
	for (size_t i = 0; i < vm->daemon->n_vms; i++) {
		struct dev_vm *to = vm->daemon->vm[i];
		if (!to || to == vm || dev_options_cid(to->opt) != c->core.peer_cid)
			continue;
		struct vsk_conn *v = vsk_find(
			&to->vsk, dev_options_cid(vm->opt), c->core.guest_port, c->core.host_port);
		*ret_vm = to;
		return v ? dev_conn_of(v) : NULL;
	}
	return NULL;
}

/* What one was given is what the other knows of it: the device's room is counted by that. */
static bool counts_fit(const struct vsk_conn *a, const struct vsk_conn *far)
{
	return !vsk_is_relayed(a) || a->far_tx == (uint32_t)far->tx_cnt;
}

static bool fits(const struct dev_conn *a, const struct dev_conn *b)
{
	bool open = a->core.state == VSK_OPEN && b->core.state == VSK_OPEN;
	bool asked = a->core.state == VSK_DIALLING && b->core.state == VSK_ASKING;
	bool asks = a->core.state == VSK_ASKING && b->core.state == VSK_DIALLING;
	return b->paired && a->core.type == b->core.type && (open || asked || asks) &&
	       counts_fit(&a->core, &b->core) && counts_fit(&b->core, &a->core);
}

/* What is unread and not in the ring was given. */
static void adopt(struct dev_vm *vm, struct dev_conn *c)
{
	c->paired = false;
	c->given = vsk_unread(&c->core) - (uint32_t)hf_ring_len(&c->to_host);
	vsk_host_readable(&vm->vsk, &c->core);
}

int dev_sibling_adopt(struct dev_daemon *d)
{
	for (size_t i = 0; i < d->n_vms; i++) {
		struct dev_vm *vm = d->vm[i], *to;
		for (struct vsk_conn *v = NULL; vm && (v = vsk_next(&vm->vsk, v)) != NULL;) {
			struct dev_conn *c = dev_conn_of(v);
			if (!c->paired)
				continue;
			struct dev_conn *other = other_of(vm, c, &to);
			if (!other || !fits(c, other))
				return -EINVAL;
			pair(vm, c, to, other);
			adopt(vm, c);
			adopt(to, other);
		}
	}
	return 0;
}

/* ---- payload ---- */

void dev_sibling_deliver(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov,
	size_t n_iov, size_t len, uint32_t flags)
{
	struct dev_conn *other = c->sibling;
	struct dev_vm *to = c->sibling_vm;
	size_t off = 0;
	poke(to);
	if (dev_conn_may_pass(c, flags) && dev_ring_rx_ready(to)) {
		lent.from = c;
		lent.iov = iov;
		lent.n_iov = n_iov;
		lent.off = 0;
		lent.len = len;
		lent.flags = flags;
		lent.taken = false;
		vsk_host_readable(&to->vsk, &other->core);
		(void)dev_ring_rx(to); /* what is left is done in the other VM's turn */
		dev_ring_tell(to);
		lent.from = NULL;
		off = lent.off;
		if (lent.taken || c->sibling != other) /* or it ended over this */
			return;
	}
	dev_conn_keep(vm, c, iov, n_iov, off, len, flags);
	if (c->sibling == other)
		vsk_host_readable(&to->vsk, &other->core);
}

/* Copies up to `cap` bytes of what is lent. */
static size_t borrow_part(uint8_t *to, size_t cap)
{
	size_t n = 0, at = 0, want = HF_MIN(cap, lent.len - lent.off);
	for (size_t i = 0; i < lent.n_iov && n < want; at += lent.iov[i++].iov_len) {
		size_t skip = HF_MIN(lent.off + n - at, lent.iov[i].iov_len);
		size_t k = HF_MIN(lent.iov[i].iov_len - skip, want - n);
		memcpy(to + n, (const uint8_t *)lent.iov[i].iov_base + skip, k);
		n += k;
	}
	lent.off += n;
	return n;
}

static size_t borrow(const struct iovec *iov, size_t n_iov, uint32_t *ret_flags)
{
	size_t n = 0;
	for (size_t i = 0; i < n_iov; i++)
		n += borrow_part(iov[i].iov_base, iov[i].iov_len);
	lent.taken = lent.off == lent.len;
	*ret_flags = lent.taken ? lent.flags : 0;
	return n;
}

ssize_t dev_sibling_read(
	struct dev_conn *c, const struct iovec *iov, size_t n_iov, uint32_t *ret_flags)
{
	struct dev_conn *from = c->sibling;
	size_t n = 0;
	if (c->sibling_vm->frozen)
		return -EAGAIN; /* what it has may be in a record */
	if (c->core.type == VSK_TYPE_SEQPACKET && hf_ring_len(&from->to_host_ends) > 0) {
		n = dev_message_take(&from->to_host, &from->to_host_ends, iov, n_iov, ret_flags);
	} else if (lent.from == from && !lent.taken) {
		n = borrow(iov, n_iov, ret_flags);
	} else if (c->core.type == VSK_TYPE_STREAM) {
		for (size_t i = 0; i < n_iov; i++)
			n += hf_ring_get(&from->to_host, iov[i].iov_base, iov[i].iov_len);
	}
	from->given += (uint32_t)n;
	return n > 0 || *ret_flags ? (ssize_t)n : -EAGAIN;
}

/* A message counts as taken when all of it was given; of the device's room each part. */
void dev_sibling_given(struct dev_conn *c, uint32_t flags)
{
	struct dev_conn *from = c->sibling;
	struct dev_vm *vm = c->sibling_vm;
	struct vsk_ev ev;
	uint32_t n = from->given;
	poke(vm);
	vsk_relay(&vm->vsk, &from->core, &c->core, false);
	if (c->core.type == VSK_TYPE_SEQPACKET && !(flags & VSK_MSG_EOM))
		return;
	from->given = 0;
	vsk_host_took(&vm->vsk, vm->loop->now_us, &from->core, n, &ev);
	dev_conn_handle(vm, &ev);
}
