/* SPDX-License-Identifier: MIT */
#include "guest.h"
#include "base/fd.h"
#include "host.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>

#define PACKET_MAX ((uint32_t)FE_PAYLOAD_MAX)
#define FIRST_PORT 1024u
#define RECORD_MAX (64u << 20)

static void check(const char *what, int r)
{
	if (r < 0)
		bench_die(what, r);
}

/* Interrupts, edge by edge: nothing is to be read to have the next one. */
static void watch(struct guest *g)
{
	int fd[] = { g->fe.call[0], g->fe.call[1], g->fe.sock };
	fd_closep(&g->ep);
	g->ep = epoll_create1(EPOLL_CLOEXEC);
	check("epoll_create1", g->ep < 0 ? -errno : 0);
	for (size_t i = 0; i < HF_ARRAY_SIZE(fd); i++) {
		struct epoll_event ev = { .data.fd = fd[i] };
		ev.events = fd[i] == g->fe.sock ? (uint32_t)EPOLLRDHUP : EPOLLIN | EPOLLET;
		int r = epoll_ctl(g->ep, EPOLL_CTL_ADD, fd[i], &ev);
		check("epoll_ctl", r < 0 ? -errno : 0);
	}
}

/* Until the device has used a buffer. */
static void wait_used(struct guest *g)
{
	struct epoll_event ev[3];
	bool rx = drv_arm(&g->fe.ring[0]), tx = drv_arm(&g->fe.ring[1]);
	if (rx || tx)
		return;
	int n = epoll_wait(g->ep, ev, 3, FE_TIMEOUT_MS);
	check("the device", n < 0 ? -errno : n == 0 ? -ETIMEDOUT : 0);
	for (int i = 0; i < n; i++)
		check("the device", ev[i].data.fd == g->fe.sock ? -ENODATA : 0);
}

struct guest *guest_start(const char *socket, uint16_t rx_bytes)
{
	struct fe_cfg cfg = {
		.rx_bytes = rx_bytes, .lazy_refill = true, .keep_event_ring = true, /* as QEMU */
	};
	struct guest *g = calloc(1, sizeof(*g));
	if (!g)
		bench_die("guest", ENOMEM);
	g->next_port = FIRST_PORT;
	check(socket, fe_open(&g->fe, socket, &cfg));
	check("fe_start", fe_start(&g->fe));
	g->ep = -1;
	watch(g);
	return g;
}

void guest_end(struct guest *g)
{
	fe_close(&g->fe);
	fd_closep(&g->ep);
	free(g);
}

void guest_move(struct guest *g, const char *socket)
{
	static uint8_t record[RECORD_MAX];
	struct fe to;
	size_t n;
	/* Until the device has all that was sent: an answer that it lacks is a connection reset. */
	for (fe_flush(&g->fe); g->fe.ring[1].n_free < g->fe.cfg.queue_size;)
		if (fe_reap(&g->fe) == 0)
			wait_used(g);
	check("fe_stop", fe_stop(&g->fe));
	check("fe_save", fe_save(&g->fe, record, sizeof(record), &n));
	check(socket, fe_open(&to, socket, &g->fe.cfg));
	check("fe_load", fe_load(&to, record, n));
	fe_move(&to, &g->fe);
	check("fe_start", fe_start(&to));
	fe_close(&g->fe);
	g->fe = to;
	watch(g);
}

static struct guest_conn *find(struct guest *g, uint32_t host_port, uint32_t guest_port)
{
	return &g->conn[(guest_port == GUEST_LISTENS ? host_port : guest_port) % GUEST_CONNS];
}

static void send(struct guest *g, struct guest_conn *c, enum vsk_op op, uint32_t len)
{
	struct vsk_pkt p = {
		.src_cid = g->fe.cid,
		.dst_cid = VSK_CID_HOST,
		.src_port = c->guest_port,
		.dst_port = c->host_port,
		.len = len,
		.type = VSK_TYPE_STREAM,
		.op = (uint16_t)op,
		.flags = op == VSK_OP_SHUTDOWN ? VSK_SHUT_BOTH : 0,
		.buf_alloc = GUEST_BUFFER,
		.fwd_cnt = c->fwd_cnt,
	};
	int r;
	c->told = c->fwd_cnt;
	c->tx_cnt += len;
	(void)fe_reap(&g->fe); /* room is seen below */
	while ((r = fe_queue(&g->fe, &p, NULL, PACKET_MAX)) == -ENOSPC) {
		fe_flush(&g->fe);
		if (fe_reap(&g->fe) == 0)
			wait_used(g);
	}
	check("tx", r);
}

