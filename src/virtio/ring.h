/* SPDX-License-Identifier: Apache-2.0 */
/* Between the core of queues (virtq.c) and the two formats of rings (split.c, packed.c). */
#ifndef VIRTIO_RING_H
#define VIRTIO_RING_H

#include <assert.h>

#include "virtio/virtio.h"

/* Virtual I/O Device 1.2, "The Virtqueue Descriptor Table": both formats have these flags. */
#define VIRTQ_DESC_NEXT     0x1u
#define VIRTQ_DESC_WRITE    0x2u
#define VIRTQ_DESC_INDIRECT 0x4u
#define VIRTQ_DESC_BYTES    16u

/* A descriptor, copied out of shared memory. The two formats have their last words different. */
struct virtq_desc {
    uint64_t at;
    uint32_t bytes;
    uint16_t word6, word7; /* split: flags, next; packed: id, flags */
};
static_assert(sizeof(struct virtq_desc) == VIRTQ_DESC_BYTES, "The Virtqueue Descriptor Table");

/* What a format does; all with the device's lock held and the queue usable. */
struct virtq_format {
    /* Sizes of the three areas for a queue of that many entries, and how they are aligned. */
    uint32_t (*area_bytes)(unsigned area, uint32_t size);
    uint8_t align[3];
    bool (*has_work)(const struct virtq *q);
    /* One chain; there is work. False: broken. */
    bool (*pop)(struct virtq *q, struct virtq_chain *c);
    void (*unpop)(struct virtq *q, const struct virtq_chain *c);
    /* Are the places in the ring (avail, used) such that a driver and a device can have got there?
     * For those that come from a file. */
    bool (*places_fit)(const struct virtq *q);
    void (*push)(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written);
    void (*publish)(struct virtq *q);
    void (*notify_on)(struct virtq *q);
    void (*notify_off)(struct virtq *q);
    /* Does the driver want an interrupt for what was published since the last time? */
    bool (*interrupt_due)(const struct virtq *q);
};
extern const struct virtq_format virtq_split, virtq_packed;

static inline const struct virtq_format *virtq_format(const struct virtq *q)
{
    return q->packed ? &virtq_packed : &virtq_split;
}

/* Adds a buffer to the chain, in as many pieces as it has in this process. False: broken. */
bool chain_add(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d, uint16_t flags);
/* Adds the buffers of an indirect table. next_counts: its descriptors are linked (split). */
enum table_order { TABLE_LINKED, TABLE_IN_ORDER };
bool chain_add_table(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *table,
                     enum table_order order);

/* Maps and starts an enabled queue, when the driver has said DRIVER_OK. */
void virtq_start(struct virtq *q);
/* The same for one whose places in the ring were loaded. */
void virtq_resume(struct virtq *q);
/* Is it being reset, and no chain out any more: the reset is done. Device's lock held. */
void virtq_end_reset(struct virtq *q);

/* ---- shared memory: each access is one load or store, which is never repeated ---- */

typedef uint16_t __attribute__((may_alias, aligned(2))) shared16;
typedef uint64_t __attribute__((may_alias, aligned(1))) shared64;

static inline uint16_t shared_load16(const uint8_t *p)
{
    return __atomic_load_n((const shared16 *)p, __ATOMIC_ACQUIRE);
}

static inline struct virtq_desc shared_load_desc(const uint8_t *p)
{
    uint64_t low = *(const volatile shared64 *)p, high = *(const volatile shared64 *)(p + 8);

    return (struct virtq_desc){ .at = low,
                                .bytes = (uint32_t)high,
                                .word6 = (uint16_t)(high >> 32),
                                .word7 = (uint16_t)(high >> 48) };
}

/* Stores, release, and tells the MMU. area: the gpa of the area that p is in, which begins at base.
 */
static inline void shared_store16(const struct virtq *q, uint8_t *base, gpa_t area, uint32_t off,
                                  uint16_t val)
{
    __atomic_store_n((shared16 *)(base + off), val, __ATOMIC_RELEASE);
    mmu_written(q->vd->mmu, gpa_add(area, off), 2);
}

static inline void shared_store64(const struct virtq *q, uint8_t *base, gpa_t area, uint32_t off,
                                  uint64_t val)
{
    *(volatile shared64 *)(base + off) = val;
    mmu_written(q->vd->mmu, gpa_add(area, off), 8);
}

/* "Used Buffer Notification Suppression": was `event` passed on the way from old to now? */
static inline bool event_passed(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

#endif
