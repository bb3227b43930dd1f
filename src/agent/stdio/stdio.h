/* SPDX-License-Identifier: MIT */
/*
 * stdio.h - the standard streams of one process, relayed to ports of the host.
 *
 * A set has up to three legs; each leg joins a local descriptor (the agent's end of a pipe, or a
 * terminal) to a port. A leg is plain (pump.h) or resumable (resume.h), as the host asked.
 *
 *     dial:    plain legs are connected before the process starts, in order; a failed one fails all
 *     attach:  local descriptors join their legs, bytes flow
 *     exited:  input ends; the exit may be reported when plain output has reached the host and it
 *              has closed its end, or when nothing has moved for AGT_STDIO_LINGER_MS (a grandchild
 *              holds the pipe, or the host keeps the stream open). Resumable output is not waited
 *              for: it has its own end.
 *
 * Legs look after themselves and outlive the set.
 */
#ifndef AGT_STDIO_STDIO_H
#define AGT_STDIO_STDIO_H

#include "agent/loop.h"
#include "stream/stream.h"

#define AGT_STDIO_LINGER_MS 1000
#define AGT_STREAMS_MAX     1024 /* legs, of all processes */

struct agt;
struct agt_pump;
struct agt_resume;
struct agt_stdio;

enum { AGT_IN, AGT_OUT, AGT_ERR };

struct agt_stdio_spec {
	struct {
		bool want;
		bool resumable;
		uint32_t port;
		uint8_t token[RS_TOKEN_SIZE];
	} leg[3];
};

/* error: 0, or -errno and the stream whose dial failed. The set is the caller's either way. */
typedef void agt_stdio_dialled_fn(void *arg, int error, int leg);
typedef void agt_stdio_done_fn(void *arg);

/* NULL: no memory, or AGT_STREAMS_MAX. The callback comes in a later turn. */
struct agt_stdio *agt_stdio_dial(
	struct agt *a, const struct agt_stdio_spec *spec, agt_stdio_dialled_fn *fn, void *arg);

/* Takes the descriptors; -1 for a stream that has none. Output that nobody wants is discarded.
 * `owner`: the process's name in the state.
 * `tty`: the host sees a close instead of a half-close. `redial`: plain output survives the loss of
 * the host, as pump.h says. -errno: a stream is unusable, and closed. */
int agt_stdio_attach(
	struct agt_stdio *s, uint64_t owner, const int local[3], bool tty, bool redial);

/* A set whose legs an agent before this one had attached: they are given to it one by one. NULL: no
 * memory. */
struct agt_stdio *agt_stdio_inherited(struct agt *a);
void agt_stdio_inherit(
	struct agt_stdio *s, int leg, struct agt_pump *pump, struct agt_resume *resume);

/* The process has gone: `fn` comes once, now or later, when that may be reported. */
void agt_stdio_exited(struct agt_stdio *s, agt_stdio_done_fn *fn, void *arg);

/* Legs that are attached carry on alone; what was not attached is closed. Accepts NULL. */
void agt_stdio_free(struct agt_stdio *s);

/* For legs: one moved bytes; one is over. */
void agt_stdio_moved(struct agt_stdio *s);
void agt_stdio_leg_over(struct agt_stdio *s, int leg);

#endif
