/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DMA: how devices reach guest memory. Unlike mmu_read() and mmu_write() it behaves as a PCI master
 * does: what is not RAM reads as all ones, writes to it and to ROM are lost, and the rest of the
 * transfer goes on behind the hole.
 */
#include "mmu/mmu.h"

#include <errno.h>
#include <string.h>

#include "mmu/priv.h"

/* Bytes from `at` (which is in no slot) to the next slot, at most `bytes`. */
static uint64_t hole_run(struct mmu *m, gpa_t at, uint64_t bytes)
{
    for (unsigned i = 0; i < m->nr_slots; i++)
        if (m->slots[i]->base.v > at.v)
            return MIN(bytes, m->slots[i]->base.v - at.v);
    return bytes;
}

int dma_read(struct dma *d, gpa_t at, void *buf, uint64_t bytes)
{
    uint8_t *to = buf;
    int err = 0;

    lock_take(&d->mmu->slots_lock);
    while (bytes) {
        const struct slot *s = mmu_slot_find(d->mmu, at);
        uint64_t n = s ? slot_run(s, at, bytes) : hole_run(d->mmu, at, bytes);

        if (s) {
            mmu_copy(to, slot_hva(s, at), n);
        } else {
            memset(to, 0xff, n);
            err = -EFAULT;
        }
        at = gpa_add(at, n);
        to += n;
        bytes -= n;
    }
    lock_drop(&d->mmu->slots_lock);
    return err;
}

int dma_write(struct dma *d, gpa_t at, const void *buf, uint64_t bytes)
{
    const uint8_t *from = buf;
    int err = 0;

    lock_take(&d->mmu->slots_lock);
    while (bytes) {
        struct slot *s = mmu_slot_find(d->mmu, at);
        uint64_t n = s ? slot_run(s, at, bytes) : hole_run(d->mmu, at, bytes);

        if (s && !(s->flags & SLOT_RO)) {
            mmu_copy(slot_hva(s, at), from, n);
            mmu_slot_written(d->mmu, s, at, n);
        } else {
            err = -EFAULT;
        }
        at = gpa_add(at, n);
        from += n;
        bytes -= n;
    }
    lock_drop(&d->mmu->slots_lock);
    return err;
}

uint8_t *mmu_map(struct mmu *m, gpa_t at, uint64_t *bytes, enum mmu_use use)
{
    uint8_t *hva = NULL;
    const struct slot *s;

    lock_take(&m->slots_lock);
    s = mmu_slot_find(m, at);
    if (s && !(use == MMU_TO_WRITE && (s->flags & SLOT_RO))) {
        *bytes = slot_run(s, at, *bytes);
        hva = slot_hva(s, at);
    }
    lock_drop(&m->slots_lock);
    return hva;
}
