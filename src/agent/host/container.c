/* SPDX-License-Identifier: MIT */
#include "container.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "agent/net/netns.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "oom.h"
#include <stdio.h>
#include <string.h>

const char *const agt_container_state_name[AGT_CONTAINER_N_STATES] = { "being created", "created",
	"running", "stopped", "being deleted" };

struct agt_container *agt_container_find(struct agt *a, const char *id)
{
	hf_list_for_each (l, &a->containers) {
		struct agt_container *c = HF_CONTAINER_OF(l, struct agt_container, link);
		if (!strcmp(c->id, id)) {
			c->named_epoch = a->session.epoch;
			return c;
		}
	}
	return NULL;
}

struct agt_container *agt_container_new(struct agt *a, const char *id)
{
	struct agt_container *c =
		a->n_containers < AGT_CONTAINERS_MAX ? calloc(1, sizeof(*c)) : NULL;
	if (!c)
		return NULL;
	*c = (struct agt_container){ .a = a, .local = { -1, -1, -1 } };
	(void)snprintf(c->id, sizeof(c->id), "%s", id);
	c->oom_wd = -1;
	c->exit_type = "UnexpectedExit";
	c->named_epoch = a->session.epoch;
	hf_list_append(&a->containers, &c->link);
	a->n_containers++;
	return c;
}

void agt_container_put(struct agt_container *c)
{
	if (!agt_state_kept(&c->a->state))
		return;
	agt_state_put(&c->a->state, "container", c->id,
		json_pack("{s:i, s:s, s:s*, s:s*, s:s*, s:s*, s:b, s:b, s:b, s:b, s:b, s:I, s:s, "
			  "s:I, s:[i,i,i]}",
			"state", (int)c->state, "activity", c->activity, "bundle", c->bundle,
			"root", c->root, "scratch", c->scratch, "cgroup", c->cgroup, "sandbox",
			(int)c->sandbox, "own_pids", (int)c->own_pids, "tty", (int)c->tty,
			"starting", (int)c->starting, "notified", (int)c->notified, "request",
			(json_int_t)c->request, "exit_type", c->exit_type, "oom_kills",
			(json_int_t)c->oom_kills, "local", c->local[0], c->local[1], c->local[2]));
}

void agt_container_put_spec(struct agt_container *c)
{
	agt_state_put(&c->a->state, "spec", c->id, json_incref(c->process));
}

static char *copy(const char *text)
{
	return text ? strdup(text) : NULL;
}

static void restore(struct agt_heir *h, const char *id, json_t *o)
{
	static const char *const exit_types[] = { "UnexpectedExit", "GracefulExit", "ForcedExit" };
	char key[AGT_ID_MAX + 8];
	struct agt_fields f = { .obj = o, .prefix = "container." };
	uint64_t state = agt_field_uint(&f, "state", AGT_CONTAINER_N_STATES - 1, 0);
	const char *activity = agt_field_string(&f, "activity", "");
	const char *exit_type = agt_field_string(&f, "exit_type", "");
	const json_t *local = agt_field_array(&f, "local");
	struct agt_container *c = strlen(id) > AGT_ID_MAX ? NULL : agt_container_new(h->a, id);
	(void)snprintf(key, sizeof(key), "spec/%s", id);
	if (!c || strlen(activity) >= sizeof(c->activity)) {
		agt_heir_refuse(h, key);
		return;
	}
	c->state = (enum agt_container_state)state;
	memcpy(c->activity, activity, strlen(activity) + 1);
	c->bundle = copy(agt_field_string(&f, "bundle", NULL));
	c->root = copy(agt_field_string(&f, "root", NULL));
	c->scratch = copy(agt_field_string(&f, "scratch", NULL));
	c->cgroup = copy(agt_field_string(&f, "cgroup", NULL));
	c->sandbox = agt_field_bool(&f, "sandbox", false);
	c->own_pids = agt_field_bool(&f, "own_pids", false);
	c->tty = agt_field_bool(&f, "tty", false);
	c->starting = agt_field_bool(&f, "starting", false);
	c->notified = agt_field_bool(&f, "notified", false);
	c->request = agt_field_uint(&f, "request", INT64_MAX, 0);
	c->oom_kills = agt_field_uint(&f, "oom_kills", INT64_MAX, 0);
	for (size_t i = 0; i < HF_ARRAY_SIZE(exit_types); i++)
		if (!strcmp(exit_type, exit_types[i]))
			c->exit_type = exit_types[i];
	for (size_t i = 0; i < 3; i++)
		c->local[i] = agt_heir_fd(
			h, json_array_get(local, i), c->tty ? AGT_HEIR_TERMINAL : AGT_HEIR_PIPE);
	c->process = json_incref(json_object_get(h->map, key));
	if (f.err.code != 0 || !c->bundle || !c->root)
		agt_heir_refuse(h, f.err.code ? f.err.text : key);
	agt_oom_watch(c);
}

