/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI host bridge: the two ways to configuration space, and where interrupt pins lead.
 *
 * Manuals: PCI Local Bus Specification 3.0, "Configuration Mechanism #1" (ports CF8h and CFCh); PCI
 * Express Base Specification, "PCI Express Enhanced Configuration Access Mechanism" (ECAM). CF9h,
 * in the middle of CF8h, is another device's.
 */
#include "dev/pci.h"

#define PCI_ADDRESS_PORT 0xcf8
#define PCI_DATA_PORT    0xcfc
#define PCI_ADDRESS_OFF  0u /* what the handlers see for these ports */
#define PCI_DATA_OFF     4u

#define PCI_ADDRESS_ENABLE   BIT(31)
#define PCI_ADDRESS_WRITABLE 0x80fffffcu

/* ---- configuration cycles
 * ---------------------------------------------------------------------------------------- */

/* A configuration access, however it came. */
struct pci_cycle {
    unsigned bus_nr;
    uint8_t devfn;
    unsigned reg, bytes;
};

/* NULL: nobody answers; the host bridge ends the cycle with a master abort. Nothing here has
 * extended registers. */
static struct pci_dev *pci_target(struct pci_host *h, const struct pci_cycle *c)
{
    if (c->bus_nr || c->reg + c->bytes > PCI_CONFIG_BYTES)
        return NULL;
    return h->functions[c->devfn];
}

static uint64_t pci_cycle_read(struct pci_host *h, const struct pci_cycle *c)
{
    struct pci_dev *d = pci_target(h, c);

    return d ? pci_config_read(d, c->reg, c->bytes) : UINT64_MAX;
}

static void pci_cycle_write(struct pci_host *h, const struct pci_cycle *c, uint64_t val)
{
    struct pci_dev *d = pci_target(h, c);

    if (d)
        pci_config_write(d, c->reg, c->bytes, (uint32_t)val);
}

static struct pci_cycle cycle_of_port(const struct pci_host *h, uint32_t off_bytes, unsigned bytes)
{
    return (struct pci_cycle){
        .bus_nr = (unsigned)bits(h->address, 23, 16),
        .devfn = (uint8_t)bits(h->address, 15, 8),
        .reg = (h->address & 0xfc) + (off_bytes - PCI_DATA_OFF),
        .bytes = bytes,
    };
}

static struct pci_cycle cycle_of_ecam(uint64_t off_bytes, unsigned bytes)
{
    return (struct pci_cycle){
        .bus_nr = (unsigned)bits(off_bytes, 27, 20),
        .devfn = (uint8_t)bits(off_bytes, 19, 12),
        .reg = (unsigned)bits(off_bytes, 11, 0),
        .bytes = bytes,
    };
}

static uint64_t pci_host_read(struct device *dev, uint32_t off_bytes, unsigned bytes)
{
    struct pci_host *h = container_of(dev, struct pci_host, dev);
    struct pci_cycle c;

    /* Anything but a dword at CF8h is an ordinary I/O cycle, which nobody claims. */
    if (off_bytes == PCI_ADDRESS_OFF)
        return bytes == 4 ? h->address : UINT64_MAX;
    if (!(h->address & PCI_ADDRESS_ENABLE))
        return UINT64_MAX;
    c = cycle_of_port(h, off_bytes, bytes);
    return pci_cycle_read(h, &c);
}

static void pci_host_write(struct device *dev, uint32_t off_bytes, unsigned bytes, uint64_t val)
{
    struct pci_host *h = container_of(dev, struct pci_host, dev);
    struct pci_cycle c;

    if (off_bytes == PCI_ADDRESS_OFF) {
        if (bytes == 4)
            h->address = (uint32_t)val & PCI_ADDRESS_WRITABLE;
        return;
    }
    if (!(h->address & PCI_ADDRESS_ENABLE))
        return;
    c = cycle_of_port(h, off_bytes, bytes);
    pci_cycle_write(h, &c, val);
}

static uint64_t pci_host_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    struct pci_cycle c = cycle_of_ecam(off_bytes, bytes);

    return pci_cycle_read(container_of(dev, struct pci_host, dev), &c);
}

static void pci_host_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes,
                                uint64_t val)
{
    struct pci_cycle c = cycle_of_ecam(off_bytes, bytes);

    pci_cycle_write(container_of(dev, struct pci_host, dev), &c, val);
}

