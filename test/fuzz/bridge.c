/* SPDX-License-Identifier: MIT */
/* bridge.c - bytes of a host into the frame reader, in pieces; ids of its frames into the request
 * record. The first byte says how large the pieces are. */
#include "bridge/frame.h"
#include "bridge/requests.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT 256u
#define CAP   8u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(struct brg_requests *t, const struct brg_frame *f)
{
	static char answers[64];
	uint64_t id = f->id % 16;
	switch (f->type % 4) {
	case 0:
		(void)brg_requests_begin(t, id, f->type);
		break;
	case 1:
		(void)brg_requests_finish(t, id, answers, f->len % 64);
		break;
	case 2:
		(void)brg_requests_acknowledge(t, id);
		break;
	default:
		if (f->len % 2)
			brg_requests_rewind(t);
		for (struct brg_request *e; (e = brg_requests_unsent(t));)
			(void)brg_requests_sent(t, e);
	}
	size_t bytes = 0, unsent = 0;
	for (size_t i = 0; i < t->n; i++) {
		bytes += t->entry[i].len;
		unsent += t->entry[i].owed && t->entry[i].answer;
		hf_assert(i == 0 || t->entry[i - 1].id < t->entry[i].id);
	}
	hf_assert(t->n <= t->cap && bytes == t->bytes && unsent == t->n_unsent);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct brg_request entries[CAP];
	struct brg_requests t;
	struct brg_reader r;
	struct brg_frame f;
	if (size < 1)
		return 0;
	size_t piece = data[0] + 1u, cap = 32;
	uint8_t *mem = malloc(cap);
	if (!mem)
		return 0;
	brg_requests_init(&t, entries, CAP, 200, data[0] & 1);
	brg_reader_init(&r, mem, cap, LIMIT);
	for (size_t at = 1; at < size;) {
		size_t room;
		void *p = brg_reader_space(&r, &room);
		size_t left = HF_MIN(piece, size - at);
		size_t n = HF_MIN(left, room);
		memcpy(p, data + at, n);
		brg_reader_filled(&r, n);
		at += n;
		int k;
		while ((k = brg_reader_next(&r, &f)) == 1)
			use(&t, &f);
		if (k == -EBADMSG)
			break;
		if (k == -ENOBUFS) {
			cap = brg_reader_want(&r);
			hf_assert(cap <= LIMIT);
			uint8_t *larger = malloc(cap);
			if (!larger)
				break;
			brg_reader_rebase(&r, larger, cap);
			free(mem);
			mem = larger;
		}
	}
	free(mem);
	return 0;
}
