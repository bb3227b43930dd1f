/* SPDX-License-Identifier: MIT */
/*
 * supervisor_internal.h - the supervisor of one VM, as its files see it.
 *
 *	main.c      life: from the start over readiness to the end
 *	machine.c   holdfastd and QEMU: started, or found alive and adopted
 *	session.c   the guest: requests and answers, output files, state.json
 *	control.c   control.sock: commands and those who wait for something
 *	attach.c    a command line's end of a process's stream
 *	outgoing.c  a migration, seen from the source
 *	cargo.c     what goes over in it
 *	incoming.c  a migration, seen from the destination
 *
 * Everything runs on one loop. What must survive the supervisor is in the VM's folder before it is
 * acted upon: state.json before a request leaves, output before it is acknowledged.
 */
#ifndef HF_SUPERVISOR_INTERNAL_H
#define HF_SUPERVISOR_INTERNAL_H

#include "base/log.h"
#include "base/node.h"
#include "chan.h"
#include "holdfast/guest.h"
#include "migrate/migrate.h"
#include "monitor.h"
#include "proc.h"
#include "rpc.h"
#include "spec.h"
#include "supervisor.h"

#define SUP_CLIENTS_MAX 128
#define SUP_WAITERS_MAX 512

/*
 * STARTING  holdfastd and QEMU come up; no guest yet
 * RUNNING   the guest is ours
 * INCOMING  waits for a migration: only its commands are obeyed
 * ENDING    the VM is gone or moved; what is queued is still sent
 */
enum sup_state { SUP_STARTING, SUP_RUNNING, SUP_INCOMING, SUP_ENDING, SUP_STATE_N_ };

struct machine;
struct outgoing;
struct incoming;

struct sup {
	uv_loop_t loop;
	const struct sup_config *config;
	enum sup_state state;
	int ready_fd, lock_fd, exit_status;
	uv_signal_t sigterm, sigint;
	uv_timer_t boot_timer, end_timer;
	uint64_t end_deadline_ms;

	/* machine.c */
	struct spec spec;
	enum mig_mode mode; /* of the module in the QEMU that runs */
	bool kvm;
	bool in_stream;          /* its module lets the device's state travel in QEMU's stream */
	struct machine *machine; /* while it starts */
	struct rpc *device;
	struct monitor *mon;
	pid_t device_pid, qemu_pid;

	/* session.c */
	struct hf_guest *guest;
	uv_poll_t guest_poll;
	uv_timer_t guest_timer, retry_timer;
	uv_prepare_t guest_prepare;
	struct proc_table procs;
	char instance[96];
	uint32_t guest_cid;
	bool negotiated; /* once at least since the start or the move */
	bool asleep;     /* quiesced for a migration */

	/* control.c */
	int control_fd;
	uv_poll_t control_poll;
	uv_timer_t accept_timer;
	struct hf_list clients, waiters;
	size_t n_clients, n_waiters;

	struct outgoing *outgoing;
	struct incoming *incoming;
	char moved_to[HF_NODE_PATH_MAX]; /* the node that has the VM now; "" */
};

/* A connection to control.sock. */
struct client {
	struct hf_list link;
	struct sup *sup;
	struct chan *chan;
};

/* --- main.c --- */
const char *sup_path(const struct sup *sup, const char *file, char path[HF_NODE_PATH_MAX]);
void sup_ready(struct sup *sup);                                 /* tells ready_fd, once */
void sup_fail(struct sup *sup, const struct hf_err *err);        /* tells ready_fd and ends */
void sup_end(struct sup *sup, int exit_status, const char *why); /* flushes, then stops the loop */
const char *sup_state_name(enum sup_state state);
int sup_write_json(const char *path, const json_t *json); /* atomically */
json_t *sup_read_json(const char *path, struct hf_err *reterr);

/* --- machine.c --- */
typedef void machine_done_fn(struct sup *sup, const struct hf_err *err);
/* Adopts what lives (1), or finds nothing alive (0) and has cleared away the rest. */
int machine_adopt(struct sup *sup);
void machine_start(struct sup *sup, bool incoming, machine_done_fn *done);
void machine_kill(struct sup *sup); /* QEMU and holdfastd, at once */
void machine_retire(struct sup *sup); /* likewise, but holdfastd goes on with what it relays */
json_t *machine_status(struct sup *sup);

