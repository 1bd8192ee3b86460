/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio block device on a disk image: see blk.c. */
#ifndef VIRTIO_BLK_H
#define VIRTIO_BLK_H

#include "backend/store.h"
#include "virtio/virtio.h"

#define BLK_SERIAL_MAX 20u /* "Device Operation": VIRTIO_BLK_ID_BYTES */

/* Most of a second's worth is done at once after a rest; 0: no limit. */
struct blk_limits {
    uint64_t requests_per_s, bytes_per_s;
};

struct blk_config {
    struct bus *bus;
    struct mmu *mmu;
    struct store *store; /* the caller's; connected until virtio_blk_destroy() */
    const char *serial;  /* up to BLK_SERIAL_MAX characters, may be NULL */
    unsigned nr_queues;
    struct blk_limits limits;
    bool no_packed; /* offer split rings only */
};

struct virtio_blk;

/* NULL after a message. Its transport is still to be made. */
struct virtio_blk *virtio_blk_create(const struct blk_config *cfg);
/* NULL is fine. The transport is gone. */
void virtio_blk_destroy(struct virtio_blk *b);
struct virtio *virtio_blk_device(struct virtio_blk *b);
/* The image has another size: tells the driver. No lock of rank MACHINE or above may be held. */
void virtio_blk_resized(struct virtio_blk *b);
/* Any thread. */
void virtio_blk_limit(struct virtio_blk *b, const struct blk_limits *limits);
/*
 * From now on that is the image; the old one is the caller's again. The VM is paused and the device
 * has settled; no locks held. -EROFS: one is read-only and the other is not; -errno after a
 * message.
 */
int virtio_blk_replace(struct virtio_blk *b, struct store *store) MUST_CHECK;

#endif
