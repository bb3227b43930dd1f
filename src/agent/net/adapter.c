/* SPDX-License-Identifier: MIT */
#include "adapter.h"
#include "base/fd.h"
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define VMBUS   "/sys/bus/vmbus/devices"
#define NET     "/sys/class/net"
#define LOOK_MS 10

static void refuse(struct agt_fields *f, const char *what, const char *text, const char *want)
{
	if (f->err.code == 0)
		(void)hf_err_set(&f->err, -EBADMSG, "%s%s: \"%.60s\": %s expected", f->prefix, what,
			text, want);
}

static void read_name(struct agt_fields *f, const char *member, char *ret)
{
	const char *text = agt_field_string(f, member, "");
	if (strlen(text) >= AGT_FIELD_NAME_MAX || strchr(text, '/') || text[0] == '.')
		refuse(f, member, text, "a short name without /");
	else
		for (size_t i = 0; i <= strlen(text); i++)
			ret[i] = (char)tolower((unsigned char)text[i]);
}

/* "00-15-5D-01-02-03" or with colons, in any case. */
static void read_mac(struct agt_fields *f, char *ret)
{
	const char *text = agt_field_string(f, "MacAddress", "");
	size_t n = strlen(text);
	for (size_t i = 0; i < n && n == 17; i++) {
		bool separator = i % 3 == 2;
		if (separator ? text[i] != '-' && text[i] != ':'
			      : !isxdigit((unsigned char)text[i]))
			n = 0;
		ret[i] = separator ? ':' : (char)tolower((unsigned char)text[i]);
	}
	if (n != 17 && text[0])
		refuse(f, "MacAddress", text, "six bytes in hex");
	ret[n == 17 ? 17 : 0] = '\0';
}

static void read_address(struct agt_fields *f, struct agt_ip *ret)
{
	const char *text = agt_field_string(f, "IPAddress", "");
	uint64_t prefix = agt_field_uint(f, "PrefixLength", 128, 0);
	if (agt_ip_parse(text, ret) < 0 || strchr(text, '/') || prefix > ret->prefix)
		refuse(f, "IPAddress", text, "an address, and a PrefixLength for it,");
	ret->prefix = (uint8_t)prefix;
}

/* False: a route that every link has, which upstream's hosts send. */
static bool read_route(struct agt_fields *f, struct agt_route *ret)
{
	const char *to = agt_field_string(f, "DestinationPrefix", "");
	const char *via = agt_field_string(f, "NextHop", "");
	*ret = (struct agt_route){ .metric = (uint32_t)agt_field_uint(f, "Metric", UINT16_MAX, 0) };
	if (agt_ip_parse(to, &ret->to) < 0)
		refuse(f, "DestinationPrefix", to, "ADDRESS/BITS");
	else if (via[0] && (agt_ip_parse(via, &ret->via) < 0 || strchr(via, '/') ||
				   ret->via.family != ret->to.family))
		refuse(f, "NextHop", via, "an address of the destination's family");
	if (ret->via.family && agt_ip_is_zero(&ret->via))
		ret->via.family = 0;
	return ret->to.prefix != 0 || ret->via.family != 0;
}

static void read_lists(struct agt_fields *f, struct agt_adapter *ad)
{
	json_t *v, *addresses = agt_field_array(f, "IPConfigs"),
		   *routes = agt_field_array(f, "Routes");
	size_t i;
	if (json_array_size(addresses) > AGT_ADDRESSES_MAX ||
		json_array_size(routes) > AGT_ROUTES_MAX) {
		refuse(f, "IPConfigs or Routes", "", "fewer");
		return;
	}
	json_array_foreach (addresses, i, v) {
		struct agt_fields e = { .obj = v, .prefix = "Settings.IPConfigs." };
		read_address(&e, &ad->address[ad->n_addresses++]);
		agt_fields_join(f, &e);
	}
	json_array_foreach (routes, i, v) {
		struct agt_fields e = { .obj = v, .prefix = "Settings.Routes." };
		ad->n_routes += read_route(&e, &ad->route[ad->n_routes]);
		agt_fields_join(f, &e);
	}
}

void agt_adapter_read(struct agt_fields *f, struct agt_adapter *ad)
{
	*ad = (struct agt_adapter){ 0 };
	read_name(f, "NamespaceID", ad->namespace_id);
	read_name(f, "ID", ad->id);
	read_mac(f, ad->mac);
	ad->dns_suffixes = agt_field_string(f, "DNSSuffix", "");
	ad->dns_servers = agt_field_string(f, "DNSServerList", "");
	ad->encap_overhead = (uint32_t)agt_field_uint(f, "EncapOverhead", UINT16_MAX, 0);
	ad->low_metric = agt_field_bool(f, "EnableLowMetric", false);
	read_lists(f, ad);
	if (!ad->id[0] && f->err.code == 0)
		refuse(f, "ID", "", "the adapter's id");
}

/* The first interface in the folder that has the MAC address (or any, when that is ""). */
static bool look(const char *folder, const char *mac, char name[IF_NAMESIZE])
{
	char path[PATH_MAX], text[64];
	bool found = false;
	DIR *d = opendir(folder);
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		if (e->d_name[0] == '.' || strlen(e->d_name) >= IF_NAMESIZE)
			continue;
		(void)snprintf(path, sizeof(path), "%s/%s/address", folder, e->d_name);
		found = !mac[0] ||
			(fd_read_line(path, text, sizeof(text)) == 0 && !strcasecmp(text, mac));
		if (found)
			(void)snprintf(name, IF_NAMESIZE, "%s", e->d_name);
	}
	if (d)
		(void)closedir(d);
	return found;
}

