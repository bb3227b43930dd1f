/* SPDX-License-Identifier: MIT */
/*
 * conn.c - `holdfast conn`: a guest's connections, one by one: looked at, copied into a file, taken
 * over by any program that speaks on its standard input and output.
 */
#include "holdfast/conn.h"
#include "base/fd.h"
#include "base/hex.h"
#include "base/node.h"
#include "cli.h"
#include "holdfast/device.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

static const struct option conn_options[] = { { "control", required_argument, NULL, 'C' }, { 0 } };

#define CONN_HELP "  --control PATH  holdfastd's control socket; VM is then its name there\n"

/* Where the VM's holdfastd is. */
struct where {
	char control[PATH_MAX];
	const char *vm;
};

static int take(void *ctx, int opt, const char *value)
{
	struct where *w = ctx;
	(void)opt; /* there is one */
	return (size_t)snprintf(w->control, sizeof(w->control), "%s", value) < sizeof(w->control)
		       ? 0
		       : -1;
}

/* Without --control the supervisor is asked where the VM is by now. */
static int find(const struct cli *cli, const char *name, struct where *w)
{
	char path[HF_NODE_PATH_MAX];
	w->vm = name;
	if (*w->control)
		return 0;
	json_t *answer = cli_ask(cli, name, json_pack("{s:s}", "cmd", "status"));
	const char *node = json_string_value(json_object_get(answer, "node"));
	if (node && hf_node_check(node, name, NULL) == 0)
		(void)snprintf(w->control, sizeof(w->control), "%s",
			hf_node_path(node, name, "device-control.sock", path)); /* fits */
	json_decref(answer);
	w->vm = "vm";
	return *w->control ? 0 : -1;
}

/* 0 and a connection to holdfastd, or an exit status + 1. */
static int begin(const struct cli_verb *verb, struct cli *cli, int argc, char **argv, int min,
	int max, struct hf_conn_ctl **ret_c)
{
	struct hf_err err = { 0 };
	struct where w = { 0 };
	int r = cli_options(verb, cli, argc, argv, conn_options, take, &w, min, max);
	if (r != 0)
		return cli_options_exit(r) + 1;
	if (find(cli, argv[optind], &w) < 0)
		return CLI_FAILED + 1;
	if (hf_conn_open(w.control, w.vm, ret_c, &err) < 0)
		return cli_fail(cli, &err, CLI_FAILED) + 1;
	return 0;
}

static int take_ports(char **argv, uint32_t *ret_host, uint32_t *ret_guest)
{
	long host, guest;
	if (cli_number(argv[0], 0, UINT32_MAX, &host) < 0 ||
		cli_number(argv[1], 0, UINT32_MAX, &guest) < 0)
		return -EINVAL;
	*ret_host = (uint32_t)host;
	*ret_guest = (uint32_t)guest;
	return 0;
}

/* ---- list ---- */

static int print_one(void *ctx, const struct hf_conn_info *c)
{
	const struct cli *cli = ctx;
	if (cli->json)
		cli_print_json(json_pack("{s:I,s:I,s:s,s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I}",
			"host_port", (json_int_t)c->host_port, "guest_port",
			(json_int_t)c->guest_port, "state", c->state, "policy", c->policy, "relay",
			c->relay, "claimed", c->claimed, "arrived", c->arrived, "rx_bytes",
			(json_int_t)c->rx_bytes, "tx_bytes", (json_int_t)c->tx_bytes,
			"to_host_pending", (json_int_t)c->to_host_pending, "to_guest_pending",
			(json_int_t)c->to_guest_pending, "state_bytes",
			(json_int_t)c->state_bytes));
	else
		printf("%10u %10u %-9s %-9s %-8s %14llu %14llu %6llu\n", c->host_port,
			c->guest_port, c->state, c->policy,
			*c->relay    ? "relayed"
			: c->claimed ? "claimed"
				     : "waits",
			(unsigned long long)c->rx_bytes, (unsigned long long)c->tx_bytes,
			(unsigned long long)c->state_bytes);
	return 0;
}

