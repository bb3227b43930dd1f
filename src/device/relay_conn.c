/* SPDX-License-Identifier: MIT */
/*
 * relay_conn.c - a relay that is the host end of a connection, as a socket or another guest could
 * be.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay_internal.h"
#include <errno.h>

#define SEND_MIN 1024u /* a stream's payload is not cut smaller than this for want of room */

ssize_t dev_relay_send(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, size_t len, uint32_t flags)
{
	size_t space = HF_MIN(dev_relay_room(r), (size_t)DEV_RELAY_LEFT_MAX),
	       n = HF_MIN(len, space), left = n;
	if (rs_state(stream(r)) != RS_OPEN ||
		rs_room(stream(r)) < DEV_HEAD_BYTES + DEV_RELAY_RESERVE ||
		n < (r->message ? len : HF_MIN(len, (size_t)SEND_MIN)))
		return -EAGAIN;
	dev_relay_put_head(r, r->message ? flags & DEV_HEAD_WHOLE_EOR : DEV_HEAD_PART, n);
	for (size_t i = 0; i < n_iov && left > 0; i++) {
		size_t k = HF_MIN(left, iov[i].iov_len);
		(void)rs_write(stream(r), iov[i].iov_base, k); /* there is room */
		left -= k;
	}
	r->out_bytes += n;
	r->link->out_bytes += n;
	wake(r);
	return (ssize_t)n;
}

/* Payload of the stream into an iovec of what is left of `to`. */
static size_t copy_out(struct dev_relay *r, const struct iovec *to, size_t off)
{
	size_t n = HF_MIN(to->iov_len - off, (size_t)r->left);
	n = hf_ring_peek(&stream(r)->rx, 0, (uint8_t *)to->iov_base + off, n);
	dev_relay_take_payload(r, n);
	return n;
}

ssize_t dev_relay_read(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, uint32_t *ret_flags)
{
	size_t n = 0, i = 0, off = 0;
	uint32_t value;
	*ret_flags = 0;
	if (r->message && dev_relay_peek(r, &value) >= 0 && value > vsk_message_max(&r->c->core))
		return -EMSGSIZE; /* the guest could never take it */
	while (i < n_iov && (r->left > 0 || dev_relay_next_payload(r))) {
		size_t k = copy_out(r, &iov[i], off);
		n += k;
		off += k;
		if (r->left == 0 && r->message && (r->what & DEV_HEAD_WHOLE)) {
			*ret_flags = r->what;
			break;
		}
		if (off == iov[i].iov_len) {
			i++;
			off = 0;
		} else if (k == 0) {
			break; /* the rest has not come yet */
		}
	}
	if (dev_relay_peek(r, &value) > DEV_HEAD_WHOLE_EOR || r->home)
		dev_relay_work(r); /* what is said next is not for the caller; or it was all */
	wake(r);
	if (n > 0 || *ret_flags)
		return (ssize_t)n;
	if (dev_relay_next_is(r, DEV_HEAD_FIN) && dev_relay_next_is(r, DEV_HEAD_DEAF))
		r->c->hup = true;
	return r->fin_in ? 0 : -EAGAIN;
}

void dev_relay_shut(struct dev_relay *r, uint8_t bits)
{
	if (bits & VSK_SHUT_SEND)
		dev_relay_say_fin(r);
	if (bits & VSK_SHUT_RCV)
		dev_relay_say_deaf(r);
	dev_relay_said(r);
}

void dev_relay_close(struct dev_relay *r, bool clean)
{
	if (r->asleep) { /* the stream may be another's by now */
		dev_relay_free(r);
		return;
	}
	r->kind = DEV_RELAY_ORPHAN;
	r->c = NULL;
	r->vm = NULL;
	if (clean)
		dev_relay_shut(r, VSK_SHUT_BOTH);
	else
		rs_reset(stream(r), DEV_RELAY_RESET);
	wake(r);
	dev_relay_work(r);
}

