/* SPDX-License-Identifier: MIT */
/*
 * base.h - the few macros every folder uses.
 *
 * HF_CLEANUP(fn)   runs fn(&variable) when the variable leaves its scope.
 * hf_assert(cond)  states what only a bug of ours can break. No path that starts at bytes of a
 *                  peer (guest, VMM, host application, file) may reach it.
 */
#ifndef HF_BASE_H
#define HF_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define HF_CLEANUP(fn)		 __attribute__((cleanup(fn)))
#define HF_PRINTF(fmt, args)	 __attribute__((format(printf, fmt, args)))
#define HF_MUST_USE		 __attribute__((warn_unused_result))
#define HF_ARRAY_SIZE(a)	 (sizeof(a) / sizeof((a)[0]))
#define HF_CONTAINER_OF(p, t, m) ((t *)((char *)(p) - offsetof(t, m)))

#define HF_MIN(a, b)                                                                               \
	({                                                                                         \
		__auto_type min_a_ = (a);                                                          \
		__auto_type min_b_ = (b);                                                          \
		min_a_ < min_b_ ? min_a_ : min_b_;                                                 \
	})
#define HF_MAX(a, b)                                                                               \
	({                                                                                         \
		__auto_type max_a_ = (a);                                                          \
		__auto_type max_b_ = (b);                                                          \
		max_a_ > max_b_ ? max_a_ : max_b_;                                                 \
	})

/* A trap needs no libc, so cores that use it keep their list of undefined symbols empty. */
#define hf_assert(cond)                                                                            \
	do {                                                                                       \
		if (__builtin_expect(!(cond), 0))                                                  \
			__builtin_trap();                                                          \
	} while (0)

/* For HF_CLEANUP on memory of malloc: HF_CLEANUP(hf_freep) char *s = NULL; */
static inline void hf_freep(void *p)
{
	free(*(void **)p);
}

#endif
