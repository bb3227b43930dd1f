/* SPDX-License-Identifier: MIT */
#include "vm.h"
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "map.h"
#include "relay.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* syscalls: getrandom unlink unlinkat */

#define BUCKETS_MIN    64
#define POLLED_RING_US 1000 /* a ring without a kick descriptor is looked at this often */

/* Feature bits, virtio 1.2, 6; those of vsock (5.10.3) are the engine's VSK_F_*. */
#define F_INDIRECT_DESC (1ull << 28)
#define F_EVENT_IDX     (1ull << 29)
#define F_VERSION_1     (1ull << 32)

#define MEM_SLOTS 32

#define POURS   16384 /* bytes of the guest in one turn */
#define STREAMS 32768 /* bytes to the guest in one turn: more are on their way */
#define ROUNDS  8     /* of a turn */

struct dev_tag dev_vm_tag(const struct dev_vm *vm, enum dev_what what, size_t slot, uint32_t gen)
{
	return (struct dev_tag){
		.what = (uint8_t)what, .vm = vm->index, .slot = (uint32_t)slot, .gen = (uint16_t)gen
	};
}

/* ---- slots ---- */

static void grow_buckets(struct dev_vm *vm)
{
	uint32_t n = vm->vsk.n_buckets;
	if (vm->vsk.n_slots <= 2 * n)
		return;
	struct vsk_conn **more = calloc((size_t)4 * n, sizeof(struct vsk_conn *));
	if (!more)
		return; /* longer chains, nothing worse */
	free(vsk_set_buckets(&vm->vsk, more, 4 * n));
	vm->buckets = more;
}

int dev_vm_reserve_slots(struct dev_vm *vm, size_t n)
{
	while (vm->vsk.n_free < n) {
		if (vm->n_chunks == HF_ARRAY_SIZE(vm->chunk))
			return -ENOBUFS;
		struct dev_conn *chunk = calloc(DEV_CONNS_CHUNK, sizeof(*chunk));
		if (!chunk)
			return -ENOMEM;
		for (size_t i = 0; i < DEV_CONNS_CHUNK; i++) {
			chunk[i].fd = -1;
			chunk[i].slot = (uint32_t)(vm->n_chunks * DEV_CONNS_CHUNK + i);
		}
		vm->chunk[vm->n_chunks++] = chunk;
		vsk_give_slots(&vm->vsk, chunk, DEV_CONNS_CHUNK, sizeof(*chunk));
		grow_buckets(vm);
	}
	return 0;
}

static void drop_all(struct dev_vm *vm, bool tell)
{
	struct vsk_ev ev;
	while (vsk_drop(&vm->vsk, tell, &ev))
		dev_conn_handle(vm, &ev);
}

void dev_vm_drop_all(struct dev_vm *vm)
{
	drop_all(vm, false);
	vsk_clear(&vm->vsk);
}

/* ---- rings ---- */

void dev_vm_stop_ring(struct dev_vm *vm, unsigned index)
{
	struct dev_queue *q = &vm->q[index];
	if (!vq_started(&q->vq))
		return;
	dev_ring_tell(vm);
	dev_ring_settle(vm);
	vq_stop(&q->vq);
	q->stopped_before = true;
	q->stop_base = vq_base(&q->vq);
	if (index != DEV_EVENT && vm->running) {
		vm->running = false;
		hf_debug("vm %s: rings stopped", vm->opt->name);
	}
}

static int start_queue(struct dev_vm *vm, struct dev_queue *q)
{
	unsigned flags = 0;
	if (vm->vhu.features & F_EVENT_IDX)
		flags |= VQ_START_EVENT_IDX;
	if (vm->vhu.features & F_INDIRECT_DESC)
		flags |= VQ_START_INDIRECT;
	q->ready = true;
	q->armed = false;
	return vq_start(&q->vq, flags);
}

