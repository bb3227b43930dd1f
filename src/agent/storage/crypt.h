/* SPDX-License-Identifier: MIT */
/*
 * crypt.h - a disk under a key that nobody keeps: LUKS2 with integrity, made by cryptsetup, which
 * must be in the guest, as must the kernel's dm-crypt and dm-integrity. What was on the disk is
 * lost, and so is what will be on it. These block: they run in workers.
 */
#ifndef AGT_STORAGE_CRYPT_H
#define AGT_STORAGE_CRYPT_H

#include "base/err.h"

#define AGT_CRYPT_NAME_MAX 64

/* /dev/mapper/NAME is it then. Only its first 64 KiB, zeros, can be read before they are written:
 * who makes a file system looks there. */
int agt_crypt_open(const char *device, const char *name, struct hf_err *reterr);

/* Absent is success. */
int agt_crypt_close(const char *name, struct hf_err *reterr);

#endif
