/* SPDX-License-Identifier: MIT */
/*
 * session.c - the guest as the supervisor keeps it.
 *
 * Every request carries a tag "STEP:PROCESS" (or "kill:KEY"), and every answer comes as an event
 * with that tag: so there is no difference between an answer to this supervisor and one to a
 * request of its dead predecessor. A process goes step by step, the next one asked for in the
 * answer of the one before; state.json has the table of processes and the guest client's state in
 * one file, so the two never disagree.
 *
 * Output goes to its file before it is acknowledged; the end of a stream goes to state.json before
 * it is acknowledged.
 */
#include "oci.h"
#include "supervisor_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define OUTPUT_RETRY_MS 1000
#define OUTPUT_PIECES   16 /* of --log-max: what is dropped at a time */

/* --- state.json ---------------------------------------------------------------------------------
 */

json_t *session_json(struct sup *sup)
{
	HF_CLEANUP(hf_freep) char *guest = sup->guest ? hf_guest_state(sup->guest) : NULL;
	return json_pack("{s:i, s:s, s:s, s:s*, s:o}", "version", 1, "mode",
		mig_mode_name(sup->mode), "instance", sup->instance, "guest", guest, "table",
		proc_table_json(&sup->procs));
}

int session_save(struct sup *sup)
{
	char path[HF_NODE_PATH_MAX];
	json_t *json = session_json(sup);
	if (json && sup->asleep) /* whoever comes after us must wake it */
		json_object_set_new(json, "standing", json_true());
	if (json && *sup->moved_to)
		json_object_set_new(json, "moving_to", json_string(sup->moved_to));
	int r = json ? sup_write_json(sup_path(sup, "state.json", path), json) : -ENOMEM;
	json_decref(json);
	if (r < 0)
		hf_error("%s: cannot be written: %s; nothing is sent to the guest before it is",
			path, strerror(-r));
	return r;
}

int session_load(struct sup *sup, json_t *state, char **ret_guest, struct hf_err *reterr)
{
	const char *mode, *instance, *guest = NULL;
	json_t *table;
	int version;
	if (json_unpack(state, "{s:i, s:s, s:s, s?:s, s:o}", "version", &version, "mode", &mode,
		    "instance", &instance, "guest", &guest, "table", &table) < 0 ||
		version != 1 || mig_mode_parse(mode, &sup->mode) < 0 ||
		strlen(instance) >= sizeof(sup->instance))
		return hf_err_set(reterr, -EINVAL, "the supervisor's state is not one of ours");
	int r = proc_table_load(&sup->procs, table, reterr);
	if (r < 0)
		return r;
	(void)snprintf(sup->instance, sizeof(sup->instance), "%s", instance);
	*ret_guest = guest ? strdup(guest) : NULL;
	return 0;
}

/* ---- The guest on the loop ---- */

void session_dispatch(struct sup *sup)
{
	struct hf_err err;
	if (!sup->guest || sup->asleep)
		return;
	if (hf_guest_dispatch(sup->guest, &err) < 0) {
		hf_err_prefix(&err, "guest client");
		sup_fail(sup, &err);
		return;
	}
	/* What the guest has taken of standard input has no event of its own. */
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (!hf_list_empty(&p->stream[PROC_STDIN].readers))
			attach_pump(&p->stream[PROC_STDIN]);
	}
}

static void on_guest_poll(uv_poll_t *h, int status, int events)
{
	(void)status, (void)events; /* hf_guest_dispatch() looks for itself */
	session_dispatch(h->data);
}

static void on_guest_timer(uv_timer_t *h)
{
	session_dispatch(h->data);
}

static void on_guest_prepare(uv_prepare_t *h)
{
	struct sup *sup = h->data;
	int64_t us = sup->guest && !sup->asleep ? hf_guest_timeout_us(sup->guest) : -1;
	if (us < 0)
		(void)uv_timer_stop(&sup->guest_timer); /* always succeeds */
	else
		(void)uv_timer_start(
			&sup->guest_timer, on_guest_timer, (uint64_t)(us + 999) / 1000, 0);
}

/* ---- Output ---- */

#define OUTPUT_PATH_MAX (HF_NODE_PATH_MAX + PROC_NAME_MAX + 16)

