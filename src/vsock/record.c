/* SPDX-License-Identifier: MIT */
/*
 * record.c - the state of all connections as bytes, and back. docs/vsock-engine.md has the layout.
 *
 * A record is a head and a number of parts. A part tells its kind and length, so that a reader can
 * step over what it does not know, unless the part is marked "must be understood". Fixed fields
 * tell their length as well: a later version may add some at the end and stay readable.
 *
 * Saving reads the engine and changes nothing. Loading checks the whole record, then enters
 * connections one by one; the first that contradicts itself or another undoes all of them. Nothing
 * is sized by a field of the record: slots are the caller's, and bytes in flight stay in its
 * buffer.
 */
#include "vsock/vsock_internal.h"
#include <errno.h>

static const uint8_t magic[8] = { 'H', 'F', 'V', 'S', 'O', 'C', 'K', 0 };

enum { /* offsets in the head */
	HEAD_VERSION = 8,
	HEAD_OLDEST = 10,
	HEAD_LEN = 12,
	HEAD_TOTAL = 16,
	HEAD_CRC = 24,
	HEAD_PARTS = 28,
	HEAD_CID = 32,
	HEAD_FEATURES = 40,
	HEAD_PORT = 48,
	HEAD_FLAGS = 52,
	HEAD_BYTES = 56,
};
enum {
	HEAD_FLAG_EVENT = 1, /* a TRANSPORT_RESET event was still to be placed */
	HEAD_FLAG_TAKEOVER =
		2,          /* made for another process of this host: with siblings and owners */
	HEAD_FLAG_HOLD = 4, /* takeover: the event is placed, and not used yet */
	HEAD_FLAGS_ALL = 7,
};

enum { PART_KIND = 0, PART_FLAGS = 2, PART_LEN = 4, PART_BYTES = 8 };
enum { PART_FLAG_MUST = 1 };
enum { KIND_CONN = 1, KIND_RST = 2, KIND_APP = 3, KIND_RELAY = 4 };

enum {                  /* offsets in the fixed fields of a connection */
	CONN_FIXED = 0, /* their length; bytes in flight follow: to the host, to the guest; then
			 * the ends of messages, likewise */
	CONN_TO_HOST = 4,
	CONN_TO_GUEST = 8,
	CONN_HOST_PORT = 12,
	CONN_GUEST_PORT = 16,
	CONN_PEER_CID = 20,
	CONN_TX = 24,
	CONN_RX = 32,
	CONN_FWD = 40,
	CONN_ANNOUNCED = 48,
	CONN_BUF_ALLOC = 52,
	CONN_PEER_BUF_ALLOC = 56,
	CONN_PEER_FWD = 60,
	CONN_TYPE = 64,
	CONN_STATE = 66,
	CONN_CTL = 67,
	CONN_GUEST_SHUT = 68,
	CONN_HOST_SHUT = 69,
	CONN_FLAGS = 70,
	CONN_V1_BYTES = 72, /* version 1 ends here: no messages */
	CONN_ENDS_TO_HOST = 72,
	CONN_ENDS_TO_GUEST = 76,
	CONN_BYTES = 80,
	CONN_FAR_BUF = 80, /* takeover: what a sibling has told, and we have told of it */
	CONN_FAR_TX = 84,
	CONN_FAR_FWD = 88,
	CONN_ANNOUNCED_BUF = 92,
	CONN_TAKEOVER_BYTES = 96,
};
enum {
	CONN_FLAG_REQUEST_SENT = 1,
	CONN_FLAG_ASKED = 2,
	CONN_FLAG_TX_MID = 4,
	CONN_FLAG_CLAIMED = 8,  /* takeover: it has a host end */
	CONN_FLAG_RELAYED = 16, /* takeover: the guest's credit is a sibling's */
	CONN_FLAGS_TAKEOVER = CONN_FLAG_CLAIMED | CONN_FLAG_RELAYED,
	CONN_FLAGS_ALL = 31,
};
enum { CONN_STATE_DIALLING = 1, CONN_STATE_ASKING = 2, CONN_STATE_OPEN = 3 };

enum { /* offsets in an RST that waits */
	RST_HOST_PORT = 0,
	RST_GUEST_PORT = 4,
	RST_PEER_CID = 8,
	RST_TYPE = 12,
	RST_BUF_ALLOC = 16,
	RST_FWD = 20,
	RST_BYTES = 24,
};

_Static_assert(HEAD_BYTES <= VSK_SAVE_HEAD_MAX, "vsk_save_size() tells the truth");
_Static_assert(2 * PART_BYTES + CONN_TAKEOVER_BYTES <= VSK_SAVE_CONN_MAX,
	"vsk_save_size() tells the truth");
