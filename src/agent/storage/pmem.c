/* SPDX-License-Identifier: MIT */
/* pmem.c - persistent memory devices: /dev/pmemN, or a part of one through the device mapper. */
#include "agent/proc/worker.h"
#include "base/fd.h"
#include "disk.h"
#include "tree.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define SECTOR 512

struct table {
	struct dm_ioctl head;
	struct dm_target_spec target;
	char params[64];
};

static void name_of(const struct agt_pmem *p, char *name, size_t cap)
{
	(void)snprintf(name, cap, "pmem%u-%llu-%llu", p->number, (unsigned long long)p->offset,
		(unsigned long long)p->size);
}

static int command(int fd, unsigned long what, struct table *t, const struct agt_pmem *p)
{
	t->head.version[0] = DM_VERSION_MAJOR;
	t->head.data_size = sizeof(*t);
	t->head.data_start = offsetof(struct table, target);
	name_of(p, t->head.name, sizeof(t->head.name));
	return ioctl(fd, what, t) < 0 ? -errno : 0;
}

static int open_mapper(struct hf_err *reterr)
{
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
	return fd < 0 ? hf_err_set(reterr, -errno,
				"MappingInfo: /dev/mapper/control: %s: the guest's kernel needs "
				"dm-mod",
				strerror(errno))
		      : fd;
}

/* Takes the device of map() away; one that is not there is as good as removed. */
static int unmap(const struct agt_pmem *p, struct hf_err *reterr)
{
	struct table t = { 0 };
	HF_CLEANUP(fd_closep) int fd = open_mapper(reterr);
	if (fd < 0)
		return fd;
	int r = command(fd, DM_DEV_REMOVE, &t, p);
	if (r < 0 && r != -ENXIO)
		return hf_err_set(reterr, r, "MappingInfo: %s: %s", t.head.name, strerror(-r));
	return 0;
}

/* A linear target over part of the device, and its node. */
static int map(
	const char *device, const struct agt_pmem *p, char *ret, size_t cap, struct hf_err *reterr)
{
	struct table t = { .head.flags = DM_READONLY_FLAG };
	HF_CLEANUP(fd_closep) int fd = open_mapper(reterr);
	if (fd < 0)
		return fd;
	int r = command(fd, DM_DEV_CREATE, &t, p);
	dev_t node = (dev_t)t.head.dev;
	if (r == 0) {
		t = (struct table){ .head = { .flags = DM_READONLY_FLAG, .target_count = 1 } };
		t.target.length = p->size / SECTOR;
		(void)snprintf(t.target.target_type, sizeof(t.target.target_type), "linear");
		(void)snprintf(t.params, sizeof(t.params), "%s %llu", device,
			(unsigned long long)(p->offset / SECTOR));
		r = command(fd, DM_TABLE_LOAD, &t, p);
	}
	if (r == 0) {
		t = (struct table){ .head.flags = DM_READONLY_FLAG };
		r = command(fd, DM_DEV_SUSPEND, &t, p); /* without the flag for it: resumes */
	}
	if (r < 0) {
		if (r != -EBUSY)              /* that is: somebody else's */
			(void)unmap(p, NULL); /* the first error is the one to tell */
		return hf_err_set(reterr, r, "MappingInfo: %s: %s", device, strerror(-r));
	}
	(void)snprintf(ret, cap, "/dev/dm-%u", minor(node));
	return 0;
}

int agt_pmem_check(const struct agt_pmem *p, struct hf_err *reterr)
{
	if (p->offset % SECTOR || p->size % SECTOR)
		return hf_err_set(reterr, -EINVAL,
			"MappingInfo: DeviceOffsetInBytes and DeviceSizeInBytes: whole sectors of "
			"%d bytes expected",
			SECTOR);
	return agt_path_check("MountPath", p->mount_path, reterr);
}

int agt_pmem_add(const struct agt_pmem *p, struct hf_err *reterr)
{
	char device[64], mapped[64];
	struct agt_disk d = { .mount_path = p->mount_path, .filesystem = "", .read_only = true };
	(void)snprintf(device, sizeof(device), "/dev/pmem%u", p->number);
	if (access(device, F_OK) < 0)
		return hf_err_set(reterr, -ENODEV,
			"DeviceNumber: %s: %s: attach an nvdimm or virtio-pmem device first",
			device, strerror(errno));
	if (p->size == 0)
		return agt_disk_mount(device, &d, reterr);
	int r = map(device, p, mapped, sizeof(mapped), reterr);
	if (r < 0)
		return r;
	r = agt_disk_mount(mapped, &d, reterr);
	if (r < 0)
		(void)unmap(p, NULL); /* the first error is the one to tell */
	return r;
}

int agt_pmem_remove(const struct agt_pmem *p, struct hf_err *reterr)
{
	int r = agt_unmount(p->mount_path, reterr);
	return r < 0 || p->size == 0 ? r : unmap(p, reterr);
}
