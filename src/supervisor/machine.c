/* SPDX-License-Identifier: MIT */
/*
 * machine.c - holdfastd and QEMU.
 *
 * Both are processes of their own (own sessions, output in the VM's folder) that a supervisor's
 * death does not touch. They are known by their sockets alone: a supervisor that comes later asks
 * the sockets who is there, and the kernel tells the pid behind a socket, so that no pid from a
 * file is ever trusted.
 *
 * A start goes step by step on a 10 ms timer, because the programs tell by no other event that
 * their sockets are there: holdfastd answers on its control socket, then QEMU on its monitor.
 */
#include "supervisor_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define START_POLL_MS    10
#define START_TIMEOUT_MS 20000

enum step { STEP_DEVICE, STEP_QEMU, STEP_MONITOR };

struct machine {
	uv_timer_t timer; /* first: free() closes it */
	struct sup *sup;
	enum step step;
	bool incoming, spawned;
	uint64_t deadline_ms;
	machine_done_fn *done;
};

/* ---- What the two programs say ---- */

/* The module tells; one that does not know the question, in an old QEMU, has no other way. */
static void on_state_way(void *ctx, const struct hf_err *err, json_t *result)
{
	struct sup *sup = ctx;
	const char *way = err ? NULL : json_string_value(result);
	sup->in_stream = way && !strcmp(way, "stream");
}

static void on_monitor_ready(void *ctx, json_t *version)
{
	struct sup *sup = ctx;
	json_t *qemu = json_object_get(version, "qemu");
	sup->qemu_pid = monitor_peer_pid(sup->mon);
	hf_info("qemu: %lld.%lld.%lld, pid %d",
		(long long)json_integer_value(json_object_get(qemu, "major")),
		(long long)json_integer_value(json_object_get(qemu, "minor")),
		(long long)json_integer_value(json_object_get(qemu, "micro")), (int)sup->qemu_pid);
	monitor_call(sup->mon, "qom-get",
		json_pack("{s:s, s:s}", "path", "/machine/peripheral/vsock0/virtio-backend",
			"property", "holdfast-state"),
		on_state_way, sup);
}

static void on_qemu_event(void *ctx, const char *name, json_t *data)
{
	struct sup *sup = ctx;
	hf_debug("qemu: event %s", name);
	if (!strcmp(name, "RESET"))
		hf_info("qemu: the guest was reset");
	if (sup->incoming)
		incoming_on_qemu(sup, name, data);
	else if (sup->outgoing)
		outgoing_on_qemu(sup, name, data);
}

static void on_monitor_lost(void *ctx)
{
	struct sup *sup = ctx;
	monitor_close(sup->mon);
	sup->mon = NULL;
	if (sup->state == SUP_ENDING || sup->machine)
		return; /* expected, or told by the start's own deadline */
	if (sup->outgoing) {
		outgoing_qemu_lost(sup);
		return;
	}
	machine_kill(sup);
	session_lose_all(sup, "the VM has ended");
	sup_end(sup, 0, "QEMU has ended");
}

static void on_device_lost(void *ctx, int why)
{
	struct sup *sup = ctx;
	rpc_close(sup->device);
	sup->device = NULL;
	if (sup->state == SUP_ENDING || sup->machine)
		return;
	/* QEMU cannot go on without its device, and does not reconnect. */
	hf_error("holdfastd: has ended%s%s; see device.log", why ? ": " : "",
		why ? strerror(-why) : "");
	machine_kill(sup);
	session_lose_all(sup, "the VM's vsock device has ended");
	sup_end(sup, 1, "holdfastd has ended");
}

static const struct monitor_ops monitor_ops = {
	.on_ready = on_monitor_ready, .on_event = on_qemu_event, .on_lost = on_monitor_lost
};
static const struct rpc_ops device_ops = { .on_lost = on_device_lost };

