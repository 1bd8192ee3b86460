/* SPDX-License-Identifier: Apache-2.0 */
/* A virtio memory device, by which a guest's memory grows and shrinks: see mem.c. */
#ifndef VIRTIO_MEM_H
#define VIRTIO_MEM_H

#include "virtio/virtio.h"
#include "virtio/worker.h"

#define MEM_BLOCKS_MAX 32768u

/* Virtual I/O Device 1.2, "Memory Device", "Device configuration layout" */
struct mem_config {
    uint64_t block_bytes;
    uint16_t node;
    uint8_t pad[6];
    uint64_t at, region_bytes, usable_bytes, plugged_bytes, requested_bytes;
};

struct virtio_mem {
    struct virtio vd;
    struct mem_config config; /* guarded by the machine lock */
    struct virtio_worker worker;
    uint8_t plugged[MEM_BLOCKS_MAX / 8]; /* bit by bit; guarded by the machine lock */
    bool made;
};

struct virtio_mem_desc {
    struct bus *bus;
    struct mmu *mmu;
    gpa_t at;             /* of memory that the machine has there */
    uint64_t bytes;       /* a multiple of block_bytes, at most MEM_BLOCKS_MAX of them */
    uint64_t block_bytes; /* a power of two from 2 MiB on */
};

/* 0 or -errno after a message. */
int virtio_mem_init(struct virtio_mem *m, const struct virtio_mem_desc *desc) MUST_CHECK;
/* Ends the thread; before the transport goes. No locks held. */
void virtio_mem_stop(struct virtio_mem *m);
/* A zeroed struct is fine, too. */
void virtio_mem_fini(struct virtio_mem *m);

/* Asks the guest to have that much of it; any thread, no locks held. -EINVAL: no multiple of
 * blocks, or more than there is. */
int virtio_mem_request(struct virtio_mem *m, uint64_t bytes) MUST_CHECK;
void virtio_mem_sizes(struct virtio_mem *m, uint64_t *plugged_bytes, uint64_t *requested_bytes);

#endif