static const char *output_path(
	const struct sup *sup, const struct proc_stream *s, char path[OUTPUT_PATH_MAX])
{
	char dir[HF_NODE_PATH_MAX];
	(void)snprintf(path, OUTPUT_PATH_MAX, "%s/%s.%s", sup_path(sup, "output", dir),
		s->proc->name, proc_fd_name(s->which));
	return path;
}

int session_output_fd(struct sup *sup, struct proc_stream *s)
{
	char path[OUTPUT_PATH_MAX];
	struct stat st;
	if (s->fd >= 0)
		return s->fd;
	int fd = open(output_path(sup, s, path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || fstat(fd, &st) < 0) {
		int r = -errno;
		fd_closep(&fd);
		return r;
	}
	s->len = (uint64_t)st.st_size;
	return s->fd = fd;
}

/* A function of the length alone: whoever has the file, now or after us, knows it as well. */
uint64_t session_output_begin(const struct sup *sup, const struct proc_stream *s)
{
	uint64_t max = (uint64_t)sup->spec.log_max_mib << 20, piece = max / OUTPUT_PIECES;
	return s->len <= max ? 0 : (s->len - max + piece - 1) / piece * piece;
}

void session_output_trim(struct sup *sup, struct proc_stream *s)
{
	static bool warned;
	uint64_t begin = session_output_begin(sup, s);
	if (begin == s->dropped)
		return;
	if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)s->dropped,
		    (off_t)(begin - s->dropped)) < 0 &&
		!warned) {
		warned = true;
		hf_warn("output files: old output takes room on the disk for ever: %s",
			strerror(errno));
	}
	s->dropped = begin;
}

static void on_retry(uv_timer_t *h);

void session_output_retry(struct sup *sup)
{
	if (sup->guest)
		(void)uv_timer_start(&sup->retry_timer, on_retry, 0, 0); /* fails at the end only */
}

static void output_stuck(struct sup *sup, struct proc_stream *s, int why)
{
	if (s->stuck != why)
		hf_error("process %s: %s: output cannot be written: %s; the process waits",
			s->proc->name, proc_fd_name(s->which), strerror(-why));
	s->stuck = why;
	(void)uv_timer_start(&sup->retry_timer, on_retry, OUTPUT_RETRY_MS, 0); /* cannot fail */
}

static void output_goes_on(struct proc_stream *s)
{
	if (s->stuck)
		hf_info("process %s: %s: output can be written again", s->proc->name,
			proc_fd_name(s->which));
	s->stuck = 0;
}

/* At most n bytes of it. */
static void cut(struct iovec iov[2], uint64_t n)
{
	for (int i = 0; i < 2; i++) {
		iov[i].iov_len = (size_t)HF_MIN((uint64_t)iov[i].iov_len, n);
		n -= iov[i].iov_len;
	}
}

/* Writes what has arrived to the file, then acknowledges it. */
static void take_output(struct sup *sup, struct proc_stream *s)
{
	struct iovec iov[2] = { 0 };
	uint64_t lag_max = ((uint64_t)sup->spec.log_max_mib << 20) / 2, room;
	int k, fd = session_output_fd(sup, s);
	if (fd < 0) {
		output_stuck(sup, s, fd);
		return;
	}
	while (s->guest && (k = hf_guest_stream_read(s->guest, iov)) > 0) {
		room = attach_room(s, lag_max);
		s->held = room == 0;
		if (s->held)
			break; /* a reader's next acknowledgement, or its end, goes on */
		cut(iov, room);
		ssize_t n = pwritev(fd, iov, k, (off_t)s->len);
		if (n <= 0) {
			output_stuck(sup, s, n < 0 ? -errno : -ENOSPC);
			return;
		}
		s->len += (uint64_t)n;
		(void)hf_guest_stream_take(s->guest, (size_t)n); /* not more than was readable */
		output_goes_on(s);
		session_output_trim(sup, s);
	}
	attach_pump(s);
}

static void stream_over(struct proc_stream *s)
{
	if (s->guest)
		hf_guest_stream_free(s->guest);
	s->guest = NULL;
}

static void end_stream(struct sup *sup, struct proc_stream *s)
{
	if (!s->ended) {
		s->ended = true;
		if (session_save(sup) < 0) {
			s->ended = false;
			return;
		}
	}
	attach_pump(s);
}

