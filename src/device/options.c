/* SPDX-License-Identifier: MIT */
#include "options.h"
#include "config.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

const char dev_options_help[] =
	"Usage: holdfastd --vm guest-cid=CID,socket=PATH,uds-path=PATH[,KEY=VALUE...] [OPTION...]\n"
	"       holdfastd --guest-cid CID --socket PATH --uds-path PATH [OPTION...]\n"
	"\n"
	"The virtio-vsock device of virtual machines, over vhost-user. A guest's connection to "
	"host\n"
	"port P arrives at the Unix socket UDS-PATH_P; a host program connects to UDS-PATH and\n"
	"writes 'CONNECT P\\n' to reach port P of the guest.\n"
	"\n"
	"  --vm KEY=VALUE,...     a virtual machine; may be given up to 64 times. Keys:\n"
	"                           guest-cid=CID        the guest's context id, 3 by default\n"
	"                           socket=PATH          vhost-user socket to listen on\n"
	"                           uds-path=PATH        host side, see above\n"
	"                           name=NAME            for control and log; vm<CID> by default\n"
	"                           tx-buffer-size=BYTES how far a guest may send ahead (262144)\n"
	"                           queue-size=N         largest ring accepted (1024)\n"
	"                           groups=A[+B...]      guests of a common group reach one "
	"another\n"
	"                           outer-cid=CID        what the host knows the guest as, when "
	"its\n"
	"                                                own id is taken here\n"
	"                           port=PORTS:POLICY    PORTS: 1024 or 2000-2999; up to 64 times\n"
	"                           default=POLICY       what a migration does with connections "
	"of\n"
	"                                                these host ports: reattach (an "
	"application\n"
	"                                                claims them; by default), relay (it "
	"stays,\n"
	"                                                see --link) or reset\n"
	"                           mode=OCTAL, owner=UID[:GID]  of its sockets; 0600, its own\n"
	"                           allow-uid=UID[+UID...]  users whose programs may connect\n"
	"                           guest-ports=FROM-TO+...  what they may reach, as 22+80; all\n"
	"                           host-ports=FROM-TO+...   what the guest may, as 1024-2000; "
	"all\n"
	"                           max-connections=N    at once\n"
	"                           rate-bytes=N, rate-connections=N  per second\n"
	"                           forward-cid=CID      the guest's connections go to AF_VSOCK "
	"ports\n"
	"                                                of this CID, as 1, instead of UDS-PATH_P\n"
	"                           forward-listen=P[+P...]  AF_VSOCK ports of this machine that "
	"lead to\n"
	"                                                the guest's, for clients of that CID\n"
	"  --guest-cid, --socket, --uds-path, --tx-buffer-size, --queue-size, --groups,\n"
	"  --forward-cid, --forward-listen\n"
	"                         the same for a single virtual machine, instead of --vm\n"
	"  --socket-path PATH     another name for --socket\n"
	"  --fd N                 the vhost-user socket is descriptor N, listening or connected,\n"
	"                         instead of --socket\n"
	"  --config FILE          YAML: 'vms', a list with the keys of --vm, and control, "
	"metrics,\n"
	"                         user, sandbox_dir, claim_timeout, link, link_peer, link_tls,\n"
	"                         link_timeout, poll_us, log_level, log_format\n"
	"  --control PATH         control socket (JSON lines)\n"
	"  --metrics WHERE        counters as Prometheus text, at a path or a TCP port of the\n"
	"                         loopback: PORT, 127.0.0.1:PORT, [::1]:PORT\n"
	"  --link WHERE           where other holdfastds reach this one, to relay connections of "
	"VMs\n"
	"                         that have moved: unix:/PATH, tcp:IP:PORT or tcp:[IP6]:PORT\n"
	"  --link-peer WHERE      another holdfastd whose guests ours may reach, by groups=; may "
	"be "
	"given\n"
	"                         up to 8 times, in one of the two or in both\n"
	"  --link-tls HOW         for links over TCP: psk:FILE, or x509:CERT,KEY,CA\n"
	"  --link-timeout TIME    how long a relayed connection lives without its link; 10s by\n"
	"                         default\n"
	"  --claim-timeout TIME   how long a loaded connection waits for its application once the\n"
	"                         guest runs; '5s' or '250ms', 5s by default\n"
	"  --poll-us N            most microseconds to look for an answer before going to sleep;\n"
	"                         32 by default, 0 never\n"
	"  --user USER[:GROUP]    run as this user; only root can\n"
	"  --sandbox-dir DIR      sockets may be made below DIR as well, for VMs that are added\n"
	"                         later; may be given up to 16 times\n"
	"  --no-sandbox           without the filter of system calls, Landlock, and with all\n"
	"                         privileges; to debug\n"
	"  --takeover PATH        go on in place of the holdfastd whose control socket this is\n"
	"  --detach               with --takeover: return when that is done\n"
	"  --log-level LEVEL      error, warning, info, debug or trace; info by default\n"
	"  --log-format FORMAT    text or json; text by default\n"
	"  --print-capabilities   print a JSON object for vhost-user front ends and exit\n"
	"  --help, --version      print this or the version and exit\n"
	"\n"
	"Stays in the foreground, logs to standard error, ends on SIGTERM or SIGINT.\n"
	"Exit status: 0 ended as asked, 1 failed, 2 wrong command line, 3 sandbox.\n";

