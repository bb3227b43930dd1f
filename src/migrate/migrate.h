/* SPDX-License-Identifier: MIT */
/*
 * migrate.h - the course of one migration: named phases, each with a deadline and an undo.
 *
 * The controller does nothing itself. Its owner asks mig_next() what to do, does it, and tells the
 * end by mig_done() or mig_fail(); time comes in by mig_tick(). After a failure (also a timeout or
 * a cancellation) the undos of everything that was begun run in reverse order, the failed phase's
 * own first. An undo that fails is reported and the next one runs: one that cannot be undone must
 * not keep the rest from it.
 *
 * From the moment that the phase `switchover` is done the VM is at the destination: nothing is
 * undone any more, and a failed `commit` only leaves the result unconfirmed.
 */
#ifndef HF_MIGRATE_H
#define HF_MIGRATE_H

#include "base/err.h"
#include <jansson.h>

enum mig_mode { MIG_SEAMLESS, MIG_DISRUPTIVE, MIG_MODE_N_ };

enum mig_phase {
	MIG_PREPARE,    /* the destination's holdfastd and QEMU start */
	MIG_SETUP,      /* capabilities on both sides, the destination listens */
	MIG_PRECOPY,    /* memory is sent while the guest runs */
	MIG_QUIESCE,    /* vCPUs and rings stand still; the source reads what was delivered */
	MIG_SAVE,       /* the device's record and the supervisor's state are copied */
	MIG_LOAD,       /* the destination takes both */
	MIG_SWITCHOVER, /* QEMU hands over; from its end on the guest is there */
	MIG_COMMIT,     /* the destination confirms, the source forgets */
	MIG_PHASE_N_
};

enum mig_action {
	MIG_WAIT,     /* nothing: something that was begun has not ended */
	MIG_ENTER,    /* begin the phase */
	MIG_UNDO,     /* begin to undo the phase */
	MIG_FINISHED, /* see mig_moved() and mig_error(); said once */
};

struct mig {
	enum mig_mode mode;
	enum mig_phase phase;
	enum { MIG_IDLE, MIG_FORWARD, MIG_BACK, MIG_OVER } course;
	bool announced;       /* the action for `phase` was given out */
	bool moved;           /* the guest is at the destination */
	uint64_t deadline_ms; /* of the phase or of its undo */
	uint64_t began_ms[MIG_PHASE_N_ + 1], ended_ms;
	struct hf_err err;
	unsigned undo_failures;
};

const char *mig_phase_name(enum mig_phase phase);
const char *mig_mode_name(enum mig_mode mode);
json_t *mig_capabilities(void);                                /* what both QEMUs are told to do */
int mig_mode_parse(const char *name, enum mig_mode *ret_mode); /* -EINVAL if unknown */

void mig_start(struct mig *m, enum mig_mode mode, uint64_t now_ms);

enum mig_action mig_next(struct mig *m, enum mig_phase *ret_phase);

/* The phase, or its undo, has ended. Tells of another phase than the current one are late and
 * ignored, so an event may come twice. */
void mig_done(struct mig *m, enum mig_phase phase, uint64_t now_ms);
void mig_fail(struct mig *m, enum mig_phase phase, const struct hf_err *err, uint64_t now_ms);

/* QEMU says that the guest is at the destination, whatever was thought before: nothing is undone
 * from here on, for two of one guest are worse than none. */
void mig_moved(struct mig *m, uint64_t now_ms);

/* -EBUSY from the phase `switchover` on: the guest may already run there. */
int mig_cancel(struct mig *m, uint64_t now_ms);

void mig_tick(struct mig *m, uint64_t now_ms);

static inline bool mig_active(const struct mig *m)
{
	return m->course == MIG_FORWARD || m->course == MIG_BACK;
}

#endif
