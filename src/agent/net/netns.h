/* SPDX-License-Identifier: MIT */
/*
 * netns.h - the host's network name spaces: sets of adapters, each to be moved into one container.
 *
 * A name space begins with its first adapter. Adapters may be added before the container that uses
 * it is created (then they are moved when it is) or after (then at once). It is let go when its
 * container is deleted, and ends when its last adapter is removed and no container uses it.
 */
#ifndef AGT_NET_NETNS_H
#define AGT_NET_NETNS_H

#include "adapter.h"
#include "agent/proc/worker.h"
#include "base/list.h"

#define AGT_NETNS_MAX    256
#define AGT_ADAPTERS_MAX 16

struct agt;
struct agt_container;
struct agt_heir;

struct agt_netns {
	struct hf_list link; /* of agt.namespaces */
	char id[AGT_FIELD_NAME_MAX];
	struct agt_container *user; /* NULL: none yet */
	size_t n;
	struct {
		char id[AGT_FIELD_NAME_MAX];
		json_t *settings;
		struct agt_lease *lease; /* NULL: it has none, or no container yet */
	} adapter[AGT_ADAPTERS_MAX];
};

/* By id, in any case; NULL when there is none. */
struct agt_netns *agt_netns_find(struct agt *a, const char *id);

/* Remembers an adapter. -EEXIST, -ENOSPC, -ENOMEM. */
int agt_netns_add(
	struct agt *a, const struct agt_adapter *ad, json_t *settings, struct agt_netns **ret);

/* Forgets it, and the name space with its last one; unknown is fine. */
void agt_netns_remove(struct agt *a, const char *ns, const char *adapter);

/* Writes it into the state, as it is now. */
void agt_netns_put(struct agt *a, const struct agt_netns *ns);

/* As the agent before this one left them. */
void agt_netns_restore(struct agt_heir *h);

/* The container has gone. */
void agt_netns_let_go(struct agt *a, const struct agt_container *c);

/* Waits for the adapters from `first` on, and with a pid moves them into the network name space of
 * that process (of the agent, when it is its own) and brings them up, one after the other, each in
 * a worker; then asks for its lease if it takes one. The callback comes when all are done. */
int agt_netns_bring_up(struct agt *a, const struct agt_netns *ns, size_t first, pid_t pid,
	agt_worked_fn *done, void *arg, struct hf_err *reterr);

/* The lines of a resolv.conf; to be freed. NULL: no memory, or more than AGT_SEARCH_MAX suffixes.
 */
#define AGT_SEARCH_MAX 6
char *agt_netns_resolv_conf(const struct agt_netns *ns);

#endif
