/* SPDX-License-Identifier: MIT */
/*
 * front.c - the vhost-user socket.
 *
 * One front end is served at a time; the next waits in the listener's backlog until this one is
 * gone. Messages are taken one after the other (vhostuser.h); this file does what they say: maps
 * memory and log, sets queues up, hands descriptors around. Every descriptor that a message brings
 * is either taken here or closed before the next one is read.
 */
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "map.h"
#include "relay.h"
#include "vm.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: accept4 getsockopt unlink unlinkat */

#define MESSAGES_PER_EVENT 32
#define FRONT_BACKLOG      8

/* ---- memory ---- */

static int map_region(struct vq_mem *mem, const struct vhu_region *r, int fd)
{
	void *p;
	int e = dev_map(fd, r->offset, r->size, &p);
	if (e < 0)
		return e;
	e = vq_mem_add(mem, &(struct vq_region){ r->gpa, r->size, r->uaddr, p });
	if (e < 0)
		dev_unmap(p);
	return e;
}

static void unmap_regions(struct vq_mem *mem)
{
	for (size_t i = 0; i < mem->n; i++)
		dev_unmap(mem->region[i].host);
	mem->n = 0;
}

/* Finds the rings again in a changed memory. */
static int remap_rings(struct dev_vm *vm)
{
	int r = 0;
	for (int i = 0; i < DEV_QUEUES; i++) {
		int e = vq_remap(&vm->q[i].vq);
		r = r < 0 ? r : e;
	}
	return r;
}

/* Whole or not at all: the old table stays when the new one cannot be mapped. */
static int mem_table(struct dev_vm *vm, const struct vhu_event *ev)
{
	struct vq_mem mem = { .log = vm->mem.log };
	for (size_t i = 0; i < ev->mem.n; i++) {
		int r = map_region(&mem, &ev->mem.region[i], ev->fds[i]);
		if (r < 0) {
			unmap_regions(&mem);
			return r;
		}
	}
	unmap_regions(&vm->mem);
	vm->mem = mem;
	return remap_rings(vm);
}

static int mem_remove(struct dev_vm *vm, const struct vhu_region *r)
{
	struct vq_region was;
	int e = vq_mem_remove(&vm->mem, r->gpa, r->uaddr, r->size, &was);
	if (e < 0)
		return e;
	dev_unmap(was.host);
	return remap_rings(vm);
}

/* The log is written while LOG_ALL is negotiated, and only then. */
static void apply_log(struct dev_vm *vm, uint64_t size)
{
	bool on = vm->log_map && (vm->vhu.features & VHU_F_LOG_ALL);
	vm->mem.log.map = on ? vm->log_map : NULL;
	vm->mem.log.size = size;
}

static int log_base(struct dev_vm *vm, const struct vhu_event *ev)
{
	void *p;
	int r = dev_map(ev->fds[0], ev->log.offset, ev->log.size, &p);
	if (r < 0)
		return r;
	dev_unmap(vm->log_map);
	vm->log_map = p;
	apply_log(vm, ev->log.size);
	return 0;
}

/* ---- rings ---- */

/* Edge-triggered, an eventfd need not be read: every write to it is an edge. */
static int watch_kick(struct dev_vm *vm, uint32_t index)
{
	return dev_loop_watch(vm->loop, vm->q[index].kick, EPOLLIN | EPOLLET,
		dev_vm_tag(vm, DEV_ON_KICK, index, vm->q[index].gen));
}

static int take_kick(struct dev_vm *vm, struct vhu_event *ev)
{
	struct dev_queue *q = &vm->q[ev->ring.index];
	dev_loop_close(vm->loop, &q->kick);
	q->gen++;
	q->polled = ev->n_fds == 0;
	q->ready = true;
	if (q->polled)
		return 0;
	q->kick = fd_take(&ev->fds[0]);
	int r = watch_kick(vm, ev->ring.index);
	if (r < 0)
		fd_closep(&q->kick);
	return r;
}

static int take_call(struct dev_vm *vm, struct vhu_event *ev)
{
	struct dev_queue *q = &vm->q[ev->ring.index];
	fd_closep(&q->call);
	if (ev->n_fds == 0)
		return 0;
	int r = fd_set_nonblock(ev->fds[0], true); /* whatever it is, it must not stop us */
	if (r == 0)
		q->call = fd_take(&ev->fds[0]);
	return r;
}

