/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "device/guard.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct dev_guard guard;
static struct hf_err err;

static int set(const char *key, const char *value)
{
	err = (struct hf_err){ 0 };
	return dev_guard_set(&guard, key, value, &err);
}

static void test_values(void **state)
{
	(void)state;
	guard = dev_guard_default();
	assert_int_equal(guard.mode, 0600);
	assert_int_equal(set("mode", "0660"), 0);
	assert_int_equal(guard.mode, 0660);
	assert_int_equal(set("owner", "12"), 0);
	assert_true(guard.owned && guard.owner == 12 && guard.group == UINT32_MAX);
	assert_int_equal(set("owner", "12:34"), 0);
	assert_int_equal(guard.group, 34);
	assert_int_equal(set("max-connections", "7"), 0);
	assert_int_equal(set("rate-bytes", "4294967295"), 0);
	assert_int_equal(set("rate-connections", "1"), 0);
	assert_int_equal(guard.max_conns, 7);
	assert_int_equal(guard.rate_bytes, UINT32_MAX);
	assert_int_equal(guard.rate_conns, 1);
	assert_int_equal(set("nonsense", "1"), -ENOKEY);
}

static void test_wrong_values(void **state)
{
	(void)state;
	static const char *const wrong[][2] = { { "mode", "0888" }, { "mode", "1000" },
		{ "mode", "" }, { "mode", "-1" }, { "owner", "" }, { "owner", "root" },
		{ "owner", "1:" }, { "owner", "1:2:3" }, { "owner", "4294967295" },
		{ "allow-uid", "" }, { "allow-uid", "1+" }, { "allow-uid", "1,2" },
		{ "guest-ports", "" }, { "guest-ports", "2-1" }, { "guest-ports", "1-" },
		{ "host-ports", "4294967296" }, { "host-ports", "1-2-3" }, { "host-ports", "+1" },
		{ "max-connections", "0" }, { "rate-bytes", "0" }, { "rate-bytes", " 1" },
		{ "rate-bytes", "1k" }, { "rate-connections", "4294967296" } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(wrong); i++) {
		guard = dev_guard_default();
		assert_int_equal(set(wrong[i][0], wrong[i][1]), -EINVAL);
		assert_non_null(strstr(err.text, wrong[i][0]));
	}
}

static void test_ports(void **state)
{
	(void)state;
	guard = dev_guard_default();
	assert_true(dev_ports_allow(&guard.guest_ports, 0));
	assert_int_equal(set("guest-ports", "22+1024-2000+4294967295"), 0);
	static const struct {
		uint32_t port;
		bool allowed;
	} cases[] = { { 0, false }, { 21, false }, { 22, true }, { 23, false }, { 1023, false },
		{ 1024, true }, { 2000, true }, { 2001, false }, { UINT32_MAX - 1, false },
		{ UINT32_MAX, true } };
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++)
		assert_int_equal(
			dev_ports_allow(&guard.guest_ports, cases[i].port), cases[i].allowed);
	assert_true(dev_ports_allow(&guard.host_ports, 5)); /* the other direction is its own */
}

/* At the limit, and at limit + 1. */
static void test_how_many(void **state)
{
	(void)state;
	char text[1024] = "1";
	guard = dev_guard_default();
	for (int i = 2; i <= DEV_PORT_RANGES_MAX; i++)
		(void)snprintf(text + strlen(text), 8, "+%d", i); /* fits */
	assert_int_equal(set("host-ports", text), 0);
	assert_int_equal(set("host-ports", strcat(text, "+99")), -EINVAL);
	strcpy(text, "1");
	for (int i = 2; i <= DEV_UIDS_MAX; i++)
		(void)snprintf(text + strlen(text), 8, "+%d", i); /* fits */
	assert_int_equal(set("allow-uid", text), 0);
	assert_true(dev_guard_allows_uid(&guard, DEV_UIDS_MAX));
	assert_false(dev_guard_allows_uid(&guard, DEV_UIDS_MAX + 1));
	assert_int_equal(set("allow-uid", strcat(text, "+99")), -EINVAL);
}

static void test_bucket(void **state)
{
	(void)state;
	struct dev_bucket b;
	uint64_t now = 5000000;
	dev_bucket_init(&b, 1000, 1, now); /* 100 at once */
	assert_int_equal(dev_bucket_opens(&b, now), 0);
	dev_bucket_take(&b, 100);
	assert_int_equal(dev_bucket_opens(&b, now), now + 1000);
	assert_int_equal(dev_bucket_opens(&b, now + 999), now + 1000);
	assert_int_equal(dev_bucket_opens(&b, now + 1000), 0);
	dev_bucket_take(&b, 501); /* far below zero */
	assert_int_equal(dev_bucket_opens(&b, now + 1000), now + 502000);
	assert_int_equal(dev_bucket_opens(&b, now + 502000), 0);
	assert_int_equal(dev_bucket_opens(&b, UINT64_MAX / 2),
		0); /* no overflow, and no more than the cap */
	assert_int_equal(b.tokens, 100);
	dev_bucket_init(&b, 0, 1, now);
	dev_bucket_take(&b, UINT32_MAX);
	assert_int_equal(dev_bucket_opens(&b, now), 0);
}

/* However often it is asked, the rate is kept to the token. */
static void test_bucket_does_not_drift(void **state)
{
	(void)state;
	struct dev_bucket b;
	uint64_t taken = 0;
	dev_bucket_init(&b, 7, 1, 0);
	for (uint64_t now = 0; now < 10000000; now += 313)
		if (dev_bucket_opens(&b, now) == 0) {
			dev_bucket_take(&b, 1);
			taken++;
		}
	assert_in_range(taken, 70, 71);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_wrong_values),
		cmocka_unit_test(test_ports),
		cmocka_unit_test(test_how_many),
		cmocka_unit_test(test_bucket),
		cmocka_unit_test(test_bucket_does_not_drift),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
