/* SPDX-License-Identifier: MIT */
/*
 * The record of a takeover, read by a daemon that starts beside the one that wrote it. The
 * descriptors are real ones: those of a holdfastd that was made here, with a front end, memory,
 * rings, a connection, a host client and a client of the control socket that have not finished what
 * they say, and relays of each kind. An empty input is that one's own record, which must be
 * accepted.
 */
#include "device/handover.h"
#include "../lib/daemon.h"
#include "../lib/frontend.h"
#include "base/fd.h"
#include "base/log.h"
#include "device/admin.h"
#include "device/map.h"
#include "device/relay.h"
#include "device/vm.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUEST_CID  4
#define GUEST_PORT 80
#define FDS_MAX    64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct dev_daemon old, new;
static struct dev_pack record;
static char folder[] = "/tmp/hf-fuzz-XXXXXX";

/* ---- the one that runs ---- */

static const char *path(const char *name)
{
	static char text[64];
	(void)snprintf(text, sizeof(text), "%s/%s", folder, name); /* fits */
	return text;
}

static void add_vm(void)
{
	struct dev_vm_options o = dev_options_vm_default();
	struct hf_err err;
	hf_assert(dev_options_vm_set(&o, "name", "vm", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "guest-cid", "4", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "groups", "a+b", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "port", "2000-2999:reset", &err) == 0);
	hf_assert(dev_options_vm_set(&o, "socket", path("device"), &err) == 0);
	hf_assert(dev_options_vm_set(&o, "uds-path", path("vsock"), &err) == 0);
	hf_assert(dev_options_vm_check(&o, &err) == 0);
	hf_assert(dev_admin_add_vm(&old, &o, &err) == 0);
}

/* The guest: starts its device and accepts one connection. */
static void *guest(void *ready)
{
	static struct fe fe;
	static char device[64];
	struct vsk_pkt p;
	(void)snprintf(device, sizeof(device), "%s/device", folder); /* fits */
	hf_assert(fe_open(&fe, device, NULL) == 0 && fe_start(&fe) == 0);
	hf_assert(fe_recv(&fe, &p, NULL, 0, FE_TIMEOUT_MS) == 0 && p.op == VSK_OP_REQUEST);
	struct vsk_pkt answer = { .src_cid = GUEST_CID,
		.dst_cid = p.src_cid,
		.src_port = p.dst_port,
		.dst_port = p.src_port,
		.type = p.type,
		.op = VSK_OP_RESPONSE,
		.buf_alloc = 65536 };
	hf_assert(fe_send(&fe, &answer, NULL, 0) >= 0);
	__atomic_store_n((bool *)ready, true, __ATOMIC_RELEASE);
	return NULL;
}

static int client(const char *name, const char *says)
{
	int fd;
	hf_assert(unix_connect(path(name), &fd) == 0);
	hf_assert(write(fd, says, strlen(says)) == (ssize_t)strlen(says));
	return fd;
}

static struct dev_relay *add_relay(uint8_t token, enum dev_relay_kind kind, const char *address)
{
	struct dev_relay *r;
	uint8_t tokens[RS_TOKEN_SIZE] = { token };
	hf_assert(dev_relay_make(&old.link, tokens, address[0], 65536, address, &r) == 0);
	r->kind = kind;
	return r;
}

/* The guest asks for one of another daemon; a VM has moved on from here; an application is left. */
static void add_relays(void)
{
	struct vsk_conn *core;
	int pair[2];
	char far[80];
	(void)snprintf(far, sizeof(far), "unix:%s", path("far")); /* fits */
	struct dev_vm *vm = old.vm[0];
	struct dev_relay *asked = add_relay(1, DEV_RELAY_CONN, "");
	hf_assert(vsk_connect_from(&vm->vsk, 0, VSK_TYPE_STREAM, 9, 1025, GUEST_PORT, &core) == 0);
	asked->peer_cid = 9;
	asked->host_port = 1025;
	asked->guest_port = GUEST_PORT;
	hf_assert(dev_relay_lead(asked, vm, dev_conn_of(core)) == 0);
	struct dev_relay *here = add_relay(2, DEV_RELAY_JOIN, "");
	here->join = add_relay(3, DEV_RELAY_JOIN, far);
	here->join->join = here;
	struct dev_relay *host = add_relay(4, DEV_RELAY_HOST, "");
	hf_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	host->fd = pair[0]; /* the application has the other one */
	hf_assert(rs_write(&host->chan.rs, "\0\0\0\0", 4) == 4);
}

