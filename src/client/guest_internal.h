/* SPDX-License-Identifier: MIT */
/*
 * guest_internal.h - the guest client's objects, shared by the files of this folder.
 *
 *	guest.c		the object: epoll set, dispatch, what happens in which order
 *	listen.c	where the guest dials
 *	bridge.c	the bridge's connection: negotiation, frames in and out, resumption
 *	request.c	requests and their answers
 *	stream.c	streams and the connections that carry them
 *	state.c		the state text, and moving live connections
 *	text.c		base64
 *
 * Everything that reaches the application is delivered inside hf_guest_dispatch(); calls of the
 * application only change our objects, mark what they touched and wake the descriptor. Objects that
 * a callback gives up are freed at the end of the dispatch.
 */
#ifndef HF_GUEST_INTERNAL_H
#define HF_GUEST_INTERNAL_H

#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/list.h"
#include "bridge/frame.h"
#include "bridge/protocol.h"
#include "holdfast/guest.h"
#include "stream/stream.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/epoll.h>

#define GUEST_STREAM_PORT     BRG_PORT_STDIO
#define GUEST_FIRST_PORT      (BRG_PORT_STDIO + 1) /* of plain streams, counted up */
#define GUEST_BACKLOG         128
#define GUEST_DOORS_MAX       256      /* stream connections that have not said a token */
#define GUEST_NEGOTIATE_US    10000000 /* for the answer to the negotiation */
#define GUEST_ACCEPT_RETRY_US 100000   /* after an accept without descriptors */
#define GUEST_SAVE_RETRY_US   1000000  /* after a state_changed that failed */
#define GUEST_READ_MAX        (256u << 10)
#define GUEST_OUT_CHUNK       (64u << 10) /* frames are put into the out buffer up to this */
#define GUEST_ID_MAX          INT64_MAX

enum source_kind {
	SOURCE_WAKE,
	SOURCE_BRIDGE_LISTENER,
	SOURCE_STREAM_LISTENER,
	SOURCE_BRIDGE,
	SOURCE_DOOR, /* accepted for a stream, token not yet known */
	SOURCE_STREAM,
	SOURCE_PORT, /* listener of one plain stream */
};

/* A descriptor in the epoll set. fd is -1 when there is none; events are those asked for. */
struct source {
	enum source_kind kind;
	int fd;
	uint32_t events;
	void *owner;
};

/* Which guest connection this is, by getpeername(2); all 0 when the device does not tell. */
struct tuple {
	uint32_t guest_cid, guest_port, host_port;
};

struct door {
	struct hf_list link;
	struct source source;
	uint8_t hello[RS_HELLO_SIZE];
	size_t len;
};

struct request {
	struct hf_list link;
	uint64_t id;
	uint32_t type;
	char *body;
	size_t len;
	char tag[HF_GUEST_TAG_MAX + 1];
	hf_guest_done_fn *done;
	void *ctx;
	bool sent; /* on the current connection */
};

/*
 * The guest is told that an answer was taken. Whether that frame arrived shows only when a request
 * sent after it (id >= mark) is answered; until then a new connection is told again.
 */
struct ack {
	uint64_t id;
	uint64_t mark; /* UINT64_MAX: not sent on the current connection */
};

enum mode { MODE_NONE, MODE_HOLDFAST, MODE_UPSTREAM };

struct bridge {
	struct source source;
	struct tuple tuple;
	bool negotiated;
	uint64_t deadline_us; /* of the negotiation */
	struct brg_reader reader;
	uint8_t *out; /* frames on their way: out[pos, len) */
	size_t out_pos, out_len, out_cap;
};

/* A freed stream stays, without its application, until its end is settled with the guest. */
struct hf_guest_stream {
	struct hf_list link;
	struct hf_guest *g;
	bool to_guest, plain, in_use, freed, touched, attached_once;
	bool unpositioned; /* of an adopted state: the application's position is not known yet */
	bool blocked;      /* a write was cut short */
	bool settled;      /* its end was told and saved: the guest may hear our last word */
	unsigned reported; /* events that are told once */
	size_t seen;       /* bytes readable when READABLE was told */
	uint64_t request;  /* that names it; 0 none */
	char token[2 * RS_TOKEN_SIZE + 1];
	char tag[HF_GUEST_TAG_MAX + 1];
	char why[64];
	void *ctx;
	uint8_t *mem;
	struct source source;
	struct tuple tuple;
	struct rs rs;
	/* a plain stream: */
	struct source port;
	struct hf_ring ring; /* rx, or tx when to_guest */
	uint64_t offset;     /* of the ring's head */
	bool end, end_done;
};

