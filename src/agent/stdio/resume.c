/* SPDX-License-Identifier: MIT */
#include "resume.h"
#include "agent/agent.h"
#include "agent/link/dial.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/reconnect.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define IO_BATCH (64u << 10) /* bytes read from a connection at a time */

struct agt_resume {
	struct hf_list link; /* of all resumable legs */
	struct agt *a;
	struct agt_stdio *set; /* NULL: gone */
	int leg;
	uint32_t port;
	struct rs rs;
	void *window; /* AGT_WINDOW bytes, mapped */

	int local; /* -1: not attached yet, or closed */
	struct agt_watch *watch_local;
	int conn;
	struct agt_watch *watch_conn;
	struct agt_dial *dial;
	struct agt_timer *redial;
	struct brg_reconnect policy;
};

static void step(struct agt_resume *p);

static void close_local(struct agt_resume *p)
{
	agt_watch_free(p->watch_local);
	p->watch_local = NULL;
	fd_closep(&p->local);
}

static void close_conn(struct agt_resume *p)
{
	agt_watch_free(p->watch_conn);
	p->watch_conn = NULL;
	fd_closep(&p->conn);
}

void agt_resume_disown(struct agt_resume *p)
{
	p->set = NULL;
}

void agt_resume_stop(struct agt_resume *p)
{
	close_local(p);
	close_conn(p);
	agt_dial_cancel(p->dial);
	agt_timer_free(p->redial);
	if (p->window)
		(void)munmap(p->window, AGT_WINDOW); /* cannot fail for what mmap gave */
	hf_list_remove(&p->link);
	p->a->n_streams--;
	free(p);
}

static void over(struct agt_resume *p)
{
	struct agt_stdio *set = p->set;
	int leg = p->leg;
	if (rs_state(&p->rs) == RS_UNKNOWN || rs_state(&p->rs) == RS_GAP)
		hf_warn("stream on port %u: %s: dropped", p->port,
			rs_state(&p->rs) == RS_GAP ? "the host has lost its position"
						   : "the host does not know it");
	agt_resume_stop(p);
	if (set)
		agt_stdio_leg_over(set, leg);
}

void agt_resume_drop_all(struct agt *a)
{
	hf_list_for_each_safe (l, &a->resumables)
		over(HF_CONTAINER_OF(l, struct agt_resume, link));
}

static void on_dialled(void *arg, int fd);

static void dial_now(void *arg)
{
	struct agt_resume *p = arg;
	brg_reconnect_dialling(&p->policy, agt_now_us());
	p->dial = agt_dial_start(&p->a->loop, &p->a->flags->transport, p->port, on_dialled, p);
	if (!p->dial)
		agt_timer_set(p->redial, p->policy.interval_us / 1000 + 1);
}

static void dial_later(struct agt_resume *p, enum brg_outcome outcome)
{
	uint64_t now = agt_now_us(), at;
	if (brg_reconnect_next(&p->policy, outcome, now, &at))
		agt_timer_set(p->redial, at <= now ? 0 : (at - now + 999) / 1000);
}

static void on_conn(void *arg, int events);

static void on_dialled(void *arg, int fd)
{
	struct agt_resume *p = arg;
	p->dial = NULL;
	if (fd < 0) {
		dial_later(p, BRG_OUTCOME_REFUSED);
		return;
	}
	p->conn = fd;
	if (agt_watch_new(&p->a->loop, fd, on_conn, p, &p->watch_conn) < 0) {
		close_conn(p);
		dial_later(p, BRG_OUTCOME_REFUSED);
		return;
	}
	rs_attach(&p->rs);
	step(p);
}

static void conn_lost(struct agt_resume *p)
{
	bool useful = p->rs.hello_in;
	close_conn(p);
	rs_detach(&p->rs);
	if (rs_wants_dial(&p->rs))
		dial_later(p, useful ? BRG_OUTCOME_LOST : BRG_OUTCOME_USELESS);
}

/* Reads the connection once. 0, or -errno: it is over. */
static int conn_read(struct agt_resume *p)
{
	static uint8_t buf[IO_BATCH]; /* one thread; rs_input copies */
	ssize_t n = read(p->conn, buf, sizeof(buf));
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n == 0 ? -ECONNRESET : rs_input(&p->rs, buf, (size_t)n);
}

/* Writes what the stream has to say. 0, or -errno: the connection is over. */
static int conn_write(struct agt_resume *p)
{
	struct iovec iov[RS_OUTPUT_IOV];
	int k;
	while ((k = rs_output(&p->rs, iov)) > 0) {
		ssize_t n = writev(p->conn, iov, k);
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		rs_sent(&p->rs, (size_t)n);
	}
	return 0;
}

