/* SPDX-License-Identifier: MIT */
/*
 * phases.c - the table of phases and the walk over it.
 *
 * `course` says where the walk goes: FORWARD over the table, or BACK over the undos. `announced` is
 * false exactly when mig_next() has something to give out for (course, phase). Invariant: while
 * active, a deadline is set.
 */
#include "migrate.h"
#include <errno.h>
#include <string.h>

static const struct {
	const char *name;
	unsigned deadline_ms;
	unsigned undo_ms; /* 0: nothing to undo */
} phases[MIG_PHASE_N_] = {
	/* Starting two programs; under TCG on a busy host QEMU takes seconds. */
	[MIG_PREPARE] = { "prepare", 30000, 10000 },
	[MIG_SETUP] = { "setup", 10000, 0 },
	/* Memory is sent at the speed of the network: the longest phase by far. */
	[MIG_PRECOPY] = { "precopy", 600000, 10000 },
	/* The guest stands still from here to the end of switchover: be quick or give up. */
	[MIG_QUIESCE] = { "quiesce", 2000, 5000 },
	[MIG_SAVE] = { "save", 5000, 0 },
	[MIG_LOAD] = { "load", 5000, 5000 },
	[MIG_SWITCHOVER] = { "switchover", 30000, 10000 },
	[MIG_COMMIT] = { "commit", 10000, 0 },
};

static const char *const modes[MIG_MODE_N_] = { "seamless", "disruptive" };

const char *mig_phase_name(enum mig_phase phase)
{
	return phase < MIG_PHASE_N_ ? phases[phase].name : "?";
}

const char *mig_mode_name(enum mig_mode mode)
{
	return mode < MIG_MODE_N_ ? modes[mode] : "?";
}

/* return-path: the source learns whether the destination could load all of it. Without, it takes
 * for completed what it has written, and the guest might be nowhere. */
json_t *mig_capabilities(void)
{
	return json_pack("{s:[{s:s, s:b}, {s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability",
		"events", "state", 1, "capability", "pause-before-switchover", "state", 1,
		"capability", "return-path", "state", 1);
}

int mig_mode_parse(const char *name, enum mig_mode *ret_mode)
{
	for (int i = 0; i < MIG_MODE_N_; i++)
		if (!strcmp(name, modes[i])) {
			*ret_mode = (enum mig_mode)i;
			return 0;
		}
	return -EINVAL;
}

static void enter(struct mig *m, enum mig_phase phase, uint64_t now_ms)
{
	m->phase = phase;
	m->announced = false;
	m->began_ms[phase] = now_ms;
	m->deadline_ms = now_ms + phases[phase].deadline_ms;
}

static void finish(struct mig *m, uint64_t now_ms)
{
	m->course = MIG_OVER;
	m->announced = false;
	m->ended_ms = now_ms;
}

/* The nearest phase at or before `from` that has an undo, or the end. */
static void go_back(struct mig *m, int from, uint64_t now_ms)
{
	while (from >= 0 && phases[from].undo_ms == 0)
		from--;
	if (from < 0) {
		finish(m, now_ms);
		return;
	}
	m->course = MIG_BACK;
	m->phase = (enum mig_phase)from;
	m->announced = false;
	m->deadline_ms = now_ms + phases[from].undo_ms;
}

void mig_start(struct mig *m, enum mig_mode mode, uint64_t now_ms)
{
	*m = (struct mig){ .mode = mode, .course = MIG_FORWARD };
	enter(m, MIG_PREPARE, now_ms);
}

enum mig_action mig_next(struct mig *m, enum mig_phase *ret_phase)
{
	if (m->announced || m->course == MIG_IDLE)
		return MIG_WAIT;
	m->announced = true;
	*ret_phase = m->phase;
	return m->course == MIG_FORWARD ? MIG_ENTER
	       : m->course == MIG_BACK  ? MIG_UNDO
					: MIG_FINISHED;
}

void mig_done(struct mig *m, enum mig_phase phase, uint64_t now_ms)
{
	if (!mig_active(m) || phase != m->phase || !m->announced)
		return;
	if (m->course == MIG_BACK) {
		go_back(m, (int)phase - 1, now_ms);
		return;
	}
	if (phase == MIG_SWITCHOVER)
		m->moved = true;
	if (phase == MIG_COMMIT)
		finish(m, now_ms);
	else
		enter(m, phase + 1, now_ms);
}

void mig_fail(struct mig *m, enum mig_phase phase, const struct hf_err *err, uint64_t now_ms)
{
	if (!mig_active(m) || phase != m->phase)
		return;
	if (m->course == MIG_BACK) {
		m->undo_failures++;
		go_back(m, (int)phase - 1, now_ms);
		return;
	}
	m->err = *err;
	hf_err_prefix(&m->err, "%s", phases[phase].name);
	if (m->moved)
		finish(m, now_ms);
	else /* a phase that was never given out has nothing to undo */
		go_back(m, m->announced ? (int)phase : (int)phase - 1, now_ms);
}

void mig_moved(struct mig *m, uint64_t now_ms)
{
	if (!mig_active(m))
		return;
	m->moved = true;
	finish(m, now_ms);
}

int mig_cancel(struct mig *m, uint64_t now_ms)
{
	if (m->course != MIG_FORWARD || m->phase >= MIG_SWITCHOVER)
		return -EBUSY;
	struct hf_err err;
	hf_err_set(&err, -ECANCELED, "cancelled");
	mig_fail(m, m->phase, &err, now_ms);
	return 0;
}

void mig_tick(struct mig *m, uint64_t now_ms)
{
	if (!mig_active(m) || now_ms < m->deadline_ms)
		return;
	struct hf_err err;
	hf_err_set(&err, -ETIMEDOUT, "not done within %u ms",
		m->course == MIG_BACK ? phases[m->phase].undo_ms : phases[m->phase].deadline_ms);
	mig_fail(m, m->phase, &err, now_ms);
}
