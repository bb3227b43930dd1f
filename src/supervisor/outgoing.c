/* SPDX-License-Identifier: MIT */
/*
 * outgoing.c - a migration, seen from the source: what each phase of src/migrate does here.
 *
 * The destination's supervisor is asked over its control socket (incoming.c); one that is not there
 * is started. drive() gives out what the controller wants; everything that ends calls done() or
 * fail(), which drive again. Nothing here decides: what follows what, and what is undone after
 * which failure, is the controller's table.
 */
#include "cargo.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define TICK_MS           20
#define PROGRESS_MS       500
#define MAX_BANDWIDTH     (4ll << 30) /* bytes per second; the link's own speed bounds it */
#define DOWNTIME_LIMIT_MS 100
#define QUIESCE_APPS_MS   1000 /* for host applications that watch, in the phase quiesce */
#define KEEP_MAX          8192
#define TIMEOUT_S_MAX     86400

struct outgoing {
	struct sup *sup;
	struct mig mig;
	struct client *client; /* who asked; NULL when it has left */
	json_t *id;
	char to[HF_NODE_PATH_MAX];
	uint32_t cid;       /* at the destination */
	uint32_t outer_cid; /* the same; 0: as cid */
	json_t *keep;       /* the list to be kept; NULL: policies decide */
	json_t *fates;      /* of connections: a list */
	struct rpc *peer;
	uv_timer_t timer;
	bool driving, spawned, asked_cont, wants_numbers;
	bool auto_cancel;     /* when who asked has left */
	uint64_t give_up_ms;  /* before the switchover; 0: never */
	json_int_t timeout_s; /* from the beginning until then */
	bool in_stream;       /* the device's record goes in QEMU's stream */
	bool continued;       /* from here on QEMU says what becomes of it */
	bool fenced;          /* the destination has ended: it never runs the guest */
	uint64_t progress_ms;

	struct cargo cargo;
	json_t *numbers;
};

static void drive(struct outgoing *o);

/* The one that is under way, if any: QEMU and holdfastd may answer when it is over. */
static struct outgoing *current(void *ctx)
{
	return ((struct sup *)ctx)->outgoing;
}

static uint64_t now_ms(const struct outgoing *o)
{
	uv_update_time(&o->sup->loop);
	return uv_now(&o->sup->loop);
}

static void done(struct outgoing *o, enum mig_phase phase)
{
	mig_done(&o->mig, phase, now_ms(o));
	drive(o);
}

static void fail(struct outgoing *o, enum mig_phase phase, const struct hf_err *err)
{
	mig_fail(&o->mig, phase, err, now_ms(o));
	drive(o);
}

static void failf(struct outgoing *o, enum mig_phase phase, int code, const char *text)
{
	struct hf_err err;
	hf_err_set(&err, code, "%s", text);
	fail(o, phase, &err);
}

static void progress(struct outgoing *o, const char *what, json_t *more)
{
	json_t *e = json_pack("{s:s, s:s, s:s, s:I}", "event", "migrate-progress", "phase",
		mig_phase_name(o->mig.phase), "what", what, "ms",
		(json_int_t)(now_ms(o) - o->mig.began_ms[MIG_PREPARE]));
	if (e && more)
		json_object_update(e, more);
	json_decref(more);
	if (e && o->client)
		(void)chan_send_json(
			o->client->chan, e); /* a channel that cannot take it closes itself */
	json_decref(e);
}

/* An answer that only says whether the phase is done. */
static void peer_done(struct outgoing *o, enum mig_phase phase, const struct hf_err *err)
{
	if (err)
		fail(o, phase, err);
	else
		done(o, phase);
}

/* ---- prepare ---- */

static void on_prepared(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	(void)answer, (void)fd;
	peer_done(ctx, MIG_PREPARE, err);
}

static void on_peer_lost(void *ctx, int why)
{
	struct outgoing *o = ctx;
	rpc_close(o->peer);
	o->peer = NULL;
	cargo_stop(&o->cargo);
	struct hf_err err;
	hf_err_set(&err, why ? why : -ECONNRESET, "the destination's supervisor is gone");
	if (o->mig.course == MIG_FORWARD && !(o->mig.phase == MIG_SWITCHOVER && o->continued))
		fail(o, o->mig.phase, &err);
}

