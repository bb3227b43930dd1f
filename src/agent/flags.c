/* SPDX-License-Identifier: MIT */
#include "flags.h"
#include "bridge/reconnect.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

const char agt_flags_help[] =
	"usage: holdfast-agent [flags]\n"
	"\n"
	"The guest side of the GCS bridge: dials the host, runs containers and processes for it, "
	"and\n"
	"carries on when the connection is lost. As PID 1 it sets the system up first.\n"
	"Flags take one dash or two, as \"-flag value\" or \"-flag=value\".\n"
	"\n"
	"  -transport vsock|unix:BASE|stdio  how the host is reached: AF_VSOCK to CID 2, or the "
	"Unix\n"
	"                                    sockets BASE_<port>, or the bridge on standard input "
	"and\n"
	"                                    output and other ports over vsock (default vsock)\n"
	"  -reconnect-interval DURATION      between dials after a loss; the first comes at once\n"
	"                                    (10ms, 0.5s; default 10ms)\n"
	"  -runtime PROGRAM                  OCI runtime (default crun, else runc, from PATH)\n"
	"  -state DIR                        runtime state and sockets (default "
	"/run/holdfast-agent)\n"
	"  -modules FILE                     kernel modules to load as PID 1, one path per line\n"
	"                                    (default /etc/holdfast/modules)\n"
	"  -helpers FILE                     programs to keep running, one command per line\n"
	"                                    (default /etc/holdfast/helpers)\n"
	"  -on-shutdown COMMAND              under another init: what ends the machine when the\n"
	"                                    host asks for it (default: only the agent ends)\n"
	"  -e PORT                           take entropy from this port of the host (1) at start\n"
	"  -log-port PORT                    send the log to this port of the host (109)\n"
	"  -disable-time-sync                run no chronyd\n"
	"  -kmsgLogLevel N                   as PID 1: log the kernel's lines up to this priority\n"
	"                                    (default 4, warnings)\n"
	"  -hostname NAME                    to set as PID 1 (default holdfast)\n"
	"  -loglevel LEVEL                   error, warning, info, debug or trace (default info)\n"
	"  -log-format text|json             (default text)\n"
	"  -logfile FILE                     append the log there (default standard error)\n"
	"  -root-mem-reserve-bytes N         memory that containers may not use (default "
	"78643200)\n"
	"  -core-dump-location PATTERN       written to /proc/sys/kernel/core_pattern\n"
	"  -v4                               offer protocol version 4 (default true)\n"
	"  -use-inouterr                     bridge on standard input and output, other ports as\n"
	"                                    -transport says\n"
	"  -help, -version\n"
	"\n"
	"Accepted for hosts that pass them, without effect: -gcs-mem-limit-bytes, -scrub-logs,\n"
	"-initial-policy-stance.\n";

enum kind { BOOL, STRING, UINT, DURATION, LEVEL, FORMAT, TRANSPORT, IGNORED, IGNORED_BOOL };

static const struct flag {
	const char *name;
	enum kind kind;
	size_t offset;
} flags[] = {
	{ "transport", TRANSPORT, 0 },
	{ "reconnect-interval", DURATION, offsetof(struct agt_flags, reconnect_us) },
	{ "runtime", STRING, offsetof(struct agt_flags, runtime) },
	{ "state", STRING, offsetof(struct agt_flags, state_dir) },
	{ "modules", STRING, offsetof(struct agt_flags, modules) },
	{ "on-shutdown", STRING, offsetof(struct agt_flags, on_shutdown) },
	{ "e", UINT, offsetof(struct agt_flags, entropy_port) },
	{ "log-port", UINT, offsetof(struct agt_flags, log_port) },
	{ "helpers", STRING, offsetof(struct agt_flags, helpers) },
	{ "disable-time-sync", BOOL, offsetof(struct agt_flags, no_time_sync) },
	{ "kmsgLogLevel", UINT, offsetof(struct agt_flags, kmsg_level) },
	{ "hostname", STRING, offsetof(struct agt_flags, hostname) },
	{ "loglevel", LEVEL, offsetof(struct agt_flags, loglevel) },
	{ "log-format", FORMAT, offsetof(struct agt_flags, log_format) },
	{ "logfile", STRING, offsetof(struct agt_flags, logfile) },
	{ "root-mem-reserve-bytes", UINT, offsetof(struct agt_flags, root_mem_reserve) },
	{ "core-dump-location", STRING, offsetof(struct agt_flags, core_location) },
	{ "v4", BOOL, offsetof(struct agt_flags, v4) },
	{ "use-inouterr", BOOL, offsetof(struct agt_flags, use_inouterr) },
	{ "help", BOOL, offsetof(struct agt_flags, help) },
	{ "h", BOOL, offsetof(struct agt_flags, help) },
	{ "version", BOOL, offsetof(struct agt_flags, version) },
	{ "gcs-mem-limit-bytes", IGNORED, 0 },
	{ "scrub-logs", IGNORED_BOOL, 0 },
	{ "initial-policy-stance", IGNORED, 0 },
};

