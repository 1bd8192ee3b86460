/* SPDX-License-Identifier: Apache-2.0 */
/* System control port A: see port92.c. */
#ifndef DEV_PORT92_H
#define DEV_PORT92_H

#include "bus/bus.h"

struct port92 {
    struct device dev;
    uint8_t val;
};

int port92_init(struct port92 *p, struct bus *bus) MUST_CHECK;
void port92_fini(struct port92 *p);

#endif
