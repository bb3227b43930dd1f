/* SPDX-License-Identifier: MIT */
/*
 * agent.h - the whole agent: one thread and one loop own everything below.
 *
 * What a host is told lives in `session`; how it is reached in `link`; what it governs (containers,
 * processes, streams) outlives both. Whatever may block (a mount, the OCI runtime) is a child, or a
 * worker (proc/worker.h), and comes back as an event.
 */
#ifndef AGT_AGENT_H
#define AGT_AGENT_H

#include "flags.h"
#include "host/container.h"
#include "keep/keeper.h"
#include "keep/state.h"
#include "link/link.h"
#include "link/session.h"
#include "loop.h"
#include "oci/runtime.h"
#include "proc/child.h"
#include "proc/process.h"
#include "stdio/resume.h"

struct agt {
	const struct agt_flags *flags;
	const struct agt_keeper *keeper; /* ends NULL: there is none, and no state */
	bool init;                       /* this is a whole machine's userland */
	uv_loop_t loop;
	struct agt_state state;
	struct agt_link link;
	struct agt_session session;
	struct agt_children children;
	struct agt_runtime runtime;
	struct hf_list containers; /* struct agt_container */
	struct hf_list processes;  /* struct agt_process */
	struct hf_list resumables; /* struct agt_resume */
	struct hf_list namespaces; /* struct agt_netns */
	struct hf_list workers;    /* proc/worker.c */
	size_t n_containers, n_processes, n_streams, n_namespaces;
	size_t n_workers, n_hung, n_work_waiting; /* proc/worker.c */
	int oom_fd;                               /* host/oom.h */
	struct agt_timer *oom_timer;
	uint64_t oom_wait_ms;
	uv_signal_t sigterm, sigint;
	bool shut_down; /* the host has asked for the machine's end */
	bool stopping;  /* the virtual machine, or the agent, is to end */
};

/* Runs until stopped; returns the exit status. */
int agt_run(struct agt *a, const struct agt_flags *flags, const struct agt_keeper *keeper);

/* Ends the loop: a stopped agent does not dial again. */
void agt_stop(struct agt *a, const char *why);

#endif
