/* SPDX-License-Identifier: MIT */
/*
 * dial.h - connections from the guest to a port of its host.
 *
 * vsock: AF_VSOCK to CID 2. unix:BASE: the socket BASE_<port>, as hybrid vsock names it. A dial
 * never blocks and has a deadline; its result always comes in a later turn of the loop.
 */
#ifndef AGT_LINK_DIAL_H
#define AGT_LINK_DIAL_H

#include "agent/loop.h"

#define AGT_DIAL_DEADLINE_MS 500   /* of who dials again */
#define AGT_DIAL_ONCE_MS     10000 /* of who does not */

struct agt_transport {
	bool unix_socket;
	char base[80]; /* unix: BASE */
};

struct agt_dial;

/* fd >= 0: connected, non-blocking, the callee's; else -errno. The dial is over. */
typedef void agt_dial_fn(void *arg, int fd);

/* NULL: no memory. */
struct agt_dial *agt_dial_start(
	uv_loop_t *loop, const struct agt_transport *t, uint32_t port, agt_dial_fn *fn, void *arg);
/* For who would not dial again: a busy host has more time. */
struct agt_dial *agt_dial_once(
	uv_loop_t *loop, const struct agt_transport *t, uint32_t port, agt_dial_fn *fn, void *arg);
void agt_dial_cancel(struct agt_dial *d); /* accepts NULL; no callback comes any more */

/* The guest's own context id now; -errno when there is none. */
int agt_local_cid(uint32_t *ret_cid);

#endif
