/* SPDX-License-Identifier: MIT */
#include "log.h"
#include "clock.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* syscalls: write */

#define LOG_LINE_MAX 1024

static const char *const level_names[] = { "error", "warning", "info", "debug", "trace" };
_Static_assert(HF_ARRAY_SIZE(level_names) == HF_LOG_N_, "a name for each level");

enum hf_log_level hf_log_max = HF_LOG_INFO;
static const char *log_program = "holdfast";
static int log_fd = STDERR_FILENO;
static enum hf_log_format log_format = HF_LOG_TEXT;
static unsigned long log_dropped;

void hf_log_setup(const char *program, int fd, enum hf_log_level max, enum hf_log_format format)
{
	log_program = program;
	log_fd = fd;
	hf_log_max = max;
	log_format = format;
}

int hf_log_level_parse(const char *name, enum hf_log_level *ret_level)
{
	if (!strcmp(name, "warn"))
		name = "warning";
	for (size_t i = 0; i < HF_ARRAY_SIZE(level_names); i++)
		if (!strcmp(name, level_names[i])) {
			*ret_level = (enum hf_log_level)i;
			return 0;
		}
	return -EINVAL;
}

/* Appends text to a line as the inside of a JSON string, or with control characters blanked. */
static size_t append(char *line, size_t n, const char *text, bool json)
{
	const size_t cap = LOG_LINE_MAX - 8; /* room for the closing characters */
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (json && (*p == '"' || *p == '\\')) {
			if (n + 2 > cap)
				break;
			line[n++] = '\\';
		} else if (n + 1 > cap) {
			break;
		}
		line[n++] = *p < 0x20 ? ' ' : (char)*p;
	}
	return n;
}

static size_t format_line(char *line, enum hf_log_level level, const char *text)
{
	struct tm tm;
	char when[32] = "";
	uint64_t now_us = hf_date_us();
	time_t now_s = (time_t)(now_us / 1000000);
	if (gmtime_r(&now_s, &tm))
		(void)strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	bool json = log_format == HF_LOG_JSON;
	int head = snprintf(line, LOG_LINE_MAX,
		json ? "{\"time\":\"%s.%06ldZ\",\"level\":\"%s\",\"program\":\"%s\",\"msg\":\""
		     : "%s.%06ldZ %s %s: ",
		when, (long)(now_us % 1000000), level_names[level], log_program);
	size_t n = append(line, (size_t)head, text, json);
	if (json) {
		line[n++] = '"';
		line[n++] = '}';
	}
	line[n++] = '\n';
	return n;
}

void hf_log_write(enum hf_log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX], line[LOG_LINE_MAX];
	int saved = errno;
	va_list ap;
	va_start(ap, fmt);
	int len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (log_dropped > 0 && len >= 0 && (size_t)len < sizeof(text))
		(void)snprintf(text + len, sizeof(text) - (size_t)len,
			" (%lu lines before were dropped)", log_dropped);
	size_t n = format_line(line, level, text);
	if (write(log_fd, line, n) < 0)
		log_dropped++;
	else
		log_dropped = 0;
	errno = saved;
}
