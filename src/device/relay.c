/* SPDX-License-Identifier: MIT */
/*
 * relay.c - ends of relayed connections.
 *
 * Payload is copied once each way between a ring of the stream and guest memory or the host socket.
 * A ring never has less than RESERVE bytes of room left by payload, so that what is said without
 * payload always fits.
 *
 * A stream is ended (rs_end) when its end has said FIN and DEAF, so a half-close can be followed by
 * a close. Who closes a connection says both; a reset is the stream's own.
 */
#include "relay.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

/* syscalls: getrandom sendmsg recvmsg recvfrom readv shutdown */

#define HEAD     4u
#define RESERVE  64u
#define SEND_MIN 1024u  /* a stream's payload is not cut smaller than this for want of room */
#define READ_MIN 16384u /* room that a read from a host socket wants */

/* What a head says; its value is the number of bytes behind it for the first four. */
enum {
	PART = 0,
	WHOLE = VSK_MSG_EOM,
	WHOLE_EOR = VSK_MSG_EOM | VSK_MSG_EOR,
	FIN = 4,
	DEAF = 5,
	READY = 6
};
#define VALUE_MAX 0x0fffffffu

/* What is asked for, in front of the groups of the guest that dials. */
enum {
	ASK_TOKEN = 0,
	ASK_FROM_CID = 16,
	ASK_FROM_PORT = 20,
	ASK_TO_CID = 24,
	ASK_TO_PORT = 28,
	ASK_TYPE = 32,
	ASK_BYTES = 34,
};
static_assert(ASK_BYTES + DEV_GROUPS_MAX <= RS_MUX_ASK_MAX, "an ask fits its frame");

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
#define WINDOW_MAX (16U << 20)

const char *dev_relay_kind_name(enum dev_relay_kind k)
{
	static const char *const names[DEV_RELAY_N_] = { "guest", "host", "relay", "heir",
		"closing" };
	return names[k];
}

static struct rs *stream(struct dev_relay *r)
{
	return &r->chan.rs;
}

static uint64_t now(const struct dev_relay *r)
{
	return r->link->daemon->loop.now_us;
}

static void wake(struct dev_relay *r)
{
	if (r->peer && r->chan.id)
		rs_mux_wake(&r->peer->mux, &r->chan);
}

/* ---- life ---- */

static struct dev_relay **bucket_of(struct dev_link *l, const uint8_t *token)
{
	return &l->token[le32_at(token) % DEV_TOKEN_BUCKETS];
}

struct dev_relay *dev_relay_find(struct dev_link *l, const uint8_t token[RS_TOKEN_SIZE])
{
	struct dev_relay *r = *bucket_of(l, token);
	while (r && (stream(r)->dials || memcmp(stream(r)->token, token, RS_TOKEN_SIZE) != 0))
		r = r->next;
	return r;
}

/* A free place in the table of tags; -ENOMEM. */
static int take_slot(struct dev_link *l, struct dev_relay *r)
{
	while (l->first_free < l->n_slots && l->slot[l->first_free])
		l->first_free++;
	if (l->first_free == l->n_slots) {
		uint32_t n = HF_MAX(64u, 2 * l->n_slots);
		struct dev_relay **more = realloc(l->slot, n * sizeof(struct dev_relay *));
		if (!more)
			return -ENOMEM;
		memset(more + l->n_slots, 0, (n - l->n_slots) * sizeof(struct dev_relay *));
		l->slot = more;
		l->n_slots = n;
	}
	r->slot = l->first_free++;
	l->slot[r->slot] = r;
	return 0;
}

static void work_none(struct dev_relay *r)
{
	hf_list_remove(&r->work_node);
	r->working = false;
}

static void wait_none(struct dev_relay *r)
{
	hf_list_remove(&r->wait_node);
	r->waits = false;
}

static void wait_for_dial(struct dev_relay *r)
{
	if (r->waits)
		return;
	r->until_us = now(r) + r->link->timeout_us;
	r->waits = true;
	hf_list_append(&r->link->waiting, &r->wait_node);
}

static size_t window_for(const struct dev_conn *c)
{
	size_t n = DEV_RELAY_WINDOW;
	while (c->core.type == VSK_TYPE_SEQPACKET && n < (size_t)2 * c->core.buf_alloc + RESERVE)
		n *= 2;
	return n;
}

