/* SPDX-License-Identifier: MIT */
/*
 * relay_host.c - a relay that holds the socket of a host application whose VM has left.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay_internal.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: sendmsg recvmsg recvfrom shutdown */

#define READ_MIN 16384u /* room that a read from a host socket wants */

void dev_relay_watch_host(struct dev_relay *r, bool out)
{
	struct dev_tag tag = { .what = DEV_ON_RELAY, .slot = r->slot };
	r->watches_out = out;
	int e = dev_loop_watch(&r->link->daemon->loop, r->fd,
		EPOLLIN | EPOLLRDHUP | EPOLLET | (out ? (uint32_t)EPOLLOUT : 0), tag);
	if (e < 0)
		hf_error("relay %u<-%u: cannot watch: %s", r->host_port, r->guest_port,
			strerror(-e));
}

void dev_relay_on_event(struct dev_link *l, struct dev_tag tag, uint32_t events)
{
	struct dev_relay *r = tag.slot < l->n_slots ? l->slot[tag.slot] : NULL;
	if (!r || r->fd < 0)
		return;
	r->readable |= (events & ~(uint32_t)EPOLLOUT) != 0;
	r->hup |= (events & (EPOLLHUP | EPOLLERR)) != 0;
	dev_relay_work(r);
}

void dev_relay_host_deaf(struct dev_relay *r)
{
	r->deaf = true;
	dev_relay_say_deaf(r);
}

/* To the application: false when it takes no more for now. */
static bool host_write_some(struct dev_relay *r)
{
	struct iovec iov[2];
	const struct hf_ring *rx = &stream(r)->rx;
	size_t n = HF_MIN((size_t)r->left, hf_ring_len(rx));
	bool whole = r->message && (r->what & DEV_HEAD_WHOLE);
	if ((n == 0 && !whole) || (r->message && n < r->left && !r->deaf))
		return false;
	int k = hf_ring_iov_(rx, rx->head, n, iov);
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
	ssize_t sent = r->deaf ? (ssize_t)n : sendmsg(r->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno == EAGAIN) {
		if (!r->watches_out)
			dev_relay_watch_host(r, true);
		return false;
	}
	if (sent < 0 && errno != EINTR)
		dev_relay_host_deaf(r);
	if (sent >= 0)
		dev_relay_take_payload(r, (size_t)sent);
	return true;
}

/* The guest has accepted: its client may wait to be told. */
static void host_accepted(struct dev_relay *r)
{
	if (r->asks && (r->fd < 0 || !dev_conn_say_ok(r->fd, r->host_port)))
		rs_reset(stream(r), DEV_RELAY_RESET);
	r->asks = false;
}

static void host_write(struct dev_relay *r)
{
	bool more = true;
	while (more) {
		if (r->left > 0 || dev_relay_next_payload(r)) {
			more = host_write_some(r);
		} else if (dev_relay_next_is(r, DEV_HEAD_FIN)) {
			if (r->fd >= 0)
				(void)shutdown(r->fd, SHUT_WR); /* fails only when it is over */
		} else if (dev_relay_next_is(r, DEV_HEAD_DEAF)) {
			if (r->fd >= 0)
				(void)shutdown(r->fd, SHUT_RD); /* likewise */
			r->readable = true;
		} else if (dev_relay_next_is(r, DEV_HEAD_READY)) {
			host_accepted(r);
		} else {
			more = false;
		}
	}
	if (rs_readable_end(stream(r)))
		rs_take_end(stream(r));
}

/* Room for what the next read may bring: false, wait for some. */
static bool host_room(struct dev_relay *r, size_t *ret_n)
{
	*ret_n = dev_relay_room(r);
	if (!r->message)
		return *ret_n >= READ_MIN;
	ssize_t n = recv(r->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (n > (ssize_t)stream(r)->tx.cap / 2 - (ssize_t)(DEV_HEAD_BYTES + DEV_RELAY_RESERVE)) {
		hf_warn("relay %u<-%u: reset: the host application sent a message of %zd bytes, "
			"which cannot be relayed",
			r->host_port, r->guest_port, n);
		rs_reset(stream(r), DEV_RELAY_RESET);
		return false;
	}
	return n < 0 || (size_t)n <= *ret_n;
}

static ssize_t host_receive(struct dev_relay *r, size_t max, bool *ret_end)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(struct ucred))];
	} control;
	struct iovec iov[2];
	int k = hf_ring_iov_(&stream(r)->tx, stream(r)->tx.tail + DEV_HEAD_BYTES, max, iov);
	struct msghdr mh = { .msg_iov = iov,
		.msg_iovlen = (size_t)k,
		.msg_control = r->message ? &control : NULL,
		.msg_controllen = r->message ? sizeof(control) : 0 };
	ssize_t n = recvmsg(r->fd, &mh, MSG_DONTWAIT);
	/* Only a message has credentials: dev_message_setup() asked for them. */
	*ret_end = n == 0 && (!r->message || mh.msg_controllen == 0);
	return n < 0 ? -errno : n;
}

static void host_read(struct dev_relay *r)
{
	size_t max;
	bool end;
	while (r->fd >= 0 && r->readable && !r->fin_out && rs_state(stream(r)) == RS_OPEN &&
		host_room(r, &max)) {
		ssize_t n = host_receive(r, max, &end);
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN) {
			r->readable = false;
		} else if (n < 0) {
			rs_reset(stream(r), DEV_RELAY_RESET);
		} else if (end) {
			dev_relay_say_fin(r);
		} else {
			dev_relay_put_head(
				r, r->message ? DEV_HEAD_WHOLE : DEV_HEAD_PART, (size_t)n);
			rs_wrote(stream(r), (size_t)n);
			r->out_bytes += (size_t)n;
			r->link->out_bytes += (size_t)n;
		}
	}
}

void dev_relay_step_host(struct dev_relay *r)
{
	if (is_alive(r)) {
		host_write(r);
		host_read(r);
		if (r->asks && r->hup) /* the client did not wait for the answer */
			rs_reset(stream(r), DEV_RELAY_RESET);
		if (r->hup && r->fin_out)
			dev_relay_host_deaf(r);
		if (r->deaf_in && r->fin_in && !r->left) { /* the guest's end is closed */
			dev_relay_say_fin(r);
			dev_relay_host_deaf(r);
		}
		dev_relay_said(r);
		if (r->fin_in && r->fin_out && r->deaf_in && r->deaf_out)
			fd_closep(&r->fd);
	}
	wake(r);
	if (r->home)
		dev_relay_work(r->home);
	if (rs_over(stream(r)) || rs_state(stream(r)) == RS_UNKNOWN)
		dev_relay_free(r);
	else if (!is_alive(r))
		fd_closep(&r->fd);
}
