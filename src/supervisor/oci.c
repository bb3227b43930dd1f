/* SPDX-License-Identifier: MIT */
#include "oci.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int check_texts(json_t *list, const char *what, bool needs_one, struct hf_err *reterr)
{
	size_t i;
	json_t *v;
	if (!json_is_array(list) || json_array_size(list) > OCI_ARGS_MAX ||
		(needs_one && json_array_size(list) == 0))
		return hf_err_set(reterr, -EINVAL, "%s: give a list of %d to %d texts", what,
			needs_one, OCI_ARGS_MAX);
	json_array_foreach (list, i, v) {
		if (!json_is_string(v))
			return hf_err_set(reterr, -EINVAL, "%s: only texts are taken", what);
	}
	return 0;
}

/* "uid" or "uid:gid". */
static int parse_user(const char *text, unsigned *ret_uid, unsigned *ret_gid, struct hf_err *reterr)
{
	char rest;
	*ret_gid = 0;
	if (sscanf(text, "%u:%u%c", ret_uid, ret_gid, &rest) == 2 ||
		sscanf(text, "%u%c", ret_uid, &rest) == 1)
		return 0;
	return hf_err_set(reterr, -EINVAL, "user \"%.40s\": give UID or UID:GID", text);
}

/* What a container's root may do: the usual set of container engines. */
static json_t *capabilities(void)
{
	static const char *const names[] = { "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID",
		"CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
		"CAP_AUDIT_WRITE" };
	json_t *list = json_array();
	for (size_t i = 0; i < HF_ARRAY_SIZE(names); i++)
		json_array_append_new(list, json_string(names[i]));
	return json_pack("{s:o, s:O, s:O}", "bounding", list, "effective", list, "permitted", list);
}

int oci_process(json_t *request, json_t **ret_process, struct hf_err *reterr)
{
	json_t *args = NULL, *env = NULL;
	const char *cwd = "/", *user = "0";
	int tty = 0;
	unsigned uid, gid;
	if (json_unpack(request, "{s:o, s?:o, s?:s, s?:s, s?:b}", "args", &args, "env", &env, "cwd",
		    &cwd, "user", &user, "tty", &tty) < 0)
		return hf_err_set(reterr, -EINVAL,
			"args (a list), env (a list), cwd, user (texts), tty (true or false): one "
			"is of another kind");
	int r = check_texts(args, "args", true, reterr);
	if (r == 0 && env)
		r = check_texts(env, "env", false, reterr);
	if (r == 0)
		r = parse_user(user, &uid, &gid, reterr);
	if (r < 0)
		return r;
	json_t *all = json_pack("[s, s]",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		tty ? "TERM=xterm" : "HOME=/root");
	if (env)
		json_array_extend(all, env);
	*ret_process = json_pack("{s:b, s:O, s:o, s:s, s:{s:i, s:i}, s:o}", "terminal", tty, "args",
		args, "env", all, "cwd", cwd, "user", "uid", (int)uid, "gid", (int)gid,
		"capabilities", capabilities());
	return *ret_process ? 0 : hf_err_set(reterr, -ENOMEM, "no memory for a process");
}

json_t *oci_spec(const char *container, json_t *process)
{
	char rootfs[64];
	(void)snprintf(rootfs, sizeof(rootfs), OCI_ROOTFS, container);
	return json_pack("{s:s, s:o, s:{s:s, s:b}, s:s,"
			 " s:[{s:s, s:s, s:s}, {s:s, s:s, s:s, s:[s, s, s]}, {s:s, s:s, s:s, s:[s, "
			 "s, s, s]},"
			 " {s:s, s:s, s:s, s:[s, s]}, {s:s, s:s, s:s, s:[s, s, s, s]}],"
			 " s:{s:[{s:s}, {s:s}, {s:s}, {s:s}]}}",
		"ociVersion", "1.0.2", "process", process, "root", "path", rootfs, "readonly", 0,
		"hostname", container, "mounts",                          /**/
		"destination", "/proc", "type", "proc", "source", "proc", /**/
		"destination", "/dev", "type", "tmpfs", "source", "tmpfs", "options", "nosuid",
		"mode=755", "size=65536k", /**/
		"destination", "/dev/pts", "type", "devpts", "source", "devpts", "options",
		"nosuid", "noexec", "newinstance", "ptmxmode=0666", /**/
		"destination", "/dev/shm", "type", "tmpfs", "source", "shm", "options", "nosuid",
		"nodev", /**/
		"destination", "/sys", "type", "sysfs", "source", "sysfs", "options", "nosuid",
		"noexec", "nodev", "ro", /**/
		"linux", "namespaces", "type", "pid", "type", "ipc", "type", "uts", "type",
		"mount");
}

char *oci_layers(const char *container, bool mount)
{
	char rootfs[64], scratch[80];
	(void)snprintf(rootfs, sizeof(rootfs), OCI_ROOTFS, container);
	(void)snprintf(scratch, sizeof(scratch), OCI_SCRATCH, container);
	json_t *o = json_pack("{s:s, s:s, s:{s:s, s:s, s:[{s:s}], s:s}}", "RequestType",
		mount ? "Add" : "Remove", "ResourceType", "CombinedLayers", "Settings",
		"ContainerID", container, "ContainerRootPath", rootfs, "Layers", "Path", OCI_IMAGE,
		"ScratchPath", scratch);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	return text;
}
