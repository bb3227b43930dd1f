/* SPDX-License-Identifier: MIT */
/*
 * guard.h - who may do what, and how much of it: the keys of a VM's options that say so.
 *
 *   mode=OCTAL  owner=UID[:GID]   of the VM's sockets
 *   allow-uid=UID[+UID...]        host clients of other users are sent away
 *   guest-ports=A[-B][+...]       ports of the guest that host clients may reach
 *   host-ports=A[-B][+...]        ports of the host that the guest may reach
 *   max-connections=N             at once, both ways together
 *   rate-bytes=N  rate-connections=N   per second, both ways together
 */
#ifndef DEVICE_GUARD_H
#define DEVICE_GUARD_H

#include "base/err.h"
#include <stdint.h>
#include <sys/types.h>

#define DEV_PORT_RANGES_MAX 32
#define DEV_UIDS_MAX        16

struct dev_port_set {
	size_t n; /* 0: all are allowed */
	struct {
		uint32_t first, last;
	} range[DEV_PORT_RANGES_MAX];
};

struct dev_guard {
	unsigned mode;
	bool owned; /* owner and group are set */
	uid_t owner;
	gid_t group;
	size_t n_uids; /* 0: whoever the mode lets in */
	uid_t uid[DEV_UIDS_MAX];
	struct dev_port_set guest_ports, host_ports;
	uint32_t max_conns;              /* 0: as many as a VM can have */
	uint32_t rate_bytes, rate_conns; /* per second; 0: any */
};

struct dev_guard dev_guard_default(void);

/* -ENOKEY when the key is none of the above, -EINVAL with a text when its value is wrong. */
int dev_guard_set(
	struct dev_guard *guard, const char *key, const char *value, struct hf_err *reterr);

bool dev_ports_allow(const struct dev_port_set *p, uint32_t port);
bool dev_guard_allows_uid(const struct dev_guard *guard, uid_t uid);

/*
 * A token bucket that may go below zero: what was taken is counted afterwards, and nothing more is
 * taken until it is paid for. It holds what a tenth of a second brings, and at least `least`.
 */
struct dev_bucket {
	int64_t tokens;
	uint64_t rate, cap; /* rate 0: always open */
	uint64_t filled_us; /* up to when tokens were added */
};

void dev_bucket_init(struct dev_bucket *b, uint64_t rate, uint64_t least, uint64_t now_us);
/* 0: open; else when it will be. */
uint64_t dev_bucket_opens(struct dev_bucket *b, uint64_t now_us);
void dev_bucket_take(struct dev_bucket *b, uint64_t n);

#endif