const char dev_options_capabilities[] =
	"{\n  \"type\": \"vsock\",\n  \"features\": [\"migrate-precopy\"]\n}\n";

static int parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret_v)
{
	char *end;
	if (text[0] < '0' || text[0] > '9')
		return -EINVAL;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || v < min || v > max)
		return -EINVAL;
	*ret_v = (uint32_t)v;
	return 0;
}

static int take_u32(const char *key, const char *text, uint32_t min, uint32_t max, uint32_t *ret_v,
	struct hf_err *reterr)
{
	if (parse_u32(text, min, max, ret_v) < 0)
		return hf_err_set(
			reterr, -EINVAL, "%s=%s: want a number from %u to %u", key, text, min, max);
	return 0;
}

static int take_text(
	const char *key, const char *text, size_t max, char *ret_text, struct hf_err *reterr)
{
	size_t n = strlen(text);
	if (n == 0)
		return hf_err_set(reterr, -EINVAL, "%s: must not be empty", key);
	if (n > max)
		return hf_err_set(reterr, -EINVAL, "%s=%s: %zu bytes too long; at most %zu", key,
			text, n - max, max);
	memcpy(ret_text, text, n + 1);
	return 0;
}

static int take_name(const char *text, char *ret_name, struct hf_err *reterr)
{
	static const char allowed[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	if (text[strspn(text, allowed)] != '\0')
		return hf_err_set(
			reterr, -EINVAL, "name=%s: want letters, digits, '.', '_', '-'", text);
	return take_text("name", text, DEV_NAME_MAX, ret_name, reterr);
}

/* Context ids that never belong to a guest (virtio 1.2, 5.10.4): 0, 1, 2 and 0xffffffff. */
static int take_cid(const char *key, const char *text, uint32_t *ret_cid, struct hf_err *reterr)
{
	return take_u32(key, text, 3, UINT32_MAX - 1, ret_cid, reterr);
}

static int take_queue_size(const char *text, uint32_t *ret_size, struct hf_err *reterr)
{
	int r = take_u32("queue-size", text, 1, DEV_QUEUE_SIZE_MAX, ret_size, reterr);
	if (r == 0 && (*ret_size & (*ret_size - 1)) != 0)
		r = hf_err_set(reterr, -EINVAL, "queue-size=%s: want a power of two", text);
	return r;
}

static int take_groups(const char *text, char *ret_groups, struct hf_err *reterr)
{
	size_t n = strlen(text);
	if (n == 0 || text[0] == '+' || text[n - 1] == '+' || strstr(text, "++"))
		return hf_err_set(reterr, -EINVAL, "groups=%s: want A or A+B...", text);
	return take_text("groups", text, DEV_GROUPS_MAX, ret_groups, reterr);
}

/* "9001+9002" */
static int take_listen(const char *text, struct dev_forward *f, struct hf_err *reterr)
{
	f->n_listen = 0;
	for (const char *p = text;; p++) {
		char *end;
		errno = 0;
		unsigned long long port = strtoull(p, &end, 10);
		bool bad = *p < '0' || *p > '9' || errno != 0 || port >= UINT32_MAX ||
			   (*end != '\0' && *end != '+') || f->n_listen == DEV_FORWARDS_MAX;
		for (size_t i = 0; i < f->n_listen; i++)
			bad |= f->listen[i] == port;
		if (bad)
			return hf_err_set(reterr, -EINVAL,
				"forward-listen=%s: want PORT[+PORT...], at most %d different ones",
				text, DEV_FORWARDS_MAX);
		f->listen[f->n_listen++] = (uint32_t)port;
		p = end;
		if (*p == '\0')
			return 0;
	}
}

uint32_t dev_forward_listen_cid(const struct dev_forward *f)
{
	return f->cid == DEV_CID_LOCAL ? f->cid : DEV_CID_ANY;
}

bool dev_forward_takes(const struct dev_forward *f, uint32_t client_cid)
{
	return f->cid != 0 && client_cid == f->cid;
}

/* Is the group of n bytes in the list? */
static bool in_groups(const char *groups, const char *name, size_t n)
{
	for (const char *p = groups; *p; p += strcspn(p, "+"), p += *p == '+')
		if (strcspn(p, "+") == n && memcmp(p, name, n) == 0)
			return true;
	return false;
}

bool dev_options_in_group(const struct dev_vm_options *vm, const char *groups)
{
	for (const char *p = groups; *p; p += strcspn(p, "+"), p += *p == '+')
		if (in_groups(vm->groups, p, strcspn(p, "+")))
			return true;
	return false;
}

bool dev_options_share_group(const struct dev_vm_options *a, const struct dev_vm_options *b)
{
	return dev_options_in_group(b, a->groups);
}

static const char *const vm_keys = "guest-cid, socket, uds-path, name, tx-buffer-size, queue-size, "
				   "groups, outer-cid, port, default, mode, owner, allow-uid, "
				   "guest-ports, host-ports, max-connections, "
				   "rate-bytes, rate-connections, forward-cid, "
				   "forward-listen";

/* "1024:reattach" or "2000-2999:relay" */
static int take_policy(const char *value, struct dev_policies *p, struct hf_err *reterr)
{
	char ports[32];
	const char *policy = strchr(value, ':');
	size_t n = policy ? (size_t)(policy - value) : sizeof(ports);
	if (n >= sizeof(ports))
		return hf_err_set(reterr, -EINVAL,
			"port=%s: want PORTS:POLICY, as 1024:reattach or 2000-2999:relay", value);
	memcpy(ports, value, n);
	ports[n] = '\0';
	return dev_policy_set(p, ports, policy + 1, reterr);
}

static int take_key(
	struct dev_vm_options *vm, const char *key, const char *value, struct hf_err *reterr)
{
	if (strcmp(key, "guest-cid") == 0)
		return take_cid(key, value, &vm->guest_cid, reterr);
	if (strcmp(key, "outer-cid") == 0)
		return take_cid(key, value, &vm->outer_cid, reterr);
	if (strcmp(key, "port") == 0)
		return take_policy(value, &vm->policies, reterr);
	if (strcmp(key, "default") == 0)
		return dev_policy_set(&vm->policies, key, value, reterr);
	if (strcmp(key, "socket") == 0)
		return take_text(key, value, DEV_PATH_MAX, vm->socket, reterr);
	if (strcmp(key, "uds-path") == 0)
		return take_text(key, value, DEV_UDS_PATH_MAX, vm->uds_path, reterr);
	if (strcmp(key, "name") == 0)
		return take_name(value, vm->name, reterr);
	if (strcmp(key, "tx-buffer-size") == 0)
		return take_u32(key, value, DEV_TX_BUFFER_MIN, DEV_TX_BUFFER_MAX,
			&vm->tx_buffer_size, reterr);
	if (strcmp(key, "queue-size") == 0)
		return take_queue_size(value, &vm->queue_size, reterr);
	if (strcmp(key, "groups") == 0)
		return take_groups(value, vm->groups, reterr);
	if (strcmp(key, "forward-cid") == 0)
		return take_u32(
			key, value, DEV_CID_LOCAL, UINT32_MAX - 1, &vm->forward.cid, reterr);
	if (strcmp(key, "forward-listen") == 0)
		return take_listen(value, &vm->forward, reterr);
	int r = dev_guard_set(&vm->guard, key, value, reterr);
	if (r != -ENOKEY)
		return r;
	return hf_err_set(reterr, -EINVAL, "unknown key '%s'; known: %s", key, vm_keys);
}

int dev_options_vm_set(
	struct dev_vm_options *vm, const char *key, const char *value, struct hf_err *reterr)
{
	size_t n_key = strlen(key) + 1, n_value = strlen(value) + 1;
	if (n_key + n_value > sizeof(vm->given) - vm->given_len)
		return hf_err_set(reterr, -EINVAL, "%s: the keys of a VM have more than %d bytes",
			key, DEV_GIVEN_MAX);
	int r = take_key(vm, key, value, reterr);
	if (r < 0)
		return r;
	memcpy(vm->given + vm->given_len, key, n_key);
	memcpy(vm->given + vm->given_len + n_key, value, n_value);
	vm->given_len += n_key + n_value;
	return 0;
}

struct dev_vm_options dev_options_vm_default(void)
{
	return (struct dev_vm_options){ .fd = -1,
		.guest_cid = 3,
		.tx_buffer_size = DEV_TX_BUFFER_DEFAULT,
		.queue_size = DEV_QUEUE_SIZE_MAX,
		.guard = dev_guard_default() };
}

int dev_options_vm_check(struct dev_vm_options *vm, struct hf_err *reterr)
{
	if (vm->fd >= 0 && vm->socket[0] != '\0')
		return hf_err_set(reterr, -EINVAL, "give either socket or --fd, not both");
	if (vm->fd < 0 && vm->socket[0] == '\0')
		return hf_err_set(reterr, -EINVAL, "socket=PATH is missing: QEMU connects to it");
	if (vm->uds_path[0] == '\0' && vm->forward.cid == 0)
		return hf_err_set(reterr, -EINVAL,
			"uds-path=PATH is missing: host programs connect to it; or give "
			"forward-cid=CID");
	if (vm->forward.n_listen > 0 && vm->forward.cid == 0)
		return hf_err_set(reterr, -EINVAL,
			"forward-listen: give forward-cid=CID as well: clients of that CID are "
			"taken");
	if (vm->forward.n_listen > 0 && vm->guard.n_uids > 0)
		return hf_err_set(reterr, -EINVAL,
			"allow-uid and forward-listen: an AF_VSOCK client has no user; give one of "
			"them");
	if (vm->name[0] == '\0')
		(void)snprintf(vm->name, sizeof(vm->name), "vm%u", dev_options_cid(vm)); /* fits */
	return 0;
}

static int vm_parse(const char *text, struct dev_vm_options *vm, struct hf_err *reterr)
{
	HF_CLEANUP(hf_freep) char *copy = strdup(text);
	if (!copy)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	for (char *next = copy, *pair; (pair = strsep(&next, ",")) != NULL;) {
		char *value = strchr(pair, '=');
		if (!value)
			return hf_err_set(
				reterr, -EINVAL, "'%s' is not KEY=VALUE; keys: %s", pair, vm_keys);
		*value++ = '\0';
		int r = dev_options_vm_set(vm, pair, value, reterr);
		if (r < 0)
			return r;
	}
	return dev_options_vm_check(vm, reterr);
}

/* "5s", "250ms" or plain seconds. */
static int take_duration(const char *key, const char *text, unsigned *ret_ms, struct hf_err *reterr)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(text, &end, 10);
	unsigned unit = strcmp(end, "ms") == 0 ? 1 : 1000;
	bool known = *end == '\0' || strcmp(end, "s") == 0 || unit == 1;
	if (errno != 0 || end == text || text[0] == '-' || !known ||
		v > DEV_CLAIM_TIMEOUT_MS_MAX / unit)
		return hf_err_set(reterr, -EINVAL,
			"--%s %s: want a time up to an hour, as 5s or 250ms", key, text);
	*ret_ms = (unsigned)v * unit;
	return 0;
}

