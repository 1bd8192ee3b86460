/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug exit port: the guest stops its VM and leaves a status. A write of v ends the run with (v <<
 * 1) | 1, so that 0 stays the status of a proper power-off.
 *
 * Only for the guests in tests/guest. A real PC answers nothing at 0xf4, so the machine has one
 * only when asked to
 * (--device debug-exit). One byte wide; the bus splits wider accesses.
 */
#include "dev/debugexit.h"

#define DEBUGEXIT_PORT 0xf4

static uint64_t debugexit_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    const struct debugexit *te = container_of(dev, struct debugexit, dev);

    (void)off_bytes, (void)bytes;
    return te->status;
}

static void debugexit_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct debugexit *te = container_of(dev, struct debugexit, dev);

    (void)off_bytes, (void)bytes;
    te->status = (uint8_t)val;
    /* A request, not a call: this is a vCPU thread, and stopping waits for all of them. */
    bus_post_stop(dev->bus, STOP_EXIT, (te->status << 1 | 1) & 0xff);
}

static void debugexit_reset(struct device *dev)
{
    container_of(dev, struct debugexit, dev)->status = 0;
}

static const struct state_field debugexit_state[] = {
    FIELD(struct debugexit, status, U8, 1),
};

static const struct device_type debugexit_type = {
    .name = "debug-exit",
    .read = debugexit_read,
    .write = debugexit_write,
    .reset = debugexit_reset,
    .state = debugexit_state,
    .nr_state = ARRAY_SIZE(debugexit_state),
    .version = 1,
};

int debugexit_init(struct debugexit *te, struct bus *bus)
{
    *te = (struct debugexit){ .dev = { .type = &debugexit_type, .bus = bus, .state_base = te } };
    bus_add(bus, &te->dev);
    return bus_claim_ports(bus, DEBUGEXIT_PORT, 1, &te->dev, 0);
}

void debugexit_fini(struct debugexit *te)
{
    bus_release_ports(te->dev.bus, DEBUGEXIT_PORT, 1, &te->dev);
}
