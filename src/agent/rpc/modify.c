/* SPDX-License-Identifier: MIT */
/*
 * modify.c - ModifySettings: a table of resource types. Most are read into a job, whose work runs
 * in a worker (proc/worker.h): a mount that hangs holds up nothing but its own answer.
 */
#include "agent/agent.h"
#include "agent/host/cgroup.h"
#include "agent/link/dial.h"
#include "agent/proc/worker.h"
#include "agent/storage/disk.h"
#include "agent/storage/overlay.h"
#include "agent/storage/share.h"
#include "agent/storage/tree.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct job {
	struct agt_request *rq;
	const struct resource *resource;
	json_t *settings;  /* strings below point into it */
	const char **list; /* one block, or NULL */
	agt_work_fn *work;
	uint32_t port; /* MappedDirectory: dialled first; 0: none */
	union {
		struct agt_disk disk;
		struct agt_layers layers;
		struct agt_pmem pmem;
		struct agt_share share;
		uint64_t reserve;
	};
};

enum { ADD, REMOVE, UPDATE, N_KINDS };
static const char *const kinds[N_KINDS] = { "Add", "Remove", "Update" };

/* One of `read` and `begin`. A kind that has no function is refused. What is read is checked before
 * anything is done. */
struct resource {
	const char *name;
	void (*read)(struct job *j, struct agt_fields *f);
	agt_work_fn *check; /* in the agent itself; NULL: nothing can be wrong */
	agt_work_fn *work[N_KINDS];
	void (*begin)(struct agt_request *rq, json_t *settings, const char *kind);
	bool of_container; /* not of the machine */
	bool bare;         /* has no settings */
};

static void free_job(struct job *j)
{
	if (j->port && j->share.fd >= 0)
		(void)close(j->share.fd); /* the kernel's mount has its own */
	json_decref(j->settings);
	free(j->list);
	free(j);
}

static void on_worked(void *arg, const struct hf_err *err)
{
	struct job *j = arg;
	struct agt_request *rq = j->rq;
	if (err->code != 0)
		agt_refuse(rq, err->code == -ETIMEDOUT ? BRG_E_TIMEOUT : BRG_E_FAIL, "%s: %s",
			j->resource->name, err->text);
	else
		agt_answer(rq, NULL);
	free_job(j);
}

static void start_work(struct job *j)
{
	struct hf_err err = { 0 };
	const struct agt_work work = { .what = j->resource->name,
		.fn = j->work,
		.done = on_worked,
		.arg = j,
		.rq = j->rq,
		.keep_fd = j->port ? j->share.fd : 0 };
	if (agt_work_start(j->rq->a, &work, &err) < 0)
		on_worked(j, &err);
}

/* What workers run, and what is asked before: the function of storage/ on its member of the job. */
#define WORK(fn, member)                                                                           \
	static int work_##fn(void *arg, struct hf_err *reterr)                                     \
	{                                                                                          \
		return fn(&((struct job *)arg)->member, reterr);                                   \
	}
WORK(agt_disk_check, disk)
WORK(agt_disk_add, disk)
WORK(agt_disk_remove, disk)
WORK(agt_disk_eject, disk)
WORK(agt_overlay_mount, layers)
WORK(agt_overlay_remove, layers)
WORK(agt_share_check, share)
WORK(agt_share_add, share)
WORK(agt_share_remove, share)
WORK(agt_pmem_check, pmem)
WORK(agt_pmem_add, pmem)
WORK(agt_pmem_remove, pmem)
WORK(agt_cgroup_limit_pods, reserve)

/* To be removed they need not be told what they were made of. */
static int check_layers(void *arg, struct hf_err *reterr)
{
	const struct job *j = arg;
	return j->work == work_agt_overlay_remove
		       ? agt_path_check("ContainerRootPath", j->layers.target, reterr)
		       : agt_overlay_check(&j->layers, reterr);
}

static void read_disk(struct job *j, struct agt_fields *f)
{
	j->list = agt_field_strings(f, "Options");
	j->disk = (struct agt_disk){
		.controller = (uint32_t)agt_field_uint(f, "Controller", UINT8_MAX, 0),
		.lun = (uint32_t)agt_field_uint(f, "Lun", UINT8_MAX, 0),
		.partition = (uint32_t)agt_field_uint(f, "Partition", UINT32_MAX, 0),
		.mount_path = agt_field_string(f, "MountPath", ""),
		.filesystem = agt_field_string(f, "Filesystem", ""),
		.read_only = agt_field_bool(f, "ReadOnly", false),
		.block_dev = agt_field_bool(f, "BlockDev", false),
		.ensure = agt_field_bool(f, "EnsureFilesystem", false),
		.encrypted = agt_field_bool(f, "Encrypted", false),
		.options = j->list,
	};
}

