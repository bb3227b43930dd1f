/* SPDX-License-Identifier: MIT */
#include "guest_internal.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *text_base64(const uint8_t *data, size_t n)
{
	char *text = malloc((n + 2) / 3 * 4 + 1), *t = text;
	if (!text)
		return NULL;
	for (size_t i = 0; i < n; i += 3) {
		size_t k = HF_MIN(n - i, (size_t)3);
		uint32_t v = (uint32_t)data[i] << 16 | (k > 1 ? (uint32_t)data[i + 1] << 8 : 0) |
			     (k > 2 ? data[i + 2] : 0u);
		*t++ = digits[v >> 18];
		*t++ = digits[v >> 12 & 63];
		*t++ = k > 1 ? digits[v >> 6 & 63] : '=';
		*t++ = k > 2 ? digits[v & 63] : '=';
	}
	*t = '\0';
	return text;
}

uint8_t *text_from_base64(const char *text, size_t *ret_n)
{
	size_t len = strlen(text), n = 0;
	if (len % 4 != 0)
		return NULL;
	size_t pad = len > 0 ? (size_t)(text[len - 1] == '=') + (text[len - 2] == '=') : 0;
	uint8_t *data = malloc(len / 4 * 3 + 1);
	if (!data)
		return NULL;
	for (size_t i = 0; i < len; i += 4) {
		uint32_t v = 0;
		for (size_t j = 0; j < 4; j++) {
			const char *d = i + j >= len - pad ? digits : strchr(digits, text[i + j]);
			if (!d) {
				free(data);
				return NULL;
			}
			v = v << 6 | (uint32_t)(d - digits);
		}
		data[n++] = (uint8_t)(v >> 16);
		data[n++] = (uint8_t)(v >> 8);
		data[n++] = (uint8_t)v;
	}
	*ret_n = n - pad;
	return data;
}
