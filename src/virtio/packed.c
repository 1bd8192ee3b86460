/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packed virtqueues: one ring of descriptors, which driver and device write in turn. Two bits of a
 * descriptor say whose it is, by comparison with a wrap counter that flips at each turn of the
 * ring.
 *
 * Manual: Virtual I/O Device 1.2, "Packed Virtqueues".
 */
#include "virtio/ring.h"

#define DESC_ID    12u
#define DESC_FLAGS 14u
#define DESC_AVAIL BIT(7)
#define DESC_USED  BIT(15)

/* "Event Suppression Structure Format" */
#define EVENT_OFF_WRAP 0u
#define EVENT_FLAGS    2u
#define EVENT_BYTES    4u
#define EVENT_WRAP     BIT(15)
enum { EVENT_ENABLE = 0, EVENT_DISABLE = 1, EVENT_DESC = 2 };

static uint32_t packed_area_bytes(unsigned area, uint32_t size)
{
    return area == 0 ? VIRTQ_DESC_BYTES * size : EVENT_BYTES;
}

static bool packed_has_work(const struct virtq *q)
{
    uint16_t flags = shared_load16(q->desc + VIRTQ_DESC_BYTES * q->avail + DESC_FLAGS);

    return !!(flags & DESC_AVAIL) == q->avail_wrap && !!(flags & DESC_USED) != q->avail_wrap;
}

/* A place in the ring, `nr` slots on. */
static void ring_advance(const struct virtq *q, uint16_t *slot, bool *wrap, uint16_t nr)
{
    uint32_t to = (uint32_t)*slot + nr;

    if (to >= q->size) {
        to -= q->size;
        *wrap = !*wrap;
    }
    *slot = (uint16_t)to;
}

static bool packed_pop(struct virtq *q, struct virtq_chain *c)
{
    uint16_t slot = q->avail, flags;
    bool wrap = q->avail_wrap;

    /* The driver makes a chain's first descriptor available last, so all of it is there. */
    c->nr_descs = 0;
    do {
        struct virtq_desc d = shared_load_desc(q->desc + VIRTQ_DESC_BYTES * slot);

        flags = d.word7;
        c->id = d.word6; /* the last one's counts */
        if (q->nr_out + ++c->nr_descs > q->size) {
            virtio_broken(q->vd, "more descriptors than the queue has");
            return false;
        }
        if (flags & VIRTQ_DESC_INDIRECT) {
            if (c->nr_descs > 1 || (flags & VIRTQ_DESC_NEXT)) {
                virtio_broken(q->vd, "an indirect descriptor in a chain");
                return false;
            }
            if (!chain_add_table(q, c, &d, TABLE_IN_ORDER))
                return false;
        } else if (!chain_add(q, c, &d, flags)) {
            return false;
        }
        ring_advance(q, &slot, &wrap, 1);
    } while (flags & VIRTQ_DESC_NEXT);
    q->avail = slot;
    q->avail_wrap = wrap;
    return true;
}

static void packed_unpop(struct virtq *q, const struct virtq_chain *c)
{
    if (q->avail < c->nr_descs) {
        q->avail = (uint16_t)(q->avail + q->size - c->nr_descs);
        q->avail_wrap = !q->avail_wrap;
    } else {
        q->avail = (uint16_t)(q->avail - c->nr_descs);
    }
}

/* What is published together is shown by its first descriptor's flags, which are written last. */
static void packed_push(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written)
{
    uint32_t off = VIRTQ_DESC_BYTES * q->used;
    uint16_t flags = (uint16_t)((q->used_wrap ? DESC_AVAIL | DESC_USED : 0) |
                                (nr_written ? VIRTQ_DESC_WRITE : 0));
    uint8_t *d = q->desc + off;

    *(volatile uint32_t *)(d + 8) = nr_written;
    *(volatile uint16_t *)(d + DESC_ID) = c->id;
    mmu_written(q->vd->mmu, gpa_add(q->desc_at, off + 8), 6);
    if (q->unpublished) {
        shared_store16(q, q->desc, q->desc_at, off + DESC_FLAGS, flags);
    } else {
        q->first_slot = q->used;
        q->first_flags = flags;
    }
    ring_advance(q, &q->used, &q->used_wrap, c->nr_descs);
    q->nr_unsignalled = (uint16_t)(q->nr_unsignalled + c->nr_descs);
}

static void packed_publish(struct virtq *q)
{
    shared_store16(q, q->desc, q->desc_at, VIRTQ_DESC_BYTES * q->first_slot + DESC_FLAGS,
                   q->first_flags);
}

static void packed_notify_on(struct virtq *q)
{
    if (q->event_idx)
        shared_store16(q, q->device, q->device_at, EVENT_OFF_WRAP,
                       (uint16_t)(q->avail | (q->avail_wrap ? EVENT_WRAP : 0)));
    shared_store16(q, q->device, q->device_at, EVENT_FLAGS,
                   q->event_idx ? EVENT_DESC : EVENT_ENABLE);
}

static void packed_notify_off(struct virtq *q)
{
    if (!q->notify_off)
        shared_store16(q, q->device, q->device_at, EVENT_FLAGS, EVENT_DISABLE);
}

static bool packed_interrupt_due(const struct virtq *q)
{
    uint16_t flags = shared_load16(q->driver + EVENT_FLAGS) & 3, off_wrap, event;

    if (flags != EVENT_DESC || !q->event_idx)
        return flags != EVENT_DISABLE;
    off_wrap = shared_load16(q->driver + EVENT_OFF_WRAP);
    event = off_wrap & (uint16_t)~EVENT_WRAP;
    if (!!(off_wrap & EVENT_WRAP) != q->used_wrap)
        event = (uint16_t)(event - q->size); /* of the turn before */
    return event_passed(event, q->used, (uint16_t)(q->used - q->nr_unsignalled));
}

static bool packed_places_fit(const struct virtq *q)
{
    return q->avail < q->size && q->used < q->size && q->nr_unsignalled <= q->size;
}

const struct virtq_format virtq_packed = {
    .area_bytes = packed_area_bytes,
    .align = { 16, 4, 4 },
    .has_work = packed_has_work,
    .pop = packed_pop,
    .unpop = packed_unpop,
    .places_fit = packed_places_fit,
    .push = packed_push,
    .publish = packed_publish,
    .notify_on = packed_notify_on,
    .notify_off = packed_notify_off,
    .interrupt_due = packed_interrupt_due,
};
