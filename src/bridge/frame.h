/* SPDX-License-Identifier: MIT */
/*
 * frame.h - frames of the bridge: a 16-byte little-endian header (type, total size, id) and a JSON
 * payload.
 *
 * The reader works on one buffer of the caller's:
 *
 *     for (;;) {
 *             n = read(fd, brg_reader_space(&r, &room), room);
 *             brg_reader_filled(&r, n);
 *             while ((k = brg_reader_next(&r, &frame)) > 0)
 *                     use(&frame);
 *             if (k == -ENOBUFS)          grow to brg_reader_want(&r), or give up
 *             else if (k < 0)             close: the peer does not speak this protocol
 *     }
 *
 * A header with a size below 16 or above the limit poisons the reader: the bytes after it have no
 * meaning, so every later call says -EBADMSG too.
 */
#ifndef BRG_FRAME_H
#define BRG_FRAME_H

#include "base/base.h"

#define BRG_HEADER 16u

struct brg_frame {
	uint32_t type;
	uint32_t len; /* bytes of payload */
	uint64_t id;
	const char *payload; /* not terminated */
};

struct brg_reader {
	uint8_t *buf;
	size_t cap;
	size_t begin, end; /* unread bytes: buf[begin, end) */
	uint32_t limit;    /* largest total size of a frame */
	uint32_t bad_size; /* the size that was refused, valid when broken */
	bool broken;
};

/* The buffer stays the caller's; cap >= BRG_HEADER. */
void brg_reader_init(struct brg_reader *r, void *buf, size_t cap, uint32_t limit);

/* Where the next bytes go and how many fit. Room is 0 only after -ENOBUFS or when broken. It may
 * move bytes: a frame of brg_reader_next() is valid until this call. */
void *brg_reader_space(struct brg_reader *r, size_t *ret_room);
void brg_reader_filled(struct brg_reader *r, size_t n);

/* 1 and a frame; 0 when more bytes are needed; -ENOBUFS when the frame does not fit into the
 * buffer; -EBADMSG when the size is refused (see bad_size). */
int brg_reader_next(struct brg_reader *r, struct brg_frame *ret_frame);

/* How large a buffer the frame at hand needs (at most the limit). */
size_t brg_reader_want(const struct brg_reader *r);

/* Exchanges the buffer for another that holds at least the unread bytes; contents are moved. */
void brg_reader_rebase(struct brg_reader *r, void *buf, size_t cap);

/* Writes the 16 bytes of a header for `len` bytes of payload. */
void brg_header_write(void *buf, uint32_t type, uint64_t id, uint32_t len);

#endif
