/* SPDX-License-Identifier: MIT */
/*
 * relay.h - connections whose two ends are with different daemons (docs/link.md).
 *
 * A relay is one end of a resumable stream, and what it leads to here:
 *
 *   CONN   a connection of a VM: the relay is its host end, as a socket or another guest could be
 *   HOST   the socket of a host application whose VM has moved away
 *   JOIN   another relay: the VM came from elsewhere and moved on
 *   HEIR   nothing yet: it takes the connection's host end over if the VM leaves
 *   ORPHAN nothing any more: what is in the stream goes out, then it is over
 *
 * A migration. The source makes an heir for each connection that is to be relayed and puts its
 * token and this daemon's address into the record. When the guest runs at the destination, the
 * relay that came out of the record dials the source; by that the heir knows that the VM has left,
 * and takes the host end. If the guest runs on here instead, the heir is gone, and who dials it is
 * told that its token is unknown. So there is one owner, whoever dies. A VM whose host end is a
 * relay that dials moves with the stream itself: the path stays as short as it was.
 *
 * Guests of different daemons. Whose guest dials another one that is not here asks the daemons that
 * are linked, one after the other; the stream is there before the guest has answered, and says so.
 *
 * The content of the stream: heads of 4 bytes, and payload behind those that announce some.
 */
#ifndef DEVICE_RELAY_H
#define DEVICE_RELAY_H

#include "stream/mux.h"
#include "vm.h"

struct dev_link;
struct dev_peer;

#define DEV_RELAY_WINDOW (256U << 10) /* each way; for messages enough for two of the largest */
#define DEV_RELAY_MAX    131072       /* of a daemon */
#define DEV_RELAY_RESET  1u           /* the code when an end was reset */

enum dev_relay_kind {
	DEV_RELAY_CONN,
	DEV_RELAY_HOST,
	DEV_RELAY_JOIN,
	DEV_RELAY_HEIR,
	DEV_RELAY_ORPHAN,
	DEV_RELAY_N_
};

struct dev_relay {
	struct rs_chan chan; /* first */
	enum dev_relay_kind kind;
	struct dev_link *link;
	struct dev_peer *peer;   /* to whom it is bound, or whom it dials; NULL: waits for a dial */
	struct dev_relay *next;  /* of the same bucket of tokens */
	struct hf_list all_node; /* in link.relays */
	struct hf_list work_node;
	struct hf_list wait_node; /* in link.waiting while it is not bound, until until_us */
	uint64_t until_us;
	bool working, waits;
	bool asleep;                    /* dials when the rings run */
	uint8_t peer_id[RS_TOKEN_SIZE]; /* who that is, to be known again */
	uint8_t *ask;                   /* NULL: nothing is asked for */
	size_t next_ask;                /* the peer to ask after this one */

	uint32_t slot;      /* of the tag */
	struct dev_vm *vm;  /* CONN, HEIR */
	struct dev_conn *c; /* CONN, HEIR */
	int fd;             /* HOST; -1: both directions have ended */
	struct dev_relay *join;
	struct dev_relay *home; /* the other end of the stream, when that is here as well */

	/* Of the head that was read last: bytes of it that were not, and what they are. */
	uint32_t left;
	uint8_t what;
	bool fin_in, deaf_in;            /* the other end sends, reads no more */
	bool fin_out, deaf_out;          /* it was told that we do not */
	bool deaf;                       /* HOST: nobody reads here: what comes is dropped */
	bool readable, hup, watches_out; /* HOST */
	bool message;                    /* SEQPACKET */
	bool asks;                       /* HOST: it is told when the guest has accepted */

	/* For the list of relays: whose connection it is. */
	char vm_name[33];
	uint32_t host_port, guest_port, peer_cid;
	uint64_t in_bytes, out_bytes; /* payload from and to the other daemon */
};

const char *dev_relay_kind_name(enum dev_relay_kind k);

/* ---- the host end of a connection ---- */

/* As sendmsg and recvmsg of a socket: a count, or -EAGAIN. Of a message all or nothing is sent;
 * read gives 0 at the end. */
ssize_t dev_relay_send(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, size_t len, uint32_t flags);
ssize_t dev_relay_read(
	struct dev_relay *r, const struct iovec *iov, size_t n_iov, uint32_t *ret_flags);
