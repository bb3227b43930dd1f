/* SPDX-License-Identifier: MIT */
#include "resume.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "agent/link/dial.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/hex.h"
#include "base/log.h"
#include "bridge/reconnect.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define ROOM_WORTH_IT                                                                              \
	(AGT_WINDOW / 8)     /* with less the process waits: small frames cost as large            \
			      */
#define IO_BATCH (64u << 10) /* bytes read from a connection at a time */

/* The ring is never quite full, so that its two ends tell how much it holds. What stays free is a
 * page, so that pages of a pipe that is moved as it fills become pages of the window. */
#define SPARE 4096u

/* In front of the ring: what outlives the agent. */
struct window {
	uint64_t base;  /* output: offset of the oldest byte in the ring */
	int64_t pos;    /* output: where the next byte goes, in the file; kept by the kernel */
	uint64_t taken; /* input: the process has the bytes before this offset */
	uint32_t open;  /* the local descriptor is */
	uint32_t ended; /* output: nothing follows; input: the process has been told the end */
};

#define WINDOW_HEAD 4096u
#define WINDOW_SIZE (WINDOW_HEAD + AGT_WINDOW)

struct agt_resume {
	struct hf_list link; /* of all resumable legs */
	struct agt *a;
	struct agt_stdio *set; /* NULL: gone */
	uint64_t serial;       /* its name in the state; 0: not there yet */
	int leg;
	uint32_t port;
	struct rs rs;
	struct window *window; /* WINDOW_SIZE bytes, mapped */
	int window_fd;

	int local; /* -1: not attached yet, or closed */
	bool tty;
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
	p->window->open = 0; /* before its number is another's */
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
	if (p->serial)
		agt_state_put_n(&p->a->state, "leg", p->serial, NULL);
	if (p->window)
		close_local(p);
	close_conn(p);
	agt_dial_cancel(p->dial);
	agt_timer_free(p->redial);
	if (p->window)
		(void)munmap(p->window, WINDOW_SIZE); /* cannot fail for what mmap gave */
	fd_closep(&p->window_fd);
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
	brg_reconnect_dialling(&p->policy, hf_now_us());
	p->dial = agt_dial_start(&p->a->loop, &p->a->flags->transport, p->port, on_dialled, p);
	if (!p->dial)
		agt_timer_set(p->redial, p->policy.interval_us / 1000 + 1);
}

