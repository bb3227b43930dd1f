/* SPDX-License-Identifier: MIT */
/*
 * vm.c - requests to a VM's supervisor, and finding it.
 *
 * find() follows moved.json from the node that was asked for and connects. What it says decides
 * whether to try again:
 *	connected
 *	-ENOENT		there is no control.sock: the VM was ended, or never was; final
 *	others		the supervisor is dead or busy: one that was there before is waited for,
 * until patience is over; one that was not is an error at once
 *
 * A request is kept until it is answered, and sent again on each new connection. An answer with
 * EAGAIN means "not now": it is sent again a little later.
 */
#include "base/hex.h"
#include "vm_internal.h"
#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define VM_LINE_MAX  (1024 * 1024)
#define VM_RETRY_MS  20
#define VM_MOVES_MAX 8 /* moved.json is followed this often */

struct hf_vm {
	struct vm_link link;
	char *request; /* the line with its end, not a string; NULL: none is under way */
	size_t request_len, sent;
	uint64_t id;
	json_t *current; /* handed out last */
	char *text;
};

/* ---- Finding the supervisor ---- */

/* Where moved.json of this node points to: 1 and the node, or 0. */
static int moved_to(const char *node, const char *name, char to[HF_NODE_PATH_MAX])
{
	char path[HF_NODE_PATH_MAX];
	json_t *json = json_load_file(hf_node_path(node, name, "moved.json", path), 0, NULL);
	const char *text = json_string_value(json_object_get(json, "to"));
	int r = text && hf_node_check(text, name, NULL) == 0;
	if (r)
		(void)snprintf(to, HF_NODE_PATH_MAX, "%s", text);
	json_decref(json);
	return r;
}

int vm_link_init(struct vm_link *l, const char *node, const char *name, struct hf_err *reterr)
{
	*l = (struct vm_link){ .fd = -1, .patience_ms = HF_VM_PATIENCE_MS };
	int r = node ? 0 : hf_node_default(l->home, reterr);
	if (r < 0)
		return r;
	r = hf_node_check(node ? node : l->home, name, reterr);
	if (r < 0)
		return r;
	if (node)
		(void)snprintf(l->home, sizeof(l->home), "%s", node);
	(void)snprintf(l->node, sizeof(l->node), "%s", l->home);
	(void)snprintf(l->name, sizeof(l->name), "%s", name);
	hf_lines_init(&l->lines, VM_LINE_MAX);
	l->retry_us = hf_now_us();
	l->give_up_us = l->retry_us + (uint64_t)l->patience_ms * 1000;
	return 0;
}

void vm_link_done(struct vm_link *l)
{
	fd_closep(&l->fd);
	hf_lines_done(&l->lines);
}

static int not_there(const struct vm_link *l, int why, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	bool known = access(hf_node_path(l->node, l->name, "", path), F_OK) == 0;
	if (why == -EACCES)
		return hf_err_set(reterr, why, "vm \"%s\": belongs to another user", l->name);
	if (why != -ENOENT)
		return hf_err_set(reterr, why,
			"vm \"%s\": its supervisor does not answer (%s); 'holdfast vm run %s' "
			"takes it over",
			l->name, strerror(-why), l->name);
	if (l->met)
		return hf_err_set(reterr, -ESRCH, "vm \"%s\": was stopped", l->name);
	return known ? hf_err_set(reterr, -ESRCH,
			       "vm \"%s\": is not running; start it with 'holdfast vm run %s'",
			       l->name, l->name)
		     : hf_err_set(reterr, -ENOENT,
			       "vm \"%s\": no such VM on node %s; see 'holdfast vm list'", l->name,
			       l->node);
}

int vm_link_connect(struct vm_link *l, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX], to[HF_NODE_PATH_MAX];
	uint64_t now = hf_now_us();
	int moves = 0;
	if (now < l->retry_us)
		return 0;
	(void)snprintf(l->node, sizeof(l->node), "%s", l->home);
	while (moves < VM_MOVES_MAX && moved_to(l->node, l->name, l->node))
		moves++;
	int r = unix_connect(hf_node_path(l->node, l->name, "control.sock", path), &l->fd);
	if (r == 0) {
		l->met = true;
		l->since_us = now;
		hf_lines_done(&l->lines);
		return 1;
	}
	if (r == -ENOENT && moves < VM_MOVES_MAX && moved_to(l->node, l->name, to))
		return 0; /* it has moved since we looked: look again */
	if (r == -ENOENT || r == -EACCES || !l->met || now >= l->give_up_us)
		return not_there(l, r, reterr);
	l->retry_us = now + VM_RETRY_MS * 1000;
	return 0;
}

