/* SPDX-License-Identifier: MIT */
/*
 * line-counter.c - a server for guests that moves with its VM.
 *
 * usage: line-counter CONTROL VM UDS-PATH PORT
 *
 * A guest connects to CID 2, port PORT, and sends lines; each is answered with its number. One
 * instance runs on either host. When the VM moves, the one on the source leaves what it knows of
 * each connection, and the other one carries on: the guest sees numbers without a gap.
 *
 * What is known of a connection is three numbers (struct counter), because answers that were not
 * written yet can be made again. That is what makes a state small: leave what cannot be derived.
 */
#include <errno.h>
#include <fcntl.h>
#include <holdfast/conn.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CONNS_MAX 64
#define AHEAD_MAX 1000 /* lines that are read ahead of their answers */

struct counter {
	uint64_t lines;    /* that were read */
	uint64_t answered; /* of them */
	uint64_t part;     /* bytes written of the next answer */
};

struct conn {
	int fd; /* -1: free */
	uint32_t host_port, guest_port;
	struct counter n;
	bool ended; /* the guest sends no more */
};

static struct conn conns[CONNS_MAX];
static struct hf_conn_ctl *ctl;
static uint32_t port;
static bool still; /* the VM is being moved: nothing is written */

static void fail(const char *what, const struct hf_err *err)
{
	fprintf(stderr, "line-counter: %s: %s\n", what, err ? err->text : strerror(errno));
	exit(1);
}

static struct conn *add(int fd, uint32_t host_port, uint32_t guest_port)
{
	for (int i = 0; i < CONNS_MAX; i++)
		if (conns[i].fd < 0) {
			conns[i] = (struct conn){ fd, host_port, guest_port, { 0 }, false };
			(void)fcntl(fd, F_SETFL, O_NONBLOCK); /* of a socket it cannot fail */
			return &conns[i];
		}
	close(fd);
	return NULL;
}

static void drop(struct conn *c)
{
	printf("connection %u: ended after %llu lines\n", c->guest_port,
		(unsigned long long)c->n.lines);
	close(c->fd);
	c->fd = -1;
}

/* Reads what is there, to the last byte or until there are `ahead` lines to answer. */
static void read_lines(struct conn *c, uint64_t ahead)
{
	char buf[4096];
	while (!c->ended && c->n.lines - c->n.answered < ahead) {
		ssize_t n = read(c->fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		c->ended = n <= 0;
		for (ssize_t i = 0; i < n; i++)
			c->n.lines += buf[i] == '\n';
	}
}

/* Writes answers until all are out or the socket is full; false: nobody reads them any more. */
static bool write_answers(struct conn *c)
{
	char text[32];
	while (c->n.answered < c->n.lines) {
		int len = snprintf(
			text, sizeof(text), "%llu\n", (unsigned long long)c->n.answered + 1);
		ssize_t n = send(c->fd, text + c->n.part, (size_t)len - c->n.part, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN;
		c->n.part += (uint64_t)n;
		if (c->n.part == (uint64_t)len) {
			c->n.part = 0;
			c->n.answered++;
		}
	}
	return !c->ended;
}

/* --- Moving ------------------------------------------------------------------------------- */

/* The source: what was delivered to us is ours to count; everything else travels. */
static void quiesce(void)
{
	struct hf_err err;
	still = true;
	for (int i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &conns[i];
		if (c->fd < 0)
			continue;
		read_lines(c, UINT64_MAX);
		int r = hf_conn_attach_state(
			ctl, c->host_port, c->guest_port, &c->n, sizeof(c->n), &err);
		if (r < 0 && r != -ENOENT) /* that: the guest has closed it */
			fail("attach state", &err);
	}
	if (hf_conn_quiesced(ctl, &err) < 0)
		fail("quiesced", &err);
}

static int claim_one(void *ctx, const struct hf_conn_info *info)
{
	uint32_t(*ports)[2] = ctx;
	if (info->claimed || info->host_port != port || strcmp(info->state, "open") != 0)
		return 0;
	(*ports)[0] = info->host_port;
	(*ports)[1] = info->guest_port;
	return 1;
}

/* The destination: takes over what has arrived. It may be written to at once: nothing reaches the
 * guest before it runs, and if it never does (the migration is cancelled) our sockets just end. */
static void adopt(void)
{
	uint32_t ports[2];
	struct hf_conn_claim claim;
	struct hf_err err;
	int r;
	while ((r = hf_conn_list(ctl, claim_one, &ports, &err)) > 0) {
		r = hf_conn_claim(ctl, ports[0], ports[1], &claim, &err);
		if (r == -ENOENT || r == -EALREADY)
			continue; /* it has ended, or somebody was faster */
		if (r < 0)
			fail("claim", &err);
		struct conn *c = add(claim.fd, claim.host_port, claim.guest_port);
		if (c && claim.state_len == sizeof(c->n))
			memcpy(&c->n, claim.state, sizeof(c->n));
		if (c)
			printf("connection %u: carries on after %llu lines\n", c->guest_port,
				(unsigned long long)c->n.lines);
		free(claim.state);
	}
	if (r < 0)
		fail("list", &err);
}

static void on_events(void)
{
	struct hf_err err;
	int e;
	while ((e = hf_conn_event(ctl, NULL, &err)) > HF_CONN_NOTHING) {
		if (e == HF_CONN_QUIESCE) {
			quiesce();
			continue;
		}
		if (e == HF_CONN_RESUME)
			still = false;
		adopt();
	}
	if (e < 0) { /* the VM has left, or holdfastd has */
		printf("over: %s\n", err.text);
		exit(still ? 0 : 1);
	}
}

/* --- Serving ------------------------------------------------------------------------------ */

static int listen_at(const char *uds_path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s_%u", uds_path, port) >=
		(int)sizeof(sa.sun_path))
		errno = ENAMETOOLONG;
	else if (unlink(sa.sun_path) == 0 || errno == ENOENT)
		if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 && listen(fd, 16) == 0)
			return fd;
	fail(sa.sun_path, NULL);
	return -1;
}

