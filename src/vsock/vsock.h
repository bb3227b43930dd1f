/* SPDX-License-Identifier: MIT */
/*
 * vsock.h - the connections of one virtio-vsock device, as a pure state machine.
 *
 * The engine reads and writes packet headers, counts credit, and decides. It never sees payload:
 * the caller ("the device") moves bytes straight between guest memory and host sockets and tells
 * the engine how many. It performs no I/O, allocates nothing and reads no clock.
 *
 * It is a set of functions instead of one vsk_step(), because each has one caller at one place of
 * an event loop, and because payload that is named, not copied, wants a question ("who may send,
 * and how much?") and an answer ("so many bytes were read").
 *
 * What the device does
 *
 *   guest's tx queue      vsk_from_guest(header) -> at most one event, see enum vsk_event.
 *     EV_DATA             Write payload to the host socket; vsk_host_took(n) for what it took. Keep
 *                         the rest in a ring of at most conn->buf_alloc bytes (the engine refuses
 *                         what would not fit), and vsk_host_took() when the socket takes it.
 *                         While that ring is not empty, payload goes behind it.
 *
 *   guest's rx queue      With a buffer at hand, vsk_to_guest() -> a control packet to write, or a
 *                         connection and how many bytes it may send now. The device reads at most
 *                         so many from the host socket into the guest's buffer, behind the
 *                         header, and then calls exactly one of:
 *                           vsk_data()           n > 0 bytes were read: fills in the header
 *                           vsk_host_idle()      nothing there now (EAGAIN)
 *                           vsk_host_shutdown()  end of data (VSK_SHUT_SEND)
 *                           vsk_host_reset()     error
 *
 *   socket is readable    vsk_host_readable(). Edge-triggered polling is enough: the engine
 *                         remembers until vsk_host_idle() or the end.
 *
 *   socket hung up        The host closed both ways. Read to the end first, as ever; there call
 *                         vsk_host_shutdown(VSK_SHUT_BOTH). At once when the guest is deaf
 *                         (guest_shut has VSK_SHUT_RCV): nothing is read then any more.
 *
 *   write fails, EPIPE    vsk_host_shutdown(VSK_SHUT_RCV); what was not taken is dropped.
 *
 *   CONNECT P             vsk_connect(P) -> a connection, and then EV_CONNECTED: "OK <host_port>",
 *                         or EV_CLOSED.
 *
 *   SEQPACKET             The same, with messages. EV_DATA tells with VSK_MSG_EOM where one ends;
 *                         only whole ones are given to the host, each with a vsk_host_took(). To
 *                         the guest a message may go in parts, VSK_MSG_EOM on the last.
 *
 *   a sibling             The host end of a connection may be another guest of this process: two
 *                         connections, one per engine. EV_DIAL with its CID in conn->peer_cid ->
 *                         vsk_connect_from() in the other engine, whose EV_CONNECTED or EV_CLOSED
 *                         is the answer to the dial. From then on what one guest does is what the
 *                         host of the other one does.
 *
 *   timer                 at vsk_deadline(): while (vsk_expire(&ev)) handle(ev).
 *
 *   after any call        if vsk_wants_guest(), there is something for the guest's rx queue.
 *
 * Memory. The device gives slots: an array of structs of its own that begin with struct vsk_conn
 * (vsk_give_slots). A slot is in use from vsk_connect() or EV_DIAL until the device calls
 * vsk_release(). EV_CLOSED means: the flow has ended for the guest; the connection is now the
 * device's alone. It may still write what the ring holds to the host (see enum vsk_why), then it
 * closes the socket and calls vsk_release(). The same holds, without an event, after
 * vsk_dialled(false) and vsk_host_reset(). No other function may be called on a closed one.
 * Slots never move; conn->gen changes with each use, to tell a late event of a poll set.
 *
 * Stopped rings (vhost-user: suspended): do not call vsk_from_guest, vsk_to_guest and vsk_expire.
 * The others stay legal. When the rings run (again): vsk_resume(), which starts all deadlines anew.
 *
 * Bytes of the guest and of a record are hostile: they lead to errors, RSTs and closed connections,
 * never to an assertion. The calls of the device are trusted and asserted.
 */