struct hf_guest {
	struct hf_guest_events events;
	char *base;         /* as the application gave it */
	bool vsock;         /* AF_VSOCK, not Unix sockets */
	uint32_t vsock_cid; /* who may dial there; VMADDR_CID_ANY: every guest */
	uint32_t window;
	int epfd;
	struct source wake, bridge_listener, stream_listener;
	struct bridge bridge;
	struct hf_list doors, streams, requests; /* requests ascend by id */
	size_t n_doors, n_streams, n_requests, queued_bytes;

	enum mode mode;
	char session[2 * RS_TOKEN_SIZE + 1];
	char *instance, *capabilities;
	uint32_t cid;
	uint64_t next_id, last_seq;
	bool seq_due; /* last_seq is to be acknowledged */
	struct ack *acks;
	size_t n_acks, cap_acks;
	uint32_t next_port;

	bool standing; /* quiesced */
	bool woken;    /* the wake descriptor is readable */
	bool dirty;    /* the state has changed and was not saved */
	bool dispatching;
	uint64_t save_us;   /* no save before this */
	uint64_t accept_us; /* no accept before this: there were no descriptors; 0: any time */
	uint8_t *scratch;   /* GUEST_READ_MAX bytes for reading streams */
};

void guest_wake(struct hf_guest *g);
void guest_dirty(struct hf_guest *g);

void source_init(struct source *s, enum source_kind kind, void *owner);
/* Asks for these events; 0 takes it out of the set. While the guest stands still only notes them.
 */
int source_want(struct hf_guest *g, struct source *s, uint32_t events);
void source_close(struct hf_guest *g, struct source *s);

int guest_address(struct hf_guest *g, const char *base, struct hf_err *reterr);
int guest_listen(struct hf_guest *g, struct source *s, uint32_t port, struct hf_err *reterr);
void guest_unlisten(struct hf_guest *g, struct source *s);
void guest_listen_all(struct hf_guest *g, uint32_t events); /* 0: none of them for a while */
/* -errno: nobody came after all, or one who may not; or there are no descriptors, and all listeners
 * pause for a moment. */
int guest_accept(struct hf_guest *g, struct source *s);
struct tuple guest_tuple(int fd);

void bridge_accept(struct hf_guest *g, int fd);
void bridge_input(struct hf_guest *g);
void bridge_flush(struct hf_guest *g);
void bridge_lost(struct hf_guest *g, int code, const char *fmt, ...) HF_PRINTF(3, 4);
void bridge_close(struct hf_guest *g);
/* A connection that was negotiated elsewhere: in and out are its half frames. */
int bridge_adopt(
	struct hf_guest *g, const uint8_t *in, size_t n_in, const uint8_t *out, size_t n_out);

/* The answer to request id; body is what the guest sent. */
void request_answered(struct hf_guest *g, uint64_t id, uint32_t type, const char *body, size_t len);
/* Fails all with this code, in order. */
void request_fail_all(struct hf_guest *g, int code, const char *message);
void request_free(struct hf_guest *g, struct request *r);
struct request *request_add(struct hf_guest *g, uint64_t id, uint32_t type, const char *body,
	size_t len, const char *tag);
int request_ack(struct hf_guest *g, uint64_t id);

struct hf_guest_stream *stream_by_token(struct hf_guest *g, const char *token);
struct hf_guest_stream *stream_add(
	struct hf_guest *g, bool to_guest, const char *tag, const char *token);
void stream_connect(struct hf_guest_stream *s, int fd, const uint8_t *hello);
/* The process will be / was not started: connects the stream's future to it. */
int stream_use(struct hf_guest_stream *s);
void stream_touch(struct hf_guest_stream *s);
void stream_die(struct hf_guest_stream *s, const char *why);
void stream_event(struct hf_guest_stream *s, uint32_t events);
void stream_port_event(struct hf_guest_stream *s);
/* Sends what there is to send and tells the application what there is to tell. */
void stream_run(struct hf_guest_stream *s);
/* The state was saved. True when there is something to run. */
bool stream_settle(struct hf_guest_stream *s);
bool stream_is_listed(const struct hf_guest_stream *s);
bool stream_is_gone(const struct hf_guest_stream *s);
void stream_delete(struct hf_guest_stream *s);
void stream_arm(struct hf_guest_stream *s);

void door_accept(struct hf_guest *g, int fd);
void door_input(struct hf_guest *g, struct door *d);
void door_close(struct hf_guest *g, struct door *d);

int state_load(struct hf_guest *g, const char *text, struct hf_err *reterr);

char *text_base64(const uint8_t *data, size_t n);
/* The bytes (malloc) and their count; NULL when the text is not base64 or there is no memory. */
uint8_t *text_from_base64(const char *text, size_t *ret_n);

#endif
