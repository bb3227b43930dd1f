/* SPDX-License-Identifier: MIT */
#include "tree.h"
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WALK_FDS 16 /* folders that a walk keeps open */

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

int agt_tree_make(const char *path, mode_t mode, struct hf_err *reterr)
{
	char part[PATH_MAX];
	size_t len = strlen(path);
	if (len >= sizeof(part))
		return hf_err_set(reterr, -ENAMETOOLONG, "path of %zu bytes: too long", len);
	memcpy(part, path, len + 1);
	for (size_t i = 1; i <= len; i++) {
		if (part[i] != '/' && part[i] != '\0')
			continue;
		char c = part[i];
		part[i] = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST)
			return hf_err_set(reterr, -errno, "%.150s: cannot make the folder: %s",
				part, strerror(errno));
		part[i] = c;
	}
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

int agt_tree_remove(const char *path, struct hf_err *reterr)
{
	if (nftw(path, remove_one, WALK_FDS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) < 0 &&
		errno != ENOENT)
		return hf_err_set(
			reterr, -errno, "%.150s: cannot remove: %s", path, strerror(errno));
	return 0;
}

int agt_tree_has_mounts(const char *path)
{
	size_t len = strlen(path);
	struct mntent *m;
	int found = 0;
	FILE *f = setmntent("/proc/self/mounts", "re");
	if (!f)
		return -errno;
	while (!found && (m = getmntent(f)))
		found = !strncmp(m->mnt_dir, path, len) &&
			(m->mnt_dir[len] == '/' || m->mnt_dir[len] == '\0');
	(void)endmntent(f); /* always says 1 */
	return found;
}
