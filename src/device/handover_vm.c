/* SPDX-License-Identifier: MIT */
/*
 * handover_vm.c - one VM in the record of a takeover.
 *
 * Its options as they were given, its sockets, what was negotiated with its front end, memory and
 * queues, host clients that wait, and then its connections: the engine's record (vsock.h), and for
 * each of them what the engine does not know. What a socket or an eventfd has to say is not in it:
 * whoever watches a descriptor anew is told at once.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "handover.h"
#include "map.h"
#include <errno.h>
#include <string.h>

#define TOKENS_MAX (1ull << 40) /* that a bucket may lack */
#define ANY        UINT64_MAX

/* ---- saving ---- */

static void save_file(struct dev_pack *p, const void *map)
{
	struct dev_map_file f = { .fd = -1 };
	(void)dev_map_file(map, &f); /* nothing is mapped: no descriptor says so */
	dev_pack_fd(p, f.fd);
	dev_pack_number(p, f.offset);
	dev_pack_number(p, f.size);
}

static void save_policies(const struct dev_policies *pol, struct dev_pack *p)
{
	dev_pack_number(p, pol->otherwise);
	dev_pack_number(p, pol->n);
	for (size_t i = 0; i < pol->n; i++) {
		dev_pack_number(p, pol->rule[i].first);
		dev_pack_number(p, pol->rule[i].last);
		dev_pack_number(p, pol->rule[i].policy);
	}
}

static uint64_t missing(const struct dev_bucket *b)
{
	int64_t n = (int64_t)b->cap - b->tokens;
	return HF_MIN((uint64_t)HF_MAX(n, 0), TOKENS_MAX);
}

static void save_limits(const struct dev_limits *l, struct dev_pack *p)
{
	dev_pack_number(p, missing(&l->bytes));
	dev_pack_number(p, missing(&l->conns));
	dev_pack_number(p, l->refused_port);
	dev_pack_number(p, l->refused_many);
	dev_pack_number(p, l->refused_rate);
	dev_pack_number(p, l->refused_uid);
	dev_pack_number(p, l->waits);
}

static void save_vhu(const struct vhu *v, struct dev_pack *p)
{
	struct vhu_saved s = { 0 };
	(void)vhu_save(v, &s); /* dev_handover_refused() has asked */
	dev_pack_number(p, s.features);
	dev_pack_number(p, s.protocol_features);
	dev_pack_number(p, s.status);
	for (int i = 0; i < VHU_QUEUES_MAX; i++) {
		dev_pack_number(p, s.ring[i].started);
		dev_pack_number(p, s.ring[i].enabled);
		dev_pack_number(p, s.ring[i].has_num);
		dev_pack_number(p, s.ring[i].has_addr);
	}
	dev_pack_bytes(p, s.in, s.in_len);
	dev_pack_bytes(p, s.out, s.out_len);
	dev_pack_fd(p, s.out_fd);
	dev_pack_number(p, s.n_fds);
	for (size_t i = 0; i < s.n_fds; i++)
		dev_pack_fd(p, s.fds[i]);
}

static void save_head(const struct dev_vm *vm, struct dev_pack *p)
{
	dev_pack_begin(p, DEV_PART_VM);
	dev_pack_number(p, vm->index);
	dev_pack_bytes(p, vm->opt->given, vm->opt->given_len);
	dev_pack_number(p, vm->opt->guest_cid);
	dev_pack_number(p, vm->opt->fd >= 0);
	dev_pack_number(p, vm->running);
	dev_pack_number(p, vm->stranger);
	dev_pack_number(p, vm->tx_blocked);
	dev_pack_number(p, vm->ended);
	dev_pack_fd(p, vm->front_listen);
	dev_pack_fd(p, vm->front);
	dev_pack_fd(p, vm->backend);
	for (int i = 0; i < DEV_DOORS; i++)
		dev_pack_fd(p, vm->host_listen[i]);
	save_policies(&vm->policies, p);
	save_limits(&vm->limits, p);
	save_vhu(&vm->vhu, p);
	save_file(p, vm->log_map);
	dev_pack_number(p, vm->mem.log.size);
	dev_pack_end(p);
}

