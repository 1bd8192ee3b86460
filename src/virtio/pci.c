/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over PCI, without the legacy interface: one memory BAR with four structures, which vendor
 * capabilities point to, and MSI-X or INTx.
 *
 * Manual: Virtual I/O Device 1.2, "Virtio Over PCI Bus".
 */
#include "virtio/pci_impl.h"

#include <string.h>

#define PCI_VENDOR_VIRTIO 0x1af4u
#define PCI_DEVICE_VIRTIO 0x1040u /* plus the device ID: "PCI Device Discovery" */

#define BAR_MSIX   1u
#define BAR_BYTES  0x4000u
#define AT_COMMON  0x0000u
#define AT_ISR     0x1000u
#define AT_DEVICE  0x2000u
#define PART_BYTES 0x1000u

/* "Virtio Structure PCI Capabilities" */
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };
#define CAP_LEN        2u
#define CAP_TYPE       3u
#define CAP_BAR        4u
#define CAP_OFFSET     8u
#define CAP_LENGTH     12u
#define CAP_BYTES      16u
#define CAP_MULTIPLIER 16u /* of CAP_NOTIFY */
#define CAP_DATA       16u /* of CAP_PCI_CFG */

/* "Common configuration structure layout" */
enum {
    COMMON_OFFERED_SEL = 0x00,
    COMMON_OFFERED = 0x04,
    COMMON_ACCEPTED_SEL = 0x08,
    COMMON_ACCEPTED = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10, /* 16 bits; then num_queues */
    COMMON_STATUS = 0x14,        /* 8 bits; then the generation; then queue_select */
    COMMON_QUEUE_SEL = 0x16,
    COMMON_QUEUE_SIZE = 0x18, /* 16 bits each from here on */
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20, /* 64 bits each */
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
    COMMON_NOTIFY_DATA = 0x38, /* 16 bits each */
    COMMON_QUEUE_RESET = 0x3a,
    COMMON_BYTES = 0x3c,
};
#define NO_VECTOR 0xffffu

/* "ISR status capability" */
#define ISR_QUEUE  BIT(0)
#define ISR_CONFIG BIT(1)

static struct virtio_pci *of_dev(struct device *dev)
{
    return container_of(dev, struct virtio_pci, pci.dev);
}

/* ---- interrupts ---- */

static void vpci_interrupt(struct virtio_pci *p, uint8_t isr, uint16_t vector)
{
    if (pci_msix_on(&p->pci)) {
        if (vector != NO_VECTOR)
            pci_msix_send(&p->pci, vector);
        return;
    }
    p->isr |= isr;
    pci_intx(&p->pci, 1);
}

static void vpci_queue_interrupt(void *arg, unsigned queue_idx)
{
    struct virtio_pci *p = arg;

    vpci_interrupt(p, ISR_QUEUE, p->queue_vectors[queue_idx]);
}

static void vpci_config_interrupt(void *arg)
{
    struct virtio_pci *p = arg;

    vpci_interrupt(p, ISR_CONFIG, p->config_vector);
}

static const struct virtio_transport_ops vpci_ops = {
    .queue_interrupt = vpci_queue_interrupt,
    .config_interrupt = vpci_config_interrupt,
    .queue_signal = vpci_queue_signal,
    .fds_changed = vpci_fds_changed,
};

static uint8_t vpci_read_isr(struct virtio_pci *p)
{
    uint8_t isr = p->isr;

    p->isr = 0;
    pci_intx(&p->pci, 0);
    return isr;
}

/* A vector that there is not reads back as none: how the driver learns of it. */
static uint16_t vpci_vector(const struct virtio_pci *p, uint64_t val)
{
    return val < p->pci.nr_msix ? (uint16_t)val : NO_VECTOR;
}

/* ---- the common structure ---- */

static uint32_t two_halves(uint32_t low, uint32_t high)
{
    return (low & 0xffff) | high << 16;
}

