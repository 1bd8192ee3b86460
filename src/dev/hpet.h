/* SPDX-License-Identifier: Apache-2.0 */
/* The high precision event timer: see hpet.c. */
#ifndef DEV_HPET_H
#define DEV_HPET_H

#include "bus/bus.h"

#define HPET_TIMERS 3

struct hpet_config {
    struct bus *bus;
    gpa_t at;
    struct irq_line irq0, irq8; /* where timers 0 and 1 go by the legacy replacement route */
    /* That route was switched: PIT and RTC lose their lines, or get them back. Machine lock held.
     * Optional. */
    void (*legacy)(void *ctx, bool on);
    void *ctx;
};

struct hpet;

/* One comparator. */
struct hpet_timer {
    struct hpet *hpet;
    unsigned idx;
    uint64_t config;
    uint64_t cmp;    /* the next match */
    uint64_t period; /* last value written in periodic mode */
    uint64_t fsb;    /* MSI data and, above it, address */
    uint64_t from;   /* counter up to which matches were delivered */
    uint8_t backlog; /* edges of a period that nobody took, still to be delivered */
    struct timer timer;
};

struct hpet {
    struct device dev;
    struct hpet_config cfg;
    uint64_t config; /* GEN_CONF */
    uint64_t status; /* GINTR_STA */
    /* The main counter: when enabled 10 ns units of the VM clock + counter, else counter itself. */
    uint64_t counter;
    struct hpet_timer timers[HPET_TIMERS];
    uint32_t lines_up; /* GSIs held up by level-triggered timers */
};

int hpet_init(struct hpet *h, const struct hpet_config *cfg) MUST_CHECK;
void hpet_fini(struct hpet *h);
/* The processor has served an edge of that GSI: the next that a timer missed may come now. Caller
 * holds the machine lock. */
void hpet_irq_served(struct hpet *h, unsigned gsi);
/* The GSIs for which that is worth to be told, a bit each. */
#define HPET_GSIS 0x00f00101u

#endif
