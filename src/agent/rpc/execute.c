/* SPDX-License-Identifier: MIT */
/*
 * execute.c - ExecuteProcess: one of three.
 *
 *     external   CreateInUtilityVM, or the container is the virtual machine itself
 *     init       a created container, no OciProcess: the runtime starts what Create has prepared
 *     exec       a running container and an OciProcess: the runtime adds a process
 *
 * The ports are dialled first; then the process is started; then its streams are joined to them;
 * then the pid is told. A failure at any step undoes the ones before.
 */
#include "agent/agent.h"
#include "agent/link/dial.h"
#include "agent/oci/shape.h"
#include "agent/oci/spec.h"
#include "agent/proc/words.h"
#include "agent/stdio/local.h"
#include "base/hex.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "handlers.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ENV_MAX 4096 /* variables of an external process */

enum exec_kind { EXEC_EXTERNAL, EXEC_INIT, EXEC_IN_CONTAINER };

struct exec {
	struct agt *a;
	struct agt_request *rq;
	struct agt_container *c; /* its busy count is ours; NULL: external */
	enum exec_kind kind;
	json_t *params;  /* ProcessParameters: argv and env point into it */
	json_t *process; /* OciProcess, completed */
	const char *cwd;
	char **argv; /* one block */
	char **env;  /* NULL: the agent's own */
	bool tty;
	struct agt_stdio_spec spec;
	struct agt_stdio *stdio;
	struct agt_local local;
};

static void free_env(char **env)
{
	for (size_t i = 0; env && env[i]; i++)
		free(env[i]);
	free(env);
}

static void free_exec(struct exec *e)
{
	if (e->c)
		e->c->busy--;
	agt_local_close(&e->local);
	agt_stdio_free(e->stdio);
	json_decref(e->process);
	json_decref(e->params);
	free(e->argv);
	free_env(e->env);
	free(e);
}

static void fail(struct exec *e, int32_t hresult, const char *text)
{
	struct agt_request *rq = e->rq;
	free_exec(e);
	agt_refuse(rq, hresult, "%s", text);
}

static void answer_pid(struct exec *e, pid_t pid)
{
	struct agt_request *rq = e->rq;
	free_exec(e);
	agt_answer(rq, json_pack("{s:i}", "ProcessId", (int)pid));
}

/* Joins the streams to the process, which takes over the set and the terminal. */
static int join(struct exec *e, struct agt_process *p)
{
	int ours[3];
	memcpy(ours, e->local.ours, sizeof(ours));
	for (int i = 0; i < 3; i++)
		e->local.ours[i] = -1;
	p->stdio = e->stdio;
	p->console = e->local.master;
	e->stdio = NULL;
	e->local.master = -1;
	agt_local_close_theirs(&e->local);
	if (p->pid > 0)
		agt_process_put(p); /* otherwise it comes with the pid */
	return agt_stdio_attach(p->stdio, p->serial, ours, e->tty, p->init);
}

static void start_external(struct exec *e)
{
	struct hf_err err = { 0 };
	bool want[3];
	for (int i = 0; i < 3; i++)
		want[i] = e->spec.leg[i].want;
	int r = e->tty ? agt_local_terminal(&e->local) : agt_local_pipes(&e->local, want);
	if (r < 0) {
		fail(e, BRG_E_FAIL, "no terminal or pipes for the process");
		return;
	}
	struct agt_process *p = agt_process_new(e->a, NULL, false, NULL, -1);
	if (!p) {
		fail(e, BRG_E_FAIL, "too many processes");
		return;
	}
	struct agt_spawn s = {
		.argv = (const char *const *)e->argv,
		.env = (const char *const *)e->env,
		.cwd = e->cwd,
		.console = e->local.console,
	};
	memcpy(s.fd, e->local.theirs, sizeof(s.fd));
	if (agt_process_spawn(p, &s, &err) < 0) {
		agt_process_free(p);
		fail(e, BRG_E_FAIL, err.text);
		return;
	}
	pid_t pid = p->pid;
	(void)join(e, p); /* a stream that cannot be joined is closed: the process notices */
	answer_pid(e, pid);
}

