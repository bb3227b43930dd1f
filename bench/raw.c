/* SPDX-License-Identifier: MIT */
/*
 * raw.c - what the agent's figures stand beside: the same work by the fewest system calls.
 *
 *	raw echo          standard input is a socket: answers each message with 28 bytes
 *	raw splice CMD    runs the command, its output spliced from the pipe to standard output
 *	raw spawn N CMD   starts the command N times, then waits for all
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
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

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "echo"))
		return echo();
	if (argc > 2 && !strcmp(argv[1], "splice"))
		return splice_output(argv + 2);
	if (argc > 3 && !strcmp(argv[1], "spawn"))
		return spawn(strtol(argv[2], NULL, 10), argv + 3);
	(void)fputs("usage: raw echo | splice CMD... | spawn N CMD...\n", stderr);
	return 2;
}
