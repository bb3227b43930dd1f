/* SPDX-License-Identifier: MIT */
/* create.c - Create, Start and DeleteContainerState. */
#include "agent/agent.h"
#include "agent/host/cgroup.h"
#include "agent/host/oom.h"
#include "agent/net/netns.h"
#include "agent/oci/pod.h"
#include "agent/proc/worker.h"
#include "agent/stdio/local.h"
#include "agent/stdio/tee.h"
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

/* CREATING: files (in a worker) -> the runtime's create -> its network (in a worker) -> answer. */
struct create {
	struct agt_request *rq;
	struct agt_container *c;
	struct agt_local local;
	struct agt_spec_facts facts;
	json_t *spec;
	char *resolv_conf; /* NULL: the image's stays */
	char *sandbox;     /* bundle of a workload's sandbox */
	int32_t hresult;   /* why it is given up */
	char reason[900];
};

static void free_create(struct create *cr)
{
	json_decref(cr->spec);
	free(cr->resolv_conf);
	free(cr->sandbox);
	free(cr);
}

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
			"ContainerConfig.SchemaVersion: Major 2, Minor 1 or later expected, got "
			"%lu.%lu",
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

static int undo_files(void *arg, struct hf_err *reterr)
{
	const struct create *cr = arg;
	const char *bundle = cr->c->bundle;
	int r = agt_pod_undo(bundle, reterr);
	agt_cgroup_remove_empty(cr->c->id);
	return r < 0 || agt_tree_has_mounts(bundle) ? r : agt_tree_remove(bundle, reterr);
}

static void on_undone(void *arg, const struct hf_err *err)
{
	struct create *cr = arg;
	struct agt_request *rq = cr->rq;
	int32_t hresult = cr->hresult;
	char reason[1024];
	(void)snprintf(reason, sizeof(reason), "container %s: %s", cr->c->id, cr->reason);
	if (err->code != 0 && err->code != -ENOENT)
		hf_warn("container %s: %s", cr->c->id, err->text);
	agt_local_close(&cr->local);
	agt_container_free(cr->c);
	free_create(cr);
	agt_refuse(rq, hresult, "%s", reason);
}

static void undo(struct create *cr)
{
	struct hf_err err = { 0 };
	const struct agt_work work = {
		.what = "Create", .fn = undo_files, .done = on_undone, .arg = cr, .rq = cr->rq
	};
	if (!cr->c->bundle || agt_work_start(cr->c->a, &work, &err) < 0)
		on_undone(cr, &err);
}

static void keep_reason(struct create *cr, int32_t hresult, const char *text)
{
	cr->hresult = hresult;
	(void)snprintf(cr->reason, sizeof(cr->reason), "%s", text);
}

/* The id is free again when its files are gone: then it is refused. */
static void give_up(struct create *cr, int32_t hresult, const char *text)
{
	keep_reason(cr, hresult, text);
	undo(cr);
}

static void on_unmade(void *arg, const struct agt_run_result *result)
{
	(void)result; /* that nothing was there is fine, and the first error is the one to tell */
	undo(arg);
}

/* The runtime has failed. One that was killed in the middle knows the id, and may have left what it
 * had made. */
static void unmake(struct create *cr, int32_t hresult, const char *text)
{
	struct hf_err err = { 0 };
	struct agt_run run = {
		.args = { "delete", "--force" }, .id = cr->c->id, .fd = { -1, -1, -1 }, .rq = cr->rq
	};
	keep_reason(cr, hresult, text);
	if (agt_runtime_run(cr->c->a, &run, on_unmade, cr, &err) < 0)
		undo(cr);
}

static void on_network(void *arg, const struct hf_err *err)
{
	struct create *cr = arg;
	struct agt_request *rq = cr->rq;
	struct agt_container *c = cr->c;
	c->busy--;
	if (err->code != 0)
		agt_refuse(rq, BRG_E_FAIL, "container %s: created, but without its network: %s",
			c->id, err->text);
	else
		agt_answer(rq, json_pack("{s:i}", "SelectedProtocolVersion", 0));
	free_create(cr);
}

