/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The boot timer of Firecracker's machines: a guest's init writes the byte 123 to it when it has
 * come up, and the monitor tells how long that took. Only with `--boot-timer` of the control API.
 *
 * It has no state, and snapshots do not know of it (the bus is not told that it is there): a
 * machine is restored with it or without.
 */
#include "dev/boottimer.h"

#define BOOTTIMER_DONE 123u

static void boottimer_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    const struct boottimer *t = container_of(dev, struct boottimer, dev);

    if (!off_bytes && bytes == 1 && val == BOOTTIMER_DONE)
        t->cfg.booted(t->cfg.arg);
}

static uint64_t boottimer_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    (void)dev, (void)off_bytes, (void)bytes;
    return 0;
}

static const struct device_type boottimer_type = {
    .name = "boot-timer",
    .mmio_read = boottimer_read,
    .mmio_write = boottimer_write,
};

int boottimer_init(struct boottimer *t, const struct boottimer_config *cfg)
{
    *t = (struct boottimer){ .dev = { .type = &boottimer_type, .bus = cfg->bus, .state_base = t },
                             .cfg = *cfg };
    return bus_claim_mmio(cfg->bus, cfg->at, PAGE_BYTES, &t->dev, 0);
}

void boottimer_fini(struct boottimer *t)
{
    bus_release_mmio(t->dev.bus, t->cfg.at, &t->dev);
}
