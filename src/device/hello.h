/* SPDX-License-Identifier: MIT */
/* hello.h - the line with which a host program asks for a port of the guest. */
#ifndef DEVICE_HELLO_H
#define DEVICE_HELLO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define DEV_HELLO_LINE_MAX 32 /* "CONNECT 4294967295\n" is 19 */

/* Looks for "CONNECT <port>\n" at the start of n bytes; "\r\n" is taken too, the word in any case.
 * Returns the length of the line with its end, 0 when more bytes are needed, -EINVAL when this is
 * no such line, -EMSGSIZE when it is longer than DEV_HELLO_LINE_MAX. */
ssize_t dev_hello_parse(const char *p, size_t n, uint32_t *ret_port);

#endif