/* Gives the host's network name space to the container, which exists. */
static void give_network(struct create *cr)
{
	struct agt_container *c = cr->c;
	struct hf_err err = { 0 };
	struct agt_netns *ns = cr->facts.kind == AGT_KIND_WORKLOAD || !cr->facts.netns[0]
				       ? NULL
				       : agt_netns_find(c->a, cr->facts.netns);
	pid_t pid = cr->facts.host_network ? getpid() : c->init->pid;
	c->busy++;
	agt_request_stage(cr->rq, "Network", 0, AGT_WORK_DEADLINE_MS);
	if (ns) {
		ns->user = c;
		agt_netns_put(c->a, ns);
	}
	if (!ns || agt_netns_bring_up(c->a, ns, 0, pid, on_network, cr, &err) < 0)
		on_network(cr, &err);
}

static void on_created(void *arg, const struct agt_run_result *result)
{
	struct create *cr = arg;
	struct agt_container *c = cr->c;
	int console = result->console;
	if (result->hresult == BRG_OK) {
		c->init = agt_process_new(c->a, c, true, NULL, -1);
		if (c->tty)
			(void)agt_local_from_master(
				&cr->local, console); /* without streams it hangs up */
	}
	if (!c->init) {
		unmake(cr, result->hresult ? result->hresult : BRG_E_FAIL,
			result->hresult ? result->text : "too many processes");
		return;
	}
	c->init->console = cr->local.master;
	memcpy(c->local, cr->local.ours, sizeof(c->local));
	c->state = AGT_CONTAINER_CREATED;
	c->cgroup = agt_cgroup_of(result->pid);
	agt_container_put(c);
	agt_oom_watch(c);
	hf_info("container %s: created, pid %d", c->id, (int)result->pid);
	agt_process_adopt(c->init, result->pid);
	give_network(cr);
}

static int make_files(void *arg, struct hf_err *reterr)
{
	const struct create *cr = arg;
	const struct agt_pod pod = { .facts = &cr->facts,
		.spec = cr->spec,
		.bundle = cr->c->bundle,
		.root = cr->c->root,
		.sandbox = cr->sandbox,
		.resolv_conf = cr->resolv_conf };
	return agt_pod_prepare(&pod, reterr);
}

/* The file that takes its output too, if it asks for one. */
static int insert_log(struct create *cr, struct hf_err *reterr)
{
	char path[BUNDLE_PATH_MAX + sizeof(cr->facts.log) + 16];
	if (!cr->facts.log[0])
		return 0;
	(void)snprintf(path, sizeof(path), "%s/logs/%s", cr->sandbox ? cr->sandbox : cr->c->bundle,
		cr->facts.log);
	if (cr->c->tty)
		hf_warn("container %s: %s: a terminal's output is not logged", cr->c->id, path);
	return cr->c->tty ? 0 : agt_tee_insert(&cr->c->a->children, &cr->local, path, reterr);
}

static void on_files(void *arg, const struct hf_err *made)
{
	struct create *cr = arg;
	struct agt_container *c = cr->c;
	struct hf_err err = { 0 };
	const bool all[3] = { true, true, true };
	struct agt_run run = { .args = { "create", "--bundle", c->bundle,
				       c->a->runtime.pivots ? NULL : "--no-pivot" },
		.id = c->id,
		.rq = cr->rq,
		.want_pid = true,
		.want_console = c->tty };
	if (made->code != 0) {
		give_up(cr, made->code == -EBADMSG ? BRG_E_INVALID_JSON : BRG_E_FAIL, made->text);
		return;
	}
	if (!c->tty && agt_local_pipes(&cr->local, all) < 0) {
		give_up(cr, BRG_E_FAIL, "no pipes for its streams");
		return;
	}
	if (insert_log(cr, &err) < 0) {
		give_up(cr, BRG_E_FAIL, err.text);
		return;
	}
	memcpy(run.fd, cr->local.theirs, sizeof(run.fd));
	int r = agt_runtime_run(c->a, &run, on_created, cr, &err);
	agt_local_close_theirs(&cr->local); /* the runtime has them */
	if (r < 0)
		give_up(cr, BRG_E_FAIL, err.text);
}

/* What the container's kind needs of others: its sandbox, its network name space. False: refused.
 */
