/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What virtio's transports (mmio.c, pci.c) and its core have between them. All with the machine
 * lock held, unless it says otherwise.
 */
#ifndef VIRTIO_TRANSPORT_H
#define VIRTIO_TRANSPORT_H

#include "virtio/virtio.h"

/* Virtual I/O Device 1.2, "Device Status Field" */
#define VIRTIO_STATUS_ACKNOWLEDGE 0x01u
#define VIRTIO_STATUS_DRIVER      0x02u
#define VIRTIO_STATUS_DRIVER_OK   0x04u
#define VIRTIO_STATUS_FEATURES_OK 0x08u
#define VIRTIO_STATUS_NEEDS_RESET 0x40u
#define VIRTIO_STATUS_FAILED      0x80u

struct virtio_transport_ops {
    /* Interrupts: buffers of this queue were used; the configuration changed. */
    void (*queue_interrupt)(void *arg, unsigned queue_idx);
    void (*config_interrupt)(void *arg);
    /* Optional; the device's lock held, the machine lock maybe: queue_interrupt() by a descriptor.
     * False: there is none for this queue now. */
    bool (*queue_signal)(void *arg, unsigned queue_idx);
    /* Optional: descriptors may have come, gone, or mean something else. */
    void (*fds_changed)(void *arg);
};

/* Before the guest runs; once. */
void virtio_attach(struct virtio *vd, const struct virtio_transport_ops *ops, void *arg);

/* As the driver reads and writes them. */
uint32_t virtio_offered(const struct virtio *vd, uint32_t sel);
uint32_t virtio_accepted(const struct virtio *vd, uint32_t sel);
void virtio_accept(struct virtio *vd, uint32_t sel, uint32_t bits);
void virtio_set_status(struct virtio *vd, uint8_t status);
void virtio_config_read(struct virtio *vd, uint64_t off_bytes, void *buf, uint32_t bytes);
void virtio_config_write(struct virtio *vd, uint64_t off_bytes, const void *buf, uint32_t bytes);

/* NULL: no such queue. */
struct virtq *virtio_queue(struct virtio *vd, uint32_t idx);
/* Its size and addresses stay as they are while a queue is enabled: the setters do nothing then. */
void virtq_set_size(struct virtq *q, uint32_t size);
enum virtq_area { VIRTQ_DESC, VIRTQ_DRIVER, VIRTQ_DEVICE };
/* Half 0: the low 32 bits of an address. */
void virtq_set_address(struct virtq *q, enum virtq_area area, unsigned half, uint32_t val);
uint32_t virtq_address(const struct virtq *q, enum virtq_area area, unsigned half);
void virtq_enable(struct virtq *q);
/* The driver takes it back (MMIO's QueueReady = 0): nothing more is popped or pushed. */
void virtq_disable(struct virtq *q);
/* "Virtqueue Reset", if that was agreed on: a queue as before it was made ready, when
 * virtq_resetting() is false again. */
void virtq_reset(struct virtq *q);
bool virtq_resetting(struct virtq *q);
/* False once it is disabled and none of its chains is out. */
bool virtq_ready(const struct virtq *q);
void virtio_notify(struct virtio *vd, uint32_t queue_idx);
/* The eventfd that does the same; -1: there is none now. */
int virtio_notify_fd(struct virtio *vd, uint32_t queue_idx);

/* May the device reach memory? */
void virtio_set_dma(struct virtio *vd, bool on);
/*
 * The machine stands still, or goes on: while it stands, queues are empty to the device, so no new
 * work begins and no frame comes in. Chains that are out are finished. Machine lock held.
 */
void virtio_set_paused(struct virtio *vd, bool on);
/* ---- state.c: for the transports' device_type.part, .check and .loaded ---- */
bool virtio_state_part(struct virtio *vd, unsigned idx, struct state_part *out);
int virtio_state_check(struct virtio *vd) MUST_CHECK;
void virtio_state_loaded(struct virtio *vd);
/*
 * Of a paused device, before it is saved: what it has pushed is shown to the guest. False: chains
 * are still out. No lock of rank VIRTIO or above held.
 */
bool virtio_settle(struct virtio *vd);

/* By the machine's reset or the driver's: see virtio_type.reset. */
void virtio_reset(struct virtio *vd);

#endif
