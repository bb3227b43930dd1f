/* SPDX-License-Identifier: MIT */
/*
 * mux.h - many resumable streams on one connection (docs/link.md), as a state machine over bytes.
 *
 * A struct rs_mux is one end of one connection. It does no I/O and owns no stream: a channel is a
 * stream of the caller's that is bound to the connection for the time being. When the connection is
 * lost the caller unbinds its channels, and binds them to the next one; the streams carry on.
 *
 *	connection is up        rs_mux_init(), then rs_mux_open() for each stream that this end
 *dials bytes arrive            while (n > 0) rs_mux_input(): how many it took, and an event
 *	  EV_HELLO              the peer dials the stream with this token: rs_mux_accept() one, or
 *	                        rs_mux_refuse()
 *	  EV_ASK                the peer wants something before it dials; the hello follows
 *	  EV_INPUT              a channel got bytes: look at its stream
 *	a stream has news       rs_mux_wake() after rs_write, rs_end, rs_reset, rs_take, rs_take_end
 *	connection takes bytes  rs_mux_output(), rs_mux_sent()
 *
 * Channels take turns, a frame each. No stream stops another: what a receiver grants always has a
 * place, so input is never left lying for the sake of one stream.
 */
#ifndef HF_STREAM_MUX_H
#define HF_STREAM_MUX_H

#include "base/list.h"
#include "stream.h"

#define RS_MUX_VERSION      1
#define RS_MUX_HELLO_SIZE   24
#define RS_MUX_HEAD_SIZE    8
#define RS_MUX_ASK_MAX      384 /* bytes of what is asked for */
#define RS_MUX_REFUSALS_MAX 64  /* refused dials whose answer waits; more wait on the connection */
#define RS_MUX_BUCKETS      1024
#define RS_MUX_FRAME_MAX    (RS_HELLO_SIZE + RS_DATA_MAX)
#define RS_MUX_OUTPUT_IOV   (1 + RS_OUTPUT_IOV)

/* A zeroed one with a stream is valid. */
struct rs_chan {
	struct rs rs; /* attached while bound */
	uint32_t id;  /* on the connection that it is bound to; 0: none */
	struct rs_chan *next;
	struct hf_list ready; /* in rs_mux.ready, or alone */
	bool queued;
	/* Sent before each hello of this end; the caller's memory, RS_MUX_ASK_MAX bytes at most. */
	const uint8_t *ask;
	uint16_t ask_len;
	bool ask_out;
};

struct rs_mux {
	bool dials; /* this end made the connection */
	bool hello_in, hello_out;
	uint8_t self[RS_TOKEN_SIZE], peer[RS_TOKEN_SIZE]; /* who the ends are */
	uint32_t next_id;
	struct rs_chan *bucket[RS_MUX_BUCKETS];
	size_t n_chans;
	struct hf_list ready;

	uint8_t in[RS_MUX_ASK_MAX]; /* a head, or a body that is collected */
	uint32_t in_len;
	uint8_t in_kind;
	bool in_body; /* of the frame in_kind, in_id: in_left bytes are to come */
	bool in_collect;
	bool in_stalled; /* a dial was told and not answered yet */
	uint32_t in_id, in_left;

	uint8_t out[RS_MUX_HEAD_SIZE + RS_MUX_ASK_MAX];
	uint32_t out_len, out_pos;
	struct rs_chan *out_chan; /* out_left bytes of its frame are to follow `out` */
	uint32_t out_left;
	uint8_t tail[RS_MUX_FRAME_MAX]; /* what was left of a frame when its channel was unbound */
	uint32_t tail_len, tail_pos;
	struct {
		uint32_t id;
		uint8_t token[RS_TOKEN_SIZE];
	} refusal[RS_MUX_REFUSALS_MAX];
	size_t n_refusals;
};

enum rs_mux_event { RS_MUX_NONE, RS_MUX_HELLO, RS_MUX_ASK, RS_MUX_INPUT };

struct rs_mux_ev {
	enum rs_mux_event kind;
	uint32_t id;                  /* HELLO */
	uint8_t token[RS_TOKEN_SIZE]; /* HELLO */
	struct rs_chan *chan;         /* INPUT */
	const uint8_t *ask;           /* ASK, until the next call */
	size_t ask_len;
};

/* A new connection; self names this end for as long as it lives. */
void rs_mux_init(struct rs_mux *m, bool dials, const uint8_t self[RS_TOKEN_SIZE]);

/* Binds a stream that dials (rs_attach is done here), or answers EV_HELLO with one that accepts.
 * The stream must not be bound elsewhere. -EMFILE: the connection has used up its numbers; -EPROTO:
 * the hello is none. Then close the connection. */
int rs_mux_open(struct rs_mux *m, struct rs_chan *c);
int rs_mux_accept(struct rs_mux *m, struct rs_chan *c, uint32_t id);
void rs_mux_refuse(struct rs_mux *m, uint32_t id, const uint8_t token[RS_TOKEN_SIZE]);

/* The stream is detached; what was half sent of it is sent to the end. Harmless when not bound. */
void rs_mux_unbind(struct rs_mux *m, struct rs_chan *c);

/* Any channel that is bound; NULL: none is. */
struct rs_chan *rs_mux_any(const struct rs_mux *m);

/* Takes up to n bytes: how many, with at most one event; 0 with n > 0: refusals must go out first.
 * -EPROTO: this is no peer of ours, or it breaks a stream's rules: close the connection. */
ssize_t rs_mux_input(struct rs_mux *m, const void *data, size_t n, struct rs_mux_ev *ev);

/* Has the channel something to say that should not wait? Then it gets its turn. */
void rs_mux_wake(struct rs_mux *m, struct rs_chan *c);

/* What to send now; 0: nothing. Stays valid until rs_mux_sent() or rs_mux_unbind(). */
int rs_mux_output(struct rs_mux *m, struct iovec iov[RS_MUX_OUTPUT_IOV]);
/* Returns the channel whose frame is out now, NULL: none. It may be rs_over(). */
struct rs_chan *rs_mux_sent(struct rs_mux *m, size_t n);

#endif