static int ring_stop(struct dev_vm *vm, unsigned index, uint64_t *ret_base)
{
	struct dev_queue *q = &vm->q[index];
	dev_vm_stop_ring(vm, index);
	dev_loop_close(vm->loop, &q->kick);
	fd_closep(&q->call);
	q->polled = false;
	*ret_base = vq_base(&q->vq);
	return 0;
}

static int ring_addr(struct dev_vm *vm, const struct vhu_event *ev)
{
	struct vq_addr a = { .desc = ev->addr.desc,
		.avail = ev->addr.avail,
		.used = ev->addr.used,
		.log_gpa = ev->addr.log_gpa,
		.log = ev->addr.log };
	return vq_set_addr(&vm->q[ev->addr.index].vq, &a);
}

static int set_config(const struct dev_vm *vm, const struct vhu_event *ev)
{
	/* Sent on arrival after a migration: what the guest knew must be what it will see. */
	if (ev->config.offset > VHU_CONFIG_MAX ||
		ev->config.size > VHU_CONFIG_MAX - ev->config.offset)
		return -EINVAL;
	return memcmp(vm->vhu.config + ev->config.offset, ev->config.data, ev->config.size) == 0
		       ? 0
		       : -EINVAL;
}

static int reset_device(struct dev_vm *vm)
{
	for (unsigned i = 0; i < DEV_QUEUES; i++) {
		dev_vm_stop_ring(vm, i);
		vm->q[i].stopped_before = false;
	}
	dev_vm_drop_all(vm);
	vm->loaded = false;
	return 0;
}

/* ---- events ---- */

/* Does what the message says: 0, -errno, or -EINPROGRESS when it is answered later. */
static int apply(struct dev_vm *vm, struct vhu_event *ev, uint64_t *ret_value)
{
	switch (ev->kind) {
	case VHU_FEATURES:
		vsk_set_features(&vm->vsk, ev->features);
		apply_log(vm, vm->mem.log.size);
		return 0;
	case VHU_MEM_TABLE:
		return mem_table(vm, ev);
	case VHU_MEM_ADD:
		return map_region(&vm->mem, &ev->mem.region[0], ev->fds[0]);
	case VHU_MEM_REMOVE:
		return mem_remove(vm, &ev->mem.region[0]);
	case VHU_LOG_BASE:
		return log_base(vm, ev);
	case VHU_RING_NUM:
		return vq_set_size(&vm->q[ev->ring.index].vq, ev->ring.value);
	case VHU_RING_ADDR:
		return ring_addr(vm, ev);
	case VHU_RING_BASE:
		return vq_set_base(&vm->q[ev->ring.index].vq, (uint16_t)ev->ring.value);
	case VHU_RING_STOP:
		return ring_stop(vm, ev->ring.index, ret_value);
	case VHU_RING_KICK:
		return take_kick(vm, ev);
	case VHU_RING_CALL:
		return take_call(vm, ev);
	case VHU_SET_CONFIG:
		return set_config(vm, ev);
	case VHU_STATE_FD:
		return dev_transfer_begin(vm, fd_take(&ev->fds[0]), ev->state.load);
	case VHU_STATE_CHECK:
		return dev_transfer_check(vm);
	case VHU_RESET:
		return reset_device(vm);
	case VHU_INFLIGHT_GET:
		return dev_inflight_make(
			ev->inflight.n_queues, ev->inflight.queue_size, &vm->vhu.out_fd, ret_value);
	case VHU_INFLIGHT_SET:
		return dev_inflight_set(vm, ev->fds[0], ev->inflight.offset, ev->inflight.size,
			ev->inflight.n_queues, ev->inflight.queue_size);
	case VHU_BACKEND_FD:
		fd_closep(&vm->backend);
		vm->backend = fd_take(&ev->fds[0]);
		return 0;
	case VHU_RING_ENABLE: /* dev_vm_sync_rings() sees to it */
	case VHU_LOG_FD:      /* who logs reads the log when it likes */
	case VHU_RING_ERR:    /* the log tells what went wrong */
	case VHU_NONE:
	case VHU_REFUSED:
	case VHU_EVENT_N_:
		return 0;
	}
	return -ENOSYS;
}

