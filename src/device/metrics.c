/* SPDX-License-Identifier: MIT */
#include "metrics.h"
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "counters.h"
#include "daemon.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: accept4 recvfrom sendto unlink unlinkat */

/* ---- the text ---- */

static void put_family(FILE *f, struct dev_daemon *d, size_t i)
{
	bool first = true;
	for (size_t k = 0; k < d->n_vms; k++) {
		struct dev_counter c;
		if (!d->vm[k] || !dev_counter_at(d->vm[k], i, &c))
			continue;
		const char *total = c.gauge ? "" : "_total";
		if (first)
			fprintf(f, "# HELP holdfastd_%s%s %s\n# TYPE holdfastd_%s%s %s\n", c.name,
				total, c.help, c.name, total, c.gauge ? "gauge" : "counter");
		first = false;
		/* a name has no character that would need quoting */
		fprintf(f, "holdfastd_%s%s{vm=\"%s\",cid=\"%u\"} %llu\n", c.name, total,
			d->vm[k]->opt->name, d->vm[k]->opt->guest_cid, (unsigned long long)c.value);
	}
}

/* Of links, which are the daemon's and no VM's. */
static void put_links(FILE *f, const struct dev_link *l)
{
	size_t up = 0;
	for (size_t i = 0; i < DEV_PEERS_MAX; i++)
		up += l->peer[i] && l->peer[i]->state == DEV_PEER_UP;
	const struct {
		const char *name, *help, *type;
		uint64_t value;
	} all[] = {
		{ "links_up", "links to other daemons that are up", "gauge", up },
		{ "relays", "connections whose ends are with different daemons", "gauge",
			l->n_relays },
		{ "relay_in_bytes_total", "payload that came over links", "counter", l->in_bytes },
		{ "relay_out_bytes_total", "payload that went over links", "counter",
			l->out_bytes },
		{ "links_dialled_total", "attempts to make a link", "counter", l->dialled },
		{ "links_lost_total", "links that broke", "counter", l->lost },
		{ "links_refused_total", "peers and tokens that were refused", "counter",
			l->refused },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(all); i++)
		fprintf(f, "# HELP holdfastd_%s %s\n# TYPE holdfastd_%s %s\nholdfastd_%s %llu\n",
			all[i].name, all[i].help, all[i].name, all[i].type, all[i].name,
			(unsigned long long)all[i].value);
}

static char *metrics_text(struct dev_daemon *d, size_t *ret_len)
{
	char *text = NULL;
	size_t n = 0;
	struct dev_counter c;
	FILE *f = open_memstream(&text, &n);
	if (!f)
		return NULL;
	for (size_t k = 0; k < d->n_vms; k++)
		if (d->vm[k]) {
			for (size_t i = 0; dev_counter_at(d->vm[k], i, &c); i++)
				put_family(f, d, i);
			break; /* the names of all VMs are the same */
		}
	if (dev_link_is_open(&d->link))
		put_links(f, &d->link);
	fprintf(f, "# TYPE holdfastd_info gauge\nholdfastd_info{version=\"%s\"} 1\n", HF_VERSION);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	*ret_len = n;
	return text;
}

static int make_answer(struct dev_metrics *m, struct dev_metrics_client *cl)
{
	size_t n;
	HF_CLEANUP(hf_freep) char *text = metrics_text(m->daemon, &n);
	if (!text)
		return -ENOMEM;
	int len = asprintf(&cl->out,
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
		"Content-Length: %zu\r\nConnection: close\r\n\r\n%s",
		n, text);
	if (len < 0) {
		cl->out = NULL;
		return -ENOMEM;
	}
	cl->out_len = (size_t)len;
	return 0;
}

/* ---- clients ---- */

static void watch_listener(struct dev_metrics *m, bool on)
{
	m->paused = !on;
	int r = dev_loop_watch(&m->daemon->loop, m->listen_fd, on ? EPOLLIN : 0,
		(struct dev_tag){ .what = DEV_ON_METRICS_LISTEN });
	if (r < 0)
		hf_error("metrics %s: cannot watch: %s", m->address, strerror(-r));
}

static void client_close(struct dev_metrics *m, struct dev_metrics_client *cl)
{
	dev_loop_close(&m->daemon->loop, &cl->fd);
	free(cl->out);
	cl->out = NULL;
	cl->in_len = cl->out_len = cl->out_sent = 0;
	cl->gen++;
	if (m->paused)
		watch_listener(m, true);
}

