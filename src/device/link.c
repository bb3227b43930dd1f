/* SPDX-License-Identifier: MIT */
/*
 * link.c - sockets of links.
 *
 *   DOWN        we shall dial again; only a peer that we dial is ever in this state
 *   CONNECTING  connect(2) is under way
 *   SHAKING     TLS: neither end knows yet whether the other is who it should be
 *   HELLO       the connection is up, its other end has not said who it is
 *   UP          channels are bound and carry streams
 *
 * A Unix socket's other end must be of our own user (or root): SO_PEERCRED says it of whoever
 * dialled, and of whoever listens. On TCP there is nothing without TLS, which proves both ends.
 */
#include "link.h"
#include "activation.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay.h"
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* syscalls: accept4 socket(0=AF_UNIX) socket(0=AF_INET) socket(0=AF_INET6) connect sendmsg recvfrom
 * getrandom getsockopt geteuid unlink unlinkat setsockopt(1=IPPROTO_TCP) setsockopt(1=SOL_SOCKET)
 */

#define RECEIVE_BYTES (256U << 10)
#define LOG_US        1000000u
#define GOODBYE_US    200000u
/* A peer that is switched off is noticed within about ten seconds. */
#define KEEP_IDLE_S     4
#define KEEP_INTERVAL_S 2
#define KEEP_COUNT      3
#define UNHEARD_MS      10000

static uint8_t received[RECEIVE_BYTES];

const char *dev_peer_state_name(enum dev_peer_state s)
{
	static const char *const names[DEV_PEER_N_] = { "down", "connecting", "handshake", "hello",
		"up" };
	return names[s];
}

static uint64_t now(const struct dev_link *l)
{
	return l->daemon->loop.now_us;
}

static struct dev_relay *relay_of(struct rs_chan *c)
{
	return (struct dev_relay *)c;
}

static void watch(struct dev_peer *p, uint32_t events)
{
	struct dev_tag tag = { .what = DEV_ON_PEER, .slot = p->index, .gen = p->gen };
	int r = dev_loop_watch(&p->link->daemon->loop, p->fd, events, tag);
	if (r < 0)
		hf_error("link %s: cannot watch: %s", p->address, strerror(-r));
	p->watches_out = events & EPOLLOUT;
}

/* ---- peers ---- */

static struct dev_peer *peer_new(struct dev_link *l, const char *address)
{
	size_t i = 0;
	while (i < DEV_PEERS_MAX && l->peer[i])
		i++;
	struct dev_peer *p = i < DEV_PEERS_MAX ? calloc(1, sizeof(*p)) : NULL;
	if (!p)
		return NULL;
	p->link = l;
	p->index = (uint8_t)i;
	p->fd = -1;
	p->gen = (uint16_t)l->dialled; /* differs from that of the one before, mostly */
	memcpy(p->address, address, strlen(address) + 1);
	l->peer[i] = p;
	return p;
}

static bool same_id(const uint8_t *a, const uint8_t *b)
{
	return memcmp(a, b, RS_TOKEN_SIZE) == 0;
}

/* Another connection to whom the relay dials: they may have made it before we knew that one is
 * lost. */
static struct dev_peer *other_of(const struct dev_relay *r)
{
	for (size_t i = 0; i < DEV_PEERS_MAX && r->chan.rs.dials; i++) {
		struct dev_peer *p = r->link->peer[i];
		if (p && p->state == DEV_PEER_UP && same_id(r->peer_id, p->mux.peer))
			return p;
	}
	return NULL;
}

static void bind_to(struct dev_relay *r, struct dev_peer *p)
{
	r->peer = p;
	if (p)
		dev_link_use(p);
}

/* It is down. Who waits to be dialled is, by whatever connection. */
static void unbind_all(struct dev_peer *p)
{
	hf_list_for_each (n, &p->link->relays) {
		struct dev_relay *r = HF_CONTAINER_OF(n, struct dev_relay, all_node);
		if (r->peer != p)
			continue;
		rs_mux_unbind(&p->mux, &r->chan);
		if (p->address[0] == '\0')
			bind_to(r, other_of(r));
		dev_link_bind(r);
	}
}

