/* SPDX-License-Identifier: MIT */
/*
 * pod.h - what a container's kind asks for: folders, the files in /etc, mounts and devices.
 *
 *     alone      hostname, hosts, resolv.conf of its own, mounted into it
 *     sandbox    the same files, for its workloads; folders that they share
 *     workload   its sandbox's files; sources sandbox://, sandbox-tmp://, hugepages://, uvm://
 *
 * agt_pod_prepare() touches files: it runs in a worker, on that worker's copy of the specification,
 * which it completes and writes to BUNDLE/config.json.
 */
#ifndef AGT_OCI_POD_H
#define AGT_OCI_POD_H

#include "spec.h"

struct agt_pod {
	const struct agt_spec_facts *facts;
	json_t *spec;
	const char *bundle, *root;
	const char *sandbox;     /* the sandbox's bundle; of a workload only */
	const char *resolv_conf; /* NULL: the image's stays */
};

int agt_pod_prepare(const struct agt_pod *p, struct hf_err *reterr);

/* Takes away what is mounted below a sandbox's bundle for its workloads. Runs in a worker. */
int agt_pod_undo(const char *bundle, struct hf_err *reterr);

#endif