_Static_assert(PART_BYTES + RST_BYTES <= VSK_SAVE_RST_MAX, "vsk_save_size() tells the truth");
/* States and control bits are written as they are in memory: they must never be renumbered. */
_Static_assert((int)VSK_DIALLING == CONN_STATE_DIALLING && (int)VSK_ASKING == CONN_STATE_ASKING &&
		       (int)VSK_OPEN == CONN_STATE_OPEN,
	"states of version 1");
_Static_assert(VSK_CTL_REQUEST == 2 && VSK_CTL_CREDIT_REQUEST == 32, "bits of version 1");

/* ---- save ---- */

size_t vsk_save_size(const struct vsk *v)
{
	return VSK_SAVE_HEAD_MAX + (size_t)v->n_conns * VSK_SAVE_CONN_MAX +
	       (size_t)v->n_rst * VSK_SAVE_RST_MAX;
}

static void put(struct vsk_save *s, const void *data, size_t n)
{
	if (s->error == 0 && n > s->cap - s->len)
		s->error = -ENOSPC;
	if (s->error || n == 0)
		return;
	memcpy(s->buf + s->len, data, n);
	s->len += n;
}

static void put_part(struct vsk_save *s, uint16_t kind, size_t len)
{
	uint8_t h[PART_BYTES] = { 0 };
	le16_to(h + PART_KIND, kind);
	le16_to(h + PART_FLAGS, PART_FLAG_MUST);
	le32_to(h + PART_LEN, (uint32_t)len);
	put(s, h, sizeof(h));
	s->n++;
}

static void put_rst(struct vsk_save *s, const struct vsk_rst *r, uint32_t buf_alloc, uint64_t fwd)
{
	uint8_t b[RST_BYTES] = { 0 };
	le32_to(b + RST_HOST_PORT, r->host_port);
	le32_to(b + RST_GUEST_PORT, r->guest_port);
	le32_to(b + RST_PEER_CID, r->peer_cid);
	le16_to(b + RST_TYPE, r->type);
	le32_to(b + RST_BUF_ALLOC, buf_alloc);
	le32_to(b + RST_FWD, (uint32_t)fwd);
	put_part(s, KIND_RST, sizeof(b));
	put(s, b, sizeof(b));
}

static void put_rst_of(struct vsk_save *s, const struct vsk_conn *c)
{
	const struct vsk_rst r = {
		.peer_cid = c->peer_cid,
		.host_port = c->host_port,
		.guest_port = c->guest_port,
		.type = c->type,
	};
	put_rst(s, &r, c->buf_alloc, c->fwd_cnt);
}

void vsk_save_begin_one(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap)
{
	static const uint8_t nothing[HEAD_BYTES];
	*s = (struct vsk_save){ .v = v, .buf = buf, .cap = cap };
	put(s, nothing, sizeof(nothing)); /* filled in at the end */
}

void vsk_save_begin(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap)
{
	vsk_save_begin_one(s, v, buf, cap);
	for (uint32_t i = 0; i < v->n_rst; i++)
		put_rst(s, &v->rst[i], v->cfg.buf_alloc, 0);
	hf_list_for_each (n, &v->ctl) { /* closed ones stand in front */
		const struct vsk_conn *c = HF_CONTAINER_OF(n, struct vsk_conn, ctl_node);
		if (!(c->ctl & VSK_CTL_RST))
			break;
		put_rst_of(s, c);
	}
}

void vsk_save_begin_takeover(struct vsk_save *s, const struct vsk *v, void *buf, size_t cap)
{
	vsk_save_begin(s, v, buf, cap);
	s->takeover = true;
}

static void put_bytes(struct vsk_save *s, const struct vsk_bytes *b)
{
	put(s, b->p[0], b->n[0]);
	put(s, b->p[1], b->n[1]);
}

static void put_ends(struct vsk_save *s, const struct vsk_bytes *b)
{
	put(s, b->ends_p[0], b->ends_n[0]);
	put(s, b->ends_p[1], b->ends_n[1]);
}

