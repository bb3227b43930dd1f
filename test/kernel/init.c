/* SPDX-License-Identifier: MIT */

/*
 * The first process of a guest of the kernel suite.
 *
 * Loads the modules named in /modules, in that order, brings up the one network interface with the address that the kernel's
 * command line gives as hf_ip=, and then serves commands over TCP, each connection one:
 *
 *	-> SECONDS WORD WORD ...\n
 *	<- what the program writes, then a line "[exit N]", or "[killed]" when it outlived its seconds
 *
 * Commands run side by side. Words are separated by single spaces; there is no shell.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT 1
#define MAX_WORDS 128

static const char *const interfaces[] = {"eth0", "vec0"}; /* under QEMU, under user-mode Linux */

static void die(const char *what)
{
	printf("init: %s: %s\n", what, strerror(errno));
	for (;;)
		pause();
}

static void mount_all(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) < 0 || mount("sysfs", "/sys", "sysfs", 0, NULL) < 0)
		die("mount");
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL); /* may be there already */
}

static void load_modules(void)
{
	char line[128];
	FILE *list = fopen("/modules", "re");

	if (!list)
		die("/modules");
	while (fgets(line, sizeof(line), list)) {
		line[strcspn(line, "\n")] = '\0';
		int fd = open(line, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST))
			die(line);
		close(fd);
	}
	fclose(list);
}

static void bring_up(int s, const char *name, const char *address)
{
	struct ifreq r = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&r.ifr_addr;

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
	if (address) {
		in->sin_family = AF_INET;
		if (inet_pton(AF_INET, address, &in->sin_addr) != 1 || ioctl(s, SIOCSIFADDR, &r) < 0)
			die(name);
		inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
		if (ioctl(s, SIOCSIFNETMASK, &r) < 0)
			die(name);
	}
	if (ioctl(s, SIOCGIFFLAGS, &r) < 0)
		die(name);
	r.ifr_flags |= IFF_UP;
	if (ioctl(s, SIOCSIFFLAGS, &r) < 0)
		die(name);
}

static void bring_up_network(void)
{
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		die("socket");
	bring_up(s, "lo", NULL);
	for (size_t i = 0; i < sizeof(interfaces) / sizeof(interfaces[0]); i++)
		if (if_nametoindex(interfaces[i]))
			bring_up(s, interfaces[i], getenv("hf_ip"));
	close(s);
}

/* Runs in a process of its own, with the connection as standard input, output and error. */
static void serve(void)
{
	char line[4096], *words[MAX_WORDS + 1] = {NULL};
	size_t n = 0;
	sigset_t child;
	int status;

	setvbuf(stdin, NULL, _IONBF, 0);
	if (!fgets(line, sizeof(line), stdin))
		_exit(1);
	line[strcspn(line, "\n")] = '\0';
	struct timespec limit = {.tv_sec = atoi(strtok(line, " "))};
	while (n < MAX_WORDS && (words[n] = strtok(NULL, " ")))
		n++;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_BLOCK, &child, NULL);
	pid_t pid = fork();
	if (pid == 0) {
		sigprocmask(SIG_UNBLOCK, &child, NULL);
		execv(words[0], words);
		perror(words[0]);
		_exit(127);
	}
	if (sigtimedwait(&child, NULL, &limit) < 0) {
		kill(pid, SIGKILL);
		printf("\n[killed]\n");
	} else if (waitpid(pid, &status, 0) == pid) {
		printf("\n[exit %d]\n", WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	fflush(stdout);
	_exit(0);
}

int main(void)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};

	setvbuf(stdout, NULL, _IONBF, 0);
	mount_all();
	load_modules();
	bring_up_network();
	signal(SIGCHLD, SIG_IGN);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (struct sockaddr *)&any, sizeof(any)) < 0 || listen(listener, 16) < 0)
		die("listen");
	printf("init: ready\n");
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd >= 0 && fork() == 0) {
			for (int i = 0; i < 3; i++)
				dup2(fd, i);
			serve();
		}
		close(fd);
	}
}
