/* SPDX-License-Identifier: MIT */
/* Reaping with real children: watched, unknown, adopted before and after their end. */
#include "../../lib/unit.h"
#include "agent/proc/child.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static uv_loop_t loop;
static struct agt_children cs;

struct seen {
	int n;
	int status;
};

static void on_end(void *arg, int status)
{
	struct seen *s = arg;
	s->n++;
	s->status = status;
}

static pid_t fork_exit(int code)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(code);
	assert_true(pid > 0);
	return pid;
}

/* Turns the loop until the pid is reaped, whoever it belongs to. */
static void until_reaped(pid_t pid)
{
	while (kill(pid, 0) == 0)
		(void)uv_run(&loop, UV_RUN_ONCE);
}

static int setup(void **state)
{
	(void)state;
	return uv_loop_init(&loop) < 0 || agt_children_init(&cs, &loop) < 0 ? -1 : 0;
}

static void test_spawn_reports_once(void **state)
{
	(void)state;
	struct seen s = { 0 };
	struct agt_child c = { .fn = on_end, .arg = &s };
	struct hf_err err = { 0 };
	const char *const sh[] = { "sh", "-c", "exit 7", NULL }, *const none[] = { "/nonexistent",
		NULL };
	struct agt_spawn spawn = { .argv = sh, .fd = { -1, -1, -1 }, .console = -1 };
	assert_int_equal(agt_child_spawn(&cs, &spawn, &c, &err), 0);
	until_reaped(c.pid);
	assert_int_equal(s.n, 1);
	assert_int_equal(agt_exit_code(s.status), 7);
	assert_int_equal(c.pid, 0);
	spawn.argv = none;
	assert_int_equal(agt_child_spawn(&cs, &spawn, &c, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent"));
}

static void test_an_end_before_the_pid_is_known(void **state)
{
	(void)state;
	struct seen s = { 0 };
	struct agt_child c = { .fn = on_end, .arg = &s };
	int status = 0;
	agt_children_hold(&cs);
	pid_t pid = fork_exit(9);
	until_reaped(pid);
	assert_int_equal(agt_child_adopt(&cs, &c, pid, &status), 1);
	assert_int_equal(agt_exit_code(status), 9);
	agt_children_release(&cs);
	assert_int_equal(cs.n_exits, 0); /* a pid that is used again is not taken for it */
	assert_int_equal(s.n, 0);
}

static void test_many_unknown_ends_are_bounded(void **state)
{
	(void)state;
	struct agt_child c = { .fn = on_end };
	int status = 0;
	pid_t last = 0;
	agt_children_hold(&cs);
	for (int i = 0; i < AGT_EXITS_MAX + 1; i++) {
		last = fork_exit(i & 0x7f);
		until_reaped(last);
	}
	assert_int_equal(cs.n_exits, AGT_EXITS_MAX);
	assert_int_equal(agt_child_adopt(&cs, &c, last, &status), 1);
	agt_children_release(&cs);
}

static void test_forgotten_children_are_still_reaped(void **state)
{
	(void)state;
	struct seen s = { 0 };
	struct agt_child c = { .fn = on_end, .arg = &s };
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		(void)pause();
		_exit(0);
	}
	assert_int_equal(agt_child_adopt(&cs, &c, pid, &status), 0);
	agt_child_forget(&c);
	agt_child_forget(&c); /* twice is harmless */
	assert_int_equal(kill(pid, SIGKILL), 0);
	until_reaped(pid);
	assert_int_equal(s.n, 0);
	assert_int_equal(agt_exit_code(SIGKILL), 137);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spawn_reports_once),
		cmocka_unit_test(test_an_end_before_the_pid_is_known),
		cmocka_unit_test(test_many_unknown_ends_are_bounded),
		cmocka_unit_test(test_forgotten_children_are_still_reaped),
	};
	return cmocka_run_group_tests(tests, setup, NULL);
}
