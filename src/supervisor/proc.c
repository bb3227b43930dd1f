/* SPDX-License-Identifier: MIT */
#include "proc.h"
#include "base/fd.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const states[PROC_STATE_N_] = { "starting", "running", "exited", "failed",
	"lost" };
static const char *const steps[STEP_N_] = { "layers", "create", "start", "exec", "wait", "unmount",
	"delete" };
static const char *const fds[PROC_FD_N_] = { "stdin", "stdout", "stderr" };

static int parse_name(const char *name, const char *const *names, int n)
{
	for (int i = 0; name && i < n; i++)
		if (!strcmp(name, names[i]))
			return i;
	return -EINVAL;
}

const char *proc_state_name(enum proc_state state)
{
	return states[state];
}

const char *proc_fd_name(enum proc_fd which)
{
	return fds[which];
}

const char *proc_step_name(enum proc_step step)
{
	return steps[step];
}

int proc_fd_parse(const char *name, enum proc_fd *ret_which)
{
	int i = parse_name(name, fds, PROC_FD_N_);
	if (i >= 0)
		*ret_which = (enum proc_fd)i;
	return i < 0 ? i : 0;
}

int proc_step_parse(const char *name, enum proc_step *ret_step)
{
	int i = parse_name(name, steps, STEP_N_);
	if (i >= 0)
		*ret_step = (enum proc_step)i;
	return i < 0 ? i : 0;
}

void proc_table_init(struct proc_table *t)
{
	*t = (struct proc_table){ .next_exec = 1 };
	hf_list_init(&t->all);
}

static void proc_free(struct proc *p)
{
	for (int i = 0; i < PROC_FD_N_; i++)
		fd_closep(&p->stream[i].fd);
	json_decref(p->spec);
	free(p);
}

void proc_table_done(struct proc_table *t)
{
	hf_list_for_each_safe (n, &t->all) {
		proc_free(HF_CONTAINER_OF(n, struct proc, link));
	}
	proc_table_init(t);
}

int proc_container_check(const char *container, struct hf_err *reterr)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
	size_t n = strlen(container);
	if (n == 0 || n > PROC_CONTAINER_MAX || strspn(container, allowed) != n ||
		*container == '-')
		return hf_err_set(reterr, -EINVAL,
			"container \"%.40s\": a name has 1 to %d characters of A-Z a-z 0-9 _ - and "
			"begins with no dash",
			container, PROC_CONTAINER_MAX);
	return 0;
}

/* A process without content, not in the table. */
static struct proc *proc_new(void)
{
	struct proc *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	for (int i = 0; i < PROC_FD_N_; i++) {
		p->stream[i] =
			(struct proc_stream){ .proc = p, .which = (enum proc_fd)i, .fd = -1 };
		hf_list_init(&p->stream[i].readers);
	}
	return p;
}

static bool can_make_room(const struct proc *p)
{
	for (int i = 0; i < PROC_FD_N_; i++)
		if (p->stream[i].guest || !hf_list_empty(&p->stream[i].readers))
			return false;
	return proc_is_over(p);
}

struct proc *proc_oldest_over(struct proc_table *t)
{
	hf_list_for_each (n, &t->all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (can_make_room(p))
			return p;
	}
	return NULL;
}

int proc_add(struct proc_table *t, const char *container, bool exec, const char *key,
	struct proc **ret_p, struct hf_err *reterr)
{
	int r = proc_container_check(container, reterr);
	if (r < 0)
		return r;
	struct proc *init = proc_find(t, container);
	if (exec && (!init || init->state != PROC_RUNNING))
		return hf_err_set(reterr, init ? -ESRCH : -ENOENT, "container \"%s\": %s",
			container,
			init ? "is not running" : "no such container; see 'holdfast ps'");
	if (!exec && init)
		return hf_err_set(reterr, -EEXIST, "container \"%s\": there is one with this name",
			container);
	if (strlen(key) > PROC_KEY_MAX)
		return hf_err_set(reterr, -EINVAL, "key: at most %d bytes", PROC_KEY_MAX);
	if (t->n == PROC_MAX)
		return hf_err_set(reterr, -ENOSPC,
			"the VM has %d processes, which is the limit: end one first", PROC_MAX);
	struct proc *p = proc_new();
	if (!p)
		return hf_err_set(reterr, -ENOMEM, "no memory for a process");
	if (exec)
		(void)snprintf(p->name, sizeof(p->name), "%s.%llu", container,
			(unsigned long long)t->next_exec++);
	else
		(void)snprintf(p->name, sizeof(p->name), "%s", container);
	(void)snprintf(p->container, sizeof(p->container), "%s", container);
	(void)snprintf(p->key, sizeof(p->key), "%s", key);
	p->step = exec ? STEP_EXEC : STEP_LAYERS;
	hf_list_append(&t->all, &p->link);
	t->n++;
	*ret_p = p;
	return 0;
}

