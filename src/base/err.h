/* SPDX-License-Identifier: MIT */
/*
 * err.h - setting a struct hf_err, the error for people that libholdfast shows its users as well.
 * Programs and libholdfast only; cores return plain codes.
 */
#ifndef HF_ERR_H
#define HF_ERR_H

#include "base.h"
#include "holdfast/error.h"

/* Sets the error (reterr may be NULL) and returns `code`, so that `return hf_err_set(...)` works. */
int hf_err_set(struct hf_err *reterr, int code, const char *fmt, ...) HF_PRINTF(3, 4);

/* Puts "context: " in front of the text. Returns the code. */
int hf_err_prefix(struct hf_err *reterr, const char *fmt, ...) HF_PRINTF(2, 3);

#endif
