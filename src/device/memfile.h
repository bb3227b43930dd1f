/* SPDX-License-Identifier: MIT */
/* memfile.h - records as files in memory, which travel as descriptors. */
#ifndef DEVICE_MEMFILE_H
#define DEVICE_MEMFILE_H

#include "base/base.h"

/* A file with this content, which nobody can change any more. */
int dev_memfile_make(const void *buf, size_t len, int *ret_fd);

/* Reads a whole regular file of anybody; *ret_buf is to be freed. -EINVAL: it is none; -EFBIG: it
 * has more than max bytes. */
int dev_memfile_read(int fd, size_t max, uint8_t **ret_buf, size_t *ret_len);

#endif
