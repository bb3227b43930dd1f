/* SPDX-License-Identifier: MIT */
#include "start.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct start {
	bool in, tty, detached;
	const char *cwd, *user;
	json_t *env;
};

static const struct option options[] = { { "interactive", no_argument, NULL, 'i' },
	{ "tty", no_argument, NULL, 't' }, { "detach", no_argument, NULL, 'd' },
	{ "env", required_argument, NULL, 'e' }, { "workdir", required_argument, NULL, 'w' },
	{ "user", required_argument, NULL, 'u' }, { 0 } };

static int take(void *ctx, int opt, const char *value)
{
	struct start *s = ctx;
	s->in = s->in || opt == 'i';
	s->tty = s->tty || opt == 't';
	s->detached = s->detached || opt == 'd';
	if (opt == 'w')
		s->cwd = value;
	if (opt == 'u')
		s->user = value;
	if (opt != 'e')
		return 0;
	return strchr(value, '=') ? json_array_append_new(s->env, json_string(value)) : -1;
}

/* Options stand before VM and CONTAINER, or between CONTAINER and the command. */
static int parse(const struct cli_verb *verb, struct start *s, struct cli *cli, int argc,
	char **argv, char **ret_vm, char **ret_container, char ***ret_command)
{
	int r = cli_options(verb, cli, argc, argv, options, take, s, 3, -1);
	if (r != 0)
		return r;
	*ret_vm = argv[optind];
	*ret_container = argv[optind + 1];
	argc -= optind + 1;
	argv += optind + 1;
	r = cli_options(verb, cli, argc, argv, options, take, s, 1, -1);
	*ret_command = argv + optind;
	return r;
}

int cli_start(const struct cli_verb *verb, const char *cmd, struct cli *cli, int argc, char **argv)
{
	struct start s = { .cwd = "/", .user = "0", .env = json_array() };
	char *vm, *container, **command;
	int r = parse(verb, &s, cli, argc, argv, &vm, &container, &command);
	if (r != 0) {
		json_decref(s.env);
		return cli_options_exit(r);
	}
	json_t *args = json_array();
	for (; *command; command++)
		json_array_append_new(args, json_string(*command));
	json_t *answer = cli_ask(cli, vm,
		json_pack("{s:s, s:s, s:o, s:o, s:s, s:s, s:b, s:b}", "cmd", cmd, "container",
			container, "args", args, "env", s.env, "cwd", s.cwd, "user", s.user, "tty",
			s.tty, "stdin", s.in && !s.detached));
	if (!answer)
		return CLI_NO_CODE;
	char *process = strdup(json_string_value(json_object_get(answer, "process")));
	if (cli->json) {
		json_object_set_new(answer, "event", json_string("started"));
		cli_print_json(json_incref(answer));
	} else if (s.detached) {
		printf("%s\n", process);
	}
	json_decref(answer);
	r = CLI_OK;
	if (!s.detached) {
		const struct cli_io io = { .vm = vm,
			.process = process,
			.in = s.in,
			.tty = s.tty,
			.err = !s.tty,
			.follow = true,
			.wait = true };
		r = cli_io(cli, &io);
		if (cli->json)
			cli_print_json(json_pack("{s:s, s:i}", "event", "exited", "exit_code", r));
	}
	free(process);
	return r;
}
