/* SPDX-License-Identifier: MIT */
/* agent_request.c - a request of any type through its real handler: the first byte chooses the
 * type, the rest is the message. test/lib/agent.h tells what stands for the machine, and what must
 * hold.
 */
#include "../lib/agent.h"
#include "base/base.h"
#include "bridge/protocol.h"
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* a to m, in the order of the protocol's numbers */
#define N_TYPES 13

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	uint32_t op = (uint32_t)(data[0] - 'a') % N_TYPES + 1;
	const json_t *answer = agent_ask(0x10100001u | op << 8, (const char *)data + 1, size - 1);
	/* what a host reads */
	char *text = json_dumps(answer, JSON_COMPACT);
	hf_assert(text && strlen(text) <= BRG_ANSWER_MAX - 16);
	free(text);
	return 0;
}
