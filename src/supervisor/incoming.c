/* SPDX-License-Identifier: MIT */
/*
 * incoming.c - a migration, seen from the destination: commands of the source's supervisor
 * (docs/control.md, "Between supervisors"), each one step, in their order.
 *
 *	prepare -> listen -> output* -> (blob chunk*)* -> load -> go -> [QEMU resumes] -> commit
 *
 * The VM becomes ours at QEMU's event RESUME, not at a message of the source: so it has one owner
 * whatever happens to either supervisor. Until `go`, a source that is gone ends everything here;
 * after it, QEMU's fate decides.
 */
#include "base/clock.h"
#include "base/hex.h"
#include "migrate/blob.h"
#include "supervisor_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define COMMIT_WAIT_MS 5000
#define ABORT_WAIT_MS  2000

static const char device_gone[] = "the destination's holdfastd is gone";

struct incoming {
	struct sup *sup;
	struct client *source; /* NULL when it has left */
	json_t *id;            /* of the request that is under way, NULL: none */
	struct mig_blob record, state;
	size_t next_claim, claimed;
	bool committing, going, resumed, wants_commit, probed;
	bool in_stream; /* the device's record comes in QEMU's stream: claimed when the guest runs
			 */
	bool claiming, aborting;
	uint64_t resumed_us, alive_us, negotiated_us;
	uv_timer_t timer;
};

/* Answers the request that is under way. */
static void answer(struct incoming *in, json_t *fields, const struct hf_err *err)
{
	json_t *id = in->id;
	in->id = NULL;
	if (in->source && id && !err)
		client_ok(in->source, id, fields);
	else
		json_decref(fields);
	if (in->source && id && err)
		client_err(in->source, id, err->code, "%s", err->text);
	json_decref(id);
}

static void on_freed(uv_handle_t *h)
{
	free(h->data);
}

static void incoming_free(struct incoming *in)
{
	in->sup->incoming = NULL;
	mig_blob_done(&in->record);
	mig_blob_done(&in->state);
	json_decref(in->id);
	uv_close((uv_handle_t *)&in->timer, on_freed);
}

static void give_up(struct sup *sup, const char *why)
{
	incoming_free(sup->incoming);
	machine_kill(sup);
	session_close(sup);
	sup_end(sup, 1, why);
}

/* ---- prepare, listen ---- */

static void on_machine(struct sup *sup, const struct hf_err *err)
{
	if (!sup->incoming)
		return;
	answer(sup->incoming, NULL, err);
	if (err)
		give_up(sup, err->text);
}

