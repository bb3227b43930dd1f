/* SPDX-License-Identifier: MIT */
/*
 * conn.h - connections of a guest that move with it, for the applications at their host end.
 *
 * A struct hf_conn_ctl is a connection to the control socket of a holdfastd (docs/control.md),
 * about one of its VMs. Calls block until holdfastd has answered, which it does within its turn;
 * the deadline (5 s by default) is for one that is stuck. After -ETIMEDOUT or -ECONNRESET the
 * struct is of no more use than to be closed. Not thread safe; brings no loop, no thread, no log.
 *
 * Moving an application, see docs/libholdfast.md for the whole:
 *
 *   source        hf_conn_watch(); at HF_CONN_QUIESCE: be still, read to EAGAIN,
 *                 hf_conn_attach_state() for each connection, hf_conn_quiesced();
 *                 at HF_CONN_RESUME: carry on, the migration was cancelled.
 *   destination   hf_conn_watch(); at HF_CONN_LOADED: hf_conn_list(), hf_conn_claim() what is
 *                 yours; act on it at HF_CONN_RESUME: until then it may still be cancelled.
 *
 * Functions return 0 or what is said, or -errno with a text in *reterr (which may be NULL).
 */
#ifndef HOLDFAST_CONN_H
#define HOLDFAST_CONN_H

#include "guest.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HF_CONN_STATE_MAX   65536 /* bytes of an application's state, per connection */
#define HF_CONN_DEADLINE_MS 5000

struct hf_conn_ctl;

/* control: the path of holdfastd's control socket (NODE/vms/NAME/device-control.sock); vm: the name
 * of the VM there ("vm" for those of `holdfast vm run`). */
HF_API int hf_conn_open(
	const char *control, const char *vm, struct hf_conn_ctl **ret_c, struct hf_err *reterr);
HF_API void hf_conn_close(struct hf_conn_ctl *c);
HF_API void hf_conn_set_deadline(struct hf_conn_ctl *c, int ms);

/* Who is calling: of a socket that was accepted at UDS-PATH_PORT. -ENOENT: not holdfastd's. */
HF_API int hf_conn_peer(
	int fd, uint32_t *ret_guest_cid, uint32_t *ret_host_port, uint32_t *ret_guest_port);

struct hf_conn_info {
	uint32_t host_port, guest_port;
	const char *state;  /* "dialling", "asking", "open", "closed" */
	const char *policy; /* "reattach", "relay", "reset" */
	const char *relay;  /* where its application is, when that is with another holdfastd */
	bool claimed;       /* false: it has arrived and waits for its application */
	bool arrived;       /* it came in a record */
	uint64_t rx_bytes, tx_bytes;                /* guest to host, host to guest */
	uint64_t to_host_pending, to_guest_pending; /* in flight, in holdfastd's memory */
	uint64_t state_bytes;                       /* what its application has attached */
};
/* Stops when fn returns non-zero, and returns that. */
typedef int hf_conn_list_fn(void *ctx, const struct hf_conn_info *info);
HF_API int hf_conn_list(
	struct hf_conn_ctl *c, hf_conn_list_fn *fn, void *ctx, struct hf_err *reterr);

/* What the next instance of the application is to know; replaces what was attached before, and is
 * void when the guest runs on here. -EMSGSIZE: over HF_CONN_STATE_MAX. */
HF_API int hf_conn_attach_state(struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port,
	const void *data, size_t n, struct hf_err *reterr);

/* One connection as a record (addresses, credit, flags, bytes in flight both ways, its
 * application's state): a descriptor of a sealed file, at its beginning. Copies: the connection
 * stays. -EBUSY: the guest runs. */
HF_API int hf_conn_checkpoint(
	struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port, struct hf_err *reterr);

struct hf_conn_claim {
	uint32_t host_port, guest_port;
	int fd;      /* blocking; carries on at the exact byte; the caller's */
	void *state; /* what the last instance left, to be freed by free(); NULL: nothing */
	size_t state_len;
};
/* -ENOENT: no such connection; -EALREADY: it has an application. */
HF_API int hf_conn_claim(struct hf_conn_ctl *c, uint32_t host_port, uint32_t guest_port,
	struct hf_conn_claim *ret_claim, struct hf_err *reterr);
/* Adds a checkpoint's connection to a VM whose guest does not run yet, and claims it. The record is
 * only lent. */
HF_API int hf_conn_restore(struct hf_conn_ctl *c, int record_fd, struct hf_conn_claim *ret_claim,
	struct hf_err *reterr);

enum hf_conn_event {
	HF_CONN_NOTHING, /* none now: poll hf_conn_fd() for reading */
	HF_CONN_QUIESCE, /* within *ret_deadline_ms */
	HF_CONN_LOADED,  /* connections have arrived */
	HF_CONN_RESUME,  /* the guest runs here; also look for what has arrived, as after LOADED */
};
HF_API int hf_conn_watch(struct hf_conn_ctl *c, struct hf_err *reterr);
HF_API int hf_conn_fd(const struct hf_conn_ctl *c);
/* Does not block. Call it until HF_CONN_NOTHING before you poll: other calls may have read an
 * event. -ECONNRESET: holdfastd has ended, or its VM has moved away. */
HF_API int hf_conn_event(struct hf_conn_ctl *c, int *ret_deadline_ms, struct hf_err *reterr);
HF_API int hf_conn_quiesced(struct hf_conn_ctl *c, struct hf_err *reterr);

#ifdef __cplusplus
}
#endif

#endif
