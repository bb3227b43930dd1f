/* SPDX-License-Identifier: MIT */
/*
 * vm.h - one virtual machine's vsock device: theory of operation.
 *
 * A VM is glue between three cores and descriptors:
 *
 *   inflight.c what is left for a holdfastd after us
 *   front.c   the vhost-user socket: its messages become memory maps, rings and transfers
 *   ring.c    kicks: packets of the guest's tx queue go to the engine, the engine's to the rx queue
 *   conn.c    the host sockets of connections: payload straight from and to guest memory
 *   message.c messages of SEQPACKET connections
 *   sibling.c connections from one guest to another
 *   unix.c    the host side's door: CONNECT lines, and dialling PATH_<port> for the guest
 *   forward.c the same with AF_VSOCK, where the host has it
 *   state.c   all connections as a record, from there and back; claims
 *   vm.c      set-up, the turn, and the transitions below
 *
 * Everything runs in one thread, in turns (loop.h). An event only marks what there is to do or does
 * one bounded step; dev_vm_turn() then moves packets, within a budget, so that VMs take turns.
 *
 * Transitions
 *
 *   idle -> running     the rx and the tx ring run. One of:
 *                       - both go on where they were stopped: the device carries on (a pause, or a
 *                         migration that was cancelled);
 *                       - a record was loaded before, and the driver does not begin: the device
 *                         carries on with what the record says;
 *                       - else the driver began anew or is a stranger: connections are dropped, and
 *                         when its indices are not zero it is told of a transport reset.
 *   running -> idle     one of them stops: not a byte of guest memory is touched from here on.
 *   idle -> frozen      a record was saved, or is going to be (state-freeze): no byte moves to or
 *                       from a host application, so that the record stays true. Ends when the rings
 *                       run again.
 *   any -> idle         the front end is gone: everything is dropped, the next one is awaited.
 *
 * A connection's slot belongs to the engine (vsk_conn is its first member). fd is -1 while it is
 * loaded and not claimed, and after both directions have ended. A closed connection that still has
 * bytes for the host stays ("lingers") until the host has taken them or has gone.
 */
#ifndef DEVICE_VM_H
#define DEVICE_VM_H

#include "base/err.h"
#include "base/ring.h"
#include "daemon.h"
#include "hello.h"
#include "inflight.h"
#include "vhostuser/vhostuser.h"
#include "virtq/virtq.h"
#include "vsock/vsock.h"

enum { DEV_RX, DEV_TX, DEV_EVENT, DEV_QUEUES };

#define DEV_CONNS_MAX    131072 /* connections of one VM, if it has so many descriptors */
#define DEV_CONNS_CHUNK  64     /* slots are allocated in chunks */
#define DEV_HELLOS_MAX   64     /* host clients that have not said CONNECT, or wait for the guest */
#define DEV_HELLO_US     5000000u /* a host client gets this long from accept to the request */
#define DEV_DIAL_US      1800000u /* PATH_<port> with a full backlog is tried again this long ... */
#define DEV_DIAL_STEP_US 5000u    /* ... at this interval */
#define DEV_RECORD_MAX   (256U << 20) /* bytes of a record, either way */
#define DEV_APPS_MAX     (64U << 20)  /* what applications leave, of all connections of a VM */

/* What saving did with a connection. */
enum dev_fate {
	DEV_KEPT,
	DEV_RESET_POLICY,  /* of its port */
	DEV_RESET_LIST,    /* there is a list to be kept, and it is not on it */
	DEV_RESET_ASKING,  /* its client waits on this host for the guest's answer */
	DEV_RESET_FULL,    /* its application has written more than a record may hold */
	DEV_RESET_SIBLING, /* the other end is a guest that stays */
	DEV_RESET_RELAY,   /* it cannot be relayed */
	DEV_FATE_N_
};
const char *dev_fate_text(enum dev_fate f);

