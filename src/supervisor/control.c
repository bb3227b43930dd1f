/* SPDX-License-Identifier: MIT */
/*
 * control.c - control.sock (docs/control.md): a table of commands, and those who wait.
 *
 * A command that cannot be answered at once leaves a waiter: client, request id, process, what for.
 * Whenever a process has changed, control_settle() answers every waiter whose time has come. A
 * client that leaves takes its waiters along; what it asked for goes on.
 */
#include "oci.h"
#include "supervisor_internal.h"
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define ACCEPT_RETRY_MS 100

enum wait_for { WAIT_STARTED, WAIT_OVER, WAIT_KILLED, WAIT_READY, WAIT_GUEST };

struct waiter {
	struct hf_list link;
	struct client *client;
	json_t *id;
	enum wait_for what;
	char name[PROC_KEY_MAX +
		  1]; /* of the process; WAIT_KILLED: the key; WAIT_GUEST: a number */
};

/* ---- Answers ---- */

void client_ok(struct client *c, json_t *id, json_t *fields)
{
	json_t *msg = fields ? fields : json_object();
	json_object_set(msg, "id", id);
	json_object_set_new(msg, "ok", json_true());
	(void)chan_send_json(c->chan, msg); /* a channel that cannot take it closes itself */
	json_decref(msg);
}

void client_err(struct client *c, json_t *id, int code, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* a cut text is still a text */
	va_end(ap);
	const char *name = strerrorname_np(code < 0 ? -code : code);
	json_t *msg = json_pack("{s:O, s:b, s:{s:s, s:s}}", "id", id, "ok", 0, "error", "code",
		name ? name : "EIO", "text", text);
	(void)chan_send_json(c->chan, msg); /* see client_ok */
	json_decref(msg);
}

void control_event(struct sup *sup, json_t *event)
{
	hf_list_for_each (n, &sup->clients) {
		(void)chan_send_json(HF_CONTAINER_OF(n, struct client, link)->chan, event);
	}
	json_decref(event);
}

/* ---- Waiters ---- */

static void waiter_free(struct sup *sup, struct waiter *w)
{
	hf_list_remove(&w->link);
	json_decref(w->id);
	free(w);
	sup->n_waiters--;
}

static void wait_for(struct client *c, json_t *id, enum wait_for what, const char *name)
{
	struct sup *sup = c->sup;
	struct waiter *w = sup->n_waiters < SUP_WAITERS_MAX ? calloc(1, sizeof(*w)) : NULL;
	if (!w) {
		client_err(c, id, ENOSPC,
			"the supervisor has %d requests waiting, which is the limit",
			SUP_WAITERS_MAX);
		return;
	}
	w->client = c;
	w->id = json_incref(id);
	w->what = what;
	(void)snprintf(w->name, sizeof(w->name), "%s", name);
	hf_list_append(&sup->waiters, &w->link);
	sup->n_waiters++;
	control_settle(sup);
}

static json_t *started(const struct proc *p)
{
	return json_pack("{s:s, s:I}", "process", p->name, "pid", (json_int_t)p->pid);
}

/* Answers a waiter for a process if its time has come. */
static bool settle_proc(const struct waiter *w, const struct proc *p)
{
	if (!p) {
		client_err(w->client, w->id, ESRCH, "process \"%s\": is no longer known", w->name);
		return true;
	}
	if (p->state == PROC_STARTING || (w->what == WAIT_OVER && !proc_is_over(p)))
		return false;
	if (p->state == PROC_FAILED || (p->state == PROC_LOST && w->what == WAIT_OVER))
		client_err(w->client, w->id, p->state == PROC_LOST ? ESTALE : ECANCELED,
			"process \"%s\": %s", p->name, p->error);
	else if (w->what == WAIT_OVER)
		client_ok(w->client, w->id,
			json_pack("{s:I, s:I}", "exit_code", (json_int_t)p->exit_code, "oom_kills",
				(json_int_t)p->oom_kills));
	else
		client_ok(w->client, w->id, started(p));
	return true;
}

void control_settle(struct sup *sup)
{
	hf_list_for_each_safe (n, &sup->waiters) {
		struct waiter *w = HF_CONTAINER_OF(n, struct waiter, link);
		bool over = w->what == WAIT_READY ? sup->state == SUP_RUNNING && sup->negotiated
			    : w->what == WAIT_KILLED || w->what == WAIT_GUEST
				    ? false
				    : settle_proc(w, proc_find(&sup->procs, w->name));
		if (over && w->what == WAIT_READY)
			client_ok(w->client, w->id, NULL);
		if (over)
			waiter_free(sup, w);
	}
}

