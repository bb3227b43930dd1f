/* SPDX-License-Identifier: MIT */
/*
 * test_ring.c - who wakes whom: a guest's rings and the daemon's loop.
 *
 * The device is the daemon's own, with one VM whose rings are in this process; the driver's side is
 * test/lib/driver. Guest and device tell each other by eventfds, as under a VMM. In the tests of
 * one rule each, the VM is moved by hand; in the last one both sleep, each until the other wakes
 * it.
 *
 * A buffer that the driver adds while the device is asking for a kick, and for which it therefore
 * gives none, comes from __wrap_vq_arm().
 */
#include "../../lib/daemon.h"
#include "../../lib/driver.h"
#include "../../lib/unit.h"
#include "base/fd.h"
#include "base/log.h"
#include "device/vm.h"
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define CID        3u
#define HOST_PORT  0x80000001u
#define GUEST_PORT 77u
#define SIZE       16u
#define RING_BYTES 4096u
#define SLOT       4096u
#define MEM_BYTES  (DEV_QUEUES * (RING_BYTES + SIZE * SLOT))
#define ROUNDS     20000
#define HANG_MS    20000 /* who has not been woken up by then never will be */
#define EVENT_IDX  (1ull << 29)

static struct rig {
	struct dev_daemon d;
	struct dev_vm_options opt;
	struct dev_vm *vm;
	uint8_t *mem;
	struct drv q[DEV_QUEUES];
	int call[DEV_QUEUES], kick[DEV_QUEUES];
	int host;                /* the application's end of the connection */
	uint32_t port, fwd, buf; /* of the guest's socket */
	struct vq *arming;       /* see __wrap_vq_arm() */
	struct drv *adds;
} g;

/* ---- the driver ---- */

static uint64_t slot_at(unsigned queue, uint16_t slot)
{
	return DEV_QUEUES * RING_BYTES + (queue * SIZE + slot) * (uint64_t)SLOT;
}

/* Adds a buffer of one descriptor; true: the device wants a kick. */
static bool add(unsigned queue, uint32_t len)
{
	struct drv *d = &g.q[queue];
	struct drv_buf b = { slot_at(queue, d->free_head), len, queue != DEV_TX };
	assert_true(drv_add(d, &b, 1) >= 0);
	return drv_publish(d);
}

bool __real_vq_arm(struct vq *vq);
bool __wrap_vq_arm(struct vq *vq);

bool __wrap_vq_arm(struct vq *vq)
{
	if (g.arming == vq) {
		struct drv *d = g.adds;
		struct drv_buf b = { slot_at((unsigned)(d - g.q), d->free_head), SLOT, true };
		g.arming = NULL;
		assert_true(drv_add(d, &b, 1) >= 0);
		assert_false(drv_publish(d)); /* it has not been asked yet */
	}
	return __real_vq_arm(vq);
}

/* True: the device wants a kick. */
static bool sends(uint16_t op, uint32_t len)
{
	const struct vsk_pkt p = { .src_cid = CID,
		.dst_cid = VSK_CID_HOST,
		.src_port = g.port,
		.dst_port = HOST_PORT,
		.len = len,
		.type = VSK_TYPE_STREAM,
		.op = op,
		.buf_alloc = g.buf,
		.fwd_cnt = g.fwd };
	uint64_t at = slot_at(DEV_TX, g.q[DEV_TX].free_head);
	vsk_pkt_encode(&p, g.mem + at);
	memset(g.mem + at + VSK_HDR_BYTES, 'g', len);
	return add(DEV_TX, VSK_HDR_BYTES + len);
}

/* The next packet of the rx queue; false: there is none. */
static bool receives(struct vsk_pkt *ret_pkt)
{
	uint16_t head;
	uint32_t len;
	if (!drv_take(&g.q[DEV_RX], &head, &len))
		return false;
	vsk_pkt_decode(g.mem + slot_at(DEV_RX, head), ret_pkt);
	assert_int_equal(len, VSK_HDR_BYTES + ret_pkt->len);
	g.fwd += ret_pkt->len;
	return true;
}

static void expect(uint16_t op)
{
	struct vsk_pkt p;
	assert_true(receives(&p));
	assert_int_equal(p.op, op);
}

/* Was the guest told since this was last asked? */
static bool told(unsigned queue)
{
	uint64_t n;
	return read(g.call[queue], &n, sizeof(n)) == sizeof(n);
}

