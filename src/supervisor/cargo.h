/* SPDX-License-Identifier: MIT */
/*
 * cargo.h - what a migration's source gives the destination's supervisor: the output files, then
 * the device's record and the supervisor's state. One message is on its way at a time.
 */
#ifndef HF_SUPERVISOR_CARGO_H
#define HF_SUPERVISOR_CARGO_H

#include "supervisor_internal.h"

/* err NULL: all of it is there. */
typedef void cargo_done_fn(void *ctx, const struct hf_err *err);

enum cargo_piece { CARGO_OUTPUT, CARGO_RECORD, CARGO_STATE, CARGO_PIECE_N_ };

struct cargo {
	struct sup *sup;
	struct rpc *peer; /* NULL: nothing is being sent */
	cargo_done_fn *done;
	void *ctx;
	enum cargo_piece piece, last;

	/* A cursor over the output files, which grow while they are sent; then over a blob. */
	struct proc *proc; /* the next file's, NULL: all are sent */
	enum proc_fd fd;
	uint64_t offset;
	json_t *sent; /* "process.stream" -> how much of it is there */
	const uint8_t *blob;
	size_t blob_len;

	uint8_t *record; /* mapped; NULL: there is none */
	size_t record_len;
	char *state;
};

void cargo_init(struct cargo *c, struct sup *sup, cargo_done_fn *done, void *ctx);
void cargo_free(struct cargo *c);

/* holdfastd's file with the record; the descriptor is only lent. -errno. */
int cargo_take_record(struct cargo *c, int fd);
int cargo_take_state(struct cargo *c); /* as it is now; -ENOMEM */

/* Sends what there is of the output; may be done later again, for what has come meanwhile. */
void cargo_send_output(struct cargo *c, struct rpc *peer);
/* That, and what was taken. */
void cargo_send_all(struct cargo *c, struct rpc *peer);
/* Nothing more is sent, and done is not called. */
void cargo_stop(struct cargo *c);

#endif
