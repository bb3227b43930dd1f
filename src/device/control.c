/* SPDX-License-Identifier: MIT */
#include "control.h"
#include "admin.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/log.h"
#include "counters.h"
#include "daemon.h"
#include "vm.h"
#include <errno.h>
#include <jansson.h>
#include <string.h>
#include <sys/socket.h>

/* syscalls: accept4 geteuid unlink unlinkat */

#define RECEIVE_BYTES 65536

/* ---- commands ---- */

struct request {
	struct dev_daemon *daemon;
	struct dev_client *client;
	const json_t *args;
	json_t *answer;    /* results are put here */
	struct dev_vm *vm; /* for commands about one */
};

typedef int command_fn(struct request *rq, struct hf_err *reterr);

static int cmd_version(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	unsigned oldest, newest;
	dev_state_versions(&oldest, &newest);
	return json_object_set_new(rq->answer, "version", json_string(HF_VERSION)) |
	       json_object_set_new(rq->answer, "record",
		       json_pack("{s:i,s:i}", "oldest", oldest, "newest", newest));
}

static int cmd_vm_list(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	json_t *list = json_array();
	for (size_t i = 0; i < rq->daemon->n_vms; i++) {
		struct dev_vm_info info;
		if (!rq->daemon->vm[i])
			continue;
		dev_vm_info(rq->daemon->vm[i], &info);
		if (json_array_append_new(list,
			    json_pack("{s:s,s:I,s:b,s:s,s:I}", "name", info.name, "guest_cid",
				    (json_int_t)info.guest_cid, "connected", info.connected,
				    "rings", info.rings, "connections", (json_int_t)info.n_conns)) <
			0)
			break; /* out of memory: seen below */
	}
	return json_object_set_new(rq->answer, "vms", list);
}

static json_t *conn_json(const struct dev_conn_info *c)
{
	return json_pack("{s:I,s:I,s:I,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "host_port",
		(json_int_t)c->host_port, "guest_port", (json_int_t)c->guest_port, "peer_cid",
		(json_int_t)c->peer_cid, "type", c->type, "state", c->state, "claimed", c->claimed,
		"rx_bytes", (json_int_t)c->rx_bytes, "tx_bytes", (json_int_t)c->tx_bytes,
		"to_host_pending", (json_int_t)c->to_host_pending, "to_guest_pending",
		(json_int_t)c->to_guest_pending, "rx_credit", (json_int_t)c->rx_credit, "tx_credit",
		(json_int_t)c->tx_credit, "age_ms", (json_int_t)(c->age_us / 1000));
}

static int put_conns(struct request *rq)
{
	json_t *list = json_array();
	struct dev_conn_info info;
	for (size_t at = 0; dev_vm_next_conn(rq->vm, &at, &info);)
		if (json_array_append_new(list, conn_json(&info)) < 0)
			break; /* out of memory: the answer lacks a connection, nothing else */
	return json_object_set_new(rq->answer, "connections", list);
}

static int cmd_conn_list(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	return put_conns(rq);
}

static int cmd_state_save(struct request *rq, struct hf_err *reterr)
{
	size_t size, n_conns;
	int r = dev_state_save(rq->vm, &rq->client->out_fd, &size, &n_conns, reterr);
	if (r < 0)
		return r;
	return json_object_set_new(rq->answer, "size", json_integer((json_int_t)size)) |
	       json_object_set_new(rq->answer, "connections", json_integer((json_int_t)n_conns));
}

static int cmd_state_freeze(struct request *rq, struct hf_err *reterr)
{
	bool leave = json_is_true(json_object_get(rq->args, "leave"));
	return dev_state_freeze(rq->vm, leave, reterr);
}

static int cmd_state_load(struct request *rq, struct hf_err *reterr)
{
	HF_CLEANUP(fd_closep) int fd = fd_take(&rq->client->in_fd);
	if (fd < 0)
		return hf_err_set(reterr, -EINVAL,
			"no descriptor came with the request: attach the record (SCM_RIGHTS)");
	int r = dev_state_load(rq->vm, fd, reterr);
	return r < 0 ? r : put_conns(rq);
}

static int get_port(
	const struct request *rq, const char *key, uint32_t *ret_port, struct hf_err *reterr)
{
	const json_t *v = json_object_get(rq->args, key);
	if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
		return hf_err_set(reterr, -EINVAL, "%s: want a number from 0 to 4294967295", key);
	*ret_port = (uint32_t)json_integer_value(v);
	return 0;
}

