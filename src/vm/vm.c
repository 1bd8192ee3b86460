/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a VM: made, started, paused, stopped, reset, destroyed. What its threads do is in
 * run.c, what it is made of in pc.c.
 */
#include "vm/vm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dev/pam.h"
#include "lib/trace.h"
#include "virtio/balloon.h"
#include "vm/lockstep.h"
#include "vm/priv.h"

#define HIGH_RAM_AT        GIB(4)
/* OVMF maps, in pages of 2 MB, all the memory that a processor of more bits says it could have. */
#define FIRMWARE_PHYS_BITS 40
/* RAM has a hole for the VGA's window, VGA or not; it goes on at PAM_AT. */
#define VIDEO_WINDOW_AT    0xa0000ull

/* ---- making one; each step may fail with a message, vm_destroy() undoes what there is ---- */

static int vm_add_ram(struct vm *vm)
{
    uint64_t ram = vm->cfg.boot.ram_bytes, low = MIN(ram, PC_LOW_RAM_MAX);
    struct slot_desc slots[] = {
        { .name = "ram-base", .base = GPA(0), .bytes = MIN(low, VIDEO_WINDOW_AT) },
        /* Shown where the chip set is told to: dev/pam.c. */
        { .name = VM_SHADOW_RAM,
          .base = GPA(VM_SHADOW_PARKED_AT),
          .bytes = low > PAM_AT ? MIN(low, PAM_END) - PAM_AT : 0 },
        { .name = "ram-low", .base = GPA(PAM_END), .bytes = low > PAM_END ? low - PAM_END : 0 },
        { .name = "ram-high", .base = GPA(HIGH_RAM_AT), .bytes = ram - low },
    };
    struct slot *slot;

    if (!ram || ram % PAGE_BYTES) {
        log_error("%s: memory of %llu bytes is not a positive multiple of 4096", vm->name,
                  (unsigned long long)ram);
        return -EINVAL;
    }
    vm->mmu = mmu_create();
    if (!vm->mmu)
        return -ENOMEM;
    mmu_set_image(vm->mmu, vm->cfg.image ? &vm->cfg.image->memory : NULL);
    for (unsigned i = 0; i < ARRAY_SIZE(slots); i++) {
        int err = slots[i].bytes ? mmu_slot_add(vm->mmu, &slots[i], &slot) : 0;

        if (err) {
            log_error("%s: cannot get %llu MiB of memory for the guest: %s", vm->name,
                      (unsigned long long)(slots[i].bytes >> 20), strerror(-err));
            return err;
        }
    }
    return 0;
}

/* What of KVM's interface the user or this host does not want. */
static void vm_trim_paravirt(struct vm *vm)
{
    uint32_t *kvm = &vm->model.words[FW_KVM];

    if (vm->cfg.no_paravirt)
        *kvm = 0;
    if (!host_delay_known())
        *kvm &= ~(BIT(FEAT_KVM_STEAL_TIME % 32) | BIT(FEAT_KVM_PV_TLB_FLUSH % 32) |
                  BIT(FEAT_KVM_PV_SCHED_YIELD % 32));
}

/*
 * A guest has looked at CPUID when it started, so it has to find the same CPUs again, not all that
 * this host's have.
 */
static int vm_restore_model(struct vm *vm)
{
    const struct cpu_model *was = vm->cfg.image->model;
    char missing[256];

    if (was->vendor != vm->model.vendor) {
        log_error("%s: the snapshot is of a machine on an %s processor, this one is an %s",
                  vm->name, was->vendor == VENDOR_AMD ? "AMD" : "Intel",
                  vm->model.vendor == VENDOR_AMD ? "AMD" : "Intel");
        return -EINVAL;
    }
    if (!cpu_model_covers(&vm->model, was, missing, sizeof(missing))) {
        log_error("%s: the snapshot's guest may use what this machine's CPUs have not: %s; a "
                  "snapshot of a machine with --cpu x86-64-v2 runs on more hosts",
                  vm->name, missing);
        return -EINVAL;
    }
    vm->model = *was;
    return 0;
}

