/* SPDX-License-Identifier: MIT */
/*
 * request.c - requests: making their bodies, keeping them until they are answered, and reading the
 * answers.
 *
 * A request is in the list, and so in the state, from its call to its answer's callback. Its body
 * is kept as it is sent, for it may have to be sent again.
 */
#include "guest_internal.h"
#include <stdio.h>

#define ZERO_ACTIVITY "00000000-0000-0000-0000-000000000000"

/* --- the list --- */

void request_free(struct hf_guest *g, struct request *r)
{
	hf_list_remove(&r->link);
	g->n_requests--;
	g->queued_bytes -= r->len;
	free(r->body);
	free(r);
}

struct request *request_add(struct hf_guest *g, uint64_t id, uint32_t type, const char *body,
	size_t len, const char *tag)
{
	struct request *r = calloc(1, sizeof(*r));
	if (!r || !(r->body = malloc(len + 1))) {
		free(r);
		return NULL;
	}
	memcpy(r->body, body, len);
	r->body[len] = '\0';
	r->len = len;
	r->id = id;
	r->type = type;
	(void)snprintf(r->tag, sizeof(r->tag), "%s", tag ? tag : "");
	hf_list_append(&g->requests, &r->link);
	g->n_requests++;
	g->queued_bytes += len;
	return r;
}

static struct request *request_by_id(struct hf_guest *g, uint64_t id)
{
	hf_list_for_each (n, &g->requests) {
		struct request *r = HF_CONTAINER_OF(n, struct request, link);
		if (r->id == id)
			return r;
	}
	return NULL;
}

int hf_guest_bind(struct hf_guest *g, uint64_t id, hf_guest_done_fn *done, void *ctx)
{
	struct request *r = request_by_id(g, id);
	if (!r)
		return -ENOENT;
	r->done = done;
	r->ctx = ctx;
	return 0;
}

int request_ack(struct hf_guest *g, uint64_t id)
{
	if (g->n_acks == g->cap_acks) {
		size_t cap = HF_MAX(g->cap_acks * 2, (size_t)64);
		struct ack *a = realloc(g->acks, cap * sizeof(*a));
		if (!a)
			return -ENOMEM;
		g->acks = a;
		g->cap_acks = cap;
	}
	g->acks[g->n_acks++] = (struct ack){ .id = id, .mark = UINT64_MAX };
	return 0;
}

/* An answer to `id`, sent after an acknowledgement, proves that the guest has read that. */
static void acks_proven(struct hf_guest *g, uint64_t id)
{
	size_t k = 0;
	for (size_t i = 0; i < g->n_acks; i++)
		if (g->acks[i].mark > id)
			g->acks[k++] = g->acks[i];
	g->n_acks = k;
}

/* --- answers --- */

static int code_of(int32_t result)
{
	switch (result) {
	case BRG_OK:
		return 0;
	case BRG_E_NOT_FOUND:
		return -ESRCH;
	case BRG_E_SYSTEM_NOT_FOUND:
		return -ENOENT;
	case BRG_E_ALREADY_EXISTS:
		return -EEXIST;
	case BRG_E_ALREADY_STOPPED:
		return -EALREADY;
	case BRG_E_INVALID_ARG:
	case BRG_E_INVALID_JSON:
		return -EINVAL;
	case BRG_E_TIMEOUT:
		return -ETIMEDOUT;
	case BRG_E_NOT_IMPL:
		return -ENOSYS;
	}
	return -EREMOTEIO;
}

/* The streams of a request that failed were never connected to a process. */
static void streams_of_failed(struct hf_guest *g, uint64_t id, const char *message)
{
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (s->request == id && !(s->reported & HF_GUEST_DEAD))
			stream_die(s, message);
	}
}

