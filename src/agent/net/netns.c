/* SPDX-License-Identifier: MIT */
#include "netns.h"
#include "agent/agent.h"
#include "agent/keep/restore.h"
#include "base/log.h"
#include "lease.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* What an adapter is called in its container, kept with its settings. */
#define INTERFACE "HoldfastInterface"

struct agt_netns *agt_netns_find(struct agt *a, const char *id)
{
	hf_list_for_each (l, &a->namespaces) {
		struct agt_netns *ns = HF_CONTAINER_OF(l, struct agt_netns, link);
		if (!strcasecmp(ns->id, id))
			return ns;
	}
	return NULL;
}

/* The adapter's place; n when it has none. */
static size_t index_of(const struct agt_netns *ns, const char *adapter)
{
	size_t i = 0;
	while (i < ns->n && strcasecmp(ns->adapter[i].id, adapter))
		i++;
	return i;
}

void agt_netns_put(struct agt *a, const struct agt_netns *ns)
{
	json_t *adapters = json_array();
	for (size_t i = 0; i < ns->n; i++)
		(void)json_array_append_new(adapters,
			json_pack("{s:s, s:O}", "id", ns->adapter[i].id, "settings",
				ns->adapter[i].settings)); /* without memory one is missing */
	agt_state_put(&a->state, "netns", ns->id,
		json_pack("{s:s*, s:o}", "user", ns->user ? ns->user->id : NULL, "adapters",
			adapters));
}

/* The adapter's lease, if it takes one: 1, 0 when it does not, or -errno. */
static int lease(struct agt *a, struct agt_netns *ns, size_t i, pid_t pid, agt_leased_fn *fn,
	void *arg, struct hf_err *reterr)
{
	struct agt_adapter ad;
	struct agt_fields f = { .obj = ns->adapter[i].settings, .prefix = "Settings." };
	const char *interface = agt_field_string(&f, INTERFACE, "");
	agt_adapter_read(&f, &ad);
	if (ad.n_addresses > 0 || !interface[0])
		return 0;
	const struct agt_lease_spec spec = { .pid = pid,
		.interface = interface,
		.bundle = ns->user && !ad.dns_servers[0] ? ns->user->bundle : NULL,
		.low_metric = ad.low_metric };
	agt_lease_stop(ns->adapter[i].lease);
	ns->adapter[i].lease = agt_lease_start(a, &spec, fn, arg, reterr);
	return ns->adapter[i].lease ? 1 : reterr->code;
}

static void end_unused(struct agt *a, struct agt_netns *ns)
{
	if (ns->n > 0 || ns->user) {
		agt_netns_put(a, ns);
		return;
	}
	agt_state_put(&a->state, "netns", ns->id, NULL);
	hf_list_remove(&ns->link);
	a->n_namespaces--;
	free(ns);
}

static struct agt_netns *begin(struct agt *a, const char *id)
{
	struct agt_netns *ns = a->n_namespaces < AGT_NETNS_MAX ? calloc(1, sizeof(*ns)) : NULL;
	if (!ns)
		return NULL;
	(void)snprintf(ns->id, sizeof(ns->id), "%s", id);
	hf_list_append(&a->namespaces, &ns->link);
	a->n_namespaces++;
	return ns;
}

int agt_netns_add(
	struct agt *a, const struct agt_adapter *ad, json_t *settings, struct agt_netns **ret)
{
	struct agt_netns *ns = agt_netns_find(a, ad->namespace_id);
	if (!ns)
		ns = begin(a, ad->namespace_id);
	if (!ns)
		return -ENOSPC;
	if (index_of(ns, ad->id) < ns->n)
		return -EEXIST;
	if (ns->n == AGT_ADAPTERS_MAX)
		return -ENOSPC;
	json_t *copy = json_deep_copy(settings);
	if (!copy) {
		end_unused(a, ns);
		return -ENOMEM;
	}
	if (ns->n > 0)
		json_object_set_new(copy, "EnableLowMetric", json_true());
	(void)snprintf(ns->adapter[ns->n].id, sizeof(ns->adapter[0].id), "%s", ad->id);
	ns->adapter[ns->n].lease = NULL;
	ns->adapter[ns->n++].settings = copy;
	agt_netns_put(a, ns);
	*ret = ns;
	return 0;
}

