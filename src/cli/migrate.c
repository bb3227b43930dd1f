/* SPDX-License-Identifier: MIT */
/* migrate.c - `holdfast migrate`: moves a VM to another node while it runs. */
#include "cli.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct options {
	char to[PATH_MAX];
	const char *mode;
	long cid, timeout_s;
	bool cancel, auto_cancel;
	json_t *keep; /* NULL: policies decide */
};

/* A line: host_old_cid host_new_cid host_port guest_port. NULL and a message. */
static json_t *read_keep(const char *path)
{
	FILE *f = fopen(path, "re");
	json_t *list = json_array();
	char line[256];
	if (!f) {
		fprintf(stderr, "holdfast: %s: cannot be read\n", path);
		json_decref(list);
		return NULL;
	}
	for (int i = 1; fgets(line, sizeof(line), f); i++) {
		unsigned v[4];
		int end = 0;
		line[strcspn(line, "#\n")] = '\0';
		if (line[strspn(line, " \t")] == '\0')
			continue;
		if (sscanf(line, "%u %u %u %u %n", &v[0], &v[1], &v[2], &v[3], &end) != 4 ||
			line[end] != '\0') {
			fprintf(stderr,
				"holdfast: %s: line %d: want host_old_cid host_new_cid host_port "
				"guest_port\n",
				path, i);
			json_decref(list);
			list = NULL;
			break;
		}
		json_array_append_new(
			list, json_pack("[I,I,I,I]", (json_int_t)v[0], (json_int_t)v[1],
				      (json_int_t)v[2], (json_int_t)v[3]));
	}
	(void)fclose(f); /* it was only read */
	return list;
}

static int take(void *ctx, int opt, const char *value)
{
	struct options *o = ctx;
	char cwd[PATH_MAX];
	if (opt == 'm')
		o->mode = value;
	if (opt == 'x')
		o->cancel = true;
	if (opt == 'k') {
		json_decref(o->keep);
		o->keep = read_keep(value);
		return o->keep ? 0 : -1;
	}
	if (opt == 'a')
		o->auto_cancel = true;
	if (opt == 'T')
		return cli_number(value, 1, 86400, &o->timeout_s);
	if (opt == 'c')
		return cli_number(value, 3, 0xfffffffe, &o->cid);
	if (opt != 't')
		return 0;
	if (value[0] == '/')
		return (size_t)snprintf(o->to, sizeof(o->to), "%s", value) < sizeof(o->to) ? 0 : -1;
	return getcwd(cwd, sizeof(cwd)) && (size_t)snprintf(o->to, sizeof(o->to), "%s/%s", cwd,
						   value) < sizeof(o->to)
		       ? 0
		       : -1;
}

