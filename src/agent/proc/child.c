/* SPDX-License-Identifier: MIT */
#include "child.h"
#include "agent/keep/keeper.h"
#include "agent/keep/state.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

uint32_t agt_exit_code(int status)
{
	return WIFSIGNALED(status) ? 128u + (uint32_t)WTERMSIG(status)
				   : (uint32_t)WEXITSTATUS(status);
}

static struct agt_child *find(struct agt_children *cs, pid_t pid)
{
	hf_list_for_each (l, &cs->list) {
		struct agt_child *c = HF_CONTAINER_OF(l, struct agt_child, link);
		if (c->pid == pid)
			return c;
	}
	return NULL;
}

static void reap_unknown(struct agt_children *cs, pid_t pid, int status)
{
	cs->orphans++;
	if (cs->hold == 0)
		return;
	if (cs->n_exits == AGT_EXITS_MAX) { /* keep the newest: what is awaited ends last */
		memmove(cs->exits, cs->exits + 1, (AGT_EXITS_MAX - 1) * sizeof(cs->exits[0]));
		cs->n_exits--;
	}
	cs->exits[cs->n_exits++] = (struct agt_exit){ .pid = pid, .status = status };
}

static void ended(struct agt_children *cs, pid_t pid, int status)
{
	struct agt_child *c = find(cs, pid);
	if (!c) {
		reap_unknown(cs, pid, status);
		return;
	}
	agt_child_forget(c);
	agt_state_begin(cs->state);
	c->fn(c->arg, status);
	agt_state_end(cs->state);
}

void agt_children_inherit(struct agt_children *cs)
{
	struct agt_ends *e = cs->ends;
	if (!e)
		return;
	for (uint32_t head = atomic_load(&e->head); head != atomic_load(&e->tail); head++) {
		ended(cs, e->end[head % AGT_KEEP_ENDS].pid, e->end[head % AGT_KEEP_ENDS].status);
		atomic_store(&e->head, head + 1); /* what it means is in the state by now */
	}
}

/* What an end means is in the state before the process is reaped: if the agent dies in between, the
 * keeper reaps it and the next agent is told. */
static void on_sigchld(uv_signal_t *h, int signo)
{
	struct agt_children *cs = h->data;
	siginfo_t si = { 0 };
	(void)signo;
	while (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) == 0 && si.si_pid > 0) {
		pid_t pid = si.si_pid;
		ended(cs, pid, agt_wait_status(&si));
		(void)waitpid(pid, NULL, WNOHANG); /* it has ended: this is the reaping */
		si.si_pid = 0;
	}
	agt_children_inherit(cs);
}

int agt_children_init(struct agt_children *cs, uv_loop_t *loop)
{
	*cs = (struct agt_children){ .ends = cs->ends, .state = cs->state };
	hf_list_init(&cs->list);
	if (getrlimit(RLIMIT_NOFILE, &cs->nofile) == 0) {
		struct rlimit all = { .rlim_cur = cs->nofile.rlim_max,
			.rlim_max = cs->nofile.rlim_max };
		(void)setrlimit(RLIMIT_NOFILE, &all); /* otherwise fewer streams are possible */
	}
	int r = uv_signal_init(loop, &cs->sigchld);
	cs->sigchld.data = cs;
	return r < 0 ? r : uv_signal_start(&cs->sigchld, on_sigchld, SIGCHLD);
}

void agt_child_watch(struct agt_children *cs, struct agt_child *c, pid_t pid)
{
	c->pid = pid;
	hf_list_append(&cs->list, &c->link);
}

void agt_child_forget(struct agt_child *c)
{
	if (c->pid == 0)
		return;
	c->pid = 0;
	hf_list_remove(&c->link);
}

int agt_child_adopt(struct agt_children *cs, struct agt_child *c, pid_t pid, int *ret_status)
{
	for (size_t i = cs->n_exits; i-- > 0;)
		if (cs->exits[i].pid == pid) {
			*ret_status = cs->exits[i].status;
			return 1;
		}
	agt_child_watch(cs, c, pid);
	return 0;
}

void agt_children_hold(struct agt_children *cs)
{
	cs->hold++;
}

void agt_children_release(struct agt_children *cs)
{
	if (--cs->hold == 0)
		cs->n_exits = 0;
}

static int enter(const char *netns)
{
	int fd = open(netns, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? fd : setns(fd, CLONE_NEWNET);
}

/* Runs in the child, on the parent's memory and with all signals blocked: system calls only, and
 * nothing of the parent's is written but *ret_errno. */
static void child_exec(const struct agt_spawn *s, const struct rlimit *nofile, const int fd[3],
	volatile int *ret_errno)
{
	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL); /* the two that refuse are at their default */
	if (s->console >= 0 && (setsid() < 0 || ioctl(s->console, TIOCSCTTY, 0) < 0))
		goto fail;
	if (s->console < 0 && setpgid(0, 0) < 0)
		goto fail;
	for (int i = 0; i < 3; i++)
		if (dup2(fd[i], i) < 0)
			goto fail;
	if (s->cwd && chdir(s->cwd) < 0)
		goto fail;
	if (s->dies_with_agent)
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* cannot fail for a signal */
	if (s->netns && enter(s->netns) < 0)
		goto fail;
	int adj = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	ssize_t given_up = write(adj, "0", 1);  /* the agent's protection is not its children's */
	(void)given_up;                         /* an agent that has none cannot give it up */
	(void)setrlimit(RLIMIT_NOFILE, nofile); /* a lower soft limit is always granted */
	sigset_t none;
	(void)sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL); /* cannot fail with these arguments */
	extern char **environ;
	(void)execvpe(s->argv[0], (char *const *)s->argv, s->env ? (char *const *)s->env : environ);
fail:
	*ret_errno = errno;
	_exit(127);
}

static pid_t __attribute__((noinline)) spawn(const struct agt_spawn *s, const struct rlimit *nofile,
	const int fd[3], volatile int *ret_errno)
{
	sigset_t all, old;
	(void)sigfillset(&all);
	(void)sigprocmask(SIG_SETMASK, &all, &old); /* no handler of ours may run in the child */
	pid_t pid = vfork();
	if (pid == 0)
		child_exec(s, nofile, fd, ret_errno);
	if (pid < 0)
		*ret_errno = errno;
	(void)sigprocmask(SIG_SETMASK, &old, NULL);
	return pid;
}

/* Three descriptors above 2, so that dup2 in the child neither overwrites one that is still needed
 * nor leaves close-on-exec set. */
static int prepare_fds(const struct agt_spawn *s, int ret_fd[3])
{
	HF_CLEANUP(fd_closep) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++) {
		int from = s->console >= 0 ? s->console : s->fd[i] >= 0 ? s->fd[i] : null;
		ret_fd[i] = fcntl(from, F_DUPFD_CLOEXEC, 3);
		if (ret_fd[i] < 0)
			return -errno;
	}
	return 0;
}

int agt_child_spawn(struct agt_children *cs, const struct agt_spawn *s, struct agt_child *c,
	struct hf_err *reterr)
{
	int fd[3] = { -1, -1, -1 };
	volatile int err = 0;
	pid_t pid = -1;
	int r = prepare_fds(s, fd);
	if (r == 0) {
		pid = spawn(s, &cs->nofile, fd, &err);
		r = -err;
	}
	for (int i = 0; i < 3; i++)
		fd_closep(&fd[i]);
	if (r < 0) /* a child that failed to exec is a zombie now and reaped as an orphan */
		return hf_err_set(reterr, r, "%s: cannot start: %s", s->argv[0], strerror(-r));
	agt_child_watch(cs, c, pid);
	return 0;
}