static bool window_ok(size_t n)
{
	return n >= RESERVE * 4 && n <= WINDOW_MAX && (n & (n - 1)) == 0;
}

/* A relay in no state yet. */
static int relay_alloc(
	struct dev_link *l, const uint8_t *token, bool dials, size_t window, struct dev_relay **ret)
{
	struct rs_config cfg = { .dials = dials, .tx_cap = window, .rx_cap = window };
	memcpy(cfg.token, token, RS_TOKEN_SIZE);
	if (l->n_relays == DEV_RELAY_MAX)
		return -ENFILE;
	struct dev_relay *r = calloc(1, sizeof(*r));
	cfg.tx_buf = malloc(window);
	cfg.rx_buf = malloc(window);
	if (!r || !cfg.tx_buf || !cfg.rx_buf || rs_init(&r->chan.rs, &cfg) < 0 ||
		take_slot(l, r) < 0) {
		free(cfg.tx_buf);
		free(cfg.rx_buf);
		free(r);
		return -ENOMEM;
	}
	r->link = l;
	r->fd = -1;
	hf_list_init(&r->work_node);
	hf_list_init(&r->wait_node);
	hf_list_append(&l->relays, &r->all_node);
	r->next = *bucket_of(l, token);
	*bucket_of(l, token) = r;
	l->n_relays++;
	*ret = r;
	return 0;
}

/* One of the connection. */
static int relay_new(struct dev_vm *vm, const struct dev_conn *c, const uint8_t *token, bool dials,
	size_t window, struct dev_relay **ret)
{
	struct dev_relay *r;
	int e = relay_alloc(&vm->daemon->link, token, dials, window, &r);
	if (e < 0)
		return e;
	r->vm = vm;
	r->message = c->core.type == VSK_TYPE_SEQPACKET;
	memcpy(r->vm_name, vm->opt->name, sizeof(r->vm_name));
	r->host_port = c->core.host_port;
	r->guest_port = c->core.guest_port;
	r->peer_cid = c->core.peer_cid;
	*ret = r;
	return 0;
}

static void relay_free(struct dev_relay *r)
{
	struct dev_link *l = r->link;
	if (r->peer)
		rs_mux_unbind(&r->peer->mux, &r->chan);
	if (r->peer)
		dev_link_unuse(r->peer);
	if (r->join)
		r->join->join = NULL;
	if (r->home)
		r->home->home = NULL;
	free(r->ask);
	work_none(r);
	wait_none(r);
	hf_list_remove(&r->all_node);
	struct dev_relay **p = bucket_of(l, stream(r)->token);
	while (*p != r)
		p = &(*p)->next;
	*p = r->next;
	l->slot[r->slot] = NULL;
	l->first_free = HF_MIN(l->first_free, r->slot);
	l->n_relays--;
	fd_closep(&r->fd); /* nobody else has its description: the watch ends with it */
	free(stream(r)->tx.buf);
	free(stream(r)->rx.buf);
	free(r);
}

void dev_relay_work(struct dev_relay *r)
{
	if (!r->working)
		hf_list_append(&r->link->work, &r->work_node);
	r->working = true;
}

void dev_relay_unbound(struct dev_relay *r)
{
	if (!r->asleep && !rs_over(stream(r)))
		wait_for_dial(r);
}

void dev_relay_bound(struct dev_relay *r)
{
	wait_none(r);
}

/* ---- what is said ---- */

static void put_head(struct dev_relay *r, unsigned what, size_t value)
{
	uint8_t h[HEAD];
	le32_to(h, (uint32_t)value | what << 28);
	ssize_t n = rs_write(stream(r), h, HEAD);
	hf_assert(n == HEAD || n == -EPIPE); /* RESERVE; or the stream was reset */
}

static void say_fin(struct dev_relay *r)
{
	if (!r->fin_out)
		put_head(r, FIN, 0);
	r->fin_out = true;
}

static void say_deaf(struct dev_relay *r)
{
	if (!r->deaf_out)
		put_head(r, DEAF, 0);
	r->deaf_out = true;
}

/* After what was said: both mean the end of the stream. */
static void said(struct dev_relay *r)
{
	if (r->fin_out && r->deaf_out)
		rs_end(stream(r));
	wake(r);
}

