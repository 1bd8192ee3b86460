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

/* So many pieces of it are shown at once, at most. */
#define MEM_VIEWS_MAX MMU_ALIASES_MAX

struct mem_view {
    uint64_t off_bytes, bytes; /* of the region */
};

struct virtio_mem {
    struct virtio vd;
    struct virtio_worker worker;
    struct slot *memory; /* all of it, where no guest finds it */
    uint64_t piece_bytes;
    void (*changed)(void *ctx);
    void *ctx;
    bool made;

    /* Guarded by the machine lock. */
    struct mem_config config;
    uint8_t plugged[MEM_BLOCKS_MAX / 8]; /* bit by bit */
    bool due;                            /* what is plugged is not what is shown yet */
    bool leaves;                         /* nobody waits for that: the device is reset, or ends */
    struct cond shown;
    struct mem_view views[MEM_VIEWS_MAX];
    struct slot *slots[MEM_VIEWS_MAX]; /* of each view */
    unsigned nr_views;
};

struct virtio_mem_desc {
    struct bus *bus;
    struct mmu *mmu;
    struct slot *memory;  /* parked (mmu.h) */
    gpa_t at;             /* where it is shown, piece by piece */
    uint64_t bytes;       /* a multiple of block_bytes, at most MEM_BLOCKS_MAX of them */
    uint64_t block_bytes; /* a power of two from 2 MiB on */
    uint64_t piece_bytes; /* a multiple of that: what is shown or not as a whole */
    /* virtio_mem_apply() is to be called soon. A thread of the device's, machine lock held. */
    void (*changed)(void *ctx);
    void *ctx;
};

/* 0 or -errno after a message. */
int virtio_mem_init(struct virtio_mem *m, const struct virtio_mem_desc *desc) MUST_CHECK;
/* Ends the thread; before the transport goes. No locks held. */
void virtio_mem_stop(struct virtio_mem *m);
/* A zeroed struct is fine, too. */
void virtio_mem_fini(struct virtio_mem *m);

/*
 * Shows what is plugged, and hides what is not. All vCPUs stand still, and are kept from running on
 * what they derived from memory before, if *changed. 0, or -errno after a message.
 */
int virtio_mem_apply(struct virtio_mem *m, bool *changed) MUST_CHECK;
/* The same with the machine lock held: also once its state is read, and not put right yet. */
int virtio_mem_apply_locked(struct virtio_mem *m, bool *changed) MUST_CHECK;

/* Asks the guest to have that much of it; any thread, no locks held. -EINVAL: no multiple of
 * blocks, or more than there is. */
int virtio_mem_request(struct virtio_mem *m, uint64_t bytes) MUST_CHECK;
void virtio_mem_sizes(struct virtio_mem *m, uint64_t *plugged_bytes, uint64_t *requested_bytes);

#endif