static int start_ring(struct dev_vm *vm, unsigned index)
{
	struct dev_queue *q = &vm->q[index];
	q->carries_on = q->stopped_before && q->stop_base == vq_base(&q->vq);
	return start_queue(vm, q);
}

/* The driver has connections that we know nothing of. It is told by an event, by us if we have the
 * event queue, else by the front end (D7.9). */
static void interrupted(struct dev_vm *vm)
{
	bool own_event = vq_started(&vm->q[DEV_EVENT].vq);
	drop_all(vm, true);
	dev_inflight_reset(vm);
	vsk_transport_reset(&vm->vsk, vm->loop->now_us, own_event);
	vm->stranger = !own_event;          /* the event queue may still come */
	vm->q[DEV_EVENT].ready = own_event; /* it may have gone on, and have buffers */
}

/* Applications go on. What they left for others, and nobody came for, is void from now on. */
static void go_on(struct dev_vm *vm)
{
	bool was_frozen = vm->frozen;
	vm->frozen = vm->left_out = vm->has_list = false;
	for (size_t i = 0; i < vm->n_chunks * DEV_CONNS_CHUNK; i++) {
		struct dev_conn *c = dev_conn_at(vm, i);
		if (!c->core.unclaimed)
			dev_state_detach(vm, c);
		dev_relay_go_on(vm, c);
		if (was_frozen)
			dev_conn_thaw(vm, c);
	}
	dev_control_tell(&vm->daemon->control, vm, DEV_SAYS_RESUME);
}

/* Both data rings run: decides what this driver is to us (vm.h, Transitions). */
static void start_running(struct dev_vm *vm)
{
	struct dev_queue *rx = &vm->q[DEV_RX], *tx = &vm->q[DEV_TX];
	bool begins = vq_base(&rx->vq) == 0 && vq_base(&tx->vq) == 0;
	bool carries_on = rx->carries_on && tx->carries_on;
	bool loaded = vm->loaded && !begins; /* a record's guest has used its rings */
	vm->running = true;
	vm->tx_blocked = vm->stranger = false;
	if (!carries_on && !loaded && begins)
		dev_vm_drop_all(vm);
	else if (!carries_on && !loaded)
		interrupted(vm);
	hf_info("vm %s: running, %s", vm->opt->name,
		carries_on ? "as before"
		: loaded   ? "with the connections that were loaded"
		: begins   ? "a driver that begins"
			   : "a driver whose connections are not known");
	vm->loaded = false;
	vsk_resume(&vm->vsk, vm->loop->now_us);
	go_on(vm);
	/* Once, whatever there is: notifications before the start went to somebody else (D8.3). */
	(void)dev_ring_rx(vm);
	dev_ring_tell(vm);
}

int dev_vm_sync_rings(struct dev_vm *vm)
{
	for (unsigned i = 0; i < DEV_QUEUES; i++) {
		bool runs = vhu_ring_runs(&vm->vhu, i), started = vq_started(&vm->q[i].vq);
		if (!runs && started)
			dev_vm_stop_ring(vm, i);
		if (!runs || started || vm->mem.n == 0)
			continue; /* without memory a ring is not set up yet: no mistake (E2.8) */
		int r = start_ring(vm, i);
		if (r < 0) {
			hf_error("vm %s: queue %u cannot start: %s", vm->opt->name, i,
				r == -EFAULT ? "its ring is outside of guest memory"
					     : strerror(-r));
			return r;
		}
		if (i == DEV_EVENT && vm->running && vm->stranger)
			interrupted(vm);
	}
	const struct vq *rx = &vm->q[DEV_RX].vq, *tx = &vm->q[DEV_TX].vq;
	if (!vm->running && vq_started(rx) && vq_started(tx) && !rx->broken && !tx->broken)
		start_running(vm);
	return 0;
}

/* ---- the turn ---- */

static void on_kick(struct dev_vm *vm, struct dev_tag tag)
{
	if (tag.slot < DEV_QUEUES && dev_tag_is(tag, vm->q[tag.slot].gen))
		vm->q[tag.slot].ready = true;
}

