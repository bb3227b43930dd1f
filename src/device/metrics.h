/* SPDX-License-Identifier: MIT */
/*
 * metrics.h - counters of all VMs as Prometheus text, over HTTP on a Unix or a loopback TCP socket.
 *
 * One request per connection, whatever it asks for: the answer is the metrics. A client has its
 * time for all of it; those that do not fit wait in the backlog.
 */
#ifndef DEVICE_METRICS_H
#define DEVICE_METRICS_H

#include "loop.h"

#define DEV_METRICS_CLIENTS 8
#define DEV_METRICS_US      5000000u /* from accept to the end of the answer */
#define DEV_METRICS_REQUEST 4096

struct dev_daemon;

struct dev_metrics_client {
	int fd; /* -1: free */
	uint32_t gen;
	uint64_t until_us;
	char in[DEV_METRICS_REQUEST];
	size_t in_len;
	char *out; /* NULL: the request is not complete yet */
	size_t out_len, out_sent;
};

struct dev_metrics {
	struct dev_daemon *daemon;
	const char *address;
	int listen_fd; /* -1: none */
	bool paused;
	struct dev_metrics_client client[DEV_METRICS_CLIENTS];
};

/* address: a path, PORT or ADDRESS:PORT of this machine's loopback; "" is none. -EINVAL: another.
 */
int dev_metrics_open(struct dev_metrics *m, struct dev_daemon *daemon, const char *address);
void dev_metrics_close(struct dev_metrics *m);

/* As for the control socket (control.h): what was taken over. */
int dev_metrics_adopt(
	struct dev_metrics *m, struct dev_daemon *daemon, const char *address, int fd);
struct dev_metrics_client *dev_metrics_add(struct dev_metrics *m, int fd);
void dev_metrics_carry_on(struct dev_metrics *m);
void dev_metrics_forget(struct dev_metrics *m);

void dev_metrics_on_listen(struct dev_metrics *m);
void dev_metrics_on_client(struct dev_metrics *m, struct dev_tag tag);
uint64_t dev_metrics_turn(struct dev_metrics *m); /* as on_turn */

#endif
