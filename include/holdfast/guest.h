/* SPDX-License-Identifier: MIT */
/*
 * guest.h - the host's end of the bridge to a guest agent (docs/bridge.md), for any program.
 *
 * A struct hf_guest listens on the hybrid vsock sockets of one VM (BASE_1073741824 for the bridge,
 * BASE_1073741825 for streams) or on those ports of AF_VSOCK, negotiates with whichever agent
 * dials, and then carries requests, notifications and the standard streams of processes. With a
 * Holdfast agent the session outlives its connections, the agent's other end of them, and this
 * process: see "state" below. With an upstream agent everything works as long as the connection
 * does.
 *
 * It brings no loop, no thread and no log. Wait until hf_guest_fd() is readable or
 * hf_guest_timeout_us() has passed (ask again before each wait), then call hf_guest_dispatch().
 * Callbacks are made from inside hf_guest_dispatch() and nowhere else; all functions but
 * hf_guest_free() and hf_guest_dispatch() may be called from them. Not thread safe: one thread at
 * a time.
 *
 * Functions return 0 or a count, or -errno; texts are UTF-8; JSON goes in and out as text. Strings
 * that a callback gets are valid until it returns.
 */
#ifndef HOLDFAST_GUEST_H
#define HOLDFAST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "error.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define HF_API __attribute__((visibility("default")))
#else
#define HF_API
#endif

#define HF_GUEST_UVM            "00000000-0000-0000-0000-000000000000" /* "container" id of the VM itself */
#define HF_GUEST_TAG_MAX        127                                    /* bytes of a tag */
#define HF_GUEST_REQUESTS_MAX   4096                                   /* unanswered at a time */
#define HF_GUEST_STREAMS_MAX    4096
#define HF_GUEST_REQUEST_MAX    ((2u << 20) - 16) /* body of a request */
#define HF_GUEST_ANSWER_MAX     (16u << 20) /* frame of an answer; 64 KiB from an upstream guest */
#define HF_GUEST_QUEUE_MAX      (64u << 20) /* requests waiting for a connection, bytes */
#define HF_GUEST_WINDOW_DEFAULT (256u << 10)

struct hf_guest;
struct hf_guest_stream;

/* What the guest answered to the negotiation. */
enum hf_guest_session {
	HF_GUEST_NEW,      /* a session has begun */
	HF_GUEST_RESUMED,  /* the session goes on: nothing was lost */
	HF_GUEST_UNKNOWN,  /* another guest instance: requests failed with -ESTALE, streams died */
	HF_GUEST_UPSTREAM, /* an agent without the Holdfast additions */
};

struct hf_guest_info {
	enum hf_guest_session session;
	const char *instance;     /* boot id and agent start; "" for upstream */
	uint32_t cid;             /* the guest's; 0 when it did not say */
	const char *capabilities; /* GuestDefinedCapabilities, JSON */
};

/* The answer to a request. */
struct hf_guest_answer {
	uint64_t id;
	uint32_t type; /* of the request */
	const char *tag;
	/*
	 * 0, or: -ESTALE the session is gone and nobody knows whether the request was carried out;
	 * -ECONNRESET an upstream guest's connection was lost; -ENOENT -EEXIST -EALREADY -EINVAL
	 * -ETIMEDOUT -ENOSYS -ESRCH -EBADMSG or -EREMOTEIO the guest refused: see result, message.
	 */
	int code;
	int32_t result;      /* the HRESULT, 0 when there was no answer */
	const char *message; /* the guest's ErrorMessage, or ours; "" on success */
	uint32_t pid;        /* ExecuteProcess */
	uint32_t exit_code;  /* WaitForProcess */
	const char *body;    /* the whole answer, JSON; "{}" when there was none */
};

typedef void hf_guest_done_fn(void *ctx, const struct hf_guest_answer *answer);

/* How a request's answer comes back. `tag` (may be NULL) is the caller's name for it: it is part
 * of the state, so that another process can tell what an answer is about. */
