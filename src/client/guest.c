/* SPDX-License-Identifier: MIT */
/*
 * guest.c - the guest object: its descriptors and the order of things.
 *
 * hf_guest_dispatch() takes one event of the epoll set at a time, so that whatever a callback
 * closes cannot have a second event waiting. Then, in this order:
 *
 *	1. streams that were touched send and tell,
 *	2. the state is saved if it has changed,
 *	3. requests, acknowledgements and last words of streams leave - only when 2 succeeded,
 *	4. what was given up is freed.
 *
 * So nothing that a successor must know ever leaves before it is written down.
 */
#include "base/hex.h"
#include "guest_internal.h"
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>

#define DISPATCH_EVENTS 256 /* per call, so that the caller's loop is not kept waiting */

void guest_wake(struct hf_guest *g)
{
	uint64_t one = 1;
	if (g->woken || g->standing)
		return;
	g->woken = true;
	(void)!write(
		g->wake.fd, &one, sizeof(one)); /* cannot be full: it is read before the next */
}

void guest_dirty(struct hf_guest *g)
{
	g->dirty = true;
	guest_wake(g);
}

/* --- descriptors --- */

void source_init(struct source *s, enum source_kind kind, void *owner)
{
	*s = (struct source){ .kind = kind, .fd = -1, .owner = owner };
}

static int source_set(struct hf_guest *g, struct source *s, int op, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = s };
	return epoll_ctl(g->epfd, op, s->fd, &e) < 0 ? -errno : 0;
}

int source_want(struct hf_guest *g, struct source *s, uint32_t events)
{
	uint32_t before = s->events;
	s->events = events;
	if (g->standing || before == events)
		return 0;
	if (before == 0)
		return source_set(g, s, EPOLL_CTL_ADD, events);
	return source_set(g, s, events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, events);
}

/* A child that the application has just forked may still hold the descriptor, so that closing it
 * alone would leave it in the epoll set. */
void source_close(struct hf_guest *g, struct source *s)
{
	if (s->fd >= 0)
		(void)source_want(g, s, 0); /* fails only for what is not in the set */
	s->events = 0;
	fd_closep(&s->fd);
}

/* Everything that waits is in the set, or nothing is. */
static void set_all(struct hf_guest *g, int op)
{
	struct source *fixed[] = { &g->wake, &g->bridge_listener, &g->stream_listener,
		&g->bridge.source };
	for (size_t i = 0; i < HF_ARRAY_SIZE(fixed); i++)
		if (fixed[i]->fd >= 0 && fixed[i]->events)
			(void)source_set(g, fixed[i], op, fixed[i]->events); /* known to be valid */
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (s->source.fd >= 0 && s->source.events)
			(void)source_set(g, &s->source, op, s->source.events);
	}
}

/* --- life --- */

static int random_session(char session[2 * RS_TOKEN_SIZE + 1])
{
	uint8_t id[RS_TOKEN_SIZE];
	if (getrandom(id, sizeof(id), 0) != (ssize_t)sizeof(id))
		return -errno;
	hex_encode(id, sizeof(id), session);
	return 0;
}

static int guest_setup(
	struct hf_guest *g, const struct hf_guest_config *config, struct hf_err *reterr)
{
	int r = guest_address(g, config->vsock_base, reterr);
	if (r < 0)
		return r;
	g->instance = strdup("");
	g->capabilities = strdup("{}");
	g->scratch = malloc(GUEST_READ_MAX);
	if (!g->instance || !g->capabilities || !g->scratch)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	g->epfd = epoll_create1(EPOLL_CLOEXEC);
	g->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->epfd < 0 || g->wake.fd < 0)
		return hf_err_set(reterr, -errno, "no descriptors: %s", strerror(errno));
	r = source_want(g, &g->wake, EPOLLIN);
	if (r < 0 || (r = random_session(g->session)) < 0)
		return hf_err_set(reterr, r, "%s", strerror(-r));
	r = config->state ? state_load(g, config->state, reterr) : 0;
	if (r < 0)
		return r;
	r = guest_listen(g, &g->bridge_listener, BRG_PORT, reterr);
	if (r < 0)
		return r;
	return guest_listen(g, &g->stream_listener, GUEST_STREAM_PORT, reterr);
}

