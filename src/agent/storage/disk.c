/* SPDX-License-Identifier: MIT */
#include "disk.h"
#include "agent/proc/worker.h"
#include "base/bytes.h"
#include "base/fd.h"
#include "crypt.h"
#include "tree.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>

#define VMBUS   "/sys/bus/vmbus/devices"
#define SCSI    "/sys/bus/scsi/devices"
#define LOOK_MS 10

/* Hyper-V's instance ids of a machine's SCSI controllers. */
static const char *const controllers[AGT_CONTROLLERS_MAX] = {
	"df6d0690-79e5-55b6-a5ec-c1e2f77f580a",
	"0110f83b-de10-5172-a266-78bca56bf50a",
	"b5d2d8d4-3a75-51bf-945b-3444dc6b8579",
	"305891a9-b251-5dfe-91a2-c25d9212275b",
};

static void sleep_ms(long ms)
{
	const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };
	(void)nanosleep(&ts, NULL); /* shorter does no harm */
}

/* The n-th number, in ascending order, of entries PREFIX<number> that are of virtio-scsi (or of
 * anybody, when `driver` is NULL). -ENODEV when there are not so many. */
static int nth_host(const char *folder, const char *driver, uint32_t n)
{
	char path[PATH_MAX], name[64];
	int last = -1;
	for (uint32_t seen = 0;; seen++) {
		int best = INT_MAX, number;
		char rest;
		DIR *d = opendir(folder);
		for (struct dirent *e; d && (e = readdir(d));) {
			if (sscanf(e->d_name, "host%d%c", &number, &rest) != 1 || number <= last ||
				number >= best)
				continue;
			(void)snprintf(path, sizeof(path), "%s/%s/proc_name", folder, e->d_name);
			if (!driver || (fd_read_line(path, name, sizeof(name)) == 0 &&
					       !strcmp(name, driver)))
				best = number;
		}
		if (d)
			(void)closedir(d);
		if (best == INT_MAX)
			return -ENODEV;
		if (seen == n)
			return best;
		last = best;
	}
}

static int host_of(uint32_t controller)
{
	char path[PATH_MAX];
	if (access(VMBUS, F_OK) < 0)
		return nth_host("/sys/class/scsi_host", "virtio_scsi", controller);
	(void)snprintf(path, sizeof(path), VMBUS "/%s", controllers[controller]);
	return nth_host(path, NULL, 0);
}

int agt_disk_check(const struct agt_disk *d, struct hf_err *reterr)
{
	static const char *const known[] = { "", "ext4", "xfs" };
	size_t i = 0;
	while (i < HF_ARRAY_SIZE(known) && strcmp(d->filesystem, known[i]))
		i++;
	if (i == HF_ARRAY_SIZE(known))
		return hf_err_set(reterr, -EINVAL, "Filesystem: \"%.40s\": ext4 or xfs expected",
			d->filesystem);
	if (d->controller >= AGT_CONTROLLERS_MAX)
		return hf_err_set(reterr, -EINVAL, "Controller: 0 to %d expected, got %u",
			AGT_CONTROLLERS_MAX - 1, d->controller);
	if (d->partition > AGT_PARTITIONS_MAX)
		return hf_err_set(reterr, -EINVAL, "Partition: 0 to %d expected, got %u",
			AGT_PARTITIONS_MAX, d->partition);
	if (d->encrypted && d->read_only)
		return hf_err_set(reterr, -EINVAL,
			"Encrypted: under a new key there is nothing to read: leave out ReadOnly");
	return d->mount_path[0] ? agt_path_check("MountPath", d->mount_path, reterr) : 0;
}

/* The first entry of a folder that is not hidden. */
static bool first_entry(const char *folder, char *name, size_t cap)
{
	bool found = false;
	DIR *d = opendir(folder);
	for (struct dirent *e; d && !found && (e = readdir(d));)
		found = e->d_name[0] != '.' && snprintf(name, cap, "%s", e->d_name) < (int)cap;
	if (d)
		(void)closedir(d);
	return found;
}

