/* SPDX-License-Identifier: MIT */
#include "field.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *type_name(const json_t *v)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT:
		return "an object";
	case JSON_ARRAY:
		return "an array";
	case JSON_STRING:
		return "a string";
	case JSON_INTEGER:
	case JSON_REAL:
		return "a number";
	case JSON_TRUE:
	case JSON_FALSE:
		return "a boolean";
	default:
		return "null";
	}
}

/* Length of the valid UTF-8 sequence at p, 0 when there is none. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	static const struct {
		unsigned char mask, head;
		uint32_t min;
	} forms[] = { { 0x80, 0x00, 0 }, { 0xe0, 0xc0, 0x80 }, { 0xf0, 0xe0, 0x800 },
		{ 0xf8, 0xf0, 0x10000 } };
	for (size_t k = 0; k < HF_ARRAY_SIZE(forms) && k < n; k++) {
		if ((p[0] & forms[k].mask) != forms[k].head)
			continue;
		uint32_t c = p[0] & (unsigned char)~forms[k].mask;
		for (size_t i = 1; i <= k; i++) {
			if ((p[i] & 0xc0) != 0x80)
				return 0;
			c = c << 6 | (p[i] & 0x3fu);
		}
		bool ok = c >= forms[k].min && c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);
		return ok ? k + 1 : 0;
	}
	return 0;
}

static bool utf8_valid(const char *text, size_t len)
{
	for (size_t i = 0, k; i < len; i += k) {
		k = utf8_len((const unsigned char *)text + i, len - i);
		if (k == 0)
			return false;
	}
	return true;
}

/* A copy with each byte that is no UTF-8 replaced by U+FFFD; NULL without memory. */
static char *utf8_repair(const char *text, size_t len, size_t *ret_len)
{
	char *out = malloc(3 * len + 1);
	size_t n = 0;
	for (size_t i = 0; out && i < len;) {
		size_t k = utf8_len((const unsigned char *)text + i, len - i);
		memcpy(out + n, k ? text + i : "\xef\xbf\xbd", k ? k : 3);
		n += k ? k : 3;
		i += k ? k : 1;
	}
	*ret_len = n;
	return out;
}

int agt_json_parse(const char *text, size_t len, json_t **ret, struct hf_err *reterr)
{
	HF_CLEANUP(hf_freep) char *repaired = NULL;
	json_error_t je;
	if (!utf8_valid(text, len)) {
		repaired = utf8_repair(text, len, &len);
		if (!repaired)
			return hf_err_set(reterr, -ENOMEM, "message: no memory to parse it");
		text = repaired;
	}
	json_t *v = json_loadb(text, len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
	if (!v)
		return hf_err_set(reterr, -EBADMSG, "message is not JSON: %s (at byte %d)", je.text,
			je.position);
	if (json_is_null(v)) {
		json_decref(v);
		v = NULL;
	} else if (!json_is_object(v)) {
		const char *what = type_name(v);
		json_decref(v);
		return hf_err_set(reterr, -EBADMSG, "message: expected an object, got %s", what);
	}
	*ret = v;
	return 0;
}

static void refuse(struct agt_fields *f, const char *name, const char *expected, const json_t *v)
{
	if (f->err.code == 0)
		(void)hf_err_set(&f->err, -EBADMSG, "%s%s: expected %s, got %s", f->prefix, name,
			expected, type_name(v));
}

const json_t *agt_field(struct agt_fields *f, const char *name)
{
	const json_t *found = NULL;
	const char *key;
	json_t *v;
	if (!f->obj)
		return NULL;
	json_object_foreach ((json_t *)f->obj, key, v)
		if (!strcasecmp(key, name))
			found = v;
	return found && !json_is_null(found) ? found : NULL;
}

const char *agt_field_string(struct agt_fields *f, const char *name, const char *absent)
{
	const json_t *v = agt_field(f, name);
	if (!v)
		return absent;
	if (json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v))
		return json_string_value(v);
	refuse(f, name, "a string without NUL", v);
	return absent;
}

int64_t agt_field_int(
	struct agt_fields *f, const char *name, int64_t min, int64_t max, int64_t absent)
{
	char expected[80];
	const json_t *v = agt_field(f, name);
	if (!v)
		return absent;
	if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max)
		return json_integer_value(v);
	(void)snprintf(expected, sizeof(expected), "a whole number from %lld to %lld",
		(long long)min, (long long)max);
	if (f->err.code == 0 && json_is_integer(v))
		(void)hf_err_set(&f->err, -EBADMSG, "%s%s: expected %s, got %lld", f->prefix, name,
			expected, (long long)json_integer_value(v));
	refuse(f, name, expected, v);
	return absent;
}

uint64_t agt_field_uint(struct agt_fields *f, const char *name, uint64_t max, uint64_t absent)
{
	hf_assert(max <= INT64_MAX && absent <= INT64_MAX);
	return (uint64_t)agt_field_int(f, name, 0, (int64_t)max, (int64_t)absent);
}

bool agt_field_bool(struct agt_fields *f, const char *name, bool absent)
{
	const json_t *v = agt_field(f, name);
	if (!v)
		return absent;
	if (!json_is_boolean(v))
		refuse(f, name, "a boolean", v);
	return json_is_true(v);
}

json_t *agt_field_object(struct agt_fields *f, const char *name)
{
	const json_t *v = agt_field(f, name);
	if (!v || json_is_object(v))
		return (json_t *)v;
	refuse(f, name, "an object", v);
	return NULL;
}

json_t *agt_field_array(struct agt_fields *f, const char *name)
{
	const json_t *v = agt_field(f, name);
	if (!v || json_is_array(v))
		return (json_t *)v;
	refuse(f, name, "an array", v);
	return NULL;
}

struct agt_fields agt_field_fields(struct agt_fields *f, const char *name, const char *prefix)
{
	return (struct agt_fields){ .obj = agt_field_object(f, name), .prefix = prefix };
}

void agt_fields_join(struct agt_fields *f, const struct agt_fields *inner)
{
	if (f->err.code == 0)
		f->err = inner->err;
}

void agt_field_json(struct agt_fields *f, const char *name, json_t **ret)
{
	*ret = NULL;
	const char *text = agt_field_string(f, name, "");
	if (f->err.code != 0 || text[0] == '\0')
		return;
	if (agt_json_parse(text, strlen(text), ret, &f->err) < 0)
		(void)hf_err_prefix(&f->err, "%s%s", f->prefix, name);
}

const char **agt_field_strings(struct agt_fields *f, const char *name)
{
	json_t *array = agt_field_array(f, name), *v;
	size_t i;
	if (!array)
		return NULL;
	const char **list = calloc(json_array_size(array) + 1, sizeof(*list));
	if (!list) {
		if (f->err.code == 0)
			(void)hf_err_set(&f->err, -ENOMEM, "%s%s: no memory", f->prefix, name);
		return NULL;
	}
	json_array_foreach (array, i, v) {
		if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
			refuse(f, name, "an array of strings", v);
		else
			list[i] = json_string_value(v);
	}
	if (f->err.code != 0) {
		free(list);
		return NULL;
	}
	return list;
}