enum {
	OPT_VM = 256,
	OPT_FD,
	OPT_SOCKET_PATH,
	OPT_CONTROL,
	OPT_CLAIM_TIMEOUT,
	OPT_LINK,
	OPT_LINK_PEER,
	OPT_LINK_TLS,
	OPT_LINK_TIMEOUT,
	OPT_POLL_US,
	OPT_CONFIG,
	OPT_METRICS,
	OPT_USER,
	OPT_SANDBOX_DIR,
	OPT_NO_SANDBOX,
	OPT_TAKEOVER,
	OPT_DETACH,
	OPT_LOG_LEVEL,
	OPT_LOG_FORMAT,
	OPT_VM_KEY, /* an option named as its key in --vm */
	OPT_HELP,
	OPT_VERSION,
	OPT_CAPABILITIES
};

static const struct option long_options[] = {
	{ "vm", required_argument, NULL, OPT_VM },
	{ "guest-cid", required_argument, NULL, OPT_VM_KEY },
	{ "socket", required_argument, NULL, OPT_VM_KEY },
	{ "uds-path", required_argument, NULL, OPT_VM_KEY },
	{ "tx-buffer-size", required_argument, NULL, OPT_VM_KEY },
	{ "queue-size", required_argument, NULL, OPT_VM_KEY },
	{ "groups", required_argument, NULL, OPT_VM_KEY },
	{ "name", required_argument, NULL, OPT_VM_KEY },
	{ "forward-cid", required_argument, NULL, OPT_VM_KEY },
	{ "forward-listen", required_argument, NULL, OPT_VM_KEY },
	{ "socket-path", required_argument, NULL, OPT_SOCKET_PATH },
	{ "fd", required_argument, NULL, OPT_FD },
	{ "control", required_argument, NULL, OPT_CONTROL },
	{ "claim-timeout", required_argument, NULL, OPT_CLAIM_TIMEOUT },
	{ "link", required_argument, NULL, OPT_LINK },
	{ "link-peer", required_argument, NULL, OPT_LINK_PEER },
	{ "link-tls", required_argument, NULL, OPT_LINK_TLS },
	{ "link-timeout", required_argument, NULL, OPT_LINK_TIMEOUT },
	{ "poll-us", required_argument, NULL, OPT_POLL_US },
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "metrics", required_argument, NULL, OPT_METRICS },
	{ "user", required_argument, NULL, OPT_USER },
	{ "sandbox-dir", required_argument, NULL, OPT_SANDBOX_DIR },
	{ "no-sandbox", no_argument, NULL, OPT_NO_SANDBOX },
	{ "takeover", required_argument, NULL, OPT_TAKEOVER },
	{ "detach", no_argument, NULL, OPT_DETACH },
	{ "log-level", required_argument, NULL, OPT_LOG_LEVEL },
	{ "log-format", required_argument, NULL, OPT_LOG_FORMAT },
	{ "print-capabilities", no_argument, NULL, OPT_CAPABILITIES },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ 0 },
};