/* How much payload may go behind one more head. */
static size_t room(struct dev_relay *r)
{
	size_t n = rs_room(stream(r));
	return n > HEAD + RESERVE ? n - HEAD - RESERVE : 0;
}

/* What the next head says, when it is there whole and all before it was read; -1: nothing. */
static int peek(struct dev_relay *r, uint32_t *ret_value)
{
	uint8_t h[HEAD];
	if (r->left > 0 || hf_ring_peek(&stream(r)->rx, 0, h, HEAD) < HEAD)
		return -1;
	*ret_value = le32_at(h) & VALUE_MAX;
	return (int)(le32_at(h) >> 28);
}

/* Steps over a head of payload: false, there is none. */
static bool next_payload(struct dev_relay *r)
{
	uint32_t value;
	int what = peek(r, &value);
	if (what < 0 || what > WHOLE_EOR)
		return false;
	rs_take(stream(r), HEAD);
	r->left = value;
	r->what = (uint8_t)what;
	return true;
}

/* Steps over FIN or DEAF. */
static bool next_is(struct dev_relay *r, int what)
{
	uint32_t value;
	if (peek(r, &value) != what)
		return false;
	rs_take(stream(r), HEAD);
	r->fin_in |= what == FIN;
	r->deaf_in |= what == DEAF;
	return true;
}

static void take_payload(struct dev_relay *r, size_t n)
{
	rs_take(stream(r), n);
	r->left -= (uint32_t)n;
	r->in_bytes += n;
	r->link->in_bytes += n;
}

/* Is the stream one that still carries something? */
static bool is_alive(struct dev_relay *r)
{
	return rs_state(stream(r)) == RS_OPEN || rs_state(stream(r)) == RS_FINISHED;
}

/* ---- the host end of a connection ---- */

ssize_t dev_relay_send(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, size_t len, uint32_t flags)
{
	size_t space = HF_MIN(room(r), (size_t)VALUE_MAX), n = HF_MIN(len, space), left = n;
	if (rs_state(stream(r)) != RS_OPEN || rs_room(stream(r)) < HEAD + RESERVE ||
		n < (r->message ? len : HF_MIN(len, (size_t)SEND_MIN)))
		return -EAGAIN;
	put_head(r, r->message ? flags & WHOLE_EOR : PART, n);
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
	take_payload(r, n);
	return n;
}

