/* SPDX-License-Identifier: MIT */
#include "../../lib/unit.h"
#include "qmp/qmp.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char greeting[] =
	"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}}, "
	"\"capabilities\": [\"oob\"]}}\r\n";

static void feed(struct qmp *q, const char *text)
{
	assert_int_equal(qmp_feed(q, text, strlen(text)), 0);
}

static struct qmp *ready(void)
{
	struct qmp *q = qmp_new();
	struct qmp_msg m;
	assert_non_null(q);
	feed(q, greeting);
	feed(q, "{\"return\": {}, \"id\": 0}\r\n");
	assert_int_equal(qmp_next(q, &m), 1);
	assert_int_equal(m.kind, QMP_MSG_READY);
	assert_int_equal(qmp_next(q, &m), 0);
	return q;
}

/* The whole life of a monitor, cut at every byte. */
static void test_dialogue_at_every_split(void **state)
{
	(void)state;
	char text[1024];
	int n = snprintf(text, sizeof(text),
		"%s"
		"{\"return\": {}, \"id\": 0}\r\n"
		"{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n"
		"{\"return\": {\"running\": true}, \"id\": 1}\r\n"
		"{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n",
		greeting);
	for (int cut = 0; cut <= n; cut++) {
		HF_CLEANUP(qmp_freep) struct qmp *q = qmp_new();
		struct qmp_msg m;
		uint64_t a, b;
		int seen = 0;
		assert_int_equal(qmp_command(q, "query-status", NULL, &a), 0);
		assert_int_equal(qmp_command(q, "cont", json_object(), &b), 0);
		for (int part = 0; part < 2; part++) {
			assert_int_equal(qmp_feed(q, part ? text + cut : text,
						 (size_t)(part ? n - cut : cut)),
				0);
			while (qmp_next(q, &m) == 1) {
				static const enum qmp_msg_kind want[] = { QMP_MSG_READY,
					QMP_MSG_EVENT, QMP_MSG_RETURN, QMP_MSG_ERROR };
				assert_int_equal(m.kind, want[seen++]);
				if (m.kind == QMP_MSG_EVENT)
					assert_true(json_is_object(m.data));
				if (m.kind == QMP_MSG_RETURN)
					assert_int_equal(m.id, a);
				if (m.kind == QMP_MSG_ERROR) {
					assert_int_equal(m.id, b);
					assert_string_equal(json_string_value(m.data), "no");
				}
			}
		}
		assert_int_equal(seen, 4);
	}
}

static void test_commands_are_lines_behind_the_negotiation(void **state)
{
	(void)state;
	HF_CLEANUP(qmp_freep) struct qmp *q = qmp_new();
	const char *out;
	uint64_t id;
	assert_int_equal(qmp_command(q, "stop", NULL, &id), 0);
	static const char want[] = "{\"execute\":\"qmp_capabilities\",\"id\":0}\n"
				   "{\"execute\":\"stop\",\"id\":1}\n";
	assert_int_equal(qmp_output(q, &out), sizeof(want) - 1);
	assert_memory_equal(out, want, sizeof(want) - 1);
	qmp_output_done(q, 5);
	assert_int_equal(qmp_output(q, &out), sizeof(want) - 6);
	assert_memory_equal(out, want + 5, sizeof(want) - 6);
}

static void test_hostile_monitors_are_poisoned(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"[]\n",
		"{\"event\": \"STOP\"\n",        /* not JSON */
		"{\"return\": {}, \"id\": 7}\n", /* an answer to nothing */
		"{\"return\": {}, \"id\": 0}\n", /* twice */
		"{\"return\": {}}\n",            /* no id */
		"{\"event\": 5}\n",
		"{\"event\": \"STOP\", \"data\": []}\n",
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"bad\"}}\n",
		"{\"a\": 1, \"a\": 2}\n",
	};
	for (size_t i = 0; i < HF_ARRAY_SIZE(bad); i++) {
		HF_CLEANUP(qmp_freep) struct qmp *q = ready();
		struct qmp_msg m;
		uint64_t id;
		feed(q, bad[i]);
		assert_int_equal(qmp_next(q, &m), -EPROTO);
		assert_int_equal(qmp_next(q, &m), -EPROTO);
		assert_int_equal(qmp_feed(q, "x", 1), -EPROTO);
		assert_int_equal(qmp_command(q, "stop", NULL, &id), -EPROTO);
	}
	HF_CLEANUP(qmp_freep) struct qmp *q = qmp_new();
	struct qmp_msg m;
	feed(q, "{\"return\": {}, \"id\": 0}\n"); /* before the greeting */
	assert_int_equal(qmp_next(q, &m), -EPROTO);

	HF_CLEANUP(qmp_freep) struct qmp *refused = qmp_new();
	feed(refused, greeting);
	feed(refused, "{\"id\": 0, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
	assert_int_equal(qmp_next(refused, &m), -EPROTO);
}

static void test_limits(void **state)
{
	(void)state;
	HF_CLEANUP(qmp_freep) struct qmp *q = ready();
	struct qmp_msg m;
	uint64_t id;
	for (int i = 0; i < QMP_OUTSTANDING_MAX; i++)
		assert_int_equal(qmp_command(q, "stop", NULL, &id), 0);
	assert_int_equal(qmp_command(q, "stop", json_object(), &id), -EBUSY);
	feed(q, "{\"return\": {}, \"id\": 1}\n");
	assert_int_equal(qmp_next(q, &m), 1);
	assert_int_equal(qmp_command(q, "stop", NULL, &id), 0);

	char *blank = malloc(QMP_LINE_MAX + 1);
	assert_non_null(blank);
	memset(blank, ' ', QMP_LINE_MAX + 1);
	assert_int_equal(qmp_feed(q, blank, QMP_LINE_MAX), 0);
	assert_int_equal(qmp_next(q, &m), 0);
	assert_int_equal(qmp_feed(q, blank, 1), 0);
	assert_int_equal(qmp_next(q, &m), -EPROTO);
	free(blank);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dialogue_at_every_split),
		cmocka_unit_test(test_commands_are_lines_behind_the_negotiation),
		cmocka_unit_test(test_hostile_monitors_are_poisoned),
		cmocka_unit_test(test_limits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
