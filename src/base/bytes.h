/* SPDX-License-Identifier: MIT */
/*
 * bytes.h - little-endian integers on the wire, at any alignment.
 *
 * A struct le32 cannot be used as a number by accident: it is opened by le32_get() only.
 */
#ifndef HF_BYTES_H
#define HF_BYTES_H

#include <stdint.h>
#include <string.h>

struct le16 {
	uint8_t b[2];
};
struct le32 {
	uint8_t b[4];
};
struct le64 {
	uint8_t b[8];
};

static inline uint16_t le16_at(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t le32_at(const void *p)
{
	const uint8_t *b = p;
	return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t le64_at(const void *p)
{
	const uint8_t *b = p;
	return le32_at(b) | (uint64_t)le32_at(b + 4) << 32;
}

static inline void le16_to(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)v;
	b[1] = (uint8_t)(v >> 8);
}

static inline void le32_to(void *p, uint32_t v)
{
	uint8_t *b = p;
	le16_to(b, (uint16_t)v);
	le16_to(b + 2, (uint16_t)(v >> 16));
}

static inline void le64_to(void *p, uint64_t v)
{
	uint8_t *b = p;
	le32_to(b, (uint32_t)v);
	le32_to(b + 4, (uint32_t)(v >> 32));
}

static inline uint16_t le16_get(struct le16 v)
{
	return le16_at(v.b);
}
static inline uint32_t le32_get(struct le32 v)
{
	return le32_at(v.b);
}
static inline uint64_t le64_get(struct le64 v)
{
	return le64_at(v.b);
}

static inline struct le16 le16_make(uint16_t v)
{
	struct le16 r;
	le16_to(r.b, v);
	return r;
}
static inline struct le32 le32_make(uint32_t v)
{
	struct le32 r;
	le32_to(r.b, v);
	return r;
}
static inline struct le64 le64_make(uint64_t v)
{
	struct le64 r;
	le64_to(r.b, v);
	return r;
}

#endif
