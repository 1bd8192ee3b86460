/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's paravirtual interface (docs/paravirt.md), as far as the kernel makes it: its MSRs are then
 * in the kernel, with what they register in guest memory, and struct pv is empty, so that the core
 * does nothing beside it. Hypercalls are the kernel's whatever the controller.
 *
 * Struct pv has them (`pv_here`) before a vCPU first runs, in a snapshot, and while interp runs the
 * vCPU: for the debugger, or from an instruction that reads or writes one of them (hook_pv_msr() in
 * kvm.c) to the next entry. The date (WALL_CLOCK) is the core's always: it is written once, when
 * the guest asks, and a restored guest may have other things there.
 */
#include <errno.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

#define LOG_KVM_PV (0x4b59ull << 48)
#define ENABLED    BIT64(0)

#define OFF(field) offsetof(struct pv, field)
static const struct {
    uint32_t msr;
    size_t at; /* of a uint64_t in struct pv */
    enum cpu_feature need;
    bool by_apic; /* only the kernel's local APIC does it */
} kernels[] = {
    { MSR_KVM_SYSTEM_TIME_NEW, OFF(clock), FEAT_KVM_CLOCK2, false },
    { MSR_KVM_SYSTEM_TIME, OFF(clock), FEAT_KVM_CLOCK, false },
    { MSR_KVM_STEAL_TIME, OFF(steal), FEAT_KVM_STEAL_TIME, false },
    { MSR_KVM_PV_EOI, OFF(eoi), FEAT_KVM_PV_EOI, true },
};

static bool is_kernels(const struct kvm_vm *vm, unsigned i)
{
    return model_has(vm->ivm.evm.cfg.model, kernels[i].need) && (vm->split || !kernels[i].by_apic);
}

bool kvm_has_pv_msr(const struct kvm_vm *vm, uint32_t msr)
{
    for (unsigned i = 0; i < ARRAY_SIZE(kernels); i++)
        if (kernels[i].msr == msr)
            return is_kernels(vm, i);
    return false;
}

/* As kvm_has_pv_msr(), but one MSR of each field: the clock's two are one. */
static bool is_moved(const struct kvm_vm *vm, unsigned i)
{
    for (unsigned j = 0; j < i; j++)
        if (kernels[j].at == kernels[i].at && is_kernels(vm, j))
            return false;
    return is_kernels(vm, i);
}

static uint64_t *field(struct kvm_vcpu *k, unsigned i)
{
    return (uint64_t *)((char *)&CPU(&k->iv)->pv + kernels[i].at);
}

void kvm_enforce_pv(struct kvm_vcpu *k)
{
    struct log_seen *seen = k->vm->ivm.evm.cfg.seen;
    int err = -ENOTSUP;

    if (kvm_ioctl_num(k->vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_ENFORCE_PV_FEATURE_CPUID) > 0)
        err = kvm_enable(k->fd, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1);
    if (err && log_first(seen, LOG_KVM_PV))
        log_warn("/dev/kvm serves hypercalls that the guest's CPUID does not show: %s",
                 strerror(-err));
}

/* ---- from the kernel ---- */

void kvm_copy_pv(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct mmu *mmu = k->vm->ivm.evm.cfg.mmu;

    if (k->pv_here)
        return;
    /* What the kernel does not give stays 0: the restored guest's clock then is one that stopped.
     */
    for (unsigned i = 0; i < ARRAY_SIZE(kernels); i++)
        if (is_moved(k->vm, i) && kvm_get_msr(k, kernels[i].msr, field(k, i)) < 0)
            *field(k, i) = 0;
    /* The kernel adds to what is in memory, and has it nowhere else. */
    c->pv.steal_ns = 0;
    if ((c->pv.steal & ENABLED) &&
        mmu_read(mmu, GPA(c->pv.steal & ~ENABLED), &c->pv.steal_ns, 8) != 8)
        c->pv.steal_ns = 0;
    /* Whether a kick waits for the next HLT, the kernel does not tell (but it does for one that
     * came to a HLT). One too many is allowed, one too few may be the guest's end. */
    if (k->vm->split && model_has(c->model, FEAT_KVM_PV_UNHALT) && c->activity == CPU_RUNNING)
        c->pv.kicked = true;
    k->pv_here = true;
}

void kvm_take_pv(struct kvm_vcpu *k)
{
    if (k->pv_taken)
        return;
    kvm_copy_pv(k); /* or a snapshot has */
    for (unsigned i = 0; i < ARRAY_SIZE(kernels); i++)
        if (is_moved(k->vm, i) && *field(k, i) && kvm_set_msr(k, kernels[i].msr, 0) < 0)
            *field(k, i) = 0; /* then it keeps it */
    k->pv_taken = true;
    (void)cpu_pv_back(CPU(&k->iv)); /* until Linux 6.0 a vCPU outside the guest has its flag set */
}

/* ---- to the kernel ---- */

static bool has_any(struct kvm_vcpu *k)
{
    for (unsigned i = 0; i < ARRAY_SIZE(kernels); i++)
        if (is_moved(k->vm, i) && *field(k, i))
            return true;
    return false;
}

static int set_field(struct kvm_vcpu *k, unsigned i)
{
    int err = 0;

    if (*field(k, i))
        err = kvm_set_msr(k, kernels[i].msr, *field(k, i));
    /* The core takes an address outside RAM, and does nothing there; so it is without. */
    if (err && kernels[i].msr == MSR_KVM_PV_EOI)
        err = 0;
    if (err)
        log_error("vCPU %u: /dev/kvm does not take MSR %#x (%#llx): %s", k->iv.vc.cpu.id,
                  kernels[i].msr, (unsigned long long)*field(k, i), strerror(-err));
    *field(k, i) = 0;
    return err;
}

int kvm_send_pv(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    int err = 0;

    if (!k->pv_here)
        return 0;
    if (k->vm->split)
        pv_eoi_sync(c); /* the kernel makes its own offers */
    /* Flushes were made for interp, what was left in the flag, too; the kernel has to as well. */
    if (k->pv_taken)
        cpu_pv_leave_flush(c);
    /* Some are refused where there is no memory yet. */
    if (has_any(k))
        err = kvm_sync_slots(k->vm);
    for (unsigned i = 0; i < ARRAY_SIZE(kernels) && !err; i++)
        if (is_moved(k->vm, i))
            err = set_field(k, i);
    k->pv_here = k->pv_taken = err;
    return err;
}

void kvm_reset_pv(struct kvm_vcpu *k)
{
    k->pv_here = true;
    k->pv_taken = false;
}

int kvm_pv_tsc_changed(struct kvm_vcpu *k)
{
    uint64_t val;
    int err = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(kernels) && !err && !k->pv_here; i++) {
        if (kernels[i].at != OFF(clock) || !is_moved(k->vm, i))
            continue;
        err = kvm_get_msr(k, kernels[i].msr, &val);
        if (!err && (val & ENABLED))
            err = kvm_set_msr(k, kernels[i].msr, val);
    }
    return err;
}
