/* SPDX-License-Identifier: MIT */
/*
 * link.h - connections to other holdfastds (docs/link.md).
 *
 * A peer is one connection, made by us or by them; both ends may open channels on it. One that we
 * dial is dialled again for as long as a relay wants it; one that they dialled is forgotten when
 * it breaks, and its relays wait until they are dialled anew.
 */
#ifndef DEVICE_LINK_H
#define DEVICE_LINK_H

#include "address.h"
#include "base/list.h"
#include "loop.h"
#include "stream/mux.h"
#include "tls.h"

#define DEV_PEERS_MAX      64
#define DEV_LINK_HELLO_US  5000000u /* from connect to the peer's hello */
#define DEV_LINK_REDIAL_US 100000u
#define DEV_LINK_BACKLOG   16
#define DEV_TOKEN_BUCKETS  4096

struct dev_daemon;
struct dev_relay;

enum dev_peer_state {
	DEV_PEER_DOWN,
	DEV_PEER_CONNECTING,
	DEV_PEER_SHAKING, /* hands: TLS */
	DEV_PEER_HELLO,
	DEV_PEER_UP,
	DEV_PEER_N_
};
const char *dev_peer_state_name(enum dev_peer_state s);

struct dev_peer {
	struct dev_link *link;
	uint8_t index;
	uint16_t gen;
	enum dev_peer_state state;
	int fd;
	char address[DEV_ADDRESS_MAX + 1]; /* "": they dialled us */
	size_t users;                      /* relays that want it */
	bool watches_out;
	uint64_t until_us;           /* of its state */
	struct dev_tls_session *tls; /* NULL: a Unix socket */
	uint8_t *rest;               /* received, waits until refusals are out; NULL: nothing */
	size_t rest_len;
	struct rs_mux mux;
};

struct dev_link {
	struct dev_daemon *daemon;
	uint8_t self[RS_TOKEN_SIZE];
	int listen_fd;       /* -1: there is no link */
	struct dev_tls *tls; /* NULL: no link leaves the host */
	uint64_t timeout_us, logged_us;
	struct dev_peer *peer[DEV_PEERS_MAX]; /* NULL: free */
	struct hf_list relays, work, waiting;
	struct dev_relay *token[DEV_TOKEN_BUCKETS];
	struct dev_relay **slot; /* by tag; NULL: free */
	uint32_t n_slots, first_free;
	size_t n_relays;
	uint64_t dialled, lost, refused, in_bytes, out_bytes; /* counters */
};

/* fd: -1 when there is no link. */
int dev_link_adopt(struct dev_link *l, struct dev_daemon *d, int fd, struct hf_err *reterr);
int dev_link_open(struct dev_link *l, struct dev_daemon *d, struct hf_err *reterr);
void dev_link_close(struct dev_link *l);  /* VMs are gone */
void dev_link_forget(struct dev_link *l); /* without a trace: it is another process's */
static inline bool dev_link_is_open(const struct dev_link *l)
{
	return l->listen_fd >= 0;
}

void dev_link_on_listen(struct dev_link *l);
void dev_link_on_peer(struct dev_link *l, struct dev_tag tag, uint32_t events);

/* Before the VMs have their turn: what came in. After it: what goes out. As on_turn. */
void dev_link_turn(struct dev_link *l);
uint64_t dev_link_flush(struct dev_link *l);

/* The peer at this address, dialled if there is none. NULL: no memory, too many, a bad address. */
struct dev_peer *dev_link_peer(struct dev_link *l, const char *address);
/* The next peer that is there, from index *at on, which is moved behind it; NULL: no more. */
struct dev_peer *dev_link_next(struct dev_link *l, size_t *at);
void dev_link_use(struct dev_peer *p);
void dev_link_unuse(struct dev_peer *p);

/* Binds a relay that dials to its peer, now if it is there, else when it is. */
void dev_link_bind(struct dev_relay *r);

#endif
