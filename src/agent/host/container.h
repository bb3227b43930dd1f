/* SPDX-License-Identifier: MIT */
/*
 * container.h - the containers of this guest. They outlive every connection.
 *
 *     CREATING --runtime create--> CREATED --runtime start--> RUNNING --init reported--> EXITED
 *         |failed                                                                    |
 *         +--> (forgotten)                         any but CREATING --delete--> DELETING -->
 * (forgotten)
 *
 * `busy` counts runs of the runtime that still refer to the container; it is not deleted meanwhile.
 * Init exists from CREATED on. The exit is notified exactly once, whoever waits or not.
 */
#ifndef AGT_HOST_CONTAINER_H
#define AGT_HOST_CONTAINER_H

#include "agent/rpc/request.h"
#include "base/list.h"
#include <jansson.h>

#define AGT_CONTAINERS_MAX 1024

struct agt;
struct agt_heir;
struct agt_process;

enum agt_container_state {
	AGT_CONTAINER_CREATING,
	AGT_CONTAINER_CREATED,
	AGT_CONTAINER_RUNNING,
	AGT_CONTAINER_EXITED,
	AGT_CONTAINER_DELETING,
	AGT_CONTAINER_N_STATES
};

extern const char *const agt_container_state_name[AGT_CONTAINER_N_STATES];

struct agt_container {
	struct hf_list link;
	struct agt *a;
	enum agt_container_state state;
	char id[AGT_ID_MAX + 1];
	char activity[40]; /* of the Create request */
	char *bundle;      /* folder; made and removed by the agent */
	char *root;        /* of its file system */
	char *scratch;     /* removed with the container; may be NULL */
	json_t *process;   /* of the spec: what executed processes inherit */
	char *cgroup;      /* path below the cgroup root, NULL when unknown */
	bool sandbox;      /* others may be in its pod */
	bool own_pids;     /* has a pid namespace of its own: dies with init */
	bool tty;
	bool starting; /* the runtime was told to start it */
	bool notified;
	uint64_t request;      /* that creates, starts or deletes it; meaningful while it does */
	const char *exit_type; /* for the notification */
	unsigned busy;
	int oom_wd; /* host/oom.h */
	uint64_t oom_kills;
	uint64_t named_epoch; /* session epoch in which a host named it last */
	struct agt_process *init;
	int local[3]; /* init's streams until they are attached; a terminal's are [0] only */
};

/* NULL when there is none. Notes that the host knows it. */
struct agt_container *agt_container_find(struct agt *a, const char *id);

/* NULL: no memory or AGT_CONTAINERS_MAX. The id must be free. */
struct agt_container *agt_container_new(struct agt *a, const char *id);
void agt_container_free(struct agt_container *c);

/* Writes it into the state, as it is now; with what its executed processes inherit, which does not
 * change. */
void agt_container_put(struct agt_container *c);
void agt_container_put_spec(struct agt_container *c);

/* As the agent before this one left them. */
void agt_containers_restore(struct agt_heir *h);

/* From proc/: init was reaped; its exit may be told (which it is once). */
void agt_container_init_gone(struct agt_container *c);
void agt_container_exited(struct agt_container *c);

/* Refuses the request, naming the state, unless the container is there and in one of the states of
 * the mask (1 << state). Returns it, or NULL when refused. */
struct agt_container *agt_container_need(struct agt_request *rq, unsigned states);

#endif