static void on_stream(void *ctx, struct hf_guest_stream *g, unsigned events)
{
	struct sup *sup = ctx;
	struct proc_stream *s = hf_guest_stream_ctx(g);
	if (!s || s->guest != g)
		return;
	incoming_guest_alive(sup, false);
	if (s->which != PROC_STDIN)
		take_output(sup, s);
	struct iovec iov[2];
	bool drained = s->which == PROC_STDIN || hf_guest_stream_read(g, iov) == 0;
	if (events & HF_GUEST_DEAD && drained) {
		if (!proc_is_over(s->proc))
			hf_info("process %s: %s is dead: %s", s->proc->name, proc_fd_name(s->which),
				hf_guest_stream_why(g));
		end_stream(sup, s);
		stream_over(s);
		return;
	}
	if (events & HF_GUEST_ENDED && drained && s->which != PROC_STDIN) {
		end_stream(sup, s);
		if (s->ended)
			(void)hf_guest_stream_take_end(
				g); /* ENDED was said: it is there to be taken */
	}
	if (events & HF_GUEST_WRITABLE)
		attach_pump(s);
	if (events & HF_GUEST_FINISHED) {
		end_stream(sup, s);
		stream_over(s);
	}
}

/* Tries the files again, and the ends that waited behind them. */
static void on_retry(uv_timer_t *h)
{
	struct sup *sup = h->data;
	if (sup->asleep)
		return; /* session_wake() tries again; or the successor does */
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		for (int i = PROC_STDOUT; i < PROC_FD_N_; i++)
			if (p->stream[i].guest)
				on_stream(sup, p->stream[i].guest,
					*hf_guest_stream_why(p->stream[i].guest) ? HF_GUEST_DEAD
										 : 0);
	}
}

/* ---- Processes: one step after the other ---- */

static void over(struct proc *p, enum proc_state state, const char *error)
{
	p->state = state;
	json_decref(p->spec);
	p->spec = NULL;
	(void)snprintf(p->error, sizeof(p->error), "%s", error);
	/* Output may still be on its way from a process that has exited; from no other. */
	for (int i = 0; i < PROC_FD_N_ && state != PROC_EXITED; i++) {
		struct proc_stream *s = &p->stream[i];
		if (!s->guest)
			s->ended = true;
		attach_pump(s);
	}
	hf_info("process %s: %s%s%s", p->name, proc_state_name(state), *error ? ": " : "", error);
}

static int make_streams(struct sup *sup, struct proc *p, struct hf_guest_exec *exec)
{
	struct hf_guest_stream **slots[PROC_FD_N_] = { &exec->in, &exec->out, &exec->err };
	char tag[PROC_NAME_MAX + 16];
	for (int i = 0; i < PROC_FD_N_; i++) {
		struct proc_stream *s = &p->stream[i];
		if (!s->used)
			continue;
		(void)snprintf(tag, sizeof(tag), "%s/%s", p->name, proc_fd_name(s->which));
		int r = hf_guest_stream_new(sup->guest, i == PROC_STDIN, tag, s, &s->guest);
		if (r < 0)
			return r;
		*slots[i] = s->guest;
	}
	return 0;
}

static int64_t ask_exec(struct sup *sup, struct proc *p, const struct hf_guest_call *call)
{
	HF_CLEANUP(hf_freep) char *oci = NULL;
	struct hf_guest_exec exec = { .container = p->container };
	if (strchr(p->name, '.')) {
		oci = json_dumps(p->spec, JSON_COMPACT);
		if (!oci)
			return -ENOMEM;
		exec.oci_process_json = oci;
	}
	exec.tty = p->tty;
	int r = make_streams(sup, p, &exec);
	return r < 0 ? r : hf_guest_exec(sup->guest, call, &exec);
}

static int64_t ask_create(struct sup *sup, struct proc *p, const struct hf_guest_call *call)
{
	char bundle[64], scratch[80];
	HF_CLEANUP(hf_freep) char *spec = json_dumps(p->spec, JSON_COMPACT);
	(void)snprintf(bundle, sizeof(bundle), OCI_BUNDLE, p->container);
	(void)snprintf(scratch, sizeof(scratch), OCI_SCRATCH, p->container);
	return spec ? hf_guest_create(sup->guest, call, p->container, bundle, scratch, spec)
		    : -ENOMEM;
}

