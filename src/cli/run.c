/* SPDX-License-Identifier: MIT */
/* run.c - `holdfast run`: a container and its init. */
#include "cli.h"
#include "start.h"
#include <stdio.h>
#include <string.h>

static int run(struct cli *cli, int argc, char **argv)
{
	return cli_start(&cli_run, "run", cli, argc, argv);
}

const struct cli_verb cli_run = { "run", "create a container and run a command as its init",
	"VM CONTAINER [OPTION...] [--] COMMAND [ARGUMENT...]",
	"Creates a container in the VM, from the image's root file system with an overlay above, "
	"and\n"
	"runs the command as its init. Ends with its exit code, or at once with "
	"-d.\n\n" CLI_START_HELP,
	run };