static int take_log(int opt, const char *text, struct dev_options *o, struct hf_err *reterr)
{
	if (opt == OPT_LOG_LEVEL) {
		if (hf_log_level_parse(text, &o->log_level) < 0)
			return hf_err_set(reterr, -EINVAL,
				"--log-level %s: want error, warning, info, debug or trace", text);
		return 0;
	}
	if (strcmp(text, "text") != 0 && strcmp(text, "json") != 0)
		return hf_err_set(reterr, -EINVAL, "--log-format %s: want text or json", text);
	o->log_format = strcmp(text, "json") == 0 ? HF_LOG_JSON : HF_LOG_TEXT;
	return 0;
}

static int add_sandbox_dir(struct dev_options *o, const char *dir, struct hf_err *reterr)
{
	if (o->n_sandbox_dirs == DEV_SANDBOX_DIRS)
		return hf_err_set(reterr, -EINVAL, "--sandbox-dir: more than %d", DEV_SANDBOX_DIRS);
	o->sandbox_dir[o->n_sandbox_dirs++] = dir;
	return 0;
}

int dev_options_clash(
	const struct dev_vm_options *a, const struct dev_vm_options *b, struct hf_err *reterr)
{
	uint32_t cid = dev_options_cid(a);
	if (strcmp(a->name, b->name) == 0 || cid == dev_options_cid(b))
		return hf_err_set(reterr, -EEXIST,
			"name %s and guest-cid %u must each be given once; outer-cid gives a guest "
			"another id here",
			a->name, cid);
	for (size_t i = 0; i < a->forward.n_listen; i++)
		for (size_t j = 0; j < b->forward.n_listen; j++)
			if (a->forward.listen[i] == b->forward.listen[j])
				return hf_err_set(reterr, -EEXIST,
					"%s and %s must not share forward-listen port %u", b->name,
					a->name, a->forward.listen[i]);
	if ((a->uds_path[0] != '\0' && strcmp(a->uds_path, b->uds_path) == 0) ||
		(a->socket[0] != '\0' && strcmp(a->socket, b->socket) == 0))
		return hf_err_set(
			reterr, -EEXIST, "%s and %s must not share a path", b->name, a->name);
	return 0;
}

