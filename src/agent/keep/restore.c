/* SPDX-License-Identifier: MIT */
#include "restore.h"
#include "agent/agent.h"
#include "agent/boot/boot.h"
#include "agent/host/cgroup.h"
#include "agent/net/netns.h"
#include "agent/rpc/handlers.h"
#include "agent/stdio/pump.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define FDS_MAX     65536
#define DYING_MS    2000
#define PATIENCE_MS 100

static bool is_keepers(const struct agt_keeper *k, int fd)
{
	for (size_t i = 0; i < k->n_fds; i++)
		if (k->fd[i] == fd)
			return true;
	return fd <= 2;
}

int agt_heir_init(struct agt_heir *h, struct agt *a)
{
	DIR *d = opendir("/proc/self/fd");
	*h = (struct agt_heir){ .a = a };
	if (!d)
		return -errno;
	int own = dirfd(d);
	h->fd = malloc(FDS_MAX * sizeof(*h->fd)); /* untouched pages cost nothing */
	for (struct dirent *e; h->fd && (e = readdir(d));) {
		int fd = (int)strtol(e->d_name, NULL, 10);
		if (e->d_name[0] == '.' || fd == own || is_keepers(a->keeper, fd))
			continue;
		if (h->n_fds < FDS_MAX)
			h->fd[h->n_fds++] = fd;
		else
			(void)close(fd); /* more than an agent can have had */
	}
	(void)closedir(d);
	return h->fd ? 0 : -ENOMEM;
}

void agt_heir_refuse(struct agt_heir *h, const char *what)
{
	char aside[sizeof(h->a->state.path) + 8];
	const char *path = h->a->state.path;
	(void)snprintf(aside, sizeof(aside), "%s.refused", path);
	(void)rename(path, aside); /* else the keeper tells the next agent to go without */
	hf_error("%s: refused: %s: not as an agent writes it; kept as %s, the agent begins without "
		 "it",
		path, what, aside);
	(void)kill(getpid(), SIGKILL); /* the keeper starts another */
	abort();
}

static bool is_kind(int fd, enum agt_heirloom kind)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return false;
	if (kind == AGT_HEIR_WINDOW)
		return S_ISREG(st.st_mode) &&
		       fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	return kind == AGT_HEIR_PIPE ? S_ISFIFO(st.st_mode) : S_ISCHR(st.st_mode) && isatty(fd);
}

int agt_heir_fd(struct agt_heir *h, const json_t *number, enum agt_heirloom kind)
{
	if (number && !json_is_null(number) && !json_is_integer(number))
		agt_heir_refuse(h, "a descriptor");
	for (size_t i = 0; number && i < h->n_fds; i++) {
		int fd = h->fd[i];
		if (!json_is_integer(number) || fd != json_integer_value(number) ||
			!is_kind(fd, kind))
			continue;
		h->fd[i] = h->fd[--h->n_fds];
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC); /* an upgrade has cleared it; cannot fail */
		return fd;
	}
	return -1;
}

static int by_number(const void *a, const void *b)
{
	uint64_t x = ((const struct agt_heir_item *)a)->number;
	uint64_t y = ((const struct agt_heir_item *)b)->number;
	return x < y ? -1 : x > y;
}

/* What follows KIND/ in the key; NULL: it is of another kind. */
static const char *name_of(const char *key, const char *kind)
{
	size_t n = strlen(kind);
	return !strncmp(key, kind, n) && key[n] == '/' ? key + n + 1 : NULL;
}

void agt_heir_each(struct agt_heir *h, const char *kind, agt_heir_fn *fn)
{
	const char *key;
	json_t *v;
	json_object_foreach (h->map, key, v) {
		const char *name = name_of(key, kind);
		if (name)
			fn(h, name, v);
	}
}

json_t *agt_heir_first(struct agt_heir *h, const char *kind, uint64_t *ret_number)
{
	const char *key;
	json_t *v;
	free(h->item);
	h->item = calloc(json_object_size(h->map) + 1, sizeof(*h->item));
	h->n_items = h->at = 0;
	if (!h->item)
		agt_heir_refuse(h, "no memory");
	json_object_foreach (h->map, key, v) {
		const char *name = name_of(key, kind);
		if (name)
			h->item[h->n_items++] =
				(struct agt_heir_item){ .number = strtoull(name, NULL, 10),
					.value = v };
	}
	qsort(h->item, h->n_items, sizeof(*h->item), by_number);
	return agt_heir_next(h, ret_number);
}

json_t *agt_heir_next(struct agt_heir *h, uint64_t *ret_number)
{
	if (h->at == h->n_items)
		return NULL;
	*ret_number = h->item[h->at].number;
	return h->item[h->at++].value;
}

/* Whether a child of the keeper that the state does not name is a worker, or a run of the runtime.
 */
