/* SPDX-License-Identifier: MIT */
/*
 * cgroup.h - what the kernel's control groups tell about a container: its processes, and its
 * statistics in the shape that hosts expect (containerd's metrics of cgroup v1, from either
 * version's files).
 */
#ifndef AGT_HOST_CGROUP_H
#define AGT_HOST_CGROUP_H

#include "base/err.h"
#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#define AGT_PIDS_MAX 2800 /* in a list of processes: an answer must fit into a frame */

/* The folder of the process's cgroup, to be freed; NULL when there is none. */
char *agt_cgroup_of(pid_t pid);

/* The processes below the folder, [{"ProcessId": n}, ...]. */
json_t *agt_cgroup_processes(const char *folder);

/* The metrics; members that are zero or unknown are left out. */
json_t *agt_cgroup_metrics(const char *folder);

/* As PID 1: version 2, or version 1 if the kernel's command line asks for it. */
void agt_cgroup_mount(void);

/* As PID 1: controllers for all below, and /pods limited to all memory but the reserve. */
void agt_cgroup_set_up(uint64_t reserve_bytes);

/* Processes of the group that were killed for want of memory; 0 when that is unknown. */
uint64_t agt_cgroup_oom_kills(const char *folder);

/* The folder that has the files of the memory controller; `path` may be used for it. */
const char *agt_cgroup_memory(const char *folder, char path[4096]);

/* As PID 1: the agent in a group of its own, with memory that others cannot take. */
void agt_cgroup_protect(void);

/* Removes the groups with this name that are empty: of a pod, which its sandbox's deletion leaves,
 * of a container that was half made, alone or in a pod. */
void agt_cgroup_remove_empty(const char *id);

/* Limits /pods to what memory there is now, less the reserve. May take as long as reclaiming does.
 */
int agt_cgroup_limit_pods(const uint64_t *reserve_bytes, struct hf_err *reterr);

#endif