static void on_started(void *arg, const struct agt_run_result *result)
{
	struct exec *e = arg;
	struct agt_container *c = e->c;
	c->starting = false;
	if (result->hresult == BRG_OK && c->state == AGT_CONTAINER_CREATED)
		c->state = AGT_CONTAINER_RUNNING;
	agt_container_put(c);
	if (result->hresult == BRG_OK)
		answer_pid(e, c->init->pid);
	else
		fail(e, result->hresult, result->text);
}

/* The streams were made by Create; they are joined first, so that nothing waits for the start. */
static void start_init(struct exec *e)
{
	struct hf_err err = { 0 };
	struct agt_container *c = e->c;
	struct agt_run run = {
		.args = { "start" },
		.id = c->id,
		.fd = { -1, -1, -1 },
		.rq = e->rq,
		.outlives_agent = true,
	};
	if (c->init->stdio || c->state != AGT_CONTAINER_CREATED) {
		fail(e, BRG_E_INVALID_STATE, "the container was started before");
		return;
	}
	e->tty = c->tty;
	c->starting = true;
	c->request = e->rq->id;
	agt_state_begin(&e->a->state);
	memcpy(e->local.ours, c->local, sizeof(c->local));
	for (int i = 0; i < 3; i++)
		c->local[i] = -1;
	e->local.master = c->init->console;
	(void)join(e, c->init); /* a stream that cannot be joined is closed: init notices */
	agt_container_put(c);
	agt_state_end(&e->a->state);
	if (agt_runtime_run(e->a, &run, on_started, e, &err) < 0) {
		c->starting = false;
		agt_container_put(c);
		fail(e, BRG_E_FAIL, err.text);
	}
}

/* The runtime refuses to start what runs, or has ended: then the agent before this one had done it.
 * (A start is never killed: between its steps it leaves a container that can neither run nor be
 * started.) */
static void on_started_again(void *arg, const struct agt_run_result *result)
{
	struct agt_container *c = arg;
	struct agt_request *rq = agt_session_begun(&c->a->session, c->request);
	hf_info("container %s: started%s%s", c->id, result->hresult ? " before: " : "",
		result->text);
	c->busy--;
	c->starting = false;
	if (c->state == AGT_CONTAINER_CREATED)
		c->state = AGT_CONTAINER_RUNNING;
	agt_container_put(c);
	if (rq)
		agt_answer(rq, json_pack("{s:i}", "ProcessId", (int)c->init->pid));
}

void agt_rpc_start_again(struct agt_container *c)
{
	struct hf_err err = { 0 };
	struct agt_run run = {
		.args = { "start" }, .id = c->id, .fd = { -1, -1, -1 }, .outlives_agent = true
	};
	struct agt_request *rq = agt_session_begun(&c->a->session, c->request);
	if (!c->init || agt_runtime_run(c->a, &run, on_started_again, c, &err) < 0) {
		hf_error("container %s: cannot be started again: %s", c->id, err.text);
		return; /* the request is refused */
	}
	c->busy++;
	if (rq)
		rq->resumed = true;
}

static void on_executed(void *arg, const struct agt_run_result *result)
{
	struct exec *e = arg;
	if (result->hresult != BRG_OK) {
		int console = result->console;
		if (console >= 0)
			(void)close(console);
		fail(e, result->hresult, result->text);
		return;
	}
	if (e->tty) {
		struct agt_local none = AGT_LOCAL_NONE;
		e->local = none;
		(void)agt_local_from_master(
			&e->local, result->console); /* no streams: it hangs up */
	}
	struct agt_process *p = agt_process_new(e->a, e->c, false, NULL, -1);
	if (!p) {
		fail(e, BRG_E_FAIL, "too many processes: this one runs unobserved");
		return;
	}
	(void)join(e, p); /* a stream that cannot be joined is closed: the process notices */
	pid_t pid = result->pid;
	agt_process_adopt(p, pid); /* may have ended: p may be gone after this */
	answer_pid(e, pid);
}

