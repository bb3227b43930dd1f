/* SPDX-License-Identifier: MIT */
/*
 * clock.h - the time, in microseconds.
 *
 * Deadlines are times of the monotonic clock, which is libuv's as well. Where one may be absent,
 * UINT64_MAX is never.
 */
#ifndef HF_CLOCK_H
#define HF_CLOCK_H

#include <stdint.h>
#include <time.h>

/* syscalls: clock_gettime */

static inline uint64_t hf_clock_us(clockid_t clock)
{
	struct timespec ts;
	(void)clock_gettime(clock, &ts); /* cannot fail with a clock of the system */
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static inline uint64_t hf_now_us(void)
{
	return hf_clock_us(CLOCK_MONOTONIC);
}

/* The time of day, since 1970: for people, and to tell one run from another. */
static inline uint64_t hf_date_us(void)
{
	return hf_clock_us(CLOCK_REALTIME);
}

#endif
