/* SPDX-License-Identifier: MIT */
/*
 * line.h - cuts a byte stream of a peer into lines, at whatever bytes it arrives.
 *
 * Feed what was read, take lines until there is none, feed again: so no more is held than one
 * unfinished line (at most `max` bytes) and one read.
 */
#ifndef HF_LINE_H
#define HF_LINE_H

#include "base.h"

struct hf_lines {
	char *buf;
	size_t head, len, cap;
	size_t max; /* bytes of the longest line, its end not counted */
};

static inline void hf_lines_init(struct hf_lines *l, size_t max)
{
	*l = (struct hf_lines){ .max = max };
}
void hf_lines_done(struct hf_lines *l);

/* 0 or -ENOMEM. Lines taken before become invalid. */
int hf_lines_feed(struct hf_lines *l, const void *data, size_t n);

/* 1 and the next line, NUL instead of its end, valid until the next feed; 0: none is complete;
 * -EMSGSIZE: the line is longer than max; -EBADMSG: it contains a NUL. The errors are final. */
int hf_lines_next(struct hf_lines *l, char **ret_line);

/* Gives the bytes after the last line taken: the peer speaks another protocol from here on. The
 * memory stays with the splitter, which is then empty. */
size_t hf_lines_rest(struct hf_lines *l, const char **ret_data);

#endif
