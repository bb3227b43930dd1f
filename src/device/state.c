/* SPDX-License-Identifier: MIT */
/*
 * state.c - all connections as a record, from there and back.
 *
 * Saving. The rings are stopped. What host applications have written and the guest has not got is
 * read into each connection's to_guest ring, so the ring and nothing else is the truth; then the
 * engine copies everything into one buffer. From then on the VM is frozen: no byte moves between us
 * and a host application, or the record would be wrong. When the rings run again the VM thaws,
 * sends what the rings hold, and nothing is lost.
 *
 * Loading is the reverse, into a VM without connections whose rings do not run yet. Each connection
 * waits for an application to claim it by its ports; it gets one end of a socket pair, and what the
 * application's instance on the source has left for it.
 *
 * A record travels as a sealed memfd (control socket) or through a pipe of the front end (device
 * state, vhost-user). The pipe is non-blocking and watched by the loop: the front end waits for our
 * answer first and reads or writes later (E4.3). A record goes one of the two ways only, or two
 * hosts might own its connections: after it was given out by the control socket the front end gets
 * none.
 */
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "memfile.h"
#include "relay.h"
#include "vm.h"
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* syscalls: ioctl(1=FIONREAD) readv read write socketpair(0=AF_UNIX) shutdown */

#define TRANSFER_STEP (256U << 10) /* bytes per turn */

void dev_state_versions(unsigned *ret_oldest, unsigned *ret_newest)
{
	*ret_oldest = VSK_RECORD_OLDEST;
	*ret_newest = VSK_RECORD_VERSION;
}

/* ---- saving ---- */

/* Reads what the host application has written. False: it is more than a record may hold, or it
 * could not be read. */
static bool drain(struct dev_conn *c)
{
	dev_conn_take_line(c);
	if (c->core.type == VSK_TYPE_SEQPACKET)
		return c->fd < 0 || (c->core.host_shut & VSK_SHUT_SEND) ||
		       dev_message_drain(c) == 0;
	while (c->fd >= 0 && !(c->core.host_shut & VSK_SHUT_SEND)) {
		struct iovec iov[2];
		int there = 0;
		if (ioctl(c->fd, FIONREAD, &there) < 0)
			return false;
		if (there <= 0)
			return true;
		if (hf_ring_len(&c->to_guest) + (size_t)there > VSK_FLIGHT_MAX ||
			dev_conn_reserve(&c->to_guest, (size_t)there) < 0)
			return false;
		int k = hf_ring_write_iov(&c->to_guest, iov);
		ssize_t n = readv(c->fd, iov, k);
		if (n <= 0)
			return n < 0 && (errno == EAGAIN || errno == EINTR);
		hf_ring_produced(&c->to_guest, (size_t)n);
	}
	return true;
}

const char *dev_fate_text(enum dev_fate f)
{
	static const char *const texts[DEV_FATE_N_] = { "", "the policy of its port is reset",
		"it is not on the list to be kept", "its client waits on the source for the guest",
		"its application has written more than a record may hold",
		"its other end is a guest that stays on the source", "it cannot be relayed" };
	return texts[f];
}

/* Its host end stays, and is reached over the link. What the application has written and was not
 * read stays with it. */
static enum dev_fate relay(struct dev_vm *vm, struct dev_conn *c)
{
	bool to_be_dialled = c->core.state == VSK_DIALLING && c->core.peer_cid == VSK_CID_HOST;
	bool has_end = c->fd >= 0 || c->relay || c->sibling;
	if (to_be_dialled || !has_end || dev_relay_moves(c->relay))
		return DEV_KEPT;
	return dev_relay_bequeath(vm, c) < 0 ? DEV_RESET_RELAY : DEV_KEPT;
}

/* Kept is a connection of which the host end is established, and whole in the daemon, or is still
 * to be dialled; or which is relayed to it. */
