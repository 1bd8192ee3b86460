/* SPDX-License-Identifier: Apache-2.0 */
/* The engine on /dev/kvm: the engine contract, making of VMs and vCPUs, kicks. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/log.h"

/* Emulated supervisor code is some hundred times slower; a noisy host makes a factor of a few. */
#define SLOW_TIMES 20

const struct kvm_config kvm_default_config = { .irqchip = KVM_IRQCHIP_AUTO };

/* ---- what interp would tell an engine with code of its own ---- */

static void hook_flushed(struct ivcpu *v, enum flush_kind kind, uint64_t lin)
{
    (void)v, (void)kind, (void)lin;
}

static bool hook_drop(struct ivcpu *v, gpa_t at, uint64_t bytes, bool decoded)
{
    (void)v, (void)at, (void)bytes, (void)decoded;
    return false;
}

static void hook_nothing(struct ivcpu *v)
{
    (void)v;
}

static bool hook_has_code(struct ivcpu *v, uint64_t page)
{
    (void)v, (void)page;
    return false;
}

static void hook_pcid(struct ivcpu *v, unsigned set)
{
    (void)v;
    (void)set;
}

static void hook_tlb_flush(struct ivcpu *v, const struct tlb_flush *what)
{
    (void)v, (void)what;
}

static void hook_noted(struct ivcpu *v, gpa_t at)
{
    (void)v, (void)at;
}