static int list(struct cli *cli, int argc, char **argv)
{
	struct hf_conn_ctl *c;
	struct hf_err err = { 0 };
	int r = begin(&cli_conn_list, cli, argc, argv, 1, 1, &c);
	if (r != 0)
		return r - 1;
	if (!cli->json)
		printf("%10s %10s %-9s %-9s %-8s %14s %14s %6s\n", "HOSTPORT", "GUESTPORT", "STATE",
			"POLICY", "OWNER", "FROM-GUEST", "TO-GUEST", "LEFT");
	r = hf_conn_list(c, print_one, cli, &err);
	hf_conn_close(c);
	return r < 0 ? cli_fail(cli, &err, CLI_FAILED) : CLI_OK;
}

/* ---- policy ---- */

static void print_policies(json_t *answer)
{
	size_t i;
	json_t *p;
	json_array_foreach (json_object_get(answer, "ports"), i, p) {
		printf("%lld-%lld %s\n", (long long)json_integer_value(json_object_get(p, "first")),
			(long long)json_integer_value(json_object_get(p, "last")),
			json_string_value(json_object_get(p, "policy")));
	}
	printf("default %s\n", json_string_value(json_object_get(answer, "default")));
}

static int policy(struct cli *cli, int argc, char **argv)
{
	struct hf_err err = { 0 };
	struct where w = { 0 };
	char *answer = NULL;
	int r = cli_options(&cli_conn_policy, cli, argc, argv, conn_options, take, &w, 1, 3);
	if (r != 0)
		return cli_options_exit(r);
	if (argc - optind == 2)
		return cli_usage(&cli_conn_policy, "give both PORTS and POLICY");
	if (find(cli, argv[optind], &w) < 0)
		return CLI_FAILED;
	bool set = argc - optind == 3;
	json_t *request = json_pack("{s:s, s:s, s:s*, s:s*}", "cmd",
		set ? "policy-set" : "policy-list", "vm", w.vm, "port",
		set ? argv[optind + 1] : NULL, "policy", set ? argv[optind + 2] : NULL);
	char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	r = hf_device_call(w.control, text, HF_DEVICE_PATIENCE_MS, &answer, &err);
	free(text);
	if (r < 0)
		return cli_fail(cli, &err, CLI_FAILED);
	json_t *json = json_loads(answer, 0, NULL);
	free(answer);
	if (cli->json)
		cli_print_json(json_incref(json));
	else
		print_policies(json);
	json_decref(json);
	return CLI_OK;
}

/* ---- checkpoint ---- */

static int copy(int from, const char *path, struct hf_err *reterr)
{
	struct stat st;
	HF_CLEANUP(fd_closep) int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (to < 0 || fstat(from, &st) < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	for (off_t left = st.st_size; left > 0;) {
		ssize_t n = sendfile(to, from, NULL, (size_t)left);
		if (n <= 0)
			return hf_err_set(reterr, -EIO, "%s: cannot be written", path);
		left -= n;
	}
	return fsync(to) < 0 ? hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno)) : 0;
}

static int checkpoint(struct cli *cli, int argc, char **argv)
{
	struct hf_conn_ctl *c;
	struct hf_err err = { 0 };
	uint32_t host, guest;
	int r = begin(&cli_conn_checkpoint, cli, argc, argv, 4, 4, &c);
	if (r != 0)
		return r - 1;
	if (take_ports(argv + optind + 1, &host, &guest) < 0) {
		hf_conn_close(c);
		return cli_usage(&cli_conn_checkpoint, "a port is a number");
	}
	HF_CLEANUP(fd_closep) int fd = hf_conn_checkpoint(c, host, guest, &err);
	hf_conn_close(c);
	r = fd < 0 ? fd : copy(fd, argv[optind + 3], &err);
	return r < 0 ? cli_fail(cli, &err, CLI_FAILED) : CLI_OK;
}