static void close_fds(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fd_closep(&fds[i]);
}

/* One message was taken in. 0 or -errno: close. */
static int message(struct dev_vm *vm, struct vhu_event *ev)
{
	uint64_t value = 0;
	int r = 0;
	if (ev->kind == VHU_REFUSED) {
		hf_warn("vm %s: front end: %s refused: %s", vm->opt->name,
			vhu_request_name(ev->request), ev->why);
		return 0;
	}
	int result = apply(vm, ev, &value);
	if (result < 0 && result != -EINPROGRESS)
		hf_warn("vm %s: front end: %s failed: %s", vm->opt->name,
			vhu_request_name(ev->request), strerror(-result));
	if (result != -EINPROGRESS)
		r = vhu_answer(&vm->vhu, result, value);
	if (r == 0)
		r = dev_vm_sync_rings(vm);
	return r;
}

/* Sends what waits: 0 when all is out, -EAGAIN, or another -errno. */
static int send_output(struct dev_vm *vm)
{
	const void *p;
	for (size_t n; (n = vhu_output(&vm->vhu, &p)) > 0;) {
		int *fd = &vm->vhu.out_fd;
		ssize_t sent = unix_send_fds(vm->front, p, n, fd, *fd >= 0);
		if (sent < 0)
			return (int)sent;
		fd_closep(fd);
		vhu_sent(&vm->vhu, (size_t)sent);
	}
	return 0;
}

/* Takes one step: 1 when there may be more, 0 when it is to wait, -errno to close. */
static int step(struct dev_vm *vm, const char **ret_why)
{
	int fds[VHU_FDS_MAX];
	size_t n_fds = 0, room;
	struct vhu_event ev = { 0 };
	void *buf;
	int r = send_output(vm);
	*ret_why = "cannot send";
	if (r < 0)
		return r == -EAGAIN ? 0 : r;
	vhu_room(&vm->vhu, &buf, &room);
	if (room == 0)
		return 0;
	ssize_t n = unix_recv_fds(vm->front, buf, room, fds, VHU_FDS_MAX, &n_fds);
	*ret_why = n == 0 ? "closed by the front end" : "cannot receive";
	if (n <= 0)
		return n == -EAGAIN ? 0 : n == 0 ? -ESHUTDOWN : (int)n;
	r = vhu_received(&vm->vhu, (size_t)n, fds, n_fds, &ev);
	*ret_why = vm->vhu.why ? vm->vhu.why : "protocol error";
	if (r > 0) {
		r = message(vm, &ev);
		if (vm->vhu.why)
			*ret_why = vm->vhu.why;
	}
	close_fds(ev.fds, ev.n_fds);
	return r < 0 ? r : 1;
}

static void watch_front(struct dev_vm *vm)
{
	const void *p;
	void *buf;
	size_t room;
	vhu_room(&vm->vhu, &buf, &room);
	uint32_t events = vhu_output(&vm->vhu, &p) > 0 ? EPOLLOUT : room > 0 ? EPOLLIN : 0;
	int r = dev_loop_watch(vm->loop, vm->front, events | EPOLLRDHUP,
		dev_vm_tag(vm, DEV_ON_FRONT, 0, vm->front_gen));
	if (r < 0)
		dev_front_close(vm, strerror(-r));
}

void dev_front_on_event(struct dev_vm *vm, uint32_t events)
{
	const char *why = "";
	int r = 1;
	for (int i = 0; i < MESSAGES_PER_EVENT && r > 0; i++)
		r = step(vm, &why);
	if (r == 0 && (events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))) {
		r = -ESHUTDOWN; /* it left while a message of it was in work */
		why = "closed by the front end";
	}
	if (r < 0)
		dev_front_close(vm, why);
	else
		watch_front(vm);
}

void dev_front_answer(struct dev_vm *vm, int result, uint64_t value)
{
	int r = vhu_answer(&vm->vhu, result, value);
	if (r < 0)
		dev_front_close(vm, vm->vhu.why);
	else
		dev_front_on_event(vm, 0);
}

/* ---- life of a front end ---- */

