/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "vhostuser/vhostuser.h"
#include <errno.h>
#include <string.h>

#define NEED_REPLY   8u
#define F_VERSION_1  (1ull << 32)
#define F_EVENT_IDX  (1ull << 29)
#define P_NOT_LISTED (1ull << 8)

enum {
	GET_FEATURES = 1,
	SET_FEATURES,
	SET_OWNER,
	RESET_OWNER,
	SET_MEM_TABLE,
	SET_LOG_BASE,
	SET_LOG_FD,
	SET_VRING_NUM,
	SET_VRING_ADDR,
	SET_VRING_BASE,
	GET_VRING_BASE,
	SET_VRING_KICK,
	SET_VRING_CALL,
	SET_VRING_ERR,
	GET_PROTOCOL_FEATURES,
	SET_PROTOCOL_FEATURES,
	GET_QUEUE_NUM,
	SET_VRING_ENABLE,
	SET_BACKEND_REQ_FD = 21,
	GET_CONFIG = 24,
	SET_CONFIG,
	POSTCOPY_LISTEN = 29,
	GET_INFLIGHT_FD = 31,
	SET_INFLIGHT_FD,
	RESET_DEVICE = 34,
	GET_MAX_MEM_SLOTS = 36,
	ADD_MEM_REG,
	REM_MEM_REG,
	SET_STATUS,
	GET_STATUS,
	SET_DEVICE_STATE_FD = 42,
	CHECK_DEVICE_STATE,
};

static const struct vhu_offer offer = {
	.features = F_VERSION_1 | F_EVENT_IDX,
	.protocol_features = VHU_P_SUPPORTED,
	.n_queues = 3,
	.queue_size_max = 1024,
	.mem_slots = 32,
};

static struct vhu v;
static struct vhu_event ev;

/* Puts a message in, in pieces of `step` bytes; the descriptors come with the first. */
static int put_in_steps(uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	const int *fds, size_t n_fds, size_t step)
{
	uint8_t msg[VHU_HEADER + VHU_PAYLOAD_MAX + 64];
	uint32_t head[3] = { request, flags, size };
	size_t off = 0, whole = VHU_HEADER + size;
	memcpy(msg, head, sizeof(head));
	if (size > 0)
		memcpy(msg + VHU_HEADER, payload, size);
	for (;;) {
		void *room;
		size_t n;
		vhu_room(&v, &room, &n);
		assert_true(n > 0 && n <= whole - off); /* never past the message's end */
		n = n < step ? n : step;
		memcpy(room, msg + off, n);
		int r = vhu_received(&v, n, fds, off == 0 ? n_fds : 0, &ev);
		off += n;
		if (r != 0 || off == whole)
			return r;
		assert_int_equal(ev.n_fds, 0);
	}
}

static int put(uint32_t request, uint32_t flags, const void *payload, uint32_t size)
{
	return put_in_steps(request, 1 | flags, payload, size, NULL, 0, 9999);
}

static int put_fds(uint32_t request, uint32_t flags, const void *payload, uint32_t size,
	const int *fds, size_t n_fds)
{
	return put_in_steps(request, 1 | flags, payload, size, fds, n_fds, 9999);
}

static int put_u64(uint32_t request, uint32_t flags, uint64_t x)
{
	return put(request, flags, &x, 8);
}

static int put_ring(uint32_t request, uint32_t flags, uint32_t index, uint32_t value)
{
	return put(request, flags, (uint32_t[]){ index, value }, 8);
}

/* The reply is there, for this request and of this size; returns its payload. */
static const uint8_t *reply(uint32_t request, uint32_t size)
{
	const void *p;
	uint32_t head[3] = { request, 1 | 4, size }; /* E1.1 */
	assert_int_equal(vhu_output(&v, &p), VHU_HEADER + size);
	assert_memory_equal(p, head, sizeof(head));
	vhu_sent(&v, VHU_HEADER + size);
	return (const uint8_t *)p + VHU_HEADER;
}

static uint64_t reply_u64(uint32_t request)
{
	uint64_t x;
	memcpy(&x, reply(request, 8), 8);
	return x;
}

static void no_reply(void)
{
	const void *p;
	assert_int_equal(vhu_output(&v, &p), 0);
}

/* A front end that has accepted these protocol features. */
static void begin(uint64_t protocol_features)
{
	vhu_init(&v, &offer);
	v.config[0] = 42;
	assert_int_equal(put_u64(SET_PROTOCOL_FEATURES, 0, protocol_features), 0);
	no_reply();
}

static void refused(int r)
{
	assert_true(r == 1 || r == -EPROTO);
	assert_int_equal(ev.kind, VHU_REFUSED);
	assert_non_null(ev.why);
	assert_ptr_equal(ev.why, v.why);
}

/* Refused, and the front end is told so: the connection goes on. */
#define assert_nack(request, r)                                                                    \
	do {                                                                                       \
		int r_ = (r);                                                                      \
		refused(r_);                                                                       \
		assert_int_equal(r_, 1);                                                           \
		assert_int_equal(reply_u64(request), 1);                                           \
	} while (0)

