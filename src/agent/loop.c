/* SPDX-License-Identifier: MIT */
#include "loop.h"
#include <errno.h>

struct agt_watch {
	uv_poll_t handle;
	agt_watch_fn *fn;
	void *arg;
	int events; /* asked for */
	bool running;
};

struct agt_timer {
	uv_timer_t handle;
	agt_timer_fn *fn;
	void *arg;
};

static void free_handle(uv_handle_t *h)
{
	free(h->data);
}

static void on_poll(uv_poll_t *h, int status, int events)
{
	struct agt_watch *w = h->data;
	if (status < 0) {
		w->running = false; /* libuv has stopped it */
		events = w->events;
	}
	w->fn(w->arg, events);
}

int agt_watch_new(uv_loop_t *loop, int fd, agt_watch_fn *fn, void *arg, struct agt_watch **ret)
{
	struct agt_watch *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	int r = uv_poll_init(loop, &w->handle, fd);
	if (r < 0) {
		free(w);
		return r; /* libuv's codes are -errno on Linux */
	}
	w->handle.data = w;
	w->fn = fn;
	w->arg = arg;
	*ret = w;
	return 0;
}

void agt_watch_set(struct agt_watch *w, int events)
{
	if (events == w->events && (w->running || events == 0))
		return;
	w->events = events;
	w->running = events != 0;
	if (events)
		(void)uv_poll_start(
			&w->handle, events, on_poll); /* fails on a closing handle only */
	else
		(void)uv_poll_stop(&w->handle);
}

void agt_watch_free(struct agt_watch *w)
{
	if (w)
		uv_close((uv_handle_t *)&w->handle, free_handle);
}

static void on_timer(uv_timer_t *h)
{
	struct agt_timer *t = h->data;
	t->fn(t->arg);
}

struct agt_timer *agt_timer_new(uv_loop_t *loop, agt_timer_fn *fn, void *arg)
{
	struct agt_timer *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	(void)uv_timer_init(loop, &t->handle); /* cannot fail */
	t->handle.data = t;
	t->fn = fn;
	t->arg = arg;
	return t;
}

void agt_timer_set(struct agt_timer *t, uint64_t in_ms)
{
	uv_update_time(t->handle.loop);
	(void)uv_timer_start(&t->handle, on_timer, in_ms, 0); /* fails on a closing handle only */
}

void agt_timer_stop(struct agt_timer *t)
{
	(void)uv_timer_stop(&t->handle); /* cannot fail */
}

void agt_timer_free(struct agt_timer *t)
{
	if (t)
		uv_close((uv_handle_t *)&t->handle, free_handle);
}
