/* SPDX-License-Identifier: MIT */
/*
 * limits.c - a VM held to its limits.
 *
 * A connection that is over them is refused as if nobody listened. A VM that has moved its bytes
 * stands still until it has paid for them: its rings are not looked at, and flow control does the
 * rest, on both sides; other VMs notice nothing. Each kind of refusal is counted, and logged
 * once a second at most.
 */
#include "base/fd.h"
#include "base/log.h"
#include "vm.h"
#include <errno.h>
#include <string.h>

/* syscalls: lchown fchownat */

#define LOG_EVERY_US 1000000u
#define PACKET_BYTES 65536u

void dev_limits_init(struct dev_vm *vm)
{
	const struct dev_guard *guard = &vm->opt->guard;
	dev_bucket_init(&vm->limits.bytes, guard->rate_bytes, PACKET_BYTES, vm->loop->now_us);
	dev_bucket_init(&vm->limits.conns, guard->rate_conns, 1, vm->loop->now_us);
}

static void report(struct dev_vm *vm, const char *what, uint64_t *count)
{
	struct dev_limits *l = &vm->limits;
	(*count)++;
	if (vm->loop->now_us < l->logged_us + LOG_EVERY_US)
		return;
	l->logged_us = vm->loop->now_us;
	hf_warn("vm %s: limit: %s (%llu times so far)", vm->opt->name, what,
		(unsigned long long)*count);
}

bool dev_limits_admit(struct dev_vm *vm, bool to_guest, uint32_t port, size_t n_conns)
{
	const struct dev_guard *guard = &vm->opt->guard;
	struct dev_limits *l = &vm->limits;
	if (!dev_ports_allow(to_guest ? &guard->guest_ports : &guard->host_ports, port)) {
		report(vm,
			to_guest ? "a port that is not in guest-ports"
				 : "a port that is not in host-ports",
			&l->refused_port);
		return false;
	}
	if (guard->max_conns > 0 && n_conns > guard->max_conns) {
		report(vm, "max-connections", &l->refused_many);
		return false;
	}
	if (dev_bucket_opens(&l->conns, vm->loop->now_us) > 0) {
		report(vm, "rate-connections", &l->refused_rate);
		return false;
	}
	dev_bucket_take(&l->conns, 1);
	return true;
}

bool dev_limits_admit_client(struct dev_vm *vm, int fd)
{
	uid_t uid = 0;
	if (vm->opt->guard.n_uids == 0)
		return true; /* whoever the socket's mode lets in */
	int r = unix_peer_uid(fd, &uid);
	if (r == 0 && dev_guard_allows_uid(&vm->opt->guard, uid))
		return true;
	report(vm, "a host client whose user is not in allow-uid", &vm->limits.refused_uid);
	return false;
}

uint64_t dev_limits_wait(struct dev_vm *vm)
{
	struct dev_limits *l = &vm->limits;
	uint64_t until_us = dev_bucket_opens(&l->bytes, vm->loop->now_us);
	if (until_us > 0 && !l->waiting)
		report(vm, "rate-bytes", &l->waits);
	l->waiting = until_us > 0;
	return until_us;
}

size_t dev_limits_budget(const struct dev_vm *vm, size_t most)
{
	const struct dev_bucket *b = &vm->limits.bytes;
	if (b->rate == 0)
		return most;
	return HF_MIN(most, (size_t)(HF_MAX(b->tokens, 0) / PACKET_BYTES) + 1);
}

void dev_limits_moved(struct dev_vm *vm)
{
	uint64_t sum = vm->vsk.stats.rx_bytes + vm->vsk.stats.tx_bytes;
	dev_bucket_take(&vm->limits.bytes, sum - vm->limits.counted);
	vm->limits.counted = sum;
}

int dev_limits_own(const struct dev_vm *vm, const char *path)
{
	const struct dev_guard *guard = &vm->opt->guard;
	return guard->owned && lchown(path, guard->owner, guard->group) < 0 ? -errno : 0;
}
