/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split interrupt controller: local APICs in the kernel, I/O APIC and 8259s here.
 *
 * While a vCPU runs its APIC is the kernel's, and that in struct cpu is set aside; with the
 * registers it comes to struct cpu and goes back. Messages from devices go to the kernel whatever
 * the vCPU does: what comes while its registers are here waits in the kernel's IRR. So an APIC is
 * only sent back if it was changed here, and then with those vectors (kvm_send_apic()). Between its
 * reading and writing one could be lost; so where all APICs may have changed (a machine that is
 * restored, was reset or stood still), they are sent before anybody goes on: kvm_prepare(). What is
 * left is an instruction that writes to the APIC and that interp does for the kernel, or for the
 * debugger.
 *
 * When interp runs all vCPUs for the debugger (debug.c), APICs are those in struct cpu altogether:
 * `apics_here`.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

/* ---- is there one? ---- */

static const int needed[] = {
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_CAP_SIGNAL_MSI,
    KVM_CAP_IRQ_ROUTING,   KVM_CAP_MP_STATE,   KVM_CAP_TSC_DEADLINE_TIMER,
};

static enum kvm_irqchip_mode wanted(const struct engine_config *cfg)
{
    return cfg->kvm ? cfg->kvm->irqchip : KVM_IRQCHIP_AUTO;
}

bool kvm_will_split(int fd, const struct engine_config *cfg)
{
    if (wanted(cfg) == KVM_IRQCHIP_OFF)
        return false;
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++)
        if (kvm_ioctl_num(fd, KVM_CHECK_EXTENSION, (unsigned long)needed[i]) <= 0)
            return false;
    return true;
}

int kvm_make_irqchip(struct kvm_vm *vm)
{
    int err;

    if (!kvm_will_split(vm->fd, &vm->ivm.evm.cfg)) {
        if (wanted(&vm->ivm.evm.cfg) != KVM_IRQCHIP_SPLIT)
            return 0;
        log_error("/dev/kvm has no split interrupt controller; --kvm-irqchip=off does without");
        return -ENOTSUP;
    }
    err = kvm_enable(vm->fd, KVM_CAP_SPLIT_IRQCHIP, KVM_PINS);
    /* IDs of 32 bits in messages and in state. 0xff stays a broadcast, as the core has it. */
    if (!err)
        err = kvm_enable(vm->fd, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS);
    vm->split = !err;
    return err;
}

/* ---- from the kernel ---- */

int kvm_get_msr(struct kvm_vcpu *k, uint32_t msr, uint64_t *val)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } l = { .head = { .nmsrs = 1 }, .entry = { .index = msr } };
    int done = kvm_ioctl(k->fd, KVM_GET_MSRS, &l);

    *val = l.entry.data;
    return done == 1 ? 0 : done < 0 ? done : -EIO;
}

int kvm_set_msr(struct kvm_vcpu *k, uint32_t msr, uint64_t val)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } l = { .head = { .nmsrs = 1 }, .entry = { .index = msr, .data = val } };
    int done = kvm_ioctl(k->fd, KVM_SET_MSRS, &l);

    return done == 1 ? 0 : done < 0 ? done : -EIO;
}

static int get_page(struct kvm_vcpu *k, uint32_t page[APIC_PAGE_WORDS])
{
    struct kvm_lapic_state s;
    int err = kvm_ioctl(k->fd, KVM_GET_LAPIC, &s);

    static_assert(sizeof(s.regs) == APIC_PAGE_WORDS * sizeof(page[0]), "a word per 4 bytes");
    memcpy(page, s.regs, sizeof(s.regs));
    return err;
}

int kvm_export_activity(struct kvm_vcpu *k)
{
    struct kvm_mp_state s;
    int err = k->vm->split ? kvm_ioctl(k->fd, KVM_GET_MP_STATE, &s) : 0;

    if (err || !k->vm->split)
        return err;
    if (s.mp_state == KVM_MP_STATE_RUNNABLE)
        CPU(&k->iv)->activity = CPU_RUNNING;
    else
        CPU(&k->iv)->activity = s.mp_state == KVM_MP_STATE_HALTED ? CPU_HALTED : CPU_WAIT_SIPI;
    k->mp_state = s.mp_state;
    return 0;
}

static void remember(struct kvm_vcpu *k)
{
    k->apic_known = CPU(&k->iv)->apic;
    k->apic_valid = true;
}

int kvm_export_apic(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    uint32_t page[APIC_PAGE_WORDS];
    uint64_t deadline = 0;
    int err;

    if (!k->vm->split)
        return 0;
    err = get_page(k, page);
    if (!err && model_has(c->model, FEAT_TSC_DEADLINE))
        err = kvm_get_msr(k, MSR_TSC_DEADLINE, &deadline);
    /* The kernel would count on while the VM stands still. */
    if (!err && deadline)
        err = kvm_set_msr(k, MSR_TSC_DEADLINE, 0);
    if (err)
        return err;
    apic_from_page(c, page, deadline);
    memcpy(k->irr_seen, c->apic.irr, sizeof(k->irr_seen));
    remember(k);
    return 0;
}

