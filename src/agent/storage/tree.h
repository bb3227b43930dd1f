/* SPDX-License-Identifier: MIT */
/* tree.h - folders by path: made with their parents, removed with their contents. These block; the
 * larger ones run on libuv's pool. */
#ifndef AGT_STORAGE_TREE_H
#define AGT_STORAGE_TREE_H

#include "base/err.h"
#include <sys/types.h>

/* A path from the host may be used: absolute, no "..", at least two names deep, shorter than
 * PATH_MAX. */
bool agt_path_allowed(const char *path);

int agt_tree_make(const char *path, mode_t mode, struct hf_err *reterr);

/* Removes it and all below it, never crossing into another file system. Absent is success. */
int agt_tree_remove(const char *path, struct hf_err *reterr);

/* Whether anything is mounted at the path or below: 1, 0 or -errno. */
int agt_tree_has_mounts(const char *path);

#endif
