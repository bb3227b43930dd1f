/* SPDX-License-Identifier: MIT */
/*
 * mux.h - the outgoing side of one bridge connection: whole frames in, bytes out, bounded.
 *
 * A mux belongs to one connection and dies with it; frames that were not yet written are gone with
 * it, and whoever needs them kept (requests.h, publisher.h) puts them into the next mux. A frame
 * is queued whole or not at all.
 *
 * Back pressure: whoever reads requests stops when brg_mux_room() falls below BRG_ANSWER_MAX, so
 * that at least one answer always finds room.
 */
#ifndef BRG_MUX_H
#define BRG_MUX_H

#include "base/ring.h"

struct brg_mux {
	struct hf_ring ring;
	uint64_t frames; /* queued so far */
	uint64_t bytes;  /* written so far */
};

/* The memory stays the caller's; cap is a power of two. */
void brg_mux_init(struct brg_mux *m, void *buf, size_t cap);

/* How large a frame, header included, can be queued now. */
size_t brg_mux_room(const struct brg_mux *m);

/* 0, or -ENOSPC with nothing queued. */
int brg_mux_put(struct brg_mux *m, uint32_t type, uint64_t id, const void *payload, size_t len);

/* What to write next, as at most two iovecs (returns how many; 0: nothing), and that n bytes of it
 * were written. */
int brg_mux_out(const struct brg_mux *m, struct iovec iov[2]);
void brg_mux_written(struct brg_mux *m, size_t n);

#endif