static void answer_kill(struct client *c, json_t *id, const struct proc_kill *k)
{
	if (k->code == 0)
		client_ok(c, id, NULL);
	else
		client_err(c, id, k->code, "%s", k->error);
}

void control_kill_done(struct sup *sup, const struct proc_kill *k)
{
	hf_list_for_each_safe (n, &sup->waiters) {
		struct waiter *w = HF_CONTAINER_OF(n, struct waiter, link);
		if (w->what != WAIT_KILLED || strcmp(w->name, k->key) != 0)
			continue;
		answer_kill(w->client, w->id, k);
		waiter_free(sup, w);
	}
}

/* ---- Commands ---- */

static void do_version(struct client *c, json_t *id, json_t *args)
{
	(void)args;
	client_ok(c, id, json_pack("{s:s, s:i}", "version", HF_VERSION, "protocol", 1));
}

static void do_status(struct client *c, json_t *id, json_t *args)
{
	struct sup *sup = c->sup;
	(void)args;
	json_t *o =
		json_pack("{s:s, s:s, s:s, s:b, s:s, s:I, s:b, s:i, s:o}", "vm", sup->config->name,
			"node", sup->config->node, "state", sup_state_name(sup->state), "connected",
			sup->guest && hf_guest_is_connected(sup->guest), "instance", sup->instance,
			"cid", (json_int_t)sup->guest_cid, "migrating", sup->outgoing != NULL,
			"supervisor_pid", (int)getpid(), "machine", machine_status(sup));
	client_ok(c, id, o);
}

static void do_ready(struct client *c, json_t *id, json_t *args)
{
	(void)args;
	wait_for(c, id, WAIT_READY, "");
}

/* Text of a request, "" when absent; NULL and an answer when it is of another kind. */
static const char *text_of(struct client *c, json_t *id, json_t *args, const char *key)
{
	json_t *v = json_object_get(args, key);
	if (v && !json_is_string(v)) {
		client_err(c, id, EINVAL, "%s: give a text", key);
		return NULL;
	}
	return v ? json_string_value(v) : "";
}

static void start(struct client *c, json_t *id, json_t *args, bool exec)
{
	struct sup *sup = c->sup;
	struct hf_err err;
	struct proc *p;
	json_t *process;
	const char *key = text_of(c, id, args, "key");
	const char *container = key ? text_of(c, id, args, "container") : NULL;
	if (!container)
		return;
	p = proc_find_key(&sup->procs, key);
	if (p) { /* asked for before: done once */
		wait_for(c, id, WAIT_STARTED, p->name);
		return;
	}
	if (oci_process(args, &process, &err) < 0) {
		client_err(c, id, err.code, "%s", err.text);
		return;
	}
	int r = proc_add(&sup->procs, container, exec, key, &p, &err);
	struct proc *old = r == -ENOSPC ? proc_oldest_over(&sup->procs) : NULL;
	if (old) {
		session_forget(sup, old);
		r = proc_add(&sup->procs, container, exec, key, &p, &err);
	}
	if (r < 0) {
		json_decref(process);
		client_err(c, id, err.code, "%s", err.text);
		return;
	}
	p->tty = json_is_true(json_object_get(args, "tty"));
	p->spec = exec ? process : oci_spec(container, process);
	p->stream[PROC_STDIN].used = json_is_true(json_object_get(args, "stdin"));
	p->stream[PROC_STDOUT].used = true;
	p->stream[PROC_STDERR].used = !p->tty;
	(void)session_run(sup, p, &err); /* a failure is the process's, and told to its waiters */
	wait_for(c, id, WAIT_STARTED, p->name);
}

static void do_run(struct client *c, json_t *id, json_t *args)
{
	start(c, id, args, false);
}

static void do_exec(struct client *c, json_t *id, json_t *args)
{
	start(c, id, args, true);
}

static void do_ps(struct client *c, json_t *id, json_t *args)
{
	json_t *list = json_array();
	(void)args;
	hf_list_for_each (n, &c->sup->procs.all) {
		json_array_append_new(list, proc_summary(HF_CONTAINER_OF(n, struct proc, link)));
	}
	client_ok(c, id, json_pack("{s:o}", "processes", list));
}

static struct proc *proc_of(struct client *c, json_t *id, json_t *args)
{
	const char *name = text_of(c, id, args, "process");
	struct proc *p = name ? proc_find(&c->sup->procs, name) : NULL;
	if (name && !p)
		client_err(c, id, ENOENT, "process \"%.60s\": no such process; see 'holdfast ps'",
			name);
	return p;
}

