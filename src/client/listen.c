/* SPDX-License-Identifier: MIT */
/*
 * listen.c - where the guest dials: the sockets of one of two worlds.
 *
 * Hybrid vsock: the Unix socket BASE_<port>, in a folder that only its VM's device connects to. The
 * kernel's: AF_VSOCK, where every guest of this host may dial; the kernel vouches for the CID that
 * calls, and who is not ours is turned away.
 */
#include "guest_internal.h"
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <sys/socket.h>

#define VSOCK_PREFIX "vsock:"

union address {
	struct sockaddr any;
	struct sockaddr_un un;
	struct sockaddr_vm vm;
};

int guest_address(struct hf_guest *g, const char *base, struct hf_err *reterr)
{
	const char *cid = base + strlen(VSOCK_PREFIX);
	char *end;
	if (strncmp(base, VSOCK_PREFIX, strlen(VSOCK_PREFIX)) == 0) {
		unsigned long n = strtoul(cid, &end, 10);
		bool any = !strcmp(cid, "any");
		if (!any && (*cid < '0' || *cid > '9' || *end || n <= VMADDR_CID_HOST ||
				    n >= VMADDR_CID_ANY))
			return hf_err_set(reterr, -EINVAL,
				"%s: want vsock:CID, from 3 on, or vsock:any", base);
		g->vsock = true;
		g->vsock_cid = any ? VMADDR_CID_ANY : (uint32_t)n;
	}
	g->base = strdup(base);
	return g->base ? 0 : hf_err_set(reterr, -ENOMEM, "no memory");
}

static int vsock_listen(uint32_t port, int *ret_fd)
{
	struct sockaddr_vm sa = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port
	};
	HF_CLEANUP(fd_closep)
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
		listen(fd, GUEST_BACKLOG) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int guest_listen(struct hf_guest *g, struct source *s, uint32_t port, struct hf_err *reterr)
{
	char path[128];
	if (snprintf(path, sizeof(path), g->vsock ? "%s, port %u" : "%s_%u", g->base, port) >=
		(int)sizeof(path))
		return hf_err_set(reterr, -ENAMETOOLONG, "%s_%u: too long for a socket path (107)",
			g->base, port);
	int r = g->vsock ? vsock_listen(port, &s->fd)
			 : unix_listen(path, 0600, GUEST_BACKLOG, &s->fd);
	if (r < 0)
		return hf_err_set(reterr, r, "%s: cannot listen: %s", path, strerror(-r));
	r = source_want(g, s, EPOLLIN);
	return r < 0 ? hf_err_set(reterr, r, "epoll: %s", strerror(-r)) : 0;
}

void guest_unlisten(struct hf_guest *g, struct source *s)
{
	union address a = { 0 };
	socklen_t n = sizeof(a);
	if (getsockname(s->fd, &a.any, &n) == 0 && a.any.sa_family == AF_UNIX)
		(void)unlink(a.un.sun_path); /* a stale socket file does no harm */
	source_close(g, s);
}

void guest_listen_all(struct hf_guest *g, uint32_t events)
{
	/* Changing what is watched of a listener that is in the set does not fail. */
	(void)source_want(g, &g->bridge_listener, events);
	(void)source_want(g, &g->stream_listener, events);
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (s->port.fd >= 0)
			(void)source_want(g, &s->port, events);
	}
}

/* A listener that cannot be accepted from would be reported for ever. */
int guest_accept(struct hf_guest *g, struct source *s)
{
	union address peer = { 0 };
	socklen_t n = sizeof(peer);
	int fd = accept4(s->fd, &peer.any, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0 && g->vsock && g->vsock_cid != VMADDR_CID_ANY &&
		peer.vm.svm_cid != g->vsock_cid) {
		fd_closep(&fd);
		return -EPERM;
	}
	if (fd >= 0)
		return fd;
	int r = -errno;
	if (r == -EMFILE || r == -ENFILE || r == -ENOBUFS || r == -ENOMEM) {
		guest_listen_all(g, 0);
		g->accept_us = hf_now_us() + GUEST_ACCEPT_RETRY_US;
	}
	return r;
}

/* "\0holdfast:<guest_cid>:<guest_port>:<host_port>:<pid>-<n>" (docs/control.md) */
static struct tuple unix_tuple(const struct sockaddr_un *sa, size_t len)
{
	char name[sizeof(sa->sun_path) + 1] = { 0 };
	struct tuple t;
	int used = 0;
	if (len <= offsetof(struct sockaddr_un, sun_path) + 1 || sa->sun_path[0] != '\0')
		return (struct tuple){ 0 };
	memcpy(name, sa->sun_path + 1, len - offsetof(struct sockaddr_un, sun_path) - 1);
	if (sscanf(name, "holdfast:%u:%u:%u:%n", &t.guest_cid, &t.guest_port, &t.host_port,
		    &used) != 3 ||
		used == 0)
		return (struct tuple){ 0 };
	return t;
}

struct tuple guest_tuple(int fd)
{
	union address peer = { 0 }, here = { 0 };
	socklen_t n = sizeof(peer), m = sizeof(here);
	if (getpeername(fd, &peer.any, &n) < 0)
		return (struct tuple){ 0 };
	if (peer.any.sa_family == AF_UNIX)
		return unix_tuple(&peer.un, n);
	if (peer.any.sa_family != AF_VSOCK || getsockname(fd, &here.any, &m) < 0)
		return (struct tuple){ 0 };
	return (struct tuple){ .guest_cid = peer.vm.svm_cid,
		.guest_port = peer.vm.svm_port,
		.host_port = here.vm.svm_port };
}
