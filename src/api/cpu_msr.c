/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msr_modifiers of /cpu-config: what MSRs hold when the guest starts. Those that a guest may write
 * and that mean the same to it whenever it does so can be changed; all others follow from the
 * features, or are the machine's.
 */
#include <stddef.h>

#include "api/priv.h"
#include "cpu/regs.h"
#include "engine/engine.h"
#include "lib/log.h"

#define MSR_MISC_ENABLE 0x1a0

static const struct {
    uint32_t first, last;
} settable[] = {
    { MSR_SYSENTER_CS, MSR_SYSENTER_EIP },
    { MSR_MISC_ENABLE, MSR_MISC_ENABLE },
    { MSR_PAT, MSR_PAT },
    { MSR_STAR, MSR_SFMASK },
    { MSR_KERNEL_GS_BASE, MSR_TSC_AUX },
};

bool cpu_msr_settable(uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(settable); i++)
        if (msr >= settable[i].first && msr <= settable[i].last)
            return true;
    return false;
}

/* As a guest's WRMSR: what that refuses, or does not keep, cannot be. */
static int set_one(struct cpu *c, uint32_t msr, const struct bitmap *map)
{
    uint64_t now, val;

    if (cpu_rdmsr(c, msr, &now) != STEP_NEXT) {
        log_error("cpu-config: these CPUs have no MSR %#x", msr);
        return -1;
    }
    val = (now & ~map->mask) | map->val;
    if (cpu_wrmsr(c, msr, val) == STEP_NEXT && cpu_rdmsr(c, msr, &now) == STEP_NEXT && now == val)
        return 0;
    log_error("cpu-config: MSR %#x cannot be %#llx", msr, (unsigned long long)val);
    return -1;
}

int machine_set_msrs(struct api *a)
{
    json_t *item;
    size_t i;

    json_array_foreach(json_object_get(a->cpu_config, "msr_modifiers"), i, item)
    {
        struct bitmap map;
        uint32_t msr;

        if (!cpu_msr_parse(item, &msr, &map) || !map.mask)
            continue;
        for (unsigned cpu = 0; cpu < vm_nr_vcpus(a->m.vm); cpu++)
            if (set_one(&vm_vcpu(a->m.vm, cpu)->cpu, msr, &map) < 0)
                return -1;
    }
    vm_state_changed(a->m.vm);
    return 0;
}
