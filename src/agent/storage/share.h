/* SPDX-License-Identifier: MIT */
/*
 * share.h - folders of the host: 9p over a connection that the agent has dialled, or virtiofs by
 * its tag. These block: they run in workers.
 */
#ifndef AGT_STORAGE_SHARE_H
#define AGT_STORAGE_SHARE_H

#include "base/err.h"

#define AGT_SHARE_NAME_MAX 255

struct agt_share {
	const char *mount_path;
	const char *name; /* 9p: the tree to attach, may be ""; virtiofs: the tag */
	int fd;           /* of the 9p connection; -1: virtiofs */
	bool read_only;
};

int agt_share_check(const struct agt_share *s, struct hf_err *reterr);
int agt_share_add(const struct agt_share *s, struct hf_err *reterr);
int agt_share_remove(const struct agt_share *s, struct hf_err *reterr);

#endif
