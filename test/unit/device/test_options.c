/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "device/options.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct dev_options o;
static struct hf_err err;

#define PARSE(...) parse((const char *[]){ "holdfastd", __VA_ARGS__, NULL })

static int parse(const char **argv)
{
	int argc = 0;
	while (argv[argc])
		argc++;
	err = (struct hf_err){ 0 };
	return dev_options_parse(&o, argc, (char **)argv, &err);
}

/* A refusal says what is wrong: the text must contain the word. */
#define REFUSED(word, ...)                                                                         \
	do {                                                                                       \
		assert_int_equal(PARSE(__VA_ARGS__), -EINVAL);                                     \
		assert_non_null(strstr(err.text, word));                                           \
	} while (0)

/* A holdfastd that takes over reads what was given once more. */
static void test_given_again_is_the_same(void **state)
{
	(void)state;
	assert_int_equal(
		PARSE("--vm", "guest-cid=4,socket=/s,uds-path=/v,groups=a+b,port=1024:reset,"
			      "port=2000-2999:reset,mode=0660,rate-bytes=7,queue-size=64"),
		0);
	static struct dev_vm_options again;
	again = dev_options_vm_default();
	const struct dev_vm_options *vm = &o.vm[0];
	for (size_t at = 0; at < vm->given_len;) {
		const char *key = vm->given + at, *value = key + strlen(key) + 1;
		assert_int_equal(dev_options_vm_set(&again, key, value, &err), 0);
		at += strlen(key) + strlen(value) + 2;
	}
	assert_int_equal(dev_options_vm_check(&again, &err), 0);
	assert_memory_equal(&again, vm, sizeof(again));
}

static void test_given_is_bounded(void **state)
{
	(void)state;
	static struct dev_vm_options vm;
	vm = dev_options_vm_default();
	int r = 0, n = 0;
	for (; r == 0 && n < DEV_GIVEN_MAX; n++)
		r = dev_options_vm_set(&vm, "name", "x", &err);
	assert_int_equal(r, -EINVAL);
	assert_int_equal(n - 1, DEV_GIVEN_MAX / 7);
	assert_non_null(strstr(err.text, "more than"));
}

static void test_vm_as_for_vhost_device_vsock(void **state)
{
	(void)state;
	assert_int_equal(PARSE("--vm", "guest-cid=4,socket=/s4,uds-path=/v4", "--vm",
				 "guest-cid=5,uds-path=/v5,socket=/s5,tx-buffer-size=65536,"
				 "queue-size=256,groups=a+b,name=five"),
		0);
	assert_int_equal(o.action, DEV_RUN);
	assert_int_equal(o.n_vms, 2);
	assert_int_equal(o.vm[0].guest_cid, 4);
	assert_string_equal(o.vm[0].name, "vm4");
	assert_string_equal(o.vm[0].socket, "/s4");
	assert_string_equal(o.vm[0].uds_path, "/v4");
	assert_int_equal(o.vm[0].tx_buffer_size, DEV_TX_BUFFER_DEFAULT);
	assert_int_equal(o.vm[0].queue_size, 1024);
	assert_int_equal(o.vm[0].fd, -1);
	assert_string_equal(o.vm[1].name, "five");
	assert_int_equal(o.vm[1].tx_buffer_size, 65536);
	assert_int_equal(o.vm[1].queue_size, 256);
	assert_int_equal(o.claim_timeout_ms, 5000);
	assert_int_equal(o.poll_us, 32);
	assert_string_equal(o.control, "");
}

