/* SPDX-License-Identifier: MIT */
#include "fd.h"
#include "clock.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* syscalls: read write close fcntl socket(0=AF_UNIX) bind listen connect fchmod fstat newfstatat
 * unlink unlinkat getsockopt sendmsg recvmsg poll ppoll */

void fd_closep(int *fd)
{
	if (*fd < 0)
		return;
	int saved = errno;
	(void)close(*fd); /* Linux frees the descriptor whatever close(2) says */
	*fd = -1;
	errno = saved;
}

int fd_set_nonblock(int fd, bool on)
{
	int fl = fcntl(fd, F_GETFL);
	if (fl < 0)
		return -errno;
	fl = on ? fl | O_NONBLOCK : fl & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, fl) < 0 ? -errno : 0;
}

int fd_wait(int fd, short events, uint64_t until_us)
{
	struct pollfd p = { .fd = fd, .events = events };
	for (;;) {
		uint64_t now_us = hf_now_us();
		/* rounded up, or we would be back too soon */
		uint64_t ms = now_us < until_us ? (until_us - now_us - 1) / 1000 + 1 : 0;
		int n = poll(&p, 1, (int)HF_MIN(ms, (uint64_t)INT_MAX));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0 && ms == 0)
			return -ETIMEDOUT;
	}
}

int fd_read_all(int fd, void *buf, size_t n)
{
	uint8_t *p = buf;
	while (n > 0) {
		ssize_t r = read(fd, p, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			return -ENODATA;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int fd_write_all(int fd, const void *buf, size_t n)
{
	const uint8_t *p = buf;
	while (n > 0) {
		ssize_t r = write(fd, p, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		p += r;
		n -= (size_t)r;
	}
	return 0;
}

int fd_read_line(const char *path, char *text, size_t cap)
{
	HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, cap - 1);
	if (n < 0)
		return -errno;
	text[n] = '\0';
	text[strcspn(text, "\n")] = '\0';
	return 0;
}

int unix_addr(const char *path, struct sockaddr_un *ret_addr)
{
	size_t n = strlen(path);
	if (n == 0)
		return -EINVAL;
	if (n >= sizeof(ret_addr->sun_path))
		return -ENAMETOOLONG;
	*ret_addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(ret_addr->sun_path, path, n);
	return 0;
}

static int unix_socket(int type)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd < 0 ? -errno : fd;
}

/* Removes the socket file at the path if nobody answers there. */
static int unix_remove_stale(const char *path)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	HF_CLEANUP(fd_closep) int fd = -1;
	int r = unix_connect(path, &fd);
	if (r == 0 || r == -EAGAIN || r == -EPROTOTYPE) /* that: it listens for another type */
		return -EADDRINUSE;
	return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

static int listen_at(int type, const char *path, unsigned mode, int backlog, int *ret_fd)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	struct sockaddr_un sa;
	int r = unix_addr(path, &sa);
	if (r < 0)
		return r;
	r = unix_remove_stale(path);
	if (r < 0)
		return r;
	fd = unix_socket(type);
	if (fd < 0)
		return fd;
	/* fchmod before bind sets the mode of the file that bind makes: no window with a wider one
	 */
	if (fchmod(fd, mode) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		listen(fd, backlog) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int unix_listen(const char *path, unsigned mode, int backlog, int *ret_fd)
{
	return listen_at(SOCK_STREAM, path, mode, backlog, ret_fd);
}

int unix_listen_seqpacket(const char *path, unsigned mode, int backlog, int *ret_fd)
{
	return listen_at(SOCK_SEQPACKET, path, mode, backlog, ret_fd);
}

int unix_connect(const char *path, int *ret_fd)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	struct sockaddr_un sa;
	int r = unix_addr(path, &sa);
	if (r < 0)
		return r;
	fd = unix_socket(SOCK_STREAM);
	if (fd < 0)
		return fd;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int unix_peer_uid(int fd, uid_t *ret_uid)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return -errno;
	*ret_uid = cred.uid;
	return 0;
}

union fd_control {
	struct cmsghdr align;
	char buf[CMSG_SPACE(UNIX_FDS_MAX * sizeof(int))];
};

ssize_t unix_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds)
{
	union fd_control control;
	struct iovec iov = { .iov_base = (void *)buf, .iov_len = n };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (n_fds > UNIX_FDS_MAX)
		return -EINVAL;
	if (n_fds > 0) {
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	ssize_t r;
	do
		r = sendmsg(sock, &mh, MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

int unix_send_all(
	int sock, const void *buf, size_t n, const int *fds, size_t n_fds, uint64_t until_us)
{
	const uint8_t *p = buf;
	while (n > 0) {
		ssize_t sent = unix_send_fds(sock, p, n, fds, n_fds);
		if (sent >= 0) {
			p += sent;
			n -= (size_t)sent;
			n_fds = 0;
			continue;
		}
		if (sent == -ETOOMANYREFS)      /* of those under way some must be read first */
			(void)poll(NULL, 0, 1); /* only sleeps */
		else if (sent != -EAGAIN)
			return (int)sent;
		int r = fd_wait(sock, POLLOUT, until_us);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Owns every descriptor that the message brought: the first cap go to the caller, the rest are
 * closed. Returns how many arrived. */
static size_t take_fds(struct msghdr *mh, int *ret_fds, size_t cap, size_t *ret_n)
{
	size_t seen = 0;
	*ret_n = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < k; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			seen++;
			if (*ret_n < cap)
				ret_fds[(*ret_n)++] = fd;
			else
				fd_closep(&fd);
		}
	}
	return seen;
}

ssize_t unix_recv_fds(
	int sock, void *buf, size_t n, int *ret_fds, size_t cap_fds, size_t *ret_n_fds)
{
	union fd_control control;
	struct iovec iov = { .iov_base = buf, .iov_len = n };
	struct msghdr mh = { .msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf) };
	ssize_t r;
	do
		r = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		return -errno;
	size_t seen = take_fds(&mh, ret_fds, cap_fds, ret_n_fds);
	if (seen > cap_fds || (mh.msg_flags & MSG_CTRUNC)) {
		for (size_t i = 0; i < *ret_n_fds; i++)
			fd_closep(&ret_fds[i]);
		*ret_n_fds = 0;
		return -EMSGSIZE;
	}
	return r;
}
