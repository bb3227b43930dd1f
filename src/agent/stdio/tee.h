/* SPDX-License-Identifier: MIT */
/*
 * tee.h - a container's output also into a file of the guest.
 *
 *     container --pipe--> tee process --pipe--> agent
 *                              +--> file
 *
 * A process of its own stands in each stream, so what is owed to the host stays the business of its
 * relay alone: what a lost host makes it send again comes into the file once. It outlives the
 * agent, and ends when the container closes the stream. A file of AGT_TEE_FILE_MAX becomes FILE.1,
 * in place of the one before. A file that cannot be written costs its lines, not the container's
 * output.
 */
#ifndef AGT_STDIO_TEE_H
#define AGT_STDIO_TEE_H

#include "base/err.h"
#include "local.h"

#define AGT_TEE_FILE_MAX (16 << 20) /* bytes */

struct agt_children;

/* Puts itself between the two outputs and the process that they are for. */
int agt_tee_insert(
	struct agt_children *cs, struct agt_local *l, const char *path, struct hf_err *reterr);

/* Whether this process is one of them, and what it does: returns the exit status. */
bool agt_tee_is_process(int argc, char *const argv[]);
int agt_tee_process(char *const argv[]);

#endif