void dev_vm_on_event(struct dev_vm *vm, struct dev_tag tag, uint32_t events)
{
	switch ((enum dev_what)tag.what) {
	case DEV_ON_FRONT_LISTEN:
		dev_front_on_listen(vm);
		break;
	case DEV_ON_FRONT:
		if (vm->front >= 0 && dev_tag_is(tag, vm->front_gen))
			dev_front_on_event(vm, events);
		break;
	case DEV_ON_HOST_LISTEN:
		if (tag.slot < DEV_DOORS)
			dev_unix_on_listen(vm, tag.slot);
		break;
	case DEV_ON_HELLO:
		dev_unix_on_hello(vm, tag, events);
		break;
	case DEV_ON_KICK:
		on_kick(vm, tag);
		break;
	case DEV_ON_CONN:
		dev_conn_on_event(vm, tag, events);
		break;
	case DEV_ON_TRANSFER:
		dev_transfer_on_event(vm, tag);
		break;
	case DEV_ON_METRICS_LISTEN:
	case DEV_ON_METRICS:
	case DEV_ON_CONTROL_LISTEN:
	case DEV_ON_CONTROL:
	case DEV_ON_LINK_LISTEN:
	case DEV_ON_PEER:
	case DEV_ON_RELAY:
	case DEV_ON_UV:
		break; /* not a VM's */
	}
}

/* The front end has shrunk a file under us. */
static void check_maps(struct dev_vm *vm)
{
	size_t lost = dev_maps_lost();
	if (lost == vm->lost_seen)
		return;
	vm->lost_seen = lost;
	bool mine = dev_map_lost(vm->log_map) || dev_map_lost(vm->inflight.map);
	for (size_t i = 0; i < vm->mem.n; i++)
		mine |= dev_map_lost(vm->mem.region[i].host);
	if (mine)
		dev_front_close(vm, "it shrank memory that it had given us");
}

/* Moves packets, both ways once; true when there is more to do at once. */
static bool run_data(struct dev_vm *vm)
{
	struct vsk_ev ev;
	bool more = false;
	if (vm->running && (vm->q[DEV_TX].ready || vm->q[DEV_TX].polled))
		more = dev_ring_tx(vm);
	while (vm->running && vsk_expire(&vm->vsk, vm->loop->now_us, &ev))
		dev_conn_handle(vm, &ev);
	if (dev_ring_rx_ready(vm) && vsk_wants_guest(&vm->vsk))
		more |= dev_ring_rx(vm);
	return vm->running && (more || (vm->q[DEV_TX].ready && !vm->tx_blocked));
}

/* The same, again while the guest goes on meanwhile: what it has to say, such as room in its
 * buffers, needs neither a kick nor a turn of the loop then. */
static bool run_rings(struct dev_vm *vm)
{
	bool more;
	struct vsk_stats *now = &vm->vsk.stats, before = *now;
	struct dev_queue *events = &vm->q[DEV_EVENT];
	if (events->ready && vq_started(&events->vq))
		dev_ring_event(vm);
	for (int i = 0; i < ROUNDS; i++) {
		more = run_data(vm);
		bool pours = now->rx_bytes - before.rx_bytes >= POURS; /* see note_moved() */
		if (vm->limits.bytes.rate > 0 || !(more || (!pours && dev_ring_waits(vm))))
			break;
		more = true;
	}
	if (vm->urgent && now->tx_bytes - before.tx_bytes < STREAMS)
		dev_ring_tell(vm);
	return vm->running && (more || (events->ready && vq_started(&events->vq)));
}

/* Who is spoken to may answer soon. But where a guest pours out bytes, the host application is who
 * needs a processor, and the next turn has more to do the later it comes. */
static void note_moved(struct dev_vm *vm)
{
	const struct vsk_stats *now = &vm->vsk.stats;
	uint64_t packets = now->from_guest + now->to_guest;
	vm->loop->brisk |= packets != vm->packets_seen && now->rx_bytes - vm->rx_seen < POURS;
	vm->packets_seen = packets;
	vm->rx_seen = now->rx_bytes;
}