static void save_region(const struct vq_region *r, struct dev_pack *p)
{
	dev_pack_begin(p, DEV_PART_REGION);
	dev_pack_number(p, r->gpa);
	dev_pack_number(p, r->uaddr);
	save_file(p, r->host);
	dev_pack_end(p);
}

static void save_queue(const struct dev_queue *q, uint64_t index, struct dev_pack *p)
{
	const struct vq *vq = &q->vq;
	dev_pack_begin(p, DEV_PART_QUEUE);
	dev_pack_number(p, index);
	dev_pack_fd(p, q->kick);
	dev_pack_fd(p, q->call);
	dev_pack_number(p, q->polled);
	dev_pack_number(p, q->stopped_before);
	dev_pack_number(p, q->stop_base);
	dev_pack_number(p, vq_started(vq));
	dev_pack_number(p, vq->broken);
	dev_pack_number(p, vq->size);
	dev_pack_number(p, vq_base(vq));
	dev_pack_number(p, vq->addr_set);
	dev_pack_number(p, vq->addr.desc);
	dev_pack_number(p, vq->addr.avail);
	dev_pack_number(p, vq->addr.used);
	dev_pack_number(p, vq->addr.log);
	dev_pack_number(p, vq->addr.log_gpa);
	dev_pack_end(p);
}

static void save_inflight(const struct dev_inflight *f, struct dev_pack *p)
{
	if (!f->map)
		return;
	dev_pack_begin(p, DEV_PART_INFLIGHT);
	save_file(p, f->map);
	dev_pack_number(p, f->n_queues);
	dev_pack_number(p, f->queue_size);
	dev_pack_end(p);
}

static void save_hello(const struct dev_hello *h, struct dev_pack *p)
{
	if (h->fd < 0)
		return;
	dev_pack_begin(p, DEV_PART_HELLO);
	dev_pack_fd(p, h->fd);
	dev_pack_number(p, h->door);
	dev_pack_number(p, h->said);
	dev_pack_number(p, h->port);
	dev_pack_number(p, h->until_us);
	dev_pack_end(p);
}

static void save_engine(const struct dev_vm *vm, struct dev_pack *p)
{
	const uint64_t *stats = (const uint64_t *)&vm->vsk.stats;
	struct vsk_save s;
	size_t len = 0, cap = vsk_save_size(&vm->vsk);
	for (struct vsk_conn *v = NULL; (v = vsk_next((struct vsk *)&vm->vsk, v)) != NULL;)
		cap += dev_state_bytes(dev_conn_of(v));
	HF_CLEANUP(hf_freep) uint8_t *buf = malloc(cap);
	if (!buf) {
		p->error = -ENOMEM;
		return;
	}
	vsk_save_begin_takeover(&s, &vm->vsk, buf, cap);
	for (struct vsk_conn *v = NULL; (v = vsk_next((struct vsk *)&vm->vsk, v)) != NULL;)
		dev_state_put(&s, dev_conn_of(v), true);
	int r = vsk_save_end(&s, &len);
	if (r < 0)
		p->error = r;
	dev_pack_begin(p, DEV_PART_ENGINE);
	dev_pack_bytes(p, buf, len);
	dev_pack_number(p, sizeof(vm->vsk.stats) / sizeof(*stats));
	for (size_t i = 0; i < sizeof(vm->vsk.stats) / sizeof(*stats); i++)
		dev_pack_number(p, stats[i]);
	dev_pack_end(p);
}

/* One that dials makes a new socket there: nobody has seen the old one. */
static void save_conn(const struct dev_conn *c, struct dev_pack *p)
{
	dev_pack_begin(p, DEV_PART_CONN);
	dev_pack_fd(p, c->dialling ? -1 : c->fd);
	dev_pack_number(p, c->sibling || c->relay); /* that comes elsewhere */
	dev_pack_number(p, c->arrived);
	dev_pack_number(p, c->wide);
	dev_pack_number(p, c->forwarded);
	dev_pack_number(p, c->since_us);
	dev_pack_number(p, c->dialling);
	dev_pack_number(p, c->dial_until_us);
	dev_pack_number(p, c->dial_to);
	dev_pack_end(p);
}

