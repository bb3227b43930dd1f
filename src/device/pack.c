/* SPDX-License-Identifier: MIT */
#include "pack.h"
#include "base/bytes.h"
#include <errno.h>
#include <string.h>

#define HEAD_BYTES 16 /* kind and length of a section */

/* ---- writing ---- */

static uint8_t *grow(struct dev_pack *p, size_t n)
{
	if (!p->error && n > DEV_PACK_MAX - p->len)
		p->error = -EFBIG;
	if (p->error)
		return NULL;
	if (p->cap - p->len < n) {
		size_t cap = HF_MAX(2 * p->cap, p->len + n + 4096);
		uint8_t *buf = realloc(p->buf, cap);
		if (!buf) {
			p->error = -ENOMEM;
			return NULL;
		}
		p->buf = buf;
		p->cap = cap;
	}
	p->len += n;
	return p->buf + p->len - n;
}

void dev_pack_number(struct dev_pack *p, uint64_t v)
{
	uint8_t *b = grow(p, sizeof(v));
	if (b)
		le64_to(b, v);
}

void dev_pack_begin(struct dev_pack *p, uint64_t kind)
{
	dev_pack_number(p, kind);
	p->section = p->len;
	dev_pack_number(p, 0); /* until its end */
}

void dev_pack_end(struct dev_pack *p)
{
	if (!p->error)
		le64_to(p->buf + p->section, p->len - p->section - sizeof(uint64_t));
}

void dev_pack_bytes(struct dev_pack *p, const void *data, size_t n)
{
	dev_pack_number(p, n);
	uint8_t *b = n > 0 ? grow(p, n) : NULL;
	if (b)
		memcpy(b, data, n);
}

void dev_pack_fd(struct dev_pack *p, int fd)
{
	if (fd >= 0 && p->n_fds == p->cap_fds) {
		size_t cap = HF_MAX(2 * p->cap_fds, (size_t)64);
		int *fds = realloc(p->fds, cap * sizeof(*fds));
		if (!fds)
			p->error = -ENOMEM;
		else {
			p->fds = fds;
			p->cap_fds = cap;
		}
	}
	if (fd >= 0 && !p->error)
		p->fds[p->n_fds++] = fd;
	dev_pack_number(p, fd >= 0 ? p->n_fds : 0);
}

void dev_pack_done(struct dev_pack *p)
{
	free(p->buf);
	free(p->fds);
	*p = (struct dev_pack){ 0 };
}

/* ---- reading ---- */

void dev_unpack_init(struct dev_unpack *u, const void *buf, size_t len, int *fds, size_t n_fds)
{
	const uint8_t *b = buf;
	*u = (struct dev_unpack){ .at = b, .end = b, .stop = b + len, .fds = fds, .n_fds = n_fds };
}

bool dev_unpack_next(struct dev_unpack *u, uint64_t *ret_kind)
{
	if (u->error || u->end == u->stop)
		return false;
	size_t left = (size_t)(u->stop - u->end);
	uint64_t len = left < HEAD_BYTES ? 0 : le64_at(u->end + 8);
	if (left < HEAD_BYTES || len > left - HEAD_BYTES) {
		u->error = -EBADMSG;
		return false;
	}
	*ret_kind = le64_at(u->end);
	u->at = u->end + HEAD_BYTES;
	u->end = u->at + len;
	return true;
}

bool dev_unpack_more(const struct dev_unpack *u)
{
	return !u->error && u->at < u->end;
}

uint64_t dev_unpack_number(struct dev_unpack *u, uint64_t max)
{
	if (!u->error && (size_t)(u->end - u->at) < sizeof(uint64_t))
		u->error = -EBADMSG;
	if (u->error)
		return 0;
	uint64_t v = le64_at(u->at);
	u->at += sizeof(v);
	if (v <= max)
		return v;
	u->error = -EINVAL;
	return 0;
}

bool dev_unpack_flag(struct dev_unpack *u)
{
	return dev_unpack_number(u, 1);
}

const void *dev_unpack_bytes(struct dev_unpack *u, size_t max, size_t *ret_n)
{
	size_t n = dev_unpack_number(u, max);
	if (!u->error && n > (size_t)(u->end - u->at))
		u->error = -EBADMSG;
	*ret_n = u->error ? 0 : n;
	const void *data = u->at;
	u->at += *ret_n;
	return data;
}

void dev_unpack_text(struct dev_unpack *u, char *ret_text, size_t cap)
{
	size_t n;
	const void *data = dev_unpack_bytes(u, cap - 1, &n);
	if (memchr(data, '\0', n)) {
		u->error = -EINVAL;
		n = 0;
	}
	memcpy(ret_text, data, n);
	ret_text[n] = '\0';
}

int dev_unpack_fd(struct dev_unpack *u)
{
	size_t i = dev_unpack_number(u, u->n_fds);
	if (i == 0)
		return -1;
	int fd = u->fds[i - 1];
	if (fd < 0)
		u->error = -EINVAL; /* somebody has it */
	u->fds[i - 1] = -1;
	return fd;
}
