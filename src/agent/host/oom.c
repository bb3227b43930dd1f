/* SPDX-License-Identifier: MIT */
#include "oom.h"
#include "agent/agent.h"
#include "base/fd.h"
#include "base/log.h"
#include "bridge/protocol.h"
#include "cgroup.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>

#define LOOK_MAX_MS 1000 /* the last of the waits, each twice as long as the one before */

static void tell(struct agt_container *c, uint64_t more)
{
	struct agt *a = c->a;
	hf_warn("container %s: out of memory: %lu processes killed, %lu so far", c->id,
		(unsigned long)more, (unsigned long)c->oom_kills);
	if (!a->session.exists || !a->session.negotiated)
		return; /* the exit tells the sum */
	json_t *o =
		json_pack("{s:s,s:I}", "ContainerId", c->id, "OomKills", (json_int_t)c->oom_kills);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	if (text) /* without room the next event has a higher sum */
		(void)agt_link_send(&a->link, BRG_OOM, 0, text, strlen(text));
	free(text);
	json_decref(o);
}

void agt_oom_look(struct agt_container *c)
{
	uint64_t now = c->cgroup ? agt_cgroup_oom_kills(c->cgroup) : 0;
	if (now <= c->oom_kills)
		return;
	uint64_t more = now - c->oom_kills;
	c->oom_kills = now;
	agt_container_put(c);
	tell(c, more);
}

/* Version 1: which group it was is not told, and it is told before the process is killed and
 * counted. */
static void look_again(void *arg)
{
	struct agt *a = arg;
	hf_list_for_each (l, &a->containers)
		agt_oom_look(HF_CONTAINER_OF(l, struct agt_container, link));
	if (a->oom_wait_ms <= LOOK_MAX_MS)
		agt_timer_set(a->oom_timer, a->oom_wait_ms);
	a->oom_wait_ms *= 2;
}

static void on_event_v1(void *arg, int events)
{
	struct agt *a = arg;
	uint64_t n;
	(void)events;
	a->oom_wait_ms = 1;
	if (read(a->oom_fd, &n, sizeof(n)) > 0)
		look_again(a);
}

static void on_event(void *arg, int events)
{
	struct agt *a = arg;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n;
	(void)events;
	while ((n = read(a->oom_fd, buf, sizeof(buf))) > 0)
		for (char *p = buf; p < buf + n;) {
			const struct inotify_event *e = (const void *)p;
			p += sizeof(*e) + e->len;
			hf_list_for_each (l, &a->containers) {
				struct agt_container *c =
					HF_CONTAINER_OF(l, struct agt_container, link);
				if (c->oom_wd == e->wd)
					agt_oom_look(c);
			}
		}
}

int agt_oom_init(struct agt *a)
{
	struct agt_watch *w = NULL;
	bool v1 = access("/sys/fs/cgroup/memory/cgroup.event_control", F_OK) == 0;
	a->oom_fd = v1 ? eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
		       : inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (a->oom_fd < 0)
		return -errno;
	a->oom_timer = agt_timer_new(&a->loop, look_again, a);
	if (!a->oom_timer)
		return -ENOMEM;
	int r = agt_watch_new(&a->loop, a->oom_fd, v1 ? on_event_v1 : on_event, a, &w);
	if (r == 0)
		agt_watch_set(w, UV_READABLE); /* for as long as the agent lives */
	return r;
}

/* The kernel writes to the eventfd when a process of the group is to be killed; that ends with the
 * group. */
static void watch_v1(struct agt_container *c, const char *folder)
{
	char text[32];
	HF_CLEANUP(fd_closep) int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	HF_CLEANUP(fd_closep) int file = openat(dir, "memory.oom_control", O_RDONLY | O_CLOEXEC);
	HF_CLEANUP(fd_closep)
	int control = openat(dir, "cgroup.event_control", O_WRONLY | O_CLOEXEC);
	int n = snprintf(text, sizeof(text), "%d %d", c->a->oom_fd, file);
	if (file < 0 || control < 0 || write(control, text, (size_t)n) < 0)
		hf_debug("container %s: %s: no events of memory", c->id, folder);
}

void agt_oom_watch(struct agt_container *c)
{
	char path[PATH_MAX];
	if (!c->cgroup)
		return;
	if (agt_cgroup_memory(c->cgroup, path) == path) {
		watch_v1(c, path);
		return;
	}
	(void)snprintf(path, sizeof(path), "%s/memory.events", c->cgroup);
	c->oom_wd = inotify_add_watch(c->a->oom_fd, path, IN_MODIFY);
}

void agt_oom_unwatch(struct agt_container *c)
{
	if (c->oom_wd > 0)
		(void)inotify_rm_watch(c->a->oom_fd, c->oom_wd); /* may have gone by itself */
	c->oom_wd = -1;
}