static enum dev_fate decide(struct dev_vm *vm, struct dev_conn *c)
{
	bool linked = dev_link_is_open(&vm->daemon->link);
	enum dev_policy policy = dev_policy_of(&vm->policies, c->core.host_port);
	if (c->core.peer_cid != VSK_CID_HOST)
		return linked ? relay(vm, c) : DEV_RESET_SIBLING;
	if (vm->has_list && !c->listed)
		return DEV_RESET_LIST;
	if (!vm->has_list && policy == DEV_RESET)
		return DEV_RESET_POLICY;
	if (c->relay || (policy == DEV_RELAY && linked))
		return relay(vm, c);
	if (c->core.state == VSK_ASKING)
		return DEV_RESET_ASKING;
	return drain(c) ? DEV_KEPT : DEV_RESET_FULL;
}

/* Without a list policies decide. */
static void take_list(struct dev_vm *vm, const struct dev_keep *keep)
{
	vm->has_list = keep != NULL;
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;)
		dev_conn_of(v)->listed = false;
	for (size_t i = 0; keep && i < keep->n; i++) {
		const struct dev_ports *p = &keep->ports[i];
		struct vsk_conn *v = vsk_find(&vm->vsk, VSK_CID_HOST, p->host, p->guest);
		if (v)
			dev_conn_of(v)->listed = true;
	}
}

static void decide_all(struct dev_vm *vm)
{
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;) {
		struct dev_conn *c = dev_conn_of(v);
		c->fate = (uint8_t)decide(vm, c);
		if (c->fate != DEV_KEPT)
			hf_info("vm %s: conn %u<-%u: not saved: %s", vm->opt->name,
				c->core.host_port, c->core.guest_port, dev_fate_text(c->fate));
	}
}

static struct vsk_bytes ring_bytes(const struct hf_ring *r, const struct hf_ring *ends)
{
	struct vsk_bytes b = { 0 };
	struct iovec iov[2];
	int k = hf_ring_read_iov(r, iov);
	for (int i = 0; i < k; i++) {
		b.p[i] = iov[i].iov_base;
		b.n[i] = iov[i].iov_len;
	}
	k = hf_ring_read_iov(ends, iov);
	for (int i = 0; i < k; i++) {
		b.ends_p[i] = iov[i].iov_base;
		b.ends_n[i] = iov[i].iov_len;
	}
	return b;
}

struct record {
	uint8_t *buf;
	size_t len;
	size_t n_conns;
};

static int save_refused(const struct dev_vm *vm, struct hf_err *reterr)
{
	if (!vhu_suspended(&vm->vhu))
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": the rings run: stop the VM first (QEMU: stop, or the end of a "
			"migration)",
			vm->opt->name);
	return 0;
}

void dev_state_put(struct vsk_save *s, struct dev_conn *c, bool keep)
{
	size_t n;
	bool moves = c->fate == DEV_KEPT && !s->takeover;
	HF_CLEANUP(hf_freep) uint8_t *relay = moves ? dev_relay_record(c, &n) : NULL;
	struct vsk_bytes to_host = ring_bytes(&c->to_host, &c->to_host_ends);
	struct vsk_bytes to_guest = ring_bytes(&c->to_guest, &c->to_guest_ends);
	vsk_save_conn(s, &c->core, keep, &to_host, &to_guest);
	if (relay)
		vsk_save_relay(s, relay, n);
	if (keep)
		vsk_save_app(s, c->app, c->app_len);
}

size_t dev_state_bytes(const struct dev_conn *c)
{
	return hf_ring_len(&c->to_host) + hf_ring_len(&c->to_guest) +
	       hf_ring_len(&c->to_host_ends) + hf_ring_len(&c->to_guest_ends) + c->app_len +
	       dev_relay_record_size(c);
}

