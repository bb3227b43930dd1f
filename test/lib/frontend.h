/* SPDX-License-Identifier: MIT */
/*
 * frontend.h - a vhost-user front end and a vsock driver in one, for tests and benchmarks.
 *
 * It connects to a back end's socket like a virtual machine monitor, with its own memory in a
 * memfd, and works the rings like Linux's driver: every rx buffer is supplied again once read, each
 * packet is a chain. Guest memory has two regions, rings in the first and buffers in the second,
 * which begins at 4 GiB. Every call that waits gives up after FE_TIMEOUT_MS; all return 0 or a
 * count, or -errno (-ETIMEDOUT, -EPROTO when a request was refused, -ENODATA when the back end hung
 * up).
 *
 *	fe_open(&f, path, &cfg);	connect and negotiate
 *	fe_start(&f);			memory, rings, go
 *	fe_send(), fe_recv()		packets
 *	fe_stop(&f);			suspend; fe_start() goes on
 *	fe_close(&f);
 *
 * A migration: fe_stop(src), fe_save(src), then for dst fe_open, fe_load, fe_move(dst, src),
 * fe_start(dst).
 */
#ifndef TEST_FRONTEND_H
#define TEST_FRONTEND_H

#include "driver.h"
#include "vsock/vsock.h"

#define FE_TIMEOUT_MS  10000
#define FE_RX_BYTES    (44 + 4096)
#define FE_PAYLOAD_MAX 65536
#define FE_RINGS       3

struct fe_cfg {
	uint16_t queue_size; /* 0: 128; at most 256 */
	bool no_event_idx;
	bool keep_event_ring;       /* like QEMU: the back end gets rings 0 and 1 only */
	uint64_t protocol_features; /* 0: everything the back end offers */
	uint64_t features;          /* 0: everything the back end offers, but LOG_ALL */
	uint16_t rx_bytes;          /* of an rx buffer; 0: FE_RX_BYTES, the most */
	bool lazy_refill; /* as Linux: an rx ring found empty is filled when half of it is used */
};

struct fe {
	struct fe_cfg cfg;
	int sock, memfd;
	uint8_t *mem;
	uint8_t *log; /* dirty bitmap, NULL until fe_log_start() */
	size_t log_bytes;
	int logfd;
	uint64_t features, protocol_features;
	uint64_t cid; /* from the configuration space */
	struct drv ring[FE_RINGS];
	uint16_t base[FE_RINGS];
	int kick[FE_RINGS], call[FE_RINGS];
	bool memory_set;
	bool filled; /* rx and event buffers are in their rings */
	uint64_t kicks, calls;
};

int fe_open(struct fe *f, const char *path, const struct fe_cfg *cfg);
int fe_start(struct fe *f);
int fe_stop(struct fe *f);
void fe_close(struct fe *f);

/* Sends a packet of pkt->len payload bytes. Each descriptor holds at most `part` bytes, the header
 * has one of its own; part 0: header and payload in one. Waits while the tx ring is full. */
int fe_send(struct fe *f, const struct vsk_pkt *pkt, const void *payload, uint32_t part);

/* The same without making it visible (payload NULL: whatever lies there goes out): fe_flush()
 * publishes what was queued and kicks once. -ENOSPC when the ring is full: fe_flush() and fe_reap()
 * then. */
int fe_queue(struct fe *f, const struct vsk_pkt *pkt, const void *payload, uint32_t part);
void fe_flush(struct fe *f);
int fe_reap(struct fe *f); /* takes used tx chains back; returns how many */

/* Receives a packet; payload beyond cap is dropped. timeout_ms 0: only looks. */
int fe_recv(struct fe *f, struct vsk_pkt *ret_pkt, void *payload, size_t cap, int timeout_ms);

/* One packet that is there already, its payload left alone: 1, or 0 when there is none. Then
 * fe_wait() sleeps until the back end has used an rx or a tx buffer. */
int fe_look(struct fe *f, struct vsk_pkt *ret_pkt);
int fe_wait(struct fe *f, int timeout_ms);

/* Receives an event of ring 2. */
int fe_event(struct fe *f, uint32_t *ret_id, int timeout_ms);

/* Waits until the call descriptor of a ring is signalled. */
int fe_wait_call(struct fe *f, int ring, int timeout_ms);

/* Turns the dirty log on (on a running back end) and off. */
int fe_log_start(struct fe *f);
int fe_log_stop(struct fe *f);
bool fe_log_dirty(const struct fe *f, uint64_t gpa);

/* Device state: saves less than cap bytes and says how many; loads. */
int fe_save(struct fe *f, void *buf, size_t cap, size_t *ret_n);
int fe_load(struct fe *f, const void *buf, size_t n);

/* dst, opened and not started, gets the memory, the driver's state and the ring bases of src. */
void fe_move(struct fe *dst, const struct fe *src);

/* One message; fe_request() reads a reply of n bytes, or an acknowledgement when n is 0 and
 * REPLY_ACK is agreed. For tests of the protocol itself. */
int fe_message(struct fe *f, uint32_t request, uint32_t flags, const void *payload, size_t n,
	const int *fds, size_t n_fds);
int fe_reply(struct fe *f, uint32_t request, void *ret, size_t n);
int fe_request(struct fe *f, uint32_t request, const void *payload, size_t n, const int *fds,
	size_t n_fds, void *ret, size_t ret_n);

#endif
