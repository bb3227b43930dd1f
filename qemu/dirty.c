/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dirty.c - see dirty.h.
 *
 * While a guest is being migrated QEMU collects again and again which pages were written to, and
 * takes the marks away. Translated code marks a page by a slow write, the first one after its entry
 * in the TLB was made or was told of that. Where the marks of 64 pages are taken at a time, QEMU
 * before 9.0 does not tell the TLBs: such a page is not marked again, is not sent again, and
 * arrives stale. So the TLBs are emptied each time QEMU has collected, before it sends any of what
 * it found: what is written from then on is marked, and what was written until then is sent.
 *
 * The call for that is one of a MemoryListener's. What is known of it, in QEMU 7.2 to 8.2:
 *
 *	words 0...16	callbacks, of which word 12 is called when all has been collected, with
 *			QEMU's lock held
 *	word 17		priority
 *	word 18		its name
 *	word 19...	written by QEMU: the address space, links
 *
 * That QEMU has written just there is looked at, or QEMU ends before its guest has begun.
 */
#include "dirty.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIXED_IN    900 /* the version that tells the TLBs itself */
#define AFTER_SYNC  12
#define PRIORITY    17
#define NAME        18
#define SPACE       19
#define LINKS_END   24
#define LAST_CALLED 255u /* behind QEMU's own listeners, which wait for the end of a block */
#define CPUS_MAX    1024

/* QEMU's; lives as long as it. */
static struct {
	void (*notify)(void *notifier, void *data);
	uintptr_t links[2];
} machine_done;
static uintptr_t listener[LINKS_END + 8]; /* a little more than is known */

static struct {
	bool *tcg_allowed;
	void *address_space;
	void *(*get_cpu)(int index);
	void (*run_on_cpu)(void *cpu, void (*work)(void *cpu, uintptr_t data), uintptr_t data);
	void (*tlb_flush)(void *cpu);
	void (*listen)(void *listener, void *address_space);
	void (*add_machine_done)(void *notifier);
} qemu;
static bool wanted; /* else there is nothing to mend, or no TCG */

static bool find(const char *name, void *to)
{
	void *p = dlsym(RTLD_DEFAULT, name);

	memcpy(to, &p, sizeof(p)); /* ISO C has no cast from object to function */
	return p;
}

static void flush(void *cpu, uintptr_t data)
{
	(void)data;
	qemu.tlb_flush(cpu);
}

static void after_sync(void *self)
{
	(void)self;
	for (int i = 0; i < CPUS_MAX; i++) {
		void *cpu = qemu.get_cpu(i);

		if (cpu)
			qemu.run_on_cpu(cpu, flush, 0); /* and waits until it has run */
	}
}

static bool written_as_known(void)
{
	for (int i = LINKS_END; i < (int)(sizeof(listener) / sizeof(*listener)); i++)
		if (listener[i])
			return false;
	return listener[SPACE] == (uintptr_t)qemu.address_space && listener[SPACE + 2] &&
	       listener[SPACE + 4];
}

static void on_machine_done(void *notifier, void *data)
{
	void (*ours)(void *self) = after_sync;

	(void)notifier, (void)data;
	if (!*qemu.tcg_allowed)
		return;
	memcpy(&listener[AFTER_SYNC], &ours, sizeof(ours));
	listener[PRIORITY] = LAST_CALLED;
	listener[NAME] = (uintptr_t) "holdfast";
	qemu.listen(listener, qemu.address_space);
	if (written_as_known())
		return;
	fprintf(stderr, "holdfast-qemu: refused: MemoryListener: it is not the one of QEMU 7.2 to "
			"8.2; use one of these, or 9.0 or later\n");
	exit(EXIT_FAILURE);
}

const char *dirty_find_symbols(int version)
{
	wanted = version < FIXED_IN && find("tcg_allowed", &qemu.tcg_allowed) &&
		 find("tlb_flush", &qemu.tlb_flush);
	if (!wanted || (find("address_space_memory", &qemu.address_space) &&
			       find("qemu_get_cpu", &qemu.get_cpu) &&
			       find("run_on_cpu", &qemu.run_on_cpu) &&
			       find("memory_listener_register", &qemu.listen) &&
			       find("qemu_add_machine_init_done_notifier", &qemu.add_machine_done)))
		return NULL;
	return "QEMU: before 9.0 its TCG loses what a guest writes while it migrates, and it does "
	       "not export memory_listener_register, qemu_get_cpu, run_on_cpu and "
	       "qemu_add_machine_init_done_notifier, with which the module mends that; use 9.0 or "
	       "later, or Debian's";
}

void dirty_install(void)
{
	if (!wanted)
		return;
	machine_done.notify = on_machine_done;
	qemu.add_machine_done(&machine_done);
}