/* Any thread: see run_once() in run.c. */
static void hook_kick(struct ivcpu *v)
{
    struct kvm_vcpu *k = container_of(v, struct kvm_vcpu, iv);

    __atomic_store_n(&k->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (atomic_load(&k->in_run))
        host_kick(&k->thread);
}

/* The kernel counts it for the thread, whoever runs the vCPU, and adds it when it is back. */
static uint64_t hook_steal_ns(struct ivcpu *v, uint64_t ns)
{
    (void)v, (void)ns;
    return 0;
}

static void hook_pv_msr(struct ivcpu *v, uint32_t msr)
{
    struct kvm_vcpu *k = container_of(v, struct kvm_vcpu, iv);

    if (kvm_has_pv_msr(k->vm, msr))
        kvm_take_pv(k);
}

static const struct ivcpu_hooks hooks = {
    .flushed = hook_flushed,
    .left = hook_pcid,
    .back = hook_pcid,
    .switched = hook_nothing,
    .drop = hook_drop,
    .drop_all = hook_nothing,
    .has_code = hook_has_code,
    .tlb_flush = hook_tlb_flush,
    .noted = hook_noted,
    .kick = hook_kick,
    .outside = hook_nothing,
    .steal_ns = hook_steal_ns,
    .pv_msr = hook_pv_msr,
};

/* ---- is it there, is it good? ---- */

static int kvm_probe(char *why, size_t why_bytes)
{
    int fd = kvm_open(why, why_bytes), err;

    if (fd < 0)
        return fd;
    err = kvm_check_caps(fd, why, why_bytes);
    host_close(fd);
    return err;
}

static int kvm_recommend(char *why, size_t why_bytes)
{
    struct kvm_verdict v;
    int err = kvm_try(&v);

    if (err) {
        (void)snprintf(why, why_bytes, "/dev/kvm makes no VM: %s", strerror(-err));
        return err;
    }
    if (!v.runs) {
        (void)snprintf(why, why_bytes,
                       "/dev/kvm is limited, its probe guest did not get through: %s", v.failed);
        return -ENOTSUP;
    }
    if (v.slow_times > SLOW_TIMES) {
        (void)snprintf(why, why_bytes,
                       "/dev/kvm emulates supervisor code, %llu times slower than the processor",
                       (unsigned long long)v.slow_times);
        return -ENOTSUP;
    }
    return 0;
}

static void kvm_describe(char *line, size_t bytes)
{
    struct kvm_verdict v;
    int err = kvm_try(&v);

    if (err)
        (void)snprintf(line, bytes, "probe: no VM can be made: %s", strerror(-err));
    else if (!v.runs)
        (void)snprintf(line, bytes, "probe: failed: %s", v.failed);
    else
        (void)snprintf(
            line, bytes,
            "probe: a guest in long mode came through; an exit takes %llu ns, supervisor "
            "code %llu times the host's time",
            (unsigned long long)v.exit_ns, (unsigned long long)v.slow_times);
}

static void kvm_trim_model(struct cpu_model *m, const struct engine_config *cfg)
{
    struct kvm_cpuid_table supported;
    char why[128];
    int fd = kvm_open(why, sizeof(why));

    if (fd < 0)
        return; /* kvm_vm_create() will say it */
    if (kvm_get_supported(fd, &supported) >= 0)
        kvm_trim(m, &supported, kvm_will_split(fd, cfg));
    if (kvm_ioctl_num(fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE) <= 0)
        cpu_model_no_nesting(m);
    host_close(fd);
}

static uint64_t kvm_tsc_khz(void)
{
    char why[128];
    int fd = kvm_open(why, sizeof(why)), vm, vcpu, khz = 0;

    if (fd < 0)
        return 0;
    vm = kvm_ioctl_num(fd, KVM_CREATE_VM, 0);
    vcpu = vm < 0 ? vm : kvm_ioctl_num(vm, KVM_CREATE_VCPU, 0);
    if (vcpu >= 0) {
        khz = kvm_ioctl_num(vcpu, KVM_GET_TSC_KHZ, 0);
        host_close(vcpu);
    }
    if (vm >= 0)
        host_close(vm);
    host_close(fd);
    return khz > 0 ? (uint64_t)khz : 0;
}

/* ---- the VM ---- */

static bool can(int fd, unsigned long cap)
{
    return kvm_ioctl_num(fd, KVM_CHECK_EXTENSION, cap) > 0;
}

/* Where the kernel is kinder to guests than a processor: MWAIT that CPUID does not have raises #UD.
 */
#define UNWANTED_QUIRKS (KVM_X86_QUIRK_OUT_7E_INC_RIP | KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS)

static int drop_quirks(int fd)
{
    int known = kvm_ioctl_num(fd, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2);

    if (known <= 0 || !(known & UNWANTED_QUIRKS))
        return 0;
    return kvm_enable(fd, KVM_CAP_DISABLE_QUIRKS2, (uint32_t)known & UNWANTED_QUIRKS);
}

/* Intel's real mode without unrestricted guests needs three pages and one that no guest uses:
 * behind the local APIC's, below any firmware. */
#define TSS_AT      0xfeffd000ul
#define IDENTITY_AT 0xfeffc000ull

static int vm_set_up(struct kvm_vm *vm, int sys)
{
    uint64_t identity = IDENTITY_AT;
    int err, bytes;

    vm->fd = kvm_ioctl_num(sys, KVM_CREATE_VM, 0);
    if (vm->fd < 0)
        return vm->fd;
    bytes = kvm_ioctl_num(sys, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < (int)sizeof(struct kvm_run))
        return bytes < 0 ? bytes : -EINVAL;
    vm->run_bytes = (uint32_t)bytes;
    err = kvm_get_supported(sys, &vm->supported);
    if (err < 0)
        return err;
    if (can(vm->fd, KVM_CAP_SET_IDENTITY_MAP_ADDR))
        err = kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    if (err >= 0 && can(vm->fd, KVM_CAP_SET_TSS_ADDR))
        err = kvm_ioctl_num(vm->fd, KVM_SET_TSS_ADDR, TSS_AT);
    if (err >= 0)
        err = drop_quirks(vm->fd);
    /* Else the kernel would raise #UD for what its emulator lacks. */
    if (err >= 0 && can(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE))
        err = kvm_enable(vm->fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1);
    if (err >= 0)
        err = kvm_make_irqchip(vm);
    vm->has_irqfd = can(vm->fd, KVM_CAP_IRQFD);
    vm->any_length = can(vm->fd, KVM_CAP_IOEVENTFD_ANY_LENGTH);
    return err < 0 ? err : kvm_set_msr_filter(vm);
}

static void kvm_vm_destroy(struct engine_vm *evm)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);

    if (vm->fd >= 0)
        host_close(vm->fd);
    interp_vm_fini(&vm->ivm);
    lock_destroy(&vm->routes_lock);
    lock_destroy(&vm->lock);
    free(vm);
}

static int kvm_vm_create(const struct engine_config *cfg, struct engine_vm **out)
{
    struct kvm_vm *vm;
    char why[256];
    int sys = kvm_open(why, sizeof(why)), err;

    if (sys < 0) {
        log_error("%s", why);
        return sys;
    }
    vm = calloc(1, sizeof(*vm));
    if (!vm) {
        host_close(sys);
        return -ENOMEM;
    }
    vm->fd = -1;
    vm->slots_gen = UINT64_MAX;
    vm->ivm.evm.ops = &kvm_engine;
    lock_init(&vm->lock, LOCK_CODE);
    lock_init(&vm->routes_lock, LOCK_LEAF);
    err = interp_vm_init(&vm->ivm, cfg);
    if (err) {
        lock_destroy(&vm->routes_lock);
        lock_destroy(&vm->lock);
        free(vm);
        host_close(sys);
        return err;
    }
    err = vm_set_up(vm, sys);
    host_close(sys);
    if (err) {
        kvm_vm_destroy(&vm->ivm.evm);
        return err;
    }
    *out = &vm->ivm.evm;
    return 0;
}

