/* SPDX-License-Identifier: MIT */
/*
 * blob.h - a piece of state on its way to the destination: bounded, in order, checksummed.
 *
 * The source says name, size and CRC-32 beforehand and sends the bytes in chunks with their
 * offsets. The destination accepts nothing out of order, nothing over the announced size, and
 * nothing at all that does not match the checksum in the end.
 */
#ifndef HF_MIGRATE_BLOB_H
#define HF_MIGRATE_BLOB_H

#include "base/err.h"

#define MIG_BLOB_MAX  (64 * 1024 * 1024) /* bytes of one piece */
#define MIG_CHUNK_MAX (256 * 1024)       /* bytes per message */

struct mig_blob {
	uint8_t *data;
	size_t size, len;
	uint32_t crc;
};

uint32_t mig_crc32(uint32_t crc, const void *data, size_t n); /* begin with 0 */

int mig_blob_begin(struct mig_blob *b, uint64_t size, uint32_t crc, struct hf_err *reterr);
int mig_blob_chunk(
	struct mig_blob *b, uint64_t offset, const void *data, size_t n, struct hf_err *reterr);
int mig_blob_check(const struct mig_blob *b, struct hf_err *reterr); /* whole and unharmed */
void mig_blob_done(struct mig_blob *b);

#endif
