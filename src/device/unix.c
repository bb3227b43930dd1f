/* SPDX-License-Identifier: MIT */
/*
 * unix.c - the host side's door.
 *
 * There are two: UDS-PATH for streams, UDS-PATH.seqpacket for messages.
 *
 * A host client connects to UDS-PATH and says "CONNECT <port>\n". The line is peeked at until it is
 * complete, and read to its last byte when the guest has answered (conn.c), so what a client
 * pipelines behind it stays in the socket for the guest. A client whose line is complete waits here
 * until the rings run, then it becomes a connection. Each has one deadline for all of this. On
 * UDS-PATH.seqpacket the line is one message, which is read at once, and so is the answer; a
 * newline is not needed.
 *
 * For the guest we dial UDS-PATH_<port> with the type of socket that the guest asked for; a
 * listener of another type refuses (EPROTOTYPE). connect(2) on a Unix socket never waits: either
 * somebody listens or not, or the backlog is full (EAGAIN), and then it is tried again at a fixed
 * interval for nearly as long as the guest's own connect timeout.
 */
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* syscalls: accept4 recvfrom socket(0=AF_UNIX) bind connect getpid unlink unlinkat newfstatat */

#define HOST_BACKLOG 128
#define NAME_TRIES   16 /* names of dialling sockets that may be taken */

/* ---- host to guest ---- */

static void watch_listeners(struct dev_vm *vm, bool on)
{
	for (unsigned i = 0; i < DEV_DOORS; i++) {
		if (vm->host_listen[i] < 0)
			continue;
		int r = dev_loop_watch(vm->loop, vm->host_listen[i], on ? EPOLLIN : 0,
			dev_vm_tag(vm, DEV_ON_HOST_LISTEN, i, 0));
		if (r < 0)
			hf_error("vm %s: host side: cannot watch: %s", vm->opt->name, strerror(-r));
	}
	vm->host_paused = !on;
	vm->retry_us = vm->loop->now_us + DEV_RETRY_US;
}

static void seqpacket_path(const struct dev_vm *vm, char ret_path[DEV_PATH_MAX + 1])
{
	(void)snprintf(ret_path, DEV_PATH_MAX + 1, "%s.seqpacket", vm->opt->uds_path); /* fits */
}

static int open_paths(struct dev_vm *vm, struct hf_err *reterr)
{
	char path[DEV_PATH_MAX + 1];
	seqpacket_path(vm, path);
	unsigned mode = vm->opt->guard.mode;
	int r = dev_listen(SOCK_STREAM, vm->opt->uds_path, mode, HOST_BACKLOG,
		&vm->host_listen[DEV_DOOR_STREAM]);
	if (r == 0)
		r = dev_limits_own(vm, vm->opt->uds_path);
	if (r < 0)
		return hf_err_set(reterr, r, "uds-path %s: cannot listen: %s", vm->opt->uds_path,
			strerror(-r));
	r = dev_listen(
		SOCK_SEQPACKET, path, mode, HOST_BACKLOG, &vm->host_listen[DEV_DOOR_SEQPACKET]);
	if (r == 0)
		r = dev_limits_own(vm, path);
	return r < 0 ? hf_err_set(reterr, r, "%s: cannot listen: %s", path, strerror(-r)) : 0;
}

int dev_unix_open(struct dev_vm *vm, struct hf_err *reterr)
{
	int r = vm->opt->uds_path[0] != '\0' ? open_paths(vm, reterr) : 0;
	if (r == 0)
		r = dev_forward_open(vm, reterr);
	if (r < 0)
		return r;
	watch_listeners(vm, true);
	vm->pid = (int)getpid();
	return 0;
}

static int watch_hello(struct dev_vm *vm, const struct dev_hello *h)
{
	return dev_loop_watch(vm->loop, h->fd, EPOLLIN | EPOLLRDHUP | EPOLLET,
		dev_vm_tag(vm, DEV_ON_HELLO, (size_t)(h - vm->hello), h->gen));
}

int dev_unix_adopt(struct dev_vm *vm)
{
	int r = 0;
	vm->pid = (int)getpid();
	watch_listeners(vm, true);
	for (size_t i = 0; i < DEV_HELLOS_MAX && r == 0; i++)
		r = vm->hello[i].fd < 0 ? 0 : watch_hello(vm, &vm->hello[i]);
	return r;
}

