/* SPDX-License-Identifier: MIT */
/* daemon.h - a holdfastd in this process, but for its main(): it moves when it is told to. */
#ifndef TEST_DAEMON_H
#define TEST_DAEMON_H

#include "device/daemon.h"

/* Empty, without sockets. The end is dev_daemon_done(). */
void daemon_begin(struct dev_daemon *d);

/* Takes in what is there and does it, n times; waits for nothing. */
void daemon_turns(struct dev_daemon *d, int n);

#endif