uint32_t guest_room(const struct guest_conn *c)
{
	uint32_t all = HF_MIN(c->peer_buf_alloc, GUEST_BUFFER);
	uint32_t sent = c->tx_cnt - c->peer_fwd_cnt;
	return c->state == GUEST_OPEN && sent < all ? HF_MIN(all - sent, PACKET_MAX) : 0;
}

bool guest_can_queue(const struct guest *g)
{
	return g->fe.ring[1].n_free >= 2;
}

void guest_send(struct guest *g, struct guest_conn *c, uint32_t len)
{
	send(g, c, VSK_OP_RW, len);
}

struct guest_conn *guest_connect(struct guest *g, uint32_t host_port)
{
	uint32_t port = g->next_port++;
	if (port == GUEST_LISTENS)
		port = g->next_port++;
	struct guest_conn *c = find(g, host_port, port);
	*c = (struct guest_conn){
		.host_port = host_port, .guest_port = port, .state = GUEST_ASKING
	};
	send(g, c, VSK_OP_REQUEST, 0);
	return c;
}

void guest_close(struct guest *g, struct guest_conn *c)
{
	c->state = GUEST_CLOSING;
	g->n_open--;
	send(g, c, VSK_OP_SHUTDOWN, 0);
}

static void opened(struct guest *g, struct guest_conn *c)
{
	c->state = GUEST_OPEN;
	g->n_open++;
}

static void gone(struct guest *g, struct guest_conn *c)
{
	g->n_open -= c->state == GUEST_OPEN;
	g->n_refused += c->state == GUEST_ASKING;
	c->state = GUEST_NONE;
}

static void payload(struct guest *g, struct guest_conn *c, uint32_t len)
{
	g->received += len;
	c->fwd_cnt += len;
	if (GUEST_BUFFER - (c->fwd_cnt - c->told) < PACKET_MAX)
		send(g, c, VSK_OP_CREDIT_UPDATE, 0);
}

static void packet(struct guest *g, const struct vsk_pkt *p)
{
	struct guest_conn *c = find(g, p->src_port, p->dst_port);
	if (p->op == VSK_OP_REQUEST)
		*c = (struct guest_conn){ .host_port = p->src_port, .guest_port = p->dst_port };
	else if (c->state == GUEST_NONE)
		return;
	c->peer_buf_alloc = p->buf_alloc;
	c->peer_fwd_cnt = p->fwd_cnt;
	switch (p->op) {
	case VSK_OP_REQUEST:
		opened(g, c);
		send(g, c, VSK_OP_RESPONSE, 0);
		break;
	case VSK_OP_RESPONSE:
		opened(g, c);
		break;
	case VSK_OP_RW:
		payload(g, c, p->len);
		break;
	case VSK_OP_CREDIT_REQUEST:
		send(g, c, VSK_OP_CREDIT_UPDATE, 0);
		break;
	case VSK_OP_SHUTDOWN:
		if (p->flags == VSK_SHUT_BOTH) {
			send(g, c, VSK_OP_RST, 0);
			gone(g, c);
		} else if (p->flags == VSK_SHUT_SEND && c->state == GUEST_OPEN) {
			guest_close(g, c); /* the application reads the end and closes */
		}
		break;
	case VSK_OP_RST:
		gone(g, c);
		break;
	}
}

unsigned guest_poll(struct guest *g)
{
	struct vsk_pkt p;
	unsigned n = 0;
	int r;
	while ((r = fe_look(&g->fe, &p)) > 0) {
		packet(g, &p);
		n++;
	}
	check("rx", r);
	return n;
}

void guest_flush(struct guest *g)
{
	fe_flush(&g->fe);
}

void guest_sleep(struct guest *g)
{
	(void)fe_reap(&g->fe); /* else a used tx buffer would wake us at once */
	wait_used(g);
}
