/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hypercalls, by VMCALL or VMMCALL: those of KVM's that help here (Linux:
 * Documentation/virt/kvm/x86/hypercalls.rst). Number in RAX, arguments in RBX, RCX, RDX, RSI,
 * result in RAX.
 *
 * All on the vCPU's own thread, no locks held.
 */
#include "lib/trace.h"
#include "vm/priv.h"

#define KVM_HC_VAPIC_POLL_IRQ 1
#define KVM_HC_KICK_CPU       5
#define KVM_HC_SEND_IPI       10
#define KVM_HC_SCHED_YIELD    11

/* Results below 0. */
#define KVM_EPERM  1
#define KVM_EINVAL 22
#define KVM_ENOSYS 1000

/* SDM 3, "Interrupt Command Register": what SEND_IPI takes of it. */
#define ICR_SHORTHAND   (3u << 18)
#define ICR_LOGICAL     BIT(11)
#define ICR_MODE(icr)   ((enum apic_delivery)bits((icr), 10, 8))
#define ICR_VECTOR(icr) ((uint8_t)(icr))

struct hc_args {
    uint64_t a[4];
    unsigned bits; /* of each of them */
};

/* A vCPU's number is its APIC ID. */
static struct cpu *hc_target(struct vm *vm, uint64_t apic_id)
{
    return apic_id < vm->nr_vcpus ? &vm->vcpus[apic_id].v->cpu : NULL;
}

/* The guest wants to be here to take interrupts: it is. */
static int64_t hc_poll(struct vm *vm, struct cpu *c, const struct hc_args *args)
{
    (void)vm, (void)c, (void)args;
    return 0;
}

/* RCX: the APIC ID of a vCPU that waits in HLT, or is about to. */
static int64_t hc_kick(struct vm *vm, struct cpu *c, const struct hc_args *args)
{
    struct cpu *to = hc_target(vm, args->a[1]);

    (void)c;
    if (to)
        cpu_post(to, REQ_KICK);
    return 0;
}

/*
 * RBX and RCX: a bitmap of APIC IDs, counted from RDX; RSI: what would be written to ICR. Returns
 * to how many it went.
 */
static int64_t hc_send_ipi(struct vm *vm, struct cpu *c, const struct hc_args *args)
{
    uint64_t icr = args->a[3], first = (uint32_t)args->a[2];
    struct apic_msg msg = { .vector = ICR_VECTOR(icr), .mode = ICR_MODE(icr), .wide_dest = true };
    int64_t nr = 0;

    (void)c;
    if ((icr & (ICR_SHORTHAND | ICR_LOGICAL)) ||
        (msg.mode != APIC_NMI && (msg.mode != APIC_FIXED || msg.vector < 16)))
        return -KVM_EINVAL;
    for (unsigned i = 0; i < 2 * args->bits; i++) {
        struct cpu *to;

        if (!(args->a[i / args->bits] >> i % args->bits & 1))
            continue;
        to = hc_target(vm, first + i);
        if (!to)
            continue;
        msg.dest = to->id;
        nr += irq_send_one(vm, to, &msg);
    }
    return nr;
}

/* RBX: a vCPU that was seen not to run, and that this one waits for. */
static int64_t hc_yield(struct vm *vm, struct cpu *c, const struct hc_args *args)
{
    struct cpu *to = hc_target(vm, args->a[0]);

    if (!to || to == c)
        return 0;
    cpu_pv_away(c);
    host_yield();
    (void)cpu_pv_back(c);
    return 0;
}

static const struct hypercall {
    uint32_t nr;
    enum cpu_feature need;
    int64_t (*call)(struct vm *vm, struct cpu *c, const struct hc_args *args);
} hypercalls[] = {
    { KVM_HC_VAPIC_POLL_IRQ, FEAT_KVM_CLOCK, hc_poll },
    { KVM_HC_KICK_CPU, FEAT_KVM_PV_UNHALT, hc_kick },
    { KVM_HC_SEND_IPI, FEAT_KVM_PV_IPI, hc_send_ipi },
    { KVM_HC_SCHED_YIELD, FEAT_KVM_PV_SCHED_YIELD, hc_yield },
};

static int64_t hc_do(struct vm *vm, struct cpu *c, const struct hc_args *args)
{
    uint64_t nr = low_bytes(c->gpr[RAX], args->bits / 8);

    /* As KVM does; user programs have no hypercalls. */
    if (c->cpl != 0)
        return -KVM_EPERM;
    for (unsigned i = 0; i < ARRAY_SIZE(hypercalls); i++)
        if (hypercalls[i].nr == nr && model_has(c->model, hypercalls[i].need))
            return hypercalls[i].call(vm, c, args);
    if (log_first(c->seen, 0xca11ull << 48 | (nr & 0xffffffff)))
        log_warn("guest: unknown hypercall %#llx is refused", (unsigned long long)nr);
    return -KVM_ENOSYS;
}

void vm_hypercall(struct vm *vm, struct cpu *c)
{
    static const enum gpr regs[] = { RBX, RCX, RDX, RSI };
    struct hc_args args = { .bits = in_long64(c) ? 64 : 32 };
    uint64_t result;

    trace(vm->cfg.trace, HYPERCALL, "vcpu%u rax %#llx rbx %#llx rcx %#llx rdx %#llx", c->id,
          (unsigned long long)c->gpr[RAX], (unsigned long long)c->gpr[RBX],
          (unsigned long long)c->gpr[RCX], (unsigned long long)c->gpr[RDX]);
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
        args.a[i] = low_bytes(c->gpr[regs[i]], args.bits / 8);
    result = (uint64_t)hc_do(vm, c, &args);
    c->gpr[RAX] = low_bytes(result, args.bits / 8);
}
