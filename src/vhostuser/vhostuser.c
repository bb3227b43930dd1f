/* SPDX-License-Identifier: MIT */
/*
 * vhostuser.c - messages of the front end: framing, one table of messages, and answers.
 *
 * A message is received in two steps, header and payload, so that a receive never reaches into the
 * next message. When it is whole, its row in the table says what shape it must have and which
 * protocol feature it needs; its function is a flat list of refusals and then the effect on our own
 * state. Numbers are in the machine's byte order (vhost-user: Message specification).
 *
 * What an answer looks like depends on the message and on the outcome:
 *
 *	reply		success			failure
 *	ACK		u64 0 if asked		u64 1 if asked, else the connection ends
 *	ACK_ALWAYS	u64 0			u64 1 if asked, else the connection ends
 *	VALUE		u64			the connection ends
 *	RING		ring state		the connection ends
 *	CONFIG		the bytes		empty payload
 *	STATE_FD	0x100: no descriptor	0x101
 *	STATE_CHECK	0			1
 *	INFLIGHT	size, and a descriptor	size 0
 *
 * "Asked" is need_reply in the message and REPLY_ACK agreed. That is looked at after the message
 * has had its effect: SET_PROTOCOL_FEATURES which turns REPLY_ACK on is acknowledged itself, for
 * UML waits for it and the others do not set need_reply there.
 */
#include "vhostuser.h"
#include <errno.h>
#include <string.h>

#define FLAG_VERSION    1u
#define FLAG_VERSION_OF 3u
#define FLAG_REPLY      4u
#define FLAG_NEED_REPLY 8u

#define RING_NO_FD      0x100u /* SET_VRING_KICK, CALL, ERR */
#define STATE_NO_FD     0x100u /* reply to SET_DEVICE_STATE_FD: use your own descriptor */
#define CONFIG_HEADER   12
#define CONFIG_MIGRATE  1u
#define CONFIG_CHANGE   2u /* BACKEND_CONFIG_CHANGE_MSG */
#define REGION_BYTES    32
#define MEM_HEADER      8 /* before the regions of both memory messages */
#define INFLIGHT_BYTES  20
#define INFLIGHT_PADDED 24
#define ADDR_F_LOG      1u
#define FILE_PAGE       4096
#define QUEUE_INDEX_MAX 0xffffu

enum reply {
	REPLY_ACK,
	REPLY_ACK_ALWAYS,
	REPLY_VALUE,
	REPLY_RING,
	REPLY_CONFIG,
	REPLY_STATE_FD,
	REPLY_STATE_CHECK,
	REPLY_INFLIGHT,
};

struct row {
	const char *name;
	uint16_t size_min, size_max; /* payload */
	uint8_t fds;                 /* descriptors that it must bring; surplus ones are closed */
	enum reply reply;
	uint64_t needs; /* protocol feature that must have been agreed */
	/* Checks the payload, changes our state and fills the event: NULL, or why not. A message
	 * without it is known by name only. */
	const char *(*take)(struct vhu *v, struct vhu_event *ev);
};

/* ---- reading and writing numbers ---- */

