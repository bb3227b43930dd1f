/* SPDX-License-Identifier: MIT */
/* logs.c - `holdfast logs`: what a process has written, from its first byte on. */
#include "cli.h"

static int take(void *ctx, int opt, const char *value)
{
	(void)value;
	*(bool *)ctx = opt == 'f';
	return 0;
}

static int run(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "follow", no_argument, NULL, 'f' }, { 0 } };
	bool follow = false;
	int r = cli_options(&cli_logs, cli, argc, argv, options, take, &follow, 2, 2);
	if (r != 0)
		return cli_options_exit(r);
	const struct cli_io io = {
		.vm = argv[optind], .process = argv[optind + 1], .err = true, .follow = follow
	};
	return cli_io(cli, &io);
}

const struct cli_verb cli_logs = { "logs", "print what a process has written", "[-f] VM PROCESS",
	"Prints what a process has written. PROCESS is a container's name (its init) or a name of "
	"ps.\n\n"
	"  -f           go on until the process closes its output, wherever the VM moves\n",
	run };
