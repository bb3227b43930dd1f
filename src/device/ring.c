/* SPDX-License-Identifier: MIT */
/*
 * ring.c - packets between the guest's queues and the engine.
 *
 * tx: many chains are taken at one look at the index; each header goes to the engine, payload goes
 * from guest memory to the host socket, that of neighbouring packets of one stream with one
 * sendmsg(2). All of them are given back with one store of the used index and at most one
 * notification.
 *
 * rx: buffers are taken as they are needed. Payload is read from a host socket straight into as
 * many guest buffers as the engine allows, with one recvmsg(2); each buffer gets a header of its
 * own.
 *
 * A kick is asked for only when the loop is going to sleep. Until then queues that were found empty
 * are looked at. Asked, they are looked at once more, so that none is missed (D2.3).
 */
#include "base/bytes.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm.h"
#include <errno.h>
#include <string.h>

/* syscalls: write */

#define TX_BATCH   64 /* chains in work at once */
#define RX_BATCH   128
#define READ_MAX   32          /* guest buffers that one read may fill */
#define READ_BYTES (68u << 10) /* and payload bytes: see rx_due() */
#define TX_BUDGET  512         /* chains per call */
#define RX_BUDGET  512

/* Parts of a packet's header (vsock/wire.c): who sends to whom, and what. */
#define FLOW_BYTES 24
#define HDR_OP     30

/* Used by one queue at a time; too big for the stack. An rx queue has its own: a sibling's is
 * filled from chains of a tx queue. */
static struct vq_chain chains[TX_BATCH], rx_chains[RX_BATCH];
static struct iovec iovs[2 * VQ_CHAIN_IOV_MAX], rx_iovs[2 * VQ_CHAIN_IOV_MAX];

/* False: the guest does not want to know. */
static bool notify(struct dev_vm *vm, struct dev_queue *q)
{
	static const uint64_t one = 1;
	if (q->call < 0 || !vq_must_notify(&q->vq)) /* with a descriptor it is decided */
		return false;
	if (write(q->call, &one, sizeof(one)) < 0 && errno != EAGAIN) {
		hf_warn("vm %s: cannot notify the guest: %s", vm->opt->name, strerror(errno));
		dev_loop_close(vm->loop, &q->call);
	}
	return true;
}

void dev_ring_settle(struct dev_vm *vm)
{
	(void)notify(vm, &vm->q[DEV_TX]); /* as it likes */
}

/* A guest that is woken up may hear of all at once. */
void dev_ring_tell(struct dev_vm *vm)
{
	vm->urgent = false;
	if (notify(vm, &vm->q[DEV_RX]))
		dev_ring_settle(vm);
}

/* Nobody waits for a used tx buffer but who has no more of them, so this can wait for an answer to
 * what was sent, or until the loop rests. */
static void notify_tx(struct dev_vm *vm)
{
	const struct vq *vq = &vm->q[DEV_TX].vq;
	if ((uint16_t)(vq->next_used - vq->notified) >= vq->size / 4)
		dev_ring_settle(vm);
}

/* A driver that breaks its queue has no device until it resets it. */
static void broken(struct dev_vm *vm, struct dev_queue *q)
{
	hf_error("vm %s: queue %d: the driver broke it: %s; the device waits for a reset",
		vm->opt->name, (int)(q - vm->q), vq_broken_text(q->vq.broken));
	vm->running = false;
	dev_vm_drop_all(vm);
}

static void disarm(struct dev_queue *q)
{
	q->armed = false;
	vq_disarm(&q->vq);
}

/* ---- guest to host ---- */

/* Payload of neighbouring packets of one stream, which goes out with one call. */
struct tx {
	struct dev_conn *conn; /* NULL: nothing is here */
	uint8_t flow[FLOW_BYTES];
	size_t n_iov, len;
	uint32_t flags; /* of the last packet */
	struct iovec iov[VQ_CHAIN_IOV_MAX];
};

static void tx_clear(struct tx *tx)
{
	tx->conn = NULL;
	tx->n_iov = tx->len = 0;
}

static void tx_deliver(struct dev_vm *vm, struct tx *tx)
{
	if (tx->conn)
		dev_conn_deliver(vm, tx->conn, tx->iov, tx->n_iov, tx->len, tx->flags);
	tx_clear(tx);
}

/* Does the packet's payload belong behind what is here? */
static bool tx_continues(const struct tx *tx, const struct vq_chain *c, const uint8_t *hdr)
{
	return tx->conn->core.type == VSK_TYPE_STREAM && memcmp(hdr, tx->flow, FLOW_BYTES) == 0 &&
	       le16_at(hdr + HDR_OP) == VSK_OP_RW && tx->n_iov + c->n_out <= HF_ARRAY_SIZE(tx->iov);
}

