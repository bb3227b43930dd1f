/* SPDX-License-Identifier: GPL-2.0-or-later */
/* dirty.h - what a TCG guest writes while it is being migrated, with a QEMU before 9.0. */
#ifndef HOLDFAST_QEMU_DIRTY_H
#define HOLDFAST_QEMU_DIRTY_H

/* Whether it can be mended in this QEMU, of this version (702 for 7.2), if it is to be. NULL, or
 * why not (object, reason, remedy); touches nothing. */
const char *dirty_find_symbols(int version);

/* Sees to it that none of it is lost, from the moment when the machine is made. */
void dirty_install(void);

#endif
