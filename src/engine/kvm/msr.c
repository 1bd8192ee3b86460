/* SPDX-License-Identifier: Apache-2.0 */
/*
 * MSRs. The kernel answers those that take part in running code; every other one exits to the
 * semantic core, so that a guest finds the same MSRs under every engine.
 *
 * Writes of TSC and TSC_ADJUST are the core's as well: together with the VM clock they make the one
 * offset that the kernel is told (kvm_update_tsc()).
 */
#include <errno.h>
#include <linux/kvm_para.h>
#include <stdio.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_VIRT_SPEC_CTRL    0xc001011fu

/* ---- the filter ---- */

/* Ranges whose bitmaps say which MSRs are the kernel's; what is in none is ours. */
struct msr_range {
    uint32_t first;
    const uint32_t *msrs; /* the kernel's in it, 0 ends the list */
    uint32_t flags;
    enum { ALWAYS, WITH_SPLIT, WITH_VMX, WITH_SVM, PV } when;
};

static const uint32_t low_both[] = { MSR_SPEC_CTRL, MSR_PRED_CMD, 0 };
static const uint32_t tsc_read[] = { MSR_TSC, 0 };
/* What the processor is immune against: the truth about the one that runs the guest's code. */
static const uint32_t arch_read[] = { MSR_ARCH_CAPABILITIES, 0 };
static const uint32_t mid_both[] = { MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, 0 };
static const uint32_t pat_both[] = { MSR_PAT, 0 };
static const uint32_t high_both[] = {
    MSR_EFER,    MSR_STAR,    MSR_LSTAR,          MSR_CSTAR,   MSR_SFMASK,
    MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX, 0
};
/* As far as kvm_has_pv_msr() says. */
static const uint32_t pv_both[] = { MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_STEAL_TIME, MSR_KVM_PV_EOI,
                                    0 };
static const uint32_t pv_old_both[] = { MSR_KVM_SYSTEM_TIME, 0 };
static const uint32_t amd_both[] = { MSR_VIRT_SPEC_CTRL, 0 };

#define BOTH (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)
/* With the local APIC in the kernel; x2APIC's registers are then its own without being asked. */
static const uint32_t apic_base_both[] = { MSR_APIC_BASE, 0 };
static const uint32_t deadline_both[] = { MSR_TSC_DEADLINE, 0 };

/* For guests that have guests. */
static const uint32_t vmx_control_both[] = { MSR_FEATURE_CONTROL, 0 };
static const uint32_t vmx_read[] = { 0x480, 0x481, 0x482, 0x483, 0x484, 0x485, 0x486,
                                     0x487, 0x488, 0x489, 0x48a, 0x48b, 0x48c, 0x48d,
                                     0x48e, 0x48f, 0x490, 0x491, 0 };
static const uint32_t svm_both[] = { MSR_VM_CR, MSR_VM_HSAVE_PA, 0 };

static const struct msr_range ranges[] = {
    { 0x18, apic_base_both, BOTH, WITH_SPLIT },
    { MSR_TSC_DEADLINE, deadline_both, BOTH, WITH_SPLIT },
    { MSR_FEATURE_CONTROL, vmx_control_both, BOTH, WITH_VMX },
    { 0x480, vmx_read, KVM_MSR_FILTER_READ, WITH_VMX },
    { MSR_VM_CR, svm_both, BOTH, WITH_SVM },
    { 0x10, tsc_read, KVM_MSR_FILTER_READ, ALWAYS },
    { 0x48, low_both, BOTH, ALWAYS },
    { 0x108, arch_read, KVM_MSR_FILTER_READ, ALWAYS },
    { 0x170, mid_both, BOTH, ALWAYS },
    { 0x270, pat_both, BOTH, ALWAYS },
    { MSR_EFER, high_both, BOTH, ALWAYS },
    { MSR_FS_BASE, high_both, BOTH, ALWAYS },
    { MSR_KVM_WALL_CLOCK_NEW, pv_both, BOTH, PV },
    { MSR_KVM_WALL_CLOCK, pv_old_both, BOTH, PV },
    { MSR_VIRT_SPEC_CTRL, amd_both, BOTH, ALWAYS },
};
#define RANGE_MSRS 24u

static bool applies(const struct kvm_vm *vm, const struct msr_range *r, uint32_t msr)
{
    switch (r->when) {
    case WITH_SPLIT:
        return vm->split;
    case WITH_VMX:
        return model_has(vm->ivm.evm.cfg.model, FEAT_VMX);
    case WITH_SVM:
        return model_has(vm->ivm.evm.cfg.model, FEAT_SVM);
    case PV:
        return kvm_has_pv_msr(vm, msr);
    default:
        return true;
    }
}

