/* SPDX-License-Identifier: MIT */
#include "shape.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PATH_LEN_MAX 200 /* bytes of a member's path in an error text */

enum type { STRING, BOOLEAN, INTEGER, COUNT, U32 };

static const char *const expected[] = { "a string without NUL", "a boolean", "a whole number",
	"a whole number from 0", "a whole number from 0 to 4294967295" };

/* Steps down: .NAME is a member, [] is each element of an array, {} each member of an object. */
static const struct {
	const char *path;
	enum type type;
} shapes[] = {
	{ ".ociVersion", STRING },
	{ ".hostname", STRING },
	{ ".annotations{}", STRING },
	{ ".process.terminal", BOOLEAN },
	{ ".process.cwd", STRING },
	{ ".process.args[]", STRING },
	{ ".process.env[]", STRING },
	{ ".process.user.username", STRING },
	{ ".process.user.uid", U32 },
	{ ".process.user.gid", U32 },
	{ ".process.user.umask", U32 },
	{ ".process.user.additionalGids[]", U32 },
	{ ".process.capabilities{}[]", STRING },
	{ ".process.rlimits[].type", STRING },
	{ ".process.rlimits[].soft", COUNT },
	{ ".process.rlimits[].hard", COUNT },
	{ ".process.noNewPrivileges", BOOLEAN },
	{ ".process.oomScoreAdj", INTEGER },
	{ ".root.path", STRING },
	{ ".root.readonly", BOOLEAN },
	{ ".mounts[].destination", STRING },
	{ ".mounts[].type", STRING },
	{ ".mounts[].source", STRING },
	{ ".mounts[].options[]", STRING },
	{ ".linux.cgroupsPath", STRING },
	{ ".linux.rootfsPropagation", STRING },
	{ ".linux.sysctl{}", STRING },
	{ ".linux.maskedPaths[]", STRING },
	{ ".linux.readonlyPaths[]", STRING },
	{ ".linux.namespaces[].type", STRING },
	{ ".linux.namespaces[].path", STRING },
	{ ".linux.devices[].path", STRING },
	{ ".linux.devices[].type", STRING },
	{ ".linux.devices[].major", INTEGER },
	{ ".linux.devices[].minor", INTEGER },
	{ ".linux.devices[].fileMode", U32 },
	{ ".linux.devices[].uid", U32 },
	{ ".linux.devices[].gid", U32 },
	{ ".linux.resources.devices[].allow", BOOLEAN },
	{ ".linux.resources.devices[].type", STRING },
	{ ".linux.resources.devices[].access", STRING },
	{ ".linux.resources.devices[].major", INTEGER },
	{ ".linux.resources.devices[].minor", INTEGER },
	{ ".windows.network.networkNamespace", STRING },
};

struct walk {
	enum type type;
	char at[PATH_LEN_MAX]; /* the member's path so far; cut when it is longer */
	struct hf_err *reterr;
};

static int refuse(const struct walk *w, const char *what)
{
	return hf_err_set(w->reterr, -EBADMSG, "%s: expected %s", w->at, what);
}

static bool is_a(const json_t *v, enum type type)
{
	switch (type) {
	case STRING:
		return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v);
	case BOOLEAN:
		return json_is_boolean(v);
	case INTEGER:
		return json_is_integer(v);
	default:
		return json_is_integer(v) && json_integer_value(v) >= 0 &&
		       (type == COUNT || json_integer_value(v) <= UINT32_MAX);
	}
}

static int check(struct walk *w, const json_t *v, const char *rest);

/* A value one step further down, which has this name. */
static int check_below(struct walk *w, const json_t *v, const char *rest, const char *fmt, ...)
	HF_PRINTF(4, 5);
static int check_below(struct walk *w, const json_t *v, const char *rest, const char *fmt, ...)
{
	size_t n = strlen(w->at);
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(w->at + n, sizeof(w->at) - n, fmt, ap); /* cut: only a text */
	va_end(ap);
	int r = check(w, v, rest);
	w->at[n] = '\0';
	return r;
}

/* The value, and what is left of its path: "", or a step and the rest. */
static int check(struct walk *w, const json_t *v, const char *rest)
{
	const char *key;
	json_t *inner;
	size_t i;
	int r = 0;
	if (!v || json_is_null(v))
		return 0;
	if (*rest == '\0')
		return is_a(v, w->type) ? 0 : refuse(w, expected[w->type]);
	if (*rest == '[') {
		if (!json_is_array(v))
			return refuse(w, "an array");
		for (i = 0; r == 0 && i < json_array_size(v); i++)
			r = check_below(w, json_array_get(v, i), rest + 2, "[%zu]", i);
		return r;
	}
	if (!json_is_object(v))
		return refuse(w, "an object");
	if (*rest == '{') {
		json_object_foreach ((json_t *)v, key, inner)
			r = r < 0 ? r : check_below(w, inner, rest + 2, ".%.100s", key);
		return r;
	}
	int n = (int)strcspn(++rest, ".[{");
	return check_below(w, json_object_getn(v, rest, (size_t)n), rest + n, ".%.*s", n, rest);
}

/* All shapes that begin with the prefix, on the value that it stands for. */
static int check_all(const char *name, const char *prefix, const json_t *v, struct hf_err *reterr)
{
	size_t n = strlen(prefix);
	int r = 0;
	for (size_t i = 0; r == 0 && i < HF_ARRAY_SIZE(shapes); i++) {
		struct walk w = { .type = shapes[i].type, .reterr = reterr };
		(void)snprintf(w.at, sizeof(w.at), "%s", name);
		if (!strncmp(shapes[i].path, prefix, n))
			r = check(&w, v, shapes[i].path + n);
	}
	return r;
}

int agt_shape_check_spec(const char *name, const json_t *spec, struct hf_err *reterr)
{
	return check_all(name, "", spec, reterr);
}

int agt_shape_check_process(const char *name, const json_t *process, struct hf_err *reterr)
{
	return check_all(name, ".process", process, reterr);
}
