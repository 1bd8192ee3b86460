/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run loop: what is due between two stays in the guest (requests, events, changed registers and
 * memory), then KVM_RUN, then what its exit asks for (exits.c).
 *
 * With the local APIC in struct cpu an interrupt is given to the kernel when the guest can take it
 * now, else the kernel is asked to come back as soon as it can (the interrupt window). With the
 * kernel's (lapic.c) only the 8259s' go this way, and a halted vCPU sleeps in KVM_RUN.
 */
#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "engine/kvm/kvm.h"
#include "lib/log.h"

/* ---- KVM_RUN ---- */

/*
 * With *run->immediate_exit the kernel returns at once. A kick sets it, then looks at in_run; here
 * it is the other way round, so at least one sees the other: the kernel our byte, or the kicker
 * that a signal is needed. A request that came before the byte was cleared is seen by the caller.
 */
static int run_once(struct kvm_vcpu *k)
{
    int err;

    atomic_store(&k->in_run, true);
    err = kvm_ioctl_num(k->fd, KVM_RUN, 0);
    atomic_store_explicit(&k->in_run, false, memory_order_relaxed);
    return err;
}

static void set_immediate_exit(struct kvm_vcpu *k, uint8_t on)
{
    __atomic_store_n(&k->run->immediate_exit, on, __ATOMIC_SEQ_CST);
}

int kvm_finish(struct kvm_vcpu *k)
{
    enum run_result res;
    int err = 0;

    /* An access across a page comes in two exits. */
    while (k->unfinished && !err) {
        k->unfinished = false;
        set_immediate_exit(k, 1);
        err = run_once(k);
        if (err == -EINTR)
            return 0;
        if (!err && k->run->exit_reason != KVM_EXIT_INTR && !kvm_exit(k, &res))
            err = res == RUN_SHUTDOWN ? -EAGAIN : -EIO;
    }
    return err;
}

/* ---- before ---- */

static bool fail(enum run_result *res)
{
    *res = RUN_ERROR;
    return false;
}

static bool shutdown(struct kvm_vcpu *k, enum run_result *res)
{
    CPU(&k->iv)->activity = CPU_SHUTDOWN;
    k->iv.vc.nr_exits[EXIT_TRIPLE]++;
    *res = RUN_SHUTDOWN;
    return false;
}

/* The registers are here. False: run() returns *res. */
static bool take_out(struct kvm_vcpu *k, enum run_result *res)
{
    int err = kvm_export(k);

    if (err == -EAGAIN)
        return shutdown(k, res);
    return err ? fail(res) : true;
}

static bool by_interp(const struct kvm_vcpu *k)
{
    return k->debug_by_interp || atomic_load_explicit(&k->vm->apics_here, memory_order_relaxed);
}

static bool serve_requests(struct kvm_vcpu *k, enum run_result *res)
{
    struct cpu *c = CPU(&k->iv);
    uint32_t req = atomic_load_explicit(&c->req, memory_order_acquire);

    if (req & REQ_STOP) {
        (void)atomic_fetch_and(&c->req, ~REQ_STOP);
        if (!take_out(k, res))
            return false;
        *res = RUN_STOPPED;
        return false;
    }
    if (!req)
        return true;
    k->iv.vc.nr_exits[EXIT_REQUEST]++;
    (void)atomic_fetch_and(&c->req, ~REQ_CODE); /* interp keeps no code here */
    if (req & (REQ_INIT | REQ_SIPI)) {
        if (!take_out(k, res))
            return false;
        kvm_changed(k);
    }
    if (req & REQ_INIT)
        kvm_take_pv(k); /* it ends with the rest */
    cpu_act_on_requests(c);
    /* A kick by a stepped hypercall; else it goes with the registers. */
    return !k->in_kernel || kvm_send_kick(k) == 0 ? true : fail(res);
}

/* Would what is there wake a halted vCPU? The kernel told IF with the exit for HLT. */
static bool wakes(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    bool open = k->in_kernel ? k->run->if_flag : c->rflags & RFLAGS_IF;

    return (c->nmi_pending && !c->nmi_blocked) || (open && cpu_interrupt_waits(c));
}

/* Halted, or waiting for SIPI: sleeps until there is a request, unless something wakes it already.
 */
static void halt(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    uint64_t t;

    if (c->activity == CPU_HALTED && wakes(k)) {
        c->activity = CPU_RUNNING;
        return;
    }
    t = k->iv.vc.evm->cfg.time_exits ? host_mono_ns() : 0;
    vcpu_busy_end(&k->iv.vc);
    atomic_store(&c->asleep, 1); /* before req is looked at: pairs with the kick */
    if (!atomic_load(&c->req))
        host_futex_wait(&c->req, 0, UINT64_MAX);
    atomic_store_explicit(&c->asleep, 0, memory_order_relaxed);
    vcpu_busy_begin(&k->iv.vc);
    vcpu_exit_end(&k->iv.vc, EXIT_HLT, t);
}

/* An exception or debug trap that interp left behind: the core delivers it. */
static bool deliver_own(struct kvm_vcpu *k, enum run_result *res)
{
    struct cpu *c = CPU(&k->iv);
    enum step st;

    if (likely(!c->pending_dbg && !c->exc.valid))
        return true;
    if (!take_out(k, res))
        return false;
    tlb_flush_all(&k->iv);
    st = c->exc.valid ? cpu_deliver(c) : cpu_take_events(c);
    kvm_changed(k);
    return st == STEP_NEXT ? true : shutdown(k, res);
}

/* Is there one that the kernel does not know of? */
static bool interrupt_waits(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);

    return k->vm->split ? c->ops->pic_pending(c) : cpu_interrupt_waits(c);
}

