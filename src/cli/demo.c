/* SPDX-License-Identifier: MIT */
#include "cli.h"

static int run(struct cli *cli, int argc, char **argv)
{
	int r = cli_options(&cli_demo, cli, argc, argv, NULL, NULL, NULL, 0, 0);
	return cli_options_exit(r);
}

const struct cli_verb cli_demo = { "demo", "", "", run };
