/* SPDX-License-Identifier: MIT */
/* far.h - the guest's ends of streams, for fake.h. */
#ifndef TEST_CLIENT_FAR_H
#define TEST_CLIENT_FAR_H

#include "fake.h"

/* The guest's end of a stream. */
struct far {
	struct rs rs;
	uint8_t mem[TEST_WINDOW];
	int fd;
};

static inline void far_init(struct far *f, const char *token, bool writes)
{
	struct rs_config c = { .dials = true,
		.tx_buf = f->mem,
		.tx_cap = writes ? TEST_WINDOW : 0,
		.rx_buf = f->mem,
		.rx_cap = writes ? 0 : TEST_WINDOW };
	assert_int_equal(hex_decode(token, c.token, RS_TOKEN_SIZE), 0);
	assert_int_equal(rs_init(&f->rs, &c), 0);
	f->fd = -1;
}

/* Moves bytes both ways, at most `step` at a time, until nothing moves. */
static inline void far_run(struct world *w, struct far *f, size_t step)
{
	uint8_t buf[512];
	bool moved = true;
	while (moved) {
		struct iovec iov[RS_OUTPUT_IOV];
		moved = false;
		if (rs_output(&f->rs, iov) > 0) {
			ssize_t n = send(f->fd, iov[0].iov_base, HF_MIN(step, iov[0].iov_len),
				MSG_NOSIGNAL | MSG_DONTWAIT);
			rs_sent(&f->rs, n > 0 ? (size_t)n : 0);
			moved = n > 0;
		}
		world_pump(w);
		ssize_t n = recv(f->fd, buf, HF_MIN(step, sizeof(buf)), MSG_DONTWAIT);
		if (n > 0) {
			assert_int_equal(rs_input(&f->rs, buf, (size_t)n), 0);
			moved = true;
		}
	}
}

static inline void far_dial(struct world *w, struct far *f)
{
	fd_closep(&f->fd);
	rs_detach(&f->rs);
	f->fd = fake_dial(w, 0x40000001);
	rs_attach(&f->rs);
}

static inline void far_write(struct far *f, const char *text)
{
	assert_int_equal(rs_write(&f->rs, text, strlen(text)), strlen(text));
}

static inline void take(struct hf_guest_stream *s, const char *text)
{
	struct iovec iov[2];
	size_t at = 0;
	int k = hf_guest_stream_read(s, iov);
	for (int i = 0; i < k; i++) {
		assert_true(at + iov[i].iov_len <= strlen(text));
		assert_memory_equal(iov[i].iov_base, text + at, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	assert_int_equal(at, strlen(text));
	assert_int_equal(hf_guest_stream_take(s, at), 0);
	assert_int_equal(hf_guest_stream_take(s, 1), -EINVAL);
}

static inline struct hf_guest_stream *find(struct world *w, const char *tag)
{
	struct hf_guest_stream *s = NULL;
	while ((s = hf_guest_stream_next(w->g, s)))
		if (strcmp(hf_guest_stream_tag(s), tag) == 0)
			return s;
	fail_msg("no stream %s", tag);
	return NULL;
}

#endif