void kvm_refresh(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);
    struct cpu *c = CPU(&k->iv);
    uint32_t page[APIC_PAGE_WORDS], was[8];

    if (k->in_kernel)
        return;
    kvm_copy_pv(k);
    if (!k->vm->split || k->vm->apics_here || k->apic_dropped || get_page(k, page))
        return;
    memcpy(was, c->apic.irr, sizeof(was));
    apic_merge_irr(c, page, k->irr_seen);
    for (unsigned i = 0; i < ARRAY_SIZE(was); i++) {
        uint32_t fresh = c->apic.irr[i] & ~was[i];

        k->irr_seen[i] |= fresh;
        /* The kernel has them already. */
        k->apic_known.irr[i] |= fresh;
        k->apic_known.tmr[i] = (k->apic_known.tmr[i] & ~fresh) | (c->apic.tmr[i] & fresh);
    }
}

/* ---- to the kernel ---- */

static bool apic_changed(const struct kvm_vcpu *k)
{
    return !k->apic_valid ||
           memcmp(&k->iv.vc.cpu.apic, &k->apic_known, offsetof(struct apic, pir)) != 0;
}

static int send_page(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_lapic_state s;
    uint32_t page[APIC_PAGE_WORDS];
    int err = k->apic_dropped ? 0 : get_page(k, page);

    if (err)
        return err;
    if (!k->apic_dropped)
        apic_merge_irr(c, page, k->irr_seen);
    apic_to_page(c, page);
    memcpy(s.regs, page, sizeof(s.regs));
    err = kvm_ioctl(k->fd, KVM_SET_LAPIC, &s);
    if (!err) {
        memcpy(k->irr_seen, c->apic.irr, sizeof(k->irr_seen));
        k->apic_dropped = false;
        remember(k);
    }
    return err;
}