/* The aligned 32 bits at `reg`. */
static uint32_t common_read(struct virtio_pci *p, uint32_t reg)
{
    struct virtio *vd = p->vd;
    struct virtq *q = virtio_queue(vd, p->queue_sel);

    switch (reg) {
    case COMMON_OFFERED_SEL:
        return p->offered_sel;
    case COMMON_OFFERED:
        return virtio_offered(vd, p->offered_sel);
    case COMMON_ACCEPTED_SEL:
        return p->accepted_sel;
    case COMMON_ACCEPTED:
        return virtio_accepted(vd, p->accepted_sel);
    case COMMON_CONFIG_VECTOR:
        return two_halves(p->config_vector, vd->nr_queues);
    case COMMON_STATUS:
        return two_halves(vd->status | vd->config_generation << 8, p->queue_sel);
    case COMMON_QUEUE_SIZE:
        return q ? two_halves(q->size, p->queue_vectors[q->idx]) : two_halves(0, NO_VECTOR);
    case COMMON_QUEUE_ENABLE:
        return q ? two_halves(!virtq_resetting(q) && q->enabled, q->idx) : 0;
    case COMMON_QUEUE_DESC:
    case COMMON_QUEUE_DESC + 4:
        return q ? virtq_address(q, VIRTQ_DESC, (reg & 4) != 0) : 0;
    case COMMON_QUEUE_DRIVER:
    case COMMON_QUEUE_DRIVER + 4:
        return q ? virtq_address(q, VIRTQ_DRIVER, (reg & 4) != 0) : 0;
    case COMMON_QUEUE_DEVICE:
    case COMMON_QUEUE_DEVICE + 4:
        return q ? virtq_address(q, VIRTQ_DEVICE, (reg & 4) != 0) : 0;
    case COMMON_NOTIFY_DATA: /* of a feature that is not offered; then queue_reset */
        return q ? two_halves(0, virtq_resetting(q)) : 0;
    default:
        return 0;
    }
}

static void common_write_queue(struct virtio_pci *p, uint32_t reg, uint32_t val)
{
    struct virtq *q = virtio_queue(p->vd, p->queue_sel);

    if (!q)
        return;
    switch (reg) {
    case COMMON_QUEUE_SIZE:
        virtq_set_size(q, val);
        break;
    case COMMON_QUEUE_VECTOR:
        p->queue_vectors[q->idx] = vpci_vector(p, val);
        vpci_fds_sync(p);
        break;
    case COMMON_QUEUE_ENABLE:
        /* "The driver MUST NOT write a 0 to queue_enable." */
        if (val == 1)
            virtq_enable(q);
        vpci_fds_sync(p);
        break;
    case COMMON_QUEUE_DESC:
    case COMMON_QUEUE_DESC + 4:
        virtq_set_address(q, VIRTQ_DESC, (reg & 4) != 0, val);
        break;
    case COMMON_QUEUE_DRIVER:
    case COMMON_QUEUE_DRIVER + 4:
        virtq_set_address(q, VIRTQ_DRIVER, (reg & 4) != 0, val);
        break;
    case COMMON_QUEUE_DEVICE:
    case COMMON_QUEUE_DEVICE + 4:
        virtq_set_address(q, VIRTQ_DEVICE, (reg & 4) != 0, val);
        break;
    case COMMON_QUEUE_RESET:
        if (val == 1)
            virtq_reset(q);
        vpci_fds_sync(p);
        break;
    default:
        break; /* read-only, or there is none */
    }
}

/* How wide a field is, and so the only way to write it ("PCI Device Layout", driver requirements;
 * 64-bit fields as halves). */
static unsigned common_width(uint32_t reg)
{
    if (reg < COMMON_CONFIG_VECTOR || (reg >= COMMON_QUEUE_DESC && reg < COMMON_NOTIFY_DATA))
        return 4;
    return reg == COMMON_STATUS || reg == COMMON_STATUS + 1 ? 1 : 2;
}

static void vpci_forget(struct virtio_pci *p);

static void common_write(struct virtio_pci *p, uint32_t reg, unsigned bytes, uint32_t val)
{
    if (bytes != common_width(reg))
        return;
    switch (reg) {
    case COMMON_OFFERED_SEL:
        p->offered_sel = val;
        break;
    case COMMON_ACCEPTED_SEL:
        p->accepted_sel = val;
        break;
    case COMMON_ACCEPTED:
        virtio_accept(p->vd, p->accepted_sel, val);
        break;
    case COMMON_CONFIG_VECTOR:
        p->config_vector = vpci_vector(p, val);
        break;
    case COMMON_STATUS:
        virtio_set_status(p->vd, (uint8_t)val);
        if (!val)
            vpci_forget(p);
        vpci_fds_sync(p);
        break;
    case COMMON_QUEUE_SEL:
        p->queue_sel = (uint16_t)val;
        break;
    default:
        common_write_queue(p, reg, val);
        break;
    }
}

/* ---- the BAR ---- */

static uint64_t vpci_mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    struct virtio_pci *p = of_dev(dev);
    uint32_t part = (uint32_t)off_bytes & ~(PART_BYTES - 1);
    uint32_t off = (uint32_t)off_bytes & (PART_BYTES - 1), val = 0;

    switch (part) {
    case AT_COMMON:
        return common_read(p, off & ~3u) >> (8 * (off & 3));
    case AT_ISR:
        return off ? 0 : vpci_read_isr(p);
    case AT_DEVICE:
        virtio_config_read(p->vd, off, &val, bytes);
        return val;
    default:
        return 0; /* notifications are written */
    }
}

