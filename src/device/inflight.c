/* SPDX-License-Identifier: MIT */
#include "inflight.h"
#include "base/bytes.h"
#include "base/fd.h"
#include "base/log.h"
#include "map.h"
#include "vm.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

/* syscalls: memfd_create ftruncate fcntl */

/* Flows: magic, how many entries were ever used, and the entries by the connection's slot. */
static const uint8_t magic[8] = { 'H', 'F', 'F', 'L', 'O', 'W', 'S', '1' };
enum { FLOWS_TOP = 8, FLOWS_HEAD = 16, FLOW_BYTES = 16 };
enum {
	FLOW_PEER_CID = 0,
	FLOW_HOST_PORT = 4,
	FLOW_GUEST_PORT = 8,
	FLOW_TYPE = 12,
	FLOW_LIVES = 14
};
#define FLOWS_BYTES (FLOWS_HEAD + (size_t)DEV_CONNS_MAX * FLOW_BYTES)

static size_t areas_bytes(uint16_t n_queues, uint16_t queue_size)
{
	return n_queues * vq_inflight_bytes(queue_size);
}

int dev_inflight_make(uint16_t n_queues, uint16_t queue_size, int *ret_fd, uint64_t *ret_size)
{
	size_t size = areas_bytes(n_queues, queue_size) + FLOWS_BYTES;
	HF_CLEANUP(fd_closep)
	int fd = memfd_create("holdfast-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	*ret_fd = fd_take(&fd);
	*ret_size = size;
	return 0;
}

void dev_inflight_drop(struct dev_vm *vm)
{
	for (int i = 0; i < DEV_QUEUES; i++)
		(void)vq_set_inflight(&vm->q[i].vq, NULL, 0, NULL); /* it is not started */
	dev_unmap(vm->inflight.map);
	free(vm->inflight.again);
	vm->inflight = (struct dev_inflight){ 0 };
}

int dev_inflight_set(struct dev_vm *vm, int fd, uint64_t offset, uint64_t size, uint16_t n_queues,
	uint16_t queue_size)
{
	struct dev_inflight f = { .n_queues = n_queues, .queue_size = queue_size };
	size_t areas = areas_bytes(n_queues, queue_size);
	if (size < areas)
		return -EINVAL;
	int r = dev_map(fd, offset, size, &f.map);
	if (r < 0)
		return r;
	f.again = calloc((size_t)n_queues * queue_size, sizeof(*f.again));
	if (!f.again) {
		dev_unmap(f.map);
		return -ENOMEM;
	}
	if (size - areas >= FLOWS_BYTES)
		f.flows = (uint8_t *)f.map + areas;
	dev_inflight_drop(vm);
	vm->inflight = f;
	for (uint16_t i = 0; i < HF_MIN(n_queues, (uint16_t)DEV_QUEUES) && r == 0; i++)
		r = vq_set_inflight(&vm->q[i].vq,
			(uint8_t *)f.map + i * vq_inflight_bytes(queue_size), queue_size,
			f.again + (size_t)i * queue_size);
	return r;
}

/* ---- flows ---- */

static uint8_t *flow_at(const struct dev_inflight *f, uint32_t slot)
{
	return f->flows + FLOWS_HEAD + (size_t)slot * FLOW_BYTES;
}

/* The front end may have changed it: no more than there is room for. */
static uint32_t top_of(const struct dev_inflight *f)
{
	if (memcmp(f->flows, magic, sizeof(magic)) != 0)
		return 0;
	return HF_MIN(le32_at(f->flows + FLOWS_TOP), (uint32_t)DEV_CONNS_MAX);
}

void dev_inflight_note(struct dev_vm *vm, const struct dev_conn *c)
{
	struct dev_inflight *f = &vm->inflight;
	if (!f->flows)
		return;
	uint8_t *e = flow_at(f, c->slot);
	uint32_t top = HF_MAX(top_of(f), c->slot + 1);
	le32_to(e + FLOW_PEER_CID, c->core.peer_cid);
	le32_to(e + FLOW_HOST_PORT, c->core.host_port);
	le32_to(e + FLOW_GUEST_PORT, c->core.guest_port);
	le16_to(e + FLOW_TYPE, c->core.type);
	le16_to(e + FLOW_LIVES, 1);
	le32_to(f->flows + FLOWS_TOP, top);
	memcpy(f->flows, magic, sizeof(magic));
}

void dev_inflight_forget(struct dev_vm *vm, const struct dev_conn *c)
{
	if (vm->inflight.flows)
		le16_to(flow_at(&vm->inflight, c->slot) + FLOW_LIVES, 0);
}

static void forget_all(struct dev_inflight *f)
{
	uint32_t top = top_of(f);
	for (uint32_t i = 0; i < top; i++)
		le16_to(flow_at(f, i) + FLOW_LIVES, 0);
}

void dev_inflight_reset(struct dev_vm *vm)
{
	struct dev_inflight *f = &vm->inflight;
	uint32_t n = 0, top = f->flows ? top_of(f) : 0;
	for (uint32_t i = 0; i < top; i++) {
		uint8_t e[FLOW_BYTES];
		memcpy(e, flow_at(f, i), sizeof(e));
		if (le16_at(e + FLOW_LIVES) != 1 || dev_vm_reserve_slots(vm, 1) < 0)
			continue;
		vsk_reset_flow(&vm->vsk, le16_at(e + FLOW_TYPE), le32_at(e + FLOW_PEER_CID),
			le32_at(e + FLOW_HOST_PORT), le32_at(e + FLOW_GUEST_PORT));
		n++;
	}
	if (n > 0)
		hf_info("vm %s: %u connections of a holdfastd that died are reset", vm->opt->name,
			n);
	if (f->flows)
		forget_all(f);
}

void dev_inflight_rewrite(struct dev_vm *vm)
{
	if (!vm->inflight.flows)
		return;
	forget_all(&vm->inflight);
	for (struct vsk_conn *v = NULL; (v = vsk_next(&vm->vsk, v)) != NULL;)
		dev_inflight_note(vm, dev_conn_of(v));
}