uint64_t dev_vm_turn(struct dev_vm *vm)
{
	uint64_t now_us = vm->loop->now_us;
	if (now_us >= vm->retry_us && vm->host_paused)
		dev_unix_retry(vm);
	if (now_us >= vm->retry_us && vm->front_paused)
		dev_front_retry(vm);
	uint64_t next_us = dev_unix_turn(vm);
	uint64_t wait_us = vm->running ? dev_limits_wait(vm) : 0;
	bool more = vm->running && wait_us == 0 && run_rings(vm);
	dev_limits_moved(vm);
	note_moved(vm);
	check_maps(vm); /* after all that touches guest memory in this turn */
	if (more && vm->running)
		return 0;
	if (vm->host_paused || vm->front_paused)
		next_us = HF_MIN(next_us, vm->retry_us);
	if (!vm->running)
		return next_us;
	if (!hf_list_empty(&vm->dials))
		next_us = HF_MIN(next_us, vm->next_dial_us);
	for (int i = 0; i < DEV_QUEUES; i++)
		if (vm->q[i].polled)
			next_us = HF_MIN(next_us, now_us + POLLED_RING_US);
	/* While it waits for its rate, deadlines wait as well. */
	return HF_MIN(next_us, wait_us > 0 ? wait_us : vsk_deadline(&vm->vsk));
}

/* ---- another CID ---- */

int dev_vm_change_cid(struct dev_vm *vm, uint32_t guest_cid)
{
	bool own_event = vm->running && vq_started(&vm->q[DEV_EVENT].vq);
	drop_all(vm, vm->running);
	int r = vsk_set_cid(&vm->vsk, guest_cid);
	if (r < 0)
		return r;
	le64_to(vm->vhu.config, guest_cid);
	for (int i = 0; i < DEV_QUEUES; i++)
		vm->q[i].stopped_before = false; /* whoever starts them is no longer who he was */
	if (!vm->running)
		return 0;
	vsk_transport_reset(&vm->vsk, vm->loop->now_us, own_event);
	vm->stranger = !own_event;
	vm->q[DEV_EVENT].ready = own_event; /* the event may go out at once */
	return 0;
}

/* ---- set-up ---- */

static_assert(DEV_TX_BUFFER_MAX <= VSK_BUF_MAX, "the engine takes what an option may say");

static int init_engine(struct dev_vm *vm)
{
	uint64_t seed;
	uint32_t start;
	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed) ||
		getrandom(&start, sizeof(start), 0) != sizeof(start))
		return -errno;
	vm->buckets = calloc(BUCKETS_MIN, sizeof(struct vsk_conn *));
	if (!vm->buckets)
		return -ENOMEM;
	struct vsk_config cfg = {
		.guest_cid = vm->opt->guest_cid,
		.buf_alloc = vm->opt->tx_buffer_size,
		/* A driver may still hold ports of a device before us: begin anywhere (D7.7). */
		.port_floor = VSK_HOST_PORT_MIN + start % (VSK_HOST_PORT_MAX - VSK_HOST_PORT_MIN),
		.claim_us = HF_MAX(vm->daemon->opt.claim_timeout_ms * 1000, 1u),
		.hash_seed = seed,
		.siblings = vm->opt->groups[0] != '\0',
	};
	int r = vsk_init(&vm->vsk, &cfg, vm->buckets, BUCKETS_MIN);
	return r < 0 ? r : dev_vm_reserve_slots(vm, 1);
}