void proc_remove(struct proc_table *t, struct proc *p)
{
	hf_list_remove(&p->link);
	t->n--;
	proc_free(p);
}

struct proc *proc_find(struct proc_table *t, const char *name)
{
	hf_list_for_each (n, &t->all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (!strcmp(p->name, name))
			return p;
	}
	return NULL;
}

struct proc *proc_find_key(struct proc_table *t, const char *key)
{
	hf_list_for_each (n, &t->all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		if (*key && !strcmp(p->key, key))
			return p;
	}
	return NULL;
}

struct proc_kill *proc_kill_add(struct proc_table *t, const char *key)
{
	if (t->n_kills == PROC_KILLS_MAX) {
		memmove(t->kills, t->kills + 1, (PROC_KILLS_MAX - 1) * sizeof(t->kills[0]));
		t->n_kills--;
	}
	struct proc_kill *k = &t->kills[t->n_kills++];
	*k = (struct proc_kill){ 0 };
	(void)snprintf(k->key, sizeof(k->key), "%s", key);
	return k;
}

struct proc_kill *proc_kill_find(struct proc_table *t, const char *key)
{
	for (size_t i = 0; i < t->n_kills; i++)
		if (*key && !strcmp(t->kills[i].key, key))
			return &t->kills[i];
	return NULL;
}

static json_t *stream_json(const struct proc_stream *s)
{
	return s->used ? json_pack("{s:b, s:I}", "ended", s->ended, "length", (json_int_t)s->len)
		       : json_null();
}

json_t *proc_summary(const struct proc *p)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:b}", "process", p->name, "container", p->container,
		"state", states[p->state], "tty", p->tty);
	if (!o)
		return NULL;
	if (p->pid)
		json_object_set_new(o, "pid", json_integer(p->pid));
	if (p->state == PROC_EXITED)
		json_object_set_new(o, "exit_code", json_integer(p->exit_code));
	if (p->oom_kills)
		json_object_set_new(o, "oom_kills", json_integer((json_int_t)p->oom_kills));
	if (*p->error)
		json_object_set_new(o, "error", json_string(p->error));
	for (int i = PROC_STDOUT; i < PROC_FD_N_; i++)
		if (p->stream[i].stuck)
			json_object_set_new(o, "waits",
				json_sprintf("%s cannot be written: %s", fds[i],
					strerror(-p->stream[i].stuck)));
	return o;
}

static json_t *proc_json(const struct proc *p)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:s, s:s, s:I, s:I, s:s, s:O?}", "name",
		p->name, "container", p->container, "key", p->key, "tty", p->tty, "state",
		states[p->state], "step", steps[p->step], "pid", (json_int_t)p->pid, "exit_code",
		(json_int_t)p->exit_code, "error", p->error, "spec", p->spec);
	for (int i = 0; o && i < PROC_FD_N_; i++)
		json_object_set_new(o, fds[i], stream_json(&p->stream[i]));
	if (o && p->oom_kills)
		json_object_set_new(o, "oom_kills", json_integer((json_int_t)p->oom_kills));
	return o;
}

json_t *proc_table_json(const struct proc_table *t)
{
	json_t *procs = json_array(), *kills = json_array();
	hf_list_for_each (n, &t->all) {
		json_array_append_new(procs, proc_json(HF_CONTAINER_OF(n, struct proc, link)));
	}
	for (size_t i = 0; i < t->n_kills; i++)
		json_array_append_new(
			kills, json_pack("{s:s, s:b, s:i, s:s}", "key", t->kills[i].key, "done",
				       t->kills[i].done, "code", t->kills[i].code, "error",
				       t->kills[i].error));
	return json_pack("{s:I, s:o, s:o}", "next_exec", (json_int_t)t->next_exec, "processes",
		procs, "kills", kills);
}

