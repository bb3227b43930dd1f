/* SPDX-License-Identifier: MIT */
/*
 * stream.h - the resumable byte stream of docs/stream.md, as a state machine over bytes.
 *
 * A struct rs is one end of one stream: a send window, a receive window and the state of the
 * connection that carries it at the moment, if any. It does no I/O. Its user moves bytes:
 *
 *	application                                            transport
 *	rs_write, rs_end, rs_reset  ->  tx window  ->  rs_output, rs_sent
 *	rs_read, rs_take, rs_take_end  <-  rx window  <-  rs_input
 *
 * The dialling end calls rs_attach() when its connection is up. The accepting end reads
 * RS_HELLO_SIZE bytes, asks rs_hello_token() whose they are, calls rs_attach() on that stream and
 * gives it the same bytes with rs_input(). When a connection is lost, or rs_input() refuses the
 * peer's bytes, the user calls rs_detach() and the stream waits for the next connection.
 *
 * rs_take() is the acknowledgement: call it when the bytes are safe with the application.
 * Call rs_output() after anything that may have made output: attach, input, write, end, take.
 * When rs_over() says so, close the connection and forget the stream.
 */
#ifndef HF_STREAM_H
#define HF_STREAM_H

#include "base/base.h"
#include "base/ring.h"
#include <sys/types.h>

#define RS_VERSION    1
#define RS_TOKEN_SIZE 16
#define RS_HELLO_SIZE 48
#define RS_FRAME_SIZE 16
#define RS_DATA_MAX   65536u      /* payload of one DATA frame */
#define RS_WINDOW_MAX (64u << 20) /* largest window and ring */
#define RS_OUTPUT_IOV 3           /* iovecs that rs_output() fills at most */
#define RS_CODE_GAP   UINT32_MAX  /* RESET code: the ends' positions do not meet */

/*
 * RS_OPEN      all calls are legal
 * the others   final; writes are refused; what was received can still be read and taken.
 *              RS_RESET: rs_reset_code() is valid.
 */
enum rs_state {
	RS_OPEN,
	RS_FINISHED, /* both ends are done */
	RS_RESET,    /* by rs_reset() or by the peer */
	RS_UNKNOWN,  /* the accepting end does not know the token */
	RS_GAP,      /* an end needs bytes that the other no longer has: state was lost */
	RS_N_STATES
};

struct rs {
	uint8_t token[RS_TOKEN_SIZE];
	bool dials;
	bool tx_adopt; /* the send position is unknown until the peer's hello tells it */
	enum rs_state state;
	uint32_t reset_code;

	/* Send window: the ring holds offsets [tx_base, tx_base + len). tx_acked == tx_base, except
	 * after an adoption: then the peer's buffer has [tx_acked, tx_base) from a predecessor. */
	struct hf_ring tx;
	uint64_t tx_base;
	uint64_t tx_acked;
	uint64_t tx_next; /* all before it was given to the transport */
	uint32_t tx_window;
	bool tx_ended, tx_end_sent, tx_end_acked;

	/* Receive window: the ring holds offsets [rx_taken, rx_taken + len). */
	struct hf_ring rx;
	uint64_t rx_taken;
	bool rx_ended, rx_end_taken;

	/* The connection. */
	bool attached;
	bool hello_in, hello_out;
	bool end_out;      /* END was sent on this connection */
	bool bye_in;       /* the peer's last word was heard: FIN, RESET or "unknown token" */
	bool bye_out;      /* ours was sent */
	bool rx_end_acked; /* an ACK of the end was sent on this connection */
	uint64_t rx_acked; /* the last ACK sent on this connection */
	uint8_t in[RS_HELLO_SIZE]; /* a hello or frame header, partly received */
	uint32_t in_len;
	uint32_t in_data; /* payload of the current DATA frame still to come */
	uint8_t out[RS_HELLO_SIZE];
	uint32_t out_len, out_pos;
	uint32_t out_data; /* payload of the current DATA frame still to be sent */
};

/*
 * Rings: a power of two up to RS_WINDOW_MAX, or 0 for a direction that is not used: an unused send
 * direction ends at once, an unused receive direction accepts nothing but the end, and takes it.
 */
struct rs_config {
	uint8_t token[RS_TOKEN_SIZE];
	bool dials;            /* this end dials (and redials); the other accepts */
	void *tx_buf, *rx_buf; /* the caller's, for as long as the stream lives */
	size_t tx_cap, rx_cap;
	uint64_t rx_start; /* what the application already has of this stream; 0 when new */
	bool rx_end_taken; /* ... and that it has the end */
	uint64_t tx_start; /* offset of the oldest byte that was not acknowledged; 0 when new */
	size_t tx_kept;    /* so many bytes from there on are in tx_buf, where the ring has them */
	bool tx_ended;     /* ... and nothing follows them */
	bool tx_adopt; /* accepting end only: send from where the peer's hello says. Nothing can be
			  written before that */
};

