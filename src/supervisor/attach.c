/* SPDX-License-Identifier: MIT */
/*
 * attach.c - a command line's end of a stream of a process, over docs/stream.md.
 *
 * The command line dials and keeps its end of the stream over any number of connections; ours lasts
 * as long as one connection. Output: the peer's hello says from where, and the file is sent from
 * there, followed as it grows, until its end. Input: what comes goes on to the guest and is
 * acknowledged when the guest's process has taken it, so that nothing is lost with this supervisor:
 * its successor asks the guest for the position, and the command line sends from there again.
 *
 * Of output only the last --log-max bytes are kept. A reader that is further behind is told, when
 * it attaches, where the rest begins; one that falls behind while it is attached is cut off, and
 * attaches again. A process waits for a reader that attached with "hold", when it is half of that
 * behind.
 *
 *	taken by the guest <= written to the guest stream <= received here
 *	= rs_rx_taken()       hf_guest_stream_written()
 */
#include "base/hex.h"
#include "stream/stream.h"
#include "supervisor_internal.h"
#include <errno.h>
#include <string.h>

#define ATTACH_WINDOW     (256 * 1024)
#define ATTACH_NO_READER  1 /* RESET code: nobody reads this standard input any more */
#define ATTACH_BAD_OFFSET 2 /* RESET code: there is less output than the peer has seen */

struct attach {
	struct hf_list link;
	struct sup *sup;
	struct chan *chan;
	struct proc_stream *s;
	struct rs rs;
	bool hold;
	uint64_t until; /* output: as much as was asked for; UINT64_MAX: all there will be */
	uint8_t window[ATTACH_WINDOW];
};

static void attach_free(struct attach *a)
{
	if (a->s->held)
		session_output_retry(a->sup);
	hf_list_remove(&a->link);
	free(a);
}

static void attach_close(struct attach *a)
{
	chan_close(a->chan);
	attach_free(a);
}

uint64_t attach_room(const struct proc_stream *s, uint64_t lag_max)
{
	uint64_t room = UINT64_MAX;
	hf_list_for_each (n, &s->readers) {
		const struct attach *a = HF_CONTAINER_OF(n, struct attach, link);
		uint64_t read = a->rs.hello_in ? HF_MIN(s->len, rs_tx_acked(&a->rs)) : s->len;
		uint64_t left = s->len - read < lag_max ? lag_max - (s->len - read) : 0;
		if (a->hold)
			room = HF_MIN(room, left);
	}
	return room;
}

static bool is_behind(const struct attach *a)
{
	return a->s->which != PROC_STDIN && a->rs.hello_in &&
	       rs_tx_end(&a->rs) < session_output_begin(a->sup, a->s);
}

/* File -> window. */
static void fill_output(struct attach *a)
{
	struct iovec iov[2];
	uint64_t at, len = HF_MIN(a->s->len, a->until);
	if (is_behind(a))
		return;
	while ((at = rs_tx_end(&a->rs)) < len && rs_write_iov(&a->rs, iov) > 0) {
		iov[0].iov_len = (size_t)HF_MIN((uint64_t)iov[0].iov_len, len - at);
		ssize_t n = pread(a->s->fd, iov[0].iov_base, iov[0].iov_len, (off_t)at);
		if (n <= 0)
			return; /* the file is shorter than we made it: nothing more to give */
		rs_wrote(&a->rs, (size_t)n);
	}
	if (at > a->s->len)
		rs_reset(&a->rs, ATTACH_BAD_OFFSET);
	else if (at == len && (a->s->ended || a->until != UINT64_MAX) && a->rs.hello_in)
		rs_end(&a->rs);
}

static size_t readable(const struct attach *a)
{
	struct iovec iov[2];
	size_t n = 0;
	for (int i = 0, k = rs_read(&a->rs, iov); i < k; i++)
		n += iov[i].iov_len;
	return n;
}

/* The process has had its last byte of input, or will never read one. */
static void finish_input(struct attach *a)
{
	rs_take(&a->rs, readable(a));
	if (rs_readable_end(&a->rs))
		rs_take_end(&a->rs);
	else
		rs_reset(&a->rs, ATTACH_NO_READER);
}

/* Window -> guest, and the guest's acknowledgement back. */
static void drain_input(struct attach *a)
{
	struct iovec iov[2];
	struct hf_guest_stream *g = a->s->guest;
	uint64_t acked = g ? hf_guest_stream_acked(g) : UINT64_MAX;
	if (!g || a->s->ended) {
		finish_input(a);
		return;
	}
	if (acked == UINT64_MAX || a->sup->asleep)
		return; /* the guest is away or on its way: it will tell, or the successor asks */
	int k = rs_read(&a->rs, iov);
	uint64_t taken = rs_rx_taken(&a->rs), skip = hf_guest_stream_written(g) - taken;
	for (int i = 0; i < k; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		ssize_t n = hf_guest_stream_write(
			g, (char *)iov[i].iov_base + skip, iov[i].iov_len - skip);
		if (n < (ssize_t)(iov[i].iov_len - skip))
			break; /* full, which WRITABLE ends; or dead, which is told by its event */
		skip = 0;
	}
	if (acked > taken)
		rs_take(&a->rs, HF_MIN(readable(a), (size_t)(acked - taken)));
	if (rs_readable_end(&a->rs))
		(void)hf_guest_stream_end(g); /* FINISHED tells when the process has it */
}

