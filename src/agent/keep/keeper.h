/* SPDX-License-Identifier: MIT */
/*
 * keeper.h - the process above the agent, which outlives the agent's death.
 *
 *     keeper (PID 1, or a service's main process)
 *        +-- agent: one loop, all of the work          killed: started again at once
 *              +-- containers' processes               they are the keeper's then
 *
 * The keeper is a few lines that wait. What a dead agent leaves behind is kept by three means:
 *   - The keeper and the agent share one table of descriptors (CLONE_FILES). A pipe, a terminal or
 *     a stream's window that the agent has open stays open, under the same number, when it dies.
 *   - The keeper is a subreaper: the children of a dead agent become its own. How they end is
 *     written into memory that both share (struct agt_ends), and the agent is sent SIGCHLD.
 *   - What the numbers mean is in the agent's state file (state.h).
 *
 * SIGHUP makes the keeper start the program anew from its file, after an upgrade: the agent is
 * killed and the keeper executes the file in its own place; it has the same pid, children and
 * descriptors. SIGTERM and SIGINT are passed to the agent. An agent that ends by itself ends the
 * keeper too. One that crashes AGT_KEEP_TRIES times in a row, each within AGT_KEEP_STABLE_MS, is
 * started without its state: what makes it crash may be in there.
 */
#ifndef AGT_KEEP_KEEPER_H
#define AGT_KEEP_KEEPER_H

#include "base/base.h"
#include <signal.h>
#include <sys/types.h>

#define AGT_KEEP_ENDS      8192 /* ends of processes that no agent has taken yet; a power of two */
#define AGT_KEEP_TRIES     4
#define AGT_KEEP_STABLE_MS 5000
#define AGT_KEEP_FDS       4

/* Shared by keeper and agent. The keeper appends at `tail`, the agent takes at `head`. */
struct agt_ends {
	uint64_t magic;
	uint64_t id; /* random: names this table of descriptors */
	_Atomic uint32_t head, tail;
	struct {
		int32_t pid, status;
	} end[AGT_KEEP_ENDS];
};

struct agt_keeper {
	struct agt_ends *ends; /* NULL: there is no keeper */
	int fd[AGT_KEEP_FDS];  /* the keeper's own, besides 0 to 2: not for agents to close */
	size_t n_fds;
	pid_t pid;
	bool poisoned; /* the state has killed its readers: begin without it */
};

/* Runs fn(k, arg) in a child until it returns; then returns what it returned (to be the exit
 * status). -errno: no keeper can be had. fds: the caller's own descriptors, -1 for none. */
int agt_keep(struct agt_keeper *k, const int *fds, size_t n_fds,
	int (*fn)(struct agt_keeper *, void *), void *arg, char *const argv[]);

/* This program was executed by a keeper in its own place: the system is set up already. */
bool agt_keep_upgraded(void);

/* The status that waitpid(2) would have given. */
int agt_wait_status(const siginfo_t *si);

#endif
