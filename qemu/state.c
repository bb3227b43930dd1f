/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * state.c - see state.h.
 *
 * From 8.2 on QEMU can carry what a vhost-user back end has to say in its migration stream; the
 * file system device does so, by a subsection with one field, whose get and put call
 * vhost_load_backend_state and vhost_save_backend_state. The vsock device gets such a subsection: a
 * copy of that one, with a name, a get, a put and a condition of our own. The words that are copied
 * are those that no public name exists for, in QEMU 8.2 to 11.1:
 *
 *	subsections	a list of pointers to descriptions, here one, NULL ends it
 *	the subsection	name, versions 0, callbacks: one function at pre_load and pre_save
 *			(whether the back end can), one behind (whether the subsection is sent),
 *			fields, no subsections
 *	fields		an element with name and info and nothing else, an element with the flag of
 *			the end, which follows info
 *	info		name, get, put; later QEMUs have more, which is not used
 *
 * Save and load want the device's vhost_dev, which lies inside the device object. It is found by
 * what points to it: the last word of each of the two virtqueues before it. It, in turn, points to
 * the virtqueues and says that they are two. Anything else than exactly this is not taken for one.
 */
#include "state.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define FS_NAME      "vhost-user-fs"
#define FS_STATE     "vhost-user-fs-backend"
#define FS_FIELD     "back-end"
#define FS_INFO      "virtio-fs back-end state"
#define OUR_STATE    "vhost-user-vsock/back-end" /* begins with the name of the whole */
#define PROPERTY     "holdfast-state"
#define PRE_LOAD     3  /* word of the callback, the first of all */
#define MAX_WORDS    32 /* of a description */
#define FIELD_WORDS  20 /* of a field, at most */
#define OBJECT_WORDS 512
#define VQ_WORDS     64 /* of a vhost_virtqueue, at most */
#define VHOST_WORDS  128
#define UNKNOWN                                                                                    \
	"class vhost-user-fs-device: its migration description is not the one of QEMU 8.2 to "     \
	"11.1; give state=beside"

typedef int transfer_fn(void *file, void *device, size_t size, const void *field, void *json);
typedef int load_fn(void *file, void *device, size_t size, const void *field);

/* What QEMU gets; lives as long as it. */
static struct {
	const char *name;
	load_fn *get;
	transfer_fn *put;
	uintptr_t later[5]; /* QEMU 11.1 has more, which may be NULL */
} info;
static uintptr_t fields[2 * FIELD_WORDS];
static uintptr_t subsection[MAX_WORDS];
static uintptr_t list[2];

static struct state_symbols qemu;
static enum state_way wanted;

void state_find_symbols(struct state_symbols *s)
{
	/* ISO C has no cast from object to function */
	void *f = dlsym(RTLD_DEFAULT, "vhost_save_backend_state");
	memcpy(&s->save, &f, sizeof(f));
	f = dlsym(RTLD_DEFAULT, "vhost_load_backend_state");
	memcpy(&s->load, &f, sizeof(f));
	f = dlsym(RTLD_DEFAULT, "error_report_err");
	memcpy(&s->report, &f, sizeof(f));
	f = dlsym(RTLD_DEFAULT, "object_class_property_add_str");
	memcpy(&s->add_property, &f, sizeof(f));
}

/* ---- the device's vhost_dev ---- */

/* As much of the object as is there, in pieces of a page's fraction: the count of words. */
static int read_object(const void *object, uintptr_t *word)
{
	const int piece = PROBE_MAX / (int)sizeof(*word);
	struct probe p;
	int n = 0;

	if (probe_open(&p) < 0)
		return 0;
	while (n < OBJECT_WORDS &&
		probe_read(&p, word + n, (const uintptr_t *)object + n, PROBE_MAX))
		n += piece;
	probe_close(&p);
	return n;
}

/* Whether the two words `first` and `last`, and no others, point to the word `at`, as the ends of
 * two virtqueues do, and that begins a vhost_dev of these two. */
static bool is_vhost(const uintptr_t *word, int n, uintptr_t base, int first, int at)
{
	int last = 0, count = 0, vqs = 0;

	for (int i = 0; i < n; i++) {
		if (word[i] != word[first])
			continue;
		count++;
		last = i;
	}
	const int size = last - first; /* of a virtqueue */
	const int begin = first + 1 - size;

	if (count != 2 || size < 2 || size > VQ_WORDS || begin < 1 || last >= at || last < at - 2)
		return false;
	for (int i = at; i < at + VHOST_WORDS && i < n - 1; i++)
		vqs += word[i] == base + sizeof(*word) * (uintptr_t)begin &&
		       (uint32_t)word[i + 1] == 2;
	return vqs == 1;
}

static void *find_vhost(void *object)
{
	uintptr_t word[OBJECT_WORDS], base = (uintptr_t)object, found = 0;
	int n = read_object(object, word);

	for (int i = 1; i < n; i++) {
		uintptr_t offset = word[i] - base; /* huge if it lies before */

		if (word[i] == found || offset % sizeof(*word) || offset >= sizeof(word))
			continue;
		int at = (int)(offset / sizeof(*word));
		if (at <= i || at >= n || !is_vhost(word, n, base, i, at))
			continue;
		if (found)
			return NULL;
		found = word[i];
	}
	return (void *)found;
}