static const struct flag *find(const char *name, size_t len)
{
	for (size_t i = 0; i < HF_ARRAY_SIZE(flags); i++)
		if (strlen(flags[i].name) == len && !memcmp(flags[i].name, name, len))
			return &flags[i];
	return NULL;
}

static int parse_bool(const char *text, bool *ret)
{
	static const char *const yes[] = { "true", "1", "t" }, *const no[] = { "false", "0", "f" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(yes); i++) {
		if (!strcasecmp(text, yes[i]) || !strcasecmp(text, no[i])) {
			*ret = !strcasecmp(text, yes[i]);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_uint(const char *text, uint64_t *ret)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (errno || end == text || *end || text[0] == '-')
		return -EINVAL;
	*ret = v;
	return 0;
}

/* A number with one of Go's units; a bare number is milliseconds. 1 ms to 1 hour. */
static int parse_duration(const char *text, uint64_t *ret_us)
{
	static const struct {
		const char *unit;
		double us;
	} units[] = { { "ms", 1e3 }, { "", 1e3 }, { "us", 1 }, { "s", 1e6 }, { "m", 60e6 } };
	char *end;
	double v = strtod(text, &end);
	for (size_t i = 0; end != text && i < HF_ARRAY_SIZE(units); i++) {
		double us = v * units[i].us;
		if (strcmp(end, units[i].unit) || !(us >= 1e3 && us <= 3600e6))
			continue;
		*ret_us = (uint64_t)us;
		return 0;
	}
	return -EINVAL;
}

static int parse_transport(struct agt_flags *f, const char *text)
{
	if (!strcmp(text, "vsock"))
		return 0;
	if (!strcmp(text, "stdio")) {
		f->use_inouterr = true;
		return 0;
	}
	size_t n = strlen(text);
	if (strncmp(text, "unix:", 5) || n == 5 || n - 5 >= sizeof(f->transport.base))
		return -EINVAL;
	f->transport.unix_socket = true;
	memcpy(f->transport.base, text + 5, n - 4);
	return 0;
}

static int set(struct agt_flags *f, const struct flag *fl, const char *value, struct hf_err *reterr)
{
	void *at = (char *)f + fl->offset;
	bool ignored;
	switch (fl->kind) {
	case BOOL:
		if (parse_bool(value, at) < 0)
			return hf_err_set(reterr, -EINVAL, "true or false expected");
		break;
	case IGNORED_BOOL:
		if (parse_bool(value, &ignored) < 0)
			return hf_err_set(reterr, -EINVAL, "true or false expected");
		break;
	case STRING:
		*(const char **)at = value[0] ? value : NULL;
		break;
	case UINT:
		if (parse_uint(value, at) < 0)
			return hf_err_set(reterr, -EINVAL, "a whole number expected");
		break;
	case DURATION:
		if (parse_duration(value, at) < 0)
			return hf_err_set(reterr, -EINVAL, "a time from 1ms to 1h expected");
		break;
	case LEVEL:
		if (hf_log_level_parse(value, at) < 0)
			return hf_err_set(
				reterr, -EINVAL, "error, warning, info, debug or trace expected");
		break;
	case FORMAT:
		if (strcmp(value, "text") && strcmp(value, "json"))
			return hf_err_set(reterr, -EINVAL, "text or json expected");
		f->log_format = strcmp(value, "json") ? HF_LOG_TEXT : HF_LOG_JSON;
		break;
	case TRANSPORT:
		if (parse_transport(f, value) < 0)
			return hf_err_set(reterr, -EINVAL,
				"vsock, stdio or unix:BASE (at most %zu bytes) expected",
				sizeof(f->transport.base) - 1);
		break;
	case IGNORED:
		break;
	}
	return 0;
}

int agt_flags_parse(struct agt_flags *f, int argc, char *const argv[], struct hf_err *reterr)
{
	*f = (struct agt_flags){
		.v4 = true,
		.reconnect_us = BRG_RECONNECT_INTERVAL_US,
		.state_dir = "/run/holdfast-agent",
		.modules = "/etc/holdfast/modules",
		.hostname = "holdfast",
		.helpers = "/etc/holdfast/helpers",
		.kmsg_level = 4,
		.loglevel = HF_LOG_INFO,
		.root_mem_reserve = 78643200,
	};
	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		const char *name = arg + (arg[0] == '-') + (arg[0] == '-' && arg[1] == '-');
		size_t len = strcspn(name, "=");
		const struct flag *fl = name > arg ? find(name, len) : NULL;
		if (!fl)
			return hf_err_set(reterr, -EINVAL, "%s: no such flag; see -help", arg);
		const char *value = name[len] == '=' ? name + len + 1 : NULL;
		if (!value && (fl->kind == BOOL || fl->kind == IGNORED_BOOL))
			value = "true";
		else if (!value)
			value = ++i < argc ? argv[i] : NULL;
		if (!value)
			return hf_err_set(reterr, -EINVAL, "-%s: needs a value", fl->name);
		int r = set(f, fl, value, reterr);
		if (r < 0) {
			(void)hf_err_prefix(reterr, "-%s=%s", fl->name, value);
			return r;
		}
	}
	return 0;
}
