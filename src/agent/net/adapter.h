/* SPDX-License-Identifier: MIT */
/*
 * adapter.h - one network adapter: what a host says of it, and bringing it up. Bringing up blocks:
 * it runs in a worker, which enters the container's network name space.
 *
 * An adapter is found by its VMBus id where there is a VMBus, and by its MAC address elsewhere.
 * With IPConfigs it gets these addresses and Routes; without, a lease (lease.h).
 */
#ifndef AGT_NET_ADAPTER_H
#define AGT_NET_ADAPTER_H

#include "agent/rpc/field.h"
#include "netlink.h"
#include <net/if.h>

#define AGT_ADAPTER_WAIT_MS  5000 /* for a device to appear */
#define AGT_ADDRESSES_MAX    32
#define AGT_ROUTES_MAX       64
#define AGT_LOW_METRIC       500 /* routes of all adapters but the first of a name space */
#define AGT_LOW_METRIC_TABLE 101
#define AGT_LOW_METRIC_RULE  5

struct agt_adapter {
	char namespace_id[AGT_FIELD_NAME_MAX], id[AGT_FIELD_NAME_MAX]; /* lower case */
	char mac[18];                                                  /* aa:bb:.., or "" */
	const char *dns_suffixes, *dns_servers; /* comma lists; point into the JSON */
	uint32_t encap_overhead;
	bool low_metric;
	size_t n_addresses, n_routes;
	struct agt_ip address[AGT_ADDRESSES_MAX];
	struct agt_route route[AGT_ROUTES_MAX];
};

/* Reads the Settings of a Network request; errors stick to the fields. */
void agt_adapter_read(struct agt_fields *f, struct agt_adapter *ret);

/* The name of the interface: waits for it. */
int agt_adapter_find(const struct agt_adapter *ad, char name[IF_NAMESIZE], struct hf_err *reterr);

/* The text of *reterr becomes the interface's name, the code stays 0, when it succeeds.
 * Moves the adapter into the network name space of the process (0: leaves it where it is) and
 * brings it up there. The caller is in that name space afterwards. */
int agt_adapter_bring_up(const struct agt_adapter *ad, pid_t pid, struct hf_err *reterr);

/* Gives the interface, which is up and in the caller's name space, the addresses and routes. */
int agt_adapter_apply(const struct agt_adapter *ad, unsigned index, struct hf_err *reterr);

#endif