struct dev_conn {
	struct vsk_conn core; /* first: the engine's */
	int fd;
	uint32_t slot;
	bool hup;    /* the host has closed both ways */
	bool ending; /* it sends no more: read until there is nothing */
	bool wide;   /* its send buffer was enlarged */
	bool watches_out;
	uint8_t line;   /* bytes of the CONNECT line, which is still in the socket */
	bool quiet;     /* and so it is not watched for reading yet */
	bool forwarded; /* its host end is AF_VSOCK: forward.c */
	bool dialling;  /* in vm->dials */
	bool paired;    /* taken over, and so is its sibling or relay: not found yet */
	bool listed;    /* on the list to be kept */
	bool arrived;   /* came in a record */
	uint8_t fate;   /* enum dev_fate, in the record that was written last */
	uint64_t dial_until_us;
	uint64_t since_us; /* it has a host end; 0: not yet */
	uint64_t dial_to;  /* the listener whose backlog was full; 0: none yet */
	struct hf_list dial_node;
	struct hf_ring to_host;  /* payload that the host socket did not take yet */
	struct hf_ring to_guest; /* payload of a record or of a message that was read, goes before
				  * what the socket has */
	/* SEQPACKET: where messages in the two end, as in a record. */
	struct hf_ring to_host_ends, to_guest_ends;
	uint32_t part; /* bytes in to_host of a message that has not ended */
	/* The host end is with another daemon, or may soon be: relay.c. */
	struct dev_relay *relay; /* NULL: it is here */
	struct dev_relay *heir;  /* takes the host end over if the VM leaves */
	bool gone;               /* it has */
	/* The other end is another guest: sibling.c. */
	uint32_t given; /* bytes that it was given and the engine was not told of */
	struct dev_conn *sibling;
	struct dev_vm *sibling_vm;
	uint8_t *app; /* what the application leaves for its next instance */
	uint32_t app_len;
};

/* The host side has a listener per type of Unix socket, and one per port of forward-listen. */
enum {
	DEV_DOOR_STREAM,
	DEV_DOOR_SEQPACKET,
	DEV_DOOR_FORWARD,
	DEV_DOORS = DEV_DOOR_FORWARD + DEV_FORWARDS_MAX
};

struct dev_hello {
	int fd; /* -1: free */
	uint8_t door;
	uint32_t gen;
	bool said;    /* the line is complete; waits for the guest */
	uint8_t line; /* its bytes, which are still in the socket */
	uint32_t port;
	uint64_t until_us;
};

struct dev_queue {
	struct vq vq;
	int kick, call;
	uint32_t gen; /* of the kick descriptor's tag */
	bool ready;   /* TX: may have chains; RX: may have room; EVENT: the driver gave a buffer */
	bool armed;   /* the driver will kick when it adds a buffer */
	bool polled;  /* the front end gave no kick descriptor */
	bool stopped_before; /* stop_base is known */
	bool carries_on;     /* it started where it was stopped */
	bool taken;          /* taken over while it ran: to be started */
	uint16_t stop_base;
};

/* A device state transfer over a pipe of the front end, one at a time. */
struct dev_transfer {
	int fd; /* -1: none under way */
	uint32_t gen;
	bool load;
	bool check_waits; /* CHECK_DEVICE_STATE is to be answered at the end */
	int result;       /* of the last one */
	uint8_t *buf;
	size_t len, cap, sent;
};

/* What a VM has used of its limits. */
struct dev_limits {
	struct dev_bucket bytes, conns;
	uint64_t counted; /* bytes that were taken from the bucket */
	bool waiting;
	uint64_t refused_port, refused_many, refused_rate, refused_uid, waits;
	uint64_t logged_us;
};

struct dev_vm {
	struct dev_daemon *daemon;
	struct dev_loop *loop;
	const struct dev_vm_options *opt;
	uint8_t index;
	bool ended;        /* its inherited connection is over: nothing can come any more */
	const char *unfit; /* taken over, but its front end cannot be kept: why; else NULL */

	struct vhu vhu;
	int front_listen; /* -1: none */
	int front;        /* the front end; -1: none */
	int backend;      /* our own channel to it; -1: none */
	uint32_t front_gen;

	struct vq_mem mem;
	void *log_map;
	struct dev_inflight inflight;
	struct dev_queue q[DEV_QUEUES];
	bool running, frozen, loaded;
	bool left_out;   /* while frozen: the record is not for the front end's stream */
	bool stranger;   /* the driver is to be told of a transport reset when the event queue comes
			  */
	bool urgent;     /* something was placed for the guest that it is to be told at once */
	bool tx_blocked; /* the engine takes no packet before it has sent one */