static void start_in_container(struct exec *e)
{
	struct hf_err err = { 0 };
	struct agt_run run = {
		.args = { "exec", "--detach" },
		.id = e->c->id,
		.json = e->process,
		.json_option = "--process",
		.rq = e->rq,
		.want_pid = true,
		.want_console = e->tty,
		.fd = { -1, -1, -1 },
	};
	bool want[3];
	for (int i = 0; i < 3; i++)
		want[i] = e->spec.leg[i].want;
	if (!e->tty && agt_local_pipes(&e->local, want) < 0) {
		fail(e, BRG_E_FAIL, "no pipes for the process");
		return;
	}
	memcpy(run.fd, e->local.theirs, sizeof(run.fd));
	if (agt_runtime_run(e->a, &run, on_executed, e, &err) < 0) {
		fail(e, BRG_E_FAIL, err.text);
		return;
	}
	agt_local_close_theirs(&e->local); /* the runtime has them */
}

static void on_dialled(void *arg, int error, int leg)
{
	static const char *const names[] = { "StdIn", "StdOut", "StdErr" };
	struct exec *e = arg;
	char text[120];
	if (error < 0) {
		(void)snprintf(text, sizeof(text), "%s: cannot connect to port %u of the host: %s",
			names[leg], e->spec.leg[leg].port, strerror(-error));
		fail(e, BRG_E_FAIL, text);
		return;
	}
	if (e->kind == EXEC_EXTERNAL)
		start_external(e);
	else if (e->kind == EXEC_INIT)
		start_init(e);
	else
		start_in_container(e);
}

/* Which streams are wanted, where they go, and their tokens. */
static void read_streams(struct exec *e, struct agt_fields *settings, struct agt_fields *params)
{
	static const char *const names[] = { "StdIn", "StdOut", "StdErr" };
	static const char *const creates[] = { "CreateStdInPipe", "CreateStdOutPipe",
		"CreateStdErrPipe" };
	struct agt_fields ports =
		agt_field_fields(settings, "VsockStdioRelaySettings", "VsockStdioRelaySettings.");
	struct agt_fields tokens =
		agt_field_fields(settings, "HoldfastStreams", "HoldfastStreams.");
	for (int i = 0; i < 3; i++) {
		const char *token = agt_field_string(&tokens, names[i], "");
		e->spec.leg[i].want = agt_field_bool(params, creates[i], false);
		e->spec.leg[i].port = (uint32_t)agt_field_uint(&ports, names[i], UINT32_MAX, 0);
		e->spec.leg[i].resumable = token[0] != '\0';
		if (token[0] && hex_decode(token, e->spec.leg[i].token, RS_TOKEN_SIZE) < 0 &&
			tokens.err.code == 0)
			(void)hf_err_set(&tokens.err, -EBADMSG,
				"HoldfastStreams.%s: expected 32 hex digits", names[i]);
	}
	if (tokens.obj && !e->a->session.exists && tokens.err.code == 0)
		(void)hf_err_set(&tokens.err, -EBADMSG,
			"HoldfastStreams: needs a Holdfast session; negotiate one");
	agt_fields_join(settings, &ports);
	agt_fields_join(settings, &tokens);
}

/* {"K": "V"} as K=V. */
static void read_env(struct exec *e, struct agt_fields *params)
{
	json_t *o = agt_field_object(params, "Environment"), *v;
	const char *key;
	size_t n = 0;
	if (!o || json_object_size(o) == 0)
		return;
	if (json_object_size(o) <= ENV_MAX)
		e->env = calloc(json_object_size(o) + 1, sizeof(*e->env));
	if (!e->env) {
		(void)hf_err_set(
			&params->err, -E2BIG, "Environment: more than %d variables", ENV_MAX);
		return;
	}
	json_object_foreach (o, key, v) {
		const char *text = json_is_string(v) ? json_string_value(v) : NULL;
		if (!text || asprintf(&e->env[n], "%s=%s", key, text) < 0) {
			e->env[n] = NULL;
			if (params->err.code == 0)
				(void)hf_err_set(&params->err, -EBADMSG,
					"Environment.%.100s: expected a string", key);
			return;
		}
		n++;
	}
}