void pci_host_set_ecam(struct pci_host *h, gpa_t at, bool on)
{
    struct bus *bus = h->dev.bus;

    if (h->ecam_on == on && h->ecam_at.v == at.v)
        return;
    if (h->ecam_on)
        bus_release_mmio(bus, h->ecam_at, &h->dev);
    h->ecam_at = at;
    h->ecam_on = on && bus_mmio_free(bus, at, h->cfg.ecam_bytes) &&
                 !bus_claim_mmio(bus, at, h->cfg.ecam_bytes, &h->dev, 0);
    if (on && !h->ecam_on && log_first(bus_seen(bus), 0xeca0000u))
        log_warn("pci-host: the guest put the configuration space at %#llx, where a device is; it "
                 "is off",
                 (unsigned long long)at.v);
}

/* ---- interrupt pins
 * ---------------------------------------------------------------------------------------------- */

/* The usual swizzle, so that the INTA of neighbours arrive at different inputs. */
static unsigned intx_idx(uint8_t devfn, unsigned pin)
{
    return ((devfn >> 3) + pin - 1) % 4;
}

unsigned pci_intx_gsi(const struct pci_host *h, uint8_t devfn, unsigned pin)
{
    return h->cfg.intx_gsi + intx_idx(devfn, pin);
}

void pci_set_int_lines(struct pci_host *h, const uint8_t irqs[4])
{
    assert_held(bus_lock(h->dev.bus));
    for (unsigned i = 0; i < PCI_NR_DEVFNS; i++) {
        struct pci_dev *d = h->functions[i];

        if (d && d->config[PCI_INT_PIN])
            pci_set(d, PCI_INT_LINE, 1, irqs[intx_idx(d->devfn, d->config[PCI_INT_PIN])]);
    }
}

/* What the pin should be: INTx Disable, and MSI when switched on, keep it quiet ("MSI Enable"). */
void pci_update_intx(struct pci_dev *d)
{
    bool quiet =
        (pci_get16(d, PCI_COMMAND) & PCI_COMMAND_INTX_OFF) || pci_msi_on(d) || pci_msix_on(d);
    uint16_t status = pci_get16(d, PCI_STATUS) & ~PCI_STATUS_INTX;

    /* The status bit tells the device's wish even when the pin is disabled. */
    pci_set(d, PCI_STATUS, 2, status | (d->intx_level ? PCI_STATUS_INTX : 0));
    irq_user_set(&d->intx, d->intx_level && !quiet);
}

void pci_intx(struct pci_dev *d, int level)
{
    d->intx_level = level != 0;
    pci_update_intx(d);
}

/* ---- life
 * -------------------------------------------------------------------------------------------------------
 */

static void pci_host_reset(struct device *dev)
{
    container_of(dev, struct pci_host, dev)->address = 0;
}

static void pci_host_loaded(struct device *dev)
{
    container_of(dev, struct pci_host, dev)->address &= PCI_ADDRESS_WRITABLE;
}

static const struct state_field pci_host_state[] = {
    FIELD(struct pci_host, address, U32, 1),
};

static const struct device_type pci_host_type = {
    .name = "pci-host",
    .read = pci_host_read,
    .write = pci_host_write,
    .max_bytes = 4,
    .mmio_read = pci_host_mmio_read,
    .mmio_write = pci_host_mmio_write,
    .mmio_max_bytes = 4,
    .reset = pci_host_reset,
    .loaded = pci_host_loaded,
    .state = pci_host_state,
    .nr_state = ARRAY_SIZE(pci_host_state),
    .version = 1,
};

int pci_host_init(struct pci_host *h, const struct pci_host_config *cfg)
{
    int err;

    *h = (struct pci_host){ .dev = { .type = &pci_host_type, .bus = cfg->bus, .state_base = h },
                            .cfg = *cfg };
    for (unsigned i = 0; i < ARRAY_SIZE(h->intx); i++)
        h->intx[i].out = bus_gsi(cfg->bus, cfg->intx_gsi + i);
    bus_add(cfg->bus, &h->dev);
    err = bus_claim_wide_port(cfg->bus, PCI_ADDRESS_PORT, 4, &h->dev, PCI_ADDRESS_OFF);
    if (!err)
        err = bus_claim_ports(cfg->bus, PCI_DATA_PORT, 4, &h->dev, PCI_DATA_OFF);
    if (!err)
        err = bus_claim_mmio(cfg->bus, cfg->ecam_at, cfg->ecam_bytes, &h->dev, 0);
    h->ecam_at = cfg->ecam_at;
    h->ecam_on = !err;
    return err;
}

void pci_host_fini(struct pci_host *h)
{
    bus_release_ports(h->dev.bus, PCI_ADDRESS_PORT, 1, &h->dev);
    bus_release_ports(h->dev.bus, PCI_DATA_PORT, 4, &h->dev);
    bus_release_mmio(h->dev.bus, h->ecam_at, &h->dev);
}
