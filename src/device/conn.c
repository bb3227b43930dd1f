/* SPDX-License-Identifier: MIT */
/*
 * conn.c - host sockets of connections.
 *
 * Sockets are watched edge-triggered. Readable: the engine is told and asks for data when the guest
 * has room for it. Writable matters only while something waits in the ring to_host: watched always,
 * each read of the host application would wake us up.
 * Nobody else has the description of such a socket, so closing it ends the watch.
 *
 * A client's CONNECT line is taken out of its socket only after the client was told OK. Taking it
 * wakes up who waits for room in the socket, and with him who waits for the answer, for nothing.
 *
 * The ring's memory is taken when it is first needed and given back with the connection; its length
 * is what the engine calls unread, so the credit given to the guest bounds it.
 */
#include "base/fd.h"
#include "base/log.h"
#include "relay.h"
#include "vm.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* syscalls: sendmsg recvmsg shutdown setsockopt(1=SOL_SOCKET) */

/* The kernel doubles it: 256 KiB and the overhead of their pages. */
#define SNDBUF_BYTES (160 << 10)

struct dev_conn *dev_conn_at(const struct dev_vm *vm, size_t slot)
{
	if (slot >= vm->n_chunks * DEV_CONNS_CHUNK)
		return NULL;
	return &vm->chunk[slot / DEV_CONNS_CHUNK][slot % DEV_CONNS_CHUNK];
}

static void log_conn(const struct dev_vm *vm, const struct dev_conn *c, const char *what)
{
	hf_debug("vm %s: conn %u:%u<-%u:%u: %s", vm->opt->name, c->core.peer_cid, c->core.host_port,
		vm->opt->guest_cid, c->core.guest_port, what);
}

static void ring_free(struct hf_ring *r)
{
	free(r->buf);
	hf_ring_init(r, NULL, 0);
}

int dev_conn_reserve(struct hf_ring *r, size_t room)
{
	if (hf_ring_room(r) >= room)
		return 0;
	size_t cap = 4096;
	while (cap < hf_ring_len(r) + room)
		cap *= 2;
	void *p = malloc(cap);
	if (!p)
		return -ENOMEM;
	struct hf_ring bigger;
	hf_ring_init(&bigger, p, cap);
	size_t n = hf_ring_get(r, p, hf_ring_len(r));
	hf_ring_produced(&bigger, n);
	free(r->buf);
	*r = bigger;
	return 0;
}

/* Something waits that may be sent to the host: bytes, or a whole message. */
static bool waits(const struct dev_conn *c)
{
	return hf_ring_len(c->core.type == VSK_TYPE_SEQPACKET ? &c->to_host_ends : &c->to_host) > 0;
}

/* It has a host end that takes bytes. */
static bool has_end(const struct dev_conn *c)
{
	return c->fd >= 0 || c->relay;
}

void dev_conn_take_line(struct dev_conn *c)
{
	dev_unix_take_line(c->fd, &c->line);
}

static void close_end(struct dev_vm *vm, struct dev_conn *c, bool clean)
{
	struct dev_relay *r = c->relay;
	c->relay = NULL;
	if (r)
		dev_relay_close(r, clean);
	dev_conn_take_line(c); /* or the client would be told of an error, not of the end */
	dev_loop_drop(vm->loop, &c->fd);
}

static void drop_to_host(struct dev_conn *c)
{
	ring_free(&c->to_host);
	ring_free(&c->to_host_ends);
	c->part = c->given = 0;
}

static int watch(struct dev_vm *vm, struct dev_conn *c, bool out)
{
	c->watches_out = out;
	return dev_loop_watch(vm->loop, c->fd,
		(c->quiet ? 0 : EPOLLIN) | EPOLLRDHUP | EPOLLET | (out ? (uint32_t)EPOLLOUT : 0),
		dev_vm_tag(vm, DEV_ON_CONN, c->slot, c->core.gen));
}

