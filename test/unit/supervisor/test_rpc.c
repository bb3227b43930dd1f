/* SPDX-License-Identifier: MIT */
/* The asking end and the answering end of a control socket, over a real one. */
#include "../../lib/unit.h"
#include "supervisor/rpc.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

struct world {
	uv_loop_t loop;
	char dir[32], path[48];
	int listen_fd;
	struct chan *server;
	struct rpc *rpc;
	char seen[256]; /* what the server read, line by line */
	int results[8], n_results, lost, fds;
	char text[256];
};

static void on_line(struct chan *c, char *line)
{
	struct world *w = c->ctx;
	(void)snprintf(w->seen, sizeof(w->seen), "%s", line);
	int fd = chan_take_fd(c);
	w->fds += fd >= 0;
	fd_closep(&fd);
}

static void on_closed(struct chan *c, int why)
{
	struct world *w = c->ctx;
	(void)why;
	w->server = NULL;
}

static const struct chan_ops server_ops = { .on_line = on_line, .on_closed = on_closed };

static void on_done(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct world *w = ctx;
	w->results[w->n_results++] = err ? err->code : json_is_true(json_object_get(answer, "ok"));
	w->fds += *fd >= 0;
	if (err)
		(void)snprintf(w->text, sizeof(w->text), "%s", err->text);
}

static void on_lost(void *ctx, int why)
{
	struct world *w = ctx;
	(void)why;
	w->lost++;
	rpc_close(w->rpc); /* allowed in the callback */
	w->rpc = NULL;
}

static const struct rpc_ops rpc_ops = { .on_lost = on_lost };

static void turn(struct world *w)
{
	for (int i = 0; i < 20; i++)
		(void)uv_run(&w->loop, UV_RUN_NOWAIT);
}

static int setup(void **state)
{
	static struct world w;
	w = (struct world){ .dir = "/tmp/holdfast-test-XXXXXX", .listen_fd = -1 };
	assert_non_null(mkdtemp(w.dir));
	(void)snprintf(w.path, sizeof(w.path), "%s/s", w.dir);
	assert_int_equal(uv_loop_init(&w.loop), 0);
	assert_int_equal(unix_listen(w.path, 0600, 4, &w.listen_fd), 0);
	assert_int_equal(rpc_open(&w.loop, w.path, "peer", &rpc_ops, &w, &w.rpc), 0);
	int fd = accept4(w.listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	assert_int_equal(chan_open(&w.loop, fd, &server_ops, &w, &w.server), 0);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	rpc_close(w->rpc);
	if (w->server)
		chan_close(w->server);
	turn(w);
	assert_int_equal(uv_loop_close(&w->loop), 0); /* nothing was left on the loop */
	fd_closep(&w->listen_fd);
	(void)unlink(w->path);
	return rmdir(w->dir);
}

static void reply(struct world *w, const char *line)
{
	assert_int_equal(chan_send(w->server, line, strlen(line)), 0);
	turn(w);
}

static void test_answers_find_their_requests(void **state)
{
	struct world *w = *state;
	rpc_call(w->rpc, "one", json_pack("{s:i}", "x", 5), -1, on_done, w);
	rpc_call(w->rpc, "two", NULL, -1, on_done, w);
	turn(w);
	assert_string_equal(w->seen, "{\"id\":2,\"cmd\":\"two\"}");
	reply(w, "{\"id\":9,\"ok\":true}\n{\"event\":\"e\"}\nnonsense\n"); /* to nobody */
	assert_int_equal(w->n_results, 0);
	reply(w, "{\"id\":2,\"ok\":true}\n{\"id\":1,\"ok\":false,\"error\":{\"code\":\"ENOENT\","
		 "\"text\":\"no x\"}}\n");
	assert_int_equal(w->n_results, 2);
	assert_int_equal(w->results[0], 1);
	assert_int_equal(w->results[1], -EREMOTEIO);
	assert_string_equal(w->text, "peer: one: no x ENOENT");
	reply(w, "{\"id\":2,\"ok\":true}\n");
	assert_int_equal(w->n_results, 2); /* an answer comes once */
}

static void test_descriptors_travel_both_ways(void **state)
{
	struct world *w = *state;
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	rpc_call(w->rpc, "take", NULL, fd, on_done, w);
	turn(w);
	assert_int_equal(w->fds, 1);
	json_t *answer = json_pack("{s:i, s:b}", "id", 1, "ok", 1);
	assert_int_equal(chan_send_json_fd(w->server, answer, fd), 0);
	json_decref(answer);
	turn(w);
	assert_int_equal(w->fds, 2);
	fd_closep(&fd);
}

static void test_a_lost_peer_fails_everything_once(void **state)
{
	struct world *w = *state;
	rpc_call(w->rpc, "one", NULL, -1, on_done, w);
	rpc_call(w->rpc, "two", NULL, -1, on_done, w);
	turn(w);
	chan_close(w->server);
	w->server = NULL;
	turn(w);
	assert_int_equal(w->n_results, 2);
	assert_int_equal(w->results[0], -ECONNRESET);
	assert_int_equal(w->lost, 1);
	assert_null(w->rpc);
}

static void test_a_line_over_the_limit_ends_the_connection(void **state)
{
	struct world *w = *state;
	static char line[CHAN_LINE_MAX + 2];
	memset(line, 'x', sizeof(line));
	assert_int_equal(chan_send(w->server, line, CHAN_LINE_MAX + 1), 0);
	turn(w);
	assert_int_equal(w->lost, 1);
}

static void test_a_peer_that_does_not_read_is_cut_off(void **state)
{
	struct world *w = *state;
	static char block[1024 * 1024];
	int r = 0;
	for (int i = 0; i < 16 && r == 0; i++) /* the loop does not run meanwhile */
		r = chan_send(w->server, block, sizeof(block));
	assert_int_equal(r, -ENOBUFS);
	turn(w);
	assert_null(w->server);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_answers_find_their_requests),
		TEST(test_descriptors_travel_both_ways),
		TEST(test_a_lost_peer_fails_everything_once),
		TEST(test_a_line_over_the_limit_ends_the_connection),
		TEST(test_a_peer_that_does_not_read_is_cut_off),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