static int vm_restore_clock(struct vm *vm)
{
    const struct vm_image *image = vm->cfg.image;
    struct clock *c = bus_clock(vm->bus);
    int err = clock_restore(c, image->tsc, image->tsc_khz);

    if (err)
        log_error("%s: the snapshot's TSC runs at %llu kHz, this host's at %llu: too far from it",
                  vm->name, (unsigned long long)image->tsc_khz,
                  (unsigned long long)clock_tsc_khz(c));
    return err;
}

static int vm_add_engine(struct vm *vm)
{
    char why[256];
    int err;

    vm->ecfg = (struct engine_config){
        .mmu = vm->mmu,
        .model = &vm->model,
        .ops = &vm_platform_ops,
        .time_ops = &vm_platform_time_ops,
        .ctx = vm,
        .seen = bus_seen(vm->bus),
        .trace = vm->cfg.trace,
        .time_exits = vm->cfg.time_exits,
        .bt = vm->cfg.bt,
        .kvm = vm->cfg.kvm,
    };
    if (!cpu_model_init(&vm->model, vm->cfg.cpu_model, why, sizeof(why))) {
        log_error("%s: CPU model '%s': %s", vm->name,
                  vm->cfg.cpu_model ? vm->cfg.cpu_model : "host", why);
        return -EINVAL;
    }
    vm->model.signature = (vm->model.signature & ~vm->cfg.cpu_signature_mask) |
                          (vm->cfg.cpu_signature & vm->cfg.cpu_signature_mask);
    if (vm->cfg.lockstep.reference)
        lockstep_trim_model(&vm->model);
    vm_trim_paravirt(vm);
    if (vm->cfg.boot.firmware)
        vm->model.phys_bits = MIN(vm->model.phys_bits, FIRMWARE_PHYS_BITS);
    if (!vm->cfg.engine->nests)
        cpu_model_no_nesting(&vm->model);
    if (vm->cfg.engine->trim_model)
        vm->cfg.engine->trim_model(&vm->model, &vm->ecfg);
    if (vm->cfg.engine->tsc_khz)
        clock_use_tsc(bus_clock(vm->bus), vm->cfg.engine->tsc_khz());
    if (vm->cfg.image && (vm_restore_model(vm) < 0 || vm_restore_clock(vm) < 0))
        return -EINVAL;
    vm->model.nr_cpus = vm->cfg.boot.nr_cpus;
    vm->model.tsc_khz = clock_tsc_khz(bus_clock(vm->bus));
    err = vm->cfg.engine->vm_create(&vm->ecfg, &vm->evm);
    if (err)
        log_error("%s: engine %s cannot make a VM: %s", vm->name, vm->cfg.engine->name,
                  strerror(-err));
    return err;
}

static void vm_apic_timer_expired(void *arg)
{
    struct vm_vcpu *p = arg;

    trace(p->vm->cfg.trace, TIMER, "vcpu%u apic timer expired", p->v->cpu.id);
    cpu_post(&p->v->cpu, REQ_TIMER);
}

static int vm_add_vcpus(struct vm *vm)
{
    unsigned nr = vm->cfg.boot.nr_cpus;

    vm->vcpus = calloc(nr, sizeof(*vm->vcpus));
    if (!vm->vcpus) {
        log_error("%s: out of memory for %u vCPUs", vm->name, nr);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < nr; i++) {
        struct vm_vcpu *p = &vm->vcpus[i];
        int err;

        p->vm = vm;
        p->parked = true;
        /* Before the vCPU: its reset cancels the timer. */
        timer_init(&p->apic_timer, bus_clock(vm->bus), vm_apic_timer_expired, p);
        err = vm->cfg.engine->vcpu_create(vm->evm, i, &p->v);
        if (err) {
            log_error("%s: engine %s cannot make vCPU %u: %s", vm->name, vm->cfg.engine->name, i,
                      strerror(-err));
            return err;
        }
        vm->nr_vcpus++;
    }
    return 0;
}

static bool vm_write_generation(struct vm *vm)
{
    uint8_t id[PC_VMGENID_BYTES];

    host_random(id, sizeof(id));
    return mmu_write(vm->mmu, GPA(PC_VMGENID_AT), id, sizeof(id)) == sizeof(id);
}

/* Firmware: the vCPUs stay as reset leaves them. Without: tables and kernel in memory as a firmware
 * would have left them, the first vCPU at the kernel. */