static void init_vhu(struct dev_vm *vm)
{
	/* Not STATUS: QEMU from 8.0 on sets it to 0 at each stop, also that of a migration, where
	 * nothing must be lost. A driver that begins anew is told by its ring indices. */
	vhu_init(&vm->vhu,
		&(struct vhu_offer){
			.features = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | VSK_F_STREAM |
				    VSK_F_SEQPACKET | VSK_F_NO_IMPLIED_STREAM,
			.protocol_features = VHU_P_MQ | VHU_P_LOG_SHMFD | VHU_P_REPLY_ACK |
					     VHU_P_CONFIG | VHU_P_RESET_DEVICE | VHU_P_BACKEND_REQ |
					     VHU_P_CONFIGURE_MEM_SLOTS | VHU_P_DEVICE_STATE |
					     VHU_P_INFLIGHT_SHMFD,
			.n_queues = DEV_QUEUES,
			.queue_size_max = vm->opt->queue_size,
			.mem_slots = MEM_SLOTS,
		});
	le64_to(vm->vhu.config, vm->opt->guest_cid);
}

int dev_vm_make(struct dev_daemon *d, const struct dev_vm_options *opt, uint8_t index,
	struct dev_vm **ret_vm, struct hf_err *reterr)
{
	struct dev_vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	vm->daemon = d;
	vm->loop = &d->loop;
	vm->opt = opt;
	vm->policies = opt->policies;
	vm->index = index;
	vm->front_listen = vm->front = vm->backend = vm->transfer.fd = -1;
	vm->transfer.result = -ENOENT;
	for (int i = 0; i < DEV_DOORS; i++)
		vm->host_listen[i] = -1;
	hf_list_init(&vm->dials);
	for (int i = 0; i < DEV_QUEUES; i++) {
		vq_init(&vm->q[i].vq, &vm->mem);
		vm->q[i].kick = vm->q[i].call = -1;
	}
	for (int i = 0; i < DEV_HELLOS_MAX; i++)
		vm->hello[i].fd = -1;
	init_vhu(vm);
	dev_limits_init(vm);
	int r = init_engine(vm);
	if (r < 0) {
		dev_vm_forget(vm);
		return hf_err_set(reterr, r, "vm %s: cannot set up: %s", opt->name, strerror(-r));
	}
	*ret_vm = vm;
	return 0;
}

int dev_vm_new(struct dev_daemon *d, const struct dev_vm_options *opt, uint8_t index,
	struct dev_vm **ret_vm, struct hf_err *reterr)
{
	struct dev_vm *vm;
	int r = dev_vm_make(d, opt, index, &vm, reterr);
	if (r < 0)
		return r;
	r = dev_unix_open(vm, reterr);
	if (r == 0)
		r = dev_front_open(vm, reterr);
	if (r < 0) {
		(void)hf_err_prefix(reterr, "vm %s", opt->name); /* r is returned */
		dev_vm_free(vm);
		return r;
	}
	*ret_vm = vm;
	return 0;
}

/* A queue that ran; a broken one stays so. */
static int carry_on_queue(struct dev_vm *vm, struct dev_queue *q)
{
	enum vq_broken broken = q->vq.broken;
	int r = q->taken ? start_queue(vm, q) : 0;
	q->taken = false;
	q->vq.broken = broken;
	return r;
}

void dev_vm_carry_on(struct dev_vm *vm, bool running)
{
	int r = 0;
	for (int i = 0; i < DEV_QUEUES && r == 0 && !vm->unfit; i++)
		r = carry_on_queue(vm, &vm->q[i]);
	if (r < 0)
		vm->unfit = "its rings are outside of its memory";
	if (vm->unfit) {
		dev_front_close(vm, vm->unfit);
		vm->unfit = NULL;
		return;
	}
	dev_inflight_rewrite(vm);
	vm->running = running;
	vsk_resume(&vm->vsk, vm->loop->now_us);
	if (vm->front >= 0)
		dev_front_on_event(vm, 0); /* watched from here on */
}

static void free_memory(struct dev_vm *vm)
{
	for (size_t i = 0; i < vm->n_chunks; i++)
		free(vm->chunk[i]);
	free(vm->buckets);
	free(vm);
}

