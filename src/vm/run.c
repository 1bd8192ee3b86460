/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads of a VM: one per vCPU, which runs its engine and sleeps while the vCPU is halted, and
 * a supervisor that does what needs all vCPUs to stand still: reset and the end.
 *
 * A vCPU's thread passes a gate, under vm->lock, each time before it enters run(). Who wants the
 * machine to stand still closes the gate (nr_pauses, or a posted stop), kicks, and waits until all
 * are parked.
 */
#include "lib/trace.h"
#include "vm/lockstep.h"
#include "vm/priv.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

void run_kick(struct vm *vm)
{
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        cpu_post(&vm->vcpus[i].v->cpu, REQ_STOP);
}

void run_wait_parked(struct vm *vm)
{
    assert_held(&vm->lock);
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        while (!vm->vcpus[i].parked)
            cond_wait(&vm->changed, &vm->lock);
}

static bool run_gate_closed(const struct vm *vm)
{
    return vm->nr_pauses || atomic_load_explicit(&vm->stop, memory_order_relaxed) ||
           atomic_load_explicit(&vm->remap, memory_order_relaxed);
}

/* Waits while the machine has to stand still. False: it has ended. */
static bool run_gate(struct vm_vcpu *p)
{
    struct vm *vm = p->vm;
    bool go_on;

    lock_take(&vm->lock);
    while (!vm->quit && run_gate_closed(vm)) {
        if (!p->parked) {
            p->parked = true;
            cond_wake_all(&vm->changed);
        }
        cond_wait(&vm->changed, &vm->lock);
    }
    go_on = !vm->quit;
    p->parked = !go_on;
    lock_drop(&vm->lock);
    return go_on;
}

/* Until somebody posts something. The time counts as the halt's. */
static void run_sleep(struct vm_vcpu *p)
{
    _Atomic uint32_t *req = &p->v->cpu.req;
    uint64_t from = p->vm->cfg.time_exits ? host_mono_ns() : 0;

    /* Acquire: what was posted before the bit was set is seen. Pairs with cpu_post(). */
    atomic_store(&p->v->cpu.asleep, 1); /* before req is looked at: pairs with the kick */
    while (!atomic_load(req))
        host_futex_wait(req, 0, UINT64_MAX);
    atomic_store_explicit(&p->v->cpu.asleep, 0, memory_order_relaxed);
    vcpu_exit_end(p->v, EXIT_HLT, from);
}

/* A debugger's stop: its hook runs while all others stand still, and may keep them so. */
static void run_debug(struct vm_vcpu *p)
{
    struct vm *vm = p->vm;
    void (*hook)(void *, struct vcpu *);
    void *arg;

    lock_take(&vm->lock);
    p->parked = true;
    hook = vm->debug_hook;
    arg = vm->debug_arg;
    vm->nr_in_hook += hook != NULL;
    cond_wake_all(&vm->changed);
    lock_drop(&vm->lock);
    if (!hook)
        return;
    vm_pause(vm);
    hook(arg, p->v);
    vm_resume(vm);
    lock_take(&vm->lock);
    vm->nr_in_hook--;
    cond_wake_all(&vm->changed);
    lock_drop(&vm->lock);
}

static void *run_vcpu(void *arg)
{
    struct vm_vcpu *p = arg;
    const char *what;
    int err = host_sched_set(&p->vm->cfg.sched, p->v->cpu.id, &what);

    host_delay_open(&p->delay, 0);
    if (err)
        log_warn("%s: vCPU %u: cannot have the wanted %s: %s", p->vm->name, p->v->cpu.id, what,
                 strerror(-err));
    while (run_gate(p)) {
        enum run_result res;

        vcpu_busy_begin(p->v);
        res = p->v->engine->run(p->v);
        vcpu_busy_end(p->v);
        switch (res) {
        case RUN_STOPPED:
        case RUN_LIMIT: /* nobody set one */
            break;
        case RUN_HALTED:
            run_sleep(p);
            break;
        case RUN_SHUTDOWN:
            vm_stop(p->vm, STOP_TRIPLE, 0);
            break;
        case RUN_ERROR:
            vm_stop(p->vm, STOP_ERROR, 0);
            break;
        case RUN_DEBUG:
            run_debug(p);
            break;
        }
    }
    host_delay_close(&p->delay);
    return NULL;
}

/* ---- the supervisor ---- */

static void run_end(struct vm *vm, enum stop_reason why, int status)
{
    /* It may have been found when the guest had ended already. */
    if (lockstep_differed(vm))
        why = STOP_ERROR;
    trace(vm->cfg.trace, VM, "end: reason %u, status %d", why, status);
    clock_pause(bus_clock(vm->bus));
    lock_take(&vm->lock);
    vm->why = why;
    vm->status = status;
    vm->quit = true;
    vm->ended = true;
    vm->ended_ns = host_mono_ns();
    cond_wake_all(&vm->changed);
    lock_drop(&vm->lock);
}

