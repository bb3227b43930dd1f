/* SPDX-License-Identifier: MIT */
/* error.h - an error for people: a code, and a text that names the object, the reason, the remedy.
 */
#ifndef HOLDFAST_ERROR_H
#define HOLDFAST_ERROR_H

struct hf_err {
	int code; /* -errno, 0 when unset */
	char text[252];
};

#endif
