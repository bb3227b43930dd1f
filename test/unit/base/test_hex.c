/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "base/bytes.h"
#include "base/hex.h"
#include <string.h>

static void test_hex_round_trip(void **state)
{
	(void)state;
	uint8_t in[3] = { 0x00, 0xa5, 0xff }, out[3];
	char text[7];
	hex_encode(in, 3, text);
	assert_string_equal(text, "00a5ff");
	assert_int_equal(hex_decode("00A5fF", out, 3), 0);
	assert_memory_equal(in, out, 3);
	assert_int_equal(hex_decode("00a5f", out, 3), -EINVAL);
	assert_int_equal(hex_decode("00a5ff0", out, 3), -EINVAL);
	assert_int_equal(hex_decode("00a5fg", out, 3), -EINVAL);
}

static void test_le_bytes(void **state)
{
	(void)state;
	uint8_t b[8];
	le64_to(b, 0x0102030405060708ull);
	assert_int_equal(b[0], 8);
	assert_int_equal(b[7], 1);
	assert_true(le64_at(b) == 0x0102030405060708ull);
	assert_int_equal(le32_get(le32_make(0xdeadbeef)), 0xdeadbeef);
	assert_int_equal(le16_get(le16_make(0xbeef)), 0xbeef);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hex_round_trip),
		cmocka_unit_test(test_le_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
