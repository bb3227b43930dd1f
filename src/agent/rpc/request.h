/* SPDX-License-Identifier: MIT */
/*
 * request.h - one request of the host while it is carried out, and its answer.
 *
 * A handler answers exactly once, now or in a later turn, with agt_answer() or agt_refuse(); both
 * consume the request. Where the answer goes is the session's matter: a request holds no
 * connection, only the epoch of the record it was begun in. If that record is gone the answer is
 * dropped.
 */
#ifndef AGT_RPC_REQUEST_H
#define AGT_RPC_REQUEST_H

#include "agent/loop.h"
#include "base/list.h"
#include "field.h"

#define AGT_IN_FLIGHT_MAX 8192 /* requests being carried out, over all connections */
#define AGT_ID_MAX        255  /* bytes of a container id */

struct agt;

struct agt_request {
	struct hf_list link; /* of the session's requests in flight */
	struct agt *a;
	uint64_t id;
	uint32_t type;
	uint64_t epoch; /* of the record; 0: answered on the spot, outside of any record */
	bool resumed;   /* begun by the agent before this one, which goes on with it */
	bool orphan;    /* a wait whose upstream host has gone (session.h) */
	uint64_t began_us;
	const char *stage;    /* for people: what it waits for; a string constant, NULL: nothing */
	pid_t stage_pid;      /* the child that does it; 0: none */
	uint64_t deadline_us; /* when that is given up; 0: never */
	char activity[40];    /* a GUID, or "" */
	char trace[56];       /* W3C traceparent of the host, or "" */
	char container[AGT_ID_MAX + 1];
	struct agt_fields f; /* of the message; gone when the handler has returned */

	/* WaitForProcess: proc/process.h */
	struct hf_list wait;
	uint32_t wait_pid;
	struct agt_timer *wait_timer;
};

/* Answers with success. `members` (may be NULL) follow Result and ActivityId; consumed. */
void agt_answer(struct agt_request *rq, json_t *members);
void agt_refuse(struct agt_request *rq, int32_t hresult, const char *fmt, ...) HF_PRINTF(3, 4);

/* Refuses with the error that the fields have collected; false when there is none. */
bool agt_refuse_fields(struct agt_request *rq, const struct agt_fields *f);

/* It waits for something from now on, until the next stage or its answer. Accepts NULL. */
void agt_request_stage(struct agt_request *rq, const char *what, pid_t pid, uint64_t deadline_ms);

/* Whether it changes anything: then it must not be carried out twice. */
bool agt_request_changes(uint32_t type);

/* The name of a request type, for logs; "unknown" when it is none. */
const char *agt_request_name(uint32_t type);

/* Carries the request out: parses the payload and calls the handler. */
void agt_request_run(struct agt_request *rq, const char *payload, size_t len);

#endif