/* The destination's supervisor: this very program, a process of its own. */
static int spawn_peer(struct outgoing *o)
{
	pid_t pid = fork();
	int status = 0;
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		char *argv[] = { (char *)"holdfast", (char *)"vm", (char *)"run",
			(char *)"--incoming", (char *)"--node", o->to, (char *)o->sup->config->name,
			NULL };
		int null = open("/dev/null", O_RDWR);
		sigset_t none;
		(void)sigemptyset(&none);
		(void)sigprocmask(SIG_SETMASK, &none, NULL);
		if (fork() == 0 && null >= 0 && dup2(null, 0) >= 0 && dup2(null, 1) >= 0) {
			execv("/proc/self/exe", argv);
			_exit(127);
		}
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return 0;
}

static void try_peer(struct outgoing *o)
{
	static const struct rpc_ops ops = { .on_lost = on_peer_lost };
	char path[HF_NODE_PATH_MAX];
	struct sup *sup = o->sup;
	if (o->peer || o->mig.course != MIG_FORWARD)
		return;
	(void)hf_node_path(o->to, sup->config->name, "control.sock", path);
	int r = rpc_open(&sup->loop, path, "destination", &ops, o, &o->peer);
	if (r < 0 && !o->spawned) {
		o->spawned = true;
		r = spawn_peer(o);
		if (r < 0)
			failf(o, MIG_PREPARE, r, "the destination's supervisor cannot be started");
		return;
	}
	if (r < 0)
		return; /* not up yet: the next tick tries again, until the phase's deadline */
	json_t *spec = spec_json(&sup->spec);
	json_object_set_new(spec, "cid", json_integer(o->cid));
	json_object_set_new(spec, "outer_cid", json_integer(o->outer_cid));
	json_object_set_new(spec, "accel", json_string(sup->kvm ? "kvm" : "tcg"));
	rpc_call(o->peer, "incoming-prepare",
		json_pack("{s:o, s:s}", "vm", spec, "mode", mig_mode_name(o->mig.mode)), -1,
		on_prepared, o);
}

/* ---- setup ---- */

static void on_setup(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	(void)result;
	if (o)
		peer_done(o, MIG_SETUP, err);
}

static void on_capabilities(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	(void)result;
	if (!o)
		return;
	if (err || !o->sup->mon) {
		struct hf_err gone = { .code = -ECONNRESET, .text = "QEMU is gone" };
		fail(o, MIG_SETUP, err ? err : &gone);
		return;
	}
	monitor_call(o->sup->mon, "migrate-set-parameters",
		json_pack("{s:I, s:I}", "max-bandwidth", (json_int_t)MAX_BANDWIDTH,
			"downtime-limit", (json_int_t)DOWNTIME_LIMIT_MS),
		on_setup, o->sup);
}

static void on_listening(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)fd;
	json_t *uri = answer ? json_object_get(answer, "uri") : NULL;
	if (err || !json_is_string(uri)) {
		struct hf_err none = { .code = -EPROTO,
			.text = "the destination named no address" };
		fail(o, MIG_SETUP, err ? err : &none);
		return;
	}
	if (o->sup->in_stream && !json_is_true(json_object_get(answer, "in_stream"))) {
		failf(o, MIG_SETUP, -EOPNOTSUPP,
			"the source's QEMU sends the device's state in its stream, the "
			"destination's "
			"cannot take it; use the same QEMU there, or run the VM with --state "
			"beside");
		return;
	}
	o->in_stream = o->sup->in_stream && o->mig.mode == MIG_SEAMLESS;
	json_object_set(o->numbers, "uri", uri);
	monitor_call(o->sup->mon, "migrate-set-capabilities", mig_capabilities(), on_capabilities,
		o->sup);
}

/* ---- precopy ---- */

static void on_migrate(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	(void)result;
	if (o && err)
		fail(o, MIG_PRECOPY, err);
	/* else the event `pre-switchover` ends the phase */
}

static void on_loaded(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)fd;
	if (answer) /* in the stream: they are claimed later, and told by the commit */
		json_object_set(o->numbers, "connections", json_object_get(answer, "connections"));
	peer_done(o, MIG_LOAD, err);
}

/* What was changed here by hand is to hold there as well. */
static void on_policies(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = current(ctx);
	(void)fd;
	if (!o || o->mig.course != MIG_FORWARD || o->mig.phase != MIG_LOAD)
		return;
	if (err || !o->peer) {
		struct hf_err gone = { .code = -ECONNRESET,
			.text = "the destination's supervisor is gone" };
		fail(o, MIG_LOAD, err ? err : &gone);
		return;
	}
	rpc_call(o->peer, "incoming-load",
		json_pack("{s:b, s:{s:O, s:O}}", "in_stream", o->in_stream, "policies", "ports",
			json_object_get(answer, "ports"), "default",
			json_object_get(answer, "default")),
		-1, on_loaded, o);
}

