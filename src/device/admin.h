/* SPDX-License-Identifier: MIT */
/* admin.h - what an operator changes while holdfastd runs (docs/control.md). */
#ifndef DEVICE_ADMIN_H
#define DEVICE_ADMIN_H

#include "vm.h"

/* Adds a VM and opens its sockets; *o is copied. -EEXIST: name, CID or a path is taken. */
int dev_admin_add_vm(struct dev_daemon *d, const struct dev_vm_options *o, struct hf_err *reterr);

/* Ends a VM: its front end and its host applications see the end. */
void dev_admin_remove_vm(struct dev_daemon *d, struct dev_vm *vm);

/* Another CID for the guest. Its connections end: their addresses are void. The front end is told
 * that the configuration has changed, and the driver of a transport reset if the event queue is
 * ours (D7.1, E1.7); without it, the guest has to be reset to learn of the CID. */
int dev_admin_set_cid(struct dev_vm *vm, uint32_t guest_cid, struct hf_err *reterr);

/* RST to the guest, the end to the host application. */
int dev_admin_reset_conn(struct dev_vm *vm, uint32_t peer_cid, uint32_t host_port,
	uint32_t guest_port, struct hf_err *reterr);

#endif
