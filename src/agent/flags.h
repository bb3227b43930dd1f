/* SPDX-License-Identifier: MIT */
/*
 * flags.h - the command line, in the style of Go's flag package as hosts use it: one or two dashes,
 * "-flag value" or "-flag=value", booleans alone or "=true" and "=false".
 */
#ifndef AGT_FLAGS_H
#define AGT_FLAGS_H

#include "base/err.h"
#include "base/log.h"
#include "link/dial.h"

struct agt_flags {
	struct agt_transport transport;
	bool use_inouterr; /* the bridge is on standard input and output */
	bool v4;
	uint64_t reconnect_us;
	const char *runtime; /* NULL: crun, else runc, from PATH */
	const char *state_dir;
	const char *modules; /* file that lists kernel modules to load as PID 1 */
	const char *hostname;
	const char *helpers; /* file that lists programs to keep running */
	bool no_time_sync;
	const char *on_shutdown; /* command that ends the machine under another init, or NULL */
	uint64_t entropy_port, log_port; /* 0: none */
	uint64_t kmsg_level;
	enum hf_log_level loglevel;
	enum hf_log_format log_format;
	const char *logfile;       /* NULL: standard error */
	const char *core_location; /* written to core_pattern, NULL: left alone */
	uint64_t root_mem_reserve; /* bytes that containers may not have */
	bool help, version;
};

/* Fills the flags; -EINVAL with a text that names the flag. The strings stay argv's. */
int agt_flags_parse(struct agt_flags *f, int argc, char *const argv[], struct hf_err *reterr);

extern const char agt_flags_help[];

#endif
