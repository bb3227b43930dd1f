/* SPDX-License-Identifier: MIT */
/* start.h - what `run` and `exec` have in common. */
#ifndef HF_CLI_START_H
#define HF_CLI_START_H

#include "cli.h"

#define CLI_START_HELP                                                                             \
	"  -i           give our standard input to the process\n"                                  \
	"  -t           give it a terminal\n"                                                      \
	"  -d           do not wait: print the process's name\n"                                   \
	"  -e NAME=VALUE  add to its environment\n"                                                \
	"  -w DIR       its working folder, / by default\n"                                        \
	"  -u UID[:GID]  its user, 0 by default\n"

int cli_start(const struct cli_verb *verb, const char *cmd, struct cli *cli, int argc, char **argv);

#endif
