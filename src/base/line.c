/* SPDX-License-Identifier: MIT */
#include "line.h"
#include <errno.h>
#include <string.h>

void hf_lines_done(struct hf_lines *l)
{
	free(l->buf);
	hf_lines_init(l, l->max);
}

int hf_lines_feed(struct hf_lines *l, const void *data, size_t n)
{
	if (l->head > 0) {
		memmove(l->buf, l->buf + l->head, l->len - l->head);
		l->len -= l->head;
		l->head = 0;
	}
	if (l->cap - l->len < n) {
		size_t cap = HF_MAX(l->cap * 2, l->len + n);
		char *buf = realloc(l->buf, cap);
		if (!buf)
			return -ENOMEM;
		l->buf = buf;
		l->cap = cap;
	}
	if (n > 0)
		memcpy(l->buf + l->len, data, n);
	l->len += n;
	return 0;
}

int hf_lines_next(struct hf_lines *l, char **ret_line)
{
	size_t n = l->len - l->head;
	if (n == 0)
		return 0;
	char *line = l->buf + l->head;
	char *end = memchr(line, '\n', n);
	if ((end ? (size_t)(end - line) : n) > l->max)
		return -EMSGSIZE;
	if (!end)
		return 0;
	if (memchr(line, '\0', (size_t)(end - line)))
		return -EBADMSG;
	*end = '\0';
	l->head += (size_t)(end - line) + 1;
	*ret_line = line;
	return 1;
}

size_t hf_lines_rest(struct hf_lines *l, const char **ret_data)
{
	size_t n = l->len - l->head;
	*ret_data = n > 0 ? l->buf + l->head : "";
	l->head = l->len = 0;
	return n;
}
