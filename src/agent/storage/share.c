/* SPDX-License-Identifier: MIT */
#include "share.h"
#include "tree.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>

#define MESSAGE_MAX 65536 /* of 9p, and what the socket takes at once */

int agt_share_check(const struct agt_share *s, struct hf_err *reterr)
{
	if (strlen(s->name) > AGT_SHARE_NAME_MAX || strpbrk(s->name, ",\\"))
		return hf_err_set(reterr, -EINVAL,
			"ShareName: at most %d bytes without , and \\ expected",
			AGT_SHARE_NAME_MAX);
	return agt_path_check("MountPath", s->mount_path, reterr);
}

int agt_share_add(const struct agt_share *s, struct hf_err *reterr)
{
	char data[128 + AGT_SHARE_NAME_MAX];
	int size = MESSAGE_MAX;
	struct agt_mount m = { .flags = s->read_only ? MS_RDONLY : 0 };
	if (s->fd < 0) {
		m.type = "virtiofs";
		m.source = s->name;
	} else {
		/* the kernel's defaults serve as well, only slower */
		(void)setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
		(void)setsockopt(s->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		(void)snprintf(data, sizeof(data), "trans=fd,rfdno=%d,wfdno=%d,msize=%d%s%s%s",
			s->fd, s->fd, MESSAGE_MAX, s->read_only ? ",noload" : "",
			s->name[0] ? ",aname=" : "", s->name);
		m.type = "9p";
		m.source = s->mount_path;
		m.data = data;
	}
	return agt_mount(s->mount_path, 0700, &m, reterr);
}

int agt_share_remove(const struct agt_share *s, struct hf_err *reterr)
{
	return agt_unmount(s->mount_path, reterr);
}