int dev_conn_attach(struct dev_vm *vm, struct dev_conn *c, int fd, size_t line)
{
	c->fd = fd;
	c->line = (uint8_t)line;
	c->quiet = line > 0;
	c->since_us = vm->loop->now_us;
	c->hup = c->ending = c->wide = false;
	int r = 0;
	if (c->core.type == VSK_TYPE_SEQPACKET)
		r = dev_message_setup(fd, c->core.buf_alloc);
	if (r == 0)
		r = watch(vm, c, waits(c));
	if (r < 0)
		dev_loop_drop(vm->loop, &c->fd);
	return r;
}

int dev_conn_adopt(struct dev_vm *vm, struct dev_conn *c, int fd)
{
	c->fd = fd;
	if (fd >= 0 && c->core.state == VSK_DIALLING) /* forward.c waits for the answer */
		return dev_loop_watch(
			vm->loop, fd, EPOLLOUT, dev_vm_tag(vm, DEV_ON_CONN, c->slot, c->core.gen));
	return fd < 0 ? 0 : watch(vm, c, waits(c));
}

void dev_conn_forget(struct dev_conn *c)
{
	fd_closep(&c->fd);
	drop_to_host(c);
	ring_free(&c->to_guest);
	ring_free(&c->to_guest_ends);
	free(c->app);
}

void dev_conn_finish(struct dev_vm *vm, struct dev_conn *c)
{
	if (c->dialling)
		hf_list_remove(&c->dial_node);
	c->dialling = false;
	c->since_us = c->dial_to = 0;
	dev_inflight_forget(vm, c);
	c->forwarded = false;
	if (c->sibling)
		dev_sibling_closed(c, false);
	close_end(vm, c, true);
	if (c->heir)
		dev_relay_disown(c);
	drop_to_host(c);
	ring_free(&c->to_guest);
	ring_free(&c->to_guest_ends);
	dev_state_detach(vm, c);
	c->arrived = c->gone = c->quiet = false;
	c->line = 0;
	c->fate = DEV_KEPT;
	vsk_release(&vm->vsk, &c->core);
}

void dev_conn_host_shut(struct dev_vm *vm, struct dev_conn *c, uint8_t bits)
{
	struct vsk_ev ev;
	if (bits & VSK_SHUT_RCV)
		drop_to_host(c);
	vsk_host_shutdown(&vm->vsk, vm->loop->now_us, &c->core, bits, &ev);
	dev_conn_handle(vm, &ev);
	if (c->core.held_by_device && c->core.host_shut == VSK_SHUT_BOTH)
		close_end(vm, c, true);
}

static ssize_t send_iov(int fd, struct iovec *iov, size_t n_iov)
{
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n_iov };
	ssize_t n;
	do
		n = sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

static ssize_t send_to_host(
	struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t len, uint32_t flags)
{
	return c->relay ? dev_relay_send(c->relay, iov, n_iov, len, flags)
			: send_iov(c->fd, iov, n_iov);
}

static void took(struct dev_vm *vm, struct dev_conn *c, size_t n)
{
	struct vsk_ev ev;
	vsk_host_took(&vm->vsk, vm->loop->now_us, &c->core, (uint32_t)n, &ev);
	dev_conn_handle(vm, &ev);
}

/* Asks to be told when the socket takes more. Without that, nothing would ever be sent again. */
static void wait_for_room(struct dev_vm *vm, struct dev_conn *c)
{
	if (c->relay)
		return; /* it tells when it has room */
	if (!c->watches_out && watch(vm, c, true) < 0)
		hf_error("vm %s: conn %u<-%u: cannot watch", vm->opt->name, c->core.host_port,
			c->core.guest_port); /* epoll_ctl changes what it has; it cannot fail */
}

/* The host takes no more; or it could not take this message, and without it there is no use. */
static void send_failed(struct dev_vm *vm, struct dev_conn *c, int error)
{
	if (error == -EMSGSIZE) {
		hf_warn("vm %s: conn %u<-%u: reset: a message of the guest is larger than the send "
			"buffer of a socket: raise net.core.wmem_max",
			vm->opt->name, c->core.host_port, c->core.guest_port);
		dev_conn_failed(vm, c, error);
	} else {
		dev_conn_host_shut(vm, c, VSK_SHUT_RCV);
	}
}

