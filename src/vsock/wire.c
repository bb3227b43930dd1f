/* SPDX-License-Identifier: MIT */
/*
 * wire.c - the packet header, virtio 1.2 5.10.6: 44 bytes, little-endian.
 *
 *    0  src_cid 8     8  dst_cid 8    16  src_port 4   20  dst_port 4   24  len 4
 *   28  type 2       30  op 2         32  flags 4      36  buf_alloc 4  40  fwd_cnt 4
 */
#include "vsock/vsock.h"

void vsk_pkt_decode(const uint8_t hdr[VSK_HDR_BYTES], struct vsk_pkt *ret_pkt)
{
	*ret_pkt = (struct vsk_pkt){
		.src_cid = le64_at(hdr),
		.dst_cid = le64_at(hdr + 8),
		.src_port = le32_at(hdr + 16),
		.dst_port = le32_at(hdr + 20),
		.len = le32_at(hdr + 24),
		.type = le16_at(hdr + 28),
		.op = le16_at(hdr + 30),
		.flags = le32_at(hdr + 32),
		.buf_alloc = le32_at(hdr + 36),
		.fwd_cnt = le32_at(hdr + 40),
	};
}

void vsk_pkt_encode(const struct vsk_pkt *pkt, uint8_t ret_hdr[VSK_HDR_BYTES])
{
	le64_to(ret_hdr, pkt->src_cid);
	le64_to(ret_hdr + 8, pkt->dst_cid);
	le32_to(ret_hdr + 16, pkt->src_port);
	le32_to(ret_hdr + 20, pkt->dst_port);
	le32_to(ret_hdr + 24, pkt->len);
	le16_to(ret_hdr + 28, pkt->type);
	le16_to(ret_hdr + 30, pkt->op);
	le32_to(ret_hdr + 32, pkt->flags);
	le32_to(ret_hdr + 36, pkt->buf_alloc);
	le32_to(ret_hdr + 40, pkt->fwd_cnt);
}