/* Makes the record; the caller frees buf. The VM is frozen then. */
static int save(struct dev_vm *vm, struct record *ret, struct hf_err *reterr)
{
	int r = save_refused(vm, reterr);
	if (r < 0)
		return r;
	dev_relay_freeze(vm);
	decide_all(vm);
	size_t cap = vsk_save_size(&vm->vsk), n = 0;
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;) {
		n += dev_conn_of(v)->fate == DEV_KEPT;
		cap += dev_state_bytes(dev_conn_of(v));
	}
	if (cap > DEV_RECORD_MAX)
		return hf_err_set(reterr, -EFBIG,
			"vm \"%s\": %zu bytes in flight, a record holds at most %u: let the "
			"applications read first",
			vm->opt->name, cap, DEV_RECORD_MAX);
	uint8_t *buf = malloc(cap);
	if (!buf)
		return hf_err_set(reterr, -ENOMEM, "out of memory");

	struct vsk_save s;
	vsk_save_begin(&s, &vm->vsk, buf, cap);
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;)
		dev_state_put(&s, dev_conn_of(v), dev_conn_of(v)->fate == DEV_KEPT);
	*ret = (struct record){ .buf = buf, .n_conns = n };
	r = vsk_save_end(&s, &ret->len);
	if (r < 0) {
		free(buf);
		return hf_err_set(reterr, r, "vm \"%s\": cannot write the record: %s",
			vm->opt->name, strerror(-r));
	}
	vm->frozen = true;
	hf_info("vm %s: saved %zu connections, %zu bytes", vm->opt->name, n, ret->len);
	return 0;
}

int dev_state_save(struct dev_vm *vm, const struct dev_keep *keep, int *ret_fd, size_t *ret_size,
	size_t *ret_conns, struct hf_err *reterr)
{
	struct record rec;
	take_list(vm, keep);
	int r = save(vm, &rec, reterr);
	if (r < 0)
		return r;
	r = dev_memfile_make(rec.buf, rec.len, ret_fd);
	free(rec.buf);
	if (r < 0)
		return hf_err_set(reterr, r, "cannot make a file for the record: %s", strerror(-r));
	vm->left_out = true;
	*ret_size = rec.len;
	*ret_conns = rec.n_conns;
	return 0;
}

int dev_state_freeze(
	struct dev_vm *vm, const struct dev_keep *keep, bool leave, struct hf_err *reterr)
{
	int r = save_refused(vm, reterr);
	if (r < 0)
		return r;
	vm->frozen = true;
	dev_relay_freeze(vm);
	vm->left_out = leave;
	take_list(vm, keep);
	decide_all(vm);
	return 0;
}

int dev_state_quiesce(struct dev_vm *vm, struct hf_err *reterr)
{
	int r = save_refused(vm, reterr);
	if (r < 0)
		return r;
	vm->frozen = true;
	dev_relay_freeze(vm);
	return 0;
}

/* NULL, and the reason: there is none. */
static struct dev_conn *find(struct dev_vm *vm, struct dev_ports p, struct hf_err *reterr)
{
	struct vsk_conn *v = vsk_find(&vm->vsk, VSK_CID_HOST, p.host, p.guest);
	if (v && v->state == VSK_OPEN)
		return dev_conn_of(v);
	(void)hf_err_set(reterr, -ENOENT, "conn %u<-%u: no such connection; see conn-list", p.host,
		p.guest); /* what it returns is known */
	return NULL;
}

