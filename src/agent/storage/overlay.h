/* SPDX-License-Identifier: MIT */
/* overlay.h - a container's root file system from layers. These block: they run in workers. */
#ifndef AGT_STORAGE_OVERLAY_H
#define AGT_STORAGE_OVERLAY_H

#include "base/err.h"

#define AGT_LAYERS_MAX        128
#define AGT_MOUNT_OPTIONS_MAX 4096 /* of mount(2): one page */

struct agt_layers {
	const char *target;  /* ContainerRootPath */
	const char *scratch; /* "": read-only; else its upper/ and work/ take the changes */
	const char **path;   /* the topmost first, NULL at the end */
};

/* Whether all of it may be mounted; to be asked before. */
int agt_overlay_check(const struct agt_layers *l, struct hf_err *reterr);

int agt_overlay_mount(const struct agt_layers *l, struct hf_err *reterr);

/* Unmounts all that is stacked on the target and removes the folder; absent is success. */
int agt_overlay_remove(const struct agt_layers *l, struct hf_err *reterr);

#endif