/* Takes the request out of the list and tells the application. */
static void deliver(struct hf_guest *g, struct request *r, struct hf_guest_answer *a)
{
	hf_guest_done_fn *done = r->done ? r->done : g->events.answer;
	void *ctx = r->done ? r->ctx : g->events.ctx;
	a->id = r->id;
	a->type = r->type;
	a->tag = r->tag;
	if (a->code < 0 && r->type == BRG_EXECUTE_PROCESS)
		streams_of_failed(g, r->id, a->message);
	/* Out of reach of whatever the callback does, but still in the state until it returns. */
	if (done)
		done(ctx, a);
	request_free(g, r);
	guest_dirty(g);
}

void request_fail_all(struct hf_guest *g, int code, const char *message)
{
	uint64_t last = g->next_id; /* what a callback adds is not meant */
	while (!hf_list_empty(&g->requests)) {
		struct request *r = HF_CONTAINER_OF(g->requests.next, struct request, link);
		struct hf_guest_answer a = { .code = code, .message = message, .body = "{}" };
		if (r->id >= last)
			break;
		deliver(g, r, &a);
	}
}

static const char *string_of(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

void request_answered(struct hf_guest *g, uint64_t id, uint32_t type, const char *body, size_t len)
{
	struct request *r = request_by_id(g, id);
	struct hf_guest_answer a = { 0 };
	if (!r || !r->sent || type != brg_answer_type(r->type))
		return; /* an answer to somebody before us */
	json_t *j = json_loadb(body, len, 0, NULL);
	char *text = json_is_object(j) ? json_dumps(j, JSON_COMPACT) : NULL;
	if (text) {
		a.result = (int32_t)json_integer_value(json_object_get(j, "Result"));
		a.code = code_of(a.result);
		a.message = string_of(j, "ErrorMessage");
		a.pid = (uint32_t)json_integer_value(json_object_get(j, "ProcessId"));
		a.exit_code = (uint32_t)json_integer_value(json_object_get(j, "ExitCode"));
		a.body = text;
	} else {
		a.code = -EBADMSG;
		a.message = "the guest's answer is not a JSON object";
		a.body = "{}";
	}
	acks_proven(g, id);
	deliver(g, r, &a);
	if (g->mode == MODE_HOLDFAST && request_ack(g, id) < 0)
		bridge_lost(g, -ENOMEM, "no memory");
	free(text);
	json_decref(j);
}

/* --- making requests --- */

static int may_request(const struct hf_guest *g)
{
	if (g->mode == MODE_NONE || (g->mode == MODE_UPSTREAM && !hf_guest_is_connected(g)))
		return -ENOTCONN;
	if (g->n_requests >= HF_GUEST_REQUESTS_MAX)
		return -EBUSY;
	return g->next_id >= GUEST_ID_MAX ? -EOVERFLOW : 0;
}

/* Takes over `body`. */
static int64_t request_json(
	struct hf_guest *g, const struct hf_guest_call *call, uint32_t type, json_t *body)
{
	int64_t r = may_request(g);
	const char *tag = call ? call->tag : NULL;
	char *text = NULL;
	if (r == 0 && tag && strlen(tag) > HF_GUEST_TAG_MAX)
		r = -EINVAL;
	if (r == 0 && (!body || !(text = json_dumps(body, JSON_COMPACT))))
		r = -ENOMEM;
	json_decref(body);
	size_t len = text ? strlen(text) : 0;
	if (r == 0 && len > HF_GUEST_REQUEST_MAX)
		r = -EMSGSIZE;
	if (r == 0 && g->queued_bytes + len > HF_GUEST_QUEUE_MAX)
		r = -ENOBUFS;
	struct request *q = r == 0 ? request_add(g, g->next_id, type, text, len, tag) : NULL;
	free(text);
	if (r < 0)
		return r;
	if (!q)
		return -ENOMEM;
	if (call) {
		q->done = call->done;
		q->ctx = call->ctx;
	}
	g->next_id++;
	guest_dirty(g);
	return (int64_t)q->id;
}

static json_t *base(const char *container)
{
	return json_pack("{s:s, s:s}", "ContainerId", container, "ActivityId", ZERO_ACTIVITY);
}

/* `value` is taken over; a body that could not be built becomes NULL. */
static json_t *with(json_t *body, const char *key, json_t *value)
{
	if (!body || json_object_set_new(body, key, value) < 0) {
		if (!body)
			json_decref(value);
		json_decref(body);
		return NULL;
	}
	return body;
}

static json_t *with_text(json_t *body, const char *key, json_t *value)
{
	char *text = value ? json_dumps(value, JSON_COMPACT) : NULL;
	json_decref(value);
	json_t *string = text ? json_string(text) : NULL;
	free(text);
	return with(body, key, string);
}

static json_t *parse(const char *text)
{
	json_t *j = text ? json_loads(text, 0, NULL) : NULL;
	if (!json_is_object(j)) {
		json_decref(j);
		return NULL;
	}
	return j;
}

int64_t hf_guest_request(
	struct hf_guest *g, const struct hf_guest_call *call, uint32_t type, const char *body_json)
{
	json_t *body = parse(body_json);
	if (!body)
		return -EINVAL;
	if (brg_kind_of(type) != BRG_KIND_REQUEST || type == BRG_NEGOTIATE) {
		json_decref(body);
		return -EINVAL;
	}
	if (!json_object_get(body, "ContainerId"))
		body = with(body, "ContainerId", json_string(BRG_UVM_ID));
	if (body && !json_object_get(body, "ActivityId"))
		body = with(body, "ActivityId", json_string(ZERO_ACTIVITY));
	return request_json(g, call, type, body);
}

int64_t hf_guest_create(struct hf_guest *g, const struct hf_guest_call *call, const char *container,
	const char *bundle, const char *scratch, const char *oci_spec_json)
{
	json_t *spec = parse(oci_spec_json);
	if (!spec)
		return -EINVAL;
	json_t *config = json_pack("{s:{s:i, s:i}, s:s, s:o, s:s}", "SchemaVersion", "Major", 2,
		"Minor", 1, "OciBundlePath", bundle, "OciSpecification", spec, "ScratchDirPath",
		scratch ? scratch : "");
	return request_json(
		g, call, BRG_CREATE, with_text(base(container), "ContainerConfig", config));
}

int64_t hf_guest_start(struct hf_guest *g, const struct hf_guest_call *call, const char *container)
{
	return request_json(g, call, BRG_START, base(container));
}

int64_t hf_guest_wait(struct hf_guest *g, const struct hf_guest_call *call, const char *container,
	uint32_t pid, uint32_t timeout_ms)
{
	json_t *body = with(base(container), "ProcessId", json_integer(pid));
	return request_json(
		g, call, BRG_WAIT_FOR_PROCESS, with(body, "TimeoutInMs", json_integer(timeout_ms)));
}

int64_t hf_guest_signal(struct hf_guest *g, const struct hf_guest_call *call, const char *container,
	uint32_t pid, int signal)
{
	json_t *body = with(base(container), "ProcessId", json_integer(pid));
	return request_json(g, call, BRG_SIGNAL_PROCESS,
		with(body, "Options", json_pack("{s:i}", "Signal", signal)));
}

int64_t hf_guest_resize(struct hf_guest *g, const struct hf_guest_call *call, const char *container,
	uint32_t pid, uint16_t rows, uint16_t cols)
{
	json_t *body = with(base(container), "ProcessId", json_integer(pid));
	body = with(body, "Height", json_integer(rows));
	return request_json(g, call, BRG_RESIZE_CONSOLE, with(body, "Width", json_integer(cols)));
}

int64_t hf_guest_properties(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, const char *query_json)
{
	return request_json(g, call, BRG_GET_PROPERTIES,
		with(base(container), "Query", json_string(query_json)));
}

int64_t hf_guest_shutdown(
	struct hf_guest *g, const struct hf_guest_call *call, const char *container, bool forced)
{
	return request_json(
		g, call, forced ? BRG_SHUTDOWN_FORCED : BRG_SHUTDOWN_GRACEFUL, base(container));
}

int64_t hf_guest_delete(struct hf_guest *g, const struct hf_guest_call *call, const char *container)
{
	return request_json(g, call, BRG_DELETE_STATE, base(container));
}

int64_t hf_guest_modify(struct hf_guest *g, const struct hf_guest_call *call, const char *container,
	const char *request_json_text)
{
	json_t *request = parse(request_json_text);
	if (!request)
		return -EINVAL;
	return request_json(
		g, call, BRG_MODIFY_SETTINGS, with(base(container), "Request", request));
}

int64_t hf_guest_dump_stacks(struct hf_guest *g, const struct hf_guest_call *call)
{
	return request_json(g, call, BRG_DUMP_STACKS, base(BRG_UVM_ID));
}

/* --- ExecuteProcess --- */

struct pipe_name {
	const char *stream, *create;
};
static const struct pipe_name pipe_names[3] = {
	{ "StdIn", "CreateStdInPipe" },
	{ "StdOut", "CreateStdOutPipe" },
	{ "StdErr", "CreateStdErrPipe" },
};

static int exec_check(
	struct hf_guest *g, const struct hf_guest_exec *e, struct hf_guest_stream *const streams[3])
{
	if (e->oci_process_json && e->params_json)
		return -EINVAL;
	for (int i = 0; i < 3; i++) {
		const struct hf_guest_stream *s = streams[i];
		if (s && (s->g != g || s->in_use || s->freed || s->to_guest != (i == 0)))
			return -EINVAL;
		for (int j = 0; s && j < i; j++)
			if (streams[j] == s)
				return -EINVAL;
	}
	return 0;
}

static json_t *exec_params(const struct hf_guest_exec *e, struct hf_guest_stream *const streams[3])
{
	json_t *params = e->params_json ? parse(e->params_json) : json_object();
	for (int i = 0; i < 3; i++)
		if (streams[i])
			params = with(params, pipe_names[i].create, json_true());
	if (e->tty)
		params = with(params, "EmulateConsole", json_true());
	if (e->params_json)
		params = with(params, "CreateInUtilityVM", json_true());
	if (e->oci_process_json)
		params = with(params, "OciProcess", parse(e->oci_process_json));
	return params;
}

int64_t hf_guest_exec(
	struct hf_guest *g, const struct hf_guest_call *call, const struct hf_guest_exec *e)
{
	struct hf_guest_stream *const streams[3] = { e->in, e->out, e->err };
	int64_t r = exec_check(g, e, streams);
	if (r == 0)
		r = may_request(g);
	if (r < 0)
		return r;
	json_t *params = exec_params(e, streams);
	if (!params)
		return -EINVAL;
	json_t *ports = json_object(), *tokens = json_object();
	for (int i = 0; i < 3 && r == 0; i++) {
		if (!streams[i])
			continue;
		r = stream_use(streams[i]);
		uint32_t port = streams[i]->plain ? g->next_port - 1 : GUEST_STREAM_PORT;
		json_object_set_new(ports, pipe_names[i].stream, json_integer(port));
		if (!streams[i]->plain)
			json_object_set_new(
				tokens, pipe_names[i].stream, json_string(streams[i]->token));
	}
	json_t *settings = with_text(json_object(), "ProcessParameters", params);
	settings = with(settings, "VsockStdioRelaySettings", ports);
	if (json_object_size(tokens) > 0)
		settings = with(settings, "HoldfastStreams", tokens);
	else
		json_decref(tokens);
	json_t *body = with(base(e->container), "Settings", settings);
	if (r < 0)
		json_decref(body);
	else
		r = request_json(g, call, BRG_EXECUTE_PROCESS, body);
	for (int i = 0; i < 3; i++)
		if (streams[i] && r < 0)
			stream_die(streams[i], "the request was not sent");
		else if (streams[i])
			streams[i]->request = (uint64_t)r;
	return r;
}
