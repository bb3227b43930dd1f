/* SPDX-License-Identifier: MIT */
#include "node.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int hf_node_default(char node[HF_NODE_PATH_MAX], struct hf_err *reterr)
{
	const char *set = getenv("HOLDFAST_NODE");
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	int n;
	if (set && *set)
		n = snprintf(node, HF_NODE_PATH_MAX, "%s", set);
	else if (geteuid() == 0)
		n = snprintf(node, HF_NODE_PATH_MAX, "/run/holdfast");
	else if (xdg && *xdg)
		n = snprintf(node, HF_NODE_PATH_MAX, "%s/holdfast", xdg);
	else
		return hf_err_set(reterr, -ENOENT,
			"no node folder: XDG_RUNTIME_DIR is not set; give one with --node DIR");
	if (n < 0 || n >= HF_NODE_PATH_MAX)
		return hf_err_set(reterr, -ENAMETOOLONG,
			"the default node folder has a path of %d bytes, at "
			"most %d fit; give another with --node DIR",
			n, HF_NODE_PATH_MAX - 1);
	return 0;
}

static bool name_ok(const char *name)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(name);
	return n > 0 && n <= HF_NODE_NAME_MAX && name[0] != '.' && name[0] != '-' &&
	       strspn(name, allowed) == n;
}

int hf_node_check(const char *node, const char *name, struct hf_err *reterr)
{
	if (!name_ok(name))
		return hf_err_set(reterr, -EINVAL,
			"vm \"%.40s\": a name has 1 to %d characters of A-Z a-z 0-9 . _ - and "
			"begins with none of "
			"the dots and dashes",
			name, HF_NODE_NAME_MAX);
	size_t max = HF_NODE_PATH_MAX - 1 - strlen("/vms//") - HF_NODE_FILE_MAX - strlen(name);
	if (node[0] != '/')
		return hf_err_set(reterr, -EINVAL, "node \"%.100s\": give an absolute path", node);
	if (strlen(node) > max)
		return hf_err_set(reterr, -ENAMETOOLONG,
			"node \"%.100s\": %zu bytes are too many by %zu for the sockets of a VM "
			"with this name",
			node, strlen(node), strlen(node) - max);
	return 0;
}

const char *hf_node_path(
	const char *node, const char *name, const char *file, char path[HF_NODE_PATH_MAX])
{
	int n = snprintf(
		path, HF_NODE_PATH_MAX, "%s/vms/%s%s%s", node, name, *file ? "/" : "", file);
	hf_assert(n > 0 && n < HF_NODE_PATH_MAX);
	return path;
}