#ifndef VSK_VSOCK_H
#define VSK_VSOCK_H

#include "base/base.h"
#include "base/bytes.h"
#include "base/list.h"

#define VSK_HDR_BYTES     44
#define VSK_PAYLOAD_MAX   (64u << 10) /* per packet, either way (D2.8) */
#define VSK_CID_HOST      2u
#define VSK_BUF_MAX       (4u << 20)  /* most that vsk_config.buf_alloc may be */
#define VSK_WINDOW_FIRST  (64u << 10) /* of it a new stream beside others is granted */
#define VSK_MSGS_MAX      65536u      /* whole messages of a guest that the host has not taken */
#define VSK_RST_MAX       128         /* waiting RSTs for flows that are not known */
#define VSK_CONNECT_US    2000000u    /* RESPONSE or RST within this, either way (D5.10) */
#define VSK_CLOSE_US      8000000u    /* RST within this after SHUTDOWN of both (D5.4, D5.9) */
#define VSK_HOLD_US       1000000u    /* longest hold for a transport reset (D7.8) */
#define VSK_CLAIM_US      5000000u    /* default for vsk_config.claim_us */
#define VSK_HOST_PORT_MIN 0x80000000u /* vsk_connect() hands out ports from here */
#define VSK_HOST_PORT_MAX 0xfffffffeu
#define VSK_NEVER         UINT64_MAX

enum vsk_type { VSK_TYPE_STREAM = 1, VSK_TYPE_SEQPACKET = 2 };

/* Feature bits of the device (D1.5). */
#define VSK_F_STREAM            (1u << 0)
#define VSK_F_SEQPACKET         (1u << 1)
#define VSK_F_NO_IMPLIED_STREAM (1u << 2)

enum vsk_op {
	VSK_OP_REQUEST = 1,
	VSK_OP_RESPONSE,
	VSK_OP_RST,
	VSK_OP_SHUTDOWN,
	VSK_OP_RW,
	VSK_OP_CREDIT_UPDATE,
	VSK_OP_CREDIT_REQUEST,
	VSK_OP_N_
};

/* Flags of SHUTDOWN: what its sender will not do any more. */
enum { VSK_SHUT_RCV = 1, VSK_SHUT_SEND = 2, VSK_SHUT_BOTH = 3 };

/* Flags of RW on SEQPACKET connections: last part of a message; its sender said MSG_EOR. */
enum { VSK_MSG_EOM = 1, VSK_MSG_EOR = 2 };

/* A packet header, opened. */
struct vsk_pkt {
	uint64_t src_cid, dst_cid;
	uint32_t src_port, dst_port;
	uint32_t len;
	uint16_t type, op;
	uint32_t flags, buf_alloc, fwd_cnt;
};

void vsk_pkt_decode(const uint8_t hdr[VSK_HDR_BYTES], struct vsk_pkt *ret_pkt);
void vsk_pkt_encode(const struct vsk_pkt *pkt, uint8_t ret_hdr[VSK_HDR_BYTES]);

/*
 * DIALLING  the guest asked; the device dials and answers with vsk_dialled().
 * ASKING    the host asked (vsk_connect); waits for the guest's RESPONSE.
 * OPEN      RESPONSE was sent or received; shut bits of either side may be set.
 * CLOSED    the device's until vsk_release(). An RST to the guest may still be waiting.
 */
enum vsk_state { VSK_FREE, VSK_DIALLING, VSK_ASKING, VSK_OPEN, VSK_CLOSED, VSK_STATE_N_ };

const char *vsk_state_name(enum vsk_state s);

