/* SPDX-License-Identifier: MIT */
/*
 * pack.h - the record of a takeover as bytes and descriptors.
 *
 * A record is a sequence of sections: kind, length, and values one behind the other. A value is a
 * number (8 bytes, little-endian), bytes (their number, then they) or a descriptor (0: none, else
 * its place in the list of descriptors, from 1). A reader that is newer than the writer asks with
 * dev_unpack_more() for what was added at the end of a section; one that is older steps over it.
 *
 * Errors stick: write or read all of it, then look at `error` once. Until then the values of a
 * reader are zeros.
 */
#ifndef DEVICE_PACK_H
#define DEVICE_PACK_H

#include "base/base.h"

#define DEV_PACK_MAX (1u << 30) /* bytes of a record */

struct dev_pack {
	uint8_t *buf;
	size_t len, cap;
	size_t section; /* where the open one's length stands */
	int *fds;       /* not owned */
	size_t n_fds, cap_fds;
	int error;
};

void dev_pack_begin(struct dev_pack *p, uint64_t kind);
void dev_pack_end(struct dev_pack *p);
void dev_pack_number(struct dev_pack *p, uint64_t v);
void dev_pack_bytes(struct dev_pack *p, const void *data, size_t n);
void dev_pack_fd(struct dev_pack *p, int fd); /* -1: none */
void dev_pack_done(struct dev_pack *p);

struct dev_unpack {
	const uint8_t *at, *end; /* of the section */
	const uint8_t *stop;     /* of the record */
	int *fds;                /* owned by the caller; one that was taken is -1 here */
	size_t n_fds;
	int error;
};

void dev_unpack_init(struct dev_unpack *u, const void *buf, size_t len, int *fds, size_t n_fds);

/* Steps to the next section; false at the end, or with an error. */
bool dev_unpack_next(struct dev_unpack *u, uint64_t *ret_kind);
bool dev_unpack_more(const struct dev_unpack *u);

/* Above max is an error. */
uint64_t dev_unpack_number(struct dev_unpack *u, uint64_t max);
bool dev_unpack_flag(struct dev_unpack *u);
/* At most max bytes; they lie in the record. */
const void *dev_unpack_bytes(struct dev_unpack *u, size_t max, size_t *ret_n);
/* Bytes without a NUL, as a string. */
void dev_unpack_text(struct dev_unpack *u, char *ret_text, size_t cap);
/* The caller owns it; -1: none. Each descriptor can be taken once. */
int dev_unpack_fd(struct dev_unpack *u);

#endif