static void save_ring(const struct hf_ring *r, struct dev_pack *p)
{
	struct iovec iov[2] = { 0 };
	(void)hf_ring_read_iov(r, iov); /* parts that are not there are empty */
	dev_pack_bytes(p, iov[0].iov_base, iov[0].iov_len);
	dev_pack_bytes(p, iov[1].iov_base, iov[1].iov_len);
}

static void save_lingering(const struct dev_conn *c, struct dev_pack *p)
{
	if (!c->core.held_by_device || c->core.state != VSK_CLOSED)
		return;
	dev_pack_begin(p, DEV_PART_LINGERING);
	dev_pack_fd(p, c->fd);
	dev_pack_number(p, c->core.type);
	dev_pack_number(p, c->core.peer_cid);
	dev_pack_number(p, c->core.host_port);
	dev_pack_number(p, c->core.guest_port);
	dev_pack_number(p, c->since_us);
	save_ring(&c->to_host, p);
	save_ring(&c->to_host_ends, p);
	dev_pack_end(p);
}

void dev_handover_save_vm(const struct dev_vm *vm, struct dev_pack *p)
{
	save_head(vm, p);
	for (size_t i = 0; i < vm->mem.n; i++)
		save_region(&vm->mem.region[i], p);
	for (size_t i = 0; i < DEV_QUEUES; i++)
		save_queue(&vm->q[i], i, p);
	save_inflight(&vm->inflight, p);
	for (size_t i = 0; i < DEV_HELLOS_MAX; i++)
		save_hello(&vm->hello[i], p);
	save_engine(vm, p);
	for (struct vsk_conn *v = NULL; (v = vsk_next((struct vsk *)&vm->vsk, v)) != NULL;)
		save_conn(dev_conn_of(v), p);
	for (size_t i = 0; i < vm->n_chunks * DEV_CONNS_CHUNK; i++)
		save_lingering(dev_conn_at(vm, i), p);
	dev_pack_begin(p, DEV_PART_VM_END);
	dev_pack_end(p);
}

/* ---- loading ---- */

static int bad(struct dev_unpack *u, int r)
{
	if (u->error == 0 && r < 0)
		u->error = r;
	return u->error;
}

/* Descriptors that we read from must never stop us. */
static int take_fd(struct dev_unpack *u)
{
	int fd = dev_unpack_fd(u);
	if (fd >= 0)
		(void)bad(u, fd_set_nonblock(fd, true)); /* it sticks */
	return fd;
}

/* Through the same checks as on the command line. */
static int load_options(struct dev_vm_options *o, struct dev_unpack *u, struct hf_err *reterr)
{
	size_t n, at = 0;
	const char *given = dev_unpack_bytes(u, DEV_GIVEN_MAX, &n);
	*o = dev_options_vm_default();
	while (at < n) {
		const char *key = given + at, *end = memchr(key, '\0', n - at);
		const char *value = end ? end + 1 : NULL;
		end = value ? memchr(value, '\0', n - at - (size_t)(value - key)) : NULL;
		if (!end)
			return -EINVAL;
		int r = dev_options_vm_set(o, key, value, reterr);
		if (r < 0)
			return r;
		at = (size_t)(end + 1 - given);
	}
	uint32_t cid = (uint32_t)dev_unpack_number(u, UINT32_MAX - 1);
	o->fd = dev_unpack_flag(u) ? 0 : -1; /* which one does not matter any more */
	int r = u->error ? u->error : dev_options_vm_check(o, reterr);
	o->guest_cid = cid; /* it may have changed since */
	return r;
}

static void load_policies(struct dev_policies *pol, struct dev_unpack *u)
{
	pol->otherwise = (enum dev_policy)dev_unpack_number(u, DEV_POLICY_N_ - 1);
	pol->n = dev_unpack_number(u, DEV_RULES_MAX);
	for (size_t i = 0; i < pol->n; i++) {
		pol->rule[i].first = (uint32_t)dev_unpack_number(u, UINT32_MAX);
		pol->rule[i].last = (uint32_t)dev_unpack_number(u, UINT32_MAX);
		pol->rule[i].policy = (enum dev_policy)dev_unpack_number(u, DEV_POLICY_N_ - 1);
	}
}

