/* SPDX-License-Identifier: MIT */
/*
 * options.h - the command line of holdfastd.
 *
 * The keys of --vm and the single-VM options are those of vhost-device-vsock, so that holdfastd can
 * take its place in a script. Every value is checked here, once; what comes out is ready to use.
 */
#ifndef DEVICE_OPTIONS_H
#define DEVICE_OPTIONS_H

#include "address.h"
#include "base/err.h"
#include "base/log.h"
#include "guard.h"
#include "policy.h"

#define DEV_VMS_MAX              64
#define DEV_NAME_MAX             32
#define DEV_GROUPS_MAX           255                 /* bytes of a list of groups */
#define DEV_PATH_MAX             107                 /* what fits a Unix socket's address */
#define DEV_UDS_PATH_MAX         (DEV_PATH_MAX - 11) /* "_4294967295" is put behind it */
#define DEV_TX_BUFFER_MIN        4096
#define DEV_TX_BUFFER_MAX        (4U << 20)
#define DEV_TX_BUFFER_DEFAULT    (256U << 10)
#define DEV_QUEUE_SIZE_MAX       1024
#define DEV_SANDBOX_DIRS         16
#define DEV_USER_MAX             65   /* two names of 32, and the colon */
#define DEV_GIVEN_MAX            8192 /* bytes of all keys and values of a VM */
#define DEV_FORWARDS_MAX         16   /* ports of forward-listen */
#define DEV_CLAIM_TIMEOUT_MS     5000
#define DEV_CLAIM_TIMEOUT_MS_MAX 3600000
#define DEV_LINK_PEERS_MAX       8
#define DEV_LINK_TLS_MAX         1024
#define DEV_LINK_TIMEOUT_MS      10000
#define DEV_POLL_US              32 /* shorter than what it takes to sleep and to wake up */
#define DEV_POLL_US_MAX          1000

enum dev_action { DEV_RUN, DEV_HELP, DEV_VERSION, DEV_CAPABILITIES };

/* The host's own AF_VSOCK: where the guest's connections go, and ports on which connections for the
 * guest are taken. */
struct dev_forward {
	uint32_t cid; /* 0: none */
	size_t n_listen;
	uint32_t listen[DEV_FORWARDS_MAX];
};

struct dev_vm_options {
	char name[DEV_NAME_MAX + 1];         /* "vm<outer-cid>" unless given */
	char socket[DEV_PATH_MAX + 1];       /* "" when fd >= 0 */
	char uds_path[DEV_UDS_PATH_MAX + 1]; /* "" when forward has a CID */
	int fd;                              /* the vhost-user socket, inherited; -1: none */
	uint32_t guest_cid;                  /* what the guest is told */
	uint32_t outer_cid;                  /* what everybody else is told; 0: the same */
	uint32_t tx_buffer_size; /* bytes a guest may send ahead of the host application */
	uint32_t queue_size;     /* largest ring accepted */
	struct dev_policies policies;
	struct dev_guard guard;
	struct dev_forward forward;
	char groups[DEV_GROUPS_MAX + 1]; /* "A+B"; "": alone */
	/* All that was given, "key\0value\0...": a holdfastd that takes over reads it again. */
	char given[DEV_GIVEN_MAX];
	size_t given_len;
};

/* The CID under which the host and other guests know it. */
static inline uint32_t dev_options_cid(const struct dev_vm_options *vm)
{
	return vm->outer_cid ? vm->outer_cid : vm->guest_cid;
}

#define DEV_CID_LOCAL 1u
#define DEV_CID_ANY   UINT32_MAX

/* Where it listens: what is on this machine only is not offered to others. Whom it takes: clients
 * of the CID to which the guest's connections go, and nobody else. */
uint32_t dev_forward_listen_cid(const struct dev_forward *f);
bool dev_forward_takes(const struct dev_forward *f, uint32_t client_cid);

struct dev_options {
	enum dev_action action;
	struct dev_vm_options vm[DEV_VMS_MAX];
	size_t n_vms;
	char control[DEV_PATH_MAX + 1]; /* "" when there is none */
	char metrics[DEV_PATH_MAX + 1]; /* a path or [ADDRESS:]PORT; "" when there is none */
	char link[DEV_ADDRESS_MAX + 1]; /* "" when there is none */
	char link_peer[DEV_LINK_PEERS_MAX][DEV_ADDRESS_MAX + 1];
	size_t n_link_peers;
	char link_tls[DEV_LINK_TLS_MAX + 1];
	unsigned claim_timeout_ms, link_timeout_ms;
	const char *takeover; /* control socket of the holdfastd to take over from; NULL: none */
	bool detach;          /* return once it is done */
	uint32_t poll_us;
	bool no_sandbox;
	char user[DEV_USER_MAX + 1]; /* "": as started */
	/* Besides the folders of the sockets; of the command line, or allocated and never freed. */
	const char *sandbox_dir[DEV_SANDBOX_DIRS];
	size_t n_sandbox_dirs;
	enum hf_log_level log_level;
	enum hf_log_format log_format;
};

/* Reads the command line. -EINVAL with a text for the user; *ret_o is then unspecified. */
int dev_options_parse(struct dev_options *ret_o, int argc, char **argv, struct hf_err *reterr);

/* One VM, key by key as in --vm; then check, which fills in what was not given. */
struct dev_vm_options dev_options_vm_default(void);
int dev_options_vm_set(
	struct dev_vm_options *vm, const char *key, const char *value, struct hf_err *reterr);
int dev_options_vm_check(struct dev_vm_options *vm, struct hf_err *reterr);

/* -EEXIST when the two have something that two VMs must not share. */
int dev_options_clash(
	const struct dev_vm_options *a, const struct dev_vm_options *b, struct hf_err *reterr);

/* Is it in one of these groups, "A+B"? */
bool dev_options_in_group(const struct dev_vm_options *vm, const char *groups);

/* Both are in at least one group: their guests may talk to each other. */
bool dev_options_share_group(const struct dev_vm_options *a, const struct dev_vm_options *b);

extern const char dev_options_help[];
extern const char dev_options_capabilities[]; /* JSON, for vhost-user discovery */

#endif
