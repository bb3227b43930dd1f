/* SPDX-License-Identifier: MIT */
/*
 * config.h - the configuration file: YAML, as vhost-device-vsock's and with more keys.
 *
 * A mapping. `vms` is a list of mappings, each with the keys of --vm; all other keys are options of
 * the command line without their dashes. In keys '_' and '-' are the same; a list of plain values
 * is the values joined by '+'.
 */
#ifndef DEVICE_CONFIG_H
#define DEVICE_CONFIG_H

#include "options.h"

#define DEV_CONFIG_BYTES_MAX (1u << 20)

/* What is not about a VM. The key has dashes; the value lives only for the call. */
typedef int dev_config_fn(void *ctx, const char *key, const char *value, struct hf_err *reterr);

/* Adds the VMs to *o. -errno with a text that names the file and, where there is one, the line. */
int dev_config_read(const char *path, struct dev_options *o, dev_config_fn *set, void *ctx,
	struct hf_err *reterr);

#endif
