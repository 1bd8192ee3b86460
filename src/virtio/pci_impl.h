/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the PCI transport have between them. */
#ifndef VIRTIO_PCI_IMPL_H
#define VIRTIO_PCI_IMPL_H

#include "virtio/pci.h"

#define VPCI_BAR_REGS     0u
#define VPCI_AT_NOTIFY    0x3000u
#define VPCI_NOTIFY_BYTES 4u /* notify_off_multiplier: each queue has a word of its own */

/* ---- pci_fds.c: machine lock held, but for the first ---- */
bool vpci_queue_signal(void *arg, unsigned queue_idx); /* see virtio_transport_ops */
void vpci_fds_changed(void *arg);
/* Something that descriptors depend on may be another. */
void vpci_fds_sync(struct virtio_pci *p);
/* The device was reset. */
void vpci_fds_close(struct virtio_pci *p);

#endif