/* ---- vCPUs ---- */

static int vcpu_open(struct kvm_vcpu *k, uint32_t id)
{
    struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET };
    void *run;

    k->fd = kvm_ioctl_num(k->vm->fd, KVM_CREATE_VCPU, id);
    if (k->fd < 0)
        return k->fd;
    run = mmap(NULL, k->vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    k->run = run;
    k->vm->tsc_offset = kvm_ioctl(k->fd, KVM_HAS_DEVICE_ATTR, &attr) == 0;
    return 0;
}

static void vcpu_close(struct kvm_vcpu *k)
{
    if (k->run)
        (void)munmap(k->run, k->vm->run_bytes);
    if (k->fd >= 0)
        host_close(k->fd);
    host_unmap(k, sizeof(*k));
}

static int kvm_vcpu_create(struct engine_vm *evm, uint32_t id, struct vcpu **out)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct kvm_vcpu *k = host_pages(sizeof(*k));
    int err;

    if (!k)
        return -ENOMEM;
    /* Most of it is interp's caches, which hardly anything goes through here: no huge pages. */
    (void)madvise(k, sizeof(*k), MADV_NOHUGEPAGE);
    k->vm = vm;
    k->fd = -1;
    err = vcpu_open(k, id);
    if (!err)
        err = interp_vcpu_init(&vm->ivm, &k->iv, id);
    if (err) {
        vcpu_close(k);
        return err;
    }
    k->iv.hooks = &hooks;
    err = kvm_set_cpuid(k);
    if (err) {
        log_error("vCPU %u: /dev/kvm does not take its CPUID: %s", id, strerror(-err));
        interp_vcpu_fini(&k->iv);
        vcpu_close(k);
        return err;
    }
    kvm_enforce_pv(k);
    kvm_changed(k);
    k->pv_here = true;
    k->next = vm->vcpus;
    vm->vcpus = k;
    *out = &k->iv.vc;
    return 0;
}

static void kvm_vcpu_destroy(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc), **at = &k->vm->vcpus;

    while (*at != k)
        at = &(*at)->next;
    *at = k->next;
    k->iv.hooks = NULL;
    interp_vcpu_fini(&k->iv);
    vcpu_close(k);
}

static void kvm_state_changed(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);

    /* What is in struct cpu counts, whatever the kernel has. */
    k->in_kernel = k->unfinished = k->known_valid = false;
    interp_state_changed(vc);
    kvm_changed(k);
}

/* The kernel would go on writing its clock into the memory of a guest that does not know of it. */
static void kvm_vcpu_reset(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);

    kvm_reset_nested(k);
    k->held_valid = false;
    kvm_reset_msrs(k);
    kvm_reset_pv(k);
    k->apic_dropped = true;
}

const struct engine_ops kvm_engine = {
    .name = "kvm",
    .about = "hardware virtualization by the host's kernel (/dev/kvm)",
    .nests = true,
    .probe = kvm_probe,
    .describe = kvm_describe,
    .recommend = kvm_recommend,
    .trim_model = kvm_trim_model,
    .tsc_khz = kvm_tsc_khz,
    .vm_create = kvm_vm_create,
    .vm_destroy = kvm_vm_destroy,
    .vcpu_create = kvm_vcpu_create,
    .vcpu_destroy = kvm_vcpu_destroy,
    .run = kvm_engine_run,
    .state_changed = kvm_state_changed,
    .reset = kvm_vcpu_reset,
    .debug_update = kvm_debug_update,
    .peek = interp_peek,
    .poke = interp_poke,
    .sync_dirty = kvm_sync_dirty,
    .save_more = kvm_save_more,
    .load_more = kvm_load_more,
    .prepare = kvm_prepare,
    .refresh = kvm_refresh,
    .take_message = kvm_take_message,
    .watch_eoi = kvm_watch_eoi,
    .notify_fd = kvm_notify_fd,
    .msi_fd = kvm_msi_fd,
    .msi_fd_close = kvm_msi_fd_close,
};
