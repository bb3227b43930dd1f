/* SPDX-License-Identifier: MIT */
#include "hello.h"
#include "base/base.h"
#include <errno.h>
#include <string.h>
#include <strings.h>

ssize_t dev_hello_parse(const char *p, size_t n, uint32_t *ret_port)
{
	static const char word[] = "CONNECT ";
	const size_t word_len = sizeof(word) - 1;
	const char *end = memchr(p, '\n', HF_MIN(n, (size_t)DEV_HELLO_LINE_MAX));
	if (strncasecmp(p, word, HF_MIN(n, word_len)) != 0)
		return -EINVAL; /* at the first wrong byte, not at the end of the line */
	if (!end)
		return n < DEV_HELLO_LINE_MAX ? 0 : -EMSGSIZE;

	size_t line_len = (size_t)(end - p) + 1;
	if (end > p && end[-1] == '\r')
		end--;
	if (end <= p + word_len)
		return -EINVAL;
	uint64_t port = 0;
	for (const char *c = p + word_len; c < end; c++) {
		if (*c < '0' || *c > '9')
			return -EINVAL;
		port = port * 10 + (uint64_t)(*c - '0');
		if (port > UINT32_MAX)
			return -EINVAL;
	}
	*ret_port = (uint32_t)port;
	return (ssize_t)line_len;
}
