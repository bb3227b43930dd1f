/* SPDX-License-Identifier: MIT */
/* wait.c - `holdfast wait`: a process's exit code. */
#include "cli.h"
#include <stdio.h>

static int run(struct cli *cli, int argc, char **argv)
{
	int r = cli_options(&cli_wait, cli, argc, argv, NULL, NULL, NULL, 2, 2);
	if (r != 0)
		return cli_options_exit(r);
	json_t *answer = cli_ask(cli, argv[optind],
		json_pack("{s:s, s:s}", "cmd", "wait", "process", argv[optind + 1]));
	if (!answer)
		return CLI_FAILED;
	if (cli->json) {
		cli_print_json(answer);
		return CLI_OK;
	}
	printf("%lld\n", (long long)json_integer_value(json_object_get(answer, "exit_code")));
	json_decref(answer);
	return CLI_OK;
}

const struct cli_verb cli_wait = { "wait", "wait for a process's exit code", "VM PROCESS",
	"Waits until the process has ended and prints its exit code.\n\n", run };
