/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What all PCI functions have in common: the type 0 configuration space, base address registers,
 * capabilities.
 *
 * Manual: PCI Local Bus Specification 3.0, "Configuration Space". Registers are bytes with masks:
 * what a guest may write, and what it clears by writing ones. A BAR's size needs no code: its low
 * bits are not writable, which is how software sizes it ("Base Addresses").
 */
#include "dev/pci.h"

#include <errno.h>
#include <string.h>

#define BAR_IO          0x1u
#define BAR_MEM64       0x4u
#define BAR_PREFETCH    0x8u
#define BAR_IO_FLAGS    0x3u
#define BAR_MEM_FLAGS   0xfu
#define ROM_ENABLE      0x1u
#define ROM_MIN_BYTES   2048u /* "Expansion ROM Base Address Register" */
#define HEADER_MULTI_FN 0x80u

#define COMMAND_WRITABLE                                                          \
    (PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | \
     PCI_COMMAND_SERR | PCI_COMMAND_INTX_OFF)
/* Error bits of the status register; never set here, but cleared by ones as everywhere. */
#define STATUS_W1C 0xf900u

/* ---- configuration space
 * ------------------------------------------------------------------------------------------ */

void pci_set(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val)
{
    for (unsigned i = 0; i < bytes; i++)
        d->config[off + i] = (uint8_t)(val >> (8 * i));
}

void pci_define(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val, uint32_t wmask)
{
    for (unsigned i = 0; i < bytes; i++) {
        d->config[off + i] = d->fixed[off + i] = (uint8_t)(val >> (8 * i));
        d->wmask[off + i] = (uint8_t)(wmask >> (8 * i));
    }
}

uint32_t pci_config_read(struct pci_dev *d, unsigned off, unsigned bytes)
{
    uint32_t val = 0;

    BUG_ON(off + bytes > PCI_CONFIG_BYTES);
    if (d->ops && d->ops->config_reading)
        d->ops->config_reading(d, off, bytes);
    for (unsigned i = 0; i < bytes; i++)
        val |= (uint32_t)d->config[off + i] << (8 * i);
    return val;
}

void pci_config_write(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val)
{
    BUG_ON(off + bytes > PCI_CONFIG_BYTES);
    for (unsigned i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)(val >> (8 * i)), mask = d->wmask[off + i];
        uint8_t *at = &d->config[off + i];

        *at = (uint8_t)((*at & ~mask) | (byte & mask)) & (uint8_t) ~(byte & d->w1c[off + i]);
    }
    /* Cheap enough to look at all of it whatever was written: configuration writes are rare. */
    pci_host_update_bars(d->host);
    pci_update_intx(d);
    pci_msi_written(d);
    pci_msix_written(d);
    if (d->ops && d->ops->config_written)
        d->ops->config_written(d, off, bytes);
}

/* ---- base address registers
 * --------------------------------------------------------------------------------------- */

static bool bar_is_io(const struct pci_bar *b)
{
    return b->kind == PCI_BAR_IO;
}

static bool bar_is_64(const struct pci_bar *b)
{
    return b->kind == PCI_BAR_MEM64 || b->kind == PCI_BAR_MEM64_PREF;
}

static unsigned bar_reg(unsigned idx)
{
    return idx == PCI_ROM_BAR ? PCI_ROM : PCI_BAR0 + 4 * idx;
}

/* Where the registers want BAR idx to be; false: nowhere, because decoding is off or that is no
 * address. */
static bool bar_wanted(const struct pci_dev *d, unsigned idx, uint64_t *at)
{
    const struct pci_bar *b = &d->bars[idx];
    unsigned need = bar_is_io(b) ? PCI_COMMAND_IO : PCI_COMMAND_MEM;
    uint64_t end;

    if (b->kind == PCI_BAR_NONE || !(pci_get16(d, PCI_COMMAND) & need))
        return false;
    if (b->kind == PCI_BAR_ROM && !(pci_get32(d, PCI_ROM) & ROM_ENABLE))
        return false;
    *at = pci_get32(d, bar_reg(idx)) & ~(uint64_t)(bar_is_io(b) ? BAR_IO_FLAGS : BAR_MEM_FLAGS);
    if (bar_is_64(b))
        *at |= (uint64_t)pci_get32(d, PCI_BAR0 + 4 * (idx + 1)) << 32;
    /*
     * Nothing is mapped at 0, the value at reset; nor up to the very end of the space, which is all
     * ones written for sizing by software that leaves decoding on.
     */
    end = bar_is_io(b) ? 0xffff : bar_is_64(b) ? UINT64_MAX : UINT32_MAX;
    return *at && *at < end && b->bytes - 1 < end - *at;
}