/* Refused, and the message has no room to say so. */
#define assert_close(r)                                                                            \
	do {                                                                                       \
		int r_ = (r);                                                                      \
		refused(r_);                                                                       \
		assert_int_equal(r_, -EPROTO);                                                     \
	} while (0)

static void test_negotiation(void **state)
{
	(void)state;
	vhu_init(&v, &offer);
	assert_int_equal(put(GET_FEATURES, 0, NULL, 0), 0);
	/* E1.2, E3.1 */
	assert_true(reply_u64(GET_FEATURES) ==
		    (offer.features | VHU_F_PROTOCOL_FEATURES | VHU_F_LOG_ALL));
	assert_int_equal(put(GET_PROTOCOL_FEATURES, 0, NULL, 0), 0); /* before SET_FEATURES */
	assert_true(reply_u64(GET_PROTOCOL_FEATURES) == VHU_P_SUPPORTED);
	assert_close(put(GET_QUEUE_NUM, 0, NULL, 0));                  /* MQ is not agreed yet */
	assert_close(put_u64(SET_PROTOCOL_FEATURES, 0, P_NOT_LISTED)); /* E1.4 */
	assert_int_equal(put_u64(SET_PROTOCOL_FEATURES, 0, VHU_P_SUPPORTED), 0);
	no_reply();
	assert_int_equal(put(SET_OWNER, 0, NULL, 0), 0);
	assert_int_equal(put(GET_QUEUE_NUM, 0, NULL, 0), 0);
	assert_int_equal(reply_u64(GET_QUEUE_NUM), 3); /* E1.5 */
	assert_int_equal(put(GET_MAX_MEM_SLOTS, 0, NULL, 0), 0);
	assert_int_equal(reply_u64(GET_MAX_MEM_SLOTS), 32);              /* E7.1 */
	assert_nack(SET_FEATURES, put_u64(SET_FEATURES, NEED_REPLY, 1)); /* E1.4 */
	assert_int_equal(put_u64(SET_FEATURES, 0, F_VERSION_1 | VHU_F_PROTOCOL_FEATURES), 1);
	assert_int_equal(ev.kind, VHU_FEATURES);
	assert_true(ev.features == (F_VERSION_1 | VHU_F_PROTOCOL_FEATURES));
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	no_reply();
}

static void test_no_log_feature_without_its_protocol_feature(void **state)
{
	(void)state;
	struct vhu_offer less = offer;
	less.protocol_features &= ~VHU_P_LOG_SHMFD;
	vhu_init(&v, &less);
	assert_int_equal(put(GET_FEATURES, 0, NULL, 0), 0);
	assert_false(reply_u64(GET_FEATURES) & VHU_F_LOG_ALL);
	assert_close(put_u64(SET_FEATURES, 0, VHU_F_LOG_ALL));
}

static void test_reply_ack(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(put_ring(SET_VRING_NUM, NEED_REPLY, 0, 128), 1);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	no_reply(); /* E1.3: not agreed */
	assert_close(put_ring(SET_VRING_NUM, NEED_REPLY, 0, 100));

	begin(VHU_P_REPLY_ACK);
	assert_int_equal(put_ring(SET_VRING_NUM, NEED_REPLY, 0, 128), 1);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(SET_VRING_NUM), 0);
	assert_int_equal(put_ring(SET_VRING_NUM, NEED_REPLY, 0, 128), 1);
	assert_int_equal(vhu_answer(&v, -EIO, 0), 0);
	assert_int_equal(reply_u64(SET_VRING_NUM), 1);
	assert_int_equal(put_ring(SET_VRING_NUM, 0, 0, 128), 1);
	assert_int_equal(vhu_answer(&v, -EIO, 0), -EPROTO); /* nobody would know */
	assert_non_null(v.why);
	/* one answer, not two, for a message with a reply of its own */
	assert_int_equal(put(GET_FEATURES, NEED_REPLY, NULL, 0), 0);
	(void)reply_u64(GET_FEATURES);
	no_reply();
}

static void test_reply_ack_that_turns_itself_on(void **state)
{
	(void)state;
	vhu_init(&v, &offer); /* UML waits for it */
	assert_int_equal(put_u64(SET_PROTOCOL_FEATURES, NEED_REPLY, VHU_P_REPLY_ACK), 0);
	assert_int_equal(reply_u64(SET_PROTOCOL_FEATURES), 0);
}

static void test_split_at_every_byte(void **state)
{
	(void)state;
	uint64_t regions[1 + 4 * 2] = { 2, 0, 0x1000, 0x7000, 0, 0x10000, 0x2000, 0x9000, 0x3000 };
	int fds[2] = { 70, 71 };
	for (size_t step = 1; step < 90; step++) {
		begin(0);
		assert_int_equal(
			put_in_steps(SET_MEM_TABLE, 1, regions, sizeof(regions), fds, 2, step), 1);
		assert_int_equal(ev.kind, VHU_MEM_TABLE);
		assert_int_equal(ev.mem.n, 2);
		assert_int_equal(ev.n_fds, 2);
		assert_int_equal(ev.fds[0], 70);
		assert_int_equal(ev.fds[1], 71);
		assert_true(ev.mem.region[1].gpa == 0x10000 && ev.mem.region[1].size == 0x2000);
		assert_true(ev.mem.region[1].uaddr == 0x9000 && ev.mem.region[1].offset == 0x3000);
		assert_int_equal(vhu_answer(&v, 0, 0), 0);
	}
}