/* One packet; -ENOSPC when the engine cannot take it now. */
static int tx_packet(struct dev_vm *vm, struct tx *tx, const struct vq_chain *c)
{
	uint8_t hdr[VSK_HDR_BYTES];
	struct vsk_ev ev;
	if (vq_read(c, 0, hdr, sizeof(hdr)) < sizeof(hdr))
		return -EBADMSG;
	if (tx->conn && !tx_continues(tx, c, hdr))
		tx_deliver(vm, tx);
	if (vm->vsk.n_free == 0)
		(void)dev_vm_reserve_slots(vm, 1); /* without one the engine answers RST */
	int r = vsk_from_guest(&vm->vsk, vm->loop->now_us, hdr, c->out_len - sizeof(hdr), &ev);
	if (r < 0)
		return r;
	if (ev.conn && dev_conn_of(ev.conn)->sibling)
		dev_sibling_heard(dev_conn_of(ev.conn), le16_at(hdr + HDR_OP));
	if (ev.kind != VSK_EV_DATA) {
		if (ev.kind == VSK_EV_CLOSED)
			tx_clear(tx); /* the stream broke a rule: what is here is void */
		dev_conn_handle(vm, &ev);
		return 0;
	}
	tx->conn = dev_conn_of(ev.conn);
	memcpy(tx->flow, hdr, FLOW_BYTES);
	tx->n_iov += vq_iov_slice(c->iov, c->n_out, sizeof(hdr), ev.len, tx->iov + tx->n_iov,
		HF_ARRAY_SIZE(tx->iov) - tx->n_iov);
	tx->len += ev.len;
	tx->flags = ev.flags;
	return 0;
}

bool dev_ring_tx(struct dev_vm *vm)
{
	static struct tx tx; /* too big for the stack; empty between calls */
	struct dev_queue *q = &vm->q[DEV_TX];
	size_t budget = dev_limits_budget(vm, TX_BUDGET);
	disarm(q);
	while (budget > 0 && !vm->tx_blocked) {
		int n = vq_pop(&q->vq, chains, HF_MIN(budget, (size_t)TX_BATCH), iovs,
			HF_ARRAY_SIZE(iovs));
		if (n < 0) {
			broken(vm, q);
			return false;
		}
		if (n == 0) {
			q->ready = false;
			break;
		}
		int done = 0;
		while (done < n && !vm->tx_blocked)
			if (tx_packet(vm, &tx, &chains[done]) == -ENOSPC)
				vm->tx_blocked = true;
			else
				done++;
		tx_deliver(vm, &tx);
		vq_unpop(&q->vq, (size_t)(n - done));
		vq_push(&q->vq, chains, (size_t)done);
		budget -= (size_t)done;
	}
	notify_tx(vm);
	return q->ready && !vm->tx_blocked;
}

/* ---- host to guest ---- */

/* Buffers that were taken: [done, popped) are at hand, [pushed, done) are filled and not yet given
 * back. */
struct rx {
	struct vq *vq;
	size_t pushed, done, popped, n_iov;
	bool dry; /* the queue has no more */
	bool broken;
};

/* Makes k buffers be at hand, or as many as there are; returns how many. */
static size_t rx_have(struct rx *rx, size_t k)
{
	size_t at_hand = rx->popped - rx->done;
	size_t want = HF_MIN(k, RX_BATCH - rx->done);
	size_t room = HF_ARRAY_SIZE(rx_iovs) - rx->n_iov;
	if (at_hand >= want || rx->dry || room < VQ_CHAIN_IOV_MAX)
		return HF_MIN(at_hand, want);
	int n = vq_pop(rx->vq, &rx_chains[rx->popped], want - at_hand, &rx_iovs[rx->n_iov], room);
	rx->broken = n < 0;
	rx->dry = n <= 0;
	for (int i = 0; i < n; i++) {
		struct vq_chain *c = &rx_chains[rx->popped++];
		rx->n_iov += (size_t)c->n_out + c->n_in;
	}
	return HF_MIN(rx->popped - rx->done, want);
}

/* Lets the driver have what is filled. */
static void rx_publish(struct rx *rx)
{
	vq_push(rx->vq, &rx_chains[rx->pushed], rx->done - rx->pushed);
	rx->pushed = rx->done;
}

static void rx_give_back(struct rx *rx)
{
	rx_publish(rx);
	vq_unpop(rx->vq, rx->popped - rx->done);
	rx->pushed = rx->done = rx->popped = rx->n_iov = 0;
	rx->dry = false;
}

