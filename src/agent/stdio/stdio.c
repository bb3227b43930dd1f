/* SPDX-License-Identifier: MIT */
#include "stdio.h"
#include "agent/agent.h"
#include "agent/link/dial.h"
#include "base/fd.h"
#include "pump.h"
#include "resume.h"
#include <errno.h>

struct agt_stdio {
	struct agt *a;
	struct agt_stdio_spec spec;
	int remote[3]; /* plain legs: dialled, not attached yet */
	struct agt_pump *pump[3];
	struct agt_resume *resume[3];

	int dialling; /* the leg at hand */
	struct agt_dial *dial;
	agt_stdio_dialled_fn *dialled;
	void *dialled_arg;

	agt_stdio_done_fn *done; /* set when the process has gone and the report is still due */
	void *done_arg;
	struct agt_timer *timer;
	bool moved; /* since the timer was set */
	bool attached;
};

static void dial_next(struct agt_stdio *s, int leg);

static void on_dialled(void *arg, int fd)
{
	struct agt_stdio *s = arg;
	s->dial = NULL;
	if (fd < 0) {
		s->dialled(s->dialled_arg, fd, s->dialling);
		return;
	}
	s->remote[s->dialling] = fd;
	dial_next(s, s->dialling + 1);
}

/* Dials the plain legs one after the other; all done, the timer reports it. */
static void dial_next(struct agt_stdio *s, int leg)
{
	while (leg < 3 && (!s->spec.leg[leg].want || s->spec.leg[leg].resumable))
		leg++;
	s->dialling = leg;
	if (leg == 3) {
		agt_timer_set(s->timer, 0);
		return;
	}
	s->dial = agt_dial_once(
		&s->a->loop, &s->a->flags->transport, s->spec.leg[leg].port, on_dialled, s);
	if (!s->dial)
		agt_timer_set(s->timer, 0);
}

static void report(struct agt_stdio *s)
{
	agt_stdio_done_fn *done = s->done;
	s->done = NULL;
	agt_timer_stop(s->timer);
	done(s->done_arg);
}

static void on_timer(void *arg)
{
	struct agt_stdio *s = arg;
	if (s->dialled) {
		agt_stdio_dialled_fn *fn = s->dialled;
		s->dialled = NULL;
		fn(s->dialled_arg, s->dialling == 3 ? 0 : -ENOMEM, s->dialling);
		return;
	}
	if (!s->done)
		return;
	if (!s->moved) {
		report(s);
		return;
	}
	s->moved = false;
	agt_timer_set(s->timer, AGT_STDIO_LINGER_MS);
}

struct agt_stdio *agt_stdio_dial(
	struct agt *a, const struct agt_stdio_spec *spec, agt_stdio_dialled_fn *fn, void *arg)
{
	struct agt_stdio *s = a->n_streams + 3 > AGT_STREAMS_MAX ? NULL : calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	*s = (struct agt_stdio){ .a = a, .spec = *spec, .remote = { -1, -1, -1 } };
	s->dialled = fn;
	s->dialled_arg = arg;
	s->timer = agt_timer_new(&a->loop, on_timer, s);
	bool ok = s->timer != NULL;
	for (int i = 0; ok && i < 3; i++)
		if (spec->leg[i].want && spec->leg[i].resumable)
			ok = agt_resume_new(a, s, i, spec->leg[i].port, spec->leg[i].token,
				     &s->resume[i]) == 0;
	if (!ok) {
		agt_stdio_free(s);
		return NULL;
	}
	dial_next(s, 0);
	return s;
}

struct agt_stdio *agt_stdio_inherited(struct agt *a)
{
	struct agt_stdio *s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	*s = (struct agt_stdio){ .a = a, .remote = { -1, -1, -1 }, .attached = true };
	s->timer = agt_timer_new(&a->loop, on_timer, s);
	if (!s->timer) {
		free(s);
		return NULL;
	}
	return s;
}

void agt_stdio_inherit(
	struct agt_stdio *s, int leg, struct agt_pump *pump, struct agt_resume *resume)
{
	s->pump[leg] = pump;
	s->resume[leg] = resume;
}

int agt_stdio_attach(struct agt_stdio *s, uint64_t owner, const int local[3], bool tty, bool redial)
{
	int result = 0;
	s->attached = true;
	for (int i = 0; i < 3; i++) {
		int fd = local[i], r = 0;
		if (s->spec.leg[i].want && s->spec.leg[i].resumable) {
			if (s->resume[i])
				r = agt_resume_attach(s->resume[i], owner, fd, tty);
			else
				fd_closep(&fd); /* the host has dropped the stream already */
		} else if (fd >= 0 && (s->spec.leg[i].want || i != AGT_IN)) {
			struct agt_pump_config config = {
				.set = s,
				.leg = i,
				.local = fd,
				.remote = fd_take(&s->remote[i]),
				.tty = tty,
				.redial = redial,
				.owner = owner,
				.port = s->spec.leg[i].port,
			};
			r = agt_pump_new(s->a, &config, &s->pump[i]);
		} else {
			fd_closep(&fd);
			fd_closep(&s->remote[i]);
		}
		if (r < 0)
			result = r;
	}
	return result;
}

static bool output_done(const struct agt_stdio *s)
{
	return !s->pump[AGT_OUT] && !s->pump[AGT_ERR];
}

void agt_stdio_moved(struct agt_stdio *s)
{
	s->moved = true;
}

void agt_stdio_leg_over(struct agt_stdio *s, int leg)
{
	s->pump[leg] = NULL;
	s->resume[leg] = NULL;
	if (s->done && output_done(s))
		report(s);
}

void agt_stdio_exited(struct agt_stdio *s, agt_stdio_done_fn *fn, void *arg)
{
	if (s->pump[AGT_IN])
		agt_pump_stop(s->pump[AGT_IN]);
	s->pump[AGT_IN] = NULL;
	for (int i = AGT_OUT; i <= AGT_ERR; i++)
		if (s->pump[i])
			agt_pump_exited(s->pump[i]);
	if (s->resume[AGT_IN])
		agt_resume_exited(s->resume[AGT_IN]);
	s->done = fn;
	s->done_arg = arg;
	s->moved = false;
	if (output_done(s))
		report(s);
	else
		agt_timer_set(s->timer, AGT_STDIO_LINGER_MS);
}

void agt_stdio_free(struct agt_stdio *s)
{
	if (!s)
		return;
	agt_dial_cancel(s->dial);
	agt_timer_free(s->timer);
	for (int i = 0; i < 3; i++) {
		fd_closep(&s->remote[i]);
		if (s->pump[i])
			agt_pump_disown(s->pump[i]);
		if (s->resume[i] && s->attached)
			agt_resume_disown(s->resume[i]);
		else if (s->resume[i])
			agt_resume_stop(s->resume[i]);
	}
	free(s);
}