static void test_one_after_the_other(void **state)
{
	(void)state;
	begin(VHU_P_REPLY_ACK);
	void *room;
	size_t n;
	assert_int_equal(put_ring(GET_VRING_BASE, 0, 1, 0), 1);
	assert_int_equal(ev.kind, VHU_RING_STOP);
	vhu_room(&v, &room, &n);
	assert_int_equal(n, 0); /* until the device answers */
	assert_int_equal(vhu_answer(&v, 0, 65535), 0);
	vhu_room(&v, &room, &n);
	assert_int_equal(n, 0); /* until the reply is sent */
	const void *out;
	assert_int_equal(vhu_output(&v, &out), 20);
	vhu_sent(&v, 7); /* a short send */
	assert_int_equal(vhu_output(&v, &out), 13);
	vhu_sent(&v, 13);
	vhu_room(&v, &room, &n);
	assert_int_equal(n, VHU_HEADER);
}

static void test_headers_that_end_the_connection(void **state)
{
	(void)state;
	uint8_t big[VHU_PAYLOAD_MAX + 1] = { 0 };
	begin(VHU_P_REPLY_ACK);
	assert_close(put_in_steps(GET_FEATURES, 2, NULL, 0, NULL, 0, 99)); /* E1.1: version */
	begin(VHU_P_REPLY_ACK);
	assert_close(put_in_steps(GET_FEATURES, 1 | 4, NULL, 0, NULL, 0, 99));
	begin(VHU_P_REPLY_ACK);
	uint32_t head[3] = { SET_MEM_TABLE, 1, VHU_PAYLOAD_MAX + 1 };
	void *room;
	size_t n;
	vhu_room(&v, &room, &n);
	memcpy(room, head, sizeof(head));
	assert_close(vhu_received(&v, sizeof(head), NULL, 0, &ev));
	begin(VHU_P_REPLY_ACK); /* at the limit */
	assert_nack(RESET_OWNER, put(RESET_OWNER, NEED_REPLY, big, VHU_PAYLOAD_MAX));
	assert_nack(99, put(99, NEED_REPLY, NULL, 0));
	assert_close(put(99, 0, NULL, 0));
	assert_nack(POSTCOPY_LISTEN, put(POSTCOPY_LISTEN, NEED_REPLY, big, 24));
	assert_nack(0, put(0, NEED_REPLY, NULL, 0));
	assert_string_equal(vhu_request_name(GET_INFLIGHT_FD), "GET_INFLIGHT_FD");
	assert_string_equal(vhu_request_name(UINT32_MAX), "unknown");
}

static void test_descriptors_all_come_out_again(void **state)
{
	(void)state;
	/* E1.1: unexpected ones are the device's to close, whatever happens to the message */
	int fds[8] = { 60, 61, 62, 63, 64, 65, 66, 67 };
	begin(VHU_P_REPLY_ACK);
	assert_int_equal(put_fds(SET_OWNER, 0, NULL, 0, fds, 2), 0);
	assert_int_equal(ev.kind, VHU_NONE);
	assert_int_equal(ev.n_fds, 2);
	assert_nack(99, put_fds(99, NEED_REPLY, NULL, 0, fds, 8)); /* at the limit */
	assert_int_equal(ev.n_fds, 8);

	void *room;
	size_t n;
	vhu_room(&v, &room, &n);
	memset(room, 0, n);
	assert_int_equal(vhu_received(&v, 3, fds, 5, &ev), 0);
	assert_close(vhu_received(&v, 3, fds + 4, 4, &ev)); /* limit + 1 */
	assert_int_equal(ev.n_fds, 9);
	assert_int_equal(ev.fds[0], 60);
	assert_int_equal(ev.fds[8], 67);

	/* the connection ends in the middle of a message */
	begin(0);
	int left[VHU_FDS_MAX];
	vhu_room(&v, &room, &n);
	assert_int_equal(vhu_received(&v, 3, fds, 3, &ev), 0);
	vhu_reset(&v, left, &n);
	assert_int_equal(n, 3);
	assert_int_equal(left[2], 62);
	vhu_room(&v, &room, &n);
	assert_int_equal(n, VHU_HEADER);
	vhu_reset(&v, left, &n);
	assert_int_equal(n, 0);
}

static int put_table(const uint64_t *words, uint32_t size, size_t n_fds)
{
	int fds[8] = { 50, 51, 52, 53, 54, 55, 56, 57 };
	return put_fds(SET_MEM_TABLE, NEED_REPLY, words, size, fds, n_fds);
}