static int take_config(struct sup *sup, json_t *args, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	const char *mode = NULL;
	json_t *vm = NULL;
	if (json_unpack(args, "{s:o, s:s}", "vm", &vm, "mode", &mode) < 0 ||
		mig_mode_parse(mode, &sup->mode) < 0)
		return hf_err_set(reterr, -EINVAL, "prepare: give vm (an object) and mode");
	int r = spec_parse(&sup->spec, vm, reterr);
	if (r < 0)
		return r;
	/* Until the guest runs here: a supervisor after us must not take it for its own. */
	int fd = open(sup_path(sup, "incoming", path), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	fd_closep(&fd);
	json_t *config = spec_json(&sup->spec);
	r = sup_write_json(sup_path(sup, "config.json", path), config);
	json_decref(config);
	return r < 0 ? hf_err_set(reterr, r, "%s: %s", path, strerror(-r)) : 0;
}

static void do_prepare(struct client *c, json_t *id, json_t *args)
{
	struct sup *sup = c->sup;
	struct hf_err err;
	if (sup->state != SUP_INCOMING || sup->incoming) {
		client_err(c, id, EEXIST, "vm \"%s\": is on the destination already",
			sup->config->name);
		return;
	}
	if (take_config(sup, args, &err) < 0) {
		client_err(c, id, err.code, "%s", err.text);
		return;
	}
	struct incoming *in = calloc(1, sizeof(*in));
	if (!in) {
		client_err(c, id, ENOMEM, "prepare: no memory");
		return;
	}
	in->sup = sup;
	in->source = c;
	in->id = json_incref(id);
	in->timer.data = in;
	(void)uv_timer_init(&sup->loop, &in->timer); /* cannot fail */
	sup->incoming = in;
	machine_start(sup, true, on_machine);
}

static void on_incoming(void *ctx, const struct hf_err *err, json_t *result)
{
	struct sup *sup = ctx;
	char path[HF_NODE_PATH_MAX], uri[HF_NODE_PATH_MAX + 8];
	(void)result;
	if (!sup->incoming)
		return;
	(void)snprintf(uri, sizeof(uri), "unix:%s", sup_path(sup, "migrate.sock", path));
	answer(sup->incoming, json_pack("{s:s, s:b}", "uri", uri, "in_stream", sup->in_stream),
		err);
}

static void on_capabilities(void *ctx, const struct hf_err *err, json_t *result)
{
	struct sup *sup = ctx;
	char path[HF_NODE_PATH_MAX], uri[HF_NODE_PATH_MAX + 8];
	(void)result;
	if (!sup->incoming)
		return;
	if (err || !sup->mon) {
		struct hf_err gone = { .code = -ECONNRESET,
			.text = "the destination's QEMU is gone" };
		answer(sup->incoming, NULL, err ? err : &gone);
		return;
	}
	(void)snprintf(uri, sizeof(uri), "unix:%s", sup_path(sup, "migrate.sock", path));
	monitor_call(
		sup->mon, "migrate-incoming", json_pack("{s:s}", "uri", uri), on_incoming, sup);
}

static void do_listen(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	(void)args;
	if (!in->sup->mon) {
		hf_err_set(reterr, -ECONNRESET, "the destination's QEMU is gone");
		return;
	}
	monitor_call(in->sup->mon, "migrate-set-capabilities", mig_capabilities(), on_capabilities,
		in->sup);
}

/* ---- output, blob, chunk ---- */

/* The bytes of "data"; to be freed. */
static uint8_t *bytes_of(json_t *args, size_t *ret_n, struct hf_err *reterr)
{
	const char *hex = json_string_value(json_object_get(args, "data"));
	size_t n = hex ? strlen(hex) / 2 : 0;
	uint8_t *data = hex && n <= MIG_CHUNK_MAX ? malloc(n + 1) : NULL;
	if (!data || hex_decode(hex, data, n) < 0) {
		free(data);
		hf_err_set(reterr, -EINVAL, "data: give at most %d bytes in hex digits",
			MIG_CHUNK_MAX);
		return NULL;
	}
	*ret_n = n;
	return data;
}

/* Output comes before the table of processes: it goes to files by name, checked like the table's.
 */
static int write_output(struct sup *sup, const char *process, const char *stream, uint64_t offset,
	uint64_t begins, const uint8_t *data, size_t n, struct hf_err *reterr)
{
	struct proc p = { 0 };
	struct proc_stream s = { .proc = &p, .fd = -1 };
	size_t len = strlen(process);
	if (len == 0 || len > PROC_NAME_MAX || strchr(process, '/') || process[0] == '.' ||
		proc_fd_parse(stream, &s.which) < 0 || s.which == PROC_STDIN)
		return hf_err_set(reterr, -EINVAL, "output: process or stream has no such name");
	(void)snprintf(p.name, sizeof(p.name), "%s", process);
	HF_CLEANUP(fd_closep) int fd = session_output_fd(sup, &s);
	if (fd < 0)
		return hf_err_set(reterr, fd, "output of %s: %s", process, strerror(-fd));
	if (offset != HF_MAX(s.len, begins))
		return hf_err_set(reterr, -EINVAL, "output of %s: %llu does not follow %llu",
			process, (unsigned long long)offset,
			(unsigned long long)HF_MAX(s.len, begins));
	ssize_t w = pwrite(fd, data, n, (off_t)offset);
	if (w != (ssize_t)n)
		return hf_err_set(reterr, w < 0 ? -errno : -ENOSPC,
			"output of %s: cannot be written", process);
	s.fd = fd;
	s.len = offset + n;
	session_output_trim(sup, &s);
	return 0;
}

static void do_output(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	const char *process, *stream;
	json_int_t offset, crc, begins = 0;
	size_t n;
	HF_CLEANUP(hf_freep) uint8_t *data = bytes_of(args, &n, reterr);
	if (!data)
		return;
	if (json_unpack(args, "{s:s, s:s, s:I, s:I, s?:I}", "process", &process, "stream", &stream,
		    "offset", &offset, "crc", &crc, "begins", &begins) < 0 ||
		begins < 0)
		hf_err_set(reterr, -EINVAL, "output: give process, stream, offset, crc, data");
	else if (mig_crc32(0, data, n) != (uint32_t)crc)
		hf_err_set(
			reterr, -EBADMSG, "output of %.40s: the checksum does not match", process);
	else if (write_output(in->sup, process, stream, (uint64_t)offset, (uint64_t)begins, data, n,
			 reterr) == 0)
		answer(in, NULL, NULL);
}

static struct mig_blob *blob_of(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	const char *what = json_string_value(json_object_get(args, "what"));
	if (what && !strcmp(what, "record"))
		return &in->record;
	if (what && !strcmp(what, "state"))
		return &in->state;
	hf_err_set(reterr, -EINVAL, "what: give record or state");
	return NULL;
}

static void do_blob(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	struct mig_blob *b = blob_of(in, args, reterr);
	json_int_t size = json_integer_value(json_object_get(args, "size"));
	json_int_t crc = json_integer_value(json_object_get(args, "crc"));
	if (b && mig_blob_begin(b, (uint64_t)size, (uint32_t)crc, reterr) == 0)
		answer(in, NULL, NULL);
}

static void do_chunk(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	struct mig_blob *b = blob_of(in, args, reterr);
	json_int_t offset = json_integer_value(json_object_get(args, "offset"));
	size_t n;
	HF_CLEANUP(hf_freep) uint8_t *data = b ? bytes_of(args, &n, reterr) : NULL;
	if (data && mig_blob_chunk(b, (uint64_t)offset, data, n, reterr) == 0)
		answer(in, NULL, NULL);
}

/* ---- load ---- */

static void claim_next(struct incoming *in);
static void wake(struct incoming *in);

static void on_claimed(void *ctx, const struct hf_err *err, json_t *msg, int *fd)
{
	struct sup *sup = ctx;
	struct incoming *in = sup->incoming;
	struct hf_guest_connection conn;
	(void)msg;
	if (!in || !sup->guest || hf_guest_connection(sup->guest, in->next_claim, &conn) < 0)
		return;
	int r = err       ? err->code
		: *fd < 0 ? -EPROTO
			  : hf_guest_adopt_connection(sup->guest, conn.key, *fd);
	if (r == 0) {
		*fd = -1;
		in->claimed++;
	} else { /* the guest dials this one again */
		hf_warn("connection %s (host port %u): not carried over: %s", conn.key,
			conn.host_port, err ? err->text : strerror(-r));
	}
	in->next_claim++;
	claim_next(in);
}

/* Every connection of the session, one after the other; then the answer to `load`, or, where the
 * guest runs already, the session goes on. What a connection has waits in holdfastd meanwhile. */
static void claim_next(struct incoming *in)
{
	struct sup *sup = in->sup;
	struct hf_guest_connection conn;
	in->claiming = in->record.data || in->in_stream;
	if (in->claiming && hf_guest_connection(sup->guest, in->next_claim, &conn) == 0 &&
		sup->device) {
		rpc_call(sup->device, "claim",
			json_pack("{s:s, s:I, s:I}", "vm", "vm", "host_port",
				(json_int_t)conn.host_port, "guest_port",
				(json_int_t)conn.guest_port),
			-1, on_claimed, sup);
		return;
	}
	in->claiming = false;
	if (in->resumed)
		wake(in);
	else
		answer(in, json_pack("{s:I}", "connections", (json_int_t)in->claimed), NULL);
}

static int adopt_state(struct incoming *in, struct hf_err *reterr)
{
	struct sup *sup = in->sup;
	HF_CLEANUP(hf_freep) char *guest = NULL;
	json_t *state =
		json_loadb((char *)in->state.data, in->state.size, JSON_REJECT_DUPLICATES, NULL);
	enum mig_mode mode = sup->mode; /* ours is how QEMU was started here */
	int r = session_load(sup, state, &guest, reterr);
	sup->mode = mode;
	json_decref(state);
	sup->asleep = true;
	return r < 0 ? r : session_open(sup, guest, true, reterr);
}

static void adopt_and_claim(struct incoming *in)
{
	struct hf_err err;
	if (adopt_state(in, &err) < 0)
		answer(in, NULL, &err);
	else if (in->in_stream)
		answer(in, NULL, NULL);
	else
		claim_next(in);
}

static void on_state_loaded(void *ctx, const struct hf_err *err, json_t *msg, int *fd)
{
	struct sup *sup = ctx;
	(void)msg, (void)fd;
	if (sup->incoming && err)
		answer(sup->incoming, NULL, err);
	else if (sup->incoming)
		adopt_and_claim(sup->incoming);
}

static int record_memfd(const struct mig_blob *b, struct hf_err *reterr)
{
	int fd = memfd_create("holdfast-record", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int r = fd < 0 ? -errno : fd_write_all(fd, b->data, b->size);
	if (r == 0 && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r < 0) {
		fd_closep(&fd);
		return hf_err_set(reterr, r, "a memfd for the record: %s", strerror(-r));
	}
	return fd;
}

static void load_record(struct incoming *in, struct hf_err *reterr)
{
	struct sup *sup = in->sup;
	if (!in->record.data) { /* disruptive: the guest's connections do not come along */
		adopt_and_claim(in);
		return;
	}
	HF_CLEANUP(fd_closep) int fd = record_memfd(&in->record, reterr);
	if (fd >= 0)
		rpc_call(sup->device, "state-load", json_pack("{s:s}", "vm", "vm"), fd,
			on_state_loaded, sup);
}

static void on_policies(void *ctx, const struct hf_err *err, json_t *msg, int *fd)
{
	struct sup *sup = ctx;
	struct hf_err why = { 0 };
	(void)msg, (void)fd;
	if (!sup->incoming)
		return;
	if (err)
		why = *err;
	else if (!sup->device)
		(void)hf_err_set(&why, -ECONNRESET, "%s", device_gone); /* is told below */
	else
		load_record(sup->incoming, &why);
	if (why.code)
		answer(sup->incoming, NULL, &why);
}

/* The source's policies decide with the device of this node, too, what is reset on arrival. */
static void do_load(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	struct sup *sup = in->sup;
	json_t *policies = json_object_get(args, "policies");
	in->in_stream = json_is_true(json_object_get(args, "in_stream"));
	if (sup->guest) {
		hf_err_set(reterr, -EALREADY, "load: was done");
		return;
	}
	if (mig_blob_check(&in->state, reterr) < 0) {
		hf_err_prefix(reterr, "state");
		return;
	}
	if (in->record.data && mig_blob_check(&in->record, reterr) < 0) {
		hf_err_prefix(reterr, "record");
		return;
	}
	if (!sup->device) {
		hf_err_set(reterr, -ECONNRESET, "%s", device_gone);
		return;
	}
	if (!json_object_get(policies, "ports") || !json_object_get(policies, "default")) {
		hf_err_set(reterr, -EINVAL, "policies: want \"ports\" and \"default\"");
		return;
	}
	rpc_call(sup->device, "policy-set",
		json_pack("{s:s, s:O, s:O}", "vm", "vm", "ports",
			json_object_get(policies, "ports"), "default",
			json_object_get(policies, "default")),
		-1, on_policies, sup);
}

/* What is discarded is discarded anyway when the device ends. */
static void on_discarded(void *ctx, const struct hf_err *err, json_t *msg, int *fd)
{
	(void)ctx, (void)err, (void)msg, (void)fd;
}

static void do_unload(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	(void)args;
	if (in->going) {
		hf_err_set(reterr, -EBUSY, "unload: the guest may run here; abort asks");
		return;
	}
	session_close(in->sup);
	if (in->sup->device && in->record.data)
		rpc_call(in->sup->device, "state-discard", json_pack("{s:s}", "vm", "vm"), -1,
			on_discarded, NULL);
	answer(in, NULL, NULL);
}

/* ---- go, commit, abort ---- */

static void do_go(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	(void)args;
	if (!in->sup->guest) {
		hf_err_set(reterr, -EINVAL, "go: nothing was loaded");
		return;
	}
	if (session_save(in->sup) < 0) { /* from here on the guest may run, whoever of us lives */
		hf_err_set(reterr, -EIO, "go: state.json cannot be written");
		return;
	}
	in->going = true;
	answer(in, NULL, NULL);
}

static json_t *time_since_resume(const struct incoming *in, uint64_t at)
{
	return at ? json_integer((json_int_t)(at - in->resumed_us)) : json_null();
}

/* What has become of the connections that arrived. */
static json_t *fates_of(json_t *conns)
{
	json_t *list = json_array(), *c;
	size_t i;
	json_array_foreach (conns, i, c) {
		bool claimed = json_is_true(json_object_get(c, "claimed"));
		const char *relay = json_string_value(json_object_get(c, "relay"));
		bool relayed = relay && *relay;
		if (json_is_true(json_object_get(c, "arrived")))
			json_array_append_new(list,
				json_pack("{s:O?, s:O?, s:s, s:s*}", "host_port",
					json_object_get(c, "host_port"), "guest_port",
					json_object_get(c, "guest_port"), "fate",
					relayed   ? "relayed"
					: claimed ? "claimed"
						  : "kept",
					"why",
					relayed   ? "its application stays at the source"
					: claimed ? NULL
						  : "waits for its application until the claim "
						    "timeout"));
	}
	return list;
}

static void on_conns(void *ctx, const struct hf_err *err, json_t *msg, int *fd)
{
	struct incoming *in = ((struct sup *)ctx)->incoming;
	(void)fd;
	if (!in)
		return;
	answer(in,
		json_pack("{s:I, s:o, s:o, s:b, s:o, s:b}", "connections", (json_int_t)in->claimed,
			"resume_to_first_byte_us", time_since_resume(in, in->alive_us),
			"resume_to_negotiated_us", time_since_resume(in, in->negotiated_us),
			"guest_alive", in->alive_us != 0, "fates",
			fates_of(err ? NULL : json_object_get(msg, "connections")), "fates_cut",
			!err && json_object_get(msg, "next")),
		NULL);
	incoming_free(in);
}

static void commit(struct incoming *in)
{
	struct sup *sup = in->sup;
	if (in->committing)
		return;
	in->committing = true;
	(void)uv_timer_stop(&in->timer); /* cannot fail */
	if (sup->device) {
		rpc_call(sup->device, "conn-list", json_pack("{s:s}", "vm", "vm"), -1, on_conns,
			sup);
	} else {
		struct hf_err gone = { .code = -ENOTCONN };
		on_conns(sup, &gone, NULL, NULL);
	}
}

static void on_commit_timeout(uv_timer_t *h)
{
	struct incoming *in = h->data;
	if (in->resumed && !in->claiming) {
		commit(in);
		return;
	}
	struct hf_err err;
	hf_err_set(&err, -ETIMEDOUT, "the destination's QEMU has not resumed the guest");
	answer(in, NULL, &err);
}

static bool is_alive(const struct incoming *in)
{
	return in->sup->mode == MIG_DISRUPTIVE ? in->negotiated_us != 0 : in->alive_us != 0;
}

static void do_commit(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	(void)args, (void)reterr;
	in->wants_commit = true;
	if (in->resumed && is_alive(in))
		commit(in);
	else
		(void)uv_timer_start(
			&in->timer, on_commit_timeout, COMMIT_WAIT_MS, 0); /* cannot fail */
}

void incoming_guest_alive(struct sup *sup, bool negotiated)
{
	struct incoming *in = sup->incoming;
	if (!in || !in->resumed)
		return;
	if (!in->alive_us)
		in->alive_us = hf_now_us();
	if (negotiated && !in->negotiated_us)
		in->negotiated_us = hf_now_us();
	if (in->wants_commit && is_alive(in))
		commit(in);
}

/* From here on the VM is ours. */
static void resumed(struct incoming *in)
{
	struct sup *sup = in->sup;
	char path[HF_NODE_PATH_MAX];
	in->resumed = true;
	in->resumed_us = hf_now_us();
	sup->state = SUP_RUNNING;
	sup->negotiated = true;
	(void)unlink(sup_path(sup, "moved.json", path)); /* ENOENT is the usual case */
	(void)unlink(sup_path(sup, "incoming", path)); /* at worst it is found when nothing lives */
	if (in->in_stream)
		claim_next(in); /* the guest runs: so the record was loaded before */
	else
		wake(in);
}

static void wake(struct incoming *in)
{
	struct sup *sup = in->sup;
	struct hf_err err;
	const struct hf_guest_call probe = { .tag = "probe" };
	if (session_wake(sup, &err) < 0) {
		sup_fail(sup, &err);
		return;
	}
	/* A guest that has nothing to say is asked something cheap: its answer shows that it lives.
	 */
	(void)hf_guest_properties(sup->guest, &probe, HF_GUEST_UVM, "");
	control_settle(sup);
	if (!in->source && sup->incoming)
		incoming_free(in);
}

void incoming_on_qemu(struct sup *sup, const char *event, json_t *data)
{
	struct incoming *in = sup->incoming;
	(void)data;
	if (!strcmp(event, "RESUME") && in->going && !in->resumed)
		resumed(in);
}

/* Ended before it is answered: who hears of it may let the guest run on where it was. */
static void end_or_refuse(struct incoming *in)
{
	in->aborting = false;
	(void)uv_timer_stop(&in->timer); /* cannot fail */
	if (in->resumed) {
		answer(in, json_pack("{s:b}", "runs", 1), NULL);
		return;
	}
	machine_kill(in->sup);
	answer(in, NULL, NULL);
	give_up(in->sup, "the migration was given up by its source");
}

static void on_abort_status(void *ctx, const struct hf_err *err, json_t *result)
{
	struct incoming *in = ((struct sup *)ctx)->incoming;
	(void)err, (void)result; /* what counts is the event RESUME, which comes before it */
	if (in && in->aborting)
		end_or_refuse(in);
}

static void on_abort_timeout(uv_timer_t *h)
{
	end_or_refuse(h->data);
}

/* After `go` the guest may have come to life, and we have not read it yet: QEMU is asked; not for
 * long, for it may be QEMU that hangs. */
static void do_abort(struct incoming *in, json_t *args, struct hf_err *reterr)
{
	struct sup *sup = in->sup;
	(void)args, (void)reterr;
	if (!in->going || !sup->mon) {
		end_or_refuse(in);
		return;
	}
	in->aborting = true;
	(void)uv_timer_start(&in->timer, on_abort_timeout, ABORT_WAIT_MS, 0); /* cannot fail */
	monitor_call(sup->mon, "query-status", NULL, on_abort_status, sup);
}

void incoming_client_gone(struct sup *sup, struct client *c)
{
	struct incoming *in = sup->incoming;
	if (!in || in->source != c)
		return;
	in->source = NULL;
	if (in->resumed && !in->claiming)
		incoming_free(in);
	else if (!in->going)
		give_up(sup, "the source of the migration is gone");
}

static const struct {
	const char *name;
	void (*run)(struct incoming *in, json_t *args, struct hf_err *reterr);
} steps[] = {
	{ "listen", do_listen },
	{ "output", do_output },
	{ "blob", do_blob },
	{ "chunk", do_chunk },
	{ "load", do_load },
	{ "unload", do_unload },
	{ "go", do_go },
	{ "commit", do_commit },
	{ "abort", do_abort },
};

void incoming_command(struct client *c, json_t *id, const char *cmd, json_t *args)
{
	struct incoming *in = c->sup->incoming;
	struct hf_err err = { 0 };
	if (!strcmp(cmd, "prepare")) {
		do_prepare(c, id, args);
		return;
	}
	if (!in || in->source != c) {
		client_err(c, id, EPERM,
			"incoming-%.20s: no migration of this connection is under way", cmd);
		return;
	}
	if (in->id && strcmp(cmd, "abort") != 0 && strcmp(cmd, "unload") != 0) {
		client_err(c, id, EBUSY, "incoming-%.20s: another step is under way", cmd);
		return;
	}
	json_decref(in->id);
	in->id = json_incref(id);
	for (size_t i = 0; i < HF_ARRAY_SIZE(steps); i++) {
		if (strcmp(cmd, steps[i].name) != 0)
			continue;
		steps[i].run(in, args, &err);
		if (err.code)
			answer(in, NULL, &err);
		return;
	}
	hf_err_set(&err, -ENOSYS, "incoming-%.20s: no such command", cmd);
	answer(in, NULL, &err);
}