static void load_limits(struct dev_limits *l, struct dev_unpack *u)
{
	l->bytes.tokens -= (int64_t)dev_unpack_number(u, TOKENS_MAX);
	l->conns.tokens -= (int64_t)dev_unpack_number(u, TOKENS_MAX);
	l->refused_port = dev_unpack_number(u, ANY);
	l->refused_many = dev_unpack_number(u, ANY);
	l->refused_rate = dev_unpack_number(u, ANY);
	l->refused_uid = dev_unpack_number(u, ANY);
	l->waits = dev_unpack_number(u, ANY);
}

static int load_vhu(struct vhu *v, struct dev_unpack *u)
{
	struct vhu_saved s = { 0 };
	s.features = dev_unpack_number(u, ANY);
	s.protocol_features = dev_unpack_number(u, ANY);
	s.status = (uint8_t)dev_unpack_number(u, UINT8_MAX);
	for (int i = 0; i < VHU_QUEUES_MAX; i++) {
		s.ring[i].started = dev_unpack_flag(u);
		s.ring[i].enabled = dev_unpack_flag(u);
		s.ring[i].has_num = dev_unpack_flag(u);
		s.ring[i].has_addr = dev_unpack_flag(u);
	}
	s.in = dev_unpack_bytes(u, sizeof(v->in), &s.in_len);
	s.out = dev_unpack_bytes(u, sizeof(v->out), &s.out_len);
	s.out_fd = dev_unpack_fd(u);
	size_t n = dev_unpack_number(u, VHU_FDS_MAX);
	while (s.n_fds < n && !u->error) {
		int fd = dev_unpack_fd(u);
		if (fd < 0)
			(void)bad(u, -EINVAL); /* it sticks */
		else
			s.fds[s.n_fds++] = fd;
	}
	int r = u->error ? u->error : vhu_restore(v, &s);
	if (r == 0)
		return 0;
	for (size_t i = 0; i < s.n_fds; i++)
		fd_closep(&s.fds[i]);
	fd_closep(&s.out_fd);
	return bad(u, r);
}

/* Maps the part of a file that the record names: 0, -ENODATA when it names none, or -errno. */
static int load_file(struct dev_unpack *u, void **ret_map, uint64_t *ret_size)
{
	HF_CLEANUP(fd_closep) int fd = dev_unpack_fd(u);
	uint64_t offset = dev_unpack_number(u, INT64_MAX);
	*ret_size = dev_unpack_number(u, INT64_MAX);
	if (u->error || fd < 0)
		return u->error ? u->error : -ENODATA;
	return dev_map(fd, offset, *ret_size, ret_map);
}

/* Memory that has gone meanwhile is that front end's fault and nobody else's. */
static int map_failed(struct dev_vm *vm, struct dev_unpack *u, int r)
{
	if (r == -EINVAL && !u->error) {
		vm->unfit = "it shrank memory that it had given us";
		return 0;
	}
	return bad(u, r);
}

static void load_log(struct dev_vm *vm, struct dev_unpack *u)
{
	uint64_t size;
	int r = load_file(u, &vm->log_map, &size);
	if (r < 0 && r != -ENODATA)
		(void)map_failed(vm, u, r); /* it sticks */
	vm->mem.log.size = HF_MIN(dev_unpack_number(u, ANY), r < 0 ? 0 : size);
}

