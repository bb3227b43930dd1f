/* SPDX-License-Identifier: MIT */
#include "takeover.h"
#include "activation.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "handover.h"
#include "memfile.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>

/* syscalls: fcntl getsockopt geteuid sendto recvfrom shutdown */

#define COMMIT    'C'
#define TAKE_BACK 'X'

/* Before the record and the descriptors: magic, length of the record, number of descriptors. */
static const uint8_t magic[8] = { 'H', 'F', 'T', 'A', 'K', 'E', '1', '\n' };
enum { HEAD_RECORD = 8, HEAD_FDS = 16, HEAD_BYTES = 24 };

/* ---- the old one ---- */

int dev_takeover_asked(struct dev_daemon *d, int sock, struct hf_err *reterr)
{
	uid_t uid;
	int r = unix_peer_uid(sock, &uid);
	if (r < 0 || uid != geteuid())
		return hf_err_set(reterr, -EPERM,
			"only a process of user %d can take over: run it as this user (--user)",
			(int)geteuid());
	if (d->taker >= 0)
		return hf_err_set(reterr, -EBUSY, "another one is taking over");
	r = dev_handover_refused(d, reterr);
	if (r < 0)
		return r;
	d->taker = fcntl(sock, F_DUPFD_CLOEXEC, 0);
	return d->taker < 0 ? hf_err_set(reterr, -errno, "%s", strerror(errno)) : 0;
}

static int send_record(int sock, const struct dev_pack *p, uint64_t until_us)
{
	uint8_t head[HEAD_BYTES];
	HF_CLEANUP(fd_closep) int file = -1;
	int r = p->error ? p->error : dev_memfile_make(p->buf, p->len, &file);
	if (r < 0)
		return r;
	memcpy(head, magic, sizeof(magic));
	le64_to(head + HEAD_RECORD, p->len);
	le64_to(head + HEAD_FDS, p->n_fds);
	r = unix_send_all(sock, head, sizeof(head), &file, 1, until_us);
	for (size_t i = 0; i < p->n_fds && r == 0; i += UNIX_FDS_MAX)
		r = unix_send_all(sock, "+", 1, p->fds + i,
			HF_MIN(p->n_fds - i, (size_t)UNIX_FDS_MAX), until_us);
	return r;
}

/* Has the byte come? After this none can come. */
static bool was_committed(int sock, uint64_t until_us)
{
	char byte = 0;
	int r = fd_wait(sock, POLLIN, until_us);
	if (r < 0) {
		static const char back = TAKE_BACK;
		(void)send(sock, &back, 1, MSG_NOSIGNAL | MSG_DONTWAIT); /* it may be gone */
		(void)shutdown(sock, SHUT_RDWR);                         /* likewise */
	}
	return recv(sock, &byte, 1, MSG_DONTWAIT) == 1 && byte == COMMIT;
}

/* The service manager believes only its main process: it is told while that is us. */
static void tell_new_main(int sock)
{
	char text[32];
	struct ucred cred;
	socklen_t n = sizeof(cred);
	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &n) < 0)
		return;
	(void)snprintf(text, sizeof(text), "MAINPID=%d", (int)cred.pid); /* fits */
	dev_notify(text);
	hf_info("process %d has taken over; this one ends", (int)cred.pid);
}

void dev_takeover_turn(struct dev_daemon *d)
{
	if (d->taker < 0)
		return;
	struct hf_err err = { 0 };
	uint64_t until_us = hf_now_us() + DEV_TAKEOVER_MS * 1000ull;
	HF_CLEANUP(fd_closep) int sock = fd_take(&d->taker);
	HF_CLEANUP(dev_pack_done) struct dev_pack p = { 0 };
	int r = dev_handover_refused(d, &err); /* once more: the turn has gone on */
	if (r < 0) {
		hf_warn("takeover: %s", err.text);
		return;
	}
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			dev_unix_take_lines(d->vm[i]);
	dev_handover_save(d, &p);
	r = send_record(sock, &p, until_us);
	d->given = r == 0 && was_committed(sock, until_us);
	if (d->given)
		tell_new_main(sock);
	else
		hf_warn("takeover: %s; going on",
			r < 0 ? strerror(-r) : "the new process refused, died or took too long");
}

/* ---- the new one ---- */

struct offer {
	uint64_t until_us; /* all of it has come */
	int *fds;
	size_t n_fds;
	uint8_t *record;
	size_t len;
};

static void offer_done(struct offer *o)
{
	for (size_t i = 0; i < o->n_fds; i++)
		fd_closep(&o->fds[i]);
	free(o->fds);
	free(o->record);
}

/* What an old one answers that cannot be taken over from: {"ok": false, "error": {..., "text": ""}}
 */
static int refused(
	int sock, uint64_t until_us, char *line, size_t n, size_t cap, struct hf_err *reterr)
{
	while (n < cap - 1 && !memchr(line, '\n', n) && fd_wait(sock, POLLIN, until_us) == 0) {
		ssize_t got = recv(sock, line + n, cap - 1 - n, 0);
		if (got <= 0)
			break;
		n += (size_t)got;
	}
	line[n] = '\0';
	json_t *answer = json_loads(line, 0, NULL);
	const char *text = "it does not say why";
	(void)json_unpack(answer, "{s:{s:s}}", "error", "text", &text); /* else: as it is */
	(void)hf_err_set(reterr, -EBUSY, "the running holdfastd refuses: %s", text);
	json_decref(answer);
	return -EBUSY;
}

