/* SPDX-License-Identifier: MIT */
/* The small parts: words of a command line, allowed paths, specifications, error texts. */
#include "../../lib/unit.h"
#include "agent/boot/ports.h"
#include "agent/host/cgroup.h"
#include "agent/net/adapter.h"
#include "agent/net/lease.h"
#include "agent/oci/runtime.h"
#include "agent/oci/spec.h"
#include "agent/oci/user.h"
#include "agent/proc/monitor.h"
#include "agent/proc/words.h"
#include "agent/storage/tree.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void expect_words(const char *line, const char *joined)
{
	size_t n = 0;
	char all[256] = "";
	char **words = agt_words_split(line, &n);
	assert_non_null(words);
	for (size_t i = 0; i < n; i++) {
		(void)strcat(all, words[i]);
		(void)strcat(all, "|");
	}
	assert_null(words[n]);
	assert_string_equal(all, joined);
	free(words);
}

static void test_words(void **state)
{
	(void)state;
	size_t n;
	expect_words("", "");
	expect_words(" \t\n ", "");
	expect_words("a", "a|");
	expect_words("  a  bc\td ", "a|bc|d|");
	expect_words("'a b' \"c d\"", "a b|c d|");
	expect_words("a'b'\"c\"d", "abcd|");
	expect_words("'' \"\"", "||");
	expect_words("a\\ b \\'c", "a b|'c|");
	expect_words("\"a\\\"b\\n\" '\\'", "a\"b\\n|\\|");
	expect_words("a\\", "a\\|");
	expect_words("a b c d e f g h", "a|b|c|d|e|f|g|h|");
	assert_null(agt_words_split("a 'b", &n));
	assert_int_equal(errno, EINVAL);
	assert_null(agt_words_split("\"", &n));
}

static void test_paths(void **state)
{
	(void)state;
	static const char *const good[] = { "/run/x", "/a/b/c", "//a//b", "/a/.b/..c" };
	static const char *const bad[] = { "", "/", "a/b", "/a", "/a/", "/./a", "/a/../b", "/a/..",
		"/..", "//" };
	char longest[PATH_MAX + 1];
	for (size_t i = 0; i < HF_ARRAY_SIZE(good); i++)
		assert_true(agt_path_allowed(good[i]));
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_false(agt_path_allowed(bad[i]));
	memset(longest, 'a', PATH_MAX);
	memcpy(longest, "/a/", 3);
	longest[PATH_MAX] = '\0';
	assert_false(agt_path_allowed(longest));
	longest[PATH_MAX - 1] = '\0';
	assert_true(agt_path_allowed(longest));
}

static void test_trees(void **state)
{
	(void)state;
	char base[] = "/tmp/hf-tree-XXXXXX", path[64];
	struct hf_err err;
	struct stat st;
	assert_non_null(mkdtemp(base));
	(void)snprintf(path, sizeof(path), "%s/a/b/c", base);
	assert_int_equal(agt_tree_make(path, 0700, &err), 0);
	assert_int_equal(agt_tree_make(path, 0700, &err), 0);
	(void)snprintf(path, sizeof(path), "%s/a/link", base);
	assert_int_equal(symlink("/tmp", path), 0); /* is removed, not followed */
	assert_int_equal(agt_tree_has_mounts(base), 0);
	assert_int_equal(agt_tree_has_mounts("/proc"), 1);
	assert_int_equal(agt_tree_remove(base, &err), 0);
	assert_int_equal(stat(base, &st), -1);
	assert_int_equal(stat("/tmp", &st), 0);
	assert_int_equal(agt_tree_remove(base, &err), 0); /* absent is success */
}

static json_t *spec_of(const char *text)
{
	json_t *spec = json_loads(text, 0, NULL);
	assert_non_null(spec);
	return spec;
}

static void test_spec(void **state)
{
	(void)state;
	struct agt_spec_facts facts;
	struct hf_err err;
	json_t *spec =
		spec_of("{\"process\":{\"terminal\":true},\"root\":{\"path\":\"r\"},\"windows\":{},"
			"\"linux\":{\"namespaces\":[{\"type\":\"mount\"},{\"type\":\"pid\"}]}}");
	assert_int_equal(agt_spec_prepare(spec, "c1", &facts, &err), 0);
	assert_true(facts.tty);
	assert_true(facts.own_pids);
	assert_int_equal(facts.kind, AGT_KIND_ALONE);
	assert_null(json_object_get(spec, "windows"));
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "linux"), "cgroupsPath")),
		"/pods/c1");
	json_decref(spec);

	spec = spec_of(
		"{\"process\":{},\"root\":{\"path\":\"r\"},"
		"\"annotations\":{\"io.kubernetes.cri.container-type\":\"container\","
		"\"io.kubernetes.cri.sandbox-id\":\"pod\"},"
		"\"linux\":{\"namespaces\":[{\"type\":\"pid\",\"path\":\"/proc/1/ns/pid\"}]}}");
	assert_int_equal(agt_spec_prepare(spec, "c2", &facts, &err), 0);
	assert_int_equal(facts.kind, AGT_KIND_WORKLOAD);
	assert_false(facts.own_pids);
	assert_string_equal(facts.sandbox, "pod");
	assert_string_equal(
		json_string_value(json_object_get(json_object_get(spec, "linux"), "cgroupsPath")),
		"/pods/pod/c2");
	json_decref(spec);

	static const char *const bad[] = { "{}", "{\"process\":{},\"linux\":{}}",
		"{\"process\":[],\"root\":{\"path\":\"r\"},\"linux\":{}}",
		"{\"process\":{},\"root\":{},\"linux\":{}}",
		("{\"process\":{},\"root\":{\"path\":\"r\"},\"linux\":{},"
		 "\"annotations\":{\"io.kubernetes.cri.container-type\":\"container\"}}") };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		spec = spec_of(bad[i]);
		assert_int_equal(agt_spec_prepare(spec, "c", &facts, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "OciSpecification."));
		json_decref(spec);
	}
}

