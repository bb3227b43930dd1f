/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * probe.c - see probe.h. The raw system calls are used because a sanitizer's write(2) looks at the
 * bytes itself before the kernel does. The pipe is empty between calls.
 */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int probe_open(struct probe *p)
{
	int fd[2];

	if (pipe2(fd, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	*p = (struct probe){ .read_fd = fd[0], .write_fd = fd[1] };
	return 0;
}

void probe_close(struct probe *p)
{
	close(p->read_fd);
	close(p->write_fd);
}

/* Through the pipe and out again. What a fault left behind in the pipe is drained. */
static bool probe_copy(struct probe *p, void *to, const void *from, size_t n)
{
	char rest[PROBE_MAX];
	bool whole;

	if (n > PROBE_MAX)
		return false;
	whole = syscall(SYS_write, p->write_fd, from, n) == (long)n &&
		syscall(SYS_read, p->read_fd, to, n) == (long)n;
	while (!whole && syscall(SYS_read, p->read_fd, rest, sizeof(rest)) > 0)
		;
	return whole;
}

bool probe_read(struct probe *p, void *to, const void *from, size_t n)
{
	return probe_copy(p, to, from, n);
}

bool probe_write(struct probe *p, void *to, const void *from, size_t n)
{
	return probe_copy(p, to, from, n);
}

bool probe_points_to_string(struct probe *p, const void *at, const char *string)
{
	size_t n = strlen(string) + 1;
	char got[64];
	const void *s;

	return n <= sizeof(got) && probe_read(p, &s, at, sizeof(s)) && probe_read(p, got, s, n) &&
	       memcmp(got, string, n) == 0;
}
