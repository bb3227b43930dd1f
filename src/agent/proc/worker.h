/* SPDX-License-Identifier: MIT */
/*
 * worker.h - work that may block, each in a child process of its own.
 *
 * The agent forks; the child calls the function on its copy of the agent's memory, writes how it
 * went into a pipe and ends. A mount or a removal that hangs holds up its own answer only: at the
 * deadline the request is refused and the child killed. A child that cannot be killed (it hangs in
 * the kernel) is counted until it goes. At AGT_WORKERS_MAX further work waits its turn, within its
 * deadline; when all of them hang it is refused.
 *
 * The child has no descriptors but 0 to 2, its pipe and `keep_fd`, and does not log.
 */
#ifndef AGT_PROC_WORKER_H
#define AGT_PROC_WORKER_H

#include "base/err.h"
#include <jansson.h>

#define AGT_WORKERS_MAX      64
#define AGT_WORK_WAITING_MAX 4096
#define AGT_WORK_DEADLINE_MS 30000

struct agt;
struct agt_request;

/* In the child: 0, or -errno and a text. */
typedef int agt_work_fn(void *arg, struct hf_err *reterr);
/* In the agent, in a later turn; code 0 is success. -ETIMEDOUT: the deadline has come. */
typedef void agt_worked_fn(void *arg, const struct hf_err *err);

struct agt_work {
	const char *what; /* a string constant, for people */
	agt_work_fn *fn;
	agt_worked_fn *done;
	void *arg;
	int keep_fd;            /* 0: none; stays the caller's */
	struct agt_request *rq; /* that waits for it; may be NULL */
};

int agt_work_start(struct agt *a, const struct agt_work *w, struct hf_err *reterr);

/* The i-th piece of work in progress, for people: its line, or false when there are not so many. */
bool agt_work_describe(const struct agt *a, size_t i, char *text, size_t cap);

/* All of them, for programs: Pid, What, AgeMs, DeadlineMs (what is left of it), GivenUp. */
json_t *agt_work_list(const struct agt *a);

/* For workers: runs a program to its end. -errno, or -EIO with its exit status in the text. */
int agt_work_run(const char *const argv[], struct hf_err *reterr);

#endif