static void on_cargo(void *ctx, const struct hf_err *err)
{
	struct outgoing *o = ctx;
	if (err)
		fail(o, o->mig.phase, err);
	else if (o->mig.phase == MIG_PRECOPY)
		monitor_call(o->sup->mon, "migrate",
			json_pack("{s:O}", "uri", json_object_get(o->numbers, "uri")), on_migrate,
			o->sup);
	else if (!o->sup->device)
		failf(o, MIG_LOAD, -ENOTCONN, "holdfastd is gone");
	else
		rpc_call(o->sup->device, "policy-list", json_pack("{s:s}", "vm", "vm"), -1,
			on_policies, o->sup);
}

static void on_failure_reason(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	const char *text =
		err ? err->text : json_string_value(json_object_get(result, "error-desc"));
	if (o && o->mig.course == MIG_FORWARD)
		failf(o, o->mig.phase, -EIO,
			text ? text : "QEMU says that the migration has failed");
}

static void on_ram(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	json_t *ram = err ? NULL : json_object_get(result, "ram");
	if (o && ram)
		progress(o, "memory",
			json_pack("{s:O, s:O}", "remaining", json_object_get(ram, "remaining"),
				"total", json_object_get(ram, "total")));
}

static void ask_ram(struct sup *sup)
{
	monitor_call(sup->mon, "query-migrate", NULL, on_ram, sup);
}

void outgoing_on_qemu(struct sup *sup, const char *event, json_t *data)
{
	struct outgoing *o = sup->outgoing;
	const char *status = json_string_value(json_object_get(data, "status"));
	if (strcmp(event, "MIGRATION") != 0 || !status)
		return;
	progress(o, status, NULL);
	if (o->mig.course != MIG_FORWARD)
		return; /* the undos ask */
	if (!strcmp(status, "active"))
		ask_ram(sup); /* a short one is over before the next tick */
	else if (!strcmp(status, "pre-switchover"))
		done(o, MIG_PRECOPY);
	else if (!strcmp(status, "completed"))
		done(o, MIG_SWITCHOVER);
	else if (!strcmp(status, "failed"))
		monitor_call(sup->mon, "query-migrate", NULL, on_failure_reason, sup);
}

/* ---- quiesce, save ---- */

/* The device delivers nothing more: what the session reads now is all that it will have read. */
static void on_frozen(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = current(ctx);
	struct hf_err why;
	size_t i;
	json_t *c;
	(void)fd;
	if (!o || o->mig.course != MIG_FORWARD || o->mig.phase != MIG_QUIESCE)
		return;
	json_array_foreach (json_object_get(answer, "reset"), i, c) {
		json_object_set_new(c, "fate", json_string("reset"));
		json_array_append(o->fates, c);
	}
	if (err)
		fail(o, MIG_QUIESCE, err);
	else if (session_sleep(o->sup, &why) < 0)
		fail(o, MIG_QUIESCE, &why);
	else
		done(o, MIG_QUIESCE);
}

static void freeze(struct outgoing *o)
{
	rpc_call(o->sup->device, "state-freeze",
		json_pack("{s:s, s:b, s:O*}", "vm", "vm", "leave", o->mig.mode == MIG_DISRUPTIVE,
			"keep", o->keep),
		-1, on_frozen, o->sup);
}

/* Applications that watch are still, or had their time. */
static void on_quiesced(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = current(ctx);
	(void)fd;
	if (!o || o->mig.course != MIG_FORWARD || o->mig.phase != MIG_QUIESCE)
		return;
	if (err || !o->sup->device) {
		struct hf_err gone = { .code = -ENOTCONN, .text = "holdfastd is gone" };
		fail(o, MIG_QUIESCE, err ? err : &gone);
		return;
	}
	json_object_set(o->numbers, "applications", json_object_get(answer, "applications"));
	json_object_set(o->numbers, "applications_late", json_object_get(answer, "late"));
	freeze(o);
}