/* The connection is over. One that they made is forgotten: p is not valid any more then. */
static void peer_down(struct dev_peer *p, const char *why)
{
	struct dev_link *l = p->link;
	if (p->state == DEV_PEER_UP)
		l->lost++;
	if (p->state == DEV_PEER_UP || now(l) >= l->logged_us + LOG_US) {
		hf_info("link %s: down: %s", p->address[0] ? p->address : "(accepted)", why);
		l->logged_us = now(l);
	}
	p->state = DEV_PEER_DOWN;
	unbind_all(p);
	dev_tls_end(p->tls);
	p->tls = NULL;
	dev_loop_close(&l->daemon->loop, &p->fd);
	free(p->rest);
	p->rest = NULL;
	p->rest_len = 0;
	p->gen++;
	p->until_us = now(l) + DEV_LINK_REDIAL_US;
	if (p->address[0] == '\0') {
		l->peer[p->index] = NULL;
		free(p);
	}
}

static bool is_us(int fd)
{
	uid_t uid;
	return unix_peer_uid(fd, &uid) == 0 && (uid == geteuid() || uid == 0);
}

static void set_tcp(int fd)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, UNHEARD_MS },
		{ IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S },
		{ IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S },
		{ IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(options); i++)
		(void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			sizeof(int)); /* without them a dead peer is noticed later */
}

/* Goes on with the handshake, or the peer is down. */
static void shake_hands(struct dev_peer *p)
{
	const char *why;
	char text[160];
	int r = dev_tls_handshake(p->tls, &why);
	if (r == -EAGAIN) {
		watch(p, dev_tls_wants_out(p->tls) ? EPOLLOUT : EPOLLIN);
	} else if (r < 0) {
		p->link->refused++;
		(void)snprintf(text, sizeof(text), "refused: TLS: %s", why); /* may be cut */
		peer_down(p, text);
	} else {
		p->state = DEV_PEER_HELLO;
		watch(p, EPOLLIN);
	}
}

/* The socket is connected. Over TCP hands are shaken first; then each end says hello. */
static void peer_begin(struct dev_peer *p, bool dials, bool tcp)
{
	rs_mux_init(&p->mux, dials, p->link->self);
	p->state = tcp ? DEV_PEER_SHAKING : DEV_PEER_HELLO;
	p->until_us = now(p->link) + DEV_LINK_HELLO_US;
	watch(p, EPOLLIN);
	if (!tcp)
		return;
	set_tcp(p->fd);
	p->tls = dev_tls_begin(p->link->tls, p->fd, dials);
	if (p->tls)
		shake_hands(p);
	else
		peer_down(p, strerror(ENOMEM));
}

static void peer_connected(struct dev_peer *p)
{
	if (strncmp(p->address, "unix:", 5) == 0 && !is_us(p->fd)) {
		p->link->refused++;
		peer_down(p, "another user listens there: run both holdfastds as the same user");
		return;
	}
	peer_begin(p, true, strncmp(p->address, "tcp:", 4) == 0);
}

