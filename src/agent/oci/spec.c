/* SPDX-License-Identifier: MIT */
#include "spec.h"
#include "user.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define KEY_TYPE    "io.kubernetes.cri.container-type"
#define KEY_SANDBOX "io.kubernetes.cri.sandbox-id"

/* The specification is Go's on both ends: its names are spelled exactly. */
static json_t *need_object(json_t *o, const char *name, struct hf_err *reterr)
{
	json_t *v = json_object_get(o, name);
	if (json_is_object(v))
		return v;
	(void)hf_err_set(reterr, -EBADMSG, "OciSpecification.%s: expected an object", name);
	return NULL;
}

/* Owns its pid namespace: there is an entry of type pid without a path to join. */
static bool owns_pids(json_t *linux_part)
{
	json_t *ns;
	size_t i;
	json_array_foreach (json_object_get(linux_part, "namespaces"), i, ns) {
		const char *type = json_string_value(json_object_get(ns, "type"));
		const char *path = json_string_value(json_object_get(ns, "path"));
		if (type && !strcmp(type, "pid"))
			return !path || !path[0];
	}
	return false;
}

static const char *annotation(json_t *spec, const char *key)
{
	const char *v =
		json_string_value(json_object_get(json_object_get(spec, "annotations"), key));
	return v ? v : "";
}

int agt_spec_prepare(
	json_t *spec, const char *id, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	char cgroup[600];
	*ret = (struct agt_spec_facts){ 0 };
	json_t *process = need_object(spec, "process", reterr);
	json_t *linux_part = process ? need_object(spec, "linux", reterr) : NULL;
	if (!linux_part || !need_object(spec, "root", reterr))
		return -EBADMSG;
	if (!json_is_string(json_object_get(json_object_get(spec, "root"), "path")))
		return hf_err_set(
			reterr, -EBADMSG, "OciSpecification.root.path: expected a string");
	ret->tty = json_is_true(json_object_get(process, "terminal"));
	ret->own_pids = owns_pids(linux_part);
	ret->is_workload = !strcmp(annotation(spec, KEY_TYPE), "container");
	const char *sandbox = ret->is_workload ? annotation(spec, KEY_SANDBOX) : id;
	if (!sandbox[0] || strlen(sandbox) >= sizeof(ret->sandbox) || strchr(sandbox, '/'))
		return hf_err_set(
			reterr, -EBADMSG, "OciSpecification.annotations: bad %s", KEY_SANDBOX);
	(void)snprintf(ret->sandbox, sizeof(ret->sandbox), "%s", sandbox);
	(void)snprintf(cgroup, sizeof(cgroup),
		ret->is_workload || !strcmp(annotation(spec, KEY_TYPE), "sandbox") ? "/pods/%s/%s"
										   : "/pods/%s",
		sandbox, id);
	json_object_set_new(linux_part, "cgroupsPath", json_string(cgroup));
	(void)json_object_del(spec, "windows"); /* absent is fine */
	return 0;
}

static const char *username(const json_t *process)
{
	const char *v =
		json_string_value(json_object_get(json_object_get(process, "user"), "username"));
	return v ? v : "";
}

int agt_spec_resolve_user(json_t *process, const char *root, struct hf_err *reterr)
{
	uid_t uid;
	gid_t gid;
	json_t *user = json_object_get(process, "user");
	if (!username(process)[0])
		return 0;
	int r = agt_user_resolve(root, username(process), &uid, &gid, reterr);
	if (r < 0)
		return r;
	json_object_set_new(user, "uid", json_integer(uid));
	json_object_set_new(user, "gid", json_integer(gid));
	return 0;
}

int agt_spec_inherit(
	json_t *process, const json_t *of_container, const char *root, struct hf_err *reterr)
{
	json_t *rlimits = json_object_get(of_container, "rlimits");
	if (rlimits)
		json_object_set(process, "rlimits", rlimits);
	if (!username(process)[0] && username(of_container)[0])
		json_object_set(process, "user", json_object_get(of_container, "user"));
	return agt_spec_resolve_user(process, root, reterr);
}