static void vpci_mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct virtio_pci *p = of_dev(dev);
    uint32_t part = (uint32_t)off_bytes & ~(PART_BYTES - 1);
    uint32_t off = (uint32_t)off_bytes & (PART_BYTES - 1);

    if (part == AT_COMMON)
        common_write(p, off, bytes, (uint32_t)val);
    else if (part == AT_DEVICE)
        virtio_config_write(p->vd, off, &val, bytes);
    else if (part == VPCI_AT_NOTIFY)
        virtio_notify(p->vd, off / VPCI_NOTIFY_BYTES); /* what is written says the same */
}

/* ---- configuration space ---- */

/*
 * "PCI configuration access capability": a window into the BAR for firmware that cannot map it.
 * True: the guest's access [off, off + bytes) is to its data, and the window is well set.
 */
static bool vpci_window(struct virtio_pci *p, unsigned off, unsigned bytes, uint32_t *at,
                        uint32_t *width)
{
    const struct pci_dev *d = &p->pci;
    unsigned data = p->cfg_cap_at + CAP_DATA;

    if (off + bytes <= data || off >= data + 4)
        return false;
    *at = pci_get32(d, p->cfg_cap_at + CAP_OFFSET);
    *width = pci_get32(d, p->cfg_cap_at + CAP_LENGTH);
    return d->config[p->cfg_cap_at + CAP_BAR] == VPCI_BAR_REGS &&
           (*width == 1 || *width == 2 || *width == 4) && *at % *width == 0 && *at < BAR_BYTES;
}

static void vpci_config_reading(struct pci_dev *d, unsigned off, unsigned bytes)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    uint32_t at, width;

    if (vpci_window(p, off, bytes, &at, &width))
        pci_set(d, p->cfg_cap_at + CAP_DATA, width, (uint32_t)vpci_mmio_read(&d->dev, at, width));
}

static void vpci_config_written(struct pci_dev *d, unsigned off, unsigned bytes)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);
    uint32_t at, width;

    virtio_set_dma(p->vd, pci_is_master(d));
    vpci_fds_sync(p);
    if (vpci_window(p, off, bytes, &at, &width))
        vpci_mmio_write(&d->dev, at, width,
                        low_bytes(pci_get32(d, p->cfg_cap_at + CAP_DATA), width));
}

static void vpci_moved(struct pci_dev *d)
{
    struct virtio_pci *p = container_of(d, struct virtio_pci, pci);

    if (p->vd)
        vpci_fds_sync(p);
}

static const struct pci_ops vpci_pci_ops = {
    .moved = vpci_moved,
    .config_written = vpci_config_written,
    .config_reading = vpci_config_reading,
};

/* ---- life ---- */

/* What a reset of the virtio device takes from the transport. */
static void vpci_forget(struct virtio_pci *p)
{
    vpci_fds_close(p);
    p->config_vector = NO_VECTOR;
    for (unsigned i = 0; i < ARRAY_SIZE(p->queue_vectors); i++)
        p->queue_vectors[i] = NO_VECTOR;
    p->isr = 0;
    p->offered_sel = p->accepted_sel = p->queue_sel = 0;
    pci_intx(&p->pci, 0);
}

static void vpci_reset(struct device *dev)
{
    struct virtio_pci *p = of_dev(dev);

    virtio_reset(p->vd);
    vpci_forget(p);
    pci_dev_reset(&p->pci);
    virtio_set_dma(p->vd, false);
}

/* ---- snapshots ---- */

static const struct state_field vpci_state[] = {
    PCI_DEV_FIELDS(struct virtio_pci, pci, 1),
    FIELD(struct virtio_pci, offered_sel, U32, 1),
    FIELD(struct virtio_pci, accepted_sel, U32, 1),
    FIELD(struct virtio_pci, queue_sel, U16, 1),
    FIELD(struct virtio_pci, isr, U8, 1),
    FIELD(struct virtio_pci, config_vector, U16, 1),
    FIELD(struct virtio_pci, queue_vectors, U16, 1),
};

static bool vpci_part(struct device *dev, unsigned idx, struct state_part *out)
{
    return virtio_state_part(of_dev(dev)->vd, idx, out);
}

static int vpci_check(struct device *dev)
{
    return virtio_state_check(of_dev(dev)->vd);
}

