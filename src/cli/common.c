/* SPDX-License-Identifier: MIT */
#include "cli.h"
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define OPTIONS_MAX 32
enum { OPT_NODE = 1000, OPT_JSON, OPT_HELP };

static void show_help(const struct cli_verb *verb, FILE *f)
{
	fprintf(f, "Usage: holdfast %s %s\n\n%s", verb->name, verb->usage, verb->help);
	fprintf(f, "  --node DIR   the node's state folder\n"
		   "  --json       print JSON, one object a line\n"
		   "  --help       print this text\n");
}

int cli_usage(const struct cli_verb *verb, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "holdfast %s: ", verb->name);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nusage: holdfast %s %s\n", verb->name, verb->usage);
	return CLI_USAGE;
}

/* A relative node becomes absolute here: the supervisor has another working folder. */
static int take_node(struct cli *cli, const char *value)
{
	static char path[PATH_MAX];
	char cwd[PATH_MAX];
	if (value[0] == '/') {
		cli->node = value;
		return 0;
	}
	if (!getcwd(cwd, sizeof(cwd)) ||
		(size_t)snprintf(path, sizeof(path), "%s/%s", cwd, value) >= sizeof(path))
		return -ENAMETOOLONG;
	cli->node = path;
	return 0;
}

int cli_options(const struct cli_verb *verb, struct cli *cli, int argc, char **argv,
	const struct option *more, cli_option_fn *take, void *ctx, int min, int max)
{
	struct option all[OPTIONS_MAX + 4] = { { "node", required_argument, NULL, OPT_NODE },
		{ "json", no_argument, NULL, OPT_JSON }, { "help", no_argument, NULL, OPT_HELP } };
	/* Where any number of arguments is taken they are a command with options of its own. */
	char letters[2 * OPTIONS_MAX + 2] = { max < 0 ? '+' : '\0' }, *l = letters + (max < 0);
	for (size_t i = 0; more && more[i].name && i < OPTIONS_MAX; i++) {
		all[3 + i] = more[i];
		if (more[i].val < 256) {
			*l++ = (char)more[i].val;
			if (more[i].has_arg)
				*l++ = ':';
		}
	}
	int opt;
	optind = 0; /* a fresh scan */
	while ((opt = getopt_long(argc, argv, letters, all, NULL)) != -1) {
		if (opt == OPT_HELP) {
			show_help(verb, stdout);
			return CLI_HELP_SHOWN;
		}
		if (opt == '?')
			return cli_usage(verb, "see --help");
		if (opt == OPT_JSON)
			cli->json = true;
		else if (opt == OPT_NODE ? take_node(cli, optarg) < 0 : take(ctx, opt, optarg) < 0)
			return cli_usage(
				verb, "%s: not a value for this option", optarg ? optarg : "");
	}
	int n = argc - optind;
	if (n < min || (max >= 0 && n > max))
		return cli_usage(verb, n < min ? "an argument is missing" : "too many arguments");
	return 0;
}

int cli_fail(const struct cli *cli, const struct hf_err *err, int exit_status)
{
	const char *code = strerrorname_np(err->code < 0 ? -err->code : err->code);
	if (cli->json)
		cli_print_json(json_pack("{s:b, s:{s:s, s:s}}", "ok", 0, "error", "code",
			code ? code : "EIO", "text", err->text));
	else
		fprintf(stderr, "holdfast: %s\n", err->text);
	return exit_status;
}

void cli_print_json(json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);
	printf("%s\n", text ? text : "{}");
	fflush(stdout);
	free(text);
	json_decref(json);
}

json_t *cli_ask(const struct cli *cli, const char *vm_name, json_t *request)
{
	struct hf_err err = { 0 };
	struct hf_vm *vm = NULL;
	char *text = json_dumps(request, JSON_COMPACT), *answer = NULL;
	json_decref(request);
	int r = text ? hf_vm_new(cli->node, vm_name, &vm, &err)
		     : hf_err_set(&err, -ENOMEM, "no memory");
	if (r == 0)
		r = hf_vm_call(vm, text, NULL, NULL, &answer, &err);
	json_t *json = r == 0 ? json_loads(answer, 0, NULL) : NULL;
	if (!json)
		(void)cli_fail(cli, &err, CLI_FAILED); /* only prints */
	hf_vm_free(vm);
	free(text);
	free(answer);
	json_object_del(json, "id");
	return json;
}

int cli_tell(const struct cli *cli, const char *vm, json_t *request)
{
	json_t *answer = cli_ask(cli, vm, request);
	if (!answer)
		return CLI_FAILED;
	if (cli->json)
		cli_print_json(json_incref(answer));
	json_decref(answer);
	return CLI_OK;
}

int cli_number(const char *text, long min, long max, long *ret)
{
	char *end;
	errno = 0;
	long v = strtol(text, &end, 10);
	if (errno || end == text || *end || v < min || v > max)
		return -EINVAL;
	*ret = v;
	return 0;
}