	struct vsk vsk;
	struct vsk_conn **buckets;
	struct dev_conn *chunk[DEV_CONNS_MAX / DEV_CONNS_CHUNK];
	size_t n_chunks;
	struct hf_list dials;
	uint64_t next_dial_us;
	uint32_t dial_n; /* this and pid make the names of dialling sockets unique */
	int pid;

	int host_listen[DEV_DOORS];
	bool host_paused, front_paused; /* no descriptor or slot is free: until retry_us */
	uint64_t retry_us;
	size_t lost_seen;               /* dev_maps_lost() as last seen */
	uint64_t packets_seen, rx_seen; /* moved up to the end of the last turn */
	struct dev_hello hello[DEV_HELLOS_MAX];

	struct dev_transfer transfer;
	struct dev_limits limits;

	struct dev_policies policies; /* as they are now */
	size_t app_bytes;             /* of all connections */
	bool has_list;                /* conn.listed says what is kept, policies do not */
};

/* ---- vm.c ---- */

int dev_vm_new(struct dev_daemon *d, const struct dev_vm_options *opt, uint8_t index,
	struct dev_vm **ret_vm, struct hf_err *reterr);
void dev_vm_free(struct dev_vm *vm);

/* The first half of dev_vm_new(): a VM without sockets. */
int dev_vm_make(struct dev_daemon *d, const struct dev_vm_options *opt, uint8_t index,
	struct dev_vm **ret_vm, struct hf_err *reterr);

/* A VM that was taken over (handover.c) is ours from here on: its rings run as they did. */
void dev_vm_carry_on(struct dev_vm *vm, bool running);

/* Forgets a VM without a trace: what it holds is somebody else's as well. */
void dev_vm_forget(struct dev_vm *vm);

/* Does what there is to do, within a budget. Returns when it wants the next call, as on_turn. */
uint64_t dev_vm_turn(struct dev_vm *vm);
void dev_vm_on_event(struct dev_vm *vm, struct dev_tag tag, uint32_t events);

/* Ends all connections without a word to the guest. */
void dev_vm_drop_all(struct dev_vm *vm);

/* Drops all connections and gives the guest another CID, a valid one. 0 or -errno. */
int dev_vm_change_cid(struct dev_vm *vm, uint32_t guest_cid);

/* After a message of the front end: starts and stops queues as it says. 0 or -errno. */
int dev_vm_sync_rings(struct dev_vm *vm);
void dev_vm_stop_ring(struct dev_vm *vm, unsigned index);
int dev_vm_reserve_slots(struct dev_vm *vm, size_t n);
struct dev_tag dev_vm_tag(const struct dev_vm *vm, enum dev_what what, size_t slot, uint32_t gen);

struct dev_vm_info {
	const char *name;
	uint32_t guest_cid, outer_cid;
	bool connected;
	const char *rings; /* "running", "stopped", "saved" */
	size_t n_conns;
};
void dev_vm_info(const struct dev_vm *vm, struct dev_vm_info *ret_info);

struct dev_conn_info {
	uint32_t host_port, guest_port, peer_cid;
	const char *state, *type;
	bool claimed; /* it has a host end */
	bool arrived; /* it came in a record */
	const char *policy;
	const char *relay; /* "": its host end is here */
	enum dev_fate fate;
	uint64_t rx_bytes, tx_bytes;              /* guest to host, host to guest */
	size_t to_host_pending, to_guest_pending; /* held in the daemon */
	size_t app_bytes;
	uint32_t rx_credit, tx_credit; /* bytes that may be sent now: by the guest, to the guest */
	uint64_t age_us;               /* since it has a host end here; 0: it has none */
};
/* Walks over the connections: *at begins at 0; false at the end. */
bool dev_vm_next_conn(const struct dev_vm *vm, size_t *at, struct dev_conn_info *ret_info);

/* ---- front.c ---- */