/* Embedded at the start of the device's own slot. The device may read all and write nothing. */
struct vsk_conn {
	struct hf_list ctl_node;  /* in vsk.ctl when ctl != 0 and it may be sent */
	struct hf_list data_node; /* in vsk.data when it may send payload */
	struct hf_list life_node; /* in vsk.life[life], or in vsk.free, or alone */
	struct vsk_conn *hash_next;
	uint64_t deadline_us;
	/* Payload bytes of the whole connection; on the wire these are the low 32 bits. */
	uint64_t tx_cnt;    /* host to guest */
	uint64_t rx_cnt;    /* guest to host: received, and of these ... */
	uint64_t fwd_cnt;   /* ... taken by the host */
	uint32_t announced; /* fwd_cnt as the guest was last told */
	uint32_t buf_alloc; /* what we grant the guest, when it has all */
	uint32_t begun;     /* low bits of what the whole guest had sent when this was last told */
	/* Relayed: what the guest at the other end grants, what it was given and what it has taken,
	 * and what we made of it when we last told ours. */
	uint32_t far_buf, far_tx, far_fwd, announced_buf;
	uint32_t peer_buf_alloc, peer_fwd_cnt;
	uint32_t host_port, guest_port;
	uint32_t peer_cid; /* the other end as the guest addresses it: VSK_CID_HOST or a sibling */
	uint32_t gen;
	uint32_t msgs; /* SEQPACKET: the guest's whole messages that the host has not taken */
	uint16_t type; /* enum vsk_type; of an RST whatever the guest sent */
	uint8_t state; /* enum vsk_state */
	uint8_t ctl;   /* control packets to send, bits */
	uint8_t life;
	uint8_t guest_shut, host_shut; /* VSK_SHUT_* that each side has promised */
	bool readable;                 /* the host socket may have data */
	bool asked;                    /* CREDIT_REQUEST sent since the guest last gave room */
	bool rx_mid, tx_mid;           /* SEQPACKET: a message has begun and not ended */
	bool request_sent, linked, held_by_device, unclaimed;
	bool relayed : 1; /* the guest's credit is a sibling's: vsk_relay() */
	bool first : 1;   /* the guest is granted VSK_WINDOW_FIRST */
};

/* Payload of the guest that the host has not taken: the length of the device's ring. */
static inline uint32_t vsk_unread(const struct vsk_conn *c)
{
	return (uint32_t)(c->rx_cnt - c->fwd_cnt);
}

/* fwd_cnt and buf_alloc as the guest is told them: our own, or those of a sibling's socket as far
 * as what it has not been given fits into the device.
 *
 * A message waits in the device until it is whole, and the guest's kernel refuses one that is
 * longer than buf_alloc: so that is never more than the device can hold. What a sibling with a
 * larger buffer has been given counts as taken instead, which sums up to the same room. */
static inline bool vsk_is_relayed(const struct vsk_conn *c)
{
	return c->relayed && !(c->host_shut & VSK_SHUT_RCV); /* else all counts as taken */
}

static inline bool vsk_has_messages(const struct vsk_conn *c)
{
	return c->type == VSK_TYPE_SEQPACKET;
}

static inline uint32_t vsk_taken(const struct vsk_conn *c)
{
	uint32_t beyond = c->far_buf - HF_MIN(c->far_buf, c->buf_alloc);
	if (!vsk_is_relayed(c))
		return (uint32_t)c->fwd_cnt;
	return c->far_fwd + (vsk_has_messages(c) ? HF_MIN(c->far_tx - c->far_fwd, beyond) : 0);
}

static inline uint32_t vsk_grant(const struct vsk_conn *c)
{
	uint64_t held = c->buf_alloc + (uint64_t)(vsk_has_messages(c) ? 0 : c->far_tx - c->far_fwd);
	if (vsk_is_relayed(c))
		return (uint32_t)HF_MIN(held, (uint64_t)c->far_buf);
	return c->first ? VSK_WINDOW_FIRST : c->buf_alloc;
}

/* Bytes that the guest may send, were it told now. */
static inline uint32_t vsk_guest_room(const struct vsk_conn *c)
{
	uint32_t used = (uint32_t)c->rx_cnt - vsk_taken(c), all = vsk_grant(c);
	return used < all ? all - used : 0;
}

