/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a virtio device: features, status, reset, interrupts. Queues are in virtq.c.
 *
 * Manual: Virtual I/O Device 1.2, "Basic Facilities of a Virtio Device".
 */
#include "virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/ring.h"
#include "virtio/transport.h"

#define CORE_FEATURES                                                                        \
    (BIT64(VIRTIO_F_INDIRECT_DESC) | BIT64(VIRTIO_F_EVENT_IDX) | BIT64(VIRTIO_F_VERSION_1) | \
     BIT64(VIRTIO_F_RING_PACKED) | BIT64(VIRTIO_F_RING_RESET))

int virtio_init(struct virtio *vd, const struct virtio_desc *desc)
{
    BUG_ON(desc->nr_queues > 64 || desc->queue_size > VIRTQ_SIZE_MAX);
    BUG_ON(!desc->queue_size || (desc->queue_size & (desc->queue_size - 1)));
    *vd = (struct virtio){
        .type = desc->type,
        .name = desc->name,
        .bus = desc->bus,
        .mmu = desc->mmu,
        .config = desc->config,
        .config_bytes = desc->config_bytes,
        .nr_queues = desc->nr_queues,
        .offered = (desc->features | CORE_FEATURES) & ~desc->withheld,
    };
    vd->queues = calloc(desc->nr_queues, sizeof(*vd->queues));
    if (!vd->queues) {
        log_error("%s: out of memory for %u queues", desc->name, desc->nr_queues);
        *vd = (struct virtio){ 0 };
        return -ENOMEM;
    }
    for (unsigned i = 0; i < desc->nr_queues; i++)
        vd->queues[i] = (struct virtq){
            .vd = vd, .idx = (uint16_t)i, .size = desc->queue_size, .max_size = desc->queue_size
        };
    lock_init(&vd->lock, LOCK_VIRTIO);
    cond_init(&vd->idle);
    return 0;
}

void virtio_fini(struct virtio *vd)
{
    if (!vd->queues)
        return;
    BUG_ON(vd->nr_out);
    cond_destroy(&vd->idle);
    lock_destroy(&vd->lock);
    free(vd->queues);
    vd->queues = NULL;
}

void virtio_attach(struct virtio *vd, const struct virtio_transport_ops *ops, void *arg)
{
    vd->transport = ops;
    vd->transport_arg = arg;
}

void virtio_broken(struct virtio *vd, const char *why)
{
    assert_held(&vd->lock);
    if (vd->broken)
        return;
    vd->broken = true;
    /* The text is a constant: its address tells it from others. */
    if (log_first(&vd->seen, (uintptr_t)why))
        log_warn("%s: the guest's driver gave it %s; the device stops until it is reset", vd->name,
                 why);
}

/* ---- interrupts ---- */

/* By descriptors, where there are some: the machine lock is not needed then. While the machine
 * stands still nothing is sent behind its back. Device's lock held. */
static void virtio_signal_fds(struct virtio *vd)
{
    if (!vd->transport || !vd->transport->queue_signal || vd->resetting || vd->paused)
        return;
    for (uint64_t left = vd->irq_queues; left; left &= left - 1)
        if (vd->transport->queue_signal(vd->transport_arg, (unsigned)__builtin_ctzll(left)))
            vd->irq_queues &= ~(left & -left);
}

static bool virtio_must_signal(struct virtio *vd)
{
    bool must;

    virtio_lock(vd);
    virtio_signal_fds(vd);
    must = vd->irq_queues || (vd->broken && !vd->broken_told) || (vd->resetting && !vd->nr_out);
    virtio_unlock(vd);
    return must;
}

void virtio_signal(struct virtio *vd)
{
    if (!virtio_must_signal(vd))
        return;
    lock_take(bus_lock(vd->bus));
    virtio_signal_locked(vd);
    lock_drop(bus_lock(vd->bus));
}

void virtio_signal_locked(struct virtio *vd)
{
    uint64_t queues;
    bool tell, wake;

    virtio_lock(vd);
    queues = vd->resetting ? 0 : vd->irq_queues;
    vd->irq_queues = 0;
    tell = vd->broken && !vd->broken_told && !vd->resetting;
    vd->broken_told |= tell;
    wake = vd->resetting && !vd->nr_out;
    virtio_unlock(vd);
    for (; queues && vd->transport; queues &= queues - 1)
        vd->transport->queue_interrupt(vd->transport_arg, (unsigned)__builtin_ctzll(queues));
    if (tell) {
        vd->status |= VIRTIO_STATUS_NEEDS_RESET;
        if (vd->transport && (vd->status & VIRTIO_STATUS_DRIVER_OK))
            vd->transport->config_interrupt(vd->transport_arg);
    }
    if (wake)
        cond_wake_all(&vd->idle);
}