/* Sends what waits for the host. A closed connection is freed when nothing waits any more. */
static void flush(struct dev_vm *vm, struct dev_conn *c)
{
	while (waits(c) && has_end(c)) {
		struct iovec iov[2];
		bool message = c->core.type == VSK_TYPE_SEQPACKET;
		size_t len = message ? dev_message_len(&c->to_host_ends) : hf_ring_len(&c->to_host);
		int k = hf_ring_iov_(&c->to_host, c->to_host.head, len, iov);
		uint32_t flags = message ? dev_message_flags(&c->to_host_ends) : 0;
		ssize_t n = send_to_host(c, iov, (size_t)k, len, flags);
		if (n == -EAGAIN) {
			wait_for_room(vm, c);
			return;
		}
		bool closed = c->core.state == VSK_CLOSED;
		if (n < 0 && closed) {
			drop_to_host(c);
		} else if (n < 0) {
			send_failed(vm, c, (int)n);
		} else {
			hf_ring_consumed(&c->to_host, (size_t)n);
			if (message)
				hf_ring_consumed(&c->to_host_ends, VSK_END_BYTES);
			if (!closed)
				took(vm, c, (size_t)n);
		}
		if (!c->core.held_by_device)
			return; /* that was its end */
	}
	if (c->core.state == VSK_CLOSED && !waits(c))
		dev_conn_finish(vm, c);
	else if (c->fd >= 0 && c->watches_out)
		(void)watch(vm, c, false); /* cannot fail; at worst a needless wake-up */
}

/* Drops the connection for want of memory: the only way to keep what was promised. */
static void reset_for_memory(struct dev_vm *vm, struct dev_conn *c)
{
	hf_warn("vm %s: conn %u<-%u: reset: out of memory", vm->opt->name, c->core.host_port,
		c->core.guest_port);
	vsk_host_reset(&vm->vsk, &c->core);
	dev_conn_finish(vm, c);
}

/* A part of a message has come, and perhaps its end. 0 or -ENOMEM. */
static int keep_end(struct dev_conn *c, size_t len, uint32_t flags)
{
	c->part += (uint32_t)len;
	if (!(flags & VSK_MSG_EOM))
		return 0;
	int r = dev_message_end(&c->to_host_ends, c->part, flags & VSK_MSG_EOR);
	c->part = 0;
	return r;
}

void dev_conn_keep(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov, size_t n_iov,
	size_t off, size_t len, uint32_t flags)
{
	int r = c->to_host.buf ? 0 : dev_conn_reserve(&c->to_host, c->core.buf_alloc);
	if (r == 0 && c->core.type == VSK_TYPE_SEQPACKET)
		r = keep_end(c, len - off, flags);
	if (r < 0) {
		reset_for_memory(vm, c);
		return;
	}
	for (size_t i = 0; i < n_iov; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		size_t n = iov[i].iov_len - off;
		size_t put = hf_ring_put(&c->to_host, (uint8_t *)iov[i].iov_base + off, n);
		hf_assert(put == n); /* the engine refuses what is over the credit */
		off = 0;
	}
}

/* A stream's socket that was full once gets a buffer that holds what a guest may send ahead, so
 * that the next window is copied into it and not into the ring first. */
static void widen(struct dev_conn *c)
{
	static const int bytes = SNDBUF_BYTES;
	if (c->fd >= 0 && !c->wide) /* where it is refused, the ring does */
		(void)setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	c->wide = true;
}

bool dev_conn_may_pass(const struct dev_conn *c, uint32_t flags)
{
	bool whole = c->core.type == VSK_TYPE_STREAM || (c->part == 0 && (flags & VSK_MSG_EOM));
	return whole && !waits(c);
}