/* D4.2: payload bytes that the guest has room for. It may say that its buffer is smaller than what
 * it holds (D4.6). */
static inline uint32_t vsk_host_room(const struct vsk_conn *c)
{
	uint32_t in_flight = (uint32_t)c->tx_cnt - c->peer_fwd_cnt;
	return c->peer_buf_alloc > in_flight ? c->peer_buf_alloc - in_flight : 0;
}

/* The guest's data has ended and all was taken (EV_END was, or is to be, acted on). */
static inline bool vsk_guest_ended(const struct vsk_conn *c)
{
	return (c->guest_shut & VSK_SHUT_SEND) && vsk_unread(c) == 0 && c->msgs == 0;
}

struct vsk_config {
	uint32_t guest_cid; /* 3 .. 0xfffffffe */
	uint32_t buf_alloc; /* granted per connection, 4096 .. VSK_BUF_MAX; 256 KiB is plenty */
	uint64_t
		features; /* driver's features; kept in the record. VSK_F_* decide what is served */
	uint32_t port_floor; /* first host port to hand out; 0: the lowest. See D7.7 */
	uint32_t claim_us;   /* 0: VSK_CLAIM_US */
	uint64_t hash_seed;  /* random: guests choose ports */
	bool siblings; /* EV_DIAL for other guests' CIDs as well; else they are answered RST */
};

enum { VSK_LIFE_STEADY, VSK_LIFE_CONNECT, VSK_LIFE_CLOSE, VSK_LIFE_CLAIM, VSK_LIFE_N_ };

struct vsk_stats {
	uint64_t from_guest, to_guest; /* packets */
	uint64_t rx_bytes, tx_bytes;   /* payload: guest to host, host to guest */
	uint64_t opened, closed, rst_sent;
	uint64_t dropped;  /* malformed or from another CID */
	uint64_t overruns; /* D4.8 */
	uint64_t stalls;   /* host data waited for credit */
	uint64_t no_slot;  /* refused for want of a slot */
};

/* One flow that nobody knows, to be answered RST. */
struct vsk_rst {
	uint32_t peer_cid, host_port, guest_port;
	uint16_t type;
};

/* Read only for the device. */
struct vsk {
	struct vsk_config cfg;
	struct vsk_conn **buckets;
	uint32_t n_buckets;
	uint32_t n_conns; /* hashed: all that live, and closed ones whose RST waits */
	uint32_t n_slots, n_free;
	uint32_t next_port;
	struct hf_list free, ctl, data, life[VSK_LIFE_N_];
	struct vsk_rst rst[VSK_RST_MAX];
	uint32_t n_rst;
	bool event_pending;     /* a TRANSPORT_RESET event is to be placed by the device */
	uint64_t hold_until_us; /* everything but RST is held back; 0: no hold */
	struct vsk_stats stats;
};

/* ---- set-up ---- */

/* buckets: n (a power of two) pointers of the caller, about one per two connections at most.
 * -EINVAL: a CID that is reserved (D1.3), or another value is out of its bounds. */
int vsk_init(struct vsk *v, const struct vsk_config *cfg, struct vsk_conn **buckets, uint32_t n);

/* Adds `count` zeroed slots of `stride` bytes, each beginning with a struct vsk_conn. Slots stay
 * until the engine is forgotten. Call when v->n_free is low and your limit allows. */
void vsk_give_slots(struct vsk *v, void *first, size_t count, size_t stride);

/* Changes to a larger bucket array; returns the old one, to be freed. */
struct vsk_conn **vsk_set_buckets(struct vsk *v, struct vsk_conn **buckets, uint32_t n);

/* -EINVAL: a CID that is reserved; -EBUSY: there are connections, which a new CID would void. */
int vsk_set_cid(struct vsk *v, uint32_t guest_cid);
void vsk_set_features(struct vsk *v, uint64_t features);

/* ---- guest to host ---- */

