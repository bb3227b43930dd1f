/* SPDX-License-Identifier: MIT */
#include "frontend.h"
#include "base/bytes.h"
#include "base/fd.h"
#include "vhostuser/vhostuser.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* Guest memory: region 0 holds three rings, region 1 the buffers. */
#define LOW_BYTES    (1u << 20)
#define HIGH_GPA     (1ull << 32)
#define HIGH_BYTES   (32u << 20)
#define RING_GPA(i)  ((uint64_t)(i) << 16)
#define RX_SPACE     (2u << 20)
#define EVENT_SPACE  4096u
#define RX_SLOT      4160u /* holds FE_RX_BYTES; payload begins on a cache line, as in Linux, ... */
#define TX_SLOT      (FE_PAYLOAD_MAX + 128u)
#define TX_PAD       (64u - VSK_HDR_BYTES) /* ... here too */
#define RX_GPA(i)    (HIGH_GPA + 64u - VSK_HDR_BYTES + (uint64_t)(i)*RX_SLOT)
#define EVENT_GPA(i) (HIGH_GPA + RX_SPACE + (uint64_t)(i)*8)
#define TX_GPA(i)    (HIGH_GPA + RX_SPACE + EVENT_SPACE + TX_PAD + (uint64_t)(i)*TX_SLOT)
#define SIZE_MAX_    256 /* slots that fit */

enum { RX, TX, EVENT };

static uint8_t *at(const struct fe *f, uint64_t gpa)
{
	return gpa < HIGH_GPA ? f->mem + gpa : f->mem + LOW_BYTES + (gpa - HIGH_GPA);
}

static int rings(const struct fe *f)
{
	return f->cfg.keep_event_ring ? 2 : 3;
}

/* ---- messages ---- */

int fe_message(struct fe *f, uint32_t request, uint32_t flags, const void *payload, size_t n,
	const int *fds, size_t n_fds)
{
	uint8_t msg[VHU_HEADER + VHU_PAYLOAD_MAX];
	uint32_t head[3] = { request, 1 | flags, (uint32_t)n };
	memcpy(msg, head, sizeof(head));
	if (n > 0)
		memcpy(msg + sizeof(head), payload, n);
	ssize_t r = unix_send_fds(f->sock, msg, sizeof(head) + n, fds, n_fds);
	return r < 0 ? (int)r : 0;
}

static int read_all(int fd, void *buf, size_t n)
{
	for (size_t off = 0; off < n;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int r = poll(&p, 1, FE_TIMEOUT_MS);
		if (r <= 0)
			return r < 0 ? -errno : -ETIMEDOUT;
		ssize_t k = read(fd, (uint8_t *)buf + off, n - off);
		if (k < 0)
			return -errno;
		if (k == 0)
			return -ENODATA;
		off += (size_t)k;
	}
	return 0;
}

int fe_reply(struct fe *f, uint32_t request, void *ret, size_t n)
{
	uint32_t head[3];
	int r = read_all(f->sock, head, sizeof(head));
	if (r < 0)
		return r;
	if (head[0] != request || head[1] != (1 | 4) || head[2] != n)
		return -EPROTO;
	return read_all(f->sock, ret, n);
}

int fe_request(struct fe *f, uint32_t request, const void *payload, size_t n, const int *fds,
	size_t n_fds, void *ret, size_t ret_n)
{
	bool ack = ret_n == 0 && (f->protocol_features & VHU_P_REPLY_ACK);
	int r = fe_message(f, request, ack ? 8 : 0, payload, n, fds, n_fds);
	if (r < 0)
		return r;
	if (ret_n > 0)
		return fe_reply(f, request, ret, ret_n);
	uint64_t failed = 0;
	if (ack)
		r = fe_reply(f, request, &failed, 8);
	return r < 0 ? r : failed ? -EPROTO : 0;
}

static int set_u64(struct fe *f, uint32_t request, uint64_t x)
{
	return fe_request(f, request, &x, 8, NULL, 0, NULL, 0);
}

static int get_u64(struct fe *f, uint32_t request, uint64_t *ret)
{
	return fe_request(f, request, NULL, 0, NULL, 0, ret, 8);
}

static int set_ring(struct fe *f, uint32_t request, uint32_t index, uint32_t value)
{
	return fe_request(f, request, (uint32_t[]){ index, value }, 8, NULL, 0, NULL, 0);
}

