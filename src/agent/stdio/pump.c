/* SPDX-License-Identifier: MIT */
#include "pump.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "agent/link/dial.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/ring.h"
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

struct agt_pump {
	struct agt *a;
	struct agt_stdio *set; /* NULL: gone */
	int leg;
	int from, to; /* to -1: discard */
	bool tty;
	bool closing; /* half-closed: waiting for the host */
	bool redial;  /* a lost host is dialled again */
	bool away;    /* it is being dialled: `to` is -1 meanwhile */
	uint32_t port;
	uint64_t serial, owner; /* in the state: this leg, and its process; 0: it is not there */
	uint64_t give_up_us;    /* 0: the process lives */
	struct agt_dial *dial;
	struct brg_reconnect policy;
	struct agt_watch *watch_from, *watch_to;
	struct agt_timer *timer;
	struct hf_ring ring;
	uint8_t mem[AGT_PUMP_SIZE];
};

void agt_pump_disown(struct agt_pump *p)
{
	p->set = NULL;
}

static void put(const struct agt_pump *p)
{
	agt_state_put_n(&p->a->state, "pump", p->serial,
		json_pack("{s:I, s:i, s:I, s:i, s:b}", "process", (json_int_t)p->owner, "leg",
			p->leg, "port", (json_int_t)p->port, "local", p->from, "tty", (int)p->tty));
}

static void close_from(struct agt_pump *p)
{
	if (p->serial)
		agt_state_put_n(&p->a->state, "pump", p->serial, NULL);
	p->serial = 0;
	agt_watch_free(p->watch_from);
	p->watch_from = NULL;
	fd_closep(&p->from);
}

void agt_pump_stop(struct agt_pump *p)
{
	close_from(p);
	agt_watch_free(p->watch_to);
	agt_timer_free(p->timer);
	agt_dial_cancel(p->dial);
	fd_closep(&p->to);
	p->a->n_streams--;
	free(p);
}

static void over(struct agt_pump *p)
{
	struct agt_stdio *set = p->set;
	int leg = p->leg;
	agt_pump_stop(p);
	if (set)
		agt_stdio_leg_over(set, leg);
}

static void on_dialled(void *arg, int fd);

/* Closing: the host took too long. Away: the next dial is due. */
static void on_timeout(void *arg)
{
	struct agt_pump *p = arg;
	if (!p->away) {
		over(p);
		return;
	}
	brg_reconnect_dialling(&p->policy, hf_now_us());
	p->dial = agt_dial_start(&p->a->loop, &p->a->flags->transport, p->port, on_dialled, p);
	if (!p->dial)
		on_dialled(p, -ENOMEM);
}

static void dial_later(struct agt_pump *p, enum brg_outcome outcome)
{
	uint64_t now = hf_now_us(), at = now;
	(void)brg_reconnect_next(&p->policy, outcome, now, &at); /* has no limit */
	agt_timer_set(p->timer, at <= now ? 0 : (at - now + 999) / 1000);
}

/* The host has gone: what it did not take waits for the next one. */
static void go_away(struct agt_pump *p)
{
	agt_watch_free(p->watch_to);
	p->watch_to = NULL;
	fd_closep(&p->to);
	p->away = true;
	dial_later(p, BRG_OUTCOME_LOST);
}

/* All bytes are through: tells the receiver. True when the pump is over. */
static bool finish(struct agt_pump *p)
{
	if (p->leg == AGT_IN || p->tty || p->to < 0 || shutdown(p->to, SHUT_WR) < 0)
		return true;
	p->closing = true;
	agt_watch_set(p->watch_to, UV_READABLE);
	agt_timer_set(p->timer, AGT_PUMP_CLOSE_MS);
	return false;
}

/* Reads once what there is room for. 0 or more: go on; -ENODATA: the end; else -errno. */
static ssize_t take(struct agt_pump *p)
{
	struct iovec iov[2];
	int k = hf_ring_write_iov(&p->ring, iov);
	if (k == 0 || p->from < 0)
		return 0;
	ssize_t n = readv(p->from, iov, k);
	if (n > 0)
		hf_ring_produced(&p->ring, (size_t)n);
	if (n == 0 || (n < 0 && errno == EIO && p->tty)) /* no one has the terminal open any more */
		return -ENODATA;
	return n < 0 && errno != EAGAIN ? -errno : HF_MAX(n, 0);
}

/* Writes what there is. 0 or more, or -errno: nobody takes it. */
static ssize_t give(struct agt_pump *p)
{
	struct iovec iov[2];
	int k = hf_ring_read_iov(&p->ring, iov);
	if (k == 0 || p->away)
		return 0;
	ssize_t n = p->to < 0 ? (ssize_t)hf_ring_len(&p->ring) : writev(p->to, iov, k);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	hf_ring_consumed(&p->ring, (size_t)n);
	if (n > 0 && p->set)
		agt_stdio_moved(p->set);
	return n;
}

