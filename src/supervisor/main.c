/* SPDX-License-Identifier: MIT */
/*
 * main.c - the life of a supervisor.
 *
 *	start:	lock the folder; if holdfastd and QEMU live there, adopt them with state.json, else
 *		clear the folder, write config.json and start them; an incoming one does nothing yet
 *	ready:	the guest has negotiated
 *	end:	the VM is gone or moved. Sockets are removed, so that a command line can tell an end
 *		(no control.sock) from a death (one that nobody listens at)
 *
 * Both ways to be told to go away, SIGTERM and SIGINT, end the supervisor and leave the VM alone:
 * the next `holdfast vm run` adopts it.
 */
#include "supervisor_internal.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define END_FLUSH_MS     1000
#define END_POLL_MS      10
#define INCOMING_WAIT_MS 30000 /* for a source to begin; as long as it tries */
#define LOCK_TRIES       200
#define LOCK_TRY_US      10000

const char *sup_state_name(enum sup_state state)
{
	static const char *const names[SUP_STATE_N_] = { "starting", "running", "incoming",
		"ending" };
	return names[state];
}

const char *sup_path(const struct sup *sup, const char *file, char path[HF_NODE_PATH_MAX])
{
	return hf_node_path(sup->config->node, sup->config->name, file, path);
}

int sup_write_json(const char *path, const json_t *json)
{
	char tmp[HF_NODE_PATH_MAX + 8];
	HF_CLEANUP(hf_freep) char *text = json_dumps(json, JSON_INDENT(1));
	if (!text)
		return -ENOMEM;
	(void)snprintf(tmp, sizeof(tmp), "%s.new", path);
	HF_CLEANUP(fd_closep) int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, text, strlen(text));
	/* No fsync: this file outlives the supervisor, and nothing that it tells of outlives the
	 * host. */
	return r < 0 ? r : rename(tmp, path) < 0 ? -errno : 0;
}

json_t *sup_read_json(const char *path, struct hf_err *reterr)
{
	json_error_t why;
	json_t *json = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
	if (!json)
		hf_err_set(reterr, -EINVAL, "%s: %s", path, why.text);
	return json;
}

/* ---- Telling the one who waits for readiness ---- */

static void tell(struct sup *sup, json_t *msg)
{
	HF_CLEANUP(hf_freep) char *text = msg ? json_dumps(msg, JSON_COMPACT) : NULL;
	if (text && sup->ready_fd >= 0)
		(void)fd_write_all(
			sup->ready_fd, text, strlen(text)); /* he may have lost interest */
	json_decref(msg);
	fd_closep(&sup->ready_fd);
}

void sup_ready(struct sup *sup)
{
	(void)uv_timer_stop(&sup->boot_timer);
	if (sup->state == SUP_STARTING)
		sup->state = SUP_RUNNING;
	if (sup->ready_fd >= 0)
		tell(sup, json_pack("{s:b, s:s, s:s}", "ok", 1, "state", sup_state_name(sup->state),
				  "instance", sup->instance));
	control_settle(sup);
}

static bool all_told(const struct sup *sup)
{
	hf_list_for_each (n, &sup->clients) {
		if (chan_unsent(HF_CONTAINER_OF(n, struct client, link)->chan))
			return false;
	}
	return !attach_any(sup);
}

static void on_end_timer(uv_timer_t *h)
{
	struct sup *sup = h->data;
	if (all_told(sup) || uv_now(&sup->loop) >= sup->end_deadline_ms)
		uv_stop(&sup->loop);
}

void sup_end(struct sup *sup, int exit_status, const char *why)
{
	if (sup->state == SUP_ENDING)
		return;
	hf_info("ending: %s", why);
	sup->state = SUP_ENDING;
	sup->exit_status = exit_status;
	tell(sup, json_pack("{s:b, s:s}", "ok", 0, "error", why));
	/* Those who wait get their answers, those who read get the rest of the output. */
	sup->end_deadline_ms = uv_now(&sup->loop) + END_FLUSH_MS;
	(void)uv_timer_start(&sup->end_timer, on_end_timer, 0, END_POLL_MS); /* cannot fail */
}

void sup_fail(struct sup *sup, const struct hf_err *err)
{
	hf_error("%s", err->text);
	tell(sup, json_pack("{s:b, s:s}", "ok", 0, "error", err->text));
	sup_end(sup, 1, err->text);
}

/* ---- The folder ---- */

static int make_dirs(const char *path, struct hf_err *reterr)
{
	char part[HF_NODE_PATH_MAX];
	(void)snprintf(part, sizeof(part), "%s", path);
	for (char *p = part + 1; *p; p++)
		if (*p == '/') {
			*p = '\0';
			(void)mkdir(part, 0700); /* if this fails, the last one tells why */
			*p = '/';
		}
	if (mkdir(part, 0700) < 0 && errno != EEXIST)
		return hf_err_set(reterr, -errno, "%s: cannot be made: %s", part, strerror(errno));
	return 0;
}