static int set_ring_fd(struct fe *f, uint32_t request, uint64_t index, int fd)
{
	return fe_request(f, request, &index, 8, &fd, 1, NULL, 0);
}

/* ---- life ---- */

static int negotiate(struct fe *f)
{
	struct {
		uint32_t offset, size, flags;
		uint8_t data[8];
	} config = { .size = 8 };
	uint64_t offered, protocol;
	int r = get_u64(f, 1, &offered);
	if (r == 0)
		r = get_u64(f, 15, &protocol);
	if (r < 0)
		return r;
	f->features = f->cfg.features ? f->cfg.features : offered & ~VHU_F_LOG_ALL;
	if (f->cfg.no_event_idx)
		f->features &= ~(1ull << 29);
	protocol &= f->cfg.protocol_features ? f->cfg.protocol_features : UINT64_MAX;
	r = fe_message(f, 16, 0, &protocol, 8, NULL, 0);
	f->protocol_features = protocol;
	if (r == 0)
		r = fe_request(f, 3, NULL, 0, NULL, 0, NULL, 0);
	if (r == 0 && (protocol & VHU_P_CONFIG))
		r = fe_request(f, 24, &config, sizeof(config), NULL, 0, &config, sizeof(config));
	f->cid = le64_at(config.data);
	return r;
}

static int make_memory(struct fe *f)
{
	f->memfd = memfd_create("guest", MFD_CLOEXEC);
	if (f->memfd < 0 || ftruncate(f->memfd, LOW_BYTES + HIGH_BYTES) < 0)
		return -errno;
	f->mem =
		mmap(NULL, LOW_BYTES + HIGH_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, f->memfd, 0);
	if (f->mem == MAP_FAILED) {
		f->mem = NULL;
		return -errno;
	}
	for (int i = 0; i < FE_RINGS; i++) {
		drv_init(&f->ring[i], at(f, RING_GPA(i)), RING_GPA(i), f->cfg.queue_size,
			f->features & (1ull << 29));
		f->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (f->kick[i] < 0 || f->call[i] < 0)
			return -errno;
	}
	return 0;
}

int fe_open(struct fe *f, const char *path, const struct fe_cfg *cfg)
{
	*f = (struct fe){ .sock = -1, .memfd = -1, .logfd = -1 };
	for (int i = 0; i < FE_RINGS; i++)
		f->kick[i] = f->call[i] = -1;
	if (cfg)
		f->cfg = *cfg;
	if (f->cfg.queue_size == 0)
		f->cfg.queue_size = 128;
	if (f->cfg.rx_bytes == 0)
		f->cfg.rx_bytes = FE_RX_BYTES;
	hf_assert(f->cfg.rx_bytes <= FE_RX_BYTES);
	hf_assert(f->cfg.queue_size <= SIZE_MAX_);
	int r = unix_connect(path, &f->sock);
	if (r == 0)
		r = negotiate(f);
	if (r == 0)
		r = make_memory(f);
	if (r < 0)
		fe_close(f);
	return r;
}

void fe_close(struct fe *f)
{
	fd_closep(&f->sock);
	fd_closep(&f->memfd);
	fd_closep(&f->logfd);
	for (int i = 0; i < FE_RINGS; i++) {
		fd_closep(&f->kick[i]);
		fd_closep(&f->call[i]);
	}
	if (f->mem)
		(void)munmap(f->mem, LOW_BYTES + HIGH_BYTES); /* ours, whole */
	if (f->log)
		(void)munmap(f->log, f->log_bytes); /* likewise */
	f->mem = f->log = NULL;
}

static int set_memory(struct fe *f)
{
	uint64_t t[9] = { 2, 0, LOW_BYTES, (uintptr_t)f->mem, 0, HIGH_GPA, HIGH_BYTES,
		(uintptr_t)f->mem + LOW_BYTES, LOW_BYTES };
	int fds[2] = { f->memfd, f->memfd };
	if (!(f->protocol_features & VHU_P_CONFIGURE_MEM_SLOTS))
		return fe_request(f, 5, t, sizeof(t), fds, 2, NULL, 0);
	int r = 0;
	for (int i = 0; i < 2 && r == 0; i++) { /* QEMU's way */
		uint64_t one[5] = { 0 };
		memcpy(one + 1, t + 1 + 4 * i, 32);
		r = fe_request(f, 37, one, sizeof(one), &f->memfd, 1, NULL, 0);
	}
	return r;
}

