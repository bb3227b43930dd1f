/* SPDX-License-Identifier: MIT */
/*
 * takeover.h - a running holdfastd gives all it has to a new one, which goes on as if it were the
 * old one: the program is replaced, and no VM, guest or host application notices.
 *
 *	new                               old
 *	"takeover" on the control socket
 *	                                  ends its turn; moves nothing from here on
 *	                                  head, with the record (handover.h) as a sealed memfd;
 *	                                  all descriptors, UNIX_FDS_MAX with each byte
 *	builds the same daemon from it,
 *	enters the sandbox
 *	'C'                               reads it, and ends
 *	goes on
 *
 * The one byte decides, and the kernel keeps it: until it lies in the old one's socket the new one
 * has touched nothing that they share, so the old one goes on whenever the new one is gone or its
 * time is over. For the latter it says 'X', shuts the socket, so that no byte can come any more,
 *and only then looks whether one had come. A new one that cannot send its byte and finds no 'X'
 *knows that the old one has died, and goes on all the same.
 *
 * The old one waits in here and nowhere else: what it could do meanwhile would be missing in the
 * record.
 */
#ifndef DEVICE_TAKEOVER_H
#define DEVICE_TAKEOVER_H

#include "base/err.h"
#include <stdbool.h>

#define DEV_TAKEOVER_MS 5000 /* from the end of the old one's turn to the byte */

struct dev_daemon;

/* ---- the old one ---- */

/* A client asks, whose socket this is: 0 when it gets its turn, or -errno. */
int dev_takeover_asked(struct dev_daemon *d, int sock, struct hf_err *reterr);

/* At the end of a turn: gives everything to who has asked. d->given says that it has it. */
void dev_takeover_turn(struct dev_daemon *d);

/* ---- the new one ---- */

/* Asks who listens at the control socket, and builds the daemon that it is. On failure the process
 * must end without touching anything: the old one goes on. */
int dev_takeover_receive(struct dev_daemon *d, const char *control, struct hf_err *reterr);

/* From here on all of it is ours. -ECANCELED: the old one has gone on. */
int dev_takeover_commit(struct dev_daemon *d, struct hf_err *reterr);

#endif