static void test_memory_table(void **state)
{
	(void)state;
	begin(VHU_P_REPLY_ACK);
	uint64_t t[1 + 4 * 9] = { 8 };
	for (int i = 0; i < 9; i++)
		memcpy(t + 1 + 4 * i, (uint64_t[]){ (uint64_t)i << 20, 4096, 0x7000, 0 }, 32);
	assert_int_equal(put_table(t, 8 + 8 * 32, 8), 1); /* at the limit */
	assert_int_equal(ev.mem.n, 8);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(SET_MEM_TABLE), 0);
	t[0] = 9;
	assert_nack(SET_MEM_TABLE, put_table(t, 8 + 9 * 32, 8));
	t[0] = 2;
	assert_nack(SET_MEM_TABLE, put_table(t, 8 + 32, 2));
	assert_nack(SET_MEM_TABLE, put_table(t, 8 + 64, 1));
	assert_nack(SET_MEM_TABLE, put_table(t, 8 + 64, 3));
	assert_int_equal(put_table(t, 8 + 8 * 32, 2), 1); /* UML pads the table */
	assert_int_equal(ev.mem.n, 2);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	(void)reply_u64(SET_MEM_TABLE);
	static const uint64_t bad[][4] = { /* E7.2 */
		{ 0, 0, 0, 0 }, { UINT64_MAX, 2, 0, 0 }, { 0, 2, UINT64_MAX, 0 },
		{ 0, 4096, 0, UINT64_MAX - 4095 }, { 0, INT64_MAX, 0, 4096 }, { 0, 4096, 0, 512 }
	};
	t[0] = 1;
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		memcpy(t + 1, bad[i], 32);
		assert_nack(SET_MEM_TABLE, put_table(t, 40, 1));
	}
}

static void test_memory_slots(void **state)
{
	(void)state;
	uint64_t m[5] = { 0, 0x1000, 0x2000, 0x3000, 0x4000 };
	int fd = 50;
	begin(VHU_P_REPLY_ACK);
	assert_nack(ADD_MEM_REG, put_fds(ADD_MEM_REG, NEED_REPLY, m, 40, &fd, 1));
	begin(VHU_P_REPLY_ACK | VHU_P_CONFIGURE_MEM_SLOTS);
	assert_nack(ADD_MEM_REG, put(ADD_MEM_REG, NEED_REPLY, m, 40)); /* no descriptor */
	assert_int_equal(put_fds(ADD_MEM_REG, NEED_REPLY, m, 40, &fd, 1), 1);
	assert_int_equal(ev.kind, VHU_MEM_ADD);
	assert_true(ev.mem.region[0].gpa == 0x1000 && ev.mem.region[0].size == 0x2000);
	assert_true(ev.mem.region[0].uaddr == 0x3000 && ev.mem.region[0].offset == 0x4000);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	(void)reply_u64(ADD_MEM_REG);
	assert_int_equal(put_fds(REM_MEM_REG, 0, m, 40, &fd, 1), 1); /* E7.1: may carry one */
	assert_int_equal(ev.kind, VHU_MEM_REMOVE);
	assert_int_equal(ev.n_fds, 1);
	assert_int_equal(vhu_answer(&v, -ENOENT, 0), -EPROTO);
}

static void test_log_base_is_always_answered(void **state)
{
	(void)state;
	uint64_t log[2] = { 8192, 4096 };
	int fd = 50;
	begin(0);
	assert_close(put_fds(SET_LOG_BASE, 0, log, 16, &fd, 1));
	begin(VHU_P_LOG_SHMFD);
	assert_int_equal(put_fds(SET_LOG_BASE, 0, log, 16, &fd, 1), 1);
	assert_int_equal(ev.kind, VHU_LOG_BASE);
	assert_true(ev.log.size == 8192 && ev.log.offset == 4096);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(SET_LOG_BASE), 0); /* E3.2 */
	/* QEMU does not look at the value: a failure must end the connection */
	assert_int_equal(put_fds(SET_LOG_BASE, 0, log, 16, &fd, 1), 1);
	assert_int_equal(vhu_answer(&v, -EINVAL, 0), -EPROTO);
	begin(VHU_P_LOG_SHMFD | VHU_P_REPLY_ACK);
	assert_nack(SET_LOG_BASE, put(SET_LOG_BASE, NEED_REPLY, log, 16));
	log[0] = 0;
	assert_nack(SET_LOG_BASE, put_fds(SET_LOG_BASE, NEED_REPLY, log, 16, &fd, 1));
	log[0] = INT64_MAX;
	assert_nack(SET_LOG_BASE, put_fds(SET_LOG_BASE, NEED_REPLY, log, 16, &fd, 1));
	assert_int_equal(put_fds(SET_LOG_FD, 0, NULL, 0, &fd, 1), 1); /* E3.6 */
	assert_int_equal(ev.kind, VHU_LOG_FD);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
}