/* [{"Path": "..."}] as a list of paths. */
static void read_layers(struct job *j, struct agt_fields *f)
{
	json_t *array = agt_field_array(f, "Layers"), *v;
	size_t i;
	j->list = calloc((array ? json_array_size(array) : 0) + 1, sizeof(*j->list));
	json_array_foreach (array, i, v) {
		struct agt_fields layer = { .obj = v, .prefix = "Settings.Layers." };
		const char *path = agt_field_string(&layer, "Path", "");
		if (j->list)
			j->list[i] = path;
		if (!json_is_object(v) && f->err.code == 0)
			(void)hf_err_set(
				&f->err, -EBADMSG, "Settings.Layers: expected an array of objects");
		agt_fields_join(f, &layer);
	}
	if (!j->list && f->err.code == 0)
		(void)hf_err_set(&f->err, -ENOMEM, "Settings.Layers: no memory");
	j->layers = (struct agt_layers){
		.target = agt_field_string(f, "ContainerRootPath", ""),
		.scratch = agt_field_string(f, "ScratchPath", ""),
		.path = j->list,
	};
}

static void read_share(struct job *j, struct agt_fields *f)
{
	j->port = (uint32_t)agt_field_uint(f, "Port", INT32_MAX, 0);
	j->share = (struct agt_share){
		.mount_path = agt_field_string(f, "MountPath", ""),
		.name = agt_field_string(f, "ShareName", ""),
		.read_only = agt_field_bool(f, "ReadOnly", false),
		.fd = -1,
	};
}

static void read_pmem(struct job *j, struct agt_fields *f)
{
	struct agt_fields m = agt_field_fields(f, "MappingInfo", "Settings.MappingInfo.");
	j->pmem = (struct agt_pmem){
		.number = (uint32_t)agt_field_uint(f, "DeviceNumber", UINT32_MAX, 0),
		.offset = agt_field_uint(&m, "DeviceOffsetInBytes", INT64_MAX, 0),
		.size = agt_field_uint(&m, "DeviceSizeInBytes", INT64_MAX, 0),
		.mount_path = agt_field_string(f, "MountPath", ""),
	};
	agt_fields_join(f, &m);
}

static void read_reserve(struct job *j, struct agt_fields *f)
{
	(void)f; /* it has none */
	j->reserve = j->rq->a->flags->root_mem_reserve;
}

static void on_updated(void *arg, const struct agt_run_result *result)
{
	struct agt_request *rq = arg;
	struct agt_container *c = agt_container_find(rq->a, rq->container);
	c->busy--; /* it is there: a busy container is not deleted */
	if (result->hresult != BRG_OK)
		agt_refuse(rq, result->hresult, "ContainerConstraints: %s", result->text);
	else
		agt_answer(rq, NULL);
}

static void constraints(struct agt_request *rq, json_t *settings, const char *kind)
{
	(void)kind; /* all say the same */
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	struct hf_err err = { 0 };
	json_t *resources = agt_field_object(&f, "Linux");
	if (f.err.code == 0 && !resources)
		(void)hf_err_set(&f.err, -EBADMSG, "Settings.Linux: missing");
	if (agt_refuse_fields(rq, &f))
		return;
	struct agt_container *c =
		agt_container_need(rq, 1u << AGT_CONTAINER_CREATED | 1u << AGT_CONTAINER_RUNNING);
	if (!c)
		return;
	const struct agt_run run = { .args = { "update" },
		.id = c->id,
		.json = resources,
		.json_option = "--resources",
		.rq = rq,
		.fd = { -1, -1, -1 } };
	if (agt_runtime_run(rq->a, &run, on_updated, rq, &err) < 0)
		agt_refuse(rq, BRG_E_FAIL, "ContainerConstraints: %s", err.text);
	else
		c->busy++;
}

/* A device on a virtual PCI bus is there when the kernel shows it; there is nothing to do. */
static void vpci(struct agt_request *rq, json_t *settings, const char *kind)
{
	char path[200];
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	const char *guid = agt_field_string(&f, "VMBusGUID", "");
	if (f.err.code == 0 &&
		(strlen(guid) != 36 || strspn(guid, "0123456789abcdefABCDEF-") != 36))
		(void)hf_err_set(&f.err, -EBADMSG, "Settings.VMBusGUID: a GUID expected");
	if (agt_refuse_fields(rq, &f))
		return;
	(void)snprintf(path, sizeof(path), "/sys/bus/vmbus/devices/%s", guid);
	if (strcmp(kind, "Add"))
		agt_refuse(rq, BRG_E_FAIL, "VPCIDevice: only Add is known, got %s", kind);
	else if (access(path, F_OK) < 0)
		agt_refuse(rq, BRG_E_FAIL,
			"VPCIDevice: %s: no such device: a guest without VMBus needs no request",
			path);
	else
		agt_answer(rq, NULL);
}

