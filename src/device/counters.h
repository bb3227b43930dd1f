/* SPDX-License-Identifier: MIT */
/* counters.h - what is counted of a VM, as a list of names and values for whoever shows them. */
#ifndef DEVICE_COUNTERS_H
#define DEVICE_COUNTERS_H

#include "vm.h"

struct dev_counter {
	const char *name; /* [a-z_]: also the name of the metric */
	const char *help;
	bool gauge; /* goes up and down; else it only grows */
	uint64_t value;
};

/* The i-th of the VM's counters; false behind the last one. The names of all VMs are the same. */
bool dev_counter_at(const struct dev_vm *vm, size_t i, struct dev_counter *ret_c);

#endif
