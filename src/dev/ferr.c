/* SPDX-License-Identifier: Apache-2.0 */
/*
 * x87 errors the PC/AT's way: with CR0.NE = 0 the processor asserts FERR#, a latch turns that into
 * IRQ 13, and a write to port F0h clears the latch (SDM 1, "MS-DOS Compatibility Sub-mode").
 * Port F1h resets the coprocessor on a 287 and does nothing since.
 */
#include "dev/ferr.h"

#define FERR_PORT     0xf0
#define FERR_NR_PORTS 2

static void ferr_set(struct ferr *f, bool up)
{
    if (f->up == up)
        return;
    f->up = up;
    irq_set(&f->irq, up);
}

void ferr_raise(struct ferr *f)
{
    ferr_set(f, true);
}

static void ferr_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    (void)bytes, (void)val;
    if (off_bytes == 0)
        ferr_set(container_of(dev, struct ferr, dev), false);
}

static void ferr_reset(struct device *dev)
{
    ferr_set(container_of(dev, struct ferr, dev), false);
}

static void ferr_loaded(struct device *dev)
{
    struct ferr *f = container_of(dev, struct ferr, dev);

    irq_set(&f->irq, f->up);
}

static const struct state_field ferr_state[] = {
    FIELD(struct ferr, up, BOOL, 1),
};

static const struct device_type ferr_type = {
    .name = "ferr",
    .write = ferr_write,
    .reset = ferr_reset,
    .loaded = ferr_loaded,
    .state = ferr_state,
    .nr_state = ARRAY_SIZE(ferr_state),
    .version = 1,
};

int ferr_init(struct ferr *f, struct bus *bus, struct irq_line irq)
{
    *f = (struct ferr){ .dev = { .type = &ferr_type, .bus = bus, .state_base = f }, .irq = irq };
    bus_add(bus, &f->dev);
    return bus_claim_ports(bus, FERR_PORT, FERR_NR_PORTS, &f->dev, 0);
}

void ferr_fini(struct ferr *f)
{
    bus_release_ports(f->dev.bus, FERR_PORT, FERR_NR_PORTS, &f->dev);
}
