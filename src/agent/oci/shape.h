/* SPDX-License-Identifier: MIT */
/*
 * shape.h - the JSON types in an OCI runtime specification. The agent reads some of its members and
 * hands the rest to the runtime; both may then rely on the types. Null is as good as absent, what
 * the table does not name is let through.
 */
#ifndef AGT_OCI_SHAPE_H
#define AGT_OCI_SHAPE_H

#include "base/err.h"
#include <jansson.h>

/* -EBADMSG and a text that begins with `name` and the member's path. */
int agt_shape_check_spec(const char *name, const json_t *spec, struct hf_err *reterr);
int agt_shape_check_process(const char *name, const json_t *process, struct hf_err *reterr);

#endif
