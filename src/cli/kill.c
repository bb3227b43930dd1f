/* SPDX-License-Identifier: MIT */
/* kill.c - `holdfast kill`: a signal to a process. */
#include "cli.h"
#include <signal.h>
#include <string.h>

/* TERM, SIGTERM or 15. */
static int parse_signal(const char *text, long *ret)
{
	const char *name = strncmp(text, "SIG", 3) ? text : text + 3;
	for (int i = 1; i < NSIG; i++) {
		const char *known = sigabbrev_np(i);
		if (known && !strcmp(known, name)) {
			*ret = i;
			return 0;
		}
	}
	return cli_number(text, 1, SIGRTMAX, ret);
}

static int take(void *ctx, int opt, const char *value)
{
	(void)opt;
	return parse_signal(value, ctx);
}

static int run(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "signal", required_argument, NULL, 's' },
		{ 0 } };
	long signo = SIGTERM;
	int r = cli_options(&cli_kill, cli, argc, argv, options, take, &signo, 2, 2);
	if (r != 0)
		return cli_options_exit(r);
	return cli_tell(cli, argv[optind],
		json_pack("{s:s, s:s, s:I}", "cmd", "kill", "process", argv[optind + 1], "signal",
			(json_int_t)signo));
}

const struct cli_verb cli_kill = { "kill", "send a signal to a process", "[-s SIGNAL] VM PROCESS",
	"Sends a signal to a process: once, whatever happens meanwhile.\n\n"
	"  -s SIGNAL    a name or a number; TERM by default\n",
	run };
