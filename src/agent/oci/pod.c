/* SPDX-License-Identifier: MIT */
#include "pod.h"
#include "agent/storage/tree.h"
#include "base/fd.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define KEY_PRIVILEGED "io.microsoft.virtualmachine.lcow.privileged"
#define KEY_SHM        "io.microsoft.lcow.shm.size-kb"
#define KEY_CORE       "io.microsoft.lcow.rlimitcore"
#define DEVICES_MAX    4096 /* of a privileged container */

/* What workloads reach of their sandbox: the scheme of a mount's source, and the folder. */
static const struct {
	const char *scheme, *folder;
} shared[] = {
	{ "sandbox://", "sandboxMounts" },
	{ "sandbox-tmp://", "sandboxTmpfsMounts" },
	{ "hugepages://", "hugepages" },
};

static const char *const files[] = { "hostname", "hosts", "resolv.conf" };

static int write_file(const char *folder, const char *name, const char *text, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int dir = -1;
	int r = agt_tree_open(folder, 0, &dir, reterr);
	if (r < 0)
		return r;
	(void)unlinkat(dir, name, 0); /* it may be there, and be anything */
	HF_CLEANUP(fd_closep)
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	r = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
	return r < 0 ? hf_err_set(reterr, r, "%.150s/%s: %s", folder, name, strerror(-r)) : 0;
}

static int write_files(const struct agt_pod *p, struct hf_err *reterr)
{
	char hosts[1200], name[300];
	const char *host = p->facts->hostname;
	int shorter = (int)strcspn(host, ".");
	(void)snprintf(hosts, sizeof(hosts),
		"127.0.0.1 localhost\n127.0.0.1 %s %.*s\n::1 localhost ip6-localhost "
		"ip6-loopback\nfe00::0 ip6-localnet\nff00::0 ip6-mcastprefix\nff02::1 "
		"ip6-allnodes\nff02::2 ip6-allrouters\n",
		host, host[shorter] ? shorter : 0, host);
	(void)snprintf(name, sizeof(name), "%s\n", host);
	int r = write_file(p->bundle, files[0], name, reterr);
	if (r == 0)
		r = write_file(p->bundle, files[1], hosts, reterr);
	if (r == 0 && p->resolv_conf)
		r = write_file(p->bundle, files[2], p->resolv_conf, reterr);
	return r;
}

static json_t *mounts_of(json_t *spec)
{
	json_t *mounts = json_object_get(spec, "mounts");
	if (json_is_array(mounts))
		return mounts;
	mounts = json_array();
	json_object_set_new(spec, "mounts", mounts);
	return mounts;
}

static const char *string_of(const json_t *o, const char *name)
{
	const char *v = json_string_value(json_object_get(o, name));
	return v ? v : "";
}

static bool has_mount(json_t *mounts, const char *destination)
{
	json_t *m;
	size_t i;
	json_array_foreach (mounts, i, m)
		if (!strcmp(string_of(m, "destination"), destination))
			return true;
	return false;
}

/* Binds the three files into the container's /etc. A root that lacks them and cannot be written to
 * could not take the mount. */
static void bind_files(const struct agt_pod *p, const char *from)
{
	json_t *mounts = mounts_of(p->spec);
	bool ro = json_is_true(json_object_get(json_object_get(p->spec, "root"), "readonly"));
	for (size_t i = 0; i < HF_ARRAY_SIZE(files); i++) {
		char source[PATH_MAX], there[PATH_MAX], destination[32];
		(void)snprintf(source, sizeof(source), "%s/%s", from, files[i]);
		(void)snprintf(destination, sizeof(destination), "/etc/%s", files[i]);
		(void)snprintf(there, sizeof(there), "%s%s", p->root, destination);
		if (has_mount(mounts, destination) || access(source, F_OK) < 0 ||
			(access(there, F_OK) < 0 && access(p->root, W_OK) < 0))
			continue;
		json_array_append_new(mounts,
			json_pack("{s:s,s:s,s:s,s:[s,s]}", "destination", destination, "type",
				"bind", "source", source, "options", "bind", ro ? "ro" : "rw"));
	}
}

static int make_shared(const struct agt_pod *p, struct hf_err *reterr)
{
	const struct agt_mount make_shared = { .flags = MS_SHARED | MS_REC };
	char path[PATH_MAX];
	int r = 0;
	for (size_t i = 0; r == 0 && i < HF_ARRAY_SIZE(shared); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", p->bundle, shared[i].folder);
		const struct agt_mount tmpfs = { .source = "tmpfs", .type = "tmpfs" };
		const struct agt_mount bind = { .source = path, .flags = MS_BIND };
		r = agt_tree_make(path, 0755, reterr);
		if (r == 0 && i < 2)
			r = agt_mount(path, 0, i == 1 ? &tmpfs : &bind, reterr);
		if (r == 0 && i < 2)
			r = agt_mount(path, 0, &make_shared, reterr);
	}
	(void)snprintf(path, sizeof(path), "%s/logs", p->bundle);
	return r < 0 ? r : agt_tree_make(path, 0755, reterr);
}