static void take_tx(void)
{
	uint16_t head;
	uint32_t len;
	while (drv_take(&g.q[DEV_TX], &head, &len)) {
	}
}

/* The guest has seen all and wants to know of the next. */
static void listens(void)
{
	struct vsk_pkt p;
	while (receives(&p)) {
	}
	take_tx();
	for (unsigned i = DEV_RX; i <= DEV_TX; i++) {
		(void)drv_arm(&g.q[i]); /* it has seen all */
		(void)told(i);
	}
}

static void fill_rx(void)
{
	while (g.q[DEV_RX].n_free > 0)
		(void)add(DEV_RX, SLOT); /* who tests kicks adds by itself */
}

/* ---- the device ---- */

static int event_fd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(fd >= 0);
	return fd;
}

static void queue_begin(unsigned i, bool event_idx)
{
	struct dev_queue *q = &g.vm->q[i];
	uint64_t at = (uintptr_t)g.mem + i * RING_BYTES;
	drv_init(&g.q[i], g.mem + i * RING_BYTES, i * RING_BYTES, SIZE, event_idx);
	const struct vq_addr addr = {
		.desc = at, .avail = at + drv_avail_offset(SIZE), .used = at + drv_used_offset(SIZE)
	};
	assert_int_equal(vq_set_size(&q->vq, SIZE), 0);
	assert_int_equal(vq_set_addr(&q->vq, &addr), 0);
	g.call[i] = event_fd();
	g.kick[i] = event_fd();
	q->call = dup(g.call[i]);
	q->kick = dup(g.kick[i]);
	assert_int_equal(dev_loop_watch(&g.d.loop, q->kick, EPOLLIN | EPOLLET,
				 dev_vm_tag(g.vm, DEV_ON_KICK, i, q->gen)),
		0);
	q->taken = true; /* dev_vm_carry_on() starts it */
	g.vm->vhu.ring[i] = (struct vhu_ring){ true, true, true, true };
}

/* A connection that the host has made. */
static void connect_begin(void)
{
	struct vsk_conn *c;
	int pair[2];
	char ok[64];
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(vsk_connect_from(&g.vm->vsk, g.d.loop.now_us, VSK_TYPE_STREAM,
				 VSK_CID_HOST, HOST_PORT, GUEST_PORT, &c),
		0);
	assert_int_equal(dev_conn_attach(g.vm, dev_conn_of(c), pair[0], 0), 0);
	g.host = pair[1];
	(void)dev_vm_turn(g.vm);
	expect(VSK_OP_REQUEST);
	(void)sends(VSK_OP_RESPONSE, 0);
	(void)dev_vm_turn(g.vm);
	assert_true(read(g.host, ok, sizeof(ok)) > 0);
}

static void begin(bool event_idx, bool own_events)
{
	g = (struct rig){ .port = GUEST_PORT, .buf = 1u << 20 };
	g.mem = aligned_alloc(4096, MEM_BYTES);
	assert_non_null(g.mem);
	daemon_begin(&g.d);
	g.d.n_vms = 1;
	g.opt = dev_options_vm_default();
	g.opt.guest_cid = CID;
	memcpy(g.opt.name, "vm", 3);
	assert_int_equal(dev_vm_make(&g.d, &g.opt, 0, &g.d.vm[0], NULL), 0);
	g.vm = g.d.vm[0];
	g.vm->vhu.features = event_idx ? EVENT_IDX : 0;
	const struct vq_region r = { .size = MEM_BYTES, .uaddr = (uintptr_t)g.mem, .host = g.mem };
	g.vm->mem.region[g.vm->mem.n++] = r; /* is unmapped by nobody */
	for (unsigned i = 0; i < (own_events ? DEV_QUEUES : DEV_EVENT); i++)
		queue_begin(i, event_idx);
	dev_vm_carry_on(g.vm, true);
	fill_rx();
	connect_begin();
	assert_false(dev_ring_rest(g.vm));
	listens();
}

static void end(void)
{
	for (int i = 0; i < DEV_QUEUES; i++)
		if (g.q[i].size > 0) {
			fd_closep(&g.call[i]);
			fd_closep(&g.kick[i]);
		}
	fd_closep(&g.host);
	g.vm->mem.n = 0;
	dev_vm_drop_all(g.vm);
	dev_vm_forget(g.vm);
	g.d.n_vms = 0;
	dev_daemon_done(&g.d);
	free(g.mem);
}

