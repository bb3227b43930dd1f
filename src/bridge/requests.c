/* SPDX-License-Identifier: MIT */
#include "requests.h"
#include <errno.h>
#include <string.h>

void brg_requests_init(struct brg_requests *t, struct brg_request *entries, size_t cap,
	size_t bytes_max, bool forgetful)
{
	*t = (struct brg_requests){
		.entry = entries,
		.cap = cap,
		.bytes_max = bytes_max,
		.forgetful = forgetful,
	};
}

/* The first entry whose id is not below `id`. */
static size_t lower_bound(const struct brg_requests *t, uint64_t id)
{
	size_t lo = 0, hi = t->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (t->entry[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static struct brg_request *find(struct brg_requests *t, uint64_t id)
{
	size_t i = lower_bound(t, id);
	return i < t->n && t->entry[i].id == id ? &t->entry[i] : NULL;
}

static bool ready(const struct brg_request *e)
{
	return e->owed && e->answer;
}

static char *forget(struct brg_requests *t, struct brg_request *e)
{
	char *answer = e->answer;
	size_t i = (size_t)(e - t->entry);
	t->bytes -= e->len;
	t->n_unsent -= ready(e);
	t->n--;
	memmove(e, e + 1, (t->n - i) * sizeof(*e));
	return answer;
}

enum brg_seen brg_requests_again(struct brg_requests *t, uint64_t id, uint32_t type)
{
	size_t i = lower_bound(t, id);
	struct brg_request *e = &t->entry[i];
	if (t->n == t->cap || t->bytes >= t->bytes_max)
		return BRG_SEEN_FULL;
	memmove(e + 1, e, (t->n - i) * sizeof(*e));
	*e = (struct brg_request){ .id = id, .type = type, .owed = true };
	t->n++;
	t->highest = t->any ? HF_MAX(t->highest, id) : id;
	t->any = true;
	return BRG_SEEN_NEW;
}

uint32_t brg_requests_type(struct brg_requests *t, uint64_t id)
{
	const struct brg_request *e = find(t, id);
	return e ? e->type : 0;
}

enum brg_seen brg_requests_begin(struct brg_requests *t, uint64_t id, uint32_t type)
{
	struct brg_request *e = find(t, id);
	if (e) {
		bool was_ready = ready(e);
		e->owed = !e->sent;
		t->n_unsent += ready(e) && !was_ready;
		return e->answer ? BRG_SEEN_ANSWERED : BRG_SEEN_RUNNING;
	}
	if (!t->forgetful && t->any && id <= t->highest)
		return BRG_SEEN_ACKNOWLEDGED;
	return brg_requests_again(t, id, type);
}

int brg_requests_finish(struct brg_requests *t, uint64_t id, char *answer, uint32_t len)
{
	struct brg_request *e = find(t, id);
	if (!e || e->answer)
		return -ENOENT;
	e->answer = answer;
	e->len = len;
	t->bytes += len;
	t->n_unsent += e->owed;
	return 0;
}

struct brg_request *brg_requests_unsent(struct brg_requests *t)
{
	for (size_t i = 0; t->n_unsent > 0 && i < t->n; i++)
		if (ready(&t->entry[i]))
			return &t->entry[i];
	return NULL;
}

char *brg_requests_sent(struct brg_requests *t, struct brg_request *e)
{
	hf_assert(ready(e));
	if (t->forgetful)
		return forget(t, e);
	e->owed = false;
	e->sent = true;
	t->n_unsent--;
	return NULL;
}

char *brg_requests_acknowledge(struct brg_requests *t, uint64_t id)
{
	struct brg_request *e = find(t, id);
	return e && e->answer ? forget(t, e) : NULL;
}

void brg_requests_rewind(struct brg_requests *t)
{
	for (size_t i = 0; i < t->n; i++)
		t->entry[i].owed = t->entry[i].sent = false;
	t->n_unsent = 0;
}

char *brg_requests_drain(struct brg_requests *t)
{
	while (t->n > 0) {
		char *answer = forget(t, &t->entry[t->n - 1]);
		if (answer)
			return answer;
	}
	return NULL;
}
