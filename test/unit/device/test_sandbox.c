/* SPDX-License-Identifier: MIT */
/* Each test does one thing in a child that is in the sandbox; the child's status tells. */
#include "../../lib/unit.h"
#include "base/fd.h"
#include "base/log.h"
#include "device/sandbox.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static char folder[] = "/tmp/hf-sandbox-XXXXXX";
static char inside[64], outside[64];

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(folder));
	(void)snprintf(inside, sizeof(inside), "%s/socket", folder);
	(void)snprintf(outside, sizeof(outside), "/tmp/hf-sandbox-%d", (int)getpid());
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	(void)unlink(inside);
	(void)unlink(outside);
	return rmdir(folder);
}

/* The status of a child that has entered the sandbox and returned fn(). */
static int in_sandbox(int (*fn)(void))
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct dev_sandbox s = { 0 };
		struct hf_err err = { 0 };
		hf_log_setup("test", 2, HF_LOG_ERROR, HF_LOG_TEXT);
		if (dev_sandbox_add_socket(&s, inside) < 0 || dev_sandbox_enter(&s, &err) < 0) {
			hf_error("%s", err.text);
			_exit(99);
		}
		_exit(fn());
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static int declared_calls(void)
{
	int fd = -1, sv[2], n;
	if (unix_listen(inside, 0600, 1, &fd) < 0 || unlink(inside) < 0)
		return 1;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) < 0 || ioctl(sv[0], FIONREAD, &n) < 0)
		return 2;
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		MAP_FAILED)
		return 3;
	free(malloc(10 << 20));
	return 0;
}

static int run_a_program(void)
{
	return execl("/bin/true", "true", NULL);
}

static int open_a_file(void)
{
	return open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES ? 0 : 1;
}

static int talk_to_the_network(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) >= 0;
}

static int make_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
	       MAP_FAILED;
}

static int other_ioctl(void)
{
	return ioctl(0, TIOCSTI, "x");
}

static int kill_another(void)
{
	return kill(getppid(), 0);
}

static int bind_elsewhere(void)
{
	int fd = -1;
	return unix_listen(outside, 0600, 1, &fd) == -EACCES ? 0 : 1;
}

static void test_declared(void **state)
{
	(void)state;
	assert_int_equal(in_sandbox(declared_calls), 0);
	assert_int_equal(in_sandbox(open_a_file), 0);
}

static void test_forbidden(void **state)
{
	(void)state;
	int (*const forbidden[])(void) = { run_a_program, talk_to_the_network, make_code,
		other_ioctl, kill_another };
	for (size_t i = 0; i < HF_ARRAY_SIZE(forbidden); i++)
		assert_int_equal(in_sandbox(forbidden[i]), DEV_EXIT_SANDBOX);
}

static void test_other_folder(void **state)
{
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1) {
		print_message("this kernel has no Landlock\n");
		skip();
	}
	assert_int_equal(in_sandbox(bind_elsewhere), 0);
}

static int wait_for_parent(void)
{
	char byte;
	return (int)recv(3, &byte, 1, 0);
}

static void test_privileges(void **state)
{
	(void)state;
	char path[64], text[4096];
	int sv[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct dev_sandbox s = { 0 };
		(void)dup2(sv[1], 3);
		if (dev_sandbox_enter(&s, NULL) < 0 || write(3, "x", 1) != 1)
			_exit(99);
		_exit(wait_for_parent());
	}
	assert_int_equal(read(sv[0], text, 1), 1);
	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	(void)close(fd);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	(void)close(sv[0]);
	(void)close(sv[1]);
	assert_non_null(strstr(text, "NoNewPrivs:\t1"));
	assert_non_null(strstr(text, "Seccomp:\t2"));
	assert_non_null(strstr(text, "CapPrm:\t0000000000000000"));
	assert_non_null(strstr(text, "CapEff:\t0000000000000000"));
}

static void test_user(void **state)
{
	(void)state;
	struct hf_err err = { 0 };
	assert_int_equal(dev_sandbox_user("no-such-user-here", &err), -ENOENT);
	assert_non_null(strstr(err.text, "no such user"));
	assert_int_equal(dev_sandbox_user("root:no-such-group-here", &err), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_declared),
		cmocka_unit_test(test_forbidden),
		cmocka_unit_test(test_other_folder),
		cmocka_unit_test(test_privileges),
		cmocka_unit_test(test_user),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