void virtio_config_changed(struct virtio *vd)
{
    bool later;

    assert_held(bus_lock(vd->bus));
    vd->config_generation++;
    virtio_lock(vd);
    later = vd->paused;
    vd->config_due |= later;
    virtio_unlock(vd);
    if (!later && vd->transport && (vd->status & VIRTIO_STATUS_DRIVER_OK))
        vd->transport->config_interrupt(vd->transport_arg);
}

/* ---- features ---- */

static uint32_t half_of(uint64_t features, uint32_t sel)
{
    return sel > 1 ? 0 : (uint32_t)(features >> (32 * sel));
}

uint32_t virtio_offered(const struct virtio *vd, uint32_t sel)
{
    return half_of(vd->offered, sel);
}

uint32_t virtio_accepted(const struct virtio *vd, uint32_t sel)
{
    return half_of(vd->features, sel);
}

void virtio_accept(struct virtio *vd, uint32_t sel, uint32_t bits_)
{
    if (sel > 1 || vd->resetting || (vd->status & VIRTIO_STATUS_FEATURES_OK))
        return;
    vd->features &= ~((uint64_t)UINT32_MAX << (32 * sel));
    vd->features |= (uint64_t)bits_ << (32 * sel);
}

/* "Driver Requirements: Feature Bits", and no legacy drivers here. */
static bool features_fit(struct virtio *vd)
{
    if ((vd->features & ~vd->offered) || !virtio_has(vd, VIRTIO_F_VERSION_1))
        return false;
    return !vd->type->features_ok || vd->type->features_ok(vd);
}

/* ---- status and reset ---- */

static void virtio_start(struct virtio *vd)
{
    virtio_lock(vd);
    for (unsigned i = 0; i < vd->nr_queues; i++)
        if (vd->queues[i].enabled)
            virtq_start(&vd->queues[i]);
    virtio_unlock(vd);
    if (vd->type->start && !vd->broken)
        vd->type->start(vd);
    virtio_signal_locked(vd);
}

void virtio_set_status(struct virtio *vd, uint8_t status)
{
    uint8_t fresh = status & (uint8_t)~vd->status;

    if (!status) {
        virtio_reset(vd);
        return;
    }
    if (vd->resetting)
        return;
    if ((fresh & VIRTIO_STATUS_FEATURES_OK) && !features_fit(vd))
        fresh &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK; /* the driver reads it back */
    /* "Device Initialization": not before the features are agreed on. */
    if (!((vd->status | fresh) & VIRTIO_STATUS_FEATURES_OK))
        fresh &= (uint8_t)~VIRTIO_STATUS_DRIVER_OK;
    /* Bits are only ever cleared by a reset; NEEDS_RESET is ours. */
    vd->status |= fresh & (uint8_t)~VIRTIO_STATUS_NEEDS_RESET;
    if (fresh & VIRTIO_STATUS_DRIVER_OK)
        virtio_start(vd);
}

static void queue_reset(struct virtq *q)
{
    *q = (struct virtq){ .vd = q->vd, .idx = q->idx, .size = q->max_size, .max_size = q->max_size };
}

static uint32_t virtio_nr_out(struct virtio *vd)
{
    uint32_t nr;

    virtio_lock(vd);
    nr = vd->nr_out;
    virtio_unlock(vd);
    return nr;
}

void virtio_reset(struct virtio *vd)
{
    struct lock *machine = bus_lock(vd->bus);

    assert_held(machine);
    if (vd->resetting) { /* by another vCPU, which dropped the lock: this is the same reset */
        while (vd->resetting)
            cond_wait(&vd->idle, machine);
        return;
    }
    virtio_lock(vd);
    vd->resetting = true;
    for (unsigned i = 0; i < vd->nr_queues; i++)
        vd->queues[i].usable = false;
    virtio_unlock(vd);
    if (vd->type->reset)
        vd->type->reset(vd);
    while (virtio_nr_out(vd))
        cond_wait(&vd->idle, machine);
    if (vd->type->reset_done)
        vd->type->reset_done(vd);
    vd->status = 0;
    vd->features = 0;
    virtio_lock(vd);
    for (unsigned i = 0; i < vd->nr_queues; i++)
        queue_reset(&vd->queues[i]);
    vd->irq_queues = 0;
    vd->broken = vd->broken_told = vd->resetting = false;
    virtio_unlock(vd);
    cond_wake_all(&vd->idle);
}

void virtio_set_dma(struct virtio *vd, bool on)
{
    bool was;

    virtio_lock(vd);
    was = !vd->no_dma;
    vd->no_dma = !on;
    virtio_unlock(vd);
    /* What the driver told before is only seen now. */
    for (unsigned i = 0; on && !was && i < vd->nr_queues; i++)
        virtio_notify(vd, i);
}

