/* SPDX-License-Identifier: MIT */
/*
 * vhostuser.h - the back end's side of the vhost-user protocol, as a state machine.
 *
 * Bytes and descriptors of the front end go in, one typed event per message comes out, and the
 * reply's bytes come out. Nothing here maps memory, touches a ring or closes a descriptor: the
 * device does what the event says and answers it, at once or later. Until it has answered, no
 * further message is taken (the protocol is strictly one after the other).
 *
 * The device's loop:
 *
 *	vhu_room(v, &buf, &n);			  recvmsg(2) at most n bytes into buf
 *	r = vhu_received(v, got, fds, n_fds, &ev);
 *	if (r > 0 && ev.kind != VHU_REFUSED)
 *		r = vhu_answer(v, apply(&ev), value);
 *	close every descriptor that is left in ev.fds (the ones it takes it replaces by -1)
 *	send what vhu_output() shows, then vhu_sent()
 *	if (r < 0) close the connection: v->why is the reason
 *
 * Messages that need nothing of the device (protocol features, configuration space, counts,
 * status) are answered here. docs/vhost-user.md holds the table of messages and the states of
 * rings.
 */
#ifndef VHOSTUSER_VHOSTUSER_H
#define VHOSTUSER_VHOSTUSER_H

#include "base/base.h"

#define VHU_QUEUES_MAX  4
#define VHU_FDS_MAX     8 /* descriptors of one message */
#define VHU_REGIONS_MAX 8 /* regions of one SET_MEM_TABLE */
#define VHU_HEADER      12
#define VHU_PAYLOAD_MAX 1024
#define VHU_CONFIG_MAX  256 /* largest configuration space that the protocol knows */

/* Virtio feature bits that belong to the transport, not to the device. */
#define VHU_F_LOG_ALL           (1ull << 26)
#define VHU_F_PROTOCOL_FEATURES (1ull << 30)

/* Protocol features. */
#define VHU_P_MQ                  (1ull << 0)
#define VHU_P_LOG_SHMFD           (1ull << 1)
#define VHU_P_REPLY_ACK           (1ull << 3)
#define VHU_P_BACKEND_REQ         (1ull << 5)
#define VHU_P_CONFIG              (1ull << 9)
#define VHU_P_INFLIGHT_SHMFD      (1ull << 12)
#define VHU_P_RESET_DEVICE        (1ull << 13)
#define VHU_P_CONFIGURE_MEM_SLOTS (1ull << 15)
#define VHU_P_STATUS              (1ull << 16)
#define VHU_P_DEVICE_STATE        (1ull << 19)

/* What this code can do; the device may offer less. */
#define VHU_P_SUPPORTED                                                                            \
	(VHU_P_MQ | VHU_P_LOG_SHMFD | VHU_P_REPLY_ACK | VHU_P_BACKEND_REQ | VHU_P_CONFIG |         \
		VHU_P_RESET_DEVICE | VHU_P_CONFIGURE_MEM_SLOTS | VHU_P_STATUS |                    \
		VHU_P_DEVICE_STATE | VHU_P_INFLIGHT_SHMFD)

struct vhu_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t uaddr;
	uint64_t offset; /* of the first byte in the descriptor's file; a multiple of 4096 */
};

/* After each event look at vhu_ring_runs() again for every ring: messages change it. The comment
 * tells the member of the union, and fds[] where descriptors come along. */
enum vhu_event_kind {
	VHU_NONE,       /* nothing to do; vhu_received() returns 0 with it */
	VHU_REFUSED,    /* why; already answered: log it, close the fds */
	VHU_FEATURES,   /* features: accepted virtio features, may add or drop LOG_ALL on running
			 * rings */
	VHU_MEM_TABLE,  /* mem: replaces all regions; fds[i] belongs to region i */
	VHU_MEM_ADD,    /* mem.region[0]; fds[0] */
	VHU_MEM_REMOVE, /* mem.region[0]: gpa, size, uaddr name it */
	VHU_LOG_BASE,   /* log; fds[0]: replaces the dirty log */
	VHU_LOG_FD,   /* fds[0] if n_fds > 0: eventfd to signal when bits are set; may be ignored */
	VHU_RING_NUM, /* ring.index, ring.value: size */
	VHU_RING_ADDR, /* addr */
	VHU_RING_BASE, /* ring.index, ring.value: next available index */
	VHU_RING_STOP, /* ring.index: finish what is in flight, drop kick and call fd, answer with
			* the next available index as value (GET_VRING_BASE) */
	VHU_RING_KICK, /* ring.index; fds[0], or no fd: poll the ring. The ring is started: look at
			* it once without waiting for a kick */
	VHU_RING_CALL, /* ring.index; fds[0], or no fd: do not notify */
	VHU_RING_ERR,  /* ring.index; fds[0], or none; may be ignored */
	VHU_RING_ENABLE,  /* ring.index, ring.value: 0 or 1 */
	VHU_BACKEND_FD,   /* fds[0]: socket for our own requests; replaces an earlier one */
	VHU_SET_CONFIG,   /* config: on migration only (other writes are refused here) */
	VHU_STATE_FD,     /* state: start a transfer over fds[0]; answer before any of it is done */
	VHU_STATE_CHECK,  /* answer when the transfer is over and validated */
	VHU_INFLIGHT_GET, /* inflight: make a file for these rings; answer with its size, and set
			   * vhu.out_fd before: the front end gets it */
	VHU_INFLIGHT_SET, /* inflight; fds[0]: what back ends leave lies there; no ring is started
			   */
	VHU_RESET, /* reset the device: rings are stopped and disabled, drop the connections */
	VHU_EVENT_N_
};

