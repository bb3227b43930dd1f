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

#include <stdbool.h>
#include <stddef.h>

#define DEV_ACTIVATION_MAX 160

/* Takes note of $LISTEN_FDS and $NOTIFY_SOCKET. Before the first dev_listen(). */
void dev_activation_init(void);

/* A listening socket (SOCK_STREAM or SOCK_SEQPACKET) at the path, as unix_listen(). */
int dev_listen(int type, const char *path, unsigned mode, int backlog, int *ret_fd);
void dev_unlisten(const char *path); /* removes it, if we made it */

/* The i-th that was passed, and its descriptor if nobody has it yet; false behind the last. And one
 * that another holdfastd was passed, which we take over from: 0 or -ENOSPC; owns fd. */
bool dev_activation_at(size_t i, const char **ret_path, int *ret_fd);
int dev_activation_add(const char *path, int fd);
void dev_activation_forget(void); /* all of them, and the service manager */

/* Where the service manager listens; -1: nobody. */
int dev_notify_fd(void);
void dev_notify_adopt(int fd);

/* "READY=1", "STOPPING=1": nobody may be listening, then nothing happens. */
void dev_notify(const char *state);

#endif
