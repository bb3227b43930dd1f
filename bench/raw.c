/* SPDX-License-Identifier: MIT */
/*
 * raw.c - what the agent's figures stand beside: the same work by the fewest system calls.
 *
 *	raw echo          standard input is a socket: answers each message with 28 bytes
 *	raw splice CMD    runs the command, its output spliced from the pipe to standard output
 *	raw spawn N CMD   starts the command N times, then waits for all
 *	raw lives K DIR NAME...
 *	                  the OCI runtime's create of each container, whose bundle is DIR/NAME, then
 *	                  its start, then its delete when it has ended, K at a time; prints the
 *	                  milliseconds
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int echo(void)
{
	char buf[4096];
	ssize_t n;
	while ((n = read(0, buf, sizeof(buf))) > 0)
		if (write(0, buf, 28) != 28)
			return 1;
	return n < 0;
}

static pid_t start(char *const *argv, int out)
{
	pid_t pid = vfork();
	if (pid == 0) {
		if (out >= 0)
			(void)dup2(out, 1);
		(void)execvp(argv[0], argv);
		_exit(127);
	}
	return pid;
}

static int splice_output(char *const *argv)
{
	int fd[2];
	ssize_t n;
	if (pipe2(fd, O_CLOEXEC) < 0 || start(argv, fd[1]) < 0)
		return 1;
	(void)close(fd[1]);
	while ((n = splice(fd[0], NULL, 1, NULL, 1 << 20, 0)) > 0)
		;
	return n < 0;
}

static int spawn(long n, char *const *argv)
{
	for (long i = 0; i < n; i++)
		if (start(argv, -1) < 0)
			return 1;
	while (wait(NULL) > 0)
		;
	return 0;
}

/* One run of the runtime to its end; 0: it succeeded. */
static int run(const char *const *argv)
{
	int status = -1;
	pid_t pid = start((char *const *)argv, -1);
	return pid < 0 || waitpid(pid, &status, 0) < 0 ? -1 : status;
}

static int read_pid(const char *path)
{
	char text[16] = "";
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	(void)close(fd);
	return n > 0 ? atoi(text) : -1;
}

enum phase { CREATE, START, DELETE, N_PHASES };

/* One phase of a container's life; 0: it succeeded. */
static int live(enum phase phase, const char *dir, const char *name, struct pollfd *end)
{
	char root[300], bundle[300], pid[320];
	(void)snprintf(root, sizeof(root), "%s/.runtime", dir);
	(void)snprintf(bundle, sizeof(bundle), "%s/%s", dir, name);
	(void)snprintf(pid, sizeof(pid), "%s/pid", bundle);
#define CRUN "crun", "--root", root, "--cgroup-manager", "cgroupfs"
	const char *const argv[N_PHASES][12] = {
		[CREATE] = { CRUN, "create", "--bundle", bundle, "--pid-file", pid, name },
		[START] = { CRUN, "start", name },
		[DELETE] = { CRUN, "delete", "--force", name },
	};
	if (phase == DELETE && poll(end, 1, 10000) != 1)
		return 1;
	if (run(argv[phase]) != 0)
		return 1;
	if (phase == CREATE) {
		end->fd = (int)syscall(SYS_pidfd_open, read_pid(pid), 0);
		end->events = POLLIN;
	}
	return end->fd < 0;
}

static double now_ms(void)
{
	struct timespec ts;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static int lives(int at_once, const char *dir, char **names, int n)
{
	int status, failed = 0;
	double began = now_ms();
	struct pollfd *ends = calloc((size_t)n, sizeof(*ends));
	if (!ends)
		return 1;
	for (int k = 0; k < at_once; k++)
		if (fork() == 0) {
			for (enum phase phase = CREATE; phase < N_PHASES; phase++)
				for (int i = k; i < n; i += at_once)
					if (live(phase, dir, names[i], &ends[i]) != 0)
						_exit(1);
			_exit(0);
		}
	while (wait(&status) > 0)
		failed |= status;
	(void)printf("%.2f\n", now_ms() - began);
	return failed != 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "echo"))
		return echo();
	if (argc > 2 && !strcmp(argv[1], "splice"))
		return splice_output(argv + 2);
	if (argc > 3 && !strcmp(argv[1], "spawn"))
		return spawn(strtol(argv[2], NULL, 10), argv + 3);
	if (argc > 4 && !strcmp(argv[1], "lives"))
		return lives(atoi(argv[2]), argv[3], argv + 4, argc - 4);
	(void)fputs(
		"usage: raw echo | splice CMD... | spawn N CMD... | lives K DIR NAME...\n", stderr);
	return 2;
}
