/* SPDX-License-Identifier: MIT */
/* guest.c - `holdfast guest requests`: what the agent of a VM is doing. */
#include "cli.h"
#include <stdio.h>
#include <string.h>

static const char *number(const json_t *o, const char *name, char text[24])
{
	const json_t *v = json_object_get(o, name);
	(void)snprintf(text, 24, v ? "%lld" : "-", (long long)json_integer_value(v));
	return text;
}

static const char *word(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));
	return s && *s ? s : "-";
}

static void print(const json_t *answer)
{
	char id[24], age[24], left[24], pid[24];
	size_t i;
	json_t *o;
	printf("%-12s %-20s %-16s %8s %8s %7s %s\n", "REQUEST", "TYPE", "CONTAINER", "AGE ms",
		"LEFT ms", "PID", "WAITS FOR");
	json_array_foreach (json_object_get(answer, "Requests"), i, o) {
		const char *container = word(o, "ContainerId");
		printf("%-12s %-20s %-16s %8s %8s %7s %s\n", number(o, "Id", id), word(o, "Type"),
			strcmp(container, HF_GUEST_UVM) ? container : "-", number(o, "AgeMs", age),
			number(o, "DeadlineMs", left), number(o, "Pid", pid), word(o, "WaitsFor"));
	}
	json_int_t more = json_integer_value(json_object_get(answer, "More"));
	if (more > 0)
		printf("and %lld more\n", (long long)more);
	json_array_foreach (json_object_get(answer, "Workers"), i, o) {
		printf("%-12s %-20s %-16s %8s %8s %7s %s\n", "worker", word(o, "What"), "-",
			number(o, "AgeMs", age), number(o, "DeadlineMs", left),
			number(o, "Pid", pid),
			json_is_true(json_object_get(o, "GivenUp")) ? "given up, does not end"
								    : "-");
	}
}

static int run(struct cli *cli, int argc, char **argv)
{
	int r = cli_options(&cli_guest_requests, cli, argc, argv, NULL, NULL, NULL, 1, 1);
	if (r != 0)
		return cli_options_exit(r);
	json_t *answer = cli_ask(cli, argv[optind], json_pack("{s:s}", "cmd", "guest-requests"));
	if (!answer)
		return CLI_FAILED;
	if (cli->json) {
		cli_print_json(answer);
		return CLI_OK;
	}
	print(answer);
	json_decref(answer);
	return CLI_OK;
}

const struct cli_verb cli_guest_requests = { "guest requests",
	"list what the agent has not answered yet", "VM",
	"Lists what the guest's agent has been asked and has not answered yet: for how long, for "
	"what\n"
	"it waits, when it gives up. Waits for processes are requests too.\n\n",
	run };
