/* SPDX-License-Identifier: MIT */
#include "agent.h"
#include "agent/agent.h"
#include "agent/boot/boot.h"
#include "agent/net/netns.h"
#include "agent/proc/worker.h"
#include "agent/stdio/tee.h"
#include "agent/storage/tree.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static struct agt agent;
static struct agt_flags flags = { .v4 = true };
static json_t *answer;
static unsigned n_answers;
static char folder[] = "/tmp/hf-asked-XXXXXX"; /* where files go */

/* What comes "in a later turn". */
#define LATER_MAX 8
static struct later {
	struct agt_work work; /* fn NULL: a run of the runtime */
	agt_run_fn *ran;
	void *arg;
} later[LATER_MAX];
static size_t n_later;

/* The linker gives all calls of X to __wrap_X (meson.build). */
#define WRAP(name) __wrap_##name
#define WRAPPED(type, name, ...)                                                                   \
	type WRAP(name)(__VA_ARGS__);                                                              \
	type WRAP(name)(__VA_ARGS__)

WRAPPED(void, agt_session_answer, struct agt_session *s, struct agt_request *rq, char *text,
	uint32_t len)
{
	(void)s;
	(void)rq;
	n_answers++;
	json_decref(answer);
	answer = json_loadb(text, len, 0, NULL);
	free(text);
}

WRAPPED(int, agt_work_start, struct agt *a, const struct agt_work *w, struct hf_err *reterr)
{
	(void)a;
	(void)reterr;
	hf_assert(n_later < LATER_MAX);
	later[n_later++] = (struct later){ .work = *w };
	return 0;
}

WRAPPED(int, agt_runtime_run, struct agt *a, const struct agt_run *run, agt_run_fn *fn, void *arg,
	struct hf_err *reterr)
{
	(void)a;
	(void)run;
	(void)reterr;
	hf_assert(n_later < LATER_MAX);
	later[n_later++] = (struct later){ .ran = fn, .arg = arg };
	return 0;
}

WRAPPED(struct agt_stdio *, agt_stdio_dial, struct agt *a, const struct agt_stdio_spec *spec,
	agt_stdio_dialled_fn *fn, void *arg)
{
	(void)a;
	(void)spec;
	(void)fn;
	(void)arg;
	return NULL;
}

WRAPPED(struct agt_dial *, agt_dial_once, uv_loop_t *loop, const struct agt_transport *t,
	uint32_t port, agt_dial_fn *fn, void *arg)
{
	(void)loop;
	(void)t;
	(void)port;
	(void)fn;
	(void)arg;
	return NULL;
}

WRAPPED(int, agt_link_send, struct agt_link *l, uint32_t type, uint64_t id, const char *payload,
	size_t len)
{
	(void)l;
	(void)type;
	(void)id;
	(void)payload;
	(void)len;
	return 0;
}

WRAPPED(void, agt_shutdown, struct agt *a, bool graceful)
{
	(void)a;
	(void)graceful;
}

WRAPPED(int, agt_process_signal, const struct agt_process *p, int signo)
{
	(void)signo;
	return p->state == AGT_PROCESS_RUNNING ? 0 : -ESRCH;
}

WRAPPED(int, agt_tee_insert, struct agt_children *cs, struct agt_local *l, const char *path,
	struct hf_err *reterr)
{
	(void)cs;
	(void)l;
	(void)reterr;
	hf_assert(agt_path_allowed(path));
	return 0;
}

WRAPPED(int, agt_tree_make, const char *path, mode_t mode, struct hf_err *reterr)
{
	(void)path;
	(void)mode;
	(void)reterr;
	return 0;
}

WRAPPED(int, agt_tree_open, const char *path, mode_t mode, int *ret_fd, struct hf_err *reterr)
{
	(void)path;
	(void)mode;
	*ret_fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return *ret_fd < 0 ? hf_err_set(reterr, -errno, "%s: %s", folder, strerror(errno)) : 0;
}

WRAPPED(int, agt_tree_remove, const char *path, struct hf_err *reterr)
{
	(void)path;
	(void)reterr;
	return 0;
}

