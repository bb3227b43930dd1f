/* SPDX-License-Identifier: MIT */
/*
 * node.h - where a VM's files are: NODE/vms/NAME/FILE (docs/architecture.md).
 *
 * Sockets bound their paths to 107 bytes, so a node folder that is too long is refused for all
 * files at once, before any is made.
 */
#ifndef HF_NODE_H
#define HF_NODE_H

#include "err.h"

#define HF_NODE_NAME_MAX 32 /* bytes of a VM's name: [A-Za-z0-9._-], not beginning with a dot */
#define HF_NODE_PATH_MAX 108
#define HF_NODE_FILE_MAX 20 /* the longest file name in a VM's folder that is a socket's */

/* $HOLDFAST_NODE, else /run/holdfast, or $XDG_RUNTIME_DIR/holdfast without root. */
int hf_node_default(char node[HF_NODE_PATH_MAX], struct hf_err *reterr);

/* Checks node and name; the folder need not exist. */
int hf_node_check(const char *node, const char *name, struct hf_err *reterr);

/* The path of a VM's file; "" gives the folder itself. The caller has checked node and name, and
 * the file name is a constant of ours. */
const char *hf_node_path(
	const char *node, const char *name, const char *file, char path[HF_NODE_PATH_MAX]);

#endif