/* The entry below a disk's folder that is the partition with this number. */
static bool find_partition(const char *folder, uint32_t partition, char *name, size_t cap)
{
	char path[PATH_MAX], text[16];
	bool found = false;
	DIR *d = opendir(folder);
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		(void)snprintf(path, sizeof(path), "%s/%s/partition", folder, e->d_name);
		found = e->d_name[0] != '.' && fd_read_line(path, text, sizeof(text)) == 0 &&
			strtoul(text, NULL, 10) == partition &&
			snprintf(name, cap, "%s", e->d_name) < (int)cap;
	}
	if (d)
		(void)closedir(d);
	return found;
}

/* The device's node, once: sysfs knows it, and it can be opened. */
static bool look(const struct agt_disk *d, char *device, size_t cap)
{
	char folder[PATH_MAX], disk[NAME_MAX + 1], part[NAME_MAX + 1];
	int host = host_of(d->controller);
	if (host < 0)
		return false;
	int n = snprintf(folder, sizeof(folder), SCSI "/%d:0:0:%u/block", host, d->lun);
	if (!first_entry(folder, disk, sizeof(disk)))
		return false;
	(void)snprintf(folder + n, sizeof(folder) - (size_t)n, "/%s", disk);
	if (d->partition && !find_partition(folder, d->partition, part, sizeof(part)))
		return false;
	(void)snprintf(device, cap, "/dev/%s", d->partition ? part : disk);
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT && errno != ENXIO; /* any other error is told by its user */
	(void)close(fd);
	return true;
}

/* An adapter that missed the arrival of a disk looks again. */
static void rescan(const struct agt_disk *d)
{
	char path[64];
	(void)snprintf(
		path, sizeof(path), "/sys/class/scsi_host/host%d/scan", host_of(d->controller));
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	(void)snprintf(path, sizeof(path), "0 0 %u\n", d->lun);
	if (fd >= 0 && write(fd, path, strlen(path)) < 0)
		return; /* the disk may still announce itself */
}

static int find(const struct agt_disk *d, char *device, size_t cap, struct hf_err *reterr)
{
	for (int waited = 0; waited < AGT_DISK_WAIT_MS; waited += LOOK_MS) {
		if (look(d, device, cap))
			return 0;
		if (waited == 100)
			rescan(d);
		sleep_ms(LOOK_MS);
	}
	return hf_err_set(reterr, -ENODEV,
		"controller %u, lun %u, partition %u: %s within %d ms: attach it first",
		d->controller, d->lun, d->partition,
		host_of(d->controller) < 0 ? "no such SCSI controller" : "no such disk",
		AGT_DISK_WAIT_MS);
}

