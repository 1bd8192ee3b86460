/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio entropy device: see rng.c. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "lib/bucket.h"
#include "virtio/virtio.h"

/* What the guest may have of it. All zero: no limits. */
struct rng_limits {
    struct bucket_config requests, bytes;
};

struct virtio_rng {
    struct virtio vd;
    struct bucket requests, bytes; /* guarded by the machine lock */
    struct timer throttled;
};

int virtio_rng_init(struct virtio_rng *r, struct bus *bus, struct mmu *mmu,
                    const struct rng_limits *limits) MUST_CHECK;
/* The transport is gone. A zeroed struct is fine, too. */
void virtio_rng_fini(struct virtio_rng *r);

#endif