int agt_pod_undo(const char *bundle, struct hf_err *reterr)
{
	char path[PATH_MAX];
	int r = 0;
	for (size_t i = 0; r == 0 && i < HF_ARRAY_SIZE(shared); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", bundle, shared[i].folder);
		r = agt_unmount(path, reterr);
	}
	return r;
}

/* hugepages://SIZE/name: a hugetlbfs of that size for the pod. */
static int mount_hugepages(const struct agt_pod *p, const char *rest, struct hf_err *reterr)
{
	char path[PATH_MAX], options[64];
	int n = (int)strcspn(rest, "/");
	(void)snprintf(options, sizeof(options), "pagesize=%.*s", n, rest);
	(void)snprintf(path, sizeof(path), "%s/hugepages/%.*s", p->sandbox, n, rest);
	const struct agt_mount m = { .source = "none", .type = "hugetlbfs", .data = options };
	return agt_tree_has_mounts(path) ? 0 : agt_mount(path, 0755, &m, reterr);
}

/* The real source of a workload's mount. */
static int rewrite_source(const struct agt_pod *p, json_t *mount, struct hf_err *reterr)
{
	const char *source = string_of(mount, "source");
	char path[PATH_MAX];
	int r = 0;
	if (!strncmp(source, "uvm://", 6)) {
		(void)snprintf(path, sizeof(path), "%s", source + 6);
		json_object_set_new(mount, "source", json_string(path));
		return 0;
	}
	for (size_t i = 0; i < HF_ARRAY_SIZE(shared); i++) {
		size_t n = strlen(shared[i].scheme);
		if (strncmp(source, shared[i].scheme, n))
			continue;
		if (snprintf(path, sizeof(path), "%s/%s/%s", p->sandbox, shared[i].folder,
			    source + n) >= (int)sizeof(path) ||
			!agt_path_allowed(path))
			return hf_err_set(reterr, -EBADMSG,
				"OciSpecification.mounts: source \"%.100s\": a path without .. "
				"expected",
				source);
		if (i == 2)
			r = mount_hugepages(p, source + n, reterr);
		if (r == 0 && access(path, F_OK) < 0)
			r = agt_tree_make(path, 0755, reterr);
		json_object_set_new(mount, "source", json_string(path));
		return r;
	}
	return 0;
}

static json_t *device_of(const char *path, const char *as)
{
	struct stat st;
	if (stat(path, &st) < 0 || (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)))
		return NULL;
	return json_pack("{s:s,s:s,s:i,s:i,s:i,s:i,s:i}", "path", as, "type",
		S_ISCHR(st.st_mode) ? "c" : "b", "major", (int)major(st.st_rdev), "minor",
		(int)minor(st.st_rdev), "fileMode", (int)(st.st_mode & 07777), "uid",
		(int)st.st_uid, "gid", (int)st.st_gid);
}

static json_t *array_in(json_t *o, const char *name)
{
	json_t *v = json_object_get(o, name);
	if (json_is_array(v))
		return v;
	v = json_array();
	json_object_set_new(o, name, v);
	return v;
}

static void allow(json_t *linux_part, json_t *rule)
{
	json_t *resources = json_object_get(linux_part, "resources");
	if (!json_is_object(resources)) {
		resources = json_object();
		json_object_set_new(linux_part, "resources", resources);
	}
	json_array_append_new(array_in(resources, "devices"), rule);
}

/* A mount whose destination is blockdev://PATH is a device in the container, not a mount. */
static int rewrite_mounts(const struct agt_pod *p, struct hf_err *reterr)
{
	static const char scheme[] = "blockdev://";
	json_t *linux_part = json_object_get(p->spec, "linux"), *mounts = mounts_of(p->spec), *m;
	int r = 0;
	for (size_t i = 0; r == 0 && i < json_array_size(mounts);) {
		m = json_array_get(mounts, i);
		const char *destination = string_of(m, "destination");
		if (strncmp(destination, scheme, sizeof(scheme) - 1)) {
			r = p->sandbox ? rewrite_source(p, m, reterr) : 0;
			i++;
			continue;
		}
		json_t *device =
			device_of(string_of(m, "source"), destination + sizeof(scheme) - 1);
		if (!device)
			return hf_err_set(reterr, -ENODEV,
				"OciSpecification.mounts: source \"%.100s\": not a device",
				string_of(m, "source"));
		allow(linux_part, json_pack("{s:b,s:O,s:O,s:O,s:s}", "allow", 1, "type",
					  json_object_get(device, "type"), "major",
					  json_object_get(device, "major"), "minor",
					  json_object_get(device, "minor"), "access", "rwm"));
		json_array_append_new(array_in(linux_part, "devices"), device);
		json_array_remove(mounts, i);
	}
	return r;
}