static void bar_unmap(struct pci_dev *d, struct pci_bar *b)
{
    if (!b->mapped)
        return;
    if (bar_is_io(b))
        bus_release_ports(d->dev.bus, (uint16_t)b->at, (unsigned)b->bytes, b->dev);
    else
        bus_release_mmio(d->dev.bus, GPA(b->at), b->dev);
    b->mapped = false;
    if (d->ops && d->ops->moved)
        d->ops->moved(d);
}

static void bar_map(struct pci_dev *d, unsigned idx, uint64_t at)
{
    struct pci_bar *b = &d->bars[idx];
    struct bus *bus = d->dev.bus;
    bool is_free = bar_is_io(b) ? bus_ports_free(bus, (uint16_t)at, (unsigned)b->bytes)
                                : bus_mmio_free(bus, GPA(at), b->bytes);
    int err;

    if (!is_free) {
        if (log_first(bus_seen(bus), (uint64_t)d->devfn << 32 | idx << 28 | 0x0c0fe))
            log_warn(
                "%s: the guest put BAR %u at %#llx, where another device is; it stays unmapped",
                d->dev.type->name, idx, (unsigned long long)at);
        return;
    }
    err = bar_is_io(b) ? bus_claim_ports(bus, (uint16_t)at, (unsigned)b->bytes, b->dev,
                                         (uint32_t)b->off_bytes)
                       : bus_claim_mmio(bus, GPA(at), b->bytes, b->dev, b->off_bytes);
    b->mapped = !err; /* out of memory: unmapped */
    b->at = at;
    if (b->mapped && d->ops && d->ops->moved)
        d->ops->moved(d);
}

/* First all that go away, then all that come: two functions may swap their places. */
void pci_host_update_bars(struct pci_host *h)
{
    uint64_t at;

    for (unsigned fn = 0; fn < PCI_NR_DEVFNS; fn++)
        for (unsigned i = 0; h->functions[fn] && i <= PCI_ROM_BAR; i++) {
            struct pci_bar *b = &h->functions[fn]->bars[i];

            if (b->mapped && (!bar_wanted(h->functions[fn], i, &at) || at != b->at))
                bar_unmap(h->functions[fn], b);
        }
    for (unsigned fn = 0; fn < PCI_NR_DEVFNS; fn++)
        for (unsigned i = 0; h->functions[fn] && i <= PCI_ROM_BAR; i++)
            if (!h->functions[fn]->bars[i].mapped && bar_wanted(h->functions[fn], i, &at))
                bar_map(h->functions[fn], i, at);
}

void pci_add_bar(struct pci_dev *d, unsigned idx, const struct pci_bar *bar)
{
    uint64_t mask = ~(bar->bytes - 1);
    uint32_t flags = bar_is_io(bar) ? BAR_IO : 0;

    BUG_ON(idx >= PCI_NR_BARS || d->bars[idx].kind != PCI_BAR_NONE);
    BUG_ON(bar->bytes & (bar->bytes - 1) || bar->bytes < (bar_is_io(bar) ? 4 : 16));
    BUG_ON(bar_is_io(bar) && bar->bytes > 256); /* "Base Addresses": the limit for I/O */
    BUG_ON(!bar_is_64(bar) && bar->bytes > GIB(2));
    BUG_ON(bar_is_64(bar) && (idx == PCI_NR_BARS - 1 || d->bars[idx + 1].kind != PCI_BAR_NONE));
    if (bar_is_64(bar))
        flags |= BAR_MEM64;
    if (bar->kind == PCI_BAR_MEM64_PREF || bar->kind == PCI_BAR_MEM32_PREF)
        flags |= BAR_PREFETCH;
    d->bars[idx] = *bar;
    d->bars[idx].mapped = false;
    if (!d->bars[idx].dev)
        d->bars[idx].dev = &d->dev;
    pci_define(d, PCI_BAR0 + 4 * idx, 4, flags, (uint32_t)mask);
    if (bar_is_64(bar))
        pci_define(d, PCI_BAR0 + 4 * (idx + 1), 4, 0, (uint32_t)(mask >> 32));
}

/* ---- expansion ROM ---- */

static uint64_t pci_rom_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    const struct pci_dev *d = container_of(dev, struct pci_dev, rom_dev);
    uint64_t val = UINT64_MAX;

    if (off_bytes < d->rom_bytes && bytes <= d->rom_bytes - off_bytes)
        memcpy(&val, d->rom + off_bytes, bytes);
    return val;
}

static const struct device_type pci_rom_type = { .name = "pci-rom", .mmio_read = pci_rom_read };