static void restore(struct agt_heir *h, const char *id, json_t *o)
{
	struct agt_fields f = { .obj = o, .prefix = "netns." };
	const char *user = agt_field_string(&f, "user", NULL);
	json_t *adapters = agt_field_array(&f, "adapters"), *v;
	struct agt_netns *ns = strlen(id) < sizeof(ns->id) ? begin(h->a, id) : NULL;
	size_t i;
	if (!ns || f.err.code != 0 || json_array_size(adapters) > AGT_ADAPTERS_MAX)
		agt_heir_refuse(h, "netns");
	ns->user = user ? agt_container_find(h->a, user) : NULL;
	json_array_foreach (adapters, i, v) {
		const char *name = json_string_value(json_object_get(v, "id"));
		json_t *settings = json_object_get(v, "settings");
		if (!name || strlen(name) >= sizeof(ns->adapter[i].id) ||
			!json_is_object(settings)) {
			agt_heir_refuse(h, "netns");
			return;
		}
		(void)snprintf(ns->adapter[i].id, sizeof(ns->adapter[i].id), "%s", name);
		ns->adapter[i].settings = json_incref(settings);
		ns->n++;
	}
	/* the clients went with the agent */
	pid_t pid = ns->user && ns->user->init ? ns->user->init->pid : 0;
	for (i = 0; pid && i < ns->n; i++) {
		struct hf_err err = { 0 };
		if (lease(h->a, ns, i, pid, NULL, NULL, &err) < 0)
			hf_warn("adapter %s: %s", ns->adapter[i].id, err.text);
	}
}

void agt_netns_restore(struct agt_heir *h)
{
	agt_heir_each(h, "netns", restore);
}

void agt_netns_remove(struct agt *a, const char *id, const char *adapter)
{
	struct agt_netns *ns = agt_netns_find(a, id);
	size_t i = ns ? index_of(ns, adapter) : 0;
	if (!ns || i == ns->n)
		return;
	json_decref(ns->adapter[i].settings);
	agt_lease_stop(ns->adapter[i].lease);
	memmove(&ns->adapter[i], &ns->adapter[i + 1], (--ns->n - i) * sizeof(ns->adapter[0]));
	end_unused(a, ns);
}

void agt_netns_let_go(struct agt *a, const struct agt_container *c)
{
	hf_list_for_each_safe (l, &a->namespaces) {
		struct agt_netns *ns = HF_CONTAINER_OF(l, struct agt_netns, link);
		if (ns->user != c)
			continue;
		ns->user = NULL;
		for (size_t i = 0; i < ns->n; i++) {
			agt_lease_stop(ns->adapter[i].lease);
			ns->adapter[i].lease = NULL;
		}
		end_unused(a, ns);
	}
}

/* Adapters are brought up one after the other. Meanwhile the name space may lose some, or end. */
struct job {
	struct agt *a;
	char ns[AGT_FIELD_NAME_MAX];
	char id[AGT_FIELD_NAME_MAX]; /* of the adapter that is being brought up; "": none yet */
	size_t next;                 /* its place, or that of the one that follows */
	pid_t pid;
	json_t *settings; /* of this adapter */
	agt_worked_fn *done;
	void *arg;
};

static void end_job(struct job *j, const struct hf_err *err)
{
	j->done(j->arg, err);
	json_decref(j->settings);
	free(j);
}

/* In the worker. */
static int bring_up(void *arg, struct hf_err *reterr)
{
	const struct job *j = arg;
	char name[IF_NAMESIZE];
	struct agt_adapter ad;
	struct agt_fields f = { .obj = j->settings, .prefix = "Settings." };
	agt_adapter_read(&f, &ad);
	return j->pid ? agt_adapter_bring_up(&ad, j->pid, reterr)
		      : agt_adapter_find(&ad, name, reterr);
}

static void bring_up_next(struct job *j, const struct hf_err *before);