static int cmd_claim(struct request *rq, struct hf_err *reterr)
{
	uint32_t host_port, guest_port;
	int r = get_port(rq, "host_port", &host_port, reterr);
	if (r == 0)
		r = get_port(rq, "guest_port", &guest_port, reterr);
	if (r == 0)
		r = dev_state_claim(rq->vm, host_port, guest_port, &rq->client->out_fd, reterr);
	return r;
}

static int cmd_state_discard(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	size_t n = dev_state_discard(rq->vm);
	return json_object_set_new(rq->answer, "connections", json_integer((json_int_t)n));
}

/* ---- what an operator changes ---- */

static int cmd_vm_add(struct request *rq, struct hf_err *reterr)
{
	struct dev_vm_options o = dev_options_vm_default();
	const char *key;
	json_t *v;
	int r = 0;
	json_object_foreach (json_object_get(rq->args, "config"), key, v) {
		char number[24];
		(void)snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(v));
		const char *text = json_is_integer(v) ? number : json_string_value(v);
		r = text ? dev_options_vm_set(&o, key, text, reterr)
			 : hf_err_set(reterr, -EINVAL, "%s: want a string or a number", key);
		if (r < 0)
			return r;
	}
	r = dev_options_vm_check(&o, reterr);
	return r < 0 ? r : dev_admin_add_vm(rq->daemon, &o, reterr);
}

static int cmd_vm_remove(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	dev_admin_remove_vm(rq->daemon, rq->vm);
	return 0;
}

static int cmd_vm_cid(struct request *rq, struct hf_err *reterr)
{
	uint32_t cid;
	int r = get_port(rq, "guest_cid", &cid, reterr);
	return r < 0 ? r : dev_admin_set_cid(rq->vm, cid, reterr);
}

static int cmd_conn_reset(struct request *rq, struct hf_err *reterr)
{
	uint32_t host_port, guest_port, peer_cid = VSK_CID_HOST;
	int r = get_port(rq, "host_port", &host_port, reterr);
	if (r == 0)
		r = get_port(rq, "guest_port", &guest_port, reterr);
	if (r == 0 && json_object_get(rq->args, "peer_cid"))
		r = get_port(rq, "peer_cid", &peer_cid, reterr);
	return r < 0 ? r : dev_admin_reset_conn(rq->vm, peer_cid, host_port, guest_port, reterr);
}

static int cmd_log_level(struct request *rq, struct hf_err *reterr)
{
	const char *text = json_string_value(json_object_get(rq->args, "level"));
	if (!text || hf_log_level_parse(text, &hf_log_max) < 0)
		return hf_err_set(
			reterr, -EINVAL, "level: want error, warning, info, debug or trace");
	return 0;
}

static int cmd_counters(struct request *rq, struct hf_err *reterr)
{
	(void)reterr; /* nothing can be refused */
	json_t *counters = json_object();
	struct dev_counter c;
	for (size_t i = 0; dev_counter_at(rq->vm, i, &c); i++)
		if (json_object_set_new(counters, c.name, json_integer((json_int_t)c.value)) < 0)
			break; /* out of memory: the answer lacks a counter, nothing else */
	return json_object_set_new(rq->answer, "counters", counters);
}

static const struct command {
	const char *name;
	bool about_vm;
	command_fn *fn;
} commands[] = {
	{ "version", false, cmd_version },
	{ "vm-list", false, cmd_vm_list },
	{ "conn-list", true, cmd_conn_list },
	{ "state-save", true, cmd_state_save },
	{ "state-freeze", true, cmd_state_freeze },
	{ "state-load", true, cmd_state_load },
	{ "claim", true, cmd_claim },
	{ "state-discard", true, cmd_state_discard },
	{ "vm-add", false, cmd_vm_add },
	{ "vm-remove", true, cmd_vm_remove },
	{ "vm-cid", true, cmd_vm_cid },
	{ "conn-reset", true, cmd_conn_reset },
	{ "counters", true, cmd_counters },
	{ "log-level", false, cmd_log_level },
};

static int find_vm(struct request *rq, struct hf_err *reterr)
{
	const char *name = json_string_value(json_object_get(rq->args, "vm"));
	if (!name)
		return hf_err_set(reterr, -EINVAL, "vm: the VM's name is missing");
	for (size_t i = 0; i < rq->daemon->n_vms; i++) {
		struct dev_vm *vm = rq->daemon->vm[i];
		if (vm && strcmp(vm->opt->name, name) == 0) {
			rq->vm = vm;
			return 0;
		}
	}
	return hf_err_set(reterr, -ENOENT, "vm \"%.64s\": no such VM; see vm-list", name);
}

