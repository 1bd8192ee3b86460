/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCI: the host bridge with its configuration mechanisms (pci.c), what all functions have in common
 * (pci_dev.c), and message-signalled interrupts (pci_msi.c). One segment, one bus, conventional
 * 256-byte configuration spaces.
 *
 * A PCI device embeds struct pci_dev. Its device_type's port and MMIO handlers get the accesses to
 * its BARs, with off_bytes = the BAR's off_bytes + offset in the BAR; its .reset calls
 * pci_dev_reset(), its .loaded pci_dev_loaded(), its state table begins with PCI_DEV_FIELDS. All
 * functions want the machine lock held, but for those that build.
 */
#ifndef DEV_PCI_H
#define DEV_PCI_H

#include "bus/bus.h"

/* Header type 0 (PCI Local Bus Specification 3.0, "Configuration Space Organization"). */
#define PCI_VENDOR_ID     0x00u
#define PCI_DEVICE_ID     0x02u
#define PCI_COMMAND       0x04u
#define PCI_STATUS        0x06u
#define PCI_REVISION      0x08u
#define PCI_CLASS         0x09u /* 24 bits */
#define PCI_CACHE_LINE    0x0cu
#define PCI_LATENCY       0x0du
#define PCI_HEADER_TYPE   0x0eu
#define PCI_BAR0          0x10u
#define PCI_SUBSYS_VENDOR 0x2cu
#define PCI_SUBSYS_ID     0x2eu
#define PCI_ROM           0x30u
#define PCI_CAP_PTR       0x34u
#define PCI_INT_LINE      0x3cu
#define PCI_INT_PIN       0x3du
#define PCI_CAPS_AT       0x40u

#define PCI_COMMAND_IO       BIT(0)
#define PCI_COMMAND_MEM      BIT(1)
#define PCI_COMMAND_MASTER   BIT(2)
#define PCI_COMMAND_PARITY   BIT(6)
#define PCI_COMMAND_SERR     BIT(8)
#define PCI_COMMAND_INTX_OFF BIT(10)
#define PCI_STATUS_INTX      BIT(3)
#define PCI_STATUS_CAPS      BIT(4)

#define PCI_CAP_MSI    0x05u
#define PCI_CAP_VENDOR 0x09u
#define PCI_CAP_MSIX   0x11u

#define PCI_CONFIG_BYTES 256u
#define PCI_NR_BARS      6u
#define PCI_ROM_BAR      PCI_NR_BARS /* its place in pci_dev.bars[] */
#define PCI_NR_DEVFNS    256u
#define PCI_MSI_MAX      32u
#define PCI_MSIX_MAX     64u

#define PCI_DEVFN(dev, fn) ((uint8_t)((dev) << 3 | (fn)))

struct pci_dev;

/* ---- the host bridge
 * --------------------------------------------------------------------------------------------- */

struct pci_host_config {
    struct bus *bus;
    gpa_t ecam_at; /* at first; 1 MB a bus */
    uint64_t ecam_bytes;
    unsigned
        intx_gsi; /* GSI of INTA of device 0; pins swizzle over four GSIs: see pci_intx_gsi() */
};

struct pci_host {
    struct device dev;
    struct pci_host_config cfg;
    uint32_t address; /* CF8h */
    gpa_t ecam_at;
    bool ecam_on;
    struct pci_dev *functions[PCI_NR_DEVFNS];
    struct irq_shared intx[4];
};

int pci_host_init(struct pci_host *h, const struct pci_host_config *cfg) MUST_CHECK;
void pci_host_fini(struct pci_host *h);
/* Moves the memory-mapped configuration space, or switches it off. Where another device is it stays
 * off. */
void pci_host_set_ecam(struct pci_host *h, gpa_t at, bool on);
/* Where a function's pin (1..4: INTA..INTD) arrives. For who writes _PRT: GSI = intx_gsi + (device
 * + pin - 1) % 4. */
unsigned pci_intx_gsi(const struct pci_host *h, uint8_t devfn, unsigned pin);
/* As firmware would have told the functions that have a pin: irqs[] for GSI intx_gsi and the next
 * three. */
void pci_set_int_lines(struct pci_host *h, const uint8_t irqs[4]);

/* ---- a function
 * --------------------------------------------------------------------------------------------------
 */

enum pci_bar_kind {
    PCI_BAR_NONE,
    PCI_BAR_IO,
    PCI_BAR_MEM32,
    PCI_BAR_MEM32_PREF, /* prefetchable */
    PCI_BAR_MEM64,      /* takes the next BAR register too */
    PCI_BAR_MEM64_PREF, /* the same, prefetchable */
    PCI_BAR_ROM,        /* at PCI_ROM: decoded only while its lowest bit is set too */
};

struct pci_bar {
    enum pci_bar_kind kind;
    uint64_t bytes;     /* a power of two, at least 4 (I/O) or 16 */
    uint64_t off_bytes; /* what the handlers see for its first byte */
    struct device *dev; /* whose handlers */
    bool mapped;
    uint64_t at; /* where, if mapped */
};

struct pci_ops {
    /* Optional. Behind the common part of a configuration write; [off, off + bytes) in the 256
     * bytes. */
    void (*config_written)(struct pci_dev *d, unsigned off, unsigned bytes);
    /* Optional. Before a configuration read, to bring d->config up to date. */
    void (*config_reading)(struct pci_dev *d, unsigned off, unsigned bytes);
    /* Optional. A BAR was mapped or unmapped, or MSI-X vectors were opened, masked or changed. */
    void (*moved)(struct pci_dev *d);
};

