/* SPDX-License-Identifier: MIT */
#include "runtime.h"
#include "agent/agent.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LOG_TAIL 8192       /* bytes of the runtime's log that are looked at */
#define COPY_MAX (8u << 20) /* bytes of a runtime that is copied */

#ifndef MFD_EXEC /* Linux 6.3 */
#define MFD_EXEC 0x10u
#endif

enum file { FILE_LOG, FILE_PID, FILE_JSON, FILE_SOCK, FILE_N_ };
static const char *const suffix[FILE_N_] = { "log", "pid", "json", "sock" };

struct running {
	struct hf_list link; /* of agt_runtime.all, in the order of their coming */
	struct agt *a;
	struct agt_request *rq; /* may be NULL */
	uint64_t began_us;      /* 0: waits */
	char **argv;            /* waits only: a block of its own, and the words too */
	int fd[3];              /* waits only */
	struct agt_child child;
	struct agt_timer *deadline;
	char path[FILE_N_][96];
	bool want_pid, want_console, has_json, outlives_agent;
	int console_listener;
	agt_run_fn *fn;
	void *arg;
};

static void start_next(void *arg);

int32_t agt_runtime_hresult(const char *text)
{
	static const struct {
		const char *part;
		int32_t hresult;
	} table[] = {
		{ "does not exist", BRG_E_SYSTEM_NOT_FOUND },
		{ "already exists", BRG_E_ALREADY_EXISTS },
		{ "with id exists", BRG_E_ALREADY_EXISTS },
		{ "invalid container id", BRG_E_INVALID_ARG },
		{ "invalid id format", BRG_E_INVALID_ARG },
		{ "is not stopped", BRG_E_INVALID_STATE },
		{ "not stopped", BRG_E_INVALID_STATE },
		{ "still running", BRG_E_INVALID_STATE },
		{ "is not running", BRG_E_ALREADY_STOPPED },
		{ "not running", BRG_E_ALREADY_STOPPED },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(table); i++)
		if (strstr(text, table[i].part))
			return table[i].hresult;
	return BRG_E_FAIL;
}

/* The program's file; a name with a slash is one. */
static bool find_program(const char *program, char *at, size_t cap)
{
	char copy[1024], *save = NULL;
	const char *path = getenv("PATH");
	(void)snprintf(at, cap, "%s", program);
	if (strchr(program, '/'))
		return true;
	(void)snprintf(copy, sizeof(copy), "%s", path ? path : "/usr/sbin:/usr/bin:/sbin:/bin");
	for (char *d = strtok_r(copy, ":", &save); d; d = strtok_r(NULL, ":", &save)) {
		int n = snprintf(at, cap, "%s/%s", d, program);
		if (n > 0 && (size_t)n < cap && access(at, X_OK) == 0)
			return true;
	}
	(void)snprintf(at, cap, "%s", program); /* each run says that it is not there */
	return false;
}

static int make_dir(const char *path, struct hf_err *reterr)
{
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return hf_err_set(
			reterr, -errno, "%s: cannot make the folder: %s", path, strerror(errno));
	return 0;
}

