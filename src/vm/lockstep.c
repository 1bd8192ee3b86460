/* SPDX-License-Identifier: Apache-2.0 */
/* Lock-step's engine: it makes two others, and drives them. What it is about is in lockstep.h. */
#include "vm/lockstep.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Steps of the tested engine alone between two looks at requests. */
#define ALONE_STEPS 65536

static struct lockstep *of_outer(struct vcpu *v)
{
    return container_of(v, struct lockstep, outer);
}

/* ---- a chunk ---- */

/* What was posted into the mailbox becomes the engines'. Nobody else posts to them. */
static void forward_requests(struct lockstep *ls)
{
    struct cpu *from = &ls->outer.cpu;
    uint32_t req = 0;

    /* Acquire: pairs with cpu_post(). STOP is for us. */
    if (atomic_load_explicit(&from->req, memory_order_relaxed) & ~REQ_STOP)
        req = atomic_fetch_and_explicit(&from->req, REQ_STOP, memory_order_acquire) & ~REQ_STOP;
    if (!req)
        return;
    for (unsigned i = 0; i < ARRAY_SIZE(from->apic.pir); i++) {
        /* As apic_sync() does it. */
        uint32_t in = atomic_exchange_explicit(&from->apic.pir[i], 0, memory_order_acquire);
        uint32_t level = atomic_load_explicit(&from->apic.pir_tmr[i], memory_order_relaxed);

        for (unsigned s = 0; s < NR_LS_SIDES && in; s++) {
            struct apic *to = &ls->side[s].v->cpu.apic;

            to->pir_tmr[i] = (to->pir_tmr[i] & ~in) | (level & in);
            to->pir[i] |= in;
            to->told[i] |= from->apic.told[i];
        }
    }
    for (unsigned s = 0; s < NR_LS_SIDES; s++) {
        struct cpu *to = &ls->side[s].v->cpu;

        if (req & REQ_SIPI)
            to->sipi_vector = from->sipi_vector;
        atomic_fetch_or_explicit(&to->req, req, memory_order_relaxed);
    }
}

/* What the machine reads of a running vCPU: its addresses and its priority (apic_matches()). */
static void show_apic(struct lockstep *ls)
{
    const struct apic *from = &ls->side[LS_TESTED].v->cpu.apic;
    struct apic *to = &ls->outer.cpu.apic;

    __atomic_store_n(&to->base_msr, from->base_msr, __ATOMIC_RELAXED);
    __atomic_store_n(&to->id, from->id, __ATOMIC_RELAXED);
    __atomic_store_n(&to->ldr, from->ldr, __ATOMIC_RELAXED);
    __atomic_store_n(&to->dfr, from->dfr, __ATOMIC_RELAXED);
    __atomic_store_n(&to->tpr, from->tpr, __ATOMIC_RELAXED);
    __atomic_store_n(&ls->outer.nr_insns, ls->side[LS_TESTED].v->nr_insns, __ATOMIC_RELAXED);
}

/* The machine may look at all of it when run() has returned. */
static enum run_result leave(struct lockstep *ls, enum run_result res)
{
    const struct vcpu *v = ls->side[LS_TESTED].v;

    ls_state_copy(&ls->outer.cpu, &v->cpu);
    for (unsigned i = 0; i < NR_EXITS; i++) {
        ls->outer.nr_exits[i] = v->nr_exits[i];
        if (i != EXIT_HLT) /* the time of sleeping is counted in the machine's */
            ls->outer.exit_ns[i] = v->exit_ns[i];
    }
    return res;
}

static void note_start(struct lockstep *ls)
{
    const struct vcpu *v = ls->side[LS_TESTED].v;
    const struct cpu *c = &v->cpu;

    ls->past[ls->nr_past++ % LS_PAST] = (struct ls_past){
        .step = vcpu_steps(v), .rip = c->rip, .cs_base = c->seg[SEG_CS].base, .mode = c->mode
    };
    memcpy(ls->before, c->gpr, NR_GPRS * sizeof(c->gpr[0]));
    ls->before[NR_GPRS] = c->rip;
    ls->before[NR_GPRS + 1] = c->rflags;
}