static void vpci_loaded(struct device *dev)
{
    struct virtio_pci *p = of_dev(dev);

    p->config_vector = vpci_vector(p, p->config_vector);
    for (unsigned i = 0; i < ARRAY_SIZE(p->queue_vectors); i++)
        p->queue_vectors[i] = vpci_vector(p, p->queue_vectors[i]);
    pci_dev_loaded(&p->pci);
    virtio_set_dma(p->vd, pci_is_master(&p->pci));
    virtio_state_loaded(p->vd);
}

static const struct device_type vpci_type = {
    .name = "virtio-pci",
    .mmio_read = vpci_mmio_read,
    .mmio_write = vpci_mmio_write,
    .mmio_max_bytes = 4,
    .reset = vpci_reset,
    .part = vpci_part,
    .check = vpci_check,
    .loaded = vpci_loaded,
    .state = vpci_state,
    .nr_state = ARRAY_SIZE(vpci_state),
    .version = 1,
};

static unsigned vpci_add_cap(struct virtio_pci *p, unsigned type, unsigned at, unsigned more_bytes)
{
    struct pci_dev *d = &p->pci;
    unsigned cap = pci_add_cap(d, PCI_CAP_VENDOR, CAP_BYTES + more_bytes);
    uint32_t length = type == CAP_PCI_CFG ? 0 : type == CAP_COMMON ? COMMON_BYTES : PART_BYTES;

    pci_set(d, cap + CAP_LEN, 1, CAP_BYTES + more_bytes);
    pci_set(d, cap + CAP_TYPE, 1, type);
    pci_set(d, cap + CAP_BAR, 1, VPCI_BAR_REGS);
    pci_set(d, cap + CAP_OFFSET, 4, at);
    pci_set(d, cap + CAP_LENGTH, 4, length);
    if (type == CAP_NOTIFY)
        pci_set(d, cap + CAP_MULTIPLIER, 4, VPCI_NOTIFY_BYTES);
    memcpy(d->fixed + cap, d->config + cap, CAP_BYTES + more_bytes);
    return cap;
}

static void vpci_build(struct virtio_pci *p)
{
    struct pci_dev *d = &p->pci;
    unsigned cap;

    pci_add_bar(d, VPCI_BAR_REGS, &(struct pci_bar){ .kind = PCI_BAR_MEM32, .bytes = BAR_BYTES });
    pci_add_msix(d, BAR_MSIX, MIN(p->vd->nr_queues + 1, PCI_MSIX_MAX));
    cap = p->cfg_cap_at = vpci_add_cap(p, CAP_PCI_CFG, 0, 4);
    d->wmask[cap + CAP_BAR] = 0xff;
    memset(d->wmask + cap + CAP_OFFSET, 0xff, 4);
    memset(d->wmask + cap + CAP_LENGTH, 0xff, 4);
    memset(d->wmask + cap + CAP_DATA, 0xff, 4);
    (void)vpci_add_cap(p, CAP_DEVICE, AT_DEVICE, 0);
    (void)vpci_add_cap(p, CAP_ISR, AT_ISR, 0);
    (void)vpci_add_cap(p, CAP_NOTIFY, VPCI_AT_NOTIFY, 4);
    (void)vpci_add_cap(p, CAP_COMMON, AT_COMMON, 0);
}

int virtio_pci_init(struct virtio_pci *p, struct pci_host *host, uint8_t devfn, struct virtio *vd)
{
    uint16_t id = (uint16_t)(PCI_DEVICE_VIRTIO + vd->type->id);
    int err;

    *p = (struct virtio_pci){ 0 };
    err = pci_dev_init(&p->pci, host,
                       &(struct pci_dev_desc){ .type = &vpci_type,
                                               .state_base = p,
                                               .ops = &vpci_pci_ops,
                                               .devfn = devfn,
                                               .vendor = PCI_VENDOR_VIRTIO,
                                               .device = id,
                                               .subsys_vendor = PCI_VENDOR_VIRTIO,
                                               .subsys = id,
                                               .class_code = vd->type->pci_class,
                                               .revision = 1, /* "PCI Device Discovery" */
                                               .int_pin = 1 });
    if (err)
        return err;
    p->vd = vd;
    vpci_build(p);
    vpci_forget(p);
    virtio_set_dma(vd, false);
    virtio_attach(vd, &vpci_ops, p);
    return 0;
}

void virtio_pci_fini(struct virtio_pci *p)
{
    if (!p->vd)
        return;
    lock_take(bus_lock(p->pci.dev.bus));
    virtio_reset(p->vd);
    vpci_fds_close(p);
    pci_dev_fini(&p->pci);
    lock_drop(bus_lock(p->pci.dev.bus));
    p->vd = NULL;
}
