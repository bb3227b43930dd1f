/* SPDX-License-Identifier: MIT */
/*
 * lease.h - an adapter's addresses from a DHCP server.
 *
 * udhcpc asks and renews, in the network name space of the container, as a helper of the monitor
 * (proc/monitor.h): it is started again when it ends, and killed with the adapter or the container.
 * What it runs for each event is this program (its "script"), which applies the lease by the
 * agent's own rtnetlink and says so in a line:
 *
 *     agent --> udhcpc --> agt_lease_script(): "leased 10.0.0.7/24" --line--> monitor --> agent
 *
 * The first such line is what the host's request waits for, AGT_LEASE_WAIT_MS at most.
 */
#ifndef AGT_NET_LEASE_H
#define AGT_NET_LEASE_H

#include "base/err.h"
#include <sys/types.h>

#define AGT_LEASE_WAIT_MS 10000 /* for the first lease */

struct agt;
struct agt_lease;

struct agt_lease_spec {
	pid_t pid;             /* whose network name space it is */
	const char *interface; /* its name there */
	const char *bundle;    /* whose resolv.conf takes the server's names; NULL: none */
	bool low_metric;       /* as in adapter.h */
};

typedef void agt_leased_fn(void *arg, const struct hf_err *err); /* code 0: there is a lease */

/* Asks for a lease, and then keeps it. The callback comes once, in a later turn; after an error it
 * goes on asking until it is stopped. NULL and a text when it cannot begin. */
struct agt_lease *agt_lease_start(struct agt *a, const struct agt_lease_spec *spec,
	agt_leased_fn *fn, void *arg, struct hf_err *reterr);

/* For good; the addresses stay until the name space ends. A callback that has not come yet comes,
 * with -ECANCELED. Accepts NULL. */
void agt_lease_stop(struct agt_lease *l);

/* The lease in the environment, as udhcpc gives it, as an adapter: its address and its routes.
 * -EINVAL: the server says nonsense; -E2BIG: more routes than an adapter can have. */
struct agt_adapter;
int agt_lease_read(struct agt_adapter *ad);

/* Whether this process is udhcpc's script, and what it does then: returns the exit status. */
bool agt_lease_is_script(void);
int agt_lease_script(int argc, char *const argv[]);

#endif
