/* SPDX-License-Identifier: MIT */
#include "words.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Copies one word from *p to out and moves both on. False: a quote does not end. */
static int copy_word(const char **p, char **out)
{
	char quote = 0;
	for (; **p; (*p)++) {
		char c = **p;
		if (!quote && strchr(" \t\r\n", c))
			break;
		if (!quote && (c == '\'' || c == '"')) {
			quote = c;
			continue;
		}
		if (quote && c == quote) {
			quote = 0;
			continue;
		}
		if (c == '\\' && quote != '\'' && (*p)[1] && (!quote || strchr("\\\"$`", (*p)[1])))
			c = *++*p;
		*(*out)++ = c;
	}
	*(*out)++ = '\0';
	return quote ? -EINVAL : 0;
}

char **agt_words_split(const char *line, size_t *ret_n)
{
	/* n bytes hold at most n / 2 + 1 words, and their text is not longer than the line */
	size_t len = strlen(line), cap = len / 2 + 2, n = 0;
	char **words = malloc(cap * sizeof(*words) + len + 1);
	if (!words)
		return NULL;
	char *out = (char *)(words + cap);
	for (const char *p = line + strspn(line, " \t\r\n"); *p; p += strspn(p, " \t\r\n")) {
		words[n++] = out;
		if (copy_word(&p, &out) < 0) {
			free(words);
			errno = EINVAL;
			return NULL;
		}
	}
	words[n] = NULL;
	*ret_n = n;
	return words;
}
