/* SPDX-License-Identifier: MIT */
/*
 * guest.h - a guest's vsock that behaves as Linux's, on the front end of the tests.
 *
 * Credit as Linux counts it: 256 KiB of its own, no more than that outstanding whatever the device
 * grants, an update when less than 64 KiB of what was announced is left. Applications in the guest
 * take what comes at once. Payload is neither written nor read, since that costs the same with
 * every device.
 *
 * Connections are told apart by one port: the guest's of those it has opened, the host's of those
 * that came to GUEST_LISTENS.
 */
#ifndef BENCH_GUEST_H
#define BENCH_GUEST_H

#include "test/lib/frontend.h"

#define GUEST_CONNS   (1u << 17)
#define GUEST_BUFFER  (256u << 10)
#define GUEST_LISTENS 5000u

enum guest_state { GUEST_NONE, GUEST_ASKING, GUEST_OPEN, GUEST_CLOSING };

struct guest_conn {
	uint32_t host_port, guest_port;
	uint8_t state;
	uint32_t tx_cnt, peer_fwd_cnt, peer_buf_alloc;
	uint32_t fwd_cnt, told;
};

struct guest {
	struct fe fe;
	int ep;            /* its interrupts */
	uint64_t received; /* payload */
	uint32_t n_open, n_refused, next_port;
	struct guest_conn conn[GUEST_CONNS];
};

/* Both end the program when they fail. */
struct guest *guest_start(const char *socket, uint16_t rx_bytes);
void guest_end(struct guest *g);

/* Migrates to the device at this socket; with keep_event_ring and all connections. */
void guest_move(struct guest *g, const char *socket);

struct guest_conn *guest_connect(struct guest *g, uint32_t host_port);
void guest_close(struct guest *g, struct guest_conn *c); /* the device's RST ends it */

/* Bytes that may be sent now in one packet. */
uint32_t guest_room(const struct guest_conn *c);
bool guest_can_queue(const struct guest *g);
void guest_send(struct guest *g, struct guest_conn *c, uint32_t len);

/* Takes every packet that is there and answers; returns how many there were. */
unsigned guest_poll(struct guest *g);

void guest_flush(struct guest *g); /* publishes what was queued */
void guest_sleep(
	struct guest *g); /* until the device has used a buffer; not with something queued */

#endif