static void on_client(int listener)
{
	uint32_t cid, host_port, guest_port;
	int fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return;
	if (hf_conn_peer(fd, &cid, &host_port, &guest_port) < 0)
		close(fd); /* not a guest */
	else
		add(fd, host_port, guest_port);
}

static void serve(struct conn *c)
{
	read_lines(c, AHEAD_MAX);
	if (!write_answers(c))
		drop(c);
}

static void turn(int listener)
{
	struct pollfd p[CONNS_MAX + 2] = { { hf_conn_fd(ctl), POLLIN, 0 },
		{ still ? -1 : listener, POLLIN, 0 } };
	for (int i = 0; i < CONNS_MAX; i++) {
		struct conn *c = &conns[i];
		bool more = !c->ended && c->n.lines - c->n.answered < AHEAD_MAX;
		p[i + 2].fd = still ? -1 : c->fd;
		p[i + 2].events =
			(short)((more ? POLLIN : 0) | (c->n.answered < c->n.lines ? POLLOUT : 0));
	}
	if (poll(p, CONNS_MAX + 2, -1) < 0 && errno != EINTR)
		fail("poll", NULL);
	on_events(); /* first: it may tell us to be still */
	if (p[1].revents && !still)
		on_client(listener);
	for (int i = 0; i < CONNS_MAX && !still; i++)
		if (p[i + 2].revents && conns[i].fd >= 0)
			serve(&conns[i]);
}

int main(int argc, char **argv)
{
	struct hf_err err;
	if (argc != 5) {
		fprintf(stderr, "usage: line-counter CONTROL VM UDS-PATH PORT\n");
		return 2;
	}
	setlinebuf(stdout);
	port = (uint32_t)strtoul(argv[4], NULL, 10);
	for (int i = 0; i < CONNS_MAX; i++)
		conns[i].fd = -1;
	if (hf_conn_open(argv[1], argv[2], &ctl, &err) < 0 || hf_conn_watch(ctl, &err) < 0)
		fail(argv[1], &err);
	int listener = listen_at(argv[3]);
	adopt(); /* the VM may have arrived before us */
	printf("ready\n");
	for (;;) {
		on_events(); /* calls may have read some */
		turn(listener);
	}
}
