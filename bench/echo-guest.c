/* SPDX-License-Identifier: MIT */
/*
 * echo-guest - a guest's side of bench/migration: `conns=N` of the kernel's command line are opened
 * to port 5001 of the host and stay idle; one to port 5000, where what comes is sent back.
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define ECHO_PORT 5000
#define IDLE_PORT 5001

static int dial(unsigned port)
{
	struct sockaddr_vm a = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port
	};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		printf("echo-guest: port %u: %s\n", port, strerror(errno));
		exit(1);
	}
	return fd;
}

int main(void)
{
	char line[4096] = "", *at;
	struct rlimit many = { 1 << 20, 1 << 20 };
	FILE *f = fopen("/proc/cmdline", "r");
	if (!f || !fgets(line, sizeof(line), f) || setrlimit(RLIMIT_NOFILE, &many) < 0)
		return 1;
	fclose(f);
	at = strstr(line, "conns=");
	int n = at ? atoi(at + 6) : 0;
	for (int i = 0; i < n; i++)
		(void)dial(IDLE_PORT); /* open as long as we are */
	int fd = dial(ECHO_PORT);
	printf("echo-guest: %d idle connections\n", n);
	for (ssize_t k; (k = read(fd, line, sizeof(line))) > 0;)
		if (write(fd, line, (size_t)k) != k)
			break;
	printf("echo-guest: lost: %s\n", strerror(errno));
	return 1;
}
