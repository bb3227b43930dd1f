/* SPDX-License-Identifier: MIT */
/*
 * A host program's first words, as they arrive byte by byte: what has been decided at one length is
 * what is decided at every longer one, and no byte behind the line counts.
 */
#include "device/hello.h"
#include "base/base.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_line(const char *line, size_t n, uint32_t port)
{
	char again[DEV_HELLO_LINE_MAX];
	unsigned long long said = strtoull(line + 8, NULL, 10);
	hf_assert(n <= DEV_HELLO_LINE_MAX && line[n - 1] == '\n' && said == port);
	(void)snprintf(again, sizeof(again), "CONNECT %u\n", port);
	uint32_t same = ~port;
	hf_assert(dev_hello_parse(again, strlen(again), &same) == (ssize_t)strlen(again));
	hf_assert(same == port && strncasecmp(line, again, 8) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ssize_t decided = 0;
	size_t most = HF_MIN(size, (size_t)2 * DEV_HELLO_LINE_MAX);
	for (size_t n = 0; n <= most; n++) {
		char *p = malloc(n + 1);
		uint32_t port = 0;
		hf_assert(p != NULL);
		char *exact = memcpy(p + 1, data, n); /* a byte too many is seen by a sanitizer */
		ssize_t r = dev_hello_parse(exact, n, &port);
		hf_assert(decided == 0 || r == decided);
		hf_assert(r == 0 || r == -EINVAL || r == -EMSGSIZE || (r > 0 && (size_t)r <= n));
		hf_assert(r != 0 || n < DEV_HELLO_LINE_MAX);
		if (r > 0)
			check_line(exact, (size_t)r, port);
		decided = r;
		free(p);
	}
	return 0;
}