static int set_addr(struct fe *f, int i)
{
	uint64_t user = (uintptr_t)at(f, RING_GPA(i));
	struct {
		uint32_t index, flags;
		uint64_t desc, used, avail, log;
	} a = { .index = (uint32_t)i,
		.flags = f->features & VHU_F_LOG_ALL ? 1 : 0,
		.desc = user,
		.used = user + drv_used_offset(f->cfg.queue_size),
		.avail = user + drv_avail_offset(f->cfg.queue_size),
		.log = RING_GPA(i) + drv_used_offset(f->cfg.queue_size) };
	return fe_request(f, 9, &a, sizeof(a), NULL, 0, NULL, 0);
}

static void kick(struct fe *f, int i)
{
	uint64_t one = 1;
	f->kicks++;
	(void)!write(f->kick[i], &one, 8); /* full counter: signalled already */
}

static void publish(struct fe *f, int i)
{
	if (drv_publish(&f->ring[i]))
		kick(f, i);
}

static void fill_rx(struct fe *f)
{
	for (;;) {
		struct drv_buf b = { RX_GPA(f->ring[RX].free_head), f->cfg.rx_bytes, true };
		if (drv_add(&f->ring[RX], &b, 1) < 0)
			break;
	}
}

static void fill(struct fe *f)
{
	fill_rx(f);
	for (;;) {
		struct drv_buf b = { EVENT_GPA(f->ring[EVENT].free_head), 8, true };
		if (drv_add(&f->ring[EVENT], &b, 1) < 0)
			break;
	}
	f->filled = true;
}

static int start_ring(struct fe *f, int i)
{
	uint32_t u = (uint32_t)i;
	int r = set_ring(f, 8, u, f->cfg.queue_size);
	if (r == 0)
		r = set_ring(f, 10, u, f->base[i]);
	if (r == 0)
		r = set_addr(f, i);
	if (r == 0)
		r = set_ring_fd(f, 12, u, f->kick[i]);
	if (r == 0)
		r = set_ring_fd(f, 13, u, f->call[i]);
	return r;
}

int fe_start(struct fe *f)
{
	int r = set_u64(f, 2, f->features);
	if (r == 0 && !f->memory_set)
		r = set_memory(f);
	f->memory_set = true;
	for (int i = 0; i < rings(f) && r == 0; i++)
		r = start_ring(f, i);
	for (int i = 0; i < rings(f) && r == 0; i++)
		r = set_ring(f, 18, (uint32_t)i, 1);
	if (r < 0)
		return r;
	if (!f->filled)
		fill(f);
	for (int i = 0; i < FE_RINGS; i++) {
		(void)drv_arm(&f->ring[i]); /* we look before we sleep */
		publish(f, i);
	}
	return 0;
}

int fe_stop(struct fe *f)
{
	for (int i = 0; i < rings(f); i++) {
		uint32_t state[2] = { (uint32_t)i, 0 };
		int r = set_ring(f, 18, (uint32_t)i, 0);
		if (r == 0)
			r = fe_request(f, 11, state, 8, NULL, 0, state, 8);
		if (r < 0)
			return r;
		f->base[i] = (uint16_t)state[1];
	}
	return 0;
}

/* ---- packets ---- */

int fe_reap(struct fe *f)
{
	uint16_t head;
	uint32_t len;
	int n = 0;
	while (drv_take(&f->ring[TX], &head, &len))
		n++;
	return n;
}

int fe_queue(struct fe *f, const struct vsk_pkt *pkt, const void *payload, uint32_t part)
{
	struct drv_buf b[64];
	uint64_t gpa = TX_GPA(f->ring[TX].free_head);
	uint32_t all = VSK_HDR_BYTES + pkt->len;
	size_t n = 0;
	if (pkt->len > FE_PAYLOAD_MAX)
		return -EMSGSIZE;
	if (f->ring[TX].n_free == 0)
		return -ENOSPC;
	for (uint32_t off = 0; off < all;) {
		uint32_t k = part == 0 ? all : off == 0 ? VSK_HDR_BYTES : HF_MIN(part, all - off);
		if (n == HF_ARRAY_SIZE(b))
			return -E2BIG;
		b[n++] = (struct drv_buf){ gpa + off, k, false };
		off += k;
	}
	if (n > f->ring[TX].n_free)
		return -ENOSPC;
	vsk_pkt_encode(pkt, at(f, gpa));
	if (pkt->len > 0 && payload)
		memcpy(at(f, gpa) + VSK_HDR_BYTES, payload, pkt->len);
	return drv_add(&f->ring[TX], b, n) < 0 ? -ENOSPC : 0;
}

