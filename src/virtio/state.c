/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is saved of a virtio device behind its transport, and how it goes on from that; for
 * snapshots. How a device type takes part in it: virtio.h, "Snapshots".
 */
#include <errno.h>

#include "virtio/ring.h"
#include "virtio/transport.h"

static const struct state_field core_fields[] = {
    FIELD(struct virtio, features, U64, 1),         FIELD(struct virtio, status, U8, 1),
    FIELD(struct virtio, config_generation, U8, 1), FIELD(struct virtio, broken, BOOL, 1),
    FIELD(struct virtio, broken_told, BOOL, 1),     FIELD(struct virtio, irq_queues, U64, 1),
    FIELD(struct virtio, config_due, BOOL, 1),
};
static const struct state_table core_table = STATE_TABLE("virtio", core_fields, 1);

/* Chains that were out are not popped yet in `saved_avail`. */
static const struct state_field queue_fields[] = {
    FIELD(struct virtq, enabled, BOOL, 1),          FIELD(struct virtq, size, U16, 1),
    FIELD(struct virtq, desc_at, U64, 1),           FIELD(struct virtq, driver_at, U64, 1),
    FIELD(struct virtq, device_at, U64, 1),         FIELD(struct virtq, saved_avail, U16, 1),
    FIELD(struct virtq, saved_avail_wrap, BOOL, 1), FIELD(struct virtq, used, U16, 1),
    FIELD(struct virtq, used_wrap, BOOL, 1),        FIELD(struct virtq, nr_unsignalled, U16, 1),
    FIELD(struct virtq, notify_off, BOOL, 1),       FIELD(struct virtq, resetting, BOOL, 1),
};
static const struct state_table queue_table = STATE_TABLE("virtqueue", queue_fields, 1);

bool virtio_state_part(struct virtio *vd, unsigned idx, struct state_part *out)
{
    const struct state_table *own = &vd->type->state;
    const struct state_blob *blob = vd->type->blob;
    void *base = (uint8_t *)vd - vd->type->vd_off_bytes;

    if (idx == 0)
        *out = (struct state_part){ .table = &core_table, .base = vd };
    else if (idx <= vd->nr_queues)
        *out = (struct state_part){ .table = &queue_table, .base = &vd->queues[idx - 1] };
    else if (idx == vd->nr_queues + 1 && own->version)
        *out = (struct state_part){ .table = own, .base = base };
    else if (idx == vd->nr_queues + 1 + !!own->version && blob)
        *out = (struct state_part){ .blob = blob, .base = base };
    else
        return false;
    return true;
}

/* ---- saving ---- */

static void queue_settle(struct virtq *q)
{
    const struct virtq_chain out = { .nr_descs = q->nr_out };
    struct virtq before;

    virtq_end_reset(q);
    before = *q;
    virtq_publish(q);
    before.avail = q->avail;
    before.avail_wrap = q->avail_wrap;
    if (q->usable)
        virtq_format(q)->unpop(&before, &out);
    q->saved_avail = before.avail;
    q->saved_avail_wrap = before.avail_wrap;
}

bool virtio_settle(struct virtio *vd)
{
    unsigned kept;
    bool rests;

    virtio_lock(vd);
    BUG_ON(!vd->paused);
    kept = vd->type->keeps ? vd->type->keeps(vd) : 0;
    rests = vd->nr_out == kept && !vd->resetting;
    for (unsigned i = 0; rests && i < vd->nr_queues; i++)
        queue_settle(&vd->queues[i]);
    virtio_unlock(vd);
    return rests;
}

/* ---- loading: machine lock held ---- */

int virtio_state_check(struct virtio *vd)
{
    if (vd->features & ~vd->offered) {
        log_error("%s: the guest uses features that this machine's has not: %#llx; it has %#llx",
                  vd->name, (unsigned long long)vd->features, (unsigned long long)vd->offered);
        return -EINVAL;
    }
    return 0;
}

void virtio_state_loaded(struct virtio *vd)
{
    bool running = vd->status & VIRTIO_STATUS_DRIVER_OK;

    virtio_lock(vd);
    for (unsigned i = 0; i < vd->nr_queues; i++) {
        struct virtq *q = &vd->queues[i];

        q->avail = q->saved_avail;
        q->avail_wrap = q->saved_avail_wrap;
        if (q->enabled && !q->resetting && running && !vd->broken)
            virtq_resume(q);
    }
    if (vd->nr_queues < 64)
        vd->irq_queues &= BIT64(vd->nr_queues) - 1;
    virtio_unlock(vd);
    /* Interrupts that are due are sent when the machine goes on: its vCPUs are loaded last. */
    BUG_ON(!vd->paused);
    if (vd->type->loaded)
        vd->type->loaded(vd, running);
}
