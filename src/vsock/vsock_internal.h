/* SPDX-License-Identifier: MIT */
/* vsock_internal.h - what engine.c and record.c share. */
#ifndef VSK_VSOCK_INTERNAL_H
#define VSK_VSOCK_INTERNAL_H

#include "vsock/vsock.h"

/* Control packets that wait, in the order of their sending. They are values of the record. */
enum {
	VSK_CTL_RST = 1 << 0, /* only in CLOSED, and then alone */
	VSK_CTL_REQUEST = 1 << 1,
	VSK_CTL_RESPONSE = 1 << 2,
	VSK_CTL_SHUTDOWN = 1 << 3,
	VSK_CTL_CREDIT_UPDATE = 1 << 4,
	VSK_CTL_CREDIT_REQUEST = 1 << 5,
};

/* May a guest have it (D1.3)? */
bool vsk_cid_usable(uint32_t cid);

/* Takes a slot and enters it under its addresses; NULL when none is free. */
struct vsk_conn *vsk_conn_new(struct vsk *v, uint16_t type, uint32_t peer_cid, uint32_t host_port,
	uint32_t guest_port, enum vsk_state state);

/* Gives the slot back, whatever it was: for what was never seen by the device. */
void vsk_conn_free(struct vsk *v, struct vsk_conn *c);

void vsk_conn_ctl(struct vsk *v, struct vsk_conn *c, uint8_t bits);
void vsk_conn_life(struct vsk *v, struct vsk_conn *c, uint8_t life, uint64_t now_us);

/* Ends the flow; with `rst` it stays entered until the RST was sent. */
void vsk_conn_close(struct vsk *v, struct vsk_conn *c, bool rst);

/* buf_alloc of one whose sibling is reached in another way from now on, with `held` bytes for it in
 * the device: nobody tells how long a message it takes, but it has told. */
static inline uint32_t vsk_buf_alone(const struct vsk_conn *c, uint32_t held)
{
	if (!c->relayed || !vsk_has_messages(c))
		return c->buf_alloc;
	return HF_MAX(HF_MIN(c->buf_alloc, c->far_buf), held);
}

uint32_t vsk_crc32c(uint32_t crc, const void *data, size_t n);

#endif
