/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "fake.h"

#include <stddef.h>

struct fake fake;

void *object_class_by_name(const char *name)
{
	if (!strcmp(name, "vhost-user-vsock-device"))
		return fake.user;
	if (!strcmp(name, "vhost-vsock-device"))
		return fake.kernel;
	if (!strcmp(name, "vhost-user-fs-device"))
		return fake.fs;
	return NULL;
}

int vhost_vsock_common_post_load(void *opaque, int version)
{
	return opaque ? version : -1;
}

int vhost_vsock_common_pre_save(void *opaque)
{
	return opaque ? 0 : -1;
}