/* 0, or -EINVAL for bad sizes or positions, or a dialling end that wants to adopt. A ring has
 * offset n at n modulo its size. */
int rs_init(struct rs *rs, const struct rs_config *config);

/* The accepting end's first look at a connection. 0 and the token; -EAGAIN while n is below
 * RS_HELLO_SIZE and the bytes so far are right; -EPROTO when this is no hello. */
int rs_hello_token(const uint8_t *data, size_t n, uint8_t ret_token[RS_TOKEN_SIZE]);
/* The answer to an unknown token: send it, then close. */
void rs_hello_unknown(const uint8_t token[RS_TOKEN_SIZE], uint8_t ret_hello[RS_HELLO_SIZE]);

/* A new connection; one that is attached is displaced (the caller closes it). */
void rs_attach(struct rs *rs);
void rs_detach(struct rs *rs);

/* Takes all n bytes, split anywhere. 0, or -EPROTO: close the connection and rs_detach(); the
 * stream lives. After the peer's last word further bytes are ignored. */
int rs_input(struct rs *rs, const void *data, size_t n);

/* What to send now, as up to RS_OUTPUT_IOV iovecs; 0: nothing. Stays valid until rs_sent() tells
 * how much the transport took, or rs_detach(). */
int rs_output(struct rs *rs, struct iovec iov[RS_OUTPUT_IOV]);
void rs_sent(struct rs *rs, size_t n);

/* Has rs_output() something to say now that the peer waits for? An acknowledgement of less than a
 * quarter of the window is not: it goes along with what is said next. */
bool rs_urgent(const struct rs *rs);

/* Application -> window. rs_write() copies what fits and returns how much: 0 when the window is
 * full or the position is not yet adopted, -EPIPE after rs_end() or when the stream is not open.
 * The other pair does the same without a copy: read(2) into the iovecs, then tell the count. */
ssize_t rs_write(struct rs *rs, const void *data, size_t n);
int rs_write_iov(struct rs *rs, struct iovec iov[2]);
void rs_wrote(struct rs *rs, size_t n);
size_t rs_room(const struct rs *rs);
void rs_end(struct rs *rs);
/* Ends both directions at once, now here and soon there. */
void rs_reset(struct rs *rs, uint32_t code);

/* Window -> application: up to two iovecs; rs_take(n) acknowledges the first n bytes. When
 * rs_readable_end() the peer's end has been reached and rs_take_end() acknowledges it. */
int rs_read(const struct rs *rs, struct iovec iov[2]);
void rs_take(struct rs *rs, size_t n);
bool rs_readable_end(const struct rs *rs);
void rs_take_end(struct rs *rs);

/* Both directions ended and acknowledged. An end is done a little earlier than it is RS_FINISHED,
 * which is when it knows that the other is done as well. The application need not wait for that. */
bool rs_done(const struct rs *rs);
/* Nothing is left to do: close the connection, forget the stream. */
bool rs_over(const struct rs *rs);
/* A dialling end without a connection that needs one. */
bool rs_wants_dial(const struct rs *rs);

static inline enum rs_state rs_state(const struct rs *rs)
{
	return rs->state;
}
static inline uint32_t rs_reset_code(const struct rs *rs)
{
	return rs->reset_code;
}
/* Bytes that the application here has taken, and that the one there has. */
static inline uint64_t rs_rx_taken(const struct rs *rs)
{
	return rs->rx_taken;
}
static inline uint64_t rs_tx_acked(const struct rs *rs)
{
	return rs->tx_acked;
}
/* The offset of the next byte that rs_write() takes. */
static inline uint64_t rs_tx_end(const struct rs *rs)
{
	return rs->tx_base + hf_ring_len(&rs->tx);
}

/*
 * The whole stream as a record, windows and half transferred frames included: whoever loads it may
 * carry on with the very same connection, or rs_detach() and wait for another.
 * rs_save() returns the size, or -ENOSPC. rs_load() gets new memory for the rings (the capacities
 * must be at least the saved ones' contents and window) and refuses a bad record with -EBADMSG,
 * rings that are too small with -ENOSPC.
 */
size_t rs_save_size(const struct rs *rs);
ssize_t rs_save(const struct rs *rs, void *record, size_t cap);
int rs_load(struct rs *rs, const void *record, size_t n, void *tx_buf, size_t tx_cap, void *rx_buf,
	size_t rx_cap);

#endif
