/* SPDX-License-Identifier: MIT */
#include "state.h"
#include "base/fd.h"
#include "base/log.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The whole file as text; NULL and errno. */
static char *read_whole(const char *path, size_t *ret_n)
{
	struct stat st;
	HF_CLEANUP(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st) < 0)
		return NULL;
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_size > AGT_STATE_MAX) {
		errno = EBADMSG;
		return NULL;
	}
	char *text = malloc((size_t)st.st_size + 1);
	int r = text ? fd_read_all(fd, text, (size_t)st.st_size) : -ENOMEM;
	if (r < 0) {
		free(text);
		errno = -r;
		return NULL;
	}
	*ret_n = (size_t)st.st_size;
	return text;
}

/* Adds the lines up to one: the values that count. A last line without its end was never written.
 */
static int replay(const char *text, size_t n, json_t *map, struct hf_err *reterr)
{
	size_t number = 0;
	for (const char *p = text, *end; (end = memchr(p, '\n', n - (size_t)(p - text)));
		p = end + 1) {
		json_error_t why;
		const char *key;
		json_t *v, *line = json_loadb(p, (size_t)(end - p), JSON_REJECT_DUPLICATES, &why);
		number++;
		if (!json_is_object(line)) {
			json_decref(line);
			return hf_err_set(reterr, -EBADMSG, "line %zu: %s", number,
				line ? "an object expected" : why.text);
		}
		json_object_foreach (line, key, v) {
			if (json_is_null(v))
				(void)json_object_del(map, key); /* it may never have been there */
			else if (json_object_set(map, key, v) < 0)
				number = SIZE_MAX;
		}
		json_decref(line);
		if (number == SIZE_MAX)
			return hf_err_set(reterr, -ENOMEM, "no memory");
	}
	return 0;
}

static int read_file(const char *path, json_t **ret, struct hf_err *reterr)
{
	size_t n = 0;
	HF_CLEANUP(hf_freep) char *text = read_whole(path, &n);
	if (!text)
		return hf_err_set(reterr, -errno, "%s",
			errno == EBADMSG ? "not a file of the agent's own, or too large"
					 : strerror(errno));
	json_t *map = json_object();
	int r = map ? replay(text, n, map, reterr) : -ENOMEM;
	if (r < 0)
		json_decref(map);
	else
		*ret = map;
	return r;
}

static int write_line(int fd, const json_t *line, size_t *size)
{
	char *text = json_dumps(line, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	size_t n = strlen(text);
	text[n++] = '\n'; /* in the place of its end */
	ssize_t k = write(fd, text, n);
	int r = k == (ssize_t)n ? 0 : k < 0 ? -errno : -ENOSPC;
	free(text);
	*size += r == 0 ? n : 0;
	return r;
}

/* Writes a file of the head and the values, and puts it in the place of the old one. */
static int rewrite(struct agt_state *s, const json_t *map)
{
	char path[sizeof(s->path) + 4];
	size_t size = 0;
	(void)snprintf(path, sizeof(path), "%s.new", s->path);
	HF_CLEANUP(fd_closep)
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = fd < 0 ? -errno : write_line(fd, s->head, &size);
	if (r == 0 && json_object_size(map) > 0)
		r = write_line(fd, map, &size);
	if (r == 0 && rename(path, s->path) < 0)
		r = -errno;
	if (r < 0)
		return r;
	fd_closep(&s->fd);
	s->fd = fd_take(&fd);
	s->size = s->floor = size;
	return 0;
}

static void give_up(struct agt_state *s, int r)
{
	hf_error("%s: %s: an agent that starts anew will know nothing of this one", s->path,
		strerror(-r));
	fd_closep(&s->fd);
	(void)unlink(s->path); /* half of a state is worse than none; perhaps it is gone */
}

static json_t *make_head(uint64_t keeper)
{
	char boot[40] = "", id[20];
	(void)fd_read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot)); /* else "" */
	(void)snprintf(id, sizeof(id), "%" PRIx64, keeper);
	return json_pack("{s:{s:i,s:s,s:s}}", "holdfast-agent", "version", AGT_STATE_VERSION,
		"boot", boot, "keeper", id);
}

