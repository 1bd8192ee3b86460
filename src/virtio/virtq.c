/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Queues, whatever the format of their rings: chains of buffers become pointers here, and what was
 * pushed is told. All that comes from the guest is checked in this file or in the format's, on
 * copies; a device type sees only what passed.
 *
 * Manual: Virtual I/O Device 1.2, "Virtqueues".
 */
#include <string.h>

#include "virtio/ring.h"
#include "virtio/transport.h"

/* ---- chains ---- */

bool chain_add(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d, uint16_t flags)
{
    bool in = flags & VIRTQ_DESC_WRITE;
    uint32_t *sum = in ? &c->in_bytes : &c->out_bytes;
    uint64_t left = d->bytes;
    gpa_t at = GPA(d->at);

    if (!in && c->nr_in) {
        virtio_broken(q->vd, "a buffer to read behind one to write");
        return false;
    }
    if (__builtin_add_overflow(*sum, d->bytes, sum) || at.v + left < at.v) {
        virtio_broken(q->vd, "buffers of more than 4 GB, or beyond the last address");
        return false;
    }
    while (left) {
        unsigned nr = c->nr_out + c->nr_in;
        uint64_t run = left;
        uint8_t *hva = mmu_map(q->vd->mmu, at, &run, in ? MMU_TO_WRITE : MMU_TO_READ);

        if (!hva) {
            virtio_broken(q->vd, "a buffer where there is no memory");
            return false;
        }
        if (nr == c->max) {
            virtio_broken(q->vd, "a chain of more buffers than the device takes");
            return false;
        }
        c->iov[nr] = (struct host_iov){ .base = hva, .bytes = run };
        c->at[nr] = at;
        if (in)
            c->nr_in++;
        else
            c->nr_out++;
        at = gpa_add(at, run);
        left -= run;
    }
    return true;
}

/* "Indirect Descriptors". The table is as hostile as the ring, so its walk is bounded by its size.
 */
bool chain_add_table(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *table,
                     enum table_order order)
{
    uint32_t size = table->bytes / VIRTQ_DESC_BYTES, idx = 0;
    uint64_t run = table->bytes;
    const uint8_t *hva;

    if (!virtio_has(q->vd, VIRTIO_F_INDIRECT_DESC)) {
        virtio_broken(q->vd, "an indirect descriptor without that feature");
        return false;
    }
    if (!size || table->bytes % VIRTQ_DESC_BYTES) {
        virtio_broken(q->vd, "an indirect table that is empty or ends inside a descriptor");
        return false;
    }
    hva = mmu_map(q->vd->mmu, GPA(table->at), &run, MMU_TO_READ);
    if (!hva || run < table->bytes) {
        virtio_broken(q->vd, "an indirect table where there is no memory");
        return false;
    }
    for (uint32_t nr = 0; nr < size; nr++) {
        struct virtq_desc d = shared_load_desc(hva + (size_t)VIRTQ_DESC_BYTES * idx);
        uint16_t flags = order == TABLE_LINKED ? d.word6 : d.word7;

        if (flags & VIRTQ_DESC_INDIRECT) {
            virtio_broken(q->vd, "an indirect descriptor in an indirect table");
            return false;
        }
        if (!chain_add(q, c, &d, flags))
            return false;
        if (order == TABLE_IN_ORDER) {
            idx++;
            continue;
        }
        if (!(flags & VIRTQ_DESC_NEXT))
            return true;
        idx = d.word7;
        if (idx >= size) {
            virtio_broken(q->vd, "a descriptor index behind the end of its indirect table");
            return false;
        }
    }
    if (order == TABLE_LINKED)
        virtio_broken(q->vd, "an indirect table that is a loop");
    return order == TABLE_IN_ORDER;
}