/* Asks the guest for the step that the process is at. */
static int64_t ask(struct sup *sup, struct proc *p)
{
	char tag[PROC_NAME_MAX + 16];
	struct hf_guest_call call = { .tag = tag };
	(void)snprintf(tag, sizeof(tag), "%s:%s", proc_step_name(p->step), p->name);
	switch (p->step) {
	case STEP_LAYERS:
	case STEP_UNMOUNT: {
		HF_CLEANUP(hf_freep)
		char *layers = oci_layers(p->container, p->step == STEP_LAYERS);
		return layers ? hf_guest_modify(sup->guest, &call, HF_GUEST_UVM, layers) : -ENOMEM;
	}
	case STEP_CREATE:
		return ask_create(sup, p, &call);
	case STEP_START:
		return hf_guest_start(sup->guest, &call, p->container);
	case STEP_EXEC:
		return ask_exec(sup, p, &call);
	case STEP_WAIT:
		return hf_guest_wait(sup->guest, &call, p->container, p->pid, UINT32_MAX);
	case STEP_DELETE:
		return hf_guest_delete(sup->guest, &call, p->container);
	case STEP_N_:
		break;
	}
	return -EINVAL;
}

int session_run(struct sup *sup, struct proc *p, struct hf_err *reterr)
{
	int64_t r = ask(sup, p);
	if (r >= 0)
		return 0;
	hf_err_set(reterr, (int)r, "process %s: %s: %s", p->name, proc_step_name(p->step),
		strerror((int)-r));
	over(p, PROC_FAILED, reterr->text);
	return (int)r;
}

int session_signal(
	struct sup *sup, struct proc *p, int signo, const char *tag, struct hf_err *reterr)
{
	const struct hf_guest_call call = { .tag = tag };
	int64_t r = hf_guest_signal(sup->guest, &call, p->container, p->pid, signo);
	return r < 0 ? hf_err_set(reterr, (int)r, "process %s: %s", p->name, strerror((int)-r)) : 0;
}

/* --- Removal ------------------------------------------------------------------------------------
 */

void session_forget(struct sup *sup, struct proc *p)
{
	char path[OUTPUT_PATH_MAX];
	for (int i = 0; i < PROC_FD_N_; i++) {
		attach_close_stream(&p->stream[i]);
		stream_over(&p->stream[i]);
		if (i != PROC_STDIN)
			(void)unlink(output_path(
				sup, &p->stream[i], path)); /* ENOENT: it wrote nothing */
	}
	proc_remove(&sup->procs, p);
}

static void removal_over(struct sup *sup, struct proc *p, int code, const char *why)
{
	char container[PROC_CONTAINER_MAX + 1];
	struct proc_kill *k = proc_kill_find(&sup->procs, p->key);
	if (k) {
		k->done = true;
		k->code = code;
		(void)snprintf(k->error, sizeof(k->error), "%s", why);
	}
	p->step = STEP_WAIT;
	(void)snprintf(container, sizeof(container), "%s", p->container);
	hf_list_for_each_safe (n, &sup->procs.all) {
		struct proc *q = HF_CONTAINER_OF(n, struct proc, link);
		if (code == 0 && !strcmp(q->container, container))
			session_forget(sup, q);
	}
	hf_info("container %s: %s%s", container, code ? "cannot be removed: " : "removed", why);
	(void)session_save(sup); /* else with the next change */
	if (k)
		control_kill_done(sup, k);
	control_settle(sup);
}

/* Unmounting may have nothing to unmount; if it matters, deleting says so. A guest that is gone
 * took the container along, and of one that never ran there may be nothing. */
static void removal_step(struct sup *sup, struct proc *p, int code, const char *message)
{
	if (code == -ESTALE || (p->step == STEP_DELETE && p->state == PROC_FAILED)) {
		removal_over(sup, p, 0, "");
	} else if (p->step == STEP_DELETE) {
		removal_over(sup, p, code, message);
	} else {
		p->step = STEP_DELETE;
		int64_t r = ask(sup, p);
		if (r < 0)
			removal_over(sup, p, (int)r, strerror((int)-r));
		else
			(void)session_save(sup); /* else with the next change */
	}
}

void session_remove(struct sup *sup, struct proc *p, const char *key)
{
	(void)snprintf(p->key, sizeof(p->key), "%s", key);
	p->step = STEP_UNMOUNT;
	int64_t r = p->state == PROC_LOST ? -ESTALE : ask(sup, p);
	if (r < 0)
		removal_step(sup, p, (int)r, strerror((int)-r));
	else
		(void)session_save(sup); /* else with the next change */
}

