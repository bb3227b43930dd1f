/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "device/hello.h"
#include <errno.h>
#include <string.h>

static ssize_t parse(const char *text, uint32_t *port)
{
	return dev_hello_parse(text, strlen(text), port);
}

static void test_good_lines(void **state)
{
	(void)state;
	uint32_t port = 1;
	assert_int_equal(parse("CONNECT 1024\n", &port), 13);
	assert_int_equal(port, 1024);
	assert_int_equal(parse("connect 0\r\nrest", &port), 11);
	assert_int_equal(port, 0);
	assert_int_equal(parse("CONNECT 4294967295\nCONNECT 7\n", &port), 19);
	assert_int_equal(port, UINT32_MAX);
}

static void test_every_prefix_of_a_good_line_asks_for_more(void **state)
{
	(void)state;
	const char line[] = "CONNECT 52\n";
	uint32_t port = 77;
	for (size_t n = 0; n < sizeof(line) - 2; n++)
		assert_int_equal(dev_hello_parse(line, n, &port), 0);
	assert_int_equal(port, 77);
}

static void test_bad_lines(void **state)
{
	(void)state;
	static const char *const bad[] = { "\n", "CONNECT \n", "CONNECT \r\n", "CONNECT x\n",
		"CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 99999999999999999999\n",
		"CONNECT  1\n", "CONNECT 1 \n", "CONNECT 1 2\n", "GET / HTTP/1.1\r\n", "X",
		"CONNECT 1\r\r\n" };
	uint32_t port = 77;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(parse(bad[i], &port), -EINVAL);
	assert_int_equal(port, 77);
}

static void test_line_limit(void **state)
{
	(void)state;
	char line[DEV_HELLO_LINE_MAX + 2];
	uint32_t port;
	memset(line, '0', sizeof(line));
	memcpy(line, "CONNECT ", 8);
	assert_int_equal(dev_hello_parse(line, DEV_HELLO_LINE_MAX - 1, &port), 0);
	assert_int_equal(dev_hello_parse(line, DEV_HELLO_LINE_MAX, &port), -EMSGSIZE);
	line[DEV_HELLO_LINE_MAX] = '\n';
	assert_int_equal(dev_hello_parse(line, DEV_HELLO_LINE_MAX + 1, &port), -EMSGSIZE);
	line[DEV_HELLO_LINE_MAX - 1] = '\n';
	assert_int_equal(dev_hello_parse(line, DEV_HELLO_LINE_MAX, &port), DEV_HELLO_LINE_MAX);
	assert_int_equal(port, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_lines),
		cmocka_unit_test(test_every_prefix_of_a_good_line_asks_for_more),
		cmocka_unit_test(test_bad_lines),
		cmocka_unit_test(test_line_limit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
