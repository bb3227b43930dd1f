/* SPDX-License-Identifier: MIT */
/*
 * session.h - what a host is owed, over all of its connections (docs/bridge.md).
 *
 * The session holds the record of requests, the publisher and the requests in flight. Its record
 * has an epoch: a request answers into the epoch that it was begun in, or nowhere. A Holdfast
 * session keeps its epoch over connections; a host without one gets a new epoch with each
 * connection, so nothing of an old connection can reach a new one by accident.
 *
 * By intent one thing does: an upstream host that moved to another machine knows the ids of its
 * waits, and expects the guest to answer them on the new connection. A wait of a lost upstream
 * connection becomes an orphan. It is adopted under its old id
 *   - when the host negotiates with an id above it: its counter went on, so it remembers all;
 *   - when it waits for the same process again: it has just told the guest that it knows.
 * For the same reason such a host gets notifications only of containers that it has named.
 */
#ifndef AGT_LINK_SESSION_H
#define AGT_LINK_SESSION_H

#include "agent/rpc/request.h"
#include "bridge/frame.h"
#include "bridge/publisher.h"
#include "bridge/requests.h"

#define AGT_ORPHANS_MAX 1024

struct agt;
struct agt_container;
struct agt_heir;

struct agt_session {
	struct agt *a;
	bool negotiated; /* the current connection */
	bool exists;     /* a Holdfast session */
	bool knows_all;  /* the upstream host remembers what was before this connection */
	char id[33];     /* of the Holdfast session */
	char instance[64];
	uint64_t forgotten; /* an agent before this one may have answered ids up to this one */

	uint64_t epoch; /* > 0 */
	struct brg_requests record;
	struct brg_request entries[BRG_REQUESTS_MAX];
	struct brg_publisher publisher;

	struct hf_list in_flight; /* struct agt_request */
	size_t n_in_flight, n_orphans;
	uint64_t n_answered, n_dropped; /* answers for a record that is gone */
};

void agt_session_init(struct agt_session *s, struct agt *a);

/* Writes its names and positions into the state. */
void agt_session_put(struct agt_session *s);

/* As the agent before this one left it. */
void agt_session_restore(struct agt_session *s, struct agt_heir *h);

/* The request of this id that was begun by the agent before this one, or NULL. */
struct agt_request *agt_session_begun(struct agt_session *s, uint64_t id);

/* From the link: a frame has come; the connection is lost. */
void agt_session_frame(struct agt_session *s, const struct brg_frame *f);
void agt_session_down(struct agt_session *s);

/* Sends what is owed, as far as the mux has room. */
void agt_session_pump(struct agt_session *s);

/* The answer of a request; takes the text. */
void agt_session_answer(struct agt_session *s, struct agt_request *rq, char *text, uint32_t len);
void agt_session_forget(struct agt_session *s, struct agt_request *rq);

/* The host has named a process in WaitForProcess: orphaned waits for it are answered here too. */
void agt_session_adopt(struct agt_session *s, const char *container, uint32_t pid);

/* Tells the host that a container has exited; takes the object. */
void agt_session_notify(struct agt_session *s, struct agt_container *c, json_t *note);

#endif
