/* SPDX-License-Identifier: MIT */
#include "cgroup.h"
#include "base/fd.h"
#include "base/log.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define ROOT      "/sys/fs/cgroup"
#define PATH_CAP  4096
#define DEPTH_MAX 16
#define FILE_CAP  16384
#define NO_LIMIT  INT64_MAX

#define AGT_OWN_MEMORY "8388608" /* bytes that the agent and the runtime keep */

/* On version 1 each controller has a hierarchy of its own, and a container's folder is the one of
 * the pids controller: its path in another's. On version 2 there is but one. */
static bool is_v1(const char *folder)
{
	return !strncmp(folder, ROOT "/pids/", strlen(ROOT "/pids/"));
}

static const char *folder_of(const char *folder, const char *controller, char path[PATH_CAP])
{
	(void)snprintf(path, PATH_CAP, ROOT "/%s%s", controller, folder + strlen(ROOT "/pids"));
	return path;
}

/* The whole of a small file as text; -errno. */
static ssize_t read_text(const char *folder, const char *name, char *text, size_t cap)
{
	char path[PATH_CAP];
	(void)snprintf(path, sizeof(path), "%s/%s", folder, name);
	HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	size_t n = 0;
	for (ssize_t k = 1; k > 0 && n < cap - 1; n += (size_t)HF_MAX(k, 0))
		k = read(fd, text + n, cap - 1 - n);
	text[n] = '\0';
	return (ssize_t)n;
}

static bool is_folder(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* "0::/path" is version 2's line; on version 1 the pids controller's hierarchy serves. */
char *agt_cgroup_of(pid_t pid)
{
	char proc[32], text[FILE_CAP], path[PATH_CAP], *save = NULL, *found = NULL;
	(void)snprintf(proc, sizeof(proc), "/proc/%d", (int)pid);
	if (read_text(proc, "cgroup", text, sizeof(text)) <= 0)
		return NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *controllers = strchr(line, ':');
		char *at = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!at || !strcmp(at, ":/"))
			continue;
		*at++ = '\0';
		controllers++;
		(void)snprintf(path, sizeof(path), ROOT "%s%s%s", controllers[0] ? "/" : "",
			controllers, at);
		if (found || (controllers[0] && strcmp(controllers, "pids")) || !is_folder(path))
			continue;
		found = strdup(path);
	}
	return found;
}

static void add_processes(const char *folder, json_t *list, int depth)
{
	char text[FILE_CAP], path[PATH_CAP], *save = NULL;
	if (read_text(folder, "cgroup.procs", text, sizeof(text)) < 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (json_array_size(list) < AGT_PIDS_MAX)
			json_array_append_new(list, json_pack("{s:I}", "ProcessId",
							    (json_int_t)strtol(line, NULL, 10)));
	DIR *d = depth < DEPTH_MAX ? opendir(folder) : NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_type != DT_DIR || e->d_name[0] == '.')
			continue;
		int n = snprintf(path, sizeof(path), "%s/%s", folder, e->d_name);
		if (n > 0 && (size_t)n < sizeof(path))
			add_processes(path, list, depth + 1);
	}
	if (d)
		(void)closedir(d);
}

json_t *agt_cgroup_processes(const char *folder)
{
	json_t *list = json_array();
	add_processes(folder, list, 0);
	return list;
}

/* A file with one number; "max" and absence give the default. */
static int64_t number(const char *folder, const char *name, int64_t otherwise)
{
	char text[64], *end;
	if (read_text(folder, name, text, sizeof(text)) <= 0)
		return otherwise;
	long long v = strtoll(text, &end, 10);
	return end == text ? otherwise : v;
}

/* The number after a name in the lines of a flat keyed file; 0 when absent. */
static int64_t keyed(const char *text, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = text; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, name, n) && p[n] == ' ')
			return strtoll(p + n + 1, NULL, 10);
	}
	return 0;
}

static void put(json_t *o, const char *name, int64_t v)
{
	if (v != 0)
		json_object_set_new(o, name, json_integer(v));
}

