/* SPDX-License-Identifier: MIT */
#include "tree.h"
#include "base/fd.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define STACK_MAX 64 /* mounts on top of each other and below that are taken away */

bool agt_path_allowed(const char *path)
{
	unsigned names = 0;
	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return false;
	for (const char *p = path; *p;) {
		p += strspn(p, "/");
		size_t n = strcspn(p, "/");
		if (n == 2 && !memcmp(p, "..", 2))
			return false;
		names += n > 0 && !(n == 1 && *p == '.');
		p += n;
	}
	return names >= 2;
}

int agt_path_check(const char *field, const char *path, struct hf_err *reterr)
{
	if (agt_path_allowed(path))
		return 0;
	return hf_err_set(reterr, -EINVAL,
		"%s: \"%.100s\": an absolute path below a folder, without .., expected", field,
		path);
}

/* One name below an open folder, which is replaced by it. */
static int step(int *fd, const char *name, mode_t mode)
{
	if (mode && mkdirat(*fd, name, mode) < 0 && errno != EEXIST)
		return -errno;
	int next = openat(*fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (next < 0)
		return errno == ELOOP ? -ENOTDIR : -errno;
	(void)close(*fd);
	*fd = next;
	return 0;
}

int agt_tree_open(const char *path, mode_t mode, int *ret_fd, struct hf_err *reterr)
{
	char copy[PATH_MAX], *save = NULL;
	HF_CLEANUP(fd_closep) int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (path[0] != '/' || snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return hf_err_set(
			reterr, -ENAMETOOLONG, "%.100s: not an absolute path, or too long", path);
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		int r = step(&fd, name, mode);
		if (r < 0)
			return hf_err_set(reterr, r, "%.100s: at \"%.60s\": %s", path, name,
				r == -ENOTDIR ? "not a folder (symbolic links are not followed)"
					      : strerror(-r));
	}
	*ret_fd = fd_take(&fd);
	return 0;
}

int agt_tree_make(const char *path, mode_t mode, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int fd = -1;
	return agt_tree_open(path, mode, &fd, reterr);
}

int agt_tree_open_parent(
	const char *path, mode_t mode, int *ret_fd, const char **ret_name, struct hf_err *reterr)
{
	char parent[PATH_MAX];
	size_t end = strlen(path), at;
	while (end > 1 && path[end - 1] == '/')
		end--;
	for (at = end; at > 0 && path[at - 1] != '/'; at--)
		;
	if (at == 0 || at >= sizeof(parent) || path[end] != '\0')
		return hf_err_set(
			reterr, -EINVAL, "%.100s: a path without a / at its end expected", path);
	memcpy(parent, path, at);
	parent[at] = '\0';
	*ret_name = path + at;
	return agt_tree_open(parent, mode, ret_fd, reterr);
}

/* Empties and removes a folder; what is on another file system stays, and so does its parent. */
static int remove_at(int parent, const char *name, dev_t dev, int depth)
{
	struct stat st;
	if (unlinkat(parent, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	if (depth == AGT_TREE_DEPTH_MAX)
		return -ELOOP;
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int r = -errno;
		fd_closep(&fd);
		return r;
	}
	int r = fstat(fd, &st) < 0 ? -errno : dev && st.st_dev != dev ? -EXDEV : 0;
	for (struct dirent *e; r == 0 && (e = readdir(d));)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = remove_at(fd, e->d_name, st.st_dev, depth + 1);
	(void)closedir(d); /* was only read */
	if (r == 0 && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

int agt_tree_remove(const char *path, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int parent = -1;
	const char *name;
	int r = agt_tree_open_parent(path, 0, &parent, &name, reterr);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return r;
	r = remove_at(parent, name, 0, 0);
	if (r < 0)
		return hf_err_set(reterr, r, "%.150s: cannot remove: %s", path, strerror(-r));
	return 0;
}

/* The last one mounted below the path, or at it; false: none. */
static bool last_mount(const char *path, bool at, char *ret, size_t cap)
{
	size_t len = strlen(path);
	struct mntent *m;
	bool found = false;
	FILE *f = setmntent("/proc/self/mounts", "re");
	while (f && (m = getmntent(f)))
		if (!strncmp(m->mnt_dir, path, len) &&
			(m->mnt_dir[len] == '/' || (at && m->mnt_dir[len] == '\0')))
			found = snprintf(ret, cap, "%s", m->mnt_dir) < (int)cap;
	if (f)
		(void)endmntent(f); /* always says 1 */
	return found;
}

bool agt_tree_has_mounts(const char *path)
{
	char last[PATH_MAX];
	return last_mount(path, true, last, sizeof(last));
}

bool agt_tree_has_mounts_below(const char *path)
{
	char last[PATH_MAX];
	return last_mount(path, false, last, sizeof(last));
}

int agt_mount(const char *path, mode_t mode, const struct agt_mount *m, struct hf_err *reterr)
{
	char target[40];
	HF_CLEANUP(fd_closep) int fd = -1;
	int r = agt_tree_open(path, mode, &fd, reterr);
	if (r < 0)
		return r;
	(void)snprintf(target, sizeof(target), "/proc/self/fd/%d", fd);
	if (mount(m->source, target, m->type, m->flags, m->data) < 0)
		return hf_err_set(reterr, -errno, "%.80s: cannot mount %.60s%s%s: %s", path,
			m->source ? m->source : "", m->type ? " as " : "", m->type ? m->type : "",
			strerror(errno));
	return 0;
}

int agt_unmount(const char *path, struct hf_err *reterr)
{
	char at[PATH_MAX], below[PATH_MAX + 40];
	for (int i = 0; i < STACK_MAX && last_mount(path, true, at, sizeof(at)); i++) {
		HF_CLEANUP(fd_closep) int parent = -1;
		const char *name;
		int r = agt_tree_open_parent(at, 0, &parent, &name, reterr);
		if (r < 0)
			return r;
		(void)snprintf(below, sizeof(below), "/proc/self/fd/%d/%s", parent, name);
		if (umount2(below, UMOUNT_NOFOLLOW) < 0)
			return hf_err_set(
				reterr, -errno, "%.150s: cannot unmount: %s", at, strerror(errno));
	}
	return agt_tree_remove(path, reterr);
}