enum vsk_event {
	VSK_EV_NONE,
	VSK_EV_DIAL,      /* new connection of conn->type: dial conn->host_port of conn->peer_cid,
			   * answer with vsk_dialled() */
	VSK_EV_CONNECTED, /* the guest accepted a vsk_connect() */
	VSK_EV_DATA,      /* deliver ev->len payload bytes of this packet; see ev->flags */
	VSK_EV_END,       /* the guest's data has ended and all was taken: shutdown(fd, SHUT_WR) */
	VSK_EV_DEAF,   /* the guest reads no more: shutdown(fd, SHUT_RD); more may come from it */
	VSK_EV_CLOSED, /* over, see ev->why; the device finishes and calls vsk_release() */
};

/* Why a connection closed. CLEAN and GUEST_RST: the device should still deliver what its ring
 * holds, then close; the others: an error, close at once. */
enum vsk_why {
	VSK_WHY_CLEAN,     /* both sides were done, everything was taken */
	VSK_WHY_GUEST_RST, /* the guest ended it; before EV_CONNECTED: refused */
	VSK_WHY_TIMEOUT,   /* no RESPONSE, or no answer to the dial, or no RST in time */
	VSK_WHY_PROTOCOL,  /* the guest broke the rules; it was sent RST */
	VSK_WHY_OVERRUN,   /* it sent more than its credit (D4.8); it was sent RST */
	VSK_WHY_UNCLAIMED, /* loaded, and nobody claimed it in time; the guest was sent RST */
	VSK_WHY_RESET,     /* vsk_drop() */
	VSK_WHY_N_
};

const char *vsk_why_name(enum vsk_why w);

struct vsk_ev {
	enum vsk_event kind;
	struct vsk_conn *conn; /* after vsk_from_guest() also with NONE, if the packet is of one
				* that lives */
	uint32_t len;          /* DATA */
	uint32_t flags;   /* DATA of SEQPACKET: with VSK_MSG_EOM a message ends with these bytes, of
			   * which there may be none; VSK_MSG_EOR may go with it */
	enum vsk_why why; /* CLOSED */
};

/* One packet of the guest's tx queue. `avail`: how many bytes follow the header in its chain.
 * 0: ev is set. -EBADMSG: malformed or not from this guest; return the chain and go on.
 * -ENOSPC: nothing happened; leave it in the queue until vsk_to_guest() has taken something out. */
int vsk_from_guest(struct vsk *v, uint64_t now_us, const uint8_t hdr[VSK_HDR_BYTES], size_t avail,
	struct vsk_ev *ev);

/* The answer to EV_DIAL. false refuses: the connection is closed then, release it. */
void vsk_dialled(struct vsk *v, struct vsk_conn *c, bool ok);

/* The host took n bytes of payload; of SEQPACKET: the next whole message, which has n bytes.
 * ev: NONE, END or CLOSED. */
void vsk_host_took(
	struct vsk *v, uint64_t now_us, struct vsk_conn *c, uint32_t n, struct vsk_ev *ev);

/* ---- host to guest ---- */

enum vsk_send { VSK_SEND_NOTHING, VSK_SEND_CONTROL, VSK_SEND_DATA };

struct vsk_out {
	struct vsk_conn *conn;      /* DATA */
	uint32_t max;               /* DATA: most payload bytes that may be sent now */
	uint8_t hdr[VSK_HDR_BYTES]; /* CONTROL: the packet, whole */
};

/* Is there anything that vsk_to_guest() would return? */
bool vsk_wants_guest(const struct vsk *v);

/* What is next for the guest; take it only with an rx buffer at hand. CONTROL counts as sent.
 * DATA: read, then call one of the four below. Connections take turns. */
enum vsk_send vsk_to_guest(struct vsk *v, struct vsk_out *out);

/* n bytes were read for the guest: writes their header. What was read for one grant may go out as
 * several packets, with 1 .. vsk_host_room() bytes in all.
 * flags: 0 for streams. SEQPACKET: VSK_MSG_EOM, perhaps with VSK_MSG_EOR, on the last part of each
 * message and on no other (D6.4); with it n may be 0. */
void vsk_data(struct vsk *v, struct vsk_conn *c, uint32_t n, uint32_t flags,
	uint8_t ret_hdr[VSK_HDR_BYTES]);

