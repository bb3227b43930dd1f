/* SPDX-License-Identifier: MIT */
/*
 * qmp.h - a client of QEMU's monitor protocol, without I/O.
 *
 * The owner of the socket feeds what it reads, takes messages until there is none, and writes what
 * is to be sent. Commands may be given from the first moment: they are sent behind the negotiation
 * of capabilities and QEMU answers them in order.
 *
 * A monitor that breaks the protocol (no greeting, a line over the limit, something that is not a
 * JSON object, an answer to nothing) is poisoned: every later call returns -EPROTO.
 */
#ifndef HF_QMP_H
#define HF_QMP_H

#include "base/base.h"
#include <jansson.h>

#define QMP_LINE_MAX        (1024 * 1024) /* bytes of one message of QEMU */
#define QMP_OUTSTANDING_MAX 64            /* commands without an answer */

struct qmp;

enum qmp_msg_kind {
	QMP_MSG_READY,  /* the capabilities are negotiated; `data` is QEMU's version object */
	QMP_MSG_RETURN, /* `id` was done; `data` is what it returned */
	QMP_MSG_ERROR,  /* `id` failed; `name` is the class, `data` a string that describes it */
	QMP_MSG_EVENT,  /* `name` happened; `data` is its data (an object, perhaps empty) */
};

/* name and data are valid until the next call of qmp_next, qmp_feed or qmp_free. */
struct qmp_msg {
	enum qmp_msg_kind kind;
	uint64_t id;
	const char *name;
	json_t *data;
};

struct qmp *qmp_new(void);
void qmp_free(struct qmp *q);
static inline void qmp_freep(struct qmp **q)
{
	qmp_free(*q);
}

/* Queues a command. `args` is taken over, also on failure; NULL is none. -EBUSY: too many without
 * an answer. */
int qmp_command(struct qmp *q, const char *name, json_t *args, uint64_t *ret_id);

/* What is to be written, and the report that n bytes of it were. */
size_t qmp_output(const struct qmp *q, const char **ret_data);
void qmp_output_done(struct qmp *q, size_t n);

int qmp_feed(struct qmp *q, const void *data, size_t n);
int qmp_next(struct qmp *q, struct qmp_msg *ret_msg); /* 1: a message; 0: none; -EPROTO, -ENOMEM */

#endif