int dev_state_checkpoint(
	struct dev_vm *vm, struct dev_ports ports, int *ret_fd, struct hf_err *reterr)
{
	struct vsk_save s;
	size_t len;
	int r = save_refused(vm, reterr);
	if (r < 0)
		return r;
	struct dev_conn *c = find(vm, ports, reterr);
	if (!c)
		return -ENOENT;
	c->fate = (uint8_t)(drain(c) ? DEV_KEPT : DEV_RESET_FULL);
	if (c->fate != DEV_KEPT)
		return hf_err_set(reterr, -EMSGSIZE, "conn %u<-%u: %s", ports.host, ports.guest,
			dev_fate_text(c->fate));
	size_t cap = VSK_SAVE_HEAD_MAX + VSK_SAVE_CONN_MAX + dev_state_bytes(c);
	HF_CLEANUP(hf_freep) uint8_t *buf = malloc(cap);
	if (!buf)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	vm->frozen = true;
	dev_relay_freeze(vm);
	vsk_save_begin_one(&s, &vm->vsk, buf, cap);
	dev_state_put(&s, c, true);
	r = vsk_save_end(&s, &len);
	if (r == 0)
		r = dev_memfile_make(buf, len, ret_fd);
	return r < 0 ? hf_err_set(reterr, r, "conn %u<-%u: cannot write the record: %s", ports.host,
			       ports.guest, strerror(-r))
		     : 0;
}

/* ---- what applications leave ---- */

void dev_state_detach(struct dev_vm *vm, struct dev_conn *c)
{
	free(c->app);
	vm->app_bytes -= c->app_len;
	c->app = NULL;
	c->app_len = 0;
}

/* 0, -ENOMEM, or -ENOSPC: all of them together are too much. */
static int attach_app(struct dev_vm *vm, struct dev_conn *c, const void *data, size_t n)
{
	dev_state_detach(vm, c);
	if (n == 0)
		return 0;
	if (n > DEV_APPS_MAX - vm->app_bytes)
		return -ENOSPC;
	c->app = malloc(n);
	if (!c->app)
		return -ENOMEM;
	memcpy(c->app, data, n);
	c->app_len = (uint32_t)n;
	vm->app_bytes += n;
	return 0;
}

int dev_state_attach(struct dev_vm *vm, struct dev_ports ports, const void *data, size_t n,
	struct hf_err *reterr)
{
	struct dev_conn *c = find(vm, ports, reterr);
	if (!c)
		return -ENOENT;
	if (c->core.unclaimed)
		return hf_err_set(
			reterr, -EBUSY, "conn %u<-%u: claim it first", ports.host, ports.guest);
	if (n > VSK_APP_MAX)
		return hf_err_set(reterr, -EMSGSIZE,
			"conn %u<-%u: a state of %zu bytes; at most %u can travel", ports.host,
			ports.guest, n, VSK_APP_MAX);
	int r = attach_app(vm, c, data, n);
	if (r < 0)
		return hf_err_set(reterr, r, "conn %u<-%u: %s", ports.host, ports.guest,
			r == -ENOSPC ? "the states of this VM's applications exceed 64 MiB"
				     : strerror(-r));
	return 0;
}

/* ---- loading ---- */

static const char *load_error_text(int error)
{
	switch (error) {
	case -ENODATA:
		return "it is empty";
	case -EBADMSG:
		return "it is no record, or it is damaged";
	case -EPROTONOSUPPORT:
		return "a newer holdfastd wrote it: load it with one that is as new";
	case -EINVAL:
		return "it contradicts itself";
	case -EADDRNOTAVAIL:
		return "it is of a guest with another CID: give this VM the same guest-cid";
	case -ENOBUFS:
		return "it has more connections than a VM may have";
	case -EEXIST:
		return "there is a connection between these ports already";
	case -ENOSPC:
		return "the states of its applications exceed 64 MiB";
	default:
		return strerror(-error);
	}
}

static int put_part(struct hf_ring *r, const void *const p[2], const size_t n[2], size_t cap)
{
	if (n[0] + n[1] == 0)
		return 0;
	int e = dev_conn_reserve(r, HF_MAX(n[0] + n[1], cap));
	for (int i = 0; i < 2 && e == 0; i++)
		(void)hf_ring_put(r, p[i], n[i]); /* fits: reserved */
	return e;
}

static int put_bytes(struct hf_ring *r, struct hf_ring *ends, const struct vsk_bytes *b, size_t cap)
{
	int e = put_part(r, b->p, b->n, cap);
	return e < 0 ? e : put_part(ends, b->ends_p, b->ends_n, 0);
}