void fe_flush(struct fe *f)
{
	publish(f, TX);
}

int fe_wait_call(struct fe *f, int ring, int timeout_ms)
{
	struct pollfd p[2] = { { .fd = f->call[ring], .events = POLLIN },
		{ .fd = f->sock, .events = POLLRDHUP } };
	uint64_t count;
	int r = poll(p, 2, timeout_ms);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	if (read(f->call[ring], &count, 8) == 8) {
		f->calls++;
		return 0;
	}
	return p[1].revents ? -ENODATA : 0;
}

int fe_send(struct fe *f, const struct vsk_pkt *pkt, const void *payload, uint32_t part)
{
	for (;;) {
		(void)fe_reap(f); /* room is seen by fe_queue() */
		int r = fe_queue(f, pkt, payload, part);
		if (r == 0)
			fe_flush(f);
		if (r != -ENOSPC)
			return r;
		fe_flush(f);
		if (!drv_arm(&f->ring[TX]) && (r = fe_wait_call(f, TX, FE_TIMEOUT_MS)) < 0)
			return r;
	}
}

/* One used buffer of a ring that the device writes. */
static int take(struct fe *f, int ring, uint16_t *ret_head, uint32_t *ret_len, int timeout_ms)
{
	while (!drv_take(&f->ring[ring], ret_head, ret_len)) {
		if (drv_arm(&f->ring[ring]))
			continue;
		int r = fe_wait_call(f, ring, timeout_ms);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The packet in the rx buffer that was taken. */
static int open_packet(const struct fe *f, uint16_t head, uint32_t len, struct vsk_pkt *ret_pkt)
{
	if (len < VSK_HDR_BYTES || len > f->cfg.rx_bytes)
		return -EBADMSG;
	vsk_pkt_decode(at(f, RX_GPA(head)), ret_pkt);
	return ret_pkt->len == len - VSK_HDR_BYTES ? 0 : -EBADMSG;
}

int fe_recv(struct fe *f, struct vsk_pkt *ret_pkt, void *payload, size_t cap, int timeout_ms)
{
	uint16_t head;
	uint32_t len;
	int r = take(f, RX, &head, &len, timeout_ms);
	if (r == 0)
		r = open_packet(f, head, len, ret_pkt);
	if (r < 0)
		return r;
	if (cap > 0)
		memcpy(payload, at(f, RX_GPA(head)) + VSK_HDR_BYTES,
			HF_MIN(cap, (size_t)ret_pkt->len));
	fill_rx(f);
	publish(f, RX);
	return 0;
}

int fe_look(struct fe *f, struct vsk_pkt *ret_pkt)
{
	struct drv *d = &f->ring[RX];
	uint16_t head;
	uint32_t len;
	if (drv_take(d, &head, &len)) {
		int r = open_packet(f, head, len, ret_pkt);
		return r < 0 ? r : 1;
	}
	if (d->n_free > (f->cfg.lazy_refill ? d->size / 2 : 0)) {
		fill_rx(f);
		publish(f, RX);
	}
	return 0;
}

int fe_wait(struct fe *f, int timeout_ms)
{
	struct pollfd p[3] = { { .fd = f->call[RX], .events = POLLIN },
		{ .fd = f->call[TX], .events = POLLIN }, { .fd = f->sock, .events = POLLRDHUP } };
	uint64_t count;
	bool rx = drv_arm(&f->ring[RX]), tx = drv_arm(&f->ring[TX]);
	if (rx || tx)
		return 0;
	int r = poll(p, 3, timeout_ms);
	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	for (int i = 0; i < 2; i++)
		if (p[i].revents)
			f->calls += read(p[i].fd, &count, 8) == 8;
	return p[2].revents ? -ENODATA : 0;
}

int fe_event(struct fe *f, uint32_t *ret_id, int timeout_ms)
{
	uint16_t head;
	uint32_t len;
	int r = take(f, EVENT, &head, &len, timeout_ms);
	if (r < 0)
		return r;
	*ret_id = le32_at(at(f, EVENT_GPA(head)));
	struct drv_buf b = { EVENT_GPA(f->ring[EVENT].free_head), 8, true };
	(void)drv_add(&f->ring[EVENT], &b, 1); /* likewise */
	publish(f, EVENT);
	return len == 4 ? 0 : -EBADMSG;
}

/* ---- dirty log, state, migration ---- */

static int relog(struct fe *f)
{
	int r = set_u64(f, 2, f->features);
	for (int i = 0; i < rings(f) && r == 0; i++)
		r = set_addr(f, i);
	return r;
}

int fe_log_start(struct fe *f)
{
	f->log_bytes = (HIGH_GPA + HIGH_BYTES) / 4096 / 8;
	f->logfd = memfd_create("log", MFD_CLOEXEC);
	if (f->logfd < 0 || ftruncate(f->logfd, (off_t)f->log_bytes) < 0)
		return -errno;
	f->log = mmap(NULL, f->log_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->logfd, 0);
	if (f->log == MAP_FAILED) {
		f->log = NULL;
		return -errno;
	}
	uint64_t where[2] = { f->log_bytes, 0 }, status;
	int r = fe_request(f, 6, where, sizeof(where), &f->logfd, 1, &status, 8);
	if (r < 0)
		return r;
	f->features |= VHU_F_LOG_ALL;
	return status ? -EPROTO : relog(f);
}

int fe_log_stop(struct fe *f)
{
	f->features &= ~VHU_F_LOG_ALL;
	return relog(f);
}

bool fe_log_dirty(const struct fe *f, uint64_t gpa)
{
	return f->log[gpa / 4096 / 8] >> (gpa / 4096 % 8) & 1;
}

/* Sends the back end's end of the channel; ours stays. */
static int state_begin(struct fe *f, uint32_t direction, int *ret_fd)
{
	int sv[2];
	uint64_t status = 1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	uint32_t what[2] = { direction, 0 };
	int r = fe_request(f, 42, what, 8, &sv[1], 1, &status, 8);
	fd_closep(&sv[1]);
	if (r == 0 && status != 0x100)
		r = -EPROTO;
	*ret_fd = sv[0];
	if (r < 0)
		fd_closep(ret_fd);
	return r;
}

static int state_check(struct fe *f)
{
	uint64_t status;
	int r = get_u64(f, 43, &status);
	return r < 0 ? r : status ? -EPROTO : 0;
}

int fe_save(struct fe *f, void *buf, size_t cap, size_t *ret_n)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	int r = state_begin(f, 0, &fd);
	if (r < 0)
		return r;
	size_t n = 0;
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		if (poll(&p, 1, FE_TIMEOUT_MS) <= 0)
			return -ETIMEDOUT;
		ssize_t k = read(fd, (uint8_t *)buf + n, cap - n);
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		n += (size_t)k;
	}
	if (n == cap)
		return -EMSGSIZE;
	*ret_n = n;
	return state_check(f);
}

int fe_load(struct fe *f, const void *buf, size_t n)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	int r = state_begin(f, 1, &fd);
	if (r == 0)
		r = fd_write_all(fd, buf, n);
	fd_closep(&fd);
	return r < 0 ? r : state_check(f);
}

static uint8_t *moved(const struct fe *dst, const struct fe *src, const uint8_t *p)
{
	return dst->mem + (p - src->mem);
}

void fe_move(struct fe *dst, const struct fe *src)
{
	memcpy(dst->mem, src->mem, LOW_BYTES + HIGH_BYTES);
	memcpy(dst->base, src->base, sizeof(dst->base));
	dst->filled = src->filled;
	for (int i = 0; i < FE_RINGS; i++) {
		dst->ring[i] = src->ring[i];
		dst->ring[i].desc = moved(dst, src, src->ring[i].desc);
		dst->ring[i].avail = moved(dst, src, src->ring[i].avail);
		dst->ring[i].used = moved(dst, src, src->ring[i].used);
	}
}
