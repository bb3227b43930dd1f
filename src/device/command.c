/* SPDX-License-Identifier: MIT */
#include "command.h"
#include "admin.h"
#include "base/fd.h"
#include "base/hex.h"
#include "base/log.h"
#include "counters.h"
#include "relay.h"
#include "takeover.h"
#include "vm.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

typedef int command_fn(struct dev_request *rq, struct hf_err *reterr);

static int cmd_version(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	unsigned oldest, newest;
	dev_state_versions(&oldest, &newest);
	return json_object_set_new(rq->answer, "version", json_string(HF_VERSION)) |
	       json_object_set_new(rq->answer, "record",
		       json_pack("{s:i,s:i}", "oldest", oldest, "newest", newest));
}

static int cmd_vm_list(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	json_t *list = json_array();
	for (size_t i = 0; i < rq->daemon->n_vms; i++) {
		struct dev_vm_info info;
		if (!rq->daemon->vm[i])
			continue;
		dev_vm_info(rq->daemon->vm[i], &info);
		if (json_array_append_new(list,
			    json_pack("{s:s,s:I,s:I,s:b,s:s,s:I}", "name", info.name, "guest_cid",
				    (json_int_t)info.guest_cid, "outer_cid",
				    (json_int_t)info.outer_cid, "connected", info.connected,
				    "rings", info.rings, "connections", (json_int_t)info.n_conns)) <
			0)
			break; /* out of memory: seen below */
	}
	return json_object_set_new(rq->answer, "vms", list);
}

static json_t *conn_json(const struct dev_conn_info *c)
{
	return json_pack("{s:I,s:I,s:I,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:s,s:s}",
		"host_port", (json_int_t)c->host_port, "guest_port", (json_int_t)c->guest_port,
		"peer_cid", (json_int_t)c->peer_cid, "type", c->type, "state", c->state, "claimed",
		c->claimed, "rx_bytes", (json_int_t)c->rx_bytes, "tx_bytes",
		(json_int_t)c->tx_bytes, "to_host_pending", (json_int_t)c->to_host_pending,
		"to_guest_pending", (json_int_t)c->to_guest_pending, "rx_credit",
		(json_int_t)c->rx_credit, "tx_credit", (json_int_t)c->tx_credit, "age_ms",
		(json_int_t)(c->age_us / 1000), "state_bytes", (json_int_t)c->app_bytes, "arrived",
		c->arrived, "policy", c->policy, "relay", c->relay);
}

/* At most DEV_LIST_MAX of them, beginning at slot `at`; "next" says where the rest begins. */
static int put_conns(struct dev_request *rq, size_t at)
{
	json_t *list = json_array();
	struct dev_conn_info info;
	size_t n = 0;
	for (size_t before = at; dev_vm_next_conn(rq->vm, &at, &info); before = at)
		if (n++ == DEV_LIST_MAX) {
			(void)json_object_set_new(rq->answer, "next",
				json_integer((json_int_t)before)); /* without memory: see below */
			break;
		} else if (json_array_append_new(list, conn_json(&info)) < 0) {
			break; /* out of memory: the answer lacks a connection, nothing else */
		}
	return json_object_set_new(rq->answer, "connections", list);
}

static int cmd_conn_list(struct dev_request *rq, struct hf_err *reterr)
{
	const json_t *from = json_object_get(rq->args, "from");
	if (from && (!json_is_integer(from) || json_integer_value(from) < 0))
		return hf_err_set(reterr, -EINVAL, "from: want \"next\" of the answer before");
	return put_conns(rq, (size_t)json_integer_value(from));
}

static bool number_at(const json_t *list, size_t i, uint32_t *ret_v)
{
	const json_t *v = json_array_get(list, i);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
		return false;
	*ret_v = (uint32_t)json_integer_value(v);
	return true;
}

/* "keep": [[host_old_cid, host_new_cid, host_port, guest_port], ...]; *ret_ports is to be freed. */
static int get_keep(struct dev_request *rq, struct dev_ports **ret_ports, struct dev_keep *ret_keep,
	struct hf_err *reterr)
{
	const json_t *list = json_object_get(rq->args, "keep");
	struct dev_vm_info info;
	size_t n = json_array_size(list);
	dev_vm_info(rq->vm, &info);
	if (!json_is_array(list) || n > DEV_CONNS_MAX)
		return hf_err_set(
			reterr, -EINVAL, "keep: want a list of at most %d entries", DEV_CONNS_MAX);
	struct dev_ports *ports = calloc(n + 1, sizeof(*ports));
	if (!ports)
		return -ENOMEM;
	*ret_ports = ports;
	for (size_t i = 0; i < n; i++) {
		const json_t *e = json_array_get(list, i);
		uint32_t old_cid, new_cid;
		if (!number_at(e, 0, &old_cid) || !number_at(e, 1, &new_cid) ||
			!number_at(e, 2, &ports[i].host) || !number_at(e, 3, &ports[i].guest) ||
			old_cid != info.outer_cid)
			return hf_err_set(reterr, -EINVAL,
				"keep: entry %zu: want [host_old_cid, host_new_cid, host_port, "
				"guest_port]; the host knows this guest as CID %u",
				i + 1, info.outer_cid);
	}
	*ret_keep = (struct dev_keep){ .ports = ports, .n = n };
	return 0;
}

