/* SPDX-License-Identifier: MIT */
/*
 * tls.h - TLS 1.3 for links that leave the host, by GnuTLS.
 *
 * Either both ends have a key in common (psk:FILE), or each has a certificate of an authority that
 * both trust (x509:CERT,KEY,CA). Whoever cannot prove that does not get through the handshake.
 * All files are read at the start, before the sandbox.
 */
#ifndef DEVICE_TLS_H
#define DEVICE_TLS_H

#include "base/err.h"
#include <sys/types.h>
#include <sys/uio.h>

#define DEV_TLS_RECORD 16384 /* bytes of payload in one record of TLS */

struct dev_tls;
struct dev_tls_session;

/* -EINVAL with a text. */
int dev_tls_open(const char *spec, struct dev_tls **ret_tls, struct hf_err *reterr);
void dev_tls_close(struct dev_tls *t); /* NULL is accepted, here and below */

/* fd stays the caller's. NULL: no memory. */
struct dev_tls_session *dev_tls_begin(struct dev_tls *t, int fd, bool dials);
void dev_tls_end(struct dev_tls_session *s);

/* 0: done; -EAGAIN: see dev_tls_wants_out(); else -EPERM, and *ret_why says what is wrong. */
int dev_tls_handshake(struct dev_tls_session *s, const char **ret_why);
bool dev_tls_wants_out(const struct dev_tls_session *s);

/* As sendmsg and recv. What send took may still lie here: then flush gives -EAGAIN, else 0. */
ssize_t dev_tls_send(struct dev_tls_session *s, const struct iovec *iov, int n_iov);
int dev_tls_flush(struct dev_tls_session *s);
ssize_t dev_tls_recv(struct dev_tls_session *s, void *buf, size_t n); /* all there is, up to n */

#endif
