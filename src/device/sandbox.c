/* SPDX-License-Identifier: MIT */
#include "sandbox.h"
#include "base/fd.h"
#include "base/log.h"
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libgen.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#error "sandbox.c: name the AUDIT_ARCH_ of this processor"
#endif

/* What the C library and libuv do for us: memory, the end of a signal handler, time where the
 * kernel's page cannot tell it, the abort of an assertion, the end. */
/* syscalls: brk mmap(2!PROT_EXEC) mprotect(2!PROT_EXEC) munmap mremap madvise futex getrandom
 * rt_sigreturn rt_sigaction rt_sigprocmask restart_syscall clock_gettime gettimeofday getpid gettid
 * tgkill(0=getpid()) exit exit_group read write writev close fcntl */

/* ---- folders ---- */

int dev_sandbox_add_dir(struct dev_sandbox *s, const char *dir)
{
	for (size_t i = 0; i < s->n_dirs; i++)
		if (strcmp(s->dir[i], dir) == 0)
			return 0;
	if (s->n_dirs == DEV_SANDBOX_DIRS_MAX)
		return -ENOSPC;
	char *copy = strdup(dir);
	if (!copy)
		return -ENOMEM;
	s->dir[s->n_dirs++] = copy;
	return 0;
}

int dev_sandbox_add_socket(struct dev_sandbox *s, const char *path)
{
	if (path[0] == '\0')
		return 0;
	HF_CLEANUP(hf_freep) char *copy = strdup(path);
	return copy ? dev_sandbox_add_dir(s, dirname(copy)) : -ENOMEM;
}

void dev_sandbox_done(struct dev_sandbox *s)
{
	for (size_t i = 0; i < s->n_dirs; i++)
		free(s->dir[i]);
	*s = (struct dev_sandbox){ 0 };
}

/* ---- user and privileges ---- */

int dev_sandbox_user(const char *user, struct hf_err *reterr)
{
	HF_CLEANUP(hf_freep) char *copy = strdup(user);
	if (!copy)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	char *group = strchr(copy, ':');
	if (group)
		*group++ = '\0';
	const struct passwd *pw = getpwnam(copy);
	if (!pw)
		return hf_err_set(reterr, -ENOENT, "--user %s: no such user", user);
	uid_t uid = pw->pw_uid;
	gid_t gid = pw->pw_gid;
	const struct group *gr = group ? getgrnam(group) : NULL;
	if (group && !gr)
		return hf_err_set(reterr, -ENOENT, "--user %s: no such group", user);
	if (gr)
		gid = gr->gr_gid;
	if (initgroups(copy, gid) < 0 || setresgid(gid, gid, gid) < 0 ||
		setresuid(uid, uid, uid) < 0)
		return hf_err_set(reterr, -errno, "--user %s: %s: only root may change its user",
			user, strerror(errno));
	return 0;
}