void vm_link_lost(struct vm_link *l)
{
	uint64_t now = hf_now_us();
	if (l->fd >= 0)
		l->give_up_us += now - l->since_us;
	fd_closep(&l->fd);
	l->retry_us = now + VM_RETRY_MS * 1000;
}

void vm_link_works(struct vm_link *l)
{
	l->since_us = hf_now_us();
	l->give_up_us = l->since_us + (uint64_t)l->patience_ms * 1000;
}

int vm_link_timeout(const struct vm_link *l)
{
	uint64_t now = hf_now_us();
	return l->fd >= 0 ? -1 : l->retry_us > now ? (int)((l->retry_us - now + 999) / 1000) : 0;
}

int vm_link_read(struct vm_link *l, char **ret_line)
{
	char buf[16384];
	for (;;) {
		int r = hf_lines_next(&l->lines, ret_line);
		if (r != 0)
			return r;
		ssize_t n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -errno;
		if (n == 0)
			return -ECONNRESET;
		r = hf_lines_feed(&l->lines, buf, (size_t)n);
		if (r < 0)
			return r;
	}
}

/* The number of an error's name. */
static int error_number(const char *name)
{
	for (int i = 1; name && i < 140; i++) {
		const char *known = strerrorname_np(i);
		if (known && !strcmp(known, name))
			return -i;
	}
	return -EREMOTEIO;
}

int vm_answer_error(json_t *msg, struct hf_err *reterr)
{
	json_t *error = json_object_get(msg, "error");
	const char *text = json_string_value(json_object_get(error, "text"));
	if (json_is_true(json_object_get(msg, "ok")))
		return 0;
	return hf_err_set(reterr, error_number(json_string_value(json_object_get(error, "code"))),
		"%s", text ? text : "the supervisor refused without a reason");
}

/* ---- Requests ---- */

int hf_vm_new(const char *node, const char *name, struct hf_vm **ret_vm, struct hf_err *reterr)
{
	struct hf_vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	int r = vm_link_init(&vm->link, node, name, reterr);
	if (r < 0) {
		free(vm);
		return r;
	}
	*ret_vm = vm;
	return 0;
}

void hf_vm_free(struct hf_vm *vm)
{
	if (!vm)
		return;
	vm_link_done(&vm->link);
	json_decref(vm->current);
	free(vm->request);
	free(vm->text);
	free(vm);
}

const char *hf_vm_node(const struct hf_vm *vm)
{
	return vm->link.node;
}

void hf_vm_set_patience(struct hf_vm *vm, int ms)
{
	vm->link.patience_ms = ms;
	vm_link_works(&vm->link);
}

/* Done once: what is sent again under the same key is known to the supervisor. */
static bool wants_key(const char *cmd)
{
	return !strcmp(cmd, "run") || !strcmp(cmd, "exec") || !strcmp(cmd, "kill") ||
	       !strcmp(cmd, "rm");
}

int hf_vm_send(struct hf_vm *vm, const char *request_json, struct hf_err *reterr)
{
	uint8_t random[16];
	char key[2 * sizeof(random) + 1];
	json_t *request = json_loads(request_json, JSON_REJECT_DUPLICATES, NULL);
	const char *cmd = json_string_value(json_object_get(request, "cmd"));
	if (!cmd) {
		json_decref(request);
		return hf_err_set(reterr, -EINVAL, "a request is a JSON object with \"cmd\"");
	}
	if (wants_key(cmd) && !json_object_get(request, "key")) {
		if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
			json_decref(request);
			return hf_err_set(reterr, -EIO, "no random bytes for a key");
		}
		hex_encode(random, sizeof(random), key);
		json_object_set_new(request, "key", json_string(key));
	}
	json_object_set_new(request, "id", json_integer((json_int_t)++vm->id));
	free(vm->request);
	vm->request = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (!vm->request)
		return hf_err_set(reterr, -ENOMEM, "no memory");
	vm->request_len = strlen(vm->request) + 1;
	if (vm->request_len > VM_LINE_MAX) {
		free(vm->request);
		vm->request = NULL;
		return hf_err_set(
			reterr, -EMSGSIZE, "the request is longer than %d bytes", VM_LINE_MAX);
	}
	vm->request[vm->request_len - 1] = '\n';
	vm->sent = 0;
	vm_link_works(&vm->link);
	return 0;
}

int hf_vm_poll(const struct hf_vm *vm, struct pollfd *ret_poll)
{
	bool writes = vm->request && vm->link.fd >= 0 && vm->sent < vm->request_len;
	*ret_poll = (struct pollfd){ .fd = vm->link.fd,
		.events = (short)(POLLIN | (writes ? POLLOUT : 0)) };
	return vm->request ? vm_link_timeout(&vm->link) : -1;
}