static void quiesce(struct outgoing *o)
{
	if (!o->sup->device)
		failf(o, MIG_QUIESCE, -ENOTCONN, "holdfastd is gone");
	else if (o->mig.mode == MIG_DISRUPTIVE)
		freeze(o);
	else
		rpc_call(o->sup->device, "quiesce",
			json_pack("{s:s, s:i}", "vm", "vm", "deadline_ms", QUIESCE_APPS_MS), -1,
			on_quiesced, o->sup);
}

static void save_own(struct outgoing *o)
{
	if (cargo_take_state(&o->cargo) < 0) {
		failf(o, MIG_SAVE, -ENOMEM, "no memory for the supervisor's state");
		return;
	}
	if (!o->in_stream) /* else it is made later */
		json_object_set_new(
			o->numbers, "record_bytes", json_integer((json_int_t)o->cargo.record_len));
	json_object_set_new(
		o->numbers, "state_bytes", json_integer((json_int_t)strlen(o->cargo.state)));
	progress(o, "state",
		json_pack("{s:O*, s:O}", "record_bytes",
			json_object_get(o->numbers, "record_bytes"), "state_bytes",
			json_object_get(o->numbers, "state_bytes")));
	done(o, MIG_SAVE);
}

static void on_saved(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = current(ctx);
	(void)answer;
	if (!o)
		return;
	int r = err ? err->code : cargo_take_record(&o->cargo, *fd);
	if (err)
		fail(o, MIG_SAVE, err);
	else if (r < 0)
		failf(o, MIG_SAVE, r, "holdfastd gave no record");
	else {
		/* What the device delivered before it saved is not in its record: it is here. */
		(void)hf_guest_drain(o->sup->guest); /* it stands still since quiesce */
		save_own(o);
	}
}

static void save(struct outgoing *o)
{
	if (o->mig.mode == MIG_DISRUPTIVE || o->in_stream)
		save_own(o);
	else if (!o->sup->device)
		failf(o, MIG_SAVE, -ENOTCONN, "holdfastd is gone");
	else
		rpc_call(o->sup->device, "state-save",
			json_pack("{s:s, s:O*}", "vm", "vm", "keep", o->keep), -1, on_saved,
			o->sup);
}

/* ---- switchover, commit ---- */

static void on_continue(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	(void)result;
	if (o && err)
		fail(o, MIG_SWITCHOVER, err);
	/* else the event `completed` ends the phase */
}

static void on_go(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)answer, (void)fd;
	if (err) {
		fail(o, MIG_SWITCHOVER, err);
		return;
	}
	if (o->mig.course != MIG_FORWARD || !o->sup->mon)
		return;
	/* Whoever comes after us must know where the guest may be by now. */
	(void)snprintf(o->sup->moved_to, sizeof(o->sup->moved_to), "%s", o->to);
	if (session_save(o->sup) < 0) {
		failf(o, MIG_SWITCHOVER, -EIO, "state.json cannot be written");
		return;
	}
	o->continued = true;
	monitor_call(o->sup->mon, "migrate-continue", json_pack("{s:s}", "state", "pre-switchover"),
		on_continue, o->sup);
}

static void on_committed(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)fd;
	if (answer) {
		json_array_extend(o->fates, json_object_get(answer, "fates"));
		json_object_update(o->numbers, answer);
	}
	peer_done(o, MIG_COMMIT, err);
}

static void on_numbers(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	json_t *ram = result ? json_object_get(result, "ram") : NULL;
	if (!o)
		return;
	if (o->mig.course != MIG_FORWARD)
		return;
	/* QEMU says `completed` a moment before it has counted. */
	if (!err && json_integer_value(json_object_get(result, "total-time")) == 0) {
		o->wants_numbers = true;
		return;
	}
	if (!err) {
		json_object_set(o->numbers, "downtime_ms", json_object_get(result, "downtime"));
		json_object_set(o->numbers, "qemu_total_ms", json_object_get(result, "total-time"));
		json_object_set(o->numbers, "ram_transferred", json_object_get(ram, "transferred"));
	}
	if (o->peer)
		rpc_call(o->peer, "incoming-commit", NULL, -1, on_committed, o);
	else
		failf(o, MIG_COMMIT, -ECONNRESET, "the destination's supervisor is gone");
}

/* ---- The controller's orders ---- */

