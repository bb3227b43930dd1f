/* SPDX-License-Identifier: MIT */
/* main.c - finds the verb. */
#include "cli.h"
#include <stdio.h>
#include <string.h>

static const struct cli_verb *const verbs[] = { &cli_vm_run, &cli_vm_stop, &cli_vm_list, &cli_vm_rm,
	&cli_run, &cli_exec, &cli_ps, &cli_logs, &cli_wait, &cli_kill, &cli_rm, &cli_migrate,
	&cli_conn_list, &cli_conn_policy, &cli_conn_checkpoint, &cli_conn_restore, &cli_conn_claim,
	&cli_device, &cli_guest_requests, &cli_demo, &cli_version };

static void help(FILE *f)
{
	fprintf(f, "Usage: holdfast VERB [OPTION...] [ARGUMENT...]\n\n"
		   "Virtual machines and the containers in them, under control across live "
		   "migrations.\n\n");
	for (size_t i = 0; i < HF_ARRAY_SIZE(verbs); i++)
		fprintf(f, "  holdfast %s %s\n", verbs[i]->name, verbs[i]->usage);
	fprintf(f, "\nOptions of every verb:\n"
		   "  --node DIR   the node's state folder ($HOLDFAST_NODE, /run/holdfast,\n"
		   "               $XDG_RUNTIME_DIR/holdfast without root)\n"
		   "  --json       print JSON, one object a line\n"
		   "  --help       tell more about the verb\n\n"
		   "Exit status: 0 done, 1 failed, 2 wrong command line; run and exec end with the "
		   "code of\n"
		   "the process, and with 125 when there is none.\n");
}

int main(int argc, char **argv)
{
	if (argc >= 2 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "help"))) {
		help(stdout);
		return CLI_OK;
	}
	if (argc >= 2 && !strcmp(argv[1], "--version"))
		argv[1] = (char *)"version";
	for (size_t i = 0; argc >= 2 && i < HF_ARRAY_SIZE(verbs); i++) {
		struct cli cli = { 0 };
		char two[64];
		(void)snprintf(two, sizeof(two), "%s %s", argv[1], argc > 2 ? argv[2] : "");
		if (!strcmp(argv[1], verbs[i]->name))
			return verbs[i]->run(&cli, argc - 1, argv + 1);
		if (!strcmp(two, verbs[i]->name))
			return verbs[i]->run(&cli, argc - 2, argv + 2);
	}
	if (argc >= 2)
		fprintf(stderr, "holdfast: %s: no such verb\n", argv[1]);
	help(stderr);
	return CLI_USAGE;
}
