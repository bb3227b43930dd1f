/* SPDX-License-Identifier: MIT */
/*
 * policy.h - what becomes of connections in a migration, by host port.
 *
 *   reattach   the connection waits at the destination for an instance of its application to claim
 *              it, until the claim timeout; then it is reset
 *   relay      its application stays at the source, which relays it to the destination
 *   reset      it is reset at the destination at once
 *
 * Both hosts have a say: a connection that either resets is reset. Of the rules for a port the last
 * one counts.
 */
#ifndef DEVICE_POLICY_H
#define DEVICE_POLICY_H

#include "base/err.h"

#define DEV_RULES_MAX 64

enum dev_policy { DEV_REATTACH, DEV_RELAY, DEV_RESET, DEV_POLICY_N_ };

struct dev_rule {
	uint32_t first, last;
	enum dev_policy policy;
};

struct dev_policies {
	struct dev_rule rule[DEV_RULES_MAX];
	size_t n;
	enum dev_policy otherwise;
};

const char *dev_policy_name(enum dev_policy p);

/* ports: "1024", "2000-2999" or "default". -EINVAL with a text; -ENOSPC: too many rules. */
int dev_policy_set(
	struct dev_policies *p, const char *ports, const char *policy, struct hf_err *reterr);

/* Is there a port whose connections are relayed? */
bool dev_policy_relays(const struct dev_policies *p);

enum dev_policy dev_policy_of(const struct dev_policies *p, uint32_t host_port);

#endif
