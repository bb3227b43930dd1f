/* SPDX-License-Identifier: GPL-2.0-or-later */
/* patch.h - makes vhost-user-vsock-device of the running QEMU migratable. */
#ifndef HOLDFAST_QEMU_PATCH_H
#define HOLDFAST_QEMU_PATCH_H

#include "state.h"

enum patch_mode {
	PATCH_SEAMLESS,   /* the guest is not told: its connections live on */
	PATCH_DISRUPTIVE, /* QEMU sends TRANSPORT_RESET after the migration: the guest reconnects */
};

/* What of QEMU the module needs, by the names under which QEMU exports it. NULL: not there. */
struct patch_symbols {
	void *(*object_class_by_name)(const char *name);
	void *post_load; /* vhost_vsock_common_post_load */
	void *pre_save;  /* vhost_vsock_common_pre_save */
	struct state_symbols state;
};

void patch_find_symbols(struct patch_symbols *s);

/* NULL when done; else why not (object, reason, remedy), and then nothing has been touched. */
const char *patch_apply(const struct patch_symbols *s, enum patch_mode mode, enum state_way way);

#endif