static int send_activity(struct kvm_vcpu *k)
{
    static const uint32_t states[] = {
        [CPU_RUNNING] = KVM_MP_STATE_RUNNABLE,
        [CPU_HALTED] = KVM_MP_STATE_HALTED,
        [CPU_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED, /* hears SIPI, and INIT as well */
        [CPU_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,       /* does not run: kvm_engine_run() */
    };
    struct kvm_mp_state s = { .mp_state = states[CPU(&k->iv)->activity] };
    int err;

    if (k->apic_valid && k->mp_state == s.mp_state)
        return 0;
    err = kvm_ioctl(k->fd, KVM_SET_MP_STATE, &s);
    k->mp_state = s.mp_state;
    return err;
}

int kvm_send_apic(struct kvm_vcpu *k, bool counts_anew)
{
    int err;

    if (!k->vm->split)
        return 0;
    apic_sync(CPU(&k->iv));
    err = send_activity(k);
    if (!err && (apic_changed(k) || k->apic_dropped || counts_anew))
        err = send_page(k);
    if (err)
        log_error("vCPU %u: /dev/kvm does not take its local APIC: %s", k->iv.vc.cpu.id,
                  strerror(-err));
    return err;
}

int kvm_apic_leaves(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    int err;

    if (!k->vm->split)
        return 0;
    err = kvm_send_apic(k, false);
    if (!err && c->apic.tsc_deadline)
        err = kvm_set_msr(k, MSR_TSC_DEADLINE, c->apic.tsc_deadline);
    if (err)
        return err;
    apic_set_aside(c);
    c->activity = CPU_RUNNING; /* the kernel lets it sleep */
    return 0;
}

/* ---- all of them ---- */

static bool any_by_interp(const struct kvm_vm *vm)
{
    for (const struct kvm_vcpu *k = vm->vcpus; k; k = k->next)
        if (k->debug_by_interp)
            return true;
    return false;
}

/* The platform's timers count for the APICs in struct cpu. */
static void move_apics(struct kvm_vm *vm, bool here)
{
    for (struct kvm_vcpu *k = vm->vcpus; k; k = k->next) {
        struct cpu *c = CPU(&k->iv);

        kvm_refresh(&k->iv.vc);
        c->ops->apic_timer(c, here ? c->apic.timer_deadline_ns : UINT64_MAX);
        /* The kernel's has heard nothing since, and its timer may have fired for nobody. */
        k->apic_dropped |= !here;
    }
    atomic_store_explicit(&vm->apics_here, here, memory_order_relaxed);
}

static int prepare_vcpu(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    uint64_t offset = k->tsc_offset;
    bool told = k->tsc_told;
    int err;

    if (k->in_kernel)
        return 0;
    /* A restored machine's timer was given to the platform. */
    c->ops->apic_timer(c, UINT64_MAX);
    atomic_fetch_and(&c->req, ~REQ_TIMER);
    err = kvm_update_tsc(k);
    /* A count of the kernel's went on while the VM clock stood still. */
    return err ? err : kvm_send(k, told && offset != k->tsc_offset);
}

void kvm_prepare(struct engine_vm *evm)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    bool here;

    if (!vm->split)
        return;
    here = any_by_interp(vm);
    if (here != vm->apics_here)
        move_apics(vm, here);
    for (struct kvm_vcpu *k = vm->vcpus; k && !here; k = k->next)
        if (prepare_vcpu(k) < 0)
            k->failed = true;
}

/* ---- messages ---- */

/* SDM 3, "Message Address Register Format" and "Message Data Register Format"; the kernel takes
 * bits 31:8 of an ID in the address' upper half (KVM_CAP_X2APIC_API). */
#define MSI_AT      0xfee00000u
#define MSI_LOGICAL BIT(2)
#define MSI_HINT    BIT(3)
#define MSI_ASSERT  BIT(14)
#define MSI_LEVEL   BIT(15)

struct kvm_msi kvm_msi_of(const struct apic_msg *msg)
{
    return (struct kvm_msi){
        .address_lo = MSI_AT | (msg->dest & 0xff) << 12 | (msg->logical ? MSI_LOGICAL : 0) |
                      (msg->mode == APIC_LOWEST ? MSI_HINT : 0),
        .address_hi = msg->dest & ~0xffu,
        .data = msg->vector | (uint32_t)msg->mode << 8 | (msg->level ? MSI_LEVEL | MSI_ASSERT : 0),
    };
}

static void signal(struct kvm_vm *vm, const struct apic_msg *msg)
{
    struct kvm_msi msi = kvm_msi_of(msg);

    /* That nobody was addressed is no error. */
    (void)kvm_ioctl(vm->fd, KVM_SIGNAL_MSI, &msi);
}

/*
 * A kick, by the message with which the kernel's own hypercall makes one: delivery mode 3 ("remote
 * read" long ago) lets the present HLT pass, or the next.
 */
#define MSI_KICK (3u << 8)

int kvm_send_kick(struct kvm_vcpu *k)
{
    uint32_t id = CPU(&k->iv)->id;
    struct kvm_msi msi = { .address_lo = MSI_AT | (id & 0xff) << 12,
                           .address_hi = id & ~0xffu,
                           .data = MSI_KICK };

    if (likely(!CPU(&k->iv)->pv.kicked) || !k->vm->split)
        return 0;
    CPU(&k->iv)->pv.kicked = false;
    return MIN(kvm_ioctl(k->vm->fd, KVM_SIGNAL_MSI, &msi), 0);
}

bool kvm_take_message(struct engine_vm *evm, const struct apic_msg *msg, uint32_t sender)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct apic_msg to = *msg;

    if (!vm->split || atomic_load_explicit(&vm->apics_here, memory_order_relaxed))
        return false;
    /* Of no effect, or with a word in the log that is the machine's. The 8259s' line is looked at
     * anyway. */
    if (msg->mode == APIC_EXTINT || msg->deassert)
        return true;
    if (msg->mode != APIC_FIXED && msg->mode != APIC_LOWEST && msg->mode != APIC_NMI &&
        msg->mode != APIC_INIT && msg->mode != APIC_SIPI)
        return false;
    if (msg->tell)
        for (struct kvm_vcpu *k = vm->vcpus; k; k = k->next)
            atomic_fetch_or_explicit(&CPU(&k->iv)->apic.told[msg->vector / 32],
                                     BIT(msg->vector % 32), memory_order_relaxed);
    if (!msg->to_all && !msg->not_self) {
        signal(vm, msg);
        return true;
    }
    to.logical = false;
    for (struct kvm_vcpu *k = vm->vcpus; k; k = k->next) {
        to.dest = k->iv.vc.cpu.id;
        if (to.dest != sender)
            signal(vm, &to);
    }
    return true;
}

/* ---- ends of interrupts ---- */

/*
 * The kernel tells of the EOIs of those vectors that a route of one of the first KVM_PINS numbers
 * has as level-triggered. Nothing is ever sent over these routes.
 */
void kvm_watch_eoi(struct engine_vm *evm, unsigned pin, const struct apic_msg *msg)
{
    struct kvm_vm *vm = container_of(evm, struct kvm_vm, ivm.evm);
    struct kvm_irq_routing_entry e = { .gsi = pin };

    if (!vm->split)
        return;
    if (msg) {
        struct apic_msg level = *msg;
        struct kvm_msi msi;

        level.level = true;
        msi = kvm_msi_of(&level);
        e.type = KVM_IRQ_ROUTING_MSI;
        e.u.msi.address_lo = msi.address_lo;
        e.u.msi.address_hi = msi.address_hi;
        e.u.msi.data = msi.data;
    }
    kvm_set_route(vm, pin, &e);
}

bool kvm_exit_eoi(struct kvm_vcpu *k, enum run_result *res)
{
    const struct engine_config *cfg = &k->vm->ivm.evm.cfg;
    uint64_t t = vcpu_exit_begin(&k->iv.vc, EXIT_EOI);

    (void)res;
    cfg->time_ops->apic_eoi(cfg->ctx, k->iv.vc.cpu.id, k->run->eoi.vector);
    vcpu_exit_end(&k->iv.vc, EXIT_EOI, t);
    return true;
}