static uint32_t u32_at(const uint8_t *p)
{
	uint32_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

static uint64_t u64_at(const uint8_t *p)
{
	uint64_t x;
	memcpy(&x, p, sizeof(x));
	return x;
}

static void u32_to(uint8_t *p, uint32_t x)
{
	memcpy(p, &x, sizeof(x));
}

static void header_to(uint8_t *p, uint32_t request, uint32_t flags, uint32_t size)
{
	u32_to(p, request);
	u32_to(p + 4, flags);
	u32_to(p + 8, size);
}

static uint32_t in_request(const struct vhu *v)
{
	return u32_at(v->in);
}

static uint32_t in_flags(const struct vhu *v)
{
	return u32_at(v->in + 4);
}

static uint32_t in_size(const struct vhu *v)
{
	return u32_at(v->in + 8);
}

static const uint8_t *payload(const struct vhu *v)
{
	return v->in + VHU_HEADER;
}

/* ---- answers ---- */

static uint8_t *reply_begin(struct vhu *v, uint32_t size)
{
	header_to(v->out, in_request(v), FLAG_VERSION | FLAG_REPLY, size);
	v->out_len = VHU_HEADER + size;
	v->out_sent = 0;
	return v->out + VHU_HEADER;
}

static void reply_u64(struct vhu *v, uint64_t x)
{
	memcpy(reply_begin(v, sizeof(x)), &x, sizeof(x));
}

static void reply_config(struct vhu *v)
{
	uint32_t offset = u32_at(payload(v)), size = u32_at(payload(v) + 4);
	uint8_t *p = reply_begin(v, CONFIG_HEADER + size);
	memcpy(p, payload(v), CONFIG_HEADER);
	memcpy(p + CONFIG_HEADER, v->config + offset, size);
}

static bool ack_is_asked(const struct vhu *v)
{
	return (in_flags(v) & FLAG_NEED_REPLY) && (v->protocol_features & VHU_P_REPLY_ACK);
}

static void reply_ring(struct vhu *v, uint32_t next_avail)
{
	uint8_t *p = reply_begin(v, 8);
	memcpy(p, payload(v), 4); /* the ring's number */
	u32_to(p + 4, next_avail);
}

/* Without a reply of their own: says so if asked. A failure that cannot be said ends the
 * connection, else the front end would take it for success. */
static int reply_ack(struct vhu *v, bool failed)
{
	if (!ack_is_asked(v))
		return failed ? -EPROTO : 0;
	reply_u64(v, failed);
	return 0;
}

/* As long as it was asked: the description has 20 bytes, or 24 where a compiler pads it. */
static void reply_inflight(struct vhu *v, uint64_t size)
{
	uint32_t n = in_size(v);
	uint8_t *p = reply_begin(v, n);
	memcpy(p, payload(v), n);
	memcpy(p, &size, sizeof(size));
	memset(p + 8, 0, 8); /* offset */
}

/* Ends the message: its reply, if it has one. See the table at the top. */
static int finish(struct vhu *v, enum reply reply, bool failed, uint64_t value)
{
	v->in_len = 0;
	switch (reply) {
	case REPLY_ACK:
		return reply_ack(v, failed);
	case REPLY_ACK_ALWAYS:
		if (failed)
			return reply_ack(v, failed);
		reply_u64(v, 0);
		return 0;
	case REPLY_VALUE:
		if (failed)
			return -EPROTO;
		reply_u64(v, value);
		return 0;
	case REPLY_RING:
		if (failed)
			return -EPROTO;
		reply_ring(v, (uint32_t)value);
		return 0;
	case REPLY_CONFIG:
		if (failed)
			(void)reply_begin(v, 0);
		else
			reply_config(v);
		return 0;
	case REPLY_STATE_FD:
		reply_u64(v, STATE_NO_FD | failed);
		return 0;
	case REPLY_STATE_CHECK:
		reply_u64(v, failed);
		return 0;
	case REPLY_INFLIGHT:
		if (in_size(v) < INFLIGHT_BYTES || in_size(v) > INFLIGHT_PADDED)
			return -EPROTO; /* no such description */
		reply_inflight(v, failed ? 0 : value);
		return 0;
	}
	return -EPROTO; /* not reached: all cases return */
}

/* ---- messages: features and counts ---- */

static uint64_t offered_features(const struct vhu *v)
{
	uint64_t log = v->offer.protocol_features & VHU_P_LOG_SHMFD ? VHU_F_LOG_ALL : 0;
	return v->offer.features | VHU_F_PROTOCOL_FEATURES | log;
}

static const char *take_get_features(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	v->value = offered_features(v);
	return NULL;
}

static const char *take_set_features(struct vhu *v, struct vhu_event *ev)
{
	uint64_t features = u64_at(payload(v));
	if (features & ~offered_features(v))
		return "accepts a feature that was not offered";
	ev->kind = VHU_FEATURES;
	ev->features = v->features = features;
	/* vhost-user: Ring states: without protocol features nobody enables rings later */
	if (!(features & VHU_F_PROTOCOL_FEATURES))
		for (uint32_t i = 0; i < v->offer.n_queues; i++)
			v->ring[i].enabled = true;
	return NULL;
}

static const char *take_get_protocol_features(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	v->value = v->offer.protocol_features;
	return NULL;
}

static const char *take_set_protocol_features(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	uint64_t features = u64_at(payload(v));
	if (features & ~v->offer.protocol_features)
		return "accepts a protocol feature that was not offered";
	v->protocol_features = features;
	return NULL;
}

/* SET_OWNER tells nothing new; RESET_OWNER is obsolete and best ignored, says the protocol. */
static const char *take_owner(struct vhu *v, struct vhu_event *ev)
{
	(void)v;
	(void)ev;
	return NULL;
}

static const char *take_get_queue_num(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	v->value = v->offer.n_queues;
	return NULL;
}

static const char *take_get_max_mem_slots(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	v->value = v->offer.mem_slots;
	return NULL;
}

static const char *take_get_status(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* nothing for the device */
	v->value = v->status;
	return NULL;
}

static const char *take_reset_device(struct vhu *v, struct vhu_event *ev)
{
	ev->kind = VHU_RESET;
	v->features = 0;
	v->status = 0;
	memset(v->ring, 0, sizeof(v->ring));
	return NULL;
}

static const char *take_set_status(struct vhu *v, struct vhu_event *ev)
{
	uint64_t status = u64_at(payload(v));
	if (status > UINT8_MAX)
		return "status has more than 8 bits";
	if (status == 0)
		return take_reset_device(v, ev);
	v->status = (uint8_t)status;
	return NULL;
}

/* ---- messages: memory and log ---- */

static const char *read_region(const uint8_t *p, struct vhu_region *ret)
{
	struct vhu_region r = { u64_at(p), u64_at(p + 8), u64_at(p + 16), u64_at(p + 24) };
	if (r.size == 0)
		return "empty memory region";
	if (r.size > UINT64_MAX - r.gpa)
		return "memory region past the end of guest addresses";
	if (r.size > UINT64_MAX - r.uaddr)
		return "memory region past the end of user addresses";
	if (r.offset > INT64_MAX || r.size > INT64_MAX - r.offset)
		return "memory region past the end of its file";
	if (r.offset % FILE_PAGE != 0)
		return "memory region's file offset is not a multiple of 4096";
	*ret = r;
	return NULL;
}

static const char *take_set_mem_table(struct vhu *v, struct vhu_event *ev)
{
	const uint8_t *p = payload(v);
	uint32_t n = u32_at(p);
	if (n > VHU_REGIONS_MAX)
		return "more than 8 memory regions";
	if (in_size(v) < MEM_HEADER + n * REGION_BYTES) /* UML pads */
		return "fewer memory regions than announced";
	if (ev->n_fds != n)
		return "not one descriptor per memory region";
	for (uint32_t i = 0; i < n; i++) {
		const char *why =
			read_region(p + MEM_HEADER + i * REGION_BYTES, &ev->mem.region[i]);
		if (why)
			return why;
	}
	ev->kind = VHU_MEM_TABLE;
	ev->mem.n = n;
	return NULL;
}

static const char *take_mem_region(struct vhu *v, struct vhu_event *ev, enum vhu_event_kind kind)
{
	const char *why = read_region(payload(v) + MEM_HEADER, &ev->mem.region[0]);
	if (why)
		return why;
	ev->kind = kind;
	ev->mem.n = 1;
	return NULL;
}

static const char *take_add_mem_reg(struct vhu *v, struct vhu_event *ev)
{
	return take_mem_region(v, ev, VHU_MEM_ADD);
}

static const char *take_rem_mem_reg(struct vhu *v, struct vhu_event *ev)
{
	return take_mem_region(v, ev, VHU_MEM_REMOVE);
}

static const char *take_set_log_base(struct vhu *v, struct vhu_event *ev)
{
	uint64_t size = u64_at(payload(v)), offset = u64_at(payload(v) + 8);
	if (size == 0)
		return "empty dirty log";
	if (offset > INT64_MAX || size > INT64_MAX - offset)
		return "dirty log past the end of its file";
	ev->kind = VHU_LOG_BASE;
	ev->log.size = size;
	ev->log.offset = offset;
	return NULL;
}

static const char *take_set_log_fd(struct vhu *v, struct vhu_event *ev)
{
	(void)v;
	ev->kind = VHU_LOG_FD;
	return NULL;
}

/* ---- messages: rings ---- */

static const char *read_ring(const struct vhu *v, struct vhu_event *ev, enum vhu_event_kind kind)
{
	uint32_t index = u32_at(payload(v));
	if (index >= v->offer.n_queues)
		return "no such ring";
	ev->kind = kind;
	ev->ring.index = index;
	ev->ring.value = u32_at(payload(v) + 4);
	return NULL;
}

static const char *take_set_vring_num(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_ring(v, ev, VHU_RING_NUM);
	if (why)
		return why;
	uint32_t num = ev->ring.value;
	if (num == 0 || (num & (num - 1)) != 0)
		return "ring size is not a power of two";
	if (num > v->offer.queue_size_max)
		return "ring is larger than we serve";
	v->ring[ev->ring.index].has_num = true;
	return NULL;
}

static const char *take_set_vring_addr(struct vhu *v, struct vhu_event *ev)
{
	const uint8_t *p = payload(v);
	uint32_t index = u32_at(p), flags = u32_at(p + 4);
	if (index >= v->offer.n_queues)
		return "no such ring";
	if (flags & ~ADDR_F_LOG)
		return "unknown flag of a ring's address";
	ev->kind = VHU_RING_ADDR;
	ev->addr.index = index;
	ev->addr.log = flags & ADDR_F_LOG;
	ev->addr.desc = u64_at(p + 8);
	ev->addr.used = u64_at(p + 16);
	ev->addr.avail = u64_at(p + 24);
	ev->addr.log_gpa = u64_at(p + 32);
	v->ring[index].has_addr = true;
	return NULL;
}

static const char *take_set_vring_base(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_ring(v, ev, VHU_RING_BASE);
	if (why)
		return why;
	if (ev->ring.value > QUEUE_INDEX_MAX)
		return "index of a split ring has more than 16 bits";
	return NULL;
}

static const char *take_get_vring_base(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_ring(v, ev, VHU_RING_STOP);
	if (why)
		return why;
	v->ring[ev->ring.index].started = false;
	return NULL;
}

static const char *take_set_vring_enable(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_ring(v, ev, VHU_RING_ENABLE);
	if (why)
		return why;
	if (ev->ring.value > 1)
		return "enable is neither 0 nor 1";
	v->ring[ev->ring.index].enabled = ev->ring.value;
	return NULL;
}

static const char *read_ring_fd(const struct vhu *v, struct vhu_event *ev, enum vhu_event_kind kind)
{
	uint64_t x = u64_at(payload(v));
	uint32_t index = x & 0xff;
	if (x & ~(uint64_t)(RING_NO_FD | 0xff))
		return "unknown flag of a ring's descriptor";
	if (index >= v->offer.n_queues)
		return "no such ring";
	if ((x & RING_NO_FD) ? ev->n_fds > 0 : ev->n_fds == 0)
		return "descriptor and the flag for none contradict each other";
	ev->kind = kind;
	ev->ring.index = index;
	return NULL;
}

static const char *take_set_vring_kick(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_ring_fd(v, ev, VHU_RING_KICK);
	if (why)
		return why;
	v->ring[ev->ring.index].started = true;
	return NULL;
}

static const char *take_set_vring_call(struct vhu *v, struct vhu_event *ev)
{
	return read_ring_fd(v, ev, VHU_RING_CALL);
}

static const char *take_set_vring_err(struct vhu *v, struct vhu_event *ev)
{
	return read_ring_fd(v, ev, VHU_RING_ERR);
}

/* ---- messages: configuration space, back-end channel, device state ---- */

static const char *check_config(const struct vhu *v)
{
	uint32_t offset = u32_at(payload(v)), size = u32_at(payload(v) + 4);
	if (offset > VHU_CONFIG_MAX || size > VHU_CONFIG_MAX - offset)
		return "configuration space ends at 256 bytes";
	if (in_size(v) != CONFIG_HEADER + size)
		return "payload and its size differ";
	return NULL;
}

static const char *take_get_config(struct vhu *v, struct vhu_event *ev)
{
	(void)ev; /* finish() copies the bytes */
	return check_config(v);
}

static const char *take_set_config(struct vhu *v, struct vhu_event *ev)
{
	const char *why = check_config(v);
	if (why)
		return why;
	if (u32_at(payload(v) + 8) != CONFIG_MIGRATE)
		return "configuration space is read-only";
	ev->kind = VHU_SET_CONFIG;
	ev->config.offset = u32_at(payload(v));
	ev->config.size = u32_at(payload(v) + 4);
	ev->config.data = payload(v) + CONFIG_HEADER;
	return NULL;
}

static const char *take_set_backend_req_fd(struct vhu *v, struct vhu_event *ev)
{
	(void)v;
	ev->kind = VHU_BACKEND_FD;
	return NULL;
}

static const char *take_set_device_state_fd(struct vhu *v, struct vhu_event *ev)
{
	uint32_t direction = u32_at(payload(v)), phase = u32_at(payload(v) + 4);
	if (direction > 1)
		return "unknown direction of a state transfer";
	if (phase != 0)
		return "unknown phase of a state transfer";
	if (!vhu_suspended(v))
		return "state transfer while rings are started";
	ev->kind = VHU_STATE_FD;
	ev->state.load = direction == 1;
	return NULL;
}

static const char *take_check_device_state(struct vhu *v, struct vhu_event *ev)
{
	(void)v;
	ev->kind = VHU_STATE_CHECK;
	return NULL;
}

/* ---- messages: descriptors in flight ---- */

static const char *read_inflight(
	const struct vhu *v, struct vhu_event *ev, enum vhu_event_kind kind)
{
	const uint8_t *p = payload(v);
	ev->inflight.size = u64_at(p);
	ev->inflight.offset = u64_at(p + 8);
	memcpy(&ev->inflight.n_queues, p + 16, 2);
	memcpy(&ev->inflight.queue_size, p + 18, 2);
	if (ev->inflight.n_queues == 0 || ev->inflight.n_queues > v->offer.n_queues)
		return "more rings in flight than there are, or none";
	if (ev->inflight.queue_size == 0 || ev->inflight.queue_size > v->offer.queue_size_max)
		return "rings in flight that are larger than we serve, or empty";
	ev->kind = kind;
	return NULL;
}

static const char *take_get_inflight_fd(struct vhu *v, struct vhu_event *ev)
{
	return read_inflight(v, ev, VHU_INFLIGHT_GET);
}

static const char *take_set_inflight_fd(struct vhu *v, struct vhu_event *ev)
{
	const char *why = read_inflight(v, ev, VHU_INFLIGHT_SET);
	if (why)
		return why;
	if (ev->inflight.size == 0 || ev->inflight.offset > INT64_MAX ||
		ev->inflight.size > INT64_MAX - ev->inflight.offset)
		return "empty record of what is in flight, or past the end of its file";
	return vhu_suspended(v) ? NULL : "record of what is in flight while rings are started";
}

/* ---- the table ---- */

#define U64   8, 8
#define EMPTY 0, 0
#define STATE 8, 8
#define CONF  CONFIG_HEADER, CONFIG_HEADER + VHU_CONFIG_MAX
#define ANY   0, VHU_PAYLOAD_MAX

static const struct row table[] = {
	[1] = { "GET_FEATURES", EMPTY, 0, REPLY_VALUE, 0, take_get_features },
	[2] = { "SET_FEATURES", U64, 0, REPLY_ACK, 0, take_set_features },
	[3] = { "SET_OWNER", EMPTY, 0, REPLY_ACK, 0, take_owner },
	[4] = { "RESET_OWNER", EMPTY, 0, REPLY_ACK, 0, take_owner },
	[5] = { "SET_MEM_TABLE", MEM_HEADER, VHU_PAYLOAD_MAX, 0, REPLY_ACK, 0, take_set_mem_table },
	[6] = { "SET_LOG_BASE", 16, 16, 1, REPLY_ACK_ALWAYS, VHU_P_LOG_SHMFD, take_set_log_base },
	[7] = { "SET_LOG_FD", 0, 8, 0, REPLY_ACK, 0, take_set_log_fd },
	[8] = { "SET_VRING_NUM", STATE, 0, REPLY_ACK, 0, take_set_vring_num },
	[9] = { "SET_VRING_ADDR", 40, 40, 0, REPLY_ACK, 0, take_set_vring_addr },
	[10] = { "SET_VRING_BASE", STATE, 0, REPLY_ACK, 0, take_set_vring_base },
	[11] = { "GET_VRING_BASE", STATE, 0, REPLY_RING, 0, take_get_vring_base },
	[12] = { "SET_VRING_KICK", U64, 0, REPLY_ACK, 0, take_set_vring_kick },
	[13] = { "SET_VRING_CALL", U64, 0, REPLY_ACK, 0, take_set_vring_call },
	[14] = { "SET_VRING_ERR", U64, 0, REPLY_ACK, 0, take_set_vring_err },
	[15] = { "GET_PROTOCOL_FEATURES", EMPTY, 0, REPLY_VALUE, 0, take_get_protocol_features },
	[16] = { "SET_PROTOCOL_FEATURES", U64, 0, REPLY_ACK, 0, take_set_protocol_features },
	[17] = { "GET_QUEUE_NUM", EMPTY, 0, REPLY_VALUE, VHU_P_MQ, take_get_queue_num },
	[18] = { "SET_VRING_ENABLE", STATE, 0, REPLY_ACK, 0, take_set_vring_enable },
	[19] = { "SEND_RARP", ANY, 0, REPLY_ACK, 0, NULL },
	[20] = { "NET_SET_MTU", ANY, 0, REPLY_ACK, 0, NULL },
	[21] = { "SET_BACKEND_REQ_FD", EMPTY, 1, REPLY_ACK, VHU_P_BACKEND_REQ,
		take_set_backend_req_fd },
	[22] = { "IOTLB_MSG", ANY, 0, REPLY_ACK, 0, NULL },
	[23] = { "SET_VRING_ENDIAN", ANY, 0, REPLY_ACK, 0, NULL },
	[24] = { "GET_CONFIG", CONF, 0, REPLY_CONFIG, VHU_P_CONFIG, take_get_config },
	[25] = { "SET_CONFIG", CONF, 0, REPLY_ACK, VHU_P_CONFIG, take_set_config },
	[26] = { "CREATE_CRYPTO_SESSION", ANY, 0, REPLY_ACK, 0, NULL },
	[27] = { "CLOSE_CRYPTO_SESSION", ANY, 0, REPLY_ACK, 0, NULL },
	[28] = { "POSTCOPY_ADVISE", ANY, 0, REPLY_ACK, 0, NULL },
	[29] = { "POSTCOPY_LISTEN", ANY, 0, REPLY_ACK, 0, NULL },
	[30] = { "POSTCOPY_END", ANY, 0, REPLY_ACK, 0, NULL },
	[31] = { "GET_INFLIGHT_FD", INFLIGHT_BYTES, INFLIGHT_PADDED, 0, REPLY_INFLIGHT, VHU_P_INFLIGHT_SHMFD,
		take_get_inflight_fd },
	[32] = { "SET_INFLIGHT_FD", INFLIGHT_BYTES, INFLIGHT_PADDED, 1, REPLY_ACK, VHU_P_INFLIGHT_SHMFD,
		take_set_inflight_fd },
	[33] = { "GPU_SET_SOCKET", ANY, 0, REPLY_ACK, 0, NULL },
	[34] = { "RESET_DEVICE", EMPTY, 0, REPLY_ACK, VHU_P_RESET_DEVICE, take_reset_device },
	[35] = { "VRING_KICK", ANY, 0, REPLY_ACK, 0, NULL },
	[36] = { "GET_MAX_MEM_SLOTS", EMPTY, 0, REPLY_VALUE, VHU_P_CONFIGURE_MEM_SLOTS,
		take_get_max_mem_slots },
	[37] = { "ADD_MEM_REG", MEM_HEADER + REGION_BYTES, MEM_HEADER + REGION_BYTES, 1, REPLY_ACK,
		VHU_P_CONFIGURE_MEM_SLOTS, take_add_mem_reg },
	[38] = { "REM_MEM_REG", MEM_HEADER + REGION_BYTES, MEM_HEADER + REGION_BYTES, 0, REPLY_ACK,
		VHU_P_CONFIGURE_MEM_SLOTS, take_rem_mem_reg },
	[39] = { "SET_STATUS", U64, 0, REPLY_ACK, VHU_P_STATUS, take_set_status },
	[40] = { "GET_STATUS", EMPTY, 0, REPLY_VALUE, VHU_P_STATUS, take_get_status },
	[41] = { "GET_SHARED_OBJECT", ANY, 0, REPLY_ACK, 0, NULL },
	[42] = { "SET_DEVICE_STATE_FD", 8, 8, 1, REPLY_STATE_FD, VHU_P_DEVICE_STATE,
		take_set_device_state_fd },
	[43] = { "CHECK_DEVICE_STATE", EMPTY, 0, REPLY_STATE_CHECK, VHU_P_DEVICE_STATE,
		take_check_device_state },
};

static const struct row *row_of(uint32_t request)
{
	if (request >= HF_ARRAY_SIZE(table) || !table[request].name)
		return NULL;
	return &table[request];
}

const char *vhu_request_name(uint32_t request)
{
	const struct row *row = row_of(request);
	return row ? row->name : "unknown";
}

/* ---- the machine ---- */

void vhu_init(struct vhu *v, const struct vhu_offer *offer)
{
	hf_assert(offer->n_queues <= VHU_QUEUES_MAX);
	hf_assert(!(offer->protocol_features & ~VHU_P_SUPPORTED));
	*v = (struct vhu){ .offer = *offer, .out_fd = -1 };
}

void vhu_reset(struct vhu *v, int ret_fds[VHU_FDS_MAX], size_t *ret_n_fds)
{
	memcpy(ret_fds, v->fds, sizeof(v->fds));
	*ret_n_fds = v->n_fds;
	v->features = v->protocol_features = 0;
	v->status = 0;
	memset(v->ring, 0, sizeof(v->ring));
	v->why = NULL;
	v->in_len = v->out_len = v->out_sent = v->n_fds = 0;
	v->out_fd = -1;
	v->pending = false;
}

void vhu_room(struct vhu *v, void **ret_buf, size_t *ret_n)
{
	size_t whole = VHU_HEADER;
	if (v->in_len >= VHU_HEADER)
		whole += in_size(v);
	*ret_buf = v->in + v->in_len;
	/* a message that waits for its answer is whole: no room either */
	*ret_n = v->out_sent < v->out_len ? 0 : whole - v->in_len;
}

/* A header with which we cannot go on: where the next message begins would be a guess. */
static const char *check_header(const struct vhu *v)
{
	if ((in_flags(v) & FLAG_VERSION_OF) != FLAG_VERSION)
		return "unknown version of the protocol";
	if (in_flags(v) & FLAG_REPLY)
		return "a reply where a request is due";
	if (in_size(v) > VHU_PAYLOAD_MAX)
		return "payload is too long";
	return NULL;
}

static const char *check_shape(const struct vhu *v, const struct row *row, size_t n_fds)
{
	if (!row)
		return "unknown message";
	if (!row->take)
		return "message for a feature that we do not offer";
	if ((v->protocol_features & row->needs) != row->needs)
		return "message for a feature that was not accepted";
	if (in_size(v) < row->size_min || in_size(v) > row->size_max)
		return "payload of a wrong size";
	if (n_fds < row->fds)
		return "descriptor is missing";
	return NULL;
}

/* The message is whole. */
static int dispatch(struct vhu *v, struct vhu_event *ev)
{
	const struct row *row = row_of(in_request(v));
	const char *why = check_shape(v, row, ev->n_fds);
	if (!why)
		why = row->take(v, ev);
	if (why) {
		ev->kind = VHU_REFUSED;
		ev->why = v->why = why;
		int r = finish(v, row ? row->reply : REPLY_ACK, true, 0);
		return r < 0 ? r : 1;
	}
	if (ev->kind == VHU_NONE)
		return finish(v, row->reply, false, v->value);
	v->pending = true;
	return 1;
}

int vhu_received(struct vhu *v, size_t n, const int *fds, size_t n_fds, struct vhu_event *ret_ev)
{
	*ret_ev = (struct vhu_event){ .kind = VHU_NONE };
	hf_assert(n_fds <= VHU_FDS_MAX);
	const char *why = v->n_fds + n_fds > VHU_FDS_MAX ? "too many descriptors" : NULL;
	v->in_len += n;
	if (!why && v->in_len >= VHU_HEADER)
		why = check_header(v);
	bool whole = v->in_len >= VHU_HEADER && v->in_len == VHU_HEADER + (size_t)in_size(v);
	if (!why && !whole) {
		for (size_t i = 0; i < n_fds; i++)
			v->fds[v->n_fds++] = fds[i];
		return 0;
	}

	for (size_t i = 0; i < v->n_fds; i++)
		ret_ev->fds[ret_ev->n_fds++] = v->fds[i];
	for (size_t i = 0; i < n_fds; i++)
		ret_ev->fds[ret_ev->n_fds++] = fds[i];
	v->n_fds = 0;
	if (v->in_len >= VHU_HEADER)
		ret_ev->request = in_request(v);
	if (why) {
		ret_ev->kind = VHU_REFUSED;
		ret_ev->why = v->why = why;
		v->in_len = 0;
		return -EPROTO;
	}
	return dispatch(v, ret_ev);
}

int vhu_answer(struct vhu *v, int result, uint64_t value)
{
	hf_assert(v->pending);
	v->pending = false;
	int r = finish(v, row_of(in_request(v))->reply, result < 0, value);
	if (r < 0)
		v->why = "the device could not do it, and the message has no room to say so";
	return r;
}

size_t vhu_output(const struct vhu *v, const void **ret_buf)
{
	*ret_buf = v->out + v->out_sent;
	return v->out_len - v->out_sent;
}

void vhu_sent(struct vhu *v, size_t n)
{
	hf_assert(n <= v->out_len - v->out_sent);
	v->out_sent += n;
}

bool vhu_save(const struct vhu *v, struct vhu_saved *ret_saved)
{
	if (v->pending)
		return false;
	*ret_saved = (struct vhu_saved){ .features = v->features,
		.protocol_features = v->protocol_features,
		.status = v->status,
		.in = v->in,
		.out = v->out + v->out_sent,
		.in_len = v->in_len,
		.out_len = v->out_len - v->out_sent,
		.out_fd = v->out_fd,
		.n_fds = v->n_fds };
	memcpy(ret_saved->ring, v->ring, sizeof(v->ring));
	memcpy(ret_saved->fds, v->fds, sizeof(v->fds));
	return true;
}

int vhu_restore(struct vhu *v, const struct vhu_saved *s)
{
	bool fresh = v->in_len == 0 && v->n_fds == 0;
	hf_assert(fresh);
	if ((s->features & ~offered_features(v)) ||
		(s->protocol_features & ~v->offer.protocol_features) || s->n_fds > VHU_FDS_MAX ||
		s->in_len > sizeof(v->in) || s->out_len > sizeof(v->out))
		return -EINVAL;
	for (uint32_t i = v->offer.n_queues; i < VHU_QUEUES_MAX; i++)
		if (s->ring[i].started || s->ring[i].enabled)
			return -EINVAL;
	if (s->in_len > 0)
		memcpy(v->in, s->in, s->in_len);
	v->in_len = s->in_len;
	/* A message that is whole would have been taken. */
	if (v->in_len >= VHU_HEADER && (check_header(v) || v->in_len >= VHU_HEADER + in_size(v))) {
		v->in_len = 0;
		return -EINVAL;
	}
	if (s->out_len > 0)
		memcpy(v->out, s->out, s->out_len);
	v->out_len = s->out_len;
	v->out_sent = 0;
	v->out_fd = s->out_fd;
	v->features = s->features;
	v->protocol_features = s->protocol_features;
	v->status = s->status;
	memcpy(v->ring, s->ring, sizeof(v->ring));
	memcpy(v->fds, s->fds, sizeof(v->fds));
	v->n_fds = s->n_fds;
	return 0;
}

bool vhu_ring_runs(const struct vhu *v, uint32_t index)
{
	const struct vhu_ring *r = &v->ring[index];
	return r->started && r->enabled && r->has_num && r->has_addr;
}

bool vhu_suspended(const struct vhu *v)
{
	for (uint32_t i = 0; i < v->offer.n_queues; i++)
		if (v->ring[i].started)
			return false;
	return true;
}

void vhu_config_change(uint8_t ret_msg[VHU_HEADER])
{
	header_to(ret_msg, CONFIG_CHANGE, FLAG_VERSION, 0);
}
