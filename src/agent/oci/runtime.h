/* SPDX-License-Identifier: MIT */
/*
 * runtime.h - runs the OCI runtime (crun or runc) as a child and says how it went.
 *
 * Each run has a number; its files are DIR/<number>.{log,pid,json,sock}, removed when it is over.
 * Many at once cost the kernel more than one after the other, so only twice as many as there are
 * processors are run, four at least; the next waits. One that takes longer than
 * AGT_RUNTIME_YOUNG_MS does not count: whatever holds it up holds up nobody else.
 *
 * While one runs, exits of pids that nobody knows yet are remembered (proc/child.h): the runtime
 * leaves processes to the agent, and they may end before their pid is read.
 */
#ifndef AGT_OCI_RUNTIME_H
#define AGT_OCI_RUNTIME_H

#include "agent/loop.h"
#include "agent/proc/child.h"
#include "base/err.h"
#include <jansson.h>
#include <sys/stat.h>

#define AGT_RUNTIME_DEADLINE_MS 120000
#define AGT_RUNTIME_YOUNG_MS    1000
#define AGT_RUNTIME_ARGS        16

struct agt;
struct agt_request;

struct agt_runtime {
	struct agt *a;
	char program[128];
	char path[256]; /* where that is; looked for once */
	bool is_crun;
	bool pivots;   /* pivot_root works: the root is not the bare initramfs */
	char dir[64];  /* for the files of runs */
	char root[80]; /* the runtime's own state */
	char copy[80]; /* crun's copy that is executed, of this file */
	int copy_fd;   /* -1: there is none, the file is executed */
	struct stat original;
	uint64_t runs;
	struct hf_list all; /* runs that are under way or wait */
	size_t n_waiting, most;
	struct agt_timer *look; /* while some wait: whether those that run are old by now */
};

/* How a run ended: hresult BRG_OK, or an error and its text. */
struct agt_run_result {
	int32_t hresult;
	const char *text;
	pid_t pid;   /* want_pid: of the process that was left behind */
	int console; /* want_console: the terminal's master side, the callee's; else -1 */
};

typedef void agt_run_fn(void *arg, const struct agt_run_result *result);

struct agt_run {
	const char *args[AGT_RUNTIME_ARGS]; /* after the global options; NULL at the end */
	const char *id;                     /* the last argument */
	const json_t *json;                 /* written to a file, and named by the option */
	const char *json_option;            /* exec: --process; update: --resources */
	bool want_pid, want_console;
	int fd[3];              /* standard streams; stay the caller's */
	struct agt_request *rq; /* that waits for it; may be NULL */
	bool outlives_agent;    /* else it is killed when the agent dies */
};

/* Finds the program and makes the folders. */
int agt_runtime_init(struct agt_runtime *rt, struct agt *a, struct hf_err *reterr);

/* Starts a run, or has it wait; the callback comes in a later turn. -errno and a text when it
 * cannot start. */
int agt_runtime_run(
	struct agt *a, const struct agt_run *run, agt_run_fn *fn, void *arg, struct hf_err *reterr);

/* The protocol's code for an error text of crun or runc. */
int32_t agt_runtime_hresult(const char *text);

#endif