/* The guest sends (SEND) or reads (RCV) no more. */
void dev_relay_shut(struct dev_relay *r, uint8_t bits);
/* It is this connection's from now on. */
void dev_relay_give(struct dev_relay *r, struct dev_vm *vm, struct dev_conn *c);
/* The connection is over: after what was sent, or at once (a reset). It is no longer ours. */
void dev_relay_close(struct dev_relay *r, bool clean);

/* ---- a migration ---- */

/* Makes the heir, if there is none. 0 or -errno. */
int dev_relay_bequeath(struct dev_vm *vm, struct dev_conn *c);
/* What the record says of it: NULL and 0, nothing; else to be freed. */
uint8_t *dev_relay_record(const struct dev_conn *c, size_t *ret_n);
size_t dev_relay_record_size(const struct dev_conn *c); /* at most */
/* The other way round: the connection gets a relay that dials when the rings run. -EINVAL: the
 * bytes contradict themselves; -EHOSTUNREACH: it cannot be dialled from here. */
int dev_relay_load(struct dev_vm *vm, struct dev_conn *c, const void *data, size_t n);

/* A record is made: no stream of this VM moves, or is bound, until it runs again. */
void dev_relay_freeze(struct dev_vm *vm);
/* The rings run: heirs are void, relays go on. The connection may be freed. */
void dev_relay_go_on(struct dev_vm *vm, struct dev_conn *c);
/* The connection is reset while its VM is saved: so it is where the VM arrives. */
void dev_relay_disown(struct dev_conn *c);
/* The front end is gone. If a record was made the VM may be elsewhere: heirs take over. */
void dev_relay_left(struct dev_vm *vm);

/* ---- guests of other daemons ---- */

/* Asks the linked daemons for the guest that is dialled, from the peer `first` on. 0, and it is
 * answered later; -EHOSTUNREACH: there is none to ask. */
int dev_relay_ask(struct dev_vm *vm, struct dev_conn *c, size_t first);
/* A daemon asks for a guest of ours; what is refused is so when the token is dialled. */
void dev_relay_asked(struct dev_link *l, const uint8_t *ask, size_t n);
/* Our guest has accepted. */
void dev_relay_accepted(struct dev_relay *r);

/* Can the record say where it leads to? */
bool dev_relay_moves(const struct dev_relay *r);

/* ---- a takeover ---- */

#define DEV_RELAY_LEFT_MAX 0x0fffffffu /* of a head: what is left, and what it is */
#define DEV_RELAY_WHAT_MAX 3u

/* A relay in no state yet; address: of whom it dials, "": of nobody. 0 or -errno. */
int dev_relay_make(struct dev_link *l, const uint8_t *token, bool dials, size_t window,
	const char *address, struct dev_relay **ret);
/* Its stream as rs_save() left it, detached: 0 or -EINVAL. Kind and flags are set before. */
int dev_relay_load_stream(struct dev_relay *r, const void *data, size_t n);
/* It is the host end of this connection: 0 or -EINVAL. */
int dev_relay_lead(struct dev_relay *r, struct dev_vm *vm, struct dev_conn *c);
void dev_relay_adopt(struct dev_relay *r);  /* goes on from here */
void dev_relay_forget(struct dev_relay *r); /* without a trace */

/* ---- for link.c ---- */

struct dev_relay *dev_relay_find(struct dev_link *l, const uint8_t token[RS_TOKEN_SIZE]);
/* The peer dials it: false when it may not be. An heir takes over. */
bool dev_relay_dialled(struct dev_relay *r);
void dev_relay_work(struct dev_relay *r);              /* has news: step comes in this turn */
void dev_relay_unbound(struct dev_relay *r);           /* its connection is lost */
void dev_relay_bound(struct dev_relay *r);             /* it has one */
void dev_relay_step(struct dev_relay *r);              /* may free it */
void dev_relay_leave(struct dev_relay *r);             /* this process ends: resets it */
void dev_relay_expire(struct dev_relay *r, int error); /* frees it; resets what it leads to */
void dev_relay_on_event(struct dev_link *l, struct dev_tag tag, uint32_t events);

#endif
