/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the module accepts, what it gives QEMU, and that a refusal leaves QEMU as it was. */
#include <sys/mman.h>
#include <unistd.h>

#include "../../../qemu/patch.h"
#include "../../../qemu/probe.h"
#include "../../lib/unit.h"
#include "fake.h"

static const struct patch_symbols symbols = {
	.object_class_by_name = object_class_by_name,
	.post_load = vhost_vsock_common_post_load,
	.pre_save = vhost_vsock_common_pre_save,
};

static void accepted(int n_callbacks, enum patch_mode mode)
{
	uintptr_t *got, want[FAKE_WORDS];

	fake_init(n_callbacks);
	memcpy(want, fake.kernel_description, sizeof(want));
	assert_null(patch_apply(&symbols, mode, STATE_AUTO));
	got = (uintptr_t *)fake.user->word[FAKE_SLOT];
	assert_ptr_not_equal(got, fake.kernel_description);
	assert_string_equal((char *)got[0], "vhost-user-vsock");
	for (int i = 1; i < 5 + n_callbacks; i++) {
		bool cleared = mode == PATCH_SEAMLESS &&
			       want[i] == (uintptr_t)vhost_vsock_common_post_load;

		assert_int_equal(got[i], cleared ? 0 : want[i]);
	}
	/* the kernel's class is not touched */
	assert_memory_equal(fake.kernel_description, want, sizeof(want));
	assert_ptr_equal((void *)fake.kernel->word[FAKE_SLOT], fake.kernel_description);
}

static void every_known_layout_in_both_modes(void **state)
{
	(void)state;
	accepted(6, PATCH_SEAMLESS);
	accepted(6, PATCH_DISRUPTIVE);
	accepted(9, PATCH_SEAMLESS);
	accepted(9, PATCH_DISRUPTIVE);
}

static void refused(const struct patch_symbols *s, const char *text)
{
	struct fake before = fake;
	const char *why = patch_apply(s, PATCH_SEAMLESS, STATE_AUTO);

	assert_non_null(why);
	if (!strstr(why, text))
		fail_msg("\"%s\" does not say \"%s\"", why, text);
	assert_memory_equal(&before, &fake, sizeof(fake));
}

static void missing_symbols(void **state)
{
	struct patch_symbols s;

	(void)state;
	fake_init(6);
	s = symbols;
	s.object_class_by_name = NULL;
	refused(&s, "does not export");
	s = symbols;
	s.post_load = NULL;
	refused(&s, "does not export");
	s = symbols;
	s.pre_save = NULL;
	refused(&s, "does not export");
}

static void missing_classes(void **state)
{
	(void)state;
	fake_init(6);
	fake.user = NULL;
	refused(&symbols, "QEMU does not have it");
	fake_init(6);
	fake.kernel = NULL;
	refused(&symbols, "QEMU does not have it");
}

static void description_is_not_where_it_should_be(void **state)
{
	(void)state;
	fake_init(6);
	fake.user_description[0] = (uintptr_t) "vhost-user-vsockx";
	refused(&symbols, "not where it is");

	fake_init(6);
	fake.kernel->word[FAKE_SLOT] = 0;
	refused(&symbols, "not where it is");

	fake_init(6); /* at different places of the two classes */
	fake.user->word[FAKE_SLOT] = 0;
	fake.user->word[FAKE_SLOT + 1] = (uintptr_t)fake.user_description;
	refused(&symbols, "not where it is");

	fake_init(6); /* at two places: which one? */
	fake.user->word[FAKE_SLOT + 1] = fake.user->word[FAKE_SLOT];
	fake.kernel->word[FAKE_SLOT + 1] = fake.kernel->word[FAKE_SLOT];
	refused(&symbols, "not where it is");
}