int dev_front_open(struct dev_vm *vm, struct hf_err *reterr);
int dev_front_adopt(struct dev_vm *vm); /* watches what was taken over */
void dev_front_on_listen(struct dev_vm *vm);
void dev_front_on_event(struct dev_vm *vm, uint32_t events);
void dev_front_retry(struct dev_vm *vm); /* accepts again after there was no descriptor */
/* Lets the front end go and drops everything that came from it. */
void dev_front_close(struct dev_vm *vm, const char *why);
/* Answers the event that is waiting; may close the front end. */
void dev_front_answer(struct dev_vm *vm, int result, uint64_t value);

/* ---- ring.c ---- */

bool dev_ring_tx(struct dev_vm *vm); /* both: true when the budget ended before the work */
bool dev_ring_rx(struct dev_vm *vm);
bool dev_ring_rx_ready(const struct dev_vm *vm); /* there may be room */
void dev_ring_event(struct dev_vm *vm);
void dev_ring_tell(struct dev_vm *vm);   /* the guest is told of rx buffers that were used */
void dev_ring_settle(struct dev_vm *vm); /* ... and of tx buffers */
bool dev_ring_waits(struct dev_vm *vm);  /* the guest has done something, unasked */
bool dev_ring_look(struct dev_vm *vm);   /* the same, and the guest is told of all */
bool dev_ring_rest(struct dev_vm *vm);   /* the same; false: it will kick from now on */

/* ---- conn.c ---- */

static inline struct dev_conn *dev_conn_of(struct vsk_conn *c)
{
	return (struct dev_conn *)c;
}

/* Makes the ring hold at least cap bytes more than it does; 0 or -ENOMEM. */
int dev_conn_reserve(struct hf_ring *r, size_t room);

struct dev_conn *dev_conn_at(const struct dev_vm *vm, size_t slot);

/* Gives the connection its host end; owns fd from here on, also on failure. `line`: the bytes of a
 * CONNECT line that it begins with. */
int dev_conn_attach(struct dev_vm *vm, struct dev_conn *c, int fd, size_t line);

/* Before anybody else reads from the socket. */
void dev_conn_take_line(struct dev_conn *c);

/* The same for a host end that was taken over: it is as it was. */
int dev_conn_adopt(struct dev_vm *vm, struct dev_conn *c, int fd);
void dev_conn_forget(struct dev_conn *c); /* closes and frees, and tells nobody */

/* Payload of the guest: to the host socket as far as it takes it, else into the ring. */
void dev_conn_deliver(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov, size_t n_iov,
	size_t len, uint32_t flags);

/* Reads payload for the guest into iovecs of `len` bytes, and uses one element behind them: a
 * count, 0 at the end, -EAGAIN, or another -errno. *ret_drained: there was no more. *ret_flags: of
 * a message; with VSK_MSG_EOM, 0 bytes are not the end. */
ssize_t dev_conn_read(struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t len,
	bool *ret_drained, uint32_t *ret_flags);
/* Nothing goes before a packet with these flags, and a message is whole: it need not be kept. */
bool dev_conn_may_pass(const struct dev_conn *c, uint32_t flags);

/* Puts payload from byte `off` on into the ring. For want of memory the connection is reset. */
void dev_conn_keep(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov, size_t n_iov,
	size_t off, size_t len, uint32_t flags);

/* The host reads (RCV) or writes (SEND) no more. What waits for one who does not read is void. The
 * connection may be freed afterwards. */
void dev_conn_host_shut(struct dev_vm *vm, struct dev_conn *c, uint8_t bits);

/* Tells a client that the guest has accepted: false, it could not be told. */
bool dev_conn_say_ok(int fd, uint32_t host_port);

void dev_conn_ended(struct dev_vm *vm, struct dev_conn *c);             /* read returned 0 */
void dev_conn_failed(struct dev_vm *vm, struct dev_conn *c, int error); /* or failed */

void dev_conn_on_event(struct dev_vm *vm, struct dev_tag tag, uint32_t events);
void dev_conn_thaw(struct dev_vm *vm, struct dev_conn *c);        /* catches up after frozen */
void dev_conn_handle(struct dev_vm *vm, const struct vsk_ev *ev); /* any event but DATA */
void dev_conn_finish(struct dev_vm *vm, struct dev_conn *c);      /* closed: free it */

/* ---- message.c ---- */

