/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's paravirtual interface: MSRs, and the structures in guest memory that they register.
 *
 * The structures are written as page tables are, word by word through cpu_ops.phys_cas(), so that
 * code in the same page, dirty logs and other vCPUs hear of it. Outside RAM that does nothing.
 */
#include "cpu/apic_impl.h"
#include "cpu/msr_impl.h"

#define PV_ENABLED BIT64(0)

/* struct pvclock_vcpu_time_info, by offset. */
#define CLOCK_VERSION   0  /* odd while it is written */
#define CLOCK_TSC       8  /* u64: the guest's TSC ... */
#define CLOCK_SYSTEM_NS 16 /* u64: ... and the time then */
#define CLOCK_MUL       24 /* ns = (ticks << shift) * mul >> 32 */
#define CLOCK_SHIFT     28 /* s8; behind it the flags */
#define CLOCK_STABLE    BIT(8)
#define CLOCK_STOPPED   BIT(9) /* PVCLOCK_GUEST_STOPPED: set by the host, cleared by the guest */

/* struct pvclock_wall_clock: UTC when the clock was 0. */
#define WALL_VERSION 0
#define WALL_SEC     4
#define WALL_NSEC    8
#define NS_PER_S     1000000000ull

/* struct kvm_steal_time. */
#define STEAL_NS        0 /* u64 */
#define STEAL_VERSION   8
#define STEAL_PREEMPTED 16 /* u8 */
#define STEAL_BYTES     64
#define PREEMPTED       BIT(0)
#define PREEMPTED_FLUSH BIT(1) /* set by another vCPU: flush before you go on */

/* The word at the address of PV EOI. */
#define EOI_DONE_BY_CLEARING BIT(0)

/* Another vCPU may write the same word; one that does so all the time only harms its own guest. */
#define TRIES 1000

#define CLOCK_AT(c) gpa_of((c)->pv.clock, 4)
#define STEAL_AT(c) gpa_of((c)->pv.steal, STEAL_BYTES)
#define EOI_AT(c)   gpa_of((c)->pv.eoi, 4)

static uint64_t gpa_of(uint64_t msr, unsigned align)
{
    return msr & ~(uint64_t)(align - 1);
}

static uint32_t get32(struct cpu *c, uint64_t at)
{
    return (uint32_t)c->ops->phys_read(c, GPA(at), 4);
}

/* *at = (*at & keep) | set; returns what was there. */
static uint32_t change32(struct cpu *c, uint64_t at, uint32_t keep, uint32_t set)
{
    uint32_t old = 0;

    for (unsigned i = 0; i < TRIES; i++) {
        old = get32(c, at);
        if (c->ops->phys_cas(c, GPA(at), old, (old & keep) | set, 4))
            break;
    }
    return old;
}

static void put32(struct cpu *c, uint64_t at, uint32_t val)
{
    (void)change32(c, at, 0, val);
}

static void put64(struct cpu *c, uint64_t at, uint64_t val)
{
    put32(c, at, (uint32_t)val);
    put32(c, at + 4, (uint32_t)(val >> 32));
}

/* Makes the version odd; returns the even one that comes after. */
static uint32_t begin(struct cpu *c, uint64_t version_at)
{
    uint32_t odd = (get32(c, version_at) + 1) | 1;

    put32(c, version_at, odd);
    return odd + 1;
}

/* ---- clock ---- */

struct scale {
    uint32_t mul;
    unsigned shift;
};

/* Rounded down: guests compute the frequency back from it, and round that down. */
static struct scale scale_of(uint64_t khz)
{
    struct scale s = { .shift = 0 };

    while (khz << s.shift <= 1000000)
        s.shift++;
    s.mul = (uint32_t)((1000000ull << 32) / (khz << s.shift));
    return s;
}

/*
 * The VM's clock and its TSC count the same ticks, and stand still together. So the clock is one
 * and the same line through the origin for all vCPUs and all time, and is written once; it is
 * exact to 2^-28, and never jumps. A TSC that its guest has moved is taken out again, but then the
 * vCPUs' TSCs are not the same, which is what the flag promises.
 */
static void clock_update(struct cpu *c)
{
    struct scale s = scale_of(MAX(c->model->tsc_khz, 1));
    bool stable = model_has(c->model, FEAT_KVM_CLOCK_STABLE) && !c->tsc_adjust;
    uint64_t at = CLOCK_AT(c);
    uint32_t version;

    if (!(c->pv.clock & PV_ENABLED))
        return;
    version = begin(c, at + CLOCK_VERSION);
    put64(c, at + CLOCK_TSC, c->tsc_adjust);
    put64(c, at + CLOCK_SYSTEM_NS, 0);
    put32(c, at + CLOCK_MUL, s.mul);
    (void)change32(c, at + CLOCK_SHIFT, CLOCK_STOPPED, s.shift | (stable ? CLOCK_STABLE : 0));
    put32(c, at + CLOCK_VERSION, version);
}

void pv_tsc_changed(struct cpu *c)
{
    clock_update(c);
}

void cpu_pv_was_stopped(struct cpu *c)
{
    if (c->pv.clock & PV_ENABLED)
        (void)change32(c, CLOCK_AT(c) + CLOCK_SHIFT, ~0u, CLOCK_STOPPED);
}

