/* SPDX-License-Identifier: MIT */
#include "netlink.h"
#include "base/fd.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define ANSWER_S 5 /* the kernel answers at once, or something is very wrong */

/* A message being built: the head, its family's part, attributes. */
struct message {
	struct nlmsghdr head;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
		struct fib_rule_hdr rule;
		uint8_t bytes[240];
	};
};

static void begin(struct message *m, uint16_t type, uint16_t flags, size_t body)
{
	*m = (struct message){ .head.nlmsg_type = type };
	m->head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	m->head.nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
}

static void put(struct message *m, uint16_t type, const void *data, size_t n)
{
	struct rtattr *a = (void *)((char *)m + NLMSG_ALIGN(m->head.nlmsg_len));
	/* the messages below are far from full: a head, and at most six attributes of 16 bytes */
	hf_assert(NLMSG_ALIGN(m->head.nlmsg_len) + RTA_SPACE(n) <= sizeof(*m));
	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(n);
	memcpy(RTA_DATA(a), data, n);
	m->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(m->head.nlmsg_len) + RTA_SPACE(n));
}

static void put_u32(struct message *m, uint16_t type, uint32_t v)
{
	put(m, type, &v, sizeof(v));
}

static size_t bytes_of(const struct agt_ip *ip)
{
	return ip->family == AF_INET ? 4 : 16;
}

/* Sends, and waits for the acknowledgement of this message. */
static int talk(int nl, struct message *m)
{
	static uint32_t seq;
	uint8_t answer[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	m->head.nlmsg_seq = ++seq;
	if (send(nl, m, m->head.nlmsg_len, 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = recv(nl, answer, sizeof(answer), 0);
		if (n < 0)
			return -errno;
		const struct nlmsghdr *h = (const void *)answer;
		if (!NLMSG_OK(h, (size_t)n) || h->nlmsg_seq != seq || h->nlmsg_type != NLMSG_ERROR)
			continue;
		return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
	}
}

int agt_nl_open(void)
{
	const struct timeval limit = { .tv_sec = ANSWER_S };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)); /* else: for ever */
	return fd;
}

int agt_ip_parse(const char *text, struct agt_ip *ret)
{
	char copy[INET6_ADDRSTRLEN + 8], *end = NULL;
	if (snprintf(copy, sizeof(copy), "%s", text) >= (int)sizeof(copy))
		return -EINVAL;
	char *slash = strchr(copy, '/');
	if (slash)
		*slash++ = '\0';
	*ret = (struct agt_ip){ .family = strchr(copy, ':') ? AF_INET6 : AF_INET };
	if (inet_pton(ret->family, copy, ret->bytes) != 1)
		return -EINVAL;
	unsigned long bits = 8 * bytes_of(ret);
	unsigned long prefix = slash ? strtoul(slash, &end, 10) : bits;
	if (prefix > bits || (slash && (end == slash || *end || *slash < '0' || *slash > '9')))
		return -EINVAL;
	ret->prefix = (uint8_t)prefix;
	return 0;
}

bool agt_ip_is_zero(const struct agt_ip *ip)
{
	static const uint8_t zero[16];
	return !memcmp(ip->bytes, zero, sizeof(zero));
}

int agt_nl_link_up(int nl, unsigned index, bool up)
{
	struct message m;
	begin(&m, RTM_NEWLINK, 0, sizeof(m.link));
	m.link.ifi_index = (int)index;
	m.link.ifi_change = IFF_UP;
	m.link.ifi_flags = up ? IFF_UP : 0;
	return talk(nl, &m);
}

int agt_nl_link_mtu(int nl, unsigned index, uint32_t mtu)
{
	struct message m;
	begin(&m, RTM_NEWLINK, 0, sizeof(m.link));
	m.link.ifi_index = (int)index;
	put_u32(&m, IFLA_MTU, mtu);
	return talk(nl, &m);
}

int agt_nl_link_to(int nl, unsigned index, int netns_fd)
{
	struct message m;
	begin(&m, RTM_NEWLINK, 0, sizeof(m.link));
	m.link.ifi_index = (int)index;
	put_u32(&m, IFLA_NET_NS_FD, (uint32_t)netns_fd);
	return talk(nl, &m);
}

int agt_nl_address(int nl, unsigned index, const struct agt_ip *ip)
{
	struct message m;
	begin(&m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof(m.address));
	m.address.ifa_family = ip->family;
	m.address.ifa_prefixlen = ip->prefix;
	m.address.ifa_index = index;
	/* nobody else has the address: the host has given it out, so it is usable at once */
	m.address.ifa_flags = ip->family == AF_INET6 ? IFA_F_NODAD : 0;
	put(&m, IFA_LOCAL, ip->bytes, bytes_of(ip));
	put(&m, IFA_ADDRESS, ip->bytes, bytes_of(ip));
	return talk(nl, &m);
}

int agt_nl_route(int nl, const struct agt_route *r)
{
	struct message m;
	begin(&m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(m.route));
	m.route.rtm_family = r->to.family;
	m.route.rtm_dst_len = r->to.prefix;
	m.route.rtm_protocol = RTPROT_STATIC;
	m.route.rtm_type = RTN_UNICAST;
	m.route.rtm_scope = r->via.family ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	m.route.rtm_flags = r->onlink ? RTNH_F_ONLINK : 0;
	put_u32(&m, RTA_TABLE, r->table ? r->table : RT_TABLE_MAIN);
	put_u32(&m, RTA_OIF, r->index);
	if (r->to.prefix)
		put(&m, RTA_DST, r->to.bytes, bytes_of(&r->to));
	if (r->via.family)
		put(&m, RTA_GATEWAY, r->via.bytes, bytes_of(&r->via));
	if (r->metric)
		put_u32(&m, RTA_PRIORITY, r->metric);
	return talk(nl, &m);
}

int agt_nl_rule(int nl, const struct agt_ip *from, uint32_t table, uint32_t priority)
{
	struct message m;
	begin(&m, RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, sizeof(m.rule));
	m.rule.family = from->family;
	m.rule.src_len = (uint8_t)(8 * bytes_of(from));
	m.rule.action = FR_ACT_TO_TBL;
	put(&m, FRA_SRC, from->bytes, bytes_of(from));
	put_u32(&m, FRA_TABLE, table);
	put_u32(&m, FRA_PRIORITY, priority);
	int r = talk(nl, &m);
	return r == -EEXIST ? 0 : r;
}