/* True: the machine goes on as after power-on. */
static bool run_try_reset(struct vm *vm, uint64_t stop)
{
    int err;

    trace(vm->cfg.trace, VM, "reset");
    err = vm_reset(vm);
    if (err) {
        run_end(vm, STOP_ERROR, 0);
        return false;
    }
    lock_take(bus_lock(vm->bus));
    vm_prepare(vm);
    lock_drop(bus_lock(vm->bus));
    lock_take(&vm->lock);
    /* Something of higher rank may have been posted meanwhile, and stays. */
    (void)atomic_compare_exchange_strong(&vm->stop, &stop, 0);
    cond_wake_all(&vm->changed);
    lock_drop(&vm->lock);
    return true;
}

void run_posted(struct vm *vm)
{
    /* Release: pairs with the acquire in run_supervise(). */
    (void)atomic_fetch_add_explicit(&vm->nr_posted, 1, memory_order_release);
    host_futex_wake(&vm->nr_posted);
}

/* Pauses the machine while a device cannot go on. *held: it is. */
static void run_hold(struct vm *vm, bool *held)
{
    bool hold = atomic_load_explicit(&vm->nr_holds, memory_order_relaxed) > 0;

    if (hold == *held)
        return;
    *held = hold;
    if (hold)
        vm_pause(vm);
    else
        vm_resume(vm);
}

/* The gate stays closed until it is done: whoever asked sees its effect from its next instruction
 * on, or from the next block if it asked by a store to device memory. */
void run_post_remap(struct vm *vm)
{
    atomic_store_explicit(&vm->remap, true, memory_order_relaxed);
    run_posted(vm);
    run_kick(vm);
}

static void run_remap(struct vm *vm)
{
    if (!atomic_load_explicit(&vm->remap, memory_order_relaxed))
        return;
    vm_pause(vm);
    atomic_store_explicit(&vm->remap, false, memory_order_relaxed);
    pc_remap(vm->pc);
    vm_resume(vm);
}

#define SHARE_SETTLE_NS 1000000000ull

/*
 * A restored machine's memory becomes one that other processes can map: see mmu_make_shared(). That
 * takes a second for some GB, by which its clock must not fall behind the date.
 */
static void run_share(struct vm *vm)
{
    bool alone;
    int err;

    if (!atomic_load_explicit(&vm->want_shared, memory_order_relaxed))
        return;
    atomic_store(&vm->sharing, true); /* before the claim: see vm_claim() */
    if (atomic_exchange(&vm->claimed, true)) {
        atomic_store(&vm->sharing, false);
        return;
    }
    atomic_store_explicit(&vm->want_shared, false, memory_order_relaxed);
    vm_pause(vm);
    alone = vm_paused_once(vm); /* else its clock stands still since before */
    err = vm_settle(vm, SHARE_SETTLE_NS);
    if (!err)
        err = mmu_make_shared(vm->mmu);
    vm_state_changed(vm);
    if (alone)
        vm_resume_as_if_run(vm);
    else
        vm_resume(vm);
    vm_unclaim(vm);
    atomic_store(&vm->sharing, false);
    if (err)
        log_warn("%s: its memory stays this process's own (%s): its programs run more slowly",
                 vm->name, strerror(-err));
}

static void *run_supervise(void *arg)
{
    struct vm *vm = arg;
    bool held = false;

    for (;;) {
        /* Acquire: pairs with the release in vm_stop(); vm->stop is read after. */
        uint32_t seen = atomic_load_explicit(&vm->nr_posted, memory_order_acquire);
        uint64_t stop = atomic_load_explicit(&vm->stop, memory_order_relaxed);
        enum stop_reason why = (enum stop_reason)(stop >> 32);

        run_hold(vm, &held);
        run_remap(vm);
        run_share(vm);
        if (!stop) {
            if (host_mono_ns() >= vm->timeout_at_ns)
                vm_stop(vm, STOP_TIMEOUT, 0);
            else
                host_futex_wait(&vm->nr_posted, seen, vm->timeout_at_ns);
            continue;
        }
        lock_take(&vm->lock);
        run_wait_parked(vm);
        lock_drop(&vm->lock);
        if (why == STOP_RESET && !vm->cfg.no_reboot) {
            if (run_try_reset(vm, stop))
                continue;
            return NULL;
        }
        run_end(vm, why, (int)(uint32_t)stop);
        return NULL;
    }
}

int run_start(struct vm *vm)
{
    int err = thread_start_as(&vm->supervisor, HOST_KEEPER, "vm", run_supervise, vm);

    for (unsigned i = 0; i < vm->nr_vcpus && !err; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "vcpu%u", i);
        err = thread_start_as(&vm->vcpus[i].thread, HOST_VCPU, name, run_vcpu, &vm->vcpus[i]);
    }
    return err;
}

void run_join(struct vm *vm)
{
    thread_join(&vm->supervisor);
    for (unsigned i = 0; i < vm->nr_vcpus; i++)
        thread_join(&vm->vcpus[i].thread);
}
