/* SPDX-License-Identifier: MIT */
#include "overlay.h"
#include "tree.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

/* Appends "name" and text; -E2BIG when it does not fit. */
static int add(char *options, const char *name, const char *text)
{
	size_t n = strlen(options);
	int k = snprintf(options + n, AGT_MOUNT_OPTIONS_MAX - n, "%s%s", name, text);
	return k < 0 || (size_t)k >= AGT_MOUNT_OPTIONS_MAX - n ? -E2BIG : 0;
}

/* A comma, colon or backslash would change the meaning of the option. */
static int check(const char *field, const char *path, struct hf_err *reterr)
{
	if (agt_path_allowed(path) && !strpbrk(path, ",:\\"))
		return 0;
	return hf_err_set(reterr, -EINVAL,
		"%s: \"%.100s\": an absolute path below a folder, without .. , : and \\, expected",
		field, path);
}

static int prepare_scratch(
	const char *target, const char *scratch, char *options, struct hf_err *reterr)
{
	char path[PATH_MAX + 16], parent[PATH_MAX];
	int r = 0;
	for (int i = 0; r == 0 && i < 2; i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", scratch, i ? "work" : "upper");
		r = agt_tree_make(path, 0755, reterr);
		if (r == 0 && add(options, i ? ",workdir=" : ",upperdir=", path) < 0)
			return hf_err_set(reterr, -E2BIG, "ScratchPath: mount options too long");
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
	const struct agt_mount bind = { .source = path, .flags = MS_BIND };
	return r < 0 ? r : agt_mount(parent, 0755, &bind, reterr);
}

int agt_overlay_check(const struct agt_layers *l, struct hf_err *reterr)
{
	size_t n = 0;
	int r = check("ContainerRootPath", l->target, reterr);
	if (r == 0 && l->scratch[0])
		r = check("ScratchPath", l->scratch, reterr);
	for (; r == 0 && l->path[n]; n++)
		r = check("Layers.Path", l->path[n], reterr);
	if (r == 0 && (n == 0 || n > AGT_LAYERS_MAX))
		r = hf_err_set(
			reterr, -EINVAL, "Layers: 1 to %d expected, got %zu", AGT_LAYERS_MAX, n);
	return r;
}

int agt_overlay_mount(const struct agt_layers *l, struct hf_err *reterr)
{
	char options[AGT_MOUNT_OPTIONS_MAX] = "";
	int r = 0;
	for (size_t n = 0; l->path[n]; n++)
		if (add(options, n ? ":" : "lowerdir=", l->path[n]) < 0)
			return hf_err_set(reterr, -E2BIG, "Layers: mount options too long");
	if (l->scratch[0])
		r = prepare_scratch(l->target, l->scratch, options, reterr);
	const struct agt_mount m = { .source = "overlay",
		.type = "overlay",
		.flags = l->scratch[0] ? 0 : MS_RDONLY,
		.data = options };
	return r < 0 ? r : agt_mount(l->target, 0755, &m, reterr);
}

int agt_overlay_remove(const struct agt_layers *l, struct hf_err *reterr)
{
	return agt_unmount(l->target, reterr);
}
