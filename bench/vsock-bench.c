/* SPDX-License-Identifier: MIT */
/*
 * vsock-bench - one measurement of a vhost-user vsock device, or of plain Unix sockets.
 *
 * Prints one JSON line. README.md has the method.
 */
#include "base/fd.h"
#include "floor.h"
#include "guest.h"
#include "host.h"
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HOST_PORT 1024
#define HOPS_MAX  4
#define WARM_UP   0.2
#define PINGS_MAX (1u << 20)
#define GIB       1073741824.0
#define OPENING   16 /* connections that are opened at once where many are */

struct bench {
	const char *socket; /* NULL: Unix sockets only */
	const char *path;   /* of the hybrid socket */
	const char *move;   /* another device's: the guest moves there first; NULL: it stays */
	char host_path[108], dial_path[108], connect_line[32];
	unsigned hops; /* between plain sockets */
	struct host hop[HOPS_MAX];
	pid_t device;
	unsigned connections;
	size_t message;
	uint16_t rx_bytes;
	double seconds;
	bool floor;
};

static double now(void)
{
	struct timespec ts;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Processor time of all threads of a process, which may be none (0). */
static double cpu_seconds(pid_t pid)
{
	char path[64];
	unsigned long long ns, sum = 0;
	if (pid == 0)
		return 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *d = opendir(path);
	if (!d)
		bench_die(path, errno);
	for (struct dirent *e; (e = readdir(d));) {
		char stat[352];
		(void)snprintf(stat, sizeof(stat), "%s/%s/schedstat", path, e->d_name);
		FILE *f = e->d_name[0] == '.' ? NULL : fopen(stat, "r");
		if (f && fscanf(f, "%llu", &ns) == 1)
			sum += ns;
		if (f)
			(void)fclose(f); /* it was only read */
	}
	(void)closedir(d); /* likewise */
	return (double)sum / 1e9;
}

static long rss_kib(pid_t pid)
{
	char path[64], line[128];
	long kib = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %ld", &kib) == 1)
			break;
	if (f)
		(void)fclose(f); /* it was only read */
	return kib;
}

static long fd_count(pid_t pid)
{
	char path[64];
	long n = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *d = opendir(path);
	while (d && readdir(d))
		n++;
	if (d)
		(void)closedir(d); /* it was only read */
	return n;
}

static struct guest *guest_of(const struct bench *b)
{
	return b->socket ? guest_start(b->socket, b->rx_bytes) : NULL;
}

static void wait_open(struct guest *g, unsigned n)
{
	while (g->n_open < n) {
		if (g->n_refused)
			bench_die("connect", ECONNREFUSED);
		bool idle = guest_poll(g) == 0;
		guest_flush(g);
		if (idle)
			guest_sleep(g);
	}
}

/* Relays between the two ends of a plain connection; they dial when they are dialled, and end with
 * us. */
static void hops_start(struct bench *b)
{
	(void)snprintf(b->dial_path, sizeof(b->dial_path), "%s", b->host_path);
	for (unsigned i = 0; i < b->hops; i++) {
		char path[sizeof(b->dial_path)];
		(void)snprintf(
			path, sizeof(path), "%s.hop%u", b->path, i); /* fits: tried by listen */
		(void)unlink(path);
		host_hop(&b->hop[i], path, b->dial_path);
		memcpy(b->dial_path, path, sizeof(path));
	}
}

static void move_guest(const struct bench *b, struct guest *g)
{
	if (!b->move)
		return;
	while (guest_poll(g) > 0)
		guest_flush(g);
	guest_flush(g);
	guest_move(g, b->move);
}

/* ---- throughput ---- */

struct window {
	double from, cpu;
	uint64_t bytes;
};

static void window_open(struct window *w, const struct bench *b, uint64_t bytes)
{
	*w = (struct window){ now(), cpu_seconds(b->device), bytes };
}

static void window_print(const struct window *w, const struct bench *b, uint64_t bytes)
{
	double s = now() - w->from, gib = (double)(bytes - w->bytes) / GIB;
	double cpu = cpu_seconds(b->device) - w->cpu;
	printf("\"connections\":%u,\"message\":%zu,\"gib_per_second\":%.4f,"
	       "\"cpu_seconds_per_gib\":%.4f}\n",
		b->connections, b->message, gib / s, gib > 0 ? cpu / gib : 0);
}

/* Both windows of a run that only has to be watched. */
static void watch(const struct bench *b, const struct host_counts *counts)
{
	struct window w;
	(void)usleep((useconds_t)(WARM_UP * 1e6)); /* a signal would end us anyway */
	window_open(&w, b, counts->bytes);
	(void)usleep((useconds_t)(b->seconds * 1e6)); /* likewise */
	window_print(&w, b, counts->bytes);
}

static void send_all(struct guest *g, struct guest_conn **conn, const struct bench *b)
{
	for (unsigned i = 0; i < b->connections; i++) {
		uint32_t n = HF_MIN(guest_room(conn[i]), (uint32_t)b->message);
		if (n > 0 && guest_can_queue(g))
			guest_send(g, conn[i], n);
	}
}

static void g2h(const struct bench *b)
{
	struct host sink, source;
	host_sink(&sink, b->host_path, b->connections, b->message);
	if (!b->socket) {
		host_source(&source, b->dial_path, NULL, b->connections, b->message);
		watch(b, sink.counts);
		host_end(&source);
	} else {
		static struct guest_conn *conn[GUEST_CONNS];
		struct window w = { 0 };
		struct guest *g = guest_of(b);
		for (unsigned i = 0; i < b->connections; i++)
			conn[i] = guest_connect(g, HOST_PORT);
		wait_open(g, b->connections);
		move_guest(b, g);
		double start = now() + WARM_UP, end = start + b->seconds;
		for (double t; (t = now()) < end;) {
			if (w.from == 0 && t >= start)
				window_open(&w, b, sink.counts->bytes);
			unsigned before = g->fe.ring[1].avail_idx;
			bool idle = guest_poll(g) == 0;
			(void)fe_reap(&g->fe); /* room is seen below */
			send_all(g, conn, b);
			idle &= before == g->fe.ring[1].avail_idx;
			guest_flush(g);
			if (idle)
				guest_sleep(g);
		}
		window_print(&w, b, sink.counts->bytes);
		guest_end(g);
	}
	host_end(&sink);
}

static void h2g(const struct bench *b)
{
	struct host source;
	if (!b->socket) {
		g2h(b); /* the same two processes */
		return;
	}
	struct window w = { 0 };
	struct guest *g = guest_of(b);
	host_source(&source, b->path, b->connect_line, b->connections, b->message);
	wait_open(g, b->connections);
	move_guest(b, g);
	double start = now() + WARM_UP, end = start + b->seconds;
	for (double t; (t = now()) < end;) {
		if (w.from == 0 && t >= start)
			window_open(&w, b, g->received);
		bool idle = guest_poll(g) == 0;
		guest_flush(g);
		if (idle)
			guest_sleep(g);
	}
	window_print(&w, b, g->received);
	guest_end(g);
	host_end(&source);
}

/* ---- latency ---- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void guest_ping(struct guest *g, struct guest_conn *c, size_t n)
{
	uint64_t want = g->received + n;
	guest_send(g, c, (uint32_t)n);
	guest_flush(g);
	while (g->received < want)
		if (guest_poll(g) == 0)
			guest_sleep(g);
	guest_flush(g);
}

static void unix_ping(int fd, size_t n)
{
	static uint8_t buf[FE_PAYLOAD_MAX];
	if (fd_write_all(fd, buf, n) < 0 || fd_read_all(fd, buf, n) < 0)
		bench_die("echo", errno);
}

static void ping(const struct bench *b)
{
	static double took[PINGS_MAX];
	struct bench what = *b;
	struct host echo;
	struct floor f;
	size_t n = 0;
	int fd = -1;
	struct guest_conn *c = NULL;
	host_echo(&echo, b->host_path);
	struct guest *g = guest_of(b);
	if (g) {
		c = guest_connect(g, HOST_PORT);
		wait_open(g, 1);
		move_guest(b, g);
	} else if (b->floor) {
		floor_ping(&f, b->host_path, b->message);
		what.device = f.relay.pid;
	} else {
		fd = host_connect(b->dial_path, NULL);
	}
	double start = now() + WARM_UP, end = start + b->seconds, cpu = 0;
	for (double t = now(), u; t < end && n < PINGS_MAX; t = u) {
		if (g)
			guest_ping(g, c, b->message);
		else if (b->floor)
			floor_ask(&f);
		else
			unix_ping(fd, b->message);
		u = now();
		if (t < start)
			cpu = cpu_seconds(what.device);
		else
			took[n++] = u - t;
	}
	cpu = cpu_seconds(what.device) - cpu;
	qsort(took, n, sizeof(took[0]), compare);
	printf("\"message\":%zu,\"n\":%zu,\"p50_us\":%.2f,\"p99_us\":%.2f,\"cpu_us\":%.2f}\n",
		b->message, n, took[n / 2] * 1e6, took[n * 99 / 100] * 1e6, cpu / (double)n * 1e6);
	if (g)
		guest_end(g);
	if (b->floor)
		floor_end(&f);
	host_end(&echo);
}

/* ---- connections ---- */

static void rate_print(const struct bench *b, double from, double cpu, uint64_t n)
{
	printf("\"n\":%llu,\"per_second\":%.0f,\"cpu_us\":%.2f}\n", (unsigned long long)n,
		(double)n / (now() - from), (cpu_seconds(b->device) - cpu) / (double)n * 1e6);
}

static void connect_g2h(const struct bench *b)
{
	struct host echo;
	host_echo(&echo, b->host_path);
	struct guest *g = guest_of(b);
	double start = now(), cpu = cpu_seconds(b->device);
	uint64_t n = 0;
	for (; now() < start + b->seconds; n++) {
		if (g) {
			struct guest_conn *c = guest_connect(g, HOST_PORT);
			guest_flush(g);
			wait_open(g, 1);
			guest_close(g, c);
			guest_flush(g);
		} else if (close(host_connect(b->host_path, NULL)) < 0) {
			bench_die("close", errno);
		}
	}
	rate_print(b, start, cpu, n);
	if (g)
		guest_end(g);
	host_end(&echo);
}

static void connect_h2g(const struct bench *b)
{
	struct host dialler;
	if (!b->socket) {
		connect_g2h(b); /* the same two processes */
		return;
	}
	struct guest *g = guest_of(b);
	host_dial(&dialler, b->path, b->connect_line);
	double start = now(), cpu = cpu_seconds(b->device);
	while (now() < start + b->seconds) {
		bool idle = guest_poll(g) == 0;
		guest_flush(g);
		if (idle)
			guest_sleep(g);
	}
	rate_print(b, start, cpu, dialler.counts->ops);
	guest_end(g);
	host_end(&dialler);
}

/* Opens as many as are granted, a few at a time. */
static unsigned open_many(struct guest *g, struct guest_conn **conn, unsigned n)
{
	unsigned asked = 0, before = g->n_open;
	while (g->n_refused == 0 && g->n_open - before < n) {
		while (asked < n && asked - (g->n_open - before) < OPENING)
			conn[asked++] = guest_connect(g, HOST_PORT);
		guest_flush(g);
		if (guest_poll(g) == 0)
			guest_sleep(g);
	}
	while (g->n_open - before + g->n_refused < asked)
		if (guest_poll(g) == 0)
			guest_sleep(g);
	return asked;
}

/* Memory and descriptors of open connections, and whether all of them work. */
static void many(const struct bench *b)
{
	static struct guest_conn *conn[GUEST_CONNS];
	struct host echo;
	if (!b->socket)
		bench_die("many", ENODEV);
	host_echo(&echo, b->host_path);
	struct guest *g = guest_of(b);
	struct guest_conn *first = guest_connect(g, HOST_PORT);
	wait_open(g, 1);
	guest_ping(g, first, 64);
	long rss = rss_kib(b->device), fds = fd_count(b->device);
	double from = now();
	unsigned asked = open_many(g, conn, b->connections), n = 0;
	double opened = now();
	long rss_more = rss_kib(b->device) - rss, fds_more = fd_count(b->device) - fds;
	uint64_t want = g->received;
	for (unsigned i = 0; i < asked; i++) {
		if (conn[i]->state != GUEST_OPEN)
			continue;
		guest_send(g, conn[i], 64);
		want += 64;
		if (++n % 32 == 0) {
			guest_flush(g);
			(void)guest_poll(g); /* what is there; the rest is waited for below */
		}
	}
	guest_flush(g);
	while (g->received < want)
		if (guest_poll(g) == 0)
			guest_sleep(g);
	printf("\"asked\":%u,\"open\":%u,\"bytes_per_connection\":%.0f,\"fds_per_connection\":%.2f,"
	       "\"opened_per_second\":%.0f,\"echo_seconds\":%.3f}\n",
		asked, n, (double)rss_more * 1024 / n, (double)fds_more / n, n / (opened - from),
		now() - opened);
	guest_end(g);
	host_end(&echo);
}

/* ---- the least that any device must do ---- */

static void floor_of_h2g(const struct bench *b)
{
	struct bench least = *b;
	struct host source;
	struct floor f;
	struct window w = { 0 };
	floor_h2g(&f, b->host_path, b->connections, b->message);
	host_source(&source, b->host_path, NULL, b->connections, b->message);
	least.device = f.relay.pid;
	double start = now() + WARM_UP, end = start + b->seconds;
	uint64_t taken = 0;
	for (double t; (t = now()) < end; taken = floor_take(&f))
		if (w.from == 0 && t >= start)
			window_open(&w, &least, taken);
	window_print(&w, &least, taken);
	floor_end(&f);
	host_end(&source);
}

static void floor_of_g2h(const struct bench *b)
{
	struct bench least = *b;
	struct host sink;
	struct floor f;
	struct window w = { 0 };
	host_sink(&sink, b->host_path, b->connections, b->message);
	floor_g2h(&f, b->host_path, b->connections, b->message);
	least.device = f.relay.pid;
	double start = now() + WARM_UP, end = start + b->seconds;
	for (double t; (t = now()) < end; floor_give(&f, b->connections))
		if (w.from == 0 && t >= start)
			window_open(&w, &least, sink.counts->bytes);
	window_print(&w, &least, sink.counts->bytes);
	floor_end(&f);
	host_end(&sink);
}

static void floor_of_connect_g2h(const struct bench *b)
{
	struct bench least = *b;
	struct host echo;
	struct floor f;
	host_echo(&echo, b->host_path);
	floor_g2h_connect(&f, b->host_path);
	least.device = f.relay.pid;
	double start = now(), cpu = cpu_seconds(least.device);
	uint64_t n = 0;
	for (; now() < start + b->seconds; n++)
		floor_ask(&f);
	rate_print(&least, start, cpu, n);
	floor_end(&f);
	host_end(&echo);
}

static void floor_of_connect_h2g(const struct bench *b)
{
	struct bench least = *b;
	struct host dialler;
	struct floor f;
	floor_h2g_connect(&f, b->host_path);
	host_dial(&dialler, b->host_path, b->connect_line);
	least.device = f.relay.pid;
	double start = now(), cpu = cpu_seconds(least.device);
	while (now() < start + b->seconds)
		floor_answer(&f);
	rate_print(&least, start, cpu, dialler.counts->ops);
	host_end(&dialler);
	floor_end(&f);
}

/* ---- */

static const struct {
	const char *name;
	void (*run)(const struct bench *b);
	void (*floor)(const struct bench *b); /* NULL: there is none */
} figures[] = {
	{ "g2h", g2h, floor_of_g2h },
	{ "h2g", h2g, floor_of_h2g },
	{ "ping", ping, ping },
	{ "connect-g2h", connect_g2h, floor_of_connect_g2h },
	{ "connect-h2g", connect_h2g, floor_of_connect_h2g },
	{ "many", many, NULL },
};

static const char help[] =
	"usage: vsock-bench FIGURE [OPTION ...]\n"
	"\n"
	"Measures one figure of a vhost-user vsock device with guest CID 3, or without --socket "
	"of\n"
	"plain Unix sockets, and prints a JSON line. Figures: g2h, h2g (throughput), ping (round\n"
	"trip), connect-g2h, connect-h2g (connect and close, one after the other), many (memory "
	"of\n"
	"open connections, all echoing).\n"
	"\n"
	"  --path PATH        hybrid socket of the device, or where to make a Unix socket\n"
	"  --floor            a process in the device's place that makes the system calls which\n"
	"                     none can do without; not of many\n"
	"  --socket PATH      vhost-user socket of the device\n"
	"  --pid PID          the device, for its processor time and memory\n"
	"  --name TEXT        what is measured, for the JSON line\n"
	"  --connections N    1\n"
	"  --message BYTES    65536, of ping 64\n"
	"  --rx-buffer BYTES  the guest's rx buffers: 4140, as Linux before 6.3; later 3776\n"
	"  --seconds S        0.5\n"
	"  --move SOCKET      migrate to the device at this vhost-user socket before measuring\n"
	"  --hops N           of plain sockets: through N processes that copy\n";

enum {
	OPT_PATH = 1,
	OPT_FLOOR,
	OPT_SOCKET,
	OPT_PID,
	OPT_NAME,
	OPT_CONNECTIONS,
	OPT_MESSAGE,
	OPT_RX,
	OPT_SECONDS,
	OPT_MOVE,
	OPT_HOPS
};

static const struct option options[] = {
	{ "path", required_argument, NULL, OPT_PATH },
	{ "floor", no_argument, NULL, OPT_FLOOR },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "pid", required_argument, NULL, OPT_PID },
	{ "name", required_argument, NULL, OPT_NAME },
	{ "connections", required_argument, NULL, OPT_CONNECTIONS },
	{ "message", required_argument, NULL, OPT_MESSAGE },
	{ "rx-buffer", required_argument, NULL, OPT_RX },
	{ "seconds", required_argument, NULL, OPT_SECONDS },
	{ "move", required_argument, NULL, OPT_MOVE },
	{ "hops", required_argument, NULL, OPT_HOPS },
	{ "help", no_argument, NULL, 'h' },
	{ 0 },
};

