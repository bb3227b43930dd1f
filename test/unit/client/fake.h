/* SPDX-License-Identifier: MIT */
/*
 * fake.h - a guest in the same thread: it dials the client's sockets and speaks frames that the
 * test writes. world_pump() lets the client run until nothing moves any more.
 */
#ifndef TEST_CLIENT_FAKE_H
#define TEST_CLIENT_FAKE_H

#include "../../lib/unit.h"
#include "base/bytes.h"
#include "base/fd.h"
#include "base/hex.h"
#include "bridge/protocol.h"
#include "holdfast/guest.h"
#include "stream/stream.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define TEST_WINDOW 4096

struct world {
	char dir[64], base[96];
	struct hf_guest *g;
	char *saved; /* the last state that was written down */
	int save_result;
	unsigned saves;
	char log[8192]; /* what the application was told, a line each */
	int fd;         /* the fake's bridge connection */
	char *body;     /* of the last frame read */
	uint64_t id;
	uint32_t type;
};

static inline void world_log(struct world *w, const char *fmt, ...)
{
	size_t n = strlen(w->log);
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(w->log + n, sizeof(w->log) - n, fmt, ap);
	va_end(ap);
}

static inline void expect_log(struct world *w, const char *want)
{
	assert_string_equal(w->log, want);
	w->log[0] = '\0';
}

/* --- the application --- */

static inline int on_state(void *ctx, struct hf_guest *g)
{
	struct world *w = ctx;
	w->saves++;
	if (w->save_result < 0)
		return w->save_result;
	free(w->saved);
	w->saved = hf_guest_state(g);
	assert_non_null(w->saved);
	return 0;
}

static inline void on_negotiated(void *ctx, const struct hf_guest_info *i)
{
	static const char *const names[] = { "new", "resumed", "unknown", "upstream" };
	world_log(ctx, "negotiated %s %s %u\n", names[i->session], i->instance, i->cid);
}

static inline void on_lost(void *ctx, const struct hf_err *why)
{
	world_log(ctx, "lost: %s\n", why->text);
}

static inline void on_answer(void *ctx, const struct hf_guest_answer *a)
{
	world_log(ctx, "answer %d %s code=%d pid=%u exit=%u %s\n", (int)a->id, a->tag, a->code,
		a->pid, a->exit_code, a->message);
}

static inline void on_exit_(void *ctx, const struct hf_guest_exit *e)
{
	world_log(ctx, "exit %s %s %d\n", e->container, e->type, (int)e->seq);
	if (e->oom_kills > 0)
		world_log(ctx, "of these killed %d\n", (int)e->oom_kills);
}

static inline void on_oom(void *ctx, const char *container, uint64_t kills)
{
	world_log(ctx, "oom %s %d\n", container, (int)kills);
}

static inline void on_stream(void *ctx, struct hf_guest_stream *s, unsigned events)
{
	static const char *const names[] = { "readable", "writable", "ended", "finished", "dead" };
	world_log(ctx, "%s:", hf_guest_stream_tag(s));
	for (unsigned i = 0; i < 5; i++)
		if (events >> i & 1)
			world_log(ctx, " %s", names[i]);
	world_log(ctx, "%s%s\n", hf_guest_stream_why(s)[0] ? " " : "", hf_guest_stream_why(s));
}

static inline void world_start(struct world *w, const char *state)
{
	struct hf_err e = { 0 };
	struct hf_guest_config c = { .vsock_base = w->base,
		.state = state,
		.window = TEST_WINDOW,
		.events = { .ctx = w,
			.state_changed = on_state,
			.negotiated = on_negotiated,
			.lost = on_lost,
			.answer = on_answer,
			.container_exit = on_exit_,
			.oom = on_oom,
			.stream = on_stream } };
	int r = hf_guest_new(&c, &w->g, &e);
	if (r < 0)
		fail_msg("hf_guest_new: %s", e.text);
}

static inline void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	w->fd = -1;
	strcpy(w->dir, "/tmp/hf-client-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	snprintf(w->base, sizeof(w->base), "%s/vsock", w->dir);
	world_start(w, NULL);
}