static void test_ring_setup(void **state)
{
	(void)state;
	struct {
		uint32_t index, flags;
		uint64_t desc, used, avail, log;
	} a = { 2, 1, 0x1000, 0x2000, 0x3000, 0x4000 };
	begin(VHU_P_REPLY_ACK);
	assert_nack(SET_VRING_NUM, put_ring(SET_VRING_NUM, NEED_REPLY, 3, 128)); /* E1.5 */
	assert_nack(SET_VRING_NUM, put_ring(SET_VRING_NUM, NEED_REPLY, 0, 0));
	assert_nack(SET_VRING_NUM, put_ring(SET_VRING_NUM, NEED_REPLY, 0, 2048));
	assert_int_equal(put_ring(SET_VRING_NUM, 0, 0, 1024), 1); /* at the limit */
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(put_ring(SET_VRING_BASE, 0, 1, 65535), 1);
	assert_int_equal(ev.kind, VHU_RING_BASE);
	assert_int_equal(ev.ring.value, 65535);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_nack(SET_VRING_BASE, put_ring(SET_VRING_BASE, NEED_REPLY, 1, 65536));
	assert_int_equal(put(SET_VRING_ADDR, 0, &a, 40), 1);
	assert_int_equal(ev.kind, VHU_RING_ADDR);
	assert_true(ev.addr.index == 2 && ev.addr.log && ev.addr.desc == 0x1000);
	assert_true(ev.addr.used == 0x2000 && ev.addr.avail == 0x3000 && ev.addr.log_gpa == 0x4000);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	a.flags = 2;
	assert_nack(SET_VRING_ADDR, put(SET_VRING_ADDR, NEED_REPLY, &a, 40));
	a.flags = 0, a.index = 3;
	assert_nack(SET_VRING_ADDR, put(SET_VRING_ADDR, NEED_REPLY, &a, 40));
	assert_nack(SET_VRING_ADDR, put(SET_VRING_ADDR, NEED_REPLY, &a, 39));
	assert_nack(SET_VRING_ENABLE, put_ring(SET_VRING_ENABLE, NEED_REPLY, 0, 2));
}

static void test_ring_descriptors(void **state)
{
	(void)state;
	int fd = 50;
	uint64_t one = 1, none = 0x101, other = 0x201, far = 3;
	begin(VHU_P_REPLY_ACK);
	for (uint32_t m = SET_VRING_KICK; m <= SET_VRING_ERR; m++) {
		assert_int_equal(put_fds(m, 0, &one, 8, &fd, 1), 1);
		assert_int_equal(ev.kind, VHU_RING_KICK + (m - SET_VRING_KICK));
		assert_int_equal(ev.ring.index, 1);
		assert_int_equal(vhu_answer(&v, 0, 0), 0);
		assert_int_equal(put(m, 0, &none, 8), 1); /* E2.2: poll, or do not notify */
		assert_int_equal(ev.n_fds, 0);
		assert_int_equal(vhu_answer(&v, 0, 0), 0);
		assert_nack(m, put(m, NEED_REPLY, &one, 8));
		assert_nack(m, put_fds(m, NEED_REPLY, &none, 8, &fd, 1));
		assert_nack(m, put_fds(m, NEED_REPLY, &other, 8, &fd, 1));
		assert_nack(m, put_fds(m, NEED_REPLY, &far, 8, &fd, 1));
	}
}

static void done(int r)
{
	assert_int_equal(r, 1);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	const void *p;
	vhu_sent(&v, vhu_output(&v, &p));
}

static void test_ring_states(void **state)
{
	(void)state;
	int fd = 50;
	uint64_t zero = 0, addr[5] = { 0 };
	begin(VHU_P_DEVICE_STATE);
	done(put_u64(SET_FEATURES, 0, VHU_F_PROTOCOL_FEATURES));
	assert_true(vhu_suspended(&v)); /* E2.1: stopped and disabled */
	assert_false(v.ring[0].enabled);
	done(put_fds(SET_VRING_KICK, 0, &zero, 8, &fd, 1));
	assert_false(vhu_suspended(&v));
	done(put_ring(SET_VRING_ENABLE, 0, 0, 1));
	assert_false(vhu_ring_runs(&v, 0)); /* E2.8: not set up, no error */
	done(put_ring(SET_VRING_NUM, 0, 0, 128));
	done(put(SET_VRING_ADDR, 0, addr, 40));
	assert_true(vhu_ring_runs(&v, 0));
	assert_false(vhu_ring_runs(&v, 1));
	done(put_u64(SET_FEATURES, 0, VHU_F_PROTOCOL_FEATURES | VHU_F_LOG_ALL));
	assert_true(vhu_ring_runs(&v, 0)); /* E3.1: not a reset */
	done(put_ring(SET_VRING_ENABLE, 0, 0, 0));
	assert_false(vhu_ring_runs(&v, 0)); /* E2.4 */
	assert_false(vhu_suspended(&v));    /* E2.3: disabled is not stopped */
	done(put_ring(SET_VRING_ENABLE, 0, 0, 1));
	assert_true(vhu_ring_runs(&v, 0)); /* E2.7 */
	done(put_ring(GET_VRING_BASE, 0, 0, 0));
	assert_true(vhu_suspended(&v));          /* E2.3 */
	done(put_ring(GET_VRING_BASE, 0, 2, 0)); /* E2.8 */
	done(put_fds(SET_VRING_KICK, 0, &zero, 8, &fd, 1));
	assert_true(vhu_ring_runs(&v, 0)); /* E2.7 */
}

