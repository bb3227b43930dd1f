/* SPDX-License-Identifier: MIT */
/*
 * map.h - files of the front end, mapped.
 *
 * A front end may shrink a file after we have mapped it; touching what is gone raises SIGBUS, which
 * must not end a process that serves other VMs. The handler puts zeroed memory in place of the
 * whole mapping and marks it lost; the VM's next turn sees that and lets its front end go.
 *
 * The file stays open beside the mapping: a holdfastd that takes over maps it as well.
 */
#ifndef DEVICE_MAP_H
#define DEVICE_MAP_H

#include "base/base.h"

#define DEV_MAPS_MAX 4096 /* of all VMs */

/* Installs the handler. */
int dev_map_setup(void);

/* Maps [offset, offset + size) of the file, shared: -EINVAL when it is shorter than that or the
 * offset is not a multiple of the page size, -ENOSPC when DEV_MAPS_MAX are mapped, or -errno. */
int dev_map(int fd, uint64_t offset, uint64_t size, void **ret_p);
void dev_unmap(void *p); /* NULL is accepted */

/* Which part of which file it is; the descriptor stays ours. False: it is not mapped. */
struct dev_map_file {
	int fd;
	uint64_t offset, size;
};
bool dev_map_file(const void *p, struct dev_map_file *ret_file);

/* How many mappings were lost since the start: a change says that it is worth to ask. */
size_t dev_maps_lost(void);

/* Whether the memory behind this mapping was lost. */
bool dev_map_lost(const void *p);

#endif