static int run_command(struct request *rq, struct hf_err *reterr)
{
	const char *name = json_string_value(json_object_get(rq->args, "cmd"));
	if (!name)
		return hf_err_set(reterr, -EINVAL, "cmd: the command's name is missing");
	for (size_t i = 0; i < HF_ARRAY_SIZE(commands); i++) {
		if (strcmp(commands[i].name, name) != 0)
			continue;
		int r = commands[i].about_vm ? find_vm(rq, reterr) : 0;
		if (r == 0)
			r = commands[i].fn(rq, reterr);
		return r;
	}
	return hf_err_set(reterr, -ENOSYS, "cmd \"%.64s\": no such command", name);
}

/* ---- lines ---- */

static int set_answer(struct dev_client *cl, json_t *answer)
{
	char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
	json_decref(answer);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	char *line = realloc(text, n + 2);
	if (!line) {
		free(text);
		return -ENOMEM;
	}
	memcpy(line + n, "\n", 2);
	cl->out = line;
	cl->out_len = n + 1;
	cl->out_sent = 0;
	return 0;
}

static json_t *error_json(json_t *id, const struct hf_err *err)
{
	const char *code = strerrorname_np(-err->code);
	return json_pack("{s:O?,s:b,s:{s:s,s:s}}", "id", id, "ok", 0, "error", "code",
		code ? code : "EIO", "text", err->text);
}

/* Handles one line; always leaves an answer, or fails. */
static int handle_line(struct dev_control *c, struct dev_client *cl, const char *line)
{
	struct hf_err err = { 0 };
	json_error_t jerr;
	json_t *args = json_loads(line, JSON_REJECT_DUPLICATES, &jerr);
	if (!json_is_object(args)) {
		json_decref(args);
		(void)hf_err_set(&err, -EBADMSG, "the line is not a JSON object: %s",
			args ? "another value" : jerr.text); /* the answer carries it */
		cl->closing = true;
		return set_answer(cl, error_json(NULL, &err));
	}
	json_t *id = json_object_get(args, "id");
	struct request rq = { .daemon = c->daemon,
		.client = cl,
		.args = args,
		.answer = json_pack("{s:O?,s:b}", "id", id, "ok", 1) };
	int r = rq.answer ? run_command(&rq, &err) : -ENOMEM;
	json_t *answer = rq.answer;
	if (r < 0) {
		json_decref(rq.answer);
		fd_closep(&cl->out_fd);
		if (err.code == 0) /* only memory fails without a text */
			(void)hf_err_set(&err, -ENOMEM, "out of memory"); /* the answer has it */
		answer = error_json(id, &err);
	}
	r = set_answer(cl, answer);
	json_decref(args);
	return r;
}

/* ---- clients ---- */

static struct dev_tag client_tag(const struct dev_control *c, const struct dev_client *cl)
{
	return (struct dev_tag){
		.what = DEV_ON_CONTROL, .slot = (uint32_t)(cl - c->client), .gen = (uint16_t)cl->gen
	};
}

static void client_close(struct dev_control *c, struct dev_client *cl)
{
	dev_loop_close(&c->daemon->loop, &cl->fd);
	fd_closep(&cl->in_fd);
	fd_closep(&cl->out_fd);
	hf_lines_done(&cl->in);
	free(cl->out);
	*cl = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1, .gen = cl->gen + 1 };
	c->retry_us = 0;
}

/* Sends what is left of the answer: 1 when all is out, 0 when the socket is full, or -errno. */
static int client_send(struct dev_client *cl)
{
	while (cl->out_sent < cl->out_len) {
		ssize_t n = unix_send_fds(cl->fd, cl->out + cl->out_sent,
			cl->out_len - cl->out_sent, &cl->out_fd, cl->out_fd >= 0);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return (int)n;
		fd_closep(&cl->out_fd);
		cl->out_sent += (size_t)n;
	}
	free(cl->out);
	cl->out = NULL;
	cl->out_len = cl->out_sent = 0;
	return cl->closing ? -ESHUTDOWN : 1;
}

/* Receives once: 1 when bytes came, 0 when none are there, or -errno. */
static int client_receive(struct dev_client *cl)
{
	char buf[RECEIVE_BYTES];
	int fds[1];
	size_t n_fds = 0;
	ssize_t n = unix_recv_fds(cl->fd, buf, sizeof(buf), fds, 1, &n_fds);
	if (n == -EAGAIN)
		return 0;
	if (n <= 0)
		return n < 0 ? (int)n : -ESHUTDOWN;
	if (n_fds > 0) {
		fd_closep(&cl->in_fd);
		cl->in_fd = fds[0];
	}
	int r = hf_lines_feed(&cl->in, buf, (size_t)n);
	return r < 0 ? r : 1;
}