/* Moves what can be moved; closes the attachment when it is over or its socket is gone. */
static void pump(struct attach *a)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k;
	bool full = false;
	if (is_behind(a)) {
		attach_close(a);
		return;
	}
	if (a->s->which == PROC_STDIN)
		drain_input(a);
	else
		fill_output(a);
	full = chan_unsent(a->chan); /* the answer to the request goes first */
	while (!full && (k = rs_output(&a->rs, iov)) > 0) {
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)k };
		ssize_t n = sendmsg(a->chan->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			attach_close(a);
			return;
		}
		full = n < 0;
		if (n > 0)
			rs_sent(&a->rs, (size_t)n);
		if (n > 0 && a->s->which != PROC_STDIN)
			fill_output(a);
	}
	if (rs_over(&a->rs) && !full) {
		attach_close(a);
		return;
	}
	chan_want_write(a->chan, full);
}

static void on_bytes(struct chan *c, const void *data, size_t n)
{
	struct attach *a = c->ctx;
	if (a->s->held)
		session_output_retry(a->sup);
	if (rs_input(&a->rs, data, n) < 0)
		attach_close(a);
	else
		pump(a);
}

static void on_writable(struct chan *c)
{
	pump(c->ctx);
}

static void on_closed(struct chan *c, int why)
{
	(void)why; /* the peer dials again if it wants more */
	attach_free(c->ctx);
}

void attach_pump(struct proc_stream *s)
{
	hf_list_for_each_safe (n, &s->readers) {
		pump(HF_CONTAINER_OF(n, struct attach, link));
	}
}

void attach_close_stream(struct proc_stream *s)
{
	while (!hf_list_empty(&s->readers))
		attach_close(HF_CONTAINER_OF(s->readers.next, struct attach, link));
}

static int attach_new(
	struct proc_stream *s, const uint8_t token[RS_TOKEN_SIZE], struct attach **ret_a)
{
	struct attach *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	struct rs_config config = { 0 };
	memcpy(config.token, token, RS_TOKEN_SIZE);
	if (s->which == PROC_STDIN) {
		config.rx_buf = a->window;
		config.rx_cap = ATTACH_WINDOW;
		config.rx_start = s->guest ? hf_guest_stream_acked(s->guest) : 0;
	} else {
		config.tx_buf = a->window;
		config.tx_cap = ATTACH_WINDOW;
		config.tx_adopt = true;
	}
	int r = rs_init(&a->rs, &config);
	if (r < 0) {
		free(a);
		return r;
	}
	a->s = s;
	hf_list_init(&a->link);
	*ret_a = a;
	return 0;
}

void attach_begin(
	struct client *c, json_t *id, struct proc_stream *s, const char *token, json_t *args)
{
	static const struct chan_ops ops = {
		.on_bytes = on_bytes, .on_writable = on_writable, .on_closed = on_closed
	};
	uint8_t bytes[RS_TOKEN_SIZE];
	struct attach *a;
	struct chan *chan = c->chan;
	if (hex_decode(token, bytes, sizeof(bytes)) < 0) {
		client_err(c, id, EINVAL, "token: give %d hex digits", 2 * RS_TOKEN_SIZE);
		return;
	}
	if (s->which == PROC_STDIN && s->guest && hf_guest_stream_acked(s->guest) == UINT64_MAX) {
		client_err(c, id, EAGAIN, "process \"%s\": the guest is away; ask again",
			s->proc->name);
		return;
	}
	int r = s->which == PROC_STDIN ? 0 : session_output_fd(c->sup, s);
	r = r < 0 ? r : attach_new(s, bytes, &a);
	if (r < 0) {
		client_err(c, id, r, "process \"%s\": %s: %s", s->proc->name,
			proc_fd_name(s->which), strerror(-r));
		return;
	}
	if (s->which == PROC_STDIN)
		attach_close_stream(s); /* one writer at a time: the newer one */
	uint64_t begin = s->which == PROC_STDIN ? 0 : session_output_begin(c->sup, s);
	client_ok(c, id, json_pack("{s:I}", "begins", (json_int_t)begin));
	a->sup = c->sup;
	a->hold = json_is_true(json_object_get(args, "hold"));
	a->until = json_is_false(json_object_get(args, "follow")) ? s->len : UINT64_MAX;
	a->chan = chan;
	hf_list_append(&s->readers, &a->link);
	client_release(c);
	rs_attach(&a->rs);
	chan_raw(chan, &ops, a);
}

void attach_close_all(struct sup *sup)
{
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		for (int i = 0; i < PROC_FD_N_; i++)
			attach_close_stream(&p->stream[i]);
	}
}

void attach_pump_all(struct sup *sup)
{
	hf_list_for_each (n, &sup->procs.all) {
		struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		for (int i = 0; i < PROC_FD_N_; i++)
			attach_pump(&p->stream[i]);
	}
}

bool attach_any(const struct sup *sup)
{
	hf_list_for_each (n, &sup->procs.all) {
		const struct proc *p = HF_CONTAINER_OF(n, struct proc, link);
		for (int i = 0; i < PROC_FD_N_; i++)
			if (!hf_list_empty(&p->stream[i].readers))
				return true;
	}
	return false;
}
