/* SPDX-License-Identifier: MIT */
/*
 * disk.h - disks of the machine, and what is mounted from them. These block: they run in workers.
 *
 * A SCSI disk is named by controller and lun. With a VMBus (Hyper-V) the controller is one of four
 * GUIDs; without, it is the n-th virtio-scsi adapter of the machine, counted from 0 in the order of
 * their host numbers. The lun is that of channel 0, target 0.
 */
#ifndef AGT_STORAGE_DISK_H
#define AGT_STORAGE_DISK_H

#include "base/err.h"
#include <stdint.h>

#define AGT_DISK_WAIT_MS    5000 /* for a device to appear */
#define AGT_CONTROLLERS_MAX 4
#define AGT_PARTITIONS_MAX  255

struct agt_disk {
	uint32_t controller, lun, partition; /* partition 0: the whole disk */
	const char *mount_path;              /* "": nothing to do */
	const char *filesystem;              /* "": whatever is found */
	const char **options;                /* NULL at the end; or NULL */
	bool read_only;
	bool block_dev; /* the mount path becomes a symbolic link to the device */
	bool encrypted; /* under a new key: a file system is made in any case (crypt.h) */
	bool ensure;    /* make the file system when another one, or none, is found */
};

/* Whether the members make sense together; the others trust that it was asked. */
int agt_disk_check(const struct agt_disk *d, struct hf_err *reterr);

int agt_disk_add(const struct agt_disk *d, struct hf_err *reterr);
int agt_disk_remove(const struct agt_disk *d, struct hf_err *reterr);

/* SCSIDevice: takes the device itself out of the machine; absent is success. */
int agt_disk_eject(const struct agt_disk *d, struct hf_err *reterr);

/* The file system of a device by its superblock: "ext4", "xfs", or "" for an unknown one. */
int agt_disk_probe(const char *device, const char **ret_type, struct hf_err *reterr);

/* Mounts a device whose file system is found out; `disk` gives all but the device. */
int agt_disk_mount(const char *device, const struct agt_disk *d, struct hf_err *reterr);

/* VPMemDevice: /dev/pmemN, or a part of it, read-only. */
struct agt_pmem {
	uint32_t number;
	uint64_t offset, size; /* size 0: all of it */
	const char *mount_path;
};

int agt_pmem_check(const struct agt_pmem *p, struct hf_err *reterr);
int agt_pmem_add(const struct agt_pmem *p, struct hf_err *reterr);
int agt_pmem_remove(const struct agt_pmem *p, struct hf_err *reterr);

#endif
