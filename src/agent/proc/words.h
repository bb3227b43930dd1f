/* SPDX-License-Identifier: MIT */
/* words.h - splits a command line into words by the quoting rules of a POSIX shell, without any
 * expansion: '...', "..." with \\ and \" and \$ and \`, and a backslash before any character. */
#ifndef AGT_PROC_WORDS_H
#define AGT_PROC_WORDS_H

#include <stddef.h>

/* The words, NULL at the end, as one block to be freed. NULL and errno: EINVAL for a quote without
 * its end, ENOMEM. */
char **agt_words_split(const char *line, size_t *ret_n);

#endif