static int vm_boot(struct vm *vm)
{
    struct cpu *bsp = &vm->vcpus[0].v->cpu;
    int err;

    if (vm->cfg.boot.firmware)
        return vm->cfg.lockstep.reference ? boot_firmware_shadow(vm->mmu) : 0;
    /* What firmware would have left: interrupts of PCI devices that the 8259s know, and write-back
     * memory below the hole for devices. */
    pc_route_intx(vm->pc);
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        cpu_firmware_mtrrs(&vm->vcpus[i].v->cpu, GPA(PC_LOW_RAM_MAX));
    boot_map_init(&vm->map, vm->cfg.boot.ram_bytes);
    err = boot_tables(vm->mmu, &vm->cfg.boot, &vm->map);
    if (!err && !vm_write_generation(vm))
        err = -ENOMEM;
    if (!err)
        err = boot_load(vm->mmu, &vm->cfg.boot, &vm->map, bsp);
    if (!err)
        vm->cfg.engine->state_changed(vm->vcpus[0].v);
    return err;
}

static void vm_stop_sink(void *ctx, enum stop_reason why, int status)
{
    vm_stop(ctx, why, status);
}

/* Kernels with CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES, and without ACPI, find virtio devices so. */
static int vm_announce_virtio(struct vm *vm)
{
    struct boot_config *boot = &vm->cfg.boot;
    size_t bytes, n;

    if (!boot->nr_virtio_mmio || !boot->kernel)
        return 0;
    bytes = strlen(boot->append ? boot->append : "") + boot->nr_virtio_mmio * 64 + 1;
    vm->append = malloc(bytes);
    if (!vm->append) {
        log_error("%s: out of memory", vm->name);
        return -ENOMEM;
    }
    n = (size_t)snprintf(vm->append, bytes, "%s", boot->append ? boot->append : "");
    for (unsigned i = 0; i < boot->nr_virtio_mmio; i++)
        n += (size_t)snprintf(vm->append + n, bytes - n, " virtio_mmio.device=%uK@%#llx:%u:%u",
                              PC_VIRTIO_MMIO_BYTES >> 10,
                              PC_VIRTIO_MMIO_AT + i * (unsigned long long)PC_VIRTIO_MMIO_BYTES,
                              PC_VIRTIO_GSI + i % PC_VIRTIO_NR_GSIS, i);
    boot->append = vm->append;
    return 0;
}

static void vm_hold_sink(void *ctx, bool on)
{
    struct vm *vm = ctx;

    (void)atomic_fetch_add(&vm->nr_holds, on ? 1 : -1);
    run_posted(vm);
}

static int vm_build(struct vm *vm)
{
    int err;

    vm->bus = bus_create();
    if (!vm->bus)
        return -ENOMEM;
    clock_pause(bus_clock(vm->bus)); /* until the VM starts */
    bus_set_stop_sink(vm->bus, vm_stop_sink, vm);
    bus_set_hold_sink(vm->bus, vm_hold_sink, vm);
    err = vm_add_ram(vm);
    if (err)
        return err;
    if (vm->cfg.boot.firmware)
        err = boot_firmware_load(vm->mmu, vm->cfg.boot.firmware);
    if (err)
        return err;
    irq_wire(vm);
    if (!pc_create(vm))
        return -EIO;
    pc_remap(vm->pc);
    err = vm_announce_virtio(vm);
    if (!err)
        err = vm_add_engine(vm);
    if (!err)
        err = vm_add_vcpus(vm);
    if (!err && !vm->cfg.image)
        err = vm_boot(vm);
    mmu_set_image(vm->mmu, NULL);
    vm->cfg.image = NULL;
    return err;
}

struct vm *vm_create(const struct vm_config *cfg)
{
    struct vm *vm = calloc(1, sizeof(*vm));

    if (!vm) {
        log_error("out of memory for a VM");
        return NULL;
    }
    vm->cfg = *cfg;
    if (cfg->lockstep.reference)
        vm->cfg.engine = &lockstep_engine;
    if (!vm->cfg.boot.nr_cpus)
        vm->cfg.boot.nr_cpus = 1;
    if (cfg->name)
        (void)snprintf(vm->name, sizeof(vm->name), "%s", cfg->name);
    else
        (void)snprintf(vm->name, sizeof(vm->name), "vm-%d", host_pid());
    vm->cfg.name = vm->cfg.boot.vm_name = vm->name;
    lock_init(&vm->lock, LOCK_VM);
    cond_init(&vm->changed);
    if (vm_build(vm) < 0) {
        vm_destroy(vm);
        return NULL;
    }
    return vm;
}