void dev_unix_take_line(int fd, uint8_t *bytes)
{
	char line[DEV_HELLO_LINE_MAX];
	if (*bytes > 0 && fd >= 0)
		(void)recv(fd, line, *bytes, MSG_DONTWAIT); /* it was seen there */
	*bytes = 0;
}

static void hello_close(struct dev_vm *vm, struct dev_hello *h)
{
	dev_unix_take_line(
		h->fd, &h->line); /* or the client would be told of an error, not of the end */
	dev_loop_close(vm->loop, &h->fd);
	*h = (struct dev_hello){ .fd = -1, .gen = h->gen + 1 };
	if (vm->host_paused)
		watch_listeners(vm, true);
}

void dev_unix_close(struct dev_vm *vm)
{
	char path[DEV_PATH_MAX + 1];
	seqpacket_path(vm, path);
	/* Only what we made; gone already is as good. */
	if (vm->host_listen[DEV_DOOR_STREAM] >= 0)
		dev_unlisten(vm->opt->uds_path);
	if (vm->host_listen[DEV_DOOR_SEQPACKET] >= 0)
		dev_unlisten(path);
	for (unsigned i = 0; i < DEV_DOORS; i++)
		dev_loop_close(vm->loop, &vm->host_listen[i]);
	vm->host_paused = false;
	for (size_t i = 0; i < DEV_HELLOS_MAX; i++)
		if (vm->hello[i].fd >= 0)
			hello_close(vm, &vm->hello[i]);
}

/* The line as a message: as hello_line(), but that it is taken. */
static int hello_message(struct dev_hello *h)
{
	char line[DEV_HELLO_LINE_MAX + 1];
	ssize_t n = recv(h->fd, line, DEV_HELLO_LINE_MAX, MSG_TRUNC);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	if (n > DEV_HELLO_LINE_MAX)
		return -EMSGSIZE;
	if (line[n - 1] != '\n')
		line[n++] = '\n';
	return dev_hello_parse(line, (size_t)n, &h->port) == n ? 1 : -EINVAL;
}

/* Looks for the line: 1 when it is complete, 0 when more is to come, -errno. */
static int hello_line(struct dev_hello *h)
{
	if (h->door == DEV_DOOR_SEQPACKET)
		return hello_message(h);
	char line[DEV_HELLO_LINE_MAX];
	ssize_t n = recv(h->fd, line, sizeof(line), MSG_PEEK);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	ssize_t len = dev_hello_parse(line, (size_t)n, &h->port);
	h->line = (uint8_t)HF_MAX(len, 0);
	return len > 0 ? 1 : (int)len;
}

static enum vsk_type door_type(uint8_t door)
{
	return door == DEV_DOOR_SEQPACKET ? VSK_TYPE_SEQPACKET : VSK_TYPE_STREAM;
}

/* The client's wish is known and the rings run: it becomes a connection. */
static void hello_connect(struct dev_vm *vm, struct dev_hello *h)
{
	struct vsk_conn *core;
	if (!dev_limits_admit(vm, true, h->port, vm->vsk.n_conns + 1)) {
		hello_close(vm, h);
		return;
	}
	(void)dev_vm_reserve_slots(vm, 1); /* without one the engine refuses, just below */
	int r = vsk_connect(&vm->vsk, vm->loop->now_us, door_type(h->door), h->port, &core);
	if (r < 0) {
		hf_warn("vm %s: CONNECT %u: %s", vm->opt->name, h->port,
			r == -EPROTONOSUPPORT ? "the guest's driver does not know this type"
					      : strerror(-r));
		hello_close(vm, h);
		return;
	}
	int fd = fd_take(&h->fd);
	size_t line = h->line;
	bool forwarded = h->door >= DEV_DOOR_FORWARD;
	hello_close(vm, h);
	struct dev_conn *c = dev_conn_of(core);
	dev_inflight_note(vm, c);
	c->forwarded = forwarded;
	r = dev_conn_attach(vm, c, fd, line);
	if (r < 0)
		dev_conn_failed(vm, c, r);
}

