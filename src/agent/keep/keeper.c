/* SPDX-License-Identifier: MIT */
#include "keeper.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define MAGIC 0x3153544958454148ull /* of the shared memory's layout */
#define ENV   "HOLDFAST_KEEPER"     /* after an upgrade: the descriptor of the shared memory */

bool agt_keep_upgraded(void)
{
	return getenv(ENV) != NULL;
}

int agt_wait_status(const siginfo_t *si)
{
	int dumped = si->si_code == CLD_DUMPED ? WCOREFLAG : 0;
	return si->si_code == CLD_EXITED ? (si->si_status & 0xff) << 8 : si->si_status | dumped;
}

/* The shared memory, of the program before an upgrade or new. */
static int open_ends(struct agt_keeper *k)
{
	const char *from = getenv(ENV);
	struct stat st;
	int fd = from ? (int)strtol(from, NULL, 10) : memfd_create("ends", MFD_CLOEXEC);
	if (from)
		(void)unsetenv(ENV); /* cannot fail for this name */
	if (fd < 0 || (!from && ftruncate(fd, sizeof(*k->ends)) < 0) || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size != (off_t)sizeof(*k->ends))
		return -EBADMSG;
	k->ends = mmap(NULL, sizeof(*k->ends), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (k->ends == MAP_FAILED)
		return -errno;
	if (from && k->ends->magic != MAGIC)
		return -EBADMSG;
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* cannot fail for an open descriptor */
	k->ends->magic = MAGIC;
	k->fd[k->n_fds++] = fd;
	if (!from && getrandom(&k->ends->id, sizeof(k->ends->id), 0) < 0)
		return -errno;
	return 0;
}

static void note_end(struct agt_ends *e, pid_t pid, int status)
{
	uint32_t tail = atomic_load(&e->tail);
	if (tail - atomic_load(&e->head) == AGT_KEEP_ENDS) { /* the newest are awaited */
		hf_warn("keeper: process %d has ended; there is no room to note how", (int)pid);
		return;
	}
	e->end[tail % AGT_KEEP_ENDS].pid = pid;
	e->end[tail % AGT_KEEP_ENDS].status = status;
	atomic_store(&e->tail, tail + 1);
}

/* Starts the agent. A fork that shares the descriptors; fork(2) of the C library cannot do that,
 * and what it does besides is for programs with threads. */
static pid_t start(struct agt_keeper *k, int (*fn)(struct agt_keeper *, void *), void *arg,
	const sigset_t *signals)
{
	pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, 0);
	if (pid != 0)
		return pid;
	/* Two agents would fight for the host: without its keeper this one is none. */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail for a signal */
	if (getppid() != k->pid)
		_exit(EXIT_FAILURE);
	(void)prctl(PR_SET_NAME, "holdfast-agent");    /* cannot fail */
	(void)sigprocmask(SIG_SETMASK, signals, NULL); /* cannot fail with these arguments */
	exit(fn(k, arg));
}

/* Executes the program's file in the keeper's place. Returns when that fails. */
static void upgrade(const struct agt_keeper *k, const char *program, char *const argv[],
	const sigset_t *signals)
{
	char number[16];
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; d && (e = readdir(d));)
		if (strtol(e->d_name, NULL, 10) > 2)
			(void)fcntl(
				(int)strtol(e->d_name, NULL, 10), F_SETFD, 0); /* or it is "." */
	if (d)
		(void)closedir(d);
	(void)snprintf(number, sizeof(number), "%d", k->fd[k->n_fds - 1]);
	(void)setenv(ENV, number, 1); /* without it the state is void, which is told */
	(void)sigprocmask(SIG_SETMASK, signals, NULL); /* cannot fail with these arguments */
	(void)execv(program, argv);
	hf_error("keeper: %s: cannot execute: %s; the old program goes on", program,
		strerror(errno));
	(void)unsetenv(ENV); /* cannot fail for this name */
}

/* Reaps all that have ended. True and the agent's status when it is among them. An end is noted
 * before the process is gone, so who finds it gone finds the note. */
static bool reap(struct agt_keeper *k, pid_t agent, int *ret_status)
{
	bool ended = false;
	bool any = false;
	siginfo_t si = { 0 };
	while (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid > 0) {
		int status = agt_wait_status(&si);
		if (si.si_pid == agent) {
			*ret_status = status;
			ended = true;
		} else {
			note_end(k->ends, si.si_pid, status);
			any = true;
		}
		(void)waitpid(si.si_pid, NULL, WNOHANG); /* it has ended: this is the reaping */
		si.si_pid = 0;
	}
	if (any && !ended)
		(void)kill(agent, SIGCHLD); /* it is not reaped: the pid is its own */
	return ended;
}

/* Waits for the agent's end, and tells how it came. SIGHUP ends it. */
static int wait_for(
	struct agt_keeper *k, pid_t agent, const sigset_t *set, bool *ret_upgrade, bool *ret_end)
{
	int status = 0;
	while (!reap(k, agent, &status)) {
		int signo = sigwaitinfo(set, NULL);
		if (signo == SIGHUP) {
			*ret_upgrade = true;
			(void)kill(agent, SIGKILL); /* not reaped: the pid is its own */
		} else if (signo > 0 && signo != SIGCHLD) {
			*ret_end = true; /* also when the agent dies before it hears of it */
			(void)kill(agent, signo);
		}
	}
	return status;
}

int agt_keep(struct agt_keeper *k, const int *fds, size_t n_fds,
	int (*fn)(struct agt_keeper *, void *), void *arg, char *const argv[])
{
	sigset_t set, before;
	char program[256];
	unsigned died = 0;
	*k = (struct agt_keeper){ .pid = getpid() };
	for (size_t i = 0; i < n_fds; i++)
		if (fds[i] > 2)
			k->fd[k->n_fds++] = fds[i];
	ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
	program[HF_MAX(n, 0)] = '\0';
	int r = open_ends(k);
	if (r == 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		r = -errno;
	if (r < 0) {
		k->ends = NULL;
		return r;
	}
	(void)prctl(PR_SET_NAME, "holdfast-keeper"); /* cannot fail */
	(void)sigemptyset(&set);
	(void)sigaddset(&set, SIGCHLD);
	(void)sigaddset(&set, SIGTERM);
	(void)sigaddset(&set, SIGINT);
	(void)sigaddset(&set, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &set, &before); /* cannot fail with these arguments */
	for (;;) {
		bool wants_upgrade = false, wants_end = false;
		uint64_t began_us = hf_now_us();
		pid_t agent = start(k, fn, arg, &before);
		if (agent < 0)
			return -errno;
		int status = wait_for(k, agent, &set, &wants_upgrade, &wants_end);
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		if (wants_end)
			return EXIT_SUCCESS;
		if (wants_upgrade)
			upgrade(k, program, argv, &before);
		else
			hf_error("the agent was killed by signal %d, and starts again",
				WTERMSIG(status));
		/* who was killed from outside had no part in it */
		bool own_fault = WTERMSIG(status) != SIGKILL;
		died = own_fault && hf_now_us() - began_us < AGT_KEEP_STABLE_MS * 1000ull ? died + 1
											  : 0;
		k->poisoned = died >= AGT_KEEP_TRIES;
		if (died > AGT_KEEP_TRIES)
			(void)nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL); /* signals may */
	}
}
