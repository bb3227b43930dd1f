/* SPDX-License-Identifier: MIT */
/* daemon.c - who an event is for, and in which order all have their turn. */
#include "daemon.h"
#include "base/log.h"
#include "relay.h"
#include "vm.h"

static void on_event(void *owner, struct dev_tag tag, uint32_t events)
{
	struct dev_daemon *d = owner;
	if (tag.what == DEV_ON_CONTROL_LISTEN)
		dev_control_on_listen(&d->control);
	else if (tag.what == DEV_ON_CONTROL)
		dev_control_on_client(&d->control, tag);
	else if (tag.what == DEV_ON_METRICS_LISTEN)
		dev_metrics_on_listen(&d->metrics);
	else if (tag.what == DEV_ON_METRICS)
		dev_metrics_on_client(&d->metrics, tag);
	else if (tag.what == DEV_ON_LINK_LISTEN)
		dev_link_on_listen(&d->link);
	else if (tag.what == DEV_ON_PEER)
		dev_link_on_peer(&d->link, tag, events);
	else if (tag.what == DEV_ON_RELAY)
		dev_relay_on_event(&d->link, tag, events);
	else if (d->vm[tag.vm])
		dev_vm_on_event(d->vm[tag.vm], tag, events);
}

static void free_vms(struct dev_daemon *d)
{
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			dev_vm_free(d->vm[i]);
	d->n_vms = 0;
}

/* The VMs have moved: what they leave here is relayed, and everything else is over. */
static void retire(struct dev_daemon *d)
{
	dev_control_close(&d->control);
	dev_metrics_close(&d->metrics);
	free_vms(d);
	hf_info("retiring: ends with the last of %zu relays", d->link.n_relays);
}

uint64_t dev_daemon_turn(struct dev_daemon *d)
{
	d->loop.brisk = false;
	uint64_t next_us = dev_metrics_turn(&d->metrics);
	size_t n = 0, ended = 0;
	if (d->retiring && d->n_vms > 0)
		retire(d);
	dev_link_turn(&d->link);
	for (size_t i = 0; i < d->n_vms; i++) {
		if (!d->vm[i])
			continue;
		next_us = HF_MIN(next_us, dev_vm_turn(d->vm[i]));
		ended += d->vm[i]->ended;
		n++;
	}
	next_us = HF_MIN(next_us, dev_link_flush(&d->link));
	if ((n > 0 && ended == n) || (d->retiring && d->link.n_relays == 0))
		dev_loop_stop(&d->loop);
	d->turn++;
	uint64_t control_us = dev_control_turn(&d->control); /* what VMs have to say goes out */
	if (d->poked)
		next_us = 0; /* one that had its turn before */
	d->poked = false;
	return HF_MIN(next_us, control_us);
}

/* Asks all, whatever the first says. */
static bool any_vm(const struct dev_daemon *d, bool (*ask)(struct dev_vm *vm))
{
	bool any = false;
	for (size_t i = 0; i < d->n_vms; i++)
		any |= d->vm[i] && ask(d->vm[i]);
	return any;
}

static bool on_look(void *owner)
{
	return any_vm(owner, dev_ring_look);
}

static bool on_rest(void *owner)
{
	return any_vm(owner, dev_ring_rest);
}

int dev_daemon_init(struct dev_daemon *d)
{
	int r = dev_loop_init(&d->loop);
	if (r < 0)
		return r;
	d->control.listen_fd = d->metrics.listen_fd = d->link.listen_fd = d->taker = -1;
	d->loop.owner = d;
	d->loop.on_event = on_event;
	d->loop.on_look = on_look;
	d->loop.on_rest = on_rest;
	d->turn = 1; /* no slot was freed in it */
	return 0;
}

void dev_daemon_done(struct dev_daemon *d)
{
	dev_control_close(&d->control);
	dev_metrics_close(&d->metrics);
	free_vms(d);
	dev_link_close(&d->link);
	dev_loop_done(&d->loop);
}
