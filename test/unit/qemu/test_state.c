/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The subsection that carries the back end's state: what is accepted, what QEMU gets, what it does
 * when QEMU calls it. */
#include <stdlib.h>

#include "../../../qemu/patch.h"
#include "../../lib/unit.h"
#include "fake.h"

static struct {
	void *vhost, *file, *error_of_next;
	int result, saves, loads, reports;
	char *(*get_way)(void *, void **);
} qemu;

static int save(void *vhost, void *file, void **errp)
{
	qemu.vhost = vhost;
	qemu.file = file;
	qemu.saves++;
	*errp = qemu.error_of_next;
	return qemu.result;
}

static int load(void *vhost, void *file, void **errp)
{
	qemu.saves--;
	qemu.loads++;
	return save(vhost, file, errp);
}

static void report(void *error)
{
	assert_ptr_equal(error, qemu.error_of_next);
	qemu.reports++;
}

static void *add_property(void *class, const char *name, char *(*get)(void *, void **),
	void (*set)(void *, const char *, void **))
{
	assert_ptr_equal(class, fake.user);
	assert_string_equal(name, "holdfast-state");
	assert_null(set);
	qemu.get_way = get;
	return &qemu;
}

static const struct patch_symbols symbols = {
	.object_class_by_name = object_class_by_name,
	.post_load = vhost_vsock_common_post_load,
	.pre_save = vhost_vsock_common_pre_save,
	.state = { .save = save, .load = load, .report = report, .add_property = add_property },
};

struct subsection {
	uintptr_t *word, *field;
	struct {
		const char *name;
		int (*get)(void *, void *, size_t, const void *);
		int (*put)(void *, void *, size_t, const void *, void *);
	} * info;
	bool (*needed)(void *);
};

/* Patches, and takes what QEMU got apart. */
static struct subsection accepted(int n_callbacks, enum state_way way)
{
	struct subsection s = { 0 };
	uintptr_t *description, *list;
	bool long_form = n_callbacks > 6;

	memset(&qemu, 0, sizeof(qemu));
	fake_init_state(n_callbacks);
	assert_null(patch_apply(&symbols, PATCH_SEAMLESS, way));
	description = (uintptr_t *)fake.user->word[FAKE_SLOT];
	list = (uintptr_t *)description[4 + n_callbacks];
	if (!list)
		return s;
	assert_int_equal(list[1], 0);
	s.word = (uintptr_t *)list[0];
	s.field = (uintptr_t *)s.word[3 + n_callbacks];
	s.info = (void *)s.field[long_form ? 7 : 8];
	memcpy(&s.needed, &s.word[long_form ? 10 : 7], sizeof(s.needed));
	return s;
}

static void what_qemu_gets(int n_callbacks)
{
	struct subsection s = accepted(n_callbacks, STATE_AUTO);
	int n_words = 0, n_fields = 0;

	assert_string_equal((char *)s.word[0], "vhost-user-vsock/back-end");
	for (int i = 0; i < 5 + n_callbacks; i++)
		n_words += s.word[i] != 0;
	assert_int_equal(n_words, 3); /* name, condition, fields */
	assert_string_equal((char *)s.field[0], "back-end");
	for (int i = 0; i < 26; i++)
		n_fields += s.field[i] != 0;
	assert_int_equal(n_fields, 3); /* name, info, the end */
	assert_string_equal(s.info->name, "vhost-user-vsock back-end state");
	/* the model is untouched */
	assert_string_equal((char *)fake.fs_info[0], "virtio-fs back-end state");
	assert_ptr_equal((void *)fake.fs_subsection[3], &fake.fs);
}

static void every_known_layout(void **state)
{
	(void)state;
	what_qemu_gets(6);
	what_qemu_gets(9);
}

static void save_and_load_find_the_device(void **state)
{
	struct subsection s = accepted(6, STATE_AUTO);
	int file;

	(void)state;
	assert_true(s.needed(fake.device));
	assert_int_equal(s.info->put(&file, fake.device, 0, NULL, NULL), 0);
	assert_ptr_equal(qemu.vhost, &fake.device[fake.at]);
	assert_ptr_equal(qemu.file, &file);
	assert_int_equal(s.info->get(&file, fake.device, 0, NULL), 0);
	assert_int_equal(qemu.saves, 1);
	assert_int_equal(qemu.loads, 1);
	assert_int_equal(qemu.reports, 0);

	qemu.result = -5;
	qemu.error_of_next = &qemu;
	assert_int_equal(s.info->put(&file, fake.device, 0, NULL, NULL), -5);
	assert_int_equal(s.info->get(&file, fake.device, 0, NULL), -5);
	assert_int_equal(qemu.reports, 2);
}

static void way(const char *want)
{
	char *got = qemu.get_way(fake.device, NULL);

	assert_string_equal(got, want);
	free(got);
}

