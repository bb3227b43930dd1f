/* SPDX-License-Identifier: MIT */
#include "reconnect.h"

void brg_reconnect_init(struct brg_reconnect *r, uint64_t interval_us, uint64_t max_failures)
{
	*r = (struct brg_reconnect){ .interval_us = interval_us, .max_failures = max_failures };
}

void brg_reconnect_dialling(struct brg_reconnect *r, uint64_t now_us)
{
	r->attempts++;
	r->last_us = now_us;
}

bool brg_reconnect_next(
	struct brg_reconnect *r, enum brg_outcome outcome, uint64_t now_us, uint64_t *ret_at_us)
{
	if (r->stopped)
		return false;
	switch (outcome) {
	case BRG_OUTCOME_REFUSED:
	case BRG_OUTCOME_USELESS:
		r->failures++;
		if (r->max_failures > 0 && r->failures >= r->max_failures)
			return false;
		/* the interval runs from dial to dial: a slow refusal is not paid for twice */
		*ret_at_us = HF_MAX(now_us, r->last_us + r->interval_us);
		return true;
	default:
		r->failures = 0;
		*ret_at_us = now_us;
		return true;
	}
}

void brg_reconnect_stop(struct brg_reconnect *r)
{
	r->stopped = true;
}