static int usage(FILE *to, int status)
{
	return fputs(help, to) < 0 ? EXIT_FAILURE : status;
}

int main(int argc, char **argv)
{
	struct bench b = {
		.connections = 1, .message = 0, .rx_bytes = FE_RX_BYTES, .seconds = 0.5
	};
	const char *name = "unix";
	for (int o; (o = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		switch (o) {
		case OPT_PATH:
			b.path = optarg;
			break;
		case OPT_FLOOR:
			b.floor = true;
			name = "floor";
			break;
		case OPT_SOCKET:
			b.socket = optarg;
			break;
		case OPT_PID:
			b.device = atoi(optarg);
			break;
		case OPT_NAME:
			name = optarg;
			break;
		case OPT_CONNECTIONS:
			b.connections = (unsigned)atoi(optarg);
			break;
		case OPT_MESSAGE:
			b.message = (size_t)atol(optarg);
			break;
		case OPT_RX:
			b.rx_bytes = (uint16_t)atoi(optarg);
			break;
		case OPT_SECONDS:
			b.seconds = atof(optarg);
			break;
		case OPT_MOVE:
			b.move = optarg;
			break;
		case OPT_HOPS:
			b.hops = HF_MIN((unsigned)atoi(optarg), (unsigned)HOPS_MAX);
			break;
		case 'h':
			return usage(stdout, EXIT_SUCCESS);
		default:
			return usage(stderr, 2);
		}
	}
	if (optind + 1 != argc || !b.path || b.connections == 0 || b.connections > GUEST_CONNS)
		return usage(stderr, 2);
	(void)snprintf(b.host_path, sizeof(b.host_path), "%s_%u", b.path, HOST_PORT);
	(void)snprintf(b.connect_line, sizeof(b.connect_line), "CONNECT %u\n", GUEST_LISTENS);
	(void)unlink(b.host_path);      /* of an earlier run, if any */
	(void)signal(SIGPIPE, SIG_IGN); /* fails only for a bad number */
	for (size_t i = 0; i < HF_ARRAY_SIZE(figures); i++) {
		if (strcmp(argv[optind], figures[i].name) != 0)
			continue;
		if (b.floor && !figures[i].floor)
			break;
		if (b.message == 0)
			b.message = figures[i].run == ping ? 64 : FE_PAYLOAD_MAX;
		printf("{\"figure\":\"%s\",\"of\":\"%s\",", figures[i].name, name);
		(void)fflush(stdout); /* the children inherit an empty buffer */
		hops_start(&b);
		(b.floor ? figures[i].floor : figures[i].run)(&b);
		return EXIT_SUCCESS;
	}
	return usage(stderr, 2);
}