static void dial_later(struct agt_resume *p, enum brg_outcome outcome)
{
	uint64_t now = hf_now_us(), at;
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

/* From the pipe into the window, without a moment at which a byte is in neither. A terminal cannot
 * be spliced into a file; it is read. */
static ssize_t fill(struct agt_resume *p, void *at, size_t n)
{
	struct window *w = p->window;
	w->pos = (uint8_t *)at -
		 (uint8_t *)w; /* the same place, or the ring's beginning for its end */
	if (!p->tty)
		return splice(p->local, NULL, p->window_fd, &w->pos, n, SPLICE_F_NONBLOCK);
	ssize_t k = read(p->local, at, n);
	w->pos += HF_MAX(k, 0);
	return k;
}

/* The end, or EIO when it is a terminal's. */
static void local_ended(struct agt_resume *p)
{
	p->window->ended = 1;
	close_local(p);
	rs_end(&p->rs);
}

static bool has_room(const struct agt_resume *p)
{
	return rs_room(&p->rs) >= ROOM_WORTH_IT;
}

/* Process -> window: up to the ring's end, and then from its beginning. */
static void local_read(struct agt_resume *p)
{
	struct iovec iov[2];
	p->window->base = rs_tx_acked(&p->rs);
	for (int i = 0; i < 2; i++) {
		size_t room = rs_room(&p->rs);
		if (p->local < 0 || room <= SPARE || rs_write_iov(&p->rs, iov) == 0)
			return;
		size_t most = HF_MIN(iov[0].iov_len, room - SPARE);
		ssize_t n = fill(p, iov[0].iov_base, most);
		if (n > 0)
			rs_wrote(&p->rs, (size_t)n);
		else if (n == 0 || errno != EAGAIN)
			local_ended(p);
		if (n < (ssize_t)most)
			return;
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
			p->window->taken = rs_rx_taken(&p->rs);
		} else if (errno != EAGAIN) {
			close_local(p);
			rs_reset(&p->rs, EPIPE); /* it has closed its input: the host is told */
		}
	}
	if (p->local >= 0 && rs_readable_end(&p->rs)) {
		p->window->ended = 1;
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
		agt_watch_set(p->watch_local, has_room(p) ? UV_READABLE : 0);
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
	bool full = !has_room(p);
	int r = events & UV_READABLE ? conn_read(p) : 0;
	if (r < 0 && p->leg == AGT_IN)
		local_write(p); /* what came before the loss */
	if (p->leg != AGT_IN && full && has_room(p))
		local_read(p); /* the process has waited for it */
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

static void put(struct agt_resume *p, uint64_t owner)
{
	char token[2 * RS_TOKEN_SIZE + 1];
	hex_encode(p->rs.token, RS_TOKEN_SIZE, token);
	if (!p->serial)
		p->serial = ++p->a->state.serial;
	agt_state_put_n(&p->a->state, "leg", p->serial,
		json_pack("{s:I, s:i, s:I, s:s, s:i, s:i, s:b}", "process", (json_int_t)owner,
			"leg", p->leg, "port", (json_int_t)p->port, "token", token, "window",
			p->window_fd, "local", p->local, "tty", (int)p->tty));
}

/* Joins the local descriptor, or ends the stream. */
static void join(struct agt_resume *p, int local)
{
	int r = local < 0 ? -ENOENT
			  : agt_watch_new(&p->a->loop, local, on_local, p, &p->watch_local);
	p->local = local;
	p->window->open = r == 0;
	if (r < 0) {
		p->window->ended = 1;
		close_local(p);
		rs_end(&p->rs); /* an empty stream */
	}
}

int agt_resume_attach(struct agt_resume *p, uint64_t owner, int local, bool tty)
{
	p->tty = tty;
	join(p, local);
	put(p, owner);
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

/* A window of its own, or one that an agent before this one had (window_fd >= 0). */
static int open_window(struct agt_resume *p)
{
	bool inherited = p->window_fd >= 0;
	if (!inherited) {
		p->window_fd = memfd_create("window", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (p->window_fd < 0 || ftruncate(p->window_fd, WINDOW_SIZE) < 0 ||
			fcntl(p->window_fd, F_ADD_SEALS,
				F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
			return -errno;
	}
	struct stat st;
	if (fstat(p->window_fd, &st) < 0 || st.st_size != WINDOW_SIZE)
		return -EBADMSG;
	void *m = mmap(NULL, WINDOW_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, p->window_fd, 0);
	if (m == MAP_FAILED)
		return -errno;
	p->window = m;
	if (!inherited)
		p->window->pos = WINDOW_HEAD;
	return 0;
}

/* The stream where its window stands: at the beginning, when that is new. */
static int open_stream(struct agt_resume *p, const uint8_t token[RS_TOKEN_SIZE])
{
	const struct window *w = p->window;
	bool in = p->leg == AGT_IN;
	uint8_t *ring = (uint8_t *)p->window + WINDOW_HEAD;
	struct rs_config config = {
		.dials = true,
		.tx_buf = in ? NULL : ring,
		.tx_cap = in ? 0 : AGT_WINDOW,
		.rx_buf = in ? ring : NULL,
		.rx_cap = in ? AGT_WINDOW : 0,
		.rx_start = w->taken,
		.rx_end_taken = in && w->ended,
		.tx_start = w->base,
		.tx_kept = in ? 0 : ((uint64_t)w->pos - WINDOW_HEAD - w->base) % AGT_WINDOW,
		.tx_ended = !in && w->ended,
	};
	memcpy(config.token, token, sizeof(config.token));
	return rs_init(&p->rs, &config);
}

static int new_resume(struct agt *a, int leg, uint32_t port, int window_fd,
	const uint8_t token[RS_TOKEN_SIZE], struct agt_resume **ret)
{
	struct agt_resume *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*p = (struct agt_resume){
		.a = a, .leg = leg, .port = port, .window_fd = window_fd, .local = -1, .conn = -1
	};
	hf_list_append(&a->resumables, &p->link);
	a->n_streams++;
	brg_reconnect_init(&p->policy, a->flags->reconnect_us, 0);
	p->redial = agt_timer_new(&a->loop, dial_now, p);
	int r = p->redial ? open_window(p) : -ENOMEM;
	if (r == 0)
		r = open_stream(p, token);
	if (r < 0) {
		agt_resume_stop(p);
		return r;
	}
	agt_timer_set(p->redial, 0);
	*ret = p;
	return 0;
}

int agt_resume_new(struct agt *a, struct agt_stdio *set, int leg, uint32_t port,
	const uint8_t token[RS_TOKEN_SIZE], struct agt_resume **ret)
{
	int r = new_resume(a, leg, port, -1, token, ret);
	if (r == 0)
		(*ret)->set = set;
	return r;
}

static void restore(struct agt_heir *h, uint64_t serial, json_t *o)
{
	uint8_t token[RS_TOKEN_SIZE];
	struct agt_resume *p = NULL;
	struct agt_fields f = { .obj = o, .prefix = "leg." };
	struct agt_process *owner =
		agt_process_by_serial(h->a, agt_field_uint(&f, "process", INT64_MAX, 0));
	int leg = (int)agt_field_uint(&f, "leg", AGT_ERR, 0);
	uint32_t port = (uint32_t)agt_field_uint(&f, "port", UINT32_MAX, 0);
	const char *hex = agt_field_string(&f, "token", "");
	bool tty = agt_field_bool(&f, "tty", false);
	int window_fd = agt_heir_fd(h, agt_field(&f, "window"), AGT_HEIR_WINDOW);
	if (f.err.code != 0 || hex_decode(hex, token, sizeof(token)) < 0)
		agt_heir_refuse(h, f.err.code ? f.err.text : "leg");
	if (window_fd < 0) { /* it was over */
		agt_state_put_n(&h->a->state, "leg", serial, NULL);
		return;
	}
	if (new_resume(h->a, leg, port, window_fd, token, &p) < 0)
		agt_heir_refuse(h, "leg");
	p->serial = serial;
	p->tty = tty;
	p->set = owner ? owner->stdio : NULL;
	if (p->set)
		agt_stdio_inherit(p->set, leg, NULL, p);
	if (p->window->open)
		join(p, agt_heir_fd(h, agt_field(&f, "local"),
				tty ? AGT_HEIR_TERMINAL : AGT_HEIR_PIPE));
	else if (leg == AGT_IN && !p->window->ended)
		rs_reset(&p->rs, owner && owner->state == AGT_PROCESS_RUNNING ? EPIPE : 0);
}

void agt_resume_restore(struct agt_heir *h)
{
	uint64_t serial;
	for (json_t *v = agt_heir_first(h, "leg", &serial); v; v = agt_heir_next(h, &serial))
		restore(h, serial, v);
}
