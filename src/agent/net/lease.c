/* SPDX-License-Identifier: MIT */
#include "lease.h"
#include "adapter.h"
#include "agent/agent.h"
#include "agent/proc/monitor.h"
#include "agent/storage/tree.h"
#include "base/clock.h"
#include "base/fd.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define VAR_LEASE  "HOLDFAST_LEASE" /* "low" or "plain": this process is the script */
#define VAR_BUNDLE "HOLDFAST_LEASE_BUNDLE"
#define LEASED     "leased " /* how the line begins that says so */
#define YOUNG_S    8         /* udhcpc takes no lease for less than 16 s */

struct agt_lease {
	struct agt *a;
	struct agt_helper *helper;
	struct agt_timer *deadline;
	agt_leased_fn *fn; /* NULL: was called */
	void *arg;
	struct hf_err err; /* what the next turn tells */
	char interface[IF_NAMESIZE], netns[40], script[40];
	char var_lease[40], var_bundle[PATH_MAX + 40];
	const char *argv[16], *env[4];
};

/* There is something to tell. */
static void on_told(void *arg)
{
	struct agt_lease *l = arg;
	agt_leased_fn *fn = l->fn;
	void *fn_arg = l->arg;
	struct hf_err err = l->err;
	l->fn = NULL;
	if (!l->helper)
		agt_lease_stop(l); /* it was stopped before */
	if (fn)
		fn(fn_arg, &err);
}

static void on_line(void *arg, const char *line)
{
	struct agt_lease *l = arg;
	if (strncmp(line, LEASED, strlen(LEASED)))
		return;
	l->err = (struct hf_err){ 0 }; /* the next turn tells it */
	agt_timer_set(l->deadline, 0);
}

/* "/usr/sbin" is not everybody's PATH. */
static const char *path_variable(void)
{
	return "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
}

struct agt_lease *agt_lease_start(struct agt *a, const struct agt_lease_spec *spec,
	agt_leased_fn *fn, void *arg, struct hf_err *reterr)
{
	struct agt_lease *l = calloc(1, sizeof(*l));
	if (!l) {
		(void)hf_err_set(reterr, -ENOMEM, "IPConfigs: none, and no memory for a lease");
		return NULL;
	}
	*l = (struct agt_lease){ .a = a, .fn = fn, .arg = arg };
	(void)snprintf(l->interface, sizeof(l->interface), "%s", spec->interface);
	(void)snprintf(l->netns, sizeof(l->netns), "/proc/%d/ns/net", (int)spec->pid);
	(void)snprintf(l->script, sizeof(l->script), "/proc/%d/exe", (int)getpid());
	(void)snprintf(l->var_lease, sizeof(l->var_lease), VAR_LEASE "=%s",
		spec->low_metric ? "low" : "plain");
	(void)snprintf(l->var_bundle, sizeof(l->var_bundle), VAR_BUNDLE "=%s",
		spec->bundle ? spec->bundle : "");
	const char *argv[] = { "udhcpc", "-f", "-i", l->interface, "-s", l->script, "-t", "4", "-T",
		"2", "-A", "3", "-O", "search", "-O", "staticroutes", NULL };
	const char *env[] = { path_variable(), l->var_lease, l->var_bundle, NULL };
	memcpy(l->argv, argv, sizeof(argv));
	memcpy(l->env, env, sizeof(env));
	(void)hf_err_set(&l->err, -ETIMEDOUT,
		"IPConfigs: none, and no DHCP server gave %s a lease within %d s", l->interface,
		AGT_LEASE_WAIT_MS / 1000);
	const struct agt_helper_spec helper = {
		.argv = l->argv, .env = l->env, .netns = l->netns, .line = on_line, .arg = l
	};
	l->deadline = agt_timer_new(&a->loop, on_told, l);
	l->helper = l->deadline ? agt_helper_start(a, &helper, reterr) : NULL;
	if (!l->helper) {
		(void)hf_err_prefix(reterr, "IPConfigs: none, and no lease");
		l->fn = NULL;
		agt_lease_stop(l);
		return NULL;
	}
	agt_timer_set(l->deadline, AGT_LEASE_WAIT_MS);
	return l;
}

void agt_lease_stop(struct agt_lease *l)
{
	if (!l)
		return;
	agt_helper_stop(l->helper);
	l->helper = NULL;
	if (l->fn) {
		(void)hf_err_set(&l->err, -ECANCELED, "%s: was removed meanwhile", l->interface);
		agt_timer_set(l->deadline, 0);
		return;
	}
	agt_timer_free(l->deadline);
	free(l);
}

/* --- The script: a process of its own, with what the server said in its environment --- */

bool agt_lease_is_script(void)
{
	return getenv(VAR_LEASE) != NULL;
}

static const char *variable(const char *name)
{
	const char *v = getenv(name);
	return v ? v : "";
}

/* The word at the position, cut to what a name or an address may have. False: no more. */
static bool next_word(const char **text, char *word, size_t cap)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:_/";
	*text += strspn(*text, " \t");
	size_t n = strcspn(*text, " \t"), i = 0;
	for (; i < n && i < cap - 1 && strchr(allowed, (*text)[i]); i++)
		word[i] = (*text)[i];
	word[i] = '\0';
	*text += n;
	return n > 0;
}