static bool find_others(struct create *cr, struct agt_request *rq)
{
	struct agt *a = rq->a;
	const struct agt_spec_facts *facts = &cr->facts;
	struct agt_netns *ns = agt_netns_find(a, facts->netns);
	if (facts->kind == AGT_KIND_WORKLOAD) {
		struct agt_container *sandbox = agt_container_find(a, facts->sandbox);
		if (!sandbox || !sandbox->bundle) {
			agt_refuse(rq, BRG_E_SYSTEM_NOT_FOUND,
				"container %s: OciSpecification.annotations: "
				"io.kubernetes.cri.sandbox-id: %s does not exist",
				rq->container, facts->sandbox);
			return false;
		}
		cr->sandbox = strdup(sandbox->bundle);
	} else if (facts->needs_netns && (!ns || ns->user)) {
		agt_refuse(rq, ns ? BRG_E_FAIL : BRG_E_NOT_FOUND,
			"container %s: OciSpecification.windows.network.networkNamespace: %s: %s",
			rq->container, facts->netns,
			ns ? "is another container's" : "unknown: add its adapters first");
		return false;
	} else if (facts->needs_netns) {
		cr->resolv_conf = agt_netns_resolv_conf(ns);
		if (!cr->resolv_conf) {
			agt_refuse(rq, BRG_E_FAIL,
				"container %s: DNSSuffix: more than %d search domains",
				rq->container, AGT_SEARCH_MAX);
			return false;
		}
	}
	return true;
}

/* The container, as far as the message tells; NULL: no memory. */
static struct agt_container *new_container(struct create *cr, const struct message *m)
{
	struct agt_request *rq = cr->rq;
	struct agt_container *c = agt_container_new(rq->a, rq->container);
	if (!c)
		return NULL;
	c->tty = cr->facts.tty;
	c->own_pids = cr->facts.own_pids;
	c->sandbox = cr->facts.kind == AGT_KIND_SANDBOX;
	c->bundle = strdup(m->bundle);
	c->scratch = m->scratch[0] ? strdup(m->scratch) : NULL;
	c->process = json_incref(json_object_get(m->spec, "process"));
	(void)snprintf(c->activity, sizeof(c->activity), "%s", rq->activity);
	const char *root =
		json_string_value(json_object_get(json_object_get(m->spec, "root"), "path"));
	if (asprintf(&c->root, "%s%s%s", root[0] == '/' ? "" : m->bundle, root[0] == '/' ? "" : "/",
		    root) < 0)
		c->root = NULL;
	return c;
}

static void create(struct agt_request *rq, const struct message *m)
{
	struct agt_local none = AGT_LOCAL_NONE;
	struct hf_err err = { 0 };
	struct create *cr = calloc(1, sizeof(*cr));
	if (!cr) {
		agt_refuse(rq, BRG_E_FAIL, "container %s: no memory", rq->container);
		return;
	}
	*cr = (struct create){ .rq = rq, .local = none, .spec = json_incref(m->spec) };
	if (agt_spec_prepare(m->spec, rq->container, &cr->facts, &err) < 0) {
		free_create(cr);
		agt_refuse(rq, BRG_E_INVALID_JSON, "Create: %s", err.text);
		return;
	}
	if (!find_others(cr, rq)) {
		free_create(cr);
		return;
	}
	cr->c = new_container(cr, m);
	if (!cr->c) {
		free_create(cr);
		agt_refuse(rq, BRG_E_FAIL, "container %s: more than %d containers", rq->container,
			AGT_CONTAINERS_MAX);
		return;
	}
	cr->c->request = rq->id;
	agt_container_put(cr->c);
	agt_container_put_spec(cr->c);
	agt_state_flush(&rq->a->state);
	const struct agt_work work = {
		.what = "Create", .fn = make_files, .done = on_files, .arg = cr, .rq = rq
	};
	if (!cr->c->bundle || !cr->c->root || (m->scratch[0] && !cr->c->scratch))
		give_up(cr, BRG_E_FAIL, "no memory");
	else if (agt_work_start(rq->a, &work, &err) < 0)
		give_up(cr, BRG_E_FAIL, err.text);
}

/* It becomes a name in folders, of control groups among others. */
static bool id_allowed(const char *id)
{
	return id[0] && strcmp(id, BRG_UVM_ID) && !strchr(id, '/') && strcmp(id, ".") &&
	       strcmp(id, "..");
}