/* Sealed memory with what the file has, which can be executed; -errno. */
static int copy_program(const char *path, size_t size)
{
	const char *name = "crun";
	char magic[4] = "";
	off_t at = 0;
	HF_CLEANUP(fd_closep) int from = open(path, O_RDONLY | O_CLOEXEC);
	HF_CLEANUP(fd_closep)
	int to = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	if (to < 0 && errno == EINVAL)
		to = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (from < 0 || to < 0 || size > COPY_MAX)
		return -EINVAL;
	while (at < (off_t)size && sendfile(to, from, &at, size - (size_t)at) > 0)
		;
	/* A script's interpreter could not open it. */
	if (at != (off_t)size || pread(to, magic, 4, 0) < 4 || memcmp(magic, "\177ELF", 4))
		return -ENOEXEC;
	if (fcntl(to, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		return -errno;
	return fcntl(to, F_DUPFD_CLOEXEC, 3); /* the others become a child's own */
}

/* The file to execute. crun copies its own into memory and executes itself again from there, lest a
 * container write to it, unless it finds itself in sealed memory. So one copy serves all runs,
 * under a name that the process gets; another file in its place is copied anew. */
static const char *program_of(struct agt_runtime *rt)
{
	char target[40];
	struct stat st;
	if (!rt->is_crun || stat(rt->path, &st) < 0)
		return rt->path;
	if (st.st_ino != rt->original.st_ino || st.st_dev != rt->original.st_dev ||
		st.st_ctim.tv_sec != rt->original.st_ctim.tv_sec ||
		st.st_ctim.tv_nsec != rt->original.st_ctim.tv_nsec) {
		rt->original = st;
		fd_closep(&rt->copy_fd);
		rt->copy_fd = copy_program(rt->path, (size_t)st.st_size);
		(void)snprintf(target, sizeof(target), "/proc/self/fd/%d", rt->copy_fd);
		(void)unlink(rt->copy); /* an agent's before this one */
		if (rt->copy_fd >= 0 && symlink(target, rt->copy) < 0)
			fd_closep(&rt->copy_fd);
	}
	return rt->copy_fd >= 0 ? rt->copy : rt->path;
}

/* pivot_root(2) needs a root that is mounted on something: the bare initramfs is its own parent. */
static bool root_has_parent(void)
{
	char line[1024], at[1024];
	int id, parent;
	bool found = false;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%d %d %*s %*s %1023s", &id, &parent, at) == 3 &&
			!strcmp(at, "/") && id != parent;
	if (f)
		(void)fclose(f); /* was only read */
	return found;
}

int agt_runtime_init(struct agt_runtime *rt, struct agt *a, struct hf_err *reterr)
{
	const char *dir = a->flags->state_dir ? a->flags->state_dir : "/run/holdfast-agent";
	const char *program = a->flags->runtime;
	*rt = (struct agt_runtime){ .a = a, .copy_fd = -1 };
	if (!program)
		program = find_program("crun", rt->path, sizeof(rt->path)) ||
					  !find_program("runc", rt->path, sizeof(rt->path))
				  ? "crun"
				  : "runc";
	if (strlen(program) >= sizeof(rt->program) || strlen(dir) >= sizeof(rt->dir))
		return hf_err_set(reterr, -ENAMETOOLONG,
			"-runtime or -state: at most %zu and %zu bytes", sizeof(rt->program) - 1,
			sizeof(rt->dir) - 1);
	(void)snprintf(rt->program, sizeof(rt->program), "%s", program);
	(void)find_program(
		program, rt->path, sizeof(rt->path)); /* a run says when it is not there */
	(void)snprintf(rt->dir, sizeof(rt->dir), "%s", dir);
	(void)snprintf(rt->root, sizeof(rt->root), "%s/runtime", dir);
	(void)snprintf(rt->copy, sizeof(rt->copy), "%s/crun", dir);
	const char *slash = strrchr(program, '/');
	long processors = sysconf(_SC_NPROCESSORS_ONLN);
	rt->most = (size_t)HF_MAX(2 * processors, 4);
	hf_list_init(&rt->all);
	rt->look = agt_timer_new(&a->loop, start_next, a);
	if (!rt->look)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	rt->pivots = root_has_parent();
	rt->is_crun = !strcmp(slash ? slash + 1 : program, "crun");
	int r = make_dir(rt->dir, reterr);
	return r < 0 ? r : make_dir(rt->root, reterr);
}

/* The end of a file: its last bytes that fit. */
static ssize_t read_tail(const char *path, char *text, size_t cap)
{
	HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	off_t from = st.st_size >= (off_t)cap ? st.st_size - (off_t)cap + 1 : 0;
	ssize_t n = pread(fd, text, cap - 1, from);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	return n;
}

/* The text of the last error in the runtime's log, or how it ended. */
static void error_text(const struct running *r, int status, char *text, size_t cap)
{
	char log[LOG_TAIL], *save = NULL;
	const char *program = r->a->runtime.program;
	if (WIFSIGNALED(status))
		(void)snprintf(text, cap, "%s: killed by signal %d", program, WTERMSIG(status));
	else
		(void)snprintf(text, cap, "%s: exit status %d without an error text", program,
			WEXITSTATUS(status));
	if (read_tail(r->path[FILE_LOG], log, sizeof(log)) <= 0)
		return;
	for (char *line = strtok_r(log, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *msg = NULL, *level = "error";
		json_t *o = json_loads(line, 0, NULL);
		(void)json_unpack(o, "{s:s, s?s}", "msg", &msg, "level", &level);
		bool error = !strcmp(level, "error") || !strcmp(level, "fatal");
		if (msg && error)
			(void)snprintf(text, cap, "%s: %s", program, msg);
		json_decref(o);
	}
}

static pid_t read_pid(const char *path)
{
	char text[32];
	return fd_read_line(path, text, sizeof(text)) == 0 ? (pid_t)strtol(text, NULL, 10) : -1;
}

/* The runtime has sent the terminal before it ended, so it is there or never comes. */
static int receive_console(int listener)
{
	char byte[256]; /* the terminal's name */
	int fds[1];
	size_t n_fds = 0;
	HF_CLEANUP(fd_closep) int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return -errno;
	ssize_t n = unix_recv_fds(fd, byte, sizeof(byte), fds, 1, &n_fds);
	if (n < 0 || n_fds == 0)
		return n < 0 ? (int)n : -ENODATA;
	(void)fd_set_nonblock(fds[0], true); /* a terminal; fails on bad descriptors only */
	return fds[0];
}

static void free_running(struct running *r)
{
	for (size_t i = 0; r->argv && r->argv[i]; i++)
		free(r->argv[i]);
	free(r->argv);
	for (int i = 0; i < 3; i++)
		fd_closep(&r->fd[i]);
	r->a->runtime.n_waiting -= r->began_us == 0;
	hf_list_remove(&r->link);
	const bool made[FILE_N_] = { true, r->want_pid, r->has_json, r->want_console };
	for (int i = 0; i < FILE_N_; i++)
		if (made[i] && r->path[i][0])
			(void)unlink(r->path[i]); /* a run that failed early made none */
	fd_closep(&r->console_listener);
	agt_timer_free(r->deadline);
	free(r);
}

static void on_ended(void *arg, int status)
{
	struct running *r = arg;
	struct agt *a = r->a;
	char text[1024] = "";
	struct agt_run_result result = { .hresult = BRG_OK, .text = text, .console = -1 };
	if (status != 0) {
		error_text(r, status, text, sizeof(text));
		result.hresult = agt_runtime_hresult(text);
	}
	if (status == 0 && r->want_pid) {
		result.pid = read_pid(r->path[FILE_PID]);
		if (result.pid <= 0) {
			(void)snprintf(text, sizeof(text), "%s: left no pid", a->runtime.program);
			result.hresult = BRG_E_FAIL;
		}
	}
	if (status == 0 && r->want_console) {
		result.console = receive_console(r->console_listener);
		if (result.console < 0) {
			(void)snprintf(text, sizeof(text), "%s: handed over no terminal",
				a->runtime.program);
			result.hresult = BRG_E_FAIL;
		}
	}
	r->fn(r->arg, &result);
	agt_children_release(&a->children);
	free_running(r);
	start_next(a);
}

static void on_deadline(void *arg)
{
	struct running *r = arg;
	hf_error("%s (pid %d): no end after %d s, killed", r->a->runtime.program, (int)r->child.pid,
		AGT_RUNTIME_DEADLINE_MS / 1000);
	if (r->child.pid > 0)
		(void)kill(r->child.pid, SIGKILL); /* not reaped yet: the pid is its own */
}

static int prepare(struct running *r, const struct agt_run *run, struct hf_err *reterr)
{
	struct agt_runtime *rt = &r->a->runtime;
	unsigned long number = (unsigned long)++rt->runs;
	for (int i = 0; i < FILE_N_; i++)
		(void)snprintf(
			r->path[i], sizeof(r->path[i]), "%s/%lu.%s", rt->dir, number, suffix[i]);
	r->deadline = agt_timer_new(&r->a->loop, on_deadline, r);
	if (!r->deadline)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	if (run->json && json_dump_file(run->json, r->path[FILE_JSON], JSON_COMPACT) < 0)
		return hf_err_set(reterr, -EIO, "%s: cannot write", r->path[FILE_JSON]);
	if (!run->want_console)
		return 0;
	int k = unix_listen(r->path[FILE_SOCK], 0600, 1, &r->console_listener);
	return k < 0 ? hf_err_set(
			       reterr, k, "%s: cannot listen: %s", r->path[FILE_SOCK], strerror(-k))
		     : 0;
}

/* The words of the command, copied; -errno. */
static int copy_command(struct running *r, const struct agt_run *run)
{
	struct agt_runtime *rt = &r->a->runtime;
	const char *argv[AGT_RUNTIME_ARGS + 20];
	size_t n = 0;
	argv[n++] = program_of(rt);
	argv[n++] = "--log";
	argv[n++] = r->path[FILE_LOG];
	argv[n++] = "--log-format";
	argv[n++] = "json";
	argv[n++] = "--root";
	argv[n++] = rt->root;
	if (rt->is_crun) {
		argv[n++] = "--cgroup-manager";
		argv[n++] = "cgroupfs";
	}
	for (size_t i = 0; run->args[i]; i++)
		argv[n++] = run->args[i];
	if (run->json) {
		argv[n++] = run->json_option;
		argv[n++] = r->path[FILE_JSON];
	}
	if (run->want_pid) {
		argv[n++] = "--pid-file";
		argv[n++] = r->path[FILE_PID];
	}
	if (run->want_console) {
		argv[n++] = "--console-socket";
		argv[n++] = r->path[FILE_SOCK];
	}
	argv[n++] = run->id;
	r->argv = calloc(n + 1, sizeof(*r->argv));
	for (size_t i = 0; r->argv && i < n; i++) {
		r->argv[i] = strdup(argv[i]);
		if (!r->argv[i])
			return -ENOMEM;
	}
	return r->argv ? 0 : -ENOMEM;
}

/* Whether that is another file than the one that could not be executed. There are policies that
 * memory is not. */
static bool use_original(struct running *r)
{
	struct agt_runtime *rt = &r->a->runtime;
	char *original = strcmp(r->argv[0], rt->copy) ? NULL : strdup(rt->path);
	if (!original)
		return false;
	fd_closep(&rt->copy_fd);
	free(r->argv[0]);
	r->argv[0] = original;
	return true;
}

static int start(struct running *r, struct hf_err *reterr)
{
	struct agt *a = r->a;
	struct agt_spawn s = { .argv = (const char *const *)r->argv,
		.console = -1,
		.dies_with_agent = !r->outlives_agent };
	memcpy(s.fd, r->fd, sizeof(s.fd));
	int k = agt_child_spawn(&a->children, &s, &r->child, reterr);
	if (k < 0 && use_original(r))
		k = agt_child_spawn(&a->children, &s, &r->child, reterr);
	if (k < 0)
		return k;
	for (int i = 0; i < 3; i++)
		fd_closep(&r->fd[i]);
	r->began_us = hf_now_us();
	a->runtime.n_waiting--;
	agt_timer_set(r->deadline, AGT_RUNTIME_DEADLINE_MS);
	agt_request_stage(r->rq, "OCI runtime", r->child.pid, AGT_RUNTIME_DEADLINE_MS);
	agt_children_hold(&a->children);
	return 0;
}

/* Whether another may be started now. */
static bool has_room(const struct agt_runtime *rt)
{
	uint64_t now = hf_now_us();
	size_t young = 0;
	hf_list_for_each (l, &rt->all) {
		const struct running *r = HF_CONTAINER_OF(l, struct running, link);
		young += r->began_us > 0 && now - r->began_us < AGT_RUNTIME_YOUNG_MS * 1000;
	}
	return young < rt->most;
}

static void start_next(void *arg)
{
	struct agt *a = arg;
	struct agt_runtime *rt = &a->runtime;
	hf_list_for_each_safe (l, &rt->all) {
		struct running *r = HF_CONTAINER_OF(l, struct running, link);
		struct agt_run_result result = { .hresult = BRG_E_FAIL, .console = -1 };
		struct hf_err err = { 0 };
		if (rt->n_waiting == 0 || !has_room(rt))
			break;
		if (r->began_us > 0 || start(r, &err) == 0)
			continue;
		result.text = err.text;
		agt_run_fn *fn = r->fn;
		void *fn_arg = r->arg;
		free_running(r);
		fn(fn_arg, &result);
		break; /* it may have changed the list */
	}
	if (rt->n_waiting > 0)
		agt_timer_set(rt->look, AGT_RUNTIME_YOUNG_MS / 4);
}

int agt_runtime_run(
	struct agt *a, const struct agt_run *run, agt_run_fn *fn, void *arg, struct hf_err *reterr)
{
	struct running *r = calloc(1, sizeof(*r));
	if (!r)
		return hf_err_set(reterr, -ENOMEM, "%s: no memory", a->runtime.program);
	*r = (struct running){ .a = a, .rq = run->rq, .fn = fn, .arg = arg, .fd = { -1, -1, -1 } };
	r->console_listener = -1;
	r->want_pid = run->want_pid;
	r->want_console = run->want_console;
	r->has_json = run->json != NULL;
	r->outlives_agent = run->outlives_agent;
	r->child.fn = on_ended;
	r->child.arg = r;
	hf_list_append(&a->runtime.all, &r->link);
	a->runtime.n_waiting++;
	int k = prepare(r, run, reterr);
	if (k == 0 && copy_command(r, run) < 0)
		k = hf_err_set(reterr, -ENOMEM, "%s: no memory", a->runtime.program);
	for (int i = 0; k == 0 && i < 3; i++) {
		r->fd[i] = run->fd[i] < 0 ? -1 : fcntl(run->fd[i], F_DUPFD_CLOEXEC, 3);
		if (run->fd[i] >= 0 && r->fd[i] < 0)
			k = hf_err_set(
				reterr, -errno, "%s: %s", a->runtime.program, strerror(errno));
	}
	if (k == 0 && a->runtime.n_waiting == 1 && has_room(&a->runtime))
		k = start(r, reterr);
	else if (k == 0)
		agt_timer_set(a->runtime.look, AGT_RUNTIME_YOUNG_MS / 4);
	if (k < 0)
		free_running(r);
	return k;
}
