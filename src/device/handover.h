/* SPDX-License-Identifier: MIT */
/*
 * handover.h - all that a holdfastd is, as a record and descriptors (docs/holdfastd.md).
 *
 * Saving reads and changes nothing. Loading builds the same daemon beside the one that still is:
 * it watches descriptors, maps memory, and touches none of either until dev_handover_carry_on().
 */
#ifndef DEVICE_HANDOVER_H
#define DEVICE_HANDOVER_H

#include "pack.h"
#include "vm.h"

#define DEV_HANDOVER_VERSION 1u
#define DEV_HANDOVER_OLDEST  1u /* reader that understands what this one writes */

/* -EBUSY with a text: something is under way that cannot change hands. */
int dev_handover_refused(const struct dev_daemon *d, struct hf_err *reterr);

void dev_handover_save(const struct dev_daemon *d, struct dev_pack *p);

/* Into a daemon without VMs whose loop is set up. A record that is refused leaves nothing behind
 * but what dev_handover_forget() sweeps away. */
int dev_handover_load(struct dev_daemon *d, struct dev_unpack *u, struct hf_err *reterr);
void dev_handover_forget(struct dev_daemon *d);

/* The other one is gone: everything goes on here. */
void dev_handover_carry_on(struct dev_daemon *d);

/* handover_vm.c: one VM; the section of that kind has been entered. */
enum { /* kinds of sections */
	DEV_PART_HEAD = 1,
	DEV_PART_DAEMON,
	DEV_PART_DIR,
	DEV_PART_PASSED,
	DEV_PART_VM,
	DEV_PART_REGION, /* from here on: of the VM that came last */
	DEV_PART_QUEUE,
	DEV_PART_INFLIGHT,
	DEV_PART_HELLO,
	DEV_PART_ENGINE,
	DEV_PART_CONN,
	DEV_PART_LINGERING,
	DEV_PART_VM_END,
	DEV_PART_RELAY,
	DEV_PART_CLIENT, /* of the control socket */
	DEV_PART_SCRAPE, /* of the metrics */
	DEV_PART_END,
};

/* handover_relay.c: relays, behind all VMs. */
void dev_handover_save_relays(const struct dev_link *l, struct dev_pack *p);
int dev_handover_load_relay(struct dev_handover *h, struct dev_unpack *u);

void dev_handover_save_vm(const struct dev_vm *vm, struct dev_pack *p);
int dev_handover_load_vm(
	struct dev_handover *h, uint64_t kind, struct dev_unpack *u, struct hf_err *reterr);

#endif