/* Prepares a host socket for messages of up to buf_alloc bytes. 0 or -errno. */
int dev_message_setup(int fd, uint32_t buf_alloc);

/* Appends an end. 0 or -ENOMEM. */
int dev_message_end(struct hf_ring *ends, size_t len, bool eor);

/* The length of the first message of a ring that is not empty, and its flags. */
size_t dev_message_len(const struct hf_ring *ends);
uint32_t dev_message_flags(const struct hf_ring *ends);

/* Takes as much of the first message as fits; *ret_flags has VSK_MSG_EOM when that was all. */
size_t dev_message_take(struct hf_ring *bytes, struct hf_ring *ends, const struct iovec *iov,
	size_t n_iov, uint32_t *ret_flags);

/* dev_conn_read() for messages. */
ssize_t dev_message_read(
	struct dev_conn *c, struct iovec *iov, size_t n_iov, size_t len, uint32_t *ret_flags);

/* Reads all that the host application has written. 0 or -errno: it does not go into a record. */
int dev_message_drain(struct dev_conn *c);

/* ---- sibling.c ---- */

/* Asks the guest that is dialled, or refuses. */
void dev_sibling_dial(struct dev_vm *vm, struct dev_conn *c);

/* What happened to one of a pair is done to the other: it was accepted; its guest has said how
 * much room it has; it sends (SEND) or receives (RCV) no more; it is closed. */
void dev_sibling_connected(struct dev_conn *c);
void dev_sibling_heard(struct dev_conn *c, uint16_t op); /* a packet, which may tell credit */
void dev_sibling_shut(struct dev_conn *c, uint8_t bits);
void dev_sibling_closed(struct dev_conn *c, bool clean);

/* Finds the pairs again among all VMs that were taken over. -EINVAL: there is half of one. */
int dev_sibling_adopt(struct dev_daemon *d);

/* dev_conn_deliver() and dev_conn_read() for pairs; dev_sibling_given() when the packets of what
 * was read are complete, with the flags that were read. The connection may be freed afterwards. */
void dev_sibling_deliver(struct dev_vm *vm, struct dev_conn *c, const struct iovec *iov,
	size_t n_iov, size_t len, uint32_t flags);
ssize_t dev_sibling_read(
	struct dev_conn *c, const struct iovec *iov, size_t n_iov, uint32_t *ret_flags);
void dev_sibling_given(struct dev_conn *c, uint32_t flags);

/* The VM of this one runs again after it was frozen: its payload may be fetched. */
void dev_sibling_thaw(struct dev_conn *c);
/* The VM of this one has left: the other one's end is the relay. */
struct dev_relay;
void dev_sibling_inherit(struct dev_conn *c, struct dev_relay *r);

/* ---- unix.c ---- */

int dev_unix_open(struct dev_vm *vm, struct hf_err *reterr);
/* Takes so many bytes of a CONNECT line out of the socket, where they were seen; then there are
 * none.
 */
void dev_unix_take_line(int fd, uint8_t *bytes);
void dev_unix_take_lines(struct dev_vm *vm); /* who reads the sockets next knows of none */
int dev_unix_adopt(struct dev_vm *vm);       /* watches what was taken over */
void dev_unix_close(struct dev_vm *vm);
void dev_unix_on_listen(struct dev_vm *vm, unsigned door);
void dev_unix_on_hello(struct dev_vm *vm, struct dev_tag tag, uint32_t events);
/* Dials for the guest; answers the engine now or from dev_unix_turn(). */
void dev_unix_dial(struct dev_vm *vm, struct dev_conn *c);
/* A dial that was under way on the other host: made when the rings run. */
void dev_unix_dial_later(struct dev_vm *vm, struct dev_conn *c, uint64_t until_us);
void dev_unix_retry(struct dev_vm *vm); /* accepts again after there was no room for a client */
/* Asks the guest for those who wait, dials again, ends what is late. Returns as on_turn. */
uint64_t dev_unix_turn(struct dev_vm *vm);

/* A dial is decided: r is 0 when it is connected, or -errno. */
void dev_unix_dialled(struct dev_vm *vm, struct dev_conn *c, int r);

/* ---- forward.c ---- */