static long long number(json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

/* What a progress event has besides its phase and its word. */
static void print_details(json_t *e)
{
	if (json_object_get(e, "remaining"))
		fprintf(stderr, ": %lld of %lld MiB left", number(e, "remaining") >> 20,
			number(e, "total") >> 20);
	if (json_object_get(e, "record_bytes"))
		fprintf(stderr, ": connections %lld bytes", number(e, "record_bytes"));
	if (json_object_get(e, "state_bytes"))
		fprintf(stderr, ": session %lld bytes", number(e, "state_bytes"));
	if (json_object_get(e, "downtime_ms"))
		fprintf(stderr, ": downtime %lld ms", number(e, "downtime_ms"));
	if (json_object_get(e, "reset"))
		fprintf(stderr, "; connections: %lld claimed, %lld kept, %lld relayed, %lld reset",
			number(e, "claimed"), number(e, "kept"), number(e, "relayed"),
			number(e, "reset"));
}

static void on_event(void *ctx, const char *text)
{
	const struct cli *cli = ctx;
	json_t *e = json_loads(text, 0, NULL);
	const char *phase = json_string_value(json_object_get(e, "phase"));
	const char *what = json_string_value(json_object_get(e, "what"));
	if (cli->json) {
		cli_print_json(e);
		return;
	}
	if (phase && what) {
		fprintf(stderr, "%6lld ms  %-10s %s", number(e, "ms"), phase, what);
		print_details(e);
		fputc('\n', stderr);
	}
	json_decref(e);
}

static void print_report(json_t *r)
{
	const char *key;
	json_t *v;
	json_object_foreach (r, key, v) {
		if (json_is_string(v))
			printf("%-26s %s\n", key, json_string_value(v));
		else if (json_is_integer(v))
			printf("%-26s %lld\n", key, (long long)json_integer_value(v));
	}
	size_t i;
	json_array_foreach (json_object_get(r, "fates"), i, v) {
		const char *why = json_string_value(json_object_get(v, "why"));
		printf("connection %lld<-%-15lld %s%s%s\n",
			(long long)json_integer_value(json_object_get(v, "host_port")),
			(long long)json_integer_value(json_object_get(v, "guest_port")),
			json_string_value(json_object_get(v, "fate")), why ? ": " : "",
			why ? why : "");
	}
}

static int migrate(const struct cli *cli, const char *name, const struct options *o)
{
	struct hf_err err = { 0 };
	struct hf_vm *vm = NULL;
	char *answer = NULL;
	json_t *request =
		json_pack("{s:s, s:s, s:s}", "cmd", "migrate", "to", o->to, "mode", o->mode);
	if (o->cid)
		json_object_set_new(request, "cid", json_integer(o->cid));
	if (o->keep)
		json_object_set(request, "keep", o->keep);
	if (o->timeout_s)
		json_object_set_new(request, "timeout", json_integer(o->timeout_s));
	json_object_set_new(request, "auto_cancel", json_boolean(o->auto_cancel));
	char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	int r = hf_vm_new(cli->node, name, &vm, &err);
	if (r == 0)
		r = hf_vm_call(vm, text, on_event, (void *)cli, &answer, &err);
	json_t *report = r == 0 ? json_loads(answer, 0, NULL) : NULL;
	json_object_del(report, "id");
	if (r < 0)
		r = cli_fail(cli, &err,
			err.code == -ECANCELED   ? CLI_CANCELLED
			: err.code == -ETIMEDOUT ? CLI_TIMED_OUT
						 : CLI_FAILED);
	else if (cli->json)
		cli_print_json(json_incref(report));
	else
		print_report(report);
	if (json_object_get(report, "unconfirmed"))
		r = CLI_UNCONFIRMED;
	json_decref(report);
	hf_vm_free(vm);
	free(text);
	free(answer);
	return r;
}

static int run(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "to", required_argument, NULL, 't' },
		{ "mode", required_argument, NULL, 'm' }, { "cid", required_argument, NULL, 'c' },
		{ "cancel", no_argument, NULL, 'x' }, { "timeout", required_argument, NULL, 'T' },
		{ "auto-cancel", no_argument, NULL, 'a' }, { "keep", required_argument, NULL, 'k' },
		{ 0 } };
	struct options o = { .mode = "seamless" };
	int r = cli_options(&cli_migrate, cli, argc, argv, options, take, &o, 1, 1);
	if (r != 0)
		return cli_options_exit(r);
	const char *name = argv[optind];
	if (o.cancel) {
		json_t *answer = cli_ask(cli, name, json_pack("{s:s}", "cmd", "migrate-cancel"));
		json_decref(answer);
		return answer ? CLI_OK : CLI_FAILED;
	}
	if (!*o.to)
		return cli_usage(&cli_migrate, "--to NODE is missing");
	r = migrate(cli, name, &o);
	json_decref(o.keep);
	return r;
}

const struct cli_verb cli_migrate = { "migrate", "move a VM to another node while it runs",
	"VM --to NODE [--mode seamless|disruptive] [--cid N] [--keep FILE] [--timeout S] "
	"[--auto-cancel]",
	"Moves the VM to another node while it runs. Whatever fails before the switchover leaves "
	"it\n"
	"running where it was.\n\n"
	"  --to NODE    the other node's state folder\n"
	"  --mode MODE  seamless (the guest's connections go along; default) or disruptive (the "
	"guest\n"
	"               reconnects)\n"
	"  --cid N      another context id at the destination (disruptive only)\n"
	"  --keep FILE  the connections to be kept, instead of holdfastd's policies; a line each:\n"
	"               host_old_cid host_new_cid host_port guest_port\n"
	"  --timeout S  give up when it has not come to the switchover in S seconds\n"
	"  --auto-cancel\n"
	"               give up when this command ends before; else the migration goes on without "
	"it\n"
	"  --cancel     give up the migration that is under way\n\n"
	"Exit status: 0 moved; 1 failed, 3 cancelled, 4 not over in time, and the VM runs on where "
	"it was;\n"
	"5 moved, but the destination has not confirmed it.\n",
	run };