struct hf_guest_call {
	hf_guest_done_fn *done; /* NULL: the `answer` event */
	void *ctx;
	const char *tag;
};

/* A container has exited. */
struct hf_guest_exit {
	const char *container;
	const char *type;   /* "UnexpectedExit", "GracefulExit", "ForcedExit" */
	const char *body;   /* the whole notification, JSON */
	uint64_t seq;       /* 0 from an upstream guest */
	uint64_t oom_kills; /* of its processes, killed for want of memory; an upstream guest tells
			       0 */
};

enum hf_guest_stream_event {
	HF_GUEST_READABLE = 1, /* hf_guest_stream_read() has more than before */
	HF_GUEST_WRITABLE = 2, /* there is room again after a write that was cut short */
	HF_GUEST_ENDED = 4,    /* all was read; hf_guest_stream_take_end() acknowledges the end */
	HF_GUEST_FINISHED = 8, /* both directions ended and acknowledged: free it */
	HF_GUEST_DEAD = 16,    /* see hf_guest_stream_why(); what was received can still be read */
};

/* All but state_changed may be NULL when the application does not care. */
struct hf_guest_events {
	void *ctx;
	/*
	 * hf_guest_state() has a new value, and nothing that depends on it has left yet. Write it
	 * down durably and return 0; or return -errno: nothing leaves, and it is asked again a
	 * second later. An application that does not survive its own death leaves this NULL.
	 */
	int (*state_changed)(void *ctx, struct hf_guest *g);
	void (*negotiated)(void *ctx, const struct hf_guest_info *info);
	void (*lost)(void *ctx, const struct hf_err *why); /* the bridge's connection */
	void (*answer)(void *ctx, const struct hf_guest_answer *answer);
	void (*container_exit)(void *ctx, const struct hf_guest_exit *exit);
	/* Processes of a container were killed for want of memory: how many so far. May be lost
	 * with a connection; the container's exit has the sum. */
	void (*oom)(void *ctx, const char *container, uint64_t kills);
	void (*stream)(void *ctx, struct hf_guest_stream *s, unsigned events);
};

struct hf_guest_config {
	/*
	 * Path before "_<port>" of hybrid vsock. Or, for vhost-vsock in the host's kernel,
	 * "vsock:CID": AF_VSOCK, where guest CID alone may dial, or any guest with "vsock:any". A
	 * port is listened on for all guests of a host, so there it is one struct hf_guest a host.
	 */
	const char *vsock_base;
	const char *state; /* of hf_guest_state(), to carry on from; NULL: a new session */
	uint32_t window;   /* bytes per stream and direction, a power of two; 0: default */
	struct hf_guest_events events;
};

/*
 * Listens at once; accepts in hf_guest_dispatch(). A state with connections in it (that is: one
 * taken after hf_guest_quiesce()) gives a guest that stands still until hf_guest_resume_here().
 */
HF_API int hf_guest_new(
	const struct hf_guest_config *config, struct hf_guest **ret_g, struct hf_err *reterr);
/* Closes everything and calls nobody. The guest keeps the session for whoever has the state. */
HF_API void hf_guest_free(struct hf_guest *g);

HF_API int hf_guest_fd(const struct hf_guest *g);
/* Until hf_guest_dispatch() should be called even if the descriptor stays quiet; -1: never. */
HF_API int64_t hf_guest_timeout_us(const struct hf_guest *g);
/* Never blocks. -errno only when the guest object itself is beyond use (no memory, no
 * descriptors); whatever a peer does ends its connection and nothing else. */
HF_API int hf_guest_dispatch(struct hf_guest *g, struct hf_err *reterr);
HF_API bool hf_guest_is_connected(const struct hf_guest *g); /* and negotiated */

/*
 * State: a JSON text that tells everything a successor needs: session, next request id, unanswered
 * requests, streams, last notification, the guest's instance; after hf_guest_quiesce() also the
 * live connections and the windows. Free it with free(). NULL when there is no memory.
 */
