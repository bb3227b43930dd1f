/* SPDX-License-Identifier: MIT */
/*
 * requests.h - the record of a session's requests: each id is executed once and answered until the
 * answer is acknowledged (docs/bridge.md, "Request replay").
 *
 *     (unknown) --begin--> RUNNING --finish--> ANSWERED --acknowledge--> (forgotten)
 *
 * The record outlives connections. An answer goes to a connection that sent the request: `owed`
 * says that the current one has, and has not been answered. A new connection is owed nothing
 * (brg_requests_rewind) until it sends the ids that it misses.
 *
 * Requests are first sent in ascending order of id, so an id that is not above the highest seen
 * and not in the record was acknowledged before; it is never executed again.
 *
 * A host without sessions gets a record as well, which dies with its connection (`forgetful`):
 * there an answer is acknowledged by being sent, and an id may be used again once answered.
 *
 * Entries are sorted by id in an array of the caller's; answers are the caller's memory, given at
 * finish and handed back, to be freed, when they are forgotten.
 */
#ifndef BRG_REQUESTS_H
#define BRG_REQUESTS_H

#include "base/base.h"

#define BRG_REQUESTS_MAX 4096u       /* running and kept together */
#define BRG_ANSWERS_MAX  (16u << 20) /* bytes of kept answers */

enum brg_seen {
	BRG_SEEN_NEW,          /* recorded as running: execute it */
	BRG_SEEN_RUNNING,      /* being executed: it will be answered when it finishes */
	BRG_SEEN_ANSWERED,     /* its answer is due again (brg_requests_unsent gives it) */
	BRG_SEEN_ACKNOWLEDGED, /* ignore it */
	BRG_SEEN_FULL,         /* not recorded: refuse it */
};

struct brg_request {
	uint64_t id;
	uint32_t type; /* of the request */
	uint32_t len;
	char *answer; /* NULL while running */
	bool owed;    /* the current connection sent it and was not answered yet */
	bool sent;    /* the current connection was answered: a second time it is not */
};

struct brg_requests {
	struct brg_request *entry;
	size_t n, cap;
	size_t n_unsent; /* owed and ready */
	size_t bytes;    /* of answers kept */
	size_t bytes_max;
	uint64_t highest; /* id seen; valid when any */
	bool any;
	bool forgetful;
};

/* The array stays the caller's. */
void brg_requests_init(struct brg_requests *t, struct brg_request *entries, size_t cap,
	size_t bytes_max, bool forgetful);

enum brg_seen brg_requests_begin(struct brg_requests *t, uint64_t id, uint32_t type);

/* Records an id that begin() calls acknowledged, as running: for a guest that has forgotten what it
 * answered, and a request that may be carried out again. */
enum brg_seen brg_requests_again(struct brg_requests *t, uint64_t id, uint32_t type);

/* The type of a request in the record; 0: it is not there. */
uint32_t brg_requests_type(struct brg_requests *t, uint64_t id);

/* The request is done. 0: the record owns the answer now and it is sent when owed; -ENOENT: no such
 * request runs (the caller keeps the answer). */
int brg_requests_finish(struct brg_requests *t, uint64_t id, char *answer, uint32_t len);

/* The next answer to send on this connection, or NULL. */
struct brg_request *brg_requests_unsent(struct brg_requests *t);

/* It was put into the mux. In a forgetful record the entry is gone, and the answer returned is to
 * be freed; otherwise NULL. */
char *brg_requests_sent(struct brg_requests *t, struct brg_request *e);

/* The host has this answer: returns its memory to be freed, NULL when there is no such answer. */
char *brg_requests_acknowledge(struct brg_requests *t, uint64_t id);

/* A new connection took over: nothing is owed to it yet but what it asks for. */
void brg_requests_rewind(struct brg_requests *t);

/* Empties the record: hands out one kept answer after the other to be freed, then NULL. Running
 * requests are forgotten too: their finish says -ENOENT. */
char *brg_requests_drain(struct brg_requests *t);

#endif