ssize_t dev_relay_read(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, uint32_t *ret_flags)
{
	size_t n = 0, i = 0, off = 0;
	uint32_t value;
	*ret_flags = 0;
	if (r->message && peek(r, &value) >= 0 && value > vsk_message_max(&r->c->core))
		return -EMSGSIZE; /* the guest could never take it */
	while (i < n_iov && (r->left > 0 || next_payload(r))) {
		size_t k = copy_out(r, &iov[i], off);
		n += k;
		off += k;
		if (r->left == 0 && r->message && (r->what & WHOLE)) {
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
	if (peek(r, &value) > WHOLE_EOR || r->home)
		dev_relay_work(r); /* what is said next is not for the caller; or it was all */
	wake(r);
	if (n > 0 || *ret_flags)
		return (ssize_t)n;
	if (next_is(r, FIN) && next_is(r, DEAF))
		r->c->hup = true;
	return r->fin_in ? 0 : -EAGAIN;
}

void dev_relay_shut(struct dev_relay *r, uint8_t bits)
{
	if (bits & VSK_SHUT_SEND)
		say_fin(r);
	if (bits & VSK_SHUT_RCV)
		say_deaf(r);
	said(r);
}

void dev_relay_close(struct dev_relay *r, bool clean)
{
	if (r->asleep) { /* the stream may be another's by now */
		relay_free(r);
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

/* The guest will not read what has come: drops it. The end of it is told. */
static void drop_for_deaf_guest(struct dev_relay *r)
{
	while (r->left > 0 || next_payload(r)) {
		size_t n = HF_MIN((size_t)r->left, hf_ring_len(&stream(r)->rx));
		if (r->left > 0 && n == 0)
			break;
		take_payload(r, n);
	}
	if (next_is(r, FIN))
		dev_conn_host_shut(r->vm, r->c, VSK_SHUT_SEND);
}

static void refuse(struct dev_vm *vm, struct dev_conn *c)
{
	vm->daemon->poked = true;
	vsk_dialled(&vm->vsk, &c->core, false);
	dev_conn_finish(vm, c);
}

/* This daemon does not have the guest. */
static void ask_another(struct dev_relay *r)
{
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	size_t next = r->next_ask;
	c->relay = NULL;
	relay_free(r);
	if (dev_relay_ask(vm, c, next) < 0)
		refuse(vm, c);
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
static bool come_home(struct dev_relay *r)
{
	struct dev_relay *home = r->home;
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	if (!home || home->kind != DEV_RELAY_HOST || home->fd < 0 || !is_alive(r) ||
		!is_alive(home) || c->core.state != VSK_OPEN || !is_still(r, home))
		return false;
	int fd = fd_take(&home->fd);
	relay_free(home);
	c->relay = NULL;
	relay_free(r);
	int e = dev_conn_attach(vm, c, fd);
	if (e < 0) {
		dev_conn_failed(vm, c, e);
		return true;
	}
	hf_debug("vm %s: conn %u<-%u: at home again", vm->opt->name, c->core.host_port,
		c->core.guest_port);
	dev_conn_thaw(vm, c);
	return true;
}

static void step_conn(struct dev_relay *r)
{
	uint32_t value;
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	if (vm->frozen || r->asleep)
		return;
	if (!is_alive(r) && c->core.state == VSK_DIALLING && rs_state(stream(r)) == RS_UNKNOWN) {
		ask_another(r);
		return;
	}
	if (!is_alive(r)) {
		dev_relay_expire(r, -ECONNRESET);
		return;
	}
	if (c->core.state == VSK_DIALLING && next_is(r, READY))
		vsk_dialled(&vm->vsk, &c->core, true);
	if (c->core.state == VSK_OPEN && /* nobody will ask for what comes */
		((c->core.guest_shut & VSK_SHUT_RCV) || (c->core.host_shut & VSK_SHUT_SEND)))
		drop_for_deaf_guest(r);
	if (c->relay == r && next_is(r, DEAF))
		dev_conn_host_shut(vm, c, r->fin_in ? VSK_SHUT_BOTH : VSK_SHUT_RCV);
	if (c->relay != r)
		return; /* it ended over this, and the relay has work of its own */
	if (peek(r, &value) > DEAF) {
		dev_relay_expire(r, -EPROTO);
		return;
	}
	if (rs_readable_end(stream(r)))
		rs_take_end(stream(r));
	wake(r);
	if (!come_home(r))
		dev_conn_thaw(vm, c);
}

/* ---- a host application whose VM has left ---- */

static void watch_host(struct dev_relay *r, bool out)
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

static void host_deaf(struct dev_relay *r)
{
	r->deaf = true;
	say_deaf(r);
}

/* To the application: false when it takes no more for now. */
static bool host_write_some(struct dev_relay *r)
{
	struct iovec iov[2];
	const struct hf_ring *rx = &stream(r)->rx;
	size_t n = HF_MIN((size_t)r->left, hf_ring_len(rx));
	bool whole = r->message && (r->what & WHOLE);
	if ((n == 0 && !whole) || (r->message && n < r->left && !r->deaf))
		return false;
	int k = hf_ring_iov_(rx, rx->head, n, iov);
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
	ssize_t sent = r->deaf ? (ssize_t)n : sendmsg(r->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno == EAGAIN) {
		if (!r->watches_out)
			watch_host(r, true);
		return false;
	}
	if (sent < 0 && errno != EINTR)
		host_deaf(r);
	if (sent >= 0)
		take_payload(r, (size_t)sent);
	return true;
}

static void host_write(struct dev_relay *r)
{
	bool more = true;
	while (more) {
		if (r->left > 0 || next_payload(r)) {
			more = host_write_some(r);
		} else if (next_is(r, FIN)) {
			if (r->fd >= 0)
				(void)shutdown(r->fd, SHUT_WR); /* fails only when it is over */
		} else if (next_is(r, DEAF)) {
			if (r->fd >= 0)
				(void)shutdown(r->fd, SHUT_RD); /* likewise */
			r->readable = true;
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
	*ret_n = room(r);
	if (!r->message)
		return *ret_n >= READ_MIN;
	ssize_t n = recv(r->fd, NULL, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
	if (n > (ssize_t)stream(r)->tx.cap / 2 - (ssize_t)(HEAD + RESERVE)) {
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
	int k = hf_ring_iov_(&stream(r)->tx, stream(r)->tx.tail + HEAD, max, iov);
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
			say_fin(r);
		} else {
			put_head(r, r->message ? WHOLE : PART, (size_t)n);
			rs_wrote(stream(r), (size_t)n);
			r->out_bytes += (size_t)n;
			r->link->out_bytes += (size_t)n;
		}
	}
}

static void step_host(struct dev_relay *r)
{
	if (is_alive(r)) {
		host_write(r);
		host_read(r);
		if (r->hup && r->fin_out)
			host_deaf(r);
		if (r->deaf_in && r->fin_in && !r->left) { /* the guest's end is closed */
			say_fin(r);
			host_deaf(r);
		}
		said(r);
		if (r->fin_in && r->fin_out && r->deaf_in && r->deaf_out)
			fd_closep(&r->fd);
	}
	wake(r);
	if (r->home)
		dev_relay_work(r->home);
	if (rs_over(stream(r)) || rs_state(stream(r)) == RS_UNKNOWN)
		relay_free(r);
	else if (!is_alive(r))
		fd_closep(&r->fd);
}

/* ---- others ---- */

static void step_orphan(struct dev_relay *r)
{
	rs_take(stream(r), hf_ring_len(&stream(r)->rx));
	if (rs_readable_end(stream(r)))
		rs_take_end(stream(r));
	wake(r);
	if (rs_over(stream(r)))
		relay_free(r);
}

/* What has come on one goes out on the other. */
static void pass(struct dev_relay *from, struct dev_relay *to)
{
	struct iovec iov[2];
	int k = rs_read(stream(from), iov);
	for (int i = 0; i < k; i++) {
		ssize_t n = rs_write(stream(to), iov[i].iov_base, iov[i].iov_len);
		if (n <= 0)
			break;
		rs_take(stream(from), (size_t)n);
	}
	if (rs_readable_end(stream(from))) {
		rs_take_end(stream(from));
		rs_end(stream(to));
	}
	if (!is_alive(from))
		rs_reset(stream(to), DEV_RELAY_RESET);
}

static void step_join(struct dev_relay *r)
{
	struct dev_relay *other = r->join;
	if (other) {
		pass(r, other);
		pass(other, r);
		wake(other);
	}
	wake(r);
	if (!rs_over(stream(r)))
		return;
	if (other) {
		other->kind = DEV_RELAY_ORPHAN;
		dev_relay_work(other);
	}
	relay_free(r);
}

void dev_relay_step(struct dev_relay *r)
{
	switch (r->kind) {
	case DEV_RELAY_CONN:
		step_conn(r);
		break;
	case DEV_RELAY_HOST:
		step_host(r);
		break;
	case DEV_RELAY_JOIN:
		step_join(r);
		break;
	case DEV_RELAY_ORPHAN:
		step_orphan(r);
		break;
	case DEV_RELAY_HEIR:
	case DEV_RELAY_N_:
		break;
	}
}

void dev_relay_expire(struct dev_relay *r, int error)
{
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	if (error == -ETIMEDOUT)
		hf_info("vm %s: relay %u<-%u (%s): given up: the other daemon cannot be reached",
			r->vm_name, r->host_port, r->guest_port, dev_relay_kind_name(r->kind));
	if (r->kind == DEV_RELAY_CONN)
		c->relay = NULL;
	if (r->kind == DEV_RELAY_JOIN && r->join)
		dev_relay_close(r->join, false);
	bool conn = r->kind == DEV_RELAY_CONN;
	r->link->daemon->poked = true; /* the guest is to be told */
	if (error == -ECONNRESET && r->chan.id != 0)
		dev_relay_close(r, false); /* the other end may want an answer */
	else
		relay_free(r);
	if (conn && c->core.state == VSK_DIALLING)
		refuse(vm, c);
	else if (conn)
		dev_conn_failed(vm, c, error);
}

/* ---- a migration: the source ---- */

int dev_relay_bequeath(struct dev_vm *vm, struct dev_conn *c)
{
	uint8_t token[RS_TOKEN_SIZE];
	if (c->heir)
		return 0;
	if (getrandom(token, sizeof(token), 0) != sizeof(token))
		return -EIO;
	int r = relay_new(vm, c, token, false, window_for(c), &c->heir);
	if (r < 0)
		return r;
	c->heir->kind = DEV_RELAY_HEIR;
	c->heir->c = c;
	return 0;
}

static void disinherit(struct dev_conn *c)
{
	if (c->heir)
		relay_free(c->heir);
	c->heir = NULL;
}

void dev_relay_disown(struct dev_conn *c)
{
	struct dev_relay *r = c->heir;
	c->heir = NULL;
	dev_relay_close(r, false);
	wait_for_dial(r);
}

/* The host socket of the connection goes on without it. */
static void inherit_socket(struct dev_relay *r, struct dev_conn *c)
{
	r->kind = DEV_RELAY_HOST;
	r->fd = fd_take(&c->fd);
	r->hup = c->hup;
	r->readable = true;
	if (c->core.host_shut & VSK_SHUT_RCV)
		host_deaf(r);
	if (c->core.host_shut & VSK_SHUT_SEND)
		say_fin(r);
	said(r);
	watch_host(r, false);
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
		wait_for_dial(r);
	dev_relay_work(r);
}

bool dev_relay_dialled(struct dev_relay *r)
{
	if (r->kind == DEV_RELAY_HEIR) {
		if (!r->vm->frozen)
			return false;
		take_over(r);
	}
	wait_none(r);
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
		wait_none(r);
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

/* ---- a migration: the destination ---- */

/* Room for what an end may still have to say without payload. */
static bool may_say(struct dev_relay *r)
{
	size_t heads = (size_t)3 - r->fin_out - r->deaf_out; /* READY is the third */
	bool says = r->kind == DEV_RELAY_CONN || r->kind == DEV_RELAY_HOST;
	return !says || hf_ring_room(&stream(r)->tx) >= heads * HEAD;
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
	if (n_address > DEV_ADDRESS_MAX || n_address > n - REC_BYTES || !window_ok(window) ||
		le32_at(p + REC_LEFT) > VALUE_MAX || p[REC_WHAT] > WHOLE_EOR)
		return -EINVAL;
	memcpy(address, p + REC_BYTES, n_address);
	struct dev_peer *peer = dev_link_peer(&vm->daemon->link, address);
	if (!peer)
		return -EHOSTUNREACH;
	struct dev_relay *r;
	int e = relay_new(vm, c, p + REC_TOKEN, true, window, &r);
	if (e < 0)
		return e;
	r->peer = peer;
	dev_link_use(peer);
	r->kind = DEV_RELAY_CONN;
	r->c = c;
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
		relay_free(r);
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
		vsk_unrelay(&vm->vsk, &c->core); /* it knows the room of its sibling alone */
	if (vsk_guest_ended(&c->core))
		say_fin(r);
	if (c->core.guest_shut & VSK_SHUT_RCV)
		say_deaf(r);
	said(r);
	find_home(r);
	if (come_home(r))
		return;
	dev_link_bind(r);
	dev_relay_work(r);
}

/* ---- guests of other daemons ---- */

static uint8_t *make_ask(
	const struct dev_vm *vm, const struct dev_conn *c, const uint8_t *token, uint16_t *ret_n)
{
	size_t n_groups = strlen(vm->opt->groups);
	uint8_t *p = malloc(ASK_BYTES + n_groups);
	if (!p)
		return NULL;
	memcpy(p + ASK_TOKEN, token, RS_TOKEN_SIZE);
	le32_to(p + ASK_FROM_CID, dev_options_cid(vm->opt));
	le32_to(p + ASK_FROM_PORT, c->core.guest_port);
	le32_to(p + ASK_TO_CID, c->core.peer_cid);
	le32_to(p + ASK_TO_PORT, c->core.host_port);
	le16_to(p + ASK_TYPE, c->core.type);
	memcpy(p + ASK_BYTES, vm->opt->groups, n_groups);
	*ret_n = (uint16_t)(ASK_BYTES + n_groups);
	return p;
}

int dev_relay_ask(struct dev_vm *vm, struct dev_conn *c, size_t first)
{
	uint8_t token[RS_TOKEN_SIZE];
	struct dev_peer *peer = dev_link_next(&vm->daemon->link, &first);
	if (!peer)
		return -EHOSTUNREACH;
	if (getrandom(token, sizeof(token), 0) != sizeof(token))
		return -EIO;
	int e = relay_new(vm, c, token, true, window_for(c), &c->relay);
	if (e < 0)
		return e;
	struct dev_relay *r = c->relay;
	r->kind = DEV_RELAY_CONN;
	r->c = c;
	r->next_ask = first;
	r->ask = make_ask(vm, c, token, &r->chan.ask_len);
	if (!r->ask) {
		c->relay = NULL;
		relay_free(r);
		return -ENOMEM;
	}
	r->chan.ask = r->ask;
	r->peer = peer;
	dev_link_use(peer);
	dev_link_bind(r);
	return 0;
}

/* The VM whose guest is asked for; NULL: none that would answer. */
static struct dev_vm *find_asked(const struct dev_daemon *d, const uint8_t *ask, const char *groups)
{
	struct dev_vm *found = NULL;
	for (size_t i = 0; i < d->n_vms; i++) {
		struct dev_vm *vm = d->vm[i];
		if (!vm || vm->front < 0)
			continue;
		if (dev_options_cid(vm->opt) == le32_at(ask + ASK_FROM_CID))
			return NULL; /* here that is another guest's */
		if (dev_options_cid(vm->opt) == le32_at(ask + ASK_TO_CID) && !vm->frozen &&
			dev_options_in_group(vm->opt, groups))
			found = vm;
	}
	return found;
}

void dev_relay_asked(struct dev_link *l, const uint8_t *ask, size_t n)
{
	char groups[DEV_GROUPS_MAX + 1] = "";
	struct vsk_conn *core;
	uint64_t now_us = l->daemon->loop.now_us;
	if (n <= ASK_BYTES || n - ASK_BYTES > DEV_GROUPS_MAX || dev_relay_find(l, ask))
		return; /* malformed; or it was asked before, on a connection that is lost */
	memcpy(groups, ask + ASK_BYTES, n - ASK_BYTES);
	struct dev_vm *vm = find_asked(l->daemon, ask, groups);
	uint32_t from_cid = le32_at(ask + ASK_FROM_CID);
	uint16_t type = le16_at(ask + ASK_TYPE);
	if (!vm || from_cid <= VSK_CID_HOST || from_cid == UINT32_MAX ||
		(type != VSK_TYPE_STREAM && type != VSK_TYPE_SEQPACKET) ||
		!dev_limits_admit(vm, true, le32_at(ask + ASK_TO_PORT), vm->vsk.n_conns + 1))
		return;
	(void)dev_vm_reserve_slots(vm, 1); /* without one the engine refuses, just below */
	if (vsk_connect_from(&vm->vsk, now_us, type, from_cid, le32_at(ask + ASK_FROM_PORT),
		    le32_at(ask + ASK_TO_PORT), &core) < 0)
		return;
	struct dev_conn *c = dev_conn_of(core);
	if (relay_new(vm, c, ask + ASK_TOKEN, false, window_for(c), &c->relay) < 0) {
		dev_conn_failed(vm, c, -ENOMEM);
		return;
	}
	c->relay->kind = DEV_RELAY_CONN;
	c->relay->c = c;
	wait_for_dial(c->relay);
}

void dev_relay_accepted(struct dev_relay *r)
{
	put_head(r, READY, 0);
	r->c->since_us = now(r);
	wake(r);
}

/* ---- a takeover ---- */

int dev_relay_make(struct dev_link *l, const uint8_t *token, bool dials, size_t window,
	const char *address, struct dev_relay **ret)
{
	if (!window_ok(window) || (address[0] && !dials))
		return -EINVAL;
	struct dev_peer *peer = address[0] ? dev_link_peer(l, address) : NULL;
	if (address[0] && !peer)
		return -EHOSTUNREACH;
	int e = relay_alloc(l, token, dials, window, ret);
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
	if (s != VSK_OPEN && s != (stream(r)->dials ? VSK_DIALLING : VSK_ASKING))
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
		watch_host(r, false);
	if (r->kind == DEV_RELAY_CONN && stream(r)->dials)
		find_home(r);
	dev_link_bind(r);
	dev_relay_work(r);
}

void dev_relay_forget(struct dev_relay *r)
{
	if (r->c)
		r->c->relay = NULL;
	relay_free(r);
}
