/* SPDX-License-Identifier: MIT */
#include "blob.h"
#include <errno.h>
#include <string.h>

/* CRC-32 of IEEE 802.3, four bits at a time: the table is small enough to be read. */
uint32_t mig_crc32(uint32_t crc, const void *data, size_t n)
{
	static const uint32_t table[16] = { 0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
		0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8,
		0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };
	const uint8_t *p = data;
	crc = ~crc;
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

int mig_blob_begin(struct mig_blob *b, uint64_t size, uint32_t crc, struct hf_err *reterr)
{
	if (size > MIG_BLOB_MAX)
		return hf_err_set(reterr, -EMSGSIZE,
			"%llu bytes are announced, at most %d are taken", (unsigned long long)size,
			MIG_BLOB_MAX);
	uint8_t *data = malloc(size > 0 ? size : 1);
	if (!data)
		return hf_err_set(
			reterr, -ENOMEM, "no memory for %llu bytes", (unsigned long long)size);
	mig_blob_done(b);
	*b = (struct mig_blob){ .data = data, .size = size, .crc = crc };
	return 0;
}

int mig_blob_chunk(
	struct mig_blob *b, uint64_t offset, const void *data, size_t n, struct hf_err *reterr)
{
	if (!b->data)
		return hf_err_set(reterr, -EINVAL, "a chunk of nothing that was announced");
	if (offset != b->len || n > b->size - b->len)
		return hf_err_set(reterr, -EINVAL,
			"a chunk of %zu bytes at %llu does not follow %zu of %zu", n,
			(unsigned long long)offset, b->len, b->size);
	memcpy(b->data + b->len, data, n);
	b->len += n;
	return 0;
}

int mig_blob_check(const struct mig_blob *b, struct hf_err *reterr)
{
	if (!b->data || b->len != b->size)
		return hf_err_set(reterr, -ENODATA, "%zu of %zu bytes came", b->len, b->size);
	if (mig_crc32(0, b->data, b->len) != b->crc)
		return hf_err_set(reterr, -EBADMSG, "the checksum does not match the bytes");
	return 0;
}

void mig_blob_done(struct mig_blob *b)
{
	free(b->data);
	*b = (struct mig_blob){ 0 };
}
