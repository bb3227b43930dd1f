/* SPDX-License-Identifier: MIT */
/* network.c - ModifySettings of a Network: adapters of the host's network name spaces. */
#include "agent/agent.h"
#include "agent/net/netns.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <errno.h>
#include <string.h>

struct adding {
	struct agt_request *rq;
	char ns[AGT_FIELD_NAME_MAX], id[AGT_FIELD_NAME_MAX];
};

static void on_up(void *arg, const struct hf_err *err)
{
	struct adding *add = arg;
	if (err->code != 0) {
		agt_netns_remove(add->rq->a, add->ns, add->id);
		agt_refuse(add->rq, BRG_E_FAIL, "Network: %s", err->text);
	} else {
		agt_answer(add->rq, NULL);
	}
	free(add);
}

static void add_adapter(struct agt_request *rq, const struct agt_adapter *ad, json_t *settings)
{
	struct agt_netns *ns = NULL;
	struct hf_err err = { 0 };
	struct adding *add = calloc(1, sizeof(*add));
	int r = add ? agt_netns_add(rq->a, ad, settings, &ns) : -ENOMEM;
	if (r < 0) {
		free(add);
		agt_refuse(rq, BRG_E_FAIL, "Network: name space %s: adapter %s: %s",
			ad->namespace_id, ad->id,
			r == -EEXIST ? "was added before" : "too many, or no memory");
		return;
	}
	add->rq = rq;
	memcpy(add->ns, ad->namespace_id, sizeof(add->ns));
	memcpy(add->id, ad->id, sizeof(add->id));
	pid_t pid = ns->user && ns->user->init && ns->user->init->state == AGT_PROCESS_RUNNING
			    ? ns->user->init->pid
			    : 0;
	agt_request_stage(rq, "Network", 0, AGT_WORK_DEADLINE_MS);
	if (agt_netns_bring_up(rq->a, ns, ns->n - 1, pid, on_up, add, &err) < 0)
		on_up(add, &err);
}

void agt_network_modify(struct agt_request *rq, json_t *settings, const char *kind)
{
	struct agt_fields f = { .obj = settings, .prefix = "Settings." };
	struct agt_adapter ad;
	agt_adapter_read(&f, &ad);
	if (agt_refuse_fields(rq, &f))
		return;
	if (!strcmp(kind, "Add")) {
		add_adapter(rq, &ad, settings);
	} else if (!strcmp(kind, "Remove")) {
		agt_netns_remove(rq->a, ad.namespace_id, ad.id);
		agt_answer(rq, NULL);
	} else {
		agt_refuse(rq, BRG_E_FAIL,
			"ModifySettings: Request.RequestType: \"%.60s\" is not known for Network",
			kind);
	}
}