int hf_guest_new(
	const struct hf_guest_config *config, struct hf_guest **ret_g, struct hf_err *reterr)
{
	uint32_t window = config->window ? config->window : HF_GUEST_WINDOW_DEFAULT;
	if ((window & (window - 1)) != 0 || window > RS_WINDOW_MAX)
		return hf_err_set(reterr, -EINVAL, "window %u: not a power of two up to %u", window,
			RS_WINDOW_MAX);
	struct hf_guest *g = calloc(1, sizeof(*g));
	if (!g)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	g->events = config->events;
	g->window = window;
	g->epfd = -1;
	g->next_id = 1;
	g->next_port = GUEST_FIRST_PORT;
	source_init(&g->wake, SOURCE_WAKE, g);
	source_init(&g->bridge_listener, SOURCE_BRIDGE_LISTENER, g);
	source_init(&g->stream_listener, SOURCE_STREAM_LISTENER, g);
	source_init(&g->bridge.source, SOURCE_BRIDGE, g);
	hf_list_init(&g->doors);
	hf_list_init(&g->streams);
	hf_list_init(&g->requests);
	int r = guest_setup(g, config, reterr);
	if (r < 0) {
		hf_guest_free(g);
		return r;
	}
	guest_dirty(g);
	*ret_g = g;
	return 0;
}

void hf_guest_free(struct hf_guest *g)
{
	if (!g)
		return;
	hf_list_for_each_safe (d, &g->doors)
		door_close(g, HF_CONTAINER_OF(d, struct door, link));
	hf_list_for_each_safe (s, &g->streams)
		stream_delete(HF_CONTAINER_OF(s, struct hf_guest_stream, link));
	hf_list_for_each_safe (r, &g->requests)
		request_free(g, HF_CONTAINER_OF(r, struct request, link));
	bridge_close(g);
	source_close(g, &g->bridge_listener);
	source_close(g, &g->stream_listener);
	source_close(g, &g->wake);
	fd_closep(&g->epfd);
	free(g->acks);
	free(g->scratch);
	free(g->base);
	free(g->instance);
	free(g->capabilities);
	free(g);
}

int hf_guest_fd(const struct hf_guest *g)
{
	return g->epfd;
}

int64_t hf_guest_timeout_us(const struct hf_guest *g)
{
	uint64_t at = UINT64_MAX;
	if (g->standing)
		return -1;
	if (g->bridge.source.fd >= 0 && !g->bridge.negotiated)
		at = g->bridge.deadline_us;
	if (g->dirty)
		at = HF_MIN(at, g->save_us);
	if (g->accept_us)
		at = HF_MIN(at, g->accept_us);
	if (at == UINT64_MAX)
		return -1;
	uint64_t now = hf_now_us();
	return at > now ? (int64_t)(at - now) : 0;
}

bool hf_guest_is_connected(const struct hf_guest *g)
{
	return g->bridge.source.fd >= 0 && g->bridge.negotiated;
}

/* --- dispatch --- */

static void accept_again(struct hf_guest *g)
{
	if (g->accept_us == 0 || hf_now_us() < g->accept_us)
		return;
	g->accept_us = 0;
	guest_listen_all(g, EPOLLIN);
}

static void listener_event(struct hf_guest *g, struct source *s)
{
	int fd = guest_accept(g, s);
	if (fd < 0)
		return; /* it comes again */
	if (s->kind == SOURCE_BRIDGE_LISTENER)
		bridge_accept(g, fd);
	else
		door_accept(g, fd);
}

static void source_event(struct hf_guest *g, struct source *s, uint32_t events)
{
	uint64_t count;
	switch (s->kind) {
	case SOURCE_WAKE:
		(void)!read(s->fd, &count, sizeof(count)); /* its being readable was all */
		g->woken = false;
		break;
	case SOURCE_BRIDGE_LISTENER:
	case SOURCE_STREAM_LISTENER:
		listener_event(g, s);
		break;
	case SOURCE_BRIDGE:
		if (events & ~(uint32_t)EPOLLOUT)
			bridge_input(g);
		break; /* output is tried at the end of each dispatch */
	case SOURCE_DOOR:
		door_input(g, s->owner);
		break;
	case SOURCE_STREAM:
		stream_event(s->owner, events);
		break;
	case SOURCE_PORT:
		stream_port_event(s->owner);
		break;
	}
}

static void run_streams(struct hf_guest *g)
{
	bool again;
	do {
		again = false;
		hf_list_for_each_safe (n, &g->streams) {
			struct hf_guest_stream *s =
				HF_CONTAINER_OF(n, struct hf_guest_stream, link);
			if (s->touched) {
				s->touched = false;
				stream_run(s);
				again = again || s->touched;
			}
		}
	} while (again);
}