/* A policy that is not enforced must not be accepted. */
static void policy(struct agt_request *rq, json_t *settings, const char *kind)
{
	(void)kind; /* any */
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	bool whole = agt_field_string(&f, "EncodedSecurityPolicy", "")[0];
	bool part = agt_field_string(&f, "Fragment", "")[0];
	if (agt_refuse_fields(rq, &f))
		return;
	if (!whole && !part)
		agt_answer(rq, NULL);
	else
		agt_refuse(rq, BRG_E_FAIL,
			"Settings.%s: this agent enforces no policies, so it takes none: use a "
			"confidential guest",
			whole ? "EncodedSecurityPolicy" : "Fragment");
}

static const struct resource resources[] = {
	{ .name = "MappedVirtualDisk",
		.read = read_disk,
		.check = work_agt_disk_check,
		.work = { work_agt_disk_add, work_agt_disk_remove } },
	{ .name = "SCSIDevice",
		.read = read_disk,
		.check = work_agt_disk_check,
		.work = { [REMOVE] = work_agt_disk_eject } },
	{ .name = "CombinedLayers",
		.read = read_layers,
		.check = check_layers,
		.work = { work_agt_overlay_mount, work_agt_overlay_remove } },
	{ .name = "MappedDirectory",
		.read = read_share,
		.check = work_agt_share_check,
		.work = { work_agt_share_add, work_agt_share_remove } },
	{ .name = "VPMemDevice",
		.read = read_pmem,
		.check = work_agt_pmem_check,
		.work = { work_agt_pmem_add, work_agt_pmem_remove } },
	{ .name = "PodCgroupMemoryLimit",
		.read = read_reserve,
		.work = { [UPDATE] = work_agt_cgroup_limit_pods },
		.bare = true },
	{ .name = "Network", .begin = agt_network_modify },
	{ .name = "ContainerConstraints", .begin = constraints, .of_container = true },
	{ .name = "VPCIDevice", .begin = vpci },
	{ .name = "SecurityPolicy", .begin = policy },
	{ .name = "SecurityPolicyFragment", .begin = policy },
};

static void on_dialled(void *arg, int fd)
{
	struct job *j = arg;
	struct hf_err err;
	if (fd < 0) {
		(void)hf_err_set(&err, fd, "Port: cannot connect to port %u of the host: %s",
			j->port, strerror(-fd));
		on_worked(j, &err);
		return;
	}
	j->share.fd = fd;
	start_work(j);
}

static void begin_job(
	struct agt_request *rq, const struct resource *r, json_t *settings, agt_work_fn *work)
{
	struct job *j = calloc(1, sizeof(*j));
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	struct hf_err err = { 0 };
	if (!j) {
		agt_refuse(rq, BRG_E_FAIL, "%s: no memory", r->name);
		return;
	}
	j->rq = rq;
	j->resource = r;
	j->settings = json_incref(settings);
	j->work = work;
	r->read(j, &f);
	if (work != r->work[ADD])
		j->port = 0;
	if (agt_refuse_fields(rq, &f)) {
		free_job(j);
		return;
	}
	if (r->check && r->check(j, &err) < 0) {
		on_worked(j, &err);
		return;
	}
	if (!j->port) {
		start_work(j);
	} else if (!agt_dial_once(&rq->a->loop, &rq->a->flags->transport, j->port, on_dialled, j)) {
		free_job(j);
		agt_refuse(rq, BRG_E_FAIL, "%s: no memory", r->name);
	}
}

static const struct resource *find_resource(const char *name)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(resources); i++)
		if (!strcmp(resources[i].name, name))
			return &resources[i];
	return NULL;
}

void agt_rpc_modify(struct agt_request *rq)
{
	json_t *o = agt_field_object(&rq->f, "Request");
	struct agt_fields f = { .obj = o, .prefix = "Request." };
	const char *kind = agt_field_string(&f, "RequestType", "");
	const char *name = agt_field_string(&f, "ResourceType", "");
	json_t *settings = agt_field_object(&f, "Settings");
	const struct resource *r = find_resource(name);
	int k = 0;
	if (rq->f.err.code == 0 && !o)
		(void)hf_err_set(&rq->f.err, -EBADMSG, "Request: missing");
	else if (f.err.code == 0 && r && !settings && !r->bare)
		(void)hf_err_set(&f.err, -EBADMSG, "Request.Settings: missing");
	agt_fields_join(&rq->f, &f);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	kind = kind[0] ? kind : "Add";
	while (k < N_KINDS && strcmp(kinds[k], kind))
		k++;
	if (!r)
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: Request.ResourceType: \"%.60s\" is not for guests of this "
			"kind",
			name);
	else if (r->of_container == !strcmp(rq->container, BRG_UVM_ID))
		agt_refuse(rq, BRG_E_FAIL, "ModifySettings: ContainerId: %s belongs to %s", name,
			r->of_container ? "a container" : "the machine, " BRG_UVM_ID);
	else if (r->begin)
		r->begin(rq, settings, kind);
	else if (k == N_KINDS || !r->work[k])
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: Request.RequestType: \"%.60s\" is not known for %s", kind,
			name);
	else
		begin_job(rq, r, settings, r->work[k]);
}
