/* SPDX-License-Identifier: MIT */
#include "request.h"
#include "agent/agent.h"
#include "base/clock.h"
#include "base/log.h"
#include "bridge/frame.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define ERROR_TEXT_MAX 2048

typedef void handler_fn(struct agt_request *rq);

static const struct {
	uint32_t type;
	const char *name;
	handler_fn *handler;
	bool changes;
} routes[] = {
	{ BRG_CREATE, "Create", agt_rpc_create, true },
	{ BRG_START, "Start", agt_rpc_start, false },
	{ BRG_SHUTDOWN_GRACEFUL, "ShutdownGraceful", agt_rpc_shutdown, true },
	{ BRG_SHUTDOWN_FORCED, "ShutdownForced", agt_rpc_shutdown, true },
	{ BRG_EXECUTE_PROCESS, "ExecuteProcess", agt_rpc_execute, true },
	{ BRG_WAIT_FOR_PROCESS, "WaitForProcess", agt_rpc_wait, false },
	{ BRG_SIGNAL_PROCESS, "SignalProcess", agt_rpc_signal, true },
	{ BRG_RESIZE_CONSOLE, "ResizeConsole", agt_rpc_resize, false },
	{ BRG_GET_PROPERTIES, "GetProperties", agt_rpc_properties, false },
	{ BRG_MODIFY_SETTINGS, "ModifySettings", agt_rpc_modify, true },
	{ BRG_NEGOTIATE, "NegotiateProtocol", agt_rpc_negotiate, false },
	{ BRG_DUMP_STACKS, "DumpStacks", agt_rpc_dump, false },
	{ BRG_DELETE_STATE, "DeleteContainerState", agt_rpc_delete, true },
};

static ssize_t route_of(uint32_t type)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(routes); i++)
		if (routes[i].type == type)
			return (ssize_t)i;
	return -1;
}

const char *agt_request_name(uint32_t type)
{
	ssize_t i = route_of(type);
	return i < 0 ? "unknown" : routes[i].name;
}

void agt_request_stage(struct agt_request *rq, const char *what, pid_t pid, uint64_t deadline_ms)
{
	if (!rq)
		return;
	rq->stage = what;
	rq->stage_pid = pid;
	rq->deadline_us = deadline_ms ? hf_now_us() + deadline_ms * 1000 : 0;
}

bool agt_request_changes(uint32_t type)
{
	ssize_t i = route_of(type);
	return i >= 0 && routes[i].changes;
}

static void consume(struct agt_request *rq)
{
	hf_list_remove(&rq->wait);
	agt_timer_free(rq->wait_timer);
	agt_session_forget(&rq->a->session, rq);
	free(rq);
}

static json_t *base_of(const struct agt_request *rq, int32_t hresult)
{
	json_t *o = json_object();
	json_object_set_new(o, "Result", json_integer(hresult));
	if (rq->activity[0])
		json_object_set_new(o, "ActivityId", json_string(rq->activity));
	return o;
}

/* Sends the object as the answer and consumes both. False: too large, or no memory. */
static bool send_object(struct agt_request *rq, json_t *o)
{
	char *text = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	size_t len = text ? strlen(text) : 0;
	if (!text || len > BRG_ANSWER_MAX - BRG_HEADER) {
		free(text);
		return false;
	}
	agt_session_answer(&rq->a->session, rq, text, (uint32_t)len);
	consume(rq);
	return true;
}

void agt_answer(struct agt_request *rq, json_t *members)
{
	json_t *o = base_of(rq, BRG_OK);
	if (members)
		(void)json_object_update(o, members); /* without memory: the answer lacks them */
	json_decref(members);
	if (!send_object(rq, o))
		agt_refuse(rq, BRG_E_FAIL, "%s: the answer is larger than %u bytes",
			agt_request_name(rq->type), BRG_ANSWER_MAX);
}

