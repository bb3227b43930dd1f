/* SPDX-License-Identifier: MIT */
#include "handover.h"
#include "activation.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon.h"
#include "relay.h"
#include <errno.h>
#include <string.h>

#define MAGIC 0x4556494c54534648ull /* "HFSTLIVE" */
#define ANY   UINT64_MAX

int dev_handover_refused(const struct dev_daemon *d, struct hf_err *reterr)
{
	for (size_t i = 0; i < d->n_vms; i++) {
		const struct dev_vm *vm = d->vm[i];
		if (vm && (vm->frozen || vm->loaded || vm->transfer.fd >= 0 || vm->vhu.pending))
			return hf_err_set(reterr, -EBUSY,
				"vm \"%s\": a migration of it is under way: take over when it is "
				"finished",
				vm->opt->name);
	}
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (d->control.client[i].quiesces)
			return hf_err_set(
				reterr, -EBUSY, "a migration is under way: applications quiesce");
	return 0;
}

/* ---- saving ---- */

static void save_daemon(const struct dev_daemon *d, struct dev_pack *p)
{
	dev_pack_begin(p, DEV_PART_HEAD);
	dev_pack_number(p, MAGIC);
	dev_pack_number(p, DEV_HANDOVER_VERSION);
	dev_pack_number(p, DEV_HANDOVER_OLDEST);
	dev_pack_end(p);
	dev_pack_begin(p, DEV_PART_DAEMON);
	dev_pack_number(p, d->opt.claim_timeout_ms);
	dev_pack_number(p, hf_log_max);
	dev_pack_number(p, d->opt.log_format);
	dev_pack_number(p, d->opt.no_sandbox);
	dev_pack_bytes(p, d->opt.control, strlen(d->opt.control));
	dev_pack_fd(p, d->control.listen_fd);
	dev_pack_bytes(p, d->opt.metrics, strlen(d->opt.metrics));
	dev_pack_fd(p, d->metrics.listen_fd);
	dev_pack_fd(p, dev_notify_fd());
	dev_pack_number(p, d->opt.link_timeout_ms);
	dev_pack_bytes(p, d->opt.link, strlen(d->opt.link));
	dev_pack_bytes(p, d->opt.link_tls, strlen(d->opt.link_tls));
	dev_pack_number(p, d->opt.n_link_peers);
	for (size_t i = 0; i < d->opt.n_link_peers; i++)
		dev_pack_bytes(p, d->opt.link_peer[i], strlen(d->opt.link_peer[i]));
	dev_pack_fd(p, d->link.listen_fd);
	dev_pack_bytes(p, d->link.self, sizeof(d->link.self));
	dev_pack_number(p, d->link.dialled);
	dev_pack_number(p, d->link.lost);
	dev_pack_number(p, d->link.refused);
	dev_pack_number(p, d->link.in_bytes);
	dev_pack_number(p, d->link.out_bytes);
	dev_pack_end(p);
	for (size_t i = 0; i < d->opt.n_sandbox_dirs; i++) {
		dev_pack_begin(p, DEV_PART_DIR);
		dev_pack_bytes(p, d->opt.sandbox_dir[i], strlen(d->opt.sandbox_dir[i]));
		dev_pack_end(p);
	}
	const char *path;
	int fd;
	for (size_t i = 0; dev_activation_at(i, &path, &fd); i++) {
		dev_pack_begin(p, DEV_PART_PASSED);
		dev_pack_bytes(p, path, strnlen(path, DEV_PATH_MAX));
		dev_pack_fd(p, fd);
		dev_pack_end(p);
	}
}

/* [from, to) of a buffer that is not there when it is empty. */
static void save_rest(const char *buf, size_t from, size_t to, struct dev_pack *p)
{
	dev_pack_bytes(p, to > from ? buf + from : NULL, to - from);
}

