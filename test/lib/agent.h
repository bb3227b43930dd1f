/* SPDX-License-Identifier: MIT */
/*
 * agent.h - the agent's requests without a host and without consequences: the real handlers on a
 * machine that is made anew for each request, where every act (a child, a mount, a dial, a signal)
 * is replaced by its outcome. What is left is all that looks at what the host has sent.
 *
 * The machine has containers called creating, created, running (init 102, executed 103), stopped
 * and the sandbox pod, an external process 104, and a network name space ns-1 with the adapter a-1.
 * Files and mounts succeed and leave nothing; the OCI runtime, dials and streams fail.
 */
#ifndef TEST_LIB_AGENT_H
#define TEST_LIB_AGENT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

/* The answer, which the next call frees. Asserts that there is exactly one, that its Result is one
 * of the protocol's, and that an error comes with its record. */
const json_t *agent_ask(uint32_t type, const char *payload, size_t len);

#endif
