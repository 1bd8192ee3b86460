/* SPDX-License-Identifier: Apache-2.0 */
/* What can be changed about the disks of a VM that runs: size, limits, the image itself. */
#include <errno.h>

#include "virtio/blk.h"
#include "vm/priv.h"

#define SETTLE_NS 10000000000ull /* a disk that answers at all has done so by then */

static int disk_claim(struct vm *vm)
{
    if (vm_claim(vm))
        return 0;
    log_error("%s: a snapshot is being made just now, or a disk changed", vm->name);
    return -EBUSY;
}

int vm_resize_disk(struct vm *vm, unsigned disk, uint64_t bytes)
{
    int err = disk_claim(vm); /* or its image might be replaced meanwhile */

    if (err)
        return err;
    err = pc_resize_disk(vm->pc, disk, bytes);
    vm_unclaim(vm);
    return err;
}

int vm_limit_disk(struct vm *vm, unsigned disk, uint64_t requests_per_s, uint64_t bytes_per_s)
{
    struct virtio_blk *b = pc_disk(vm->pc, disk);

    if (!b)
        return -ENOENT;
    virtio_blk_limit(
        b, &(struct blk_limits){ .requests_per_s = requests_per_s, .bytes_per_s = bytes_per_s });
    return 0;
}

int vm_replace_disk(struct vm *vm, unsigned disk, struct store *store)
{
    struct virtio_blk *b = pc_disk(vm->pc, disk);
    int err;

    if (!b)
        return -ENOENT;
    err = disk_claim(vm);
    if (err)
        return err;
    vm_pause(vm);
    err = vm_settle(vm, SETTLE_NS);
    if (!err)
        err = virtio_blk_replace(b, store);
    if (!err) {
        lock_take(&vm->lock); /* somebody may be reading the old one's counts */
        vm->cfg.disks[disk].store = store;
        lock_drop(&vm->lock);
    }
    vm_resume(vm);
    vm_unclaim(vm);
    return err;
}
