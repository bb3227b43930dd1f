/* SPDX-License-Identifier: MIT */
#include "session.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "agent/rpc/handlers.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/hex.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "dial.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* Names this agent: the kernel's boot id and the moment of the agent's start. */
static void name_instance(char *text, size_t cap)
{
	char boot[37] = "";
	HF_CLEANUP(fd_closep)
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fd_read_all(fd, boot, 36) < 0)
		(void)snprintf(boot, sizeof(boot), "no-boot-id");
	(void)snprintf(text, cap, "%s:%llx", boot, (unsigned long long)hf_date_us());
}

void agt_session_init(struct agt_session *s, struct agt *a)
{
	s->a = a;
	s->epoch = 1;
	hf_list_init(&s->in_flight);
	brg_publisher_init(&s->publisher);
	brg_requests_init(&s->record, s->entries, BRG_REQUESTS_MAX, BRG_ANSWERS_MAX, true);
	name_instance(s->instance, sizeof(s->instance));
}

/* Positions change with each request; here they are as of the last acknowledgement, and what came
 * after it is in the answers and notes themselves. */
void agt_session_put(struct agt_session *s)
{
	agt_state_put(&s->a->state, "session", "",
		s->exists ? json_pack("{s:s, s:s, s:I, s:I}", "id", s->id, "instance", s->instance,
				    "highest", (json_int_t)(s->record.any ? s->record.highest : 0),
				    "notes", (json_int_t)s->publisher.last_seq)
			  : json_pack("{s:s}", "instance", s->instance));
}

/* What the answer is, NULL while there is none. */
static void put_answer(struct agt_session *s, uint64_t id, uint32_t type, const char *text)
{
	if (s->exists && agt_request_changes(type))
		agt_state_put_n(&s->a->state, "answer", id,
			json_pack("{s:I, s:s*}", "type", (json_int_t)type, "text", text));
}

static void drop_notes(struct agt_session *s, uint64_t seq)
{
	struct brg_note *note;
	while ((note = brg_publisher_pop(&s->publisher, seq))) {
		agt_state_put_n(&s->a->state, "note", note->seq, NULL);
		free(note->payload);
		free(note);
	}
}

/* A record and a publisher that owe nothing to anybody. */
static void begin_anew(struct agt_session *s, bool holdfast)
{
	char *answer;
	for (size_t i = 0; s->exists && i < s->record.n; i++)
		if (agt_request_changes(s->entries[i].type))
			agt_state_put_n(&s->a->state, "answer", s->entries[i].id, NULL);
	while ((answer = brg_requests_drain(&s->record)))
		free(answer);
	drop_notes(s, UINT64_MAX);
	brg_requests_init(&s->record, s->entries, BRG_REQUESTS_MAX, BRG_ANSWERS_MAX, !holdfast);
	brg_publisher_begin(&s->publisher, holdfast);
	if (s->exists)
		agt_resume_drop_all(s->a);
	s->exists = holdfast;
	s->forgotten = 0;
	s->epoch++;
}

void agt_session_down(struct agt_session *s)
{
	bool upstream = s->negotiated && !s->exists;
	s->negotiated = false;
	s->knows_all = false;
	brg_publisher_down(&s->publisher);
	brg_requests_rewind(&s->record); /* the next connection is owed nothing, before it asks */
	if (!upstream)
		return;
	hf_list_for_each_safe (l, &s->in_flight) {
		struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (rq->type != BRG_WAIT_FOR_PROCESS || rq->epoch != s->epoch ||
			s->n_orphans == AGT_ORPHANS_MAX)
			continue;
		rq->orphan = true;
		s->n_orphans++;
	}
	begin_anew(s, false);
}

static void adopt(struct agt_session *s, struct agt_request *rq)
{
	if (brg_requests_begin(&s->record, rq->id, rq->type) != BRG_SEEN_NEW)
		return; /* the host uses this id for another request */
	rq->epoch = s->epoch;
	rq->orphan = false;
	s->n_orphans--;
}

void agt_session_adopt(struct agt_session *s, const char *container, uint32_t pid)
{
	if (s->exists || s->n_orphans == 0)
		return;
	hf_list_for_each_safe (l, &s->in_flight) {
		struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (rq->orphan && rq->wait_pid == pid && !strcmp(rq->container, container))
			adopt(s, rq);
	}
}

static void adopt_below(struct agt_session *s, uint64_t id)
{
	hf_list_for_each_safe (l, &s->in_flight) {
		struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (rq->orphan && rq->id < id)
			adopt(s, rq);
	}
}

