/* SPDX-License-Identifier: MIT */
#include "guard.h"
#include <errno.h>
#include <string.h>

struct dev_guard dev_guard_default(void)
{
	return (struct dev_guard){ .mode = 0600 };
}

/* A number that ends with one of the characters in `ends` or with the text; moves on behind it. */
static int number(const char **text, int base, uint32_t max, const char *ends, uint32_t *ret)
{
	char *end;
	if (**text < '0' || **text > '9')
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(*text, &end, base);
	if (errno != 0 || v > max || (*end != '\0' && !strchr(ends, *end)))
		return -EINVAL;
	*ret = (uint32_t)v;
	*text = end;
	return 0;
}

static int single(const char *text, int base, uint32_t min, uint32_t max, uint32_t *ret)
{
	uint32_t v;
	int r = number(&text, base, max, "", &v);
	if (r < 0 || v < min)
		return -EINVAL;
	*ret = v;
	return 0;
}

static int set_owner(struct dev_guard *guard, const char *text)
{
	uint32_t uid, gid = UINT32_MAX; /* lchown(2): as it is */
	int r = number(&text, 10, UINT32_MAX - 1, ":", &uid);
	if (r == 0 && *text == ':') {
		text++;
		r = number(&text, 10, UINT32_MAX - 1, "", &gid);
	}
	if (r < 0)
		return r;
	guard->owned = true;
	guard->owner = uid;
	guard->group = gid;
	return 0;
}

static int set_uids(struct dev_guard *guard, const char *text)
{
	guard->n_uids = 0;
	for (;; text++) {
		uint32_t uid;
		if (guard->n_uids == DEV_UIDS_MAX ||
			number(&text, 10, UINT32_MAX - 1, "+", &uid) < 0)
			return -EINVAL;
		guard->uid[guard->n_uids++] = uid;
		if (*text == '\0')
			return 0;
	}
}

static int set_ports(struct dev_port_set *p, const char *text)
{
	for (p->n = 0;; text++) {
		uint32_t first, last;
		if (p->n == DEV_PORT_RANGES_MAX || number(&text, 10, UINT32_MAX, "-+", &first) < 0)
			return -EINVAL;
		last = first;
		if (*text == '-') {
			text++;
			if (number(&text, 10, UINT32_MAX, "+", &last) < 0 || last < first)
				return -EINVAL;
		}
		p->range[p->n].first = first;
		p->range[p->n++].last = last;
		if (*text == '\0')
			return 0;
	}
}

int dev_guard_set(
	struct dev_guard *guard, const char *key, const char *value, struct hf_err *reterr)
{
	const char *want = "a number from 1 to 4294967295";
	int r;
	if (strcmp(key, "mode") == 0) {
		r = single(value, 8, 0, 0777, &guard->mode);
		want = "an octal mode, as 0660";
	} else if (strcmp(key, "owner") == 0) {
		r = set_owner(guard, value);
		want = "UID or UID:GID, numbers";
	} else if (strcmp(key, "allow-uid") == 0) {
		r = set_uids(guard, value);
		want = "UID[+UID...], at most 16 numbers";
	} else if (strcmp(key, "guest-ports") == 0 || strcmp(key, "host-ports") == 0) {
		r = set_ports(key[0] == 'g' ? &guard->guest_ports : &guard->host_ports, value);
		want = "PORT[-PORT][+...], at most 32 of them";
	} else if (strcmp(key, "max-connections") == 0) {
		r = single(value, 10, 1, UINT32_MAX, &guard->max_conns);
	} else if (strcmp(key, "rate-bytes") == 0) {
		r = single(value, 10, 1, UINT32_MAX, &guard->rate_bytes);
	} else if (strcmp(key, "rate-connections") == 0) {
		r = single(value, 10, 1, UINT32_MAX, &guard->rate_conns);
	} else {
		return -ENOKEY;
	}
	return r < 0 ? hf_err_set(reterr, r, "%s=%s: want %s", key, value, want) : 0;
}

bool dev_ports_allow(const struct dev_port_set *p, uint32_t port)
{
	for (size_t i = 0; i < p->n; i++)
		if (port >= p->range[i].first && port <= p->range[i].last)
			return true;
	return p->n == 0;
}

bool dev_guard_allows_uid(const struct dev_guard *guard, uid_t uid)
{
	for (size_t i = 0; i < guard->n_uids; i++)
		if (guard->uid[i] == uid)
			return true;
	return guard->n_uids == 0;
}

/* ---- the bucket ---- */

#define SECOND_US 1000000u

void dev_bucket_init(struct dev_bucket *b, uint64_t rate, uint64_t least, uint64_t now_us)
{
	uint64_t cap = HF_MAX(rate / 10, least);
	*b = (struct dev_bucket){
		.rate = rate, .cap = cap, .tokens = (int64_t)cap, .filled_us = now_us
	};
}

uint64_t dev_bucket_opens(struct dev_bucket *b, uint64_t now_us)
{
	if (b->rate == 0)
		return 0;
	uint64_t missing = (uint64_t)((int64_t)b->cap - b->tokens);
	uint64_t passed_us = now_us - b->filled_us;
	/* Whole tokens only, and the time they took: nothing is lost to rounding. */
	uint64_t n = passed_us / SECOND_US * b->rate + passed_us % SECOND_US * b->rate / SECOND_US;
	if (n >= missing) {
		b->tokens = (int64_t)b->cap;
		b->filled_us = now_us;
	} else {
		b->tokens += (int64_t)n;
		b->filled_us += n * SECOND_US / b->rate;
	}
	if (b->tokens > 0)
		return 0;
	uint64_t debt = (uint64_t)(1 - b->tokens);
	return HF_MAX(b->filled_us + (debt * SECOND_US + b->rate - 1) / b->rate, now_us + 1);
}

void dev_bucket_take(struct dev_bucket *b, uint64_t n)
{
	if (b->rate > 0)
		b->tokens -= (int64_t)n;
}