static int add_vm(struct dev_options *o, const char *text, struct hf_err *reterr)
{
	if (o->n_vms == DEV_VMS_MAX)
		return hf_err_set(reterr, -EINVAL, "--vm: more than %d; start another holdfastd",
			DEV_VMS_MAX);
	struct dev_vm_options *vm = &o->vm[o->n_vms++];
	*vm = dev_options_vm_default();
	int r = vm_parse(text, vm, reterr);
	return r < 0 ? hf_err_prefix(reterr, "--vm %s", text) : 0;
}

static int check_links(const struct dev_options *o, struct hf_err *reterr)
{
	if (o->n_link_peers > 0 && o->link[0] == '\0')
		return hf_err_set(reterr, -EINVAL, "--link-peer: give --link as well");
	if (strncmp(o->link, "tcp:", 4) == 0 && o->link_tls[0] == '\0')
		return hf_err_set(reterr, -EINVAL,
			"--link %s: a link that leaves the host carries nothing in the clear: give "
			"--link-tls psk:FILE or x509:CERT,KEY,CA",
			o->link);
	for (size_t i = 0; i < o->n_vms && o->link[0] == '\0'; i++)
		if (dev_policy_relays(&o->vm[i].policies))
			return hf_err_set(reterr, -EINVAL,
				"vm %s: the policy relay needs --link: the destination reaches the "
				"application over it",
				o->vm[i].name);
	return 0;
}

