/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Message-signalled interrupts of PCI functions: MSI (in configuration space) and MSI-X (a table in
 * a BAR).
 *
 * Manual: PCI Local Bus Specification 3.0, "MSI and MSI-X Operation". A masked vector that is
 * raised becomes pending, and is sent when it is unmasked.
 */
#include "dev/pci.h"

/* MSI capability: 64-bit addresses, per-vector masking. */
#define MSI_CONTROL   0x02u
#define MSI_ADDRESS   0x04u
#define MSI_DATA      0x0cu
#define MSI_MASK      0x10u
#define MSI_PENDING   0x14u
#define MSI_BYTES     0x18u
#define MSI_ENABLE    BIT(0)
#define MSI_MMC_SHIFT 1 /* log2 of vectors offered */
#define MSI_MME_SHIFT 4 /* log2 of vectors given */
#define MSI_MME       (7u << MSI_MME_SHIFT)
#define MSI_64BIT     BIT(7)
#define MSI_MASKABLE  BIT(8)

/* MSI-X capability. */
#define MSIX_CONTROL     0x02u
#define MSIX_TABLE       0x04u
#define MSIX_PBA         0x08u
#define MSIX_BYTES       0x0cu
#define MSIX_ENABLE      BIT(15)
#define MSIX_MASK_ALL    BIT(14)
#define MSIX_ENTRY_BYTES 16u
enum { MSIX_ADDR_LOW, MSIX_ADDR_HIGH, MSIX_DATA, MSIX_VECTOR_CONTROL };
#define MSIX_VECTOR_MASKED BIT(0)

/* Layout of the MSI-X BAR: a page for the table, a page for the pending bits. */
#define MSIX_PBA_OFF   PAGE_BYTES
#define MSIX_BAR_BYTES (2 * PAGE_BYTES)

static void pci_send(const struct pci_dev *d, uint64_t addr, uint32_t data)
{
    /* A message is a memory write by the function: without Bus Master there is none. */
    if (pci_is_master(d))
        bus_msi(d->dev.bus, addr, data);
}

/* ---- MSI
 * ---------------------------------------------------------------------------------------------------------
 */

void pci_add_msi(struct pci_dev *d, unsigned nr)
{
    unsigned at, log2_nr = (unsigned)__builtin_ctz(nr);

    BUG_ON(!nr || nr & (nr - 1) || nr > PCI_MSI_MAX || d->msi_at);
    at = pci_add_cap(d, PCI_CAP_MSI, MSI_BYTES);
    d->msi_at = at;
    pci_set(d, at + MSI_CONTROL, 2, MSI_64BIT | MSI_MASKABLE | log2_nr << MSI_MMC_SHIFT);
    d->fixed[at + MSI_CONTROL] = d->config[at + MSI_CONTROL];
    d->fixed[at + MSI_CONTROL + 1] = d->config[at + MSI_CONTROL + 1];
    d->wmask[at + MSI_CONTROL] = MSI_ENABLE | MSI_MME;
    for (unsigned i = 0; i < 8; i++)
        d->wmask[at + MSI_ADDRESS + i] = i ? 0xff : 0xfc;
    d->wmask[at + MSI_DATA] = d->wmask[at + MSI_DATA + 1] = 0xff;
    for (unsigned n = 0; n < nr; n++) {
        d->wmask[at + MSI_MASK + n / 8] |= (uint8_t)BIT(n % 8);
        d->hwmask[at + MSI_PENDING + n / 8] |= (uint8_t)BIT(n % 8);
    }
}

bool pci_msi_on(const struct pci_dev *d)
{
    return d->msi_at && (d->config[d->msi_at + MSI_CONTROL] & MSI_ENABLE);
}

/* Vectors the guest gave, at most those we offered. */
static unsigned msi_nr(const struct pci_dev *d)
{
    uint16_t control = pci_get16(d, d->msi_at + MSI_CONTROL);
    unsigned offered = (unsigned)bits(control, 3, 1), given = (unsigned)bits(control, 6, 4);

    return 1u << MIN(offered, given);
}

void pci_msi_send(struct pci_dev *d, unsigned n)
{
    unsigned at = d->msi_at;
    uint32_t data;

    if (!pci_msi_on(d))
        return;
    /* Given fewer than it wants, a function lets several causes share a vector. */
    n &= msi_nr(d) - 1;
    if (pci_get32(d, at + MSI_MASK) & BIT(n)) {
        pci_set(d, at + MSI_PENDING, 4, pci_get32(d, at + MSI_PENDING) | BIT(n));
        return;
    }
    /* The function may change as many low bits of data as it was given vectors. */
    data = (pci_get16(d, at + MSI_DATA) & ~(msi_nr(d) - 1)) | n;
    pci_send(d, pci_get32(d, at + MSI_ADDRESS) | (uint64_t)pci_get32(d, at + MSI_ADDRESS + 4) << 32,
             data);
}

void pci_msi_written(struct pci_dev *d)
{
    uint32_t due;

    if (!pci_msi_on(d))
        return;
    due = pci_get32(d, d->msi_at + MSI_PENDING) & ~pci_get32(d, d->msi_at + MSI_MASK);
    pci_set(d, d->msi_at + MSI_PENDING, 4, pci_get32(d, d->msi_at + MSI_PENDING) & ~due);
    for (; due; due &= due - 1)
        pci_msi_send(d, (unsigned)__builtin_ctz(due));
}

