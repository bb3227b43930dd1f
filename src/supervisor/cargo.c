/* SPDX-License-Identifier: MIT */
/*
 * cargo.c - what goes over, message by message: the answer to one sends the next.
 *
 * Output files are sent twice: most of them while the guest runs, the rest when it stands still.
 * `sent` knows how much of each is there. A blob is announced with its size and checksum, and then
 * sent in chunks.
 */
#include "cargo.h"
#include "base/hex.h"
#include "migrate/blob.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const char *const piece_names[CARGO_PIECE_N_] = { "output", "record", "state" };

static void send_next(struct cargo *c);

static void finish(struct cargo *c, const struct hf_err *err)
{
	c->peer = NULL;
	c->done(c->ctx, err);
}

static void on_piece(void *ctx, const struct hf_err *err, json_t *answer, int *fd)
{
	struct cargo *c = ctx;
	(void)answer, (void)fd;
	if (!c->peer)
		return; /* stopped */
	if (err)
		finish(c, err);
	else
		send_next(c);
}

/* A chunk of the bytes at data as a message: offset, bytes in hex. */
static json_t *chunk(uint64_t offset, const uint8_t *data, size_t n)
{
	char *hex = malloc(2 * n + 1);
	if (!hex)
		return NULL;
	hex_encode(data, n, hex);
	json_t *m = json_pack("{s:I, s:s}", "offset", (json_int_t)offset, "data", hex);
	free(hex);
	return m;
}

static void next_file(struct cargo *c)
{
	struct hf_list *all = &c->sup->procs.all;
	c->offset = 0;
	if (++c->fd < PROC_FD_N_)
		return;
	c->fd = PROC_STDOUT;
	c->proc = c->proc->link.next == all
			  ? NULL
			  : HF_CONTAINER_OF(c->proc->link.next, struct proc, link);
}

/* The next chunk of an output file; false: all files are over. */
static bool send_output(struct cargo *c)
{
	char key[PROC_NAME_MAX + 16];
	uint8_t *data = NULL;
	uint64_t begins = 0;
	for (; c->proc; next_file(c)) {
		struct proc_stream *s = &c->proc->stream[c->fd];
		if (!s->used || session_output_fd(c->sup, s) < 0)
			continue;
		(void)snprintf(key, sizeof(key), "%s.%s", c->proc->name, proc_fd_name(c->fd));
		begins = session_output_begin(c->sup, s);
		c->offset = (uint64_t)json_integer_value(json_object_get(c->sent, key));
		c->offset = HF_MAX(c->offset, begins); /* the rest was dropped meanwhile */
		if (c->offset < s->len && (data = malloc(MIG_CHUNK_MAX)))
			break;
	}
	if (!c->proc)
		return false;
	struct proc_stream *s = &c->proc->stream[c->fd];
	size_t n = (size_t)HF_MIN(s->len - c->offset, (uint64_t)MIG_CHUNK_MAX);
	ssize_t got = pread(s->fd, data, n, (off_t)c->offset);
	json_t *m = got > 0 ? chunk(c->offset, data, (size_t)got) : NULL;
	if (m) {
		json_object_set_new(m, "process", json_string(c->proc->name));
		json_object_set_new(m, "stream", json_string(proc_fd_name(c->fd)));
		json_object_set_new(m, "crc", json_integer(mig_crc32(0, data, (size_t)got)));
		json_object_set_new(m, "begins", json_integer((json_int_t)begins));
		json_object_set_new(c->sent, key, json_integer((json_int_t)c->offset + got));
		rpc_call(c->peer, "incoming-output", m, -1, on_piece, c);
	} else {
		struct hf_err err;
		hf_err_set(&err, -EIO, "an output file cannot be read");
		finish(c, &err);
	}
	free(data);
	return true;
}

static void begin_blob(struct cargo *c)
{
	bool record = c->piece == CARGO_RECORD;
	c->blob = record ? c->record : (const uint8_t *)c->state;
	c->blob_len = record ? c->record_len : strlen(c->state);
	c->offset = 0;
	rpc_call(c->peer, "incoming-blob",
		json_pack("{s:s, s:I, s:I}", "what", piece_names[c->piece], "size",
			(json_int_t)c->blob_len, "crc",
			(json_int_t)mig_crc32(0, c->blob, c->blob_len)),
		-1, on_piece, c);
}

static void send_chunk(struct cargo *c)
{
	size_t n = HF_MIN(c->blob_len - (size_t)c->offset, (size_t)MIG_CHUNK_MAX);
	json_t *m = chunk(c->offset, c->blob + c->offset, n);
	if (m)
		json_object_set_new(m, "what", json_string(piece_names[c->piece]));
	c->offset += n;
	rpc_call(c->peer, "incoming-chunk", m, -1, on_piece, c);
}

static void send_next(struct cargo *c)
{
	if (c->piece == CARGO_OUTPUT) {
		if (send_output(c))
			return;
	} else if (c->offset < c->blob_len) {
		send_chunk(c);
		return;
	}
	if (c->piece == c->last) {
		finish(c, NULL);
		return;
	}
	c->piece++;
	if (c->piece == CARGO_RECORD && !c->record)
		c->piece++;
	begin_blob(c);
}

static void begin(struct cargo *c, struct rpc *peer, enum cargo_piece last)
{
	struct hf_list *all = &c->sup->procs.all;
	c->peer = peer;
	c->last = last;
	c->piece = CARGO_OUTPUT;
	c->proc = hf_list_empty(all) ? NULL : HF_CONTAINER_OF(all->next, struct proc, link);
	c->fd = PROC_STDOUT;
	send_next(c);
}

void cargo_send_output(struct cargo *c, struct rpc *peer)
{
	begin(c, peer, CARGO_OUTPUT);
}

void cargo_send_all(struct cargo *c, struct rpc *peer)
{
	hf_assert(c->state);
	begin(c, peer, CARGO_STATE);
}

void cargo_stop(struct cargo *c)
{
	c->peer = NULL;
}

int cargo_take_record(struct cargo *c, int fd)
{
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > MIG_BLOB_MAX)
		return -EPROTO;
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	c->record = p;
	c->record_len = (size_t)st.st_size;
	return 0;
}

int cargo_take_state(struct cargo *c)
{
	json_t *json = session_json(c->sup);
	c->state = json ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	return c->state ? 0 : -ENOMEM;
}

void cargo_init(struct cargo *c, struct sup *sup, cargo_done_fn *done, void *ctx)
{
	*c = (struct cargo){ .sup = sup, .done = done, .ctx = ctx, .sent = json_object() };
}

void cargo_free(struct cargo *c)
{
	if (c->record)
		(void)munmap(c->record, c->record_len); /* our own mapping */
	free(c->state);
	json_decref(c->sent);
}