/* Reads the line if it has not been read, and goes on from there. */
static void hello_step(struct dev_vm *vm, struct dev_hello *h, uint32_t events)
{
	int r = 1;
	if (!h->said) {
		r = hello_line(h);
		if (r == 0 && (events & EPOLLRDHUP))
			r = -ECONNRESET; /* the line will never be complete */
		h->said = r > 0;
	}
	if (r == -EINVAL || r == -EMSGSIZE)
		hf_info("vm %s: %s: a client did not say 'CONNECT <port>'", vm->opt->name,
			vm->opt->uds_path);
	if (r < 0 || (events & (EPOLLHUP | EPOLLERR)))
		hello_close(vm, h);
	else if (h->said && vm->running)
		hello_connect(vm, h);
}

void dev_unix_on_listen(struct dev_vm *vm, unsigned door)
{
	size_t i = 0;
	while (i < DEV_HELLOS_MAX && vm->hello[i].fd >= 0)
		i++;
	if (i == DEV_HELLOS_MAX) {
		watch_listeners(vm, false); /* until one of them leaves */
		return;
	}
	struct dev_hello *h = &vm->hello[i];
	int fd;
	do
		fd = accept4(vm->host_listen[door], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (fd < 0 && errno == EMFILE && dev_loop_close_dropped(vm->loop));
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			hf_warn("vm %s: %s: cannot accept: %s", vm->opt->name, vm->opt->uds_path,
				strerror(errno));
			watch_listeners(vm, false);
		}
		return;
	}
	bool forward = door >= DEV_DOOR_FORWARD;
	if (!(forward ? dev_forward_admits(vm, fd) : dev_limits_admit_client(vm, fd))) {
		fd_closep(&fd);
		return;
	}
	h->fd = fd;
	h->door = (uint8_t)door;
	h->said = forward; /* the port that it called is the guest's */
	h->port = forward ? vm->opt->forward.listen[door - DEV_DOOR_FORWARD] : 0;
	h->until_us = vm->loop->now_us + DEV_HELLO_US;
	hello_step(vm, h, 0); /* most have said it by now: no need to wait */
	if (h->fd < 0)
		return;
	if (watch_hello(vm, h) < 0)
		hello_close(vm, h);
}

void dev_unix_on_hello(struct dev_vm *vm, struct dev_tag tag, uint32_t events)
{
	struct dev_hello *h = &vm->hello[tag.slot];
	if (tag.slot < DEV_HELLOS_MAX && h->fd >= 0 && dev_tag_is(tag, h->gen))
		hello_step(vm, h, events);
}

void dev_unix_take_lines(struct dev_vm *vm)
{
	for (size_t i = 0; i < DEV_HELLOS_MAX; i++)
		dev_unix_take_line(vm->hello[i].fd, &vm->hello[i].line);
	for (size_t i = 0; i < vm->n_chunks * DEV_CONNS_CHUNK; i++)
		dev_conn_take_line(dev_conn_at(vm, i));
}

/* ---- guest to host ---- */

/* Binds the name by which the accepting application learns who is calling (docs/control.md). */
static int bind_name(struct dev_vm *vm, int fd, const struct vsk_conn *c)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	for (int i = 0; i < NAME_TRIES; i++) {
		int n = snprintf(sa.sun_path + 1, sizeof(sa.sun_path) - 1,
			"holdfast:%u:%u:%u:%d-%u", dev_options_cid(vm->opt), c->guest_port,
			c->host_port, vm->pid, vm->dial_n++);
		socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
		if (bind(fd, (struct sockaddr *)&sa, len) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -errno;
	}
	return -EADDRINUSE;
}

static int dial_socket(struct dev_vm *vm, const struct vsk_conn *c)
{
	int type = c->type == VSK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	HF_CLEANUP(fd_closep) int fd = -1;
	do
		fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	while (fd < 0 && errno == EMFILE && dev_loop_close_dropped(vm->loop));
	if (fd < 0)
		return -errno;
	int r = bind_name(vm, fd, c);
	return r < 0 ? r : fd_take(&fd);
}

