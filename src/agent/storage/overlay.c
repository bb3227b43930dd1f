/* SPDX-License-Identifier: MIT */
#include "overlay.h"
#include "tree.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

#define STACK_MAX 5 /* mounts on top of each other */

/* Appends "name" and text; -E2BIG when it does not fit. */
static int add(char *options, const char *name, const char *text)
{
	size_t n = strlen(options);
	int k = snprintf(options + n, AGT_MOUNT_OPTIONS_MAX - n, "%s%s", name, text);
	return k < 0 || (size_t)k >= AGT_MOUNT_OPTIONS_MAX - n ? -E2BIG : 0;
}

/* A comma, colon or backslash would change the meaning of the option. */
static bool plain(const char *path)
{
	return agt_path_allowed(path) && !strpbrk(path, ",:\\");
}

static int prepare_scratch(
	const char *target, const char *scratch, char *options, struct hf_err *reterr)
{
	char path[PATH_MAX], parent[PATH_MAX];
	int r = 0;
	for (int i = 0; r == 0 && i < 2; i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", scratch, i ? "work" : "upper");
		r = agt_tree_make(path, 0755, reterr);
		if (r == 0 && add(options, i ? ",workdir=" : ",upperdir=", path) < 0)
			return hf_err_set(reterr, -E2BIG, "mount options: too long");
	}
	if (r < 0)
		return r;
	/* a scratch that lies elsewhere brings the bundle's folder with it */
	(void)snprintf(parent, sizeof(parent), "%s", target);
	char *slash = strrchr(parent, '/');
	*slash = '\0';
	size_t n = strlen(parent);
	if (!strncmp(scratch, parent, n) && (scratch[n] == '/' || scratch[n] == '\0'))
		return 0;
	(void)snprintf(path, sizeof(path), "%s/bundle", scratch);
	r = agt_tree_make(path, 0755, reterr);
	if (r == 0)
		r = agt_tree_make(parent, 0755, reterr);
	if (r == 0 && mount(path, parent, NULL, MS_BIND, NULL) < 0)
		return hf_err_set(
			reterr, -errno, "%.100s on %.100s: %s", path, parent, strerror(errno));
	return r;
}

int agt_overlay_mount(
	const char *target, const char *const *layers, const char *scratch, struct hf_err *reterr)
{
	char options[AGT_MOUNT_OPTIONS_MAX] = "";
	int r = plain(target) && (!scratch[0] || plain(scratch)) ? 0 : -EINVAL;
	for (size_t i = 0; r == 0 && layers[i]; i++)
		r = !plain(layers[i]) || i == AGT_LAYERS_MAX
			    ? -EINVAL
			    : add(options, i ? ":" : "lowerdir=", layers[i]);
	if (r < 0 || !layers[0])
		return hf_err_set(reterr, -EINVAL,
			"%.100s: 1 to %d layers with absolute paths without , : and \\ expected",
			target, AGT_LAYERS_MAX);
	if (scratch[0])
		r = prepare_scratch(target, scratch, options, reterr);
	if (r == 0)
		r = agt_tree_make(target, 0755, reterr);
	if (r == 0 && mount("overlay", target, "overlay", scratch[0] ? 0 : MS_RDONLY, options) < 0)
		return hf_err_set(reterr, -errno, "%.100s: cannot mount the layers: %s", target,
			strerror(errno));
	return r;
}

int agt_overlay_remove(const char *target, struct hf_err *reterr)
{
	if (!agt_path_allowed(target))
		return hf_err_set(reterr, -EINVAL,
			"%.100s: an absolute path below a folder expected", target);
	for (int i = 0; i < STACK_MAX; i++) {
		if (umount2(target, UMOUNT_NOFOLLOW) == 0)
			continue;
		if (errno == EINVAL || errno == ENOENT)
			break; /* nothing is mounted there any more */
		return hf_err_set(
			reterr, -errno, "%.100s: cannot unmount: %s", target, strerror(errno));
	}
	return agt_tree_remove(target, reterr);
}
