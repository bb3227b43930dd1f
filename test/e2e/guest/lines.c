/* SPDX-License-Identifier: MIT */
/*
 * lines - the guest's side of examples/line-counter: sends lines to the host's port 7000 and checks
 * that each is answered with its number, and none without. Prints how far it is every 1,000
 * answers; ends at the first number that is wrong, or when the connection fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define HOST_PORT 7000
#define AHEAD     3000 /* lines without an answer */
#define ROUND     3500 /* after so many it waits until all are answered: none was lost */
#define PAUSE_MS  2

static unsigned long sent, answered;
static size_t part; /* of a line, sent */

static int check(const char *line)
{
	char want[32];
	snprintf(want, sizeof(want), "%lu", answered + 1);
	if (strcmp(line, want) != 0) {
		printf("lines: wrong: got %s, want %s\n", line, want);
		return -1;
	}
	if (++answered % 1000 == 0)
		printf("lines: %lu answered\n", answered);
	return 0;
}

static int take(int fd)
{
	static char buf[4096];
	static size_t len;
	ssize_t n = read(fd, buf + len, sizeof(buf) - len - 1);
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	len += (size_t)n;
	buf[len] = '\0';
	char *at = buf, *end;
	for (; (end = strchr(at, '\n')); at = end + 1) {
		*end = '\0';
		if (check(at) < 0)
			exit(1);
	}
	len -= (size_t)(at - buf);
	memmove(buf, at, len);
	return 0;
}

static bool may_send(void)
{
	bool round_ends = sent > 0 && sent % ROUND == 0 && part == 0;
	return sent - answered < (round_ends ? 1 : AHEAD);
}

int main(void)
{
	static const char line[] = "a line whose length is odd\n";
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = HOST_PORT
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	setlinebuf(stdout);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
		fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		printf("lines: connect: %s\n", strerror(errno));
		return 1;
	}
	for (;;) {
		struct pollfd p = { fd, POLLIN, 0 };
		if (poll(&p, 1, PAUSE_MS) > 0 && take(fd) < 0)
			break;
		for (int i = 0; i < 50 && may_send(); i++) {
			ssize_t n = write(fd, line + part, sizeof(line) - 1 - part);
			if (n < 0)
				break;
			part = (part + (size_t)n) % (sizeof(line) - 1);
			sent += part == 0;
		}
	}
	printf("lines: lost after %lu answers: %s\n", answered, strerror(errno));
	return 1;
}