void vsk_save_conn(struct vsk_save *s, const struct vsk_conn *c, bool keep,
	const struct vsk_bytes *to_host, const struct vsk_bytes *to_guest)
{
	if (!keep) {
		if (c->state != VSK_ASKING || c->request_sent)
			put_rst_of(s, c);
		return;
	}
	size_t n_host = to_host->n[0] + to_host->n[1], n_guest = to_guest->n[0] + to_guest->n[1];
	size_t ends_host = (to_host->ends_n[0] + to_host->ends_n[1]) / VSK_END_BYTES;
	size_t ends_guest = (to_guest->ends_n[0] + to_guest->ends_n[1]) / VSK_END_BYTES;
	bool sibling = c->peer_cid != VSK_CID_HOST;
	hf_assert(n_host == vsk_unread(c) || (sibling && n_host < vsk_unread(c)));
	hf_assert(ends_host == c->msgs);
	if (n_host > VSK_FLIGHT_MAX || n_guest > VSK_FLIGHT_MAX || ends_guest > VSK_MSGS_MAX) {
		s->error = -EMSGSIZE;
		return;
	}
	uint8_t b[CONN_TAKEOVER_BYTES] = { 0 };
	size_t fixed = s->takeover ? CONN_TAKEOVER_BYTES : CONN_BYTES;
	le32_to(b + CONN_FIXED, (uint32_t)fixed);
	le32_to(b + CONN_TO_HOST, (uint32_t)n_host);
	le32_to(b + CONN_TO_GUEST, (uint32_t)n_guest);
	le32_to(b + CONN_HOST_PORT, c->host_port);
	le32_to(b + CONN_GUEST_PORT, c->guest_port);
	le32_to(b + CONN_PEER_CID, c->peer_cid);
	le64_to(b + CONN_TX, c->tx_cnt);
	le64_to(b + CONN_RX, c->rx_cnt);
	/* What a sibling was given of a message counts as taken: the rest goes on as one. */
	le64_to(b + CONN_FWD, s->takeover ? c->fwd_cnt : c->rx_cnt - n_host);
	le32_to(b + CONN_ANNOUNCED, c->announced);
	le32_to(b + CONN_BUF_ALLOC,
		s->takeover ? c->buf_alloc : vsk_buf_alone(c, (uint32_t)n_host));
	le32_to(b + CONN_PEER_BUF_ALLOC, c->peer_buf_alloc);
	le32_to(b + CONN_PEER_FWD, c->peer_fwd_cnt);
	le16_to(b + CONN_TYPE, c->type);
	b[CONN_STATE] = c->state;
	b[CONN_CTL] = c->ctl;
	b[CONN_GUEST_SHUT] = c->guest_shut;
	b[CONN_HOST_SHUT] = c->host_shut;
	le16_to(b + CONN_FLAGS,
		(uint16_t)((c->request_sent ? CONN_FLAG_REQUEST_SENT : 0) |
			   (c->asked ? CONN_FLAG_ASKED : 0) | (c->tx_mid ? CONN_FLAG_TX_MID : 0) |
			   (s->takeover && !c->unclaimed ? CONN_FLAG_CLAIMED : 0) |
			   (s->takeover && c->relayed ? CONN_FLAG_RELAYED : 0)));
	le32_to(b + CONN_ENDS_TO_HOST, (uint32_t)ends_host);
	le32_to(b + CONN_ENDS_TO_GUEST, (uint32_t)ends_guest);
	le32_to(b + CONN_FAR_BUF, c->far_buf);
	le32_to(b + CONN_FAR_TX, c->far_tx);
	le32_to(b + CONN_FAR_FWD, c->far_fwd);
	le32_to(b + CONN_ANNOUNCED_BUF, c->announced_buf);
	put_part(s, KIND_CONN, fixed + n_host + n_guest + (ends_host + ends_guest) * VSK_END_BYTES);
	put(s, b, fixed);
	put_bytes(s, to_host);
	put_bytes(s, to_guest);
	put_ends(s, to_host);
	put_ends(s, to_guest);
	s->messages |= c->type == VSK_TYPE_SEQPACKET;
}

void vsk_save_app(struct vsk_save *s, const void *data, size_t n)
{
	if (n > VSK_APP_MAX)
		s->error = -EMSGSIZE;
	if (s->error || n == 0)
		return;
	put_part(s, KIND_APP, n);
	put(s, data, n);
}

static uint32_t head_flags(const struct vsk_save *s)
{
	uint32_t flags = s->v->event_pending ? HEAD_FLAG_EVENT : 0;
	if (!s->takeover)
		return flags;
	if (s->v->hold_until_us && !s->v->event_pending)
		flags |= HEAD_FLAG_HOLD;
	return flags | HEAD_FLAG_TAKEOVER;
}

void vsk_save_relay(struct vsk_save *s, const void *data, size_t n)
{
	if (n > VSK_RELAY_MAX)
		s->error = -EMSGSIZE;
	if (s->error || n == 0)
		return;
	put_part(s, KIND_RELAY, n);
	put(s, data, n);
}