void agt_refuse(struct agt_request *rq, int32_t hresult, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap); /* a cut text is still a text */
	va_end(ap);
	hf_debug("request %lu %s: refused 0x%08x: %s%s%s", (unsigned long)rq->id,
		agt_request_name(rq->type), (unsigned)hresult, text, rq->trace[0] ? ", trace " : "",
		rq->trace);

	json_t *message = json_string(text);
	if (!message) /* cut within a character */
		message = json_string("the error text is not UTF-8; see the agent's log");
	json_t *o = base_of(rq, hresult);
	json_t *record = json_object();
	json_object_set(o, "ErrorMessage", message);
	json_object_set_new(record, "Result", json_integer(hresult));
	json_object_set_new(record, "Message", message);
	json_object_set_new(record, "ModuleName", json_string("gcs"));
	json_object_set_new(record, "FileName", json_string(""));
	json_object_set_new(record, "Line", json_integer(UINT32_MAX)); /* unknown */
	json_object_set_new(o, "ErrorRecords", json_pack("[o]", record));
	if (!send_object(rq, o)) {
		hf_error("request %lu: no memory to answer", (unsigned long)rq->id);
		consume(rq);
	}
}

bool agt_refuse_fields(struct agt_request *rq, const struct agt_fields *f)
{
	if (f->err.code == 0)
		return false;
	agt_refuse(rq, BRG_E_INVALID_JSON, "%s: %s", agt_request_name(rq->type), f->err.text);
	return true;
}

static bool is_guid(const char *s)
{
	if (strlen(s) != 36)
		return false;
	for (int i = 0; i < 36; i++) {
		bool dash = i == 8 || i == 13 || i == 18 || i == 23;
		if (dash ? s[i] != '-' : !isxdigit((unsigned char)s[i]))
			return false;
	}
	return true;
}

/* What every request has. */
static void read_base(struct agt_request *rq)
{
	const char *id = agt_field_string(&rq->f, "ContainerId", "");
	const char *activity = agt_field_string(&rq->f, "ActivityId", "");
	struct agt_fields otsc = agt_field_fields(&rq->f, "otsc", "otsc.");
	const char *trace = agt_field_string(&otsc, "traceparent", "");
	agt_fields_join(&rq->f, &otsc);
	if (strlen(trace) == 55 && strspn(trace, "0123456789abcdef-") == 55)
		(void)snprintf(rq->trace, sizeof(rq->trace), "%s", trace);
	/* an empty or malformed one would be fatal to the host that reads it back */
	if (is_guid(activity))
		(void)snprintf(rq->activity, sizeof(rq->activity), "%s", activity);
	if (strlen(id) > AGT_ID_MAX && rq->f.err.code == 0)
		(void)hf_err_set(
			&rq->f.err, -EBADMSG, "ContainerId: longer than %d bytes", AGT_ID_MAX);
	(void)snprintf(rq->container, sizeof(rq->container), "%s", id);
}

void agt_request_run(struct agt_request *rq, const char *payload, size_t len)
{
	json_t *msg = NULL;
	ssize_t route = route_of(rq->type);
	bool negotiate = rq->type == BRG_NEGOTIATE;
	if (route < 0 || negotiate == rq->a->session.negotiated || !rq->a->flags->v4) {
		agt_refuse(rq, BRG_E_NOT_IMPL, "request type 0x%08x (%s): not supported %s",
			rq->type, agt_request_name(rq->type),
			rq->a->session.negotiated ? "on a negotiated bridge"
						  : "before negotiation");
		return;
	}
	rq->f.prefix = "";
	if (agt_json_parse(payload, len, &msg, &rq->f.err) == 0) {
		rq->f.obj = msg;
		read_base(rq);
	}
	hf_debug("request %lu %s: container \"%s\"%s%s", (unsigned long)rq->id, routes[route].name,
		rq->container, rq->trace[0] ? ", trace " : "", rq->trace);
	if (!agt_refuse_fields(rq, &rq->f))
		routes[route].handler(rq);
	json_decref(msg);
}