void dev_vm_forget(struct dev_vm *vm)
{
	for (size_t i = 0; i < vm->n_chunks * DEV_CONNS_CHUNK; i++)
		dev_conn_forget(dev_conn_at(vm, i));
	for (size_t i = 0; i < DEV_HELLOS_MAX; i++)
		fd_closep(&vm->hello[i].fd);
	for (int i = 0; i < DEV_QUEUES; i++) {
		fd_closep(&vm->q[i].kick);
		fd_closep(&vm->q[i].call);
	}
	for (int i = 0; i < DEV_DOORS; i++)
		fd_closep(&vm->host_listen[i]);
	for (size_t i = 0; i < vm->vhu.n_fds; i++)
		fd_closep(&vm->vhu.fds[i]);
	for (size_t i = 0; i < vm->mem.n; i++)
		dev_unmap(vm->mem.region[i].host);
	dev_unmap(vm->log_map);
	dev_inflight_drop(vm);
	fd_closep(&vm->vhu.out_fd);
	fd_closep(&vm->front_listen);
	fd_closep(&vm->front);
	fd_closep(&vm->backend);
	free_memory(vm);
}

void dev_vm_free(struct dev_vm *vm)
{
	dev_front_close(vm, "holdfastd ends");
	dev_vm_drop_all(vm); /* what was loaded before any front end came */
	if (vm->front_listen >= 0) {
		dev_loop_close(vm->loop, &vm->front_listen);
		if (vm->opt->fd < 0)
			dev_unlisten(vm->opt->socket);
	}
	dev_unix_close(vm);
	for (size_t i = 0; i < vm->n_chunks * DEV_CONNS_CHUNK; i++) {
		struct dev_conn *c = dev_conn_at(vm, i);
		if (c->core.held_by_device) /* it lingers */
			dev_conn_finish(vm, c);
	}
	free_memory(vm);
}

/* ---- for the control socket ---- */

void dev_vm_info(const struct dev_vm *vm, struct dev_vm_info *ret_info)
{
	*ret_info = (struct dev_vm_info){ .name = vm->opt->name,
		.guest_cid = vm->opt->guest_cid,
		.outer_cid = dev_options_cid(vm->opt),
		.connected = vm->front >= 0,
		.rings = vm->running  ? "running"
			 : vm->frozen ? "saved"
			 : vm->loaded ? "loaded"
				      : "stopped" };
	struct dev_conn_info conn;
	for (size_t at = 0; dev_vm_next_conn(vm, &at, &conn);)
		ret_info->n_conns++;
}

bool dev_vm_next_conn(const struct dev_vm *vm, size_t *at, struct dev_conn_info *ret_info)
{
	for (const struct dev_conn *c; (c = dev_conn_at(vm, *at)) != NULL;) {
		(*at)++;
		if (!c->core.held_by_device)
			continue;
		*ret_info = (struct dev_conn_info){ .host_port = c->core.host_port,
			.guest_port = c->core.guest_port,
			.peer_cid = c->core.peer_cid,
			.state = vsk_state_name(c->core.state),
			.claimed = !c->core.unclaimed,
			.arrived = c->arrived,
			.relay = !c->relay        ? ""
				 : c->relay->peer ? c->relay->peer->address
						  : "waits",
			.policy = dev_policy_name(dev_policy_of(&vm->policies, c->core.host_port)),
			.fate = c->fate,
			.rx_bytes = c->core.rx_cnt,
			.tx_bytes = c->core.tx_cnt,
			.type = c->core.type == VSK_TYPE_SEQPACKET ? "seqpacket" : "stream",
			.rx_credit = vsk_guest_room(&c->core),
			.tx_credit = vsk_host_room(&c->core),
			.age_us = c->since_us ? vm->loop->now_us - c->since_us : 0,
			.to_host_pending = hf_ring_len(&c->to_host),
			.to_guest_pending = hf_ring_len(&c->to_guest),
			.app_bytes = c->app_len };
		return true;
	}
	return false;
}