static void test_rings_enabled_without_protocol_features(void **state)
{
	(void)state;
	vhu_init(&v, &offer);
	done(put_u64(SET_FEATURES, 0, F_VERSION_1)); /* E1.2 */
	for (int i = 0; i < 3; i++)
		assert_true(v.ring[i].enabled);
	assert_false(v.ring[3].enabled);
}

static void test_ring_base_reply(void **state)
{
	(void)state;
	begin(0);
	assert_int_equal(put_ring(GET_VRING_BASE, NEED_REPLY, 1, 7), 1);
	assert_int_equal(vhu_answer(&v, 0, 65534), 0);
	uint32_t want[2] = { 1, 65534 };
	assert_memory_equal(reply(GET_VRING_BASE, 8), want, 8); /* E2.6 */
	assert_close(put_ring(GET_VRING_BASE, 0, 3, 0));
}

static int put_config(uint32_t request, uint32_t offset, uint32_t size, uint32_t flags)
{
	uint8_t p[12 + 300] = { 0 };
	memcpy(p, (uint32_t[]){ offset, size, flags }, 12);
	p[12] = 9;
	return put(request, 0, p, 12 + size);
}

static void test_config(void **state)
{
	(void)state;
	begin(VHU_P_CONFIG);
	static const uint32_t ask[][2] = { { 0, 8 }, { 0, 4 }, { 4, 4 }, { 0, 256 }, { 256, 0 } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(ask); i++) { /* E1.6 */
		assert_int_equal(put_config(GET_CONFIG, ask[i][0], ask[i][1], 0), 0);
		const uint8_t *p = reply(GET_CONFIG, 12 + ask[i][1]);
		assert_memory_equal(p, ask[i], 8);
		if (ask[i][1] > 0)
			assert_int_equal(p[12], ask[i][0] == 0 ? 42 : 0);
	}
	assert_int_equal(put_config(GET_CONFIG, 1, 256, 0), 1);
	refused(1);
	(void)reply(GET_CONFIG, 0); /* an empty payload is the error */
	assert_int_equal(put_config(GET_CONFIG, UINT32_MAX, 2, 0), 1);
	(void)reply(GET_CONFIG, 0);
	assert_int_equal(put(GET_CONFIG, 0, (uint32_t[]){ 0, 8, 0 }, 12), 1);
	(void)reply(GET_CONFIG, 0);
	assert_close(put_config(SET_CONFIG, 0, 8, 0)); /* read-only */
	assert_int_equal(put_config(SET_CONFIG, 0, 8, 1), 1);
	assert_int_equal(ev.kind, VHU_SET_CONFIG);
	assert_int_equal(ev.config.size, 8);
	assert_int_equal(ev.config.data[0], 9);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	uint8_t msg[VHU_HEADER];
	vhu_config_change(msg); /* E1.7 */
	assert_memory_equal(msg, ((uint32_t[]){ 2, 1, 0 }), 12);
}

static void test_status_and_reset(void **state)
{
	(void)state;
	int fd = 50;
	uint64_t zero = 0;
	begin(VHU_P_STATUS | VHU_P_RESET_DEVICE | VHU_P_REPLY_ACK);
	assert_int_equal(put_u64(SET_STATUS, 0, 0xf), 0);
	assert_int_equal(put(GET_STATUS, 0, NULL, 0), 0);
	assert_int_equal(reply_u64(GET_STATUS), 0xf); /* E1.9 */
	assert_nack(SET_STATUS, put_u64(SET_STATUS, NEED_REPLY, 256));
	for (int i = 0; i < 2; i++) { /* E1.8, E1.9 */
		done(put_fds(SET_VRING_KICK, 0, &zero, 8, &fd, 1));
		done(put_ring(SET_VRING_ENABLE, 0, 0, 1));
		assert_int_equal(put(RESET_OWNER, 0, NULL, 0), 0);
		assert_false(vhu_suspended(&v)); /* E1.8: ignored */
		assert_int_equal(i ? put(RESET_DEVICE, 0, NULL, 0) : put_u64(SET_STATUS, 0, 0), 1);
		assert_int_equal(ev.kind, VHU_RESET);
		assert_int_equal(vhu_answer(&v, 0, 0), 0);
		assert_true(vhu_suspended(&v));
		assert_false(v.ring[0].enabled);
	}
	begin(0);
	assert_close(put(RESET_DEVICE, 0, NULL, 0));
}

static int put_state_fd(uint32_t direction, uint32_t phase)
{
	int fd = 50;
	return put_fds(SET_DEVICE_STATE_FD, 0, (uint32_t[]){ direction, phase }, 8, &fd, 1);
}