static int check_unique(const struct dev_options *o, struct hf_err *reterr)
{
	int r = 0;
	for (size_t i = 0; i < o->n_vms && r == 0; i++)
		for (size_t j = 0; j < i && r == 0; j++)
			r = dev_options_clash(&o->vm[i], &o->vm[j], reterr);
	return r < 0 ? hf_err_set(reterr, -EINVAL, "--vm: %s", reterr->text) : 0;
}

/* An upgrade of the program; what it shall do is known already. */
static int check_takeover(const struct dev_options *o, bool have_vm, struct hf_err *reterr)
{
	if (have_vm || o->n_vms > 0 || o->control[0] != '\0' || o->metrics[0] != '\0' ||
		o->n_sandbox_dirs > 0)
		return hf_err_set(reterr, -EINVAL,
			"--takeover: all is as the running holdfastd has it; give nothing else but "
			"--detach, --user and --no-sandbox");
	return 0;
}

static int finish(struct dev_options *o, struct dev_vm_options *single, bool have_single,
	struct hf_err *reterr)
{
	if (o->takeover)
		return check_takeover(o, have_single, reterr);
	if (o->detach)
		return hf_err_set(reterr, -EINVAL, "--detach: only with --takeover");
	if (have_single && o->n_vms > 0)
		return hf_err_set(reterr, -EINVAL,
			"give either --vm or the options of a single VM (--guest-cid, --socket, "
			"--uds-path, --fd), not both");
	if (have_single) {
		int r = dev_options_vm_check(single, reterr);
		if (r < 0)
			return r;
		o->vm[o->n_vms++] = *single;
	}
	if (o->n_vms == 0 && o->control[0] == '\0')
		return hf_err_set(reterr, -EINVAL,
			"no VM: give --vm guest-cid=CID,socket=PATH,uds-path=PATH, or --control to "
			"add one later; see --help");
	int r = check_links(o, reterr);
	return r < 0 ? r : check_unique(o, reterr);
}

static int take_link(const char *text, char *ret_address, struct hf_err *reterr)
{
	struct dev_address a;
	int r = dev_address_parse(text, &a, reterr);
	return r < 0 ? hf_err_prefix(reterr, "--link")
		     : take_text("link", text, DEV_ADDRESS_MAX, ret_address, reterr);
}

static int add_link_peer(struct dev_options *o, const char *text, struct hf_err *reterr)
{
	if (o->n_link_peers == DEV_LINK_PEERS_MAX)
		return hf_err_set(reterr, -EINVAL, "--link-peer: more than %d", DEV_LINK_PEERS_MAX);
	return take_link(text, o->link_peer[o->n_link_peers++], reterr);
}