static int load_head(struct dev_handover *h, struct dev_unpack *u, struct hf_err *reterr)
{
	struct dev_daemon *d = h->daemon;
	size_t i = dev_unpack_number(u, DEV_VMS_MAX - 1);
	if (u->error || d->vm[i])
		return bad(u, -EINVAL);
	int r = load_options(&d->opt.vm[i], u, reterr);
	for (size_t k = 0; k < d->n_vms && r == 0; k++)
		r = d->vm[k] ? dev_options_clash(&d->opt.vm[k], &d->opt.vm[i], reterr) : 0;
	struct dev_vm *vm;
	if (r == 0)
		r = dev_vm_make(d, &d->opt.vm[i], (uint8_t)i, &vm, reterr);
	if (r < 0)
		return bad(u, r);
	d->vm[i] = h->vm = vm;
	d->n_vms = HF_MAX(d->n_vms, i + 1);
	h->running[i] = dev_unpack_flag(u);
	vm->stranger = dev_unpack_flag(u);
	vm->tx_blocked = dev_unpack_flag(u);
	vm->ended = dev_unpack_flag(u);
	vm->front_listen = take_fd(u);
	vm->front = take_fd(u);
	vm->backend = take_fd(u);
	for (int k = 0; k < DEV_DOORS; k++)
		vm->host_listen[k] = take_fd(u);
	load_policies(&vm->policies, u);
	load_limits(&vm->limits, u);
	r = u->error ? u->error : load_vhu(&vm->vhu, u);
	if (r == 0)
		load_log(vm, u);
	return u->error;
}

static int load_region(struct dev_vm *vm, struct dev_unpack *u)
{
	struct vq_region reg = { .gpa = dev_unpack_number(u, ANY) };
	void *map = NULL;
	reg.uaddr = dev_unpack_number(u, ANY);
	int r = load_file(u, &map, &reg.size);
	if (r < 0)
		return map_failed(vm, u, r);
	reg.host = map;
	r = vq_mem_add(&vm->mem, &reg);
	if (r < 0)
		dev_unmap(map);
	return bad(u, r);
}

static int load_queue(struct dev_vm *vm, struct dev_unpack *u)
{
	size_t i = dev_unpack_number(u, DEV_QUEUES - 1);
	struct dev_queue *q = &vm->q[i];
	if (u->error || q->kick >= 0 || q->call >= 0)
		return bad(u, -EINVAL);
	q->kick = dev_unpack_fd(u);
	q->call = take_fd(u);
	q->polled = dev_unpack_flag(u);
	q->stopped_before = dev_unpack_flag(u);
	q->stop_base = (uint16_t)dev_unpack_number(u, UINT16_MAX);
	q->taken = dev_unpack_flag(u);
	q->vq.broken = (enum vq_broken)dev_unpack_number(u, VQ_BROKEN_N_ - 1);
	uint32_t size = (uint32_t)dev_unpack_number(u, VQ_SIZE_MAX);
	uint16_t base = (uint16_t)dev_unpack_number(u, UINT16_MAX);
	bool addr_set = dev_unpack_flag(u);
	struct vq_addr a = { .desc = dev_unpack_number(u, ANY) };
	a.avail = dev_unpack_number(u, ANY);
	a.used = dev_unpack_number(u, ANY);
	a.log = dev_unpack_flag(u);
	a.log_gpa = dev_unpack_number(u, ANY);
	int r = u->error;
	if (r == 0 && size > 0)
		r = vq_set_size(&q->vq, size);
	if (r == 0 && addr_set)
		r = vq_set_addr(&q->vq, &a);
	if (r == 0)
		r = vq_set_base(&q->vq, base);
	return bad(u, r);
}

static int load_inflight(struct dev_vm *vm, struct dev_unpack *u)
{
	HF_CLEANUP(fd_closep) int fd = dev_unpack_fd(u);
	uint64_t offset = dev_unpack_number(u, INT64_MAX), size = dev_unpack_number(u, INT64_MAX);
	uint16_t n_queues = (uint16_t)dev_unpack_number(u, VHU_QUEUES_MAX);
	uint16_t queue_size = (uint16_t)dev_unpack_number(u, VQ_SIZE_MAX);
	if (u->error || fd < 0 || n_queues == 0 || queue_size == 0)
		return bad(u, -EBADMSG);
	int r = dev_inflight_set(vm, fd, offset, size, n_queues, queue_size);
	return r < 0 ? map_failed(vm, u, r) : 0;
}

