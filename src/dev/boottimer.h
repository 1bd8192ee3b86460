/* SPDX-License-Identifier: Apache-2.0 */
/* A register that a guest tells the end of its boot by: see boottimer.c. */
#ifndef DEV_BOOTTIMER_H
#define DEV_BOOTTIMER_H

#include "bus/bus.h"

/* Each time the guest says so; machine lock held, by a vCPU's thread. */
struct boottimer_config {
    struct bus *bus;
    gpa_t at; /* of a page */
    void (*booted)(void *arg);
    void *arg;
};

struct boottimer {
    struct device dev;
    struct boottimer_config cfg;
};

int boottimer_init(struct boottimer *t, const struct boottimer_config *cfg) MUST_CHECK;
void boottimer_fini(struct boottimer *t);

#endif
