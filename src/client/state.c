/* SPDX-License-Identifier: MIT */
/*
 * state.c - the state as a JSON text, and moving live connections.
 *
 *	{"Version": 1, "Session": "<hex>", "Negotiated": true, "Instance": "...", "Cid": 4,
 *	 "NextId": 7, "LastSeq": 2, "Acknowledge": [4],
 *	 "Requests": [{"Id": 5, "Type": 269026817, "Tag": "...", "Body": "{...}"}],
 *	 "Streams": [{"Token": "<hex>", "Tag": "...", "ToGuest": false, "Request": 5}],
 *	 "Standing": false}
 *
 * After hf_guest_quiesce() "Standing" is true, each stream has its "Record" (base64 of rs_save)
 * and, if it is connected, its "Tuple"; each request that was sent on the bridge's connection has
 * "Sent"; and "Bridge" has the connection's half frames "In" and "Out" and its "Tuple".
 *
 * A state may have been written by anybody: it is refused whole unless everything in it is right.
 */
#include "base/hex.h"
#include "guest_internal.h"

#define STATE_VERSION 1

/* --- writing --- */

static int put(json_t *object, const char *key, json_t *value)
{
	return value && json_object_set_new(object, key, value) == 0 ? 0 : -ENOMEM;
}

static json_t *bytes_json(const uint8_t *data, size_t n)
{
	char *text = text_base64(data, n);
	json_t *j = text ? json_string(text) : NULL;
	free(text);
	return j;
}

static json_t *tuple_json(const struct tuple *t)
{
	return json_pack("[I, I, I]", (json_int_t)t->guest_cid, (json_int_t)t->guest_port,
		(json_int_t)t->host_port);
}

static json_t *request_state(const struct hf_guest *g, const struct request *r)
{
	json_t *j = json_pack("{s:I, s:I, s:s, s:s%}", "Id", (json_int_t)r->id, "Type",
		(json_int_t)r->type, "Tag", r->tag, "Body", r->body, r->len);
	if (j && g->standing && r->sent)
		(void)put(j, "Sent", json_true()); /* without it the request is only sent twice */
	return j;
}

static int put_record(json_t *j, const struct hf_guest_stream *s)
{
	size_t size = rs_save_size(&s->rs);
	uint8_t *record = malloc(size);
	int r = -ENOMEM;
	if (record && rs_save(&s->rs, record, size) == (ssize_t)size)
		r = put(j, "Record", bytes_json(record, size));
	free(record);
	if (r == 0 && s->source.fd >= 0)
		r = put(j, "Tuple", tuple_json(&s->tuple));
	return r;
}

static json_t *stream_state(const struct hf_guest *g, const struct hf_guest_stream *s)
{
	json_t *j = json_pack("{s:s, s:s, s:b, s:I}", "Token", s->token, "Tag", s->tag, "ToGuest",
		s->to_guest, "Request", (json_int_t)s->request);
	if (j && g->standing && put_record(j, s) < 0) {
		json_decref(j);
		return NULL;
	}
	return j;
}

static json_t *bridge_state(const struct hf_guest *g)
{
	const struct bridge *b = &g->bridge;
	json_t *j = json_object();
	int r = put(j, "In",
		bytes_json(b->reader.buf + b->reader.begin, b->reader.end - b->reader.begin));
	if (r == 0)
		r = put(j, "Out", bytes_json(b->out + b->out_pos, b->out_len - b->out_pos));
	if (r == 0)
		r = put(j, "Tuple", tuple_json(&b->tuple));
	if (r < 0) {
		json_decref(j);
		return NULL;
	}
	return j;
}

static int put_lists(json_t *state, const struct hf_guest *g)
{
	json_t *requests = json_array(), *streams = json_array(), *acks = json_array();
	int r = put(state, "Requests", requests);
	r = put(state, "Streams", streams) < 0 ? -ENOMEM : r;
	r = put(state, "Acknowledge", acks) < 0 ? -ENOMEM : r;
	if (r < 0)
		return r;
	for (size_t i = 0; i < g->n_acks && r == 0; i++)
		r = json_array_append_new(acks, json_integer((json_int_t)g->acks[i].id));
	hf_list_for_each (n, &g->requests)
		if (r == 0)
			r = json_array_append_new(requests,
				request_state(g, HF_CONTAINER_OF(n, struct request, link)));
	hf_list_for_each (n, &g->streams) {
		const struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (r == 0 && stream_is_listed(s))
			r = json_array_append_new(streams, stream_state(g, s));
	}
	return r < 0 ? -ENOMEM : 0;
}

char *hf_guest_state(const struct hf_guest *g)
{
	json_t *j = json_pack("{s:i, s:s, s:b, s:s, s:I, s:I, s:I, s:b}", "Version", STATE_VERSION,
		"Session", g->session, "Negotiated", g->mode == MODE_HOLDFAST, "Instance",
		g->instance, "Cid", (json_int_t)g->cid, "NextId", (json_int_t)g->next_id, "LastSeq",
		(json_int_t)g->last_seq, "Standing", g->standing);
	char *text = NULL;
	if (j && put_lists(j, g) == 0 &&
		(!g->standing || g->bridge.source.fd < 0 || put(j, "Bridge", bridge_state(g)) == 0))
		text = json_dumps(j, JSON_COMPACT);
	json_decref(j);
	return text;
}

