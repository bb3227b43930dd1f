/* SPDX-License-Identifier: MIT */
#include "err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int hf_err_set(struct hf_err *reterr, int code, const char *fmt, ...)
{
	if (!reterr)
		return code;
	reterr->code = code;
	va_list ap;
	va_start(ap, fmt);
	(void)vsnprintf(reterr->text, sizeof(reterr->text), fmt, ap); /* a cut text is still a text */
	va_end(ap);
	return code;
}

int hf_err_prefix(struct hf_err *reterr, const char *fmt, ...)
{
	if (!reterr)
		return 0;
	char text[sizeof(reterr->text)];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(text))
		(void)snprintf(text + n, sizeof(text) - (size_t)n, ": %s", reterr->text);
	memcpy(reterr->text, text, sizeof(text));
	return reterr->code;
}
