/* SPDX-License-Identifier: MIT */
/*
 * client.c - states: GREETING (nothing but the greeting may come), NEGOTIATING (waits for the
 * answer to qmp_capabilities, which has id 0), READY, BROKEN (final).
 *
 * Ids count up. QEMU answers in order, but the client does not rely on it: outstanding ids are a
 * small table, and an answer must carry one of them.
 */
#include "base/line.h"
#include "qmp.h"
#include <errno.h>
#include <string.h>

enum qmp_state { QMP_GREETING, QMP_NEGOTIATING, QMP_READY, QMP_BROKEN };

struct qmp {
	enum qmp_state state;
	struct hf_lines lines;
	char *out;
	size_t out_len;
	uint64_t next_id;
	uint64_t waiting[QMP_OUTSTANDING_MAX];
	size_t n_waiting;
	json_t *version;
	json_t *current; /* the message handed out last */
};

/* Appends a command to the output; the caller checked the room in the table. */
static int queue(struct qmp *q, const char *name, json_t *args, uint64_t id)
{
	json_t *cmd = json_pack(
		"{s:s, s:I, s:o*}", "execute", name, "id", (json_int_t)id, "arguments", args);
	char *text = cmd ? json_dumps(cmd, JSON_COMPACT) : NULL;
	int r = -ENOMEM;
	if (text) {
		size_t n = strlen(text);
		char *out = realloc(q->out, q->out_len + n + 1);
		if (out) {
			memcpy(out + q->out_len, text, n);
			out[q->out_len + n] = '\n';
			q->out = out;
			q->out_len += n + 1;
			q->waiting[q->n_waiting++] = id;
			r = 0;
		}
	}
	free(text);
	json_decref(cmd);
	return r;
}

struct qmp *qmp_new(void)
{
	struct qmp *q = calloc(1, sizeof(*q));
	if (!q)
		return NULL;
	hf_lines_init(&q->lines, QMP_LINE_MAX);
	if (queue(q, "qmp_capabilities", NULL, q->next_id++) < 0) {
		qmp_free(q);
		return NULL;
	}
	return q;
}

void qmp_free(struct qmp *q)
{
	if (!q)
		return;
	hf_lines_done(&q->lines);
	json_decref(q->version);
	json_decref(q->current);
	free(q->out);
	free(q);
}

int qmp_command(struct qmp *q, const char *name, json_t *args, uint64_t *ret_id)
{
	if (q->state == QMP_BROKEN || q->n_waiting == QMP_OUTSTANDING_MAX) {
		json_decref(args);
		return q->state == QMP_BROKEN ? -EPROTO : -EBUSY;
	}
	int r = queue(q, name, args, q->next_id);
	if (r < 0)
		return r;
	*ret_id = q->next_id++;
	return 0;
}

size_t qmp_output(const struct qmp *q, const char **ret_data)
{
	*ret_data = q->out;
	return q->out_len;
}

void qmp_output_done(struct qmp *q, size_t n)
{
	hf_assert(n <= q->out_len);
	memmove(q->out, q->out + n, q->out_len - n);
	q->out_len -= n;
}

int qmp_feed(struct qmp *q, const void *data, size_t n)
{
	return q->state == QMP_BROKEN ? -EPROTO : hf_lines_feed(&q->lines, data, n);
}

/* Takes an id out of the table of commands without an answer. */
static bool answered(struct qmp *q, uint64_t id)
{
	for (size_t i = 0; i < q->n_waiting; i++)
		if (q->waiting[i] == id) {
			q->waiting[i] = q->waiting[--q->n_waiting];
			return true;
		}
	return false;
}

/* An answer to a command: {"return": ...} or {"error": {"class", "desc"}}, with our id. */
static int take_answer(struct qmp *q, json_t *msg, struct qmp_msg *ret)
{
	json_t *id = json_object_get(msg, "id");
	json_t *data = json_object_get(msg, "return");
	json_t *error = json_object_get(msg, "error");
	if (!json_is_integer(id) || !answered(q, (uint64_t)json_integer_value(id)))
		return -EPROTO;
	ret->id = (uint64_t)json_integer_value(id);
	if (error) {
		ret->kind = QMP_MSG_ERROR;
		ret->name = json_string_value(json_object_get(error, "class"));
		ret->data = json_object_get(error, "desc");
		return ret->name && json_is_string(ret->data) ? 1 : -EPROTO;
	}
	ret->kind = QMP_MSG_RETURN;
	ret->data = data;
	if (!data)
		return -EPROTO;
	if (ret->id == 0) { /* the negotiation */
		q->state = QMP_READY;
		ret->kind = QMP_MSG_READY;
		ret->data = q->version;
	}
	return 1;
}

static int take_event(json_t *msg, struct qmp_msg *ret)
{
	json_t *data = json_object_get(msg, "data");
	ret->kind = QMP_MSG_EVENT;
	ret->name = json_string_value(json_object_get(msg, "event"));
	if (!ret->name || (data && !json_is_object(data)))
		return -EPROTO;
	if (!data) {
		data = json_object();
		if (!data || json_object_set_new(msg, "data", data) < 0)
			return -ENOMEM;
	}
	ret->data = data;
	return 1;
}

static int take(struct qmp *q, json_t *msg, struct qmp_msg *ret)
{
	if (q->state == QMP_GREETING) {
		json_t *version = json_object_get(json_object_get(msg, "QMP"), "version");
		if (!json_is_object(version))
			return -EPROTO;
		q->version = json_incref(version);
		q->state = QMP_NEGOTIATING;
		return 0;
	}
	if (json_object_get(msg, "event"))
		return take_event(msg, ret);
	int r = take_answer(q, msg, ret);
	/* Capabilities that are refused leave a monitor that answers nothing: say so at once. */
	return r == 1 && q->state == QMP_NEGOTIATING ? -EPROTO : r;
}

int qmp_next(struct qmp *q, struct qmp_msg *ret_msg)
{
	char *line;
	int r = q->state == QMP_BROKEN ? -EPROTO : 0;
	json_decref(q->current);
	q->current = NULL;
	while (r == 0) {
		r = hf_lines_next(&q->lines, &line);
		if (r <= 0)
			break;
		json_decref(q->current);
		q->current = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
		*ret_msg = (struct qmp_msg){ 0 };
		r = json_is_object(q->current) ? take(q, q->current, ret_msg) : -EPROTO;
	}
	if (r < 0 && r != -ENOMEM) {
		q->state = QMP_BROKEN;
		return -EPROTO;
	}
	return r;
}
