/* SPDX-License-Identifier: MIT */
#include "chan.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define CHAN_READ_SIZE (64 * 1024)

static void on_poll(uv_poll_t *poll, int status, int events);

/* Waits for what the channel is interested in now. */
static void rearm(struct chan *c)
{
	if (c->closed)
		return;
	bool writes = chan_unsent(c) || (c->raw && c->want_write);
	int events = (c->close_when_sent ? 0 : UV_READABLE) | (writes ? UV_WRITABLE : 0);
	if (events == 0)
		(void)uv_poll_stop(&c->poll); /* always succeeds */
	else
		(void)uv_poll_start(&c->poll, events, on_poll); /* fails for closing handles only */
}

static void on_freed(uv_handle_t *h)
{
	struct chan *c = HF_CONTAINER_OF(h, struct chan, poll);
	fd_closep(&c->fd);
	for (size_t i = 0; i < c->n_fds; i++)
		fd_closep(&c->fds[i]);
	hf_lines_done(&c->lines);
	free(c->out);
	free(c);
}

int chan_open(uv_loop_t *loop, int fd, const struct chan_ops *ops, void *ctx, struct chan **ret_c)
{
	struct chan *c = calloc(1, sizeof(*c));
	int r = c ? uv_poll_init(loop, &c->poll, fd) : -ENOMEM;
	if (r < 0) {
		free(c);
		fd_closep(&fd);
		return r;
	}
	c->fd = fd;
	c->ops = ops;
	c->ctx = ctx;
	hf_lines_init(&c->lines, CHAN_LINE_MAX);
	rearm(c);
	*ret_c = c;
	return 0;
}

void chan_close(struct chan *c)
{
	if (c->closed)
		return;
	c->closed = true;
	uv_close((uv_handle_t *)&c->poll, on_freed);
}

void chan_close_when_sent(struct chan *c)
{
	c->close_when_sent = true;
	if (!chan_unsent(c))
		chan_close(c);
	else
		rearm(c);
}

/* The peer is gone: tell the owner, unless the owner has already let go of it. */
static void lose(struct chan *c, int why)
{
	if (c->closed)
		return;
	bool told = c->close_when_sent;
	chan_close(c);
	if (!told)
		c->ops->on_closed(c, why);
}

int chan_send(struct chan *c, const void *data, size_t n)
{
	if (c->closed)
		return -EPIPE;
	if (c->out_head > 0) {
		memmove(c->out, c->out + c->out_head, c->out_len - c->out_head);
		c->out_len -= c->out_head;
		c->out_head = 0;
	}
	char *out = c->out_len + n > CHAN_OUT_MAX ? NULL : realloc(c->out, c->out_len + n);
	if (!out) {
		(void)shutdown(c->fd, SHUT_RDWR); /* the loop finds its end and tells the owner */
		return -ENOBUFS;
	}
	memcpy(out + c->out_len, data, n);
	c->out = out;
	c->out_len += n;
	rearm(c);
	return 0;
}

int chan_send_json(struct chan *c, const json_t *msg)
{
	HF_CLEANUP(hf_freep) char *text = json_dumps(msg, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	text[n] = '\n'; /* in the place of the NUL: only n + 1 bytes are sent */
	return chan_send(c, text, n + 1);
}

int chan_send_json_fd(struct chan *c, const json_t *msg, int fd)
{
	HF_CLEANUP(hf_freep) char *text = json_dumps(msg, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	text[n] = '\n';
	if (c->closed || chan_unsent(c))
		return -EAGAIN;
	ssize_t sent = unix_send_fds(c->fd, text, n + 1, &fd, 1);
	if (sent <= 0)
		return sent < 0 ? (int)sent : -EAGAIN;
	return (size_t)sent == n + 1 ? 0 : chan_send(c, text + sent, n + 1 - (size_t)sent);
}

int chan_take_fd(struct chan *c)
{
	if (c->n_fds == 0)
		return -1;
	int fd = c->fds[0];
	c->n_fds--;
	memmove(c->fds, c->fds + 1, c->n_fds * sizeof(c->fds[0]));
	return fd;
}

void chan_raw(struct chan *c, const struct chan_ops *ops, void *ctx)
{
	c->raw = true;
	c->ops = ops;
	c->ctx = ctx;
	rearm(c);
}

void chan_want_write(struct chan *c, bool on)
{
	if (c->want_write != on) {
		c->want_write = on;
		rearm(c);
	}
}

/* Hands out the lines that are complete; an owner may close the channel or turn it raw meanwhile.
 */
static void hand_out(struct chan *c)
{
	char *line;
	while (!c->closed && !c->raw && !c->close_when_sent) {
		int r = hf_lines_next(&c->lines, &line);
		if (r == 0)
			return;
		if (r < 0 && c->ops->on_bad_line) {
			c->ops->on_bad_line(c, r);
			return;
		}
		if (r < 0) {
			lose(c, r);
			return;
		}
		c->ops->on_line(c, line);
	}
	const char *rest;
	size_t n = c->raw && !c->closed ? hf_lines_rest(&c->lines, &rest) : 0;
	if (n > 0)
		c->ops->on_bytes(c, rest, n);
}

static void do_read(struct chan *c)
{
	char buf[CHAN_READ_SIZE];
	size_t got = 0;
	ssize_t n = unix_recv_fds(
		c->fd, buf, sizeof(buf), c->fds + c->n_fds, CHAN_FDS_MAX - c->n_fds, &got);
	if (n == -EAGAIN)
		return;
	c->n_fds += got;
	if (n <= 0) {
		lose(c, (int)n);
		return;
	}
	if (c->raw) {
		c->ops->on_bytes(c, buf, (size_t)n);
		return;
	}
	int r = hf_lines_feed(&c->lines, buf, (size_t)n);
	if (r < 0)
		lose(c, r);
	else
		hand_out(c);
}

static void do_write(struct chan *c)
{
	if (!chan_unsent(c)) {
		if (c->raw && c->want_write)
			c->ops->on_writable(c);
		return;
	}
	ssize_t n = unix_send_fds(c->fd, c->out + c->out_head, c->out_len - c->out_head, NULL, 0);
	if (n < 0 && n != -EAGAIN) {
		lose(c, (int)n);
		return;
	}
	c->out_head += n > 0 ? (size_t)n : 0;
	if (!chan_unsent(c) && c->close_when_sent)
		chan_close(c);
	else
		rearm(c);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
	struct chan *c = HF_CONTAINER_OF(poll, struct chan, poll);
	if (status < 0) {
		lose(c, status);
		return;
	}
	if (events & UV_WRITABLE)
		do_write(c);
	if (!c->closed && events & UV_READABLE)
		do_read(c);
}
