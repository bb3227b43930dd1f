/* SPDX-License-Identifier: MIT */
#include "tee.h"
#include "agent/proc/child.h"
#include "agent/storage/tree.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define OPTION "-tee-log"

static void on_ended(void *arg, int status)
{
	(void)status; /* the stream's end says it all */
	free(arg);
}

/* The process writes into ours, the tee process from there into what was the process's. */
static int insert(struct agt_children *cs, int *theirs, const char *path, struct hf_err *reterr)
{
	int fd[2];
	struct agt_child *c = calloc(1, sizeof(*c));
	if (!c || pipe2(fd, O_CLOEXEC) < 0) {
		free(c);
		return hf_err_set(reterr, -ENOMEM, "%s: no memory, or no pipe", path);
	}
	*c = (struct agt_child){ .fn = on_ended, .arg = c };
	const char *argv[] = { "/proc/self/exe", OPTION, path, NULL };
	const struct agt_spawn s = { .argv = argv, .fd = { fd[0], *theirs, -1 }, .console = -1 };
	int r = agt_child_spawn(cs, &s, c, reterr);
	(void)close(fd[0]);
	if (r < 0) {
		(void)close(fd[1]);
		free(c);
		return r;
	}
	(void)close(*theirs);
	*theirs = fd[1];
	return 0;
}

int agt_tee_insert(
	struct agt_children *cs, struct agt_local *l, const char *path, struct hf_err *reterr)
{
	int r = 0;
	for (int i = 1; r == 0 && i < 3; i++)
		if (l->theirs[i] >= 0)
			r = insert(cs, &l->theirs[i], path, reterr);
	return r;
}

bool agt_tee_is_process(int argc, char *const argv[])
{
	return argc == 3 && !strcmp(argv[1], OPTION);
}

/* Opened for each piece: two processes write it, and each may make it a new one. */
static void log_piece(const char *path, const char *data, size_t n)
{
	char old[NAME_MAX + 1];
	struct stat st;
	const char *name;
	HF_CLEANUP(fd_closep) int dir = -1;
	if (agt_tree_open_parent(path, 0755, &dir, &name, NULL) < 0)
		return;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_size >= AGT_TEE_FILE_MAX &&
		snprintf(old, sizeof(old), "%s.1", name) < (int)sizeof(old))
		(void)renameat(dir, name, dir, old); /* else it grows on */
	HF_CLEANUP(fd_closep)
	int fd = openat(dir, name,
		O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0644);
	if (fd >= 0)
		(void)fd_write_all(fd, data, n); /* see tee.h */
}

int agt_tee_process(char *const argv[])
{
	static char data[65536];
	ssize_t n;
	(void)signal(SIGPIPE, SIG_IGN); /* cannot fail */
	while ((n = read(STDIN_FILENO, data, sizeof(data))) > 0 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		log_piece(argv[2], data, (size_t)n);
		if (fd_write_all(STDOUT_FILENO, data, (size_t)n) < 0)
			return EXIT_FAILURE; /* the writer is told by SIGPIPE, as it would be */
	}
	return EXIT_SUCCESS;
}
