/* SPDX-License-Identifier: MIT */
#include "tls.h"
#include "base/base.h"
#include "base/fd.h"
#include "base/hex.h"
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* syscalls: sendmsg recvfrom sendto getrandom clock_gettime getpid */

#define NAME_MAX_BYTES 64
#define PATHS_MAX      1024
#define KEY_MIN        16 /* bytes */
#define KEY_MAX        64

struct dev_tls {
	bool psk;
	char name[NAME_MAX_BYTES + 1];
	uint8_t key[KEY_MAX];
	size_t key_len;
	gnutls_psk_client_credentials_t psk_client;
	gnutls_psk_server_credentials_t psk_server;
	gnutls_certificate_credentials_t x509;
	gnutls_priority_t priority;
};

struct dev_tls_session {
	gnutls_session_t session;
	bool pending; /* GnuTLS keeps a record that the socket did not take */
	uint8_t out[DEV_TLS_RECORD];
};

/* ---- credentials ---- */

/* The key of the peer that says this name: there is one. */
static int key_of(gnutls_session_t session, const char *name, gnutls_datum_t *ret_key)
{
	const struct dev_tls *t = gnutls_session_get_ptr(session);
	if (strcmp(name, t->name) != 0)
		return -1;
	ret_key->data = gnutls_malloc(t->key_len);
	if (!ret_key->data)
		return -1;
	memcpy(ret_key->data, t->key, t->key_len);
	ret_key->size = (unsigned)t->key_len;
	return 0;
}

static int check_secret(const char *path, struct hf_err *reterr)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) || (st.st_mode & (S_IRWXG | S_IRWXO)))
		return hf_err_set(
			reterr, -EINVAL, "%s: others may use this secret: chmod 600 it", path);
	return 0;
}

/* A line "NAME:HEXKEY", as psktool(1) writes it. */
static int load_psk(struct dev_tls *t, const char *path, struct hf_err *reterr)
{
	char line[NAME_MAX_BYTES + 1 + 2 * KEY_MAX + 1];
	int r = check_secret(path, reterr);
	if (r < 0)
		return r;
	r = fd_read_line(path, line, sizeof(line));
	if (r < 0)
		return hf_err_set(reterr, r, "%s: %s", path, strerror(-r));
	char *hex = strchr(line, ':');
	size_t n = hex ? strlen(hex + 1) / 2 : 0;
	if (!hex || hex == line || hex - line > NAME_MAX_BYTES || n < KEY_MIN || n > KEY_MAX ||
		hex_decode(hex + 1, t->key, n) < 0)
		return hf_err_set(reterr, -EINVAL,
			"%s: want a line NAME:HEXKEY with a key of %d to %d bytes; psktool makes "
			"one",
			path, KEY_MIN, KEY_MAX);
	*hex = '\0';
	memcpy(t->name, line, (size_t)(hex - line) + 1);
	t->key_len = n;
	explicit_bzero(line, sizeof(line));
	gnutls_datum_t key = { .data = t->key, .size = (unsigned)n };
	if (gnutls_psk_allocate_client_credentials(&t->psk_client) < 0 ||
		gnutls_psk_set_client_credentials(
			t->psk_client, t->name, &key, GNUTLS_PSK_KEY_RAW) < 0 ||
		gnutls_psk_allocate_server_credentials(&t->psk_server) < 0)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	gnutls_psk_set_server_credentials_function(t->psk_server, key_of);
	return 0;
}

static int load_x509(struct dev_tls *t, const char *spec, struct hf_err *reterr)
{
	char copy[PATHS_MAX], *files = copy;
	if (snprintf(copy, sizeof(copy), "%s", spec) >= (int)sizeof(copy))
		return hf_err_set(reterr, -EINVAL, "the names of its files are too long");
	const char *cert = strsep(&files, ","), *key = strsep(&files, ","), *ca = files;
	if (!key || !ca)
		return hf_err_set(reterr, -EINVAL, "want x509:CERT,KEY,CA, three PEM files");
	int r = check_secret(key, reterr);
	if (r < 0)
		return r;
	if (gnutls_certificate_allocate_credentials(&t->x509) < 0)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	r = gnutls_certificate_set_x509_trust_file(t->x509, ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		return hf_err_set(reterr, -EINVAL, "%s: %s", ca,
			r < 0 ? gnutls_strerror(r) : "there is no certificate in it");
	r = gnutls_certificate_set_x509_key_file(t->x509, cert, key, GNUTLS_X509_FMT_PEM);
	return r < 0 ? hf_err_set(reterr, -EINVAL, "%s, %s: %s", cert, key, gnutls_strerror(r)) : 0;
}

int dev_tls_open(const char *spec, struct dev_tls **ret_tls, struct hf_err *reterr)
{
	static const char *const only = "SECURE128:-VERS-ALL:+VERS-TLS1.3:+DHE-PSK:+ECDHE-PSK";
	struct dev_tls *t = calloc(1, sizeof(*t));
	int r = -ENOMEM;
	if (t && gnutls_priority_init(&t->priority, only, NULL) >= 0) {
		t->psk = strncmp(spec, "psk:", 4) == 0;
		if (t->psk)
			r = load_psk(t, spec + 4, reterr);
		else if (strncmp(spec, "x509:", 5) == 0)
			r = load_x509(t, spec + 5, reterr);
		else
			r = hf_err_set(
				reterr, -EINVAL, "'%s': want psk:FILE or x509:CERT,KEY,CA", spec);
	}
	if (r < 0) {
		dev_tls_close(t);
		return hf_err_prefix(reterr, "--link-tls");
	}
	*ret_tls = t;
	return 0;
}

void dev_tls_close(struct dev_tls *t)
{
	if (!t)
		return;
	if (t->psk_client)
		gnutls_psk_free_client_credentials(t->psk_client);
	if (t->psk_server)
		gnutls_psk_free_server_credentials(t->psk_server);
	if (t->x509)
		gnutls_certificate_free_credentials(t->x509);
	if (t->priority)
		gnutls_priority_deinit(t->priority);
	explicit_bzero(t->key, sizeof(t->key));
	free(t);
}

/* ---- sessions ---- */

static int set_credentials(struct dev_tls *t, gnutls_session_t session, bool dials)
{
	if (t->psk)
		return gnutls_credentials_set(session, GNUTLS_CRD_PSK,
			dials ? (void *)t->psk_client : (void *)t->psk_server);
	gnutls_session_set_verify_cert(session, NULL, 0); /* the chain; a host may have any name */
	if (!dials)
		gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
	return gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, t->x509);
}

