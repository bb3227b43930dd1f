/* SPDX-License-Identifier: MIT */
/*
 * link.h - the bridge's connection to the host, and the loop that makes it again.
 *
 *     IDLE --timer--> DIALLING --connected--> UP --lost--> IDLE ...        STOPPED: for ever
 *
 * Each connection gets a reader and a mux of its own, made when it comes up and freed when it is
 * lost; nothing else of it lives on. Whatever must outlive it is in the session (session.h) and in
 * the host (host/).
 *
 * The link knows frames and bytes only: each frame goes to agt_session_frame(). Reading pauses
 * while the mux has no room for an answer of the largest size.
 */
#ifndef AGT_LINK_LINK_H
#define AGT_LINK_LINK_H

#include "agent/loop.h"
#include "bridge/frame.h"
#include "bridge/mux.h"
#include "bridge/reconnect.h"

#define AGT_MUX_SIZE     (256u << 10)
#define AGT_READER_SIZE  (64u << 10) /* grows up to BRG_REQUEST_MAX for a larger request */
#define AGT_FRAMES_BATCH 64          /* frames handled before others get a turn */

struct agt;

enum agt_link_state { AGT_LINK_IDLE, AGT_LINK_DIALLING, AGT_LINK_UP, AGT_LINK_STOPPED };

struct agt_link {
	struct agt *a;
	enum agt_link_state state;
	struct brg_reconnect reconnect;
	struct agt_timer *redial;
	struct agt_dial *dial;
	bool negotiated;

	/* UP only */
	int in, out; /* the same descriptor, or standard input and output */
	struct agt_watch *watch_in, *watch_out; /* the same watch when the same descriptor */
	struct brg_reader reader;
	struct brg_mux mux;
	uint8_t *reader_mem, *mux_mem;
	struct agt_timer *more; /* frames are left in the reader */
	bool busy; /* frames are being handled: what they answer is written after that */

	uint64_t connections; /* so far */
	uint64_t lost_us;     /* when the last one was lost; 0: never */
};

int agt_link_init(struct agt_link *l, struct agt *a);

/* Begins: dials, or takes standard input and output. -errno when the latter cannot be watched. */
int agt_link_start(struct agt_link *l);

/* No attempt is made any more. What is queued is given one last write. */
void agt_link_stop(struct agt_link *l);

/* Queues a frame on the current connection. -ENOTCONN, or -ENOSPC. */
int agt_link_send(struct agt_link *l, uint32_t type, uint64_t id, const char *payload, size_t len);

#endif