int vsk_save_end(struct vsk_save *s, size_t *ret_len)
{
	if (s->error)
		return s->error;
	uint8_t *h = s->buf;
	memcpy(h, magic, sizeof(magic));
	le16_to(h + HEAD_VERSION, VSK_RECORD_VERSION);
	le16_to(h + HEAD_OLDEST, s->messages ? VSK_RECORD_VERSION : VSK_RECORD_OLDEST);
	le32_to(h + HEAD_LEN, HEAD_BYTES);
	le64_to(h + HEAD_TOTAL, s->len);
	le32_to(h + HEAD_CRC, 0);
	le32_to(h + HEAD_PARTS, s->n);
	le64_to(h + HEAD_CID, s->v->cfg.guest_cid);
	le64_to(h + HEAD_FEATURES, s->v->cfg.features);
	le32_to(h + HEAD_PORT, s->v->next_port);
	le32_to(h + HEAD_FLAGS, head_flags(s));
	le32_to(h + HEAD_CRC, vsk_crc32c(0, h, s->len));
	*ret_len = s->len;
	return 0;
}

/* ---- load ---- */

struct part {
	uint16_t kind, flags;
	uint32_t len;
	const uint8_t *body;
};

static int check_head(const uint8_t *h, size_t len)
{
	static const uint8_t zero[4];
	if (len == 0)
		return -ENODATA; /* E4.9 */
	if (len < HEAD_BYTES || memcmp(h, magic, sizeof(magic)) != 0 ||
		le64_at(h + HEAD_TOTAL) != len)
		return -EBADMSG;
	uint32_t crc = vsk_crc32c(0, h, HEAD_CRC);
	crc = vsk_crc32c(crc, zero, sizeof(zero));
	crc = vsk_crc32c(crc, h + HEAD_CRC + 4, len - HEAD_CRC - 4);
	if (crc != le32_at(h + HEAD_CRC))
		return -EBADMSG;

	uint32_t version = le16_at(h + HEAD_VERSION), oldest = le16_at(h + HEAD_OLDEST);
	if (oldest > VSK_RECORD_VERSION || version < VSK_RECORD_OLDEST)
		return -EPROTONOSUPPORT;
	if (oldest > version)
		return -EINVAL;
	uint32_t flags = le32_at(h + HEAD_FLAGS);
	if (flags & ~(uint32_t)HEAD_FLAGS_ALL)
		return -EPROTONOSUPPORT;
	if ((flags & HEAD_FLAG_HOLD) &&
		(flags & (HEAD_FLAG_TAKEOVER | HEAD_FLAG_EVENT)) != HEAD_FLAG_TAKEOVER)
		return -EINVAL;
	uint32_t head_len = le32_at(h + HEAD_LEN), port = le32_at(h + HEAD_PORT);
	if (head_len < HEAD_BYTES || head_len > len || port < VSK_HOST_PORT_MIN ||
		port > VSK_HOST_PORT_MAX || le64_at(h + HEAD_CID) > UINT32_MAX)
		return -EINVAL;
	return 0;
}

/* The part at *at; steps over it. 1: there is one; 0: end of the record; -EINVAL: it does not fit.
 */
static int next_part(const uint8_t *buf, size_t len, size_t *at, struct part *ret_part)
{
	size_t left = len - *at;
	if (left == 0)
		return 0;
	if (left < PART_BYTES)
		return -EINVAL;
	const uint8_t *h = buf + *at;
	*ret_part = (struct part){
		.kind = le16_at(h + PART_KIND),
		.flags = le16_at(h + PART_FLAGS),
		.len = le32_at(h + PART_LEN),
		.body = h + PART_BYTES,
	};
	if (ret_part->len > left - PART_BYTES)
		return -EINVAL;
	*at += PART_BYTES + ret_part->len;
	return 1;
}

/* What follows the fixed fields of a connection. */
struct flight {
	uint32_t n_host, n_guest;       /* bytes */
	uint32_t ends_host, ends_guest; /* ends of messages */
	const uint8_t *host, *guest, *host_ends, *guest_ends;
};