static int open_device(struct sup *sup)
{
	char path[HF_NODE_PATH_MAX];
	int r = rpc_open(&sup->loop, sup_path(sup, "device-control.sock", path), "holdfastd",
		&device_ops, sup, &sup->device);
	if (r == 0)
		sup->device_pid = rpc_peer_pid(sup->device);
	return r;
}

static int open_monitor(struct sup *sup)
{
	char path[HF_NODE_PATH_MAX];
	int r = monitor_open(
		&sup->loop, sup_path(sup, "qmp.sock", path), &monitor_ops, sup, &sup->mon);
	if (r == 0)
		sup->qemu_pid = monitor_peer_pid(sup->mon);
	return r;
}

/* ---- Killing ---- */

static void kill_one(pid_t *pid, int signo)
{
	if (*pid > 0)
		(void)kill(*pid, signo); /* ESRCH: it has ended already, which is what we want */
	*pid = 0;
}

void machine_kill(struct sup *sup)
{
	if (sup->machine) {
		(void)uv_timer_stop(&sup->machine->timer);
		uv_close((uv_handle_t *)&sup->machine->timer, (uv_close_cb)free);
		sup->machine = NULL;
	}
	monitor_close(sup->mon);
	rpc_close(sup->device);
	sup->mon = NULL;
	sup->device = NULL;
	kill_one(&sup->qemu_pid, SIGKILL);
	kill_one(&sup->device_pid, SIGTERM); /* it removes its sockets */
}

void machine_retire(struct sup *sup)
{
	pid_t device = sup->device_pid;
	sup->device_pid = 0;
	machine_kill(sup);
	kill_one(&device, SIGUSR1); /* it ends with its last relay */
}

int machine_adopt(struct sup *sup)
{
	int device = open_device(sup), qemu = open_monitor(sup);
	if (device == 0 && qemu == 0)
		return 1;
	if (device == 0 || qemu == 0)
		hf_warn("of holdfastd and QEMU only %s lives: it is ended, too",
			device == 0 ? "holdfastd" : "QEMU");
	machine_kill(sup);
	return 0;
}

/* ---- Starting ---- */

static void finish(struct machine *m, const struct hf_err *err)
{
	struct sup *sup = m->sup;
	machine_done_fn *done = m->done;
	sup->machine = NULL;
	uv_close((uv_handle_t *)&m->timer, (uv_close_cb)free);
	if (err)
		machine_kill(sup);
	done(sup, err);
}

