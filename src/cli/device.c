/* SPDX-License-Identifier: MIT */
/* device.c - `holdfast device`: what a holdfastd does, and changing it while it runs. */
#include "holdfast/device.h"
#include "cli.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONTROL_DEFAULT "/run/holdfastd/control.sock"

/* ---- requests: NULL when an argument is wrong ---- */

static json_t *about(const char *cmd, char **argv)
{
	return json_pack("{s:s, s:s}", "cmd", cmd, "vm", argv[0]);
}

static json_t *vms(char **argv)
{
	(void)argv; /* there are none */
	return json_pack("{s:s}", "cmd", "vm-list");
}

static json_t *conns(char **argv)
{
	return about("conn-list", argv);
}

static json_t *counters(char **argv)
{
	return about("counters", argv);
}

static json_t *remove_vm(char **argv)
{
	return about("vm-remove", argv);
}

/* KEY=VALUE,... as holdfastd's --vm takes it. */
static json_t *add(char **argv)
{
	json_t *config = json_object();
	for (char *next = argv[0], *pair; (pair = strsep(&next, ",")) != NULL;) {
		char *value = strchr(pair, '=');
		if (!value) {
			json_decref(config);
			return NULL;
		}
		*value++ = '\0';
		json_object_set_new(config, pair, json_string(value));
	}
	return json_pack("{s:s, s:o}", "cmd", "vm-add", "config", config);
}

static json_t *cid(char **argv)
{
	long n;
	if (cli_number(argv[1], 3, UINT32_MAX - 1l, &n) < 0)
		return NULL;
	return json_pack(
		"{s:s, s:s, s:I}", "cmd", "vm-cid", "vm", argv[0], "guest_cid", (json_int_t)n);
}

static json_t *reset(char **argv)
{
	long host, guest;
	if (cli_number(argv[1], 0, UINT32_MAX, &host) < 0 ||
		cli_number(argv[2], 0, UINT32_MAX, &guest) < 0)
		return NULL;
	return json_pack("{s:s, s:s, s:I, s:I}", "cmd", "conn-reset", "vm", argv[0], "host_port",
		(json_int_t)host, "guest_port", (json_int_t)guest);
}

static json_t *log_level(char **argv)
{
	return json_pack("{s:s, s:s}", "cmd", "log-level", "level", argv[0]);
}

/* ---- printing ---- */

static long long number(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text(json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "-";
}

static void print_vms(json_t *answer)
{
	size_t i;
	json_t *v;
	printf("%-24s %10s %-9s %-9s %11s\n", "VM", "CID", "FRONTEND", "RINGS", "CONNECTIONS");
	json_array_foreach (json_object_get(answer, "vms"), i, v) {
		bool connected = json_is_true(json_object_get(v, "connected"));
		printf("%-24s %10lld %-9s %-9s %11lld\n", text(v, "name"), number(v, "guest_cid"),
			connected ? "yes" : "no", text(v, "rings"), number(v, "connections"));
	}
}

static void print_conns(json_t *answer)
{
	size_t i;
	json_t *c;
	printf("%10s %10s %10s %-9s %-8s %14s %14s %10s %10s %9s\n", "PEER", "HOSTPORT",
		"GUESTPORT", "TYPE", "STATE", "FROM-GUEST", "TO-GUEST", "RX-CREDIT", "TX-CREDIT",
		"AGE");
	json_array_foreach (json_object_get(answer, "connections"), i, c) {
		printf("%10lld %10lld %10lld %-9s %-8s %14lld %14lld %10lld %10lld %8llds\n",
			number(c, "peer_cid"), number(c, "host_port"), number(c, "guest_port"),
			text(c, "type"), text(c, "state"), number(c, "rx_bytes"),
			number(c, "tx_bytes"), number(c, "rx_credit"), number(c, "tx_credit"),
			number(c, "age_ms") / 1000);
	}
}

static void print_counters(json_t *answer)
{
	const char *key;
	json_t *v;
	json_object_foreach (json_object_get(answer, "counters"), key, v) {
		printf("%-24s %lld\n", key, (long long)json_integer_value(v));
	}
}

static const struct command {
	const char *name;
	int n_args;
	json_t *(*request)(char **argv);
	void (*print)(json_t *answer); /* NULL: nothing to tell */
} commands[] = {
	{ "vms", 0, vms, print_vms },
	{ "conns", 1, conns, print_conns },
	{ "counters", 1, counters, print_counters },
	{ "add", 1, add, NULL },
	{ "remove", 1, remove_vm, NULL },
	{ "cid", 2, cid, NULL },
	{ "reset", 3, reset, NULL },
	{ "log-level", 1, log_level, NULL },
};

/* ---- the verb ---- */

static int ask(const struct cli *cli, const char *control, const struct command *c, json_t *request)
{
	struct hf_err err = { 0 };
	char *request_text = json_dumps(request, JSON_COMPACT), *answer = NULL;
	json_decref(request);
	int r = request_text ? hf_device_call(
				       control, request_text, HF_DEVICE_PATIENCE_MS, &answer, &err)
			     : hf_err_set(&err, -ENOMEM, "no memory");
	free(request_text);
	if (r < 0)
		return cli_fail(cli, &err, CLI_FAILED);
	json_t *json = json_loads(answer, 0, NULL);
	free(answer);
	json_object_del(json, "id");
	if (cli->json)
		cli_print_json(json_incref(json));
	else if (c->print)
		c->print(json);
	json_decref(json);
	return CLI_OK;
}

static int take(void *ctx, int opt, const char *value)
{
	(void)opt; /* there is one */
	*(const char **)ctx = value;
	return 0;
}

static int run(struct cli *cli, int argc, char **argv)
{
	static const struct option options[] = { { "control", required_argument, NULL, 'c' },
		{ 0 } };
	const char *control = getenv("HOLDFAST_DEVICE_CONTROL");
	if (!control)
		control = CONTROL_DEFAULT;
	int r = cli_options(&cli_device, cli, argc, argv, options, take, &control, 1, -1);
	if (r != 0)
		return cli_options_exit(r);
	const char *name = argv[optind++];
	for (size_t i = 0; i < HF_ARRAY_SIZE(commands); i++) {
		const struct command *c = &commands[i];
		if (strcmp(c->name, name) != 0)
			continue;
		if (argc - optind != c->n_args)
			return cli_usage(&cli_device, "%s: want %d arguments", name, c->n_args);
		json_t *request = c->request(argv + optind);
		return request ? ask(cli, control, c, request)
			       : cli_usage(&cli_device, "%s: an argument is wrong", name);
	}
	return cli_usage(&cli_device, "%s: no such command", name);
}

const struct cli_verb cli_device = { "device", "show and change a running holdfastd",
	"[--control PATH] COMMAND [ARGUMENT...]",
	"Shows and changes a running holdfastd.\n\n"
	"  vms                           its VMs\n"
	"  conns VM                      connections: bytes, credit, age\n"
	"  counters VM                   what was counted\n"
	"  add KEY=VALUE,...             adds a VM; the keys of holdfastd's 'vm' option\n"
	"  remove VM                     ends one\n"
	"  cid VM CID                    gives the guest another context id\n"
	"  reset VM HOSTPORT GUESTPORT   resets a connection\n"
	"  log-level LEVEL               error, warning, info, debug or trace\n\n"
	"  --control PATH   its control socket; $HOLDFAST_DEVICE_CONTROL, else\n"
	"                   /run/holdfastd/control.sock\n",
	run };
