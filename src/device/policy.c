/* SPDX-License-Identifier: MIT */
#include "policy.h"
#include <errno.h>
#include <string.h>

static const char *const names[DEV_POLICY_N_] = { "reattach", "relay", "reset" };

const char *dev_policy_name(enum dev_policy p)
{
	return names[p];
}

/* A number up to 2^32 - 1 and what follows it; NULL: there is none. */
static const char *take_port(const char *text, uint32_t *ret_port)
{
	uint64_t v = 0;
	const char *c = text;
	for (; *c >= '0' && *c <= '9'; c++) {
		v = v * 10 + (uint64_t)(*c - '0');
		if (v > UINT32_MAX)
			return NULL;
	}
	*ret_port = (uint32_t)v;
	return c == text ? NULL : c;
}

static bool take_range(const char *text, struct dev_rule *r)
{
	const char *end = take_port(text, &r->first);
	r->last = r->first;
	if (end && *end == '-')
		end = take_port(end + 1, &r->last);
	return end && *end == '\0' && r->first <= r->last;
}

/* Drops what the rule makes void, and puts it last. */
static int add_rule(struct dev_policies *p, const struct dev_rule *r)
{
	size_t kept = 0;
	for (size_t i = 0; i < p->n; i++)
		if (p->rule[i].first < r->first || p->rule[i].last > r->last)
			p->rule[kept++] = p->rule[i];
	p->n = kept;
	if (p->n == DEV_RULES_MAX)
		return -ENOSPC;
	p->rule[p->n++] = *r;
	return 0;
}

int dev_policy_set(
	struct dev_policies *p, const char *ports, const char *policy, struct hf_err *reterr)
{
	struct dev_rule r = { .policy = DEV_POLICY_N_ };
	for (enum dev_policy i = 0; i < DEV_POLICY_N_; i++)
		if (strcmp(policy, names[i]) == 0)
			r.policy = i;
	if (r.policy == DEV_POLICY_N_)
		return hf_err_set(
			reterr, -EINVAL, "policy '%.40s': want reattach, relay or reset", policy);
	if (strcmp(ports, "default") == 0) {
		p->otherwise = r.policy;
		return 0;
	}
	if (!take_range(ports, &r))
		return hf_err_set(reterr, -EINVAL,
			"port '%.40s': want a port, as 1024, or a range, as 2000-2999", ports);
	if (add_rule(p, &r) < 0)
		return hf_err_set(reterr, -ENOSPC,
			"port %.40s: there are %d rules, which is the limit: use ranges", ports,
			DEV_RULES_MAX);
	return 0;
}

enum dev_policy dev_policy_of(const struct dev_policies *p, uint32_t host_port)
{
	for (size_t i = p->n; i-- > 0;)
		if (host_port >= p->rule[i].first && host_port <= p->rule[i].last)
			return p->rule[i].policy;
	return p->otherwise;
}

bool dev_policy_relays(const struct dev_policies *p)
{
	for (size_t i = 0; i < p->n; i++)
		if (p->rule[i].policy == DEV_RELAY)
			return true;
	return p->otherwise == DEV_RELAY;
}
