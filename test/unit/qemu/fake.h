/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fake.h - the part of QEMU that the module looks at: two classes with a description each, as the
 * tests want them. The test program exports object_class_by_name and the two callbacks, as QEMU
 * does.
 */
#ifndef TEST_FAKE_H
#define TEST_FAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define FAKE_CLASS_WORDS 48
#define FAKE_SLOT        21
#define FAKE_WORDS       40

struct fake_class {
	uintptr_t word[FAKE_CLASS_WORDS];
};

struct fake {
	struct fake_class *user, *kernel; /* NULL: QEMU does not have the class */
	struct fake_class classes[2];
	uintptr_t user_description[FAKE_WORDS], kernel_description[FAKE_WORDS];
	const char *first_field[2];
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

#endif
