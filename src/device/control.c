/* SPDX-License-Identifier: MIT */
#include "control.h"
#include "activation.h"
#include "admin.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/hex.h"
#include "base/log.h"
#include "counters.h"
#include "daemon.h"
#include "relay.h"
#include "takeover.h"
#include "vm.h"
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: accept4 geteuid unlink unlinkat */

#define RECEIVE_BYTES 65536
#define LATER         1 /* of a command: its answer comes from dev_control_turn() */

/* ---- commands ---- */

struct request {
	struct dev_daemon *daemon;
	struct dev_client *client;
	const json_t *args;
	json_t *answer;    /* results are put here */
	struct dev_vm *vm; /* for commands about one */
};

typedef int command_fn(struct request *rq, struct hf_err *reterr);

static int cmd_version(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	unsigned oldest, newest;
	dev_state_versions(&oldest, &newest);
	return json_object_set_new(rq->answer, "version", json_string(HF_VERSION)) |
	       json_object_set_new(rq->answer, "record",
		       json_pack("{s:i,s:i}", "oldest", oldest, "newest", newest));
}

static int cmd_vm_list(struct request *rq, struct hf_err *reterr)
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
static int put_conns(struct request *rq, size_t at)
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

static int cmd_conn_list(struct request *rq, struct hf_err *reterr)
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
static int get_keep(struct request *rq, struct dev_ports **ret_ports, struct dev_keep *ret_keep,
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
static int put_reset(struct request *rq)
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

static int cmd_state_save(struct request *rq, struct hf_err *reterr)
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

static int cmd_state_freeze(struct request *rq, struct hf_err *reterr)
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

static int cmd_state_load(struct request *rq, struct hf_err *reterr)
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
	const struct request *rq, const char *key, uint32_t *ret_port, struct hf_err *reterr)
{
	const json_t *v = json_object_get(rq->args, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
		return hf_err_set(reterr, -EINVAL, "%s: want a number from 0 to 4294967295", key);
	*ret_port = (uint32_t)json_integer_value(v);
	return 0;
}

static int get_ports(const struct request *rq, struct dev_ports *ret_ports, struct hf_err *reterr)
{
	int r = get_port(rq, "host_port", &ret_ports->host, reterr);
	return r < 0 ? r : get_port(rq, "guest_port", &ret_ports->guest, reterr);
}

static int put_hex(struct request *rq, const char *key, const uint8_t *data, size_t n)
{
	HF_CLEANUP(hf_freep) char *hex = malloc(2 * n + 1);
	if (!hex)
		return -ENOMEM;
	hex_encode(data, n, hex);
	return json_object_set_new(rq->answer, key, json_string(hex));
}

static int cmd_claim(struct request *rq, struct hf_err *reterr)
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

static int cmd_conn_checkpoint(struct request *rq, struct hf_err *reterr)
{
	struct dev_ports ports;
	int r = get_ports(rq, &ports, reterr);
	return r < 0 ? r : dev_state_checkpoint(rq->vm, ports, &rq->client->out_fd, reterr);
}

static int cmd_conn_restore(struct request *rq, struct hf_err *reterr)
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

static int cmd_conn_attach_state(struct request *rq, struct hf_err *reterr)
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

static int put_policies(struct request *rq)
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

static int cmd_policy_list(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	return put_policies(rq);
}

static int cmd_policy_set(struct request *rq, struct hf_err *reterr)
{
	const char *port = json_string_value(json_object_get(rq->args, "port"));
	const char *policy = json_string_value(json_object_get(rq->args, "policy"));
	if (!port || !policy)
		return hf_err_set(reterr, -EINVAL,
			"want \"port\" (\"1024\", \"2000-2999\", \"default\") and \"policy\"");
	if (strcmp(policy, "relay") == 0 && !dev_link_is_open(&rq->daemon->link))
		return hf_err_set(
			reterr, -EINVAL, "policy relay: this holdfastd was started without --link");
	int r = dev_policy_set(&rq->vm->policies, port, policy, reterr);
	return r < 0 ? r : put_policies(rq);
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

static int cmd_relay_list(struct request *rq, struct hf_err *reterr)
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

static int cmd_watch(struct request *rq, struct hf_err *reterr)
{
	struct dev_vm_info info;
	(void)reterr; /* nothing can be refused */
	rq->client->watches = rq->vm;
	rq->client->says = DEV_SAYS_NOTHING;
	rq->client->busy = false;
	dev_vm_info(rq->vm, &info);
	return json_object_set_new(rq->answer, "rings", json_string(info.rings));
}

static int cmd_quiesced(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* one that comes too late changes nothing */
	rq->client->busy = false;
	return 0;
}

static int cmd_quiesce(struct request *rq, struct hf_err *reterr)
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
	return LATER;
}

static int cmd_state_discard(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	size_t n = dev_state_discard(rq->vm);
	return json_object_set_new(rq->answer, "connections", json_integer((json_int_t)n));
}

/* ---- what an operator changes ---- */

static int cmd_vm_add(struct request *rq, struct hf_err *reterr)
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

static int cmd_vm_remove(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	dev_admin_remove_vm(rq->daemon, rq->vm);
	return 0;
}

static int cmd_vm_cid(struct request *rq, struct hf_err *reterr)
{
	uint32_t cid;
	int r = get_port(rq, "guest_cid", &cid, reterr);
	return r < 0 ? r : dev_admin_set_cid(rq->vm, cid, reterr);
}

static int cmd_conn_reset(struct request *rq, struct hf_err *reterr)
{
	uint32_t host_port = 0, guest_port = 0, peer_cid = VSK_CID_HOST;
	int r = get_port(rq, "host_port", &host_port, reterr);
	if (r == 0)
		r = get_port(rq, "guest_port", &guest_port, reterr);
	if (r == 0 && json_object_get(rq->args, "peer_cid"))
		r = get_port(rq, "peer_cid", &peer_cid, reterr);
	return r < 0 ? r : dev_admin_reset_conn(rq->vm, peer_cid, host_port, guest_port, reterr);
}

static int cmd_log_level(struct request *rq, struct hf_err *reterr)
{
	const char *text = json_string_value(json_object_get(rq->args, "level"));
	if (!text || hf_log_level_parse(text, &hf_log_max) < 0)
		return hf_err_set(
			reterr, -EINVAL, "level: want error, warning, info, debug or trace");
	return 0;
}

/* The client's connection is the takeover's from here on: this end of it is closed. */
static int cmd_takeover(struct request *rq, struct hf_err *reterr)
{
	int r = dev_takeover_asked(rq->daemon, rq->client->fd, reterr);
	if (r < 0)
		return r;
	rq->client->closing = true;
	return LATER;
}

static int cmd_counters(struct request *rq, struct hf_err *reterr)
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

static int find_vm(struct request *rq, struct hf_err *reterr)
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

static int run_command(struct request *rq, struct hf_err *reterr)
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

/* ---- lines ---- */

static int set_answer(struct dev_client *cl, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	char *line = realloc(text, n + 2);
	if (!line) {
		free(text);
		return -ENOMEM;
	}
	memcpy(line + n, "\n", 2);
	cl->out = line;
	cl->out_len = n + 1;
	cl->out_sent = 0;
	return 0;
}

static json_t *error_json(json_t *id, const struct hf_err *err)
{
	const char *code = strerrorname_np(-err->code);
	return json_pack("{s:O?,s:b,s:{s:s,s:s}}", "id", id, "ok", 0, "error", "code",
		code ? code : "EIO", "text", err->text);
}

/* Handles one line; leaves an answer or a request that waits, or fails. */
static int handle_line(struct dev_control *c, struct dev_client *cl, const char *line)
{
	struct hf_err err = { 0 };
	json_error_t jerr;
	json_t *args = json_loads(line, JSON_REJECT_DUPLICATES, &jerr);
	if (!json_is_object(args)) {
		json_decref(args);
		(void)hf_err_set(&err, -EBADMSG, "the line is not a JSON object: %s",
			args ? "another value" : jerr.text); /* the answer carries it */
		cl->closing = true;
		return set_answer(cl, error_json(NULL, &err));
	}
	json_t *id = json_object_get(args, "id");
	struct request rq = { .daemon = c->daemon,
		.client = cl,
		.args = args,
		.answer = json_pack("{s:O?,s:b}", "id", id, "ok", 1) };
	int r = rq.answer ? run_command(&rq, &err) : -ENOMEM;
	json_t *answer = rq.answer;
	if (r == LATER) {
		json_decref(answer);
		json_decref(args);
		return 0;
	}
	if (r < 0) {
		json_decref(rq.answer);
		fd_closep(&cl->out_fd);
		if (err.code == 0) /* only memory fails without a text */
			(void)hf_err_set(&err, -ENOMEM, "out of memory"); /* the answer has it */
		answer = error_json(id, &err);
	}
	r = set_answer(cl, answer);
	json_decref(args);
	return r;
}

/* ---- clients ---- */

static struct dev_tag client_tag(const struct dev_control *c, const struct dev_client *cl)
{
	return (struct dev_tag){
		.what = DEV_ON_CONTROL, .slot = (uint32_t)(cl - c->client), .gen = (uint16_t)cl->gen
	};
}

static void client_close(struct dev_control *c, struct dev_client *cl)
{
	dev_loop_close(&c->daemon->loop, &cl->fd);
	fd_closep(&cl->in_fd);
	fd_closep(&cl->out_fd);
	hf_lines_done(&cl->in);
	free(cl->out);
	json_decref(cl->quiesce_id);
	*cl = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1, .gen = cl->gen + 1 };
	c->retry_us = 0;
}