static int drop_privileges(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[2] = { 0 };
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		(void)prctl(PR_CAPBSET_DROP, cap, 0, 0, 0); /* EPERM: there is nothing to drop */
	if (syscall(__NR_capset, &head, none) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return 0;
}

/* ---- Landlock ---- */

/* Rights of the file system by the version of the interface that brought them: 13, 14, 15, 15, 16
 * of them; network since 4, scopes since 6. Headers may be older than the kernel. */
struct ruleset_attr {
	uint64_t fs, net, scoped;
};
#define NET_BIND_CONNECT_TCP   3u
#define NET_BIND_TCP           1u
#define SCOPE_ABSTRACT_SIGNALS 3u

static struct ruleset_attr all_rights(long abi, bool tcp)
{
	unsigned n_fs = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13;
	return (struct ruleset_attr){ .fs = (1u << n_fs) - 1,
		.net = abi < 4 ? 0
		       : tcp   ? NET_BIND_TCP
			       : NET_BIND_CONNECT_TCP,
		.scoped = abi >= 6 ? SCOPE_ABSTRACT_SIGNALS : 0 };
}

static int allow_sockets_in(int ruleset, const char *dir, struct hf_err *reterr)
{
	struct landlock_path_beneath_attr rule = {
		.allowed_access = LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE
	};
	HF_CLEANUP(fd_closep) int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	rule.parent_fd = fd;
	if (fd < 0 ||
		syscall(__NR_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return hf_err_set(reterr, -errno, "sandbox: folder %s: %s", dir, strerror(errno));
	return 0;
}

static int restrict_files(const struct dev_sandbox *s, struct hf_err *reterr)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	if (abi < 1) {
		hf_info("sandbox: this kernel has no Landlock: files are guarded by the filter of "
			"system calls alone");
		return 0;
	}
	struct ruleset_attr attr = all_rights(abi, s->tcp);
	size_t size = abi >= 6 ? sizeof(attr) : abi >= 4 ? 16 : 8;
	HF_CLEANUP(fd_closep)
	int ruleset = (int)syscall(__NR_landlock_create_ruleset, &attr, size, 0);
	if (ruleset < 0)
		return hf_err_set(reterr, -errno, "sandbox: Landlock: %s", strerror(errno));
	for (size_t i = 0; i < s->n_dirs; i++) {
		int r = allow_sockets_in(ruleset, s->dir[i], reterr);
		if (r < 0)
			return r;
	}
	if (syscall(__NR_landlock_restrict_self, ruleset, 0) < 0)
		return hf_err_set(reterr, -errno, "sandbox: Landlock: %s", strerror(errno));
	return 0;
}

/* ---- the filter ---- */

enum call_kind { CALL_ANY, CALL_EQUAL, CALL_WITHOUT };

struct call {
	uint32_t number;
	enum call_kind kind;
	unsigned arg;
	uint32_t value;
};

#define PER_CALL_MAX 5 /* instructions */

static size_t put(struct sock_filter *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	*p = (struct sock_filter){ .code = code, .k = k, .jt = yes, .jf = no };
	return 1;
}

static size_t load(struct sock_filter *p, size_t offset)
{
	return put(p, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

/* Allows the call, or goes on behind with its number loaded. The low half of an argument is all of
 * it, for those that are declared. */
static size_t put_call(struct sock_filter *p, const struct call *c)
{
	size_t n = 0;
	if (c->kind == CALL_ANY) {
		n += put(p + n, BPF_JMP | BPF_JEQ | BPF_K, c->number, 0, 1);
		return n + put(p + n, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
	}
	bool equal = c->kind == CALL_EQUAL;
	n += put(p + n, BPF_JMP | BPF_JEQ | BPF_K, c->number, 0, 4);
	n += load(p + n, offsetof(struct seccomp_data, args) + 8 * (size_t)c->arg);
	n += put(p + n, (uint16_t)(BPF_JMP | (equal ? BPF_JEQ : BPF_JSET) | BPF_K), c->value,
		equal ? 0 : 1, equal ? 1 : 0);
	n += put(p + n, BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
	return n + load(p + n, offsetof(struct seccomp_data, nr));
}

static size_t put_denial(struct sock_filter *p, uint32_t number, uint32_t error)
{
	size_t n = put(p, BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1);
	return n + put(p + n, BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error, 0, 0);
}

/* Sockets of TCP are for links that leave the host, where there are such. */
static bool is_tcp(const struct call *c)
{
	return c->number == __NR_socket && (c->value == AF_INET || c->value == AF_INET6);
}

static int filter_calls(bool tcp)
{
	const struct call calls[] = {
#include "sandbox_calls.inc"
	};
	struct sock_filter code[HF_ARRAY_SIZE(calls) * PER_CALL_MAX + 8];
	size_t n = load(code, offsetof(struct seccomp_data, arch));
	n += put(code + n, BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
	n += put(code + n, BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS, 0, 0);
	n += load(code + n, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < HF_ARRAY_SIZE(calls); i++)
		if (tcp || !is_tcp(&calls[i]))
			n += put_call(code + n, &calls[i]);
	/* A library may look for a file that it can do without. */
	n += put_denial(code + n, __NR_openat, EACCES);
	n += put(code + n, BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
	struct sock_fprog program = { .len = (unsigned short)n, .filter = code };
	return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

static void on_forbidden(int sig, siginfo_t *info, void *context)
{
	(void)sig;     /* there is one */
	(void)context; /* the number says it */
	hf_error("sandbox: system call %d is not declared in the sources and was not made; ending. "
		 "Report this; --no-sandbox does without",
		info->si_syscall);
	_exit(DEV_EXIT_SANDBOX);
}

/* ---- all of it ---- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

int dev_sandbox_enter(const struct dev_sandbox *s, struct hf_err *reterr)
{
#ifdef SANITIZED
	(void)s;
	(void)reterr;
	hf_warn("sandbox: off: this build's sanitizer makes system calls of its own");
	return 0;
#endif
	tzset(); /* the log asks for the time, and would open a file the first time */
	struct sigaction sa = { .sa_sigaction = on_forbidden, .sa_flags = SA_SIGINFO };
	if (sigaction(SIGSYS, &sa, NULL) < 0)
		return hf_err_set(reterr, -errno, "sandbox: SIGSYS: %s", strerror(errno));
	int r = drop_privileges();
	if (r < 0)
		return hf_err_set(
			reterr, r, "sandbox: cannot give up privileges: %s", strerror(-r));
	r = restrict_files(s, reterr);
	if (r < 0)
		return r;
	r = filter_calls(s->tcp);
	if (r < 0)
		return hf_err_set(
			reterr, r, "sandbox: seccomp: %s; --no-sandbox does without", strerror(-r));
	return 0;
}
