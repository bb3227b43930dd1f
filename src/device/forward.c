/* SPDX-License-Identifier: MIT */
/*
 * forward.c - the host's own AF_VSOCK as the host side of a VM.
 *
 * With forward-cid the guest's connections to CID 2, port P, are dialled to AF_VSOCK (forward-cid,
 * P): 1 is this machine, where it has vsock_loopback; another CID is another guest of this machine,
 * or our own host. A connection to a port of forward-listen becomes one to the same port of the
 * guest, if it comes from that CID. No line is said either way, and only streams pass.
 *
 * Such a dial may take its time: an event of the socket decides it, or the engine's deadline. In
 * the midst of a migration this is no matter for the record: there the dial is still to be made.
 */
#include "base/fd.h"
#include "base/log.h"
#include "vm.h"
#include <errno.h>
#include <linux/vm_sockets.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: socket(0=AF_VSOCK) bind listen connect getpeername getsockopt(1=SOL_SOCKET)
 * sendto */

#define BACKLOG 128

static struct sockaddr_vm address(uint32_t cid, uint32_t port)
{
	return (struct sockaddr_vm){ .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
}

static int new_socket(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd < 0 ? -errno : fd;
}

static int listen_at(uint32_t cid, uint32_t port, int *ret_fd)
{
	struct sockaddr_vm sa = address(cid, port);
	HF_CLEANUP(fd_closep) int fd = new_socket();
	if (fd < 0)
		return fd;
	if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int dev_forward_open(struct dev_vm *vm, struct hf_err *reterr)
{
	const struct dev_forward *f = &vm->opt->forward;
	for (size_t i = 0; i < f->n_listen; i++) {
		int r = listen_at(dev_forward_listen_cid(f), f->listen[i],
			&vm->host_listen[DEV_DOOR_FORWARD + i]);
		if (r < 0)
			return hf_err_set(reterr, r,
				"forward-listen %u: cannot listen: %s; AF_VSOCK on CID 1 needs the "
				"kernel's vsock_loopback",
				f->listen[i], strerror(-r));
	}
	return 0;
}

bool dev_forward_admits(const struct dev_vm *vm, int fd)
{
	struct sockaddr_vm sa;
	socklen_t n = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &n) == 0 &&
		dev_forward_takes(&vm->opt->forward, sa.svm_cid))
		return true;
	hf_info("vm %s: forward-listen: a client of another CID is sent away", vm->opt->name);
	return false;
}

int dev_forward_dial(struct dev_vm *vm, struct dev_conn *c)
{
	struct sockaddr_vm sa = address(vm->opt->forward.cid, c->core.host_port);
	if (c->core.type != VSK_TYPE_STREAM)
		return -EPROTOTYPE;
	HF_CLEANUP(fd_closep) int fd = new_socket();
	if (fd < 0)
		return fd;
	int r = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
	if (r == -EINPROGRESS) {
		int e = dev_loop_watch(
			vm->loop, fd, EPOLLOUT, dev_vm_tag(vm, DEV_ON_CONN, c->slot, c->core.gen));
		r = e < 0 ? e : r;
	}
	if (r == 0 || r == -EINPROGRESS) {
		c->fd = fd_take(&fd);
		c->forwarded = true;
	}
	return r;
}

bool dev_forward_deaf(const struct dev_conn *c)
{
	return send(c->fd, "", 0, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN;
}

void dev_forward_on_event(struct dev_vm *vm, struct dev_conn *c, uint32_t events)
{
	int error = 0;
	socklen_t n = sizeof(error);
	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
		error = errno;
	if (error == 0 && (events & (EPOLLHUP | EPOLLERR)))
		error = ECONNRESET;
	dev_unix_dialled(vm, c, -error);
}