static int lock_folder(struct sup *sup, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	sup->lock_fd = open(sup_path(sup, "lock", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (sup->lock_fd < 0)
		return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	/* A supervisor that is just ending (its VM moved away and comes back) is waited for. */
	int tries = sup->config->incoming ? LOCK_TRIES : 1, r;
	while ((r = flock(sup->lock_fd, LOCK_EX | LOCK_NB)) < 0 && --tries > 0)
		(void)usleep(LOCK_TRY_US); /* before the loop runs: nothing else waits */
	if (r < 0)
		return hf_err_set(reterr, -EBUSY,
			"vm \"%s\": has a supervisor already; see 'holdfast vm list'",
			sup->config->name);
	return 0;
}

static int remove_output(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	if (ftw->level > 0 && type == FTW_F)
		(void)unlink(path); /* what cannot be removed shows when it is made again */
	return 0;
}

/* Nothing of an earlier VM of this name remains but its logs. */
static int clear_folder(struct sup *sup, struct hf_err *reterr)
{
	static const char *const files[] = { "state.json", "moved.json", "qmp.sock", "migrate.sock",
		"incoming" };
	char path[HF_NODE_PATH_MAX];
	for (size_t i = 0; i < HF_ARRAY_SIZE(files); i++)
		if (unlink(sup_path(sup, files[i], path)) < 0 && errno != ENOENT)
			return hf_err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	int r = make_dirs(sup_path(sup, "output", path), reterr);
	if (r == 0)
		(void)nftw(path, remove_output, 4, FTW_PHYS); /* see remove_output */
	return r;
}

/* ---- Starting ---- */

static void on_machine_started(struct sup *sup, const struct hf_err *err)
{
	if (err)
		sup_fail(sup, err);
	/* else the guest boots and dials */
}

/* What was alive before us: the VM's settings, the session, the output are where it left them. */
static int carry_on(struct sup *sup, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	HF_CLEANUP(hf_freep) char *guest = NULL;
	(void)unlink(sup_path(sup, "incoming", path)); /* whoever adopts it owns it */
	json_t *config = sup_read_json(sup_path(sup, "config.json", path), reterr);
	if (!config)
		return reterr->code;
	int r = spec_parse(&sup->spec, config, reterr);
	json_decref(config);
	/* The same question on the same machine as when QEMU was started: the same answer. */
	sup->kvm = r == 0 && sup->spec.accel != SPEC_TCG && spec_kvm_probe(NULL) == 0;
	json_t *state = r < 0 ? NULL : sup_read_json(sup_path(sup, "state.json", path), reterr);
	if (!state)
		return reterr->code;
	const char *to = json_string_value(json_object_get(state, "moving_to"));
	(void)snprintf(sup->moved_to, sizeof(sup->moved_to), "%s", to ? to : "");
	sup->asleep = json_is_true(json_object_get(state, "standing"));
	r = session_load(sup, state, &guest, reterr);
	json_decref(state);
	if (r < 0)
		return r;
	hf_info("adopted: holdfastd pid %d, qemu pid %d, %zu processes", (int)sup->device_pid,
		(int)sup->qemu_pid, sup->procs.n);
	r = session_open(sup, guest, sup->asleep, reterr);
	if (r < 0)
		return r;
	sup_ready(sup); /* the guest will dial; commands wait for it where they must */
	outgoing_recover(sup);
	/* Its supervisor died in the middle of a move: its connections with it, the guest dials. */
	return sup->asleep ? session_wake(sup, reterr) : 0;
}

static int start_fresh(struct sup *sup, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	int r = clear_folder(sup, reterr);
	(void)unlink(sup_path(sup, "moved.json", path)); /* ENOENT is the usual case */
	if (r == 0)
		r = spec_parse(&sup->spec, sup->config->vm, reterr);
	if (r < 0)
		return r;
	json_t *config = spec_json(&sup->spec);
	r = sup_write_json(sup_path(sup, "config.json", path), config);
	json_decref(config);
	if (r < 0)
		return hf_err_set(reterr, r, "%s: %s", path, strerror(-r));
	r = session_open(sup, NULL, false, reterr); /* listens before anything can dial */
	if (r == 0)
		machine_start(sup, false, on_machine_started);
	return r;
}

static int start(struct sup *sup, struct hf_err *reterr)
{
	char path[HF_NODE_PATH_MAX];
	int r = make_dirs(sup_path(sup, "", path), reterr);
	if (r == 0)
		r = lock_folder(sup, reterr);
	if (r == 0)
		r = control_open(sup, reterr);
	if (r < 0)
		return r;
	int lives = machine_adopt(sup);
	if (sup->config->incoming && lives && access(sup_path(sup, "incoming", path), F_OK) == 0) {
		hf_warn("of a migration whose supervisor here died, QEMU and holdfastd are left: "
			"they are ended");
		machine_kill(sup);
		lives = 0;
	}
	if (sup->config->incoming && lives)
		return hf_err_set(reterr, -EEXIST, "vm \"%s\": lives on this node already",
			sup->config->name);
	if (sup->config->incoming) {
		sup->state = SUP_INCOMING;
		r = clear_folder(sup, reterr);
		if (r == 0)
			sup_ready(sup);
		return r;
	}
	return lives ? carry_on(sup, reterr) : start_fresh(sup, reterr);
}

static void on_signal(uv_signal_t *h, int signo)
{
	struct sup *sup = h->data;
	hf_info("signal %d: the supervisor leaves, the VM goes on", signo);
	sup->exit_status = 0;
	uv_stop(&sup->loop);
}

static void on_boot_timeout(uv_timer_t *h)
{
	struct sup *sup = h->data;
	char path[HF_NODE_PATH_MAX];
	struct hf_err err;
	hf_err_set(&err, -ETIMEDOUT, "the guest has not negotiated within %u s; see %s",
		sup->config->boot_timeout_s, sup_path(sup, "console.log", path));
	machine_kill(sup);
	sup_fail(sup, &err);
}

/* Whoever started us for a migration has died or was cut off before it said so. */
static void on_nobody_came(uv_timer_t *h)
{
	struct sup *sup = h->data;
	if (sup->state == SUP_INCOMING && !sup->incoming)
		sup_end(sup, 1, "no migration came");
}

static void close_all(struct sup *sup)
{
	char path[HF_NODE_PATH_MAX];
	bool ours = sup->control_fd >= 0;
	attach_close_all(sup);
	session_close(sup);
	control_close(sup);
	if (sup->state == SUP_ENDING && ours)
		(void)unlink(sup_path(sup, "control.sock", path)); /* the sign of an end */
	monitor_close(sup->mon);
	rpc_close(sup->device);
	uv_close((uv_handle_t *)&sup->sigterm, NULL);
	uv_close((uv_handle_t *)&sup->sigint, NULL);
	uv_close((uv_handle_t *)&sup->boot_timer, NULL);
	uv_close((uv_handle_t *)&sup->end_timer, NULL);
	(void)uv_run(&sup->loop, UV_RUN_NOWAIT); /* lets the closed handles go */
	(void)uv_run(&sup->loop, UV_RUN_NOWAIT);
	if (uv_loop_close(&sup->loop) < 0)
		hf_debug("the loop still had handles at the end");
	proc_table_done(&sup->procs);
	fd_closep(&sup->lock_fd);
	fd_closep(&sup->ready_fd);
}

int sup_run(const struct sup_config *config)
{
	struct hf_err err;
	struct sup sup = {
		.config = config, .ready_fd = config->ready_fd, .lock_fd = -1, .control_fd = -1
	};
	proc_table_init(&sup.procs);
	hf_list_init(&sup.clients);
	hf_list_init(&sup.waiters);
	if (hf_node_check(config->node, config->name, &err) < 0 || uv_loop_init(&sup.loop) < 0) {
		sup.state = SUP_ENDING;
		tell(&sup, json_pack("{s:b, s:s}", "ok", 0, "error", err.text));
		return 1;
	}
	(void)uv_signal_init(&sup.loop, &sup.sigterm); /* these and the starts below cannot fail */
	(void)uv_signal_init(&sup.loop, &sup.sigint);
	(void)uv_timer_init(&sup.loop, &sup.boot_timer);
	(void)uv_timer_init(&sup.loop, &sup.end_timer);
	sup.sigterm.data = sup.sigint.data = sup.boot_timer.data = sup.end_timer.data = &sup;
	(void)uv_signal_start(&sup.sigterm, on_signal, SIGTERM);
	(void)uv_signal_start(&sup.sigint, on_signal, SIGINT);
	(void)signal(SIGPIPE, SIG_IGN);
	if (!config->incoming)
		(void)uv_timer_start(
			&sup.boot_timer, on_boot_timeout, config->boot_timeout_s * 1000ull, 0);
	if (start(&sup, &err) < 0)
		sup_fail(&sup, &err);
	if (sup.state == SUP_INCOMING)
		(void)uv_timer_start(&sup.boot_timer, on_nobody_came, INCOMING_WAIT_MS, 0);
	(void)uv_run(&sup.loop, UV_RUN_DEFAULT);
	close_all(&sup);
	return sup.exit_status;
}
