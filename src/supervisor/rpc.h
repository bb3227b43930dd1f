/* SPDX-License-Identifier: MIT */
/*
 * rpc.h - the asking end of a control socket (docs/control.md): holdfastd's, or another
 * supervisor's.
 */
#ifndef HF_SUPERVISOR_RPC_H
#define HF_SUPERVISOR_RPC_H

#include "base/err.h"
#include "chan.h"

#define RPC_OUTSTANDING_MAX 64

struct rpc;

/* `answer` is the whole message (NULL when err is set), borrowed; `fd` is what came with it (or -1)
 * and is closed afterwards unless *fd is taken. Exactly one call per request. */
typedef void rpc_done_fn(void *ctx, const struct hf_err *err, json_t *answer, int *fd);

struct rpc_ops {
	void (*on_event)(void *ctx, const char *name, json_t *msg);
	void (*on_lost)(void *ctx, int why); /* after the outstanding requests were failed */
};

/* `peer` names the other end in error texts. Connects now or fails. */
int rpc_open(uv_loop_t *loop, const char *path, const char *peer, const struct rpc_ops *ops,
	void *ctx, struct rpc **ret_rpc);
/* Outstanding requests are forgotten without a call. */
void rpc_close(struct rpc *rpc);

/* Sends {"id", "cmd", ...args}; args is taken over (NULL: none); fd (or -1) is only lent. */
void rpc_call(struct rpc *rpc, const char *cmd, json_t *args, int fd, rpc_done_fn *done, void *ctx);

pid_t rpc_peer_pid(const struct rpc *rpc);

#endif