/* What became due meanwhile, or in the machine whose snapshot this one goes on from. */
static void virtio_resumed(struct virtio *vd, bool config_due)
{
    if (config_due && vd->transport && (vd->status & VIRTIO_STATUS_DRIVER_OK))
        vd->transport->config_interrupt(vd->transport_arg);
    if (vd->transport && vd->transport->fds_changed)
        vd->transport->fds_changed(vd->transport_arg);
    virtio_signal_locked(vd);
    for (unsigned i = 0; i < vd->nr_queues; i++)
        virtio_notify(vd, i);
}

void virtio_set_paused(struct virtio *vd, bool on)
{
    bool was, config_due;

    assert_held(bus_lock(vd->bus));
    virtio_lock(vd);
    was = vd->paused;
    vd->paused = on;
    config_due = vd->config_due;
    vd->config_due &= on;
    virtio_unlock(vd);
    if (was && !on)
        virtio_resumed(vd, config_due);
}

/* ---- queues and configuration ---- */

void virtq_enable(struct virtq *q)
{
    struct virtio *vd = q->vd;

    if (virtq_resetting(q) || q->enabled || vd->resetting)
        return;
    virtio_lock(vd);
    if (!q->nr_out) {
        q->enabled = true;
        if (vd->status & VIRTIO_STATUS_DRIVER_OK)
            virtq_start(q);
    }
    virtio_unlock(vd);
    virtio_signal_locked(vd);
}

void virtq_disable(struct virtq *q)
{
    struct virtio *vd = q->vd;

    virtio_lock(vd);
    q->enabled = q->usable = false;
    virtio_unlock(vd);
    if (vd->type->queue_reset && !vd->resetting)
        vd->type->queue_reset(vd, q);
}

void virtq_reset(struct virtq *q)
{
    struct virtio *vd = q->vd;

    if (!virtio_has(vd, VIRTIO_F_RING_RESET) || !q->enabled || vd->resetting)
        return;
    virtio_lock(vd);
    q->usable = false;
    q->resetting = true;
    virtio_unlock(vd);
    if (vd->type->queue_reset)
        vd->type->queue_reset(vd, q);
}

/* Chains that come back tell nobody: it is over when somebody asks. */
void virtq_end_reset(struct virtq *q)
{
    assert_held(&q->vd->lock);
    if (!q->resetting || q->nr_out)
        return;
    queue_reset(q);
    q->vd->irq_queues &= ~BIT64(q->idx);
}

bool virtq_resetting(struct virtq *q)
{
    bool still;

    virtio_lock(q->vd);
    virtq_end_reset(q);
    still = q->resetting;
    virtio_unlock(q->vd);
    return still;
}

bool virtq_ready(const struct virtq *q)
{
    bool ready;

    virtio_lock(q->vd);
    ready = q->enabled || q->nr_out;
    virtio_unlock(q->vd);
    return ready;
}

void virtio_notify(struct virtio *vd, uint32_t queue_idx)
{
    struct virtq *q = virtio_queue(vd, queue_idx);
    bool usable;

    if (!q)
        return;
    virtio_lock(vd);
    usable = q->usable && virtio_may_work(vd);
    virtio_unlock(vd);
    if (usable)
        vd->type->notify(vd, q);
}

int virtio_notify_fd(struct virtio *vd, uint32_t queue_idx)
{
    struct virtq *q = virtio_queue(vd, queue_idx);

    if (!q || !q->enabled || vd->no_fds || vd->resetting || !vd->type->notify_fd ||
        !(vd->status & VIRTIO_STATUS_DRIVER_OK))
        return -1;
    return vd->type->notify_fd(vd, q);
}

void virtio_set_fds(struct virtio *vd, bool on)
{
    assert_held(bus_lock(vd->bus));
    vd->no_fds = !on;
    if (vd->transport && vd->transport->fds_changed)
        vd->transport->fds_changed(vd->transport_arg);
}

/* Accesses behind the end: zeros, and nothing. */
void virtio_config_read(struct virtio *vd, uint64_t off_bytes, void *buf, uint32_t bytes)
{
    memset(buf, 0, bytes);
    if (off_bytes >= vd->config_bytes)
        return;
    bytes = (uint32_t)MIN(bytes, vd->config_bytes - off_bytes);
    if (vd->type->config_read)
        vd->type->config_read(vd, (uint32_t)off_bytes, buf, bytes);
    else
        memcpy(buf, (const uint8_t *)vd->config + off_bytes, bytes);
}

void virtio_config_write(struct virtio *vd, uint64_t off_bytes, const void *buf, uint32_t bytes)
{
    if (off_bytes >= vd->config_bytes || bytes > vd->config_bytes - off_bytes)
        return;
    if (vd->type->config_write && !vd->resetting)
        vd->type->config_write(vd, (uint32_t)off_bytes, buf, bytes);
}