HF_API char *hf_guest_state(const struct hf_guest *g);
/* Requests of an adopted state come back as the `answer` event unless they are bound anew. */
HF_API int hf_guest_bind(struct hf_guest *g, uint64_t id, hf_guest_done_fn *done, void *ctx);

/*
 * Requests. They return the request's id (>= 0) at once and call back later. -ENOTCONN before the
 * first negotiation (and while an upstream guest is away), -EBUSY at HF_GUEST_REQUESTS_MAX,
 * -ENOBUFS at HF_GUEST_QUEUE_MAX, -EMSGSIZE, -EINVAL for JSON that does not parse.
 * With a Holdfast guest a request that was accepted here is executed exactly once, whatever
 * happens to connections, or fails with -ESTALE.
 */
HF_API int64_t hf_guest_create(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, const char *bundle, const char *scratch, const char *oci_spec_json);
HF_API int64_t hf_guest_start(
	struct hf_guest *g, const struct hf_guest_call *call, const char *container);
HF_API int64_t hf_guest_wait(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, uint32_t pid, uint32_t timeout_ms); /* UINT32_MAX: for ever */
HF_API int64_t hf_guest_signal(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, uint32_t pid, int signal);
HF_API int64_t hf_guest_resize(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, uint32_t pid, uint16_t rows, uint16_t cols);
/* query_json "" or {"PropertyTypes": [...]}; the answer's body has "Properties", a JSON text. */
HF_API int64_t hf_guest_properties(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, const char *query_json);
/* SIGTERM (graceful) or SIGKILL (forced) to a container; HF_GUEST_UVM: powers the VM off. */
HF_API int64_t hf_guest_shutdown(
	struct hf_guest *g, const struct hf_guest_call *call, const char *container, bool forced);
HF_API int64_t hf_guest_delete(
	struct hf_guest *g, const struct hf_guest_call *call, const char *container);
/* request_json: {"RequestType": "Add", "ResourceType": "...", "Settings": {...}} */
HF_API int64_t hf_guest_modify(struct hf_guest *g, const struct hf_guest_call *call,
	const char *container, const char *request_json);
HF_API int64_t hf_guest_dump_stacks(struct hf_guest *g, const struct hf_guest_call *call);
/* Any other request: body_json is an object; ContainerId and ActivityId are added if absent. */
HF_API int64_t hf_guest_request(
	struct hf_guest *g, const struct hf_guest_call *call, uint32_t type, const char *body_json);

/*
 * ExecuteProcess. One of: neither json (start the container's init process), oci_process_json (exec
 * into the container), params_json (all of ProcessParameters but the pipes, for a process outside
 * of containers: {"CommandArgs": ["/bin/ls"], "WorkingDirectory": "/", "Environment": {...}}, with
 * container HF_GUEST_UVM). Streams may be NULL; those given must be fresh ones of the right
 * direction. A tty has no stderr. When the request fails its streams die as well.
 */
struct hf_guest_exec {
	const char *container;
	const char *oci_process_json;
	const char *params_json;
	bool tty; /* external processes; for the others the OCI process says it */
	struct hf_guest_stream *in, *out, *err;
};
HF_API int64_t hf_guest_exec(
	struct hf_guest *g, const struct hf_guest_call *call, const struct hf_guest_exec *exec);

/*
 * Streams. A fresh one is connected by the request that names it. The token (32 hex digits) and the
 * tag name it across processes; "" is the token with an upstream guest.
 */
HF_API int hf_guest_stream_new(struct hf_guest *g, bool to_guest, const char *tag, void *ctx,
	struct hf_guest_stream **ret_s);
/* An open stream is reset. */
HF_API void hf_guest_stream_free(struct hf_guest_stream *s);
/* The streams of an adopted state, in turn (prev NULL: the first; NULL: no more). */
HF_API struct hf_guest_stream *hf_guest_stream_next(
	struct hf_guest *g, struct hf_guest_stream *prev);
