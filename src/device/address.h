/* SPDX-License-Identifier: MIT */
/* address.h - where a link listens or is dialled: "unix:PATH", "tcp:IP:PORT", "tcp:[IP6]:PORT". */
#ifndef DEVICE_ADDRESS_H
#define DEVICE_ADDRESS_H

#include "base/err.h"
#include <sys/socket.h>

#define DEV_ADDRESS_MAX 112 /* "unix:" and a path of 107 bytes */

struct dev_address {
	struct sockaddr_storage sa;
	socklen_t len;
};

/* 0, or -EINVAL with a text. Names are not looked up: there is no resolver behind the sandbox. */
int dev_address_parse(const char *text, struct dev_address *ret_a, struct hf_err *reterr);

static inline bool dev_address_is_tcp(const struct dev_address *a)
{
	return a->sa.ss_family != AF_UNIX;
}

#endif