WRAPPED(bool, agt_tree_has_mounts, const char *path)
{
	(void)path;
	return false;
}

WRAPPED(bool, agt_tree_has_mounts_below, const char *path)
{
	(void)path;
	return false;
}

WRAPPED(int, agt_mount, const char *path, mode_t mode, const struct agt_mount *m,
	struct hf_err *reterr)
{
	(void)path;
	(void)mode;
	(void)m;
	(void)reterr;
	return 0;
}

WRAPPED(int, agt_unmount, const char *path, struct hf_err *reterr)
{
	(void)path;
	(void)reterr;
	return 0;
}

WRAPPED(void, agt_cgroup_remove_empty, const char *id)
{
	(void)id;
}

/* The runtime's specification, and its resources: it must be possible to write them. */
WRAPPED(int, json_dump_file, const json_t *v, const char *path, size_t how)
{
	(void)path;
	char *text = json_dumps(v, how);
	free(text);
	return text ? 0 : -1;
}

static void clean_up(void)
{
	static const char *const names[] = { "hostname", "hosts", "resolv.conf" };
	char path[64];
	for (size_t i = 0; i < HF_ARRAY_SIZE(names); i++) {
		(void)snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
		(void)unlink(path); /* most requests make none */
	}
	(void)rmdir(folder);
	json_decref(answer);
	(void)uv_loop_close(&agent.loop);
}

static void set_up(void)
{
	hf_log_setup("agent", -1, HF_LOG_ERROR, HF_LOG_TEXT);
	hf_assert(mkdtemp(folder));
	agent.flags = &flags;
	agent.oom_fd = -1;
	agent.state.fd = -1;
	hf_list_init(&agent.containers);
	hf_list_init(&agent.processes);
	hf_list_init(&agent.resumables);
	hf_list_init(&agent.namespaces);
	hf_list_init(&agent.workers);
	hf_assert(uv_loop_init(&agent.loop) == 0);
	hf_list_init(&agent.children.list);
	agt_session_init(&agent.session, &agent);
	(void)atexit(clean_up);
}

static struct agt_process *add_process(
	struct agt_container *c, bool init, pid_t pid, enum agt_process_state state)
{
	struct agt_process *p = agt_process_new(&agent, c, init, NULL, -1);
	hf_assert(p);
	p->pid = pid;
	p->state = state;
	return p;
}

static void add_container(const char *id, enum agt_container_state state, pid_t pid)
{
	struct agt_container *c = agt_container_new(&agent, id);
	hf_assert(c);
	c->state = state;
	c->bundle = strdup("/run/gcs/c/x");
	c->root = strdup("/run/gcs/c/x/rootfs");
	c->cgroup = strdup("/sys/fs/cgroup/none");
	c->process = json_pack("{s:[s],s:{s:s}}", "args", "x", "user", "username", "0");
	c->sandbox = !strcmp(id, "pod");
	if (pid)
		c->init = add_process(c, true, pid,
			state == AGT_CONTAINER_EXITED ? AGT_PROCESS_EXITED : AGT_PROCESS_RUNNING);
	if (state == AGT_CONTAINER_RUNNING)
		(void)add_process(c, false, pid + 1, AGT_PROCESS_RUNNING);
}

static void make_machine(void)
{
	struct agt_adapter ad = { .namespace_id = "ns-1", .id = "a-1" };
	struct agt_netns *ns;
	agent.session.negotiated = true;
	agent.session.exists = true;
	add_container("creating", AGT_CONTAINER_CREATING, 0);
	add_container("created", AGT_CONTAINER_CREATED, 101);
	add_container("running", AGT_CONTAINER_RUNNING, 102);
	add_container("stopped", AGT_CONTAINER_EXITED, 105);
	add_container("pod", AGT_CONTAINER_RUNNING, 106);
	(void)add_process(NULL, false, 104, AGT_PROCESS_RUNNING);
	json_t *settings = json_pack("{s:s,s:s,s:s}", "ID", "a-1", "MacAddress",
		"02:00:00:00:00:01", "DNSSuffix", "x.test");
	hf_assert(agt_netns_add(&agent, &ad, settings, &ns) == 0);
	json_decref(settings);
}