/* A buffer that takes no header and a byte is the driver's mistake: it comes back empty. */
static bool rx_usable(struct rx *rx)
{
	while (rx_have(rx, 1) > 0) {
		if (rx_chains[rx->done].in_len > VSK_HDR_BYTES)
			return true;
		rx->done++;
		if (rx->done == RX_BATCH)
			rx_give_back(rx);
	}
	return false;
}

/* Payload that the buffer takes. */
static size_t rx_space(const struct vq_chain *c)
{
	return HF_MIN((size_t)c->in_len - VSK_HDR_BYTES, (size_t)VSK_PAYLOAD_MAX);
}

/* Payload space of the buffers at hand, at most `max` bytes of at most READ_MAX buffers: whole ones
 * where the guest has room for more. */
static size_t rx_room(
	struct rx *rx, size_t max, struct iovec *ret_iov, size_t cap, size_t *ret_n_iov)
{
	size_t room = 0, n_iov = 0;
	for (size_t i = 0; i < READ_MAX && room < max && rx_have(rx, i + 1) > i; i++) {
		struct vq_chain *c = &rx_chains[rx->done + i];
		if (c->in_len <= VSK_HDR_BYTES || (i > 0 && n_iov + c->n_in > cap))
			break;
		size_t all = rx_space(c), n = HF_MIN(all, max - room);
		if (n < all && max == READ_BYTES && i > 0)
			break;
		n_iov += vq_iov_slice(
			vq_chain_in(c), c->n_in, VSK_HDR_BYTES, n, ret_iov + n_iov, cap - n_iov);
		room += n;
	}
	*ret_n_iov = n_iov;
	return room;
}

/* n bytes were read into the buffers at hand: each gets its header and its length, the last one the
 * flags (D6.4). An empty message takes a buffer as well. */
static void rx_fill(
	struct dev_vm *vm, struct rx *rx, struct dev_conn *conn, size_t n, uint32_t flags)
{
	uint8_t hdr[VSK_HDR_BYTES];
	do {
		struct vq_chain *c = &rx_chains[rx->done++];
		struct iovec part[VQ_CHAIN_IOV_MAX];
		size_t here = HF_MIN(n, rx_space(c));
		size_t k = vq_iov_slice(
			vq_chain_in(c), c->n_in, VSK_HDR_BYTES, here, part, HF_ARRAY_SIZE(part));
		vq_wrote(rx->vq, part, k, here);
		vsk_data(&vm->vsk, &conn->core, (uint32_t)here, here == n ? flags : 0, hdr);
		(void)vq_write(rx->vq, c, 0, hdr, sizeof(hdr)); /* fits: the buffer is usable */
		c->written = (uint32_t)(sizeof(hdr) + here);
		n -= here;
	} while (n > 0);
}

/* Has the guest, when it takes what it was given, something to tell that we wait for? Linux tells
 * of room when less than a packet's is left; with buffers it fills the queue again when half are
 * used. Woken up just then it does so while we use the rest. */
static bool rx_due(const struct dev_vm *vm, const struct vsk_conn *c, uint32_t room_before)
{
	const struct vq *vq = &vm->q[DEV_RX].vq;
	const struct hf_list *others = &vm->vsk.data;
	if ((uint16_t)(vq->next_used - vq->notified) > vq->size / 2)
		return true;
	return room_before >= VSK_PAYLOAD_MAX && vsk_host_room(c) < VSK_PAYLOAD_MAX &&
	       others->next == others->prev;
}

static void rx_data(struct dev_vm *vm, struct rx *rx, const struct vsk_out *out)
{
	static struct iovec part[VQ_CHAIN_IOV_MAX + 1]; /* one for dev_conn_read() */
	struct dev_conn *c = dev_conn_of(out->conn);
	uint32_t room = vsk_host_room(&c->core);
	size_t max = c->sibling ? out->max : HF_MIN(room, READ_BYTES);
	size_t n_part, len = rx_room(rx, max, part, VQ_CHAIN_IOV_MAX, &n_part);
	uint32_t flags;
	bool drained;
	ssize_t n = dev_conn_read(c, part, n_part, len, &drained, &flags);
	if (n > 0 || flags) {
		rx_fill(vm, rx, c, (size_t)n, flags);
		if (c->sibling)
			dev_sibling_given(c, flags);
		rx_publish(rx);
		if (rx_due(vm, &c->core, room))
			dev_ring_tell(vm);
	}
	if (drained || n == -EAGAIN)
		vsk_host_idle(&vm->vsk, &c->core);
	else if (n == 0 && !flags)
		dev_conn_ended(vm, c);
	else if (n < 0)
		dev_conn_failed(vm, c, (int)n);
}