/* The host application writes, and the device has heard of it. */
static void host_writes(size_t n)
{
	static const uint8_t bytes[256 << 10];
	assert_int_equal(send(g.host, bytes, n, 0), n);
	struct dev_conn *c = dev_conn_at(g.vm, 0);
	dev_conn_on_event(g.vm, dev_vm_tag(g.vm, DEV_ON_CONN, c->slot, c->core.gen), EPOLLIN);
}

/* ---- the guest is told ---- */

/* What the guest may wait for is told at the end of the turn, with all else. */
static void test_an_answer_is_told_at_once(void **state)
{
	(void)state;
	begin(true, false);
	(void)sends(VSK_OP_CREDIT_REQUEST, 0);
	(void)dev_vm_turn(g.vm);
	assert_true(told(DEV_RX));
	assert_true(told(DEV_TX));
	listens();
	host_writes(100);
	(void)dev_vm_turn(g.vm);
	assert_true(told(DEV_RX));
	end();
}

/* What it does not wait for is told when the loop looks, or rests; and not twice. */
static void test_the_rest_is_told_when_the_loop_rests(void **state)
{
	(void)state;
	for (int rests = 0; rests < 2; rests++) {
		begin(true, false);
		g.port++;
		(void)sends(VSK_OP_RW, 1); /* of a connection that is not there */
		(void)dev_vm_turn(g.vm);
		expect(VSK_OP_RST);
		assert_false(told(DEV_RX));
		assert_false(told(DEV_TX));
		assert_false(rests ? dev_ring_rest(g.vm) : dev_ring_look(g.vm));
		assert_true(told(DEV_RX));
		assert_true(told(DEV_TX));
		assert_false(dev_ring_rest(g.vm));
		assert_false(told(DEV_RX));
		assert_false(told(DEV_TX));
		end();
	}
}

static void test_tx_buffers_alone_are_told_when_the_loop_rests(void **state)
{
	(void)state;
	begin(true, false);
	(void)sends(VSK_OP_RW, 1);
	(void)dev_vm_turn(g.vm);
	assert_false(dev_ring_look(g.vm)); /* only with what there is to be told of rx buffers */
	assert_false(told(DEV_TX));
	assert_false(dev_ring_rest(g.vm));
	assert_true(told(DEV_TX));
	assert_false(told(DEV_RX));
	end();
}

/* A driver whose queue is about to be full waits for what it gets back. */
static void test_a_quarter_of_the_tx_queue_is_told(void **state)
{
	(void)state;
	begin(true, false);
	for (unsigned i = 1; i <= SIZE / 4; i++) {
		assert_false(told(DEV_TX));
		(void)sends(VSK_OP_RW, 1);
		(void)dev_vm_turn(g.vm);
	}
	assert_true(told(DEV_TX));
	end();
}

/* A guest that is sent much has to fill its queue again, though more is on its way; and to say how
 * much room it has, when that is what we are going to wait for. */
static void test_who_is_waited_for_is_told(void **state)
{
	(void)state;
	begin(true, false);
	host_writes(SIZE * 3 / 4 * (SLOT - VSK_HDR_BYTES)); /* over 32 KiB in a turn */
	(void)dev_vm_turn(g.vm);
	assert_true(told(DEV_RX));
	end();

	begin(true, false);
	g.buf = VSK_PAYLOAD_MAX + SLOT;
	(void)sends(VSK_OP_CREDIT_UPDATE, 0);
	(void)dev_vm_turn(g.vm);
	assert_false(dev_ring_rest(g.vm));
	listens();
	fill_rx();
	assert_false(dev_ring_rest(g.vm));
	host_writes(2 * SLOT); /* less than 64 KiB of room are left */
	struct vsk *v = &g.vm->vsk;
	(void)dev_ring_rx(g.vm); /* not the turn, which would tell of what is urgent */
	assert_true(vsk_host_room(&dev_conn_at(g.vm, 0)->core) < VSK_PAYLOAD_MAX);
	assert_false(vsk_wants_guest(v));
	assert_true(told(DEV_RX));
	end();
}

/* Nobody uses a queue any more of which the guest was not told. */
static void test_a_queue_that_stops_has_told_all(void **state)
{
	(void)state;
	begin(true, false);
	(void)sends(VSK_OP_RW, 1);
	(void)dev_vm_turn(g.vm);
	assert_false(told(DEV_TX));
	dev_vm_stop_ring(g.vm, DEV_TX);
	assert_true(told(DEV_TX));
	end();
}

