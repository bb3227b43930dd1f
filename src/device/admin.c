/* SPDX-License-Identifier: MIT */
#include "admin.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: sendto */

/* A slot that was freed in this turn may still have events on their way. */
static int free_slot(const struct dev_daemon *d)
{
	for (int i = 0; i < DEV_VMS_MAX; i++)
		if (!d->vm[i] && d->freed_turn[i] != d->turn)
			return i;
	return -1;
}

int dev_admin_add_vm(struct dev_daemon *d, const struct dev_vm_options *o, struct hf_err *reterr)
{
	int i = free_slot(d);
	if (i < 0)
		return hf_err_set(
			reterr, -ENOSPC, "there are %d VMs: start another holdfastd", DEV_VMS_MAX);
	for (size_t k = 0; k < DEV_VMS_MAX; k++) {
		int r = d->vm[k] ? dev_options_clash(&d->opt.vm[k], o, reterr) : 0;
		if (r < 0)
			return r;
	}
	d->opt.vm[i] = *o;
	int r = dev_vm_new(d, &d->opt.vm[i], (uint8_t)i, &d->vm[i], reterr);
	if (r == -EACCES)
		return hf_err_prefix(
			reterr, "not below a folder of --sandbox-dir, or not this user's to write");
	if (r < 0)
		return r;
	d->n_vms = HF_MAX(d->n_vms, (size_t)i + 1);
	hf_info("vm %s: added, guest-cid %u", o->name, o->guest_cid);
	return 0;
}

void dev_admin_remove_vm(struct dev_daemon *d, struct dev_vm *vm)
{
	uint8_t i = vm->index;
	hf_info("vm %s: removed", vm->opt->name);
	dev_control_forget(&d->control, vm);
	dev_vm_free(vm);
	d->vm[i] = NULL;
	d->freed_turn[i] = d->turn;
}

/* Nobody answers this message, so nobody waits. A front end that does not read it is left alone. */
static void tell_config_change(struct dev_vm *vm)
{
	uint8_t msg[VHU_HEADER];
	if (vm->backend < 0)
		return;
	vhu_config_change(msg);
	if (send(vm->backend, msg, sizeof(msg), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(msg))
		hf_warn("vm %s: the front end cannot be told of the new CID: %s", vm->opt->name,
			strerror(errno));
}

int dev_admin_set_cid(struct dev_vm *vm, uint32_t guest_cid, struct hf_err *reterr)
{
	struct dev_daemon *d = vm->daemon;
	struct dev_vm_options *o = &d->opt.vm[vm->index], changed = *o;
	changed.guest_cid = guest_cid;
	if (vm->frozen || vm->loaded)
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": a record of its connections was made or loaded: wait until it "
			"runs",
			o->name);
	if (guest_cid <= VSK_CID_HOST || guest_cid == UINT32_MAX)
		return hf_err_set(reterr, -EINVAL,
			"vm \"%s\": guest_cid %u: want a number from 3 to 4294967294", o->name,
			guest_cid);
	for (size_t k = 0; k < DEV_VMS_MAX; k++) {
		int r = d->vm[k] && d->vm[k] != vm
				? dev_options_clash(&d->opt.vm[k], &changed, reterr)
				: 0;
		if (r < 0)
			return r;
	}
	int r = dev_vm_change_cid(vm, guest_cid);
	if (r < 0)
		return hf_err_set(reterr, r, "vm \"%s\": %s", o->name, strerror(-r));
	hf_info("vm %s: guest-cid %u, was %u", o->name, guest_cid, o->guest_cid);
	o->guest_cid = guest_cid;
	tell_config_change(vm);
	return 0;
}

int dev_admin_reset_conn(struct dev_vm *vm, uint32_t peer_cid, uint32_t host_port,
	uint32_t guest_port, struct hf_err *reterr)
{
	struct vsk_conn *v = vsk_find(&vm->vsk, peer_cid, host_port, guest_port);
	if (!v || v->state == VSK_CLOSED)
		return hf_err_set(reterr, -ENOENT, "conn %u<-%u: no such connection; see conn-list",
			host_port, guest_port);
	if (vm->frozen)
		return hf_err_set(reterr, -EBUSY, "vm \"%s\": it is saved, nothing may change",
			vm->opt->name);
	hf_info("vm %s: conn %u<-%u: reset, as asked for", vm->opt->name, host_port, guest_port);
	dev_conn_failed(vm, dev_conn_of(v), -ECONNRESET);
	return 0;
}