void vm_destroy(struct vm *vm)
{
    if (!vm)
        return;
    if (vm->started) {
        vm_stop(vm, STOP_USER, 0);
        run_join(vm);
    }
    /* Before the vCPUs: the clock's thread may be in one of the APIC timers. */
    if (vm->bus)
        clock_pause(bus_clock(vm->bus));
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        lock_take(bus_lock(vm->bus));
        timer_cancel(&vm->vcpus[i].apic_timer);
        lock_drop(bus_lock(vm->bus));
    }
    pc_destroy(vm->pc);
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        vm->cfg.engine->vcpu_destroy(vm->vcpus[i].v);
    if (vm->evm)
        vm->cfg.engine->vm_destroy(vm->evm);
    free(vm->vcpus);
    free(vm->append);
    free(vm->base.path);
    bus_destroy(vm->bus);
    mmu_destroy(vm->mmu);
    cond_destroy(&vm->changed);
    lock_destroy(&vm->lock);
    free(vm);
}

/*
 * RAM keeps what it has, as in a PC's warm reset: a guest's pstore log survives. The loaders clear
 * what has to be clear.
 */
int vm_reset(struct vm *vm)
{
    pc_reset(vm);
    pc_remap(vm->pc);
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i].v;

        timer_cancel(&vm->vcpus[i].apic_timer);
        cpu_reset(&v->cpu, RESET_POWER_ON);
        if (vm->cfg.engine->reset)
            vm->cfg.engine->reset(v);
        vm->cfg.engine->state_changed(v);
    }
    return vm_boot(vm);
}

/* ---- running ---- */

void vm_prepare(struct vm *vm)
{
    assert_held(bus_lock(vm->bus));
    if (vm->cfg.engine->prepare)
        vm->cfg.engine->prepare(vm->evm);
}

/* The clock, and with it the vCPUs. */
static void vm_go_on(struct vm *vm, void (*resume)(struct clock *c))
{
    lock_take(bus_lock(vm->bus));
    resume(bus_clock(vm->bus));
    vm_prepare(vm);
    lock_drop(bus_lock(vm->bus));
}

int vm_start(struct vm *vm)
{
    int err;

    lock_take(&vm->lock);
    BUG_ON(vm->started);
    vm->started = true;
    vm->started_ns = host_mono_ns();
    vm->timeout_at_ns = UINT64_MAX;
    if (vm->cfg.timeout_ns && vm->cfg.timeout_ns < UINT64_MAX - vm->started_ns)
        vm->timeout_at_ns = vm->started_ns + vm->cfg.timeout_ns;
    if (!vm->nr_pauses)
        vm_go_on(vm, clock_resume);
    lock_drop(&vm->lock);
    trace(vm->cfg.trace, VM, "start");
    err = run_start(vm);
    if (err) {
        log_error("%s: cannot start the VM's threads: %s", vm->name, strerror(-err));
        vm_stop(vm, STOP_ERROR, 0);
    }
    return err;
}

enum stop_reason vm_wait(struct vm *vm, int *status)
{
    enum stop_reason why;

    lock_take(&vm->lock);
    while (!vm->ended)
        cond_wait(&vm->changed, &vm->lock);
    why = vm->why;
    if (status)
        *status = vm->status;
    lock_drop(&vm->lock);
    return why;
}

void vm_pause(struct vm *vm)
{
    lock_take(&vm->lock);
    vm->nr_pauses++;
    run_kick(vm);
    run_wait_parked(vm);
    if (vm->nr_pauses == 1)
        trace(vm->cfg.trace, VM, "paused");
    clock_pause(bus_clock(vm->bus));
    /* A timer's callback that was running ends; no other begins. */
    lock_take(bus_lock(vm->bus));
    pc_set_paused(vm->pc, true);
    lock_drop(bus_lock(vm->bus));
    lock_drop(&vm->lock);
}