/* What the server's names are good for. In place: containers have the file mounted. */
static void write_names(const char *bundle)
{
	char word[256];
	struct hf_err err;
	HF_CLEANUP(fd_closep) int dir = -1;
	const char *dns = variable("dns");
	const char *search = variable("search")[0] ? variable("search") : variable("domain");
	if (!bundle[0] || agt_tree_open(bundle, 0, &dir, &err) < 0)
		return; /* the container takes no names, or has gone */
	int fd = openat(dir, "resolv.conf", O_WRONLY | O_TRUNC | O_NOFOLLOW | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	if (!f) {
		fd_closep(&fd);
		return; /* it has none: its image's stays */
	}
	while (next_word(&dns, word, sizeof(word)))
		(void)fprintf(f, "nameserver %s\n", word); /* looked at when closed */
	for (int i = 0; next_word(&search, word, sizeof(word)); i++)
		(void)fprintf(f, "%s%s", i ? " " : "search ", word);
	if (fprintf(f, "\n") < 0 || fclose(f) != 0)
		(void)printf("resolv.conf: %s\n", strerror(errno));
}

/* Takes away the address that the interface has, and with it its routes; none is fine. */
static void clear(const char *interface, const struct agt_ip *unless)
{
	struct ifreq ifr = { .ifr_addr.sa_family = AF_INET };
	struct sockaddr_in *at = (void *)&ifr.ifr_addr;
	HF_CLEANUP(fd_closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	(void)snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", interface);
	if (fd < 0 || ioctl(fd, SIOCGIFADDR, &ifr) < 0 ||
		(unless && !memcmp(&at->sin_addr, unless->bytes, 4)))
		return;
	at->sin_addr.s_addr = 0;
	if (ioctl(fd, SIOCSIFADDR, &ifr) < 0)
		(void)printf("%s: the old address stays: %s\n", interface, strerror(errno));
}

/* "10.0.0.0/8 10.1.0.1 ...": where to, and the router, 0.0.0.0 on the link. With such a list the
 * server's one router does not count (RFC 3442). */
static int read_static_routes(const char *text, struct agt_adapter *ad)
{
	char to[64], via[64];
	while (next_word(&text, to, sizeof(to))) {
		if (ad->n_routes == AGT_ROUTES_MAX)
			return -E2BIG;
		struct agt_route *r = &ad->route[ad->n_routes++];
		if (!strchr(to, '/') || agt_ip_parse(to, &r->to) < 0 || r->to.family != AF_INET ||
			!next_word(&text, via, sizeof(via)) || agt_ip_parse(via, &r->via) < 0 ||
			r->via.family != AF_INET)
			return -EINVAL;
		for (unsigned bit = r->to.prefix; bit < 32; bit++) /* the kernel takes no others */
			r->to.bytes[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
		if (agt_ip_is_zero(&r->via))
			r->via = (struct agt_ip){ 0 };
	}
	return 0;
}

int agt_lease_read(struct agt_adapter *ad)
{
	char word[64];
	const char *mask = variable("mask"), *router = variable("router");
	const char *routes = variable("staticroutes");
	char *end;
	unsigned long bits = strtoul(mask, &end, 10);
	*ad = (struct agt_adapter){ .low_metric = !strcmp(variable(VAR_LEASE), "low") };
	if (agt_ip_parse(variable("ip"), &ad->address[0]) < 0 || ad->address[0].family != AF_INET ||
		*end || bits > 32)
		return -EINVAL;
	ad->address[0].prefix = (uint8_t)(end == mask ? 32 : bits);
	ad->n_addresses = 1;
	if (routes[0])
		return read_static_routes(routes, ad);
	if (!next_word(&router, word, sizeof(word)))
		return 0;
	ad->route[0].to.family = AF_INET;
	if (agt_ip_parse(word, &ad->route[0].via) < 0 || ad->route[0].via.family != AF_INET)
		return -EINVAL;
	ad->n_routes = 1;
	return 0;
}

/* Whether udhcpc, our parent, began less than YOUNG_S ago: it has had no lease yet that could have
 * run out. */
static bool client_is_young(void)
{
	char path[32], text[1024], *p;
	unsigned long long began = 0;
	(void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)getppid());
	if (fd_read_line(path, text, sizeof(text)) < 0 || !(p = strrchr(text, ')')))
		return false;
	/* starttime: the 20th after the name, which may hold anything */
	for (int i = 0; i < 20 && p; i++)
		p = strchr(p + 1, ' ');
	if (!p || sscanf(p, "%llu", &began) != 1)
		return false;
	return hf_clock_us(CLOCK_BOOTTIME) / 1000000 <
	       began / (unsigned long)sysconf(_SC_CLK_TCK) + YOUNG_S;
}

/* argv[1] is the event: deconfig, bound, renew, nak or leasefail. */
int agt_lease_script(int argc, char *const argv[])
{
	struct hf_err err = { 0 };
	struct agt_adapter ad;
	const char *event = argc > 1 ? argv[1] : "", *interface = variable("interface");
	unsigned index = if_nametoindex(interface);
	/* What a client finds when it begins is the address that the one before it had, who was
	 * killed, perhaps with the agent: in use until the server says something else, or nothing.
	 */
	if ((!strcmp(event, "deconfig") && !client_is_young()) || !strcmp(event, "leasefail"))
		clear(interface, NULL);
	if (strcmp(event, "bound") && strcmp(event, "renew"))
		return EXIT_SUCCESS;
	if (agt_lease_read(&ad) < 0 || !index) {
		(void)printf(
			"lease of \"%.60s\" on \"%.20s\": not usable\n", variable("ip"), interface);
		return EXIT_FAILURE;
	}
	clear(interface, &ad.address[0]);
	if (agt_adapter_apply(&ad, index, &err) < 0) {
		(void)printf("lease of %.60s: %s\n", variable("ip"), err.text);
		return EXIT_FAILURE;
	}
	write_names(variable(VAR_BUNDLE));
	(void)printf(LEASED "%.60s/%u, %s\n", variable("ip"), ad.address[0].prefix, event);
	return EXIT_SUCCESS;
}
