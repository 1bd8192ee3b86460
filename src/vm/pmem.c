/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies between RAM and the window for PCI's 64-bit BARs: files of the host as memory of the
 * guest, and memory that the guest plugs when it is wanted to have more.
 */
#include <errno.h>
#include <string.h>

#include "boot/boot.h"
#include "virtio/mem.h"
#include "vm/priv.h"

gpa_t vm_pmem_first(const struct vm_config *cfg)
{
    uint64_t ram = cfg->boot.ram_bytes;

    return GPA(align_up(GIB(4) + ram - MIN(ram, PC_LOW_RAM_MAX), GIB(1)));
}

/* Page by page what the file has; holes stay holes. */
static int pmem_copy(const struct vm_pmem *p, struct slot *s)
{
    for (uint64_t start, end, at = 0; host_data_next(p->fd, at, &start, &end) && start < p->bytes;
         at = end) {
        int err;

        end = MIN(end, p->bytes);
        err = host_read_at(p->fd, s->hva + start, end - start, start);
        if (err)
            return err;
    }
    return 0;
}

static int room_check(const char *name, gpa_t at, uint64_t bytes)
{
    if (bytes <= PC_PCI_MMIO64_AT && at.v + bytes <= PC_PCI_MMIO64_AT)
        return 0;
    log_error("%s: there is no room for %llu MiB between RAM and %#llx", name,
              (unsigned long long)bytes >> 20, PC_PCI_MMIO64_AT);
    return -ENOSPC;
}

int vm_pmem_map(struct vm *vm, const struct vm_pmem *p, gpa_t at)
{
    struct slot *slot;
    int err = room_check(p->name, at, p->bytes);

    if (err)
        return err;
    err = mmu_slot_add(vm->mmu,
                       &(struct slot_desc){ .name = p->name,
                                            .base = at,
                                            .bytes = p->bytes,
                                            .flags = p->read_only ? SLOT_RO : SLOT_FILE,
                                            .file = p->fd },
                       &slot);
    if (!err && p->read_only)
        err = pmem_copy(p, slot);
    if (err)
        log_error("%s: the file cannot be the guest's memory: %s", p->name, strerror(-err));
    return err;
}

/* ---- memory that is plugged later ---- */

/* Guests plug in units of up to 1 GiB. */
gpa_t vm_hotplug_at(const struct vm_config *cfg)
{
    gpa_t at = vm_pmem_first(cfg);

    for (unsigned i = 0; i < cfg->nr_pmems; i++)
        at = gpa_add(at, cfg->pmems[i].bytes);
    return GPA(align_up(at.v, GIB(1)));
}

int vm_hotplug_map(struct vm *vm, gpa_t at, struct slot **out)
{
    int err = room_check("hotplug", at, vm->cfg.hotplug_bytes);

    return err ? err
               : mmu_slot_add(vm->mmu,
                              &(struct slot_desc){ .name = "hotplug",
                                                   .base = GPA(VM_HOTPLUG_PARKED_AT),
                                                   .bytes = vm->cfg.hotplug_bytes },
                              out);
}

int vm_remap_mem(struct vm *vm, struct virtio_mem *m, bool *changed)
{
    /* An engine that has the processor log writes loses that log with a slot. */
    int err = vm_sync_dirty(vm);

    *changed = false;
    if (err)
        log_error("%s: the log of what the guest wrote cannot be read: %s", vm->name,
                  strerror(-err));
    return err ? err : virtio_mem_apply(m, changed);
}

int vm_show_plugged(struct vm *vm)
{
    bool changed;

    return pc_mem(vm->pc) ? virtio_mem_apply_locked(pc_mem(vm->pc), &changed) : 0;
}

int vm_hotplug(struct vm *vm, uint64_t bytes)
{
    struct virtio_mem *m = pc_mem(vm->pc);

    return m ? virtio_mem_request(m, bytes) : -ENOENT;
}

int vm_hotplug_sizes(struct vm *vm, uint64_t *plugged_bytes, uint64_t *requested_bytes)
{
    struct virtio_mem *m = pc_mem(vm->pc);

    if (!m)
        return -ENOENT;
    virtio_mem_sizes(m, plugged_bytes, requested_bytes);
    return 0;
}