static int load_hello(struct dev_vm *vm, struct dev_unpack *u)
{
	size_t i = 0;
	while (i < DEV_HELLOS_MAX && vm->hello[i].fd >= 0)
		i++;
	if (i == DEV_HELLOS_MAX)
		return bad(u, -EINVAL);
	struct dev_hello *h = &vm->hello[i];
	h->fd = take_fd(u);
	h->door = (uint8_t)dev_unpack_number(u, DEV_DOORS - 1);
	h->said = dev_unpack_flag(u);
	h->port = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	h->until_us = dev_unpack_number(u, ANY);
	return h->fd < 0 ? bad(u, -EINVAL) : u->error;
}

static int load_engine(struct dev_handover *h, struct dev_unpack *u)
{
	struct dev_vm *vm = h->vm;
	struct vsk_record_info info;
	uint64_t *stats = (uint64_t *)&vm->vsk.stats;
	size_t len;
	const void *record = dev_unpack_bytes(u, DEV_PACK_MAX, &len);
	int r = h->has_conns ? -EINVAL : bad(u, 0);
	if (r == 0)
		r = vsk_record_info(record, len, &info);
	if (r == 0)
		r = dev_vm_reserve_slots(vm, info.n_conns);
	if (r == 0)
		r = vsk_load_takeover(&h->conns, &vm->vsk, vm->loop->now_us, record, len);
	h->has_conns = r == 0;
	size_t n = dev_unpack_number(u, ANY); /* a later version may count more */
	for (size_t i = 0; i < n && !u->error; i++) {
		uint64_t v = dev_unpack_number(u, ANY);
		if (i < sizeof(vm->vsk.stats) / sizeof(*stats))
			stats[i] = v;
	}
	vm->limits.counted = vm->vsk.stats.rx_bytes + vm->vsk.stats.tx_bytes;
	return bad(u, r);
}

/* Where a host end must be, and where none can. */
static bool conn_holds(const struct dev_conn *c, bool dialling)
{
	const struct vsk_conn *v = &c->core;
	bool asks_far = c->forwarded && c->fd >= 0; /* a dial that takes its time */
	bool host = v->peer_cid == VSK_CID_HOST;
	if (c->paired)
		return !dialling && c->fd < 0 && (!host || v->state != VSK_DIALLING);
	if (host)
		return (dialling || asks_far || v->state != VSK_DIALLING) &&
		       (!dialling || v->state == VSK_DIALLING);
	return !dialling && c->fd < 0 && v->state == VSK_OPEN && v->host_shut == VSK_SHUT_BOTH;
}

/* The engine's next connection: its bytes are in the engine's record, the rest is here. */
static int load_conn(struct dev_handover *h, struct dev_unpack *u)
{
	struct dev_vm *vm = h->vm;
	struct vsk_bytes to_host, to_guest;
	struct vsk_conn *v = h->has_conns ? vsk_load_next(&h->conns, &to_host, &to_guest) : NULL;
	if (!v)
		return bad(u, -EINVAL);
	struct dev_conn *c = dev_conn_of(v);
	int r = dev_state_take(vm, c, &h->conns, &to_host, &to_guest);
	int fd = dev_unpack_fd(u);
	if (r == 0)
		r = dev_conn_adopt(vm, c, fd);
	else
		fd_closep(&fd);
	c->paired = dev_unpack_flag(u);
	c->arrived = dev_unpack_flag(u);
	c->wide = dev_unpack_flag(u);
	c->forwarded = dev_unpack_flag(u);
	c->since_us = dev_unpack_number(u, ANY);
	bool dialling = dev_unpack_flag(u);
	c->dial_until_us = dev_unpack_number(u, ANY);
	c->dial_to = dev_unpack_number(u, ANY);
	if (r < 0 || u->error || !conn_holds(c, dialling))
		return bad(u, r < 0 ? r : -EINVAL);
	if (dialling)
		dev_unix_dial_later(vm, c, c->dial_until_us);
	else if (hf_ring_len(&c->to_guest) + hf_ring_len(&c->to_guest_ends) > 0)
		vsk_host_readable(&vm->vsk, v);
	return 0;
}

