/* SPDX-License-Identifier: Apache-2.0 */
/* Which 8259 input a PCI interrupt line arrives at: see pirq.c. */
#ifndef DEV_PIRQ_H
#define DEV_PIRQ_H

#include "bus/bus.h"

#define PIRQ_NR_LINES 8u    /* PIRQA# to PIRQH# */
#define PIRQ_OFF      0x80u /* a route: the line arrives at no 8259 */
#define PIRQ_NR_IRQS  16u

struct pirq {
    void (*set)(void *ctx, unsigned irq, int level); /* the 8259s' inputs */
    void *ctx;
    uint8_t routes[PIRQ_NR_LINES];
    uint8_t up;      /* lines that are up */
    uint16_t isa_up; /* the inputs' own lines that are up */
    uint16_t out;    /* what the 8259s were told */
};

void pirq_init(struct pirq *p, void (*set)(void *ctx, unsigned irq, int level), void *ctx);
/* Machine lock held. */
void pirq_set_isa(struct pirq *p, unsigned irq, int level);
void pirq_set_line(struct pirq *p, unsigned line, int level);
/* The value of the line's register. */
void pirq_route(struct pirq *p, unsigned line, uint8_t route);

#endif
