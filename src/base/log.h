/* SPDX-License-Identifier: MIT */
/*
 * log.h - one line on standard error per event, for programs (cores never log).
 *
 * A line names the object, the reason and the remedy: "conn 3:1024<-2:49152: reset: no credit".
 * Lines are written with one write(2) and never block the program: what a full pipe does not take
 * is dropped and counted in the next line that goes through.
 */
#ifndef HF_LOG_H
#define HF_LOG_H

#include "base.h"

enum hf_log_level {
	HF_LOG_ERROR,
	HF_LOG_WARNING,
	HF_LOG_INFO,
	HF_LOG_DEBUG,
	HF_LOG_TRACE,
	HF_LOG_N_
};

enum hf_log_format { HF_LOG_TEXT, HF_LOG_JSON };

extern enum hf_log_level hf_log_max; /* set by hf_log_setup; read by the macros only */

void hf_log_setup(const char *program, int fd, enum hf_log_level max, enum hf_log_format format);

/* Level by name ("error", "warning" or "warn", "info", "debug", "trace"); -EINVAL if unknown. */
int hf_log_level_parse(const char *name, enum hf_log_level *ret_level);

void hf_log_write(enum hf_log_level level, const char *fmt, ...) HF_PRINTF(2, 3);

#define hf_log(level, ...)                                                                         \
	do {                                                                                       \
		if ((level) <= hf_log_max)                                                         \
			hf_log_write((level), __VA_ARGS__);                                        \
	} while (0)
#define hf_error(...) hf_log(HF_LOG_ERROR, __VA_ARGS__)
#define hf_warn(...)  hf_log(HF_LOG_WARNING, __VA_ARGS__)
#define hf_info(...)  hf_log(HF_LOG_INFO, __VA_ARGS__)
#define hf_debug(...) hf_log(HF_LOG_DEBUG, __VA_ARGS__)
#define hf_trace(...) hf_log(HF_LOG_TRACE, __VA_ARGS__)

#endif
