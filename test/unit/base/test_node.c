/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/node.h"
#include <errno.h>
#include <string.h>

static void test_names(void **state)
{
	(void)state;
	struct hf_err err;
	static const char *const bad[] = { "", ".", "..", ".x", "-x", "a/b", "a b", "ä",
		"123456789012345678901234567890123" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(hf_node_check("/n", bad[i], &err), -EINVAL);
	assert_int_equal(hf_node_check("/n", "A.b_c-9", &err), 0);
	assert_int_equal(hf_node_check("n", "a", &err), -EINVAL);
}

static void test_the_longest_node_still_fits_a_socket(void **state)
{
	(void)state;
	struct hf_err err;
	char node[128], path[HF_NODE_PATH_MAX];
	const char *name = "12345678901234567890123456789012";
	size_t max = 107 - 6 - HF_NODE_FILE_MAX - 32;
	memset(node, 'n', sizeof(node));
	node[0] = '/';
	node[max + 1] = '\0';
	assert_int_equal(hf_node_check(node, name, &err), -ENAMETOOLONG);
	node[max] = '\0';
	assert_int_equal(hf_node_check(node, name, &err), 0);
	assert_int_equal(strlen(hf_node_path(node, name, "12345678901234567890", path)), 107);
}

static void test_path(void **state)
{
	(void)state;
	char path[HF_NODE_PATH_MAX];
	assert_string_equal(hf_node_path("/n", "v", "qmp.sock", path), "/n/vms/v/qmp.sock");
	assert_string_equal(hf_node_path("/n", "v", "", path), "/n/vms/v");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_the_longest_node_still_fits_a_socket),
		cmocka_unit_test(test_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
