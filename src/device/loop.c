/* SPDX-License-Identifier: MIT */
#include "loop.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <sched.h>
#include <string.h>

/* syscalls: sched_yield epoll_wait epoll_pwait epoll_ctl close */

#define EVENTS_PER_TURN 64
#define WAIT_MAX_MS     (24u * 3600 * 1000)
#define POLL_MIN_US     8u     /* the first step from nothing */
#define POLL_WORTH      3u     /* a wait of so many times the longest look */
#define POLL_GAP_US     200u   /* between two looks: somebody else needs the processor */
#define REST_US         1000u  /* the owner is asked so often where there are always events */
#define PAUSE_MIN_US    10000u /* no look for so long after that, and longer the next time */
#define PAUSE_MAX_US    1000000u

/* Until the time to wake up at; rounded up, or we would find nothing due. */
static int timeout_ms(const struct dev_loop *l, uint64_t next_us)
{
	if (next_us <= l->now_us)
		return 0;
	return next_us == UINT64_MAX ? -1
				     : (int)HF_MIN((next_us - l->now_us + 999) / 1000, WAIT_MAX_MS);
}

/* Looks for events until the time; 0: there are none. Others may run meanwhile; one that does not
 * give the processor back soon would have been preempted, had we slept. */
static int look(struct dev_loop *l, struct epoll_event *ev, uint64_t until_us, bool *ret_found)
{
	for (;;) {
		uint64_t last_us = l->now_us;
		int n = epoll_wait(l->epfd, ev, EVENTS_PER_TURN, 0);
		*ret_found = n == 0 && l->on_look && l->on_look(l->owner);
		if (n == 0 && !*ret_found)
			(void)sched_yield(); /* cannot fail */
		l->now_us = hf_now_us();
		if (l->now_us - last_us > POLL_GAP_US) {
			l->poll_us = 0;
			l->pause_us = HF_MIN(HF_MAX(2 * l->pause_us, PAUSE_MIN_US), PAUSE_MAX_US);
			l->paused_until_us = l->now_us + l->pause_us;
		}
		if (n != 0 || *ret_found || l->now_us >= until_us || l->poll_us == 0)
			return n;
	}
}

/* How long to look the next time. A wait that a look would have made shorter counts as well: a part
 * of it was falling asleep and waking up. */
static void adapt(struct dev_loop *l, uint64_t waited_us)
{
	if (waited_us > POLL_WORTH * (uint64_t)l->poll_max_us || l->now_us < l->paused_until_us)
		l->poll_us = 0;
	else
		l->poll_us = HF_MIN(HF_MAX(2 * l->poll_us, POLL_MIN_US), l->poll_max_us);
	l->pause_us -= l->pause_us / 64;
}

/* Waits for events until the time. */
static int await(struct dev_loop *l, struct epoll_event *ev, uint64_t next_us)
{
	uint64_t began_us = l->now_us = hf_now_us();
	bool poll = l->brisk && l->poll_max_us > 0 && next_us > began_us;
	bool found = false;
	int n = 0;
	if (poll && l->poll_us > 0)
		n = look(l, ev, HF_MIN(next_us, began_us + l->poll_us), &found);
	bool sleeps = n == 0 && !found;
	if (sleeps || l->now_us - l->rested_us >= REST_US) {
		l->rested_us = l->now_us;
		if (l->on_rest && l->on_rest(l->owner))
			next_us = 0;
	}
	if (sleeps) {
		n = epoll_wait(l->epfd, ev, EVENTS_PER_TURN, timeout_ms(l, next_us));
		l->now_us = hf_now_us();
	}
	if (poll)
		adapt(l, l->now_us - began_us);
	return n;
}

/* Waits until something happens or is due, and does it; returns when the next is due. */
static uint64_t turn(struct dev_loop *l, uint64_t next_us)
{
	struct epoll_event ev[EVENTS_PER_TURN];
	int n = await(l, ev, next_us);
	for (int i = 0; i < n; i++) {
		struct dev_tag tag;
		memcpy(&tag, &ev[i].data.u64, sizeof(tag));
		if (tag.what == DEV_ON_UV)
			(void)uv_run(
				&l->uv, UV_RUN_NOWAIT); /* says only whether handles are left */
		else
			l->on_event(l->owner, tag, ev[i].events);
	}
	next_us = l->on_turn(l->owner);
	(void)dev_loop_close_dropped(l); /* there need not be any */
	return next_us;
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
	l->now_us = hf_now_us();
	return dev_loop_watch(
		l, uv_backend_fd(&l->uv), EPOLLIN, (struct dev_tag){ .what = DEV_ON_UV });
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
	(void)dev_loop_close_dropped(l);
	(void)uv_loop_close(&l->uv); /* busy only with handles open: there are none */
	fd_closep(&l->epfd);
}

void dev_loop_run(struct dev_loop *l)
{
	(void)uv_run(&l->uv, UV_RUN_NOWAIT); /* it watches its handles from here on */
	for (uint64_t next_us = 0; !l->stopped;)
		next_us = turn(l, next_us);
}

void dev_loop_stop(struct dev_loop *l)
{
	l->stopped = true;
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

bool dev_loop_close_dropped(struct dev_loop *l)
{
	bool any = l->n_dropped > 0;
	while (l->n_dropped > 0)
		fd_closep(&l->dropped[--l->n_dropped]);
	return any;
}

void dev_loop_drop(struct dev_loop *l, int *fd)
{
	if (*fd < 0)
		return;
	if (l->n_dropped == DEV_DROPS_MAX)
		(void)dev_loop_close_dropped(l); /* there are */
	l->dropped[l->n_dropped++] = fd_take(fd);
}