int agt_adapter_find(const struct agt_adapter *ad, char name[IF_NAMESIZE], struct hf_err *reterr)
{
	char folder[PATH_MAX];
	const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000 };
	bool vmbus = access(VMBUS, F_OK) == 0;
	if (!vmbus && !ad->mac[0])
		return hf_err_set(reterr, -EINVAL,
			"MacAddress: expected: without a VMBus adapters are found by it");
	(void)snprintf(folder, sizeof(folder), VMBUS "/%s/net", ad->id);
	for (int waited = 0; waited < AGT_ADAPTER_WAIT_MS; waited += LOOK_MS) {
		if (look(vmbus ? folder : NET, vmbus ? "" : ad->mac, name))
			return 0;
		(void)nanosleep(&pause, NULL); /* shorter does no harm */
	}
	return hf_err_set(reterr, -ENODEV,
		"ID: adapter %s (MAC %s): not there within %d ms: attach it first", ad->id, ad->mac,
		AGT_ADAPTER_WAIT_MS);
}

/* By a call, not sysfs: that shows the name space in which it was mounted. */
static int set_mtu(int nl, const char *name, unsigned index, uint32_t overhead)
{
	struct ifreq ifr = { 0 };
	HF_CLEANUP(fd_closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!overhead)
		return 0;
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (fd < 0 || ioctl(fd, SIOCGIFMTU, &ifr) < 0)
		return -errno;
	return (uint32_t)ifr.ifr_mtu <= overhead
		       ? -EINVAL
		       : agt_nl_link_mtu(nl, index, (uint32_t)ifr.ifr_mtu - overhead);
}

static int add_route(int nl, const struct agt_adapter *ad, const struct agt_route *given,
	unsigned index, uint32_t table)
{
	struct agt_route route = *given;
	route.index = index;
	route.table = table;
	if (ad->low_metric && !route.metric)
		route.metric = AGT_LOW_METRIC;
	int r = agt_nl_route(nl, &route);
	if (r != -ENETUNREACH && r != -EHOSTUNREACH)
		return r;
	route.onlink = true; /* no address covers the gateway */
	return agt_nl_route(nl, &route);
}

int agt_adapter_apply(const struct agt_adapter *ad, unsigned index, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int nl = agt_nl_open();
	int r = nl < 0 ? hf_err_set(reterr, nl, "rtnetlink: %s", strerror(-nl)) : 0;
	for (size_t i = 0; r == 0 && i < ad->n_addresses; i++) {
		r = agt_nl_address(nl, index, &ad->address[i]);
		if (r == 0 && ad->low_metric)
			r = agt_nl_rule(
				nl, &ad->address[i], AGT_LOW_METRIC_TABLE, AGT_LOW_METRIC_RULE);
		if (r < 0)
			return hf_err_set(reterr, r, "IPConfigs[%zu]: %s", i, strerror(-r));
	}
	for (size_t i = 0; r == 0 && i < ad->n_routes; i++) {
		r = add_route(nl, ad, &ad->route[i], index, 0);
		if (r == 0 && ad->low_metric)
			r = add_route(nl, ad, &ad->route[i], index, AGT_LOW_METRIC_TABLE);
		if (r < 0)
			return hf_err_set(reterr, r, "Routes[%zu]: %s", i, strerror(-r));
	}
	return 0;
}

/* Out of this name space and into that of the process, whose the worker becomes. */
static int move(int nl, unsigned index, pid_t pid, struct hf_err *reterr)
{
	char path[64];
	(void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
	HF_CLEANUP(fd_closep) int ns = open(path, O_RDONLY | O_CLOEXEC);
	if (ns < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	int r = agt_nl_link_up(nl, index, false);
	if (r == 0)
		r = agt_nl_link_to(nl, index, ns);
	if (r == 0 && setns(ns, CLONE_NEWNET) < 0)
		r = -errno;
	return r < 0 ? hf_err_set(reterr, r, "%s: cannot move the adapter: %s", path, strerror(-r))
		     : 0;
}

int agt_adapter_bring_up(const struct agt_adapter *ad, pid_t pid, struct hf_err *reterr)
{
	char name[IF_NAMESIZE];
	int r = agt_adapter_find(ad, name, reterr);
	if (r < 0)
		return r;
	HF_CLEANUP(fd_closep) int outer = agt_nl_open();
	unsigned index = if_nametoindex(name);
	r = pid ? move(outer, index, pid, reterr) : 0;
	if (r < 0)
		return r;
	HF_CLEANUP(fd_closep) int nl = agt_nl_open(); /* of the name space that it is in now */
	index = if_nametoindex(name);
	r = nl < 0 ? nl : set_mtu(nl, name, index, ad->encap_overhead);
	if (r < 0)
		return hf_err_set(reterr, r, "EncapOverhead: %s: %s", name, strerror(-r));
	r = agt_nl_link_up(nl, index, true);
	if (r < 0)
		return hf_err_set(reterr, r, "%s: cannot bring it up: %s", name, strerror(-r));
	if (ad->n_addresses)
		r = agt_adapter_apply(ad, index, reterr);
	return r < 0 ? r : hf_err_set(reterr, 0, "%s", name);
}