/* --- reading --- */

/* A member that must be an integer from 0 to max. */
static int get(const json_t *object, const char *key, uint64_t max, uint64_t *ret)
{
	const json_t *j = json_object_get(object, key);
	if (!json_is_integer(j) || json_integer_value(j) < 0 ||
		(uint64_t)json_integer_value(j) > max)
		return -EBADMSG;
	*ret = (uint64_t)json_integer_value(j);
	return 0;
}

static const char *get_string(const json_t *object, const char *key, size_t max)
{
	const json_t *j = json_object_get(object, key);
	return json_is_string(j) && json_string_length(j) <= max ? json_string_value(j) : NULL;
}

static int get_tuple(const json_t *object, struct tuple *t)
{
	const json_t *j = json_object_get(object, "Tuple");
	uint32_t v[3];
	if (!json_is_array(j) || json_array_size(j) != 3)
		return -EBADMSG;
	for (size_t i = 0; i < 3; i++) {
		const json_t *e = json_array_get(j, i);
		if (!json_is_integer(e) || json_integer_value(e) < 0 ||
			json_integer_value(e) > UINT32_MAX)
			return -EBADMSG;
		v[i] = (uint32_t)json_integer_value(e);
	}
	*t = (struct tuple){ v[0], v[1], v[2] };
	return 0;
}

static uint8_t *get_bytes(const json_t *object, const char *key, size_t *ret_n)
{
	const char *text = get_string(object, key, SIZE_MAX);
	return text ? text_from_base64(text, ret_n) : NULL;
}

static int load_request(struct hf_guest *g, const json_t *j, uint64_t *last)
{
	uint64_t id, type;
	const char *tag = get_string(j, "Tag", HF_GUEST_TAG_MAX);
	const char *body = get_string(j, "Body", HF_GUEST_REQUEST_MAX);
	if (get(j, "Id", GUEST_ID_MAX, &id) < 0 || get(j, "Type", UINT32_MAX, &type) < 0 || !tag ||
		!body || id <= *last || id >= g->next_id || g->n_requests >= HF_GUEST_REQUESTS_MAX)
		return -EBADMSG;
	*last = id;
	struct request *r = request_add(
		g, id, (uint32_t)type, body, json_string_length(json_object_get(j, "Body")), tag);
	if (!r)
		return -ENOMEM;
	r->sent = g->standing && json_is_true(json_object_get(j, "Sent"));
	return 0;
}

/* A stream that stood still goes on with what its windows held ... */
static int load_record(struct hf_guest_stream *s, const json_t *j)
{
	size_t n, window = s->g->window;
	uint8_t *record = get_bytes(j, "Record", &n);
	if (!record)
		return -EBADMSG;
	uint8_t token[RS_TOKEN_SIZE];
	memcpy(token, s->rs.token, sizeof(token));
	int r = rs_load(&s->rs, record, n, s->to_guest ? s->mem : NULL, s->to_guest ? window : 0,
		s->to_guest ? NULL : s->mem, s->to_guest ? 0 : window);
	free(record);
	if (r == 0 && (s->rs.dials || memcmp(token, s->rs.token, sizeof(token)) != 0))
		r = -EBADMSG;
	if (r == 0 && !json_object_get(j, "Tuple"))
		rs_detach(&s->rs);
	else if (r == 0)
		r = get_tuple(j, &s->tuple);
	s->attached_once = true;
	return r;
}

/*
 * ... one whose owner died goes on from where the application and the guest are. That it was ended
 * is not remembered: its last bytes may have died in the window, and the application writes again.
 */
static int load_positions(struct hf_guest_stream *s)
{
	if (!s->to_guest) {
		s->unpositioned = true;
		return 0;
	}
	struct rs_config c = { .tx_buf = s->mem, .tx_cap = s->g->window, .tx_adopt = true };
	memcpy(c.token, s->rs.token, RS_TOKEN_SIZE);
	s->blocked = true; /* WRITABLE tells when the position is known */
	return rs_init(&s->rs, &c);
}

static int load_stream(struct hf_guest *g, const json_t *j)
{
	uint8_t id[RS_TOKEN_SIZE];
	const char *token = get_string(j, "Token", 2 * RS_TOKEN_SIZE);
	const char *tag = get_string(j, "Tag", HF_GUEST_TAG_MAX);
	uint64_t request;
	if (!token || hex_decode(token, id, sizeof(id)) < 0 || !tag || stream_by_token(g, token) ||
		get(j, "Request", GUEST_ID_MAX, &request) < 0 ||
		g->n_streams >= HF_GUEST_STREAMS_MAX)
		return -EBADMSG;
	struct hf_guest_stream *s =
		stream_add(g, json_is_true(json_object_get(j, "ToGuest")), tag, token);
	if (!s)
		return -ENOMEM;
	s->request = request;
	s->in_use = true;
	return g->standing ? load_record(s, j) : load_positions(s);
}