/* How much has come of the guest's last message: what lies behind the ends. */
static uint32_t unfinished(const struct dev_conn *c)
{
	struct hf_ring ends = c->to_host_ends;
	size_t n = hf_ring_len(&c->to_host);
	for (; c->core.rx_mid && hf_ring_len(&ends) > 0; hf_ring_consumed(&ends, VSK_END_BYTES))
		n -= dev_message_len(&ends);
	return c->core.rx_mid ? (uint32_t)n : 0;
}

static void reset_loaded(struct dev_vm *vm, struct dev_conn *c)
{
	hf_info("vm %s: conn %u<-%u: reset on arrival", vm->opt->name, c->core.host_port,
		c->core.guest_port);
	vsk_host_reset(&vm->vsk, &c->core);
	dev_conn_finish(vm, c);
}

/* Its host end is elsewhere. 0, or -errno: the record is refused. *ret_lost: it cannot be reached
 * from here. */
static int load_relay(
	struct dev_vm *vm, const struct vsk_load *l, struct dev_conn *c, bool *ret_lost)
{
	size_t n;
	const void *relay = vsk_load_relay(l, &n);
	int r = relay ? dev_relay_load(vm, c, relay, n) : 0;
	*ret_lost = r == -EHOSTUNREACH || (!relay && c->core.peer_cid != VSK_CID_HOST);
	return r == -EHOSTUNREACH ? 0 : r;
}

int dev_state_take(struct dev_vm *vm, struct dev_conn *c, const struct vsk_load *l,
	const struct vsk_bytes *to_host, const struct vsk_bytes *to_guest)
{
	size_t app_len;
	const void *app = vsk_load_app(l, &app_len);
	int r = attach_app(vm, c, app, app_len);
	if (r == 0)
		r = put_bytes(&c->to_host, &c->to_host_ends, to_host, c->core.buf_alloc);
	if (r == 0)
		r = put_bytes(&c->to_guest, &c->to_guest_ends, to_guest, 0);
	if (r == 0)
		c->part = unfinished(c);
	return r;
}

static int load_conns(struct dev_vm *vm, struct vsk_load *l)
{
	struct vsk_bytes to_host, to_guest;
	int r = 0;
	for (struct vsk_conn *v; (v = vsk_load_next(l, &to_host, &to_guest)) != NULL;) {
		struct dev_conn *c = dev_conn_of(v);
		bool lost = false;
		c->fd = -1;
		c->arrived = true;
		dev_inflight_note(vm, c);
		if (r == 0)
			r = dev_state_take(vm, c, l, &to_host, &to_guest);
		if (r == 0)
			r = load_relay(vm, l, c, &lost);
		if (lost || (v->peer_cid == VSK_CID_HOST &&
				    dev_policy_of(&vm->policies, v->host_port) == DEV_RESET))
			reset_loaded(vm, c);
		else if (v->state == VSK_DIALLING && !c->relay)
			dev_unix_dial_later(vm, c, UINT64_MAX); /* the engine has the deadline */
		else if (hf_ring_len(&c->to_guest) + hf_ring_len(&c->to_guest_ends) > 0)
			vsk_host_readable(&vm->vsk, v);
	}
	return r;
}

static int load(struct dev_vm *vm, const void *buf, size_t len)
{
	struct vsk_record_info info;
	struct vsk_load l;
	int r = vsk_record_info(buf, len, &info);
	if (r == 0)
		r = dev_vm_reserve_slots(vm, info.n_conns);
	if (r == 0)
		r = vsk_load_begin(&l, &vm->vsk, vm->loop->now_us, buf, len);
	if (r < 0)
		return r;
	r = load_conns(vm, &l);
	if (r < 0) {
		dev_vm_drop_all(vm);
		return r;
	}
	vm->loaded = true;
	dev_control_tell(&vm->daemon->control, vm, DEV_SAYS_LOADED);
	hf_info("vm %s: loaded %u connections", vm->opt->name, info.n_conns);
	return 0;
}