/* Up to cfg.from steps of the tested engine. */
static enum run_result run_alone(struct lockstep *ls)
{
    struct vcpu *v = ls->side[LS_TESTED].v;

    v->run_limit = MIN(ls->cfg.from - vcpu_steps(v), ALONE_STEPS);
    return ls->side[LS_TESTED].ops->run(v);
}

/* The reference comes in: it gets the state and the memory. */
static void join(struct lockstep *ls)
{
    const struct vcpu *from = ls->side[LS_TESTED].v;
    struct ls_side *ref = &ls->side[LS_REFERENCE];
    struct cpu *to = &ref->v->cpu;

    ls_memory_forward(ls); /* thrown away */
    ls_memory_copy(ls);
    ls_state_copy(to, &from->cpu);
    to->sipi_vector = from->cpu.sipi_vector;
    memcpy((void *)to->apic.pir, (const void *)from->cpu.apic.pir, sizeof(to->apic.pir));
    memcpy((void *)to->apic.pir_tmr, (const void *)from->cpu.apic.pir_tmr,
           sizeof(to->apic.pir_tmr));
    memcpy((void *)to->apic.told, (const void *)from->cpu.apic.told, sizeof(to->apic.told));
    to->req = from->cpu.req & ~REQ_CODE;
    ref->ops->state_changed(ref->v);
    ls->memory_at = vcpu_steps(from);
    ls->together = true;
}

/* The tested engine's chunk, then the same of the reference. */
static enum run_result run_both(struct lockstep *ls, struct ls_difference *d)
{
    struct vcpu *tested = ls->side[LS_TESTED].v, *ref = ls->side[LS_REFERENCE].v;
    uint64_t from = vcpu_steps(tested), ref_from = vcpu_steps(ref), nr;
    enum run_result res, ref_res;

    ls_tape_clear(&ls->tape);
    note_start(ls);
    tested->run_limit = ls->cfg.chunk;
    res = ls->side[LS_TESTED].ops->run(tested);
    nr = vcpu_steps(tested) - from;
    ls->past[(ls->nr_past - 1) % LS_PAST].nr = nr;
    /* No step: the vCPU is halted, or an event shut it down; so will this one's be. */
    ref->run_limit = MAX(nr, 1);
    ref->run_exact = true;
    ref_res = ls->side[LS_REFERENCE].ops->run(ref);
    ls->nr_chunks++;
    if (ls->tape.wrong[0])
        d->what = ls->tape.wrong;
    else if (vcpu_steps(ref) - ref_from != nr)
        d->what =
            "the number of steps: one takes an exception, an event or a halt the other does not";
    else if (!ls_state_same(&tested->cpu, &ref->cpu))
        d->what = "the vCPU's state";
    else if (ls->tape.next != ls->tape.nr)
        d->what = "a call to the machine that only the tested engine makes";
    else if ((res == RUN_SHUTDOWN) != (ref_res == RUN_SHUTDOWN))
        d->what = "only one shuts down";
    return res;
}

/* Compares all memory when it is time. */
static void compare_memory(struct lockstep *ls, bool now, struct ls_difference *d)
{
    uint64_t at = vcpu_steps(ls->side[LS_TESTED].v);

    if (!ls->together || ls->differed || d->what || at == ls->memory_at)
        return;
    if (!now && (!ls->cfg.memory_every || at - ls->memory_at < ls->cfg.memory_every))
        return;
    ls_memory_forward(ls);
    if (ls_memory_same(ls, &d->at)) {
        ls->memory_at = at;
        return;
    }
    d->what = "memory";
    d->memory = true;
}

static enum run_result differ(struct lockstep *ls, const struct ls_difference *d)
{
    ls->differed = true;
    ls_report(ls, d);
    vm_stop(ls->vm, STOP_ERROR, 0);
    return leave(ls, RUN_STOPPED);
}

static bool out_of_memory(struct lockstep *ls)
{
    if (!ls->tape.no_memory && !ls->mirror.no_memory)
        return false;
    log_error("%s: lockstep: out of memory", ls->vm->name);
    vm_stop(ls->vm, STOP_ERROR, 0);
    return true;
}

