/* SPDX-License-Identifier: MIT */
/*
 * supervisor.h - runs the supervisor of one VM in this process, until the VM is gone.
 *
 * It reports on ready_fd, when that is not -1, with one JSON line: {"ok": true, ...} when the guest
 * has negotiated (or, incoming, when a migration can begin), else {"ok": false, "error": ...}; then
 * the descriptor is closed. Everything else it says goes to the log and the control socket.
 */
#ifndef HF_SUPERVISOR_H
#define HF_SUPERVISOR_H

#include "base/err.h"
#include <jansson.h>

struct sup_config {
	const char *node, *name;
	json_t *vm;    /* settings as in config.json; NULL: the defaults, or those of a living VM */
	bool incoming; /* waits for a migration instead of starting anything */
	int ready_fd;
	unsigned boot_timeout_s; /* for the guest to negotiate */
};

/* Returns an exit status: 0 the VM has ended or moved, 1 failed (reported and logged). */
int sup_run(const struct sup_config *config);

#endif