static void save(struct hf_guest *g)
{
	if (!g->dirty || hf_now_us() < g->save_us)
		return;
	if (g->events.state_changed && g->events.state_changed(g->events.ctx, g) < 0) {
		g->save_us = hf_now_us() + GUEST_SAVE_RETRY_US;
		return;
	}
	g->save_us = 0;
	g->dirty = false;
}

/* What the saved state no longer lists may say its last word. */
static void settle_streams(struct hf_guest *g)
{
	bool any = false;
	hf_list_for_each (n, &g->streams)
		if (stream_settle(HF_CONTAINER_OF(n, struct hf_guest_stream, link)))
			any = true;
	if (any)
		run_streams(g);
}

static void collect(struct hf_guest *g)
{
	hf_list_for_each_safe (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (stream_is_gone(s)) {
			stream_delete(s);
			guest_dirty(g);
		}
	}
}

/* Returns 1 when an event was handled. */
static int one_event(struct hf_guest *g, struct hf_err *reterr)
{
	struct epoll_event e;
	int n = epoll_wait(g->epfd, &e, 1, 0);
	if (n < 0 && errno != EINTR)
		return hf_err_set(reterr, -errno, "epoll_wait: %s", strerror(errno));
	if (n <= 0)
		return 0;
	source_event(g, e.data.ptr, e.events);
	return 1;
}

static void finish_round(struct hf_guest *g)
{
	run_streams(g);
	save(g);
	if (!g->dirty) {
		settle_streams(g);
		bridge_flush(g);
	}
	collect(g);
}

int hf_guest_dispatch(struct hf_guest *g, struct hf_err *reterr)
{
	int r = 0;
	if (g->standing)
		return 0;
	hf_assert(!g->dispatching);
	g->dispatching = true;
	accept_again(g);
	for (int i = 0; i < DISPATCH_EVENTS && (r = one_event(g, reterr)) > 0; i++)
		;
	if (g->bridge.source.fd >= 0 && !g->bridge.negotiated &&
		hf_now_us() >= g->bridge.deadline_us)
		bridge_lost(g, -ETIMEDOUT, "the guest did not answer the negotiation in 10 s");
	finish_round(g);
	g->dispatching = false;
	return r < 0 ? r : 0;
}

/* --- standing still --- */

int hf_guest_quiesce(struct hf_guest *g, struct hf_err *reterr)
{
	int r;
	if (g->standing)
		return 0;
	if (g->mode == MODE_UPSTREAM)
		return hf_err_set(reterr, -EOPNOTSUPP,
			"the guest's agent has no sessions: its connections cannot be moved");
	g->dispatching = true;
	while ((r = one_event(g, reterr)) > 0)
		;
	finish_round(g);
	g->dispatching = false;
	if (r < 0)
		return r;
	hf_list_for_each_safe (d, &g->doors)
		door_close(g, HF_CONTAINER_OF(d, struct door, link));
	if (g->bridge.source.fd >= 0 && !g->bridge.negotiated)
		bridge_lost(g, -EAGAIN, "standing still in the middle of the negotiation");
	set_all(g, EPOLL_CTL_DEL);
	g->standing = true;
	return 0;
}

static bool has_bytes(int fd)
{
	char c;
	return fd >= 0 && recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 1;
}

int hf_guest_drain(struct hf_guest *g)
{
	if (!g->standing)
		return -EINVAL;
	g->dispatching = true;
	while (has_bytes(g->bridge.source.fd))
		bridge_input(g);
	hf_list_for_each_safe (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		while (!s->plain && has_bytes(s->source.fd)) {
			stream_event(s, EPOLLIN);
			stream_run(s);
		}
	}
	collect(g);
	g->dispatching = false;
	return 0;
}

/* What has no connection here waits for the guest to dial. */
int hf_guest_resume_here(struct hf_guest *g)
{
	if (!g->standing)
		return -EALREADY;
	if (g->bridge.source.fd < 0)
		bridge_close(g);
	hf_list_for_each (n, &g->streams) {
		struct hf_guest_stream *s = HF_CONTAINER_OF(n, struct hf_guest_stream, link);
		if (s->source.fd < 0 && s->rs.attached)
			rs_detach(&s->rs);
		s->touched = true;
	}
	g->standing = false;
	set_all(g, EPOLL_CTL_ADD);
	guest_dirty(g);
	return 0;
}