static enum run_result lockstep_run(struct vcpu *outer)
{
    struct lockstep *ls = of_outer(outer);

    for (;;) {
        struct ls_difference d = { 0 };
        enum run_result res;

        if (out_of_memory(ls) ||
            (atomic_load_explicit(&outer->cpu.req, memory_order_relaxed) & REQ_STOP)) {
            atomic_fetch_and_explicit(&outer->cpu.req, ~REQ_STOP, memory_order_acquire);
            compare_memory(ls, true, &d);
            return d.what ? differ(ls, &d) : leave(ls, RUN_STOPPED);
        }
        if (!ls->together && vcpu_steps(ls->side[LS_TESTED].v) >= ls->cfg.from)
            join(ls);
        forward_requests(ls);
        ls_memory_forward(ls);
        ls->pic_up = vm_platform_time_ops.pic_pending(ls->vm);
        res = ls->together ? run_both(ls, &d) : run_alone(ls);
        show_apic(ls);
        compare_memory(ls, res == RUN_SHUTDOWN, &d);
        if (d.what)
            return differ(ls, &d);
        if (res != RUN_LIMIT && res != RUN_STOPPED)
            return leave(ls, res);
    }
}

/* ---- the contract ---- */

static int lockstep_probe(char *why, size_t why_bytes)
{
    (void)snprintf(why, why_bytes, "not an engine of its own: --lockstep");
    return -ENOTSUP;
}

static int side_create(struct ls_side *s)
{
    int err = s->ops->vm_create(&s->ecfg, &s->evm);

    return err ? err : s->ops->vcpu_create(s->evm, 0, &s->v);
}

static void side_destroy(struct ls_side *s)
{
    if (s->v)
        s->ops->vcpu_destroy(s->v);
    if (s->evm)
        s->ops->vm_destroy(s->evm);
}

static void lockstep_vm_destroy(struct engine_vm *evm)
{
    struct lockstep *ls = container_of(evm, struct lockstep, evm);
    const struct vcpu *tested = ls->side[LS_TESTED].v;

    if (tested && ls->nr_chunks && !ls->differed)
        ls_line(ls,
                "lockstep: %s and %s agree in %llu steps of %llu; compared %llu times, memory %llu "
                "times"
                " (but for %llu accessed bits)",
                ls->side[LS_REFERENCE].ops->name, ls->side[LS_TESTED].ops->name,
                (unsigned long long)vcpu_steps(ls->side[LS_REFERENCE].v),
                (unsigned long long)vcpu_steps(tested), (unsigned long long)ls->nr_chunks,
                (unsigned long long)ls->nr_memory, (unsigned long long)ls->nr_accessed);
    for (unsigned i = 0; i < NR_LS_SIDES; i++)
        side_destroy(&ls->side[i]);
    ls_memory_destroy(ls);
    ls_tape_free(&ls->tape);
    free(ls);
}

static int lockstep_vm_create(const struct engine_config *cfg, struct engine_vm **out)
{
    struct vm *vm = cfg->ctx; /* the machine's own: this engine is part of it */
    struct lockstep *ls = aligned_alloc(64, align_up(sizeof(*ls), 64));
    int err;

    if (!ls)
        return -ENOMEM;
    memset(ls, 0, sizeof(*ls));
    ls->evm = (struct engine_vm){ .ops = &lockstep_engine, .cfg = *cfg };
    ls->vm = vm;
    ls->cfg = vm->cfg.lockstep;
    ls->together = !ls->cfg.from;
    err = ls_memory_create(ls);
    ls->side[LS_TESTED] = (struct ls_side){ .ops = ls->cfg.tested, .ecfg = *cfg };
    ls->side[LS_TESTED].ecfg.ops = &ls_record_ops;
    ls->side[LS_TESTED].ecfg.time_ops = &ls_record_time_ops;
    ls->side[LS_TESTED].ecfg.ctx = ls;
    ls->side[LS_REFERENCE] = ls->side[LS_TESTED];
    ls->side[LS_REFERENCE].ops = ls->cfg.reference;
    ls->side[LS_REFERENCE].ecfg.mmu = ls->copy;
    ls->side[LS_REFERENCE].ecfg.ops = &ls_replay_ops;
    ls->side[LS_REFERENCE].ecfg.time_ops = &ls_replay_time_ops;
    ls->side[LS_REFERENCE].ecfg.trace = NULL;
    ls->side[LS_REFERENCE].ecfg.time_exits = false;
    for (unsigned i = 0; i < NR_LS_SIDES && !err; i++)
        err = side_create(&ls->side[i]);
    if (err) {
        lockstep_vm_destroy(&ls->evm);
        return err;
    }
    *out = &ls->evm;
    return 0;
}

