/* SPDX-License-Identifier: MIT */
/* main.c - finds the verb. */
#include "cli.h"
#include <stdio.h>
#include <string.h>

static const struct cli_verb *const verbs[] = { &cli_vm_run, &cli_vm_stop, &cli_vm_list, &cli_vm_rm,
	&cli_run, &cli_exec, &cli_ps, &cli_logs, &cli_wait, &cli_kill, &cli_rm, &cli_migrate,
	&cli_conn_list, &cli_conn_policy, &cli_conn_checkpoint, &cli_conn_restore, &cli_conn_claim,
	&cli_device, &cli_guest_requests, &cli_demo, &cli_version };

static bool in_group(const struct cli_verb *v, const char *group)
{
	size_t n = strlen(group);
	return n == 0 || (!strncmp(v->name, group, n) && v->name[n] == ' ');
}

static bool is_group(const char *word)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(verbs); i++)
		if (*word && in_group(verbs[i], word))
			return true;
	return false;
}

/* All verbs; or those whose first word is `group`. */
static void help(FILE *f, const char *group)
{
	fprintf(f, "Usage: holdfast %s%sVERB [OPTION...] [ARGUMENT...]\n\n", group,
		*group ? " " : "");
	if (!*group)
		fprintf(f, "Virtual machines and the containers in them, under control across "
			   "live migrations.\n\n");
	for (size_t i = 0; i < HF_ARRAY_SIZE(verbs); i++)
		if (in_group(verbs[i], group))
			fprintf(f, "  %-16s %s\n", verbs[i]->name, verbs[i]->brief);
	if (*group)
		return;
	fprintf(f, "\nOptions of every verb:\n"
		   "  --node DIR   the node's state folder ($HOLDFAST_NODE, /run/holdfast,\n"
		   "               $XDG_RUNTIME_DIR/holdfast without root)\n"
		   "  --json       print JSON, one object a line\n"
		   "  --help       tell more about the verb\n\n"
		   "Exit status: 0 done, 1 failed, 2 wrong command line; run and exec end with the "
		   "code of\n"
		   "the process, and with 125 when there is none.\n");
}

static bool asks_for_help(const char *arg)
{
	return !strcmp(arg, "--help") || !strcmp(arg, "-h") || !strcmp(arg, "help");
}

int main(int argc, char **argv)
{
	const char *first = argc > 1 ? argv[1] : "", *second = argc > 2 ? argv[2] : "";
	char two[64];
	if (asks_for_help(first) || (is_group(first) && asks_for_help(second))) {
		help(stdout, asks_for_help(first) ? "" : first);
		return CLI_OK;
	}
	if (!strcmp(first, "--version"))
		argv[1] = (char *)"version";
	(void)snprintf(two, sizeof(two), "%s %s", first, second);
	for (size_t i = 0; argc > 1 && i < HF_ARRAY_SIZE(verbs); i++) {
		struct cli cli = { 0 };
		if (!strcmp(argv[1], verbs[i]->name))
			return verbs[i]->run(&cli, argc - 1, argv + 1);
		if (!strcmp(two, verbs[i]->name))
			return verbs[i]->run(&cli, argc - 2, argv + 2);
	}
	if (*first)
		fprintf(stderr, "holdfast: %s: no such verb\n", is_group(first) ? two : first);
	help(stderr, is_group(first) ? first : "");
	return CLI_USAGE;
}