/*
 * For each stream from the guest in a state that was not quiesced, before the first dispatch: how
 * much of it the application has (its output file's length), and whether the end too. -EALREADY for
 * one whose position is known.
 */
HF_API int hf_guest_stream_set_position(struct hf_guest_stream *s, uint64_t offset, bool end);
HF_API const char *hf_guest_stream_token(const struct hf_guest_stream *s);
HF_API const char *hf_guest_stream_tag(const struct hf_guest_stream *s);
HF_API bool hf_guest_stream_is_to_guest(const struct hf_guest_stream *s);
HF_API void hf_guest_stream_set_ctx(struct hf_guest_stream *s, void *ctx);
HF_API void *hf_guest_stream_ctx(const struct hf_guest_stream *s);
/* Received bytes that were not taken yet, as up to two iovecs; valid until the next call on g. */
HF_API int hf_guest_stream_read(const struct hf_guest_stream *s, struct iovec iov[2]);
/* Acknowledges n bytes: the application has them safe. The guest forgets them. */
HF_API int hf_guest_stream_take(struct hf_guest_stream *s, size_t n);
/* Acknowledges the end: the application has written down that there is no more. */
HF_API int hf_guest_stream_take_end(struct hf_guest_stream *s);
/* Returns how much was taken: less than n (perhaps 0) when the window is full, which WRITABLE ends.
 */
HF_API ssize_t hf_guest_stream_write(struct hf_guest_stream *s, const void *data, size_t n);
HF_API int hf_guest_stream_end(struct hf_guest_stream *s);
/*
 * Offsets: what the application here has taken; what the process there has taken; what was written.
 * After a state without windows was adopted, the last two are UINT64_MAX until the guest has
 * connected (WRITABLE tells). Then `written` is what the guest has received, and the application
 * carries on writing from that offset and ends the stream again.
 */
HF_API uint64_t hf_guest_stream_taken(const struct hf_guest_stream *s);
HF_API uint64_t hf_guest_stream_acked(const struct hf_guest_stream *s);
HF_API uint64_t hf_guest_stream_written(const struct hf_guest_stream *s);
/* Why it is dead: "unknown session", "reset: 32", "gap: ...", "connection lost"; "" when it is not.
 */
HF_API const char *hf_guest_stream_why(const struct hf_guest_stream *s);

/*
 * Moving live connections. Source: quiesce once the guest and the device stand still, have the
 * device save, drain, take the state and the list. Destination: hf_guest_new() with the state, hand
 * in each connection that the device gives, resume; what was not handed in counts as lost (and is
 * redialled by a Holdfast guest). Cancelled: hf_guest_resume_here() on the source goes on as if
 * nothing was.
 */
struct hf_guest_connection {
	const char *key;     /* for hf_guest_adopt_connection */
	uint32_t guest_cid;  /* the tuple, by getpeername(2) (docs/control.md); all 0 */
	uint32_t guest_port; /* when the device does not tell */
	uint32_t host_port;
};
/* Takes in all that has arrived (the callbacks are made by this call), then touches no connection.
 */
HF_API int hf_guest_quiesce(struct hf_guest *g, struct hf_err *reterr);
/* Of a guest that stands still: takes in what the device had delivered when it saved
 * (docs/control.md, "Saving, exactly"), and writes nothing. -EINVAL when it does not stand still.
 */
HF_API int hf_guest_drain(struct hf_guest *g);
/* The i-th connection of a guest that stands still; -ENOENT: no more. */
HF_API int hf_guest_connection(const struct hf_guest *g, size_t i, struct hf_guest_connection *ret);
/* Takes over fd. -ENOENT: no such key. -EALREADY: it has one. */
HF_API int hf_guest_adopt_connection(struct hf_guest *g, const char *key, int fd);
HF_API int hf_guest_resume_here(struct hf_guest *g);

#ifdef __cplusplus
}
#endif

#endif
