/* SPDX-License-Identifier: MIT */
/*
 * pages - writes to pages of memory in turn, as fast as it can, and looks at each whether it still
 * has what was written there the last time: "stale" is said of one that has not.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#define PAGES 2048
#define WORDS (4096 / sizeof(uint64_t))

int main(void)
{
	time_t said = 0;
	volatile uint64_t *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	for (uint64_t round = 1;; round++) {
		for (size_t i = 0; i < PAGES; i++) {
			volatile uint64_t *w = p + i * WORDS;
			if (*w != round - 1) {
				printf("pages: stale: page %zu has %llu in round %llu\n", i,
					(unsigned long long)*w, (unsigned long long)round);
				exit(1);
			}
			*w = round;
		}
		if (time(NULL) != said) {
			said = time(NULL);
			printf("pages: round %llu\n", (unsigned long long)round);
			fflush(stdout);
		}
	}
}
