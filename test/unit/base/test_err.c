/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/err.h"
#include <errno.h>
#include <string.h>

static void test_set_and_prefix(void **state)
{
	(void)state;
	struct hf_err e = { 0 };
	assert_int_equal(hf_err_set(&e, -ENOENT, "no file %s", "x"), -ENOENT);
	assert_int_equal(hf_err_prefix(&e, "vm %d", 7), -ENOENT);
	assert_string_equal(e.text, "vm 7: no file x");
	assert_int_equal(hf_err_set(NULL, -EIO, "nobody listens"), -EIO);
}

static void test_long_text_is_cut_not_overrun(void **state)
{
	(void)state;
	struct hf_err e;
	char big[600];
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	(void)hf_err_set(&e, -EIO, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
	(void)hf_err_prefix(&e, "%s", big);
	assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_set_and_prefix),
		cmocka_unit_test(test_long_text_is_cut_not_overrun),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
