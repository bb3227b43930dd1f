/* SPDX-License-Identifier: MIT */
/*
 * user.h - process.user.username of a specification, which the runtime ignores on Linux: looked up
 * in the container's own /etc/passwd and /etc/group, never leaving its root.
 *
 * The name is "user" or "user:group", each a name or a number. A user by name or known number
 * brings its group; an unknown number has group 0 unless one is given.
 */
#ifndef AGT_OCI_USER_H
#define AGT_OCI_USER_H

#include "base/err.h"
#include <sys/types.h>

#define AGT_USER_FILE_MAX (1 << 20) /* bytes of /etc/passwd or /etc/group that are looked at */

int agt_user_resolve(
	const char *root, const char *name, uid_t *ret_uid, gid_t *ret_gid, struct hf_err *reterr);

#endif
