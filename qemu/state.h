/* SPDX-License-Identifier: GPL-2.0-or-later */
/* state.h - the back end's state in QEMU's own migration stream. */
#ifndef HOLDFAST_QEMU_STATE_H
#define HOLDFAST_QEMU_STATE_H

#include <stdint.h>

#include "probe.h"

enum state_way {
	STATE_AUTO,   /* in the stream if this QEMU can, else beside it */
	STATE_BESIDE, /* QEMU carries nothing: others bring the state over, or nobody does */
	STATE_STREAM, /* in the stream, or the module refuses */
};

/* What of QEMU is needed for it. NULL: not there. */
struct state_symbols {
	int (*save)(void *vhost, void *file, void **errp); /* vhost_save_backend_state */
	int (*load)(void *vhost, void *file, void **errp); /* vhost_load_backend_state */
	void (*report)(void *error);                       /* error_report_err */
	void *(*add_property)(void *class, const char *name,
		char *(*get)(void *object, void **errp),
		void (*set)(void *object, const char *value,
			void **errp)); /* object_class_property_add_str */
};

void state_find_symbols(struct state_symbols *s);

/*
 * Makes a list of subsections for the user device's description, of which n words are known,
 * and word pre_save is that callback. fs_class is vhost-user-fs-device's, whose description, at
 * `slot`, is the model. Returns NULL, or
 * why not (object, reason, remedy); touches nothing of QEMU.
 */
const char *state_subsections(struct probe *p, const struct state_symbols *s, uintptr_t **fs_class,
	int slot, int n, int pre_save, enum state_way way, uintptr_t *ret_list);

/* Tells who asks (QMP: qom-get) on which way the state of a device of this class travels. */
void state_publish(void *class);

#endif
