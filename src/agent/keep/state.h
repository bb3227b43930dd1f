/* SPDX-License-Identifier: MIT */
/*
 * state.h - what an agent must know of the one before it, in a file: DIR/state.
 *
 * The file is a list of changes, one line of JSON each: an object of keys and their new values,
 * null for "gone". The last value of a key counts. A line is one write(2), so a change is there
 * whole or not at all; changes that belong together are put into one line by a batch. The first
 * line names the version, the kernel's boot and the keeper whose descriptors the numbers mean: a
 * file of another is not for us. When most of the file is out of date it is written anew, into
 * another file that then takes its place.
 *
 * Keys: "agent", "session", "answer/ID", "note/SEQ", "container/ID", "spec/ID", "process/SERIAL",
 * "leg/SERIAL", "pump/SERIAL", "netns/ID", "shutdown". Who owns the object puts and restores it.
 *
 * A file that is not as an agent writes it is refused whole, set aside as DIR/state.refused, and
 * the agent begins without it. A write that fails ends the keeping: the file is removed.
 */
#ifndef AGT_KEEP_STATE_H
#define AGT_KEEP_STATE_H

#include "base/err.h"
#include <jansson.h>

#define AGT_STATE_VERSION 1
#define AGT_STATE_MAX     (64 << 20) /* bytes of a file that is read */
#define AGT_STATE_REWRITE (1 << 20)  /* a smaller file is not written anew */

struct agt_state {
	int fd;             /* -1: nothing is kept */
	json_t *head;       /* the first line */
	size_t size, floor; /* bytes now, and when it was written anew */
	json_t *batch;
	unsigned depth;
	uint64_t serial; /* of objects without a name, the last one given out */
	char path[80];
};

/* Reads what is there (*ret NULL: nothing, or refused; the log says why) and begins to keep.
 * -errno and a text when nothing can be kept. */
int agt_state_open(struct agt_state *s, const char *dir, uint64_t keeper, bool discard,
	json_t **ret, struct hf_err *reterr);

/* A value or NULL for "gone"; consumed. Written at once, or at the end of the outermost batch. */
void agt_state_put(struct agt_state *s, const char *kind, const char *name, json_t *value);
void agt_state_put_n(struct agt_state *s, const char *kind, uint64_t name, json_t *value);

/* Accept NULL. */
void agt_state_begin(struct agt_state *s);
void agt_state_end(struct agt_state *s);

/* What was put until now, also within a batch: before something is begun that would need it. */
void agt_state_flush(struct agt_state *s);

static inline bool agt_state_kept(const struct agt_state *s)
{
	return s->fd >= 0;
}

#endif
