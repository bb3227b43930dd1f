/* SPDX-License-Identifier: MIT */
/* vm_internal.h - the connection to a supervisor that requests and streams share. */
#ifndef HF_CLIENT_VM_INTERNAL_H
#define HF_CLIENT_VM_INTERNAL_H

#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/line.h"
#include "base/node.h"
#include "holdfast/vm.h"
#include <jansson.h>

struct vm_link {
	char home[HF_NODE_PATH_MAX]; /* where the search begins */
	char node[HF_NODE_PATH_MAX]; /* where it ended last */
	char name[HF_NODE_NAME_MAX + 1];
	int fd;   /* -1: not connected; then retry_us says when to try */
	bool met; /* was connected once: the VM exists, and is waited for */
	int patience_ms;
	uint64_t retry_us;
	uint64_t give_up_us; /* later by as long as it is connected: that is no waiting */
	uint64_t since_us;   /* connected, or had something */
	struct hf_lines lines;
};

int vm_link_init(struct vm_link *l, const char *node, const char *name, struct hf_err *reterr);
void vm_link_done(struct vm_link *l);
/* 1: connected now; 0: not yet; -errno: it will not be. */
int vm_link_connect(struct vm_link *l, struct hf_err *reterr);
void vm_link_lost(struct vm_link *l);  /* closes; the next try is a little later */
void vm_link_works(struct vm_link *l); /* patience begins anew */
int vm_link_timeout(const struct vm_link *l);
int vm_link_read(struct vm_link *l, char **ret_line); /* 1 a line, 0 none now, -errno lost */

/* 0 when the message says ok, else its error. */
int vm_answer_error(json_t *msg, struct hf_err *reterr);

#endif
