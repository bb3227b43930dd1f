/* SPDX-License-Identifier: MIT */
/*
 * Requests on the control socket of a holdfastd that is all there but for main(): its loop, a VM
 * "vm", others that the requests add. Each line of the input is a request; '1' in front of it sends
 * it on a second connection, '+' sends a record with it (test/unit/vsock/record-v2.bin).
 *
 * What a request may do to this machine is held back where the C library is called: sockets are
 * made, looked for and removed in one folder, and AF_VSOCK is not to be had.
 */
#include "../lib/daemon.h"
#include "base/fd.h"
#include "base/log.h"
#include "device/admin.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TURNS  4    /* for a request: taken in, done, answered, said to those who watch */
#define ANSWER 4096 /* read at once */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dev_daemon d;
static char folder[] = "/tmp/hf-fuzz-XXXXXX", control[40];
static int record_fd;

/* ---- the machine ---- */

int __real_bind(int fd, const struct sockaddr *sa, socklen_t len);
int __wrap_bind(int fd, const struct sockaddr *sa, socklen_t len);
int __real_connect(int fd, const struct sockaddr *sa, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *sa, socklen_t len);
int __real_unlink(const char *path);
int __wrap_unlink(const char *path);
int __wrap_lchown(const char *path, uid_t uid, gid_t gid);

static bool ours(const char *path)
{
	size_t n = strlen(folder);
	return strncmp(path, folder, n) == 0 && path[n] == '/' && !strchr(path + n + 1, '/');
}

static bool may_have(const struct sockaddr *sa)
{
	return sa->sa_family == AF_UNIX && ours(((const struct sockaddr_un *)sa)->sun_path);
}

static int refuse(int error)
{
	errno = error;
	return -1;
}

int __wrap_bind(int fd, const struct sockaddr *sa, socklen_t len)
{
	return may_have(sa) ? __real_bind(fd, sa, len) : refuse(EACCES);
}

int __wrap_connect(int fd, const struct sockaddr *sa, socklen_t len)
{
	return may_have(sa) ? __real_connect(fd, sa, len) : refuse(EACCES);
}

int __wrap_unlink(const char *path)
{
	return ours(path) ? __real_unlink(path) : refuse(EACCES);
}

int __wrap_lchown(const char *path, uid_t uid, gid_t gid)
{
	(void)uid, (void)gid; /* only root could */
	return ours(path) ? 0 : refuse(EPERM);
}

/* ---- holdfastd ---- */

static void leave(void)
{
	dev_daemon_done(&d);
	(void)rmdir(folder); /* empty by now, or it tells what was left */
}

static void begin_once(void)
{
	static bool begun;
	struct hf_err err;
	if (begun)
		return;
	begun = true;
	hf_assert(mkdtemp(folder) != NULL);
	(void)snprintf(control, sizeof(control), "%s/control", folder); /* fits */
	record_fd = open(RECORD, O_RDONLY | O_CLOEXEC);
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	hf_assert(record_fd >= 0 && null >= 0);
	hf_log_setup("fuzz", null, HF_LOG_ERROR, HF_LOG_TEXT);
	daemon_begin(&d);
	hf_assert(dev_link_open(&d.link, &d, &err) == 0);
	hf_assert(dev_control_open(&d.control, &d, control) == 0);
	(void)atexit(leave); /* fails only without memory */
}

/* The guest's CID is the record's. */
static void add_vm(void)
{
	struct dev_vm_options o = dev_options_vm_default();
	struct hf_err err;
	char path[48];
	(void)snprintf(path, sizeof(path), "%s/s", folder); /* these fit */
	hf_assert(dev_options_vm_set(&o, "name", "vm", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "guest-cid", "5", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "socket", path, &err) == 0);
	(void)snprintf(path, sizeof(path), "%s/u", folder);
	hf_assert(dev_options_vm_set(&o, "uds-path", path, &err) == 0);
	hf_assert(dev_options_vm_check(&o, &err) == 0);
	hf_assert(dev_admin_add_vm(&d, &o, &err) == 0);
}

static void remove_vms(void)
{
	for (size_t i = 0; i < d.n_vms; i++)
		if (d.vm[i])
			dev_admin_remove_vm(&d, d.vm[i]);
	d.n_vms = 0;
	daemon_turns(&d, 1); /* their slots are free in the next */
}

/* ---- requests ---- */

struct client {
	int fd;
	size_t asked, answered;
	struct hf_lines in;
};

static void open_client(struct client *c)
{
	*c = (struct client){ .fd = -1 };
	hf_assert(unix_connect(control, &c->fd) == 0);
	hf_assert(fd_set_nonblock(c->fd, true) == 0);
	hf_lines_init(&c->in, DEV_CONTROL_LINE_MAX);
	daemon_turns(&d, 1);
}

static void close_client(struct client *c)
{
	fd_closep(&c->fd);
	hf_lines_done(&c->in);
}

/* Each line is an object, an answer or a saying, and there are no more answers than requests. */
static void check_line(struct client *c, const char *line)
{
	json_t *j = json_loads(line, 0, NULL);
	hf_assert(json_is_object(j));
	bool answer = json_is_boolean(json_object_get(j, "ok"));
	hf_assert(answer || json_is_string(json_object_get(j, "event")));
	if (json_is_false(json_object_get(j, "ok")))
		hf_assert(json_is_string(json_object_get(json_object_get(j, "error"), "text")));
	c->answered += answer;
	hf_assert(c->answered <= c->asked);
	json_decref(j);
}

static void read_answers(struct client *c)
{
	static char buf[ANSWER];
	ssize_t n;
	while ((n = recv(c->fd, buf, sizeof(buf), 0)) > 0) {
		char *line;
		hf_assert(hf_lines_feed(&c->in, buf, (size_t)n) == 0);
		while (hf_lines_next(&c->in, &line) > 0)
			check_line(c, line);
		daemon_turns(&d, 1);
	}
}

/* Sends the line, however full the socket is, with the record if it asks for that. */
static void ask(struct client *c, const char *line, size_t n)
{
	bool with = n > 0 && line[0] == '+';
	line += with, n -= with;
	c->asked++;
	for (size_t at = 0; at <= n;) {
		ssize_t sent = at < n ? unix_send_fds(c->fd, line + at, n - at, &record_fd, with)
				      : unix_send_fds(c->fd, "\n", 1, NULL, 0);
		if (sent < 0 && sent != -EAGAIN)
			break; /* it was sent away */
		at += sent > 0 ? (size_t)sent : 0;
		with &= sent <= 0;
		daemon_turns(&d, 1);
		read_answers(c);
	}
	daemon_turns(&d, TURNS);
	read_answers(c);
}

static int descriptors(void)
{
	int n = 0;
	for (int fd = 0; fd < 128; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct client c[2];
	begin_once();
	add_vm();
	int before = descriptors();
	open_client(&c[0]);
	open_client(&c[1]);
	for (const char *p = (const char *)data, *end = p + size; p < end;) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((stop ? stop : end) - p);
		bool second = n > 0 && p[0] == '1';
		ask(&c[second], p + second, n - second);
		p += n + 1;
	}
	for (int i = 0; i < 2; i++)
		read_answers(&c[i]);
	for (int i = 0; i < 2; i++)
		close_client(&c[i]);
	daemon_turns(&d, TURNS);
	remove_vms();
	add_vm();
	hf_assert(descriptors() == before); /* none was kept */
	remove_vms();
	hf_log_max = HF_LOG_ERROR;
	return 0;
}
