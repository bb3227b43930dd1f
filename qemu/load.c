/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * load.c - the two doors through which the module comes into QEMU.
 *
 * As a TCG plugin: QEMU opens the file, compares qemu_plugin_version with its own range, and calls
 * qemu_plugin_install.
 *
 *	-plugin holdfast-qemu.so,mode=seamless,state=auto
 *
 * With LD_PRELOAD, which serves KVM too: the module's connect(2) stands before libc's. QEMU's first
 * connect is the one to a back end's socket; by then its types are registered, and no device is
 * made yet.
 *
 *	HOLDFAST_QEMU_MODE=disruptive HOLDFAST_QEMU_STATE=beside LD_PRELOAD=.../holdfast-qemu.so \
 *		qemu-system-x86_64 ...
 *
 * What is refused ends QEMU at its start: the plugin's error, or the failed connect. Once QEMU has
 * given the module's reason of refusal, later connects pass: a running VM is never hurt.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "dirty.h"
#include "patch.h"

#define EXPORT __attribute__((visibility("default")))

struct qemu_info;

/* Called and read by QEMU; connect is declared by libc. */
EXPORT extern int qemu_plugin_version;
EXPORT int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv);
EXPORT int connect(int fd, const struct sockaddr *address, socklen_t size);

int qemu_plugin_version = 1;
static int qemu_version; /* 702 for 7.2; 0: this is not QEMU */
static bool patched;

static int refuse(const char *why)
{
	fprintf(stderr, "holdfast-qemu: refused: %s\n", why);
	return -1;
}

/*
 * Each QEMU takes a range of versions of the plugin interface only: 7.2 takes 0 to 1, 9.0 up
 * to 10.1 from 2, 11.1 takes 7. The module uses nothing of that interface, so it names the version
 * that the QEMU it is in takes. QEMU reads the variable after it has opened the file, thus after
 * this has run.
 */
struct version {
	struct {
		int64_t major, minor, micro;
	} * qemu;
	char *package;
};

__attribute__((constructor)) static void choose_plugin_version(void)
{
	struct version *(*query)(void **errp);
	void (*release)(struct version * v);
	void *q = dlsym(RTLD_DEFAULT, "qmp_query_version");
	void *r = dlsym(RTLD_DEFAULT, "qapi_free_VersionInfo");
	struct version *v;
	int n;

	if (!q || !r)
		return;
	memcpy(&query, &q, sizeof(q)); /* ISO C has no cast from object to function */
	memcpy(&release, &r, sizeof(r));
	v = query(NULL);
	if (!v || !v->qemu)
		return;
	n = qemu_version = (int)(v->qemu->major * 100 + v->qemu->minor);
	qemu_plugin_version = n >= 1101 ? 7 : n >= 1002 ? 6 : n >= 900 ? 2 : 1;
	release(v);
}

struct wish {
	enum patch_mode mode;
	enum state_way way;
};

/* 0, or -EINVAL when the word is none of the setting's. */
static int parse_mode(const char *text, struct wish *w)
{
	if (!strcmp(text, "seamless"))
		w->mode = PATCH_SEAMLESS;
	else if (!strcmp(text, "disruptive"))
		w->mode = PATCH_DISRUPTIVE;
	else
		return -EINVAL;
	return 0;
}

static int parse_state(const char *text, struct wish *w)
{
	if (!strcmp(text, "auto"))
		w->way = STATE_AUTO;
	else if (!strcmp(text, "beside"))
		w->way = STATE_BESIDE;
	else if (!strcmp(text, "stream"))
		w->way = STATE_STREAM;
	else
		return -EINVAL;
	return 0;
}

static int parse_argument(const char *text, struct wish *w)
{
	if (!strncmp(text, "mode=", 5))
		return parse_mode(text + 5, w);
	if (!strncmp(text, "state=", 6))
		return parse_state(text + 6, w);
	return -EINVAL;
}

static int install(const struct patch_symbols *s, const struct wish *w)
{
	const char *why = dirty_find_symbols(qemu_version);

	if (!why)
		why = patch_apply(s, w->mode, w->way);
	if (why)
		return refuse(why);
	dirty_install();
	patched = true;
	return 0;
}

int qemu_plugin_install(uint64_t id, const struct qemu_info *info, int argc, char **argv)
{
	struct wish w = { 0 };
	struct patch_symbols s;

	(void)id; /* the module registers nothing with QEMU */
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (parse_argument(argv[i], &w) < 0) {
			fprintf(stderr,
				"holdfast-qemu: refused: argument \"%s\": not known; give "
				"mode=seamless or mode=disruptive, state=auto, state=beside or "
				"state=stream\n",
				argv[i]);
			return -1;
		}
	}
	patch_find_symbols(&s);
	return install(&s, &w);
}

/* LD_PRELOAD is inherited: in a program that is not QEMU (a helper, a shell) the module does
 * nothing. */
static int preloaded(void)
{
	const char *mode = getenv("HOLDFAST_QEMU_MODE"), *state = getenv("HOLDFAST_QEMU_STATE");
	struct wish w = { 0 };
	struct patch_symbols s;

	patch_find_symbols(&s);
	if (patched || (!s.object_class_by_name && !strstr(program_invocation_short_name, "qemu")))
		return 0;
	if (mode && parse_mode(mode, &w) < 0)
		return refuse("environment variable HOLDFAST_QEMU_MODE: not known; "
			      "set it to seamless or disruptive");
	if (state && parse_state(state, &w) < 0)
		return refuse("environment variable HOLDFAST_QEMU_STATE: not known; "
			      "set it to auto, beside or stream");
	return install(&s, &w);
}

static int (*libc_connect)(int, const struct sockaddr *, socklen_t);
static bool refused;

static void first_connect(void)
{
	void *c = dlsym(RTLD_NEXT, "connect");

	memcpy(&libc_connect, &c, sizeof(c));
	refused = preloaded() < 0;
}

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, first_connect);
	if (__atomic_exchange_n(&refused, false, __ATOMIC_RELAXED)) {
		errno = ECANCELED;
		return -1;
	}
	return libc_connect(fd, address, size);
}