static void watch_listener(struct dev_vm *vm, bool on)
{
	if (vm->front_listen < 0)
		return;
	int r = dev_loop_watch(vm->loop, vm->front_listen, on ? EPOLLIN : 0,
		dev_vm_tag(vm, DEV_ON_FRONT_LISTEN, 0, 0));
	if (r < 0)
		hf_error("vm %s: %s: cannot watch: %s", vm->opt->name, vm->opt->socket,
			strerror(-r));
}

static void front_begin(struct dev_vm *vm, int fd)
{
	vm->front = fd;
	vm->front_gen++;
	hf_info("vm %s: a front end has connected", vm->opt->name);
	watch_listener(vm, false);
	watch_front(vm);
}

void dev_front_on_listen(struct dev_vm *vm)
{
	vm->front_paused = false;
	if (vm->front >= 0)
		return;
	int fd = accept4(vm->front_listen, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		front_begin(vm, fd);
		return;
	}
	if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
		hf_warn("vm %s: %s: cannot accept: %s", vm->opt->name, vm->opt->socket,
			strerror(errno));
		watch_listener(vm, false);
		vm->front_paused = true;
		vm->retry_us = vm->loop->now_us + DEV_RETRY_US;
	}
}

void dev_front_retry(struct dev_vm *vm)
{
	vm->front_paused = false;
	watch_listener(vm, vm->front < 0);
}

void dev_front_close(struct dev_vm *vm, const char *why)
{
	int fds[VHU_FDS_MAX];
	size_t n = 0;
	if (vm->front < 0)
		return;
	hf_info("vm %s: the front end is gone: %s", vm->opt->name, why);
	dev_loop_close(vm->loop, &vm->front);
	fd_closep(&vm->backend);
	dev_transfer_end(vm);
	dev_relay_left(vm);
	(void)reset_device(vm); /* always 0 */
	for (unsigned i = 0; i < DEV_QUEUES; i++) {
		uint64_t base;
		(void)ring_stop(vm, i, &base); /* nobody asks for the base */
		vq_init(&vm->q[i].vq, &vm->mem);
	}
	dev_inflight_drop(vm);
	fd_closep(&vm->vhu.out_fd);
	unmap_regions(&vm->mem);
	dev_unmap(vm->log_map);
	vm->log_map = NULL;
	vm->mem.log = (struct vq_log){ 0 };
	vhu_reset(&vm->vhu, fds, &n);
	close_fds(fds, n);
	vm->frozen = vm->left_out = vm->has_list = false;
	vm->ended = vm->front_listen < 0;
	watch_listener(vm, true);
}

int dev_front_adopt(struct dev_vm *vm)
{
	int r = 0;
	for (uint32_t i = 0; i < DEV_QUEUES && r == 0; i++)
		r = vm->q[i].kick < 0 ? 0 : watch_kick(vm, i);
	apply_log(vm, vm->mem.log.size);
	watch_listener(vm, vm->front < 0);
	return r;
}

/* An inherited descriptor is a listener or the connection itself. */
static int open_inherited(struct dev_vm *vm, struct hf_err *reterr)
{
	int listening = 0, fd = vm->opt->fd;
	socklen_t n = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0)
		return hf_err_set(reterr, -errno, "--fd %d: not a socket: %s", fd, strerror(errno));
	int r = fd_set_nonblock(fd, true);
	if (r < 0)
		return hf_err_set(reterr, r, "--fd %d: %s", fd, strerror(-r));
	if (listening) {
		vm->front_listen = fd;
		watch_listener(vm, true);
	} else {
		front_begin(vm, fd);
	}
	return 0;
}

int dev_front_open(struct dev_vm *vm, struct hf_err *reterr)
{
	if (vm->opt->fd >= 0)
		return open_inherited(vm, reterr);
	int r = dev_listen(SOCK_STREAM, vm->opt->socket, vm->opt->guard.mode, FRONT_BACKLOG,
		&vm->front_listen);
	if (r == 0)
		r = dev_limits_own(vm, vm->opt->socket);
	if (r < 0)
		return hf_err_set(
			reterr, r, "socket %s: cannot listen: %s", vm->opt->socket, strerror(-r));
	watch_listener(vm, true);
	return 0;
}