/* SEQPACKET: the longest message that the guest can take whole (D6.3). */
static inline uint32_t vsk_message_max(const struct vsk_conn *c)
{
	return HF_MIN(c->peer_buf_alloc, VSK_BUF_MAX);
}

/* The host socket may have data, or its end. Legal in any state but CLOSED. */
void vsk_host_readable(struct vsk *v, struct vsk_conn *c);

/* It has none for now. */
void vsk_host_idle(struct vsk *v, struct vsk_conn *c);

/* The host sends (SHUT_SEND) or receives (SHUT_RCV) no more. Report the end of its data only when
 * everything before it went through vsk_data(). Not for DIALLING and ASKING: use vsk_host_reset().
 * The connection lives on until EV_CLOSED, at the latest VSK_CLOSE_US after both are set; the
 * socket may be closed as soon as both are set. With SHUT_RCV the device drops its ring: all
 * payload counts as taken, and no further EV_DATA comes. ev: NONE or CLOSED. */
void vsk_host_shutdown(
	struct vsk *v, uint64_t now_us, struct vsk_conn *c, uint8_t bits, struct vsk_ev *ev);

/* The host end is gone or failed: RST. The connection is closed then, release it. */
void vsk_host_reset(struct vsk *v, struct vsk_conn *c);

/* ---- life ---- */

/* A connection host to guest. -EPROTONOSUPPORT: the driver does not know the type. -ENOBUFS: no
 * free slot. -EADDRNOTAVAIL: no free host port. */
int vsk_connect(struct vsk *v, uint64_t now_us, enum vsk_type type, uint32_t guest_port,
	struct vsk_conn **ret_conn);

/* The same from a sibling's port. -EADDRINUSE: there is such a connection. */
int vsk_connect_from(struct vsk *v, uint64_t now_us, enum vsk_type type, uint32_t peer_cid,
	uint32_t peer_port, uint32_t guest_port, struct vsk_conn **ret_conn);

/* Between siblings credit is from end to end: the guest is told of the room of the guest at `far`,
 * the other connection of the pair, so it never sees room that is not there, and a message that it
 * may send fits (D4.2, D6.3). Called before vsk_dialled() or the REQUEST, and when the far guest
 * has said something or was given something; `tell`: it did so in a packet of its own, and so
 * do we.
 *
 * vsk_host_took() goes on counting what lies in the far guest's memory: ends follow it. */
void vsk_relay(struct vsk *v, struct vsk_conn *c, const struct vsk_conn *far, bool tell);

/* Credit is the device's own again: the sibling is reached in another way from now on. Of the next
 * message it was given `given` bytes, which count as taken: the rest is a message now. Where its
 * buffer is smaller than the device's, that stays the limit of messages. */
void vsk_unrelay(struct vsk *v, struct vsk_conn *c, uint32_t given);

/* Asks the guest for its credit, because a sibling asks. */
void vsk_ask(struct vsk *v, struct vsk_conn *c);

/* The device has done with a closed connection; its slot may be used again (gen changes). */
void vsk_release(struct vsk *v, struct vsk_conn *c);

/* Sends RST for a connection that somebody before us had, unless there is such a one. -ENOBUFS: no
 * free slot. */
int vsk_reset_flow(
	struct vsk *v, uint16_t type, uint32_t peer_cid, uint32_t host_port, uint32_t guest_port);

struct vsk_conn *vsk_find(
	struct vsk *v, uint32_t peer_cid, uint32_t host_port, uint32_t guest_port);

/* Walks over all connections that are not closed: NULL begins, NULL ends. Not while they change. */
struct vsk_conn *vsk_next(struct vsk *v, struct vsk_conn *c);

uint64_t vsk_deadline(const struct vsk *v);

/* Does what is due; true: ev holds an EV_CLOSED, call again. */
bool vsk_expire(struct vsk *v, uint64_t now_us, struct vsk_ev *ev);