static void test_policies_and_outer_cid(void **state)
{
	(void)state;
	assert_int_equal(PARSE("--vm",
				 "guest-cid=4,socket=/s,uds-path=/v,outer-cid=9,"
				 "port=1024:reattach,port=2000-2999:reset,default=reset",
				 "--vm", "guest-cid=4,socket=/s2,uds-path=/v2"),
		0);
	assert_int_equal(o.vm[0].guest_cid, 4);
	assert_int_equal(o.vm[0].outer_cid, 9);
	assert_string_equal(o.vm[0].name, "vm9");
	assert_int_equal(dev_policy_of(&o.vm[0].policies, 1024), DEV_REATTACH);
	assert_int_equal(dev_policy_of(&o.vm[0].policies, 2999), DEV_RESET);
	assert_int_equal(dev_policy_of(&o.vm[0].policies, 1), DEV_RESET);
	assert_int_equal(dev_options_cid(&o.vm[0]), 9);
	assert_int_equal(dev_options_cid(&o.vm[1]), 4);
	assert_int_equal(dev_policy_of(&o.vm[1].policies, 1), DEV_REATTACH);
	REFUSED("PORTS:POLICY", "--vm", "socket=/s,uds-path=/v,port=1024");
	REFUSED("reattach, relay or reset", "--vm", "socket=/s,uds-path=/v,port=1024:keep");
	REFUSED("reattach, relay or reset", "--vm", "socket=/s,uds-path=/v,default=1");
	REFUSED("needs --link", "--vm", "socket=/s,uds-path=/v,port=7:relay");
	REFUSED("want unix:/PATH", "--vm", "socket=/s,uds-path=/v", "--link", "/run/link");
	REFUSED("tcp:IP:PORT", "--vm", "socket=/s,uds-path=/v", "--link", "tcp:localhost:7000");
	REFUSED("tcp:IP:PORT", "--vm", "socket=/s,uds-path=/v", "--link", "tcp:127.0.0.1:0");
	REFUSED("tcp:IP:PORT", "--vm", "socket=/s,uds-path=/v", "--link", "tcp:127.0.0.1");
	REFUSED("tcp:IP:PORT", "--vm", "socket=/s,uds-path=/v", "--link", "tcp:[::1]:70000");
	REFUSED("in the clear", "--vm", "socket=/s,uds-path=/v", "--link", "tcp:[::1]:7000");
	REFUSED("give --link as well", "--vm", "socket=/s,uds-path=/v", "--link-peer", "unix:/l");
	REFUSED("107 bytes", "--vm", "socket=/s,uds-path=/v", "--link",
		"unix:/0123456789012345678901234567890123456789012345678901234567890123456789012345"
		"67890123456789012345678901234567890123456789");
	REFUSED("outer-cid=2", "--vm", "socket=/s,uds-path=/v,outer-cid=2");
	REFUSED("must each be given once", "--vm", "guest-cid=4,socket=/a,uds-path=/b", "--vm",
		"guest-cid=5,outer-cid=4,socket=/c,uds-path=/d");
}

static void test_single_vm(void **state)
{
	(void)state;
	assert_int_equal(
		PARSE("--guest-cid=9", "--socket", "/s", "--uds-path", "/v", "--control", "/c",
			"--claim-timeout", "250ms", "--log-level=debug", "--log-format=json"),
		0);
	assert_int_equal(o.n_vms, 1);
	assert_int_equal(o.vm[0].guest_cid, 9);
	assert_string_equal(o.control, "/c");
	assert_int_equal(o.claim_timeout_ms, 250);
	assert_int_equal(o.log_level, HF_LOG_DEBUG);
	assert_int_equal(o.log_format, HF_LOG_JSON);

	assert_int_equal(PARSE("--socket-path=/s", "--uds-path=/v", "--poll-us=0"), 0);
	assert_int_equal(o.poll_us, 0);
	REFUSED("0 to 1000", "--socket-path=/s", "--uds-path=/v", "--poll-us=1001");

	assert_int_equal(PARSE("--fd=5", "--uds-path=/v"), 0);
	assert_int_equal(o.vm[0].fd, 5);
	assert_int_equal(o.vm[0].guest_cid, 3);
	assert_int_equal(PARSE("--socket-path=/s", "--uds-path=/v"), 0);
	assert_string_equal(o.vm[0].socket, "/s");
}

static void test_actions(void **state)
{
	(void)state;
	assert_int_equal(PARSE("--help"), 0);
	assert_int_equal(o.action, DEV_HELP);
	assert_int_equal(PARSE("--version"), 0);
	assert_int_equal(o.action, DEV_VERSION);
	assert_int_equal(PARSE("--print-capabilities"), 0);
	assert_int_equal(o.action, DEV_CAPABILITIES);
}

