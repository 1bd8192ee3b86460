/* SPDX-License-Identifier: Apache-2.0 */
/* /hotplug/memory: memory that the guest gets and gives back while it runs. */
#include <errno.h>

#include "api/priv.h"

#define SLOT_MIB_DEFAULT  128u
#define BLOCK_MIB_DEFAULT 2u
#define MIB_MAX           (1u << 24)

static const struct field put_list[] = {
    { .name = "total_size_mib", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = MIB_MAX },
    { .name = "slot_size_mib", .type = FIELD_UINT, .max = MIB_MAX },
    { .name = "block_size_mib", .type = FIELD_UINT, .max = MIB_MAX },
};
const struct fields hotplug_fields = FIELDS(put_list);

static const struct field patch_list[] = {
    { .name = "requested_size_mib", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = MIB_MAX },
};
const struct fields hotplug_patch_fields = FIELDS(patch_list);

static bool is_power_of_2(uint64_t n)
{
    return n && !(n & (n - 1));
}

/* Slots are a thing of Firecracker's memory; here they only have to be right. */
static bool hotplug_ok(const json_t *h, struct reply *r)
{
    uint64_t total = field_uint(h, "total_size_mib", 0), slot = field_uint(h, "slot_size_mib", 0),
             block = field_uint(h, "block_size_mib", 0);

    if (block < BLOCK_MIB_DEFAULT || !is_power_of_2(block))
        reply_fault(r,
                    "Memory hotplug config error: Block size must be a power of 2, and not "
                    "lower than %u MiB.",
                    BLOCK_MIB_DEFAULT);
    else if (slot < SLOT_MIB_DEFAULT || slot % block)
        reply_fault(r,
                    "Memory hotplug config error: Slot size must be a multiple of the block "
                    "size, and not lower than %u MiB.",
                    SLOT_MIB_DEFAULT);
    else if (total < slot || total % slot)
        reply_fault(r, "Memory hotplug config error: Total size must be a multiple of the slot "
                       "size, and not lower than it.");
    else if (total / block > VM_HOTPLUG_BLOCKS_MAX)
        reply_fault(r,
                    "Memory hotplug config error: there are at most %u blocks; make them "
                    "larger.",
                    VM_HOTPLUG_BLOCKS_MAX);
    else
        return true;
    return false;
}

void hotplug_put(struct api *a, const struct request *rq, struct reply *r)
{
    json_t *all = json_pack("{s:i, s:i}", "slot_size_mib", SLOT_MIB_DEFAULT, "block_size_mib",
                            BLOCK_MIB_DEFAULT);

    if (!all || json_object_update(all, rq->body) < 0)
        reply_json(r, NULL);
    else if (hotplug_ok(all, r))
        (void)keep(a, &a->hotplug, all, r);
    json_decref(all);
}

void hotplug_patch(struct api *a, const struct request *rq, struct reply *r)
{
    int err = vm_hotplug(a->m.vm, field_uint(rq->body, "requested_size_mib", 0) << 20);

    if (err == -ENOENT)
        reply_fault(r, "Memory hotplug config error: No memory hotplug device found.");
    else if (err)
        reply_fault(r, "Memory hotplug config error: the size has to be a multiple of the block "
                       "size, and not larger than the total size.");
}

void hotplug_get(struct api *a, const struct request *rq, struct reply *r)
{
    uint64_t plugged, requested;
    json_t *all;

    (void)rq;
    if (vm_hotplug_sizes(a->m.vm, &plugged, &requested) < 0) {
        reply_fault(r, "Memory hotplug config error: No memory hotplug device found.");
        return;
    }
    all = json_pack("{s:I, s:I}", "plugged_size_mib", (json_int_t)(plugged >> 20),
                    "requested_size_mib", (json_int_t)(requested >> 20));
    if (all && json_object_update(all, a->hotplug) < 0) {
        json_decref(all);
        all = NULL;
    }
    reply_json(r, all);
}
