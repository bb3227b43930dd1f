/* SPDX-License-Identifier: MIT */
/*
 * err.h - an error for people: a code and a bounded text that names the object, the reason and,
 * where there is one, the remedy. Programs and libholdfast only; cores return plain codes.
 */
#ifndef HF_ERR_H
#define HF_ERR_H

#include "base.h"

struct hf_err {
	int code; /* -errno, 0 when unset */
	char text[252];
};

/* Sets the error (reterr may be NULL) and returns `code`, so that `return hf_err_set(...)` works. */
int hf_err_set(struct hf_err *reterr, int code, const char *fmt, ...) HF_PRINTF(3, 4);

/* Puts "context: " in front of the text. Returns the code. */
int hf_err_prefix(struct hf_err *reterr, const char *fmt, ...) HF_PRINTF(2, 3);

#endif
