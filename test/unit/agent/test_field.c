/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "agent/rpc/field.h"
#include <errno.h>
#include <string.h>

static json_t *parsed;

static struct agt_fields fields(const char *text)
{
	struct hf_err err = { 0 };
	json_decref(parsed);
	parsed = NULL;
	assert_int_equal(agt_json_parse(text, strlen(text), &parsed, &err), 0);
	return (struct agt_fields){ .obj = parsed, .prefix = "X." };
}

static int teardown(void **state)
{
	(void)state;
	json_decref(parsed);
	parsed = NULL;
	return 0;
}

static void test_names_and_nulls(void **state)
{
	(void)state;
	struct agt_fields f = fields("{\"aB\":\"1\",\"AB\":\"2\",\"ab\":null,\"c\":null}");
	assert_string_equal(agt_field_string(&f, "ab", "none"), "none"); /* the last one: null */
	f = fields("{\"ab\":null,\"aB\":\"1\",\"AB\":\"2\"}");
	assert_string_equal(agt_field_string(&f, "Ab", "none"), "2");
	assert_int_equal(agt_field_uint(&f, "c", 9, 7), 7);
	assert_true(agt_field_bool(&f, "absent", true));
	assert_null(agt_field_object(&f, "absent"));
	assert_int_equal(f.err.code, 0);
	f = fields("null"); /* an all-default message */
	assert_null(f.obj);
	assert_int_equal(agt_field_uint(&f, "a", 9, 3), 3);
}

static void test_wrong_types_are_named(void **state)
{
	(void)state;
	const char *text =
		"{\"s\":1,\"u\":\"1\",\"r\":1.0,\"b\":0,\"o\":[],\"a\":{},\"z\":\"a\\u0000b\"}";
	struct agt_fields f = fields(text);
	assert_string_equal(agt_field_string(&f, "s", ""), "");
	assert_string_equal(f.err.text, "X.s: expected a string without NUL, got a number");
	(void)agt_field_uint(&f, "u", 9, 0); /* the first error stays */
	assert_non_null(strstr(f.err.text, "X.s"));
	f = fields(text);
	(void)agt_field_uint(&f, "u", 9, 0);
	assert_string_equal(f.err.text, "X.u: expected a whole number from 0 to 9, got a string");
	f = fields(text);
	(void)agt_field_uint(&f, "r", 9, 0);
	assert_int_equal(f.err.code, -EBADMSG);
	f = fields(text);
	(void)agt_field_bool(&f, "b", false);
	assert_int_equal(f.err.code, -EBADMSG);
	f = fields(text);
	assert_null(agt_field_object(&f, "o"));
	assert_string_equal(f.err.text, "X.o: expected an object, got an array");
	f = fields(text);
	assert_null(agt_field_array(&f, "a"));
	assert_int_equal(f.err.code, -EBADMSG);
	f = fields(text);
	(void)agt_field_string(&f, "z", "");
	assert_int_equal(f.err.code, -EBADMSG);
}

static void test_ranges(void **state)
{
	(void)state;
	struct agt_fields f = fields("{\"a\":4294967295,\"b\":4294967296,\"c\":-1}");
	assert_int_equal(agt_field_uint(&f, "a", UINT32_MAX, 0), UINT32_MAX);
	assert_int_equal(f.err.code, 0);
	(void)agt_field_uint(&f, "b", UINT32_MAX, 0);
	assert_non_null(strstr(f.err.text, "got 4294967296"));
	f = fields("{\"c\":-1}");
	assert_int_equal(agt_field_int(&f, "c", -1, 1, 0), -1);
	(void)agt_field_uint(&f, "c", 9, 0);
	assert_int_equal(f.err.code, -EBADMSG);
}

static void test_json_in_strings_and_lists(void **state)
{
	(void)state;
	json_t *inner;
	struct agt_fields f =
		fields("{\"j\":\"{\\\"k\\\":1}\",\"e\":\"\",\"bad\":\"{\",\"l\":[\"a\",\"b\"],"
		       "\"m\":[1]}");
	agt_field_json(&f, "j", &inner);
	assert_int_equal(json_integer_value(json_object_get(inner, "k")), 1);
	json_decref(inner);
	agt_field_json(&f, "e", &inner);
	assert_null(inner);
	const char **list = agt_field_strings(&f, "l");
	assert_string_equal(list[1], "b");
	assert_null(list[2]);
	free(list);
	assert_int_equal(f.err.code, 0);
	agt_field_json(&f, "bad", &inner);
	assert_null(inner);
	assert_non_null(strstr(f.err.text, "X.bad: message is not JSON"));
	f = fields("{\"m\":[1]}");
	assert_null(agt_field_strings(&f, "m"));
	assert_int_equal(f.err.code, -EBADMSG);
}

static void test_parse(void **state)
{
	(void)state;
	static const char *const bad[] = { "", " ", "{", "[]", "1", "\"x\"", "{} x", "{\"a\":01}",
		"{\"a\":99999999999999999999}", "nul" };
	struct hf_err err = { 0 };
	json_t *v = NULL;
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		assert_int_equal(agt_json_parse(bad[i], strlen(bad[i]), &v, &err), -EBADMSG);
		assert_null(v);
	}
	/* bytes that are no UTF-8 become U+FFFD: lone, cut short, overlong, a surrogate, too large
	 */
	static const char junk[] = "{\"a\":\"x\xff\xe2\x82\xc0\xaf\xed\xa0\x80\xf5z\"}";
	assert_int_equal(agt_json_parse(junk, strlen(junk), &v, &err), 0);
	const char *text = json_string_value(json_object_get(v, "a"));
	assert_int_equal(strlen(text), 2 + 9 * 3);
	assert_memory_equal(text, "x\xef\xbf\xbd", 4);
	json_decref(v);
	static const char good[] = "{\"a\":\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"}";
	assert_int_equal(agt_json_parse(good, strlen(good), &v, &err), 0);
	assert_int_equal(json_string_length(json_object_get(v, "a")), 9);
	json_decref(v);
}

static void test_deep_nesting_is_refused(void **state)
{
	(void)state;
	size_t n = 1000000;
	struct hf_err err = { 0 };
	json_t *v = NULL;
	char *text = malloc(n);
	assert_non_null(text);
	memset(text, '[', n);
	assert_int_equal(agt_json_parse(text, n, &v, &err), -EBADMSG);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_names_and_nulls, teardown),
		cmocka_unit_test_teardown(test_wrong_types_are_named, teardown),
		cmocka_unit_test_teardown(test_ranges, teardown),
		cmocka_unit_test_teardown(test_json_in_strings_and_lists, teardown),
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_deep_nesting_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