/* The guest will not read what has come, or is gone: drops it. The end of it is told. */
static void drop_for_deaf_guest(struct dev_relay *r)
{
	while (r->left > 0 || dev_relay_next_payload(r)) {
		size_t n = HF_MIN((size_t)r->left, hf_ring_len(&stream(r)->rx));
		if (r->left > 0 && n == 0)
			break;
		dev_relay_take_payload(r, n);
	}
	if (dev_relay_next_is(r, DEV_HEAD_FIN) && r->c->core.state == VSK_OPEN)
		dev_conn_host_shut(r->vm, r->c, VSK_SHUT_SEND);
}

/* The other end reads no more: of a guest that is gone, nothing need be sent any more. */
static void heed_deaf(struct dev_relay *r)
{
	if (r->c->core.state == VSK_CLOSED)
		r->c->hup = true;
	else
		dev_conn_host_shut(r->vm, r->c, r->fin_in ? VSK_SHUT_BOTH : VSK_SHUT_RCV);
}

/* All that either end has said was taken by the other, and neither has said that it ends. */
static bool is_still(struct dev_relay *a, struct dev_relay *b)
{
	bool end = a->fin_in || a->fin_out || a->deaf_in || a->deaf_out || b->fin_in ||
		   b->fin_out || b->deaf_in || b->deaf_out;
	return !end && a->left == 0 && b->left == 0 &&
	       rs_tx_end(stream(a)) == rs_rx_taken(stream(b)) &&
	       rs_tx_end(stream(b)) == rs_rx_taken(stream(a));
}

/* The VM has come back to where its application is: at the first moment at which nothing is under
 * way the connection gets its socket back. True: it has, and the relay is gone. */
bool dev_relay_come_home(struct dev_relay *r)
{
	struct dev_relay *home = r->home;
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	if (!home || home->kind != DEV_RELAY_HOST || home->fd < 0 || !is_alive(r) ||
		!is_alive(home) || c->core.state != VSK_OPEN || !is_still(r, home))
		return false;
	int fd = fd_take(&home->fd);
	dev_relay_free(home);
	c->relay = NULL;
	dev_relay_free(r);
	int e = dev_conn_attach(vm, c, fd, 0);
	if (e < 0) {
		dev_conn_failed(vm, c, e);
		return true;
	}
	hf_debug("vm %s: conn %u<-%u: at home again", vm->opt->name, c->core.host_port,
		c->core.guest_port);
	dev_conn_thaw(vm, c);
	return true;
}

void dev_relay_step_conn(struct dev_relay *r)
{
	uint32_t value;
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	if (r->asleep || (vm->frozen && c->core.state != VSK_CLOSED)) /* that is in no record */
		return;
	if (!is_alive(r) && c->core.state == VSK_DIALLING && rs_state(stream(r)) == RS_UNKNOWN) {
		dev_relay_ask_another(r);
		return;
	}
	if (!is_alive(r)) {
		dev_relay_expire(r, -ECONNRESET);
		return;
	}
	if (c->core.state == VSK_DIALLING && dev_relay_next_is(r, DEV_HEAD_READY))
		vsk_dialled(&vm->vsk, &c->core, true);
	bool closed = c->core.state == VSK_CLOSED, begun = closed || c->core.state == VSK_OPEN;
	if (closed || (begun && /* nobody will ask for what comes */
			      ((c->core.guest_shut & VSK_SHUT_RCV) ||
				      (c->core.host_shut & VSK_SHUT_SEND))))
		drop_for_deaf_guest(r);
	if (c->relay == r && begun && dev_relay_next_is(r, DEV_HEAD_DEAF))
		heed_deaf(r);
	if (c->relay != r)
		return; /* it ended over this, and the relay has work of its own */
	if (dev_relay_peek(r, &value) >= DEV_HEAD_DEAF) {
		dev_relay_expire(r, -EPROTO);
		return;
	}
	if (rs_readable_end(stream(r)))
		rs_take_end(stream(r));
	wake(r);
	if (!dev_relay_come_home(r))
		dev_conn_thaw(vm, c);
}
