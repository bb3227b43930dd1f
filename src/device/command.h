/* SPDX-License-Identifier: MIT */
/* command.h - what the control socket's commands do (docs/control.md); control.h brings them. */
#ifndef DEVICE_COMMAND_H
#define DEVICE_COMMAND_H

#include "base/err.h"
#include "daemon.h"
#include <jansson.h>

#define DEV_LATER 1 /* of a command: its answer comes from dev_control_turn() */

struct dev_request {
	struct dev_daemon *daemon;
	struct dev_client *client;
	const json_t *args;
	json_t *answer;    /* results are put here */
	struct dev_vm *vm; /* for commands about one */
};

/* Carries out args.cmd: 0 with the results, DEV_LATER, or -errno (without a text: no memory). */
int dev_command_run(struct dev_request *rq, struct hf_err *reterr);

#endif