uint32_t virtq_read(const struct virtq_chain *c, uint32_t off_bytes, void *buf, uint32_t bytes)
{
    uint32_t done = 0;

    for (unsigned i = 0; i < c->nr_out && done < bytes; i++) {
        uint32_t have = (uint32_t)c->iov[i].bytes, n;

        if (off_bytes >= have) {
            off_bytes -= have;
            continue;
        }
        n = MIN(have - off_bytes, bytes - done);
        memcpy((uint8_t *)buf + done, (uint8_t *)c->iov[i].base + off_bytes, n);
        done += n;
        off_bytes = 0;
    }
    return done;
}

uint32_t virtq_write(const struct virtq_chain *c, uint32_t off_bytes, const void *buf,
                     uint32_t bytes)
{
    const struct host_iov *iov = c->iov + c->nr_out;
    uint32_t done = 0;

    for (unsigned i = 0; i < c->nr_in && done < bytes; i++) {
        uint32_t have = (uint32_t)iov[i].bytes, n;

        if (off_bytes >= have) {
            off_bytes -= have;
            continue;
        }
        n = MIN(have - off_bytes, bytes - done);
        memcpy((uint8_t *)iov[i].base + off_bytes, (const uint8_t *)buf + done, n);
        done += n;
        off_bytes = 0;
    }
    return done;
}

/* ---- popping and pushing ---- */

static bool virtq_runs(const struct virtq *q)
{
    assert_held(&q->vd->lock);
    return q->usable && virtio_may_work(q->vd);
}

bool virtq_has_work(struct virtq *q)
{
    return virtq_runs(q) && virtq_format(q)->has_work(q);
}

/* Empty: asks for a notification, and looks again: the driver may have been between the two. */
static bool virtq_empty(struct virtq *q)
{
    const struct virtq_format *f = virtq_format(q);

    if (f->has_work(q))
        return false;
    f->notify_on(q);
    q->notify_off = false;
    /* Our request before our look; pairs with the driver's barrier between its index and its look
     * at the request ("Available Buffer Notification Suppression"). */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !f->has_work(q);
}

bool virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    struct virtio *vd = q->vd;

    if (!virtq_runs(q) || virtq_empty(q))
        return false;
    virtq_format(q)->notify_off(q);
    q->notify_off = true;
    c->nr_out = c->nr_in = 0;
    c->out_bytes = c->in_bytes = 0;
    if (!virtq_format(q)->pop(q, c))
        return false;
    q->nr_out = (uint16_t)(q->nr_out + c->nr_descs);
    vd->nr_out++;
    return true;
}

/* The chain is no longer out. False: nobody wants to know what became of it. */
static bool virtq_take_back(struct virtq *q, const struct virtq_chain *c)
{
    struct virtio *vd = q->vd;

    assert_held(&vd->lock);
    BUG_ON(!vd->nr_out || q->nr_out < c->nr_descs);
    vd->nr_out--;
    q->nr_out = (uint16_t)(q->nr_out - c->nr_descs);
    return q->usable && !vd->broken;
}

void virtq_unpop(struct virtq *q, const struct virtq_chain *c)
{
    if (virtq_take_back(q, c))
        virtq_format(q)->unpop(q, c);
}

static void virtq_note_written(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written)
{
    for (unsigned i = c->nr_out; nr_written && i < (unsigned)c->nr_out + c->nr_in; i++) {
        uint32_t n = MIN((uint32_t)c->iov[i].bytes, nr_written);

        mmu_written(q->vd->mmu, c->at[i], n);
        nr_written -= n;
    }
}

void virtq_push(struct virtq *q, const struct virtq_chain *c, uint32_t nr_written)
{
    BUG_ON(nr_written > c->in_bytes);
    virtq_note_written(q, c, nr_written);
    if (!virtq_take_back(q, c))
        return;
    virtq_format(q)->push(q, c, nr_written);
    q->unpublished = true;
}

