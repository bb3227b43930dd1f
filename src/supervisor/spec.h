/* SPDX-License-Identifier: MIT */
/*
 * spec.h - what a VM is started with: config.json, the parts it is built from, QEMU's command line.
 */
#ifndef HF_SUPERVISOR_SPEC_H
#define HF_SUPERVISOR_SPEC_H

#include "base/err.h"
#include <jansson.h>

#define SPEC_PATH_MAX   4096
#define SPEC_APPEND_MAX 1024
#define SPEC_ARGS_MAX   80

enum spec_accel { SPEC_AUTO, SPEC_TCG, SPEC_KVM, SPEC_ACCEL_N_ };

struct spec {
	unsigned memory_mib, cpus, cid, log_max_mib;
	unsigned outer_cid; /* under which the host knows the guest; 0: the same */
	enum spec_accel accel;
	char qemu[SPEC_PATH_MAX];   /* the program, looked up in PATH when without a slash */
	char device[SPEC_PATH_MAX]; /* holdfastd */
	char module[SPEC_PATH_MAX]; /* holdfast-qemu.so */
	char kernel[SPEC_PATH_MAX], initrd[SPEC_PATH_MAX];
	char append[SPEC_APPEND_MAX]; /* to the kernel's command line */
	char state[8]; /* of the module: how the device's state travels; auto, stream, beside */
};

/* Defaults, then the members of `config` (an object; NULL: none). An unknown member or a bad value
 * is refused. Parts that are not given are looked for beside the running program. */
int spec_parse(struct spec *s, json_t *config, struct hf_err *reterr);
json_t *spec_json(const struct spec *s);

/* Each part exists and can be read; tells which one does not, and how to give another. */
int spec_check_parts(const struct spec *s, struct hf_err *reterr);

/* An argument vector; the strings are the vector's own. */
struct spec_args {
	char *v[SPEC_ARGS_MAX + 1];
	size_t n;
	bool failed; /* no memory, or too many */
};
void spec_arg(struct spec_args *a, const char *fmt, ...) HF_PRINTF(2, 3);
void spec_args_done(struct spec_args *a);

/* How one QEMU of a VM is started; dir is the VM's folder. */
struct spec_launch {
	const char *dir;
	bool incoming;    /* waits for a migration */
	const char *mode; /* of the module: "seamless" or "disruptive" */
};
void spec_qemu_args(const struct spec *s, const struct spec_launch *l, struct spec_args *a);
void spec_device_args(const struct spec *s, const struct spec_launch *l, struct spec_args *a);

const char *spec_accel_name(enum spec_accel accel);

/* Whether a virtual machine really runs under /dev/kvm here: the node alone says nothing. Runs one
 * instruction in a child. 0, or the reason why not. */
int spec_kvm_probe(struct hf_err *reterr);

#endif