/* Those that are not in the record, and why. */
static int put_reset(struct dev_request *rq)
{
	json_t *list = json_array();
	struct dev_conn_info c;
	for (size_t at = 0;
		dev_vm_next_conn(rq->vm, &at, &c) && json_array_size(list) < DEV_LIST_MAX;)
		if (c.fate != DEV_KEPT &&
			json_array_append_new(list,
				json_pack("{s:I,s:I,s:s}", "host_port", (json_int_t)c.host_port,
					"guest_port", (json_int_t)c.guest_port, "why",
					dev_fate_text(c.fate))) < 0)
			break; /* out of memory: the list is shorter, nothing else */
	return json_object_set_new(rq->answer, "reset", list);
}

static int cmd_state_save(struct dev_request *rq, struct hf_err *reterr)
{
	size_t size, n_conns;
	struct dev_keep keep;
	HF_CLEANUP(hf_freep) struct dev_ports *ports = NULL;
	bool have_list = json_object_get(rq->args, "keep");
	int r = have_list ? get_keep(rq, &ports, &keep, reterr) : 0;
	if (r == 0)
		r = dev_state_save(rq->vm, have_list ? &keep : NULL, &rq->client->out_fd, &size,
			&n_conns, reterr);
	if (r == 0)
		r = put_reset(rq);
	if (r < 0)
		return r;
	return json_object_set_new(rq->answer, "size", json_integer((json_int_t)size)) |
	       json_object_set_new(rq->answer, "connections", json_integer((json_int_t)n_conns));
}

static int cmd_state_freeze(struct dev_request *rq, struct hf_err *reterr)
{
	bool leave = json_is_true(json_object_get(rq->args, "leave"));
	struct dev_keep keep;
	HF_CLEANUP(hf_freep) struct dev_ports *ports = NULL;
	bool have_list = json_object_get(rq->args, "keep");
	int r = have_list ? get_keep(rq, &ports, &keep, reterr) : 0;
	if (r == 0)
		r = dev_state_freeze(rq->vm, have_list ? &keep : NULL, leave, reterr);
	return r < 0 ? r : put_reset(rq);
}

static int cmd_state_load(struct dev_request *rq, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int fd = fd_take(&rq->client->in_fd);
	if (fd < 0)
		return hf_err_set(reterr, -EINVAL,
			"no descriptor came with the request: attach the record (SCM_RIGHTS)");
	struct dev_vm_info info;
	int r = dev_state_load(rq->vm, fd, reterr);
	dev_vm_info(rq->vm, &info);
	return r < 0 ? r
		     : json_object_set_new(
			       rq->answer, "connections", json_integer((json_int_t)info.n_conns));
}