/* A line that is too long or holds a NUL: says so, and that is the end. */
static int bad_line(struct dev_client *cl, int error)
{
	struct hf_err err = { 0 };
	(void)hf_err_set(&err, error, "a line is longer than %u bytes or contains a NUL",
		DEV_CONTROL_LINE_MAX); /* the answer carries it */
	cl->closing = true;
	return set_answer(cl, error_json(NULL, &err));
}

/* Handles the lines that are complete, one answer at a time: 1 when more input is wanted, 0 when an
 * answer waits for the socket, or -errno. */
static int client_lines(struct dev_control *c, struct dev_client *cl)
{
	for (;;) {
		char *line;
		int r = cl->out ? client_send(cl) : 1;
		if (r <= 0)
			return r;
		r = hf_lines_next(&cl->in, &line);
		if (r == 0)
			return 1;
		r = r < 0 ? bad_line(cl, r) : handle_line(c, cl, line);
		if (r < 0)
			return r;
	}
}

void dev_control_on_client(struct dev_control *c, struct dev_tag tag)
{
	struct dev_client *cl = &c->client[tag.slot];
	if (cl->fd < 0 || !dev_tag_is(tag, cl->gen))
		return;
	int r = client_lines(c, cl);
	if (r > 0) {
		r = client_receive(cl);
		if (r > 0)
			r = client_lines(c, cl);
		else if (r == 0)
			r = 1;
	}
	if (r >= 0)
		r = dev_loop_watch(
			&c->daemon->loop, cl->fd, r > 0 ? EPOLLIN : EPOLLOUT, client_tag(c, cl));
	if (r < 0)
		client_close(c, cl);
}

static struct dev_client *client_free_slot(struct dev_control *c)
{
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd < 0)
			return &c->client[i];
	return NULL;
}

static void watch_listener(struct dev_control *c, bool on)
{
	int r = dev_loop_watch(&c->daemon->loop, c->listen_fd, on ? EPOLLIN : 0,
		(struct dev_tag){ .what = DEV_ON_CONTROL_LISTEN });
	if (r < 0)
		hf_error("control %s: cannot watch: %s", c->path, strerror(-r));
	c->full = !on;
	c->retry_us = c->daemon->loop.now_us + DEV_RETRY_US;
}

void dev_control_on_listen(struct dev_control *c)
{
	struct dev_client *cl = client_free_slot(c);
	if (!cl) {
		watch_listener(c, false);
		return;
	}
	HF_CLEANUP(fd_closep)
	int fd = accept4(c->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			watch_listener(c, false);
		return;
	}
	uid_t uid;
	int r = unix_peer_uid(fd, &uid);
	if (r < 0 || (uid != geteuid() && uid != 0)) {
		hf_warn("control %s: a client of user %d was refused: run it as user %d or root",
			c->path, r < 0 ? -1 : (int)uid, (int)geteuid());
		return;
	}
	cl->fd = fd_take(&fd);
	hf_lines_init(&cl->in, DEV_CONTROL_LINE_MAX);
	if (dev_loop_watch(&c->daemon->loop, cl->fd, EPOLLIN, client_tag(c, cl)) < 0)
		client_close(c, cl);
}

uint64_t dev_control_turn(struct dev_control *c)
{
	if (c->full && c->daemon->loop.now_us >= c->retry_us)
		watch_listener(c, true);
	return c->full ? c->retry_us : UINT64_MAX;
}

int dev_control_open(struct dev_control *c, struct dev_daemon *daemon, const char *path)
{
	*c = (struct dev_control){ .daemon = daemon, .listen_fd = -1 };
	json_object_seed(0); /* now, while /dev/urandom can be opened */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		c->client[i] = (struct dev_client){ .fd = -1, .in_fd = -1, .out_fd = -1 };
	if (path[0] == '\0')
		return 0;
	int r = unix_listen(path, 0600, DEV_CLIENTS_MAX, &c->listen_fd);
	if (r < 0)
		return r;
	c->path = strdup(path);
	if (!c->path) {
		fd_closep(&c->listen_fd);
		return -ENOMEM;
	}
	watch_listener(c, true);
	return 0;
}

void dev_control_close(struct dev_control *c)
{
	if (c->listen_fd < 0)
		return; /* never opened: there are no clients either */
	for (size_t i = 0; i < DEV_CLIENTS_MAX; i++)
		if (c->client[i].fd >= 0)
			client_close(c, &c->client[i]);
	dev_loop_close(&c->daemon->loop, &c->listen_fd);
	(void)unlink(c->path); /* gone already is as good */
	free(c->path);
	c->path = NULL;
}
