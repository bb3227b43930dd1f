/* SPDX-License-Identifier: MIT */
/*
 * chan.h - one socket of the supervisor on the loop: lines, or bytes once it speaks a stream.
 *
 * A channel begins in lines: on_line() for each, chan_send() queues (at most CHAN_OUT_MAX bytes, a
 * peer that does not read is cut off). chan_raw() turns it over to bytes: then on_bytes() gets what
 * is read and on_writable() is called while chan_want_write() is on; chan_send() is not used there.
 *
 * on_closed() comes once, when the peer is gone or broke a limit, never for chan_close(). The
 * channel may be closed inside any callback and is freed by the loop afterwards.
 */
#ifndef HF_SUPERVISOR_CHAN_H
#define HF_SUPERVISOR_CHAN_H

#include "base/fd.h"
#include "base/line.h"
#include <jansson.h>
#include <uv.h>

#define CHAN_LINE_MAX (1024 * 1024)
#define CHAN_OUT_MAX  (8 * 1024 * 1024)
#define CHAN_FDS_MAX  4

struct chan;

struct chan_ops {
	void (*on_line)(struct chan *c, char *line);
	void (*on_bad_line)(struct chan *c, int why); /* NULL: on_closed; no line follows */
	void (*on_bytes)(struct chan *c, const void *data, size_t n);
	void (*on_writable)(struct chan *c);
	void (*on_closed)(struct chan *c, int why); /* 0: the peer's end; -errno */
};

struct chan {
	uv_poll_t poll;
	int fd;
	const struct chan_ops *ops;
	void *ctx;
	struct hf_lines lines;
	char *out;
	size_t out_head, out_len;
	int fds[CHAN_FDS_MAX]; /* received with the lines and not taken yet */
	size_t n_fds;
	bool raw, want_write, closed, close_when_sent;
};

/* Takes over the descriptor, also on failure. */
int chan_open(uv_loop_t *loop, int fd, const struct chan_ops *ops, void *ctx, struct chan **ret_c);
void chan_close(struct chan *c);
void chan_close_when_sent(struct chan *c); /* reads nothing more */

/* Queues bytes. -ENOBUFS: over the limit, and the channel is about to be closed. */
int chan_send(struct chan *c, const void *data, size_t n);
int chan_send_json(struct chan *c, const json_t *msg); /* one line */
/* One line with a descriptor, for a peer that is waiting for it: -EAGAIN unless it went at once. */
int chan_send_json_fd(struct chan *c, const json_t *msg, int fd);

/* Whether something that was queued by chan_send() is still here. */
static inline bool chan_unsent(const struct chan *c)
{
	return c->out_len > c->out_head;
}

/* The first descriptor received and not taken yet, or -1. */
int chan_take_fd(struct chan *c);

/* Bytes from here on; those already read behind the last line come as on_bytes() at once. */
void chan_raw(struct chan *c, const struct chan_ops *ops, void *ctx);
void chan_want_write(struct chan *c, bool on);

#endif