int agt_disk_probe(const char *device, const char **ret_type, struct hf_err *reterr)
{
	uint8_t block[2048];
	HF_CLEANUP(fd_closep) int fd = open(device, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return hf_err_set(reterr, -errno, "%s: %s", device, strerror(errno));
	ssize_t n = pread(fd, block, sizeof(block), 0);
	bool whole = n == (ssize_t)sizeof(block);
	/* the magic numbers of the two superblocks */
	if (whole && block[1080] == 0x53 && block[1081] == 0xef)
		*ret_type = "ext4";
	else if (whole && !memcmp(block, "XFSB", 4))
		*ret_type = "xfs";
	else
		*ret_type = "";
	return 0;
}

/* On an encrypted disk what was never written cannot be read: everything that is read later is
 * written now, and ext4 gets no copies of its superblock, which are smaller than a sector. */
static int make_filesystem(
	const char *device, const char *type, bool encrypted, struct hf_err *reterr)
{
	const char *ext4[] = { "mkfs.ext4", "-F", "-q", device, NULL };
	const char *ext4_whole[] = { "mkfs.ext4", "-F", "-q", "-b", "4096", "-O",
		"sparse_super2,^resize_inode", "-E",
		"num_backup_sb=0,lazy_itable_init=0,lazy_journal_init=0,nodiscard", device, NULL };
	const char *xfs[] = { "mkfs.xfs", "-f", "-q", encrypted ? "-K" : device, /* no discard */
		encrypted ? device : NULL, NULL };
	return agt_work_run(!strcmp(type, "xfs") ? xfs : encrypted ? ext4_whole : ext4, reterr);
}

/* Words of Options that say how mounts propagate; the rest is for hosts of other systems. */
static int propagate(const char *path, const char **options, struct hf_err *reterr)
{
	static const struct {
		const char *name;
		unsigned long flags;
	} words[] = {
		{ "private", MS_PRIVATE },
		{ "rprivate", MS_PRIVATE | MS_REC },
		{ "shared", MS_SHARED },
		{ "rshared", MS_SHARED | MS_REC },
		{ "slave", MS_SLAVE },
		{ "rslave", MS_SLAVE | MS_REC },
		{ "unbindable", MS_UNBINDABLE },
		{ "runbindable", MS_UNBINDABLE | MS_REC },
	};
	int r = 0;
	for (size_t i = 0; r == 0 && options && options[i]; i++)
		for (size_t k = 0; r == 0 && k < HF_ARRAY_SIZE(words); k++) {
			const struct agt_mount m = { .flags = words[k].flags };
			if (!strcmp(options[i], words[k].name))
				r = agt_mount(path, 0, &m, reterr);
		}
	return r;
}

int agt_disk_mount(const char *device, const struct agt_disk *d, struct hf_err *reterr)
{
	const char *type = "", *want = d->filesystem;
	int r = d->encrypted ? 0 : agt_disk_probe(device, &type, reterr);
	if (r < 0)
		return r;
	if (d->encrypted || (d->ensure && (!type[0] || (want[0] && strcmp(want, type))))) {
		type = want[0] ? want : "ext4";
		r = make_filesystem(device, type, d->encrypted, reterr);
		if (r < 0)
			return r;
	}
	type = want[0] ? want : type;
	if (!type[0])
		return hf_err_set(reterr, -EINVAL, "%s: neither ext4 nor xfs is on it", device);
	const struct agt_mount m = { .source = device,
		.type = type,
		.flags = d->read_only ? MS_RDONLY : 0,
		.data = !d->read_only          ? NULL
			: !strcmp(type, "xfs") ? "norecovery"
					       : "noload" };
	r = agt_mount(d->mount_path, 0700, &m, reterr);
	return r < 0 ? r : propagate(d->mount_path, d->options, reterr);
}

static int link_device(const char *device, const char *path, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int parent = -1;
	const char *name;
	int r = agt_tree_open_parent(path, 0700, &parent, &name, reterr);
	if (r == 0 && symlinkat(device, parent, name) < 0)
		r = hf_err_set(reterr, -errno, "%.150s: %s", path, strerror(errno));
	return r;
}

static void crypt_name(const struct agt_disk *d, char *name, size_t cap)
{
	(void)snprintf(
		name, cap, "dm-crypt-scsi-contr%u-lun%u-p%u", d->controller, d->lun, d->partition);
}

int agt_disk_add(const struct agt_disk *d, struct hf_err *reterr)
{
	char device[NAME_MAX + 8], name[AGT_CRYPT_NAME_MAX];
	int r = d->mount_path[0] ? find(d, device, sizeof(device), reterr) : 0;
	if (r < 0 || !d->mount_path[0])
		return r;
	crypt_name(d, name, sizeof(name));
	if (d->encrypted)
		r = agt_crypt_open(device, name, reterr);
	if (r < 0)
		return r;
	if (d->encrypted)
		(void)snprintf(device, sizeof(device), "/dev/mapper/%s", name);
	r = d->block_dev ? link_device(device, d->mount_path, reterr)
			 : agt_disk_mount(device, d, reterr);
	if (r < 0 && d->encrypted)
		(void)agt_crypt_close(name, NULL); /* the first error is the one to tell */
	return r;
}

int agt_disk_remove(const struct agt_disk *d, struct hf_err *reterr)
{
	char name[AGT_CRYPT_NAME_MAX];
	crypt_name(d, name, sizeof(name));
	/* first, as it is refused while somebody has the device open: then the link stays */
	int r = d->encrypted && d->block_dev ? agt_crypt_close(name, reterr) : 0;
	if (r == 0 && d->mount_path[0])
		r = agt_unmount(d->mount_path, reterr);
	return r < 0 || !d->encrypted ? r : agt_crypt_close(name, reterr);
}

int agt_disk_eject(const struct agt_disk *d, struct hf_err *reterr)
{
	char path[128];
	(void)snprintf(
		path, sizeof(path), SCSI "/%d:0:0:%u/delete", host_of(d->controller), d->lun);
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 || write(fd, "1\n", 2) < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	return 0;
}