/* Finds it; false: it does not fit the part. */
static bool flight_of(const struct part *p, struct flight *ret)
{
	const uint8_t *b = p->body;
	if (p->len < CONN_V1_BYTES)
		return false;
	uint32_t fixed = le32_at(b + CONN_FIXED);
	bool messages = fixed >= CONN_BYTES;
	if (fixed < CONN_V1_BYTES || fixed > p->len)
		return false;
	struct flight f = {
		.n_host = le32_at(b + CONN_TO_HOST),
		.n_guest = le32_at(b + CONN_TO_GUEST),
		.ends_host = messages ? le32_at(b + CONN_ENDS_TO_HOST) : 0,
		.ends_guest = messages ? le32_at(b + CONN_ENDS_TO_GUEST) : 0,
	};
	if (f.n_host > VSK_FLIGHT_MAX || f.n_guest > VSK_FLIGHT_MAX || f.ends_host > VSK_MSGS_MAX ||
		f.ends_guest > VSK_MSGS_MAX)
		return false;
	size_t n_ends = (size_t)(f.ends_host + f.ends_guest) * VSK_END_BYTES;
	if ((size_t)fixed + f.n_host + f.n_guest + n_ends != p->len)
		return false;
	f.host = b + fixed;
	f.guest = f.host + f.n_host;
	f.host_ends = f.guest + f.n_guest;
	f.guest_ends = f.host_ends + (size_t)f.ends_host * VSK_END_BYTES;
	*ret = f;
	return true;
}

/* How many bytes n messages have together: below 2^47. */
static uint64_t sum_of_ends(const uint8_t *ends, uint32_t n)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += le32_at(ends + (size_t)i * VSK_END_BYTES) & ~VSK_END_EOR;
	return sum;
}

/* The host's messages are whole, but the guest may have a part of the first; the rest is here, or
 * with a sibling or a relay. The guest's last one may have begun. */
static int check_messages(const struct part *p, const struct flight *f)
{
	const uint8_t *b = p->body;
	bool mid = le16_at(b + CONN_FLAGS) & CONN_FLAG_TX_MID;
	if (le16_at(b + CONN_TYPE) != VSK_TYPE_SEQPACKET)
		return f->ends_host || f->ends_guest || mid ? -EINVAL : 0;
	uint64_t host_bytes = sum_of_ends(f->host_ends, f->ends_host);
	if (host_bytes > f->n_host || sum_of_ends(f->guest_ends, f->ends_guest) != f->n_guest)
		return -EINVAL;
	if (host_bytes < f->n_host && (b[CONN_GUEST_SHUT] & VSK_SHUT_SEND))
		return -EINVAL; /* would be closed */
	if ((f->ends_host || mid) && b[CONN_STATE] != CONN_STATE_OPEN)
		return -EINVAL;
	return 0;
}

/* Of what the host has not taken it holds n bytes; a sibling may have some of a message already. */
static bool unread_is(uint64_t unread, const struct flight *f, bool sibling)
{
	return unread == f->n_host ||
	       (sibling && f->ends_host && unread > f->n_host && unread <= UINT32_MAX);
}

/* What only another process of this host is told. The device's room for a sibling's guest is
 * counted by what the other one was given, for anybody else's by what was taken. */
static bool takeover_holds(const struct part *p, const struct flight *f, bool sibling)
{
	const uint8_t *b = p->body;
	uint64_t rx = le64_at(b + CONN_RX), unread = rx - le64_at(b + CONN_FWD);
	bool relayed = le16_at(b + CONN_FLAGS) & CONN_FLAG_RELAYED;
	if (relayed && (!sibling || le32_at(b + CONN_FIXED) < CONN_TAKEOVER_BYTES))
		return false;
	if (relayed && !(b[CONN_HOST_SHUT] & VSK_SHUT_RCV))
		return (uint32_t)rx - le32_at(b + CONN_FAR_TX) == f->n_host;
	return unread <= le32_at(b + CONN_BUF_ALLOC);
}