/* --- session.c --- */
/* guest_state: of hf_guest_state(), NULL: a new session. whole: it was quiesced, positions known.
 */
int session_open(struct sup *sup, const char *guest_state, bool whole, struct hf_err *reterr);
void session_close(struct sup *sup);
void session_dispatch(struct sup *sup);
int session_save(struct sup *sup);
json_t *session_json(struct sup *sup);
/* Loads state.json's processes; the guest's part is returned as text, to be freed. */
int session_load(struct sup *sup, json_t *state, char **ret_guest, struct hf_err *reterr);
/* The guest client touches nothing (hf_guest_quiesce), and goes on. */
int session_sleep(struct sup *sup, struct hf_err *reterr);
int session_wake(struct sup *sup, struct hf_err *reterr);
int session_run(struct sup *sup, struct proc *p, struct hf_err *reterr);
int session_signal(struct sup *sup, struct proc *p, int signo, const char *tag, struct hf_err *err);
/* Ends what the guest has of a container that is over, then forgets it; the key's memory tells. */
void session_remove(struct sup *sup, struct proc *p, const char *key);
void session_forget(struct sup *sup, struct proc *p); /* with its output */
int session_output_fd(struct sup *sup, struct proc_stream *s);
/* The first byte of an output file that is kept. */
uint64_t session_output_begin(const struct sup *sup, const struct proc_stream *s);
/* To be called when the file has grown: what is too much is dropped. */
void session_output_trim(struct sup *sup, struct proc_stream *s);
/* Whoever could not go on (a full disk, a reader that is behind) tries again, soon. */
void session_output_retry(struct sup *sup);
void session_lose_all(struct sup *sup, const char *why);

/* --- control.c --- */
int control_open(struct sup *sup, struct hf_err *reterr);
void control_close(struct sup *sup);
void control_settle(struct sup *sup); /* answers everybody whose wait is over */
void control_kill_done(struct sup *sup, const struct proc_kill *k);
void control_guest_answered(struct sup *sup, const char *name, const struct hf_guest_answer *a);
void control_event(struct sup *sup, json_t *event); /* to all clients that watch; takes it over */
void client_ok(struct client *c, json_t *id, json_t *fields); /* fields taken over, NULL: none */
void client_err(struct client *c, json_t *id, int code, const char *fmt, ...) HF_PRINTF(4, 5);

/* Forgets the client; its channel lives on with whoever called. */
void client_release(struct client *c);

/* --- attach.c --- */
/* Answers the request and turns the channel over to the stream; the client object is gone. */
void attach_begin(
	struct client *c, json_t *id, struct proc_stream *s, const char *token, json_t *args);
void attach_pump(struct proc_stream *s); /* the stream has more, or less to wait for */
/* How much more may come before a reader that the process waits for is too far behind. */
uint64_t attach_room(const struct proc_stream *s, uint64_t lag_max);
void attach_close_stream(struct proc_stream *s);
void attach_close_all(struct sup *sup);
void attach_pump_all(struct sup *sup);
bool attach_any(const struct sup *sup);

/* --- outgoing.c, incoming.c --- */
void outgoing_begin(struct client *c, json_t *id, json_t *args);
void outgoing_cancel(struct client *c, json_t *id);
void outgoing_on_qemu(struct sup *sup, const char *event, json_t *data);
void outgoing_client_gone(struct sup *sup, struct client *c);
void outgoing_qemu_lost(struct sup *sup);
/* A supervisor that adopted a VM looks whether its predecessor died in a migration. */
void outgoing_recover(struct sup *sup);

void incoming_command(struct client *c, json_t *id, const char *cmd, json_t *args);
void incoming_on_qemu(struct sup *sup, const char *event, json_t *data);
void incoming_client_gone(struct sup *sup, struct client *c);
void incoming_guest_alive(struct sup *sup, bool negotiated);

#endif
