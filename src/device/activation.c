/* SPDX-License-Identifier: MIT */
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: unlink unlinkat sendto */

#define FIRST_FD 3 /* sd_listen_fds(3) */

static struct passed {
	int fd; /* -1: taken, or none */
	struct sockaddr_un addr;
} passed[DEV_ACTIVATION_MAX];
static size_t n_passed;
static int notify_fd = -1;

static size_t number_of(const char *name)
{
	const char *text = getenv(name);
	return text ? strtoul(text, NULL, 10) : 0;
}

static void take_sockets(void)
{
	size_t n = number_of("LISTEN_PID") == (size_t)getpid() ? number_of("LISTEN_FDS") : 0;
	if (n > DEV_ACTIVATION_MAX)
		hf_warn("LISTEN_FDS: %zu sockets; the first %d are used", n, DEV_ACTIVATION_MAX);
	for (size_t i = 0; i < HF_MIN(n, (size_t)DEV_ACTIVATION_MAX); i++) {
		struct passed *p = &passed[n_passed];
		socklen_t len = sizeof(p->addr);
		int fd = FIRST_FD + (int)i;
		p->addr = (struct sockaddr_un){ 0 };
		if (getsockname(fd, (struct sockaddr *)&p->addr, &len) < 0 ||
			p->addr.sun_family != AF_UNIX || fd_set_nonblock(fd, true) < 0 ||
			fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
			hf_warn("LISTEN_FDS: descriptor %d is no Unix socket: left alone", fd);
			continue;
		}
		p->fd = fd;
		n_passed++;
	}
	(void)unsetenv("LISTEN_PID"); /* these fail only for a bad name */
	(void)unsetenv("LISTEN_FDS");
}

static void open_notify(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa;
	if (!path || unix_addr(path, &sa) < 0)
		return;
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (sa.sun_path[0] == '@')
		sa.sun_path[0] = '\0';
	notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (notify_fd >= 0 && connect(notify_fd, (struct sockaddr *)&sa, len) < 0) {
		hf_warn("NOTIFY_SOCKET %s: %s", path, strerror(errno));
		fd_closep(&notify_fd);
	}
	(void)unsetenv("NOTIFY_SOCKET"); /* fails only for a bad name */
}

void dev_activation_init(void)
{
	take_sockets();
	open_notify();
}

static struct passed *find(const char *path)
{
	for (size_t i = 0; i < n_passed; i++)
		if (strncmp(passed[i].addr.sun_path, path, sizeof(passed[i].addr.sun_path)) == 0)
			return &passed[i];
	return NULL;
}

/* -EPROTOTYPE: it is another kind of socket; -EINVAL: it does not listen. */
static int check(int fd, int type)
{
	int is = 0, listening = 0;
	socklen_t n = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &is, &n) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0)
		return -errno;
	return is != type ? -EPROTOTYPE : listening ? 0 : -EINVAL;
}

int dev_listen(int type, const char *path, unsigned mode, int backlog, int *ret_fd)
{
	struct passed *p = find(path);
	if (!p || p->fd < 0)
		return type == SOCK_STREAM ? unix_listen(path, mode, backlog, ret_fd)
					   : unix_listen_seqpacket(path, mode, backlog, ret_fd);
	int r = check(p->fd, type);
	if (r == 0)
		*ret_fd = fd_take(&p->fd);
	return r;
}

void dev_unlisten(const char *path)
{
	if (!find(path))
		(void)unlink(path); /* gone already is as good */
}

bool dev_activation_at(size_t i, const char **ret_path, int *ret_fd)
{
	if (i >= n_passed)
		return false;
	*ret_path = passed[i].addr.sun_path;
	*ret_fd = passed[i].fd;
	return true;
}

int dev_activation_add(const char *path, int fd)
{
	struct passed p = { .fd = fd };
	if (n_passed == DEV_ACTIVATION_MAX || unix_addr(path, &p.addr) < 0) {
		fd_closep(&fd);
		return -ENOSPC;
	}
	passed[n_passed++] = p;
	return 0;
}

void dev_activation_forget(void)
{
	while (n_passed > 0)
		fd_closep(&passed[--n_passed].fd);
	fd_closep(&notify_fd);
}

int dev_notify_fd(void)
{
	return notify_fd;
}

void dev_notify_adopt(int fd)
{
	fd_closep(&notify_fd);
	notify_fd = fd;
}

void dev_notify(const char *state)
{
	if (notify_fd >= 0 && send(notify_fd, state, strlen(state), MSG_NOSIGNAL) < 0)
		hf_warn("cannot tell the service manager: %s", strerror(errno));
}