/* The answer to the step that the process is at. */
static void step_done(struct sup *sup, struct proc *p, const struct hf_guest_answer *a)
{
	struct hf_err err;
	if (p->step > STEP_WAIT) {
		removal_step(sup, p, a->code, a->message);
		return;
	}
	if (a->code != 0) {
		(void)snprintf(
			err.text, sizeof(err.text), "%s: %s", proc_step_name(p->step), a->message);
		over(p, a->code == -ESTALE || p->state == PROC_RUNNING ? PROC_LOST : PROC_FAILED,
			err.text);
	} else if (p->step == STEP_WAIT) {
		p->exit_code = a->exit_code;
		over(p, PROC_EXITED, "");
	} else {
		if (p->step == STEP_EXEC) {
			p->pid = a->pid;
			p->state = PROC_RUNNING;
			json_decref(p->spec);
			p->spec = NULL;
		}
		p->step++;
		(void)session_run(sup, p, &err); /* a failure is the process's own */
	}
	(void)session_save(sup); /* else it is asked for again with the next change */
	control_settle(sup);
}

static void kill_done(struct sup *sup, const char *key, const struct hf_guest_answer *a)
{
	struct proc_kill *k = proc_kill_find(&sup->procs, key);
	if (!k)
		return;
	k->done = true;
	k->code = a->code;
	(void)snprintf(k->error, sizeof(k->error), "%s", a->message);
	(void)session_save(sup); /* see step_done */
	control_kill_done(sup, k);
}

static void on_oom(void *ctx, const char *container, uint64_t kills)
{
	struct proc *init = proc_find(&((struct sup *)ctx)->procs, container);
	if (init)
		init->oom_kills = HF_MAX(init->oom_kills, kills);
}

static void on_container_exit(void *ctx, const struct hf_guest_exit *e)
{
	on_oom(ctx, e->container, e->oom_kills);
}

static void on_answer(void *ctx, const struct hf_guest_answer *a)
{
	struct sup *sup = ctx;
	char step[16];
	enum proc_step at;
	const char *colon = a->tag ? strchr(a->tag, ':') : NULL;
	if (a->code != -ESTALE)
		incoming_guest_alive(sup, false);
	if (!colon || (size_t)(colon - a->tag) >= sizeof(step))
		return;
	(void)snprintf(step, sizeof(step), "%.*s", (int)(colon - a->tag), a->tag);
	if (!strcmp(step, "kill")) {
		kill_done(sup, colon + 1, a);
		return;
	}
	if (!strcmp(step, "guest")) {
		control_guest_answered(sup, colon + 1, a);
		return;
	}
	struct proc *p = proc_find(&sup->procs, colon + 1);
	if (p && (!proc_is_over(p) || p->step > STEP_WAIT) && proc_step_parse(step, &at) == 0 &&
		at == p->step)
		step_done(sup, p, a);
}

/* ---- The guest's identity ---- */

void session_lose_all(struct sup *sup, const char *why)
{
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (!proc_is_over(p))
			over(p, PROC_LOST, why);
		for (int i = 0; i < PROC_FD_N_; i++) {
			p->stream[i].ended = true;
			attach_pump(&p->stream[i]);
		}
	}
	(void)session_save(sup); /* see step_done */
	control_settle(sup);
}

static void on_negotiated(void *ctx, const struct hf_guest_info *info)
{
	struct sup *sup = ctx;
	bool other = *sup->instance && strcmp(sup->instance, info->instance) != 0;
	hf_info("guest: negotiated, instance %s, cid %u, session %s", info->instance, info->cid,
		info->session == HF_GUEST_RESUMED   ? "resumed"
		: info->session == HF_GUEST_NEW     ? "new"
		: info->session == HF_GUEST_UNKNOWN ? "unknown"
						    : "none");
	(void)snprintf(sup->instance, sizeof(sup->instance), "%s", info->instance);
	sup->guest_cid = info->cid;
	sup->negotiated = true;
	if (other || info->session == HF_GUEST_UNKNOWN) {
		control_event(sup, json_pack("{s:s, s:s}", "event", "guest-restarted", "instance",
					   info->instance));
		session_lose_all(sup, "the guest was restarted: this process is gone");
	}
	(void)session_save(sup); /* see step_done */
	incoming_guest_alive(sup, true);
	if (sup->state == SUP_STARTING)
		sup_ready(sup);
	control_settle(sup);
}

