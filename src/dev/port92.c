/* SPDX-License-Identifier: Apache-2.0 */
/*
 * System control port A at 92h: fast A20 gate and fast reset.
 *
 * Manual: Intel ICH9 data sheet, "PORT92 - Fast A20 and Init Register". The other bits are a PS/2's
 * disk lights and password lock; they keep what is written.
 */
#include "dev/port92.h"

#define PORT92          0x92
#define PORT92_INIT_NOW BIT(0)
#define PORT92_A20      BIT(1)

static uint64_t port92_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    const struct port92 *p = container_of(dev, struct port92, dev);

    (void)off_bytes, (void)bytes;
    /* The keyboard controller may have moved A20 since. */
    return (p->val & ~PORT92_A20) | (bus_a20(dev->bus) ? PORT92_A20 : 0);
}

static void port92_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct port92 *p = container_of(dev, struct port92, dev);
    bool reset = ~p->val & val & PORT92_INIT_NOW;

    (void)off_bytes, (void)bytes;
    p->val = (uint8_t)val;
    bus_set_a20(dev->bus, val & PORT92_A20);
    if (reset)
        bus_post_stop(dev->bus, STOP_RESET, 0);
}

static void port92_reset(struct device *dev)
{
    struct port92 *p = container_of(dev, struct port92, dev);

    p->val = PORT92_A20;
    bus_set_a20(dev->bus, true);
}

static const struct state_field port92_state[] = {
    FIELD(struct port92, val, U8, 1),
};

static const struct device_type port92_type = {
    .name = "port92",
    .read = port92_read,
    .write = port92_write,
    .reset = port92_reset,
    .state = port92_state,
    .nr_state = ARRAY_SIZE(port92_state),
    .version = 1,
};

int port92_init(struct port92 *p, struct bus *bus)
{
    int err;

    *p = (struct port92){ .dev = { .type = &port92_type, .bus = bus, .state_base = p } };
    port92_reset(&p->dev);
    err = bus_claim_ports(bus, PORT92, 1, &p->dev, 0);
    if (!err)
        bus_add(bus, &p->dev);
    return err;
}

void port92_fini(struct port92 *p)
{
    bus_release_ports(p->dev.bus, PORT92, 1, &p->dev);
}