static int rings_refuse(const struct dev_vm *vm, struct hf_err *reterr)
{
	if (vhu_suspended(&vm->vhu))
		return 0;
	return hf_err_set(reterr, -EBUSY, "vm \"%s\": the rings run: load before the guest starts",
		vm->opt->name);
}

static int load_refused(const struct dev_vm *vm, struct hf_err *reterr)
{
	int r = rings_refuse(vm, reterr);
	if (r < 0)
		return r;
	if (vm->vsk.n_conns > 0)
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": it has connections already: state-discard forgets loaded ones",
			vm->opt->name);
	return 0;
}

int dev_state_load(struct dev_vm *vm, int fd, struct hf_err *reterr)
{
	size_t len = 0;
	HF_CLEANUP(hf_freep) uint8_t *buf = NULL;
	int r = load_refused(vm, reterr);
	if (r < 0)
		return r;
	r = dev_memfile_read(fd, DEV_RECORD_MAX, &buf, &len);
	if (r < 0)
		return hf_err_set(
			reterr, r, "the descriptor is no file with a record: %s", strerror(-r));
	r = load(vm, buf, len);
	if (r < 0)
		return hf_err_set(reterr, r, "vm \"%s\": the record is refused: %s", vm->opt->name,
			load_error_text(r));
	return 0;
}

static int restore(struct dev_vm *vm, const void *buf, size_t len, struct dev_ports *ret_ports)
{
	struct vsk_load l;
	(void)dev_vm_reserve_slots(vm, 1); /* without one the engine refuses */
	int r = vsk_load_add(&l, &vm->vsk, vm->loop->now_us, buf, len);
	if (r < 0)
		return r;
	struct vsk_load peek = l;
	struct vsk_bytes to_host, to_guest;
	struct vsk_conn *v = vsk_load_next(&peek, &to_host, &to_guest);
	*ret_ports = (struct dev_ports){ v->host_port, v->guest_port };
	r = load_conns(vm, &l);
	if (r < 0) { /* nothing was said to the guest yet */
		if (v->held_by_device)
			reset_loaded(vm, dev_conn_of(v));
		return r;
	}
	vm->loaded = true;
	dev_control_tell(&vm->daemon->control, vm, DEV_SAYS_LOADED);
	return 0;
}

int dev_state_restore(struct dev_vm *vm, int fd, struct dev_ports *ret_ports, struct hf_err *reterr)
{
	size_t len = 0;
	HF_CLEANUP(hf_freep) uint8_t *buf = NULL;
	if (!vhu_suspended(&vm->vhu))
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": the rings run: restore before the guest starts", vm->opt->name);
	int r = dev_memfile_read(fd, DEV_RECORD_MAX, &buf, &len);
	if (r < 0)
		return hf_err_set(
			reterr, r, "the descriptor is no file with a record: %s", strerror(-r));
	r = restore(vm, buf, len, ret_ports);
	if (r < 0)
		return hf_err_set(reterr, r, "vm \"%s\": the record is refused: %s", vm->opt->name,
			r == -EINVAL ? "it contradicts itself, or is not of one connection"
				     : load_error_text(r));
	return 0;
}

/* ---- claims ---- */

