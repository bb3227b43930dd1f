/* SPDX-License-Identifier: MIT */
/*
 * ports.h - the host's side ports: entropy for the kernel, and where the log goes.
 *
 * The log is written into a pipe of AGT_LOG_BUFFER bytes, which is all the memory it can take:
 * while nobody listens it fills, and then lines are dropped and counted. The writer never waits.
 */
#ifndef AGT_BOOT_PORTS_H
#define AGT_BOOT_PORTS_H

#include "base/base.h"

#define AGT_LOG_BUFFER  (256 << 10)
#define AGT_LOG_DIAL_MS 100 /* between dials of the log's port */
#define AGT_ENTROPY_MAX 4096

struct agt;

/* The descriptor that the log is to be written to; -errno. Before the loop. */
int agt_log_pipe(void);

/* The pipe's other end; -1: there is none. */
int agt_log_pipe_end(void);

/* Sends what comes through the pipe to the port, for as long as the agent lives. */
int agt_log_relay(struct agt *a, uint32_t port);

/* Dials once, and gives the kernel what the host sends. */
void agt_entropy(struct agt *a, uint32_t port);

/* The kernel's lines of this priority or a more urgent one go into the log. */
void agt_kmsg(struct agt *a, uint64_t level);

/* The priority and the text of a record of /dev/kmsg, which is changed. -EBADMSG */
int agt_kmsg_parse(char *record, unsigned *ret_priority, char **ret_text);

#endif