int dev_forward_open(struct dev_vm *vm, struct hf_err *reterr); /* its doors */
bool dev_forward_admits(const struct dev_vm *vm, int fd);       /* a client, by its CID */
/* -EINPROGRESS when an event of c->fd decides; 0 when it is connected; else -errno. */
int dev_forward_dial(struct dev_vm *vm, struct dev_conn *c);
/* The host end reads no more. epoll(7) does not tell that of AF_VSOCK, as it does of AF_UNIX. */
bool dev_forward_deaf(const struct dev_conn *c);
void dev_forward_on_event(struct dev_vm *vm, struct dev_conn *c, uint32_t events);

/* ---- limits.c ---- */

void dev_limits_init(struct dev_vm *vm);
/* May there be a connection to this port, n_conns with it? */
bool dev_limits_admit(struct dev_vm *vm, bool to_guest, uint32_t port, size_t n_conns);
bool dev_limits_admit_client(struct dev_vm *vm, int fd); /* by its user */
/* 0: packets may be moved; else when. Then how many, and afterwards: they were. */
uint64_t dev_limits_wait(struct dev_vm *vm);
size_t dev_limits_budget(const struct dev_vm *vm, size_t most);
void dev_limits_moved(struct dev_vm *vm);
int dev_limits_own(const struct dev_vm *vm, const char *path); /* gives a socket its owner */

/* ---- state.c ---- */

void dev_state_versions(unsigned *ret_oldest, unsigned *ret_newest);

struct dev_ports {
	uint32_t host, guest;
};
/* A list to be kept; ports that no connection has are not an error. NULL: all, as policies say. */
struct dev_keep {
	const struct dev_ports *ports;
	size_t n;
};
int dev_state_save(struct dev_vm *vm, const struct dev_keep *keep, int *ret_fd, size_t *ret_size,
	size_t *ret_conns, struct hf_err *reterr);
/* Freezes without a record; leave: what the front end asks for after this is empty. */
int dev_state_freeze(
	struct dev_vm *vm, const struct dev_keep *keep, bool leave, struct hf_err *reterr);
int dev_state_load(struct dev_vm *vm, int fd, struct hf_err *reterr);

/* No byte moves to or from host applications any more, until the rings run. */
int dev_state_quiesce(struct dev_vm *vm, struct hf_err *reterr);

/* One connection as a record, and from there. */
int dev_state_checkpoint(
	struct dev_vm *vm, struct dev_ports ports, int *ret_fd, struct hf_err *reterr);
int dev_state_restore(
	struct dev_vm *vm, int fd, struct dev_ports *ret_ports, struct hf_err *reterr);

/* One connection into a record; how many bytes of it the engine does not know; and out of a record:
 * what vsk_load_next() has returned for it, 0 or -errno. */
void dev_state_put(struct vsk_save *s, struct dev_conn *c, bool keep);
size_t dev_state_bytes(const struct dev_conn *c);
int dev_state_take(struct dev_vm *vm, struct dev_conn *c, const struct vsk_load *l,
	const struct vsk_bytes *to_host, const struct vsk_bytes *to_guest);

/* The application's own state: replaces what was there; forgotten when the rings run. */
int dev_state_attach(struct dev_vm *vm, struct dev_ports ports, const void *data, size_t n,
	struct hf_err *reterr);
void dev_state_detach(struct dev_vm *vm, struct dev_conn *c);

/* *ret_app is to be freed by the caller; NULL: nothing was left. */
struct dev_claim {
	int fd;
	uint8_t *app;
	size_t app_len;
};
int dev_state_claim(struct dev_vm *vm, struct dev_ports ports, struct dev_claim *ret_claim,
	struct hf_err *reterr);
size_t dev_state_discard(struct dev_vm *vm); /* returns how many were forgotten */

/* Device state over the front end's pipe: begins; 0 or -errno. Owns fd. */
int dev_transfer_begin(struct dev_vm *vm, int fd, bool load);
void dev_transfer_on_event(struct dev_vm *vm, struct dev_tag tag);
/* CHECK_DEVICE_STATE: the result, or -EINPROGRESS when it is answered later. */
int dev_transfer_check(struct dev_vm *vm);
void dev_transfer_end(struct dev_vm *vm);

#endif