static bool is_left_over(const struct agt_heir *h, pid_t pid)
{
	char path[64], comm[32] = "";
	const char *slash = strrchr(h->a->runtime.path, '/');
	const char *runtime = slash ? slash + 1 : h->a->runtime.path;
	const char *key;
	json_t *v;
	json_object_foreach (h->map, key, v) {
		if (name_of(key, "process") && json_integer_value(json_object_get(v, "pid")) == pid)
			return false;
	}
	(void)snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	(void)fd_read_line(path, comm, sizeof(comm)); /* else it has gone */
	return pid != getpid() && comm[0] &&
	       (!strcmp(comm, "holdfast-agent") || !strncmp(comm, runtime, strlen(runtime)));
}

static bool end_left_over(const struct agt_heir *h, pid_t pid, bool kills)
{
	bool left = is_left_over(h, pid);
	if (left && kills)
		(void)kill(
			pid, SIGKILL); /* the keeper's child: the number is its own till reaped */
	return left;
}

/* What was under way dies with the agent, but not before its system call is over: what is tidied up
 * before that would be made again. A container that was half made does not die, and the runtime may
 * not know it: it is killed. */
static void wait_for_the_dying(const struct agt_heir *h)
{
	char path[64], text[16384], *save = NULL;
	int pid = (int)h->a->keeper->pid;
	(void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	for (int ms = 0; ms < DYING_MS; ms += 2) {
		bool any = false;
		if (fd_read_line(path, text, sizeof(text)) < 0)
			return; /* the kernel does not tell */
		for (char *w = strtok_r(text, " ", &save); w && !any;
			w = strtok_r(NULL, " ", &save))
			any = end_left_over(h, (pid_t)strtol(w, NULL, 10), ms >= PATIENCE_MS);
		if (!any)
			return;
		(void)nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL); /* or shorter */
	}
	hf_warn("what the agent before had begun does not end");
}

/* Files of the runs that died with the agent. */
static void remove_run_files(const char *dir)
{
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] >= '0' && e->d_name[0] <= '9')
			(void)unlinkat(dirfd(d), e->d_name, 0); /* one that stays is overwritten */
	if (d)
		(void)closedir(d);
}

static void on_ended(void *arg, const struct agt_run_result *result)
{
	hf_warn("container %s: nobody knows it: ended%s%s", (char *)arg,
		result->hresult ? ": " : "", result->text);
	agt_cgroup_remove_empty(arg); /* of one that was half made */
	free(arg);
}

/* Containers that an agent left whose state is not ours: nobody could ask for them, and their names
 * are taken. */
static void end_unknown(struct agt *a)
{
	struct hf_err err;
	DIR *d = opendir(a->runtime.root);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_name[0] == '.' || agt_container_find(a, e->d_name))
			continue;
		char *id = strdup(e->d_name);
		struct agt_run run = {
			.args = { "delete", "--force" }, .id = id, .fd = { -1, -1, -1 }
		};
		if (!id || agt_runtime_run(a, &run, on_ended, id, &err) < 0) {
			hf_warn("container %s: nobody knows it: stays", e->d_name);
			free(id);
		}
	}
	if (d)
		(void)closedir(d);
}

/* Requests that were under way, and that nobody carries on with. */
static void refuse_begun(struct agt *a)
{
	hf_list_for_each_safe (l, &a->session.in_flight) {
		struct agt_request *rq = HF_CONTAINER_OF(l, struct agt_request, link);
		if (!rq->resumed)
			agt_refuse(rq, BRG_E_FAIL,
				"%s: the agent was started again while it carried this out: nobody "
				"knows how "
				"far it got",
				agt_request_name(rq->type));
	}
}

static void restore_all(struct agt_heir *h)
{
	struct agt *a = h->a;
	const json_t *down = json_object_get(h->map, "shutdown");
	agt_session_restore(&a->session, h);
	agt_containers_restore(h);
	agt_processes_restore(h);
	agt_netns_restore(h);
	agt_resume_restore(h);
	agt_pump_restore(h);
	agt_processes_settle(a);
	agt_children_inherit(&a->children);
	agt_rpc_resume(a);
	refuse_begun(a);
	hf_info("took over %zu containers, %zu processes, %zu streams; session %s", a->n_containers,
		a->n_processes, a->n_streams, a->session.exists ? a->session.id : "none");
	if (down)
		agt_shutdown(a, json_is_true(down));
}

void agt_heir_restore(struct agt_heir *h, json_t *map)
{
	struct agt *a = h->a;
	h->map = map;
	wait_for_the_dying(h);
	remove_run_files(a->runtime.dir);
	if (map)
		restore_all(h);
	agt_session_put(&a->session); /* the instance's name */
	for (size_t i = 0; i < h->n_fds; i++)
		(void)close(h->fd[i]); /* of the agent before; nothing of ours */
	free(h->fd);
	free(h->item);
	json_decref(map);
	end_unknown(a);
}