struct dev_tls_session *dev_tls_begin(struct dev_tls *t, int fd, bool dials)
{
	struct dev_tls_session *s = calloc(1, sizeof(*s));
	unsigned flags = (dials ? GNUTLS_CLIENT : GNUTLS_SERVER) | GNUTLS_NONBLOCK |
			 GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	if (!s || gnutls_init(&s->session, flags) < 0) {
		free(s);
		return NULL;
	}
	gnutls_session_set_ptr(s->session, t);
	gnutls_transport_set_int(s->session, fd);
	if (gnutls_priority_set(s->session, t->priority) < 0 ||
		set_credentials(t, s->session, dials) < 0) {
		dev_tls_end(s);
		return NULL;
	}
	return s;
}

void dev_tls_end(struct dev_tls_session *s)
{
	if (!s)
		return;
	gnutls_deinit(s->session);
	free(s);
}

static bool is_again(ssize_t r)
{
	return r == GNUTLS_E_AGAIN || r == GNUTLS_E_INTERRUPTED;
}

int dev_tls_handshake(struct dev_tls_session *s, const char **ret_why)
{
	int r;
	do
		r = gnutls_handshake(s->session);
	while (r == GNUTLS_E_INTERRUPTED || r == GNUTLS_E_WARNING_ALERT_RECEIVED);
	if (r == GNUTLS_E_AGAIN)
		return -EAGAIN;
	if (r < 0)
		(void)gnutls_alert_send_appropriate(s->session, r); /* it is over anyway */
	*ret_why = r == GNUTLS_E_FATAL_ALERT_RECEIVED
			   ? gnutls_alert_get_name(gnutls_alert_get(s->session))
			   : gnutls_strerror(r);
	return r < 0 ? -EPERM : 0;
}

bool dev_tls_wants_out(const struct dev_tls_session *s)
{
	return gnutls_record_get_direction(s->session) == 1;
}

static int flushed(struct dev_tls_session *s, ssize_t r)
{
	s->pending = is_again(r);
	return s->pending ? -EAGAIN : r < 0 ? -ECONNRESET : 0;
}

int dev_tls_flush(struct dev_tls_session *s)
{
	return s->pending ? flushed(s, gnutls_record_send(s->session, NULL, 0)) : 0;
}

ssize_t dev_tls_send(struct dev_tls_session *s, const struct iovec *iov, int n_iov)
{
	size_t n = 0;
	int r = dev_tls_flush(s);
	if (r < 0)
		return r;
	for (int i = 0; i < n_iov && n < sizeof(s->out); i++) {
		size_t k = HF_MIN(iov[i].iov_len, sizeof(s->out) - n);
		memcpy(s->out + n, iov[i].iov_base, k);
		n += k;
	}
	r = flushed(s, gnutls_record_send(s->session, s->out, n));
	return r == -ECONNRESET ? r : (ssize_t)n;
}

ssize_t dev_tls_recv(struct dev_tls_session *s, void *buf, size_t n)
{
	size_t got = 0;
	ssize_t r = 1;
	while (got < n && (r > 0 || r == GNUTLS_E_INTERRUPTED)) {
		r = gnutls_record_recv(s->session, (uint8_t *)buf + got, n - got);
		got += r > 0 ? (size_t)r : 0;
	}
	if (got > 0)
		return (ssize_t)got; /* an end or an error comes again */
	return r == 0 ? 0 : is_again(r) ? -EAGAIN : -ECONNRESET;
}
