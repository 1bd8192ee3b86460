/* SPDX-License-Identifier: Apache-2.0 */
/* A transport's queues whose notifications make a descriptor ready: see notify_fds.c. */
#ifndef VIRTIO_NOTIFY_FDS_H
#define VIRTIO_NOTIFY_FDS_H

#include "virtio/transport.h"

#define VIRTIO_NOTIFY_FDS 64u /* as many as a device may have queues, a bit each */

struct virtio_notify_fds {
    uint64_t on; /* a bit for each queue: the engine was told */
    struct bus_notify queues[VIRTIO_NOTIFY_FDS];
};

/*
 * The driver notifies queue_idx by that write; NULL: it cannot now. The rest is found out here.
 * Machine lock held.
 */
void virtio_notify_fds_set(struct virtio_notify_fds *s, struct virtio *vd, unsigned queue_idx,
                           const struct bus_notify *write);

#endif
