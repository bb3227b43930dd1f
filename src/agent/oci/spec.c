/* SPDX-License-Identifier: MIT */
#include "spec.h"
#include "agent/storage/tree.h"
#include "shape.h"
#include "user.h"
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define KEY_TYPE    "io.kubernetes.cri.container-type"
#define KEY_SANDBOX "io.kubernetes.cri.sandbox-id"
#define KEY_VIRTUAL "io.microsoft.cri.virtual-pod-id"
#define KEY_NO_NET  "io.microsoft.cri.skip-pod-networking"
#define KEY_LOG     "io.microsoft.container.lcow.tee-log-path"
#define KEY_HOST    "io.microsoft.virtualmachine.lcow.hostnetwork"

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

const char *agt_spec_annotation(const json_t *spec, const char *key)
{
	const char *v =
		json_string_value(json_object_get(json_object_get(spec, "annotations"), key));
	return v ? v : "";
}

/* Its kind, and the pod that it belongs to. A virtual pod's first container is its sandbox. */
static int read_pod(json_t *spec, const char *id, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	const char *type = agt_spec_annotation(spec, KEY_TYPE);
	const char *virtual = agt_spec_annotation(spec, KEY_VIRTUAL);
	const char *sandbox = id;
	ret->kind = !strcmp(type, "sandbox")     ? AGT_KIND_SANDBOX
		    : !strcmp(type, "container") ? AGT_KIND_WORKLOAD
						 : AGT_KIND_ALONE;
	if (virtual[0] && ret->kind != AGT_KIND_ALONE)
		ret->kind = strcmp(virtual, id) ? AGT_KIND_WORKLOAD : AGT_KIND_SANDBOX;
	if (ret->kind == AGT_KIND_WORKLOAD)
		sandbox = virtual[0] ? virtual : agt_spec_annotation(spec, KEY_SANDBOX);
	if (!sandbox[0] || strlen(sandbox) >= sizeof(ret->sandbox) || strchr(sandbox, '/') ||
		!strcmp(sandbox, ".") || !strcmp(sandbox, ".."))
		return hf_err_set(
			reterr, -EBADMSG, "OciSpecification.annotations: bad %s", KEY_SANDBOX);
	(void)snprintf(ret->sandbox, sizeof(ret->sandbox), "%s", sandbox);
	return 0;
}

static int read_log(const json_t *spec, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	const char *log = agt_spec_annotation(spec, KEY_LOG);
	char path[sizeof(ret->log) + 8];
	(void)snprintf(path, sizeof(path), "/logs/%s", log); /* cut: longer than is allowed */
	if (log[0] && (strlen(log) >= sizeof(ret->log) || !agt_path_allowed(path) ||
			      log[strlen(log) - 1] == '/'))
		return hf_err_set(reterr, -EBADMSG,
			"OciSpecification.annotations: %s: \"%.60s\": a short path without .. "
			"expected",
			KEY_LOG, log);
	(void)snprintf(ret->log, sizeof(ret->log), "%s", log);
	return 0;
}

static int read_hostname(json_t *spec, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
	const char *name = json_string_value(json_object_get(spec, "hostname"));
	name = name ? name : "";
	if (strlen(name) > 255 || name[strspn(name, allowed)] ||
		(name[0] && ret->kind == AGT_KIND_WORKLOAD))
		return hf_err_set(reterr, -EBADMSG, "OciSpecification.hostname: \"%.60s\": %s",
			name,
			ret->kind == AGT_KIND_WORKLOAD ? "is its sandbox's"
						       : "letters, digits, _ . and - expected");
	(void)snprintf(ret->hostname, sizeof(ret->hostname), "%s", name);
	if (!name[0] && gethostname(ret->hostname, sizeof(ret->hostname) - 1) < 0)
		(void)snprintf(ret->hostname, sizeof(ret->hostname), "localhost");
	return 0;
}

/* The host's name space, and whether the container uses the machine's network instead. */
static int read_network(
	json_t *spec, json_t *linux_part, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	json_t *network = json_object_get(json_object_get(spec, "windows"), "network");
	const char *id = json_string_value(json_object_get(network, "networkNamespace"));
	json_t *list = json_object_get(linux_part, "namespaces");
	id = id ? id : "";
	if (strlen(id) >= sizeof(ret->netns))
		return hf_err_set(reterr, -EBADMSG,
			"OciSpecification.windows.network.networkNamespace: too long");
	for (size_t i = 0; i <= strlen(id); i++)
		ret->netns[i] = (char)tolower((unsigned char)id[i]);
	ret->needs_netns = id[0] && ret->kind != AGT_KIND_WORKLOAD &&
			   strcmp(agt_spec_annotation(spec, KEY_NO_NET), "true") != 0;
	ret->host_network = !strcmp(agt_spec_annotation(spec, KEY_HOST), "true");
	for (size_t i = 0; ret->host_network && i < json_array_size(list); i++) {
		const char *type =
			json_string_value(json_object_get(json_array_get(list, i), "type"));
		if (type && !strcmp(type, "network"))
			json_array_remove(list, i--);
	}
	return 0;
}

int agt_spec_prepare(
	json_t *spec, const char *id, struct agt_spec_facts *ret, struct hf_err *reterr)
{
	char cgroup[600];
	*ret = (struct agt_spec_facts){ 0 };
	int r = agt_shape_check_spec("OciSpecification", spec, reterr);
	if (r < 0)
		return r;
	json_t *process = need_object(spec, "process", reterr);
	json_t *linux_part = process ? need_object(spec, "linux", reterr) : NULL;
	if (!linux_part || !need_object(spec, "root", reterr))
		return -EBADMSG;
	if (!json_is_string(json_object_get(json_object_get(spec, "root"), "path")))
		return hf_err_set(
			reterr, -EBADMSG, "OciSpecification.root.path: expected a string");
	r = read_pod(spec, id, ret, reterr);
	if (r == 0)
		r = read_hostname(spec, ret, reterr);
	if (r == 0)
		r = read_log(spec, ret, reterr);
	if (r == 0)
		r = read_network(spec, linux_part, ret, reterr);
	if (r < 0)
		return r;
	ret->tty = json_is_true(json_object_get(process, "terminal"));
	ret->own_pids = owns_pids(linux_part);
	(void)snprintf(cgroup, sizeof(cgroup),
		ret->kind == AGT_KIND_ALONE ? "/pods/%s" : "/pods/%s/%s", ret->sandbox, id);
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
