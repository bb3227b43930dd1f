/* SPDX-License-Identifier: MIT */
/* create.c - Create, Start and DeleteContainerState. */
#include "agent/agent.h"
#include "agent/host/cgroup.h"
#include "agent/oci/spec.h"
#include "agent/proc/worker.h"
#include "agent/stdio/local.h"
#include "agent/storage/tree.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define BUNDLE_PATH_MAX 3000 /* bytes; leaves room for the names below it */

struct create {
	struct agt_request *rq;
	struct agt_container *c;
	struct agt_local local;
};

struct message {
	json_t *config; /* ContainerConfig: the others point into it */
	const char *bundle, *scratch;
	json_t *spec;
};

static void read_message(struct agt_request *rq, struct message *m)
{
	agt_field_json(&rq->f, "ContainerConfig", &m->config);
	struct agt_fields f = { .obj = m->config, .prefix = "ContainerConfig." };
	struct agt_fields v =
		agt_field_fields(&f, "SchemaVersion", "ContainerConfig.SchemaVersion.");
	uint64_t major = agt_field_uint(&v, "Major", UINT32_MAX, 0);
	uint64_t minor = agt_field_uint(&v, "Minor", UINT32_MAX, 0);
	agt_fields_join(&f, &v);
	m->bundle = agt_field_string(&f, "OciBundlePath", "");
	m->scratch = agt_field_string(&f, "ScratchDirPath", "");
	m->spec = agt_field_object(&f, "OciSpecification");
	if (f.err.code == 0 && (major < 2 || (major == 2 && minor < 1)))
		(void)hf_err_set(&f.err, -EBADMSG,
			"ContainerConfig.SchemaVersion: 2.1 or later expected, got %lu.%lu",
			(unsigned long)major, (unsigned long)minor);
	if (f.err.code == 0 && !m->spec)
		(void)hf_err_set(&f.err, -EBADMSG, "ContainerConfig.OciSpecification: missing");
	if (f.err.code == 0 &&
		(!agt_path_allowed(m->bundle) || strlen(m->bundle) > BUNDLE_PATH_MAX))
		(void)hf_err_set(&f.err, -EBADMSG,
			"ContainerConfig.OciBundlePath: an absolute path below a folder expected");
	if (f.err.code == 0 && m->scratch[0] && !agt_path_allowed(m->scratch))
		(void)hf_err_set(&f.err, -EBADMSG,
			"ContainerConfig.ScratchDirPath: an absolute path below a folder expected");
	agt_fields_join(&rq->f, &f);
}

static void give_up(struct create *cr, int32_t hresult, const char *text)
{
	struct agt_request *rq = cr->rq;
	struct hf_err err;
	char reason[1024];
	(void)snprintf(reason, sizeof(reason), "container %s: %s", cr->c->id, text);
	if (cr->c->bundle && agt_tree_has_mounts(cr->c->bundle) == 0 &&
		agt_tree_remove(cr->c->bundle, &err) < 0)
		hf_warn("container %s: %s", cr->c->id, err.text);
	agt_local_close(&cr->local);
	agt_container_free(cr->c);
	free(cr);
	agt_refuse(rq, hresult, "%s", reason);
}

static void on_created(void *arg, const struct agt_run_result *result)
{
	struct create *cr = arg;
	struct agt_container *c = cr->c;
	struct agt_request *rq = cr->rq;
	int console = result->console;
	if (result->hresult == BRG_OK) {
		c->init = agt_process_new(c->a, c, true, NULL, -1);
		if (c->tty)
			(void)agt_local_from_master(
				&cr->local, console); /* without streams it hangs up */
	}
	if (!c->init) {
		give_up(cr, result->hresult ? result->hresult : BRG_E_FAIL,
			result->hresult ? result->text : "too many processes");
		return;
	}
	c->init->console = cr->local.master;
	memcpy(c->local, cr->local.ours, sizeof(c->local));
	c->state = AGT_CONTAINER_CREATED;
	c->cgroup = agt_cgroup_of(result->pid);
	free(cr);
	hf_info("container %s: created, pid %d", c->id, (int)result->pid);
	agt_process_adopt(c->init, result->pid);
	agt_answer(rq, json_pack("{s:i}", "SelectedProtocolVersion", 0));
}

