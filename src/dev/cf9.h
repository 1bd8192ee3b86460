/* SPDX-License-Identifier: Apache-2.0 */
/* The reset control register: see cf9.c. */
#ifndef DEV_CF9_H
#define DEV_CF9_H

#include "bus/bus.h"

struct cf9 {
    struct device dev;
    uint8_t val;
};

int cf9_init(struct cf9 *c, struct bus *bus) MUST_CHECK;
void cf9_fini(struct cf9 *c);

#endif