/* The metrics' names and the names in memory.stat that they come from. */
static const struct {
	const char *name, *from;
} memory_map[] = {
	{ "cache", "file" },
	{ "rss", "anon" },
	{ "rss_huge", "anon_thp" },
	{ "mapped_file", "file_mapped" },
	{ "dirty", "file_dirty" },
	{ "writeback", "file_writeback" },
	{ "pg_pg_in", "pgpgin" },
	{ "pg_pg_out", "pgpgout" },
	{ "pg_fault", "pgfault" },
	{ "pg_maj_fault", "pgmajfault" },
	{ "inactive_anon", "inactive_anon" },
	{ "active_anon", "active_anon" },
	{ "inactive_file", "inactive_file" },
	{ "active_file", "active_file" },
	{ "unevictable", "unevictable" },
};

static json_t *entry(int64_t usage, int64_t limit, int64_t max, int64_t failcnt)
{
	json_t *o = json_object();
	put(o, "limit", limit);
	put(o, "usage", usage);
	put(o, "max", max);
	put(o, "failcnt", failcnt);
	return o;
}

/* The files of version 1 that begin with this. */
static json_t *entry_v1(const char *folder, const char *prefix)
{
	static const char *const suffix[] = { "usage", "limit", "max_usage" };
	char name[64];
	int64_t v[3];
	for (size_t i = 0; i < HF_ARRAY_SIZE(suffix); i++) {
		(void)snprintf(name, sizeof(name), "%s%s_in_bytes", prefix, suffix[i]);
		v[i] = number(folder, name, 0);
	}
	(void)snprintf(name, sizeof(name), "%sfailcnt", prefix);
	return entry(v[0], v[1], v[2], number(folder, name, 0));
}

/* Version 1's memory.stat has the metrics' names, but for some underscores. */
static void put_stat_v1(json_t *m, const char *stat, const char *prefix)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(memory_map); i++) {
		const char *name = memory_map[i].name;
		bool pages = !strncmp(name, "pg_", 3);
		char from[40], to[40];
		(void)snprintf(
			from, sizeof(from), "%s%s", prefix, pages ? memory_map[i].from : name);
		(void)snprintf(to, sizeof(to), "%s%s", prefix, name);
		put(m, to, keyed(stat, from));
	}
}

static json_t *memory_v1(const char *folder, json_t *oom)
{
	char stat[FILE_CAP] = "", control[256] = "", path[PATH_CAP];
	json_t *m = json_object();
	folder = folder_of(folder, "memory", path);
	(void)read_text(folder, "memory.stat", stat, sizeof(stat)); /* absent: all zero */
	(void)read_text(folder, "memory.oom_control", control, sizeof(control)); /* the same */
	put_stat_v1(m, stat, "");
	put(m, "hierarchical_memory_limit", keyed(stat, "hierarchical_memory_limit"));
	put(m, "hierarchical_swap_limit", keyed(stat, "hierarchical_memsw_limit"));
	put_stat_v1(m, stat, "total_");
	json_object_set_new(m, "usage", entry_v1(folder, "memory."));
	json_object_set_new(m, "swap", entry_v1(folder, "memory.memsw."));
	json_object_set_new(m, "kernel", entry_v1(folder, "memory.kmem."));
	json_object_set_new(m, "kernel_tcp", entry_v1(folder, "memory.kmem.tcp."));
	put(oom, "oom_kill_disable", keyed(control, "oom_kill_disable"));
	put(oom, "under_oom", keyed(control, "under_oom"));
	put(oom, "oom_kill", keyed(control, "oom_kill"));
	return m;
}

static json_t *memory(const char *folder, json_t *oom)
{
	char stat[FILE_CAP] = "", events[1024] = "";
	json_t *m = json_object();
	(void)read_text(folder, "memory.stat", stat, sizeof(stat));       /* absent: all zero */
	(void)read_text(folder, "memory.events", events, sizeof(events)); /* absent: all zero */
	int64_t limit = number(folder, "memory.max", NO_LIMIT);
	int64_t swap_limit = number(folder, "memory.swap.max", NO_LIMIT);
	for (size_t i = 0; i < HF_ARRAY_SIZE(memory_map); i++)
		put(m, memory_map[i].name, keyed(stat, memory_map[i].from));
	put(m, "hierarchical_memory_limit", limit);
	put(m, "hierarchical_swap_limit", swap_limit);
	for (size_t i = 0; i < HF_ARRAY_SIZE(memory_map); i++) {
		char total[40];
		(void)snprintf(total, sizeof(total), "total_%s", memory_map[i].name);
		put(m, total, keyed(stat, memory_map[i].from));
	}
	json_object_set_new(m, "usage",
		entry(number(folder, "memory.current", 0), limit, number(folder, "memory.peak", 0),
			keyed(events, "max")));
	json_object_set_new(
		m, "swap", entry(number(folder, "memory.swap.current", 0), swap_limit, 0, 0));
	json_object_set_new(m, "kernel", entry(keyed(stat, "kernel_stack"), 0, 0, 0));
	json_object_set_new(m, "kernel_tcp", entry(keyed(stat, "sock"), 0, 0, 0));
	put(oom, "oom_kill", keyed(events, "oom_kill"));
	return m;
}