static int attach_claimed(struct dev_vm *vm, struct dev_conn *c, int *ret_fd)
{
	HF_CLEANUP(fd_closep) int theirs = -1;
	int sv[2];
	int type = c->core.type == VSK_TYPE_SEQPACKET ? SOCK_SEQPACKET : SOCK_STREAM;
	if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, sv) < 0)
		return -errno;
	theirs = sv[1];
	int r = fd_set_nonblock(sv[0], true);
	if (r < 0) {
		fd_closep(&sv[0]);
		return r;
	}
	r = dev_conn_attach(vm, c, sv[0], 0);
	if (r < 0)
		return r;
	r = vsk_claim(&vm->vsk, vm->loop->now_us, &c->core);
	if (r < 0) {
		dev_loop_close(vm->loop, &c->fd);
		return r;
	}
	if (vsk_guest_ended(&c->core))
		(void)shutdown(c->fd, SHUT_WR); /* fails only when it is over anyway */
	if (c->core.guest_shut & VSK_SHUT_RCV)
		(void)shutdown(c->fd, SHUT_RD); /* likewise */
	dev_conn_thaw(vm, c);
	*ret_fd = fd_take(&theirs);
	return 0;
}

int dev_state_claim(struct dev_vm *vm, struct dev_ports ports, struct dev_claim *ret_claim,
	struct hf_err *reterr)
{
	struct dev_claim claim;
	struct dev_conn *c = find(vm, ports, reterr);
	if (!c)
		return -ENOENT;
	if (!c->core.unclaimed || c->relay)
		return hf_err_set(reterr, -EALREADY, "conn %u<-%u: it has a host application%s",
			ports.host, ports.guest, c->relay ? ", which the source relays" : "");
	claim.app = c->app; /* before it is claimed: what follows may be its end */
	claim.app_len = c->app_len;
	vm->app_bytes -= c->app_len;
	c->app = NULL;
	c->app_len = 0;
	int r = attach_claimed(vm, c, &claim.fd);
	if (r < 0) {
		c->app = claim.app;
		c->app_len = (uint32_t)claim.app_len;
		vm->app_bytes += claim.app_len;
		return hf_err_set(
			reterr, r, "conn %u<-%u: %s", ports.host, ports.guest, strerror(-r));
	}
	hf_debug("vm %s: conn %u<-%u: claimed", vm->opt->name, ports.host, ports.guest);
	*ret_claim = claim;
	return 0;
}

/* Nothing was claimed: the load is undone. Else what nobody wants is reset when the guest runs. */
size_t dev_state_discard(struct dev_vm *vm)
{
	size_t unclaimed = 0, claimed = 0, n_slots = vm->n_chunks * DEV_CONNS_CHUNK;
	for (size_t i = 0; i < n_slots; i++) {
		const struct vsk_conn *v = &dev_conn_at(vm, i)->core;
		if (v->held_by_device && v->state != VSK_CLOSED)
			*(v->unclaimed ? &unclaimed : &claimed) += 1;
	}
	if (vm->loaded && claimed == 0) {
		dev_vm_drop_all(vm);
		vm->loaded = false;
		return unclaimed;
	}
	for (size_t i = 0; i < n_slots; i++) {
		struct dev_conn *c = dev_conn_at(vm, i);
		if (!c->core.held_by_device || !c->core.unclaimed || c->core.state == VSK_CLOSED)
			continue;
		vsk_host_reset(&vm->vsk, &c->core);
		dev_conn_finish(vm, c);
	}
	return unclaimed;
}

/* ---- device state through a pipe ---- */

void dev_transfer_end(struct dev_vm *vm)
{
	struct dev_transfer *t = &vm->transfer;
	dev_loop_close(vm->loop, &t->fd);
	free(t->buf);
	*t = (struct dev_transfer){ .fd = -1, .gen = t->gen + 1, .result = -ENOENT };
}

/* The transfer is over; tells the front end if it waits. */
static void finish(struct dev_vm *vm, int result)
{
	bool waits = vm->transfer.check_waits;
	dev_transfer_end(vm);
	vm->transfer.result = result;
	if (result < 0)
		hf_error("vm %s: device state: %s", vm->opt->name, strerror(-result));
	if (waits)
		dev_front_answer(vm, result, 0);
}