/* A call descriptor that comes late brings what there was to tell. */
static void test_a_late_call_descriptor(void **state)
{
	(void)state;
	begin(true, false);
	int call = fd_take(&g.vm->q[DEV_RX].call);
	(void)sends(VSK_OP_CREDIT_REQUEST, 0);
	(void)dev_vm_turn(g.vm);
	assert_false(dev_ring_rest(g.vm));
	g.vm->q[DEV_RX].call = call;
	assert_false(dev_ring_rest(g.vm));
	assert_true(told(DEV_RX));
	end();
}

/* ---- the device is told ---- */

/* While it moves packets it asks for no kicks, but looks; before it sleeps, it asks. */
static void test_kicks_are_asked_for_before_the_loop_sleeps(void **state)
{
	(void)state;
	for (int event_idx = 0; event_idx < 2; event_idx++) {
		begin(event_idx, false);
		assert_true(sends(VSK_OP_RW, 1)); /* it sleeps, and is woken up */
		g.vm->q[DEV_TX].ready = true;
		(void)dev_vm_turn(g.vm);
		assert_false(sends(VSK_OP_RW, 1));
		assert_true(dev_ring_look(g.vm)); /* seen, unasked */
		(void)dev_vm_turn(g.vm);
		assert_false(sends(VSK_OP_RW, 1));
		assert_true(dev_ring_rest(g.vm)); /* not missed when it is asked for */
		(void)dev_vm_turn(g.vm);
		assert_false(dev_ring_rest(g.vm));
		assert_true(sends(VSK_OP_RW, 1));
		end();
	}
}

/* Likewise when the rx queue is empty; and only while somebody has something for it. */
static void test_buffers_are_asked_for_while_they_are_wanted(void **state)
{
	(void)state;
	for (int event_idx = 0; event_idx < 2; event_idx++) {
		begin(event_idx, false);
		listens();
		host_writes(SIZE * SLOT); /* takes all buffers that there are, and wants one more */
		while (dev_vm_turn(g.vm) == 0) {
		}
		assert_false(dev_ring_rest(g.vm));
		listens();
		assert_true(add(DEV_RX, SLOT));
		g.vm->q[DEV_RX].ready = true;
		(void)dev_vm_turn(g.vm);
		expect(VSK_OP_RW);
		(void)dev_vm_turn(g.vm); /* finds it empty */
		assert_false(dev_ring_rest(g.vm));
		end();
	}
}

/* D2.3: the driver adds a buffer just before it would see that it is to kick. */
static void test_a_buffer_that_comes_while_it_falls_asleep(void **state)
{
	(void)state;
	begin(true, false);
	listens();
	host_writes(SIZE * SLOT);
	while (dev_vm_turn(g.vm) == 0) {
	}
	listens();
	g.arming = &g.vm->q[DEV_RX].vq;
	g.adds = &g.q[DEV_RX];
	assert_true(dev_ring_rest(g.vm));
	assert_null(g.arming);
	(void)dev_vm_turn(g.vm);
	expect(VSK_OP_RW);
	end();
}

/* D7.8: the same with the event queue: a buffer that is added tells that the event was seen. */
static void test_an_event_buffer_that_comes_while_it_falls_asleep(void **state)
{
	(void)state;
	begin(true, true);
	struct dev_queue *q = &g.vm->q[DEV_EVENT];
	uint16_t head;
	uint32_t len;
	assert_true(add(DEV_EVENT, SLOT));
	(void)dev_vm_turn(g.vm);
	assert_int_equal(dev_vm_change_cid(g.vm, CID + 1), 0);
	g.arming = &q->vq;
	g.adds = &g.q[DEV_EVENT];
	assert_int_equal(dev_vm_turn(g.vm), 0); /* wants another turn */
	assert_null(g.arming);
	assert_true(drv_take(&g.q[DEV_EVENT], &head, &len));
	assert_int_equal(len, 4);
	assert_true(g.vm->vsk.hold_until_us > 0);
	(void)dev_vm_turn(g.vm);
	assert_true(g.vm->vsk.hold_until_us == 0);
	end();
}