static void wall_update(struct cpu *c)
{
    uint64_t at = gpa_of(c->pv.wall, 4), ns = c->ops->real_ns(c) - c->ops->now_ns(c);
    uint32_t version = begin(c, at + WALL_VERSION);

    put32(c, at + WALL_SEC, (uint32_t)(ns / NS_PER_S));
    put32(c, at + WALL_NSEC, (uint32_t)(ns % NS_PER_S));
    put32(c, at + WALL_VERSION, version);
}

/* ---- steal time ---- */

void pv_steal_update(struct cpu *c)
{
    uint64_t at = STEAL_AT(c), ns;
    uint32_t version;

    if (!(c->pv.steal & PV_ENABLED))
        return;
    ns = c->ops->steal_ns(c);
    c->pv.steal_ns += ns > c->pv.steal_seen_ns ? ns - c->pv.steal_seen_ns : 0;
    c->pv.steal_seen_ns = ns;
    version = begin(c, at + STEAL_VERSION);
    put64(c, at + STEAL_NS, c->pv.steal_ns);
    put32(c, at + STEAL_VERSION, version);
    (void)cpu_pv_back(c);
}

void cpu_pv_away(struct cpu *c)
{
    if (c->pv.steal & PV_ENABLED)
        (void)change32(c, STEAL_AT(c) + STEAL_PREEMPTED, ~0xffu, PREEMPTED);
}

void cpu_pv_leave_flush(struct cpu *c)
{
    if ((c->pv.steal & PV_ENABLED) && model_has(c->model, FEAT_KVM_PV_TLB_FLUSH))
        (void)change32(c, STEAL_AT(c) + STEAL_PREEMPTED, ~0xffu, PREEMPTED | PREEMPTED_FLUSH);
}

bool cpu_pv_back(struct cpu *c)
{
    if (!(c->pv.steal & PV_ENABLED) ||
        !(change32(c, STEAL_AT(c) + STEAL_PREEMPTED, ~0xffu, 0) & PREEMPTED_FLUSH) ||
        !model_has(c->model, FEAT_KVM_PV_TLB_FLUSH))
        return false;
    c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
    return true;
}

/* ---- ends of interrupts ---- */

/*
 * Only what nobody else hears of may end unseen: no other vector waits for it, and no I/O APIC.
 * While it is offered, IRR is empty: who adds to it calls pv_eoi_sync() before.
 */
void pv_eoi_offer(struct cpu *c, uint8_t vector)
{
    if (!(c->pv.eoi & PV_ENABLED) || apic_has_irr(c) || apic_eoi_is_heard(c, vector))
        return;
    (void)change32(c, EOI_AT(c), ~0u, EOI_DONE_BY_CLEARING);
    c->pv.eoi_offered = true;
}

void pv_eoi_sync(struct cpu *c)
{
    if (likely(!c->pv.eoi_offered))
        return;
    c->pv.eoi_offered = false;
    /* Still set: the guest has not come to it, and will write the register now. */
    if (!(change32(c, EOI_AT(c), ~EOI_DONE_BY_CLEARING, 0) & EOI_DONE_BY_CLEARING))
        apic_eoi(c);
}

/* ---- kicks ---- */

void pv_kick(struct cpu *c)
{
    if (c->activity == CPU_HALTED)
        c->activity = CPU_RUNNING;
    else if (c->activity == CPU_RUNNING)
        c->pv.kicked = true;
}

bool cpu_pv_take_kick(struct cpu *c)
{
    bool kicked = c->pv.kicked;

    c->pv.kicked = false;
    return kicked;
}

/* ---- the MSRs ---- */

static uint64_t *field_of(struct cpu *c, uint32_t msr)
{
    switch (msr) {
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_NEW:
        return &c->pv.wall;
    case MSR_KVM_STEAL_TIME:
        return &c->pv.steal;
    case MSR_KVM_PV_EOI:
        return &c->pv.eoi;
    default: /* the system time, old and new */
        return &c->pv.clock;
    }
}

static void bring(struct cpu *c, uint32_t msr)
{
    if (c->ops->pv_msr)
        c->ops->pv_msr(c, msr);
}

enum step pv_rd(struct cpu *c, uint32_t msr, uint64_t *val)
{
    bring(c, msr);
    *val = *field_of(c, msr);
    return STEP_NEXT;
}

/* Reserved bits, whose setting is #GP. */
static uint64_t reserved_of(uint32_t msr)
{
    switch (msr) {
    case MSR_KVM_STEAL_TIME:
        return STEAL_BYTES - 1 - PV_ENABLED;
    case MSR_KVM_PV_EOI:
        return 2;
    default:
        return 0;
    }
}

enum step pv_wr(struct cpu *c, uint32_t msr, uint64_t val)
{
    uint64_t *field = field_of(c, msr);

    if (val & reserved_of(msr))
        return raise_gp(c, 0);
    bring(c, msr);
    if (field == &c->pv.eoi)
        pv_eoi_sync(c);
    *field = val;
    if (field == &c->pv.clock) {
        clock_update(c);
    } else if (field == &c->pv.wall) {
        wall_update(c);
    } else if (field == &c->pv.steal && (val & PV_ENABLED)) {
        c->pv.steal_ns = 0;
        c->pv.steal_seen_ns = c->ops->steal_ns(c);
        pv_steal_update(c);
    }
    return STEP_NEXT;
}

void pv_reset(struct cpu *c)
{
    c->pv = (struct pv){ .clock = 0 };
}