static void test_refusals_name_the_reason(void **state)
{
	(void)state;
	REFUSED("no VM", "--log-level=info");
	REFUSED("not both", "--vm", "guest-cid=4,socket=/s,uds-path=/v", "--guest-cid=5");
	REFUSED("not both", "--fd=3", "--socket=/s", "--uds-path=/v");
	REFUSED("socket=PATH is missing", "--vm", "guest-cid=4,uds-path=/v");
	REFUSED("uds-path=PATH is missing", "--vm", "guest-cid=4,socket=/s");
	REFUSED("unknown key 'backward-cid'", "--vm", "guest-cid=4,backward-cid=1");
	REFUSED("not KEY=VALUE", "--vm", "guest-cid=4,,socket=/s");
	REFUSED("must not be empty", "--vm", "socket=,uds-path=/v");
	REFUSED("number from 3", "--vm", "guest-cid=2,socket=/s,uds-path=/v");
	REFUSED("number from 3", "--vm", "guest-cid=4294967295,socket=/s,uds-path=/v");
	REFUSED("number from", "--vm", "guest-cid=4x,socket=/s,uds-path=/v");
	REFUSED("number from", "--vm", "guest-cid=-4,socket=/s,uds-path=/v");
	REFUSED("number from", "--vm", "queue-size=1025");
	REFUSED("power of two", "--vm", "queue-size=100");
	REFUSED("number from", "--vm", "tx-buffer-size=4194305");
	REFUSED("name=a/b", "--vm", "name=a/b");
	REFUSED("want a time", "--claim-timeout=1h");
	REFUSED("want a time", "--claim-timeout=3601");
	REFUSED("unknown option", "--bogus");
	REFUSED("unexpected argument", "--guest-cid=4", "stray");
	REFUSED("given once", "--vm", "socket=/a,uds-path=/b", "--vm", "socket=/c,uds-path=/d");
	REFUSED("share a path", "--vm", "socket=/a,uds-path=/b", "--vm",
		"guest-cid=4,socket=/a,uds-path=/d");
}