static void do_wait(struct client *c, json_t *id, json_t *args)
{
	struct proc *p = proc_of(c, id, args);
	if (p)
		wait_for(c, id, WAIT_OVER, p->name);
}

static void do_kill(struct client *c, json_t *id, json_t *args)
{
	struct sup *sup = c->sup;
	struct hf_err err;
	char tag[PROC_KEY_MAX + 8];
	const char *key = text_of(c, id, args, "key");
	struct proc *p = key ? proc_of(c, id, args) : NULL;
	json_int_t signo = json_integer_value(json_object_get(args, "signal"));
	if (!p)
		return;
	if (signo < 1 || signo > SIGRTMAX || *key == '\0' || strlen(key) > PROC_KEY_MAX) {
		client_err(c, id, EINVAL,
			"kill: give a signal from 1 to %d, and a key of 1 to %d bytes", SIGRTMAX,
			PROC_KEY_MAX);
		return;
	}
	struct proc_kill *k = proc_kill_find(&sup->procs, key);
	if (!k && p->state != PROC_RUNNING) {
		client_err(c, id, ESRCH, "process \"%s\": is not running (%s)", p->name,
			proc_state_name(p->state));
		return;
	}
	if (!k) {
		(void)snprintf(tag, sizeof(tag), "kill:%s", key);
		k = proc_kill_add(&sup->procs, key);
		if (session_signal(sup, p, (int)signo, tag, &err) < 0) {
			k->done = true;
			k->code = err.code;
			(void)snprintf(k->error, sizeof(k->error), "%s", err.text);
		}
	}
	if (k->done)
		answer_kill(c, id, k);
	else
		wait_for(c, id, WAIT_KILLED, key);
}

/* What the guest is asked about itself is answered with what it says. */
static void do_guest_requests(struct client *c, json_t *id, json_t *args)
{
	static uint64_t asked;
	char tag[40];
	const struct hf_guest_call call = { .tag = tag };
	(void)args;
	(void)snprintf(tag, sizeof(tag), "guest:%lu", (unsigned long)++asked);
	if (hf_guest_properties(
		    c->sup->guest, &call, HF_GUEST_UVM, "{\"PropertyTypes\":[\"Requests\"]}") < 0)
		client_err(c, id, EBUSY, "guest-requests: the guest takes no request now");
	else
		wait_for(c, id, WAIT_GUEST, strchr(tag, ':') + 1);
}

void control_guest_answered(struct sup *sup, const char *name, const struct hf_guest_answer *a)
{
	hf_list_for_each_safe (n, &sup->waiters) {
		struct waiter *w = HF_CONTAINER_OF(n, struct waiter, link);
		if (w->what != WAIT_GUEST || strcmp(w->name, name) != 0)
			continue;
		json_t *body = json_loads(a->body, 0, NULL);
		const char *text = json_string_value(json_object_get(body, "Properties"));
		json_t *what = text ? json_loads(text, 0, NULL) : NULL;
		if (a->code == 0 && json_is_object(what))
			client_ok(w->client, w->id, json_incref(what));
		else
			client_err(w->client, w->id, a->code ? -a->code : EPROTO,
				"the guest does not tell: %s", a->message);
		json_decref(what);
		json_decref(body);
		waiter_free(sup, w);
	}
}

/* Why a container cannot be removed now; NULL: it can. */
static const char *not_removable(struct sup *sup, const struct proc *init)
{
	if (init->step > STEP_WAIT)
		return "is being removed";
	hf_list_for_each (n, &sup->procs.all) {
		const struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (!strcmp(p->container, init->name) && !proc_is_over(p))
			return "is running; end it first, or give --force";
	}
	return NULL;
}

static void do_rm(struct client *c, json_t *id, json_t *args)
{
	struct sup *sup = c->sup;
	const char *key = text_of(c, id, args, "key");
	const char *name = key ? text_of(c, id, args, "container") : NULL;
	if (!name)
		return;
	struct proc *p = strchr(name, '.') ? NULL : proc_find(&sup->procs, name);
	struct proc_kill *k = proc_kill_find(&sup->procs, key);
	const char *why = p && !k ? not_removable(sup, p) : NULL;
	if (*key == '\0' || strlen(key) > PROC_KEY_MAX) {
		client_err(c, id, EINVAL, "rm: give a key of 1 to %d bytes", PROC_KEY_MAX);
	} else if (!p && !k) {
		client_err(c, id, ENOENT,
			"container \"%.60s\": no such container; see 'holdfast ps'", name);
	} else if (why) {
		client_err(c, id, EBUSY, "container \"%s\": %s", name, why);
	} else {
		if (!k) {
			(void)proc_kill_add(&sup->procs, key);
			session_remove(sup, p, key);
			k = proc_kill_find(&sup->procs, key);
		}
		if (k->done)
			answer_kill(c, id, k);
		else
			wait_for(c, id, WAIT_KILLED, key);
	}
}