/* 1: the request is complete; 0: not yet; -errno. */
static int receive(struct dev_metrics_client *cl)
{
	ssize_t n = recv(cl->fd, cl->in + cl->in_len, sizeof(cl->in) - cl->in_len, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		return -ECONNRESET;
	cl->in_len += (size_t)n;
	if (memmem(cl->in, cl->in_len, "\r\n\r\n", 4) || memmem(cl->in, cl->in_len, "\n\n", 2))
		return 1;
	return cl->in_len == sizeof(cl->in) ? -EMSGSIZE : 0;
}

static int step(struct dev_metrics *m, struct dev_metrics_client *cl)
{
	if (!cl->out) {
		int r = receive(cl);
		if (r > 0)
			r = make_answer(m, cl);
		if (r < 0 || !cl->out)
			return r;
	}
	ssize_t n = send(cl->fd, cl->out + cl->out_sent, cl->out_len - cl->out_sent,
		MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return -errno;
	cl->out_sent += n > 0 ? (size_t)n : 0;
	return cl->out_sent == cl->out_len ? -ESHUTDOWN : 0;
}

static struct dev_tag client_tag(const struct dev_metrics *m, const struct dev_metrics_client *cl)
{
	return (struct dev_tag){
		.what = DEV_ON_METRICS, .slot = (uint16_t)(cl - m->client), .gen = cl->gen
	};
}

static void client_go_on(struct dev_metrics *m, struct dev_metrics_client *cl)
{
	int r = step(m, cl);
	if (r == 0)
		r = dev_loop_watch(
			&m->daemon->loop, cl->fd, cl->out ? EPOLLOUT : EPOLLIN, client_tag(m, cl));
	if (r < 0)
		client_close(m, cl);
}

void dev_metrics_on_client(struct dev_metrics *m, struct dev_tag tag)
{
	struct dev_metrics_client *cl = &m->client[tag.slot % DEV_METRICS_CLIENTS];
	if (cl->fd >= 0 && cl->gen == tag.gen)
		client_go_on(m, cl);
}

void dev_metrics_on_listen(struct dev_metrics *m)
{
	struct dev_metrics_client *cl = m->client;
	while (cl < m->client + DEV_METRICS_CLIENTS && cl->fd >= 0)
		cl++;
	if (cl == m->client + DEV_METRICS_CLIENTS) {
		watch_listener(m, false); /* until one of them leaves */
		return;
	}
	int fd = accept4(m->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	cl->fd = fd;
	cl->until_us = m->daemon->loop.now_us + DEV_METRICS_US;
	if (dev_loop_watch(&m->daemon->loop, fd, EPOLLIN, client_tag(m, cl)) < 0)
		client_close(m, cl);
}

uint64_t dev_metrics_turn(struct dev_metrics *m)
{
	uint64_t next_us = UINT64_MAX;
	if (m->listen_fd < 0)
		return next_us;
	for (size_t i = 0; i < DEV_METRICS_CLIENTS; i++) {
		struct dev_metrics_client *cl = &m->client[i];
		if (cl->fd >= 0 && m->daemon->loop.now_us >= cl->until_us)
			client_close(m, cl);
		if (cl->fd >= 0)
			next_us = HF_MIN(next_us, cl->until_us);
	}
	return next_us;
}

/* ---- set-up ---- */

/* "9100", "127.0.0.1:9100", "[::1]:9100". */
static int tcp_address(const char *text, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	const char *colon = strrchr(text, ':');
	char *end;
	unsigned long port = strtoul(colon ? colon + 1 : text, &end, 10);
	size_t n = colon ? (size_t)(colon - text) : 0;
	if (*end != '\0' || port == 0 || port > 65535)
		return -EINVAL;
	*ret = (struct sockaddr_storage){ 0 };
	if (n == 5 && strncmp(text, "[::1]", n) == 0) {
		*(struct sockaddr_in6 *)ret = (struct sockaddr_in6){ .sin6_family = AF_INET6,
			.sin6_port = htons((uint16_t)port),
			.sin6_addr = in6addr_loopback };
		*ret_len = sizeof(struct sockaddr_in6);
		return 0;
	}
	if (colon && !(n == 9 && (strncmp(text, "127.0.0.1", n) == 0 ||
					 strncmp(text, "localhost", n) == 0)))
		return -EINVAL;
	*(struct sockaddr_in *)ret = (struct sockaddr_in){ .sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	*ret_len = sizeof(struct sockaddr_in);
	return 0;
}

static int tcp_listen(const char *address, int *ret_fd)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int one = 1, r = tcp_address(address, &sa, &len);
	if (r < 0)
		return r;
	HF_CLEANUP(fd_closep)
	int fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&sa, len) < 0 || listen(fd, DEV_METRICS_CLIENTS) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	return 0;
}

int dev_metrics_adopt(struct dev_metrics *m, struct dev_daemon *daemon, const char *address, int fd)
{
	m->daemon = daemon;
	m->address = address;
	m->listen_fd = fd;
	for (size_t i = 0; i < DEV_METRICS_CLIENTS; i++)
		m->client[i].fd = -1;
	if (fd >= 0)
		watch_listener(m, true);
	return 0;
}

int dev_metrics_open(struct dev_metrics *m, struct dev_daemon *daemon, const char *address)
{
	int fd = -1, r = 0;
	if (strchr(address, '/'))
		r = dev_listen(SOCK_STREAM, address, 0600, DEV_METRICS_CLIENTS, &fd);
	else if (address[0] != '\0')
		r = tcp_listen(address, &fd);
	return r < 0 ? r : dev_metrics_adopt(m, daemon, address, fd);
}

struct dev_metrics_client *dev_metrics_add(struct dev_metrics *m, int fd)
{
	struct dev_metrics_client *cl = m->client;
	while (cl < m->client + DEV_METRICS_CLIENTS && cl->fd >= 0)
		cl++;
	if (m->listen_fd < 0 || fd < 0 || cl == m->client + DEV_METRICS_CLIENTS) {
		fd_closep(&fd);
		return NULL;
	}
	cl->fd = fd;
	return cl;
}

void dev_metrics_carry_on(struct dev_metrics *m)
{
	for (size_t i = 0; i < DEV_METRICS_CLIENTS; i++)
		if (m->client[i].fd >= 0)
			client_go_on(m, &m->client[i]);
}

void dev_metrics_forget(struct dev_metrics *m)
{
	m->paused = false;
	for (size_t i = 0; i < DEV_METRICS_CLIENTS; i++)
		if (m->client[i].fd >= 0)
			client_close(m, &m->client[i]);
	dev_loop_close(&m->daemon->loop, &m->listen_fd);
}

void dev_metrics_close(struct dev_metrics *m)
{
	if (!m->daemon || m->listen_fd < 0)
		return;
	dev_metrics_forget(m);
	if (strchr(m->address, '/'))
		dev_unlisten(m->address);
}