static int begin_save(struct dev_vm *vm)
{
	struct record rec;
	struct hf_err err = { 0 };
	int r = save_refused(vm, &err);
	if (r == 0 && vm->left_out)
		return 0; /* empty: it goes by the control socket, or stays behind (E4.9) */
	if (r == 0)
		r = save(vm, &rec, &err);
	if (r < 0) {
		hf_error("%s", err.text);
		return r;
	}
	vm->transfer.buf = rec.buf;
	vm->transfer.len = rec.len;
	return 0;
}

int dev_transfer_begin(struct dev_vm *vm, int fd, bool is_load)
{
	struct dev_transfer *t = &vm->transfer;
	HF_CLEANUP(fd_closep) int mine = fd;
	struct hf_err err = { 0 };
	if (t->fd >= 0)
		return -EBUSY;
	int r = is_load ? rings_refuse(vm, &err) : 0;
	if (r < 0)
		hf_error("%s", err.text);
	if (r == 0)
		r = fd_set_nonblock(fd, true);
	if (r < 0)
		return r;
	dev_transfer_end(vm); /* forgets the last one's result */
	t->load = is_load;
	if (!is_load)
		r = begin_save(vm);
	if (r == 0)
		r = dev_loop_watch(vm->loop, fd, is_load ? EPOLLIN : EPOLLOUT,
			dev_vm_tag(vm, DEV_ON_TRANSFER, 0, t->gen));
	if (r < 0) {
		dev_transfer_end(vm);
		return r;
	}
	t->fd = fd_take(&mine);
	return 0;
}

int dev_transfer_check(struct dev_vm *vm)
{
	if (vm->transfer.fd < 0)
		return vm->transfer.result;
	vm->transfer.check_waits = true;
	return -EINPROGRESS;
}

static void save_step(struct dev_vm *vm)
{
	struct dev_transfer *t = &vm->transfer;
	if (t->len == 0) {
		finish(vm, 0);
		return;
	}
	ssize_t n = write(t->fd, t->buf + t->sent, HF_MIN(t->len - t->sent, (size_t)TRANSFER_STEP));
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		finish(vm, -errno);
		return;
	}
	if (n > 0)
		t->sent += (size_t)n;
	if (t->sent == t->len)
		finish(vm, 0);
}

static int load_end(struct dev_vm *vm)
{
	struct hf_err err = { 0 };
	if (vm->transfer.len == 0)
		return 0; /* the connections went another way, or were left behind on purpose */
	int r = load_refused(vm, &err); /* again: the rings may have started meanwhile */
	if (r == 0)
		r = load(vm, vm->transfer.buf, vm->transfer.len);
	if (r < 0)
		hf_error("vm %s: device state is refused: %s", vm->opt->name,
			err.code ? err.text : load_error_text(r));
	return r;
}

static void load_step(struct dev_vm *vm)
{
	struct dev_transfer *t = &vm->transfer;
	if (t->cap - t->len < TRANSFER_STEP) {
		size_t cap = HF_MAX(2 * t->cap, (size_t)2 * TRANSFER_STEP);
		uint8_t *p = cap <= 2 * (size_t)DEV_RECORD_MAX ? realloc(t->buf, cap) : NULL;
		if (!p) {
			finish(vm, cap <= 2 * (size_t)DEV_RECORD_MAX ? -ENOMEM : -EFBIG);
			return;
		}
		t->buf = p;
		t->cap = cap;
	}
	ssize_t n = read(t->fd, t->buf + t->len, TRANSFER_STEP);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		finish(vm, -errno);
	else if (n > 0)
		t->len += (size_t)n;
	else if (n == 0)
		finish(vm, load_end(vm));
}

void dev_transfer_on_event(struct dev_vm *vm, struct dev_tag tag)
{
	struct dev_transfer *t = &vm->transfer;
	if (t->fd < 0 || !dev_tag_is(tag, t->gen))
		return;
	if (t->load)
		load_step(vm);
	else
		save_step(vm);
}
