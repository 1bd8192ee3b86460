/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio PCI transport, modern only: see pci.c. */
#ifndef VIRTIO_PCI_H
#define VIRTIO_PCI_H

#include "dev/pci.h"
#include "virtio/notify_fds.h"

struct virtio_pci {
    struct pci_dev pci;
    struct virtio *vd;
    uint32_t offered_sel, accepted_sel;
    uint16_t queue_sel;
    uint8_t isr;
    uint16_t config_vector;
    uint16_t queue_vectors[64];
    struct virtio_notify_fds notify_fds;
    /* A queue's message by a descriptor. Machine lock; `on` is changed under the device's lock,
     * too, and fd only while it is off. */
    struct vpci_irq {
        bool open, on;
        int fd;
        uint64_t addr;
        uint32_t data;
    } irqs[64];
    bool irqs_old;       /* all have to be looked at again */
    unsigned cfg_cap_at; /* VIRTIO_PCI_CAP_PCI_CFG in configuration space */
};

int virtio_pci_init(struct virtio_pci *p, struct pci_host *host, uint8_t devfn,
                    struct virtio *vd) MUST_CHECK;
/* Resets the device. A zeroed struct is fine, too. */
void virtio_pci_fini(struct virtio_pci *p);

#endif