static void put_file(const char *root, const char *name, const char *text)
{
	char path[64];
	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

/* gcs-protocol 5, ExecuteProcess: user, uid, user:group, any mix. */
static void test_users(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		int result;
		uid_t uid;
		gid_t gid;
	} cases[] = { { "bob", 0, 1000, 100 }, { "1000", 0, 1000, 100 }, { "77", 0, 77, 0 },
		{ "bob:staff", 0, 1000, 50 }, { "77:staff", 0, 77, 50 }, { "bob:9", 0, 1000, 9 },
		{ "nobody", -ENOENT, 0, 0 }, { "bob:nobody", -ENOENT, 0, 0 }, { "", -ENOENT, 0, 0 },
		{ "bad", -ENOENT, 0, 0 }, { "-1", -ENOENT, 0, 0 },
		{ "4294967295", -ENOENT, 0, 0 } };
	char root[] = "/tmp/hf-user-XXXXXX", path[64];
	struct hf_err err;
	uid_t uid;
	gid_t gid;
	assert_non_null(mkdtemp(root));
	(void)snprintf(path, sizeof(path), "%s/etc", root);
	assert_int_equal(mkdir(path, 0700), 0);
	put_file(root, "etc/passwd",
		"root:x:0:0:::\nshort:x\nbad:x:y:1:::\nbob:x:1000:100::/:/bin/sh\n");
	put_file(root, "etc/group", "root:x:0:\nstaff:x:50:7,8\n");
	for (size_t i = 0; i < HF_ARRAY_SIZE(cases); i++) {
		assert_int_equal(
			agt_user_resolve(root, cases[i].name, &uid, &gid, &err), cases[i].result);
		if (cases[i].result < 0)
			continue;
		assert_int_equal(uid, cases[i].uid);
		assert_int_equal(gid, cases[i].gid);
	}
	/* a link to the outside is resolved inside */
	(void)snprintf(path, sizeof(path), "%s/etc/passwd", root);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/etc/group", path), 0);
	assert_int_equal(agt_user_resolve(root, "staff", &uid, &gid, &err), 0);
	assert_int_equal(uid, 50);
	assert_int_equal(agt_tree_remove(root, &err), 0);
}

/* gcs-protocol 4: the runtime's texts and the protocol's codes. */
static void test_runtime_errors(void **state)
{
	(void)state;
	assert_int_equal(
		agt_runtime_hresult("container \"x\" does not exist"), BRG_E_SYSTEM_NOT_FOUND);
	assert_int_equal(agt_runtime_hresult("container `x` already exists"), BRG_E_ALREADY_EXISTS);
	assert_int_equal(agt_runtime_hresult("container with id exists: x"), BRG_E_ALREADY_EXISTS);
	assert_int_equal(
		agt_runtime_hresult("cannot delete container x that is not stopped: running"),
		BRG_E_INVALID_STATE);
	assert_int_equal(agt_runtime_hresult("container not running"), BRG_E_ALREADY_STOPPED);
	assert_int_equal(agt_runtime_hresult("something else"), BRG_E_FAIL);
}

static void test_w43_delay_of_restarts(void **state)
{
	(void)state;
	uint32_t delay = 0;
	for (int i = 0; i < 1000; i++) {
		uint32_t next = agt_restart_delay(delay, 0);
		assert_in_range(next, HF_MAX(delay, AGT_RESTART_MIN_MS), AGT_RESTART_MAX_MS);
		delay = next;
	}
	assert_int_equal(delay, AGT_RESTART_MAX_MS); /* for ever: it never becomes "at once" */
	assert_int_equal(agt_restart_delay(delay, AGT_RESTART_STABLE_MS), AGT_RESTART_MIN_MS);
}

static void test_w23_count_of_kills(void **state)
{
	(void)state;
	char dir[] = "/tmp/hf-oom-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	assert_int_equal(agt_cgroup_oom_kills(dir), 0);
	snprintf(path, sizeof(path), "%s/memory.events", dir);
	FILE *f = fopen(path, "w");
	fputs("low 0\nhigh 3\nmax 9\noom 2\noom_kill 7\noom_group_kill 1\n", f);
	fclose(f);
	assert_int_equal(agt_cgroup_oom_kills(dir), 7);
	unlink(path);
	rmdir(dir);
}

