/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory: the kernel's regions, made from the mmu's slots, and its log of written pages.
 *
 * ROM is a read-only region: a write comes as an MMIO exit and goes to nobody, as on the other
 * engines. What is no region is a device's, or nobody's.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

static uint32_t region_flags(const struct slot *s)
{
    return (s->flags & SLOT_RO ? KVM_MEM_READONLY : 0) |
           (s->flags & SLOT_LOG_DIRTY ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

static int region_tell(struct kvm_vm *vm, unsigned nr, const struct kvm_region *r)
{
    struct kvm_userspace_memory_region m = {
        .slot = nr,
        .flags = r->flags,
        .guest_phys_addr = r->base,
        .memory_size = r->bytes,
        .userspace_addr = (uintptr_t)r->hva,
    };

    return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &m);
}

/* The slot that this region was made from, if it is still as it was, flags aside. */
static struct slot *slot_of(struct kvm_vm *vm, const struct kvm_region *r)
{
    struct slot *s = mmu_slot_find(vm->ivm.evm.cfg.mmu, GPA(r->base));

    if (!s || s->base.v != r->base || s->bytes != r->bytes || s->hva != r->hva)
        return NULL;
    return (region_flags(s) ^ r->flags) & KVM_MEM_READONLY ? NULL : s;
}

static struct kvm_region *region_of(struct kvm_vm *vm, const struct slot *s)
{
    for (unsigned i = 0; i < KVM_REGIONS_MAX; i++)
        if (vm->regions[i].bytes && vm->regions[i].base == s->base.v)
            return &vm->regions[i];
    return NULL;
}

static int drop_old(struct kvm_vm *vm)
{
    for (unsigned i = 0; i < KVM_REGIONS_MAX; i++) {
        struct kvm_region *r = &vm->regions[i];
        int err;

        if (!r->bytes || slot_of(vm, r))
            continue;
        r->bytes = 0;
        err = region_tell(vm, i, r);
        if (err)
            return err;
    }
    return 0;
}

static int put_new(struct kvm_vm *vm, const struct slot *s)
{
    struct kvm_region *r = region_of(vm, s);
    uint32_t flags = region_flags(s);

    if (r && r->flags == flags)
        return 0;
    for (unsigned i = 0; !r && i < KVM_REGIONS_MAX; i++)
        if (!vm->regions[i].bytes)
            r = &vm->regions[i];
    if (!r)
        return -ENOSPC;
    *r = (struct kvm_region){ .base = s->base.v, .bytes = s->bytes, .hva = s->hva, .flags = flags };
    return region_tell(vm, (unsigned)(r - vm->regions), r);
}

static int regions_sync(struct kvm_vm *vm)
{
    struct mmu *m = vm->ivm.evm.cfg.mmu;
    uint64_t gen = mmu_slots_gen(m);
    const struct slot *s;
    int err = drop_old(vm);

    assert_held(&vm->lock);
    for (unsigned i = 0; !err && (s = mmu_slot_at(m, i)); i++)
        if (s->base.v < MMU_PARKED_AT)
            err = put_new(vm, s);
    if (err && !vm->regions_failed)
        log_error("/dev/kvm does not take the guest's memory: %s", strerror(-err));
    vm->regions_failed = err;
    if (!err)
        vm->slots_gen = gen;
    return err;
}

int kvm_sync_slots(struct kvm_vm *vm)
{
    int err = 0;

    lock_take(&vm->lock);
    if (vm->slots_gen != mmu_slots_gen(vm->ivm.evm.cfg.mmu))
        err = regions_sync(vm);
    lock_drop(&vm->lock);
    return err;
}

/* ---- the log ---- */

static void note_dirty(struct slot *s, const uint64_t *bitmap)
{
    uint64_t nr_pages = s->bytes >> PAGE_SHIFT;

    for (uint64_t w = 0; w < (nr_pages + 63) / 64; w++)
        for (uint64_t left = bitmap[w]; left; left &= left - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(left);

            /* Release: as in mmu_slot_written(). */
            if (page < nr_pages)
                (void)atomic_fetch_or_explicit(&s->notes[page], PAGE_NOTE_DIRTY,
                                               memory_order_release);
        }
}

static int fetch_log(struct kvm_vm *vm, const struct kvm_region *r)
{
    struct slot *s = slot_of(vm, r);
    struct kvm_dirty_log log = { .slot = (uint32_t)(r - vm->regions) };
    int err;

    log.dirty_bitmap = calloc((r->bytes >> PAGE_SHIFT) / 64 + 1, sizeof(uint64_t));
    if (!log.dirty_bitmap)
        return -ENOMEM;
    /* Reading clears it, and write-protects the pages again. */
    err = kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
    if (!err && s)
        note_dirty(s, log.dirty_bitmap);
    free(log.dirty_bitmap);
    return err;
}

int kvm_sync_dirty(struct engine_vm *evm)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    int err;

    lock_take(&vm->lock);
    /* What was logged so far comes before a change of the flags, which ends a region's log. */
    err = 0;
    for (unsigned i = 0; !err && i < KVM_REGIONS_MAX; i++)
        if (vm->regions[i].bytes && (vm->regions[i].flags & KVM_MEM_LOG_DIRTY_PAGES))
            err = fetch_log(vm, &vm->regions[i]);
    if (!err)
        err = regions_sync(vm);
    lock_drop(&vm->lock);
    return err;
}
