/* SPDX-License-Identifier: MIT */
/* version.c - `holdfast version`. */
#include "cli.h"
#include <stdio.h>

static int run(struct cli *cli, int argc, char **argv)
{
	int r = cli_options(&cli_version, cli, argc, argv, NULL, NULL, NULL, 0, 0);
	if (r != 0)
		return cli_options_exit(r);
	if (cli->json)
		cli_print_json(json_pack("{s:s}", "version", HF_VERSION));
	else
		printf("holdfast %s\n", HF_VERSION);
	return CLI_OK;
}

const struct cli_verb cli_version = { "version", "print the version", "", "Prints the version.\n\n",
	run };
