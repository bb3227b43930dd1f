/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "supervisor/oci.h"
#include "supervisor/spec.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int parse(struct spec *s, const char *text, struct hf_err *err)
{
	json_t *config = json_loads(text, 0, NULL);
	assert_non_null(config);
	int r = spec_parse(s, config, err);
	json_decref(config);
	return r;
}

static void test_settings_are_checked(void **state)
{
	(void)state;
	static const char *const bad[] = { "{\"memory\": 63}", "{\"memory\": \"512\"}",
		"{\"memory\": 1.5}", "{\"cpus\": 0}", "{\"cid\": 2}", "{\"cid\": 4294967295}",
		"{\"accel\": \"xen\"}", "{\"accel\": 1}", "{\"kernel\": null}",
		"{\"colour\": \"red\"}" };
	struct spec s;
	struct hf_err err;
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(&s, bad[i], &err), -EINVAL);
	assert_int_equal(
		parse(&s, "{\"memory\": 64, \"cpus\": 64, \"cid\": 3, \"accel\": \"tcg\"}", &err),
		0);
	assert_int_equal(s.memory_mib, 64);
	assert_int_equal(s.accel, SPEC_TCG);
	assert_int_equal(spec_parse(&s, NULL, &err), 0);
	assert_int_equal(s.cid, 4);
}

static void test_what_is_saved_is_what_is_read(void **state)
{
	(void)state;
	struct spec s, t;
	struct hf_err err;
	assert_int_equal(
		parse(&s, "{\"memory\": 300, \"append\": \"a b\", \"kernel\": \"/k\"}", &err), 0);
	json_t *json = spec_json(&s);
	assert_int_equal(spec_parse(&t, json, &err), 0);
	json_t *again = spec_json(&t);
	assert_true(json_equal(json, again));
	json_decref(json);
	json_decref(again);
}

static void test_a_part_that_is_missing_is_named(void **state)
{
	(void)state;
	struct spec s;
	struct hf_err err;
	assert_int_equal(
		parse(&s,
			"{\"device\": \"/bin/sh\", \"module\": \"/bin/sh\", \"kernel\": \"/none\"}",
			&err),
		0);
	assert_int_equal(spec_check_parts(&s, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/none"));
	assert_non_null(strstr(err.text, "--kernel"));
}

static bool has(const struct spec_args *a, const char *flag, const char *value)
{
	for (size_t i = 0; i + 1 < a->n; i++)
		if (!strcmp(a->v[i], flag) && strstr(a->v[i + 1], value))
			return true;
	return false;
}

static void test_the_command_line(void **state)
{
	(void)state;
	struct spec s;
	struct hf_err err;
	struct spec_launch l = { .dir = "/n/vms/v", .mode = "disruptive" };
	assert_int_equal(
		parse(&s, "{\"memory\": 128, \"accel\": \"tcg\", \"module\": \"/m.so\"}", &err), 0);
	struct spec_args a = { 0 };
	spec_qemu_args(&s, &l, &a);
	assert_false(a.failed);
	assert_true(has(&a, "-plugin", "/m.so,mode=disruptive"));
	assert_true(has(&a, "-machine", "accel=tcg"));
	assert_true(has(&a, "-m", "128M"));
	assert_true(has(&a, "-object", "size=128M,share=on"));
	assert_false(has(&a, "-incoming", "defer"));
	spec_args_done(&a);

	s.accel = SPEC_KVM;
	l.incoming = true;
	spec_qemu_args(&s, &l, &a);
	assert_false(has(&a, "-plugin", "")); /* by LD_PRELOAD there */
	assert_true(has(&a, "-m", "128M"));
	assert_true(has(&a, "-incoming", "defer"));
	spec_args_done(&a);

	spec_device_args(&s, &l, &a);
	assert_true(
		has(&a, "--vm", "guest-cid=4,socket=/n/vms/v/device.sock,uds-path=/n/vms/v/vsock"));
	spec_args_done(&a);
}

static void test_processes(void **state)
{
	(void)state;
	static const char *const bad[] = { "{}", "{\"args\": []}", "{\"args\": [1]}",
		"{\"args\": \"ls\"}", "{\"args\": [\"a\"], \"env\": {}}",
		"{\"args\": [\"a\"], \"cwd\": 1}", "{\"args\": [\"a\"], \"user\": \"root\"}",
		"{\"args\": [\"a\"], \"user\": \"1:\"}", "{\"args\": [\"a\"], \"tty\": 1}" };
	struct hf_err err;
	json_t *p;
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		json_t *request = json_loads(bad[i], 0, NULL);
		assert_int_equal(oci_process(request, &p, &err), -EINVAL);
		json_decref(request);
	}
	json_t *request = json_loads(
		"{\"args\": [\"a\", \"b\"], \"env\": [\"X=1\"], \"user\": \"5:6\", \"tty\": true}",
		0, NULL);
	assert_int_equal(oci_process(request, &p, &err), 0);
	json_decref(request);
	assert_true(json_is_true(json_object_get(p, "terminal")));
	assert_int_equal(json_integer_value(json_object_get(json_object_get(p, "user"), "gid")), 6);
	json_t *spec = oci_spec("c1", p);
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "root"), "path")),
		"/run/gcs/c/c1/rootfs");
	json_decref(spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_settings_are_checked),
		cmocka_unit_test(test_what_is_saved_is_what_is_read),
		cmocka_unit_test(test_a_part_that_is_missing_is_named),
		cmocka_unit_test(test_the_command_line),
		cmocka_unit_test(test_processes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