struct vhu_event {
	enum vhu_event_kind kind;
	uint32_t request;         /* the message's number: vhu_request_name() */
	const char *why;          /* VHU_REFUSED: the reason */
	int fds[2 * VHU_FDS_MAX]; /* more than VHU_FDS_MAX only when refused for that */
	size_t n_fds;
	union {
		uint64_t features;
		struct {
			size_t n;
			struct vhu_region region[VHU_REGIONS_MAX];
		} mem;
		struct {
			uint64_t size, offset;
		} log;
		struct {
			uint32_t index, value;
		} ring;
		struct {
			uint32_t index;
			bool log; /* log writes to the used ring, at log_gpa */
			uint64_t desc, avail, used, log_gpa;
		} addr;
		struct {
			uint32_t offset, size;
			const uint8_t *data; /* valid until the answer */
		} config;
		struct {
			bool load; /* false: save */
		} state;
		struct {
			uint64_t size, offset;
			uint16_t n_queues, queue_size;
		} inflight;
	};
};

/* What the device offers; constant for the life of the device. VHU_F_PROTOCOL_FEATURES is added,
 * and VHU_F_LOG_ALL when VHU_P_LOG_SHMFD is offered. */
struct vhu_offer {
	uint64_t features;
	uint64_t protocol_features; /* a subset of VHU_P_SUPPORTED */
	uint32_t n_queues;          /* up to VHU_QUEUES_MAX */
	uint32_t queue_size_max;    /* power of two */
	uint32_t mem_slots;
};

struct vhu_ring {
	bool started; /* by SET_VRING_KICK; GET_VRING_BASE and resets stop it */
	bool enabled;
	bool has_num, has_addr;
};

struct vhu {
	struct vhu_offer offer;
	uint64_t features; /* accepted; 0 before SET_FEATURES */
	uint64_t protocol_features;
	uint8_t status; /* device status, as the front end last set it */
	struct vhu_ring ring[VHU_QUEUES_MAX];
	uint8_t config[VHU_CONFIG_MAX]; /* the device writes it: guest_cid at 0; zero elsewhere */
	const char *why; /* reason of the last refusal or failure; NULL before the first */

	/* own */
	uint8_t in[VHU_HEADER + VHU_PAYLOAD_MAX];
	size_t in_len;
	int fds[VHU_FDS_MAX];
	size_t n_fds;
	bool pending;   /* an event is out and not answered */
	uint64_t value; /* of the reply to a message that is answered here */
	uint8_t out[VHU_HEADER + VHU_PAYLOAD_MAX];
	size_t out_len, out_sent;
	int out_fd; /* goes with the first byte of the output, and is closed then; -1: none */
};

/* What a connection has come to, for another process that goes on with it. in and out point into
 * the state that they were taken from: what has come of a message, and what is left of an answer.
 */
struct vhu_saved {
	uint64_t features, protocol_features;
	uint8_t status;
	struct vhu_ring ring[VHU_QUEUES_MAX];
	const uint8_t *in, *out;
	size_t in_len, out_len;
	int out_fd;
	int fds[VHU_FDS_MAX]; /* that came with it */
	size_t n_fds;
};

void vhu_init(struct vhu *v, const struct vhu_offer *offer);

/* A new connection: everything negotiated is forgotten, offer and config stay. The descriptors of
 * an unfinished message are the caller's to close, and out_fd before. */
void vhu_reset(struct vhu *v, int ret_fds[VHU_FDS_MAX], size_t *ret_n_fds);

/* Saves; false while an event is unanswered, which would be lost. Restores after vhu_init(): 0, or
 * -EINVAL and nothing has changed when it could not have been saved. */
bool vhu_save(const struct vhu *v, struct vhu_saved *ret_saved);
int vhu_restore(struct vhu *v, const struct vhu_saved *saved);

/* Where to receive and how much at most: never past the message's end, so that the descriptors
 * which come along are its own. *ret_n is 0 while an event is unanswered or output is unsent. */
void vhu_room(struct vhu *v, void **ret_buf, size_t *ret_n);

/* n bytes have been received there, with n_fds descriptors.
 *  1: an event for the device (see the loop above);
 *  0: nothing to do, but there may be output;
 * -EPROTO: a fault that cannot be told to the front end: close; v->why says it.
 * In each case ret_ev->fds are the caller's. n_fds is at most VHU_FDS_MAX. */
int vhu_received(struct vhu *v, size_t n, const int *fds, size_t n_fds, struct vhu_event *ret_ev);

/* Answers the event: result 0 or -errno; `value` is read for VHU_RING_STOP and VHU_INFLIGHT_GET.
 * Returns 0, or -EPROTO when it failed and the protocol has no way to say so: close the connection.
 */
int vhu_answer(struct vhu *v, int result, uint64_t value);

/* Bytes to send; returns how many there are. out_fd goes along. */
size_t vhu_output(const struct vhu *v, const void **ret_buf);
void vhu_sent(struct vhu *v, size_t n);

/* The ring is started, enabled and set up: it may be processed. */
bool vhu_ring_runs(const struct vhu *v, uint32_t index);

/* No ring is started: no write to guest memory or log, no call signal, no request of ours. */
bool vhu_suspended(const struct vhu *v);

/* BACKEND_CONFIG_CHANGE_MSG for the socket of VHU_BACKEND_FD, which asks for no acknowledgement.
 * The caller has written v->config before. */
void vhu_config_change(uint8_t ret_msg[VHU_HEADER]);

const char *vhu_request_name(uint32_t request); /* "SET_FEATURES"; "unknown" */

#endif