void agt_session_pump(struct agt_session *s)
{
	struct agt_link *link = &s->a->link;
	struct brg_request *e;
	struct brg_note *note;
	while ((e = brg_requests_unsent(&s->record))) {
		if (agt_link_send(link, brg_answer_type(e->type), e->id, e->answer, e->len) < 0)
			return; /* the link comes back when it has room */
		free(brg_requests_sent(&s->record, e));
	}
	while ((note = brg_publisher_unsent(&s->publisher))) {
		if (agt_link_send(link, BRG_NOTIFICATION, 0, note->payload, note->len) < 0)
			return;
		note->sent = true;
	}
}

void agt_session_answer(struct agt_session *s, struct agt_request *rq, char *text, uint32_t len)
{
	int r = 0;
	if (rq->epoch == 0) {
		/* there is room: the link reads no frame when there is not */
		r = agt_link_send(&s->a->link, brg_answer_type(rq->type), rq->id, text, len);
		free(text);
	} else if (rq->epoch != s->epoch) {
		r = -ESTALE;
		free(text);
	} else {
		r = brg_requests_finish(&s->record, rq->id, text, len);
		if (r < 0)
			free(text);
		else
			put_answer(s, rq->id, rq->type, text);
		agt_session_pump(s);
	}
	s->n_answered += r == 0;
	s->n_dropped += r < 0;
	if (r < 0)
		hf_debug("request %lu %s: its host has gone, answer dropped", (unsigned long)rq->id,
			agt_request_name(rq->type));
}

void agt_session_forget(struct agt_session *s, struct agt_request *rq)
{
	hf_list_remove(&rq->link);
	s->n_in_flight--;
	s->n_orphans -= rq->orphan;
}

static struct agt_request *new_request(
	struct agt_session *s, const struct brg_frame *f, uint64_t epoch)
{
	struct agt_request *rq = calloc(1, sizeof(*rq));
	if (!rq) {
		hf_error("request %lu: no memory", (unsigned long)f->id);
		return NULL;
	}
	rq->a = s->a;
	rq->id = f->id;
	rq->type = f->type;
	rq->epoch = epoch;
	rq->began_us = hf_now_us();
	hf_list_init(&rq->wait);
	hf_list_append(&s->in_flight, &rq->link);
	s->n_in_flight++;
	return rq;
}

static void refuse_full(struct agt_session *s, const struct brg_frame *f)
{
	struct agt_request *rq = new_request(s, f, 0);
	if (rq)
		agt_refuse(rq, BRG_E_FAIL,
			s->exists ? "too many unacknowledged answers: acknowledge some first"
				  : "too many requests in flight (%zu): wait for answers first",
			s->n_in_flight);
}

/* {"Answers": [id, ...], "Notifications": seq}. Never answered; nonsense in it is ignored. */
static void acknowledge(struct agt_session *s, const struct brg_frame *f)
{
	struct hf_err err = { 0 };
	json_t *msg = NULL, *v;
	size_t i;
	if (agt_json_parse(f->payload, f->len, &msg, &err) < 0) {
		hf_warn("acknowledgement ignored: %s", err.text);
		return;
	}
	struct agt_fields fields = { .obj = msg, .prefix = "" };
	json_t *answers = agt_field_array(&fields, "Answers");
	uint64_t seq = agt_field_uint(&fields, "Notifications", INT64_MAX, 0);
	size_t notes = s->publisher.n;
	bool kept = false; /* something that is in the state too */
	agt_state_begin(&s->a->state);
	json_array_foreach (answers, i, v) {
		if (!json_is_integer(v) || json_integer_value(v) < 0)
			continue;
		uint64_t id = (uint64_t)json_integer_value(v);
		uint32_t type = brg_requests_type(&s->record, id);
		char *text = brg_requests_acknowledge(&s->record, id);
		if (text && agt_request_changes(type)) {
			agt_state_put_n(&s->a->state, "answer", id, NULL);
			kept = true;
		}
		free(text);
	}
	drop_notes(s, seq);
	if (kept || s->publisher.n != notes)
		agt_session_put(s);
	agt_state_end(&s->a->state);
	json_decref(msg);
}

void agt_session_frame(struct agt_session *s, const struct brg_frame *f)
{
	uint64_t epoch = 0;
	if (s->negotiated && s->exists && f->type == BRG_ACKNOWLEDGE) {
		acknowledge(s, f);
		return;
	}
	if (s->negotiated && f->type != BRG_NEGOTIATE) {
		epoch = s->epoch;
		enum brg_seen seen = s->n_in_flight >= AGT_IN_FLIGHT_MAX
					     ? BRG_SEEN_FULL
					     : brg_requests_begin(&s->record, f->id, f->type);
		if (seen == BRG_SEEN_ACKNOWLEDGED && f->id <= s->forgotten &&
			!agt_request_changes(f->type))
			seen = brg_requests_again(&s->record, f->id, f->type);
		if (seen == BRG_SEEN_FULL)
			refuse_full(s, f);
		if (seen == BRG_SEEN_ANSWERED)
			agt_session_pump(s);
		if (seen != BRG_SEEN_NEW)
			return;
		put_answer(s, f->id, f->type, NULL); /* before anything is done */
	}
	struct agt_request *rq = new_request(s, f, epoch);
	agt_state_begin(&s->a->state);
	if (rq)
		agt_request_run(rq, f->payload, f->len);
	agt_state_end(&s->a->state);
}

