/* SPDX-License-Identifier: MIT */
/* unit.h - cmocka with its prerequisites, in the order it wants them. */
#ifndef TEST_UNIT_H
#define TEST_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
