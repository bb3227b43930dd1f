/* SPDX-License-Identifier: MIT */
/*
 * activation.h - sockets that a service manager gives us, and telling it how we are
 * (sd_listen_fds(3) and sd_notify(3), the protocol without the library).
 *
 * A listening socket that was passed belongs to whoever asks for its path; where none was passed,
 * one is made. Those that were passed are the manager's: they are never removed.
 */
#ifndef DEVICE_ACTIVATION_H
#define DEVICE_ACTIVATION_H

#define DEV_ACTIVATION_MAX 160

/* Takes note of $LISTEN_FDS and $NOTIFY_SOCKET. Before the first dev_listen(). */
void dev_activation_init(void);

/* A listening socket (SOCK_STREAM or SOCK_SEQPACKET) at the path, as unix_listen(). */
int dev_listen(int type, const char *path, unsigned mode, int backlog, int *ret_fd);
void dev_unlisten(const char *path); /* removes it, if we made it */

/* "READY=1", "STOPPING=1": nobody may be listening, then nothing happens. */
void dev_notify(const char *state);

#endif