/* Makes the bundle and starts the runtime. */
static int begin(struct create *cr, const struct message *m, struct hf_err *reterr)
{
	struct agt_container *c = cr->c;
	char path[BUNDLE_PATH_MAX + 16];
	const bool all[3] = { true, true, true };
	struct agt_run run = { .args = { "create", "--no-pivot", "--bundle", c->bundle },
		.id = c->id,
		.want_pid = true,
		.want_console = c->tty };
	int r = agt_tree_make(c->bundle, 0700, reterr);
	if (r < 0)
		return r;
	(void)snprintf(path, sizeof(path), "%s/config.json", c->bundle);
	if (json_dump_file(m->spec, path, JSON_COMPACT) < 0)
		return hf_err_set(reterr, -EIO, "%.150s: cannot write", path);
	if (!c->tty && agt_local_pipes(&cr->local, all) < 0)
		return hf_err_set(reterr, -EMFILE, "no pipes for its streams");
	memcpy(run.fd, cr->local.theirs, sizeof(run.fd));
	r = agt_runtime_run(c->a, &run, on_created, cr, reterr);
	agt_local_close_theirs(&cr->local); /* the runtime has them */
	return r;
}

static void create(struct agt_request *rq, const struct message *m)
{
	struct agt_local none = AGT_LOCAL_NONE;
	struct agt_spec_facts facts;
	struct hf_err err = { 0 };
	struct agt *a = rq->a;
	if (agt_spec_prepare(m->spec, rq->container, &facts, &err) < 0) {
		agt_refuse(rq, BRG_E_INVALID_JSON, "Create: %s", err.text);
		return;
	}
	if (facts.is_workload && !agt_container_find(a, facts.sandbox)) {
		agt_refuse(rq, BRG_E_SYSTEM_NOT_FOUND,
			"container %s: its sandbox %s does not exist", rq->container,
			facts.sandbox);
		return;
	}
	struct create *cr = calloc(1, sizeof(*cr));
	struct agt_container *c = cr ? agt_container_new(a, rq->container) : NULL;
	if (!c) {
		free(cr);
		agt_refuse(rq, BRG_E_FAIL, "container %s: more than %d containers", rq->container,
			AGT_CONTAINERS_MAX);
		return;
	}
	*cr = (struct create){ .rq = rq, .c = c, .local = none };
	c->tty = facts.tty;
	c->own_pids = facts.own_pids;
	c->bundle = strdup(m->bundle);
	c->scratch = m->scratch[0] ? strdup(m->scratch) : NULL;
	c->process = json_incref(json_object_get(m->spec, "process"));
	(void)snprintf(c->activity, sizeof(c->activity), "%s", rq->activity);
	const char *root =
		json_string_value(json_object_get(json_object_get(m->spec, "root"), "path"));
	if (asprintf(&c->root, "%s%s%s", root[0] == '/' ? "" : m->bundle, root[0] == '/' ? "" : "/",
		    root) < 0)
		c->root = NULL;
	if (!c->bundle || !c->root || (m->scratch[0] && !c->scratch))
		give_up(cr, BRG_E_FAIL, "no memory");
	else if (agt_spec_resolve_user(c->process, c->root, &err) < 0 || begin(cr, m, &err) < 0)
		give_up(cr, BRG_E_FAIL, err.text);
}

