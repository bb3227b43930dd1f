/* SPDX-License-Identifier: MIT */
/*
 * floor.h - the least that any device of this kind must do, as a process.
 *
 * It stands where a device stands, between a guest that it shares memory and two eventfds with and
 * a host application, and makes the system calls that the job cannot do without, and no other: no
 * rings, no headers, no connections, no set of descriptors to wait for unless there are many of
 * them. What a device reaches of this is its own; what this reaches of plain sockets is the
 * machine's: how long it takes to wake three processes in turns, and a copy on how many processors.
 */
#ifndef BENCH_FLOOR_H
#define BENCH_FLOOR_H

#include "host.h"

struct floor {
	int kick, call;
	unsigned slot; /* the next rx buffer */
	struct floor_mem {
		_Atomic uint64_t filled, taken; /* bytes to the guest, or from it */
		_Atomic bool asleep[2];         /* the guest, the process in the middle */
	} * mem;
	struct host relay;
};

/* Each starts the process in the middle. */
void floor_g2h_connect(struct floor *f, const char *host_path);
void floor_h2g_connect(struct floor *f, const char *path);
void floor_h2g(struct floor *f, const char *path, unsigned n, size_t message);
void floor_g2h(struct floor *f, const char *host_path, unsigned n, size_t message);
void floor_ping(struct floor *f, const char *host_path, size_t message);
void floor_end(struct floor *f);

/* The guest's part. */
void floor_ask(struct floor *f);      /* closes what there is and connects, and waits for it */
void floor_answer(struct floor *f);   /* waits to be asked, and answers */
uint64_t floor_take(struct floor *f); /* waits for bytes and takes all; returns the sum so far */
void floor_give(struct floor *f, unsigned n); /* waits for room on n connections and fills it */

#endif