/* The end of a connection, which nobody waits for as for an answer. */
static bool ends(const uint8_t *hdr)
{
	uint16_t op = le16_at(hdr + HDR_OP);
	return op == VSK_OP_SHUTDOWN || op == VSK_OP_RST;
}

bool dev_ring_rx_ready(const struct dev_vm *vm)
{
	return vm->running && (vm->q[DEV_RX].ready || vm->q[DEV_RX].polled);
}

bool dev_ring_rx(struct dev_vm *vm)
{
	struct dev_queue *q = &vm->q[DEV_RX];
	struct rx rx = { .vq = &q->vq };
	struct vsk_out out;
	size_t budget = dev_limits_budget(vm, RX_BUDGET);
	disarm(q);
	while (budget > 0 && vsk_wants_guest(&vm->vsk)) {
		if (!rx_usable(&rx)) {
			rx_give_back(&rx);
			q->ready = false;
			break;
		}
		budget--;
		enum vsk_send what = vsk_to_guest(&vm->vsk, &out);
		if (what == VSK_SEND_NOTHING)
			break;
		vm->tx_blocked = false;
		if (what == VSK_SEND_CONTROL) {
			struct vq_chain *c = &rx_chains[rx.done++];
			(void)vq_write(&q->vq, c, 0, out.hdr, VSK_HDR_BYTES); /* it is usable */
			c->written = VSK_HDR_BYTES;
			vm->urgent |= !ends(out.hdr);
		} else {
			vm->urgent = true;
			rx_data(vm, &rx, &out);
		}
		if (RX_BATCH - rx.done < READ_MAX)
			rx_give_back(&rx);
		if (what == VSK_SEND_DATA && vq_waits(&vm->q[DEV_TX].vq))
			break; /* the guest may have told of room */
	}
	rx_give_back(&rx);
	if (rx.broken) {
		broken(vm, q);
		return false;
	}
	return q->ready && vsk_wants_guest(&vm->vsk);
}

/* A queue that was found empty, and of which somebody wants more. */
static bool is_empty(const struct dev_vm *vm, int queue)
{
	const struct dev_queue *q = &vm->q[queue];
	return vm->running && !q->ready && (queue == DEV_TX || vsk_wants_guest(&vm->vsk));
}

bool dev_ring_waits(struct dev_vm *vm)
{
	bool any = false;
	for (int i = DEV_RX; i <= DEV_TX; i++)
		if (is_empty(vm, i))
			any |= vm->q[i].ready = vq_waits(&vm->q[i].vq);
	return any;
}

bool dev_ring_look(struct dev_vm *vm)
{
	dev_ring_tell(vm);
	return dev_ring_waits(vm);
}

bool dev_ring_rest(struct dev_vm *vm)
{
	bool any = false;
	dev_ring_tell(vm);
	dev_ring_settle(vm);
	for (int i = DEV_RX; i <= DEV_TX; i++) {
		struct dev_queue *q = &vm->q[i];
		if (q->armed || !is_empty(vm, i))
			continue;
		q->armed = true;
		any |= q->ready = vq_arm(&q->vq);
	}
	return any;
}

/* ---- events ---- */

/* Asks for a kick on the next buffer that the driver adds, behind those that it has added. */
static bool arm_behind_all(struct dev_queue *q)
{
	size_t n = 0;
	for (int k; (k = vq_pop(&q->vq, chains, TX_BATCH, iovs, HF_ARRAY_SIZE(iovs))) > 0;)
		n += (size_t)k;
	bool added = vq_arm(&q->vq);
	vq_unpop(&q->vq, n);
	return added;
}

/* Places the event if there is a buffer for it. */
static void place_event(struct dev_vm *vm, struct dev_queue *q)
{
	static const uint8_t transport_reset[4] = { 0 }; /* virtio 1.2, 5.10.6.7: id 0 */
	int n = vq_pop(&q->vq, chains, 1, iovs, HF_ARRAY_SIZE(iovs));
	if (n < 0)
		broken(vm, q);
	if (n <= 0)
		return;
	chains[0].written =
		(uint32_t)vq_write(&q->vq, &chains[0], 0, transport_reset, sizeof(transport_reset));
	vq_push(&q->vq, chains, 1);
	vsk_event_placed(&vm->vsk);
}

/* A kick says that the driver has added a buffer: one for an event that waits (D7.2), or the one of
 * an event that it has used. */
void dev_ring_event(struct dev_vm *vm)
{
	struct dev_queue *q = &vm->q[DEV_EVENT];
	if (vm->vsk.event_pending)
		place_event(vm, q);
	else
		vsk_event_used(&vm->vsk);
	q->ready = !q->vq.broken && arm_behind_all(q);
	(void)notify(vm, q); /* likewise */
}
