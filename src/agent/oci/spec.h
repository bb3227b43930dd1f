/* SPDX-License-Identifier: MIT */
/* spec.h - what the agent changes in an OCI runtime specification before the runtime sees it. */
#ifndef AGT_OCI_SPEC_H
#define AGT_OCI_SPEC_H

#include "base/err.h"
#include <jansson.h>

struct agt_spec_facts {
	bool tty;
	bool own_pids;     /* a new pid namespace: the others die with init */
	char sandbox[256]; /* id of the pod; the container's own when it is a sandbox or alone */
	bool is_workload;  /* joins an existing sandbox */
};

/* Changes the specification in place (drops "windows", sets the cgroup path) and says what matters
 * for the agent. -EBADMSG and a text when a part is missing or has the wrong type. */
int agt_spec_prepare(
	json_t *spec, const char *id, struct agt_spec_facts *ret, struct hf_err *reterr);

#endif