/* ---- called by QEMU ---- */

static int transfer(int (*move)(void *, void *, void **), void *device, void *file)
{
	void *vhost = find_vhost(device), *error = NULL;

	if (!vhost) {
		fprintf(stderr,
			"holdfast-qemu: device vhost-user-vsock: its vhost_dev is not where "
			"it is in QEMU 8.2 to 11.1; give state=beside\n");
		return -1;
	}
	int r = move(vhost, file, &error);
	if (error)
		qemu.report(error); /* frees it */
	return r;
}

static int put(void *file, void *device, size_t size, const void *field, void *json)
{
	(void)size, (void)field, (void)json;
	return transfer(qemu.save, device, file);
}

static int get(void *file, void *device, size_t size, const void *field)
{
	(void)size, (void)field;
	return transfer(qemu.load, device, file);
}

static bool is_sent(void *device)
{
	return wanted == STATE_STREAM || find_vhost(device);
}

static char *get_way(void *object, void **errp)
{
	(void)errp;
	return strdup(is_sent(object) ? "stream" : "beside"); /* QEMU frees it */
}

/* ---- making the subsection ---- */

/* Copies the subsection, its callbacks replaced; false when it is not the one that is known. */
static bool copy_subsection(struct probe *p, const uintptr_t *from, int n, int pre_save)
{
	bool (*ours)(void *) = is_sent;
	uintptr_t check;
	int needed = 0;

	if (!probe_read(p, subsection, from, (size_t)n * sizeof(*from)) || subsection[1] ||
		subsection[2] || subsection[n - 1])
		return false;
	check = subsection[PRE_LOAD];
	if (!check || subsection[pre_save] != check)
		return false;
	subsection[PRE_LOAD] = subsection[pre_save] = 0;
	for (int i = PRE_LOAD; i < n - 2; i++) {
		if (subsection[i] && (needed || i < pre_save || subsection[i] == check))
			return false;
		if (subsection[i])
			needed = i;
	}
	if (!needed)
		return false;
	subsection[0] = (uintptr_t)OUR_STATE;
	memcpy(&subsection[needed], &ours, sizeof(ours));
	return true;
}

/* Copies the fields, with another info. */
static bool copy_fields(struct probe *p, const uintptr_t *from)
{
	uintptr_t their_info[3];
	int at[3], n = 0;

	memset(fields, 0, sizeof(fields));
	for (int i = 0; n < 3; i++) {
		if (i == 2 * FIELD_WORDS || !probe_read(p, &fields[i], from + i, sizeof(*from)))
			return false;
		if (fields[i])
			at[n++] = i;
	}
	const int size = at[2] - (at[1] + 1); /* of a field */
	const uintptr_t end = fields[at[2]];

	if (at[0] != 0 || !probe_points_to_string(p, from, FS_FIELD) || at[1] + 1 >= size ||
		size > FIELD_WORDS || !probe_points_to_string(p, (void *)fields[at[1]], FS_INFO))
		return false;
	if (!probe_read(p, their_info, (void *)fields[at[1]], sizeof(their_info)) ||
		!their_info[1] || !their_info[2])
		return false;
	if (end < 0x8000 || end > UINT32_MAX || (end & (end - 1)))
		return false; /* flags, of which one says: the end */
	info.name = "vhost-user-vsock back-end state";
	info.get = get;
	info.put = put;
	fields[at[1]] = (uintptr_t)&info;
	return true;
}

const char *state_subsections(struct probe *p, const struct state_symbols *s, uintptr_t **fs_class,
	int slot, int n, int pre_save, enum state_way way, uintptr_t *ret_list)
{
	uintptr_t description[MAX_WORDS], *their_list[2], name;

	if (!s->save || !s->load || !s->report || !s->add_property)
		return "QEMU: it does not export vhost_save_backend_state, as it does from 8.2 on; "
		       "give state=beside or state=auto, or use a later QEMU";
	if (!fs_class)
		return "class vhost-user-fs-device: QEMU does not have it; give state=beside, or "
		       "use "
		       "a QEMU that was built with it, as Debian's is";
	if (!probe_read(p, &their_list[0], fs_class + slot, sizeof(their_list[0])) ||
		!probe_points_to_string(p, their_list[0], FS_NAME) ||
		!probe_read(p, description, their_list[0], (size_t)n * sizeof(*description)))
		return UNKNOWN;
	for (int i = 1; i < n - 2; i++)
		if (description[i])
			return UNKNOWN;
	if (!probe_points_to_string(p, (void *)description[n - 2], "virtio") ||
		!probe_read(p, their_list, (void *)description[n - 1], sizeof(their_list)) ||
		their_list[1] || !probe_points_to_string(p, their_list[0], FS_STATE) ||
		!probe_read(p, &name, their_list[0], sizeof(name)) ||
		!copy_subsection(p, their_list[0], n, pre_save) ||
		!copy_fields(p, (void *)subsection[n - 2]))
		return UNKNOWN;
	subsection[n - 2] = (uintptr_t)fields;
	list[0] = (uintptr_t)subsection;
	list[1] = 0;
	qemu = *s;
	wanted = way;
	*ret_list = (uintptr_t)list;
	return NULL;
}

void state_publish(void *class)
{
	qemu.add_property(class, PROPERTY, get_way, NULL);
}