/* Sends what is left of the answer: 1 when all is out, 0 when the socket is full, or -errno. */
static int client_send(struct dev_client *cl)
{
	while (cl->out_sent < cl->out_len) {
		ssize_t n = unix_send_fds(cl->fd, cl->out + cl->out_sent,
			cl->out_len - cl->out_sent, &cl->out_fd, cl->out_fd >= 0);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		fd_closep(&cl->out_fd);
		cl->out_sent += (size_t)n;
	}
	free(cl->out);
	cl->out = NULL;
	cl->out_len = cl->out_sent = 0;
	return cl->closing ? -ESHUTDOWN : 1;
}

/* Receives once: 1 when bytes came, 0 when none are there, or -errno. */
static int client_receive(struct dev_client *cl)
{
	char buf[RECEIVE_BYTES];
	int fds[1];
	size_t n_fds = 0;
	ssize_t n = unix_recv_fds(cl->fd, buf, sizeof(buf), fds, 1, &n_fds);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ESHUTDOWN;
	if (n_fds > 0) {
		fd_closep(&cl->in_fd);
		cl->in_fd = fds[0];
	}
	int r = hf_lines_feed(&cl->in, buf, (size_t)n);
	return r < 0 ? r : 1;
}

/* A line that is too long or holds a NUL: says so, and that is the end. */
static int bad_line(struct dev_client *cl, int error)
{
	struct hf_err err = { 0 };
	(void)hf_err_set(&err, error, "a line is longer than %u bytes or contains a NUL",
		DEV_CONTROL_LINE_MAX); /* the answer carries it */
	cl->closing = true;
	return set_answer(cl, error_json(NULL, &err));
}

