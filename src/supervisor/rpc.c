/* SPDX-License-Identifier: MIT */
#include "rpc.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct request {
	uint64_t id;
	char cmd[32];
	rpc_done_fn *done;
	void *ctx;
};

struct rpc {
	struct chan *chan; /* NULL when lost */
	char peer[64];
	const struct rpc_ops *ops;
	void *ctx;
	uint64_t next_id;
	struct request waiting[RPC_OUTSTANDING_MAX];
	size_t n_waiting;
	bool in_callback, closed;
};

/* Closing inside a callback leaves the memory until the callback is over. */
static void put(struct rpc *rpc)
{
	if (rpc->closed && !rpc->in_callback)
		free(rpc);
}

static void finish(struct rpc *rpc, size_t i, const struct hf_err *err, json_t *answer, int fd)
{
	struct request q = rpc->waiting[i];
	rpc->n_waiting--;
	memmove(rpc->waiting + i, rpc->waiting + i + 1, (rpc->n_waiting - i) * sizeof(q));
	q.done(q.ctx, err, answer, &fd);
	fd_closep(&fd);
}

static void take_answer(struct rpc *rpc, json_t *msg)
{
	uint64_t id = (uint64_t)json_integer_value(json_object_get(msg, "id"));
	size_t i = 0;
	while (i < rpc->n_waiting && rpc->waiting[i].id != id)
		i++;
	if (i == rpc->n_waiting)
		return;
	int fd = chan_take_fd(rpc->chan);
	if (json_is_true(json_object_get(msg, "ok"))) {
		finish(rpc, i, NULL, msg, fd);
		return;
	}
	json_t *error = json_object_get(msg, "error");
	const char *text = json_string_value(json_object_get(error, "text"));
	const char *code = json_string_value(json_object_get(error, "code"));
	struct hf_err err;
	hf_err_set(&err, -EREMOTEIO, "%s: %s: %s%s%s", rpc->peer, rpc->waiting[i].cmd,
		text ? text : "refused", code ? " " : "", code ? code : "");
	finish(rpc, i, &err, NULL, fd);
}

static void on_line(struct chan *c, char *line)
{
	struct rpc *rpc = c->ctx;
	json_t *msg = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	const char *event = json_string_value(json_object_get(msg, "event"));
	rpc->in_callback = true;
	if (event && rpc->ops->on_event)
		rpc->ops->on_event(rpc->ctx, event, msg);
	else if (json_is_object(msg))
		take_answer(rpc, msg);
	rpc->in_callback = false;
	json_decref(msg);
	put(rpc);
}

static void fail_all(struct rpc *rpc, int why)
{
	rpc->in_callback = true;
	while (rpc->n_waiting > 0 && !rpc->closed) {
		struct hf_err err;
		hf_err_set(&err, why ? why : -ECONNRESET, "%s: %s: the connection was lost: %s",
			rpc->peer, rpc->waiting[0].cmd,
			why ? strerror(-why) : "closed by the peer");
		finish(rpc, 0, &err, NULL, -1);
	}
	if (!rpc->closed)
		rpc->ops->on_lost(rpc->ctx, why);
	rpc->in_callback = false;
	put(rpc);
}

static void on_closed(struct chan *c, int why)
{
	struct rpc *rpc = c->ctx;
	rpc->chan = NULL;
	fail_all(rpc, why);
}

int rpc_open(uv_loop_t *loop, const char *path, const char *peer, const struct rpc_ops *ops,
	void *ctx, struct rpc **ret_rpc)
{
	static const struct chan_ops chan_ops = { .on_line = on_line, .on_closed = on_closed };
	int fd = -1;
	int r = unix_connect(path, &fd);
	if (r < 0)
		return r;
	struct rpc *rpc = calloc(1, sizeof(*rpc));
	if (!rpc) {
		fd_closep(&fd);
		return -ENOMEM;
	}
	(void)snprintf(rpc->peer, sizeof(rpc->peer), "%s", peer);
	rpc->ops = ops;
	rpc->ctx = ctx;
	rpc->next_id = 1;
	r = chan_open(loop, fd, &chan_ops, rpc, &rpc->chan);
	if (r < 0) {
		free(rpc);
		return r;
	}
	*ret_rpc = rpc;
	return 0;
}

void rpc_close(struct rpc *rpc)
{
	if (!rpc)
		return;
	if (rpc->chan)
		chan_close(rpc->chan);
	rpc->chan = NULL;
	rpc->n_waiting = 0;
	rpc->closed = true;
	put(rpc);
}

void rpc_call(struct rpc *rpc, const char *cmd, json_t *args, int fd, rpc_done_fn *done, void *ctx)
{
	struct request q = { .id = rpc->next_id++, .done = done, .ctx = ctx };
	int r = -ENOTCONN, no_fd = -1;
	(void)snprintf(q.cmd, sizeof(q.cmd), "%s", cmd);
	if (!args)
		args = json_object();
	if (rpc->n_waiting == RPC_OUTSTANDING_MAX)
		r = -EBUSY;
	else if (!args || json_object_set_new(args, "id", json_integer((json_int_t)q.id)) < 0 ||
		 json_object_set_new(args, "cmd", json_string(cmd)) < 0)
		r = -ENOMEM;
	else if (rpc->chan)
		r = fd < 0 ? chan_send_json(rpc->chan, args)
			   : chan_send_json_fd(rpc->chan, args, fd);
	json_decref(args);
	if (r < 0) {
		struct hf_err err;
		hf_err_set(&err, r, "%s: %s: cannot send: %s", rpc->peer, cmd, strerror(-r));
		done(ctx, &err, NULL, &no_fd);
		return;
	}
	rpc->waiting[rpc->n_waiting++] = q;
}

pid_t rpc_peer_pid(const struct rpc *rpc)
{
	struct ucred cred;
	socklen_t n = sizeof(cred);
	if (!rpc->chan || getsockopt(rpc->chan->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return -1;
	return cred.pid;
}
