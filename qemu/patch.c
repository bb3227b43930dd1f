/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * patch.c - a migratable description for vhost-user-vsock-device.
 *
 * QEMU has two vsock devices on one common base. vhost-vsock-device (the kernel's back end) has a
 * VMStateDescription with which it migrates; vhost-user-vsock-device has one that says
 *"unmigratable" and nothing more. The state to be moved is the same for both: the virtio device. So
 * the user device is given a copy of the kernel device's description. The copy's post_load, which
 * sends TRANSPORT_RESET to the guest, is kept (disruptive) or cleared (seamless).
 *
 * No QEMU header is used, so that one module serves every QEMU. What is known of a description,
 * from QEMU 7.2 to 11.1:
 *
 *	word 0		its name
 *	word 1		unmigratable (low half), version (high half)
 *	word 2		minimum version, priority
 *	words 3...	callbacks, of which the kernel device has post_load and pre_save only
 *	then		fields: an array whose first element begins with its name, "virtio"
 *	last		subsections: none; the copy may get one (state.c)
 *
 * The number of callbacks is the one thing that differs; the fields end it. Where a class keeps its
 * description also differs: it is the only word that, at the same place of both classes, points to a
 * description of the right name. Anything else than exactly this is refused, before a byte of QEMU
 * has been changed.
 */
#include "patch.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "probe.h"

#define USER_CLASS   "vhost-user-vsock-device"
#define USER_NAME    "vhost-user-vsock"
#define KERNEL_CLASS "vhost-vsock-device"
#define KERNEL_NAME  "virtio-vhost_vsock"
#define FS_CLASS     "vhost-user-fs-device"

#define CLASS_WORDS       128 /* how far into a class the description is looked for */
#define CALLBACKS         3   /* index of the first callback */
#define DESCRIPTION_WORDS 32  /* a longer description is refused */

_Static_assert(
	sizeof(uintptr_t) == 8, "the description's halves are told apart on 64-bit machines only");

/* The description that QEMU gets. It and its words must live as long as QEMU. */
static uintptr_t description[DESCRIPTION_WORDS];

void patch_find_symbols(struct patch_symbols *s)
{
	void *f = dlsym(RTLD_DEFAULT, "object_class_by_name");

	memcpy(&s->object_class_by_name, &f,
		sizeof(f)); /* ISO C has no cast from object to function */
	s->post_load = dlsym(RTLD_DEFAULT, "vhost_vsock_common_post_load");
	s->pre_save = dlsym(RTLD_DEFAULT, "vhost_vsock_common_pre_save");
	state_find_symbols(&s->state);
}

/* The index of the only word of the two classes that is the pointer to its description, in both;
 * else -1. */
static int find_slot(struct probe *p, uintptr_t *const *user, uintptr_t *const *kernel)
{
	int found = -1;

	for (int i = 0; i < CLASS_WORDS; i++) {
		uintptr_t *u, *k;

		if (!probe_read(p, &u, user + i, sizeof(u)) ||
			!probe_read(p, &k, kernel + i, sizeof(k)))
			break;
		if (!probe_points_to_string(p, u, USER_NAME) ||
			!probe_points_to_string(p, k, KERNEL_NAME))
			continue;
		if (found >= 0)
			return -1;
		found = i;
	}
	return found;
}

/*
 * Copies the kernel device's description word by word and checks each on the way. Returns the
 * number of words, or 0 when one of them is not what it must be.
 */
static int copy_kernel_description(
	struct probe *p, const struct patch_symbols *s, const uintptr_t *from, uintptr_t *to)
{
	int n_post_load = 0, n_pre_save = 0, i;

	if (!probe_read(p, to, from, CALLBACKS * sizeof(*to)) || to[1] != 0 || to[2] != 0)
		return 0;
	for (i = CALLBACKS; i < DESCRIPTION_WORDS - 1; i++) {
		if (!probe_read(p, &to[i], from + i, sizeof(*to)))
			return 0;
		if (to[i] == (uintptr_t)s->post_load)
			n_post_load++;
		else if (to[i] == (uintptr_t)s->pre_save)
			n_pre_save++;
		else if (to[i] != 0)
			break; /* the fields */
	}
	if (i == DESCRIPTION_WORDS - 1 || n_post_load != 1 || n_pre_save != 1 ||
		!probe_points_to_string(p, (void *)to[i], "virtio"))
		return 0;
	i++;
	if (!probe_read(p, &to[i], from + i, sizeof(*to)) || to[i] != 0)
		return 0;
	return i + 1;
}

/* Whether the user device's description says "unmigratable" and nothing else, in the same number of
 * callbacks. */
static bool check_user_description(struct probe *p, const uintptr_t *from, int n)
{
	for (int i = 1; i < n - 2; i++) {
		uintptr_t word;

		if (!probe_read(p, &word, from + i, sizeof(word)) || word != (i == 1))
			return false;
	}
	return true;
}

static int index_of(const void *callback, int n)
{
	for (int i = CALLBACKS; i < n; i++)
		if (description[i] == (uintptr_t)callback)
			return i;
	return 0;
}

static bool is_migratable(struct probe *p, const uintptr_t *from)
{
	uintptr_t word;

	return probe_read(p, &word, from + 1, sizeof(word)) && word == 0;
}

static const char *patch_classes(
	struct probe *p, const struct patch_symbols *s, enum patch_mode mode, enum state_way way)
{
	uintptr_t **user = s->object_class_by_name(USER_CLASS);
	uintptr_t **kernel = s->object_class_by_name(KERNEL_CLASS);
	const uintptr_t *copy = description;
	const char *why = NULL;
	int slot, n;

	if (!user || !kernel)
		return "class " USER_CLASS " or " KERNEL_CLASS ": QEMU does not have it; "
		       "use a QEMU that was built with both vsock devices, as Debian's is";
	slot = find_slot(p, user, kernel);
	if (slot < 0)
		return "class " USER_CLASS
		       ": its migration description is not where it is in QEMU 7.2 to 11.1; "
		       "use one of these, or a module made for this QEMU";
	n = copy_kernel_description(p, s, kernel[slot], description);
	if (!n)
		return "class " KERNEL_CLASS
		       ": its migration description is not the one of QEMU 7.2 to 11.1; "
		       "use one of these, or a module made for this QEMU";
	if (is_migratable(p, user[slot]))
		return "class " USER_CLASS ": it is migratable already; load the module once, "
		       "and not at all into a QEMU that does not need it";
	if (!check_user_description(p, user[slot], n))
		return "class " USER_CLASS
		       ": its migration description is not the one of QEMU 7.2 to 11.1; "
		       "use one of these, or a module made for this QEMU";

	/* A name that begins with "virtio" would be taken for a part of the virtio section inside.
	 */
	description[0] = user[slot][0];
	for (int i = CALLBACKS; mode == PATCH_SEAMLESS && i < n; i++) {
		if (description[i] == (uintptr_t)s->post_load)
			description[i] = 0;
	}
	if (way != STATE_BESIDE)
		why = state_subsections(p, &s->state, s->object_class_by_name(FS_CLASS), slot, n,
			index_of(s->pre_save, n), way, &description[n - 1]);
	if (way == STATE_STREAM && why)
		return why;
	if (!probe_write(p, &user[slot], &copy, sizeof(copy)))
		return "class " USER_CLASS ": cannot be written to; use Debian's QEMU";
	if (description[n - 1])
		state_publish(user);
	return NULL;
}

const char *patch_apply(const struct patch_symbols *s, enum patch_mode mode, enum state_way way)
{
	struct probe p;
	const char *why;

	if (!s->object_class_by_name || !s->post_load || !s->pre_save)
		return "QEMU: it does not export object_class_by_name, "
		       "vhost_vsock_common_post_load and "
		       "vhost_vsock_common_pre_save; use a QEMU that was built with plugins and "
		       "vhost-vsock, as "
		       "Debian's is";
	if (probe_open(&p) < 0)
		return "pipe: none to be had; raise the limit of open files (ulimit -n)";
	why = patch_classes(&p, s, mode, way);
	probe_close(&p);
	return why;
}