static void do_resize(struct client *c, json_t *id, json_t *args)
{
	struct proc *p = proc_of(c, id, args);
	json_int_t rows = json_integer_value(json_object_get(args, "rows"));
	json_int_t cols = json_integer_value(json_object_get(args, "cols"));
	const struct hf_guest_call call = { .tag = "resize" };
	if (!p)
		return;
	if (rows < 0 || rows > UINT16_MAX || cols < 0 || cols > UINT16_MAX)
		client_err(c, id, EINVAL, "resize: give rows and cols up to %d", UINT16_MAX);
	else if (p->state == PROC_RUNNING && hf_guest_resize(c->sup->guest, &call, p->container,
						     p->pid, (uint16_t)rows, (uint16_t)cols) < 0)
		client_err(c, id, EBUSY, "resize: the guest takes no request now");
	else
		client_ok(c, id, NULL);
}

static void do_attach(struct client *c, json_t *id, json_t *args)
{
	enum proc_fd which;
	struct proc *p = proc_of(c, id, args);
	const char *stream = p ? text_of(c, id, args, "stream") : NULL;
	const char *token = stream ? text_of(c, id, args, "token") : NULL;
	if (!token)
		return;
	if (proc_fd_parse(stream, &which) < 0)
		client_err(c, id, EINVAL, "stream: give stdin, stdout or stderr");
	else if (!p->stream[which].used)
		client_err(c, id, ENODEV, "process \"%s\": has no %s", p->name, stream);
	else
		attach_begin(c, id, &p->stream[which], token, args);
}

static void do_stop(struct client *c, json_t *id, json_t *args)
{
	(void)args;
	client_ok(c, id, NULL);
	machine_kill(c->sup);
	session_lose_all(c->sup, "the VM was stopped");
	sup_end(c->sup, 0, "stopped by request");
}

static void do_cancel(struct client *c, json_t *id, json_t *args)
{
	(void)args;
	outgoing_cancel(c, id);
}

static const struct command {
	const char *name;
	void (*run)(struct client *c, json_t *id, json_t *args);
	bool always; /* also without a guest: while starting, incoming, ending */
} commands[] = {
	{ "version", do_version, true },
	{ "status", do_status, true },
	{ "ready", do_ready, true },
	{ "stop", do_stop, true },
	{ "run", do_run, false },
	{ "exec", do_exec, false },
	{ "ps", do_ps, false },
	{ "wait", do_wait, false },
	{ "kill", do_kill, false },
	{ "rm", do_rm, false },
	{ "resize", do_resize, false },
	{ "guest-requests", do_guest_requests, false },
	{ "attach", do_attach, false },
	{ "migrate", outgoing_begin, false },
	{ "migrate-cancel", do_cancel, true },
};

static void dispatch(struct client *c, json_t *id, const char *cmd, json_t *args)
{
	if (!strncmp(cmd, "incoming-", 9)) {
		incoming_command(c, id, cmd + 9, args);
		return;
	}
	for (size_t i = 0; i < HF_ARRAY_SIZE(commands); i++) {
		if (strcmp(cmd, commands[i].name) != 0)
			continue;
		if ((c->sup->state == SUP_RUNNING && !c->sup->asleep) || commands[i].always)
			commands[i].run(c, id, args);
		else
			client_err(c, id, EAGAIN, "vm \"%s\": is %s: %s is not possible now",
				c->sup->config->name, sup_state_name(c->sup->state), cmd);
		return;
	}
	client_err(c, id, ENOSYS, "%.40s: no such command", cmd);
}

/* ---- Clients ---- */

void client_release(struct client *c)
{
	struct sup *sup = c->sup;
	hf_list_for_each_safe (n, &sup->waiters) {
		struct waiter *w = HF_CONTAINER_OF(n, struct waiter, link);
		if (w->client == c)
			waiter_free(sup, w);
	}
	outgoing_client_gone(sup, c);
	incoming_client_gone(sup, c);
	hf_list_remove(&c->link);
	sup->n_clients--;
	free(c);
}