static void resume_with(struct vm *vm, void (*resume)(struct clock *c))
{
    lock_take(&vm->lock);
    BUG_ON(!vm->nr_pauses);
    if (--vm->nr_pauses == 0) {
        if (vm->started && !vm->ended)
            vm_go_on(vm, resume);
        lock_take(bus_lock(vm->bus));
        pc_set_paused(vm->pc, false);
        lock_drop(bus_lock(vm->bus));
        trace(vm->cfg.trace, VM, "resumed");
        cond_wake_all(&vm->changed);
    }
    lock_drop(&vm->lock);
}

void vm_resume(struct vm *vm)
{
    resume_with(vm, clock_resume);
}

bool vm_paused_once(struct vm *vm)
{
    bool once;

    lock_take(&vm->lock);
    once = vm->nr_pauses == 1;
    lock_drop(&vm->lock);
    return once;
}

void vm_resume_as_if_run(struct vm *vm)
{
    resume_with(vm, clock_resume_as_if_run);
}

bool vm_user_pause(struct vm *vm)
{
    lock_take(&vm->lock);
    while (vm->user == VM_USER_PAUSING)
        cond_wait(&vm->changed, &vm->lock);
    if (vm->user == VM_USER_PAUSED) {
        lock_drop(&vm->lock);
        return false;
    }
    /* A resume that comes now waits: the count must not fall below while vm_pause() waits. */
    vm->user = VM_USER_PAUSING;
    lock_drop(&vm->lock);
    vm_pause(vm);
    lock_take(&vm->lock);
    vm->user = VM_USER_PAUSED;
    cond_wake_all(&vm->changed);
    lock_drop(&vm->lock);
    return true;
}

bool vm_user_resume(struct vm *vm)
{
    bool was_paused;

    lock_take(&vm->lock);
    while (vm->user == VM_USER_PAUSING)
        cond_wait(&vm->changed, &vm->lock);
    was_paused = vm->user == VM_USER_PAUSED;
    vm->user = VM_USER_RUNS;
    lock_drop(&vm->lock);
    if (was_paused)
        vm_resume(vm);
    return was_paused;
}

bool vm_power_button(struct vm *vm)
{
    bool heard;

    lock_take(bus_lock(vm->bus));
    heard = pc_power_button(vm->pc);
    lock_drop(bus_lock(vm->bus));
    return heard;
}

/* May `why` take the place of what was posted before? The user's and the host's ends go before a
 * guest's reset; otherwise the first one counts. */
static bool vm_stop_outranks(enum stop_reason why, enum stop_reason old)
{
    if (old == STOP_NONE)
        return true;
    return old == STOP_RESET && (why == STOP_USER || why == STOP_TIMEOUT || why == STOP_ERROR);
}

void vm_stop(struct vm *vm, enum stop_reason why, int status)
{
    uint64_t old = atomic_load_explicit(&vm->stop, memory_order_relaxed);
    uint64_t want = (uint64_t)why << 32 | (uint32_t)status;

    do {
        if (!vm_stop_outranks(why, (enum stop_reason)(old >> 32)))
            return;
    } while (!atomic_compare_exchange_weak(&vm->stop, &old, want));
    /* The gate is closed; now make everybody come to it. */
    run_posted(vm);
    run_kick(vm);
}

enum vm_state vm_state(struct vm *vm)
{
    enum vm_state s;

    lock_take(&vm->lock);
    if (vm->ended)
        s = VM_STOPPED;
    else if (!vm->started)
        s = VM_CREATED;
    else
        s = vm->nr_pauses ? VM_PAUSED : VM_RUNNING;
    lock_drop(&vm->lock);
    return s;
}

int vm_set_memory(struct vm *vm, uint64_t bytes)
{
    struct virtio_balloon *b = pc_balloon(vm->pc);

    if (!b)
        return -ENOENT;
    if (bytes > vm->cfg.boot.ram_bytes)
        return -EINVAL;
    virtio_balloon_want(b, vm->cfg.boot.ram_bytes - bytes);
    return 0;
}

void vm_resize_console(struct vm *vm, uint16_t cols, uint16_t rows)
{
    lock_take(bus_lock(vm->bus));
    pc_resize_console(vm->pc, cols, rows);
    lock_drop(bus_lock(vm->bus));
}

/* ---- for snapshots ---- */

#define SETTLE_POLL_NS 1000000ull