/* ---- what applications are told ---- */

void dev_control_tell(struct dev_control *c, struct dev_vm *vm, enum dev_says what)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->watches != vm)
			continue;
		cl->says = what;
		cl->busy = what == DEV_SAYS_QUIESCE;
	}
}

/* Until when those who watch may take to be still. */
static uint64_t quiesce_ms_of(const struct dev_control *c, const struct dev_vm *vm)
{
	uint64_t ms = 0;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].quiesces == vm)
			ms = HF_MAX(ms, c->client[i].quiesce_ms);
	return ms;
}

static int put_event(const struct dev_control *c, struct dev_client *cl)
{
	static const char *const names[DEV_SAYS_N_] = { "", "quiesce", "loaded", "resume" };
	struct dev_vm_info info;
	dev_vm_info(cl->watches, &info);
	json_t *e = json_pack("{s:s,s:s}", "event", names[cl->says], "vm", info.name);
	if (e && cl->says == DEV_SAYS_QUIESCE &&
		json_object_set_new(e, "deadline_ms",
			json_integer((json_int_t)quiesce_ms_of(c, cl->watches))) < 0)
		return -ENOMEM;
	cl->says = DEV_SAYS_NOTHING;
	return set_answer(cl, e);
}

/* Answers a request to quiesce when its time has come: 1; else 0, or -errno. */
static int settle_quiesce(struct dev_control *c, struct dev_client *cl)
{
	size_t n = 0, late = 0;
	struct hf_err err = { 0 };
	bool over = !cl->quiesces->frozen;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		n += c->client[i].watches == cl->quiesces;
		late += c->client[i].watches == cl->quiesces && c->client[i].busy;
	}
	if (!over && late > 0 && c->daemon->loop.now_us < cl->quiesce_until_us)
		return 0;
	cl->quiesces = NULL;
	json_t *id = cl->quiesce_id, *answer;
	cl->quiesce_id = NULL;
	if (over) {
		(void)hf_err_set(&err, -ECANCELED, "the rings run again"); /* the answer has it */
		answer = error_json(id, &err);
	} else {
		answer = json_pack("{s:O?,s:b,s:I,s:I}", "id", id, "ok", 1, "applications",
			(json_int_t)n, "late", (json_int_t)late);
	}
	json_decref(id);
	int r = set_answer(cl, answer);
	return r < 0 ? r : 1;
}

