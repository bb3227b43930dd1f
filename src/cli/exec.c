/* SPDX-License-Identifier: MIT */
/* exec.c - `holdfast exec`: another process in a container. */
#include "cli.h"
#include "start.h"

static int run(struct cli *cli, int argc, char **argv)
{
	return cli_start(&cli_exec, "exec", cli, argc, argv);
}

const struct cli_verb cli_exec = { "exec", "run a command in a container",
	"VM CONTAINER [OPTION...] [--] COMMAND [ARGUMENT...]",
	"Runs the command in a running container. Ends with its exit code, or at once with "
	"-d.\n\n" CLI_START_HELP,
	run };
