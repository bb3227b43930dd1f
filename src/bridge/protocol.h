/* SPDX-License-Identifier: MIT */
/*
 * protocol.h - the numbers of the GCS bridge protocol, version 4, and of Holdfast's additions
 * (docs/bridge.md). Plain constants: both ends share them.
 */
#ifndef BRG_PROTOCOL_H
#define BRG_PROTOCOL_H

#include <stdint.h>

#define BRG_PORT        0x40000000u /* the guest dials the host here */
#define BRG_PORT_STDIO  0x40000001u /* first port that hosts use for stdio */
#define BRG_VERSION     4u
#define BRG_UVM_ID      "00000000-0000-0000-0000-000000000000"
#define BRG_NO_TIMEOUT  UINT32_MAX
#define BRG_REQUEST_MAX (2u << 20) /* largest frame that the guest accepts, header included */
#define BRG_ANSWER_MAX  65536u     /* largest frame that a host accepts, header included */

/* Type word: kind in bits 31..28, category in 27..20, operation in 19..8, version (1) in 7..0. */
enum brg_kind { BRG_KIND_REQUEST = 1, BRG_KIND_ANSWER = 2, BRG_KIND_NOTIFICATION = 3 };

enum brg_type {
	BRG_CREATE = 0x10100101,
	BRG_START = 0x10100201,
	BRG_SHUTDOWN_GRACEFUL = 0x10100301,
	BRG_SHUTDOWN_FORCED = 0x10100401,
	BRG_EXECUTE_PROCESS = 0x10100501,
	BRG_WAIT_FOR_PROCESS = 0x10100601,
	BRG_SIGNAL_PROCESS = 0x10100701,
	BRG_RESIZE_CONSOLE = 0x10100801,
	BRG_GET_PROPERTIES = 0x10100901,
	BRG_MODIFY_SETTINGS = 0x10100a01,
	BRG_NEGOTIATE = 0x10100b01,
	BRG_DUMP_STACKS = 0x10100c01,
	BRG_DELETE_STATE = 0x10100d01,
	BRG_NOTIFICATION = 0x30100101, /* guest to host, id 0 */
	BRG_ACKNOWLEDGE = 0x3f000101,  /* host to guest, id 0: Holdfast sessions only */
	BRG_OOM = 0x3f000201,          /* guest to host, id 0: Holdfast sessions only */
};

static inline enum brg_kind brg_kind_of(uint32_t type)
{
	return (enum brg_kind)(type >> 28);
}

/* The type that answers a request; true for any request word whatever. */
static inline uint32_t brg_answer_type(uint32_t request)
{
	return (request & 0x0fffffffu) | 0x20000000u;
}

/* What Result says. An HRESULT is sent as a signed decimal. */
#define BRG_OK                 INT32_C(0)
#define BRG_E_NOT_IMPL         ((int32_t)0x80004001u)
#define BRG_E_FAIL             ((int32_t)0x80004005u)
#define BRG_E_NOT_FOUND        ((int32_t)0x80070490u) /* process, or network namespace */
#define BRG_E_INVALID_ARG      ((int32_t)0x80070057u)
#define BRG_E_INVALID_STATE    ((int32_t)0x80370105u)
#define BRG_E_TIMEOUT          ((int32_t)0xc0370109u)
#define BRG_E_VERSION          ((int32_t)0xc037010cu)
#define BRG_E_INVALID_JSON     ((int32_t)0xc037010du)
#define BRG_E_SYSTEM_NOT_FOUND ((int32_t)0xc037010eu) /* container */
#define BRG_E_ALREADY_EXISTS   ((int32_t)0xc037010fu)
#define BRG_E_ALREADY_STOPPED  ((int32_t)0xc0370110u)

#endif