static void test_device_state(void **state)
{
	(void)state;
	int fd = 50;
	uint64_t zero = 0;
	begin(VHU_P_DEVICE_STATE);
	assert_int_equal(put_state_fd(1, 0), 1); /* E4.5: before SET_FEATURES */
	assert_int_equal(ev.kind, VHU_STATE_FD);
	assert_true(ev.state.load);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(SET_DEVICE_STATE_FD), 0x100); /* E4.1 */
	assert_int_equal(put_state_fd(0, 0), 1);
	assert_false(ev.state.load);
	assert_int_equal(vhu_answer(&v, -EBUSY, 0), 0);
	assert_int_equal(reply_u64(SET_DEVICE_STATE_FD), 0x101);
	assert_int_equal(put(CHECK_DEVICE_STATE, 0, NULL, 0), 1);
	assert_int_equal(ev.kind, VHU_STATE_CHECK);
	no_reply(); /* E4.4: later */
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(CHECK_DEVICE_STATE), 0);
	assert_int_equal(put(CHECK_DEVICE_STATE, 0, NULL, 0), 1);
	assert_int_equal(vhu_answer(&v, -EBADMSG, 0), 0);
	assert_int_equal(reply_u64(CHECK_DEVICE_STATE), 1);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(put_state_fd(2 - 2 * i, i), 1);
		refused(1);
		assert_int_equal(reply_u64(SET_DEVICE_STATE_FD), 0x101);
	}
	done(put_fds(SET_VRING_KICK, 0, &zero, 8, &fd, 1));
	assert_int_equal(put_state_fd(0, 0), 1); /* not while a ring is started */
	refused(1);
	assert_int_equal(reply_u64(SET_DEVICE_STATE_FD), 0x101);
	begin(0);
	assert_int_equal(put_state_fd(0, 0), 1); /* not agreed: it can be said all the same */
	refused(1);
	assert_int_equal(reply_u64(SET_DEVICE_STATE_FD), 0x101);
}

static void test_backend_channel(void **state)
{
	(void)state;
	int fd = 50;
	begin(VHU_P_BACKEND_REQ | VHU_P_REPLY_ACK);
	assert_int_equal(put_fds(SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0, &fd, 1), 1);
	assert_int_equal(ev.kind, VHU_BACKEND_FD);
	assert_int_equal(vhu_answer(&v, 0, 0), 0);
	assert_int_equal(reply_u64(SET_BACKEND_REQ_FD), 0);
	assert_nack(SET_BACKEND_REQ_FD, put(SET_BACKEND_REQ_FD, NEED_REPLY, NULL, 0));
}

static void test_new_connection_begins_anew(void **state)
{
	(void)state;
	int fds[VHU_FDS_MAX];
	size_t n;
	begin(VHU_P_MQ);
	done(put_u64(SET_FEATURES, 0, F_VERSION_1));
	vhu_reset(&v, fds, &n);
	assert_true(v.features == 0 && v.protocol_features == 0 && !v.ring[0].enabled);
	assert_int_equal(v.config[0], 42);
	assert_close(put(GET_QUEUE_NUM, 0, NULL, 0));
}

/* E5.1. The description has 20 bytes, 24 where it is padded. */
static void test_inflight(void **state)
{
	(void)state;
	uint8_t d[24] = { 0 };
	const uint16_t two[] = { 2, 256 };
	const int fds[] = { 5 };
	memcpy(d + 16, two, sizeof(two));
	for (uint32_t n = 20; n <= 24; n += 4) {
		begin(VHU_P_INFLIGHT_SHMFD | VHU_P_REPLY_ACK);
		assert_int_equal(put(GET_INFLIGHT_FD, 0, d, n), 1);
		assert_int_equal(ev.kind, VHU_INFLIGHT_GET);
		assert_int_equal(ev.inflight.n_queues, 2);
		assert_int_equal(ev.inflight.queue_size, 256);
		v.out_fd = 9;
		assert_int_equal(vhu_answer(&v, 0, 8192), 0);
		uint64_t size;
		const uint8_t *p = reply(GET_INFLIGHT_FD, n);
		memcpy(&size, p, sizeof(size));
		assert_int_equal(size, 8192);
		assert_memory_equal(p + 16, two, sizeof(two));
		assert_int_equal(put(GET_INFLIGHT_FD, 0, d, n), 1);
		assert_int_equal(vhu_answer(&v, -ENOMEM, 0), 0);
		memcpy(&size, reply(GET_INFLIGHT_FD, n), sizeof(size));
		assert_int_equal(size, 0); /* no file, and the front end does without */
		size = 8192;
		memcpy(d, &size, sizeof(size));
		done(put_fds(SET_INFLIGHT_FD, NEED_REPLY, d, n, fds, 1));
		assert_int_equal(ev.kind, VHU_INFLIGHT_SET);
		assert_int_equal(ev.inflight.size, 8192);
		assert_nack(SET_INFLIGHT_FD,
			put(SET_INFLIGHT_FD, NEED_REPLY, d, n)); /* no descriptor */
	}
	begin(VHU_P_REPLY_ACK);
	assert_int_equal(
		put(GET_INFLIGHT_FD, 0, d, 24), 1); /* not agreed: none, in its own words */
	assert_int_equal(reply(GET_INFLIGHT_FD, 24)[0], 0);
	assert_close(put(GET_INFLIGHT_FD, NEED_REPLY, d, 8));
	begin(VHU_P_INFLIGHT_SHMFD | VHU_P_REPLY_ACK);
	const uint16_t bad[][2] = { { 0, 256 }, { 4, 256 }, { 2, 0 }, { 2, 2048 } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		memcpy(d + 16, bad[i], sizeof(bad[i]));
		assert_nack(SET_INFLIGHT_FD, put_fds(SET_INFLIGHT_FD, NEED_REPLY, d, 20, fds, 1));
	}
}