static void enter(struct outgoing *o, enum mig_phase phase)
{
	progress(o, "begin", NULL);
	if (phase != MIG_PREPARE && phase != MIG_COMMIT && (!o->peer || !o->sup->mon)) {
		failf(o, phase, -ECONNRESET, "the destination's supervisor or QEMU is gone");
		return;
	}
	switch (phase) {
	case MIG_PREPARE:
		try_peer(o);
		break;
	case MIG_SETUP:
		rpc_call(o->peer, "incoming-listen", NULL, -1, on_listening, o);
		break;
	case MIG_PRECOPY:
		cargo_send_output(&o->cargo, o->peer);
		break;
	case MIG_QUIESCE:
		quiesce(o);
		break;
	case MIG_SAVE:
		save(o);
		break;
	case MIG_LOAD:
		cargo_send_all(&o->cargo, o->peer);
		break;
	case MIG_SWITCHOVER:
		rpc_call(o->peer, "incoming-go", NULL, -1, on_go, o);
		break;
	case MIG_COMMIT:
		if (o->sup->mon)
			monitor_call(o->sup->mon, "query-migrate", NULL, on_numbers, o->sup);
		else
			failf(o, phase, -ECONNRESET, "QEMU ended before it told its numbers");
		break;
	case MIG_PHASE_N_:
		break;
	}
}

static void on_peer_undone(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)err, (void)answer, (void)fd; /* a destination that is gone has nothing to undo */
	if (o->mig.course == MIG_BACK)
		done(o, o->mig.phase);
}

/* The guest runs here again. QEMU resumes by itself; if it does not, it is told. */
static void on_source_status(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	if (!o || o->mig.course != MIG_BACK || o->mig.phase != MIG_PRECOPY || err)
		return;
	if (json_is_true(json_object_get(result, "running"))) {
		done(o, MIG_PRECOPY);
	} else if (!o->asked_cont) {
		o->asked_cont = true;
		monitor_call(o->sup->mon, "cont", NULL, NULL, NULL);
	}
}

/* Once QEMU has the word the destination is ended before anything else is undone: the guest may
 * come to life there at any moment. Does it live there already, it has moved. */
static void on_fenced(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct outgoing *o = ctx;
	(void)fd;
	if (o->mig.course != MIG_BACK || o->mig.phase != MIG_SWITCHOVER)
		return;
	if (json_is_true(json_object_get(answer, "runs"))) {
		mig_moved(&o->mig, now_ms(o));
		drive(o);
		return;
	}
	o->fenced = !err; /* else QEMU's word counts: see on_given_up() */
	done(o, MIG_SWITCHOVER);
}

/* A migration that is being given up may be completed in that very moment: then the guest is there,
 * and must never be told to go on here; unless the destination was ended before. */
static void on_given_up(void *ctx, const struct hf_err *err, json_t *result)
{
	struct outgoing *o = current(ctx);
	const char *status = err ? NULL : json_string_value(json_object_get(result, "status"));
	if (!o || o->mig.course != MIG_BACK || o->mig.phase != MIG_PRECOPY || err)
		return;
	bool completed = status && !strcmp(status, "completed");
	if (completed && o->continued && !o->fenced) {
		mig_moved(&o->mig, now_ms(o));
		drive(o);
	} else if (!status || completed || !strcmp(status, "cancelled") ||
		   !strcmp(status, "failed")) { /* completed: or the VM came here by that one */
		monitor_call(o->sup->mon, "query-status", NULL, on_source_status, o->sup);
	} /* else the next tick asks again */
}

static void undo(struct outgoing *o, enum mig_phase phase)
{
	struct hf_err err;
	progress(o, "undo", NULL);
	cargo_stop(&o->cargo);
	switch (phase) {
	case MIG_SWITCHOVER:
		if (o->peer && o->continued)
			rpc_call(o->peer, "incoming-abort", NULL, -1, on_fenced, o);
		else
			done(o, phase);
		break;
	case MIG_PREPARE:
	case MIG_LOAD:
		if (o->peer)
			rpc_call(o->peer, phase == MIG_LOAD ? "incoming-unload" : "incoming-abort",
				NULL, -1, on_peer_undone, o);
		else
			done(o, phase);
		break;
	case MIG_PRECOPY:
		if (o->sup->mon)
			monitor_call(o->sup->mon, "migrate_cancel", NULL, NULL, NULL);
		break; /* the tick asks whether the guest runs */
	case MIG_QUIESCE:
		if (o->sup->asleep && session_wake(o->sup, &err) < 0)
			fail(o, phase, &err);
		else
			done(o, phase);
		break;
	default:
		done(o, phase);
		break;
	}
}

