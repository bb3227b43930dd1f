/* SPDX-License-Identifier: MIT */
/*
 * child.h - starting children and reaping them: the one place that calls wait.
 *
 * The agent is the reaper of everything below it (PID 1, or a subreaper): besides its own children
 * it inherits the processes of containers when the OCI runtime leaves, and orphans. Each is reaped
 * here at once; whoever watches the pid is told. A pid cannot be used again before it is reaped, so
 * a watched child that was not reported may be signalled safely.
 *
 * A process may end before the runtime that left it says its pid. While a runtime runs (`hold`),
 * exits of unknown pids are remembered, so that adopting finds them.
 */
#ifndef AGT_PROC_CHILD_H
#define AGT_PROC_CHILD_H

#include "agent/loop.h"
#include "base/err.h"
#include "base/list.h"
#include <sys/resource.h>
#include <sys/types.h>

#define AGT_EXITS_MAX 1024 /* remembered exits of unknown pids */

struct agt_ends;
struct agt_state;
struct agt_child;
typedef void agt_child_fn(void *arg, int status); /* status of waitpid(2) */

struct agt_child {
	struct hf_list link;
	pid_t pid; /* 0: not watched */
	agt_child_fn *fn;
	void *arg;
};

struct agt_children {
	uv_signal_t sigchld;
	struct hf_list list;
	unsigned hold;
	size_t n_exits;
	struct agt_exit {
		pid_t pid;
		int status;
	} exits[AGT_EXITS_MAX];
	struct agt_ends *ends;   /* how children of an agent before this one end; may be NULL */
	struct agt_state *state; /* what one end changes is one batch */
	uint64_t orphans;        /* reaped on behalf of nobody */
	struct rlimit nofile; /* what children get: the agent's own is raised to its hard limit */
};

struct agt_spawn {
	const char *const *argv;
	const char *const *env; /* NULL: the agent's own */
	const char *cwd;        /* NULL: the agent's own */
	const char *netns;      /* path of a network name space to run in; NULL: the agent's own */
	int fd[3];              /* become 0, 1, 2; -1: /dev/null */
	int console;          /* >= 0: a terminal: new session, controlling terminal and 0, 1, 2 */
	bool dies_with_agent; /* killed when the agent dies; else it goes on */
};

int agt_children_init(struct agt_children *cs, uv_loop_t *loop);

/* Handles the ends that the keeper has noted. */
void agt_children_inherit(struct agt_children *cs);

/* Starts a program, found by PATH, and watches it. Descriptors stay the caller's. */
int agt_child_spawn(struct agt_children *cs, const struct agt_spawn *s, struct agt_child *c,
	struct hf_err *reterr);

/* Watches a child that was forked elsewhere; c->fn and c->arg are set. */
void agt_child_watch(struct agt_children *cs, struct agt_child *c, pid_t pid);

/* Watches a process that the runtime left behind; c->fn and c->arg are set. 1: it has ended already
 * (*ret_status), 0: it runs. */
int agt_child_adopt(struct agt_children *cs, struct agt_child *c, pid_t pid, int *ret_status);

/* No callback comes any more; the process is reaped as an orphan. */
void agt_child_forget(struct agt_child *c);

/* Remember exits of unknown pids from now on; the last release forgets them. */
void agt_children_hold(struct agt_children *cs);
void agt_children_release(struct agt_children *cs);

/* What the protocol calls the exit code: the status, or 128 + signal. */
uint32_t agt_exit_code(int status);

#endif
