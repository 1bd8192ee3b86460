/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reset control register at port CF9h; also what ACPI's FADT names as reset register.
 *
 * Manual: Intel ICH9 data sheet, "RST_CNT - Reset Control Register". The port lies in the middle of
 * PCI's CF8h dword, which belongs to the host bridge; the bus keeps accesses that begin at CF8h and
 * those to CF9h apart.
 */
#include "dev/cf9.h"

#define CF9_PORT     0xcf9
#define CF9_SYS_RST  BIT(1) /* hard instead of soft; both reset the machine here */
#define CF9_RST_CPU  BIT(2) /* its rise resets */
#define CF9_FULL_RST BIT(3) /* with a power cycle */
#define CF9_WRITABLE (CF9_SYS_RST | CF9_RST_CPU | CF9_FULL_RST)

static uint64_t cf9_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    (void)off_bytes, (void)bytes;
    return container_of(dev, struct cf9, dev)->val;
}

static void cf9_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct cf9 *c = container_of(dev, struct cf9, dev);
    bool reset = ~c->val & val & CF9_RST_CPU;

    (void)off_bytes, (void)bytes;
    c->val = val & CF9_WRITABLE;
    if (reset)
        bus_post_stop(dev->bus, STOP_RESET, 0);
}

static void cf9_reset(struct device *dev)
{
    container_of(dev, struct cf9, dev)->val = 0;
}

static const struct state_field cf9_state[] = {
    FIELD(struct cf9, val, U8, 1),
};

static const struct device_type cf9_type = {
    .name = "cf9",
    .read = cf9_read,
    .write = cf9_write,
    .reset = cf9_reset,
    .state = cf9_state,
    .nr_state = ARRAY_SIZE(cf9_state),
    .version = 1,
};

int cf9_init(struct cf9 *c, struct bus *bus)
{
    *c = (struct cf9){ .dev = { .type = &cf9_type, .bus = bus, .state_base = c } };
    bus_add(bus, &c->dev);
    return bus_claim_ports(bus, CF9_PORT, 1, &c->dev, 0);
}

void cf9_fini(struct cf9 *c)
{
    bus_release_ports(c->dev.bus, CF9_PORT, 1, &c->dev);
}
