/* SPDX-License-Identifier: MIT */
/* overlay.h - a container's root file system from layers. Mounting may block: these run on libuv's
 * pool and touch nothing but their arguments. */
#ifndef AGT_STORAGE_OVERLAY_H
#define AGT_STORAGE_OVERLAY_H

#include "base/err.h"

#define AGT_LAYERS_MAX        128
#define AGT_MOUNT_OPTIONS_MAX 4096 /* of mount(2): one page */

/* layers[0] is the topmost. scratch "": read-only; else its upper/ and work/ take the changes. */
int agt_overlay_mount(
	const char *target, const char *const *layers, const char *scratch, struct hf_err *reterr);

/* Unmounts all that is stacked on the path and removes the folder; absent is success. */
int agt_overlay_remove(const char *target, struct hf_err *reterr);

#endif