/* {fate: how many connections} */
static json_t *count_fates(const struct outgoing *o)
{
	json_t *sum = json_pack(
		"{s:i, s:i, s:i, s:i}", "claimed", 0, "kept", 0, "relayed", 0, "reset", 0);
	size_t i;
	json_t *c;
	json_array_foreach (o->fates, i, c) {
		json_t *n = json_object_get(sum, json_string_value(json_object_get(c, "fate")));
		(void)json_integer_set(n, json_integer_value(n) + 1); /* NULL is refused */
	}
	return sum;
}

/* The last word of the progress: what it has cost, and whom. */
static void tell_end(struct outgoing *o)
{
	json_t *more = NULL;
	if (o->mig.moved) {
		more = o->mig.mode == MIG_SEAMLESS ? count_fates(o) : json_object();
		json_object_set(more, "downtime_ms", json_object_get(o->numbers, "downtime_ms"));
	}
	progress(o, o->mig.moved ? "moved" : "failed", more);
}

static void report(struct outgoing *o)
{
	struct mig *m = &o->mig;
	tell_end(o);
	json_object_del(o->numbers, "id");
	json_object_del(o->numbers, "ok");
	json_object_del(o->numbers, "uri");
	json_object_set_new(o->numbers, "mode", json_string(mig_mode_name(m->mode)));
	if (m->mode == MIG_SEAMLESS)
		json_object_set(o->numbers, "fates", o->fates);
	if (m->mode == MIG_SEAMLESS)
		json_object_set_new(
			o->numbers, "state", json_string(o->in_stream ? "stream" : "beside"));
	json_object_set_new(o->numbers, "from", json_string(o->sup->config->node));
	json_object_set_new(o->numbers, "to", json_string(o->to));
	json_object_set_new(o->numbers, "total_ms",
		json_integer((json_int_t)(m->ended_ms - m->began_ms[MIG_PREPARE])));
	if (m->moved && m->err.code)
		json_object_set_new(o->numbers, "unconfirmed", json_string(m->err.text));
	if (!o->client)
		return;
	if (m->moved)
		client_ok(o->client, o->id, json_incref(o->numbers));
	else
		client_err(o->client, o->id, m->err.code,
			"migration: %s; the VM runs on at the source", m->err.text);
}

static void leave(struct sup *sup, const char *to)
{
	char path[HF_NODE_PATH_MAX];
	json_t *moved = json_pack("{s:s}", "to", to);
	int r = sup_write_json(sup_path(sup, "moved.json", path), moved);
	json_decref(moved);
	if (r < 0)
		hf_error("%s: %s: command lines will not find the VM at %s by themselves", path,
			strerror(-r), to);
	machine_retire(sup);
	session_close(sup);
	attach_close_all(sup); /* they dial again, and follow moved.json */
	sup_end(sup, 0, "the VM has moved");
}

static void on_freed(uv_handle_t *h)
{
	free(h->data);
}

static void outgoing_free(struct outgoing *o)
{
	o->sup->outgoing = NULL;
	rpc_close(o->peer); /* its answers are not waited for */
	cargo_free(&o->cargo);
	json_decref(o->id);
	json_decref(o->numbers);
	json_decref(o->keep);
	json_decref(o->fates);
	uv_close((uv_handle_t *)&o->timer, on_freed);
}

static void finished(struct outgoing *o)
{
	char to[HF_NODE_PATH_MAX];
	struct sup *sup = o->sup;
	bool moved = o->mig.moved;
	hf_info("migration to %s: %s%s%s", o->to, moved ? "moved" : "failed",
		o->mig.err.code ? ": " : "", o->mig.err.text);
	report(o);
	(void)snprintf(to, sizeof(to), "%s", o->to);
	outgoing_free(o);
	if (moved) {
		leave(sup, to);
	} else {
		sup->moved_to[0] = '\0';
		(void)session_save(sup); /* else with the next change */
	}
}

static void drive(struct outgoing *o)
{
	enum mig_phase phase;
	if (o->driving)
		return;
	o->driving = true;
	for (;;) {
		enum mig_action a = mig_next(&o->mig, &phase);
		if (a == MIG_WAIT)
			break;
		if (a == MIG_FINISHED) {
			finished(o);
			return;
		}
		if (a == MIG_ENTER)
			enter(o, phase);
		else
			undo(o, phase);
	}
	o->driving = false;
}