static void save_client(const struct dev_client *cl, struct dev_pack *p)
{
	if (cl->fd < 0)
		return;
	dev_pack_begin(p, DEV_PART_CLIENT);
	dev_pack_fd(p, cl->fd);
	dev_pack_fd(p, cl->in_fd);
	dev_pack_fd(p, cl->out_fd);
	save_rest(cl->in.buf, cl->in.head, cl->in.len, p);
	save_rest(cl->out, cl->out_sent, cl->out_len, p);
	dev_pack_number(p, cl->closing);
	dev_pack_number(p, cl->watches ? (uint64_t)cl->watches->index + 1 : 0);
	dev_pack_number(p, cl->says);
	dev_pack_number(p, cl->busy);
	dev_pack_end(p);
}

static void save_scrape(const struct dev_metrics_client *cl, struct dev_pack *p)
{
	if (cl->fd < 0)
		return;
	dev_pack_begin(p, DEV_PART_SCRAPE);
	dev_pack_fd(p, cl->fd);
	dev_pack_number(p, cl->until_us);
	dev_pack_bytes(p, cl->in, cl->in_len);
	save_rest(cl->out, cl->out_sent, cl->out_len, p);
	dev_pack_end(p);
}

void dev_handover_save(const struct dev_daemon *d, struct dev_pack *p)
{
	save_daemon(d, p);
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			dev_handover_save_vm(d->vm[i], p);
	dev_handover_save_relays(&d->link, p);
	for (size_t i = 0; i < DEV_CLIENTS_MAX && d->control.listen_fd >= 0; i++)
		save_client(&d->control.client[i], p);
	for (size_t i = 0; i < DEV_METRICS_CLIENTS && d->metrics.listen_fd >= 0; i++)
		save_scrape(&d->metrics.client[i], p);
	dev_pack_begin(p, DEV_PART_END);
	dev_pack_end(p);
}

/* ---- loading ---- */

static int load_magic(struct dev_unpack *u, struct hf_err *reterr)
{
	uint64_t magic = dev_unpack_number(u, ANY), version = dev_unpack_number(u, ANY);
	uint64_t oldest = dev_unpack_number(u, ANY);
	if (u->error || magic != MAGIC || version < 1 || oldest < 1 || oldest > version)
		return -EBADMSG;
	if (oldest > DEV_HANDOVER_VERSION)
		return hf_err_set(reterr, -EPROTONOSUPPORT,
			"the running holdfastd is newer: its record is of version %u, this one "
			"reads "
			"up to %u",
			(unsigned)oldest, DEV_HANDOVER_VERSION);
	return 0;
}

/* A descriptor may be there only if the socket has a name, and must be then. */
static int load_listener(struct dev_unpack *u, const char *name)
{
	int fd = dev_unpack_fd(u);
	if ((fd >= 0) != (name[0] != '\0'))
		u->error = -EINVAL;
	else if (fd >= 0 && fd_set_nonblock(fd, true) < 0)
		u->error = -EBADF;
	if (u->error)
		fd_closep(&fd);
	return fd;
}

/* By its name other daemons know it again. The secrets of TLS are read anew. */
static int load_link(struct dev_daemon *d, struct dev_unpack *u)
{
	size_t n;
	d->opt.link_timeout_ms = (unsigned)dev_unpack_number(u, UINT32_MAX);
	dev_unpack_text(u, d->opt.link, sizeof(d->opt.link));
	dev_unpack_text(u, d->opt.link_tls, sizeof(d->opt.link_tls));
	d->opt.n_link_peers = (size_t)dev_unpack_number(u, DEV_LINK_PEERS_MAX);
	for (size_t i = 0; i < d->opt.n_link_peers && !u->error; i++)
		dev_unpack_text(u, d->opt.link_peer[i], sizeof(d->opt.link_peer[i]));
	int fd = load_listener(u, d->opt.link);
	const void *self = dev_unpack_bytes(u, sizeof(d->link.self), &n);
	d->link.dialled = dev_unpack_number(u, ANY);
	d->link.lost = dev_unpack_number(u, ANY);
	d->link.refused = dev_unpack_number(u, ANY);
	d->link.in_bytes = dev_unpack_number(u, ANY);
	d->link.out_bytes = dev_unpack_number(u, ANY);
	if (u->error || n != sizeof(d->link.self)) {
		fd_closep(&fd);
		return -EINVAL;
	}
	memcpy(d->link.self, self, n);
	struct hf_err err;
	int r = dev_link_adopt(&d->link, d, fd, &err);
	if (r < 0)
		hf_error("%s", err.text);
	return r;
}

