/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake.h - the part of QEMU that the module looks at: three classes with a description each, as the
 * tests want them, and a device. The test program exports object_class_by_name and the callbacks,
 * as QEMU does.
 */
#ifndef TEST_FAKE_H
#define TEST_FAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FAKE_CLASS_WORDS 48
#define FAKE_SLOT        21
#define FAKE_WORDS       40
#define FAKE_DEVICE      600 /* words of a device */
#define FAKE_VQ          16  /* of each of its two virtqueues */

struct fake_class {
	uintptr_t word[FAKE_CLASS_WORDS];
};

struct fake {
	struct fake_class *user, *kernel; /* NULL: QEMU does not have the class */
	struct fake_class classes[2];
	uintptr_t user_description[FAKE_WORDS], kernel_description[FAKE_WORDS];
	const char *first_field[2];

	/* what QEMU has from 8.2 on */
	struct fake_class *fs;
	struct fake_class fs_class;
	uintptr_t fs_description[FAKE_WORDS], fs_list[2];
	uintptr_t fs_subsection[FAKE_WORDS], fs_field[40], fs_info[3];
	uintptr_t device[FAKE_DEVICE];
	int at; /* of the device's vhost_dev */
};

extern struct fake fake;

void *object_class_by_name(const char *name);
int vhost_vsock_common_post_load(void *opaque, int version);
int vhost_vsock_common_pre_save(void *opaque);

/* Callbacks per description: 6 in QEMU 7.2 and 10.0 (the fields are word 9), 9 in 11.1. */
static inline void fake_init(int n_callbacks)
{
	bool long_form = n_callbacks > 6;

	memset(&fake, 0, sizeof(fake));
	fake.first_field[0] = "virtio";
	fake.user = &fake.classes[0];
	fake.kernel = &fake.classes[1];
	fake.user_description[0] = (uintptr_t) "vhost-user-vsock";
	fake.user_description[1] = 1;
	fake.kernel_description[0] = (uintptr_t) "virtio-vhost_vsock";
	fake.kernel_description[long_form ? 5 : 4] = (uintptr_t)vhost_vsock_common_post_load;
	fake.kernel_description[long_form ? 7 : 5] = (uintptr_t)vhost_vsock_common_pre_save;
	fake.kernel_description[3 + n_callbacks] = (uintptr_t)fake.first_field;
	/* what the linker happened to put behind */
	fake.user_description[5 + n_callbacks] = 0x1234;
	fake.kernel_description[5 + n_callbacks] = (uintptr_t)vhost_vsock_common_post_load;
	fake.user->word[FAKE_SLOT] = (uintptr_t)fake.user_description;
	fake.kernel->word[FAKE_SLOT] = (uintptr_t)fake.kernel_description;
	fake.user->word[3] = fake.kernel->word[3] = 0x10; /* pointers that lead nowhere */
	fake.user->word[4] = fake.kernel->word[4] = UINTPTR_MAX - 3;
	fake.user->word[5] = fake.kernel->word[5] = (uintptr_t)1 << 62;
}

/* As fake_init(), and what QEMU has from 8.2 on: 13 words per field in 10.0, 12 in 11.1. */
static inline void fake_init_state(int n_callbacks)
{
	bool long_form = n_callbacks > 6;
	int n_fields = 3 + n_callbacks, size = long_form ? 12 : 13, at = 80;

	fake_init(n_callbacks);
	fake.fs = &fake.fs_class;
	fake.fs->word[FAKE_SLOT] = (uintptr_t)fake.fs_description;
	fake.fs_description[0] = (uintptr_t) "vhost-user-fs";
	fake.fs_description[n_fields] = (uintptr_t)fake.first_field;
	fake.fs_description[n_fields + 1] = (uintptr_t)fake.fs_list;
	fake.fs_list[0] = (uintptr_t)fake.fs_subsection;
	fake.fs_subsection[0] = (uintptr_t) "vhost-user-fs-backend";
	fake.fs_subsection[3] = (uintptr_t)&fake.fs;
	fake.fs_subsection[long_form ? 7 : 5] = (uintptr_t)&fake.fs;
	fake.fs_subsection[long_form ? 10 : 7] = (uintptr_t)&fake.at;
	fake.fs_subsection[n_fields] = (uintptr_t)fake.fs_field;
	fake.fs_field[0] = (uintptr_t) "back-end";
	fake.fs_field[size - 5] = (uintptr_t)fake.fs_info;
	fake.fs_field[2 * size - 4] = long_form ? 0x20000 : 0x10000;
	fake.fs_info[0] = (uintptr_t) "virtio-fs back-end state";
	fake.fs_info[1] = fake.fs_info[2] = (uintptr_t)&fake.fs_info;

	/* two virtqueues, whose last word points to the vhost_dev behind them */
	fake.at = at;
	fake.device[at - 1] = fake.device[at - 1 - FAKE_VQ] = (uintptr_t)&fake.device[at];
	fake.device[at + 40] = (uintptr_t)&fake.device[at - (ptrdiff_t)2 * FAKE_VQ];
	fake.device[at + 41] = 2;
	fake.device[5] = (uintptr_t)&fake.device[5]; /* a list of itself */
	fake.device[6] = (uintptr_t)&fake.device[20];
}

#endif
