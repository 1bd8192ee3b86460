/* SPDX-License-Identifier: Apache-2.0 */
/* What users ask of the memory balloon besides its size. */
#include "virtio/balloon.h"

#include <errno.h>

#include "vm/priv.h"

static struct virtio_balloon *hinting_balloon(struct vm *vm)
{
    return vm->cfg.balloon_hints ? pc_balloon(vm->pc) : NULL;
}

int vm_hint_start(struct vm *vm, bool acknowledge)
{
    struct virtio_balloon *b = hinting_balloon(vm);

    return b ? virtio_balloon_hint_start(b, acknowledge) : -ENOENT;
}

int vm_hint_stop(struct vm *vm)
{
    struct virtio_balloon *b = hinting_balloon(vm);

    return b ? virtio_balloon_hint_stop(b) : -ENOENT;
}

int vm_hint_status(struct vm *vm, uint32_t *host, int64_t *guest)
{
    struct virtio_balloon *b = hinting_balloon(vm);
    uint32_t said;

    if (!b)
        return -ENOENT;
    *guest = virtio_balloon_hint_status(b, host, &said) ? (int64_t)said : -1;
    return 0;
}
