/* SPDX-License-Identifier: MIT */
/*
 * relay_ask.c - guests of other daemons are dialled, and theirs dial ours.
 */
#include "daemon.h"
#include "relay_internal.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

/* syscalls: getrandom */

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
	int e = dev_relay_new(vm, c, token, true, dev_relay_window_for(c), &c->relay);
	if (e < 0)
		return e;
	struct dev_relay *r = c->relay;
	r->kind = DEV_RELAY_CONN;
	r->next_ask = first;
	r->ask = make_ask(vm, c, token, &r->chan.ask_len);
	if (!r->ask) {
		c->relay = NULL;
		dev_relay_free(r);
		return -ENOMEM;
	}
	r->chan.ask = r->ask;
	r->peer = peer;
	dev_link_use(peer);
	dev_link_bind(r);
	return 0;
}

void dev_relay_refuse(struct dev_vm *vm, struct dev_conn *c)
{
	vm->daemon->poked = true;
	vsk_dialled(&vm->vsk, &c->core, false);
	dev_conn_finish(vm, c);
}

/* This daemon does not have the guest. */
void dev_relay_ask_another(struct dev_relay *r)
{
	struct dev_vm *vm = r->vm;
	struct dev_conn *c = r->c;
	size_t next = r->next_ask;
	c->relay = NULL;
	dev_relay_free(r);
	if (dev_relay_ask(vm, c, next) < 0)
		dev_relay_refuse(vm, c);
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
	if (dev_relay_new(vm, c, ask + ASK_TOKEN, false, dev_relay_window_for(c), &c->relay) < 0) {
		dev_conn_failed(vm, c, -ENOMEM);
		return;
	}
	c->relay->kind = DEV_RELAY_CONN;
	dev_relay_wait(c->relay);
}

void dev_relay_accepted(struct dev_relay *r)
{
	dev_relay_put_head(r, DEV_HEAD_READY, 0);
	r->c->since_us = r->vm->loop->now_us;
	wake(r);
}
