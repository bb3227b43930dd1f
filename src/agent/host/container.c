/* SPDX-License-Identifier: MIT */
#include "container.h"
#include "agent/agent.h"
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

void agt_container_free(struct agt_container *c)
{
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
