/* SPDX-License-Identifier: Apache-2.0 */
/* The debug exit port: see debugexit.c. */
#ifndef DEV_DEBUGEXIT_H
#define DEV_DEBUGEXIT_H

#include "bus/bus.h"

struct debugexit {
    struct device dev;
    uint8_t status;
};

int debugexit_init(struct debugexit *te, struct bus *bus) MUST_CHECK;
void debugexit_fini(struct debugexit *te);

#endif