static void peer_dial(struct dev_peer *p)
{
	struct dev_address a;
	struct hf_err err;
	p->link->dialled++;
	int r = dev_address_parse(p->address, &a, &err);
	hf_assert(r == 0); /* it was, when the peer was made */
	p->fd = socket(a.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = p->fd < 0 || connect(p->fd, (struct sockaddr *)&a.sa, a.len) < 0 ? errno : 0;
	if (r == 0) {
		peer_connected(p);
	} else if (r == EINPROGRESS) {
		p->state = DEV_PEER_CONNECTING;
		p->until_us = now(p->link) + DEV_LINK_HELLO_US;
		watch(p, EPOLLOUT);
	} else {
		peer_down(p, strerror(r));
	}
}

struct dev_peer *dev_link_peer(struct dev_link *l, const char *address)
{
	struct dev_address a;
	struct hf_err err;
	if (!dev_link_is_open(l)) {
		hf_warn("link %s: this holdfastd has no --link: nothing is relayed", address);
		return NULL;
	}
	if (dev_address_parse(address, &a, &err) < 0) {
		hf_warn("link: %s", err.text);
		return NULL;
	}
	for (size_t i = 0; i < DEV_PEERS_MAX; i++)
		if (l->peer[i] && strcmp(l->peer[i]->address, address) == 0)
			return l->peer[i];
	if (dev_address_is_tcp(&a) && !l->tls) {
		hf_warn("link %s: this holdfastd has no --link-tls: it dials nobody in the clear",
			address);
		return NULL;
	}
	return peer_new(l, address);
}

struct dev_peer *dev_link_next(struct dev_link *l, size_t *at)
{
	while (*at < DEV_PEERS_MAX) {
		struct dev_peer *p = l->peer[(*at)++];
		if (p && p->state == DEV_PEER_UP)
			return p;
	}
	return NULL;
}

void dev_link_use(struct dev_peer *p)
{
	p->users++;
}

void dev_link_unuse(struct dev_peer *p)
{
	if (p->users > 0)
		p->users--;
}

void dev_link_bind(struct dev_relay *r)
{
	struct dev_peer *p = r->peer;
	if (p && p->state == DEV_PEER_UP)
		memcpy(r->peer_id, p->mux.peer, sizeof(r->peer_id));
	if (p && p->state == DEV_PEER_UP && rs_wants_dial(&r->chan.rs) &&
		rs_mux_open(&p->mux, &r->chan) == 0)
		return;
	dev_relay_unbound(r);
}

/* It has said who it is: the streams that wait for it go on. */
static void peer_up(struct dev_peer *p)
{
	struct dev_link *l = p->link;
	p->state = DEV_PEER_UP;
	hf_info("link %s: up", p->address[0] ? p->address : "(accepted)");
	hf_list_for_each (n, &l->relays) {
		struct dev_relay *r = HF_CONTAINER_OF(n, struct dev_relay, all_node);
		if (!r->peer && r->chan.rs.dials && same_id(r->peer_id, p->mux.peer))
			bind_to(r, p); /* they have dialled us before */
		if (r->peer == p && !r->asleep && r->chan.id == 0) {
			dev_relay_bound(r);
			dev_link_bind(r);
		}
	}
}

/* ---- input ---- */

static int on_hello(struct dev_peer *p, const struct rs_mux_ev *ev)
{
	struct dev_relay *r = dev_relay_find(p->link, ev->token);
	if (!r || !dev_relay_dialled(r)) {
		p->link->refused++;
		rs_mux_refuse(&p->mux, ev->id, ev->token);
		return 0;
	}
	bind_to(r, p);
	dev_relay_work(r);
	return rs_mux_accept(&p->mux, &r->chan, ev->id);
}

static int on_event(struct dev_peer *p, const struct rs_mux_ev *ev)
{
	if (ev->kind == RS_MUX_HELLO)
		return on_hello(p, ev);
	if (ev->kind == RS_MUX_ASK)
		dev_relay_asked(p->link, ev->ask, ev->ask_len);
	if (ev->kind == RS_MUX_INPUT)
		dev_relay_work(relay_of(ev->chan));
	return 0;
}

static ssize_t send_some(struct dev_peer *p, struct iovec *iov, int n_iov)
{
	if (p->tls)
		return dev_tls_send(p->tls, iov, n_iov);
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)n_iov };
	ssize_t n = sendmsg(p->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

static ssize_t recv_some(struct dev_peer *p)
{
	if (p->tls)
		return dev_tls_recv(p->tls, received, sizeof(received));
	ssize_t n = recv(p->fd, received, sizeof(received), MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

/* Sends what there is: 1 when all is out, 0 when the socket takes no more, or -errno. */
static int transmit(struct dev_peer *p)
{
	struct iovec iov[RS_MUX_OUTPUT_IOV];
	for (int k; (k = rs_mux_output(&p->mux, iov)) > 0;) {
		ssize_t n = send_some(p, iov, k);
		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		struct rs_chan *c = rs_mux_sent(&p->mux, (size_t)n);
		if (c && rs_over(&c->rs))
			dev_relay_work(relay_of(c));
	}
	int r = p->tls ? dev_tls_flush(p->tls) : 0;
	return r == -EAGAIN ? 0 : r < 0 ? r : 1;
}

/* Takes n bytes; what must wait until refusals are out is kept. 0 or -errno. */
static int take(struct dev_peer *p, const uint8_t *data, size_t n)
{
	for (size_t at = 0; at < n;) {
		struct rs_mux_ev ev;
		ssize_t k = rs_mux_input(&p->mux, data + at, n - at, &ev);
		int r = k < 0 ? (int)k : on_event(p, &ev);
		if (r == 0 && k == 0)
			r = transmit(p);
		if (r < 0)
			return r;
		at += (size_t)k;
		if (k == 0 && p->mux.n_refusals == RS_MUX_REFUSALS_MAX) {
			p->rest = malloc(n - at);
			p->rest_len = p->rest ? n - at : 0;
			if (!p->rest)
				return -ENOMEM;
			memcpy(p->rest, data + at, n - at);
			return 0;
		}
	}
	return 0;
}

static int receive(struct dev_peer *p)
{
	if (p->rest) {
		HF_CLEANUP(hf_freep) uint8_t *rest = p->rest;
		p->rest = NULL;
		return take(p, rest, p->rest_len);
	}
	ssize_t n = recv_some(p);
	if (n < 0)
		return n == -EAGAIN || n == -EINTR ? 0 : (int)n;
	return n == 0 ? -ECONNRESET : take(p, received, (size_t)n);
}

static const char *why_down(int error)
{
	return error == -EPROTO       ? "the other end does not speak our protocol"
	       : error == -ECONNRESET ? "closed by the other end"
				      : strerror(-error);
}

void dev_link_on_peer(struct dev_link *l, struct dev_tag tag, uint32_t events)
{
	struct dev_peer *p = tag.slot < DEV_PEERS_MAX ? l->peer[tag.slot] : NULL;
	if (!p || !dev_tag_is(tag, p->gen) || p->fd < 0)
		return;
	if (p->state == DEV_PEER_CONNECTING) {
		int error = 0;
		socklen_t len = sizeof(error);
		if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
		if (error)
			peer_down(p, strerror(error));
		else
			peer_connected(p);
		return;
	}
	if (p->state == DEV_PEER_SHAKING) {
		shake_hands(p);
		return;
	}
	int r = 0;
	if (events & ~(uint32_t)EPOLLOUT)
		r = receive(p);
	if (r < 0)
		peer_down(p, why_down(r));
	else if (p->state == DEV_PEER_HELLO && p->mux.hello_in)
		peer_up(p);
}

void dev_link_on_listen(struct dev_link *l)
{
	HF_CLEANUP(fd_closep)
	int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	bool tcp = strncmp(l->daemon->opt.link, "tcp:", 4) == 0;
	if (!tcp && !is_us(fd)) {
		l->refused++;
		hf_warn("link: another user's program was refused: run both holdfastds as the same "
			"user");
		return;
	}
	struct dev_peer *p = peer_new(l, "");
	if (!p) {
		l->refused++;
		hf_warn("link: refused: %d links are open, which is the limit", DEV_PEERS_MAX);
		return;
	}
	p->fd = fd_take(&fd);
	peer_begin(p, false, tcp);
}

/* ---- the turn ---- */

void dev_link_turn(struct dev_link *l)
{
	while (!hf_list_empty(&l->work)) {
		struct dev_relay *r = HF_CONTAINER_OF(l->work.next, struct dev_relay, work_node);
		hf_list_remove(&r->work_node);
		r->working = false;
		dev_relay_step(r);
	}
}

/* Sends, dials, gives up; returns when it wants the next call. */
static uint64_t peer_turn(struct dev_peer *p)
{
	struct dev_link *l = p->link;
	if (p->state == DEV_PEER_DOWN && p->users > 0 && now(l) >= p->until_us)
		peer_dial(p);
	if (p->state == DEV_PEER_DOWN && p->users > 0)
		return p->until_us;
	if (p->state == DEV_PEER_DOWN) {
		l->peer[p->index] = NULL;
		free(p);
		return UINT64_MAX;
	}
	if (p->state != DEV_PEER_UP && now(l) >= p->until_us) {
		peer_down(p, "no answer in time");
		return now(l) + DEV_LINK_REDIAL_US; /* it may be gone */
	}
	if (p->state == DEV_PEER_CONNECTING || p->state == DEV_PEER_SHAKING)
		return p->until_us;
	int r = transmit(p);
	bool left = r == -EPIPE || r == -ECONNRESET; /* what it said before is read first */
	if (r < 0 && !left) {
		peer_down(p, why_down(r));
		return now(l) + DEV_LINK_REDIAL_US;
	}
	if (r == 1 && p->address[0] && p->users == 0) {
		peer_down(p, "nothing is relayed any more");
		return 0;
	}
	if (!left && (r == 0) != p->watches_out)
		watch(p, r == 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
	return p->state == DEV_PEER_UP ? UINT64_MAX : p->until_us;
}

uint64_t dev_link_flush(struct dev_link *l)
{
	uint64_t next_us = UINT64_MAX;
	while (!hf_list_empty(&l->waiting)) {
		struct dev_relay *r = HF_CONTAINER_OF(l->waiting.next, struct dev_relay, wait_node);
		next_us = r->until_us;
		if (r->until_us > now(l))
			break;
		next_us = UINT64_MAX;
		dev_relay_expire(r, -ETIMEDOUT);
	}
	for (size_t i = 0; i < DEV_PEERS_MAX; i++)
		if (l->peer[i])
			next_us = HF_MIN(next_us, peer_turn(l->peer[i]));
	return hf_list_empty(&l->work) ? next_us : 0;
}

/* ---- set-up ---- */

static int tcp_listen(const struct dev_address *a, int *ret_fd)
{
	int one = 1;
	HF_CLEANUP(fd_closep)
	int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, (const struct sockaddr *)&a->sa, a->len) < 0 ||
		listen(fd, DEV_LINK_BACKLOG) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

static int listen_at(const char *address, int *ret_fd, struct hf_err *reterr)
{
	struct dev_address a;
	int r = dev_address_parse(address, &a, reterr);
	if (r < 0)
		return r;
	if (!dev_address_is_tcp(&a))
		r = dev_listen(SOCK_STREAM, address + 5, 0600, DEV_LINK_BACKLOG, ret_fd);
	else
		r = tcp_listen(&a, ret_fd);
	return r < 0 ? hf_err_set(reterr, r, "link %s: cannot listen: %s", address, strerror(-r))
		     : 0;
}

int dev_link_adopt(struct dev_link *l, struct dev_daemon *d, int fd, struct hf_err *reterr)
{
	l->daemon = d;
	l->listen_fd = fd;
	l->timeout_us = (uint64_t)d->opt.link_timeout_ms * 1000;
	hf_list_init(&l->relays);
	hf_list_init(&l->work);
	hf_list_init(&l->waiting);
	int r = d->opt.link_tls[0] ? dev_tls_open(d->opt.link_tls, &l->tls, reterr) : 0;
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->opt.n_link_peers; i++) {
		struct dev_peer *p = dev_link_peer(l, d->opt.link_peer[i]);
		if (!p)
			return hf_err_set(reterr, -EINVAL, "--link-peer %s: cannot be dialled",
				d->opt.link_peer[i]);
		dev_link_use(p); /* for as long as we live */
	}
	if (fd < 0)
		return 0;
	r = dev_loop_watch(&d->loop, fd, EPOLLIN, (struct dev_tag){ .what = DEV_ON_LINK_LISTEN });
	return r < 0 ? hf_err_set(reterr, r, "link: cannot watch: %s", strerror(-r)) : 0;
}

int dev_link_open(struct dev_link *l, struct dev_daemon *d, struct hf_err *reterr)
{
	int fd = -1, r = 0;
	if (getrandom(l->self, sizeof(l->self), 0) != sizeof(l->self))
		return hf_err_set(reterr, -EIO, "link: no random bytes");
	if (d->opt.link[0] != '\0')
		r = listen_at(d->opt.link, &fd, reterr);
	return r < 0 ? r : dev_link_adopt(l, d, fd, reterr);
}

void dev_link_forget(struct dev_link *l)
{
	while (!hf_list_empty(&l->relays))
		dev_relay_forget(HF_CONTAINER_OF(l->relays.next, struct dev_relay, all_node));
	for (size_t i = 0; i < DEV_PEERS_MAX; i++)
		if (l->peer[i]) {
			dev_tls_end(l->peer[i]->tls);
			dev_loop_close(&l->daemon->loop, &l->peer[i]->fd);
			free(l->peer[i]->rest);
			free(l->peer[i]);
			l->peer[i] = NULL;
		}
	free(l->slot);
	dev_tls_close(l->tls);
	dev_loop_close(&l->daemon->loop, &l->listen_fd);
}

/* The other ends hear that it is over, as far as they can in a moment: else they would wait for us
 * to come back. */
static void say_goodbye(struct dev_link *l)
{
	uint64_t until_us = hf_now_us() + GOODBYE_US;
	hf_list_for_each (n, &l->relays)
		dev_relay_leave(HF_CONTAINER_OF(n, struct dev_relay, all_node));
	for (size_t i = 0; i < DEV_PEERS_MAX; i++) {
		struct dev_peer *p = l->peer[i];
		while (p && p->state == DEV_PEER_UP && transmit(p) == 0 &&
			fd_wait(p->fd, POLLOUT, until_us) == 0)
			;
	}
}

void dev_link_close(struct dev_link *l)
{
	if (!l->daemon)
		return; /* never opened */
	say_goodbye(l);
	bool listens = dev_link_is_open(l);
	dev_link_forget(l);
	if (listens && strncmp(l->daemon->opt.link, "unix:", 5) == 0)
		dev_unlisten(l->daemon->opt.link + 5);
}
