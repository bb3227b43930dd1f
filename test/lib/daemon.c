/* SPDX-License-Identifier: MIT */
#include "daemon.h"
#include "device/vm.h"

static void on_event(void *owner, struct dev_tag tag, uint32_t events)
{
	struct dev_daemon *d = owner;
	if (tag.what == DEV_ON_CONTROL_LISTEN)
		dev_control_on_listen(&d->control);
	else if (tag.what == DEV_ON_CONTROL)
		dev_control_on_client(&d->control, tag);
	else if (d->vm[tag.vm])
		dev_vm_on_event(d->vm[tag.vm], tag, events);
}

static uint64_t on_turn(void *owner)
{
	struct dev_daemon *d = owner;
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			(void)dev_vm_turn(d->vm[i]); /* when it wants the next does not matter */
	d->turn++;
	(void)dev_control_turn(&d->control); /* likewise */
	dev_loop_stop(&d->loop);
	return 0;
}

static void on_rest(void *owner)
{
	struct dev_daemon *d = owner;
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			dev_ring_settle(d->vm[i]);
}

void daemon_begin(struct dev_daemon *d)
{
	*d = (struct dev_daemon){ .control.listen_fd = -1, .link.listen_fd = -1, .taker = -1 };
	d->opt.claim_timeout_ms = DEV_CLAIM_TIMEOUT_MS;
	hf_assert(dev_loop_init(&d->loop) == 0);
	d->loop.owner = d;
	d->loop.on_event = on_event;
	d->loop.on_turn = on_turn;
	d->loop.on_rest = on_rest;
	d->turn = 1; /* no slot was freed in it */
}

void daemon_turns(struct dev_daemon *d, int n)
{
	while (n-- > 0) {
		d->loop.stopped = false;
		dev_loop_run(&d->loop);
	}
}
