/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "device/policy.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct dev_policies p;
static struct hf_err err;

static int set(const char *ports, const char *policy)
{
	err = (struct hf_err){ 0 };
	return dev_policy_set(&p, ports, policy, &err);
}

static void test_last_rule_counts(void **state)
{
	(void)state;
	p = (struct dev_policies){ 0 };
	assert_int_equal(dev_policy_of(&p, 1024), DEV_REATTACH); /* what a supervisor relies on */
	assert_int_equal(set("default", "reset"), 0);
	assert_int_equal(set("1000-1999", "reattach"), 0);
	assert_int_equal(set("1500", "reset"), 0);
	assert_int_equal(dev_policy_of(&p, 999), DEV_RESET);
	assert_int_equal(dev_policy_of(&p, 1000), DEV_REATTACH);
	assert_int_equal(dev_policy_of(&p, 1500), DEV_RESET);
	assert_int_equal(dev_policy_of(&p, 1999), DEV_REATTACH);
	assert_int_equal(dev_policy_of(&p, 2000), DEV_RESET);
	assert_int_equal(set("0-4294967295", "reattach"), 0); /* covers them all */
	assert_int_equal(p.n, 1);
	assert_int_equal(dev_policy_of(&p, 1500), DEV_REATTACH);
	assert_int_equal(dev_policy_of(&p, UINT32_MAX), DEV_REATTACH);
}

static void test_refusals(void **state)
{
	(void)state;
	static const char *const bad[] = { "", "-", "1-", "-1", "2-1", "1-2-3", "x", "1x",
		"4294967296", "1-4294967296", " 1", "99999999999999999999999" };
	p = (struct dev_policies){ 0 };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		assert_int_equal(set(bad[i], "reset"), -EINVAL);
		assert_non_null(strstr(err.text, "range"));
	}
	assert_int_equal(set("1", "keep"), -EINVAL);
	assert_non_null(strstr(err.text, "reattach"));
	assert_int_equal(p.n, 0);
}

static void test_limit(void **state)
{
	(void)state;
	char port[16];
	p = (struct dev_policies){ 0 };
	for (int i = 0; i < DEV_RULES_MAX; i++) {
		snprintf(port, sizeof(port), "%d", i);
		assert_int_equal(set(port, "reset"), 0);
	}
	assert_int_equal(set("5000", "reset"), -ENOSPC);
	assert_int_equal(set("7", "reattach"), 0); /* instead of the one before */
	assert_int_equal(dev_policy_of(&p, 7), DEV_REATTACH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_last_rule_counts),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