static json_t *cpu_v1(const char *folder)
{
	char text[1024] = "", path[PATH_CAP];
	json_t *usage = json_object(), *throttling = json_object();
	(void)folder_of(folder, "cpuacct", path);
	put(usage, "total", number(path, "cpuacct.usage", 0));
	put(usage, "kernel", number(path, "cpuacct.usage_sys", 0));
	put(usage, "user", number(path, "cpuacct.usage_user", 0));
	(void)read_text(
		folder_of(folder, "cpu", path), "cpu.stat", text, sizeof(text)); /* else 0 */
	put(throttling, "periods", keyed(text, "nr_periods"));
	put(throttling, "throttled_periods", keyed(text, "nr_throttled"));
	put(throttling, "throttled_time", keyed(text, "throttled_time"));
	return json_pack("{s:o,s:o}", "usage", usage, "throttling", throttling);
}

static json_t *cpu(const char *folder)
{
	char text[2048] = "";
	(void)read_text(folder, "cpu.stat", text, sizeof(text)); /* absent: all zero */
	json_t *usage = json_object(), *throttling = json_object();
	put(usage, "total", keyed(text, "usage_usec") * 1000);
	put(usage, "kernel", keyed(text, "system_usec") * 1000);
	put(usage, "user", keyed(text, "user_usec") * 1000);
	put(throttling, "periods", keyed(text, "nr_periods"));
	put(throttling, "throttled_periods", keyed(text, "nr_throttled"));
	put(throttling, "throttled_time", keyed(text, "throttled_usec") * 1000);
	return json_pack("{s:o,s:o}", "usage", usage, "throttling", throttling);
}

json_t *agt_cgroup_metrics(const char *folder)
{
	json_t *pids = json_object(), *oom = json_object();
	put(pids, "current", number(folder, "pids.current", 0));
	put(pids, "limit", number(folder, "pids.max", 0));
	bool v1 = is_v1(folder);
	json_t *mem = v1 ? memory_v1(folder, oom) : memory(folder, oom);
	return json_pack("{s:o,s:o,s:o,s:o}", "pids", pids, "cpu",
		v1 ? cpu_v1(folder) : cpu(folder), "memory", mem, "memory_oom_control", oom);
}

const char *agt_cgroup_memory(const char *folder, char path[PATH_CAP])
{
	return is_v1(folder) ? folder_of(folder, "memory", path) : folder;
}

uint64_t agt_cgroup_oom_kills(const char *folder)
{
	char events[1024] = "", path[PATH_CAP];
	(void)read_text(agt_cgroup_memory(folder, path),
		is_v1(folder) ? "memory.oom_control" : "memory.events", events,
		sizeof(events)); /* absent: none */
	return (uint64_t)HF_MAX(keyed(events, "oom_kill"), 0);
}

void agt_cgroup_remove_empty(const char *id)
{
	static const char *const hierarchies[] = { "", "/memory", "/cpu", "/cpuacct", "/cpuset",
		"/pids", "/blkio", "/devices", "/freezer", "/unified", "/systemd" };
	char path[PATH_CAP];
	for (size_t i = 0; i < HF_ARRAY_SIZE(hierarchies); i++) {
		int n = snprintf(path, sizeof(path), ROOT "%s/pods", hierarchies[i]);
		DIR *d = opendir(path);
		for (struct dirent *e; d && (e = readdir(d));) {
			if (e->d_type != DT_DIR || e->d_name[0] == '.')
				continue;
			(void)snprintf(path + n, sizeof(path) - (size_t)n, "/%s/%s", e->d_name, id);
			if (rmdir(path) == 0) /* it was left over: its sandbox's may be too */
				(void)unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
		}
		if (d)
			(void)closedir(d);
		(void)snprintf(path + n, sizeof(path) - (size_t)n, "/%s", id);
		(void)rmdir(path); /* most are not there; one that is in use stays */
	}
}