static void on_leased(void *arg, const struct hf_err *err)
{
	bring_up_next(arg, err);
}

/* The text is the interface's name. */
static void on_up(void *arg, const struct hf_err *up)
{
	struct job *j = arg;
	struct hf_err err = *up;
	struct agt_netns *ns = agt_netns_find(j->a, j->ns);
	size_t i = ns ? index_of(ns, j->id) : 0;
	if (up->code == 0 && j->pid && (!ns || i == ns->n))
		(void)hf_err_set(&err, -ENODEV, "ID: adapter %s was removed meanwhile", j->id);
	if (err.code != 0 || !j->pid) {
		bring_up_next(j, &err);
		return;
	}
	json_object_set_new(ns->adapter[i].settings, INTERFACE, json_string(up->text));
	agt_netns_put(j->a, ns);
	if (lease(j->a, ns, i, j->pid, on_leased, j, &err) <= 0)
		bring_up_next(j, &err);
}

/* The next adapter; the end of the job when there is none, or the one before has failed. */
static void bring_up_next(struct job *j, const struct hf_err *before)
{
	struct hf_err err = { 0 };
	struct agt_netns *ns = agt_netns_find(j->a, j->ns);
	const struct agt_work w = { .what = "Network", .fn = bring_up, .done = on_up, .arg = j };
	if (ns && j->id[0] && index_of(ns, j->id) < ns->n)
		j->next = index_of(ns, j->id) + 1; /* others may have gone */
	if (before->code != 0 || !ns || j->next >= ns->n) {
		end_job(j, before);
		return;
	}
	json_decref(j->settings);
	j->settings = json_incref(ns->adapter[j->next].settings);
	memcpy(j->id, ns->adapter[j->next].id, sizeof(j->id));
	if (agt_work_start(j->a, &w, &err) < 0)
		end_job(j, &err);
}

int agt_netns_bring_up(struct agt *a, const struct agt_netns *ns, size_t first, pid_t pid,
	agt_worked_fn *done, void *arg, struct hf_err *reterr)
{
	struct job *j = calloc(1, sizeof(*j));
	if (!j)
		return hf_err_set(reterr, -ENOMEM, "Network: no memory");
	*j = (struct job){ .a = a, .next = first, .pid = pid, .done = done, .arg = arg };
	memcpy(j->ns, ns->id, sizeof(j->ns));
	const struct hf_err none = { 0 };
	bring_up_next(j, &none);
	return 0;
}

/* The entries of a comma list, each after `before`; counts them. */
static unsigned print_list(FILE *f, const char *list, const char *before, const char *after)
{
	unsigned count = 0;
	for (const char *p = list; *p;) {
		p += strspn(p, ", \t\r\n");
		int n = (int)strcspn(
			p, ", \t\r\n"); /* a line's end would begin a line of its own */
		if (n > 0) {
			(void)fprintf(
				f, "%s%.*s%s", before, n, p, after); /* looked at when closed */
			count++;
		}
		p += n;
	}
	return count;
}

char *agt_netns_resolv_conf(const struct agt_netns *ns)
{
	char *text = NULL, *search = NULL;
	size_t n, n_search;
	unsigned suffixes = 0;
	FILE *f = open_memstream(&text, &n), *s = f ? open_memstream(&search, &n_search) : NULL;
	for (size_t i = 0; s && i < ns->n; i++) {
		struct agt_adapter ad;
		struct agt_fields fields = { .obj = ns->adapter[i].settings, .prefix = "" };
		agt_adapter_read(&fields, &ad);
		suffixes += print_list(s, ad.dns_suffixes, " ", "");
		(void)print_list(f, ad.dns_servers, "nameserver ", "\n");
	}
	bool ok = s && fclose(s) == 0;
	if (ok && suffixes)
		(void)fprintf(f, "search%s\n", search); /* looked at when closed */
	ok = f && fclose(f) == 0 && ok && suffixes <= AGT_SEARCH_MAX;
	free(search);
	if (!ok) {
		free(text);
		return NULL;
	}
	return text;
}