static int get_port(
	const struct dev_request *rq, const char *key, uint32_t *ret_port, struct hf_err *reterr)
{
	const json_t *v = json_object_get(rq->args, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
		return hf_err_set(reterr, -EINVAL, "%s: want a number from 0 to 4294967295", key);
	*ret_port = (uint32_t)json_integer_value(v);
	return 0;
}

static int get_ports(
	const struct dev_request *rq, struct dev_ports *ret_ports, struct hf_err *reterr)
{
	int r = get_port(rq, "host_port", &ret_ports->host, reterr);
	return r < 0 ? r : get_port(rq, "guest_port", &ret_ports->guest, reterr);
}

static int put_hex(struct dev_request *rq, const char *key, const uint8_t *data, size_t n)
{
	HF_CLEANUP(hf_freep) char *hex = malloc(2 * n + 1);
	if (!hex)
		return -ENOMEM;
	hex_encode(data, n, hex);
	return json_object_set_new(rq->answer, key, json_string(hex));
}

static int cmd_claim(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_ports ports;
	struct dev_claim claim;
	int r = get_ports(rq, &ports, reterr);
	if (r == 0)
		r = dev_state_claim(rq->vm, ports, &claim, reterr);
	if (r < 0)
		return r;
	rq->client->out_fd = claim.fd;
	r = put_hex(rq, "state", claim.app, claim.app_len);
	free(claim.app);
	return r;
}

static int cmd_conn_checkpoint(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_ports ports;
	int r = get_ports(rq, &ports, reterr);
	return r < 0 ? r : dev_state_checkpoint(rq->vm, ports, &rq->client->out_fd, reterr);
}

static int cmd_conn_restore(struct dev_request *rq, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int fd = fd_take(&rq->client->in_fd);
	struct dev_ports ports;
	if (fd < 0)
		return hf_err_set(reterr, -EINVAL,
			"no descriptor came with the request: attach the record (SCM_RIGHTS)");
	int r = dev_state_restore(rq->vm, fd, &ports, reterr);
	if (r < 0)
		return r;
	return json_object_set_new(rq->answer, "host_port", json_integer((json_int_t)ports.host)) |
	       json_object_set_new(rq->answer, "guest_port", json_integer((json_int_t)ports.guest));
}

static int cmd_conn_attach_state(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_ports ports;
	const char *hex = json_string_value(json_object_get(rq->args, "state"));
	size_t n = hex ? strlen(hex) / 2 : 0;
	int r = get_ports(rq, &ports, reterr);
	if (r < 0)
		return r;
	HF_CLEANUP(hf_freep) uint8_t *data = malloc(n + 1);
	if (!data)
		return -ENOMEM;
	if (!hex || hex_decode(hex, data, n) < 0)
		return hf_err_set(reterr, -EINVAL, "state: want bytes in hex digits");
	return dev_state_attach(rq->vm, ports, data, n, reterr);
}

static int put_policies(struct dev_request *rq)
{
	const struct dev_policies *p = &rq->vm->policies;
	json_t *list = json_array();
	for (size_t i = 0; i < p->n; i++)
		if (json_array_append_new(
			    list, json_pack("{s:I,s:I,s:s}", "first", (json_int_t)p->rule[i].first,
					  "last", (json_int_t)p->rule[i].last, "policy",
					  dev_policy_name(p->rule[i].policy))) < 0)
			break; /* out of memory: the list is shorter, nothing else */
	return json_object_set_new(rq->answer, "ports", list) |
	       json_object_set_new(
		       rq->answer, "default", json_string(dev_policy_name(p->otherwise)));
}

static int cmd_policy_list(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	return put_policies(rq);
}

/* All of them, as policy-list gives them. */
static int take_policies(
	const json_t *ports, const json_t *args, struct dev_policies *p, struct hf_err *reterr)
{
	const char *otherwise = json_string_value(json_object_get(args, "default"));
	size_t i;
	json_t *e;
	*p = (struct dev_policies){ 0 };
	if (!json_is_array(ports) || !otherwise)
		return hf_err_set(reterr, -EINVAL,
			"want \"ports\" and \"default\" as policy-list gives them");
	json_array_foreach (ports, i, e) {
		const char *policy;
		char range[48];
		json_int_t first, last;
		if (json_unpack(e, "{s:I, s:I, s:s}", "first", &first, "last", &last, "policy",
			    &policy) < 0)
			return hf_err_set(reterr, -EINVAL,
				"ports, entry %zu: want first, last and policy", i + 1);
		(void)snprintf(range, sizeof(range), "%lld-%lld", (long long)first,
			(long long)last); /* fits */
		int r = dev_policy_set(p, range, policy, reterr);
		if (r < 0)
			return r;
	}
	return dev_policy_set(p, "default", otherwise, reterr);
}

static int cmd_policy_set(struct dev_request *rq, struct hf_err *reterr)
{
	const char *port = json_string_value(json_object_get(rq->args, "port"));
	const char *policy = json_string_value(json_object_get(rq->args, "policy"));
	const json_t *ports = json_object_get(rq->args, "ports");
	struct dev_policies p = rq->vm->policies;
	int r;
	if (ports)
		r = take_policies(ports, rq->args, &p, reterr);
	else if (port && policy)
		r = dev_policy_set(&p, port, policy, reterr);
	else
		r = hf_err_set(reterr, -EINVAL,
			"want \"port\" (\"1024\", \"2000-2999\", \"default\") and \"policy\"");
	if (r < 0)
		return r;
	if (dev_policy_relays(&p) && !dev_link_is_open(&rq->daemon->link))
		return hf_err_set(
			reterr, -EINVAL, "policy relay: this holdfastd was started without --link");
	rq->vm->policies = p;
	return put_policies(rq);
}

static json_t *relay_json(const struct dev_relay *r)
{
	const struct rs *rs = &r->chan.rs;
	json_int_t to_link = (json_int_t)hf_ring_len(&rs->tx);
	json_int_t from_link = (json_int_t)hf_ring_len(&rs->rx);
	return json_pack("{s:s,s:I,s:I,s:I,s:s,s:s,s:b,s:I,s:I,s:I}", "vm", r->vm_name, "host_port",
		(json_int_t)r->host_port, "guest_port", (json_int_t)r->guest_port, "peer_cid",
		(json_int_t)r->peer_cid, "kind", dev_relay_kind_name(r->kind), "peer",
		r->peer ? r->peer->address : "", "linked", r->chan.id != 0, "in_bytes",
		(json_int_t)r->in_bytes, "out_bytes", (json_int_t)r->out_bytes, "held",
		to_link + from_link);
}

static int cmd_relay_list(struct dev_request *rq, struct hf_err *reterr)
{
	const struct dev_link *l = &rq->daemon->link;
	json_t *relays = json_array(), *links = json_array();
	(void)reterr; /* nothing can be refused */
	for (size_t i = 0; i < DEV_PEERS_MAX; i++)
		if (l->peer[i] &&
			json_array_append_new(
				links, json_pack("{s:s,s:s,s:I}", "peer", l->peer[i]->address,
					       "state", dev_peer_state_name(l->peer[i]->state),
					       "relays", (json_int_t)l->peer[i]->mux.n_chans)) < 0)
			break; /* out of memory: the list is shorter, nothing else */
	for (uint32_t i = 0; i < l->n_slots && json_array_size(relays) < DEV_LIST_MAX; i++)
		if (l->slot[i] && json_array_append_new(relays, relay_json(l->slot[i])) < 0)
			break; /* likewise */
	return json_object_set_new(rq->answer, "count", json_integer((json_int_t)l->n_relays)) |
	       json_object_set_new(rq->answer, "links", links) |
	       json_object_set_new(rq->answer, "relays", relays);
}

static int cmd_watch(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_vm_info info;
	(void)reterr; /* nothing can be refused */
	rq->client->watches = rq->vm;
	rq->client->says = DEV_SAYS_NOTHING;
	rq->client->busy = false;
	dev_vm_info(rq->vm, &info);
	return json_object_set_new(rq->answer, "rings", json_string(info.rings));
}

static int cmd_quiesced(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* one that comes too late changes nothing */
	rq->client->busy = false;
	return 0;
}

static int cmd_quiesce(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_client *cl = rq->client;
	json_int_t ms = json_integer_value(json_object_get(rq->args, "deadline_ms"));
	if (ms < 1 || ms > DEV_QUIESCE_MS_MAX)
		return hf_err_set(reterr, -EINVAL, "deadline_ms: want a number from 1 to %d",
			DEV_QUIESCE_MS_MAX);
	int r = dev_state_quiesce(rq->vm, reterr);
	if (r < 0)
		return r;
	cl->quiesces = rq->vm;
	cl->quiesce_ms = (uint64_t)ms;
	cl->quiesce_until_us = rq->daemon->loop.now_us + (uint64_t)ms * 1000;
	cl->quiesce_id = json_incref(json_object_get(rq->args, "id"));
	dev_control_tell(&rq->daemon->control, rq->vm, DEV_SAYS_QUIESCE);
	return DEV_LATER;
}

static int cmd_state_discard(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	size_t n = dev_state_discard(rq->vm);
	return json_object_set_new(rq->answer, "connections", json_integer((json_int_t)n));
}

/* ---- what an operator changes ---- */

static int cmd_vm_add(struct dev_request *rq, struct hf_err *reterr)
{
	struct dev_vm_options o = dev_options_vm_default();
	const char *key;
	json_t *v;
	int r = 0;
	json_object_foreach (json_object_get(rq->args, "config"), key, v) {
		char number[24];
		(void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
		const char *text = json_is_integer(v) ? number : json_string_value(v);
		r = text ? dev_options_vm_set(&o, key, text, reterr)
			 : hf_err_set(reterr, -EINVAL, "%s: want a string or a number", key);
		if (r < 0)
			return r;
	}
	r = dev_options_vm_check(&o, reterr);
	return r < 0 ? r : dev_admin_add_vm(rq->daemon, &o, reterr);
}

static int cmd_vm_remove(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	dev_admin_remove_vm(rq->daemon, rq->vm);
	return 0;
}

static int cmd_vm_cid(struct dev_request *rq, struct hf_err *reterr)
{
	uint32_t cid;
	int r = get_port(rq, "guest_cid", &cid, reterr);
	return r < 0 ? r : dev_admin_set_cid(rq->vm, cid, reterr);
}

static int cmd_conn_reset(struct dev_request *rq, struct hf_err *reterr)
{
	uint32_t host_port = 0, guest_port = 0, peer_cid = VSK_CID_HOST;
	int r = get_port(rq, "host_port", &host_port, reterr);
	if (r == 0)
		r = get_port(rq, "guest_port", &guest_port, reterr);
	if (r == 0 && json_object_get(rq->args, "peer_cid"))
		r = get_port(rq, "peer_cid", &peer_cid, reterr);
	return r < 0 ? r : dev_admin_reset_conn(rq->vm, peer_cid, host_port, guest_port, reterr);
}

static int cmd_log_level(struct dev_request *rq, struct hf_err *reterr)
{
	const char *text = json_string_value(json_object_get(rq->args, "level"));
	if (!text || hf_log_level_parse(text, &hf_log_max) < 0)
		return hf_err_set(
			reterr, -EINVAL, "level: want error, warning, info, debug or trace");
	return 0;
}

/* The client's connection is the takeover's from here on: this end of it is closed. */
static int cmd_takeover(struct dev_request *rq, struct hf_err *reterr)
{
	int r = dev_takeover_asked(rq->daemon, rq->client->fd, reterr);
	if (r < 0)
		return r;
	rq->client->closing = true;
	return DEV_LATER;
}

static int cmd_counters(struct dev_request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	json_t *counters = json_object();
	struct dev_counter c;
	for (size_t i = 0; dev_counter_at(rq->vm, i, &c); i++)
		if (json_object_set_new(counters, c.name, json_integer((json_int_t)c.value)) < 0)
			break; /* out of memory: the answer lacks a counter, nothing else */
	return json_object_set_new(rq->answer, "counters", counters);
}

static const struct command {
	const char *name;
	bool about_vm;
	command_fn *fn;
} commands[] = {
	{ "version", false, cmd_version },
	{ "vm-list", false, cmd_vm_list },
	{ "conn-list", true, cmd_conn_list },
	{ "state-save", true, cmd_state_save },
	{ "state-freeze", true, cmd_state_freeze },
	{ "state-load", true, cmd_state_load },
	{ "claim", true, cmd_claim },
	{ "conn-checkpoint", true, cmd_conn_checkpoint },
	{ "conn-restore", true, cmd_conn_restore },
	{ "conn-attach-state", true, cmd_conn_attach_state },
	{ "policy-list", true, cmd_policy_list },
	{ "policy-set", true, cmd_policy_set },
	{ "relay-list", false, cmd_relay_list },
	{ "watch", true, cmd_watch },
	{ "quiesced", true, cmd_quiesced },
	{ "quiesce", true, cmd_quiesce },
	{ "state-discard", true, cmd_state_discard },
	{ "vm-add", false, cmd_vm_add },
	{ "vm-remove", true, cmd_vm_remove },
	{ "vm-cid", true, cmd_vm_cid },
	{ "conn-reset", true, cmd_conn_reset },
	{ "counters", true, cmd_counters },
	{ "log-level", false, cmd_log_level },
	{ "takeover", false, cmd_takeover },
};

static int find_vm(struct dev_request *rq, struct hf_err *reterr)
{
	const char *name = json_string_value(json_object_get(rq->args, "vm"));
	if (!name)
		return hf_err_set(reterr, -EINVAL, "vm: the VM's name is missing");
	for (size_t i = 0; i < rq->daemon->n_vms; i++) {
		struct dev_vm *vm = rq->daemon->vm[i];
		if (vm && strcmp(vm->opt->name, name) == 0) {
			rq->vm = vm;
			return 0;
		}
	}
	return hf_err_set(reterr, -ENOENT, "vm \"%.64s\": no such VM; see vm-list", name);
}

int dev_command_run(struct dev_request *rq, struct hf_err *reterr)
{
	const char *name = json_string_value(json_object_get(rq->args, "cmd"));
	if (!name)
		return hf_err_set(reterr, -EINVAL, "cmd: the command's name is missing");
	for (size_t i = 0; i < HF_ARRAY_SIZE(commands); i++) {
		if (strcmp(commands[i].name, name) != 0)
			continue;
		int r = commands[i].about_vm ? find_vm(rq, reterr) : 0;
		if (r == 0)
			r = commands[i].fn(rq, reterr);
		return r;
	}
	return hf_err_set(reterr, -ENOSYS, "cmd \"%.64s\": no such command", name);
}