static void write_text(const char *path, const char *text)
{
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		hf_warn("%s: %s: %s", path, text, strerror(errno));
}

/* The word that systemd takes from the kernel's command line means the same here. */
static bool wants_v1(void)
{
	char line[4096];
	return fd_read_line("/proc/cmdline", line, sizeof(line)) == 0 &&
	       strstr(line, "systemd.unified_cgroup_hierarchy=0");
}

/* A hierarchy for each controller that the kernel has. */
static void mount_v1(void)
{
	char line[256], name[64], path[128];
	int enabled;
	if (mount("tmpfs", ROOT, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755") < 0)
		hf_warn("boot: mount " ROOT ": %s", strerror(errno));
	FILE *f = fopen("/proc/cgroups", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%63s %*d %*d %d", name, &enabled) != 2 || name[0] == '#' ||
			!enabled)
			continue;
		(void)snprintf(path, sizeof(path), ROOT "/%s", name);
		(void)mkdir(path, 0755); /* if it fails, mount says so */
		if (mount("cgroup", path, "cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, name) < 0)
			hf_warn("boot: mount %s: %s", path, strerror(errno));
	}
	if (f)
		(void)fclose(f); /* was only read */
}

void agt_cgroup_mount(void)
{
	(void)mkdir(ROOT, 0755); /* sysfs has it */
	if (wants_v1())
		mount_v1();
	else if (mount("cgroup2", ROOT, "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 &&
		 errno != EBUSY) /* mounted by an earlier stage */
		hf_warn("boot: mount " ROOT ": %s", strerror(errno));
}

void agt_cgroup_protect(void)
{
	const char *folder = is_folder(ROOT "/memory") ? ROOT "/memory/gcs" : ROOT "/gcs";
	char path[64];
	if (mkdir(folder, 0755) < 0 && errno != EEXIST) {
		hf_warn("%s: %s", folder, strerror(errno));
		return;
	}
	(void)snprintf(path, sizeof(path), "%s/cgroup.procs", folder);
	write_text(path, "0"); /* the writer */
	if (!is_folder(ROOT "/memory"))
		write_text(ROOT "/gcs/memory.min", AGT_OWN_MEMORY);
}

void agt_cgroup_set_up(uint64_t reserve_bytes)
{
	static const char *const all[] = { "+cpu", "+cpuset", "+io", "+memory", "+pids" };
	struct hf_err err;
	const char *pods = is_folder(ROOT "/memory") ? ROOT "/memory/pods" : ROOT "/pods";
	if (!is_folder(pods) && mkdir(pods, 0755) < 0) {
		hf_warn("%s: %s", pods, strerror(errno));
		return;
	}
	for (size_t i = 0; !is_folder(ROOT "/memory") && i < HF_ARRAY_SIZE(all); i++)
		write_text(ROOT "/cgroup.subtree_control", all[i]);
	if (agt_cgroup_limit_pods(&reserve_bytes, &err) < 0)
		hf_warn("%s", err.text);
}

int agt_cgroup_limit_pods(const uint64_t *reserve_bytes, struct hf_err *reterr)
{
	static const char *const paths[] = { ROOT "/pods/memory.max",
		ROOT "/memory/pods/memory.limit_in_bytes" };
	struct sysinfo info;
	char text[32];
	if (sysinfo(&info) < 0)
		return hf_err_set(reterr, -errno, "sysinfo: %s", strerror(errno));
	uint64_t total = (uint64_t)info.totalram * info.mem_unit;
	if (total <= *reserve_bytes)
		return hf_err_set(reterr, -ENOMEM,
			"/pods: no limit: the machine has no more memory than the reserve");
	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)(total - *reserve_bytes));
	const char *path = paths[access(paths[0], F_OK) < 0];
	HF_CLEANUP(fd_closep) int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return hf_err_set(reterr, -errno, "%s: %s: %s", path, text, strerror(errno));
	return 0;
}
