/* SPDX-License-Identifier: MIT */
/* rm.c - `holdfast rm`: forgets a container, and what the guest has of it. */
#include "cli.h"
#include <signal.h>
#include <string.h>

static int take(void *ctx, int opt, const char *value)
{
	(void)value;
	*(bool *)ctx = opt == 'f';
	return 0;
}

/* Ends the container's init, and with it all that runs there. */
static void end(const struct cli *cli, const char *vm, const char *container)
{
	struct hf_err err;
	struct hf_vm *h = NULL;
	char request[256], *answer = NULL;
	size_t i;
	json_t *p, *ps = cli_ask(cli, vm, json_pack("{s:s}", "cmd", "ps"));
	json_array_foreach (json_object_get(ps, "processes"), i, p) {
		const char *name = json_string_value(json_object_get(p, "process"));
		const char *of = json_string_value(json_object_get(p, "container"));
		const char *state = json_string_value(json_object_get(p, "state"));
		if (!name || !of || !state || strcmp(of, container) != 0 ||
			(strcmp(state, "running") != 0 && strcmp(state, "starting") != 0))
			continue;
		if (hf_vm_new(cli->node, vm, &h, &err) < 0)
			continue;
		/* What fails here is told by the removal: it runs still. */
		(void)snprintf(request, sizeof(request),
			"{\"cmd\":\"kill\",\"process\":\"%s\",\"signal\":%d}", name, SIGKILL);
		if (hf_vm_call(h, request, NULL, NULL, &answer, &err) == 0)
			free(answer);
		(void)snprintf(
			request, sizeof(request), "{\"cmd\":\"wait\",\"process\":\"%s\"}", name);
		if (hf_vm_call(h, request, NULL, NULL, &answer, &err) == 0)
			free(answer);
		hf_vm_free(h);
	}
	json_decref(ps);
}

static int run(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "force", no_argument, NULL, 'f' }, { 0 } };
	bool force = false;
	int r = cli_options(&cli_rm, cli, argc, argv, options, take, &force, 2, 2);
	if (r != 0)
		return cli_options_exit(r);
	const char *vm = argv[optind], *container = argv[optind + 1];
	if (force)
		end(cli, vm, container);
	return cli_tell(cli, vm, json_pack("{s:s, s:s}", "cmd", "rm", "container", container));
}

const struct cli_verb cli_rm = { "rm", "remove a container that has ended",
	"[--force] VM CONTAINER",
	"Removes a container that has ended: its files in the guest, its processes in ps, their "
	"output.\n\n"
	"  --force      kill it first if it runs\n",
	run };