int vm_settle(struct vm *vm, uint64_t wait_ns)
{
    uint64_t end_ns = host_mono_ns() + wait_ns;
    const char *busy;

    while ((busy = pc_settle(vm->pc))) {
        _Atomic uint32_t never = 0;

        if (host_mono_ns() >= end_ns) {
            log_error("%s: %s has requests under way that do not come to an end", vm->name, busy);
            return -EBUSY;
        }
        host_futex_wait(&never, 0, host_mono_ns() + SETTLE_POLL_NS);
    }
    return 0;
}

const char *vm_unsaveable(struct vm *vm)
{
    return pc_unsaveable(vm->pc);
}

void vm_state_changed(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        struct vcpu *v = vm->vcpus[i].v;

        v->cpu.ops->tlb_flush(&v->cpu, &(struct tlb_flush){ .kind = FLUSH_ALL });
        vm->cfg.engine->state_changed(v);
    }
}

void vm_new_generation(struct vm *vm)
{
    if (vm->cfg.boot.firmware || !vm_write_generation(vm))
        return;
    lock_take(bus_lock(vm->bus));
    pc_gpe(vm->pc, PC_VMGENID_GPE);
    lock_drop(bus_lock(vm->bus));
}

#define CLAIM_LOOK_NS 10000000ull

bool vm_claim(struct vm *vm)
{
    for (;;) {
        uint32_t seen = atomic_load(&vm->nr_posted);

        if (!atomic_exchange(&vm->claimed, true))
            return true;
        if (!atomic_load(&vm->sharing))
            return false;
        /* Nobody asked for that, so nobody is to be refused for it. */
        host_futex_wait(&vm->nr_posted, seen, host_mono_ns() + CLAIM_LOOK_NS);
    }
}

void vm_unclaim(struct vm *vm)
{
    atomic_store(&vm->claimed, false);
    run_posted(vm); /* the supervisor may have waited for that */
}

void vm_refresh(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        if (vm->cfg.engine->refresh)
            vm->cfg.engine->refresh(vm->vcpus[i].v);
}

const struct cpu_model *vm_model(const struct vm *vm)
{
    return &vm->model;
}

const struct vm_base *vm_base(const struct vm *vm)
{
    return vm->base.path ? &vm->base : NULL;
}

int vm_sync_dirty(struct vm *vm)
{
    return vm->cfg.engine->sync_dirty ? vm->cfg.engine->sync_dirty(vm->evm) : 0;
}

void vm_set_base(struct vm *vm, const struct vm_base *base)
{
    int err;

    free(vm->base.path);
    vm->base = *base;
    /* Before, so that what was written until now is not told later; behind, to begin. */
    if (vm_sync_dirty(vm) < 0)
        log_warn("%s: cannot see what its guest writes: no differences", vm->name);
    mmu_log_start(vm->mmu);
    err = vm_sync_dirty(vm); /* the engine begins to log, too */
    if (err) {
        log_error("%s: no log of what the guest writes can be kept, and so no incremental "
                  "snapshot be made: %s",
                  vm->name, strerror(-err));
        free(vm->base.path);
        vm->base.path = NULL;
    }
    vm_state_changed(vm);
}

/* ---- asking ---- */

const struct vm_config *vm_cfg(const struct vm *vm)
{
    return &vm->cfg;
}

struct bus *vm_bus(struct vm *vm)
{
    return vm->bus;
}

struct mmu *vm_mmu(struct vm *vm)
{
    return vm->mmu;
}

unsigned vm_nr_vcpus(const struct vm *vm)
{
    return vm->nr_vcpus;
}

struct vcpu *vm_vcpu(struct vm *vm, unsigned idx)
{
    return idx < vm->nr_vcpus ? vm->vcpus[idx].v : NULL;
}

void vm_set_debug_hook(struct vm *vm, void (*hook)(void *arg, struct vcpu *v), void *arg)
{
    lock_take(&vm->lock);
    vm->debug_hook = hook;
    vm->debug_arg = arg;
    while (vm->nr_in_hook)
        cond_wait(&vm->changed, &vm->lock);
    lock_drop(&vm->lock);
}

int vm_exit_status(enum stop_reason why, int status)
{
    switch (why) {
    case STOP_POWEROFF:
    case STOP_RESET:
    case STOP_USER:
        return 0;
    case STOP_TRIPLE:
        return 3;
    case STOP_EXIT:
        return status & 0xff;
    case STOP_TIMEOUT:
        return 124;
    default:
        return 1;
    }
}