static void on_tick(uv_timer_t *h)
{
	struct outgoing *o = h->data;
	struct sup *sup = o->sup;
	uint64_t now = now_ms(o);
	if (o->mig.course == MIG_FORWARD && o->mig.phase == MIG_PREPARE)
		try_peer(o);
	if (o->mig.course == MIG_FORWARD && o->mig.phase == MIG_PRECOPY && sup->mon &&
		now >= o->progress_ms) {
		o->progress_ms = now + PROGRESS_MS;
		ask_ram(sup);
	}
	if (o->wants_numbers && sup->mon) {
		o->wants_numbers = false;
		monitor_call(sup->mon, "query-migrate", NULL, on_numbers, sup);
	}
	if (o->mig.course == MIG_BACK && o->mig.phase == MIG_PRECOPY && sup->mon)
		monitor_call(sup->mon, "query-migrate", NULL, on_given_up, sup);
	if (sup->outgoing != o)
		return;
	if (o->give_up_ms && now >= o->give_up_ms && o->mig.course == MIG_FORWARD &&
		o->mig.phase < MIG_SWITCHOVER) {
		struct hf_err err;
		hf_err_set(&err, -ETIMEDOUT, "not over within %lld s, as was asked for",
			(long long)o->timeout_s);
		mig_fail(&o->mig, o->mig.phase, &err, now);
	}
	mig_tick(&o->mig, now);
	drive(o);
}

/* A list to be kept, [[host_old_cid, host_new_cid, host_port, guest_port], ...]: all name this
 * guest as the source's host knows it, and agree on what it is to be at the destination's. */
static int check_keep(const struct sup *sup, json_t *keep, uint32_t *ret_cid, struct hf_err *reterr)
{
	json_int_t here = sup->spec.outer_cid ? sup->spec.outer_cid : sup->spec.cid, there = here;
	size_t i;
	json_t *e;
	if (!json_is_array(keep) || json_array_size(keep) > KEEP_MAX)
		return hf_err_set(reterr, -EINVAL, "want a list of at most %d", KEEP_MAX);
	json_array_foreach (keep, i, e) {
		json_int_t old_cid, new_cid, host_port, guest_port;
		if (json_unpack(e, "[I,I,I,I!]", &old_cid, &new_cid, &host_port, &guest_port) < 0)
			return hf_err_set(reterr, -EINVAL,
				"entry %zu: want host_old_cid, host_new_cid, host_port, guest_port",
				i + 1);
		if (old_cid != here || new_cid < 3 || new_cid >= UINT32_MAX ||
			(i > 0 && new_cid != there))
			return hf_err_set(reterr, -EINVAL,
				"entry %zu: host_old_cid is %lld here, and host_new_cid the same "
				"in all entries",
				i + 1, (long long)here);
		there = new_cid;
	}
	*ret_cid = (uint32_t)there;
	return 0;
}

void outgoing_begin(struct client *c, json_t *id, json_t *args)
{
	struct sup *sup = c->sup;
	const char *to = NULL, *mode = "seamless";
	struct hf_err err;
	enum mig_mode m;
	json_int_t cid = sup->spec.cid;
	uint32_t outer_cid = sup->spec.outer_cid;
	json_int_t timeout_s = 0;
	int auto_cancel = 0;
	json_t *keep = json_object_get(args, "keep");
	if (json_unpack(args, "{s:s, s?:s, s?:I, s?:I, s?:b}", "to", &to, "mode", &mode, "cid",
		    &cid, "timeout", &timeout_s, "auto_cancel", &auto_cancel) < 0 ||
		mig_mode_parse(mode, &m) < 0 || cid < 3 || cid >= UINT32_MAX || timeout_s < 0 ||
		timeout_s > TIMEOUT_S_MAX) {
		client_err(c, id, EINVAL,
			"migrate: give to (a node), mode seamless or disruptive, cid from 3, "
			"timeout up to %d s",
			TIMEOUT_S_MAX);
		return;
	}
	if (m == MIG_SEAMLESS && cid != sup->spec.cid) {
		client_err(c, id, EINVAL, "migrate: a seamless migration keeps the guest's cid");
		return;
	}
	if (keep && m == MIG_DISRUPTIVE) {
		client_err(c, id, EINVAL, "migrate: a disruptive migration keeps no connection");
		return;
	}
	if (keep && check_keep(sup, keep, &outer_cid, &err) < 0) {
		client_err(c, id, err.code, "migrate: keep: %s", err.text);
		return;
	}
	if (!strcmp(to, sup->config->node)) { /* a request that is sent again finds its work done */
		client_ok(c, id, json_pack("{s:s, s:b}", "to", to, "already", 1));
		return;
	}
	if (sup->outgoing || !sup->mon) {
		client_err(c, id, EBUSY, "migrate: %s",
			sup->outgoing ? "a migration is under way" : "QEMU is gone");
		return;
	}
	if (hf_node_check(to, sup->config->name, &err) < 0) {
		client_err(c, id, err.code, "migrate: %s", err.text);
		return;
	}
	struct outgoing *o = calloc(1, sizeof(*o));
	if (!o) {
		client_err(c, id, ENOMEM, "migrate: no memory");
		return;
	}
	o->sup = sup;
	o->client = c;
	o->id = json_incref(id);
	o->cid = (uint32_t)cid;
	o->outer_cid = outer_cid == o->cid ? 0 : outer_cid;
	o->keep = json_incref(keep);
	o->fates = json_array();
	cargo_init(&o->cargo, sup, on_cargo, o);
	o->numbers = json_object();
	o->timer.data = o;
	(void)snprintf(o->to, sizeof(o->to), "%s", to);
	(void)uv_timer_init(&sup->loop, &o->timer); /* cannot fail, nor can the start */
	(void)uv_timer_start(&o->timer, on_tick, TICK_MS, TICK_MS);
	sup->outgoing = o;
	o->auto_cancel = auto_cancel;
	o->timeout_s = timeout_s;
	if (timeout_s)
		o->give_up_ms = now_ms(o) + (uint64_t)timeout_s * 1000;
	mig_start(&o->mig, m, now_ms(o));
	drive(o);
}

