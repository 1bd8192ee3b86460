/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that another process serves by vhost-user: what its two files share. store_vhost.c
 * connects, and says what memory there is; store_vhost_io.c is the engine, with the ring.
 *
 * The guest's rings are not the process's: a disk's requests come from the device (virtio/blk.c, an
 * IDE disk), as those of every image do, and go through one ring of ours, in memory of ours. So
 * pauses, limits, snapshots, what was written and translated code are as with other disks, and no
 * guest can bring the process out of step. What it is given of the guest is memory: data is moved
 * there without a copy, if the memory can be shared (mmu.h, SLOT_PRIVATE cannot), else by buffers.
 *
 * Addresses that the process sees are those in this process: guest and user addresses of a region
 * are the same.
 */
#ifndef BACKEND_STORE_VHOST_H
#define BACKEND_STORE_VHOST_H

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#include "backend/store_impl.h"
#include "backend/vhost_user.h"

#define VHOST_NR_SLOTS   64u
#define VHOST_SLOT_DESCS 4u /* of the ring: header, data, data, status */
#define VHOST_RING_SIZE  (VHOST_NR_SLOTS * VHOST_SLOT_DESCS)
#define VHOST_SEGS_MAX   126u
#define VHOST_BUF_BYTES  KIB(128)

/* Memory that both have: the process may write to all of it at any time. */
struct vhost_shared_slot {
    struct virtio_blk_outhdr head;
    struct virtio_blk_discard_write_zeroes range;
    uint8_t status;
    _Alignas(16) struct vring_desc table[VHOST_SEGS_MAX + 2];
};
struct vhost_shared {
    /* "Split Virtqueues" */
    _Alignas(16) struct vring_desc desc[VHOST_RING_SIZE];
    struct {
        uint16_t flags, idx, ring[VHOST_RING_SIZE], used_event;
    } avail;
    _Alignas(4) struct {
        uint16_t flags, idx;
        struct vring_used_elem ring[VHOST_RING_SIZE];
        uint16_t avail_event;
    } used;
    struct vhost_shared_slot slots[VHOST_NR_SLOTS];
    _Alignas(PAGE_BYTES) uint8_t bufs[VHOST_NR_SLOTS][VHOST_BUF_BYTES];
};

/* A command that is out, for one piece of a request. */
struct vhost_slot {
    struct store_req *req; /* NULL: free */
    struct vhost_slot *next;
    uint64_t bytes; /* of the piece; 0: a flush */
    bool buffered;  /* the piece is in bufs */
    bool by_writes; /* zeroes are written */
    bool out;       /* in the ring */
};

struct store_vhost {
    struct vhu v;
    uint64_t features; /* of the device, that are used */
    uint32_t segs_max;
    uint64_t discard_bytes, zero_bytes; /* most in one command */

    struct vhost_shared *shared;
    int shared_fd, kick_fd, call_fd;

    /* Of the guest's memory, while connected. */
    struct store_memory memory[STORE_MEMORY_MAX];
    unsigned nr_memory;

    /* The disk thread's own. */
    struct vhost_slot slots[VHOST_NR_SLOTS];
    struct vhost_slot *free;
    struct store_queue todo; /* have no slot yet */
    unsigned nr_out;
    uint16_t avail, used; /* as the ring counts them */
    bool lost;
    uint64_t give_up_since_ns; /* store_must_give_up() */
};

static inline bool vhost_has(const struct store_vhost *n, unsigned feature)
{
    return n->features & BIT64(feature);
}

/* The ring is empty, and the process works on it; and not any more. 0, or -errno after a message.
 */
int store_vhost_start(struct store *d) MUST_CHECK;
void store_vhost_stop(struct store *d);

#endif