/* ---- claim, restore ---- */

/* The program gets the connection as its standard input and output. Returns only on failure. */
static int become(const struct cli *cli, const struct hf_conn_claim *claim, char **argv)
{
	struct hf_err err = { 0 };
	char hex[2 * HF_CONN_STATE_MAX + 1];
	hex_encode(claim->state, claim->state_len, hex);
	if (setenv("HOLDFAST_STATE", hex, 1) == 0 && dup2(claim->fd, 0) >= 0 &&
		dup2(claim->fd, 1) >= 0)
		execvp(argv[0], argv);
	(void)hf_err_set(&err, -errno, "%s: %s", argv[0], strerror(errno)); /* printed */
	return cli_fail(cli, &err, CLI_FAILED);
}

static int claim(struct cli *cli, int argc, char **argv)
{
	struct hf_conn_ctl *c;
	struct hf_err err = { 0 };
	struct hf_conn_claim got = { .fd = -1 };
	uint32_t host, guest;
	int r = begin(&cli_conn_claim, cli, argc, argv, 4, -1, &c);
	if (r != 0)
		return r - 1;
	if (take_ports(argv + optind + 1, &host, &guest) < 0)
		r = cli_usage(&cli_conn_claim, "a port is a number");
	else if (hf_conn_claim(c, host, guest, &got, &err) < 0)
		r = cli_fail(cli, &err, CLI_FAILED);
	else
		r = become(cli, &got, argv + optind + 3);
	hf_conn_close(c);
	return r;
}

static int restore(struct cli *cli, int argc, char **argv)
{
	struct hf_conn_ctl *c;
	struct hf_err err = { 0 };
	struct hf_conn_claim got = { .fd = -1 };
	int r = begin(&cli_conn_restore, cli, argc, argv, 3, -1, &c);
	if (r != 0)
		return r - 1;
	const char *path = argv[optind + 1];
	HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		r = hf_err_set(&err, -errno, "%s: %s", path, strerror(errno));
	else
		r = hf_conn_restore(c, fd, &got, &err);
	r = r < 0 ? cli_fail(cli, &err, CLI_FAILED) : become(cli, &got, argv + optind + 2);
	hf_conn_close(c);
	return r;
}

const struct cli_verb cli_conn_list = { "conn list", "list the guest's connections", "VM",
	"Lists the connections between the host and the guest.\n\n" CONN_HELP, list };
const struct cli_verb cli_conn_policy = { "conn policy",
	"show or change what a migration does with them", "VM [PORTS POLICY]",
	"Shows, or changes, what a migration does with the connections of which host ports.\n"
	"PORTS: 1024, 2000-2999 or default. POLICY: reattach (its application claims it at the\n"
	"destination), relay (its application stays where it is) or reset. They go with the VM.\n\n" CONN_HELP,
	policy };
const struct cli_verb cli_conn_checkpoint = { "conn checkpoint", "copy a connection into a file",
	"VM HOSTPORT GUESTPORT FILE",
	"Copies a connection of a VM that stands still into a file: bytes in flight, credit, and\n"
	"what its application has left.\n\n" CONN_HELP,
	checkpoint };
const struct cli_verb cli_conn_restore = { "conn restore", "add a connection from a file",
	"VM FILE COMMAND...",
	"Adds a connection from such a file to a VM that does not run yet, and gives it to a\n"
	"command as standard input and output; $HOLDFAST_STATE is what the last application left,\n"
	"in hex digits.\n\n" CONN_HELP,
	restore };
const struct cli_verb cli_conn_claim = { "conn claim", "take a connection that has arrived",
	"VM HOSTPORT GUESTPORT COMMAND...",
	"Gives a connection that has arrived in a migration to a command, as restore "
	"does.\n\n" CONN_HELP,
	claim };