static void read_external(struct exec *e, struct agt_fields *params)
{
	size_t n = 0;
	const char *line = agt_field_string(params, "CommandLine", "");
	e->cwd = agt_field_string(params, "WorkingDirectory", "");
	if (!e->cwd[0])
		e->cwd = "/";
	e->tty = agt_field_bool(params, "EmulateConsole", false);
	e->argv = (char **)agt_field_strings(params, "CommandArgs");
	read_env(e, params);
	if (params->err.code != 0)
		return;
	if (!e->argv || !e->argv[0]) {
		free(e->argv);
		e->argv = agt_words_split(line, &n);
		if (!e->argv)
			(void)hf_err_set(&params->err, -EBADMSG, "CommandLine: a quote has no end");
		else if (n == 0)
			(void)hf_err_set(&params->err, -EBADMSG,
				"CommandArgs and CommandLine: both are empty");
	}
}

/* The process as the host sent it, with what it inherits from the container's. False: refused. */
static bool read_oci_process(struct exec *e, json_t *process)
{
	struct hf_err err = { 0 };
	e->process = json_deep_copy(process);
	if (!e->process)
		(void)hf_err_set(&err, -ENOMEM, "no memory");
	else if (agt_spec_inherit(e->process, e->c->process, e->c->root, &err) == 0) {
		e->tty = json_is_true(json_object_get(e->process, "terminal"));
		return true;
	}
	agt_refuse(e->rq, BRG_E_FAIL, "container %s: %s", e->c->id, err.text);
	return false;
}

/* Everything that the message says. False: refused. */
static bool read_exec(struct exec *e)
{
	struct agt_request *rq = e->rq;
	struct agt_fields settings = agt_field_fields(&rq->f, "Settings", "Settings.");
	agt_field_json(&settings, "ProcessParameters", &e->params);
	struct agt_fields params = { .obj = e->params, .prefix = "ProcessParameters." };
	read_streams(e, &settings, &params);
	json_t *oci = agt_field_object(&params, "OciProcess");
	if (params.err.code == 0)
		(void)agt_shape_check_process("OciProcess", oci, &params.err);
	bool external = agt_field_bool(&params, "CreateInUtilityVM", false) ||
			!strcmp(rq->container, BRG_UVM_ID);
	e->kind = external ? EXEC_EXTERNAL : oci ? EXEC_IN_CONTAINER : EXEC_INIT;
	if (external)
		read_external(e, &params);
	agt_fields_join(&settings, &params);
	agt_fields_join(&rq->f, &settings);
	if (rq->f.err.code != 0) {
		(void)agt_refuse_fields(rq, &rq->f);
		return false;
	}
	if (external)
		return true;
	e->c = agt_container_need(rq,
		e->kind == EXEC_INIT ? 1u << AGT_CONTAINER_CREATED : 1u << AGT_CONTAINER_RUNNING);
	if (!e->c)
		return false;
	e->c->busy++;
	return !oci || read_oci_process(e, oci);
}

void agt_rpc_execute(struct agt_request *rq)
{
	struct agt_local none = AGT_LOCAL_NONE;
	struct exec *e = calloc(1, sizeof(*e));
	if (!e) {
		agt_refuse(rq, BRG_E_FAIL, "no memory for another process");
		return;
	}
	*e = (struct exec){ .a = rq->a, .rq = rq, .local = none };
	agt_request_stage(rq, "the host's ports", 0, AGT_DIAL_ONCE_MS);
	if (!read_exec(e)) {
		free_exec(e);
		return;
	}
	if (e->tty)
		e->spec.leg[AGT_ERR].want = false;
	e->stdio = agt_stdio_dial(e->a, &e->spec, on_dialled, e);
	if (!e->stdio)
		fail(e, BRG_E_FAIL, "too many streams, or no memory for more");
}
