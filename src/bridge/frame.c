/* SPDX-License-Identifier: MIT */
#include "frame.h"
#include "base/bytes.h"
#include <errno.h>

void brg_reader_init(struct brg_reader *r, void *buf, size_t cap, uint32_t limit)
{
	hf_assert(cap >= BRG_HEADER && limit >= BRG_HEADER);
	*r = (struct brg_reader){ .buf = buf, .cap = cap, .limit = limit };
}

void *brg_reader_space(struct brg_reader *r, size_t *ret_room)
{
	if (r->begin > 0) {
		memmove(r->buf, r->buf + r->begin, r->end - r->begin);
		r->end -= r->begin;
		r->begin = 0;
	}
	*ret_room = r->broken ? 0 : r->cap - r->end;
	return r->buf + r->end;
}

void brg_reader_filled(struct brg_reader *r, size_t n)
{
	hf_assert(n <= r->cap - r->end);
	r->end += n;
}

int brg_reader_next(struct brg_reader *r, struct brg_frame *ret_frame)
{
	size_t have = r->end - r->begin;
	const uint8_t *p = r->buf + r->begin;
	if (r->broken)
		return -EBADMSG;
	if (have < BRG_HEADER)
		return 0;
	uint32_t size = le32_at(p + 4);
	if (size < BRG_HEADER || size > r->limit) {
		r->broken = true;
		r->bad_size = size;
		return -EBADMSG;
	}
	if (size > r->cap)
		return -ENOBUFS;
	if (have < size)
		return 0;
	*ret_frame = (struct brg_frame){
		.type = le32_at(p),
		.len = size - BRG_HEADER,
		.id = le64_at(p + 8),
		.payload = (const char *)p + BRG_HEADER,
	};
	r->begin += size;
	return 1;
}

size_t brg_reader_want(const struct brg_reader *r)
{
	if (r->broken || r->end - r->begin < BRG_HEADER)
		return BRG_HEADER;
	return HF_MIN(le32_at(r->buf + r->begin + 4), r->limit);
}

void brg_reader_rebase(struct brg_reader *r, void *buf, size_t cap)
{
	size_t have = r->end - r->begin;
	hf_assert(cap >= have && cap >= BRG_HEADER);
	memmove(buf, r->buf + r->begin, have);
	r->buf = buf;
	r->cap = cap;
	r->begin = 0;
	r->end = have;
}

void brg_header_write(void *buf, uint32_t type, uint64_t id, uint32_t len)
{
	uint8_t *p = buf;
	hf_assert(len <= UINT32_MAX - BRG_HEADER);
	le32_to(p, type);
	le32_to(p + 4, len + BRG_HEADER);
	le64_to(p + 8, id);
}
