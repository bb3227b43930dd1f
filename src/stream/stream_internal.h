/* SPDX-License-Identifier: MIT */
/* stream_internal.h - what stream.c and record.c share. */
#ifndef HF_STREAM_INTERNAL_H
#define HF_STREAM_INTERNAL_H

#include <stdint.h>

/* No offset that a peer or a record names may be higher: sums with window sizes cannot overflow. */
#define RS_OFFSET_MAX (UINT64_MAX / 2)

#endif