int kvm_set_msr_filter(const struct kvm_vm *vm)
{
    uint32_t maps[ARRAY_SIZE(ranges)] = { 0 };
    struct kvm_msr_filter f = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
    struct kvm_enable_cap cap = {
        .cap = KVM_CAP_X86_USER_SPACE_MSR,
        .args = { KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN |
                  KVM_MSR_EXIT_REASON_FILTER },
    };
    unsigned to = 0;
    int err = kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &cap);

    if (err)
        return err;
    static_assert(ARRAY_SIZE(ranges) <= KVM_MSR_FILTER_MAX_RANGES, "so many the kernel takes");
    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        const struct msr_range *r = &ranges[i];
        uint32_t nr = 0;

        for (const uint32_t *msr = r->msrs; *msr; msr++)
            if (*msr - r->first < RANGE_MSRS && applies(vm, r, *msr)) {
                maps[i] |= BIT(*msr - r->first);
                nr = MAX(nr, *msr - r->first + 1);
            }
        if (!nr)
            continue;
        f.ranges[to++] = (struct kvm_msr_filter_range){
            .flags = r->flags, .nmsrs = nr, .base = r->first, .bitmap = (uint8_t *)&maps[i]
        };
    }
    return kvm_ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &f);
}

/* ---- moving them ---- */

#define OFF(field) offsetof(struct cpu, field)
static const struct {
    uint32_t msr;
    size_t at; /* of a uint64_t in struct cpu */
    enum cpu_feature need;
} moved[] = {
    { MSR_SYSENTER_CS, OFF(sysenter_cs), FEAT_SEP },
    { MSR_SYSENTER_ESP, OFF(sysenter_esp), FEAT_SEP },
    { MSR_SYSENTER_EIP, OFF(sysenter_eip), FEAT_SEP },
    { MSR_SPEC_CTRL, OFF(spec_ctrl), FEAT_SPEC_CTRL },
    { MSR_PAT, OFF(pat), FEAT_PAT },
    { MSR_STAR, OFF(star), FEAT_SYSCALL },
    { MSR_LSTAR, OFF(lstar), FEAT_LM },
    { MSR_CSTAR, OFF(cstar), FEAT_LM },
    { MSR_SFMASK, OFF(sfmask), FEAT_LM },
    { MSR_KERNEL_GS_BASE, OFF(kernel_gs_base), FEAT_LM },
    { MSR_TSC_AUX, OFF(tsc_aux), FEAT_RDTSCP },
};
static_assert(ARRAY_SIZE(moved) == KVM_MSRS_MOVED, "struct kvm_msr_table has room for all");

void kvm_make_msrs(const struct cpu *c, struct kvm_msr_table *l)
{
    memset(l, 0, sizeof(*l));
    for (unsigned i = 0; i < ARRAY_SIZE(moved); i++)
        if (model_has(c->model, moved[i].need))
            l->entries[l->head.nmsrs++] = (struct kvm_msr_entry){
                .index = moved[i].msr, .data = *(const uint64_t *)((const char *)c + moved[i].at)
            };
}

static uint64_t *msr_field(struct kvm_vcpu *k, uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(moved); i++)
        if (moved[i].msr == msr)
            return (uint64_t *)((char *)CPU(&k->iv) + moved[i].at);
    return NULL;
}

int kvm_msrs_moved(const struct kvm_msr_table *l, int done, const char *what)
{
    if (done == (int)l->head.nmsrs)
        return 0;
    if (done >= 0)
        log_error("/dev/kvm does not %s MSR %#x (%#llx)", what, l->entries[done].index,
                  (unsigned long long)l->entries[done].data);
    return done < 0 ? done : -EIO;
}

int kvm_export_msrs(struct kvm_vcpu *k)
{
    struct kvm_msr_table l;
    int err;

    kvm_make_msrs(CPU(&k->iv), &l);
    err = kvm_msrs_moved(&l, kvm_ioctl(k->fd, KVM_GET_MSRS, &l), "give");
    for (unsigned i = 0; !err && i < l.head.nmsrs; i++)
        *msr_field(k, l.entries[i].index) = l.entries[i].data;
    return err;
}

