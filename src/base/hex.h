/* SPDX-License-Identifier: MIT */
/* hex.h - bytes as lower-case hexadecimal text and back. */
#ifndef HF_HEX_H
#define HF_HEX_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

/* Writes 2*n digits and a NUL into text. */
static inline void hex_encode(const void *data, size_t n, char *text)
{
	static const char digits[] = "0123456789abcdef";
	const uint8_t *b = data;
	for (size_t i = 0; i < n; i++) {
		*text++ = digits[b[i] >> 4];
		*text++ = digits[b[i] & 15];
	}
	*text = '\0';
}

static inline int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Reads exactly 2*n digits and the NUL after them; -EINVAL when the text is anything else. */
static inline int hex_decode(const char *text, void *data, size_t n)
{
	uint8_t *b = data;
	size_t i = 0;
	/* cppcheck-suppress arrayIndexThenCheck ; a text has a NUL behind its last digit */
	for (; text[i] != '\0' && i < 2 * n; i++) {
		int v = hex_digit(text[i]);
		if (v < 0)
			return -EINVAL;
		b[i / 2] = (uint8_t)(i % 2 ? b[i / 2] | v : v << 4);
	}
	return i == 2 * n && text[i] == '\0' ? 0 : -EINVAL;
}

#endif