static inline void world_done(struct world *w)
{
	char cmd[128];
	hf_guest_free(w->g);
	free(w->saved);
	free(w->body);
	fd_closep(&w->fd);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", w->dir);
	assert_int_equal(system(cmd), 0);
}

static inline void world_pump(struct world *w)
{
	struct hf_err e = { 0 };
	do {
		if (hf_guest_dispatch(w->g, &e) < 0)
			fail_msg("dispatch: %s", e.text);
	} while (hf_guest_timeout_us(w->g) == 0 ||
		 poll(&(struct pollfd){ .fd = hf_guest_fd(w->g), .events = POLLIN }, 1, 0) > 0);
}

/* kill -9: what was not written down is gone. */
static inline void world_kill(struct world *w)
{
	hf_guest_free(w->g);
	w->g = NULL;
	w->log[0] = '\0';
}

/* --- the guest --- */

static inline int fake_dial(struct world *w, uint32_t port)
{
	char path[128];
	int fd;
	snprintf(path, sizeof(path), "%s_%u", w->base, port);
	assert_int_equal(unix_connect(path, &fd), 0);
	return fd;
}

static inline void fake_frame(struct world *w, uint32_t type, uint64_t id, const char *body)
{
	uint8_t h[16];
	le32_to(h, type);
	le32_to(h + 4, (uint32_t)(16 + strlen(body)));
	le64_to(h + 8, id);
	assert_int_equal(send(w->fd, h, 16, MSG_NOSIGNAL), 16);
	assert_int_equal(send(w->fd, body, strlen(body), MSG_NOSIGNAL), strlen(body));
	world_pump(w);
}

/* The next frame from the client; false when there is none. */
static inline bool fake_read(struct world *w)
{
	uint8_t h[16];
	world_pump(w);
	ssize_t n = recv(w->fd, h, 16, MSG_DONTWAIT);
	if (n <= 0)
		return false;
	assert_int_equal(n, 16);
	w->type = le32_at(h);
	w->id = le64_at(h + 8);
	uint32_t len = le32_at(h + 4) - 16;
	free(w->body);
	w->body = calloc(1, len + 1);
	for (uint32_t got = 0; got < len; got += (uint32_t)n) {
		n = recv(w->fd, w->body + got, len - got, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN) {
			world_pump(w);
			n = 0;
			continue;
		}
		assert_true(n > 0);
	}
	return true;
}

static inline void expect_frame(struct world *w, uint32_t type, uint64_t id)
{
	if (!fake_read(w))
		fail_msg("no frame, expected %x %d", type, (int)id);
	assert_int_equal(w->type, type);
	assert_int_equal(w->id, id);
}

static inline void expect_nothing(struct world *w)
{
	if (fake_read(w))
		fail_msg("unexpected frame %x %d %s", w->type, (int)w->id, w->body);
}

/* Dials and answers the negotiation; `session` NULL: as an upstream guest. */
static inline void fake_connect(struct world *w, const char *session)
{
	char answer[512] = "{\"Result\":0,\"Version\":4,\"Capabilities\":{"
			   "\"GuestDefinedCapabilities\":{\"DumpStacksSupported\":true}}}";
	fd_closep(&w->fd);
	w->fd = fake_dial(w, BRG_PORT);
	expect_frame(w, BRG_NEGOTIATE, 0);
	if (session)
		snprintf(answer, sizeof(answer),
			"{\"Result\":0,\"Version\":4,\"Capabilities\":{"
			"\"GuestDefinedCapabilities\":{\"Holdfast\":{\"Version\":1,\"Instance\":"
			"\"boot:1\","
			"\"Session\":\"%s\",\"Cid\":4}}}}",
			session);
	fake_frame(w, brg_answer_type(BRG_NEGOTIATE), 0, answer);
}

static inline void fake_answer(struct world *w, uint32_t type, uint64_t id, const char *body)
{
	fake_frame(w, brg_answer_type(type), id, body);
}

#endif