void agt_containers_restore(struct agt_heir *h)
{
	agt_heir_each(h, "container", restore);
}

void agt_container_free(struct agt_container *c)
{
	agt_state_put(&c->a->state, "container", c->id, NULL);
	agt_state_put(&c->a->state, "spec", c->id, NULL);
	hf_list_for_each_safe (l, &c->a->processes) {
		struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		if (p->container == c)
			agt_process_free(p);
	}
	for (int i = 0; i < 3; i++)
		fd_closep(&c->local[i]);
	json_decref(c->process);
	free(c->bundle);
	free(c->root);
	free(c->scratch);
	free(c->cgroup);
	agt_oom_unwatch(c);
	agt_netns_let_go(c->a, c);
	hf_list_remove(&c->link);
	c->a->n_containers--;
	free(c);
}

static void on_killed(void *arg, const struct agt_run_result *result)
{
	struct agt_container *c = arg;
	c->busy--;
	if (result->hresult != BRG_OK)
		hf_warn("container %s: processes may be left: %s", c->id, result->text);
}

void agt_container_init_gone(struct agt_container *c)
{
	struct hf_err err;
	if (c->own_pids)
		return; /* the kernel has killed the others */
	struct agt_run run = { .args = { "kill", "--all" }, .id = NULL, .fd = { -1, -1, -1 } };
	run.args[2] = c->id;
	run.id = "KILL";
	if (agt_runtime_run(c->a, &run, on_killed, c, &err) == 0)
		c->busy++;
	else
		hf_warn("container %s: processes may be left: %s", c->id, err.text);
}

void agt_container_exited(struct agt_container *c)
{
	if (c->state != AGT_CONTAINER_DELETING)
		c->state = AGT_CONTAINER_EXITED;
	if (c->notified)
		return;
	c->notified = true;
	agt_oom_look(c); /* its last moments count */
	agt_container_put(c);
	hf_info("container %s: exited, code %u", c->id, c->init->exit_code);
	json_t *note = json_pack("{s:s}", "ContainerId", c->id);
	if (c->activity[0])
		json_object_set_new(note, "ActivityId", json_string(c->activity));
	json_object_set_new(note, "Type", json_string(c->exit_type));
	json_object_set_new(note, "Operation", json_string("None"));
	json_object_set_new(note, "Result", json_integer(BRG_OK));
	agt_session_notify(&c->a->session, c, note);
}

struct agt_container *agt_container_need(struct agt_request *rq, unsigned states)
{
	struct agt_container *c = agt_container_find(rq->a, rq->container);
	if (!c) {
		agt_refuse(rq, BRG_E_SYSTEM_NOT_FOUND, "container %s: no such container",
			rq->container);
		return NULL;
	}
	if (states & 1u << c->state)
		return c;
	agt_refuse(rq,
		c->state == AGT_CONTAINER_EXITED ? BRG_E_ALREADY_STOPPED : BRG_E_INVALID_STATE,
		"container %s: is %s", c->id, agt_container_state_name[c->state]);
	return NULL;
}
