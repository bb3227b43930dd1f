/* SPDX-License-Identifier: MIT */
/*
 * proc.h - the table of processes of one VM, as plain data with a JSON form.
 *
 * A process is named CONTAINER (the container's init) or CONTAINER.N (the N-th exec into it). It
 * is kept after its end, so that its exit code and output can be asked for at any time, until the
 * table is full: then the oldest one that has ended makes room.
 */
#ifndef HF_SUPERVISOR_PROC_H
#define HF_SUPERVISOR_PROC_H

#include "base/err.h"
#include "base/list.h"
#include <jansson.h>

#define PROC_MAX           512 /* processes in the table */
#define PROC_CONTAINER_MAX 32
#define PROC_NAME_MAX      (PROC_CONTAINER_MAX + 8)
#define PROC_KEY_MAX       64
#define PROC_KILLS_MAX                                                                             \
	64 /* signals and removals whose outcome is remembered for a repeated request */

/*
 * STARTING  `step` says what the guest was asked for last
 * RUNNING   pid is valid
 * EXITED    exit_code is valid
 * FAILED    never ran; error says why
 * LOST      its guest is gone; error says why, the exit code will never be known
 */
enum proc_state { PROC_STARTING, PROC_RUNNING, PROC_EXITED, PROC_FAILED, PROC_LOST, PROC_STATE_N_ };

/* What the guest is asked for, in this order; an exec begins with STEP_EXEC. */
enum proc_step {
	STEP_LAYERS,
	STEP_CREATE,
	STEP_START,
	STEP_EXEC,
	STEP_WAIT,
	STEP_UNMOUNT, /* from here on: a container that is over is removed */
	STEP_DELETE,
	STEP_N_
};

enum proc_fd { PROC_STDIN, PROC_STDOUT, PROC_STDERR, PROC_FD_N_ };

struct hf_guest_stream;
struct proc;

/*
 * One standard stream. Output: the file is the truth, its length is the received position. What is
 * in front of session_output_begin() is a hole in it.
 */
struct proc_stream {
	struct proc *proc;
	enum proc_fd which;
	bool used, ended;
	bool held; /* not read from the guest, until a reader that the process waits for has read */
	int stuck; /* -errno when the file cannot be written, and the process waits */
	uint64_t len;     /* of the output file */
	uint64_t dropped; /* how much of it is a hole, as far as we know */
	int fd;           /* the output file, -1 until it is needed */
	struct hf_guest_stream *guest;
	struct hf_list readers; /* struct attach */
};

struct proc {
	struct hf_list link;
	char name[PROC_NAME_MAX + 1], container[PROC_CONTAINER_MAX + 1], key[PROC_KEY_MAX + 1];
	bool tty;
	enum proc_state state;
	enum proc_step step;
	uint32_t pid, exit_code;
	uint64_t oom_kills; /* init: of its container's processes */
	char error[252];
	json_t *spec; /* what to start, until it was started */
	struct proc_stream stream[PROC_FD_N_];
};

struct proc_kill {
	char key[PROC_KEY_MAX + 1];
	bool done;
	int code; /* 0, or -errno with error */
	char error[252];
};

struct proc_table {
	struct hf_list all; /* oldest first */
	size_t n;
	uint64_t next_exec; /* counts over all containers, so that a name is never used again */
	struct proc_kill kills[PROC_KILLS_MAX];
	size_t n_kills;
};

void proc_table_init(struct proc_table *t);
void proc_table_done(struct proc_table *t);

int proc_container_check(const char *container, struct hf_err *reterr);

/* A new process; exec: of an existing container, else its init. */
int proc_add(struct proc_table *t, const char *container, bool exec, const char *key,
	struct proc **ret_p, struct hf_err *reterr);
/* The oldest one that has ended and has no streams in use; NULL: none. */
struct proc *proc_oldest_over(struct proc_table *t);
void proc_remove(struct proc_table *t, struct proc *p);
struct proc *proc_find(struct proc_table *t, const char *name);
struct proc *proc_find_key(struct proc_table *t, const char *key); /* "" finds nothing */

/* The memory of a signal or a removal; an old one makes room. */
struct proc_kill *proc_kill_add(struct proc_table *t, const char *key);
struct proc_kill *proc_kill_find(struct proc_table *t, const char *key);

static inline bool proc_is_over(const struct proc *p)
{
	return p->state >= PROC_EXITED;
}
const char *proc_state_name(enum proc_state state);
const char *proc_fd_name(enum proc_fd which);
int proc_fd_parse(const char *name, enum proc_fd *ret_which);
int proc_step_parse(const char *name, enum proc_step *ret_step);
const char *proc_step_name(enum proc_step step);

json_t *proc_table_json(const struct proc_table *t);
/* Refused whole (the table is then empty) when anything in it is not as we write it. */
int proc_table_load(struct proc_table *t, json_t *json, struct hf_err *reterr);

/* What `ps` shows of a process. */
json_t *proc_summary(const struct proc *p);

#endif