/* The rings run (again) after set-up, load or a stop. */
void vsk_resume(struct vsk *v, uint64_t now_us);

/*
 * The two ways to lose all connections:
 *
 *   the driver reset the device,  while (vsk_drop(v, false, &ev)) handle(ev);
 *   or the device ends            vsk_clear(v);
 *
 *   the transport was             while (vsk_drop(v, true, &ev)) handle(ev);
 *   interrupted (D7)              vsk_set_cid(v, cid);     when it changes
 *                                 vsk_transport_reset(v, now_us, own_event);
 *
 * vsk_drop: ends one connection (EV_CLOSED, VSK_WHY_RESET), false when none is left. The guest
 * hears nothing of it, but with `tell` REQUESTs that are not answered get RST (D7.6).
 * vsk_clear: forgets what waits for the guest as well: RSTs, hold and event.
 * vsk_transport_reset: own_event says that the device owns the event queue. v->event_pending is
 * set, and everything but RST is held back until the driver has used the event, at most
 * VSK_HOLD_US. Otherwise the front-end sends the event, and nothing is held.
 */
bool vsk_drop(struct vsk *v, bool tell, struct vsk_ev *ev);
void vsk_clear(struct vsk *v);
void vsk_transport_reset(struct vsk *v, uint64_t now_us, bool own_event);
void vsk_event_placed(struct vsk *v);
void vsk_event_used(struct vsk *v); /* the driver gave the event queue a buffer since */

/* ---- save and load: docs/vsock-engine.md has the record ---- */

#define VSK_RECORD_VERSION 2u
#define VSK_RECORD_OLDEST  1u
#define VSK_SAVE_HEAD_MAX  128u        /* bytes of the record's head */
#define VSK_SAVE_CONN_MAX  128u        /* and per connection, without bytes in flight */
#define VSK_SAVE_RST_MAX   32u         /* and per waiting RST */
#define VSK_FLIGHT_MAX     VSK_BUF_MAX /* bytes in flight per direction and connection */
#define VSK_END_BYTES      4u          /* an end of a message, little-endian: */
#define VSK_END_EOR        0x80000000u /* its flag; the rest is the length of the message */
#define VSK_APP_MAX        (64u << 10) /* an application's own state, per connection */
#define VSK_RELAY_MAX      (33u << 20) /* what says where its host end is reached */

/* Bytes in flight, in up to two parts (a ring's). SEQPACKET: and where messages end, the same way.
 * What lies behind the last end is a message that has not ended yet; only the guest has such. */
struct vsk_bytes {
	const void *p[2];
	size_t n[2];
	const void *ends_p[2];
	size_t ends_n[2]; /* bytes, whole ends in all */
};

/* Saving copies: the engine is as before. Into `buf`, which the caller made large enough:
 *     vsk_save_size(v) + the bytes in flight, of ends, and of applications, of every connection
 *     that is kept.
 * Begin, then one call per connection of vsk_next(), then end. For a record of a single connection,
 * to be read by vsk_load_add(): vsk_save_begin_one(), which leaves out the RSTs that wait. */
struct vsk_save {
	const struct vsk *v;
	uint8_t *buf;
	size_t cap, len;
	uint32_t n;
	bool messages; /* there are some: a reader of version 1 would not understand */
	bool takeover;
	int error;
};

size_t vsk_save_size(const struct vsk *v);
void vsk_save_begin(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap);
void vsk_save_begin_one(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap);

/* For another process of this host, which gets the host ends as well: whose connections have an
 * owner is in the record, and siblings are. Of a sibling's ring some bytes of the first message may
 * be missing: the other guest has them. Read by vsk_load_takeover() and nothing else. */
void vsk_save_begin_takeover(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap);

/* to_host: the device's ring, exactly vsk_unread(c) bytes and c->msgs ends. to_guest: what was
 * read, or may be peeked, from the host socket and was not sent; the rest of a message that was
 * sent in part counts as one. keep = false: the guest is sent RST on arrival. */