/* A device in which the vhost_dev cannot be told is not guessed about. */
static void device_is_another(void **state)
{
	(void)state;
	for (int i = 0; i < 12; i++) {
		struct subsection s = accepted(6, i & 1 ? STATE_STREAM : STATE_AUTO);
		uintptr_t *d = fake.device;
		int at = fake.at;

		way("stream");
		switch (i / 2) {
		case 0: /* one virtqueue */
			d[at - 1] = 0;
			break;
		case 1: /* three pointers */
			d[at + 3] = (uintptr_t)&d[at];
			break;
		case 2: /* it does not know its virtqueues */
			d[at + 40] += 8;
			break;
		case 3: /* or has another number of them */
			d[at + 41] = 3;
			break;
		case 4: /* three pointers, between those of its virtqueues */
			d[at - 2] = (uintptr_t)&d[at];
			break;
		case 5: /* two of them */
			d[at + 200] = 0;
			d[at + 199] = d[at + 199 - FAKE_VQ] = (uintptr_t)&d[at + 200];
			d[at + 240] = (uintptr_t)&d[at + 200 - (ptrdiff_t)2 * FAKE_VQ];
			d[at + 241] = 2;
			break;
		}
		assert_int_equal(s.needed(d), i & 1);
		way(i & 1 ? "stream" : "beside");
		assert_true(s.info->put(NULL, d, 0, NULL, NULL) < 0);
		assert_true(s.info->get(NULL, d, 0, NULL) < 0);
		assert_int_equal(qemu.saves + qemu.loads, 0);
	}
}

static void refused(const struct patch_symbols *s, const char *text)
{
	struct fake before = fake;
	const char *why = patch_apply(s, PATCH_SEAMLESS, STATE_STREAM);

	assert_non_null(why);
	if (!strstr(why, text))
		fail_msg("\"%s\" does not say \"%s\"", why, text);
	assert_memory_equal(&before, &fake, sizeof(fake));

	qemu.get_way = NULL;
	assert_null(patch_apply(s, PATCH_SEAMLESS, STATE_AUTO)); /* beside */
	assert_int_equal(((uintptr_t *)fake.user->word[FAKE_SLOT])[10], 0);
	assert_null(qemu.get_way);
}

static void older_qemus(void **state)
{
	struct patch_symbols s;

	(void)state;
	for (int i = 0; i < 4; i++) {
		fake_init_state(6);
		s = symbols;
		if (i == 0)
			s.state.save = NULL;
		if (i == 1)
			s.state.load = NULL;
		if (i == 2)
			s.state.report = NULL;
		if (i == 3)
			s.state.add_property = NULL;
		refused(&s, "does not export vhost_save_backend_state");
	}
	fake_init_state(6);
	fake.fs = NULL;
	refused(&symbols, "class vhost-user-fs-device: QEMU does not have it");
}

static void model_is_another(void **state)
{
	/* each alone makes a model that the module does not know */
	const struct {
		uintptr_t *at, value;
	} wrong[] = {
		{ &fake.fs_class.word[FAKE_SLOT], 0 },
		{ &fake.fs_description[0], (uintptr_t) "vhost-user-fsx" },
		{ &fake.fs_description[1], 1 },
		{ &fake.fs_description[5], 1 },
		{ &fake.fs_description[9], 0x10 },
		{ &fake.fs_description[10], 0 },
		{ &fake.fs_list[0], 0 },
		{ &fake.fs_list[1], (uintptr_t)fake.fs_subsection },
		{ &fake.fs_subsection[0], (uintptr_t) "vhost-user-fs-back" },
		{ &fake.fs_subsection[1], 1 },
		{ &fake.fs_subsection[2], 1 },
		{ &fake.fs_subsection[3], 0 },                        /* no pre_load */
		{ &fake.fs_subsection[5], (uintptr_t)&fake.at },      /* pre_save is another */
		{ &fake.fs_subsection[4], (uintptr_t)&fake.at },      /* post_load */
		{ &fake.fs_subsection[6], (uintptr_t)&fake.at },      /* post_save */
		{ &fake.fs_subsection[7], 0 },                        /* no condition */
		{ &fake.fs_subsection[7], (uintptr_t)&fake.fs },      /* not a condition */
		{ &fake.fs_subsection[10], (uintptr_t)fake.fs_list }, /* subsections of it */
		{ &fake.fs_subsection[9], 0x10 },
		{ &fake.fs_field[0], (uintptr_t) "front-end" },
		{ &fake.fs_field[3], 8 }, /* has a size */
		{ &fake.fs_field[8], 0x10 },
		{ &fake.fs_field[9], 1 },  /* has flags */
		{ &fake.fs_field[22], 3 }, /* not an end */
		{ &fake.fs_field[22], 0 },
		{ &fake.fs_info[0], (uintptr_t) "another state" },
		{ &fake.fs_info[1], 0 },
		{ &fake.fs_info[2], 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		fake_init_state(6);
		*wrong[i].at = wrong[i].value;
		refused(&symbols, "class vhost-user-fs-device: its migration description");
	}
}

static void beside_is_beside(void **state)
{
	struct subsection s = accepted(9, STATE_BESIDE);

	(void)state;
	assert_null(s.word);
	assert_null(qemu.get_way);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_known_layout),
		cmocka_unit_test(save_and_load_find_the_device),
		cmocka_unit_test(device_is_another),
		cmocka_unit_test(older_qemus),
		cmocka_unit_test(model_is_another),
		cmocka_unit_test(beside_is_beside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