static void lost(struct hf_vm *vm)
{
	vm_link_lost(&vm->link);
	vm->sent = 0;
}

static int send_request(struct hf_vm *vm)
{
	while (vm->sent < vm->request_len) {
		ssize_t n = send(vm->link.fd, vm->request + vm->sent, vm->request_len - vm->sent,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		vm->sent += (size_t)n;
	}
	return 0;
}

/* A message: 1 the answer, 2 an event, 0 nothing of ours, -errno a refusal. */
static int take(struct hf_vm *vm, char *line, struct hf_err *reterr)
{
	uint64_t now = hf_now_us();
	uint64_t give_up = vm->link.give_up_us + (now - vm->link.since_us);
	json_decref(vm->current);
	vm->current = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	vm_link_works(&vm->link);
	if (json_object_get(vm->current, "event"))
		return 2;
	if (json_integer_value(json_object_get(vm->current, "id")) != (json_int_t)vm->id ||
		!vm->request)
		return 0;
	int r = vm_answer_error(vm->current, reterr);
	if (r == -EAGAIN && now < give_up) {
		lost(vm);
		vm->link.give_up_us = give_up; /* a refusal is no progress */
		return 0;
	}
	free(vm->request);
	vm->request = NULL;
	return r < 0 ? r : 1;
}

int hf_vm_step(struct hf_vm *vm, const char **ret_json, struct hf_err *reterr)
{
	char *line;
	if (!vm->request)
		return hf_err_set(reterr, -EINVAL, "no request is under way");
	if (vm->link.fd < 0) {
		int r = vm_link_connect(&vm->link, reterr);
		if (r <= 0)
			return r;
		vm->sent = 0;
	}
	if (send_request(vm) < 0) {
		lost(vm);
		return 0;
	}
	for (;;) {
		int r = vm_link_read(&vm->link, &line);
		if (r == 0)
			return 0;
		if (r < 0) {
			lost(vm);
			return 0;
		}
		r = take(vm, line, reterr);
		if (vm->link.fd < 0)
			return 0;
		if (r == 0)
			continue;
		if (r > 0) {
			free(vm->text);
			vm->text = json_dumps(vm->current, JSON_COMPACT);
			*ret_json = vm->text;
			return vm->text ? r : hf_err_set(reterr, -ENOMEM, "no memory");
		}
		return r;
	}
}

int hf_vm_call(struct hf_vm *vm, const char *request_json, hf_vm_event_fn *on_event, void *ctx,
	char **ret_json, struct hf_err *reterr)
{
	const char *json;
	int r = hf_vm_send(vm, request_json, reterr);
	while (r == 0) {
		r = hf_vm_step(vm, &json, reterr);
		if (r == 2) {
			if (on_event)
				on_event(ctx, json);
			r = 0;
			continue;
		}
		if (r != 0)
			break;
		struct pollfd p;
		int timeout = hf_vm_poll(vm, &p);
		if (poll(&p, 1, timeout) < 0 && errno != EINTR)
			return hf_err_set(reterr, -errno, "poll: %s", strerror(errno));
	}
	if (r < 0)
		return r;
	*ret_json = strdup(json);
	return *ret_json ? 0 : hf_err_set(reterr, -ENOMEM, "no memory");
}

/* ---- The list ---- */

static int list_one(const char *node, const char *name, hf_vm_list_fn *fn, void *ctx)
{
	char path[HF_NODE_PATH_MAX], to[HF_NODE_PATH_MAX] = "";
	HF_CLEANUP(fd_closep) int fd = -1;
	struct hf_vm_entry e = { .name = name, .moved_to = to };
	int r = unix_connect(hf_node_path(node, name, "control.sock", path), &fd);
	if (moved_to(node, name, to))
		e.state = "moved";
	else
		e.state = r == 0 || r == -EAGAIN ? "alive" : r == -ENOENT ? "stopped" : "dead";
	return fn(ctx, &e);
}

int hf_vm_list(const char *node, hf_vm_list_fn *fn, void *ctx, struct hf_err *reterr)
{
	char home[HF_NODE_PATH_MAX], path[HF_NODE_PATH_MAX + 8];
	struct dirent **entries;
	int r = node ? 0 : hf_node_default(home, reterr);
	if (r < 0)
		return r;
	node = node ? node : home;
	(void)snprintf(path, sizeof(path), "%s/vms", node);
	int n = scandir(path, &entries, NULL, alphasort);
	if (n < 0)
		return errno == ENOENT
			       ? 0
			       : hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	for (int i = 0; i < n; i++) {
		if (r == 0 && hf_node_check(node, entries[i]->d_name, NULL) == 0)
			r = list_one(node, entries[i]->d_name, fn, ctx);
		free(entries[i]);
	}
	free(entries);
	return r;
}