void agt_rpc_create(struct agt_request *rq)
{
	struct message m = { 0 };
	read_message(rq, &m);
	if (agt_refuse_fields(rq, &rq->f))
		;
	else if (!strcmp(rq->container, BRG_UVM_ID) || rq->container[0] == '\0')
		agt_refuse(rq, BRG_E_INVALID_ARG, "Create: %s is not a container's id",
			rq->container[0] ? rq->container : "\"\"");
	else if (agt_container_find(rq->a, rq->container))
		agt_refuse(rq, BRG_E_ALREADY_EXISTS, "container %s: exists already", rq->container);
	else if (!brg_publisher_room(&rq->a->session.publisher, rq->a->n_containers))
		agt_refuse(rq, BRG_E_FAIL,
			"too many unacknowledged notifications: acknowledge some first");
	else
		create(rq, &m);
	json_decref(m.config);
}

/* The container really starts with ExecuteProcess. */
void agt_rpc_start(struct agt_request *rq)
{
	agt_answer(rq, NULL);
}

/* DeleteContainerState: the runtime's delete, then the folders (in a worker), then the record. */
struct deletion {
	struct agt_request *rq;
	struct agt_container *c;
	bool failed;
	char text[1024];
};

static int remove_folders(void *arg, struct hf_err *reterr)
{
	const struct deletion *d = arg;
	struct hf_err err = { 0 };
	int r = d->c->scratch ? agt_tree_remove(d->c->scratch, reterr) : 0;
	int r2 = agt_tree_remove(d->c->bundle, r < 0 ? &err : reterr);
	return r < 0 ? r : r2;
}

static void on_removed(void *arg, const struct hf_err *err)
{
	struct deletion *d = arg;
	struct agt_request *rq = d->rq;
	if (err->code != 0 && !d->failed) {
		d->failed = true;
		(void)snprintf(d->text, sizeof(d->text), "%s", err->text);
	}
	hf_info("container %s: deleted%s%s", d->c->id, d->failed ? ", but " : "", d->text);
	agt_container_exited(d->c); /* a container that never started notifies now */
	agt_container_free(d->c);
	if (d->failed)
		agt_refuse(rq, BRG_E_FAIL, "container %s: deleted, but %s", rq->container, d->text);
	else
		agt_answer(rq, NULL);
	free(d);
}

static void on_deleted(void *arg, const struct agt_run_result *result)
{
	struct deletion *d = arg;
	if (result->hresult != BRG_OK && result->hresult != BRG_E_SYSTEM_NOT_FOUND) {
		d->failed = true;
		(void)snprintf(d->text, sizeof(d->text), "%s", result->text);
	}
	struct hf_err err = { 0 };
	const struct agt_work work = {
		.what = "DeleteContainerState", .fn = remove_folders, .done = on_removed, .arg = d
	};
	if (agt_work_start(d->c->a, &work, &err) < 0)
		on_removed(d, &err);
}

void agt_rpc_delete(struct agt_request *rq)
{
	struct hf_err err = { 0 };
	struct agt_container *c =
		agt_container_need(rq, 1u << AGT_CONTAINER_CREATED | 1u << AGT_CONTAINER_EXITED |
					       1u << AGT_CONTAINER_RUNNING);
	if (!c)
		return;
	if (c->state == AGT_CONTAINER_RUNNING || c->busy > 0) {
		agt_refuse(rq, BRG_E_INVALID_STATE, "container %s: still running: stop it first",
			c->id);
		return;
	}
	if (agt_tree_has_mounts(c->bundle) > 0) {
		agt_refuse(rq, BRG_E_INVALID_STATE,
			"container %s: something is mounted below %s: remove its CombinedLayers "
			"first",
			c->id, c->bundle);
		return;
	}
	struct deletion *d = calloc(1, sizeof(*d));
	struct agt_run run = { .args = { "delete", "--force" }, .id = c->id, .fd = { -1, -1, -1 } };
	int r = d ? agt_runtime_run(rq->a, &run, on_deleted, d, &err)
		  : hf_err_set(&err, -ENOMEM, "no memory");
	if (r < 0) {
		free(d);
		agt_refuse(rq, BRG_E_FAIL, "container %s: %s", c->id, err.text);
		return;
	}
	*d = (struct deletion){ .rq = rq, .c = c };
	c->state = AGT_CONTAINER_DELETING;
}