static void step(struct agt_pump *p)
{
	ssize_t got = take(p);
	if (got < 0) /* the end, or a broken sender: what was read still goes through */
		close_from(p);
	if (give(p) < 0) {
		if (!p->redial) {
			over(p);
			return;
		}
		go_away(p);
	}
	size_t left = hf_ring_len(&p->ring);
	if (p->from < 0 && left == 0 && !p->away && finish(p)) {
		over(p);
		return;
	}
	if (p->closing)
		return;
	if (p->from >= 0)
		agt_watch_set(p->watch_from, hf_ring_room(&p->ring) > 0 ? UV_READABLE : 0);
	if (p->watch_to)
		agt_watch_set(p->watch_to, left > 0 ? UV_WRITABLE : 0);
}

static void on_from(void *arg, int events)
{
	(void)events; /* only one was asked for */
	step(arg);
}

static void on_to(void *arg, int events)
{
	struct agt_pump *p = arg;
	char byte;
	(void)events; /* only one was asked for */
	if (!p->closing) {
		step(p);
		return;
	}
	ssize_t n = read(p->to, &byte, 1); /* hosts send nothing here; the end is what counts */
	if (n == 0 || (n < 0 && errno != EAGAIN))
		over(p);
}

static void on_dialled(void *arg, int fd)
{
	struct agt_pump *p = arg;
	p->dial = NULL;
	if (fd < 0 && p->give_up_us > 0 && hf_now_us() >= p->give_up_us) {
		over(p);
		return;
	}
	p->to = fd < 0 ? -1 : fd;
	if (fd < 0 || agt_watch_new(&p->a->loop, fd, on_to, p, &p->watch_to) < 0) {
		fd_closep(&p->to);
		dial_later(p, BRG_OUTCOME_REFUSED);
		return;
	}
	p->away = false;
	step(p);
}

void agt_pump_exited(struct agt_pump *p)
{
	p->give_up_us = hf_now_us() + AGT_PUMP_CLOSE_MS * 1000ull;
}

int agt_pump_new(struct agt *a, const struct agt_pump_config *config, struct agt_pump **ret)
{
	struct agt_pump *p = calloc(1, sizeof(*p));
	bool in = config->leg == AGT_IN;
	int local = config->local, remote = config->remote;
	if (!p) {
		fd_closep(&local);
		fd_closep(&remote);
		return -ENOMEM;
	}
	*p = (struct agt_pump){
		.a = a, .set = config->set, .leg = config->leg, .tty = config->tty
	};
	a->n_streams++;
	p->from = in ? remote : local;
	p->to = in ? local : remote;
	p->redial = config->redial && !in && (remote >= 0 || config->inherited);
	p->away = config->inherited;
	p->port = config->port;
	p->owner = config->owner;
	brg_reconnect_init(&p->policy, a->flags->reconnect_us, 0);
	hf_ring_init(&p->ring, p->mem, sizeof(p->mem));
	p->timer = agt_timer_new(&a->loop, on_timeout, p);
	int r = p->timer ? agt_watch_new(&a->loop, p->from, on_from, p, &p->watch_from) : -ENOMEM;
	if (r == 0 && p->to >= 0)
		r = agt_watch_new(&a->loop, p->to, on_to, p, &p->watch_to);
	if (r < 0) {
		agt_pump_stop(p);
		return r;
	}
	agt_watch_set(p->watch_from, UV_READABLE);
	if (p->redial) {
		p->serial = ++a->state.serial;
		put(p);
	}
	if (p->away)
		agt_timer_set(p->timer, 0);
	*ret = p;
	return 0;
}

static void restore(struct agt_heir *h, json_t *o)
{
	struct agt_fields f = { .obj = o, .prefix = "pump." };
	struct agt_pump *p = NULL;
	struct agt_process *owner =
		agt_process_by_serial(h->a, agt_field_uint(&f, "process", INT64_MAX, 0));
	struct agt_pump_config config = {
		.leg = (int)agt_field_uint(&f, "leg", AGT_ERR, AGT_OUT),
		.remote = -1,
		.tty = agt_field_bool(&f, "tty", false),
		.redial = true,
		.inherited = true,
		.port = (uint32_t)agt_field_uint(&f, "port", UINT32_MAX, 0),
	};
	config.local = agt_heir_fd(
		h, agt_field(&f, "local"), config.tty ? AGT_HEIR_TERMINAL : AGT_HEIR_PIPE);
	config.set = owner ? owner->stdio : NULL;
	config.owner = owner ? owner->serial : 0;
	if (f.err.code == 0 && config.local < 0)
		return; /* it was over */
	if (f.err.code != 0 || agt_pump_new(h->a, &config, &p) < 0)
		agt_heir_refuse(h, "pump");
	if (config.set)
		agt_stdio_inherit(owner->stdio, config.leg, p, NULL);
}

void agt_pump_restore(struct agt_heir *h)
{
	uint64_t serial;
	for (json_t *v = agt_heir_first(h, "pump", &serial); v; v = agt_heir_next(h, &serial)) {
		agt_state_put_n(&h->a->state, "pump", serial, NULL);
		restore(h, v); /* under another name */
	}
}
