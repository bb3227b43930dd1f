/* SPDX-License-Identifier: MIT */
/*
 * host.h - host applications of a benchmark, each a process of its own.
 *
 * They are the simplest that can be written: blocking calls for one connection, one epoll set for
 * more. The raw limit is two of them face to face. What they count is in memory shared with the
 * benchmark. They end with it.
 */
#ifndef BENCH_HOST_H
#define BENCH_HOST_H

#include "base/base.h"
#include <stdatomic.h>
#include <sys/types.h>

struct host_counts {
	_Atomic uint64_t bytes, ops;
};

struct host {
	pid_t pid;
	struct host_counts *counts;
};

/* A process of its own, which returns from here, too: pid is 0 there. */
void host_start(struct host *h);

/* Listens on `path` and reads what comes, in pieces of `message` bytes, from n connections. */
void host_sink(struct host *h, const char *path, unsigned n, size_t message);

/* Listens on `path`, sends back what comes and closes what ends. */
void host_echo(struct host *h, const char *path);

/* Dials `path` n times, says `line` there if it is not NULL and reads the line of the answer, then
 * writes messages for ever. */
void host_source(struct host *h, const char *path, const char *line, unsigned n, size_t message);

/* Listens on `path` and joins each connection to one that it makes to `to`. */
void host_hop(struct host *h, const char *path, const char *to);

/* Does this for ever: dials, says the line and reads the answer likewise, closes. */
void host_dial(struct host *h, const char *path, const char *line);

/* One connection as host_source() makes it. */
int host_connect(const char *path, const char *line);

void host_end(struct host *h);

void bench_die(const char *what, int error) __attribute__((noreturn));

#endif
