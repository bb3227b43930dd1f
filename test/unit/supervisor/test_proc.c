/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "supervisor/proc.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct proc *add(struct proc_table *t, const char *container, bool exec, const char *key)
{
	struct proc *p;
	struct hf_err err;
	assert_int_equal(proc_add(t, container, exec, key, &p, &err), 0);
	return p;
}

static void test_names_are_never_used_again(void **state)
{
	(void)state;
	struct proc_table t;
	struct proc *p;
	struct hf_err err;
	proc_table_init(&t);
	assert_int_equal(proc_add(&t, "c1", true, "", &p, &err), -ENOENT);
	struct proc *init = add(&t, "c1", false, "k1");
	assert_int_equal(proc_add(&t, "c1", false, "", &p, &err), -EEXIST);
	assert_int_equal(proc_add(&t, "c1", true, "", &p, &err), -ESRCH); /* still starting */
	init->state = PROC_RUNNING;
	assert_string_equal(add(&t, "c1", true, "k2")->name, "c1.1");
	proc_remove(&t, proc_find(&t, "c1.1"));
	assert_string_equal(add(&t, "c1", true, "k2")->name, "c1.2");
	assert_ptr_equal(proc_find_key(&t, "k2"), proc_find(&t, "c1.2"));
	assert_null(proc_find_key(&t, ""));
	static const char *const bad[] = { "", "a.b", "-a", "a/b",
		"123456789012345678901234567890123" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(proc_add(&t, bad[i], false, "", &p, &err), -EINVAL);
	proc_table_done(&t);
}

static void test_what_is_saved_is_what_is_loaded(void **state)
{
	(void)state;
	struct proc_table t, u;
	struct hf_err err;
	proc_table_init(&t);
	struct proc *p = add(&t, "c1", false, "k1");
	p->state = PROC_RUNNING;
	p->step = STEP_WAIT;
	p->pid = 77;
	p->stream[PROC_STDOUT].used = true;
	p->stream[PROC_STDOUT].len = 1234567890123;
	p = add(&t, "c1", true, "k2");
	p->spec = json_pack("{s:s}", "cwd", "/");
	struct proc_kill *k = proc_kill_add(&t, "k3");
	k->done = true;
	k->code = -ESRCH;
	json_t *a = proc_table_json(&t);
	assert_int_equal(proc_table_load(&u, a, &err), 0);
	json_t *b = proc_table_json(&u);
	assert_true(json_equal(a, b));
	assert_int_equal(proc_find(&u, "c1")->stream[PROC_STDOUT].len, 1234567890123);
	assert_int_equal(proc_kill_find(&u, "k3")->code, -ESRCH);
	json_decref(a);
	json_decref(b);
	proc_table_done(&t);
	proc_table_done(&u);
}

/* Whatever single member is missing or of another type, the whole is refused. */
static void test_a_bad_table_is_refused_whole(void **state)
{
	(void)state;
	struct proc_table t;
	struct hf_err err;
	proc_table_init(&t);
	(void)add(&t, "c1", false, "k1");
	json_t *good = proc_table_json(&t);
	proc_table_done(&t);
	const char *key;
	json_t *v;
	json_object_foreach (json_array_get(json_object_get(good, "processes"), 0), key, v) {
		if (!strcmp(key, "spec"))
			continue;
		json_t *bad = json_deep_copy(good);
		json_t *p = json_array_get(json_object_get(bad, "processes"), 0);
		json_object_set_new(p, key, json_real(0.5));
		assert_int_equal(proc_table_load(&t, bad, &err), -EINVAL);
		assert_int_equal(t.n, 0);
		json_object_del(p, key);
		assert_int_equal(proc_table_load(&t, bad, &err), -EINVAL);
		json_decref(bad);
	}
	json_t *p = json_array_get(json_object_get(good, "processes"), 0);
	json_object_set_new(p, "name", json_string("c1/../../x"));
	assert_int_equal(proc_table_load(&t, good, &err), -EINVAL);
	json_object_set_new(p, "name", json_string("c1.12"));
	assert_int_equal(proc_table_load(&t, good, &err), 0);
	proc_table_done(&t);
	json_array_append(json_object_get(good, "processes"), p);
	assert_int_equal(proc_table_load(&t, good, &err), -EINVAL); /* twice */
	json_decref(good);
	assert_int_equal(proc_table_load(&t, NULL, &err), -EINVAL);
}

static void test_the_oldest_that_is_over_makes_room(void **state)
{
	(void)state;
	struct proc_table t;
	struct proc *p;
	struct hf_err err;
	proc_table_init(&t);
	add(&t, "c1", false, "")->state = PROC_RUNNING;
	for (int i = 1; i < PROC_MAX; i++)
		add(&t, "c1", true, "")->state = PROC_RUNNING;
	assert_int_equal(proc_add(&t, "c1", true, "", &p, &err), -ENOSPC);
	assert_null(proc_oldest_over(&t));
	proc_find(&t, "c1.7")->state = PROC_EXITED;
	assert_ptr_equal(proc_oldest_over(&t), proc_find(&t, "c1.7"));
	proc_remove(&t, proc_oldest_over(&t));
	assert_int_equal(proc_add(&t, "c1", true, "", &p, &err), 0);
	assert_null(proc_find(&t, "c1.7"));
	assert_int_equal(t.n, PROC_MAX);
	for (int i = 0; i <= PROC_KILLS_MAX; i++) {
		char key[8];
		(void)snprintf(key, sizeof(key), "%d", i);
		(void)proc_kill_add(&t, key);
	}
	assert_null(proc_kill_find(&t, "0"));
	assert_non_null(proc_kill_find(&t, "1"));
	proc_table_done(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_are_never_used_again),
		cmocka_unit_test(test_what_is_saved_is_what_is_loaded),
		cmocka_unit_test(test_a_bad_table_is_refused_whole),
		cmocka_unit_test(test_the_oldest_that_is_over_makes_room),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
