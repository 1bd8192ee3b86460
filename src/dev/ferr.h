/* SPDX-License-Identifier: Apache-2.0 */
/* The PC's way of reporting x87 errors: see ferr.c. */
#ifndef DEV_FERR_H
#define DEV_FERR_H

#include "bus/bus.h"

struct ferr {
    struct device dev;
    struct irq_line irq; /* IRQ 13 */
    bool up;
};

int ferr_init(struct ferr *f, struct bus *bus, struct irq_line irq) MUST_CHECK;
void ferr_fini(struct ferr *f);
/* The processor asserts FERR#. Caller holds the machine lock. */
void ferr_raise(struct ferr *f);

#endif
