/* SPDX-License-Identifier: MIT */
/*
 * handover_relay.c - relays in the record of a takeover.
 *
 * A relay's stream outlives its connection to the other daemon, so those connections are not handed
 * over: who dialled dials again, and the stream goes on at the exact byte. Who has asked for a
 * guest and hears that the token is unknown asks again, all daemons from the first. The two halves
 * of a JOIN stand one behind the other.
 */
#include "base/fd.h"
#include "daemon.h"
#include "handover.h"
#include "relay.h"
#include <errno.h>
#include <string.h>

#define ANY UINT64_MAX

/* ---- saving ---- */

static void save_flags(const struct dev_relay *r, struct dev_pack *p)
{
	dev_pack_number(p, r->left);
	dev_pack_number(p, r->what);
	dev_pack_number(p, r->fin_in);
	dev_pack_number(p, r->deaf_in);
	dev_pack_number(p, r->fin_out);
	dev_pack_number(p, r->deaf_out);
	dev_pack_number(p, r->deaf);
	dev_pack_number(p, r->message);
}

static void save_relay(const struct dev_relay *r, struct dev_pack *p)
{
	const struct rs *rs = &r->chan.rs;
	const char *address = r->peer && rs->dials ? r->peer->address : "";
	size_t n = rs_save_size(rs);
	HF_CLEANUP(hf_freep) uint8_t *stream = malloc(n);
	ssize_t len = stream ? rs_save(rs, stream, n) : -ENOMEM;
	if (len < 0)
		p->error = (int)len;
	dev_pack_begin(p, DEV_PART_RELAY);
	dev_pack_bytes(p, rs->token, sizeof(rs->token));
	dev_pack_number(p, rs->dials);
	dev_pack_number(p, rs->rx.cap);
	dev_pack_bytes(p, address, strlen(address));
	dev_pack_bytes(p, r->peer_id, sizeof(r->peer_id));
	dev_pack_number(p, r->kind);
	dev_pack_fd(p, r->fd);
	dev_pack_bytes(p, stream, len < 0 ? 0 : (size_t)len);
	dev_pack_number(p, r->c ? r->vm->index : 0);
	dev_pack_bytes(p, r->vm_name, strlen(r->vm_name));
	dev_pack_number(p, r->host_port);
	dev_pack_number(p, r->guest_port);
	dev_pack_number(p, r->peer_cid);
	dev_pack_number(p, r->in_bytes);
	dev_pack_number(p, r->out_bytes);
	save_flags(r, p);
	dev_pack_number(p, r->join != NULL);
	dev_pack_number(p, r->asks);
	dev_pack_end(p);
}

void dev_handover_save_relays(const struct dev_link *l, struct dev_pack *p)
{
	hf_list_for_each (n, &l->relays) {
		const struct dev_relay *r = HF_CONTAINER_OF(n, struct dev_relay, all_node);
		if (r->join && r->join->slot < r->slot)
			continue; /* behind its other half */
		save_relay(r, p);
		if (r->join)
			save_relay(r->join, p);
	}
}

/* ---- loading ---- */

static void load_flags(struct dev_relay *r, struct dev_unpack *u)
{
	r->left = (uint32_t)dev_unpack_number(u, DEV_RELAY_LEFT_MAX);
	r->what = (uint8_t)dev_unpack_number(u, DEV_RELAY_WHAT_MAX);
	r->fin_in = dev_unpack_flag(u);
	r->deaf_in = dev_unpack_flag(u);
	r->fin_out = dev_unpack_flag(u);
	r->deaf_out = dev_unpack_flag(u);
	r->deaf = dev_unpack_flag(u);
	r->message = dev_unpack_flag(u);
}

/* The connection whose host end it is. */
static int find_conn(struct dev_daemon *d, struct dev_relay *r, size_t index)
{
	struct dev_vm *vm = d->vm[index];
	struct vsk_conn *v =
		vm ? vsk_find(&vm->vsk, r->peer_cid, r->host_port, r->guest_port) : NULL;
	struct dev_conn *c = v ? dev_conn_of(v) : NULL;
	if (!c || !c->paired || vsk_is_relayed(v))
		return -EINVAL;
	c->paired = false;
	return dev_relay_lead(r, vm, c);
}

/* The halves of a JOIN: the first says that the second comes next. */
static int load_join(struct dev_handover *h, struct dev_relay *r, bool joined)
{
	struct dev_relay *first = h->joins;
	h->joins = joined && !first ? r : NULL;
	if ((first != NULL && !joined) || (joined && r->kind != DEV_RELAY_JOIN))
		return -EINVAL;
	if (first) {
		first->join = r;
		r->join = first;
	}
	return 0;
}

static int load_made(struct dev_daemon *d, struct dev_unpack *u, struct dev_relay **ret)
{
	size_t n_token, n_id;
	char address[DEV_ADDRESS_MAX + 1];
	const void *token = dev_unpack_bytes(u, RS_TOKEN_SIZE, &n_token);
	bool dials = dev_unpack_flag(u);
	size_t window = dev_unpack_number(u, DEV_PACK_MAX);
	dev_unpack_text(u, address, sizeof(address));
	const void *id = dev_unpack_bytes(u, RS_TOKEN_SIZE, &n_id);
	if (u->error || n_token != RS_TOKEN_SIZE || n_id != RS_TOKEN_SIZE)
		return -EINVAL;
	int e = dev_relay_make(&d->link, token, dials, window, address, ret);
	if (e == 0)
		memcpy((*ret)->peer_id, id, RS_TOKEN_SIZE);
	return e;
}

int dev_handover_load_relay(struct dev_handover *h, struct dev_unpack *u)
{
	struct dev_daemon *d = h->daemon;
	struct dev_relay *r;
	size_t n_stream;
	int e = d->link.daemon ? load_made(d, u, &r) : -EINVAL;
	if (e < 0)
		return e;
	r->kind = (enum dev_relay_kind)dev_unpack_number(u, DEV_RELAY_N_ - 1);
	r->fd = dev_unpack_fd(u);
	const void *stream = dev_unpack_bytes(u, DEV_PACK_MAX, &n_stream);
	size_t index = dev_unpack_number(u, DEV_VMS_MAX - 1);
	dev_unpack_text(u, r->vm_name, sizeof(r->vm_name));
	r->host_port = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	r->guest_port = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	r->peer_cid = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	r->in_bytes = dev_unpack_number(u, ANY);
	r->out_bytes = dev_unpack_number(u, ANY);
	load_flags(r, u);
	bool joined = dev_unpack_flag(u);
	r->asks = dev_unpack_more(u) && dev_unpack_flag(u);
	bool has_socket = r->kind == DEV_RELAY_HOST || r->kind == DEV_RELAY_ORPHAN;
	if (u->error || r->kind == DEV_RELAY_HEIR || (r->fd >= 0 && !has_socket))
		return -EINVAL;
	e = dev_relay_load_stream(r, stream, n_stream);
	if (e == 0)
		e = load_join(h, r, joined);
	return e < 0 || r->kind != DEV_RELAY_CONN ? e : find_conn(d, r, index);
}
