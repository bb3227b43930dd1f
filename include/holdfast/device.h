/* SPDX-License-Identifier: MIT */
/* device.h - the control socket of holdfastd (docs/control.md), for any program. */
#ifndef HOLDFAST_DEVICE_H
#define HOLDFAST_DEVICE_H

#include "guest.h" /* HF_API */

#ifdef __cplusplus
extern "C" {
#endif

#define HF_DEVICE_PATIENCE_MS 10000

/*
 * One request, {"cmd": ..., ...}, to the holdfastd that listens at control_path, and its answer,
 * which is to be freed. Blocks for at most patience_ms (-1: no limit; -ETIMEDOUT). A refusal is
 * -errno with holdfastd's own reason in *reterr. Descriptors do not travel this way.
 */
HF_API int hf_device_call(const char *control_path, const char *request_json, int patience_ms,
	char **ret_json, struct hf_err *reterr);

#ifdef __cplusplus
}
#endif

#endif
