/* SPDX-License-Identifier: MIT */
/*
 * netlink.h - the few requests of rtnetlink that the agent makes, each sent and answered before the
 * call returns. In the network name space of the caller; -errno as the kernel says.
 */
#ifndef AGT_NET_NETLINK_H
#define AGT_NET_NETLINK_H

#include "base/base.h"
#include <netinet/in.h>

struct agt_ip {
	uint8_t family; /* AF_INET, AF_INET6; 0: none */
	uint8_t prefix; /* bits */
	uint8_t bytes[16];
};

/* "10.0.0.1" or "fd00::1", with "/24" or without (then all bits). -EINVAL */
int agt_ip_parse(const char *text, struct agt_ip *ret);
bool agt_ip_is_zero(const struct agt_ip *ip);

/* A socket for the calls below, or -errno. */
int agt_nl_open(void);

int agt_nl_link_up(int nl, unsigned index, bool up);
int agt_nl_link_mtu(int nl, unsigned index, uint32_t mtu);
int agt_nl_link_to(int nl, unsigned index, int netns_fd);
int agt_nl_address(int nl, unsigned index, const struct agt_ip *ip);

struct agt_route {
	struct agt_ip to;  /* prefix 0: the default route */
	struct agt_ip via; /* family 0: on the link */
	unsigned index;
	uint32_t metric, table; /* 0: the kernel's defaults */
	bool onlink;            /* the gateway is reachable though no address says so */
};
int agt_nl_route(int nl, const struct agt_route *r);

/* What comes from the address looks into the table. */
int agt_nl_rule(int nl, const struct agt_ip *from, uint32_t table, uint32_t priority);

#endif