static bool is_open(void)
{
	size_t at = 0;
	struct dev_conn_info c;
	return dev_vm_next_conn(old.vm[0], &at, &c) && strcmp(c.state, "open") == 0;
}

static void sweep(void)
{
	static const char *const names[] = { "control", "device", "link", "vsock",
		"vsock.seqpacket" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(names); i++)
		(void)unlink(path(names[i])); /* ours; the folder stays if something is left */
	(void)rmdir(folder);
}

static void begin_once(void)
{
	static bool begun, ready;
	struct hf_err err;
	pthread_t thread;
	if (begun)
		return;
	begun = true;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	hf_assert(null >= 0 && mkdtemp(folder) != NULL && atexit(sweep) == 0);
	hf_log_setup("fuzz", null, HF_LOG_ERROR, HF_LOG_TEXT);
	hf_assert(dev_map_setup() == 0);
	daemon_begin(&old);
	(void)snprintf(old.opt.control, sizeof(old.opt.control), "%s/control", folder); /* fits */
	hf_assert(dev_control_open(&old.control, &old, old.opt.control) == 0);
	hf_assert(dev_metrics_open(&old.metrics, &old, "") == 0);
	(void)snprintf(old.opt.link, sizeof(old.opt.link), "unix:%s", path("link")); /* fits */
	hf_assert(dev_link_open(&old.link, &old, &err) == 0);
	add_vm();
	hf_assert(pthread_create(&thread, NULL, guest, &ready) == 0);
	(void)client("vsock", "CONNECT 80\nand more");
	(void)client("vsock", "CONN"); /* waits for the rest, as long as we run */
	(void)client("control", "{\"cmd\":\"watch\",\"vm\":\"vm\"}\n{\"cmd\":");
	while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE) || !is_open())
		daemon_turns(&old, 1);
	(void)pthread_join(thread, NULL); /* it has said that it is done */
	add_relays();
	dev_handover_save(&old, &record);
	hf_assert(record.error == 0 && record.n_fds > 8 && record.n_fds < FDS_MAX);
}

/* ---- the one that starts ---- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fds[FDS_MAX] = { 0 }, numbers[FDS_MAX];
	struct dev_unpack u;
	struct hf_err err = { 0 };
	begin_once();
	for (size_t i = 0; i < record.n_fds; i++) {
		fds[i] = fcntl(record.fds[i], F_DUPFD_CLOEXEC, 0);
		hf_assert(fds[i] >= 0);
	}
	memcpy(numbers, fds, sizeof(numbers));
	daemon_begin(&new);
	if (size == 0)
		dev_unpack_init(&u, record.buf, record.len, fds, record.n_fds);
	else
		dev_unpack_init(&u, data, size, fds, record.n_fds);
	int r = dev_handover_load(&new, &u, &err);
	hf_assert(r <= 0 && (r == 0 || err.text[0] != '\0'));
	hf_assert(size > 0 || (r == 0 && new.n_vms == 1 && new.taken.running[0] &&
				      new.link.n_relays == old.link.n_relays));
	dev_handover_forget(&new);
	dev_loop_done(&new.loop);
	for (size_t i = 0; i < record.n_fds; i++) {
		fd_closep(&fds[i]);
		hf_assert(fcntl(numbers[i], F_GETFD) < 0); /* nobody has kept it */
	}
	return 0;
}
