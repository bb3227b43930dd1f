/* SPDX-License-Identifier: MIT */
/* spec.h - what the agent changes in an OCI runtime specification before the runtime sees it. */
#ifndef AGT_OCI_SPEC_H
#define AGT_OCI_SPEC_H

#include "base/err.h"
#include <jansson.h>

enum agt_kind { AGT_KIND_ALONE, AGT_KIND_SANDBOX, AGT_KIND_WORKLOAD };

struct agt_spec_facts {
	enum agt_kind kind;
	bool tty;
	bool own_pids;     /* a new pid namespace: the others die with init */
	char sandbox[256]; /* id of the pod; the container's own when it is a sandbox or alone */
	char hostname[256];
	char log[256];     /* file below the pod's logs that takes its output too; "": none */
	char netns[128];   /* of the host, in lower case; "": none */
	bool needs_netns;  /* it must be known */
	bool host_network; /* uses the machine's own */
};

/* "" when it has none. */
const char *agt_spec_annotation(const json_t *spec, const char *key);

/* Changes the specification in place (drops "windows", sets the cgroup path) and says what matters
 * for the agent. -EBADMSG and a text when a part is missing or has the wrong type. */
int agt_spec_prepare(
	json_t *spec, const char *id, struct agt_spec_facts *ret, struct hf_err *reterr);

/* Sets uid and gid from process.user.username, if there is one, as the container's root knows it
 * (user.h). -errno and a text when it does not. */
int agt_spec_resolve_user(json_t *process, const char *root, struct hf_err *reterr);

/* The same for a process to be executed, which also inherits from the container's: its limits, and
 * its user when that was given by name and this one names none. */
int agt_spec_inherit(
	json_t *process, const json_t *of_container, const char *root, struct hf_err *reterr);

#endif
