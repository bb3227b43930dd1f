/* SPDX-License-Identifier: MIT */
/* vm.c - `holdfast vm run`, `vm stop`, `vm list`, `vm rm`. */
#include "base/fd.h"
#include "base/log.h"
#include "base/node.h"
#include "cli.h"
#include "supervisor/supervisor.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BOOT_TIMEOUT_S 120

struct options {
	json_t *vm;
	bool foreground, incoming;
	long timeout_s;
	enum hf_log_level level;
};

enum { OPT_FOREGROUND = 300, OPT_INCOMING, OPT_TIMEOUT, OPT_LOG_LEVEL, OPT_TEXT, OPT_NUMBER };

/* Settings of the VM are named as in config.json. */
static const struct option run_options[] = { { "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "incoming", no_argument, NULL, OPT_INCOMING },
	{ "timeout", required_argument, NULL, OPT_TIMEOUT },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "memory", required_argument, NULL, OPT_NUMBER },
	{ "cpus", required_argument, NULL, OPT_NUMBER + 1 },
	{ "cid", required_argument, NULL, OPT_NUMBER + 2 },
	{ "log-max", required_argument, NULL, OPT_NUMBER + 3 },
	{ "accel", required_argument, NULL, OPT_NUMBER + 4 },
	{ "qemu", required_argument, NULL, OPT_NUMBER + 5 },
	{ "device", required_argument, NULL, OPT_NUMBER + 6 },
	{ "module", required_argument, NULL, OPT_NUMBER + 7 },
	{ "kernel", required_argument, NULL, OPT_NUMBER + 8 },
	{ "initrd", required_argument, NULL, OPT_NUMBER + 9 },
	{ "append", required_argument, NULL, OPT_NUMBER + 10 },
	{ "state", required_argument, NULL, OPT_NUMBER + 11 }, { 0 } };

static int take_setting(struct options *o, int opt, const char *value)
{
	const char *key = NULL;
	long n;
	for (size_t i = 0; run_options[i].name; i++)
		if (run_options[i].val == opt)
			key = run_options[i].name;
	if (opt > OPT_NUMBER + 3)
		return json_object_set_new(o->vm, key, json_string(value));
	if (cli_number(value, 1, UINT32_MAX, &n) < 0)
		return -EINVAL;
	return json_object_set_new(o->vm, key, json_integer(n));
}

static int take(void *ctx, int opt, const char *value)
{
	struct options *o = ctx;
	switch (opt) {
	case OPT_FOREGROUND:
		o->foreground = true;
		return 0;
	case OPT_INCOMING:
		o->incoming = true;
		return 0;
	case OPT_TIMEOUT:
		return cli_number(value, 1, 3600, &o->timeout_s);
	case OPT_LOG_LEVEL:
		return hf_log_level_parse(value, &o->level);
	default:
		return take_setting(o, opt, value);
	}
}