struct pci_dev_desc {
    const struct device_type *type;
    void *state_base;
    const struct pci_ops *ops; /* may be NULL */
    uint8_t devfn;
    uint16_t vendor, device, subsys_vendor, subsys;
    uint32_t class_code; /* class, subclass, interface: 24 bits */
    uint8_t revision;
    uint8_t int_pin; /* 0: none, 1..4: INTA..INTD */
    bool multifunction;
};

struct pci_dev {
    struct device dev;
    const struct pci_ops *ops;
    struct pci_host *host;
    uint8_t devfn;
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t fixed[PCI_CONFIG_BYTES];  /* as built; what reset returns to */
    uint8_t wmask[PCI_CONFIG_BYTES];  /* bits the guest can write */
    uint8_t w1c[PCI_CONFIG_BYTES];    /* bits it clears by writing ones */
    uint8_t hwmask[PCI_CONFIG_BYTES]; /* bits that change by themselves: part of the state, not the
                                         guest's */
    struct pci_bar bars[PCI_NR_BARS + 1];
    struct device rom_dev; /* answers for the ROM; not on the bus's list */
    const uint8_t *rom;
    uint32_t rom_bytes;
    unsigned caps_end;
    bool intx_level; /* what the device wants */
    struct irq_user intx;
    unsigned msi_at, msix_at; /* offsets of the capabilities; 0: has none */
    unsigned nr_msix;
    struct device
        msix_dev; /* answers for the MSI-X BAR; not on the bus's list: its state is here */
    uint32_t msix_table[PCI_MSIX_MAX][4];
    uint64_t msix_pending;
};

#define PCI_DEV_FIELDS(strct, m, since_)                                             \
    FIELD(strct, m.config, BYTES, since_), FIELD(strct, m.intx_level, BOOL, since_), \
        FIELD(strct, m.msix_table, U32, since_), FIELD(strct, m.msix_pending, U64, since_)

/* -EBUSY with a message if there is such a function. */
int pci_dev_init(struct pci_dev *d, struct pci_host *h, const struct pci_dev_desc *desc) MUST_CHECK;
void pci_dev_fini(struct pci_dev *d);
void pci_dev_reset(struct pci_dev *d);
void pci_dev_loaded(struct pci_dev *d);

/* Building: before the guest runs. */
void pci_add_bar(struct pci_dev *d, unsigned idx, const struct pci_bar *bar);
/* A register of the function's own: its value at reset, and the bits that the guest can write. */
void pci_define(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val, uint32_t wmask);
/* An expansion ROM. rom: at least bytes long, and there as long as the function. */
void pci_add_rom(struct pci_dev *d, const uint8_t *rom, uint32_t bytes);
/* Returns the capability's offset; its body behind the two header bytes is `bytes` - 2 long, zero
 * and read-only. */
unsigned pci_add_cap(struct pci_dev *d, uint8_t id, unsigned bytes);
/* nr: a power of two up to 32. 64-bit, with per-vector masking. */
void pci_add_msi(struct pci_dev *d, unsigned nr);
/* Table and pending bits get a 32-bit memory BAR of their own. nr: 1..PCI_MSIX_MAX. */
void pci_add_msix(struct pci_dev *d, unsigned bar_idx, unsigned nr);

static inline uint16_t pci_get16(const struct pci_dev *d, unsigned off)
{
    return (uint16_t)(d->config[off] | d->config[off + 1] << 8);
}

static inline uint32_t pci_get32(const struct pci_dev *d, unsigned off)
{
    return pci_get16(d, off) | (uint32_t)pci_get16(d, off + 2) << 16;
}

/* Sets bytes of the configuration space as the device itself, past all masks. */
void pci_set(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val);
/* As the guest does. off + bytes <= 256. */
uint32_t pci_config_read(struct pci_dev *d, unsigned off, unsigned bytes);
void pci_config_write(struct pci_dev *d, unsigned off, unsigned bytes, uint32_t val);

/* May the function reach memory now (Bus Master)? DMA by one that may not is to be dropped. */
static inline bool pci_is_master(const struct pci_dev *d)
{
    return pci_get16(d, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

/* ---- interrupts
 * --------------------------------------------------------------------------------------------------
 */

void pci_intx(struct pci_dev *d, int level);
bool pci_msi_on(const struct pci_dev *d);
bool pci_msix_on(const struct pci_dev *d);
/* Sends vector n, or marks it pending while it is masked. Does nothing when the mechanism is off.
 */
void pci_msi_send(struct pci_dev *d, unsigned n);
void pci_msix_send(struct pci_dev *d, unsigned n);
/* Vector n can be sent now, and is this message. */
bool pci_msix_open(const struct pci_dev *d, unsigned n, uint64_t *addr, uint32_t *data);

/* ---- between the files of PCI
 * ------------------------------------------------------------------------------------ */

/* Maps and unmaps BARs of all functions as their registers say. */
void pci_host_update_bars(struct pci_host *h);
void pci_update_intx(struct pci_dev *d);
void pci_msi_written(
    struct pci_dev *d); /* control or mask bits may have changed: send what waits */
void pci_msix_written(struct pci_dev *d);
void pci_msi_reset(struct pci_dev *d);

#endif