void kvm_reset_msrs(struct kvm_vcpu *k)
{
    static const uint32_t msrs[] = { MSR_KVM_SYSTEM_TIME_NEW, MSR_KVM_SYSTEM_TIME,
                                     MSR_KVM_STEAL_TIME,      MSR_KVM_PV_EOI,
                                     MSR_SPEC_CTRL,           MSR_VIRT_SPEC_CTRL,
                                     MSR_FEATURE_CONTROL,     MSR_VM_CR,
                                     MSR_VM_HSAVE_PA };

    /* One by one: the kernel refuses those that it does not offer, which hold nothing then. */
    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        struct {
            struct kvm_msrs head;
            struct kvm_msr_entry entry;
        } l = { .head = { .nmsrs = 1 }, .entry = { .index = msrs[i] } };

        (void)kvm_ioctl(k->fd, KVM_SET_MSRS, &l);
    }
}

/* ---- TSC ---- */

static int set_tsc_offset(struct kvm_vcpu *k, uint64_t offset)
{
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
                                    .attr = KVM_VCPU_TSC_OFFSET,
                                    .addr = (uintptr_t)&offset };
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } l = { .head = { .nmsrs = 1 }, .entry = { .index = MSR_TSC } };

    if (k->vm->tsc_offset)
        return kvm_ioctl(k->fd, KVM_SET_DEVICE_ATTR, &attr);
    /* Before Linux 5.16: the value of now. vCPUs that are set at nearly the same time get the same
     * offset from the kernel. */
    l.entry.data = host_tsc() + offset;
    return MIN(kvm_ioctl(k->fd, KVM_SET_MSRS, &l), 0);
}

/* The kernel's own paravirtual clock tells the same time: it, too, stands still while the VM does.
 */
static int set_clock(struct kvm_vm *vm, uint64_t offset)
{
    const struct engine_config *cfg = &vm->ivm.evm.cfg;
    struct kvm_clock_data d = { .clock = cfg->time_ops->now_ns(cfg->ctx) };
    int err = 0;

    lock_take(&vm->lock);
    if (!vm->clock_told || vm->clock_offset != offset)
        err = kvm_ioctl(vm->fd, KVM_SET_CLOCK, &d);
    vm->clock_told = !err;
    vm->clock_offset = offset;
    lock_drop(&vm->lock);
    return err;
}

int kvm_update_tsc(struct kvm_vcpu *k)
{
    const struct engine_config *cfg = &k->vm->ivm.evm.cfg;
    uint64_t offset = 0;
    int err;

    if (!cfg->time_ops->tsc_offset || !cfg->time_ops->tsc_offset(cfg->ctx, &offset))
        return 0; /* the clock stands still: we will come again */
    err = set_clock(k->vm, offset);
    offset += CPU(&k->iv)->tsc_adjust;
    if (!err && k->tsc_told && k->tsc_offset == offset)
        return 0;
    if (!err)
        err = set_tsc_offset(k, offset);
    if (!err && k->tsc_told)
        err = kvm_pv_tsc_changed(k);
    if (err) {
        log_error("/dev/kvm does not set the guest's clocks: %s", strerror(-err));
        return err;
    }
    k->tsc_told = true;
    k->tsc_offset = offset;
    return 0;
}

/* ---- exits ---- */

/* Those of the kernel's local APIC and of its paravirtual interface come here when it refuses: to
 * the core they would be another's. */
static bool is_refused(const struct kvm_vcpu *k, uint32_t msr)
{
    if (kvm_has_pv_msr(k->vm, msr))
        return true;
    return k->vm->split && (msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
                            msr - MSR_X2APIC_FIRST < APIC_PAGE_WORDS);
}

void kvm_exit_msr(struct kvm_vcpu *k)
{
    struct kvm_run *run = k->run;
    struct cpu *c = CPU(&k->iv);
    uint64_t t = vcpu_exit_begin(&k->iv.vc, EXIT_MSR), adjust = c->tsc_adjust, val = 0;
    enum step st;

    /* The kernel has checked the privilege; our copy of CPL may be old. */
    c->cpl = 0;
    if (is_refused(k, run->msr.index)) {
        st = STEP_FAULT;
    } else if (run->exit_reason == KVM_EXIT_X86_RDMSR) {
        st = cpu_rdmsr(c, run->msr.index, &val);
        run->msr.data = val;
    } else {
        st = cpu_wrmsr(c, run->msr.index, run->msr.data);
    }
    run->msr.error = st != STEP_NEXT;
    c->exc.valid = false; /* the kernel raises it */
    if (c->tsc_adjust != adjust && kvm_update_tsc(k) < 0)
        run->msr.error = 1;
    k->unfinished = true;
    vcpu_exit_end(&k->iv.vc, EXIT_MSR, t);
}
