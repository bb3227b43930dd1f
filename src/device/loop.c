/* SPDX-License-Identifier: MIT */
#include "loop.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <string.h>
#include <time.h>

/* syscalls: epoll_wait epoll_pwait epoll_ctl clock_gettime close */

#define EVENTS_PER_TURN 64

static uint64_t clock_us(void)
{
	struct timespec ts;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void on_timer(uv_timer_t *t);

static void on_idle(uv_idle_t *idle);

static void turn(struct dev_loop *l)
{
	struct epoll_event ev[EVENTS_PER_TURN];
	int n = epoll_wait(l->epfd, ev, EVENTS_PER_TURN, 0);
	l->now_us = clock_us();
	for (int i = 0; i < n; i++) {
		struct dev_tag tag;
		memcpy(&tag, &ev[i].data.u64, sizeof(tag));
		l->on_event(l->owner, tag, ev[i].events);
	}
	uint64_t next_us = l->on_turn(l->owner);
	if (next_us <= l->now_us) {
		(void)uv_idle_start(&l->idle, on_idle); /* fails only without a callback */
		return;
	}
	(void)uv_idle_stop(&l->idle); /* never fails */
	if (next_us == UINT64_MAX)
		(void)uv_timer_stop(&l->timer); /* never fails */
	else
		(void)uv_timer_start(&l->timer, on_timer, (next_us - l->now_us + 999) / 1000, 0);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	(void)events; /* the set is only ever readable */
	if (status < 0)
		hf_error("loop: %s", uv_strerror(status));
	turn(p->data);
}

static void on_timer(uv_timer_t *t)
{
	turn(t->data);
}

static void on_idle(uv_idle_t *idle)
{
	turn(idle->data);
}

int dev_loop_init(struct dev_loop *l)
{
	*l = (struct dev_loop){ .epfd = epoll_create1(EPOLL_CLOEXEC) };
	if (l->epfd < 0)
		return -errno;
	int r = uv_loop_init(&l->uv);
	if (r < 0) {
		fd_closep(&l->epfd);
		return r;
	}
	l->poll.data = l->timer.data = l->idle.data = l;
	(void)uv_timer_init(&l->uv, &l->timer); /* these two never fail */
	(void)uv_idle_init(&l->uv, &l->idle);
	r = uv_poll_init(&l->uv, &l->poll, l->epfd);
	if (r == 0)
		r = uv_poll_start(&l->poll, UV_READABLE, on_poll);
	l->now_us = clock_us();
	return r;
}

static void close_handle(uv_handle_t *h, void *arg)
{
	(void)arg;
	if (!uv_is_closing(h))
		uv_close(h, NULL);
}

void dev_loop_done(struct dev_loop *l)
{
	uv_walk(&l->uv, close_handle, NULL);
	(void)uv_run(&l->uv, UV_RUN_DEFAULT); /* lets the handles finish closing */
	(void)uv_loop_close(&l->uv);          /* busy only with handles open: there are none */
	fd_closep(&l->epfd);
}

void dev_loop_run(struct dev_loop *l)
{
	turn(l);
	(void)uv_run(&l->uv, UV_RUN_DEFAULT); /* says only whether handles are left */
}

void dev_loop_stop(struct dev_loop *l)
{
	uv_stop(&l->uv);
}

int dev_loop_watch(struct dev_loop *l, int fd, uint32_t events, struct dev_tag tag)
{
	struct epoll_event ev = { .events = events };
	memcpy(&ev.data.u64, &tag, sizeof(tag));
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	return epoll_ctl(l->epfd, EPOLL_CTL_MOD, fd, &ev) < 0 ? -errno : 0;
}

void dev_loop_forget(struct dev_loop *l, int fd)
{
	struct epoll_event ev = { 0 };
	(void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, &ev); /* ENOENT: it was not watched */
}

void dev_loop_close(struct dev_loop *l, int *fd)
{
	if (*fd < 0)
		return;
	dev_loop_forget(l, *fd);
	fd_closep(fd);
}
