/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The module as a plugin of this program, which exports what QEMU does. usage: test_load MODULE */
#include <dlfcn.h>
#include <stdlib.h>

#include "../../lib/unit.h"
#include "fake.h"

struct version {
	struct {
		int64_t major, minor, micro;
	} * qemu;
	char *package;
};

struct version *qmp_query_version(void **errp);
void qapi_free_VersionInfo(struct version *v);

static int64_t major, minor;
static int n_versions;
static const char *path;

struct version *qmp_query_version(void **errp)
{
	struct version *v = calloc(1, sizeof(*v));

	(void)errp;
	v->qemu = calloc(1, sizeof(*v->qemu));
	v->qemu->major = major;
	v->qemu->minor = minor;
	n_versions++;
	return v;
}

void qapi_free_VersionInfo(struct version *v)
{
	free(v->qemu);
	free(v);
	n_versions--;
}

static void *load(void)
{
	void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);

	if (!module)
		fail_msg("%s", dlerror());
	return module;
}

static int install(void *module, int argc, char **argv)
{
	int (*f)(uint64_t, const void *, int, char **);
	void *symbol = dlsym(module, "qemu_plugin_install");

	assert_non_null(symbol);
	memcpy(&f, &symbol, sizeof(f));
	return f(1, NULL, argc, argv);
}

static void names_the_version_that_qemu_takes(void **state)
{
	const struct {
		int major, minor, plugin;
	} known[] = {
		{ 7, 2, 1 },
		{ 8, 2, 1 },
		{ 9, 0, 2 },
		{ 10, 0, 2 },
		{ 10, 1, 2 },
		{ 10, 2, 6 },
		{ 11, 1, 7 },
		{ 12, 0, 7 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		void *module;
		int *version;

		major = known[i].major;
		minor = known[i].minor;
		module = load();
		version = dlsym(module, "qemu_plugin_version");
		assert_non_null(version);
		assert_int_equal(*version, known[i].plugin);
		dlclose(module);
	}
	assert_int_equal(n_versions, 0);
}

static bool has_post_load(void)
{
	const uintptr_t *description = (uintptr_t *)fake.user->word[FAKE_SLOT];

	return description[4] == (uintptr_t)vhost_vsock_common_post_load;
}

static void modes(void **state)
{
	char seamless[] = "mode=seamless", disruptive[] = "mode=disruptive";
	void *module = load();

	(void)state;
	fake_init(6);
	assert_int_equal(install(module, 0, NULL), 0);
	assert_false(has_post_load());
	fake_init(6);
	assert_int_equal(install(module, 1, (char *[]){ seamless }), 0);
	assert_false(has_post_load());
	fake_init(6);
	assert_int_equal(install(module, 1, (char *[]){ disruptive }), 0);
	assert_true(has_post_load());
	assert_int_not_equal(install(module, 0, NULL), 0); /* twice */
	dlclose(module);
}

static void states(void **state)
{
	char automatic[] = "state=auto", beside[] = "state=beside", stream[] = "state=stream";
	char seamless[] = "mode=seamless";
	void *module = load();

	(void)state;
	fake_init(6);
	assert_int_equal(install(module, 1, (char *[]){ automatic }), 0);
	fake_init(6);
	assert_int_equal(install(module, 2, (char *[]){ beside, seamless }), 0);
	fake_init(6); /* this program exports no vhost_save_backend_state */
	assert_int_not_equal(install(module, 2, (char *[]){ seamless, stream }), 0);
	dlclose(module);
}

static void unknown_arguments(void **state)
{
	const char *unknown[] = { "", "mode", "mode=", "mode=Seamless", "mode=seamless2",
		"color=red", "seamless", "state=", "state=both", "mode=auto" };
	void *module = load();

	(void)state;
	for (size_t i = 0; i < sizeof(unknown) / sizeof(*unknown); i++) {
		struct fake before;

		fake_init(6);
		before = fake;
		assert_int_not_equal(
			install(module, 1, (char *[]){ (char *)(uintptr_t)unknown[i] }), 0);
		assert_memory_equal(&before, &fake, sizeof(fake));
	}
	dlclose(module);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_the_version_that_qemu_takes),
		cmocka_unit_test(modes),
		cmocka_unit_test(states),
		cmocka_unit_test(unknown_arguments),
	};

	if (argc != 2)
		return 2;
	path = argv[1];
	return cmocka_run_group_tests(tests, NULL, NULL);
}