void pci_add_rom(struct pci_dev *d, const uint8_t *rom, uint32_t bytes)
{
    uint32_t size = ROM_MIN_BYTES;

    while (size < bytes)
        size *= 2;
    BUG_ON(!bytes || bytes > MIB(16) || d->rom);
    d->rom = rom;
    d->rom_bytes = bytes;
    d->rom_dev = (struct device){ .type = &pci_rom_type, .bus = d->dev.bus };
    d->bars[PCI_ROM_BAR] =
        (struct pci_bar){ .kind = PCI_BAR_ROM, .bytes = size, .dev = &d->rom_dev };
    pci_define(d, PCI_ROM, 4, 0, ~(size - 1) | ROM_ENABLE);
}

/* ---- capabilities
 * -------------------------------------------------------------------------------------------------
 */

unsigned pci_add_cap(struct pci_dev *d, uint8_t id, unsigned bytes)
{
    unsigned at = d->caps_end;

    BUG_ON(at + bytes > PCI_CONFIG_BYTES);
    /* New ones go to the head of the list. */
    pci_define(d, at, 2, id | (uint32_t)d->config[PCI_CAP_PTR] << 8, 0);
    pci_define(d, PCI_CAP_PTR, 1, at, 0);
    d->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    d->fixed[PCI_STATUS] |= PCI_STATUS_CAPS;
    d->caps_end = (unsigned)align_up(at + bytes, 4);
    return at;
}

/* ---- life
 * ---------------------------------------------------------------------------------------------------------
 */

void pci_dev_reset(struct pci_dev *d)
{
    memcpy(d->config, d->fixed, sizeof(d->config));
    d->intx_level = false;
    pci_msi_reset(d);
    pci_host_update_bars(d->host);
    pci_update_intx(d);
}

/* A saved space may have any contents: only what can change while a guest runs is taken from it. */
void pci_dev_loaded(struct pci_dev *d)
{
    for (unsigned i = 0; i < PCI_CONFIG_BYTES; i++) {
        uint8_t mask = d->wmask[i] | d->hwmask[i];

        d->config[i] = (uint8_t)((d->config[i] & mask) | (d->fixed[i] & ~mask));
    }
    pci_host_update_bars(d->host);
    d->intx.up = false; /* so that a raised pin is told again */
    pci_update_intx(d);
}

int pci_dev_init(struct pci_dev *d, struct pci_host *h, const struct pci_dev_desc *desc)
{
    const struct pci_dev *other = h->functions[desc->devfn];

    *d = (struct pci_dev){
        .dev = { .type = desc->type, .bus = h->dev.bus, .state_base = desc->state_base },
        .ops = desc->ops,
        .devfn = desc->devfn,
        .caps_end = PCI_CAPS_AT
    };
    if (other) {
        log_error("%s: PCI function %02x.%x is taken by %s", desc->type->name, desc->devfn >> 3,
                  desc->devfn & 7, other->dev.type->name);
        return -EBUSY;
    }
    d->host = h;
    pci_define(d, PCI_VENDOR_ID, 2, desc->vendor, 0);
    pci_define(d, PCI_DEVICE_ID, 2, desc->device, 0);
    pci_define(d, PCI_COMMAND, 2, 0, COMMAND_WRITABLE);
    pci_define(d, PCI_REVISION, 4, desc->class_code << 8 | desc->revision, 0);
    pci_define(d, PCI_CACHE_LINE, 2, 0,
               0xffff); /* and the latency timer: kept, no bus to use them on */
    pci_define(d, PCI_HEADER_TYPE, 1, desc->multifunction ? HEADER_MULTI_FN : 0, 0);
    pci_define(d, PCI_SUBSYS_VENDOR, 2, desc->subsys_vendor, 0);
    pci_define(d, PCI_SUBSYS_ID, 2, desc->subsys, 0);
    pci_define(d, PCI_INT_LINE, 1, 0, desc->int_pin ? 0xff : 0);
    pci_define(d, PCI_INT_PIN, 1, desc->int_pin, 0);
    d->w1c[PCI_STATUS + 1] = STATUS_W1C >> 8;
    if (desc->int_pin)
        d->intx.line = &h->intx[pci_intx_gsi(h, desc->devfn, desc->int_pin) - h->cfg.intx_gsi];
    h->functions[desc->devfn] = d;
    bus_add(h->dev.bus, &d->dev);
    return 0;
}

void pci_dev_fini(struct pci_dev *d)
{
    if (!d->host)
        return;
    for (unsigned i = 0; i <= PCI_ROM_BAR; i++)
        bar_unmap(d, &d->bars[i]);
    irq_user_set(&d->intx, 0);
    d->host->functions[d->devfn] = NULL;
    d->host = NULL;
}