/* Which listener the path leads to; 0: none. */
static uint64_t listener_at(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return 0;
	return (uint64_t)st.st_ino ^ (uint64_t)st.st_ctim.tv_nsec << 32 ^
	       (uint64_t)st.st_ctim.tv_sec;
}

/* Linux tells nothing when a guest's connect(2) is interrupted: a dial that waits may be a dead
 * one's. It is for the listener that was full, never for another that has come in its place. */
static int dial_once(struct dev_vm *vm, struct dev_conn *c)
{
	char path[DEV_PATH_MAX + 1];
	struct sockaddr_un sa;
	if (c->fd < 0) { /* the first attempt */
		int fd = dial_socket(vm, &c->core);
		if (fd < 0)
			return fd;
		c->fd = fd;
	}
	(void)snprintf(path, sizeof(path), "%s_%u", vm->opt->uds_path, c->core.host_port);
	int r = unix_addr(path, &sa);
	if (r < 0)
		return r;
	if (c->dial_to != 0 && c->dial_to != listener_at(path))
		return -ECONNREFUSED;
	r = connect(c->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
	if (r == -EAGAIN)
		c->dial_to = listener_at(path);
	return r;
}

static void dial_failed(struct dev_vm *vm, struct dev_conn *c, int error)
{
	hf_debug("vm %s: guest port %u to host port %u: %s", vm->opt->name, c->core.guest_port,
		c->core.host_port, strerror(-error));
	vsk_dialled(&vm->vsk, &c->core, false);
	dev_conn_finish(vm, c);
}

void dev_unix_dialled(struct dev_vm *vm, struct dev_conn *c, int r)
{
	if (r == 0)
		r = dev_conn_attach(vm, c, fd_take(&c->fd), 0);
	if (r < 0)
		dial_failed(vm, c, r);
	else
		vsk_dialled(&vm->vsk, &c->core, true);
}

/* One attempt; true when it need not be made again. */
static bool dial_step(struct dev_vm *vm, struct dev_conn *c)
{
	int r = vm->opt->forward.cid ? dev_forward_dial(vm, c) : dial_once(vm, c);
	if (r == -EAGAIN && vm->loop->now_us < c->dial_until_us)
		return false;
	if (c->dialling)
		hf_list_remove(&c->dial_node);
	c->dialling = false;
	if (r != -EINPROGRESS)
		dev_unix_dialled(vm, c, r);
	return true;
}

void dev_unix_dial_later(struct dev_vm *vm, struct dev_conn *c, uint64_t until_us)
{
	if (hf_list_empty(&vm->dials))
		vm->next_dial_us = vm->loop->now_us + DEV_DIAL_STEP_US;
	c->dial_until_us = until_us;
	c->dialling = true;
	hf_list_append(&vm->dials, &c->dial_node);
}

void dev_unix_dial(struct dev_vm *vm, struct dev_conn *c)
{
	c->dial_until_us = vm->loop->now_us + DEV_DIAL_US;
	if (!dial_step(vm, c))
		dev_unix_dial_later(vm, c, c->dial_until_us);
}

/* ---- the turn ---- */

void dev_unix_retry(struct dev_vm *vm)
{
	watch_listeners(vm, true);
}

uint64_t dev_unix_turn(struct dev_vm *vm)
{
	uint64_t now_us = vm->loop->now_us, next_us = UINT64_MAX;
	for (size_t i = 0; i < DEV_HELLOS_MAX; i++) {
		struct dev_hello *h = &vm->hello[i];
		if (h->fd < 0)
			continue;
		if (now_us >= h->until_us)
			hello_close(vm, h);
		else if (h->said && vm->running)
			hello_connect(vm, h);
		else
			next_us = HF_MIN(next_us, h->until_us);
	}
	if (vm->running && now_us >= vm->next_dial_us && !hf_list_empty(&vm->dials)) {
		hf_list_for_each_safe (n, &vm->dials)
			(void)dial_step(vm, HF_CONTAINER_OF(n, struct dev_conn, dial_node));
		vm->next_dial_us = now_us + DEV_DIAL_STEP_US;
	}
	if (vm->running && !hf_list_empty(&vm->dials))
		next_us = HF_MIN(next_us, vm->next_dial_us);
	return next_us;
}