/* The child's part: its own session, input from nowhere, output to the log. */
static _Noreturn void become(
	char *const *argv, const char *log, const char *module, const char *mode, const char *state)
{
	int null = open("/dev/null", O_RDONLY);
	int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
	sigset_t none;
	(void)sigemptyset(
		&none); /* what the loop blocked or ignored is not the program's business */
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)signal(SIGPIPE, SIG_DFL);
	(void)setsid(); /* a fresh child leads no group */
	if (null < 0 || out < 0 || dup2(null, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(126);
	if (module &&
		(setenv("LD_PRELOAD", module, 1) < 0 || setenv("HOLDFAST_QEMU_MODE", mode, 1) < 0 ||
			setenv("HOLDFAST_QEMU_STATE", state, 1) < 0))
		_exit(126);
	execvp(argv[0], argv);
	dprintf(2, "%s: cannot be started: %s\n", argv[0], strerror(errno));
	_exit(127);
}

/* A grandchild, so that init reaps it whether we live or not. */
static int spawn(struct sup *sup, struct spec_args *a, const char *log_name, const char *module)
{
	char log[HF_NODE_PATH_MAX];
	int status = 0;
	(void)sup_path(sup, log_name, log);
	if (a->failed)
		return -ENOMEM;
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		pid = fork();
		if (pid == 0)
			become(a->v, log, module, mig_mode_name(sup->mode), sup->spec.state);
		_exit(pid < 0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

static int spawn_step(struct machine *m)
{
	struct sup *sup = m->sup;
	struct spec_args a = { 0 };
	char dir[HF_NODE_PATH_MAX];
	const struct spec_launch l = { .dir = sup_path(sup, "", dir),
		.incoming = m->incoming,
		.mode = mig_mode_name(sup->mode) };
	struct spec spec = sup->spec;
	if (m->step == STEP_DEVICE) {
		spec_device_args(&spec, &l, &a);
	} else {
		spec.accel = sup->kvm ? SPEC_KVM : SPEC_TCG;
		spec_qemu_args(&spec, &l, &a);
	}
	int r = spawn(sup, &a, m->step == STEP_DEVICE ? "device.log" : "qemu.log",
		m->step == STEP_QEMU && sup->kvm ? spec.module : NULL);
	spec_args_done(&a);
	return r;
}

/* One try of the step: 0 it is done, -EAGAIN not yet. */
static int try_step(struct machine *m)
{
	int r = 0;
	if (m->step != STEP_MONITOR && !m->spawned) {
		r = spawn_step(m);
		m->spawned = true;
		if (r < 0)
			return r;
	}
	if (m->step == STEP_DEVICE)
		r = open_device(m->sup);
	if (m->step == STEP_MONITOR)
		r = open_monitor(m->sup);
	return r == -ENOENT || r == -ECONNREFUSED ? -EAGAIN : r;
}

static void on_start_timer(uv_timer_t *h)
{
	struct machine *m = h->data;
	static const char *const names[] = { "holdfastd", "qemu", "qemu" };
	static const char *const logs[] = { "device.log", "qemu.log", "qemu.log" };
	int r = try_step(m);
	struct hf_err err;
	if (r == -EAGAIN && uv_now(&m->sup->loop) < m->deadline_ms)
		return;
	if (r < 0) {
		char path[HF_NODE_PATH_MAX];
		hf_err_set(&err, r, "%s: has not started: %s; see %s", names[m->step],
			r == -EAGAIN ? "its socket does not answer" : strerror(-r),
			sup_path(m->sup, logs[m->step], path));
		finish(m, &err);
		return;
	}
	m->spawned = false;
	if (m->step == STEP_MONITOR)
		finish(m, NULL);
	else
		m->step++;
}

static int decide_accel(struct sup *sup, struct hf_err *reterr)
{
	struct hf_err why;
	sup->kvm = sup->spec.accel != SPEC_TCG && spec_kvm_probe(&why) == 0;
	if (sup->spec.accel == SPEC_KVM && !sup->kvm) {
		*reterr = why;
		return why.code;
	}
	if (sup->spec.accel == SPEC_AUTO && !sup->kvm)
		hf_info("%s: using TCG", why.text);
	return 0;
}

void machine_start(struct sup *sup, bool incoming, machine_done_fn *done)
{
	struct hf_err err;
	struct machine *m = NULL;
	int r = spec_check_parts(&sup->spec, &err);
	if (r == 0)
		r = decide_accel(sup, &err);
	if (r == 0 && !(m = calloc(1, sizeof(*m))))
		(void)hf_err_set(&err, -ENOMEM, "no memory to start a machine"); /* m is NULL */
	if (!m) {
		done(sup, &err);
		return;
	}
	m->sup = sup;
	m->incoming = incoming;
	m->done = done;
	m->timer.data = m;
	(void)uv_timer_init(&sup->loop, &m->timer); /* cannot fail, nor can the start */
	uv_update_time(&sup->loop);
	m->deadline_ms = uv_now(&sup->loop) + START_TIMEOUT_MS;
	(void)uv_timer_start(&m->timer, on_start_timer, 0, START_POLL_MS);
	sup->machine = m;
}

json_t *machine_status(struct sup *sup)
{
	return json_pack("{s:i, s:i, s:s, s:i, s:i}", "qemu_pid", (int)sup->qemu_pid, "device_pid",
		(int)sup->device_pid, "accel", sup->kvm ? "kvm" : "tcg", "memory",
		sup->spec.memory_mib, "cpus", sup->spec.cpus);
}