static void add_devices(json_t *list, const char *folder, int depth)
{
	DIR *d = depth < 8 ? opendir(folder) : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		char path[PATH_MAX];
		if (e->d_name[0] == '.' || !strcmp(e->d_name, "pts") || !strcmp(e->d_name, "shm") ||
			!strcmp(e->d_name, "mqueue") || !strcmp(e->d_name, "console") ||
			json_array_size(list) >= DEVICES_MAX ||
			snprintf(path, sizeof(path), "%s/%s", folder, e->d_name) >=
				(int)sizeof(path))
			continue;
		json_t *device =
			e->d_type == DT_CHR || e->d_type == DT_BLK ? device_of(path, path) : NULL;
		if (device)
			json_array_append_new(list, device);
		else if (e->d_type == DT_DIR)
			add_devices(list, path, depth + 1);
	}
	if (d)
		(void)closedir(d);
}

static void set_devices(const struct agt_pod *p)
{
	json_t *linux_part = json_object_get(p->spec, "linux"), *v;
	json_t *devices = array_in(linux_part, "devices");
	size_t i;
	if (!strcmp(agt_spec_annotation(p->spec, KEY_PRIVILEGED), "true")) {
		(void)json_array_clear(devices); /* cannot fail on an array */
		add_devices(devices, "/dev", 0);
		allow(linux_part, json_pack("{s:b,s:s}", "allow", 1, "access", "rwm"));
		return;
	}
	json_array_foreach (devices, i, v) {
		const char *path = string_of(v, "path");
		json_t *real = device_of(path, path); /* its numbers are this machine's */
		if (real)
			(void)json_object_update(v, real); /* without memory: as it was */
		json_decref(real);
	}
}

static int set_limits(const struct agt_pod *p, struct hf_err *reterr)
{
	const char *shm = agt_spec_annotation(p->spec, KEY_SHM);
	const char *core = agt_spec_annotation(p->spec, KEY_CORE);
	unsigned long long kb, soft, hard;
	char rest, option[40];
	json_t *mounts = mounts_of(p->spec);
	if (shm[0] && (sscanf(shm, "%llu%c", &kb, &rest) != 1 || kb == 0))
		return hf_err_set(reterr, -EBADMSG, "annotation %s: \"%.40s\": a number expected",
			KEY_SHM, shm);
	if (core[0] && sscanf(core, "%llu;%llu%c", &soft, &hard, &rest) != 2)
		return hf_err_set(reterr, -EBADMSG, "annotation %s: \"%.40s\": SOFT;HARD expected",
			KEY_CORE, core);
	for (size_t i = 0; shm[0] && i < json_array_size(mounts); i++)
		if (!strcmp(string_of(json_array_get(mounts, i), "destination"), "/dev/shm"))
			json_array_remove(mounts, i--);
	if (shm[0]) {
		(void)snprintf(option, sizeof(option), "size=%lluk", kb);
		json_array_append_new(
			mounts, json_pack("{s:s,s:s,s:s,s:[s,s,s,s,s]}", "destination", "/dev/shm",
					"type", "tmpfs", "source", "shm", "options", "nosuid",
					"noexec", "nodev", "mode=1777", option));
	}
	if (core[0])
		json_array_append_new(array_in(json_object_get(p->spec, "process"), "rlimits"),
			json_pack("{s:s,s:I,s:I}", "type", "RLIMIT_CORE", "soft", (json_int_t)soft,
				"hard", (json_int_t)hard));
	return 0;
}

int agt_pod_prepare(const struct agt_pod *p, struct hf_err *reterr)
{
	char path[PATH_MAX];
	bool workload = p->facts->kind == AGT_KIND_WORKLOAD;
	int r = agt_tree_make(p->bundle, 0700, reterr);
	if (r == 0 && !workload)
		r = write_files(p, reterr);
	if (r == 0 && p->facts->kind == AGT_KIND_SANDBOX)
		r = make_shared(p, reterr);
	else if (r == 0)
		bind_files(p, workload ? p->sandbox : p->bundle);
	if (r == 0)
		r = rewrite_mounts(p, reterr);
	if (r == 0)
		r = set_limits(p, reterr);
	if (r == 0)
		r = agt_spec_resolve_user(json_object_get(p->spec, "process"), p->root, reterr);
	if (r < 0)
		return r;
	set_devices(p);
	(void)snprintf(path, sizeof(path), "%s/config.json", p->bundle);
	if (json_dump_file(p->spec, path, JSON_COMPACT) < 0)
		return hf_err_set(reterr, -EIO, "%.150s: cannot write", path);
	return 0;
}