/* What client_lines() waits for. */
enum { FOR_ROOM, FOR_INPUT, FOR_OTHERS };

/* Handles the lines that are complete, one answer at a time, until it must wait for something; or
 * -errno. */
static int client_lines(struct dev_control *c, struct dev_client *cl)
{
	for (;;) {
		char *line;
		int r = !cl->out && cl->says ? put_event(c, cl) : 0;
		if (r == 0)
			r = cl->out ? client_send(cl) : 1;
		if (r <= 0)
			return r < 0 ? r : FOR_ROOM;
		if (cl->quiesces)
			return FOR_OTHERS;
		if (cl->closing)
			return -ESHUTDOWN;
		r = hf_lines_next(&cl->in, &line);
		if (r == 0)
			return FOR_INPUT;
		r = r < 0 ? bad_line(cl, r) : handle_line(c, cl, line);
		if (r < 0)
			return r;
	}
}

/* After client_lines(): watches for what it waits for, or closes the client. */
static void client_wait(struct dev_control *c, struct dev_client *cl, int r)
{
	static const uint32_t events[] = { EPOLLOUT, EPOLLIN, 0 };
	if (r >= 0)
		r = dev_loop_watch(&c->daemon->loop, cl->fd, events[r], client_tag(c, cl));
	if (r < 0)
		client_close(c, cl);
}

void dev_control_on_client(struct dev_control *c, struct dev_tag tag)
{
	struct dev_client *cl = &c->client[tag.slot];
	if (cl->fd < 0 || !dev_tag_is(tag, cl->gen))
		return;
	if (cl->quiesces && !cl->out) { /* nothing is watched for but its leaving */
		client_close(c, cl);
		return;
	}
	int r = client_lines(c, cl);
	if (r == FOR_INPUT) {
		r = client_receive(cl);
		if (r > 0)
			r = client_lines(c, cl);
		else if (r == 0)
			r = FOR_INPUT;
	}
	client_wait(c, cl, r);
}

void dev_control_forget(struct dev_control *c, const struct dev_vm *vm)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->watches == vm) {
			cl->watches = NULL;
			cl->says = DEV_SAYS_NOTHING;
		}
		if (cl->quiesces == vm)
			client_close(c, cl);
	}
}

static struct dev_client *client_free_slot(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd < 0)
			return &c->client[i];
	return NULL;
}

