/* SPDX-License-Identifier: MIT */
/*
 * field.h - members of a JSON object by the rules of the bridge (docs/agent.md, "JSON"): names
 * match without regard to case, the last duplicate wins, null is as good as absent, and a value of
 * the wrong type or range is refused by name.
 *
 * Errors stick: read all members, then look at f->err.code once.
 */
#ifndef AGT_RPC_FIELD_H
#define AGT_RPC_FIELD_H

#include "base/err.h"
#include <jansson.h>

#define AGT_FIELD_NAME_MAX 128 /* bytes of a name that is kept, its end included */

struct agt_fields {
	const json_t *obj;  /* NULL: every member is absent */
	const char *prefix; /* how error texts call the object: "" or "Settings." */
	struct hf_err err;  /* the first refusal; code 0: none */
};

/* Parses a message. Accepts an object, or null for "all members absent" (*ret NULL); replaces
 * invalid UTF-8 by U+FFFD. -EBADMSG with a text on anything else. */
int agt_json_parse(const char *text, size_t len, json_t **ret, struct hf_err *reterr);

/* A value that is absent or null gives the default (NULL for objects and arrays). */
const json_t *agt_field(struct agt_fields *f, const char *name);
const char *agt_field_string(struct agt_fields *f, const char *name, const char *absent);
uint64_t agt_field_uint(struct agt_fields *f, const char *name, uint64_t max, uint64_t absent);
int64_t agt_field_int(
	struct agt_fields *f, const char *name, int64_t min, int64_t max, int64_t absent);
bool agt_field_bool(struct agt_fields *f, const char *name, bool absent);
json_t *agt_field_object(struct agt_fields *f, const char *name);
json_t *agt_field_array(struct agt_fields *f, const char *name);

/* The fields of a member that is an object; absent: all of its members are absent. The error is the
 * outer object's: pass it on with agt_fields_join(). */
struct agt_fields agt_field_fields(struct agt_fields *f, const char *name, const char *prefix);
void agt_fields_join(struct agt_fields *f, const struct agt_fields *inner);

/* A member that is a JSON text in a string. The caller owns *ret; absent or "": NULL. */
void agt_field_json(struct agt_fields *f, const char *name, json_t **ret);

/* The strings of an array, NULL at the end, as one block to be freed; absent: NULL. They are valid
 * as long as the JSON is. */
const char **agt_field_strings(struct agt_fields *f, const char *name);

#endif
