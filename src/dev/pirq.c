/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interrupt router of the ISA bridge: eight lines for PCI interrupts, each of which may be led
 * to an input of the 8259s, for systems that do not use the I/O APIC. Inputs that several lines, or
 * a line and an ISA device, are led to are up while any of them is.
 *
 * Manual: Intel ICH9 data sheet, "LPC Interface Bridge Registers", "PIRQ[n]_ROUT".
 */
#include "dev/pirq.h"

#define ROUTE_IRQ 0x0fu

/* IRQs 0, 1, 2, 8 and 13 are reserved there. */
#define ROUTABLE 0xdef8u

static uint16_t pirq_inputs(const struct pirq *p)
{
    uint16_t up = p->isa_up;

    for (unsigned i = 0; i < PIRQ_NR_LINES; i++)
        if ((p->up & BIT(i)) && !(p->routes[i] & PIRQ_OFF))
            up |= BIT(p->routes[i] & ROUTE_IRQ) & ROUTABLE;
    return up;
}

static void pirq_update(struct pirq *p)
{
    uint16_t now = pirq_inputs(p), changed = now ^ p->out;

    p->out = now;
    for (unsigned irq = 0; changed >> irq; irq++)
        if (changed & BIT(irq))
            p->set(p->ctx, irq, (now & BIT(irq)) != 0);
}

void pirq_init(struct pirq *p, void (*set)(void *ctx, unsigned irq, int level), void *ctx)
{
    *p = (struct pirq){ .set = set, .ctx = ctx };
    for (unsigned i = 0; i < PIRQ_NR_LINES; i++)
        p->routes[i] = PIRQ_OFF;
}

void pirq_set_isa(struct pirq *p, unsigned irq, int level)
{
    uint16_t bit = (uint16_t)BIT(irq);

    BUG_ON(irq >= PIRQ_NR_IRQS);
    p->isa_up = (uint16_t)(level ? p->isa_up | bit : p->isa_up & ~bit);
    pirq_update(p);
}

void pirq_set_line(struct pirq *p, unsigned line, int level)
{
    BUG_ON(line >= PIRQ_NR_LINES);
    p->up = (uint8_t)(level ? p->up | BIT(line) : p->up & ~BIT(line));
    pirq_update(p);
}

void pirq_route(struct pirq *p, unsigned line, uint8_t route)
{
    BUG_ON(line >= PIRQ_NR_LINES);
    p->routes[line] = route;
    pirq_update(p);
}
