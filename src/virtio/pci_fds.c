/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The PCI transport's descriptors: notifications that wake the device's thread without an exit, and
 * MSI-X messages that it sends without the machine lock. Masked vectors have none, so that what
 * comes for them becomes pending where it always does (dev/pci_msi.c).
 */
#include "virtio/pci_impl.h"

/* Is fd p->irqs[queue_idx] to be used? Under the device's lock, so that nobody is writing to it
 * when this returns. */
static void vpci_irq_use(struct virtio_pci *p, unsigned queue_idx, bool on)
{
    virtio_lock(p->vd);
    p->irqs[queue_idx].on = on;
    virtio_unlock(p->vd);
}

static void vpci_irq_sync(struct virtio_pci *p, unsigned queue_idx)
{
    struct vpci_irq *q = &p->irqs[queue_idx];
    uint16_t vector = p->queue_vectors[queue_idx];
    uint64_t addr;
    uint32_t data;
    int fd;

    if (!(p->vd->status & VIRTIO_STATUS_DRIVER_OK) ||
        !pci_msix_open(&p->pci, vector, &addr, &data)) {
        vpci_irq_use(p, queue_idx, false);
        return;
    }
    if (q->on && q->addr == addr && q->data == data && !p->irqs_old)
        return;
    vpci_irq_use(p, queue_idx, false);
    fd = bus_msi_fd(p->pci.dev.bus, q->open ? q->fd : -1, addr, data);
    if (fd < 0)
        return;
    q->open = true;
    q->fd = fd;
    q->addr = addr;
    q->data = data;
    vpci_irq_use(p, queue_idx, true);
}

bool vpci_queue_signal(void *arg, unsigned queue_idx)
{
    struct virtio_pci *p = arg;
    const struct vpci_irq *q = &p->irqs[queue_idx];

    assert_held(&p->vd->lock);
    if (q->on)
        bus_msi_fd_signal(q->fd);
    return q->on;
}

void vpci_fds_sync(struct virtio_pci *p)
{
    const struct pci_bar *regs = &p->pci.bars[VPCI_BAR_REGS];

    for (unsigned i = 0; i < p->vd->nr_queues; i++) {
        struct bus_notify write = { .at = GPA(regs->at + VPCI_AT_NOTIFY + i * VPCI_NOTIFY_BYTES) };

        virtio_notify_fds_set(&p->notify_fds, p->vd, i, regs->mapped ? &write : NULL);
        vpci_irq_sync(p, i);
    }
}

void vpci_fds_changed(void *arg)
{
    struct virtio_pci *p = arg;

    p->irqs_old = true;
    vpci_fds_sync(p);
    p->irqs_old = false;
}

void vpci_fds_close(struct virtio_pci *p)
{
    for (unsigned i = 0; i < p->vd->nr_queues; i++) {
        virtio_notify_fds_set(&p->notify_fds, p->vd, i, NULL);
        vpci_irq_use(p, i, false);
        if (p->irqs[i].open)
            bus_msi_fd_close(p->pci.dev.bus, p->irqs[i].fd);
        p->irqs[i].open = false;
    }
}