void dev_conn_deliver(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov, size_t n_iov,
	size_t len, uint32_t flags)
{
	bool message = c->core.type == VSK_TYPE_SEQPACKET;
	ssize_t n = -EAGAIN;
	if (c->sibling) {
		dev_sibling_deliver(vm, c, iov, n_iov, len, flags);
		return;
	}
	if (has_end(c) && dev_conn_may_pass(c, flags))
		n = send_to_host(c, (struct iovec *)iov, n_iov, len, flags);
	if (n < 0 && n != -EAGAIN) {
		send_failed(vm, c, (int)n);
		return;
	}
	size_t sent = n < 0 ? 0 : (size_t)n;
	if (n < 0 || sent < len) {
		if (!message)
			widen(c);
		dev_conn_keep(vm, c, iov, n_iov, sent, len, flags);
	}
	if (waits(c) && c->fd >= 0)
		wait_for_room(vm, c);
	else if (n == -EAGAIN && c->relay) /* a message may be whole now */
		flush(vm, c);
	if ((sent > 0 || (message && n == 0)) && c->core.held_by_device)
		took(vm, c, sent);
}

ssize_t dev_conn_read(struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t len,
	bool *ret_drained, uint32_t *ret_flags)
{
	*ret_drained = false;
	*ret_flags = 0;
	if (c->sibling)
		return dev_sibling_read(c, iov, n_iov, ret_flags);
	if (c->relay && hf_ring_len(&c->to_guest) + hf_ring_len(&c->to_guest_ends) == 0)
		return dev_relay_read(c->relay, iov, n_iov, ret_flags);
	if (c->core.type == VSK_TYPE_SEQPACKET)
		return dev_message_read(c, iov, n_iov, len, ret_flags);
	if (hf_ring_len(&c->to_guest) > 0) {
		size_t sum = 0;
		for (size_t i = 0; i < n_iov; i++)
			sum += hf_ring_get(&c->to_guest, iov[i].iov_base, iov[i].iov_len);
		return (ssize_t)sum;
	}
	ring_free(&c->to_guest);
	if (c->fd < 0)
		return -EAGAIN; /* nobody has claimed it yet */
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = n_iov };
	ssize_t n;
	do
		n = recvmsg(c->fd, &mh, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	/* What comes after a short read is an edge of its own. Not so an end that was announced
	 * before it, nor what lies behind descriptors: a read stops at them (and they are lost). */
	*ret_drained = n > 0 && (size_t)n < len && !c->ending && !(mh.msg_flags & MSG_CTRUNC);
	return n < 0 ? -errno : n;
}

void dev_conn_ended(struct dev_vm *vm, struct dev_conn *c)
{
	dev_conn_host_shut(vm, c, c->hup ? VSK_SHUT_BOTH : VSK_SHUT_SEND);
}

void dev_conn_failed(struct dev_vm *vm, struct dev_conn *c, int error)
{
	log_conn(vm, c, strerror(-error));
	close_end(vm, c, false);
	vsk_host_reset(&vm->vsk, &c->core);
	dev_conn_finish(vm, c);
}

/* Does what the socket's state asks for, after an event or after a time without events. */
static void look(struct dev_vm *vm, struct dev_conn *c, bool readable)
{
	if (c->core.state == VSK_CLOSED) {
		if (c->hup)
			drop_to_host(c); /* nobody is left to take it */
		flush(vm, c);
		return;
	}
	if (c->core.state == VSK_ASKING && c->hup) {
		log_conn(vm, c, "the client left before the guest answered");
		vsk_host_reset(&vm->vsk, &c->core);
		dev_conn_finish(vm, c);
		return;
	}
	if (readable)
		vsk_host_readable(&vm->vsk, &c->core);
	/* Where no read will find it out, the hang-up itself says that the host is gone. */
	if (c->hup && (c->core.host_shut & VSK_SHUT_SEND))
		dev_conn_host_shut(vm, c, VSK_SHUT_RCV);
	else if (c->hup && (c->core.guest_shut & VSK_SHUT_RCV))
		dev_conn_host_shut(vm, c, VSK_SHUT_BOTH);
	else
		flush(vm, c);
}

void dev_conn_on_event(struct dev_vm *vm, struct dev_tag tag, uint32_t events)
{
	struct dev_conn *c = dev_conn_at(vm, tag.slot);
	if (!c || !dev_tag_is(tag, c->core.gen) || c->fd < 0)
		return;
	if (c->core.state == VSK_DIALLING) {
		dev_forward_on_event(vm, c, events);
		return;
	}
	if ((events & (EPOLLHUP | EPOLLERR)) ||
		(c->forwarded && (events & EPOLLRDHUP) && dev_forward_deaf(c)))
		c->hup = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		c->ending = true;
	if (!vm->frozen || c->core.state == VSK_CLOSED) /* a closed one is in no record */
		look(vm, c, events & ~(uint32_t)EPOLLOUT);
}

