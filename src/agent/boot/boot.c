/* SPDX-License-Identifier: MIT */
#include "boot.h"
#include "agent/host/cgroup.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define MOUNTS_MAX          4096
#define END_DEADLINE_MS     2000
#define UNMOUNT_DEADLINE_MS 10000

static void mount_all(void)
{
	static const struct {
		const char *target, *type;
		unsigned long flags;
		const char *data;
	} mounts[] = {
		{ "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
		{ "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
		{ "/dev", "devtmpfs", MS_NOSUID, "mode=0755" },
		{ "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
			"newinstance,ptmxmode=0666,mode=0620" },
		{ "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777" },
		{ "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL },
		{ "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755" },
		{ "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777" },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(mounts); i++) {
		(void)mkdir(mounts[i].target, 0755); /* if it is needed and fails, mount says so */
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags,
			    mounts[i].data) < 0 &&
			errno != EBUSY) /* mounted by the kernel or an earlier stage */
			hf_warn("boot: mount %s: %s", mounts[i].target, strerror(errno));
	}
	/* programs expect these names; an image may have them already */
	(void)symlink("/proc/self/fd", "/dev/fd");
	(void)symlink("fd/0", "/dev/stdin");
	(void)symlink("fd/1", "/dev/stdout");
	(void)symlink("fd/2", "/dev/stderr");
}

/* The initramfs is a root that pivot_root(2) cannot leave, as the OCI runtime does for a container.
 * A bind mount of it can be left, so that becomes the root. Without it containers are made with
 * --no-pivot. */
static void move_root(void)
{
	static const char at[] = "/.root";
	if (mkdir(at, 0700) < 0 && errno != EEXIST)
		hf_warn("boot: %s: %s", at, strerror(errno));
	else if (mount("/", at, NULL, MS_BIND | MS_REC, NULL) < 0 || chdir(at) < 0 ||
		 mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		hf_warn("boot: the root cannot be moved: %s", strerror(errno));
	(void)chdir("/"); /* PID 1 was there */
}

/* The kernel gives PID 1 no standard streams when it finds no console. */
static void open_console(void)
{
	if (fcntl(STDERR_FILENO, F_GETFD) >= 0)
		return;
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; fd >= 0 && i < 3; i++)
		if (fcntl(i, F_GETFD) < 0)
			(void)dup2(fd, i); /* without it the log is lost, nothing else */
	if (fd > 2)
		(void)close(fd);
}

static void load_module(char *line)
{
	/* "path parameters..." */
	size_t n = strcspn(line, " \t");
	const char *params = line[n] ? line + n + 1 : "";
	line[n] = '\0';
	HF_CLEANUP(fd_closep) int fd = open(line, O_RDONLY | O_CLOEXEC);
	int flags = n > 3 && strcmp(line + n - 3, ".ko") ? 4 : 0; /* 4: the kernel unpacks .ko.xz */
	if (fd < 0 || (syscall(SYS_finit_module, fd, params, flags) < 0 && errno != EEXIST))
		hf_warn("boot: module %s: %s", line, strerror(errno));
}

static void load_modules(const char *list)
{
	char line[512];
	FILE *f = list ? fopen(list, "re") : NULL;
	if (!f)
		return; /* a kernel with everything built in needs none */
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\r\n")] = '\0';
		if (line[0] && line[0] != '#')
			load_module(line);
	}
	(void)fclose(f); /* was only read */
}

static void loopback_up(void)
{
	struct ifreq ifr = { 0 };
	HF_CLEANUP(fd_closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "lo");
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &ifr) < 0) {
		hf_warn("boot: lo: %s", strerror(errno));
		return;
	}
	ifr.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &ifr) < 0)
		hf_warn("boot: lo up: %s", strerror(errno));
}

void agt_boot(const struct agt_flags *flags)
{
	(void)umask(022);
	(void)chdir("/"); /* PID 1 is there already */
	if (!getenv("PATH"))
		(void)setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
	move_root();
	mount_all();
	agt_cgroup_mount();
	open_console();
	load_modules(flags->modules);
	loopback_up();
	if (flags->hostname && sethostname(flags->hostname, strlen(flags->hostname)) < 0)
		hf_warn("boot: host name %s: %s", flags->hostname, strerror(errno));
	agt_cgroup_set_up(flags->root_mem_reserve);
	agt_cgroup_protect();
}

/* Milliseconds until the child has ended, or -ETIMEDOUT: it is killed then. Others are reaped. */
static int reap_until(pid_t child, int deadline_ms)
{
	const struct timespec step = { .tv_nsec = 5000000 };
	for (int ms = 0; ms < deadline_ms; ms += 5) {
		pid_t pid;
		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			if (pid == child)
				return ms;
		if (pid < 0)
			return ms;            /* none is left */
		(void)nanosleep(&step, NULL); /* a signal shortens it */
	}
	return -ETIMEDOUT;
}

/* \040 and the like, as mountinfo has them. */
static void unescape(char *s)
{
	char *to = s;
	for (; *s; s++)
		if (s[0] == '\\' && s[1] && s[2] && s[3]) {
			*to++ = (char)((s[1] - '0') << 6 | (s[2] - '0') << 3 | (s[3] - '0'));
			s += 3;
		} else {
			*to++ = *s;
		}
	*to = '\0';
}

/* The last mount first. What is on a disk and stays mounted is read-only then. */
static void unmount_all(void)
{
	char line[4096], at[4096], source[4096];
	static char *found[MOUNTS_MAX];
	size_t n = 0;
	FILE *f = fopen("/proc/self/mountinfo", "re");
	while (f && n < MOUNTS_MAX && fgets(line, sizeof(line), f)) {
		char *rest = strstr(line, " - ");
		if (!rest || sscanf(line, "%*d %*d %*s %*s %4095s", at) != 1 ||
			sscanf(rest, " - %*s %4095s", source) != 1)
			continue;
		unescape(at);
		bool disk = !strncmp(source, "/dev/", 5);
		if (asprintf(&found[n], "%c%s", disk ? 'd' : ' ', at) >= 0)
			n++;
	}
	while (n-- > 0) {
		const char *path = found[n] + 1;
		if (!strcmp(path, "/proc")) /* is read here, and holds nothing */
			continue;
		if (umount2(path, UMOUNT_NOFOLLOW) < 0 && found[n][0] == 'd' &&
			mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
			hf_warn("power off: %s: stays mounted: %s", path, strerror(errno));
	}
}

/* Everything but PID 1 ends, then the file systems are let go: in a child, for a host's share that
 * does not answer must not keep the machine running. */
static void let_go(void)
{
	(void)kill(-1, SIGKILL); /* ESRCH: there is nobody */
	if (reap_until(-1, END_DEADLINE_MS) < 0)
		hf_warn("power off: processes do not end");
	pid_t pid = fork();
	if (pid == 0) {
		sync();
		unmount_all();
		sync();
		_exit(0);
	}
	if (pid < 0)
		sync();
	else if (reap_until(pid, UNMOUNT_DEADLINE_MS) < 0)
		hf_warn("power off: file systems do not answer");
}

void agt_power_off(void)
{
	let_go();
	if (reboot(LINUX_REBOOT_CMD_POWER_OFF) < 0)
		hf_error("power off: %s", strerror(errno));
	for (;;)
		pause(); /* PID 1 must not return: the kernel would panic */
}