struct agt_request *agt_session_begun(struct agt_session *s, uint64_t id)
{
	hf_list_for_each (l, &s->in_flight) {
		struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (rq->id == id && rq->epoch == s->epoch)
			return rq;
	}
	return NULL;
}

/* An answer, or a request that was begun and must be answered. */
static void restore_answer(struct agt_session *s, struct agt_heir *h, uint64_t id, json_t *o)
{
	struct agt_fields f = { .obj = o, .prefix = "answer." };
	uint32_t type = (uint32_t)agt_field_uint(&f, "type", UINT32_MAX, 0);
	const char *text = agt_field_string(&f, "text", NULL);
	struct brg_frame frame = { .type = type, .id = id };
	char *copy = text ? strdup(text) : NULL;
	if (f.err.code != 0 || !agt_request_changes(type) ||
		brg_requests_begin(&s->record, id, type) != BRG_SEEN_NEW || (text && !copy) ||
		(!text && !new_request(s, &frame, s->epoch))) {
		free(copy);
		agt_heir_refuse(h, "answer");
	} else if (text) {
		(void)brg_requests_finish(&s->record, id, copy, (uint32_t)strlen(copy)); /* begun */
	}
}

static void restore_note(struct agt_session *s, struct agt_heir *h, uint64_t seq, json_t *v)
{
	struct brg_note *note = calloc(1, sizeof(*note));
	char *text = json_is_string(v) ? strdup(json_string_value(v)) : NULL;
	if (!note || !text || seq == 0) {
		free(note);
		free(text);
		agt_heir_refuse(h, "note");
		return;
	}
	*note = (struct brg_note){ .payload = text, .len = (uint32_t)strlen(text) };
	s->publisher.last_seq = seq - 1;
	if (brg_publisher_publish(&s->publisher, note) != BRG_PUBLISH_KEPT)
		agt_heir_refuse(h, "more notes than there can be");
}

void agt_session_restore(struct agt_session *s, struct agt_heir *h)
{
	struct agt_fields f = { .obj = json_object_get(h->map, "session"), .prefix = "session." };
	const char *instance = agt_field_string(&f, "instance", s->instance);
	const char *id = agt_field_string(&f, "id", "");
	uint64_t highest = agt_field_uint(&f, "highest", INT64_MAX, 0);
	uint64_t last_seq = agt_field_uint(&f, "notes", INT64_MAX, 0);
	uint8_t bits[16];
	uint64_t number;
	if (f.err.code != 0 || strlen(instance) >= sizeof(s->instance) ||
		(id[0] && hex_decode(id, bits, sizeof(bits)) < 0)) {
		agt_heir_refuse(h, "session");
		return;
	}
	(void)snprintf(s->instance, sizeof(s->instance), "%s", instance);
	if (!id[0])
		return;
	(void)snprintf(s->id, sizeof(s->id), "%s", id);
	brg_requests_init(&s->record, s->entries, BRG_REQUESTS_MAX, BRG_ANSWERS_MAX, false);
	brg_publisher_begin(&s->publisher, true);
	s->exists = true;
	for (json_t *v = agt_heir_first(h, "answer", &number); v; v = agt_heir_next(h, &number))
		restore_answer(s, h, number, v);
	for (json_t *v = agt_heir_first(h, "note", &number); v; v = agt_heir_next(h, &number))
		restore_note(s, h, number, v);
	s->publisher.last_seq = HF_MAX(s->publisher.last_seq, last_seq);
	s->record.highest = HF_MAX(s->record.highest, highest);
	s->record.any = true;
	s->forgotten = s->record.highest;
	brg_requests_rewind(&s->record);
}