/* Process -> window. */
static void local_read(struct agt_resume *p)
{
	struct iovec iov[2];
	int k = rs_write_iov(&p->rs, iov);
	if (p->local < 0 || k == 0)
		return;
	ssize_t n = readv(p->local, iov, k);
	if (n > 0) {
		rs_wrote(&p->rs, (size_t)n);
	} else if (n == 0 || errno != EAGAIN) { /* the end; EIO when it is a terminal's */
		close_local(p);
		rs_end(&p->rs);
	}
}

/* Window -> process. */
static void local_write(struct agt_resume *p)
{
	struct iovec iov[2];
	int k = rs_read(&p->rs, iov);
	if (p->local >= 0 && k > 0) {
		ssize_t n = writev(p->local, iov, k);
		if (n > 0) {
			rs_take(&p->rs, (size_t)n);
		} else if (errno != EAGAIN) {
			close_local(p);
			rs_reset(&p->rs, EPIPE); /* it has closed its input: the host is told */
		}
	}
	if (p->local >= 0 && rs_readable_end(&p->rs)) {
		close_local(p);
		rs_take_end(&p->rs);
	}
}

/* Which events are wanted now, from the state of the stream alone. */
static void want(struct agt_resume *p)
{
	struct iovec iov[RS_OUTPUT_IOV];
	bool in = p->leg == AGT_IN;
	if (p->local >= 0 && in)
		agt_watch_set(p->watch_local, rs_read(&p->rs, iov) > 0 ? UV_WRITABLE : 0);
	if (p->local >= 0 && !in)
		agt_watch_set(p->watch_local, rs_room(&p->rs) > 0 ? UV_READABLE : 0);
	if (p->conn >= 0)
		agt_watch_set(p->watch_conn,
			UV_READABLE | (rs_output(&p->rs, iov) > 0 ? UV_WRITABLE : 0));
}

static void step(struct agt_resume *p)
{
	if (p->leg == AGT_IN)
		local_write(p);
	if (p->conn >= 0 && conn_write(p) < 0)
		conn_lost(p);
	if (rs_over(&p->rs)) {
		over(p);
		return;
	}
	want(p);
}

static void on_conn(void *arg, int events)
{
	struct agt_resume *p = arg;
	int r = events & UV_READABLE ? conn_read(p) : 0;
	if (r < 0 && p->leg == AGT_IN)
		local_write(p); /* what came before the loss */
	if (r < 0)
		conn_lost(p);
	step(p);
}

static void on_local(void *arg, int events)
{
	struct agt_resume *p = arg;
	(void)events; /* only one was asked for */
	if (p->leg != AGT_IN)
		local_read(p);
	step(p);
}

int agt_resume_attach(struct agt_resume *p, int local)
{
	int r = local < 0 ? -ENOENT
			  : agt_watch_new(&p->a->loop, local, on_local, p, &p->watch_local);
	p->local = local;
	if (r < 0) {
		close_local(p);
		rs_end(&p->rs); /* an empty stream */
	}
	step(p);
	return 0;
}

void agt_resume_exited(struct agt_resume *p)
{
	if (p->leg != AGT_IN)
		return;
	close_local(p);
	if (!p->rs.rx_end_taken) /* otherwise it is about to finish by itself */
		rs_reset(&p->rs, 0);
	step(p);
}

int agt_resume_new(struct agt *a, struct agt_stdio *set, int leg, uint32_t port,
	const uint8_t token[RS_TOKEN_SIZE], struct agt_resume **ret)
{
	struct agt_resume *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*p = (struct agt_resume){
		.a = a, .set = set, .leg = leg, .port = port, .local = -1, .conn = -1
	};
	hf_list_append(&a->resumables, &p->link);
	a->n_streams++;
	brg_reconnect_init(&p->policy, a->flags->reconnect_us, 0);
	p->redial = agt_timer_new(&a->loop, dial_now, p);
	p->window =
		mmap(NULL, AGT_WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->window == MAP_FAILED)
		p->window = NULL;
	if (!p->redial || !p->window) {
		agt_resume_stop(p);
		return -ENOMEM;
	}
	bool in = leg == AGT_IN;
	struct rs_config config = {
		.dials = true,
		.tx_buf = in ? NULL : p->window,
		.tx_cap = in ? 0 : AGT_WINDOW,
		.rx_buf = in ? p->window : NULL,
		.rx_cap = in ? AGT_WINDOW : 0,
	};
	memcpy(config.token, token, sizeof(config.token));
	int r = rs_init(&p->rs, &config);
	hf_assert(r == 0); /* the sizes are constants */
	agt_timer_set(p->redial, 0);
	*ret = p;
	return 0;
}
