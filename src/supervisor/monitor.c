/* SPDX-License-Identifier: MIT */
#include "monitor.h"
#include "base/log.h"
#include "qmp/qmp.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct command {
	uint64_t id;
	char name[40];
	monitor_done_fn *done;
	void *ctx;
};

struct monitor {
	struct chan *chan; /* NULL when lost */
	struct qmp *qmp;
	const struct monitor_ops *ops;
	void *ctx;
	struct command waiting[QMP_OUTSTANDING_MAX];
	size_t n_waiting;
	bool in_callback, closed;
};

static void put(struct monitor *m)
{
	if (m->closed && !m->in_callback) {
		qmp_free(m->qmp);
		free(m);
	}
}

static void finish(struct monitor *m, size_t i, const struct hf_err *err, json_t *result)
{
	struct command c = m->waiting[i];
	m->n_waiting--;
	memmove(m->waiting + i, m->waiting + i + 1, (m->n_waiting - i) * sizeof(c));
	if (c.done)
		c.done(c.ctx, err, result);
	else if (err)
		hf_warn("%s", err->text);
}

static void lose(struct monitor *m, const char *why)
{
	if (m->chan)
		chan_close(m->chan);
	m->chan = NULL;
	while (m->n_waiting > 0 && !m->closed) {
		struct hf_err err;
		hf_err_set(&err, -ECONNRESET, "qemu: %s: %s", m->waiting[0].name, why);
		finish(m, 0, &err, NULL);
	}
	if (!m->closed)
		m->ops->on_lost(m->ctx);
}

static void take_answer(struct monitor *m, const struct qmp_msg *msg)
{
	for (size_t i = 0; i < m->n_waiting; i++) {
		if (m->waiting[i].id != msg->id)
			continue;
		struct hf_err err;
		if (msg->kind == QMP_MSG_ERROR)
			hf_err_set(&err, -EREMOTEIO, "qemu: %s: %s", m->waiting[i].name,
				json_string_value(msg->data));
		finish(m, i, msg->kind == QMP_MSG_ERROR ? &err : NULL, msg->data);
		return;
	}
}

static void on_bytes(struct chan *c, const void *data, size_t n)
{
	struct monitor *m = c->ctx;
	struct qmp_msg msg;
	int r = qmp_feed(m->qmp, data, n);
	m->in_callback = true;
	while (r == 0 && !m->closed) {
		r = qmp_next(m->qmp, &msg);
		if (r <= 0)
			break;
		r = 0;
		if (msg.kind == QMP_MSG_READY)
			m->ops->on_ready(m->ctx, msg.data);
		else if (msg.kind == QMP_MSG_EVENT)
			m->ops->on_event(m->ctx, msg.name, msg.data);
		else
			take_answer(m, &msg);
	}
	if (r < 0 && !m->closed)
		lose(m, "the monitor broke its protocol");
	m->in_callback = false;
	put(m);
}

static void on_writable(struct chan *c)
{
	struct monitor *m = c->ctx;
	const char *data;
	size_t n = qmp_output(m->qmp, &data);
	ssize_t sent = n > 0 ? unix_send_fds(c->fd, data, n, NULL, 0) : 0;
	if (sent > 0)
		qmp_output_done(m->qmp, (size_t)sent);
	/* What is wrong with the socket is told by the next read. */
	chan_want_write(c, qmp_output(m->qmp, &data) > 0 && (sent > 0 || sent == -EAGAIN));
}

static void on_closed(struct chan *c, int why)
{
	struct monitor *m = c->ctx;
	m->chan = NULL;
	m->in_callback = true;
	lose(m, why ? strerror(-why) : "QEMU has ended");
	m->in_callback = false;
	put(m);
}

int monitor_open(uv_loop_t *loop, const char *path, const struct monitor_ops *ops, void *ctx,
	struct monitor **ret_m)
{
	static const struct chan_ops chan_ops = {
		.on_bytes = on_bytes, .on_writable = on_writable, .on_closed = on_closed
	};
	int fd = -1;
	int r = unix_connect(path, &fd);
	if (r < 0)
		return r;
	struct monitor *m = calloc(1, sizeof(*m));
	if (m)
		m->qmp = qmp_new();
	if (!m || !m->qmp) {
		free(m);
		fd_closep(&fd);
		return -ENOMEM;
	}
	m->ops = ops;
	m->ctx = ctx;
	r = chan_open(loop, fd, &chan_ops, m, &m->chan);
	if (r < 0) {
		qmp_free(m->qmp);
		free(m);
		return r;
	}
	chan_raw(m->chan, &chan_ops, m);
	chan_want_write(m->chan, true);
	*ret_m = m;
	return 0;
}

void monitor_close(struct monitor *m)
{
	if (!m)
		return;
	if (m->chan)
		chan_close(m->chan);
	m->chan = NULL;
	m->n_waiting = 0;
	m->closed = true;
	put(m);
}

void monitor_call(
	struct monitor *m, const char *command, json_t *args, monitor_done_fn *done, void *ctx)
{
	struct command c = { .done = done, .ctx = ctx };
	(void)snprintf(c.name, sizeof(c.name), "%s", command);
	int r = m->chan ? qmp_command(m->qmp, command, args, &c.id) : -ENOTCONN;
	if (!m->chan)
		json_decref(args);
	if (r < 0) {
		struct hf_err err;
		hf_err_set(&err, r, "qemu: %s: cannot send: %s", command, strerror(-r));
		if (done)
			done(ctx, &err, NULL);
		return;
	}
	m->waiting[m->n_waiting++] = c;
	chan_want_write(m->chan, true);
}

pid_t monitor_peer_pid(const struct monitor *m)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);
	if (!m->chan || getsockopt(m->chan->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return -1;
	return cred.pid;
}
