/* SPDX-License-Identifier: MIT */
/*
 * resume.h - a resumable leg (docs/stream.md): its bytes survive any number of lost connections.
 *
 * The agent dials the port, and dials again when the connection is lost, at once and then every
 * reconnect interval, for as long as the session lives. Output: what the process writes waits in
 * the window until the host has acknowledged it; a full window stops the process. Input: a byte is
 * acknowledged when it is in the process's pipe.
 *
 * The leg outlives its process until its end is acknowledged. It is dropped (output: the process
 * sees EPIPE; input: end of file) when the session ends or the host does not know the token.
 *
 * It survives the agent as well. The window is a file in memory, whose descriptor the keeper keeps
 * open, and what the next agent must know is in front of it. Output is moved from the pipe into the
 * window by splice(2), which counts the bytes in that memory itself: an agent that is killed at any
 * instruction leaves each byte either in the pipe or counted. A terminal's output, and input, are
 * counted by the agent right after the system call; killed between the two, it loses that output,
 * or gives that input a second time.
 */
#ifndef AGT_STDIO_RESUME_H
#define AGT_STDIO_RESUME_H

#include "stdio.h"

#define AGT_WINDOW (128u << 10)

struct agt_heir;
struct agt_resume;

/* Begins to dial. */
int agt_resume_new(struct agt *a, struct agt_stdio *set, int leg, uint32_t port,
	const uint8_t token[RS_TOKEN_SIZE], struct agt_resume **ret);

/* `owner`: the process's name in the state. The local descriptor, taken in any case; -1: the
 * process has no such stream, the leg ends. */
int agt_resume_attach(struct agt_resume *p, uint64_t owner, int local, bool tty);

/* Those of the agent before this one: each goes on at the byte where it stood. */
void agt_resume_restore(struct agt_heir *h);

/* The process has gone: an input has no reader any more. */
void agt_resume_exited(struct agt_resume *p);

void agt_resume_disown(struct agt_resume *p); /* the set is gone */
void agt_resume_stop(struct agt_resume *p);   /* ends it now; the set is not told */
void agt_resume_drop_all(struct agt *a);      /* the session has ended */

#endif
