/* SPDX-License-Identifier: MIT */
#include "user.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#define NAME_MAX_BYTES 256
#define FIELDS         4 /* name, password, id, group */

/* Opens a file below the root; a symbolic link in the container leads nowhere else. */
static FILE *open_below(const char *root, const char *path)
{
	struct open_how how = { .flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
		.resolve = RESOLVE_IN_ROOT };
	HF_CLEANUP(fd_closep) int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return NULL;
	int fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof(how));
	FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
	if (!f)
		fd_closep(&fd);
	return f;
}

static int number(const char *text, uint32_t *ret)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || v >= UINT32_MAX)
		return -EINVAL;
	*ret = (uint32_t)v;
	return 0;
}

/* The id of the line whose name, or id, is the key; *ret_group is the field after it, if any. 1, or
 * 0 when there is none. */
static int look_up(
	const char *root, const char *path, const char *key, uint32_t *ret_id, uint32_t *ret_group)
{
	char line[1024];
	int found = 0;
	FILE *f = open_below(root, path);
	for (size_t seen = 0;
		f && !found && seen < AGT_USER_FILE_MAX && fgets(line, sizeof(line), f);) {
		char *field[FIELDS] = { NULL }, *rest = line;
		seen += strlen(line);
		line[strcspn(line, "\r\n")] = '\0';
		for (int i = 0; i < FIELDS; i++)
			field[i] = strsep(&rest, ":");
		if (!field[2] || number(field[2], ret_id) < 0)
			continue;
		found = !strcmp(field[0], key) || !strcmp(field[2], key);
		if (found && field[3])
			(void)number(field[3], ret_group); /* a group line has members there */
	}
	if (f)
		(void)fclose(f); /* was only read */
	return found;
}

int agt_user_resolve(
	const char *root, const char *name, uid_t *ret_uid, gid_t *ret_gid, struct hf_err *reterr)
{
	char user[NAME_MAX_BYTES];
	uint32_t uid = 0, gid = 0, ignored = 0;
	if (snprintf(user, sizeof(user), "%s", name) >= (int)sizeof(user))
		return hf_err_set(
			reterr, -EINVAL, "username: longer than %d bytes", NAME_MAX_BYTES);
	char *group = strchr(user, ':');
	if (group)
		*group++ = '\0';
	if (!look_up(root, "/etc/passwd", user, &uid, &gid) && number(user, &uid) < 0)
		return hf_err_set(reterr, -ENOENT,
			"username: \"%s\": not in the container's /etc/passwd", user);
	if (group && !look_up(root, "/etc/group", group, &gid, &ignored) && number(group, &gid) < 0)
		return hf_err_set(reterr, -ENOENT,
			"username: group \"%s\": not in the container's /etc/group", group);
	*ret_uid = uid;
	*ret_gid = gid;
	return 0;
}