static void refuse(struct client *c, json_t *id, const char *why)
{
	struct chan *chan = c->chan;
	client_err(c, id, EINVAL, "not a request: %s", why);
	client_release(c);
	chan_close_when_sent(chan);
}

static void on_bad_line(struct chan *chan, int why)
{
	refuse(chan->ctx, json_null(),
		why == -EMSGSIZE ? "the line is longer than 1 MiB" : "the line contains a NUL");
}

static void on_line(struct chan *chan, char *line)
{
	struct client *c = chan->ctx;
	json_t *msg = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	json_t *id = json_object_get(msg, "id");
	const char *cmd = json_string_value(json_object_get(msg, "cmd"));
	if (json_is_integer(id) && cmd)
		dispatch(c, id, cmd, msg);
	else
		refuse(c, json_is_integer(id) ? id : json_null(),
			"want a JSON object with \"id\" (a number) and \"cmd\" (a text)");
	json_decref(msg);
}

static void on_closed(struct chan *chan, int why)
{
	(void)why; /* a client may leave whenever it likes */
	client_release(chan->ctx);
}

static void accept_client(struct sup *sup, int fd)
{
	static const struct chan_ops ops = {
		.on_line = on_line, .on_bad_line = on_bad_line, .on_closed = on_closed
	};
	uid_t uid;
	if (sup->n_clients == SUP_CLIENTS_MAX || unix_peer_uid(fd, &uid) < 0 ||
		(uid != 0 && uid != geteuid())) {
		hf_warn("control: a client was refused: %s",
			sup->n_clients == SUP_CLIENTS_MAX ? "too many clients"
							  : "it belongs to another user");
		fd_closep(&fd);
		return;
	}
	struct client *c = calloc(1, sizeof(*c));
	if (!c) {
		fd_closep(&fd);
		return;
	}
	c->sup = sup;
	hf_list_init(&c->link);
	if (chan_open(&sup->loop, fd, &ops, c, &c->chan) < 0) {
		free(c);
		return;
	}
	hf_list_append(&sup->clients, &c->link);
	sup->n_clients++;
}

static void on_accept(uv_poll_t *h, int status, int events);

static void on_accept_again(uv_timer_t *h)
{
	struct sup *sup = h->data;
	(void)uv_poll_start(&sup->control_poll, UV_READABLE, on_accept); /* as it did before */
}

static void on_accept(uv_poll_t *h, int status, int events)
{
	struct sup *sup = h->data;
	(void)status, (void)events;
	for (;;) {
		int fd = accept4(sup->control_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			accept_client(sup, fd);
			continue;
		}
		/* None left, or gone again: the loop calls for the next one. Without descriptors it
		 * would call for ever. */
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			hf_warn("control: cannot accept: %s", strerror(errno));
			(void)uv_poll_stop(&sup->control_poll); /* these two cannot fail */
			(void)uv_timer_start(
				&sup->accept_timer, on_accept_again, ACCEPT_RETRY_MS, 0);
		}
		return;
	}
}

/* The socket is made beside and moved over that of a supervisor that has died: command lines that
 * wait for the next one must never find none, which is the sign of a VM's end. */
int control_open(struct sup *sup, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX], fresh[HF_NODE_PATH_MAX];
	(void)sup_path(sup, "control.sock", path);
	int r = unix_listen(sup_path(sup, "control.new", fresh), 0600, 64, &sup->control_fd);
	if (r == 0 && rename(fresh, path) < 0)
		r = -errno;
	if (r == 0)
		r = uv_poll_init(&sup->loop, &sup->control_poll, sup->control_fd);
	if (r < 0)
		return hf_err_set(reterr, r, "%s: %s", path, strerror(-r));
	sup->control_poll.data = sup->accept_timer.data = sup;
	(void)uv_timer_init(&sup->loop, &sup->accept_timer); /* cannot fail */
	return uv_poll_start(&sup->control_poll, UV_READABLE, on_accept);
}

void control_close(struct sup *sup)
{
	if (sup->control_fd >= 0) {
		uv_close((uv_handle_t *)&sup->control_poll, NULL);
		uv_close((uv_handle_t *)&sup->accept_timer, NULL);
	}
	fd_closep(&sup->control_fd);
	hf_list_for_each_safe (n, &sup->clients) {
		struct client *c = HF_CONTAINER_OF(n, struct client, link);
		struct chan *chan = c->chan;
		client_release(c);
		chan_close_when_sent(chan);
	}
}