/* A flat list of what a record may not say of a connection. */
static int check_conn(const struct part *p, bool takeover)
{
	const uint8_t *b = p->body;
	struct flight f;
	if (!flight_of(p, &f))
		return -EINVAL;
	uint16_t type = le16_at(b + CONN_TYPE);
	if ((type != VSK_TYPE_STREAM && type != VSK_TYPE_SEQPACKET) ||
		(le16_at(b + CONN_FLAGS) & ~CONN_FLAGS_ALL) || b[CONN_STATE] > CONN_STATE_OPEN)
		return -EPROTONOSUPPORT;
	bool sibling = le32_at(b + CONN_PEER_CID) != VSK_CID_HOST;
	int r = check_messages(p, &f);
	if (r < 0)
		return r;
	if (sibling && (!vsk_cid_usable(le32_at(b + CONN_PEER_CID)) || f.n_guest || f.ends_guest))
		return -EINVAL;
	uint64_t rx = le64_at(b + CONN_RX), fwd = le64_at(b + CONN_FWD);
	bool host_holds = f.n_host || f.ends_host, guest_holds = f.n_guest || f.ends_guest;
	uint32_t buf_alloc = le32_at(b + CONN_BUF_ALLOC);
	uint8_t guest_shut = b[CONN_GUEST_SHUT], host_shut = b[CONN_HOST_SHUT], ctl = b[CONN_CTL];
	bool sent = le16_at(b + CONN_FLAGS) & CONN_FLAG_REQUEST_SENT;
	if (rx < fwd || !unread_is(rx - fwd, &f, sibling && takeover) || buf_alloc > VSK_BUF_MAX ||
		f.n_host > buf_alloc)
		return -EINVAL;
	if (takeover ? !takeover_holds(p, &f, sibling)
		     : rx - fwd > buf_alloc || (le16_at(b + CONN_FLAGS) & CONN_FLAGS_TAKEOVER))
		return -EINVAL;
	if (guest_shut > VSK_SHUT_BOTH || host_shut > VSK_SHUT_BOTH ||
		(guest_shut == VSK_SHUT_BOTH && !host_holds) || /* would be closed */
		((host_shut & VSK_SHUT_RCV) && host_holds) ||
		((host_shut & VSK_SHUT_SEND) && guest_holds))
		return -EINVAL;

	switch (b[CONN_STATE]) {
	case CONN_STATE_DIALLING:
		return ctl || rx || guest_shut || host_shut ? -EINVAL : 0;
	case CONN_STATE_ASKING:
		return ctl != (sent ? 0 : VSK_CTL_REQUEST) || rx || guest_shut || host_shut
			       ? -EINVAL
			       : 0;
	case CONN_STATE_OPEN:
		if (ctl & ~(VSK_CTL_RESPONSE | VSK_CTL_SHUTDOWN | VSK_CTL_CREDIT_UPDATE |
				  VSK_CTL_CREDIT_REQUEST))
			return -EINVAL;
		return (ctl & VSK_CTL_SHUTDOWN) && !host_shut ? -EINVAL : 0;
	}
	return -EINVAL;
}

static int check_part(const struct part *p, bool takeover)
{
	switch (p->kind) {
	case KIND_CONN:
		return check_conn(p, takeover);
	case KIND_RST:
		return p->len < RST_BYTES ? -EINVAL : 0;
	case KIND_APP:
		return p->len == 0 || p->len > VSK_APP_MAX ? -EINVAL : 0;
	case KIND_RELAY:
		return p->len == 0 || p->len > VSK_RELAY_MAX ? -EINVAL : 0;
	}
	return p->flags & PART_FLAG_MUST ? -EPROTONOSUPPORT : 0;
}

int vsk_record_info(const void *buf, size_t len, struct vsk_record_info *ret_info)
{
	const uint8_t *h = buf;
	int r = check_head(h, len);
	if (r < 0)
		return r;
	struct vsk_record_info info = {
		.version = le16_at(h + HEAD_VERSION),
		.guest_cid = (uint32_t)le64_at(h + HEAD_CID),
		.features = le64_at(h + HEAD_FEATURES),
		.takeover = le32_at(h + HEAD_FLAGS) & HEAD_FLAG_TAKEOVER,
	};
	size_t at = le32_at(h + HEAD_LEN);
	uint32_t n = 0;
	uint16_t before = 0;
	struct part p;
	while ((r = next_part(h, len, &at, &p)) > 0) {
		n++;
		if ((p.kind == KIND_RELAY && before != KIND_CONN) ||
			(p.kind == KIND_APP && before != KIND_CONN && before != KIND_RELAY))
			return -EINVAL; /* it belongs to the connection before it */
		before = p.kind;
		if (p.kind == KIND_CONN || p.kind == KIND_RST)
			info.n_conns++;
		r = check_part(&p, info.takeover);
		if (r < 0)
			return r;
	}
	if (r < 0 || n != le32_at(h + HEAD_PARTS))
		return -EINVAL;
	*ret_info = info;
	return 0;
}

/* After the connections: an RST of another type may stand beside one and is then left out. */
static int load_rst(struct vsk *v, const uint8_t *b)
{
	uint32_t peer_cid = le32_at(b + RST_PEER_CID);
	uint32_t host_port = le32_at(b + RST_HOST_PORT), guest_port = le32_at(b + RST_GUEST_PORT);
	if (vsk_find(v, peer_cid, host_port, guest_port))
		return 0;
	int r = vsk_reset_flow(v, le16_at(b + RST_TYPE), peer_cid, host_port, guest_port);
	if (r < 0)
		return r;
	struct vsk_conn *c = vsk_find(v, peer_cid, host_port, guest_port);
	c->buf_alloc = le32_at(b + RST_BUF_ALLOC);
	c->fwd_cnt = le32_at(b + RST_FWD);
	return 0;
}

