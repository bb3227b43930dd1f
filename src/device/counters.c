/* SPDX-License-Identifier: MIT */
#include "counters.h"

bool dev_counter_at(const struct dev_vm *vm, size_t i, struct dev_counter *ret_c)
{
	const struct vsk_stats *s = &vm->vsk.stats;
	const struct dev_limits *l = &vm->limits;
	const struct dev_counter all[] = {
		{ "connected", "a front end is connected", true, vm->front >= 0 },
		{ "running", "the rings run", true, vm->running },
		{ "connections", "connections that live", true, vm->vsk.n_conns },
		{ "connections_opened", "connections that were opened", false, s->opened },
		{ "connections_closed", "connections that have ended", false, s->closed },
		{ "rx_bytes", "payload from the guest", false, s->rx_bytes },
		{ "tx_bytes", "payload to the guest", false, s->tx_bytes },
		{ "rx_packets", "packets from the guest", false, s->from_guest },
		{ "tx_packets", "packets to the guest", false, s->to_guest },
		{ "resets_sent", "RST packets to the guest", false, s->rst_sent },
		{ "packets_dropped", "malformed packets, or from another CID", false, s->dropped },
		{ "credit_overruns", "connections whose guest sent over its credit", false,
			s->overruns },
		{ "credit_stalls", "times that data waited for the guest's credit", false,
			s->stalls },
		{ "refused_no_slot", "connections refused because there were too many", false,
			s->no_slot },
		{ "refused_port", "connections to ports that are not allowed", false,
			l->refused_port },
		{ "refused_many", "connections over max-connections", false, l->refused_many },
		{ "refused_rate", "connections over rate-connections", false, l->refused_rate },
		{ "refused_user", "host clients of users that are not allowed", false,
			l->refused_uid },
		{ "rate_waits", "times that the VM waited for rate-bytes", false, l->waits },
	};
	if (i >= HF_ARRAY_SIZE(all))
		return false;
	*ret_c = all[i];
	return true;
}