static void on_lost(void *ctx, const struct hf_err *why)
{
	(void)ctx;
	hf_info("guest: connection lost: %s", why->text);
}

static int on_state_changed(void *ctx, struct hf_guest *g)
{
	struct sup *sup = ctx;
	if (!sup->guest)
		sup->guest = g; /* from inside hf_guest_new */
	return session_save(sup);
}

/* ---- Opening and closing ---- */

/* Finds the table's streams again among those of an adopted state. */
static int find_streams(struct sup *sup, bool whole, struct hf_err *reterr)
{
	for (struct hf_guest_stream *g = NULL; (g = hf_guest_stream_next(sup->guest, g));) {
		char name[PROC_NAME_MAX + 1];
		enum proc_fd which;
		const char *tag = hf_guest_stream_tag(g), *slash = strchr(tag, '/');
		struct proc *p = NULL;
		if (slash && (size_t)(slash - tag) < sizeof(name)) {
			(void)snprintf(name, sizeof(name), "%.*s", (int)(slash - tag), tag);
			p = proc_find(&sup->procs, name);
		}
		if (!p || proc_fd_parse(slash + 1, &which) < 0)
			continue;
		struct proc_stream *s = &p->stream[which];
		s->guest = g;
		hf_guest_stream_set_ctx(g, s);
		if (which == PROC_STDIN)
			continue;
		int r = session_output_fd(sup, s);
		if (r >= 0 && !whole)
			r = hf_guest_stream_set_position(g, s->len, s->ended);
		if (r < 0 && r != -EALREADY)
			return hf_err_set(
				reterr, r, "process %s: %s: %s", p->name, slash + 1, strerror(-r));
	}
	return 0;
}

int session_open(struct sup *sup, const char *guest_state, bool whole, struct hf_err *reterr)
{
	char base[HF_NODE_PATH_MAX];
	const struct hf_guest_config config = { .vsock_base = sup_path(sup, "vsock", base),
		.state = guest_state,
		.events = { .ctx = sup,
			.state_changed = on_state_changed,
			.negotiated = on_negotiated,
			.lost = on_lost,
			.answer = on_answer,
			.container_exit = on_container_exit,
			.oom = on_oom,
			.stream = on_stream } };
	int r = hf_guest_new(&config, &sup->guest, reterr);
	if (r < 0)
		return hf_err_prefix(reterr, "guest client");
	r = find_streams(sup, whole, reterr);
	if (r == 0)
		r = uv_poll_init(&sup->loop, &sup->guest_poll, hf_guest_fd(sup->guest));
	if (r < 0) {
		hf_guest_free(sup->guest);
		sup->guest = NULL;
		return r;
	}
	(void)uv_timer_init(&sup->loop, &sup->guest_timer); /* these three cannot fail */
	(void)uv_timer_init(&sup->loop, &sup->retry_timer);
	(void)uv_prepare_init(&sup->loop, &sup->guest_prepare);
	sup->guest_poll.data = sup->guest_timer.data = sup->retry_timer.data = sup;
	sup->guest_prepare.data = sup;
	(void)uv_prepare_start(&sup->guest_prepare, on_guest_prepare);
	return uv_poll_start(&sup->guest_poll, UV_READABLE, on_guest_poll);
}

void session_close(struct sup *sup)
{
	if (!sup->guest)
		return;
	uv_close((uv_handle_t *)&sup->guest_poll, NULL);
	uv_close((uv_handle_t *)&sup->guest_timer, NULL);
	uv_close((uv_handle_t *)&sup->retry_timer, NULL);
	uv_close((uv_handle_t *)&sup->guest_prepare, NULL);
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		for (int i = 0; i < PROC_FD_N_; i++)
			p->stream[i].guest = NULL;
	}
	hf_guest_free(sup->guest);
	sup->guest = NULL;
}

int session_sleep(struct sup *sup, struct hf_err *reterr)
{
	int r = hf_guest_quiesce(sup->guest, reterr);
	sup->asleep = r == 0;
	return r;
}

int session_wake(struct sup *sup, struct hf_err *reterr)
{
	sup->asleep = false;
	int r = hf_guest_resume_here(sup->guest);
	if (r < 0)
		return hf_err_set(reterr, r, "guest client: cannot go on: %s", strerror(-r));
	(void)session_save(sup); /* see step_done */
	session_dispatch(sup);
	attach_pump_all(sup);
	session_output_retry(sup);
	return 0;
}