static uint8_t loaded_life(const struct vsk_conn *c)
{
	if (c->state != VSK_OPEN)
		return VSK_LIFE_CONNECT;
	return c->host_shut == VSK_SHUT_BOTH ? VSK_LIFE_CLOSE
	       : c->unclaimed                ? VSK_LIFE_CLAIM
					     : VSK_LIFE_STEADY;
}

static int load_conn(struct vsk *v, uint64_t now_us, const struct part *p)
{
	const uint8_t *b = p->body;
	struct flight f;
	(void)flight_of(p, &f); /* it was checked */
	uint32_t peer_cid = le32_at(b + CONN_PEER_CID);
	uint32_t host_port = le32_at(b + CONN_HOST_PORT), guest_port = le32_at(b + CONN_GUEST_PORT);
	if (vsk_find(v, peer_cid, host_port, guest_port))
		return -EINVAL;
	struct vsk_conn *c = vsk_conn_new(
		v, le16_at(b + CONN_TYPE), peer_cid, host_port, guest_port, b[CONN_STATE]);
	if (!c)
		return -ENOBUFS;
	c->tx_cnt = le64_at(b + CONN_TX);
	c->rx_cnt = le64_at(b + CONN_RX);
	c->fwd_cnt = le64_at(b + CONN_FWD);
	c->announced = le32_at(b + CONN_ANNOUNCED);
	c->buf_alloc = le32_at(b + CONN_BUF_ALLOC);
	c->peer_buf_alloc = le32_at(b + CONN_PEER_BUF_ALLOC);
	c->peer_fwd_cnt = le32_at(b + CONN_PEER_FWD);
	c->guest_shut = b[CONN_GUEST_SHUT];
	c->host_shut = b[CONN_HOST_SHUT];
	c->request_sent = le16_at(b + CONN_FLAGS) & CONN_FLAG_REQUEST_SENT;
	c->asked = le16_at(b + CONN_FLAGS) & CONN_FLAG_ASKED;
	c->tx_mid = le16_at(b + CONN_FLAGS) & CONN_FLAG_TX_MID;
	c->relayed = le16_at(b + CONN_FLAGS) & CONN_FLAG_RELAYED;
	if (c->relayed) {
		c->far_buf = le32_at(b + CONN_FAR_BUF);
		c->far_tx = le32_at(b + CONN_FAR_TX);
		c->far_fwd = le32_at(b + CONN_FAR_FWD);
		c->announced_buf = le32_at(b + CONN_ANNOUNCED_BUF);
	}
	c->rx_mid =
		c->type == VSK_TYPE_SEQPACKET && f.n_host > sum_of_ends(f.host_ends, f.ends_host);
	c->msgs = f.ends_host;
	c->unclaimed = c->state != VSK_DIALLING && c->host_shut != VSK_SHUT_BOTH &&
		       !(le16_at(b + CONN_FLAGS) & CONN_FLAG_CLAIMED);
	vsk_conn_life(v, c, loaded_life(c), now_us);
	if (b[CONN_CTL])
		vsk_conn_ctl(v, c, b[CONN_CTL]);
	return 0;
}

static void load_undo(struct vsk *v)
{
	struct vsk_conn *c;
	while ((c = vsk_next(v, NULL)))
		vsk_conn_free(v, c);
	while (!hf_list_empty(&v->ctl))
		vsk_conn_free(v, HF_CONTAINER_OF(v->ctl.next, struct vsk_conn, ctl_node));
}

static int load_parts(struct vsk *v, uint64_t now_us, uint16_t kind, const uint8_t *h, size_t len)
{
	size_t at = le32_at(h + HEAD_LEN);
	struct part p;
	int r = 0;
	while (r == 0 && next_part(h, len, &at, &p) > 0)
		if (p.kind == kind)
			r = kind == KIND_CONN ? load_conn(v, now_us, &p) : load_rst(v, p.body);
	return r;
}

