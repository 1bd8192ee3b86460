/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the host as memory of the guest: between RAM and the window for PCI's 64-bit BARs. */
#include <errno.h>
#include <string.h>

#include "boot/boot.h"
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

int vm_pmem_map(struct vm *vm, const struct vm_pmem *p, gpa_t at)
{
    struct slot *slot;
    int err;

    if (p->bytes > PC_PCI_MMIO64_AT || at.v + p->bytes > PC_PCI_MMIO64_AT) {
        log_error("%s: there is no room for %llu MiB between RAM and %#llx", p->name,
                  (unsigned long long)p->bytes >> 20, PC_PCI_MMIO64_AT);
        return -ENOSPC;
    }
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
