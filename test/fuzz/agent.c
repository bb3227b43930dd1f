/* SPDX-License-Identifier: MIT */
/* agent.c - a host's payload through everything that reads one: JSON, members of every type, a text
 * in a string, a specification, a command line, a path. */
#include "agent/oci/spec.h"
#include "agent/proc/words.h"
#include "agent/rpc/field.h"
#include "agent/storage/tree.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_members(const json_t *obj)
{
	static const char *const names[] = { "ContainerId", "ProcessId", "Settings", "Layers",
		"a" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(names); i++) {
		struct agt_fields f = { .obj = obj, .prefix = "" };
		json_t *inner = NULL;
		const char *text = agt_field_string(&f, names[i], "");
		hf_assert(text && (f.err.code == 0 || f.err.text[0]));
		f.err.code = 0;
		hf_assert(agt_field_uint(&f, names[i], UINT32_MAX, 7) <= UINT32_MAX);
		(void)agt_field_bool(&f, names[i], false);
		struct agt_fields g = agt_field_fields(&f, names[i], "x.");
		(void)agt_field_int(&g, names[0], -5, 5, 0);
		f.err.code = 0;
		free(agt_field_strings(&f, names[i]));
		f.err.code = 0;
		agt_field_json(&f, names[i], &inner);
		json_decref(inner);
		size_t n = 0;
		char **words = agt_words_split(text, &n);
		hf_assert(!words || !words[n]);
		free(words);
		(void)agt_path_allowed(text);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hf_err err = { 0 };
	struct agt_spec_facts facts;
	json_t *v = NULL;
	if (agt_json_parse((const char *)data, size, &v, &err) < 0) {
		hf_assert(!v && err.code < 0 && err.text[0]);
		return 0;
	}
	read_members(v);
	if (v)
		(void)agt_spec_prepare(v, "id", &facts, &err); /* refuses or changes, never fails */
	json_decref(v);
	return 0;
}