static int load_all(struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len,
	bool takeover)
{
	struct vsk_record_info info;
	int r = vsk_record_info(buf, len, &info);
	if (r < 0)
		return r;
	if (info.takeover != takeover)
		return -EINVAL;
	if (info.guest_cid != v->cfg.guest_cid)
		return -EADDRNOTAVAIL;
	if (v->n_conns)
		return -EBUSY;
	if (info.n_conns > v->n_free)
		return -ENOBUFS;

	const uint8_t *h = buf;
	r = load_parts(v, now_us, KIND_CONN, h, len);
	if (r == 0)
		r = load_parts(v, now_us, KIND_RST, h, len);
	if (r < 0) {
		load_undo(v);
		return r;
	}
	v->next_port = le32_at(h + HEAD_PORT); /* D7.7 */
	v->cfg.features = info.features;
	if (le32_at(h + HEAD_FLAGS) & (HEAD_FLAG_EVENT | HEAD_FLAG_HOLD))
		vsk_transport_reset(v, now_us, true);
	if (le32_at(h + HEAD_FLAGS) & HEAD_FLAG_HOLD)
		vsk_event_placed(v);
	*l = (struct vsk_load){ .v = v, .buf = buf, .len = len, .at = le32_at(h + HEAD_LEN) };
	return 0;
}

int vsk_load_begin(struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len)
{
	return load_all(l, v, now_us, buf, len, false);
}

int vsk_load_takeover(
	struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len)
{
	return load_all(l, v, now_us, buf, len, true);
}

struct vsk_conn *vsk_load_lingering(struct vsk *v, enum vsk_type type, uint32_t peer_cid,
	uint32_t host_port, uint32_t guest_port)
{
	struct vsk_conn *c =
		vsk_conn_new(v, (uint16_t)type, peer_cid, host_port, guest_port, VSK_OPEN);
	if (c)
		vsk_conn_close(v, c, false);
	return c;
}

int vsk_load_add(struct vsk_load *l, struct vsk *v, uint64_t now_us, const void *buf, size_t len)
{
	const uint8_t *h = buf;
	struct vsk_record_info info;
	struct part p;
	int r = vsk_record_info(buf, len, &info);
	if (r < 0)
		return r;
	if (info.takeover)
		return -EINVAL;
	if (info.guest_cid != v->cfg.guest_cid)
		return -EADDRNOTAVAIL;
	size_t at = le32_at(h + HEAD_LEN);
	if (info.n_conns != 1 || next_part(h, len, &at, &p) <= 0 || p.kind != KIND_CONN)
		return -EINVAL;
	if (vsk_find(v, le32_at(p.body + CONN_PEER_CID), le32_at(p.body + CONN_HOST_PORT),
		    le32_at(p.body + CONN_GUEST_PORT)))
		return -EEXIST;
	r = load_conn(v, now_us, &p);
	if (r == 0)
		*l = (struct vsk_load){ .v = v, .buf = h, .len = len, .at = le32_at(h + HEAD_LEN) };
	return r;
}

/* The part of this kind that belongs to the connection returned last. */
static const void *belonging(const struct vsk_load *l, uint16_t kind, size_t *ret_n)
{
	struct part p;
	size_t at = l->at;
	*ret_n = 0;
	while (next_part(l->buf, l->len, &at, &p) > 0 &&
		(p.kind == KIND_RELAY || p.kind == KIND_APP))
		if (p.kind == kind) {
			*ret_n = p.len;
			return p.body;
		}
	return NULL;
}

const void *vsk_load_app(const struct vsk_load *l, size_t *ret_n)
{
	return belonging(l, KIND_APP, ret_n);
}

const void *vsk_load_relay(const struct vsk_load *l, size_t *ret_n)
{
	return belonging(l, KIND_RELAY, ret_n);
}

struct vsk_conn *vsk_load_next(
	struct vsk_load *l, struct vsk_bytes *ret_to_host, struct vsk_bytes *ret_to_guest)
{
	struct part p;
	while (next_part(l->buf, l->len, &l->at, &p) > 0) {
		if (p.kind != KIND_CONN)
			continue;
		const uint8_t *b = p.body;
		struct flight f;
		(void)flight_of(&p, &f); /* it was checked */
		*ret_to_host = (struct vsk_bytes){ { f.host }, { f.n_host }, { f.host_ends },
			{ (size_t)f.ends_host * VSK_END_BYTES } };
		*ret_to_guest = (struct vsk_bytes){ { f.guest }, { f.n_guest }, { f.guest_ends },
			{ (size_t)f.ends_guest * VSK_END_BYTES } };
		return vsk_find(l->v, le32_at(b + CONN_PEER_CID), le32_at(b + CONN_HOST_PORT),
			le32_at(b + CONN_GUEST_PORT));
	}
	return NULL;
}
