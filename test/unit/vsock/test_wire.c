/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "vsock/vsock.h"

static void test_layout(void **state)
{
	(void)state;
	uint8_t hdr[VSK_HDR_BYTES];
	for (int i = 0; i < VSK_HDR_BYTES; i++)
		hdr[i] = (uint8_t)(i + 1);
	struct vsk_pkt p;
	vsk_pkt_decode(hdr, &p); /* D2.4 */
	assert_true(p.src_cid == 0x0807060504030201u);
	assert_true(p.dst_cid == 0x100f0e0d0c0b0a09u);
	assert_int_equal(p.src_port, 0x14131211);
	assert_int_equal(p.dst_port, 0x18171615);
	assert_int_equal(p.len, 0x1c1b1a19);
	assert_int_equal(p.type, 0x1e1d);
	assert_int_equal(p.op, 0x201f);
	assert_int_equal(p.flags, 0x24232221);
	assert_int_equal(p.buf_alloc, 0x28272625);
	assert_int_equal(p.fwd_cnt, 0x2c2b2a29);
	uint8_t back[VSK_HDR_BYTES];
	vsk_pkt_encode(&p, back);
	assert_memory_equal(back, hdr, sizeof(hdr));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_layout) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