/* A process of its own: its session, its log, nothing of our terminal. */
static void become_daemon(const char *node, const char *name)
{
	char path[HF_NODE_PATH_MAX];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (char *p = strchr(strcpy(path, node) + 1, '/');; p = strchr(p + 1, '/')) {
		if (p)
			*p = '\0';
		(void)mkdir(path, 0700); /* if this fails, the supervisor tells why */
		if (!p)
			break;
		*p = '/';
	}
	char vms[HF_NODE_PATH_MAX + 8];
	(void)snprintf(vms, sizeof(vms), "%s/vms", node);
	(void)mkdir(vms, 0700);
	(void)mkdir(hf_node_path(node, name, "", path), 0700);
	int log = open(hf_node_path(node, name, "supervisor.log", path),
		O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	(void)setsid();
	if (null >= 0) {
		(void)dup2(null, 0);
		(void)dup2(null, 1);
		(void)dup2(log >= 0 ? log : null, 2);
	}
	(void)chdir("/");
}

/* Reads what the supervisor tells of its start. */
static int await_ready(const struct cli *cli, int fd, const char *name)
{
	char text[4096];
	size_t n = 0;
	ssize_t r;
	while (n < sizeof(text) - 1 &&
		((r = read(fd, text + n, sizeof(text) - 1 - n)) > 0 || (r < 0 && errno == EINTR)))
		n += r > 0 ? (size_t)r : 0;
	text[n] = '\0';
	json_t *msg = json_loads(text, 0, NULL);
	struct hf_err err;
	if (json_is_true(json_object_get(msg, "ok"))) {
		if (cli->json)
			cli_print_json(json_incref(msg));
		json_decref(msg);
		return CLI_OK;
	}
	const char *why = json_string_value(json_object_get(msg, "error"));
	hf_err_set(&err, -EIO, "vm \"%s\": %s", name,
		why ? why : "its supervisor ended; see supervisor.log");
	json_decref(msg);
	return cli_fail(cli, &err, CLI_FAILED);
}

static int run_detached(const struct cli *cli, struct sup_config *config, const struct options *o)
{
	int p[2];
	struct hf_err err;
	if (pipe2(p, O_CLOEXEC) < 0)
		return cli_fail(cli, (hf_err_set(&err, -errno, "pipe: %s", strerror(errno)), &err),
			CLI_FAILED);
	pid_t pid = fork();
	if (pid < 0)
		return cli_fail(cli, (hf_err_set(&err, -errno, "fork: %s", strerror(errno)), &err),
			CLI_FAILED);
	if (pid == 0) {
		(void)close(p[0]);
		become_daemon(config->node, config->name);
		hf_log_setup("holdfast-vm", STDERR_FILENO, o->level, HF_LOG_TEXT);
		config->ready_fd = p[1];
		_exit(sup_run(config));
	}
	(void)close(p[1]);
	return await_ready(cli, p[0], config->name);
}

static int run_vm(struct cli *cli, int argc, char **argv)
{
	struct options o = {
		.vm = json_object(), .timeout_s = BOOT_TIMEOUT_S, .level = HF_LOG_INFO
	};
	char node[HF_NODE_PATH_MAX];
	struct hf_err err;
	int r = cli_options(&cli_vm_run, cli, argc, argv, run_options, take, &o, 1, 1);
	const char *name = r == 0 ? argv[optind] : NULL;
	if (r != 0) {
		json_decref(o.vm);
		return cli_options_exit(r);
	}
	if (!cli->node && hf_node_default(node, &err) < 0)
		return cli_fail(cli, &err, CLI_FAILED);
	struct sup_config config = { .node = cli->node ? cli->node : node,
		.name = name,
		.vm = o.vm,
		.incoming = o.incoming,
		.ready_fd = -1,
		.boot_timeout_s = (unsigned)o.timeout_s };
	if (hf_node_check(config.node, name, &err) < 0)
		return cli_fail(cli, &err, CLI_FAILED);
	if (o.foreground) {
		hf_log_setup("holdfast-vm", STDERR_FILENO, o.level, HF_LOG_TEXT);
		r = sup_run(&config) == 0 ? CLI_OK : CLI_FAILED;
	} else {
		r = run_detached(cli, &config, &o);
	}
	json_decref(o.vm);
	return r;
}

const struct cli_verb cli_vm_run = { "vm run", "start a VM", "NAME [OPTION...]",
	"Starts a VM and its supervisor, and returns when the guest is ready. A VM whose "
	"supervisor has\n"
	"died is taken over as it is.\n\n"
	"  --memory MIB, --cpus N, --cid N   the machine; 512, 1 and 4 by default\n"
	"  --log-max MIB  how much of each output of a process is kept: the newest; 64 by default\n"
	"  --accel WHAT auto (KVM if it works here, else TCG; default), kvm or tcg\n"
	"  --state auto|stream|beside        how connections travel in a migration: in QEMU's "
	"stream, or beside\n"
	"  --kernel, --initrd, --append      the guest's kernel, initramfs, more of its command "
	"line\n"
	"  --qemu, --device, --module        the programs: QEMU, holdfastd, holdfast-qemu.so; also "
	"by\n"
	"               HOLDFAST_QEMU, _DEVICE, _MODULE, _KERNEL, _INITRD in the environment\n"
	"  --timeout S  how long the guest may take to be ready; 120 by default\n"
	"  --foreground stay, and log to standard error\n"
	"  --incoming   wait for a migration\n"
	"  --log-level LEVEL  error, warning, info, debug or trace\n",
	run_vm };

static int stop_vm(struct cli *cli, int argc, char **argv)
{
	int r = cli_options(&cli_vm_stop, cli, argc, argv, NULL, NULL, NULL, 1, 1);
	if (r != 0)
		return cli_options_exit(r);
	return cli_tell(cli, argv[optind], json_pack("{s:s}", "cmd", "stop"));
}

const struct cli_verb cli_vm_stop = { "vm stop", "end a VM", "NAME",
	"Ends a VM at once, with all that runs in it.\n\n", stop_vm };

static int list_one(void *ctx, const struct hf_vm_entry *e)
{
	const struct cli *cli = ctx;
	if (cli->json)
		cli_print_json(json_pack("{s:s, s:s, s:s}", "vm", e->name, "state", e->state,
			"moved_to", e->moved_to));
	else
		printf("%-32s %-8s %s\n", e->name, e->state, e->moved_to);
	return 0;
}

static int list_vms(struct cli *cli, int argc, char **argv)
{
	struct hf_err err;
	int r = cli_options(&cli_vm_list, cli, argc, argv, NULL, NULL, NULL, 0, 0);
	if (r != 0)
		return cli_options_exit(r);
	if (!cli->json)
		printf("%-32s %-8s %s\n", "VM", "STATE", "MOVED TO");
	r = hf_vm_list(cli->node, list_one, cli, &err);
	return r < 0 ? cli_fail(cli, &err, CLI_FAILED) : CLI_OK;
}

const struct cli_verb cli_vm_list = { "vm list", "list the VMs of a node", "",
	"Lists the VMs of a node: alive, dead (take it over with vm run), stopped, or moved.\n\n",
	list_vms };

struct wanted {
	const char *name;
	char state[16];
};

static int look(void *ctx, const struct hf_vm_entry *e)
{
	struct wanted *w = ctx;
	if (!strcmp(w->name, e->name))
		(void)snprintf(w->state, sizeof(w->state), "%s", e->state);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

/* Its folder, while its lock is held: so nobody starts it meanwhile. */
static int remove_folder(const char *node, const char *name, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	HF_CLEANUP(fd_closep)
	int lock = open(hf_node_path(node, name, "lock", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	if (flock(lock, LOCK_EX | LOCK_NB) < 0)
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": has a supervisor; see 'holdfast vm list'", name);
	if (nftw(hf_node_path(node, name, "", path), remove_one, 8, FTW_DEPTH | FTW_PHYS) != 0)
		return hf_err_set(
			reterr, -errno, "%s: cannot be removed: %s", path, strerror(errno));
	return 0;
}

static int rm_vm(struct cli *cli, int argc, char **argv)
{
	char home[HF_NODE_PATH_MAX];
	struct hf_err err;
	int r = cli_options(&cli_vm_rm, cli, argc, argv, NULL, NULL, NULL, 1, 1);
	if (r != 0)
		return cli_options_exit(r);
	struct wanted w = { .name = argv[optind] };
	r = cli->node ? 0 : hf_node_default(home, &err);
	const char *node = cli->node ? cli->node : home;
	if (r == 0)
		r = hf_node_check(node, w.name, &err);
	if (r == 0)
		r = hf_vm_list(node, look, &w, &err);
	if (r == 0 && !*w.state)
		r = hf_err_set(
			&err, -ENOENT, "vm \"%s\": no such VM; see 'holdfast vm list'", w.name);
	else if (r == 0 && strcmp(w.state, "stopped") != 0 && strcmp(w.state, "moved") != 0)
		r = hf_err_set(&err, -EBUSY, "vm \"%s\": is %s: %s it first", w.name, w.state,
			strcmp(w.state, "dead") ? "stop" : "take it over with vm run, and stop");
	if (r == 0)
		r = remove_folder(node, w.name, &err);
	if (r < 0)
		return cli_fail(cli, &err, CLI_FAILED);
	if (cli->json)
		cli_print_json(json_pack("{s:b}", "ok", 1));
	return CLI_OK;
}

const struct cli_verb cli_vm_rm = { "vm rm", "remove what a VM has left", "NAME",
	"Removes what a VM that was stopped, or has moved, has left on its node: logs, output, and "
	"the\n"
	"sign that tells command lines where it went.\n\n",
	rm_vm };
