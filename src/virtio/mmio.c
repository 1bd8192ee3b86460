/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtio over MMIO: a page of registers and a level-triggered interrupt for each device. Nothing
 * finds it by itself: boot/ tells of it in the DSDT and on the kernel's command line.
 *
 * Manual: Virtual I/O Device 1.2, "Virtio Over MMIO".
 */
#include "virtio/mmio.h"

#include <string.h>

#define MAGIC   0x74726976u /* "virt" */
#define VERSION 2u
#define VENDOR  0x6c706f64u /* "dopl" */

/* "MMIO Device Register Layout" */
enum {
    REG_MAGIC = 0x00,
    REG_VERSION = 0x04,
    REG_DEVICE_ID = 0x08,
    REG_VENDOR_ID = 0x0c,
    REG_OFFERED = 0x10,
    REG_OFFERED_SEL = 0x14,
    REG_ACCEPTED = 0x20,
    REG_ACCEPTED_SEL = 0x24,
    REG_QUEUE_SEL = 0x30,
    REG_QUEUE_SIZE_MAX = 0x34,
    REG_QUEUE_SIZE = 0x38,
    REG_QUEUE_READY = 0x44,
    REG_QUEUE_NOTIFY = 0x50,
    REG_INTERRUPT_STATUS = 0x60,
    REG_INTERRUPT_ACK = 0x64,
    REG_STATUS = 0x70,
    REG_QUEUE_DESC = 0x80, /* low, high */
    REG_QUEUE_DRIVER = 0x90,
    REG_QUEUE_DEVICE = 0xa0,
    REG_SHM_LEN = 0xb0, /* low, high */
    REG_SHM_BASE = 0xb8,
    REG_QUEUE_RESET = 0xc0,
    REG_GENERATION = 0xfc,
    REG_CONFIG = 0x100,
};

#define INTERRUPT_QUEUE  BIT(0)
#define INTERRUPT_CONFIG BIT(1)

static struct virtio_mmio *of_dev(struct device *dev)
{
    return container_of(dev, struct virtio_mmio, dev);
}

static void mmio_interrupt(struct virtio_mmio *m, uint32_t status)
{
    m->interrupt_status = status;
    irq_user_set(&m->irq, status != 0);
}

static void mmio_queue_interrupt(void *arg, unsigned queue_idx)
{
    struct virtio_mmio *m = arg;

    (void)queue_idx;
    mmio_interrupt(m, m->interrupt_status | INTERRUPT_QUEUE);
}

static void mmio_config_interrupt(void *arg)
{
    struct virtio_mmio *m = arg;

    mmio_interrupt(m, m->interrupt_status | INTERRUPT_CONFIG);
}

/* QueueNotify takes the queue's number. */
static void mmio_fds_changed(void *arg)
{
    struct virtio_mmio *m = arg;

    for (unsigned i = 0; i < m->vd->nr_queues; i++)
        virtio_notify_fds_set(
            &m->notify_fds, m->vd, i,
            &(struct bus_notify){
                .at = gpa_add(m->at, REG_QUEUE_NOTIFY), .bytes = 4, .matched = true, .val = i });
}

static const struct virtio_transport_ops mmio_ops = {
    .fds_changed = mmio_fds_changed,
    .queue_interrupt = mmio_queue_interrupt,
    .config_interrupt = mmio_config_interrupt,
};

static uint32_t mmio_read_reg(struct virtio_mmio *m, uint32_t reg)
{
    struct virtio *vd = m->vd;
    struct virtq *q = virtio_queue(vd, m->queue_sel);

    switch (reg) {
    case REG_MAGIC:
        return MAGIC;
    case REG_VERSION:
        return VERSION;
    case REG_DEVICE_ID:
        return vd->type->id;
    case REG_VENDOR_ID:
        return VENDOR;
    case REG_OFFERED:
        return virtio_offered(vd, m->offered_sel);
    case REG_QUEUE_SIZE_MAX:
        return q ? q->max_size : 0;
    case REG_QUEUE_READY:
        return q && !virtq_resetting(q) && virtq_ready(q);
    case REG_QUEUE_RESET:
        return q && virtq_resetting(q);
    case REG_INTERRUPT_STATUS:
        return m->interrupt_status;
    case REG_STATUS:
        return vd->status;
    case REG_SHM_LEN:
    case REG_SHM_LEN + 4:
    case REG_SHM_BASE:
    case REG_SHM_BASE + 4:
        return UINT32_MAX; /* there is no shared memory region */
    case REG_GENERATION:
        return vd->config_generation;
    default:
        return 0;
    }
}

static void mmio_write_queue(struct virtio_mmio *m, uint32_t reg, uint32_t val)
{
    struct virtq *q = virtio_queue(m->vd, m->queue_sel);

    if (!q)
        return;
    switch (reg) {
    case REG_QUEUE_SIZE:
        virtq_set_size(q, val);
        break;
    case REG_QUEUE_READY:
        if (val & 1)
            virtq_enable(q);
        else
            virtq_disable(q);
        mmio_fds_changed(m);
        break;
    case REG_QUEUE_RESET:
        if (val == 1)
            virtq_reset(q);
        break;
    case REG_QUEUE_DESC:
    case REG_QUEUE_DESC + 4:
        virtq_set_address(q, VIRTQ_DESC, (reg & 4) != 0, val);
        break;
    case REG_QUEUE_DRIVER:
    case REG_QUEUE_DRIVER + 4:
        virtq_set_address(q, VIRTQ_DRIVER, (reg & 4) != 0, val);
        break;
    case REG_QUEUE_DEVICE:
    case REG_QUEUE_DEVICE + 4:
        virtq_set_address(q, VIRTQ_DEVICE, (reg & 4) != 0, val);
        break;
    default:
        break; /* read-only, or there is none */
    }
}

