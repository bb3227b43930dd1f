/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "migrate/blob.h"
#include <errno.h>

static void test_crc_is_the_usual_one(void **state)
{
	(void)state;
	assert_int_equal(mig_crc32(0, "123456789", 9), 0xcbf43926); /* the check value of CRC-32 */
	assert_int_equal(mig_crc32(mig_crc32(0, "1234", 4), "56789", 5), 0xcbf43926);
	assert_int_equal(mig_crc32(0, "", 0), 0);
}

static void test_only_whole_and_unharmed(void **state)
{
	(void)state;
	struct mig_blob b = { 0 };
	struct hf_err err;
	assert_int_equal(mig_blob_chunk(&b, 0, "x", 1, &err), -EINVAL);
	assert_int_equal(mig_blob_check(&b, &err), -ENODATA);
	assert_int_equal(mig_blob_begin(&b, 9, 0xcbf43926, &err), 0);
	assert_int_equal(mig_blob_chunk(&b, 0, "1234", 4, &err), 0);
	assert_int_equal(mig_blob_chunk(&b, 3, "4567", 4, &err), -EINVAL);   /* again */
	assert_int_equal(mig_blob_chunk(&b, 5, "67", 2, &err), -EINVAL);     /* a gap */
	assert_int_equal(mig_blob_chunk(&b, 4, "56789a", 6, &err), -EINVAL); /* too much */
	assert_int_equal(mig_blob_check(&b, &err), -ENODATA);
	assert_int_equal(mig_blob_chunk(&b, 4, "56789", 5, &err), 0);
	assert_int_equal(mig_blob_check(&b, &err), 0);
	b.data[4] ^= 1;
	assert_int_equal(mig_blob_check(&b, &err), -EBADMSG);
	mig_blob_done(&b);
	assert_int_equal(mig_blob_begin(&b, MIG_BLOB_MAX + 1ull, 0, &err), -EMSGSIZE);
	assert_int_equal(mig_blob_begin(&b, MIG_BLOB_MAX, 0, &err), 0);
	assert_int_equal(mig_blob_begin(&b, 0, 0, &err), 0); /* a new one frees the old */
	assert_int_equal(mig_blob_check(&b, &err), 0);
	mig_blob_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc_is_the_usual_one),
		cmocka_unit_test(test_only_whole_and_unharmed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
