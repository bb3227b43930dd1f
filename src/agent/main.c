/* SPDX-License-Identifier: MIT */
#include "agent.h"
#include "base/fd.h"
#include "boot/boot.h"
#include "boot/ports.h"
#include "net/lease.h"
#include "stdio/tee.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static struct agt agent; /* large: its tables are part of it */

/* The log's descriptor: one of our own, so that making it non-blocking touches nobody else's. A
 * slow or absent reader loses log lines and never stops the agent. */
static int open_log(const char *file)
{
	const char *path = file ? file : "/proc/self/fd/2";
	int fd =
		open(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd >= 0)
		return fd;
	if (file)
		return -errno;
	(void)fd_set_nonblock(STDERR_FILENO, true); /* a socket: cannot be opened again */
	return STDERR_FILENO;
}

static int run(struct agt_keeper *keeper, void *flags)
{
	return agt_run(&agent, flags, keeper);
}

int main(int argc, char *argv[])
{
	struct agt_flags flags;
	struct hf_err err = { 0 };
	struct agt_keeper keeper;
	bool init = getpid() == 1;
	if (agt_lease_is_script())
		return agt_lease_script(argc, argv);
	if (agt_tee_is_process(argc, argv))
		return agt_tee_process(argv);
	int r = agt_flags_parse(&flags, argc, argv, &err);
	if (r < 0 && !init) {
		(void)fprintf(stderr, "holdfast-agent: %s\n", err.text);
		return 2;
	}
	if (flags.help || flags.version) {
		(void)fputs(
			flags.help ? agt_flags_help : "holdfast-agent " HF_VERSION "\n", stdout);
		return 0;
	}
	if (init && !agt_keep_upgraded())
		agt_boot(&flags);
	int log = flags.log_port && !flags.logfile ? agt_log_pipe() : open_log(flags.logfile);
	if (log < 0) {
		(void)fprintf(
			stderr, "holdfast-agent: -logfile=%s: %s\n", flags.logfile, strerror(-log));
		log = STDERR_FILENO;
	}
	hf_log_setup("holdfast-agent", log, flags.loglevel, flags.log_format);
	if (r < 0) /* the kernel passes PID 1 words of its own command line */
		hf_warn("%s", err.text);
	const int fds[] = { log, agt_log_pipe_end() };
	int status = flags.use_inouterr
			     ? -ENOTSUP
			     : agt_keep(&keeper, fds, HF_ARRAY_SIZE(fds), run, &flags, argv);
	if (status < 0) { /* what the host sees of a stream cannot be taken back: see -transport */
		if (!flags.use_inouterr)
			hf_warn("no keeper: %s: the agent's end is the end of what it knows",
				strerror(-status));
		keeper = (struct agt_keeper){ .pid = getpid() };
		status = run(&keeper, &flags);
	}
	if (init)
		agt_power_off();
	return status;
}