static int load_daemon(struct dev_daemon *d, struct dev_unpack *u)
{
	struct dev_options *o = &d->opt;
	o->claim_timeout_ms = (unsigned)dev_unpack_number(u, DEV_CLAIM_TIMEOUT_MS_MAX);
	o->log_level = (enum hf_log_level)dev_unpack_number(u, HF_LOG_TRACE);
	o->log_format = (enum hf_log_format)dev_unpack_number(u, HF_LOG_JSON);
	o->no_sandbox |= dev_unpack_flag(u);
	dev_unpack_text(u, o->control, sizeof(o->control));
	int fd = load_listener(u, o->control), r = u->error;
	if (r == 0)
		r = dev_control_adopt(&d->control, d, o->control, fd);
	dev_unpack_text(u, o->metrics, sizeof(o->metrics));
	fd = load_listener(u, o->metrics);
	if (r == 0 && u->error == 0)
		r = dev_metrics_adopt(&d->metrics, d, o->metrics, fd);
	else
		fd_closep(&fd);
	dev_notify_adopt(dev_unpack_fd(u));
	return r < 0 ? r : u->error ? u->error : load_link(d, u);
}

/* Where sockets may be made: kept for as long as we live. */
static int load_dir(struct dev_options *o, struct dev_unpack *u)
{
	char dir[4096];
	dev_unpack_text(u, dir, sizeof(dir));
	if (u->error || o->n_sandbox_dirs == DEV_SANDBOX_DIRS)
		return -EINVAL;
	char *copy = strdup(dir);
	if (!copy)
		return -ENOMEM;
	o->sandbox_dir[o->n_sandbox_dirs++] = copy;
	return 0;
}

static int load_passed(struct dev_unpack *u)
{
	char path[DEV_PATH_MAX + 1];
	dev_unpack_text(u, path, sizeof(path));
	int fd = dev_unpack_fd(u);
	return u->error ? u->error : dev_activation_add(path, fd);
}

static int load_client(struct dev_daemon *d, struct dev_unpack *u)
{
	size_t n_in, n_out;
	struct dev_client *cl = dev_control_add(&d->control, dev_unpack_fd(u));
	if (!cl)
		return -EINVAL;
	cl->in_fd = dev_unpack_fd(u);
	cl->out_fd = dev_unpack_fd(u);
	const void *in = dev_unpack_bytes(u, 2 * DEV_CONTROL_LINE_MAX, &n_in);
	const void *out = dev_unpack_bytes(u, DEV_PACK_MAX, &n_out);
	cl->closing = dev_unpack_flag(u);
	size_t watches = dev_unpack_number(u, DEV_VMS_MAX);
	cl->says = (enum dev_says)dev_unpack_number(u, DEV_SAYS_N_ - 1);
	cl->busy = dev_unpack_flag(u);
	cl->watches = watches > 0 ? d->vm[watches - 1] : NULL;
	if (u->error || (cl->says && !cl->watches) || (watches > 0 && !cl->watches))
		return -EINVAL;
	cl->out = n_out > 0 ? malloc(n_out) : NULL;
	if ((n_out > 0 && !cl->out) || hf_lines_feed(&cl->in, in, n_in) < 0)
		return -ENOMEM;
	if (n_out > 0)
		memcpy(cl->out, out, n_out);
	cl->out_len = n_out;
	return 0;
}

