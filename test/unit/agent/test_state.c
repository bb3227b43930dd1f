/* SPDX-License-Identifier: MIT */
/* The file that an agent leaves to the next: changes, batches, rewriting, refusal. */
#include "../../lib/unit.h"
#include "agent/keep/state.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/hf-state-XXXXXX";
static char path[64];

static json_t *open_state(struct agt_state *s, uint64_t keeper)
{
	struct hf_err err;
	json_t *map = NULL;
	assert_int_equal(agt_state_open(s, dir, keeper, false, &map, &err), 0);
	return map;
}

static void close_state(struct agt_state *s)
{
	(void)close(s->fd);
	json_decref(s->head);
	json_decref(s->batch);
}

static void test_the_last_value_counts(void **state)
{
	(void)state;
	struct agt_state s;
	json_decref(open_state(&s, 1));
	agt_state_put(&s, "container", "a", json_integer(1));
	agt_state_put(&s, "container", "b", json_integer(2));
	agt_state_put(&s, "container", "a", json_integer(3));
	agt_state_put(&s, "container", "b", NULL);
	agt_state_put_n(&s, "process", 41, json_string("\n\"\xc3\xa4"));
	close_state(&s);
	json_t *map = open_state(&s, 1);
	assert_int_equal(json_object_size(map), 2);
	assert_int_equal(json_integer_value(json_object_get(map, "container/a")), 3);
	assert_string_equal(json_string_value(json_object_get(map, "process/41")), "\n\"\xc3\xa4");
	assert_int_equal(s.serial, 41);
	json_decref(map);
	close_state(&s);
	assert_null(open_state(&s, 2)); /* of another keeper */
	close_state(&s);
	assert_null(open_state(&s, 1)); /* and then there was none */
	close_state(&s);
}

/* Cut anywhere, a batch is there whole or not at all, and so is what was before it. */
static void test_batches_are_whole(void **state)
{
	(void)state;
	struct agt_state s;
	struct stat st;
	json_decref(open_state(&s, 1));
	agt_state_put(&s, "a", "", json_integer(1));
	off_t before = (off_t)s.size;
	agt_state_begin(&s);
	agt_state_put(&s, "a", "", json_integer(2));
	agt_state_begin(&s);
	agt_state_put(&s, "b", "", json_integer(2));
	agt_state_end(&s);
	assert_int_equal(s.size, before);
	agt_state_end(&s);
	close_state(&s);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, s.size);
	char *text = malloc((size_t)st.st_size);
	FILE *f = fopen(path, "r");
	assert_int_equal(fread(text, 1, (size_t)st.st_size, f), st.st_size);
	(void)fclose(f);
	for (off_t n = before; n <= st.st_size; n++) {
		f = fopen(path, "w");
		assert_int_equal(fwrite(text, 1, (size_t)n, f), n);
		(void)fclose(f);
		json_t *map = open_state(&s, 1);
		bool whole = n == st.st_size;
		assert_int_equal(json_integer_value(json_object_get(map, "a")), whole ? 2 : 1);
		assert_int_equal(json_integer_value(json_object_get(map, "b")), whole ? 2 : 0);
		json_decref(map);
		close_state(&s);
	}
	free(text);
}

static void test_rewriting_bounds_the_file(void **state)
{
	(void)state;
	struct agt_state s;
	char value[1000];
	memset(value, 'x', sizeof(value) - 1);
	value[sizeof(value) - 1] = '\0';
	(void)unlink(path);
	json_decref(open_state(&s, 1));
	for (uint64_t i = 0; i < 20000; i++) {
		agt_state_put_n(&s, "leg", i % 10, json_string(value));
		agt_state_put_n(&s, "leg", (i + 5) % 10, NULL);
		assert_true(s.size < AGT_STATE_REWRITE + 4000);
	}
	close_state(&s);
	json_t *map = open_state(&s, 1);
	assert_int_equal(json_object_size(map), 5);
	json_decref(map);
	close_state(&s);
}

static void refuse(const char *content)
{
	struct agt_state s;
	char aside[80];
	(void)snprintf(aside, sizeof(aside), "%s.refused", path);
	(void)unlink(path);
	(void)unlink(aside);
	FILE *f = fopen(path, "w");
	(void)fputs(content, f);
	(void)fclose(f);
	assert_null(open_state(&s, 1));
	assert_int_equal(access(aside, F_OK), 0);
	close_state(&s);
}

static void test_refusals(void **state)
{
	(void)state;
	struct agt_state s;
	struct hf_err err;
	json_t *map = NULL;
	hf_log_setup("test", -1, HF_LOG_ERROR, HF_LOG_TEXT);
	refuse("x\n");
	refuse("7\n");
	refuse("\n");
	refuse("{}\n");
	refuse("{\"a\":1,\"a\":2}\n");
	refuse("{\"holdfast-agent\":{\"version\":99}}\n");
	(void)unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_null(open_state(&s, 1));
	(void)close(s.fd);
	agt_state_put(
		&s, "a", "", json_integer(1)); /* the descriptor is bad: keeping ends, quietly */
	assert_false(agt_state_kept(&s));
	assert_int_equal(access(path, F_OK), -1);
	s.fd = -1;
	close_state(&s);
	json_decref(open_state(&s, 1));
	agt_state_put(&s, "a", "", json_integer(1));
	close_state(&s);
	assert_int_equal(agt_state_open(&s, dir, 1, true, &map, &err), 0); /* crashed with it */
	assert_null(map);
	close_state(&s);
	assert_int_equal(agt_state_open(&s, "/nonexistent", 1, false, &map, &err), -ENOENT);
	json_decref(s.head);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_last_value_counts),
		cmocka_unit_test(test_batches_are_whole),
		cmocka_unit_test(test_rewriting_bounds_the_file),
		cmocka_unit_test(test_refusals),
	};
	assert_non_null(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/state", dir);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	char command[100];
	(void)snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) == 0 ? r : 1;
}