/* ---- MSI-X
 * -------------------------------------------------------------------------------------------------------
 */

bool pci_msix_on(const struct pci_dev *d)
{
    return d->msix_at && (pci_get16(d, d->msix_at + MSIX_CONTROL) & MSIX_ENABLE);
}

static bool msix_masked(const struct pci_dev *d, unsigned n)
{
    return (pci_get16(d, d->msix_at + MSIX_CONTROL) & MSIX_MASK_ALL) ||
           (d->msix_table[n][MSIX_VECTOR_CONTROL] & MSIX_VECTOR_MASKED);
}

void pci_msix_send(struct pci_dev *d, unsigned n)
{
    const uint32_t *e = d->msix_table[n];

    if (!pci_msix_on(d) || n >= d->nr_msix)
        return;
    if (msix_masked(d, n))
        d->msix_pending |= BIT64(n);
    else
        pci_send(d, e[MSIX_ADDR_LOW] | (uint64_t)e[MSIX_ADDR_HIGH] << 32, e[MSIX_DATA]);
}

bool pci_msix_open(const struct pci_dev *d, unsigned n, uint64_t *addr, uint32_t *data)
{
    if (!pci_msix_on(d) || n >= d->nr_msix || msix_masked(d, n) || !pci_is_master(d))
        return false;
    *addr = d->msix_table[n][MSIX_ADDR_LOW] | (uint64_t)d->msix_table[n][MSIX_ADDR_HIGH] << 32;
    *data = d->msix_table[n][MSIX_DATA];
    return true;
}

void pci_msix_written(struct pci_dev *d)
{
    if (d->ops && d->ops->moved)
        d->ops->moved(d);
    if (!pci_msix_on(d))
        return;
    for (unsigned n = 0; n < d->nr_msix; n++) {
        if (!(d->msix_pending & BIT64(n)) || msix_masked(d, n))
            continue;
        d->msix_pending &= ~BIT64(n);
        pci_msix_send(d, n);
    }
}

static struct pci_dev *of_msix(struct device *dev)
{
    return container_of(dev, struct pci_dev, msix_dev);
}

/* Dwords; the bus splits 64-bit accesses. Narrower ones are not allowed ("MSI-X Table"): reads give
 * the bytes anyway. */
static uint64_t msix_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    const struct pci_dev *d = of_msix(dev);
    uint32_t val = 0;

    (void)bytes;
    if (off_bytes < d->nr_msix * MSIX_ENTRY_BYTES)
        val = d->msix_table[off_bytes / MSIX_ENTRY_BYTES][off_bytes / 4 % 4];
    else if (off_bytes >= MSIX_PBA_OFF && off_bytes < MSIX_PBA_OFF + 8)
        val = (uint32_t)(d->msix_pending >> (off_bytes & 4 ? 32 : 0));
    return val >> (8 * (off_bytes & 3));
}

static void msix_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct pci_dev *d = of_msix(dev);
    unsigned field = off_bytes / 4 % 4;

    if (bytes != 4 || off_bytes >= d->nr_msix * MSIX_ENTRY_BYTES)
        return; /* pending bits are read-only */
    if (field == MSIX_VECTOR_CONTROL)
        val &= MSIX_VECTOR_MASKED;
    else if (field == MSIX_ADDR_LOW)
        val &= ~3ull;
    d->msix_table[off_bytes / MSIX_ENTRY_BYTES][field] = (uint32_t)val;
    pci_msix_written(d);
}

static const struct device_type msix_type = {
    .name = "msi-x table",
    .mmio_read = msix_mmio_read,
    .mmio_write = msix_mmio_write,
    .mmio_max_bytes = 4,
};

void pci_add_msix(struct pci_dev *d, unsigned bar_idx, unsigned nr)
{
    unsigned at;

    BUG_ON(!nr || nr > PCI_MSIX_MAX || d->msix_at);
    d->msix_dev = (struct device){ .type = &msix_type, .bus = d->dev.bus };
    d->nr_msix = nr;
    at = pci_add_cap(d, PCI_CAP_MSIX, MSIX_BYTES);
    d->msix_at = at;
    pci_set(d, at + MSIX_CONTROL, 2, nr - 1);
    pci_set(d, at + MSIX_TABLE, 4, bar_idx);
    pci_set(d, at + MSIX_PBA, 4, (uint32_t)MSIX_PBA_OFF | bar_idx);
    for (unsigned i = MSIX_CONTROL; i < MSIX_BYTES; i++)
        d->fixed[at + i] = d->config[at + i];
    d->wmask[at + MSIX_CONTROL + 1] = (MSIX_ENABLE | MSIX_MASK_ALL) >> 8;
    pci_add_bar(
        d, bar_idx,
        &(struct pci_bar){ .kind = PCI_BAR_MEM32, .bytes = MSIX_BAR_BYTES, .dev = &d->msix_dev });
    pci_msi_reset(d);
}

/* The capabilities themselves are configuration space: pci_dev_reset() does those. */
void pci_msi_reset(struct pci_dev *d)
{
    d->msix_pending = 0;
    for (unsigned n = 0; n < d->nr_msix; n++) {
        for (unsigned i = 0; i < 4; i++)
            d->msix_table[n][i] = 0;
        d->msix_table[n][MSIX_VECTOR_CONTROL] = MSIX_VECTOR_MASKED;
    }
}