static int load_ring(struct hf_ring *r, size_t multiple, struct dev_unpack *u)
{
	const void *data[2];
	size_t n[2];
	for (int i = 0; i < 2; i++)
		data[i] = dev_unpack_bytes(u, VSK_FLIGHT_MAX, &n[i]);
	if (u->error || (n[0] + n[1]) % multiple != 0)
		return bad(u, -EINVAL);
	int e = n[0] + n[1] > 0 ? dev_conn_reserve(r, n[0] + n[1]) : 0;
	for (int i = 0; i < 2 && e == 0; i++)
		(void)hf_ring_put(r, data[i], n[i]); /* fits: reserved */
	return bad(u, e);
}

/* Its messages are whole and no more than its bytes. */
static bool ends_fit(const struct dev_conn *c)
{
	struct hf_ring ends = c->to_host_ends;
	size_t n = 0;
	for (; hf_ring_len(&ends) > 0; hf_ring_consumed(&ends, VSK_END_BYTES))
		n += dev_message_len(&ends);
	return n <= hf_ring_len(&c->to_host);
}

static int load_lingering(struct dev_vm *vm, struct dev_unpack *u)
{
	int fd = dev_unpack_fd(u);
	enum vsk_type type = (enum vsk_type)dev_unpack_number(u, VSK_TYPE_SEQPACKET);
	uint32_t peer_cid = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	uint32_t host_port = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	uint32_t guest_port = (uint32_t)dev_unpack_number(u, UINT32_MAX);
	int r = dev_vm_reserve_slots(vm, 1);
	struct vsk_conn *v =
		r == 0 ? vsk_load_lingering(&vm->vsk, type, peer_cid, host_port, guest_port) : NULL;
	if (!v || fd < 0) {
		fd_closep(&fd);
		return bad(u, -EINVAL);
	}
	struct dev_conn *c = dev_conn_of(v);
	c->fd = fd;
	c->since_us = dev_unpack_number(u, ANY);
	r = load_ring(&c->to_host, 1, u);
	if (r == 0)
		r = load_ring(&c->to_host_ends, VSK_END_BYTES, u);
	if (r == 0 && !ends_fit(c))
		r = -EINVAL;
	return bad(u, r < 0 ? r : dev_conn_adopt(vm, c, fd));
}

/* A listener for each door that the options want. */
static bool doors_fit(const struct dev_vm *vm)
{
	for (size_t i = 0; i < DEV_DOORS; i++) {
		bool wanted = i < DEV_DOOR_FORWARD
				      ? vm->opt->uds_path[0] != '\0'
				      : i - DEV_DOOR_FORWARD < vm->opt->forward.n_listen;
		if (wanted != (vm->host_listen[i] >= 0))
			return false;
	}
	return true;
}

/* All has come: it is watched, as far as it is not before it runs. */
static int load_end(struct dev_handover *h, struct dev_unpack *u)
{
	struct vsk_bytes to_host, to_guest;
	struct dev_vm *vm = h->vm;
	if (!h->has_conns || vsk_load_next(&h->conns, &to_host, &to_guest) || !doors_fit(vm))
		return bad(u, -EINVAL);
	h->has_conns = false;
	h->vm = NULL;
	int r = dev_unix_adopt(vm);
	return bad(u, r < 0 ? r : dev_front_adopt(vm));
}

int dev_handover_load_vm(
	struct dev_handover *h, uint64_t kind, struct dev_unpack *u, struct hf_err *reterr)
{
	if ((kind == DEV_PART_VM) == (h->vm != NULL))
		return bad(u, -EINVAL);
	switch (kind) {
	case DEV_PART_VM:
		return load_head(h, u, reterr);
	case DEV_PART_REGION:
		return load_region(h->vm, u);
	case DEV_PART_QUEUE:
		return load_queue(h->vm, u);
	case DEV_PART_INFLIGHT:
		return load_inflight(h->vm, u);
	case DEV_PART_HELLO:
		return load_hello(h->vm, u);
	case DEV_PART_ENGINE:
		return load_engine(h, u);
	case DEV_PART_CONN:
		return load_conn(h, u);
	case DEV_PART_LINGERING:
		return load_lingering(h->vm, u);
	case DEV_PART_VM_END:
		return load_end(h, u);
	}
	return bad(u, -EPROTONOSUPPORT);
}
