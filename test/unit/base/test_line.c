/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/line.h"
#include <errno.h>
#include <string.h>

static void test_lines_arrive_whole_at_every_split(void **state)
{
	(void)state;
	static const char text[] = "one\n\nthree\nrest";
	const size_t n = sizeof(text) - 1;
	for (size_t cut = 0; cut <= n; cut++) {
		struct hf_lines l;
		const char *want[] = { "one", "", "three" };
		char *line;
		size_t seen = 0;
		hf_lines_init(&l, 8);
		assert_int_equal(hf_lines_feed(&l, text, cut), 0);
		while (hf_lines_next(&l, &line) == 1)
			assert_string_equal(line, want[seen++]);
		assert_int_equal(hf_lines_feed(&l, text + cut, n - cut), 0);
		while (hf_lines_next(&l, &line) == 1)
			assert_string_equal(line, want[seen++]);
		assert_int_equal(seen, 3);
		const char *rest;
		assert_int_equal(hf_lines_rest(&l, &rest), 4);
		assert_memory_equal(rest, "rest", 4);
		assert_int_equal(hf_lines_next(&l, &line), 0);
		hf_lines_done(&l);
	}
}

static void test_limit_and_nul(void **state)
{
	(void)state;
	struct hf_lines l;
	char *line;
	hf_lines_init(&l, 4);
	assert_int_equal(hf_lines_feed(&l, "1234\n12345", 10), 0);
	assert_int_equal(hf_lines_next(&l, &line), 1);
	assert_int_equal(hf_lines_next(&l, &line), -EMSGSIZE); /* before its end has come */
	hf_lines_done(&l);
	hf_lines_init(&l, 4);
	assert_int_equal(hf_lines_feed(&l, "a\0b\n", 4), 0);
	assert_int_equal(hf_lines_next(&l, &line), -EBADMSG);
	hf_lines_done(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_arrive_whole_at_every_split),
		cmocka_unit_test(test_limit_and_nul),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
