/* SPDX-License-Identifier: MIT */
/* ps.c - `holdfast ps`: the processes of a VM. */
#include "cli.h"
#include <stdio.h>

static void print(json_t *p)
{
	char pid[16] = "-", code[16] = "-";
	json_t *v = json_object_get(p, "pid");
	if (v)
		(void)snprintf(pid, sizeof(pid), "%lld", (long long)json_integer_value(v));
	v = json_object_get(p, "exit_code");
	if (v)
		(void)snprintf(code, sizeof(code), "%lld", (long long)json_integer_value(v));
	json_int_t kills = json_integer_value(json_object_get(p, "oom_kills"));
	char oom[48] = "";
	if (kills > 0)
		(void)snprintf(oom, sizeof(oom), "out of memory: %lld killed ", (long long)kills);
	const char *error = json_string_value(json_object_get(p, "error"));
	const char *waits = json_string_value(json_object_get(p, "waits"));
	printf("%-24s %-9s %7s %5s %s%s\n", json_string_value(json_object_get(p, "process")),
		json_string_value(json_object_get(p, "state")), pid, code, oom,
		error   ? error
		: waits ? waits
			: "");
}

static int run(struct cli *cli, int argc, char **argv)
{
	size_t i;
	json_t *p;
	int r = cli_options(&cli_ps, cli, argc, argv, NULL, NULL, NULL, 1, 1);
	if (r != 0)
		return cli_options_exit(r);
	json_t *answer = cli_ask(cli, argv[optind], json_pack("{s:s}", "cmd", "ps"));
	if (!answer)
		return CLI_FAILED;
	if (cli->json) {
		cli_print_json(answer);
		return CLI_OK;
	}
	printf("%-24s %-9s %7s %5s\n", "PROCESS", "STATE", "PID", "CODE");
	json_array_foreach (json_object_get(answer, "processes"), i, p) {
		print(p);
	}
	json_decref(answer);
	return CLI_OK;
}

const struct cli_verb cli_ps = { "ps", "list processes", "VM",
	"Lists the processes of a VM, those that have ended too.\n\n", run };