static void test_kmsg(void **state)
{
	(void)state;
	unsigned priority;
	char *text, good[] = "28,5,99,-;a line; of text\n SUBSYSTEM=x\n";
	assert_int_equal(agt_kmsg_parse(good, &priority, &text), 0);
	assert_int_equal(priority, 4);
	assert_string_equal(text, "a line; of text");
	char bad[][16] = { "", ";", "x;y", "4", "4,", "4;x" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(agt_kmsg_parse(bad[i], &priority, &text), -EBADMSG);
}

static void test_w28_addresses(void **state)
{
	(void)state;
	struct agt_ip ip;
	assert_int_equal(agt_ip_parse("10.1.2.3/24", &ip), 0);
	assert_int_equal(ip.prefix, 24);
	assert_int_equal(agt_ip_parse("::/0", &ip), 0);
	assert_true(agt_ip_is_zero(&ip));
	static const char *const bad[] = { "", "/", "1.2.3", "1.2.3.4/33", "1.2.3.4/", "1.2.3.4/-1",
		"fd00::1/129", "1.2.3.4/ 8", "1.2.3.4 ", "x", "1.2.3.4/8x",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(agt_ip_parse(bad[i], &ip), -EINVAL);
}

static int lease(struct agt_adapter *ad, const char *mask, const char *router, const char *routes)
{
	(void)setenv("ip", "10.0.0.7", 1);
	(void)setenv("mask", mask, 1);
	(void)setenv("router", router, 1);
	(void)setenv("staticroutes", routes, 1);
	return agt_lease_read(ad);
}

static void expect_route(const struct agt_adapter *ad, size_t i, const char *to, const char *via)
{
	struct agt_ip a, b = { 0 };
	assert_true(i < ad->n_routes);
	assert_int_equal(agt_ip_parse(to, &a), 0);
	if (via)
		assert_int_equal(agt_ip_parse(via, &b), 0);
	assert_memory_equal(&ad->route[i].to, &a, sizeof(a));
	assert_memory_equal(&ad->route[i].via, &b, sizeof(b));
}

static void test_w26_leases(void **state)
{
	(void)state;
	static struct agt_adapter ad;
	char many[AGT_ROUTES_MAX * 32 + 64] = "";
	assert_int_equal(lease(&ad, "24", "10.0.0.1 10.0.0.2", ""), 0);
	assert_int_equal(ad.address[0].prefix, 24);
	assert_int_equal(ad.n_routes, 1);
	expect_route(&ad, 0, "0.0.0.0/0", "10.0.0.1");
	assert_int_equal(lease(&ad, "", "", ""), 0);
	assert_int_equal(ad.address[0].prefix, 32);
	assert_int_equal(ad.n_routes, 0);

	/* RFC 3442: with these the router does not count, whether a default route is among them */
	assert_int_equal(lease(&ad, "24", "10.0.0.1",
				 "10.8.0.0/13 10.0.0.3 192.168.7.0/24 0.0.0.0 0.0.0.0/0 10.0.0.4 "),
		0);
	assert_int_equal(ad.n_routes, 3);
	expect_route(&ad, 0, "10.8.0.0/13", "10.0.0.3");
	expect_route(&ad, 1, "192.168.7.0/24", NULL);
	expect_route(&ad, 2, "0.0.0.0/0", "10.0.0.4");
	assert_int_equal(lease(&ad, "24", "10.0.0.1", "10.15.1.1/13 10.0.0.3"), 0);
	assert_int_equal(ad.n_routes, 1);
	expect_route(&ad, 0, "10.8.0.0/13", "10.0.0.3");

	static const char *const nonsense[] = { "10.0.0.0/8", "10.0.0.0 10.0.0.1",
		"10.0.0.0/33 10.0.0.1", "10.0.0.0/8 x", "fd00::/8 10.0.0.1", "10.0.0.0/8 fd00::1",
		"10.0.0.0/8 10.0.0.1/x", "10.0.0.0/8 10.0.0.1 ;" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(nonsense); i++)
		assert_int_equal(lease(&ad, "24", "10.0.0.1", nonsense[i]), -EINVAL);
	for (int i = 0; i < AGT_ROUTES_MAX; i++)
		(void)snprintf(many + strlen(many), sizeof(many) - strlen(many),
			"10.%d.0.0/16 10.0.0.1 ", i);
	assert_int_equal(lease(&ad, "24", "", many), 0);
	assert_int_equal(ad.n_routes, AGT_ROUTES_MAX);
	strcat(many, "10.99.0.0/16 10.0.0.1");
	assert_int_equal(lease(&ad, "24", "", many), -E2BIG);
	assert_int_equal(lease(&ad, "33", "", ""), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_w43_delay_of_restarts),
		cmocka_unit_test(test_w23_count_of_kills),
		cmocka_unit_test(test_kmsg),
		cmocka_unit_test(test_w28_addresses),
		cmocka_unit_test(test_w26_leases),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_trees),
		cmocka_unit_test(test_spec),
		cmocka_unit_test(test_users),
		cmocka_unit_test(test_runtime_errors),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
