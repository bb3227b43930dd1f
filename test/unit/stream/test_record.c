/* SPDX-License-Identifier: MIT */
/* The record of a stream: refused whole or applied whole. */
#include "pair.h"

/* A stream in the middle of everything: half a frame in, half a frame out, both windows in use. */
static size_t busy_record(uint8_t record[1024])
{
	struct end a, b;
	end_init(&a, true, 64, 32, 1000);
	end_init(&b, false, 128, 64, 1000);
	pair_connect(&a, &b);
	for (int i = 0; i < 1000 && !(a.rs.out_data > 0 && a.rs.in_data > 0 && i > 40); i++) {
		end_run(&a, 1);
		end_run(&b, 1);
		end_send(&a, 13);
		end_send(&b, 13);
		end_arrive(&b, &a, 11);
		end_arrive(&a, &b, 11);
	}
	assert_true(a.rs.out_data > 0 && a.rs.in_data > 0);
	ssize_t n = rs_save(&a.rs, record, 1024);
	assert_true(n > 0);
	assert_int_equal(rs_save(&a.rs, record, (size_t)n - 1), -ENOSPC);
	return (size_t)rs_save(&a.rs, record, 1024);
}

static void test_every_truncation_is_refused(void **state)
{
	(void)state;
	uint8_t record[1024], tx[64], rx[32];
	size_t n = busy_record(record);
	struct rs rs = { 0 }, before = rs;
	for (size_t k = 0; k < n; k++) {
		assert_int_equal(rs_load(&rs, record, k, tx, 64, rx, 32), -EBADMSG);
		assert_memory_equal(&rs, &before, sizeof(rs));
	}
	assert_int_equal(rs_load(&rs, record, n + 1, tx, 64, rx, 32), -EBADMSG);
	assert_int_equal(rs_load(&rs, record, n, tx, 64, rx, 16), -ENOSPC);
	assert_int_equal(rs_load(&rs, record, n, tx, 1, rx, 32), -ENOSPC);
	assert_int_equal(rs_load(&rs, record, n, tx, 64, rx, 32), 0);
}

/* Whatever a damaged record says, the stream that it makes does not break. */
static void test_every_damaged_byte_is_survived(void **state)
{
	(void)state;
	static const uint8_t values[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	uint8_t record[1024], tx[64], rx[32], noise[300];
	size_t n = busy_record(record);
	size_t refused = 0, loaded = 0;
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)(i * 7);
	for (size_t at = 0; at < n; at++)
		for (size_t v = 0; v < sizeof(values); v++) {
			uint8_t old = record[at];
			record[at] = values[v];
			struct rs rs;
			struct iovec iov[RS_OUTPUT_IOV];
			if (rs_load(&rs, record, n, tx, 64, rx, 32) < 0) {
				refused++;
			} else {
				loaded++;
				(void)rs_output(&rs, iov); /* must not trap, whatever it says */
				if (rs.attached)
					(void)rs_input(&rs, noise, sizeof(noise));
				(void)rs_write(&rs, noise, sizeof(noise));
				rs_take(&rs, hf_ring_len(&rs.rx));
				rs_attach(&rs);
				(void)rs_output(&rs, iov);
			}
			record[at] = old;
		}
	assert_true(refused > 100 && loaded > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_truncation_is_refused),
		cmocka_unit_test(test_every_damaged_byte_is_survived),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