static int load_scrape(struct dev_daemon *d, struct dev_unpack *u)
{
	size_t n_in, n_out;
	struct dev_metrics_client *cl = dev_metrics_add(&d->metrics, dev_unpack_fd(u));
	if (!cl)
		return -EINVAL;
	cl->until_us = dev_unpack_number(u, ANY);
	const void *in = dev_unpack_bytes(u, sizeof(cl->in) - 1, &n_in);
	const void *out = dev_unpack_bytes(u, DEV_PACK_MAX, &n_out);
	if (u->error)
		return u->error;
	memcpy(cl->in, in, n_in);
	cl->in_len = n_in;
	cl->out = n_out > 0 ? malloc(n_out) : NULL;
	if (n_out > 0 && !cl->out)
		return -ENOMEM;
	if (n_out > 0)
		memcpy(cl->out, out, n_out);
	cl->out_len = n_out;
	return 0;
}

/* One section; *ret_last: it was the end. */
static int load_part(struct dev_handover *h, uint64_t kind, struct dev_unpack *u, bool *ret_last,
	struct hf_err *reterr)
{
	struct dev_daemon *d = h->daemon;
	switch (kind) {
	case DEV_PART_DAEMON:
		return d->control.daemon ? -EINVAL : load_daemon(d, u);
	case DEV_PART_DIR:
		return load_dir(&d->opt, u);
	case DEV_PART_PASSED:
		return load_passed(u);
	case DEV_PART_RELAY:
		return h->vm ? -EINVAL : dev_handover_load_relay(h, u);
	case DEV_PART_CLIENT:
		return load_client(d, u);
	case DEV_PART_SCRAPE:
		return load_scrape(d, u);
	case DEV_PART_END:
		*ret_last = true;
		return h->vm || h->joins ? -EINVAL : 0;
	}
	return dev_handover_load_vm(h, kind, u, reterr);
}

static const char *refusal_text(int error)
{
	switch (error) {
	case -EBADMSG:
		return "it is no record of a takeover, or it is cut";
	case -EINVAL:
		return "it contradicts itself";
	case -EPROTONOSUPPORT:
		return "a newer holdfastd wrote it";
	default:
		return strerror(-error);
	}
}

int dev_handover_load(struct dev_daemon *d, struct dev_unpack *u, struct hf_err *reterr)
{
	struct dev_handover *h = &d->taken;
	uint64_t kind = 0;
	bool last = false;
	*h = (struct dev_handover){ .daemon = d };
	int r = dev_unpack_next(u, &kind) && kind == DEV_PART_HEAD ? load_magic(u, reterr)
								   : -EBADMSG;
	while (r == 0 && !last && dev_unpack_next(u, &kind))
		r = load_part(h, kind, u, &last, reterr);
	if (r == 0)
		r = u->error;
	if (r == 0 && (!last || u->end != u->stop || !d->control.daemon))
		r = -EBADMSG;
	if (r == 0)
		r = dev_sibling_adopt(d);
	d->opt.n_vms = d->n_vms;
	if (r < 0 && reterr->code == 0)
		return hf_err_set(reterr, r, "the record is refused: %s", refusal_text(r));
	return r;
}

void dev_handover_forget(struct dev_daemon *d)
{
	if (d->link.daemon)
		dev_link_forget(&d->link);
	for (size_t i = 0; i < d->n_vms; i++) {
		if (d->vm[i])
			dev_vm_forget(d->vm[i]);
		d->vm[i] = NULL;
	}
	d->n_vms = 0;
	if (d->control.daemon)
		dev_control_forget_all(&d->control);
	if (d->metrics.daemon)
		dev_metrics_forget(&d->metrics);
	for (size_t i = 0; i < d->opt.n_sandbox_dirs; i++)
		free((void *)d->opt.sandbox_dir[i]); /* load_dir() made it */
	d->opt.n_sandbox_dirs = 0;
	dev_activation_forget();
}

void dev_handover_carry_on(struct dev_daemon *d)
{
	for (size_t i = 0; i < d->n_vms; i++)
		if (d->vm[i])
			dev_vm_carry_on(d->vm[i], d->taken.running[i]);
	hf_list_for_each (n, &d->link.relays)
		dev_relay_adopt(HF_CONTAINER_OF(n, struct dev_relay, all_node));
	dev_control_carry_on(&d->control);
	dev_metrics_carry_on(&d->metrics);
}