static uint8_t take_interrupt(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);

    /* Whether LINT0 lets it through is part of ready_for_interrupt_injection. */
    if (k->vm->split || (apic_accepts_extint(c) && c->ops->pic_pending(c)))
        return c->ops->pic_ack(c);
    return apic_ack(c);
}

/* Gives the kernel what can be delivered now, or asks for the window. */
static int inject(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);
    struct kvm_run *run = k->run;
    int err = 0;

    run->request_interrupt_window = 0;
    if (c->nmi_pending) {
        c->nmi_pending = false;
        k->iv.vc.nr_exits[EXIT_IRQ]++;
        err = kvm_ioctl_num(k->fd, KVM_NMI, 0);
    }
    if (!err && interrupt_waits(k)) {
        if (k->window && run->ready_for_interrupt_injection) {
            struct kvm_interrupt irq = { .irq = take_interrupt(k) };

            k->iv.vc.nr_exits[EXIT_IRQ]++;
            k->window = false;
            err = kvm_ioctl(k->fd, KVM_INTERRUPT, &irq);
        }
        run->request_interrupt_window = interrupt_waits(k);
    }
    if (!k->vm->split)
        run->cr8 = apic_get_cr8(c);
    return err;
}

/* ---- the loop ---- */

/* Everything that has to be in order once per call of run(), with the machine as it is now. */
static int enter(struct kvm_vcpu *k)
{
    int err;

    if (!k->accepts_kicks) {
        err = host_kick_accept(&k->thread);
        if (err)
            return err;
        k->accepts_kicks = true;
    }
    err = kvm_sync_slots(k->vm);
    if (!err)
        err = kvm_update_tsc(k);
    if (err)
        return err;
    if (!by_interp(k))
        return kvm_send_pv(k);
    kvm_take_pv(k);
    return 0;
}

/* What the guest has changed of the state that is ours. */
static void after_run(struct kvm_vcpu *k)
{
    struct cpu *c = CPU(&k->iv);

    k->window = true;
    if (!k->vm->split && k->run->cr8 != apic_get_cr8(c))
        apic_set_cr8(c, k->run->cr8);
}

/*
 * A vCPU that sleeps in the kernel is not told of the window when nothing else wakes it. So it is
 * found out before whether it is open.
 */
static bool must_look(struct kvm_vcpu *k)
{
    return k->vm->split && !k->window && interrupt_waits(k);
}

static bool run_guest(struct kvm_vcpu *k, enum run_result *res)
{
    int err;

    if (unlikely(k->unsent || !k->in_kernel) && kvm_import(k))
        return fail(res);
    if (unlikely(k->debug_changed) && kvm_debug_sync(k))
        return fail(res);
    if (must_look(k)) {
        /* run() clears it again, and looks at the requests after. */
        set_immediate_exit(k, 1);
        err = 0;
    } else {
        err = inject(k);
    }
    if (!err) {
        k->unfinished = false;
        err = run_once(k);
        after_run(k);
        if (err == -EINTR || err == -EAGAIN)
            return true;
        if (!err)
            return kvm_exit(k, res);
    }
    kvm_report(k,
               "the kernel cannot run it: "
               "KVM_RUN failed",
               (uint64_t)-err);
    return fail(res);
}

/* Does the vCPU sleep here, and not in KVM_RUN? */
static bool sleeps_here(const struct kvm_vcpu *k)
{
    return k->iv.vc.cpu.activity != CPU_RUNNING && (!k->vm->split || by_interp(k));
}

/* What a halted vCPU waits for comes to the kernel: only when it runs freely can it wake. And a
 * nested guest's instructions are the kernel's alone. */
static enum run_result stepped_nothing(struct vcpu *vc)
{
    vc->dbg_hit = GVA(vc->cpu.rip);
    vc->dbg_hit_acc = ACC_EXEC;
    return RUN_DEBUG;
}

/* The debugger's step, the one off a breakpoint, or one of many: then events come between. */
static bool step_for_debugger(struct kvm_vcpu *k, enum run_result *res)
{
    const struct vcpu *vc = &k->iv.vc;

    if (by_interp(k) && !vc->dbg.step) {
        kvm_changed(k);
        if (!interp_serve(&k->iv, res))
            return false;
        if (vc->cpu.activity != CPU_RUNNING)
            return true;
    }
    return kvm_step(k, res);
}

enum run_result kvm_engine_run(struct vcpu *vc)
{
    struct kvm_vcpu *k = container_of(vc, struct kvm_vcpu, iv.vc);
    struct cpu *c = CPU(&k->iv);
    enum run_result res = RUN_ERROR;

    if (k->failed || enter(k))
        return RUN_ERROR;
    for (;;) {
        set_immediate_exit(k, 0);
        /* After it was cleared: see run_once(). */
        if (unlikely(atomic_load(&c->req)) && !serve_requests(k, &res))
            return res;
        if (unlikely(c->activity == CPU_SHUTDOWN))
            return RUN_SHUTDOWN;
        if (unlikely(sleeps_here(k))) {
            halt(k);
            continue;
        }
        if (!deliver_own(k, &res))
            return res;
        if (unlikely(vc->dbg.step || k->iv.dbg_resume || by_interp(k))) {
            if (vc->dbg.step && c->activity != CPU_RUNNING)
                return stepped_nothing(vc);
            if (!take_out(k, &res))
                return res;
            if (k->in_guest && vc->dbg.step)
                return stepped_nothing(vc);
            if (!step_for_debugger(k, &res))
                return res;
            continue;
        }
        if (!run_guest(k, &res))
            return res;
    }
}