/* As for vhost-device-vsock, which has either a path or these. */
static void test_forwarding(void **state)
{
	(void)state;
	assert_int_equal(
		PARSE("--vm", "guest-cid=4,forward-cid=1,forward-listen=9001+9002,socket=/s"), 0);
	const struct dev_forward *f = &o.vm[0].forward;
	assert_int_equal(f->cid, 1);
	assert_int_equal(f->n_listen, 2);
	assert_int_equal(f->listen[0], 9001);
	assert_int_equal(f->listen[1], 9002);
	assert_string_equal(o.vm[0].uds_path, "");
	assert_int_equal(dev_forward_listen_cid(f), 1); /* not for other machines */
	assert_true(dev_forward_takes(f, 1));
	assert_false(dev_forward_takes(f, 2));
	assert_int_equal(
		PARSE("--guest-cid=4", "--socket=/s", "--uds-path=/v", "--forward-cid=7"), 0);
	assert_int_equal(dev_forward_listen_cid(f), DEV_CID_ANY);
	assert_true(dev_forward_takes(f, 7));
	assert_false(dev_forward_takes(f, 1));
	assert_int_equal(PARSE("--vm", "guest-cid=4,forward-cid=1,socket=/s", "--vm",
				 "guest-cid=5,forward-cid=1,socket=/t"),
		0); /* two without a path share none */
	assert_int_equal(PARSE("--socket=/s", "--uds-path=/v"), 0);
	assert_false(dev_forward_takes(f, 0));

	char sixteen[DEV_FORWARDS_MAX * 6 + 8], *p = sixteen;
	for (int i = 0; i < DEV_FORWARDS_MAX; i++)
		p += sprintf(p, "%s%d", i > 0 ? "+" : "", 9000 + i);
	assert_int_equal(PARSE("--socket=/s", "--forward-cid=1", "--forward-listen", sixteen), 0);
	(void)sprintf(p, "+1");
	REFUSED("at most 16", "--socket=/s", "--forward-cid=1", "--forward-listen", sixteen);
	static const char *const bad[] = { "", "+", "1+", "+1", "1++2", "1-2", "x", "-1", " 1",
		"4294967295", "99999999999999999999", "7+8+7" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		REFUSED("want PORT", "--socket=/s", "--forward-cid=1", "--forward-listen", bad[i]);
	REFUSED("number from 1", "--socket=/s", "--forward-cid=0");
	REFUSED("number from 1", "--socket=/s", "--forward-cid=4294967295");
	REFUSED("give forward-cid", "--socket=/s", "--uds-path=/v", "--forward-listen=9001");
	REFUSED("has no user", "--vm", "socket=/s,forward-cid=1,forward-listen=9,allow-uid=0");
	REFUSED("must not share forward-listen port 9", "--vm",
		"socket=/s,forward-cid=1,forward-listen=8+9", "--vm",
		"guest-cid=4,socket=/t,forward-cid=1,forward-listen=9+10");
}

static void test_limits(void **state)
{
	(void)state;
	char path[DEV_PATH_MAX + 2], opt[160];
	memset(path, 'p', sizeof(path));
	path[DEV_PATH_MAX] = '\0';
	assert_int_equal(PARSE("--socket", path, "--uds-path=/v"), 0);
	path[DEV_PATH_MAX] = 'p';
	path[DEV_PATH_MAX + 1] = '\0';
	REFUSED("1 bytes too long", "--socket", path, "--uds-path=/v");
	path[DEV_UDS_PATH_MAX + 1] = '\0';
	REFUSED("1 bytes too long", "--socket=/s", "--uds-path", path);
	path[DEV_UDS_PATH_MAX] = '\0';
	assert_int_equal(PARSE("--socket=/s", "--uds-path", path), 0);

	const char *argv[2 * (DEV_VMS_MAX + 1) + 2] = { "holdfastd" };
	static char vms[DEV_VMS_MAX + 1][64];
	for (int i = 0; i <= DEV_VMS_MAX; i++) {
		(void)snprintf(vms[i], sizeof(vms[i]), "guest-cid=%d,socket=/s%d,uds-path=/v%d",
			i + 3, i, i);
		argv[1 + 2 * i] = "--vm";
		argv[2 + 2 * i] = vms[i];
	}
	assert_int_equal(parse(argv), -EINVAL);
	argv[1 + 2 * DEV_VMS_MAX] = NULL;
	assert_int_equal(parse(argv), 0);
	assert_int_equal(o.n_vms, DEV_VMS_MAX);
	(void)snprintf(opt, sizeof(opt), "name=%.*s", DEV_NAME_MAX + 1, path);
	REFUSED("1 bytes too long", "--vm", opt);
}

static void test_groups(void **state)
{
	(void)state;
	static const struct {
		const char *a, *b;
		bool share;
	} cases[] = {
		{ "x", "x", true },
		{ "x", "y", false },
		{ "a+x", "x+b", true },
		{ "a+bc+d", "e+bc", true },
		{ "ab", "a", false },
		{ "a", "ab", false },
		{ "a+b", "c+d", false },
		{ "", "", false },
		{ "a", "", false },
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++) {
		struct dev_vm_options a, b;
		(void)snprintf(a.groups, sizeof(a.groups), "%s", cases[i].a);
		(void)snprintf(b.groups, sizeof(b.groups), "%s", cases[i].b);
		assert_int_equal(dev_options_share_group(&a, &b), cases[i].share);
	}
	static const char *const bad[] = { "", "+", "a+", "+a", "a++b" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(
			PARSE("--socket", "/s", "--uds-path", "/v", "--groups", bad[i]), -EINVAL);
	char longest[DEV_GROUPS_MAX + 2];
	memset(longest, 'g', sizeof(longest));
	longest[DEV_GROUPS_MAX + 1] = '\0';
	assert_int_equal(PARSE("--socket", "/s", "--uds-path", "/v", "--groups", longest), -EINVAL);
	longest[DEV_GROUPS_MAX] = '\0';
	assert_int_equal(PARSE("--socket", "/s", "--uds-path", "/v", "--groups", longest), 0);
	assert_string_equal(o.vm[0].groups, longest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vm_as_for_vhost_device_vsock),
		cmocka_unit_test(test_given_again_is_the_same),
		cmocka_unit_test(test_given_is_bounded),
		cmocka_unit_test(test_policies_and_outer_cid),
		cmocka_unit_test(test_single_vm),
		cmocka_unit_test(test_actions),
		cmocka_unit_test(test_refusals_name_the_reason),
		cmocka_unit_test(test_forwarding),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_groups),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
