/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug console: bytes written to port E9h or 402h go to a channel; output only. Reads give E9h, by
 * which a guest finds out that there is one. E9h is Bochs's convention, which small kernels know,
 * 402h that of SeaBIOS and OVMF. There only when asked for.
 */
#include "dev/debugcon.h"

#include "backend/backend.h"

#define DEBUGCON_PORT     0xe9
#define DEBUGCON_FIRMWARE 0x402
#define DEBUGCON_READBACK 0xe9

static uint64_t debugcon_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    (void)dev, (void)off_bytes, (void)bytes;
    return DEBUGCON_READBACK;
}

static void debugcon_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct debugcon *dc = container_of(dev, struct debugcon, dev);
    uint8_t byte = (uint8_t)val;

    (void)off_bytes, (void)bytes;
    chr_write(dc->chr, &byte, 1);
}

/* No state and nothing to reset. */
static const struct device_type debugcon_type = {
    .name = "debugcon",
    .read = debugcon_read,
    .write = debugcon_write,
    .version = 1,
};

int debugcon_init(struct debugcon *dc, struct bus *bus, struct chr *chr)
{
    int err;

    *dc = (struct debugcon){ .dev = { .type = &debugcon_type, .bus = bus, .state_base = dc },
                             .chr = chr };
    bus_add(bus, &dc->dev);
    err = bus_claim_ports(bus, DEBUGCON_PORT, 1, &dc->dev, 0);
    return err ? err : bus_claim_ports(bus, DEBUGCON_FIRMWARE, 1, &dc->dev, 0);
}

void debugcon_fini(struct debugcon *dc)
{
    bus_release_ports(dc->dev.bus, DEBUGCON_PORT, 1, &dc->dev);
    bus_release_ports(dc->dev.bus, DEBUGCON_FIRMWARE, 1, &dc->dev);
}