void virtq_publish(struct virtq *q)
{
    const struct virtq_format *f = virtq_format(q);

    assert_held(&q->vd->lock);
    if (!q->unpublished)
        return;
    q->unpublished = false;
    if (!q->usable || q->vd->broken)
        return;
    f->publish(q);
    /* Our index before our look at what the driver wants; pairs with its barrier between the two.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (f->interrupt_due(q))
        q->vd->irq_queues |= BIT64(q->idx);
    q->nr_unsignalled = 0;
}

/* ---- what the transports do with queues: machine lock held ---- */

struct virtq *virtio_queue(struct virtio *vd, uint32_t idx)
{
    return idx < vd->nr_queues ? &vd->queues[idx] : NULL;
}

void virtq_set_size(struct virtq *q, uint32_t size)
{
    if (q->enabled)
        return;
    /* A packed ring's size need not be a power of two ("Packed Virtqueues"). What is wrong is found
     * when the queue is enabled. */
    q->size = (uint16_t)MIN(size, UINT16_MAX);
}

static gpa_t *virtq_area(struct virtq *q, enum virtq_area area)
{
    return area == VIRTQ_DESC ? &q->desc_at : area == VIRTQ_DRIVER ? &q->driver_at : &q->device_at;
}

void virtq_set_address(struct virtq *q, enum virtq_area area, unsigned half, uint32_t val)
{
    gpa_t *at = virtq_area(q, area);

    if (q->enabled)
        return;
    if (half)
        at->v = (uint32_t)at->v | (uint64_t)val << 32;
    else
        at->v = (at->v & ~(uint64_t)UINT32_MAX) | val;
}

uint32_t virtq_address(const struct virtq *q, enum virtq_area area, unsigned half)
{
    gpa_t at = area == VIRTQ_DESC ? q->desc_at : area == VIRTQ_DRIVER ? q->driver_at : q->device_at;

    return (uint32_t)(at.v >> (half ? 32 : 0));
}

static uint8_t *virtq_map_area(struct virtq *q, enum virtq_area area)
{
    gpa_t at = *virtq_area(q, area);
    uint64_t bytes = virtq_format(q)->area_bytes(area, q->size), run = bytes;
    uint8_t *hva;

    if (at.v % virtq_format(q)->align[area]) {
        virtio_broken(q->vd, "a queue that is not aligned");
        return NULL;
    }
    hva = mmu_map(q->vd->mmu, at, &run, area == VIRTQ_DRIVER ? MMU_TO_READ : MMU_TO_WRITE);
    if (!hva || run < bytes) {
        virtio_broken(q->vd, "a queue where there is no memory");
        return NULL;
    }
    return hva;
}

/* False: broken. */
static bool virtq_map(struct virtq *q)
{
    assert_held(&q->vd->lock);
    q->packed = virtio_has(q->vd, VIRTIO_F_RING_PACKED);
    q->event_idx = virtio_has(q->vd, VIRTIO_F_EVENT_IDX);
    if (!q->size || q->size > q->max_size || (!q->packed && (q->size & (q->size - 1)))) {
        virtio_broken(q->vd, "a queue size that is too large or no power of two");
        return false;
    }
    q->desc = virtq_map_area(q, VIRTQ_DESC);
    q->driver = virtq_map_area(q, VIRTQ_DRIVER);
    q->device = virtq_map_area(q, VIRTQ_DEVICE);
    return q->desc && q->driver && q->device;
}

void virtq_start(struct virtq *q)
{
    if (!virtq_map(q))
        return;
    q->avail = q->used = q->nr_unsignalled = 0;
    q->avail_wrap = q->used_wrap = true;
    q->notify_off = q->unpublished = false;
    q->usable = true;
}

void virtq_resume(struct virtq *q)
{
    if (!virtq_map(q))
        return;
    if (!virtq_format(q)->places_fit(q)) {
        virtio_broken(q->vd, "a saved queue that is at a place where it cannot be");
        return;
    }
    q->unpublished = false;
    q->usable = true;
}