void vsk_save_conn(struct vsk_save *s, const struct vsk_conn *c, bool keep,
	const struct vsk_bytes *to_host, const struct vsk_bytes *to_guest);

/* Right after a connection that is kept: where its host end is reached from elsewhere, at most
 * VSK_RELAY_MAX bytes that mean nothing to us. */
void vsk_save_relay(struct vsk_save *s, const void *data, size_t n);

/* Likewise, behind that: what its application leaves for its next instance, at most
 * VSK_APP_MAX bytes that mean nothing to us. */
void vsk_save_app(struct vsk_save *s, const void *data, size_t n);

/* 0 and the length; -ENOSPC: buf was too small; -EMSGSIZE: more than VSK_FLIGHT_MAX bytes or
 * VSK_MSGS_MAX messages in flight. */
int vsk_save_end(struct vsk_save *s, size_t *ret_len);

struct vsk_record_info {
	uint32_t version, guest_cid;
	uint64_t features;
	uint32_t n_conns; /* slots that loading needs */
	bool takeover;
};

/* Looks at a record without loading it. The errors are those of vsk_load_begin(). */
int vsk_record_info(const void *buf, size_t len, struct vsk_record_info *ret_info);

/*
 * Loads a record into an engine that has no connections, wholly or not at all. Then call
 * vsk_load_next() until NULL: each loaded connection with its bytes in flight, which lie in buf.
 *
 *   OPEN      Fill the ring with to_host. Bytes to_guest go out before anything that is read from
 *             the host socket; vsk_host_readable() when there are any. The connection waits for
 *             vsk_claim(); what is not claimed within claim_us after vsk_resume() is reset. When
 *             host_shut is VSK_SHUT_BOTH, it only waits for the guest's RST: nothing to claim.
 *   ASKING    The same; EV_CONNECTED or EV_CLOSED is still to come.
 *   DIALLING  Dial, and vsk_dialled(), as after EV_DIAL.
 *
 * Then vsk_resume() when the rings run. To give the load up: vsk_drop() all, vsk_clear().
 *
 * -ENODATA: empty, a disruptive arrival. -EBADMSG: not a record, cut, or damaged.
 * -EPROTONOSUPPORT: written by a version too new, or with a part that must be understood.
 * -EINVAL: its content contradicts itself. -EADDRNOTAVAIL: of a guest with another CID.
 * -ENOBUFS: not enough free slots, see n_conns. -EBUSY: there are connections.
 */
/* buf must not change meanwhile: private memory or a sealed file. */
struct vsk_load {
	struct vsk *v;
	const uint8_t *buf;
	size_t len, at;
};

int vsk_load_begin(struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len);
struct vsk_conn *vsk_load_next(
	struct vsk_load *l, struct vsk_bytes *ret_to_host, struct vsk_bytes *ret_to_guest);

/* The same for a record of vsk_save_begin_takeover(): nothing is to be claimed that was not before.
 */
int vsk_load_takeover(
	struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len);

/* A connection that was closed, of which the device still holds bytes for the host: to be released
 * when they are out. NULL: no free slot. */
struct vsk_conn *vsk_load_lingering(struct vsk *v, enum vsk_type type, uint32_t peer_cid,
	uint32_t host_port, uint32_t guest_port);

/* What belongs to the connection returned last: where its host end is, what its application has
 * left; NULL and 0: nothing. One with another guest and no such word cannot live on. */
const void *vsk_load_relay(const struct vsk_load *l, size_t *ret_n);
const void *vsk_load_app(const struct vsk_load *l, size_t *ret_n);

/* Adds the one connection of a record to what the engine has. -EEXIST: it has one between these
 * ports; -EINVAL also when there is not exactly one. Then vsk_load_next() as above. */
int vsk_load_add(struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len);

/* A host application has taken the connection over: it stays. -EALREADY: it has an owner. The new
 * socket is to be shut for writing if vsk_guest_ended(c), and not to be read if host_shut has
 * VSK_SHUT_SEND: the host had ended before. */
int vsk_claim(struct vsk *v, uint64_t now_us, struct vsk_conn *c);

#endif
