/* SPDX-License-Identifier: MIT */
/* query.c - GetProperties and DumpStacks: what goes on in the guest. */
#include "agent/agent.h"
#include "agent/host/cgroup.h"
#include "agent/proc/monitor.h"
#include "agent/proc/worker.h"
#include "base/clock.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DUMP_MAX 24000 /* bytes; doubled by escapes it still fits into an answer */

#define LISTED_MAX 200 /* requests in an answer; each is less than 500 bytes at its worst */

struct query {
	bool list, statistics; /* of a container */
	bool requests;         /* of the machine: Holdfast's own */
};

/* The query's "PropertyTypes". */
static void read_query(struct agt_request *rq, struct query *q)
{
	json_t *query = NULL;
	agt_field_json(&rq->f, "Query", &query);
	struct agt_fields f = { .obj = query, .prefix = "Query." };
	const char **types = agt_field_strings(&f, "PropertyTypes");
	for (size_t i = 0; types && types[i]; i++) {
		q->list |= !strcmp(types[i], "ProcessList");
		q->statistics |= !strcmp(types[i], "Statistics");
		q->requests |= !strcmp(types[i], "Requests");
	}
	free(types);
	agt_fields_join(&rq->f, &f);
	json_decref(query);
}

/* Age and what is left, in ms. */
static json_t *describe(const struct agt_request *rq, uint64_t now)
{
	json_t *o = json_pack("{s:I, s:s, s:s, s:I}", "Id", (json_int_t)rq->id, "Type",
		agt_request_name(rq->type), "ContainerId", rq->container, "AgeMs",
		(json_int_t)((now - rq->began_us) / 1000));
	if (rq->stage)
		json_object_set_new(o, "WaitsFor", json_string(rq->stage));
	if (rq->stage_pid)
		json_object_set_new(o, "Pid", json_integer(rq->stage_pid));
	if (rq->deadline_us)
		json_object_set_new(o, "DeadlineMs",
			json_integer(rq->deadline_us > now
					     ? (json_int_t)((rq->deadline_us - now) / 1000)
					     : 0));
	if (rq->orphan)
		json_object_set_new(o, "Orphan", json_true());
	if (rq->trace[0])
		json_object_set_new(o, "Traceparent", json_string(rq->trace));
	return o;
}

static void answer_text(struct agt_request *rq, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	agt_answer(rq, json_pack("{s:s}", "Properties", text ? text : ""));
	free(text);
}

/* The requests in flight, this one left out, the oldest first; and the work in progress. */
static void answer_requests(struct agt_request *me)
{
	struct agt *a = me->a;
	json_t *list = json_array();
	uint64_t now = hf_now_us();
	size_t more = 0;
	hf_list_for_each (l, &a->session.in_flight) {
		const struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (rq == me)
			continue;
		if (json_array_size(list) < LISTED_MAX)
			(void)json_array_append_new(list, describe(rq, now)); /* else one less */
		else
			more++;
	}
	answer_text(me, json_pack("{s:o, s:I, s:o}", "Requests", list, "More", (json_int_t)more,
				"Workers", agt_work_list(a)));
}

void agt_rpc_properties(struct agt_request *rq)
{
	struct query q = { 0 };
	read_query(rq, &q);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	if (!strcmp(rq->container, BRG_UVM_ID) && q.requests) {
		answer_requests(rq);
		return;
	}
	if (!strcmp(rq->container, BRG_UVM_ID)) {
		agt_refuse(
			rq, BRG_E_FAIL, "GetProperties: of a container only, not of the machine");
		return;
	}
	struct agt_container *c = agt_container_need(
		rq, ~0u & ~(1u << AGT_CONTAINER_CREATING) & ~(1u << AGT_CONTAINER_DELETING));
	if (!c)
		return;
	if ((q.list || q.statistics) && !c->cgroup) {
		agt_refuse(rq, BRG_E_FAIL, "container %s: its cgroup is unknown", c->id);
		return;
	}
	json_t *o = json_object();
	if (q.list)
		json_object_set_new(o, "ProcessList", agt_cgroup_processes(c->cgroup));
	if (q.statistics)
		json_object_set_new(o, "LCOWMetrics", agt_cgroup_metrics(c->cgroup));
	answer_text(rq, o);
}

struct dump {
	char text[DUMP_MAX];
	size_t n;
};

static void HF_PRINTF(2, 3) line(struct dump *d, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int k = vsnprintf(d->text + d->n, sizeof(d->text) - d->n, fmt, ap);
	va_end(ap);
	if (k > 0)
		d->n = HF_MIN(d->n + (size_t)k, sizeof(d->text) - 1);
}

static void dump_link(struct dump *d, const struct agt *a)
{
	const struct agt_session *s = &a->session;
	line(d, "agent %s, instance %s, runs of the runtime: %lu\n", HF_VERSION, s->instance,
		(unsigned long)a->runtime.runs);
	line(d, "bridge: connection %lu, %lu dials, session %s\n",
		(unsigned long)a->link.connections, (unsigned long)a->link.reconnect.attempts,
		s->exists ? s->id : "none");
	line(d, "requests: %zu in flight (%zu orphans), %zu recorded, %lu answered, %lu dropped\n",
		s->n_in_flight, s->n_orphans, s->record.n, (unsigned long)s->n_answered,
		(unsigned long)s->n_dropped);
	line(d, "notifications: %zu kept, %lu dropped; streams: %zu; orphans reaped: %lu\n",
		s->publisher.n, (unsigned long)s->publisher.dropped, a->n_streams,
		(unsigned long)a->children.orphans);
}

static void dump_objects(struct dump *d, const struct agt *a)
{
	static const char *const states[] = { "running", "draining its output", "exited" };
	uint64_t now = hf_now_us();
	hf_list_for_each (l, &a->session.in_flight) {
		const struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		line(d, "request %lu: %s, container \"%s\", for %lu ms%s\n", (unsigned long)rq->id,
			agt_request_name(rq->type), rq->container,
			(unsigned long)((now - rq->began_us) / 1000), rq->orphan ? ", orphan" : "");
	}
	char text[120];
	for (size_t i = 0; agt_monitor_describe(i, text, sizeof(text)); i++)
		line(d, "%s\n", text);
	for (size_t i = 0; agt_work_describe(a, i, text, sizeof(text)); i++)
		line(d, "%s\n", text);
	hf_list_for_each (l, &a->containers) {
		const struct agt_container *c = HF_CONTAINER_OF(l, struct agt_container, link);
		line(d, "container %s: %s, %u runs of the runtime\n", c->id,
			agt_container_state_name[c->state], c->busy);
	}
	hf_list_for_each (l, &a->processes) {
		const struct agt_process *p = HF_CONTAINER_OF(l, struct agt_process, link);
		line(d, "process %d: %s, %s %s, exit code %u\n", (int)p->pid, states[p->state],
			p->container ? "container" : "external",
			p->container ? p->container->id : "", p->exit_code);
	}
}

void agt_rpc_dump(struct agt_request *rq)
{
	struct dump *d = calloc(1, sizeof(*d));
	if (!d) {
		agt_refuse(rq, BRG_E_FAIL, "no memory for a dump");
		return;
	}
	dump_link(d, rq->a);
	dump_objects(d, rq->a);
	agt_answer(rq, json_pack("{s:s#}", "GuestStacks", d->text, (int)d->n));
	free(d);
}
