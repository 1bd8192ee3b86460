/* SPDX-License-Identifier: Apache-2.0 */
/* The debug console: see debugcon.c. */
#ifndef DEV_DEBUGCON_H
#define DEV_DEBUGCON_H

#include "bus/bus.h"

struct chr;

struct debugcon {
    struct device dev;
    struct chr *chr; /* the caller's */
};

int debugcon_init(struct debugcon *dc, struct bus *bus, struct chr *chr) MUST_CHECK;
void debugcon_fini(struct debugcon *dc);

#endif