void agt_rpc_create(struct agt_request *rq)
{
	struct message m = { 0 };
	read_message(rq, &m);
	if (agt_refuse_fields(rq, &rq->f))
		;
	else if (!id_allowed(rq->container))
		agt_refuse(rq, BRG_E_INVALID_ARG,
			"Create: ContainerId: \"%s\" cannot be a container's", rq->container);
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
	int r = d->c->sandbox ? agt_pod_undo(d->c->bundle, reterr) : 0;
	agt_cgroup_remove_empty(
		d->c->id); /* a sandbox's, or one that was half made; most have gone */
	if (r == 0 && d->c->scratch)
		r = agt_tree_remove(d->c->scratch, reterr);
	/* CombinedLayers may have mounted the bundle itself, from a scratch that lies elsewhere */
	int r2 = agt_unmount(d->c->bundle, r < 0 ? &err : reterr);
	return r < 0 ? r : r2;
}

static void on_removed(void *arg, const struct hf_err *err)
{
	struct deletion *d = arg;
	struct agt_request *rq = d->rq;
	char id[AGT_ID_MAX + 1];
	(void)snprintf(id, sizeof(id), "%s", d->c->id);
	if (err->code != 0 && !d->failed) {
		d->failed = true;
		(void)snprintf(d->text, sizeof(d->text), "%s", err->text);
	}
	hf_info("container %s: deleted%s%s", d->c->id, d->failed ? ", but " : "", d->text);
	agt_container_exited(d->c); /* a container that never started notifies now */
	agt_container_free(d->c);
	if (!rq)
		; /* begun by an agent before this one for a host that has gone */
	else if (d->failed)
		agt_refuse(rq, BRG_E_FAIL, "container %s: deleted, but %s", id, d->text);
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
		.what = "DeleteContainerState",
		.fn = remove_folders,
		.done = on_removed,
		.arg = d,
		.rq = d->rq,
	};
	if (agt_work_start(d->c->a, &work, &err) < 0)
		on_removed(d, &err);
}

static int begin_deletion(
	struct agt_container *c, struct agt_request *rq, const char *why, struct hf_err *reterr)
{
	struct deletion *d = calloc(1, sizeof(*d));
	enum agt_container_state before = c->state;
	c->state = AGT_CONTAINER_DELETING;
	c->request = rq ? rq->id : 0;
	agt_container_put(c);
	agt_state_flush(&c->a->state);
	struct agt_run run = {
		.args = { "delete", "--force" }, .id = c->id, .fd = { -1, -1, -1 }, .rq = rq
	};
	int r = d ? agt_runtime_run(c->a, &run, on_deleted, d, reterr)
		  : hf_err_set(reterr, -ENOMEM, "no memory");
	if (r < 0) {
		free(d);
		c->state = before;
		agt_container_put(c);
		return r;
	}
	*d = (struct deletion){ .rq = rq, .c = c, .failed = why != NULL };
	(void)snprintf(d->text, sizeof(d->text), "%s", why ? why : "");
	return 0;
}

/* Goes on with what was under way with a container. */
static void resume(struct agt_container *c)
{
	struct hf_err err = { 0 };
	const char *why = NULL;
	if (c->state == AGT_CONTAINER_CREATING) {
		c->notified = true; /* it never was */
		why = "the agent was started again while it was created";
	}
	if (why || c->state == AGT_CONTAINER_DELETING) {
		struct agt_request *rq = agt_session_begun(&c->a->session, c->request);
		if (begin_deletion(c, rq, why, &err) < 0)
			hf_error("container %s: stays: %s", c->id, err.text);
		else if (rq)
			rq->resumed = true;
	} else if (c->starting) {
		agt_rpc_start_again(c);
	}
}

void agt_rpc_resume(struct agt *a)
{
	hf_list_for_each (l, &a->containers)
		resume(HF_CONTAINER_OF(l, struct agt_container, link));
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
	if (!c->sandbox && agt_tree_has_mounts_below(c->bundle)) {
		agt_refuse(rq, BRG_E_INVALID_STATE,
			"container %s: something is mounted below %s: remove its CombinedLayers "
			"first",
			c->id, c->bundle);
		return;
	}
	if (begin_deletion(c, rq, NULL, &err) < 0)
		agt_refuse(rq, BRG_E_FAIL, "container %s: %s", c->id, err.text);
}
