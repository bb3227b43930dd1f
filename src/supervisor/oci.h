/* SPDX-License-Identifier: MIT */
/* oci.h - the OCI documents of a container that is described by a command and little else. */
#ifndef HF_SUPERVISOR_OCI_H
#define HF_SUPERVISOR_OCI_H

#include "base/err.h"
#include <jansson.h>

/* Where a container's files are in the guest; %s is its name. */
#define OCI_BUNDLE  "/run/gcs/c/%s"
#define OCI_ROOTFS  "/run/gcs/c/%s/rootfs"
#define OCI_SCRATCH "/run/gcs/c/%s/scratch"
#define OCI_IMAGE   "/usr/share/holdfast/rootfs" /* the image's container root file system */

#define OCI_ARGS_MAX 1024

/* The OCI process of a request's "args", "env", "cwd", "user" ("uid[:gid]"), "tty". */
int oci_process(json_t *request, json_t **ret_process, struct hf_err *reterr);

/* The whole specification of a container with this process (taken over). */
json_t *oci_spec(const char *container, json_t *process);

/* The ModifySettings request that mounts the container's root (the image below, a scratch above),
 * or unmounts it. Free it with free(). */
char *oci_layers(const char *container, bool mount);

#endif
