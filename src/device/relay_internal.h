/* SPDX-License-Identifier: MIT */
/*
 * relay_internal.h - what the relay*.c share.
 */
#ifndef DEVICE_RELAY_INTERNAL_H
#define DEVICE_RELAY_INTERNAL_H

#include "relay.h"

#define DEV_HEAD_BYTES    4u
#define DEV_RELAY_RESERVE 64u

/* What a head says; its value is the number of bytes behind it for the first four. */
enum {
	DEV_HEAD_PART = 0,
	DEV_HEAD_WHOLE = VSK_MSG_EOM,
	DEV_HEAD_WHOLE_EOR = VSK_MSG_EOM | VSK_MSG_EOR,
	DEV_HEAD_FIN = 4,
	DEV_HEAD_DEAF = 5,
	DEV_HEAD_READY = 6
};

static inline struct rs *stream(struct dev_relay *r)
{
	return &r->chan.rs;
}

/* Is the stream one that still carries something? */
static inline bool is_alive(struct dev_relay *r)
{
	return rs_state(stream(r)) == RS_OPEN || rs_state(stream(r)) == RS_FINISHED;
}

/* It has something to send. */
static inline void wake(struct dev_relay *r)
{
	if (r->peer && r->chan.id)
		rs_mux_wake(&r->peer->mux, &r->chan);
}

/* ---- relay.c: life ---- */

/* One in no state yet; and one of the connection. 0 or -errno. */
int dev_relay_alloc(struct dev_link *l, const uint8_t *token, bool dials, size_t window,
	struct dev_relay **ret);
int dev_relay_new(struct dev_vm *vm, struct dev_conn *c, const uint8_t *token, bool dials,
	size_t window, struct dev_relay **ret);
void dev_relay_free(struct dev_relay *r);

/* It expires if it is not bound in time; it is, or need not be. */
void dev_relay_wait(struct dev_relay *r);
void dev_relay_wait_none(struct dev_relay *r);

size_t dev_relay_window_for(const struct dev_conn *c);
bool dev_relay_window_ok(size_t n);

/* ---- relay.c: what is said ---- */

void dev_relay_put_head(struct dev_relay *r, unsigned what, size_t value);
void dev_relay_say_fin(struct dev_relay *r);
void dev_relay_say_deaf(struct dev_relay *r);
/* After what was said: both mean the end of the stream. */
void dev_relay_said(struct dev_relay *r);

/* How much payload may go behind one more head. */
size_t dev_relay_room(struct dev_relay *r);

/* What the next head says, when it is there whole and all before it was read; -1: nothing. */
int dev_relay_peek(struct dev_relay *r, uint32_t *ret_value);
/* Steps over a head of payload: false, there is none. Then what was read is taken. */
bool dev_relay_next_payload(struct dev_relay *r);
void dev_relay_take_payload(struct dev_relay *r, size_t n);
/* Steps over FIN, DEAF or READY: false, that is not what comes next. */
bool dev_relay_next_is(struct dev_relay *r, int what);

/* ---- relay_conn.c ---- */

void dev_relay_step_conn(struct dev_relay *r);
/* The VM has come back to where its application is: at the first moment at which nothing is under
 * way the connection gets its socket back. True: it has, and the relay is gone. */
bool dev_relay_come_home(struct dev_relay *r);

/* ---- relay_host.c ---- */

void dev_relay_step_host(struct dev_relay *r);
void dev_relay_watch_host(struct dev_relay *r, bool out);
void dev_relay_host_deaf(struct dev_relay *r); /* nobody reads there any more */

/* ---- relay_ask.c ---- */

void dev_relay_refuse(struct dev_vm *vm, struct dev_conn *c); /* the guest that dials */
void dev_relay_ask_another(struct dev_relay *r);              /* this daemon does not have it */

#endif