static ssize_t receive_part(int sock, uint64_t until_us, void *buf, size_t n, int *ret_fds,
	size_t cap_fds, size_t *ret_n_fds)
{
	int r = fd_wait(sock, POLLIN, until_us);
	return r < 0 ? r : unix_recv_fds(sock, buf, n, ret_fds, cap_fds, ret_n_fds);
}

static int receive_head(int sock, struct offer *o, struct hf_err *reterr)
{
	char head[1024];
	int file[1] = { -1 };
	size_t n_files = 0;
	ssize_t n = receive_part(sock, o->until_us, head, HEAD_BYTES, file, 1, &n_files);
	HF_CLEANUP(fd_closep) int fd = file[0];
	if (n > 0 && head[0] == '{')
		return refused(sock, o->until_us, head, (size_t)n, sizeof(head), reterr);
	if (n == 0)
		return hf_err_set(reterr, -ECONNRESET,
			"the running holdfastd ended, or has changed its mind; see its log");
	if (n < 0)
		return hf_err_set(reterr, (int)n, "no answer: %s", strerror((int)-n));
	if (n != HEAD_BYTES || memcmp(head, magic, sizeof(magic)) != 0 || n_files != 1)
		return hf_err_set(reterr, -EBADMSG, "it does not answer as a holdfastd");
	struct rlimit rl = { 0 };
	uint64_t n_fds = le64_at(head + HEAD_FDS);
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0 || n_fds > rl.rlim_cur)
		return hf_err_set(reterr, -EMFILE,
			"it has %llu descriptors; this process may have %llu: raise the limit",
			(unsigned long long)n_fds, (unsigned long long)rl.rlim_cur);
	int r = dev_memfile_read(fd, DEV_PACK_MAX, &o->record, &o->len);
	if (r == 0 && o->len != le64_at(head + HEAD_RECORD))
		r = -EBADMSG;
	o->fds = r == 0 ? malloc((n_fds + 1) * sizeof(int)) : NULL;
	if (r == 0 && !o->fds)
		r = -ENOMEM;
	if (r < 0)
		return hf_err_set(reterr, r, "its record: %s", strerror(-r));
	/* so many are to come */
	memset(o->fds, 0xff, (n_fds + 1) * sizeof(int));
	o->n_fds = n_fds;
	return 0;
}

static int receive(int sock, struct offer *o, struct hf_err *reterr)
{
	int r = receive_head(sock, o, reterr);
	if (r < 0)
		return r;
	for (size_t got = 0; got < o->n_fds;) {
		char byte;
		size_t n_fds = 0;
		ssize_t n = receive_part(sock, o->until_us, &byte, 1, o->fds + got,
			HF_MIN(o->n_fds - got, (size_t)UNIX_FDS_MAX), &n_fds);
		if (n <= 0 || n_fds == 0)
			return hf_err_set(reterr, -EIO, "%zu of %zu descriptors came: %s", got,
				o->n_fds, n < 0 ? strerror((int)-n) : "the end");
		got += n_fds;
	}
	return 0;
}

/* Connects and asks; the socket waits no longer than the old one would. */
static int ask(const char *control, int *ret_sock, struct hf_err *reterr)
{
	static const char line[] = "{\"cmd\":\"takeover\"}\n";
	const struct timeval tv = { .tv_sec = DEV_TAKEOVER_MS / 1000 };
	HF_CLEANUP(fd_closep) int sock = -1;
	uid_t uid;
	int r = unix_connect(control, &sock);
	if (r == 0)
		r = unix_peer_uid(sock, &uid);
	if (r == 0)
		r = fd_set_nonblock(sock, false);
	if (r == 0 && setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)) < 0)
		r = -errno;
	if (r < 0)
		return hf_err_set(reterr, r, "%s", strerror(-r));
	if (uid != geteuid())
		return hf_err_set(
			reterr, -EPERM, "it runs as user %d: so must this one (--user)", (int)uid);
	if (send(sock, line, sizeof(line) - 1, MSG_NOSIGNAL) != sizeof(line) - 1)
		return hf_err_set(reterr, -EIO, "cannot ask");
	*ret_sock = fd_take(&sock);
	return 0;
}

int dev_takeover_receive(struct dev_daemon *d, const char *control, struct hf_err *reterr)
{
	HF_CLEANUP(offer_done)
	struct offer o = { .until_us = hf_now_us() + DEV_TAKEOVER_MS * 1000ull };
	struct dev_unpack u;
	int r = ask(control, &d->taker, reterr);
	if (r == 0)
		r = receive(d->taker, &o, reterr);
	if (r == 0) {
		dev_unpack_init(&u, o.record, o.len, o.fds, o.n_fds);
		r = dev_handover_load(d, &u, reterr);
	}
	return r < 0 ? hf_err_prefix(reterr, "takeover from %s", control) : 0;
}

int dev_takeover_commit(struct dev_daemon *d, struct hf_err *reterr)
{
	static const char byte = COMMIT;
	char back = 0;
	size_t n_vms = 0;
	HF_CLEANUP(fd_closep) int sock = fd_take(&d->taker);
	if (send(sock, &byte, 1, MSG_NOSIGNAL) != 1 && recv(sock, &back, 1, 0) == 1 &&
		back == TAKE_BACK)
		return hf_err_set(reterr, -ECANCELED,
			"takeover: this process took longer than %d s: the old one has gone on",
			DEV_TAKEOVER_MS / 1000);
	for (size_t i = 0; i < d->n_vms; i++)
		n_vms += d->vm[i] != NULL;
	hf_log_setup("holdfastd", 2, d->opt.log_level, d->opt.log_format);
	hf_info("took over %zu VMs", n_vms);
	dev_handover_carry_on(d);
	(void)recv(sock, &back, 1, 0); /* its end: the old one has told the service manager */
	return 0;
}
