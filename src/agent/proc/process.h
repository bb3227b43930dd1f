/* SPDX-License-Identifier: MIT */
/*
 * process.h - processes that the host knows: init of a container, executed in one, or external
 * (in the virtual machine itself).
 *
 *     RUNNING --reaped--> DRAINING --output is with the host--> EXITED
 *
 * RUNNING: the pid is ours and may be signalled. DRAINING: reaped, the exit code is known and not
 * told yet. EXITED: waits are answered at once. Init stays until its container is deleted. The
 * others stay until their exit was told, and of those the AGT_EXITED_MAX youngest, so that a wait
 * that was lost with its connection can be asked again; when the table is full, half of them go.
 */
#ifndef AGT_PROC_PROCESS_H
#define AGT_PROC_PROCESS_H

#include "agent/stdio/stdio.h"
#include "child.h"

#define AGT_PROCESSES_MAX 4096
#define AGT_EXITED_MAX    256

struct agt;
struct agt_container;
struct agt_heir;
struct agt_request;

enum agt_process_state { AGT_PROCESS_RUNNING, AGT_PROCESS_DRAINING, AGT_PROCESS_EXITED };

struct agt_process {
	struct hf_list link; /* of agt.processes, oldest first */
	struct agt *a;
	struct agt_container *container; /* NULL: external */
	bool init;
	uint64_t serial; /* its name in the state */
	enum agt_process_state state;
	pid_t pid;
	int pidfd; /* RUNNING only; -1 when the kernel has none */
	uint32_t exit_code;
	bool told; /* a wait was answered with it */
	struct agt_child child;
	struct agt_stdio *stdio; /* may be NULL */
	int console;             /* terminal's master side, -1: not a terminal */
	struct hf_list waits;    /* struct agt_request */
};

/* NULL: no memory, or AGT_PROCESSES_MAX. Takes the set and the console when it succeeds. */
struct agt_process *agt_process_new(
	struct agt *a, struct agt_container *c, bool init, struct agt_stdio *stdio, int console);

/* The kernel's process: started by the agent itself, or left behind by the runtime. The latter may
 * have ended already. */
int agt_process_spawn(struct agt_process *p, const struct agt_spawn *s, struct hf_err *reterr);
void agt_process_adopt(struct agt_process *p, pid_t pid);

/* Writes it into the state, as it is now. */
void agt_process_put(struct agt_process *p);

/* As the agent before this one left them. Settle: goes on with those that have ended. */
void agt_processes_restore(struct agt_heir *h);
void agt_processes_settle(struct agt *a);

/* By the name in the state; NULL: it is forgotten already. */
struct agt_process *agt_process_by_serial(struct agt *a, uint64_t serial);

/* Takes it out of the table; pending waits are refused. Accepts NULL. */
void agt_process_free(struct agt_process *p);

/* The process of a container (NULL: external) with this pid, the newest if several; or NULL. */
struct agt_process *agt_process_find(struct agt *a, const struct agt_container *c, uint32_t pid);

/* -ESRCH when it has ended. */
int agt_process_signal(const struct agt_process *p, int signo);

/* The request is answered when the process has exited, or after the timeout. */
void agt_process_wait(struct agt_process *p, struct agt_request *rq, uint32_t timeout_ms);

#endif