static void watch_listener(struct dev_control *c, bool on)
{
	int r = dev_loop_watch(&c->daemon->loop, c->listen_fd, on ? EPOLLIN : 0,
		(struct dev_tag){ .what = DEV_ON_CONTROL_LISTEN });
	if (r < 0)
		hf_error("control %s: cannot watch: %s", c->path, strerror(-r));
	c->full = !on;
	c->retry_us = c->daemon->loop.now_us + DEV_RETRY_US;
}

void dev_control_on_listen(struct dev_control *c)
{
	struct dev_client *cl = client_free_slot(c);
	if (!cl) {
		watch_listener(c, false);
		return;
	}
	HF_CLEANUP(fd_closep)
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			watch_listener(c, false);
		return;
	}
	uid_t uid;
	int r = unix_peer_uid(fd, &uid);
	if (r < 0 || (uid != geteuid() && uid != 0)) {
		hf_warn("control %s: a client of user %d was refused: run it as user %d or root",
			c->path, r < 0 ? -1 : (int)uid, (int)geteuid());
		return;
	}
	cl->fd = fd_take(&fd);
	hf_lines_init(&cl->in, DEV_CONTROL_LINE_MAX);
	if (dev_loop_watch(&c->daemon->loop, cl->fd, EPOLLIN, client_tag(c, cl)) < 0)
		client_close(c, cl);
}

uint64_t dev_control_turn(struct dev_control *c)
{
	if (c->full && c->daemon->loop.now_us >= c->retry_us)
		watch_listener(c, true);
	uint64_t next_us = c->full ? c->retry_us : UINT64_MAX;
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++) {
		struct dev_client *cl = &c->client[i];
		if (cl->fd < 0 || cl->out || !(cl->says || cl->quiesces))
			continue;
		int r = cl->quiesces ? settle_quiesce(c, cl) : 0;
		if (r < 0 || r > 0 || cl->says)
			client_wait(c, cl, r < 0 ? r : client_lines(c, cl));
		if (cl->fd >= 0 && cl->quiesces)
			next_us = HF_MIN(next_us, cl->quiesce_until_us);
	}
	return next_us;
}

int dev_control_open(struct dev_control *c, struct dev_daemon *daemon, const char *path)
{
	int fd = -1;
	int r = path[0] == '\0' ? 0 : dev_listen(SOCK_STREAM, path, 0600, DEV_CLIENTS_MAX, &fd);
	return r < 0 ? r : dev_control_adopt(c, daemon, path, fd);
}

int dev_control_adopt(struct dev_control *c, struct dev_daemon *daemon, const char *path, int fd)
{
	*c = (struct dev_control){ .daemon = daemon, .listen_fd = fd };
	json_object_seed(0); /* now, while /dev/urandom can be opened */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		c->client[i] = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1 };
	if (fd < 0)
		return 0;
	c->path = strdup(path);
	if (!c->path) {
		fd_closep(&c->listen_fd);
		return -ENOMEM;
	}
	watch_listener(c, true);
	return 0;
}

struct dev_client *dev_control_add(struct dev_control *c, int fd)
{
	struct dev_client *cl = c->listen_fd >= 0 && fd >= 0 ? client_free_slot(c) : NULL;
	if (!cl || fd_set_nonblock(fd, true) < 0) {
		fd_closep(&fd);
		return NULL;
	}
	cl->fd = fd;
	hf_lines_init(&cl->in, DEV_CONTROL_LINE_MAX);
	return cl;
}

void dev_control_carry_on(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_wait(c, &c->client[i], client_lines(c, &c->client[i]));
}

void dev_control_forget_all(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_close(c, &c->client[i]);
	dev_loop_close(&c->daemon->loop, &c->listen_fd);
	free(c->path);
	c->path = NULL;
}

void dev_control_close(struct dev_control *c)
{
	if (c->listen_fd < 0)
		return; /* never opened: there are no clients either */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_close(c, &c->client[i]);
	dev_loop_close(&c->daemon->loop, &c->listen_fd);
	dev_unlisten(c->path);
	free(c->path);
	c->path = NULL;
}
