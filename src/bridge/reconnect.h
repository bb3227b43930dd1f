/* SPDX-License-Identifier: MIT */
/*
 * reconnect.h - when to dial the bridge again: a policy fed by clock and outcome.
 *
 * The virtual machine was frozen and wakes up when its host is ready, so waiting buys nothing: the
 * first redial after a loss happens at once, further ones at a tight fixed interval, for ever
 * unless a limit was set. No back-off and no jitter: one guest dials one host.
 *
 * "At once" is earned by a connection that had negotiated. A peer that accepts and hangs up is
 * treated like one that refuses, otherwise two ends could spin.
 *
 * Shutdown is told apart from loss: after brg_reconnect_stop() there is no next attempt, whatever
 * happens to the connection.
 */
#ifndef BRG_RECONNECT_H
#define BRG_RECONNECT_H

#include "base/base.h"

#define BRG_RECONNECT_INTERVAL_US 10000u

enum brg_outcome {
	BRG_OUTCOME_NONE,    /* nothing was tried yet */
	BRG_OUTCOME_REFUSED, /* the dial failed */
	BRG_OUTCOME_USELESS, /* connected, and lost before it had negotiated */
	BRG_OUTCOME_LOST,    /* negotiated, and lost */
	BRG_OUTCOME_N_
};

struct brg_reconnect {
	uint64_t interval_us;
	uint64_t max_failures; /* in a row; 0: for ever */
	uint64_t failures;     /* in a row */
	uint64_t attempts;     /* dials, in all */
	uint64_t last_us;      /* when the last dial began */
	bool stopped;
};

void brg_reconnect_init(struct brg_reconnect *r, uint64_t interval_us, uint64_t max_failures);

/* A dial begins now. */
void brg_reconnect_dialling(struct brg_reconnect *r, uint64_t now_us);

/* When to dial next, given how the last attempt went; false: never. A time <= now_us is "at
 * once". */
bool brg_reconnect_next(
	struct brg_reconnect *r, enum brg_outcome outcome, uint64_t now_us, uint64_t *ret_at_us);

void brg_reconnect_stop(struct brg_reconnect *r);

#endif