/* ---- another process goes on ---- */

static void test_goes_on_at_every_byte(void **state)
{
	(void)state;
	struct vhu_saved s;
	static struct vhu next;
	uint8_t msg[VHU_HEADER + 8] = { 0 };
	const uint32_t head[3] = { SET_VRING_CALL, 1, 8 };
	memcpy(msg, head, sizeof(head));
	for (size_t cut = 0; cut < sizeof(msg); cut++) {
		const int fds[] = { 77 };
		begin(VHU_P_MQ | VHU_P_REPLY_ACK);
		for (size_t at = 0; at < cut; at++) {
			void *buf;
			size_t room;
			vhu_room(&v, &buf, &room);
			memcpy(buf, msg + at, 1);
			assert_int_equal(vhu_received(&v, 1, fds, at == 0, &ev), 0);
		}
		assert_true(vhu_save(&v, &s));
		vhu_init(&next, &offer);
		assert_int_equal(vhu_restore(&next, &s), 0);
		assert_int_equal(next.protocol_features, VHU_P_MQ | VHU_P_REPLY_ACK);
		int r = 0;
		for (size_t at = cut; at < sizeof(msg); at++) {
			void *buf;
			size_t room;
			vhu_room(&next, &buf, &room);
			assert_true(room > 0);
			memcpy(buf, msg + at, 1);
			r = vhu_received(&next, 1, fds, at == 0, &ev);
		}
		assert_int_equal(r, 1);
		assert_int_equal(ev.kind, VHU_RING_CALL);
		assert_int_equal(ev.n_fds, 1);
		assert_int_equal(ev.fds[0], 77);
	}
}

static void test_an_answer_goes_on(void **state)
{
	(void)state;
	struct vhu_saved s;
	const void *p;
	begin(VHU_P_MQ);
	assert_int_equal(put(GET_QUEUE_NUM, 0, NULL, 0), 0);
	vhu_sent(&v, 5);
	assert_true(vhu_save(&v, &s));
	uint8_t rest[VHU_HEADER + 8];
	memcpy(rest, s.out, s.out_len);
	vhu_init(&v, &offer);
	s.out = rest;
	s.in = NULL;
	assert_int_equal(vhu_restore(&v, &s), 0);
	assert_int_equal(vhu_output(&v, &p), VHU_HEADER + 8 - 5);
	assert_int_equal(((const uint8_t *)p)[VHU_HEADER - 5], 3);
	vhu_init(&v, &offer);
	begin(0);
	assert_int_equal(put_ring(SET_VRING_NUM, 0, 0, 256), 1);
	assert_false(vhu_save(&v, &s)); /* the event would be lost */
}

static void test_restore_refuses(void **state)
{
	(void)state;
	const uint32_t whole[3] = { GET_FEATURES, 1, 0 }, bad[3] = { GET_FEATURES, 7, 0 };
	const struct vhu_saved wrong[] = {
		{ .features = 1ull << 63 }, { .protocol_features = P_NOT_LISTED },
		{ .in = (const uint8_t *)whole, .in_len = sizeof(whole) },
		{ .in = (const uint8_t *)bad, .in_len = sizeof(bad) }, { .in_len = 1 << 20 },
		{ .out_len = 1 << 20 }, { .n_fds = VHU_FDS_MAX + 1 },
		{ .ring = { [3] = { .started = true } } }, /* there are three */
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(wrong); i++) {
		void *buf;
		size_t room;
		vhu_init(&v, &offer);
		assert_int_equal(vhu_restore(&v, &wrong[i]), -EINVAL);
		vhu_room(&v, &buf, &room);
		assert_int_equal(room, VHU_HEADER);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_no_log_feature_without_its_protocol_feature),
		cmocka_unit_test(test_reply_ack),
		cmocka_unit_test(test_reply_ack_that_turns_itself_on),
		cmocka_unit_test(test_split_at_every_byte),
		cmocka_unit_test(test_one_after_the_other),
		cmocka_unit_test(test_headers_that_end_the_connection),
		cmocka_unit_test(test_descriptors_all_come_out_again),
		cmocka_unit_test(test_memory_table),
		cmocka_unit_test(test_memory_slots),
		cmocka_unit_test(test_log_base_is_always_answered),
		cmocka_unit_test(test_ring_setup),
		cmocka_unit_test(test_ring_descriptors),
		cmocka_unit_test(test_ring_states),
		cmocka_unit_test(test_rings_enabled_without_protocol_features),
		cmocka_unit_test(test_ring_base_reply),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_status_and_reset),
		cmocka_unit_test(test_device_state),
		cmocka_unit_test(test_backend_channel),
		cmocka_unit_test(test_new_connection_begins_anew),
		cmocka_unit_test(test_inflight),
		cmocka_unit_test(test_goes_on_at_every_byte),
		cmocka_unit_test(test_an_answer_goes_on),
		cmocka_unit_test(test_restore_refuses),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
