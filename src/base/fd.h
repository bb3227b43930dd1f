/* SPDX-License-Identifier: MIT */
/*
 * fd.h - file descriptors with one owner.
 *
 * Every descriptor is close-on-exec and, if it is a socket or a pipe, non-blocking from birth.
 */
#ifndef HF_FD_H
#define HF_FD_H

#include "base.h"
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

/* For HF_CLEANUP; accepts -1 and keeps errno. */
void fd_closep(int *fd);

/* Gives the descriptor away: returns it and leaves -1 behind. */
static inline int fd_take(int *fd)
{
	int r = *fd;
	*fd = -1;
	return r;
}

int fd_set_nonblock(int fd, bool on);

/* Waits until the descriptor is ready for events of poll(2), until the time (clock.h) at most. 0,
 * or -errno (-ETIMEDOUT). Never on an event loop. */
int fd_wait(int fd, short events, uint64_t until_us);

/* Reads or writes all n bytes of a blocking descriptor. 0, or -errno; -ENODATA when the input
 * ends before n bytes. For files, pipes at start-up and tests, never on an event loop. */
int fd_read_all(int fd, void *buf, size_t n);
int fd_write_all(int fd, const void *buf, size_t n);

/* The first line of a small file, without its end, cut to cap - 1 bytes. 0, or -errno. */
int fd_read_line(const char *path, char *text, size_t cap);

/* Fills the address of a Unix socket: -ENAMETOOLONG over 107 bytes, -EINVAL when empty. */
int unix_addr(const char *path, struct sockaddr_un *ret_addr);

/* A listening stream socket at the path. A socket file that nobody listens on any more is replaced;
 * one that answers gives -EADDRINUSE. `mode` is the file's mode (for example 0600). */
int unix_listen(const char *path, unsigned mode, int backlog, int *ret_fd);

/* The same with a SOCK_SEQPACKET socket. */
int unix_listen_seqpacket(const char *path, unsigned mode, int backlog, int *ret_fd);

/* Starts a connection and does not wait: 0 and a connected socket, or -errno (-ECONNREFUSED and
 * -ENOENT: nobody listens; -EAGAIN: the listener's backlog is full). */
int unix_connect(const char *path, int *ret_fd);

/* The user id of the process at the other end (SO_PEERCRED); -errno on failure. */
int unix_peer_uid(int fd, uid_t *ret_uid);

/* Sends up to n bytes with up to n_fds descriptors attached to the first byte; receives likewise.
 * Received descriptors are close-on-exec and owned by the caller; more than cap_fds are closed and
 * reported as -EMSGSIZE. Both return the count of bytes or -errno; receive returns 0 at the end. */
ssize_t unix_send_fds(int sock, const void *buf, size_t n, const int *fds, size_t n_fds);
ssize_t unix_recv_fds(
	int sock, void *buf, size_t n, int *ret_fds, size_t cap_fds, size_t *ret_n_fds);

/* Sends all n bytes of a non-blocking socket, the descriptors with the first, and waits for room
 * until the time. 0, or -errno (-ETIMEDOUT). */
int unix_send_all(
	int sock, const void *buf, size_t n, const int *fds, size_t n_fds, uint64_t until_us);

#define UNIX_FDS_MAX 253 /* what the kernel takes with one message */

#endif