void outgoing_cancel(struct client *c, json_t *id)
{
	struct outgoing *o = c->sup->outgoing;
	if (!o || mig_cancel(&o->mig, now_ms(o)) < 0) {
		client_err(c, id, EBUSY, "migrate-cancel: %s",
			o ? "too late: the guest may run at the destination already"
			  : "there is no migration");
		return;
	}
	client_ok(c, id, NULL);
	drive(o);
}

void outgoing_client_gone(struct sup *sup, struct client *c)
{
	struct outgoing *o = sup->outgoing;
	if (!o || o->client != c)
		return;
	o->client = NULL;
	if (o->auto_cancel && mig_cancel(&o->mig, now_ms(o)) == 0)
		drive(o);
	/* else it goes on: it was asked for, or it is too late */
}

void outgoing_qemu_lost(struct sup *sup)
{
	struct outgoing *o = sup->outgoing;
	if (o->mig.moved)
		return; /* its work is done */
	hf_err_set(&o->mig.err, -ECONNRESET, "the source's QEMU has ended");
	report(o);
	outgoing_free(o);
	machine_kill(sup);
	session_lose_all(sup, "the VM has ended");
	sup_end(sup, 1, "QEMU has ended in a migration");
}

/* ---- After the death of a supervisor in a migration ---- */

static void on_recover_cancelled(void *ctx, const struct hf_err *err, json_t *result);

static void on_recover_status(void *ctx, const struct hf_err *err, json_t *result)
{
	struct sup *sup = ctx;
	const char *status = err ? NULL : json_string_value(json_object_get(result, "status"));
	static const char *const under_way[] = { "setup", "active", "pre-switchover", "device",
		"cancelling" };
	if (!status)
		return; /* there never was a migration */
	bool completed = !strcmp(status, "completed");
	if (completed && *sup->moved_to) {
		hf_info("the supervisor before this one died after the switchover: the guest is at "
			"%s",
			sup->moved_to);
		leave(sup, sup->moved_to);
		return;
	}
	for (size_t i = 0; i < HF_ARRAY_SIZE(under_way); i++)
		if (!strcmp(status, under_way[i])) {
			hf_info("the supervisor before this one died in a migration (%s): it is "
				"cancelled",
				status);
			monitor_call(sup->mon, "migrate_cancel", NULL, on_recover_cancelled, sup);
			return;
		}
	sup->moved_to[0] = '\0';
	(void)session_save(sup); /* else with the next change */
}

/* QEMU resumes the guest, unless it was completed in that moment: it is asked until it is one. */
static void on_recover_cancelled(void *ctx, const struct hf_err *err, json_t *result)
{
	struct sup *sup = ctx;
	(void)err, (void)result;
	if (sup->mon)
		outgoing_recover(sup);
}

void outgoing_recover(struct sup *sup)
{
	monitor_call(sup->mon, "query-migrate", NULL, on_recover_status, sup);
}
