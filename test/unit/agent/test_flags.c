/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "agent/flags.h"
#include <errno.h>
#include <string.h>

static int parse(struct agt_flags *f, struct hf_err *err, char *const argv[])
{
	int argc = 0;
	while (argv[argc])
		argc++;
	*err = (struct hf_err){ 0 };
	return agt_flags_parse(f, argc, argv, err);
}
#define PARSE(...)                                                                                 \
	parse(&f, &err, (char *const[]){ (char *)"agent", __VA_ARGS__ __VA_OPT__(, ) NULL })
#define S(text) ((char *)(text))

static void test_defaults(void **state)
{
	(void)state;
	struct agt_flags f;
	struct hf_err err;
	assert_int_equal(PARSE(), 0);
	assert_false(f.transport.unix_socket);
	assert_false(f.use_inouterr);
	assert_int_equal(f.reconnect_us, 10000);
	assert_int_equal(f.loglevel, HF_LOG_INFO);
	assert_int_equal(f.root_mem_reserve, 78643200);
}

/* gcs-protocol 11: the command line that hosts boot their guests with. */
static void test_as_hosts_pass_them(void **state)
{
	(void)state;
	struct agt_flags f;
	struct hf_err err;
	assert_int_equal(
		PARSE(S("-v4"), S("-log-format"), S("json"), S("-loglevel"), S("debug"),
			S("-disable-time-sync"), S("--kmsgLogLevel=4"), S("-gcs-mem-limit-bytes"),
			S("52428800"), S("-scrub-logs=true"), S("-initial-policy-stance=allow"),
			S("-core-dump-location"), S(""), S("-root-mem-reserve-bytes=1")),
		0);
	assert_true(f.v4);
	assert_int_equal(f.log_format, HF_LOG_JSON);
	assert_int_equal(f.loglevel, HF_LOG_DEBUG);
	assert_null(f.core_location);
	assert_int_equal(f.root_mem_reserve, 1);
}

static void test_transports(void **state)
{
	(void)state;
	struct agt_flags f;
	struct hf_err err;
	char base[100] = "--transport=unix:";
	assert_int_equal(PARSE(S("--transport"), S("unix:/run/x")), 0);
	assert_true(f.transport.unix_socket);
	assert_string_equal(f.transport.base, "/run/x");
	assert_int_equal(PARSE(S("-transport=stdio")), 0);
	assert_true(f.use_inouterr);
	assert_int_equal(PARSE(S("-use-inouterr=false"), S("-transport"), S("vsock")), 0);
	assert_false(f.use_inouterr);
	memset(base + 17, 'x', 79);
	assert_int_equal(PARSE(base), 0); /* the limit, and one more */
	base[17 + 79] = 'x';
	assert_int_equal(PARSE(base), -EINVAL);
	assert_int_equal(PARSE(S("-transport=unix:")), -EINVAL);
	assert_int_equal(PARSE(S("-transport=tcp")), -EINVAL);
}

static void test_durations(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t us;
	} good[] = { { "10ms", 10000 }, { "0.5s", 500000 }, { "1m", 60000000 }, { "5", 5000 },
		{ "1000us", 1000 }, { "1.5ms", 1500 } };
	static const char *const bad[] = { "", "ms", "10x", "-1ms", "0", "0.5ms", "3601s", "nan",
		"1e99s" };
	struct agt_flags f;
	struct hf_err err;
	for (size_t i = 0; i < HF_ARRAY_SIZE(good); i++) {
		assert_int_equal(PARSE(S("-reconnect-interval"), S(good[i].text)), 0);
		assert_int_equal(f.reconnect_us, good[i].us);
	}
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++)
		assert_int_equal(PARSE(S("-reconnect-interval"), S(bad[i])), -EINVAL);
}

static void test_refusals_name_the_flag(void **state)
{
	(void)state;
	struct agt_flags f;
	struct hf_err err;
	assert_int_equal(PARSE(S("-loglevel=loud")), -EINVAL);
	assert_non_null(strstr(err.text, "-loglevel=loud: error, warning"));
	assert_int_equal(PARSE(S("-loglevel")), -EINVAL);
	assert_string_equal(err.text, "-loglevel: needs a value");
	assert_int_equal(PARSE(S("-v4=maybe")), -EINVAL);
	assert_int_equal(PARSE(S("-root-mem-reserve-bytes=-1")), -EINVAL);
	static const char *const unknown[] = { "-x", "--", "-", "word", "---v4", "-v", "-v44" };
	for (size_t i = 0; i < HF_ARRAY_SIZE(unknown); i++) {
		assert_int_equal(PARSE(S(unknown[i])), -EINVAL);
		assert_non_null(strstr(err.text, unknown[i]));
	}
}

/* Every flag that the help names exists, so the help cannot promise what is not there. */
static void test_help_is_true(void **state)
{
	(void)state;
	struct agt_flags f;
	struct hf_err err;
	char flag[64];
	size_t seen = 0;
	for (const char *p = agt_flags_help; (p = strstr(p, "  -")); p++) {
		size_t n = strcspn(p + 2, " ,\n");
		assert_true(n < sizeof(flag));
		memcpy(flag, p + 2, n);
		flag[n] = '\0';
		if (PARSE(flag) < 0)
			assert_null(strstr(err.text, "no such flag"));
		seen++;
	}
	assert_true(seen >= 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_as_hosts_pass_them),
		cmocka_unit_test(test_transports),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_refusals_name_the_flag),
		cmocka_unit_test(test_help_is_true),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