/* The highest serial that a key has. */
static uint64_t last_serial(const json_t *map)
{
	const char *key;
	json_t *v;
	uint64_t last = 0;
	json_object_foreach ((json_t *)map, key, v) {
		if (!strncmp(key, "process/", 8) || !strncmp(key, "leg/", 4) ||
			!strncmp(key, "pump/", 5))
			last = HF_MAX(last, strtoull(strchr(key, '/') + 1, NULL, 10));
	}
	return last;
}

/* What the file tells us, when it is ours. */
static json_t *load(struct agt_state *s, bool discard)
{
	char aside[sizeof(s->path) + 8];
	struct hf_err err = { 0 };
	json_t *map = NULL;
	int r = read_file(s->path, &map, &err);
	if (r == -ENOENT)
		return NULL;
	json_t *ours = json_object_get(s->head, "holdfast-agent");
	const json_t *theirs = json_object_get(map, "holdfast-agent");
	if (r == 0 &&
		!json_equal(json_object_get(ours, "version"), json_object_get(theirs, "version")))
		r = hf_err_set(&err, -EBADMSG, "not of version %d", AGT_STATE_VERSION);
	else if (r == 0 && discard)
		r = hf_err_set(&err, -EBADMSG, "agents crashed with it");
	else if (r == 0 && !json_equal(ours, (json_t *)theirs)) {
		hf_info("%s: of another boot or keeper: not used", s->path);
		json_decref(map);
		return NULL;
	}
	if (r == 0) {
		(void)json_object_del(map, "holdfast-agent"); /* is there */
		s->serial = last_serial(map);
		return map;
	}
	(void)snprintf(aside, sizeof(aside), "%s.refused", s->path);
	(void)rename(s->path, aside); /* else it is overwritten */
	hf_error("%s: refused: %s; kept as %s, the agent begins without it", s->path, err.text,
		aside);
	json_decref(map);
	return NULL;
}

int agt_state_open(struct agt_state *s, const char *dir, uint64_t keeper, bool discard,
	json_t **ret, struct hf_err *reterr)
{
	*s = (struct agt_state){ .fd = -1, .head = make_head(keeper) };
	(void)snprintf(s->path, sizeof(s->path), "%s/state", dir);
	*ret = s->head ? load(s, discard) : NULL;
	json_t *none = json_object();
	int r = s->head && none ? rewrite(s, *ret ? *ret : none) : -ENOMEM;
	json_decref(none);
	return r < 0 ? hf_err_set(reterr, r, "%s: %s", s->path, strerror(-r)) : 0;
}

void agt_state_flush(struct agt_state *s)
{
	struct hf_err err = { 0 };
	json_t *map = NULL;
	if (s->fd < 0 || !s->batch || json_object_size(s->batch) == 0)
		return;
	int r = write_line(s->fd, s->batch, &s->size);
	(void)json_object_clear(s->batch);
	if (r == 0 && s->size > AGT_STATE_REWRITE && s->size > 4 * s->floor) {
		r = read_file(s->path, &map, &err);
		if (r == 0)
			(void)json_object_del(map, "holdfast-agent"); /* is there */
		if (r == 0)
			r = rewrite(s, map);
		json_decref(map);
	}
	if (r < 0)
		give_up(s, r);
}

void agt_state_put(struct agt_state *s, const char *kind, const char *name, json_t *value)
{
	char key[300];
	if (s->fd < 0) {
		json_decref(value);
		return;
	}
	if (!s->batch)
		s->batch = json_object();
	(void)snprintf(key, sizeof(key), "%s%s%s", kind, name[0] ? "/" : "", name);
	if (json_object_set_new(s->batch, key, value ? value : json_null()) < 0)
		give_up(s, -ENOMEM);
	else if (s->depth == 0)
		agt_state_flush(s);
}

void agt_state_put_n(struct agt_state *s, const char *kind, uint64_t name, json_t *value)
{
	char text[24];
	(void)snprintf(text, sizeof(text), "%" PRIu64, name);
	agt_state_put(s, kind, text, value);
}

void agt_state_begin(struct agt_state *s)
{
	if (s)
		s->depth++;
}

void agt_state_end(struct agt_state *s)
{
	if (s && --s->depth == 0)
		agt_state_flush(s);
}
