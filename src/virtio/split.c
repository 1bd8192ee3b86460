/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Split virtqueues: a descriptor table, the driver's ring of chains that are available, and ours of
 * those that were used. Indexes count for ever and are taken modulo the size.
 *
 * Manual: Virtual I/O Device 1.2, "Split Virtqueues".
 */
#include "virtio/ring.h"

/* "The Virtqueue Available Ring": flags, idx, ring[size], used_event */
#define AVAIL_FLAGS     0u
#define AVAIL_IDX       2u
#define AVAIL_RING      4u
#define AVAIL_NO_IRQ    0x1u
/* "The Virtqueue Used Ring": flags, idx, ring[size] of { id, len }, avail_event */
#define USED_FLAGS      0u
#define USED_IDX        2u
#define USED_RING       4u
#define USED_ELEM_BYTES 8u
#define USED_NO_NOTIFY  0x1u

static uint32_t used_event_off(const struct virtq *q)
{
    return AVAIL_RING + 2u * q->size;
}

static uint32_t avail_event_off(const struct virtq *q)
{
    return USED_RING + USED_ELEM_BYTES * q->size;
}

static uint32_t split_area_bytes(unsigned area, uint32_t size)
{
    static const uint32_t fixed[] = { 0, 6, 6 };
    static const uint32_t each[] = { VIRTQ_DESC_BYTES, 2, USED_ELEM_BYTES };

    return fixed[area] + each[area] * size;
}

static bool split_has_work(const struct virtq *q)
{
    return shared_load16(q->driver + AVAIL_IDX) != q->avail;
}

/* The chain that begins with descriptor `head`. */
static bool split_walk(struct virtq *q, struct virtq_chain *c, uint16_t head)
{
    struct virtq_desc d;

    for (unsigned nr = 0, idx = head;; nr++) {
        uint16_t flags;

        if (nr == q->size) {
            virtio_broken(q->vd, "a chain of descriptors that is a loop");
            return false;
        }
        if (idx >= q->size) {
            virtio_broken(q->vd, "a descriptor index behind the end of the queue");
            return false;
        }
        d = shared_load_desc(q->desc + VIRTQ_DESC_BYTES * idx);
        flags = d.word6;
        if (flags & VIRTQ_DESC_INDIRECT) {
            if (flags & VIRTQ_DESC_NEXT) {
                virtio_broken(q->vd, "an indirect descriptor with a next one");
                return false;
            }
            return chain_add_table(q, c, &d, TABLE_LINKED);
        }
        if (!chain_add(q, c, &d, flags))
            return false;
        if (!(flags & VIRTQ_DESC_NEXT))
            return true;
        idx = d.word7;
    }
}

static bool split_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t waiting = (uint16_t)(shared_load16(q->driver + AVAIL_IDX) - q->avail);

    if (waiting > q->size) {
        virtio_broken(q->vd, "an available index that jumped by more than the queue has");
        return false;
    }
    if (q->nr_out == q->size) {
        virtio_broken(q->vd, "more chains than the queue has descriptors");
        return false;
    }
    c->id = shared_load16(q->driver + AVAIL_RING + 2u * (q->avail % q->size));
    c->nr_descs = 1;
    if (!split_walk(q, c, c->id))
        return false;
    q->avail++;
    return true;
}

/* nr_descs of a chain is 1, that of what is out when a queue is saved any number (state.c). */
static void split_unpop(struct virtq *q, const struct virtq_chain *c)
{
    q->avail = (uint16_t)(q->avail - c->nr_descs);
}

static void split_push(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written)
{
    uint32_t off = USED_RING + USED_ELEM_BYTES * (q->used % q->size);

    shared_store64(q, q->device, q->device_at, off, c->id | (uint64_t)nr_written << 32);
    q->used++;
    q->nr_unsignalled++;
}

static void split_publish(struct virtq *q)
{
    shared_store16(q, q->device, q->device_at, USED_IDX, q->used);
}

static void split_notify_on(struct virtq *q)
{
    if (q->event_idx)
        shared_store16(q, q->device, q->device_at, avail_event_off(q), q->avail);
    else if (q->notify_off)
        shared_store16(q, q->device, q->device_at, USED_FLAGS, 0);
}

/* With event indexes there is nothing to do: the one of the last time is passed already. */
static void split_notify_off(struct virtq *q)
{
    if (!q->event_idx && !q->notify_off)
        shared_store16(q, q->device, q->device_at, USED_FLAGS, USED_NO_NOTIFY);
}

static bool split_interrupt_due(const struct virtq *q)
{
    if (!q->event_idx)
        return !(shared_load16(q->driver + AVAIL_FLAGS) & AVAIL_NO_IRQ);
    return event_passed(shared_load16(q->driver + used_event_off(q)), q->used,
                        (uint16_t)(q->used - q->nr_unsignalled));
}

/* Indexes count for ever: any will do, as long as no more is out than there is. */
static bool split_places_fit(const struct virtq *q)
{
    return (uint16_t)(q->avail - q->used) <= q->size && q->nr_unsignalled <= q->size;
}

const struct virtq_format virtq_split = {
    .area_bytes = split_area_bytes,
    .align = { 16, 2, 4 },
    .has_work = split_has_work,
    .pop = split_pop,
    .unpop = split_unpop,
    .places_fit = split_places_fit,
    .push = split_push,
    .publish = split_publish,
    .notify_on = split_notify_on,
    .notify_off = split_notify_off,
    .interrupt_due = split_interrupt_due,
};
