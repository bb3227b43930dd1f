/* SPDX-License-Identifier: MIT */
/*
 * restore.h - an agent takes over what the one before it has left (keeper.h, state.h).
 *
 * Whoever owns a kind of object restores it: makes it as the state says, and claims the descriptors
 * that belong to it. Descriptors that nobody claims are closed: connections to the host, the old
 * loop, what was under way. Anything that does not fit refuses the state whole: the process ends
 * and the keeper starts an agent without it, so nothing half restored is ever used.
 *
 * What was under way when the agent died:
 *     start of a container's init    is asked for again; the runtime refuses what has been done
 *     creation of a container        is undone, and the request refused
 *     deletion of a container        is begun again
 *     any other request that changes something    is refused: nobody knows how far it got
 */
#ifndef AGT_KEEP_RESTORE_H
#define AGT_KEEP_RESTORE_H

#include "base/base.h"
#include <jansson.h>

struct agt;

enum agt_heirloom { AGT_HEIR_PIPE, AGT_HEIR_TERMINAL, AGT_HEIR_WINDOW };

struct agt_heir {
	struct agt *a;
	json_t *map;
	int *fd; /* inherited and not claimed */
	size_t n_fds;
	struct agt_heir_item {
		uint64_t number;
		json_t *value;
	} * item; /* of the iteration */
	size_t n_items, at;
};

/* Notes which descriptors are inherited: before any is opened. */
int agt_heir_init(struct agt_heir *h, struct agt *a);

/* Restores everything, or does not return. The map may be NULL: the agent begins anew. */
void agt_heir_restore(struct agt_heir *h, json_t *map);

/* Takes a descriptor over; -1: there is none. A number that was closed, and is perhaps another's by
 * now, is none as well: what an agent closes it has not always written down before it dies. */
int agt_heir_fd(struct agt_heir *h, const json_t *number, enum agt_heirloom kind);

/* The values of KIND/NUMBER, by ascending number; NULL at the end. */
json_t *agt_heir_first(struct agt_heir *h, const char *kind, uint64_t *ret_number);
json_t *agt_heir_next(struct agt_heir *h, uint64_t *ret_number);

/* Calls fn for each value of KIND/NAME, in any order. */
typedef void agt_heir_fn(struct agt_heir *h, const char *name, json_t *value);
void agt_heir_each(struct agt_heir *h, const char *kind, agt_heir_fn *fn);

/* Refuses the state; does not return. (Callers return after it where a checker does not see that.)
 */
_Noreturn void agt_heir_refuse(struct agt_heir *h, const char *what);

#endif
