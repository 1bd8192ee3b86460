/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio-mmio transport, version 2: see mmio.c. */
#ifndef VIRTIO_MMIO_H
#define VIRTIO_MMIO_H

#include "virtio/notify_fds.h"

#define VIRTIO_MMIO_BYTES 0x1000u

struct virtio_mmio_config {
    struct virtio *vd;
    gpa_t at;
    struct irq_shared *irq; /* level-triggered, may be shared */
};

struct virtio_mmio {
    struct device dev;
    struct virtio *vd;
    gpa_t at;
    struct irq_user irq;
    uint32_t offered_sel, accepted_sel, queue_sel;
    uint32_t interrupt_status;
    struct virtio_notify_fds notify_fds;
};

int virtio_mmio_init(struct virtio_mmio *m, const struct virtio_mmio_config *cfg) MUST_CHECK;
/* Resets the device. A zeroed struct is fine, too. */
void virtio_mmio_fini(struct virtio_mmio *m);

#endif
