/* SPDX-License-Identifier: MIT */
/*
 * device.c - measures holdfastd; prints one JSON line.
 *
 * usage: bench_device PATH-OF-HOLDFASTD
 *
 * size_bytes     the binary as it is (strip it for the figure of a package)
 * rss_kib        resident, idle, one VM, no connection
 * rtt_us         64 bytes from the guest to a host application and back, mean of 50000
 * up_mib_s       guest to host, 64 KiB packets, 2 GiB
 * down_mib_s     host to guest, rx buffers of 4 KiB, 2 GiB
 *
 * The guest is test/lib/frontend.c in a thread of this program: no VM, no exits, so what is
 * measured is the daemon and the rings. Payload is not looked at on the guest's side.
 */
#include "../test/lib/frontend.h"
#include "base/fd.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define ROUNDS      50000
#define BULK_BYTES  (2ull << 30)
#define GUEST_ALLOC (1u << 30) /* the guest takes everything at once */
#define PORT        7

static struct fe guest;
static uint32_t guest_got; /* payload bytes received, for fwd_cnt */
static uint32_t peer_fwd, peer_alloc;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static double now_s(void)
{
	struct timespec ts;
	(void)clock_gettime(CLOCK_MONOTONIC, &ts); /* cannot fail with this clock */
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static struct vsk_pkt packet(uint16_t op, uint32_t len)
{
	return (struct vsk_pkt){ .src_cid = guest.cid,
		.dst_cid = VSK_CID_HOST,
		.src_port = 1024,
		.dst_port = PORT,
		.len = len,
		.type = VSK_TYPE_STREAM,
		.op = op,
		.buf_alloc = GUEST_ALLOC,
		.fwd_cnt = guest_got };
}

static void took(const struct vsk_pkt *p)
{
	check(p->op != VSK_OP_RST, "reset by holdfastd");
	peer_fwd = p->fwd_cnt;
	peer_alloc = p->buf_alloc;
	if (p->op == VSK_OP_RW)
		guest_got += p->len;
}

static int connect_guest(int listener)
{
	struct vsk_pkt p = packet(VSK_OP_REQUEST, 0);
	check(fe_send(&guest, &p, NULL, 0) >= 0, "request");
	check(fe_recv(&guest, &p, NULL, 0, FE_TIMEOUT_MS) >= 0 && p.op == VSK_OP_RESPONSE,
		"response");
	took(&p);
	int fd = accept(listener, NULL, NULL);
	check(fd >= 0, "accept");
	return fd;
}

static double round_trips(int host)
{
	char buf[64] = { 0 };
	double began = now_s();
	for (int i = 0; i < ROUNDS; i++) {
		struct vsk_pkt p = packet(VSK_OP_RW, sizeof(buf));
		check(fe_send(&guest, &p, buf, 0) >= 0, "send");
		check(fd_read_all(host, buf, sizeof(buf)) == 0, "host read");
		check(fd_write_all(host, buf, sizeof(buf)) == 0, "host write");
		do {
			check(fe_recv(&guest, &p, buf, sizeof(buf), FE_TIMEOUT_MS) >= 0, "recv");
			took(&p);
		} while (p.op != VSK_OP_RW);
	}
	return (now_s() - began) / ROUNDS * 1e6;
}

static void look(void)
{
	struct vsk_pkt p;
	while (fe_look(&guest, &p) > 0)
		took(&p);
	(void)fe_reap(&guest); /* whatever came back is room */
}

static void *drain_host(void *arg)
{
	static char buf[1 << 18];
	uint64_t left = BULK_BYTES;
	while (left > 0) {
		ssize_t n = read(*(int *)arg, buf, sizeof(buf));
		check(n > 0, "host read");
		left -= (uint64_t)n;
	}
	return NULL;
}

static void *fill_host(void *arg)
{
	static char buf[1 << 18];
	for (uint64_t sent = 0; sent < BULK_BYTES; sent += sizeof(buf))
		check(fd_write_all(*(int *)arg, buf, sizeof(buf)) == 0, "host write");
	return NULL;
}

static double up(int host)
{
	pthread_t thread;
	check(pthread_create(&thread, NULL, drain_host, &host) == 0, "thread");
	double began = now_s();
	uint32_t sent = peer_fwd; /* all that was sent before has been taken */
	for (uint64_t left = BULK_BYTES; left > 0;) {
		struct vsk_pkt p = packet(VSK_OP_RW, FE_PAYLOAD_MAX);
		bool room = peer_alloc - (sent - peer_fwd) >= FE_PAYLOAD_MAX;
		if (room && fe_queue(&guest, &p, NULL, 0) >= 0) {
			sent += FE_PAYLOAD_MAX;
			left -= FE_PAYLOAD_MAX;
			continue;
		}
		fe_flush(&guest);
		look();
		if (peer_alloc - (sent - peer_fwd) < FE_PAYLOAD_MAX)
			(void)fe_wait(&guest, 100); /* a notification that is missed costs 100 ms */
	}
	fe_flush(&guest);
	check(pthread_join(thread, NULL) == 0, "thread");
	return (double)(BULK_BYTES >> 20) / (now_s() - began);
}

static double down(int host)
{
	pthread_t thread;
	check(pthread_create(&thread, NULL, fill_host, &host) == 0, "thread");
	double began = now_s();
	uint64_t got = 0;
	uint32_t told = guest_got, last = guest_got;
	while (got < BULK_BYTES) {
		look();
		got += guest_got - last;
		last = guest_got;
		if (guest_got - told > GUEST_ALLOC / 4) {
			struct vsk_pkt p = packet(VSK_OP_CREDIT_UPDATE, 0);
			check(fe_send(&guest, &p, NULL, 0) >= 0, "credit");
			told = guest_got;
		}
		if (got < BULK_BYTES)
			(void)fe_wait(&guest, 100); /* as above */
	}
	check(pthread_join(thread, NULL) == 0, "thread");
	return (double)(BULK_BYTES >> 20) / (now_s() - began);
}

static long rss_kib(pid_t pid)
{
	char path[64], line[128];
	long kib = -1;
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *f = fopen(path, "re");
	check(f != NULL, path);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %ld", &kib) == 1)
			break;
	(void)fclose(f); /* it was only read */
	return kib;
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/holdfast-bench-XXXXXX", vm[160], path[64];
	struct stat st;
	int listener;
	check(argc == 2 && stat(argv[1], &st) == 0, "usage: bench_device PATH-OF-HOLDFASTD");
	check(mkdtemp(dir) != NULL, "mkdtemp");
	(void)snprintf(vm, sizeof(vm), "guest-cid=4,socket=%s/d,uds-path=%s/v", dir, dir);
	(void)snprintf(path, sizeof(path), "%s/v_%d", dir, PORT);
	check(unix_listen(path, 0600, 1, &listener) == 0, path);
	check(fd_set_nonblock(listener, false) == 0, path);
	pid_t pid = fork();
	check(pid >= 0, "fork");
	if (pid == 0) {
		(void)execl(argv[1], argv[1], "--log-level=error", "--vm", vm, NULL);
		_exit(127);
	}
	(void)snprintf(path, sizeof(path), "%s/d", dir);
	for (int i = 0; i < 1000 && fe_open(&guest, path, &(struct fe_cfg){ 0 }) < 0; i++)
		(void)usleep(1000); /* until it listens */
	check(fe_start(&guest) >= 0, "start");
	long rss = rss_kib(pid);
	int host = connect_guest(listener);
	double rtt_us = round_trips(host), up_mib_s = up(host), down_mib_s = down(host);
	printf("{\"size_bytes\": %lld, \"rss_kib\": %ld, \"rtt_us\": %.1f, \"up_mib_s\": %.0f, "
	       "\"down_mib_s\": %.0f}\n",
		(long long)st.st_size, rss, rtt_us, up_mib_s, down_mib_s);
	fe_close(&guest);
	check(kill(pid, SIGTERM) == 0 && waitpid(pid, NULL, 0) == pid, "end");
	(void)snprintf(path, sizeof(path), "%s/v_%d", dir, PORT);
	(void)unlink(path); /* the folder may stay behind; it is in /tmp */
	(void)rmdir(dir);
	return 0;
}
