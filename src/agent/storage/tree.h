/* SPDX-License-Identifier: MIT */
/*
 * tree.h - folders and mounts at paths that a host gives. No symbolic link is ever followed: every
 * name is opened below its parent's descriptor, so what a container has put somewhere leads nowhere
 * else. These may block: the larger ones run in workers.
 */
#ifndef AGT_STORAGE_TREE_H
#define AGT_STORAGE_TREE_H

#include "base/err.h"
#include <sys/types.h>

#define AGT_TREE_DEPTH_MAX 512 /* of what is removed */

/* A path from the host may be used: absolute, no "..", at least two names deep, shorter than
 * PATH_MAX. */
bool agt_path_allowed(const char *path);

/* The same as an error that names the field. */
int agt_path_check(const char *field, const char *path, struct hf_err *reterr);

int agt_tree_make(const char *path, mode_t mode, struct hf_err *reterr);

/* Opens the folder (O_PATH), making what is missing when mode is not 0. */
int agt_tree_open(const char *path, mode_t mode, int *ret_fd, struct hf_err *reterr);

/* Opens the folder that the path's last name is in; *ret_name points into the path. */
int agt_tree_open_parent(
	const char *path, mode_t mode, int *ret_fd, const char **ret_name, struct hf_err *reterr);

/* Removes it and all below it, never crossing into another file system. Absent is success. */
int agt_tree_remove(const char *path, struct hf_err *reterr);

/* Whether anything is mounted at the path or below it; or below it only. */
bool agt_tree_has_mounts(const char *path);
bool agt_tree_has_mounts_below(const char *path);

/* mount(2) on the folder at the path, which is made with the mode. */
struct agt_mount {
	const char *source, *type, *data;
	unsigned long flags;
};
int agt_mount(const char *path, mode_t mode, const struct agt_mount *m, struct hf_err *reterr);

/* Unmounts all that is stacked on the path, and all below it, and removes what is left. Absent is
 * success. */
int agt_unmount(const char *path, struct hf_err *reterr);

#endif
