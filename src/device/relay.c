/* SPDX-License-Identifier: MIT */
/*
 * relay.c - ends of relayed connections: their life, what they say, and whose turn it is.
 *
 *   relay_conn.c the host end of a connection of ours
 *   relay_host.c the socket of a host application whose VM has left
 *   relay_move.c relays when a VM moves, or when another process takes over
 *   relay_ask.c  guests of other daemons
 *
 * Payload is copied once each way between a ring of the stream and guest memory or the host socket.
 * A ring never has less than DEV_RELAY_RESERVE bytes of room left by payload, so that what is said
 * without payload always fits.
 *
 * A stream is ended (rs_end) when its end has said FIN and DEAF, so a half-close can be followed by
 * a close. Who closes a connection says both; a reset is the stream's own.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay_internal.h"
#include <errno.h>
#include <string.h>

#define WINDOW_MAX (16U << 20)

const char *dev_relay_kind_name(enum dev_relay_kind k)
{
	static const char *const names[DEV_RELAY_N_] = { "guest", "host", "relay", "heir",
		"closing" };
	return names[k];
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

void dev_relay_wait_none(struct dev_relay *r)
{
	hf_list_remove(&r->wait_node);
	r->waits = false;
}

void dev_relay_wait(struct dev_relay *r)
{
	if (r->waits)
		return;
	r->until_us = r->link->daemon->loop.now_us + r->link->timeout_us;
	r->waits = true;
	hf_list_append(&r->link->waiting, &r->wait_node);
}

size_t dev_relay_window_for(const struct dev_conn *c)
{
	size_t n = DEV_RELAY_WINDOW, message = c->core.buf_alloc;
	if (c->sibling)
		message = HF_MAX(message, c->sibling->core.buf_alloc);
	while (c->core.type == VSK_TYPE_SEQPACKET && n < 2 * message + DEV_RELAY_RESERVE)
		n *= 2;
	return n;
}

bool dev_relay_window_ok(size_t n)
{
	return n >= DEV_RELAY_RESERVE * 4 && n <= WINDOW_MAX && (n & (n - 1)) == 0;
}

/* A relay in no state yet. */
int dev_relay_alloc(
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
void dev_relay_give(struct dev_relay *r, struct dev_vm *vm, struct dev_conn *c)
{
	r->vm = vm;
	r->c = c;
	memcpy(r->vm_name, vm->opt->name, sizeof(r->vm_name));
	r->host_port = c->core.host_port;
	r->guest_port = c->core.guest_port;
	r->peer_cid = c->core.peer_cid;
}

int dev_relay_new(struct dev_vm *vm, struct dev_conn *c, const uint8_t *token, bool dials,
	size_t window, struct dev_relay **ret)
{
	struct dev_relay *r;
	int e = dev_relay_alloc(&vm->daemon->link, token, dials, window, &r);
	if (e < 0)
		return e;
	r->message = c->core.type == VSK_TYPE_SEQPACKET;
	dev_relay_give(r, vm, c);
	*ret = r;
	return 0;
}

void dev_relay_free(struct dev_relay *r)
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
	dev_relay_wait_none(r);
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
	if (rs_over(stream(r)))
		dev_relay_work(r);
	else if (!r->asleep)
		dev_relay_wait(r);
}

void dev_relay_bound(struct dev_relay *r)
{
	dev_relay_wait_none(r);
}

/* ---- what is said ---- */

void dev_relay_put_head(struct dev_relay *r, unsigned what, size_t value)
{
	uint8_t h[DEV_HEAD_BYTES];
	le32_to(h, (uint32_t)value | what << 28);
	ssize_t n = rs_write(stream(r), h, DEV_HEAD_BYTES);
	hf_assert(n == DEV_HEAD_BYTES || n == -EPIPE); /* RESERVE; or the stream was reset */
}

void dev_relay_say_fin(struct dev_relay *r)
{
	if (!r->fin_out)
		dev_relay_put_head(r, DEV_HEAD_FIN, 0);
	r->fin_out = true;
}

void dev_relay_say_deaf(struct dev_relay *r)
{
	if (!r->deaf_out)
		dev_relay_put_head(r, DEV_HEAD_DEAF, 0);
	r->deaf_out = true;
}

/* After what was said: both mean the end of the stream. */
void dev_relay_said(struct dev_relay *r)
{
	if (r->fin_out && r->deaf_out)
		rs_end(stream(r));
	wake(r);
}

/* How much payload may go behind one more head. */
size_t dev_relay_room(struct dev_relay *r)
{
	size_t n = rs_room(stream(r));
	return n > DEV_HEAD_BYTES + DEV_RELAY_RESERVE ? n - DEV_HEAD_BYTES - DEV_RELAY_RESERVE : 0;
}

/* What the next head says, when it is there whole and all before it was read; -1: nothing. */
int dev_relay_peek(struct dev_relay *r, uint32_t *ret_value)
{
	uint8_t h[DEV_HEAD_BYTES];
	if (r->left > 0 || hf_ring_peek(&stream(r)->rx, 0, h, DEV_HEAD_BYTES) < DEV_HEAD_BYTES)
		return -1;
	*ret_value = le32_at(h) & DEV_RELAY_LEFT_MAX;
	return (int)(le32_at(h) >> 28);
}

/* Steps over a head of payload: false, there is none. */
bool dev_relay_next_payload(struct dev_relay *r)
{
	uint32_t value;
	int what = dev_relay_peek(r, &value);
	if (what < 0 || what > DEV_HEAD_WHOLE_EOR)
		return false;
	rs_take(stream(r), DEV_HEAD_BYTES);
	r->left = value;
	r->what = (uint8_t)what;
	return true;
}

/* Steps over FIN or DEAF. */
bool dev_relay_next_is(struct dev_relay *r, int what)
{
	uint32_t value;
	if (dev_relay_peek(r, &value) != what)
		return false;
	rs_take(stream(r), DEV_HEAD_BYTES);
	r->fin_in |= what == DEV_HEAD_FIN;
	r->deaf_in |= what == DEV_HEAD_DEAF;
	return true;
}

void dev_relay_take_payload(struct dev_relay *r, size_t n)
{
	rs_take(stream(r), n);
	r->left -= (uint32_t)n;
	r->in_bytes += n;
	r->link->in_bytes += n;
}

/* ---- a turn ---- */

static void step_orphan(struct dev_relay *r)
{
	rs_take(stream(r), hf_ring_len(&stream(r)->rx));
	if (rs_readable_end(stream(r)))
		rs_take_end(stream(r));
	wake(r);
	if (rs_over(stream(r)))
		dev_relay_free(r);
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
	dev_relay_free(r);
}

void dev_relay_step(struct dev_relay *r)
{
	switch (r->kind) {
	case DEV_RELAY_CONN:
		dev_relay_step_conn(r);
		break;
	case DEV_RELAY_HOST:
		dev_relay_step_host(r);
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

void dev_relay_leave(struct dev_relay *r)
{
	if (r->kind != DEV_RELAY_ORPHAN) /* that one has said what there was to be said */
		rs_reset(stream(r), DEV_RELAY_RESET);
	wake(r);
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
		dev_relay_free(r);
	if (conn && c->core.state == VSK_DIALLING)
		dev_relay_refuse(vm, c);
	else if (conn && c->core.state == VSK_CLOSED)
		dev_conn_finish(vm, c); /* what waits is for nobody */
	else if (conn)
		dev_conn_failed(vm, c, error);
}
