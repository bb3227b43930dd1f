/* SPDX-License-Identifier: MIT */
#include "dial.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

struct agt_dial {
	int fd;    /* -1 when it failed at once */
	int error; /* -errno then */
	struct agt_watch *watch;
	struct agt_timer *timer;
	agt_dial_fn *fn;
	void *arg;
};

static int vsock_connect(uint32_t port, uint64_t deadline_ms, int *ret_fd)
{
	/* the kernel gives up after 2 s otherwise; here it is the timer that does */
	struct timeval patience = { .tv_sec = (time_t)(deadline_ms / 1000 + 1) };
	struct sockaddr_vm sa = {
		.svm_family = AF_VSOCK,
		.svm_cid = VMADDR_CID_HOST,
		.svm_port = port,
	};
	HF_CLEANUP(fd_closep)
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience,
			      sizeof(patience)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 && errno != EINPROGRESS)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

static int begin(const struct agt_transport *t, uint32_t port, uint64_t deadline_ms, int *ret_fd)
{
	char path[sizeof(t->base) + 16];
	if (!t->unix_socket)
		return vsock_connect(port, deadline_ms, ret_fd);
	(void)snprintf(path, sizeof(path), "%s_%u", t->base, port); /* fits by its size */
	return unix_connect(path, ret_fd);
}

void agt_dial_cancel(struct agt_dial *d)
{
	if (!d)
		return;
	agt_watch_free(d->watch);
	agt_timer_free(d->timer);
	fd_closep(&d->fd);
	free(d);
}

static void finish(struct agt_dial *d, int result)
{
	agt_dial_fn *fn = d->fn;
	void *arg = d->arg;
	int fd = result < 0 ? result : fd_take(&d->fd);
	agt_dial_cancel(d);
	fn(arg, fd);
}

static void on_writable(void *arg, int events)
{
	struct agt_dial *d = arg;
	(void)events; /* only one was asked for */
	int err = 0;
	socklen_t n = sizeof(err);
	if (getsockopt(d->fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
		err = errno;
	finish(d, -err);
}

static void on_timer(void *arg)
{
	struct agt_dial *d = arg;
	finish(d, d->error ? d->error : -ETIMEDOUT);
}

static struct agt_dial *start(uv_loop_t *loop, const struct agt_transport *t, uint32_t port,
	uint64_t deadline_ms, agt_dial_fn *fn, void *arg)
{
	struct agt_dial *d = calloc(1, sizeof(*d));
	if (!d)
		return NULL;
	*d = (struct agt_dial){ .fd = -1, .fn = fn, .arg = arg };
	d->timer = agt_timer_new(loop, on_timer, d);
	if (!d->timer) {
		free(d);
		return NULL;
	}
	d->error = begin(t, port, deadline_ms, &d->fd);
	if (d->error == 0)
		d->error = agt_watch_new(loop, d->fd, on_writable, d, &d->watch);
	if (d->error == 0)
		agt_watch_set(d->watch, UV_WRITABLE);
	agt_timer_set(d->timer, d->error ? 0 : deadline_ms);
	return d;
}

struct agt_dial *agt_dial_start(
	uv_loop_t *loop, const struct agt_transport *t, uint32_t port, agt_dial_fn *fn, void *arg)
{
	return start(loop, t, port, AGT_DIAL_DEADLINE_MS, fn, arg);
}

struct agt_dial *agt_dial_once(
	uv_loop_t *loop, const struct agt_transport *t, uint32_t port, agt_dial_fn *fn, void *arg)
{
	return start(loop, t, port, AGT_DIAL_ONCE_MS, fn, arg);
}

int agt_local_cid(uint32_t *ret_cid)
{
	HF_CLEANUP(fd_closep) int fd = open("/dev/vsock", O_RDONLY | O_CLOEXEC);
	unsigned cid;
	if (fd < 0 || ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) < 0)
		return -errno;
	*ret_cid = cid;
	return 0;
}
