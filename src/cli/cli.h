/* SPDX-License-Identifier: MIT */
/*
 * cli.h - what the verbs of `holdfast` share: options, printing, exit statuses.
 *
 * A verb parses its arguments, asks the library, prints. Exit statuses: 0 done; 1 it failed; 2 the
 * command line is wrong; 3 to 5 are those of `migrate`; `run` and `exec` end with the process's own
 * code, and with 125 when there is none.
 */
#ifndef HF_CLI_H
#define HF_CLI_H

#include "base/err.h"
#include "holdfast/guest.h"
#include "holdfast/vm.h"
#include <getopt.h>
#include <jansson.h>

enum {
	CLI_OK = 0,
	CLI_FAILED = 1,
	CLI_USAGE = 2,
	CLI_CANCELLED = 3,
	CLI_TIMED_OUT = 4,
	CLI_UNCONFIRMED = 5,
	CLI_NO_CODE = 125
};

struct cli {
	const char *node; /* NULL: the default */
	bool json;
};

struct cli_verb {
	const char *name;
	const char *brief;        /* a line among all verbs */
	const char *usage, *help; /* one line, and the rest of --help */
	int (*run)(struct cli *cli, int argc, char **argv);
};

extern const struct cli_verb cli_vm_run, cli_vm_stop, cli_vm_list, cli_vm_rm, cli_run, cli_exec,
	cli_ps, cli_logs, cli_wait, cli_kill, cli_rm, cli_migrate, cli_conn_list, cli_conn_policy,
	cli_conn_checkpoint, cli_conn_restore, cli_conn_claim, cli_device, cli_demo,
	cli_guest_requests, cli_version;

/*
 * Options of a verb: --node, --json and --help are everybody's, `more` (NULL: none; ends with a
 * zero entry) the verb's own, given to `take`. Leaves argv's rest at optind, of min to max
 * arguments (max -1: any). 0; or CLI_USAGE + 1 after --help (done, exit 0); CLI_USAGE.
 */
typedef int cli_option_fn(void *ctx, int opt, const char *value);
int cli_options(const struct cli_verb *verb, struct cli *cli, int argc, char **argv,
	const struct option *more, cli_option_fn *take, void *ctx, int min, int max);
#define CLI_HELP_SHOWN (CLI_USAGE + 1)
static inline int cli_options_exit(int r)
{
	return r == CLI_HELP_SHOWN ? CLI_OK : r;
}

/* --- Printing --- */
int cli_fail(const struct cli *cli, const struct hf_err *err, int exit_status); /* returns it */
int cli_usage(const struct cli_verb *verb, const char *fmt, ...) HF_PRINTF(2, 3);
void cli_print_json(json_t *json); /* one line; takes it over */

/* One request to a VM, the answer parsed; NULL and the error printed on failure. */
json_t *cli_ask(const struct cli *cli, const char *vm, json_t *request);
/* The same, of which only success counts: the exit code. With --json the answer is printed. */
int cli_tell(const struct cli *cli, const char *vm, json_t *request);

/* A process's streams between here and the VM until it is over. */
struct cli_io {
	const char *vm, *process;
	bool in, tty, err;
	bool follow; /* until the end, else what there is */
	bool wait;   /* for the exit code, which is then returned */
};
int cli_io(const struct cli *cli, const struct cli_io *io);

/* Numbers of a command line. */
int cli_number(const char *text, long min, long max, long *ret);

#endif
