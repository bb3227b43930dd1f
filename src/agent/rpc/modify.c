/* SPDX-License-Identifier: MIT */
/* modify.c - ModifySettings. CombinedLayers is carried out; what else upstream hosts know is
 * refused by name. Mounts run on libuv's pool: one that hangs holds up nothing but its own answer.
 */
#include "agent/agent.h"
#include "agent/storage/overlay.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <stdio.h>
#include <string.h>

struct layers_job {
	uv_work_t work;
	struct agt_request *rq;
	json_t *settings; /* the strings below point into it */
	bool remove;
	const char *target, *scratch;
	const char **layers;
	struct hf_err err;
};

static void work(uv_work_t *w)
{
	struct layers_job *j = w->data;
	if (j->remove)
		(void)agt_overlay_remove(j->target, &j->err); /* the error says it */
	else
		(void)agt_overlay_mount(j->target, j->layers, j->scratch, &j->err); /* as above */
}

static void free_job(struct layers_job *j)
{
	json_decref(j->settings);
	free(j->layers);
	free(j);
}

static void on_worked(uv_work_t *w, int status)
{
	struct layers_job *j = w->data;
	struct agt_request *rq = j->rq;
	(void)status; /* is never cancelled */
	if (j->err.code != 0)
		agt_refuse(rq, BRG_E_FAIL, "CombinedLayers: %s", j->err.text);
	else
		agt_answer(rq, NULL);
	free_job(j);
}

/* [{"Path": "..."}] as a list of paths. */
static const char **read_layers(struct agt_fields *f)
{
	json_t *array = agt_field_array(f, "Layers"), *v;
	size_t i;
	const char **list = calloc((array ? json_array_size(array) : 0) + 1, sizeof(*list));
	json_array_foreach (array, i, v) {
		struct agt_fields layer = { .obj = v, .prefix = "Layers." };
		if (list && json_is_object(v))
			list[i] = agt_field_string(&layer, "Path", "");
		else if (list)
			list[i] = "";
		agt_fields_join(f, &layer);
	}
	return list;
}

static void combined_layers(struct agt_request *rq, json_t *settings, bool remove)
{
	struct layers_job *j = calloc(1, sizeof(*j));
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	if (!j) {
		agt_refuse(rq, BRG_E_FAIL, "CombinedLayers: no memory");
		return;
	}
	j->work.data = j;
	j->rq = rq;
	j->remove = remove;
	j->settings = json_incref(settings);
	j->target = agt_field_string(&f, "ContainerRootPath", "");
	j->scratch = agt_field_string(&f, "ScratchPath", "");
	j->layers = read_layers(&f);
	if (agt_refuse_fields(rq, &f)) {
		free_job(j);
		return;
	}
	if (!j->layers) {
		agt_refuse(rq, BRG_E_FAIL, "CombinedLayers: no memory");
		free_job(j);
		return;
	}
	(void)uv_queue_work(&rq->a->loop, &j->work, work, on_worked); /* cannot fail */
}

void agt_rpc_modify(struct agt_request *rq)
{
	json_t *o = agt_field_object(&rq->f, "Request");
	struct agt_fields f = { .obj = o, .prefix = "Request." };
	const char *kind = agt_field_string(&f, "RequestType", "Add");
	const char *resource = agt_field_string(&f, "ResourceType", "");
	json_t *settings = agt_field_object(&f, "Settings");
	if (rq->f.err.code == 0 && !o)
		(void)hf_err_set(&rq->f.err, -EBADMSG, "Request: missing");
	agt_fields_join(&rq->f, &f);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	bool add = !strcmp(kind, "Add") || !kind[0], remove = !strcmp(kind, "Remove");
	if (strcmp(resource, "CombinedLayers"))
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: resource type \"%s\" is not supported: "
			"CombinedLayers is",
			resource);
	else if (!add && !remove)
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: CombinedLayers: request type \"%s\" is not supported: Add "
			"and "
			"Remove are",
			kind);
	else if (strcmp(rq->container, BRG_UVM_ID))
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: CombinedLayers belong to the machine, %s", BRG_UVM_ID);
	else if (!settings)
		agt_refuse(rq, BRG_E_INVALID_JSON, "ModifySettings: Request.Settings: missing");
	else
		combined_layers(rq, settings, remove);
}