/* What a configuration file may say as well; value may be kept. */
static int set_global(struct dev_options *o, int opt, const char *value, struct hf_err *reterr)
{
	switch (opt) {
	case OPT_CONTROL:
		return take_text("control", value, DEV_PATH_MAX, o->control, reterr);
	case OPT_CLAIM_TIMEOUT:
		return take_duration("claim-timeout", value, &o->claim_timeout_ms, reterr);
	case OPT_LINK:
		return take_link(value, o->link, reterr);
	case OPT_LINK_PEER:
		return add_link_peer(o, value, reterr);
	case OPT_LINK_TLS:
		return take_text("link-tls", value, DEV_LINK_TLS_MAX, o->link_tls, reterr);
	case OPT_LINK_TIMEOUT:
		return take_duration("link-timeout", value, &o->link_timeout_ms, reterr);
	case OPT_POLL_US:
		return take_u32("poll-us", value, 0, DEV_POLL_US_MAX, &o->poll_us, reterr);
	case OPT_METRICS:
		return take_text("metrics", value, DEV_PATH_MAX, o->metrics, reterr);
	case OPT_USER:
		return take_text("user", value, DEV_USER_MAX, o->user, reterr);
	case OPT_SANDBOX_DIR:
		return add_sandbox_dir(o, value, reterr);
	case OPT_LOG_LEVEL:
	case OPT_LOG_FORMAT:
		return take_log(opt, value, o, reterr);
	default:
		return -ENOKEY;
	}
}

static int from_config(void *ctx, const char *key, const char *value, struct hf_err *reterr)
{
	const struct option *l = long_options;
	while (l->name && strcmp(l->name, key) != 0)
		l++;
	bool stays = l->val == OPT_SANDBOX_DIR; /* as long as we live */
	const char *v = stays ? strdup(value) : value;
	if (!v)
		return hf_err_set(reterr, -ENOMEM, "out of memory");
	int r = set_global(ctx, l->val, v, reterr);
	if (stays && r < 0)
		free((void *)v);
	return r == -ENOKEY ? hf_err_set(reterr, -EINVAL, "unknown key '%s'", key) : r;
}

int dev_options_parse(struct dev_options *o, int argc, char **argv, struct hf_err *reterr)
{
	struct dev_vm_options single = dev_options_vm_default();
	bool have_single = false;
	uint32_t fd;
	int opt, index, r = 0;
	*o = (struct dev_options){ .claim_timeout_ms = DEV_CLAIM_TIMEOUT_MS,
		.link_timeout_ms = DEV_LINK_TIMEOUT_MS,
		.poll_us = DEV_POLL_US,
		.log_level = HF_LOG_INFO };
	optind = 0; /* a fresh scan, whatever was parsed before */
	opterr = 0;
	while (r == 0 && (opt = getopt_long(argc, argv, "+", long_options, &index)) != -1) {
		switch (opt) {
		case OPT_VM:
			r = add_vm(o, optarg, reterr);
			break;
		case OPT_VM_KEY:
			have_single = true;
			r = dev_options_vm_set(&single, long_options[index].name, optarg, reterr);
			break;
		case OPT_SOCKET_PATH:
			have_single = true;
			r = dev_options_vm_set(&single, "socket", optarg, reterr);
			break;
		case OPT_FD:
			have_single = true;
			r = take_u32("fd", optarg, 3, 65535, &fd, reterr);
			single.fd = r < 0 ? -1 : (int)fd;
			break;
		case OPT_CONFIG:
			r = dev_config_read(optarg, o, from_config, o, reterr);
			break;
		case OPT_NO_SANDBOX:
			o->no_sandbox = true;
			break;
		case OPT_TAKEOVER:
			o->takeover = optarg;
			break;
		case OPT_DETACH:
			o->detach = true;
			break;
		case OPT_HELP:
			o->action = DEV_HELP;
			return 0;
		case OPT_VERSION:
			o->action = DEV_VERSION;
			return 0;
		case OPT_CAPABILITIES:
			o->action = DEV_CAPABILITIES;
			return 0;
		default:
			r = set_global(o, opt, optarg, reterr);
			if (r != -ENOKEY)
				break;
			return hf_err_set(reterr, -EINVAL,
				"%s: unknown option or missing value; see --help",
				argv[optind - 1]);
		}
	}
	if (r < 0)
		return r;
	if (optind < argc)
		return hf_err_set(
			reterr, -EINVAL, "%s: unexpected argument; see --help", argv[optind]);
	return finish(o, &single, have_single, reterr);
}
