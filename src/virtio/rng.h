/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio entropy device: see rng.c. */
#ifndef VIRTIO_RNG_H
#define VIRTIO_RNG_H

#include "virtio/virtio.h"

struct virtio_rng {
    struct virtio vd;
};

int virtio_rng_init(struct virtio_rng *r, struct bus *bus, struct mmu *mmu) MUST_CHECK;
/* The transport is gone. A zeroed struct is fine, too. */
void virtio_rng_fini(struct virtio_rng *r);

#endif