static void unmake_machine(void)
{
	struct brg_note *note;
	hf_list_for_each_safe (l, &agent.containers)
		agt_container_free(HF_CONTAINER_OF(l, struct agt_container, link));
	hf_list_for_each_safe (l, &agent.processes)
		agt_process_free(HF_CONTAINER_OF(l, struct agt_process, link));
	hf_list_for_each_safe (l, &agent.namespaces) {
		struct agt_netns *ns = HF_CONTAINER_OF(l, struct agt_netns, link);
		while (ns->n > 1)
			agt_netns_remove(&agent, ns->id, ns->adapter[0].id);
		agt_netns_remove(&agent, ns->id, ns->adapter[0].id); /* ends it */
	}
	while ((note = brg_publisher_pop(&agent.session.publisher, UINT64_MAX))) {
		free(note->payload);
		free(note);
	}
	(void)uv_run(&agent.loop, UV_RUN_NOWAIT); /* what was freed is given back */
}

/* Work on a container's files is done, for its files are ours; of other work only the end is told.
 */
static void run_later(void)
{
	const struct agt_run_result failed = { .hresult = BRG_E_FAIL, .text = "no", .console = -1 };
	while (n_later > 0) {
		struct later l = later[--n_later];
		struct hf_err err = { 0 };
		if (l.ran) {
			l.ran(l.arg, &failed);
			continue;
		}
		if (!strcmp(l.work.what, "Create") || !strcmp(l.work.what, "DeleteContainerState"))
			(void)l.work.fn(l.work.arg, &err);
		l.work.done(l.work.arg, &err);
	}
}

static void check_answer(void)
{
	static const int32_t known[] = { BRG_OK, BRG_E_NOT_IMPL, BRG_E_FAIL, BRG_E_NOT_FOUND,
		BRG_E_INVALID_ARG, BRG_E_INVALID_STATE, BRG_E_TIMEOUT, BRG_E_VERSION,
		BRG_E_INVALID_JSON, BRG_E_SYSTEM_NOT_FOUND, BRG_E_ALREADY_EXISTS,
		BRG_E_ALREADY_STOPPED };
	json_int_t result = json_integer_value(json_object_get(answer, "Result"));
	size_t i = 0;
	while (i < HF_ARRAY_SIZE(known) && known[i] != result)
		i++;
	hf_assert(json_is_integer(json_object_get(answer, "Result")));
	hf_assert(i < HF_ARRAY_SIZE(known));
	if (result == BRG_OK)
		return;
	const json_t *record = json_array_get(json_object_get(answer, "ErrorRecords"), 0);
	const json_t *text = json_object_get(answer, "ErrorMessage");
	hf_assert(json_string_length(text) > 0);
	hf_assert(json_equal(json_object_get(record, "Message"), text));
	hf_assert(json_integer_value(json_object_get(record, "Result")) == result);
	hf_assert(!strcmp(json_string_value(json_object_get(record, "ModuleName")), "gcs"));
}

const json_t *agent_ask(uint32_t type, const char *payload, size_t len)
{
	if (!agent.flags)
		set_up();
	make_machine();
	agent.session.negotiated = type != BRG_NEGOTIATE;
	struct agt_request *rq = calloc(1, sizeof(*rq));
	hf_assert(rq);
	*rq = (struct agt_request){ .a = &agent, .id = 1, .type = type, .epoch = 1 };
	hf_list_init(&rq->wait);
	hf_list_append(&agent.session.in_flight, &rq->link);
	agent.session.n_in_flight++;
	n_answers = 0;
	agt_request_run(rq, payload, len);
	run_later();
	unmake_machine(); /* ends waits */
	hf_assert(n_answers == 1 && agent.session.n_in_flight == 0);
	hf_assert(agent.n_containers == 0 && agent.n_processes == 0 && agent.n_namespaces == 0);
	check_answer();
	return answer;
}