/* D7.2: an event that comes up while the event queue goes on finds the buffers that are there. */
static void test_an_event_needs_no_kick(void **state)
{
	(void)state;
	begin(true, true);
	uint16_t head;
	uint32_t len;
	(void)add(DEV_EVENT, SLOT);
	(void)dev_vm_turn(g.vm);
	assert_false(drv_take(&g.q[DEV_EVENT], &head, &len));
	for (unsigned i = DEV_RX; i <= DEV_TX; i++) {
		dev_vm_stop_ring(g.vm, i);
		g.vm->q[i].stopped_before = false; /* whose connections are not known */
	}
	assert_int_equal(dev_vm_sync_rings(g.vm), 0);
	(void)dev_vm_turn(g.vm);
	assert_true(drv_take(&g.q[DEV_EVENT], &head, &len));
	end();
}

/* ---- both sleep ---- */

static bool wait_for(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t n;
	return poll(&p, 1, HANG_MS) == 1 && read(fd, &n, sizeof(n)) == sizeof(n);
}

static void kick_if(unsigned queue, bool wanted)
{
	static const uint64_t one = 1;
	if (wanted)
		assert_int_equal(write(g.kick[queue], &one, sizeof(one)), sizeof(one));
}

/* The guest asks for credit and sleeps until the answer has come; each time with another number of
 * packets that have no answer. */
static const char *guest(void)
{
	struct vsk_pkt p = { 0 };
	for (unsigned i = 0; i < ROUNDS; i++) {
		for (unsigned k = 0; k < i % 5; k++)
			kick_if(DEV_TX, sends(VSK_OP_CREDIT_UPDATE, 0));
		kick_if(DEV_TX, sends(VSK_OP_CREDIT_REQUEST, 0));
		while (!receives(&p))
			if (!drv_arm(&g.q[DEV_RX]) && !wait_for(g.call[DEV_RX]))
				return "the guest was not woken up";
		kick_if(DEV_RX, add(DEV_RX, SLOT));
		for (take_tx(); g.q[DEV_TX].n_free < SIZE / 2; take_tx())
			if (!drv_arm(&g.q[DEV_TX]) && !wait_for(g.call[DEV_TX]))
				return "the guest was not told of its buffers";
	}
	return NULL;
}

static uint64_t turn_until_done(void *owner)
{
	struct rig *r = owner;
	if (r->d.given) /* the guest has ended */
		dev_loop_stop(&r->d.loop);
	r->d.loop.brisk = false;
	return dev_vm_turn(r->vm);
}

static void *run_loop(void *arg)
{
	(void)arg;
	dev_loop_run(&g.d.loop);
	return NULL;
}

static void test_nobody_sleeps_for_ever(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++) {
		pthread_t loop;
		begin(i & 1, false);
		g.d.loop.on_turn = turn_until_done;
		g.d.loop.poll_max_us = i & 2 ? DEV_POLL_US : 0;
		assert_int_equal(pthread_create(&loop, NULL, run_loop, NULL), 0);
		const char *why = guest();
		__atomic_store_n(&g.d.given, true, __ATOMIC_SEQ_CST);
		kick_if(DEV_TX, true);
		pthread_join(loop, NULL);
		if (why)
			fail_msg("event_idx %d, poll %u us: %s", i & 1, g.d.loop.poll_max_us, why);
		end();
	}
}

int main(void)
{
	hf_log_setup("test", 2, HF_LOG_ERROR, HF_LOG_TEXT);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_answer_is_told_at_once),
		cmocka_unit_test(test_the_rest_is_told_when_the_loop_rests),
		cmocka_unit_test(test_tx_buffers_alone_are_told_when_the_loop_rests),
		cmocka_unit_test(test_a_quarter_of_the_tx_queue_is_told),
		cmocka_unit_test(test_who_is_waited_for_is_told),
		cmocka_unit_test(test_a_queue_that_stops_has_told_all),
		cmocka_unit_test(test_a_late_call_descriptor),
		cmocka_unit_test(test_kicks_are_asked_for_before_the_loop_sleeps),
		cmocka_unit_test(test_buffers_are_asked_for_while_they_are_wanted),
		cmocka_unit_test(test_a_buffer_that_comes_while_it_falls_asleep),
		cmocka_unit_test(test_an_event_buffer_that_comes_while_it_falls_asleep),
		cmocka_unit_test(test_an_event_needs_no_kick),
		cmocka_unit_test(test_nobody_sleeps_for_ever),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
