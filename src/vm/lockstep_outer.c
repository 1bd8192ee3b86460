/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The vCPU that lock-step shows to the machine never runs: what the core needs of an engine for it
 * is what a reset and a post need. Memory is the tested engine's.
 */
#include "vm/lockstep.h"

static struct lockstep *outer_lockstep(struct cpu *c)
{
    return container_of(c, struct lockstep, outer.cpu);
}

static struct cpu *outer_tested(struct cpu *c)
{
    return &outer_lockstep(c)->side[LS_TESTED].v->cpu;
}

static enum step outer_read(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc)
{
    struct cpu *t = outer_tested(c);

    return t->ops->read(t, at, buf, bytes, acc);
}

static enum step outer_write(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc)
{
    struct cpu *t = outer_tested(c);

    return t->ops->write(t, at, buf, bytes, acc);
}

static enum step outer_probe(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    struct cpu *t = outer_tested(c);

    return t->ops->probe(t, at, bytes, acc);
}

static enum step outer_rmw8(struct cpu *c, gva_t at, uint8_t and_mask, uint8_t or_mask,
                            unsigned acc)
{
    struct cpu *t = outer_tested(c);

    return t->ops->rmw8(t, at, and_mask, or_mask, acc);
}

static uint64_t outer_phys_read(struct cpu *c, gpa_t at, unsigned bytes)
{
    struct cpu *t = outer_tested(c);

    return t->ops->phys_read(t, at, bytes);
}

static bool outer_phys_cas(struct cpu *c, gpa_t at, uint64_t old, uint64_t val, unsigned bytes)
{
    struct cpu *t = outer_tested(c);

    return t->ops->phys_cas(t, at, old, val, bytes);
}

/* Nothing is derived from this vCPU; the engines hear of changes by state_changed(). */
static void outer_tlb_flush(struct cpu *c, const struct tlb_flush *what)
{
    (void)c, (void)what;
}

static void outer_debug_changed(struct cpu *c)
{
    (void)c;
}

/* A running chunk is short enough to be waited for. */
static void outer_kick(struct cpu *c)
{
    if (c->asleep)
        host_futex_wake(&c->req);
}

static uint64_t outer_tsc(struct cpu *c)
{
    return vm_platform_time_ops.tsc(outer_lockstep(c)->vm);
}

static uint64_t outer_now_ns(struct cpu *c)
{
    return vm_platform_time_ops.now_ns(outer_lockstep(c)->vm);
}

static uint64_t outer_tsc_to_ns(struct cpu *c, uint64_t tsc)
{
    return vm_platform_time_ops.tsc_to_ns(outer_lockstep(c)->vm, tsc);
}

static uint64_t outer_real_ns(struct cpu *c)
{
    return vm_platform_time_ops.real_ns(outer_lockstep(c)->vm);
}

static uint64_t outer_steal_ns(struct cpu *c)
{
    return vm_platform_time_ops.steal_ns(outer_lockstep(c)->vm, c->id);
}

static void outer_apic_timer(struct cpu *c, uint64_t deadline_ns)
{
    vm_platform_time_ops.apic_timer(outer_lockstep(c)->vm, c->id, deadline_ns);
}

static void outer_apic_send(struct cpu *c, const struct apic_msg *msg)
{
    vm_platform_time_ops.apic_send(outer_lockstep(c)->vm, c->id, msg);
}

static void outer_apic_eoi(struct cpu *c, uint8_t vector)
{
    vm_platform_time_ops.apic_eoi(outer_lockstep(c)->vm, c->id, vector);
}

static bool outer_pic_pending(struct cpu *c)
{
    return vm_platform_time_ops.pic_pending(outer_lockstep(c)->vm);
}

static uint8_t outer_pic_ack(struct cpu *c)
{
    return vm_platform_time_ops.pic_ack(outer_lockstep(c)->vm);
}

static void outer_ferr(struct cpu *c)
{
    vm_platform_time_ops.ferr(outer_lockstep(c)->vm);
}

const struct cpu_ops ls_outer_cpu_ops = {
    .read = outer_read,
    .write = outer_write,
    .probe = outer_probe,
    .rmw8 = outer_rmw8,
    .phys_read = outer_phys_read,
    .phys_cas = outer_phys_cas,
    .tlb_flush = outer_tlb_flush,
    .debug_changed = outer_debug_changed,
    .kick = outer_kick,
    .tsc = outer_tsc,
    .now_ns = outer_now_ns,
    .tsc_to_ns = outer_tsc_to_ns,
    .real_ns = outer_real_ns,
    .steal_ns = outer_steal_ns,
    .apic_timer = outer_apic_timer,
    .apic_send = outer_apic_send,
    .apic_eoi = outer_apic_eoi,
    .pic_pending = outer_pic_pending,
    .pic_ack = outer_pic_ack,
    .ferr = outer_ferr,
};
