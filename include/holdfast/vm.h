/* SPDX-License-Identifier: MIT */
/*
 * vm.h - the control socket of a VM's supervisor (docs/control.md), for any program.
 *
 * A struct hf_vm carries one request at a time to the supervisor of a VM and brings the answer,
 * wherever the VM is by then: when the VM has moved it follows, when the supervisor dies it waits
 * for the next one, and sends the request again. Requests that change something carry a key, so
 * that they are done once. A struct hf_vm_stream is one standard stream of a process, with the
 * same perseverance: no byte is lost or comes twice, whatever happens between.
 *
 * Neither brings a loop, a thread or a log. Fill a pollfd by the _poll call, wait for it or for the
 * milliseconds that the call returned (-1: no limit), then call _step. Not thread safe.
 *
 * Functions return 0 or a count, or -errno; JSON goes in and out as text.
 */
#ifndef HOLDFAST_VM_H
#define HOLDFAST_VM_H

#include <poll.h>

#include "guest.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HF_VM_PATIENCE_MS 30000 /* how long a supervisor that is gone is waited for, by default */

struct hf_vm;
struct hf_vm_stream;

/* node NULL: the default one. Nothing is connected yet. */
HF_API int hf_vm_new(
	const char *node, const char *name, struct hf_vm **ret_vm, struct hf_err *reterr);
HF_API void hf_vm_free(struct hf_vm *vm);
HF_API const char *hf_vm_node(const struct hf_vm *vm); /* where it was found last */
HF_API void hf_vm_set_patience(struct hf_vm *vm, int ms);

/* Begins a request, {"cmd": ..., ...}; "id", and "key" where it belongs, are added. One that is
 * under way is forgotten. */
HF_API int hf_vm_send(struct hf_vm *vm, const char *request_json, struct hf_err *reterr);
HF_API int hf_vm_poll(const struct hf_vm *vm, struct pollfd *ret_poll);
/*
 * 1: the answer has come; 2: an event; *ret_json is the message, valid until the next call. 0: not
 * yet. -errno: the request has failed; the supervisor's own reason is in *reterr.
 */
HF_API int hf_vm_step(struct hf_vm *vm, const char **ret_json, struct hf_err *reterr);

/* All of it, blocking. The answer is to be freed; on_event may be NULL. */
typedef void hf_vm_event_fn(void *ctx, const char *event_json);
HF_API int hf_vm_call(struct hf_vm *vm, const char *request_json, hf_vm_event_fn *on_event,
	void *ctx, char **ret_json, struct hf_err *reterr);

/* The VMs of a node; stops when fn returns non-zero, and returns that. */
struct hf_vm_entry {
	const char *name;
	const char *state;    /* "alive", "dead" (its supervisor is), "stopped", "moved" */
	const char *moved_to; /* the node; "" */
};
typedef int hf_vm_list_fn(void *ctx, const struct hf_vm_entry *entry);
HF_API int hf_vm_list(const char *node, hf_vm_list_fn *fn, void *ctx, struct hf_err *reterr);

/*
 * stream: "stdin" (to be written), "stdout", "stderr" (to be read, from `offset` on). Standard
 * input belongs to whoever began the process: it is written from the first byte on.
 *
 * Of output the VM keeps the newest (--log-max of `holdfast vm run`); hf_vm_stream_gone() counts
 * what was dropped before it could be read.
 */
enum hf_vm_read {
	HF_VM_READ_NOW,    /* what there is at the moment */
	HF_VM_READ_FOLLOW, /* until the process ends it */
	HF_VM_READ_HOLD,   /* the same; and the process waits when this reader is far behind */
};
HF_API int hf_vm_stream_open(const char *node, const char *name, const char *process,
	const char *stream, uint64_t offset, enum hf_vm_read how, struct hf_vm_stream **ret_s,
	struct hf_err *reterr);
HF_API void hf_vm_stream_free(struct hf_vm_stream *s);
HF_API int hf_vm_stream_poll(const struct hf_vm_stream *s, struct pollfd *ret_poll);
/* 0, or -errno when the stream cannot go on. */
HF_API int hf_vm_stream_step(struct hf_vm_stream *s, struct hf_err *reterr);
HF_API uint64_t hf_vm_stream_gone(const struct hf_vm_stream *s);
/* Bytes, 0 at the end, -EAGAIN: none now. */
HF_API ssize_t hf_vm_stream_read(struct hf_vm_stream *s, void *buf, size_t n);
/* Bytes taken; -EAGAIN: the window is full; -EPIPE: nobody reads any more, or it was ended. */
HF_API ssize_t hf_vm_stream_write(struct hf_vm_stream *s, const void *data, size_t n);
HF_API void hf_vm_stream_end(struct hf_vm_stream *s);
/* Nothing is left to do: all was read, or all was written and taken by the process. */
HF_API bool hf_vm_stream_done(const struct hf_vm_stream *s);

#ifdef __cplusplus
}
#endif

#endif