static void kernel_description_is_another(void **state)
{
	/* word, value: each alone makes a description that the module does not know */
	const struct {
		int word;
		uintptr_t value;
	} wrong[] = {
		{ 1, 1 },                                       /* unmigratable */
		{ 1, (uintptr_t)1 << 32 },                      /* another version */
		{ 2, 1 },                                       /* another minimum version */
		{ 3, (uintptr_t)&fake },                        /* one more callback */
		{ 3, (uintptr_t)vhost_vsock_common_post_load }, /* twice */
		{ 4, 0 },                                       /* no post_load */
		{ 5, 0 },                                       /* no pre_save */
		{ 9, 0x10 },                                    /* fields lead nowhere */
		{ 10, (uintptr_t)fake.first_field },            /* subsections */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		fake_init(6);
		fake.kernel_description[wrong[i].word] = wrong[i].value;
		refused(&symbols, "class vhost-vsock-device");
	}
	fake_init(6);
	fake.first_field[0] = "virti";
	refused(&symbols, "class vhost-vsock-device");
	fake_init(6); /* no end within the limit */
	memset(&fake.kernel_description[6], 0,
		sizeof(fake.kernel_description) - 6 * sizeof(uintptr_t));
	refused(&symbols, "class vhost-vsock-device");
}

static void user_description_is_another(void **state)
{
	(void)state;
	fake_init(6);
	fake.user_description[1] = 0;
	refused(&symbols, "migratable already");
	for (int i = 2; i < 9; i++) {
		fake_init(6);
		fake.user_description[i] = 1;
		refused(&symbols, "class vhost-user-vsock-device");
	}
	fake_init(6); /* unmigratable and something more */
	fake.user_description[1] |= (uintptr_t)1 << 8;
	refused(&symbols, "class vhost-user-vsock-device");
}

static void second_time(void **state)
{
	(void)state;
	fake_init(9);
	assert_null(patch_apply(&symbols, PATCH_DISRUPTIVE, STATE_AUTO));
	refused(&symbols, "load the module once");
}

/* The last words of a page, with nothing behind: the search must stop there and not fault. */
static void class_at_the_end_of_memory(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *map =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct fake_class *last = (void *)(map + page - sizeof(*last));

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	assert_int_equal(mprotect(map + page, page, PROT_NONE), 0);
	fake_init(6);
	*last = *fake.user;
	fake.user = last;
	assert_null(patch_apply(&symbols, PATCH_SEAMLESS, STATE_AUTO));

	fake_init(6);
	*last = *fake.user;
	fake.user = last;
	assert_int_equal(mprotect(map, page, PROT_READ), 0);
	refused(&symbols, "cannot be written to");
	munmap(map, 2 * page);
}

static void no_descriptor_is_left_open(void **state)
{
	struct probe before, after;

	(void)state;
	assert_int_equal(probe_open(&before), 0);
	probe_close(&before);
	fake_init(6);
	assert_null(patch_apply(&symbols, PATCH_SEAMLESS, STATE_AUTO));
	refused(&symbols, "load the module once");
	assert_int_equal(probe_open(&after), 0); /* gets the same numbers unless some were kept */
	assert_int_equal(after.read_fd, before.read_fd);
	assert_int_equal(after.write_fd, before.write_fd);
	probe_close(&after);
}

/* A copy that breaks off in the middle leaves nothing in the pipe for the next one. */
static void probe_survives_half_a_copy(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *map =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char to[16] = "untouched";
	struct probe p;

	(void)state;
	assert_ptr_not_equal(map, MAP_FAILED);
	memcpy(map, "right", 6);
	assert_int_equal(mprotect(map + page, page, PROT_NONE), 0);
	assert_int_equal(probe_open(&p), 0);
	assert_false(probe_read(&p, to, map + page - 8, 16));
	assert_true(probe_read(&p, to, map, 6));
	assert_string_equal(to, "right");
	assert_false(probe_write(&p, map + page - 8, to, 16));
	assert_true(probe_write(&p, map, "later", 6));
	assert_string_equal(map, "later");
	assert_false(probe_read(&p, to, map, PROBE_MAX + 1));
	probe_close(&p);
	munmap(map, 2 * page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_known_layout_in_both_modes),
		cmocka_unit_test(missing_symbols),
		cmocka_unit_test(missing_classes),
		cmocka_unit_test(description_is_not_where_it_should_be),
		cmocka_unit_test(kernel_description_is_another),
		cmocka_unit_test(user_description_is_another),
		cmocka_unit_test(second_time),
		cmocka_unit_test(class_at_the_end_of_memory),
		cmocka_unit_test(no_descriptor_is_left_open),
		cmocka_unit_test(probe_survives_half_a_copy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
