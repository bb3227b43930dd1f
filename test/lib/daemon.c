/* SPDX-License-Identifier: MIT */
#include "daemon.h"
#include "base/fd.h"
#include "device/vm.h"

static uint64_t on_turn(void *owner)
{
	struct dev_daemon *d = owner;
	(void)dev_daemon_turn(d); /* when it wants the next does not matter */
	fd_closep(&d->taker);     /* nobody is there who would take over */
	dev_loop_stop(&d->loop);
	return 0;
}

void daemon_begin(struct dev_daemon *d)
{
	*d = (struct dev_daemon){ 0 };
	d->opt.claim_timeout_ms = DEV_CLAIM_TIMEOUT_MS;
	hf_assert(dev_daemon_init(d) == 0);
	d->loop.on_turn = on_turn;
}

void daemon_turns(struct dev_daemon *d, int n)
{
	while (n-- > 0) {
		d->loop.stopped = false;
		dev_loop_run(&d->loop);
	}
}
