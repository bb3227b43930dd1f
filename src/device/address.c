/* SPDX-License-Identifier: MIT */
#include "address.h"
#include "base/fd.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

static bool parse_port(const char *text, in_port_t *ret_port)
{
	char *end;
	unsigned long v = strtoul(text, &end, 10);
	*ret_port = htons((uint16_t)v);
	return text[0] >= '0' && text[0] <= '9' && *end == '\0' && v > 0 && v <= UINT16_MAX;
}

/* "127.0.0.1:7000", "[::1]:7000" */
static bool parse_tcp(const char *text, struct dev_address *a)
{
	char host[INET6_ADDRSTRLEN + 2];
	const char *colon = strrchr(text, ':');
	size_t n = colon ? (size_t)(colon - text) : sizeof(host);
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	if (n >= sizeof(host))
		return false;
	memcpy(host, text, n);
	host[n] = '\0';
	if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		memcpy(&a->sa, &in6, sizeof(in6));
		a->len = sizeof(in6);
		struct sockaddr_in6 *sa = (struct sockaddr_in6 *)&a->sa;
		return inet_pton(AF_INET6, host + 1, &sa->sin6_addr) == 1 &&
		       parse_port(colon + 1, &sa->sin6_port);
	}
	memcpy(&a->sa, &in, sizeof(in));
	a->len = sizeof(in);
	struct sockaddr_in *sa = (struct sockaddr_in *)&a->sa;
	return inet_pton(AF_INET, host, &sa->sin_addr) == 1 && parse_port(colon + 1, &sa->sin_port);
}

int dev_address_parse(const char *text, struct dev_address *ret_a, struct hf_err *reterr)
{
	*ret_a = (struct dev_address){ 0 };
	if (strncmp(text, "unix:/", 6) == 0) {
		ret_a->len = sizeof(struct sockaddr_un);
		int r = unix_addr(text + 5, (struct sockaddr_un *)&ret_a->sa);
		return r < 0 ? hf_err_set(reterr, -EINVAL,
				       "%.40s...: the path has more than 107 bytes", text)
			     : 0;
	}
	if (strncmp(text, "tcp:", 4) == 0 && parse_tcp(text + 4, ret_a))
		return 0;
	return hf_err_set(
		reterr, -EINVAL, "'%.120s': want unix:/PATH, tcp:IP:PORT or tcp:[IP6]:PORT", text);
}