void dev_conn_thaw(struct dev_vm *vm, struct dev_conn *c)
{
	if (c->sibling)
		dev_sibling_thaw(c);
	else if (has_end(c))
		look(vm, c, true);
}

bool dev_conn_say_ok(int fd, uint32_t host_port)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "OK %u\n", host_port);
	struct iovec iov = { .iov_base = line, .iov_len = (size_t)n };
	return send_iov(fd, &iov, 1) == n;
}

static void on_connected(struct dev_vm *vm, struct dev_conn *c)
{
	log_conn(vm, c, "connected");
	if (c->sibling) {
		dev_sibling_connected(c);
		return;
	}
	if (c->relay) {
		dev_relay_accepted(c->relay);
		return;
	}
	if (c->forwarded)
		return;
	if (c->fd < 0 || !dev_conn_say_ok(c->fd, c->core.host_port)) {
		vsk_host_reset(&vm->vsk, &c->core);
		dev_conn_finish(vm, c);
		return;
	}
	dev_conn_take_line(c);
	if (c->quiet) {
		c->quiet = false;
		(void)watch(vm, c, waits(c)); /* epoll_ctl changes what it has; it cannot fail */
	}
}

/* The flow is over for the guest. What it had sent before is still the host's. */
static void on_closed(struct dev_vm *vm, struct dev_conn *c, enum vsk_why why)
{
	log_conn(vm, c, vsk_why_name(why));
	if (c->sibling)
		dev_sibling_closed(c, why == VSK_WHY_CLEAN);
	if (why != VSK_WHY_CLEAN && why != VSK_WHY_GUEST_RST)
		drop_to_host(c);
	if (why != VSK_WHY_CLEAN && (why != VSK_WHY_GUEST_RST || c->core.peer_cid != VSK_CID_HOST))
		close_end(vm, c, false);
	flush(vm, c);
	if (c->core.held_by_device && !has_end(c))
		dev_conn_finish(vm, c); /* lingering needs somebody to linger for */
}

void dev_conn_handle(struct dev_vm *vm, const struct vsk_ev *ev)
{
	if (ev->kind == VSK_EV_NONE)
		return;
	struct dev_conn *c = dev_conn_of(ev->conn);
	switch (ev->kind) {
	case VSK_EV_DIAL:
		dev_inflight_note(vm, c);
		if (!dev_limits_admit(vm, false, c->core.host_port, vm->vsk.n_conns)) {
			vsk_dialled(&vm->vsk, &c->core, false);
			dev_conn_finish(vm, c);
		} else if (c->core.peer_cid == VSK_CID_HOST)
			dev_unix_dial(vm, c);
		else
			dev_sibling_dial(vm, c);
		break;
	case VSK_EV_CONNECTED:
		on_connected(vm, c);
		break;
	case VSK_EV_END:
		if (c->sibling)
			dev_sibling_shut(c, VSK_SHUT_SEND);
		else if (c->relay)
			dev_relay_shut(c->relay, VSK_SHUT_SEND);
		else if (c->fd >= 0)
			(void)shutdown(c->fd, SHUT_WR); /* fails only when it is over anyway */
		break;
	case VSK_EV_DEAF:
		if (c->sibling)
			dev_sibling_shut(c, VSK_SHUT_RCV);
		else if (c->relay)
			dev_relay_shut(c->relay, VSK_SHUT_RCV);
		else if (c->fd >= 0)
			(void)shutdown(c->fd, SHUT_RD); /* likewise */
		break;
	case VSK_EV_CLOSED:
		on_closed(vm, c, ev->why);
		break;
	case VSK_EV_NONE:
	case VSK_EV_DATA: /* dev_ring_tx() keeps the chain at hand and delivers itself */
		break;
	}
}