void agt_session_notify(struct agt_session *s, struct agt_container *c, json_t *note_json)
{
	uint64_t seq = brg_publisher_next_seq(&s->publisher);
	if (seq > 0)
		json_object_set_new(note_json, "Holdfast",
			c->oom_kills ? json_pack("{s:I,s:I}", "Seq", (json_int_t)seq, "OomKills",
					       (json_int_t)c->oom_kills)
				     : json_pack("{s:I}", "Seq", (json_int_t)seq));
	char *text = json_dumps(note_json, JSON_COMPACT);
	json_decref(note_json);
	struct brg_note *note = calloc(1, sizeof(*note));
	if (!text || !note) {
		hf_error("container %s: no memory for its exit notification", c->id);
		goto done;
	}
	*note = (struct brg_note){ .payload = text, .len = (uint32_t)strlen(text) };
	bool known = s->exists || s->knows_all || c->named_epoch == s->epoch;
	if (!known)
		s->publisher.dropped++;
	enum brg_publish p =
		known ? brg_publisher_publish(&s->publisher, note) : BRG_PUBLISH_DROPPED;
	if (p == BRG_PUBLISH_KEPT) {
		agt_state_put_n(&s->a->state, "note", note->seq, json_string(text));
		agt_session_pump(s);
		return;
	}
	if (p == BRG_PUBLISH_SEND_NOW &&
		agt_link_send(&s->a->link, BRG_NOTIFICATION, 0, text, note->len) < 0)
		p = BRG_PUBLISH_DROPPED;
	if (p == BRG_PUBLISH_DROPPED)
		hf_warn("container %s: no host to notify of its exit (%lu dropped so far)", c->id,
			(unsigned long)s->publisher.dropped);
done:
	free(text);
	free(note);
}

struct offer {
	bool made;
	bool resume;
	char session[33];
};

static void read_offer(struct agt_fields *f, struct offer *o)
{
	uint8_t bits[16];
	struct agt_fields h = agt_field_fields(f, "Holdfast", "Holdfast.");
	uint64_t version = agt_field_uint(&h, "Version", UINT32_MAX, 0);
	const char *session = agt_field_string(&h, "Session", "");
	o->resume = agt_field_bool(&h, "Resume", false);
	o->made = version >= 1;
	if (o->made && h.err.code == 0 && hex_decode(session, bits, sizeof(bits)) < 0)
		(void)hf_err_set(&h.err, -EBADMSG, "Holdfast.Session: expected 32 hex digits");
	hex_encode(bits, o->made && h.err.code == 0 ? sizeof(bits) : 0, o->session);
	agt_fields_join(f, &h);
}

/* Enters the session that the host asks for; says which it got, NULL for none. */
static const char *enter(struct agt_session *s, const struct offer *o, uint64_t id)
{
	const char *what = NULL;
	if (!o->made) {
		begin_anew(s, false);
		s->knows_all = id > 0;
		adopt_below(s, id);
	} else if (o->resume && s->exists && !strcmp(s->id, o->session)) {
		what = "resumed";
	} else {
		begin_anew(s, true);
		(void)snprintf(s->id, sizeof(s->id), "%s", o->session);
		what = o->resume ? "unknown" : "new";
	}
	s->negotiated = true;
	s->a->link.negotiated = true;
	agt_session_put(s);
	return what;
}

static json_t *capabilities(const struct agt_session *s, const char *what)
{
	uint32_t cid;
	json_t *h = json_pack("{s:i, s:s, s:b, s:b}", "Version", 1, "Instance", s->instance,
		"RequestReplay", 1, "StreamResume", 1);
	if (what)
		json_object_set_new(h, "Session", json_string(what));
	if (!s->a->flags->transport.unix_socket && agt_local_cid(&cid) == 0)
		json_object_set_new(h, "Cid", json_integer(cid));
	return json_pack("{s:[{s:i,s:i}], s:s, s:{s:b,s:b,s:b,s:o}}", "SupportedSchemaVersions",
		"Major", 2, "Minor", 1, "RuntimeOsType", "Linux", "GuestDefinedCapabilities",
		"SignalProcessSupported", 1, "DumpStacksSupported", 1,
		"DeleteContainerStateSupported", 1, "Holdfast", h);
}

void agt_rpc_negotiate(struct agt_request *rq)
{
	struct agt_session *s = &rq->a->session;
	struct offer offer = { 0 };
	uint64_t min = agt_field_uint(&rq->f, "MinimumVersion", UINT32_MAX, 0);
	uint64_t max = agt_field_uint(&rq->f, "MaximumVersion", UINT32_MAX, 0);
	read_offer(&rq->f, &offer);
	if (agt_refuse_fields(rq, &rq->f))
		return;
	if (max < BRG_VERSION || min > BRG_VERSION) {
		agt_refuse(rq, BRG_E_VERSION,
			"MinimumVersion %lu, MaximumVersion %lu: this guest speaks %u only",
			(unsigned long)min, (unsigned long)max, BRG_VERSION);
		return;
	}
	const char *what = enter(s, &offer, rq->id);
	hf_info("bridge: negotiated, %s%s", what ? "Holdfast session " : "host without a session",
		what ? what : "");
	agt_answer(rq, json_pack("{s:i, s:o}", "Version", BRG_VERSION, "Capabilities",
			       capabilities(s, what)));
	brg_publisher_up(&s->publisher);
	agt_session_pump(s);
}