static void mmio_write_reg(struct virtio_mmio *m, uint32_t reg, uint32_t val)
{
    switch (reg) {
    case REG_OFFERED_SEL:
        m->offered_sel = val;
        break;
    case REG_ACCEPTED:
        virtio_accept(m->vd, m->accepted_sel, val);
        break;
    case REG_ACCEPTED_SEL:
        m->accepted_sel = val;
        break;
    case REG_QUEUE_SEL:
        m->queue_sel = val;
        break;
    case REG_QUEUE_NOTIFY:
        virtio_notify(m->vd, val);
        break;
    case REG_INTERRUPT_ACK:
        mmio_interrupt(m, m->interrupt_status & ~val);
        break;
    case REG_STATUS:
        virtio_set_status(m->vd, (uint8_t)val);
        if (!(uint8_t)val)
            mmio_interrupt(m, 0);
        mmio_fds_changed(m);
        break;
    default:
        mmio_write_queue(m, reg, val);
        break;
    }
}

/* "Driver Requirements: MMIO Device Register Layout": registers are read and written as aligned 32
 * bits, the configuration space as its fields are. */
static uint64_t mmio_read(struct device *dev, uint64_t off_bytes, unsigned bytes)
{
    struct virtio_mmio *m = of_dev(dev);
    uint32_t val = 0;

    if (off_bytes >= REG_CONFIG)
        virtio_config_read(m->vd, off_bytes - REG_CONFIG, &val, bytes);
    else if (bytes == 4)
        val = mmio_read_reg(m, (uint32_t)off_bytes);
    return val;
}

static void mmio_write(struct device *dev, uint64_t off_bytes, unsigned bytes, uint64_t val)
{
    struct virtio_mmio *m = of_dev(dev);

    if (off_bytes >= REG_CONFIG)
        virtio_config_write(m->vd, off_bytes - REG_CONFIG, &val, bytes);
    else if (bytes == 4)
        mmio_write_reg(m, (uint32_t)off_bytes, (uint32_t)val);
}

static void mmio_reset(struct device *dev)
{
    struct virtio_mmio *m = of_dev(dev);

    virtio_reset(m->vd);
    m->offered_sel = m->accepted_sel = m->queue_sel = 0;
    mmio_interrupt(m, 0);
    mmio_fds_changed(m);
}

/* ---- snapshots ---- */

static const struct state_field mmio_state[] = {
    FIELD(struct virtio_mmio, offered_sel, U32, 1),
    FIELD(struct virtio_mmio, accepted_sel, U32, 1),
    FIELD(struct virtio_mmio, queue_sel, U32, 1),
    FIELD(struct virtio_mmio, interrupt_status, U32, 1),
};

static bool mmio_part(struct device *dev, unsigned idx, struct state_part *out)
{
    return virtio_state_part(of_dev(dev)->vd, idx, out);
}

static int mmio_check(struct device *dev)
{
    return virtio_state_check(of_dev(dev)->vd);
}

static void mmio_loaded(struct device *dev)
{
    struct virtio_mmio *m = of_dev(dev);

    mmio_interrupt(m, m->interrupt_status & (INTERRUPT_QUEUE | INTERRUPT_CONFIG));
    virtio_state_loaded(m->vd);
}

static const struct device_type mmio_type = {
    .name = "virtio-mmio",
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .mmio_max_bytes = 4,
    .reset = mmio_reset,
    .part = mmio_part,
    .check = mmio_check,
    .loaded = mmio_loaded,
    .state = mmio_state,
    .nr_state = ARRAY_SIZE(mmio_state),
    .version = 1,
};

int virtio_mmio_init(struct virtio_mmio *m, const struct virtio_mmio_config *cfg)
{
    int err;

    *m = (struct virtio_mmio){ .dev = { .type = &mmio_type, .bus = cfg->vd->bus, .state_base = m },
                               .vd = cfg->vd,
                               .at = cfg->at,
                               .irq = { .line = cfg->irq } };
    err = bus_claim_mmio(m->dev.bus, m->at, VIRTIO_MMIO_BYTES, &m->dev, 0);
    if (err) {
        *m = (struct virtio_mmio){ 0 };
        return err;
    }
    virtio_attach(m->vd, &mmio_ops, m);
    bus_add(m->dev.bus, &m->dev);
    return 0;
}

void virtio_mmio_fini(struct virtio_mmio *m)
{
    if (!m->vd)
        return;
    lock_take(bus_lock(m->dev.bus));
    mmio_reset(&m->dev);
    lock_drop(bus_lock(m->dev.bus));
    bus_release_mmio(m->dev.bus, m->at, &m->dev);
    m->vd = NULL;
}