static int load_bridge(struct hf_guest *g, const json_t *j)
{
	size_t n_in = 0, n_out = 0;
	uint8_t *in = get_bytes(j, "In", &n_in), *out = get_bytes(j, "Out", &n_out);
	int r = in && out && n_in <= HF_GUEST_ANSWER_MAX ? get_tuple(j, &g->bridge.tuple)
							 : -EBADMSG;
	if (r == 0)
		r = bridge_adopt(g, in, n_in, out, n_out);
	free(in);
	free(out);
	return r;
}

static int load_lists(struct hf_guest *g, const json_t *j)
{
	const json_t *requests = json_object_get(j, "Requests");
	const json_t *streams = json_object_get(j, "Streams");
	const json_t *acks = json_object_get(j, "Acknowledge");
	uint64_t last = 0;
	int r = 0;
	for (size_t i = 0; i < json_array_size(requests) && r == 0; i++)
		r = load_request(g, json_array_get(requests, i), &last);
	for (size_t i = 0; i < json_array_size(streams) && r == 0; i++)
		r = load_stream(g, json_array_get(streams, i));
	for (size_t i = 0; i < json_array_size(acks) && r == 0; i++) {
		const json_t *id = json_array_get(acks, i);
		r = json_is_integer(id) && json_integer_value(id) > 0
			    ? request_ack(g, (uint64_t)json_integer_value(id))
			    : -EBADMSG;
	}
	return r;
}

static int load(struct hf_guest *g, const json_t *j)
{
	uint8_t id[RS_TOKEN_SIZE];
	uint64_t version, cid;
	const char *session = get_string(j, "Session", 2 * RS_TOKEN_SIZE);
	const char *instance = get_string(j, "Instance", 4096);
	if (get(j, "Version", STATE_VERSION, &version) < 0 || version != STATE_VERSION ||
		!session || hex_decode(session, id, sizeof(id)) < 0 || !instance ||
		get(j, "Cid", UINT32_MAX, &cid) < 0 ||
		get(j, "NextId", GUEST_ID_MAX, &g->next_id) < 0 || g->next_id == 0 ||
		get(j, "LastSeq", INT64_MAX, &g->last_seq) < 0)
		return -EBADMSG;
	memcpy(g->session, session, sizeof(g->session));
	free(g->instance);
	g->instance = strdup(instance);
	if (!g->instance)
		return -ENOMEM;
	g->cid = (uint32_t)cid;
	g->mode = json_is_true(json_object_get(j, "Negotiated")) ? MODE_HOLDFAST : MODE_NONE;
	g->standing = json_is_true(json_object_get(j, "Standing"));
	g->seq_due = g->last_seq > 0;
	int r = load_lists(g, j);
	const json_t *bridge = json_object_get(j, "Bridge");
	return r == 0 && bridge && g->standing ? load_bridge(g, bridge) : r;
}

int state_load(struct hf_guest *g, const char *text, struct hf_err *reterr)
{
	json_error_t e;
	json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, &e);
	if (!j)
		return hf_err_set(reterr, -EBADMSG, "state: not JSON: line %d: %s", e.line, e.text);
	int r = load(g, j);
	json_decref(j);
	if (r == -ENOSPC)
		return hf_err_set(
			reterr, r, "state: its streams need a larger window than %u", g->window);
	if (r < 0)
		return hf_err_set(
			reterr, r, "state: damaged, or not one of this library: %s", strerror(-r));
	return 0;
}

/* --- moving connections --- */

int hf_guest_connection(const struct hf_guest *g, size_t i, struct hf_guest_connection *ret)
{
	const struct tuple *t = NULL;
	const char *key = NULL;
	if (!g->standing)
		return -EBUSY;
	if (g->bridge.negotiated && i-- == 0) {
		t = &g->bridge.tuple;
		key = "bridge";
	}
	hf_list_for_each (n, &g->streams) {
		const struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (!t && s->rs.attached && i-- == 0) {
			t = &s->tuple;
			key = s->token;
		}
	}
	if (!t)
		return -ENOENT;
	*ret = (struct hf_guest_connection){ .key = key,
		.guest_cid = t->guest_cid,
		.guest_port = t->guest_port,
		.host_port = t->host_port };
	return 0;
}

int hf_guest_adopt_connection(struct hf_guest *g, const char *key, int fd)
{
	struct source *source = NULL;
	if (!g->standing)
		return -EBUSY;
	if (strcmp(key, "bridge") == 0) {
		if (g->bridge.negotiated)
			source = &g->bridge.source;
	} else {
		struct hf_guest_stream *s = stream_by_token(g, key);
		if (s && s->rs.attached)
			source = &s->source;
	}
	if (!source)
		return -ENOENT;
	if (source->fd >= 0)
		return -EALREADY;
	int r = fd_set_nonblock(fd, true);
	if (r < 0)
		return r;
	source->fd = fd;
	return source_want(g, source, EPOLLIN);
}