static int lockstep_vcpu_create(struct engine_vm *evm, uint32_t id, struct vcpu **out)
{
    struct lockstep *ls = container_of(evm, struct lockstep, evm);

    if (id) {
        log_error("%s: lockstep: one vCPU only", ls->vm->name);
        return -ENOTSUP;
    }
    ls->outer.engine = &lockstep_engine;
    ls->outer.evm = evm;
    ls->outer.cpu.model = evm->cfg.model;
    ls->outer.cpu.ops = &ls_outer_cpu_ops;
    ls->outer.cpu.seen = evm->cfg.seen;
    cpu_reset(&ls->outer.cpu, RESET_POWER_ON);
    *out = &ls->outer;
    return 0;
}

static void lockstep_vcpu_destroy(struct vcpu *v)
{
    (void)v; /* part of the engine's VM */
}

/* Reset, or the kernel was loaded: nothing of before is left. */
static void lockstep_state_changed(struct vcpu *outer)
{
    struct lockstep *ls = of_outer(outer);

    cpu_update_mode(&outer->cpu);
    for (unsigned i = 0; i < NR_LS_SIDES; i++) {
        struct vcpu *v = ls->side[i].v;

        ls_state_copy(&v->cpu, &outer->cpu);
        memset((void *)v->cpu.apic.pir, 0, sizeof(v->cpu.apic.pir));
        memset((void *)v->cpu.apic.pir_tmr, 0, sizeof(v->cpu.apic.pir_tmr));
        v->cpu.req |= REQ_IRQ;
        ls->side[i].ops->state_changed(v);
    }
}

static void lockstep_debug_update(struct vcpu *outer)
{
    (void)outer; /* the command refuses a debugger together with lock-step */
}

static uint64_t lockstep_peek(struct vcpu *outer, gva_t at, void *buf, uint64_t bytes)
{
    const struct ls_side *s = &of_outer(outer)->side[LS_TESTED];

    return s->ops->peek(s->v, at, buf, bytes);
}

static uint64_t lockstep_poke(struct vcpu *outer, gva_t at, const void *buf, uint64_t bytes)
{
    const struct ls_side *s = &of_outer(outer)->side[LS_TESTED];

    return s->ops->poke(s->v, at, buf, bytes); /* the copy hears of it as of a device's write */
}

const struct engine_ops lockstep_engine = {
    .name = "lockstep",
    .about = "two engines side by side",
    .probe = lockstep_probe,
    .vm_create = lockstep_vm_create,
    .vm_destroy = lockstep_vm_destroy,
    .vcpu_create = lockstep_vcpu_create,
    .vcpu_destroy = lockstep_vcpu_destroy,
    .run = lockstep_run,
    .state_changed = lockstep_state_changed,
    .debug_update = lockstep_debug_update,
    .peek = lockstep_peek,
    .poke = lockstep_poke,
};

bool lockstep_differed(const struct vm *vm)
{
    return vm->cfg.lockstep.reference && container_of(vm->evm, struct lockstep, evm)->differed;
}

void lockstep_trim_model(struct cpu_model *m)
{
    /* Random numbers, and what needs the time that the host's scheduler took. */
    static const enum cpu_feature unlike[] = { FEAT_RDRAND, FEAT_RDSEED, FEAT_KVM_STEAL_TIME,
                                               FEAT_KVM_PV_TLB_FLUSH, FEAT_KVM_PV_SCHED_YIELD };

    for (unsigned i = 0; i < ARRAY_SIZE(unlike); i++)
        m->words[unlike[i] / 32] &= ~BIT(unlike[i] % 32);
}
