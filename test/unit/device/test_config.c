/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "device/options.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct dev_options o;
static struct hf_err err;

static int read_config(const char *text, size_t n)
{
	char path[] = "/tmp/hf-config-XXXXXX";
	int fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, n), n);
	char *argv[] = { (char *)"holdfastd", (char *)"--config", path, NULL };
	err = (struct hf_err){ 0 };
	int r = dev_options_parse(&o, 3, argv, &err);
	(void)close(fd);
	(void)unlink(path);
	return r;
}

static int config(const char *text)
{
	return read_config(text, strlen(text));
}

static void test_file_of_vhost_device_vsock(void **state)
{
	(void)state;
	assert_int_equal(config("vms:\n"
				"    - guest_cid: 3\n"
				"      socket: /tmp/vhost3.socket\n"
				"      uds_path: /tmp/vm3.sock\n"
				"      tx_buffer_size: 65536\n"
				"      queue_size: 512\n"
				"      groups: group1+groupA\n"
				"    - guest_cid: 4\n"
				"      socket: /tmp/vhost4.socket\n"
				"      uds_path: /tmp/vm4.sock\n"
				"      groups: [group1, groupB]\n"),
		0);
	assert_int_equal(o.n_vms, 2);
	assert_int_equal(o.vm[0].guest_cid, 3);
	assert_int_equal(o.vm[0].tx_buffer_size, 65536);
	assert_int_equal(o.vm[0].queue_size, 512);
	assert_string_equal(o.vm[0].uds_path, "/tmp/vm3.sock");
	assert_string_equal(o.vm[1].groups, "group1+groupB");
	assert_string_equal(o.vm[1].name, "vm4");
}

static void test_all_keys(void **state)
{
	(void)state;
	assert_int_equal(config("control: /c\nmetrics: 9100\nuser: nobody:nogroup\n"
				"sandbox_dir: [/a, /b]\nclaim-timeout: 250ms\nlog_level: debug\n"
				"log_format: json\n"
				"vms: [{socket: /s, uds-path: /u, guest_ports: [22, 80-90]}]\n"),
		0);
	assert_string_equal(o.control, "/c");
	assert_string_equal(o.metrics, "9100");
	assert_string_equal(o.user, "nobody:nogroup");
	assert_int_equal(o.n_sandbox_dirs, 2);
	assert_string_equal(o.sandbox_dir[1], "/b");
	assert_int_equal(o.claim_timeout_ms, 250);
	assert_int_equal(o.log_level, HF_LOG_DEBUG);
	assert_true(dev_ports_allow(&o.vm[0].guard.guest_ports, 85));
	assert_false(dev_ports_allow(&o.vm[0].guard.guest_ports, 91));
	for (size_t i = 0; i < o.n_sandbox_dirs; i++)
		free((void *)o.sandbox_dir[i]);
}

static void test_refusals_name_the_line(void **state)
{
	(void)state;
	static const struct {
		const char *text, *word;
	} bad[] = {
		{ "", "empty" },
		{ "just text", "mapping" },
		{ "[1, 2]", "mapping" },
		{ "vms: 3\n", "list" },
		{ "vms: [3]\n", "mapping" },
		{ "control: /c\nnonsense: 1\n", "line 2: unknown key 'nonsense'" },
		{ "control: {a: b}\n", "want a value" },
		{ "vm: x\n", "unknown key" },
		{ "help: x\n", "unknown key" },
		{ "vms:\n  - socket: /s\n    guest_cid: two\n", "line 3" },
		{ "vms:\n  - socket: /s\n", "uds-path=PATH is missing" },
		{ "vms:\n  - socket: {}\n", "want a value" },
		{ "vms:\n  - socket: [[]]\n", "want a value" },
		{ "vms:\n  - [a]: b\n", "no text" },
		{ "vms:\n  - socket: \"a\\0b\"\n", "want a value" },
		{ "a: b: c\n", "line 1" },
		{ "a: &x [*x]\n", "want a list" },
		{ "\x01\n", "line 1" },
		{ "vms:\n- {socket: /s, uds_path: /u}\n- {socket: /s, uds_path: /v, guest_cid: "
		  "4}\n",
			"share" },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		assert_int_equal(config(bad[i].text), -EINVAL);
		if (!strstr(err.text, bad[i].word))
			print_message("%s: %s\n", bad[i].text, err.text);
		assert_non_null(strstr(err.text, bad[i].word));
	}
}

static void test_how_long(void **state)
{
	(void)state;
	size_t n = 1u << 20;
	char *text = malloc(n + 1);
	assert_non_null(text);
	memset(text, '#', n + 1);
	memcpy(text, "control: /c\n", 12);
	assert_int_equal(read_config(text, n), 0);
	assert_int_equal(read_config(text, n + 1), -EFBIG);
	free(text);
	char *argv[] = { (char *)"holdfastd", (char *)"--config", (char *)"/nonexistent", NULL };
	assert_int_equal(dev_options_parse(&o, 3, argv, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent"));
}

/* More VMs than there may be; deep nesting. */
static void test_how_much(void **state)
{
	(void)state;
	char *text = malloc(1u << 20), *p = text;
	assert_non_null(text);
	p += sprintf(p, "vms:\n");
	for (int i = 0; i < DEV_VMS_MAX; i++)
		p += sprintf(p, "- {guest_cid: %d, socket: /s%d, uds_path: /u%d}\n", i + 3, i, i);
	assert_int_equal(config(text), 0);
	(void)sprintf(p, "- {guest_cid: 99, socket: /s, uds_path: /u}\n");
	assert_int_equal(config(text), -EINVAL);
	memset(text, '[', 5000);
	text[5000] = '\0';
	assert_int_equal(config(text), -EINVAL);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_file_of_vhost_device_vsock),
		cmocka_unit_test(test_all_keys),
		cmocka_unit_test(test_refusals_name_the_line),
		cmocka_unit_test(test_how_long),
		cmocka_unit_test(test_how_much),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