static int load_stream(struct proc_stream *s, json_t *json)
{
	int ended;
	json_int_t len;
	if (json_is_null(json))
		return 0;
	if (json_unpack(json, "{s:b, s:I}", "ended", &ended, "length", &len) < 0 || len < 0)
		return -EINVAL;
	s->used = true;
	s->ended = ended;
	s->len = (uint64_t)len;
	return 0;
}

#define COPY(to, from) ((size_t)snprintf((to), sizeof(to), "%s", (from)) < sizeof(to))

static int load_proc(struct proc *p, json_t *json)
{
	const char *name, *container, *key, *state, *step, *error;
	int tty;
	json_int_t pid, code;
	if (json_unpack(json, "{s:s, s:s, s:s, s:b, s:s, s:s, s:I, s:I, s:s}", "name", &name,
		    "container", &container, "key", &key, "tty", &tty, "state", &state, "step",
		    &step, "pid", &pid, "exit_code", &code, "error", &error) < 0)
		return -EINVAL;
	int st = parse_name(state, states, PROC_STATE_N_);
	size_t n = strlen(container);
	if (proc_container_check(container, NULL) < 0 || strncmp(name, container, n) != 0 ||
		(name[n] != '\0' && (name[n] != '.' || strspn(name + n + 1, "0123456789") !=
							       strlen(name + n + 1))))
		return -EINVAL;
	if (st < 0 || proc_step_parse(step, &p->step) < 0 || pid < 0 || pid > UINT32_MAX ||
		code < 0 || code > UINT32_MAX)
		return -EINVAL;
	if (!COPY(p->name, name) || !COPY(p->container, container) || !COPY(p->key, key) ||
		!COPY(p->error, error))
		return -EINVAL;
	p->state = (enum proc_state)st;
	p->tty = tty;
	p->pid = (uint32_t)pid;
	p->exit_code = (uint32_t)code;
	json_int_t kills = json_integer_value(json_object_get(json, "oom_kills"));
	p->oom_kills = (uint64_t)HF_MAX(kills, (json_int_t)0);
	json_t *spec = json_object_get(json, "spec");
	p->spec = json_is_object(spec) ? json_incref(spec) : NULL;
	for (int i = 0; i < PROC_FD_N_; i++)
		if (load_stream(&p->stream[i], json_object_get(json, fds[i])) < 0)
			return -EINVAL;
	return 0;
}

static int load_kill(struct proc_table *t, json_t *json)
{
	const char *key, *error;
	int done, code;
	if (json_unpack(json, "{s:s, s:b, s:i, s:s}", "key", &key, "done", &done, "code", &code,
		    "error", &error) < 0 ||
		strlen(key) > PROC_KEY_MAX)
		return -EINVAL;
	struct proc_kill *k = proc_kill_add(t, key);
	k->done = done;
	k->code = code;
	return COPY(k->error, error) ? 0 : -EINVAL;
}

int proc_table_load(struct proc_table *t, json_t *json, struct hf_err *reterr)
{
	json_int_t next;
	json_t *procs, *kills, *v;
	size_t i;
	int r = json_unpack(json, "{s:I, s:o, s:o}", "next_exec", &next, "processes", &procs,
			"kills", &kills) < 0 ||
				next < 1 || !json_is_array(procs) ||
				json_array_size(procs) > PROC_MAX || !json_is_array(kills)
			? -EINVAL
			: 0;
	proc_table_init(t);
	if (r == 0)
		t->next_exec = (uint64_t)next;
	for (i = 0; r == 0 && (v = json_array_get(procs, i)); i++) {
		struct proc *p = proc_new();
		if (!p) {
			r = -ENOMEM;
			break;
		}
		r = load_proc(p, v);
		if (r == 0 && proc_find(t, p->name))
			r = -EINVAL;
		hf_list_append(&t->all, &p->link);
		t->n++;
	}
	for (i = 0; r == 0 && (v = json_array_get(kills, i)); i++)
		r = load_kill(t, v);
	if (r < 0) {
		proc_table_done(t);
		return hf_err_set(
			reterr, r, "the table of processes is not one of ours (%s)", strerror(-r));
	}
	return 0;
}
