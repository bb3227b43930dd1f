/* SPDX-License-Identifier: MIT */
/* main.c - holdfastd: start, signals, end. */
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "map.h"
#include "sandbox.h"
#include "takeover.h"
#include "vm.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_USAGE = 2 };

static void on_retire(uv_signal_t *s, int number)
{
	struct dev_daemon *d = s->data;
	(void)number; /* there is one */
	d->retiring = true;
}

static uint64_t on_turn(void *owner)
{
	struct dev_daemon *d = owner;
	uint64_t next_us = dev_daemon_turn(d);
	dev_takeover_turn(d);
	if (d->given)
		dev_loop_stop(&d->loop);
	return next_us;
}

static void on_signal(uv_signal_t *s, int number)
{
	hf_info("ending on signal %d", number);
	dev_loop_stop(s->data);
}

/* One descriptor per connection: take as many as the system lets us. */
static void raise_fd_limit(void)
{
	struct rlimit rl;
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return;
	rl.rlim_cur = rl.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
		hf_warn("cannot raise the limit of descriptors to %llu: %s",
			(unsigned long long)rl.rlim_max, strerror(errno));
}

static int start(struct dev_daemon *d, struct hf_err *reterr)
{
	int r = dev_link_open(&d->link, d, reterr);
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->opt.n_vms; i++) {
		r = dev_vm_new(d, &d->opt.vm[i], (uint8_t)i, &d->vm[i], reterr);
		if (r < 0)
			return r;
		d->n_vms++;
	}
	r = dev_control_open(&d->control, d, d->opt.control);
	if (r < 0)
		return hf_err_set(
			reterr, r, "control %s: cannot listen: %s", d->opt.control, strerror(-r));
	r = dev_metrics_open(&d->metrics, d, d->opt.metrics);
	if (r == -EINVAL)
		return hf_err_set(reterr, r,
			"metrics %s: want a path, or PORT, 127.0.0.1:PORT, [::1]:PORT: metrics do "
			"not leave the machine",
			d->opt.metrics);
	if (r < 0)
		return hf_err_set(
			reterr, r, "metrics %s: cannot listen: %s", d->opt.metrics, strerror(-r));
	return 0;
}

static int enter_sandbox(const struct dev_options *o, struct hf_err *reterr)
{
	HF_CLEANUP(dev_sandbox_done) struct dev_sandbox s = { .tcp = o->link_tls[0] != '\0' };
	int r = dev_sandbox_add_socket(&s, o->control);
	if (r == 0 && strchr(o->metrics, '/'))
		r = dev_sandbox_add_socket(&s, o->metrics);
	if (r == 0 && strncmp(o->link, "unix:", 5) == 0)
		r = dev_sandbox_add_socket(&s, o->link + 5);
	for (size_t i = 0; i < o->n_vms && r == 0; i++) {
		r = dev_sandbox_add_socket(&s, o->vm[i].socket);
		if (r == 0)
			r = dev_sandbox_add_socket(&s, o->vm[i].uds_path);
	}
	for (size_t i = 0; i < o->n_sandbox_dirs && r == 0; i++)
		r = dev_sandbox_add_dir(&s, o->sandbox_dir[i]);
	if (r < 0)
		return hf_err_set(reterr, r, "sandbox: %s", strerror(-r));
	return dev_sandbox_enter(&s, reterr);
}

/* The process goes on as a child; this one ends when that says so, or is gone. */
static int detach(int *ret_done)
{
	int ends[2];
	char byte;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		(void)close(ends[0]); /* Linux frees the descriptor whatever close(2) says */
		(void)setsid();       /* fails only for one that leads a group */
		*ret_done = ends[1];
		return 0;
	}
	(void)close(ends[1]); /* likewise */
	if (pid < 0)
		return -errno;
	_exit(read(ends[0], &byte, 1) == 1 ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Everything is there and nothing moves yet. */
static int set_up(struct dev_daemon *d, struct hf_err *reterr)
{
	const struct dev_options *o = &d->opt;
	int r = o->user[0] != '\0' ? dev_sandbox_user(o->user, reterr) : 0;
	if (r == 0 && o->takeover)
		r = dev_takeover_receive(d, o->takeover, reterr);
	else if (r == 0)
		r = start(d, reterr);
	if (r == 0 && !o->no_sandbox)
		r = enter_sandbox(o, reterr);
	if (r == 0 && o->takeover)
		r = dev_takeover_commit(d, reterr);
	return r;
}

static int run(struct dev_daemon *d)
{
	uv_signal_t term, intr, leave;
	struct hf_err err = { 0 };
	HF_CLEANUP(fd_closep) int done = -1;
	dev_activation_init();
	raise_fd_limit();
	(void)umask(0);                 /* a socket's mode is what its option says; cannot fail */
	(void)signal(SIGPIPE, SIG_IGN); /* fails only for a bad number */
	/* A ring of io_uring would go around the filter of system calls. Fails only without memory.
	 */
	(void)setenv("UV_USE_IO_URING", "0", 1);
	int r = d->opt.detach ? detach(&done) : 0;
	if (r == 0)
		r = dev_map_setup();
	if (r == 0)
		r = dev_daemon_init(d);
	if (r < 0) {
		hf_error("cannot start: %s", strerror(-r));
		return EXIT_FAILURE;
	}
	d->loop.poll_max_us = d->opt.poll_us;
	d->loop.on_turn = on_turn;
	(void)uv_signal_init(&d->loop.uv, &term); /* this and the next fail only without memory */
	(void)uv_signal_init(&d->loop.uv, &intr);
	term.data = intr.data = &d->loop;
	(void)uv_signal_start(&term, on_signal, SIGTERM); /* fails only for a bad number */
	(void)uv_signal_start(&intr, on_signal, SIGINT);
	(void)uv_signal_init(&d->loop.uv, &leave); /* likewise, all */
	leave.data = d;
	(void)uv_signal_start(&leave, on_retire, SIGUSR1);
	r = set_up(d, &err);
	if (r < 0)
		hf_error("%s", err.text);
	if (r < 0 && d->opt.takeover)
		return EXIT_FAILURE; /* all that we hold is the other one's */
	if (r == 0) {
		dev_notify("READY=1");
		if (done >= 0)
			(void)write(done, "", 1); /* who waited may be gone */
		dev_loop_run(&d->loop);
		if (d->given)
			return EXIT_SUCCESS; /* likewise */
		dev_notify("STOPPING=1");
	}
	dev_daemon_done(d);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static struct dev_daemon d;
	struct hf_err err = { 0 };
	hf_log_setup("holdfastd", 2, HF_LOG_INFO, HF_LOG_TEXT);
	if (dev_options_parse(&d.opt, argc, argv, &err) < 0) {
		hf_error("%s", err.text);
		return EXIT_USAGE;
	}
	hf_log_setup("holdfastd", 2, d.opt.log_level, d.opt.log_format);
	switch (d.opt.action) {
	case DEV_HELP:
		return fputs(dev_options_help, stdout) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	case DEV_VERSION:
		return puts("holdfastd " HF_VERSION) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	case DEV_CAPABILITIES:
		return fputs(dev_options_capabilities, stdout) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
	case DEV_RUN:
		break;
	}
	return run(&d);
}
