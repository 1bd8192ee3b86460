/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's registers as the guest sees them: by MMIO in xAPIC mode, by MSR in x2APIC mode,
 * and IA32_APIC_BASE, which chooses the mode (SDM 3, "Local APIC" and "Extended XAPIC (x2APIC)").
 *
 * One table serves both ways in. What differs: where an ID sits, that ICR is one register, that
 * wrong accesses raise #GP in x2APIC mode and an APIC error in xAPIC mode.
 */
#include "cpu/apic_impl.h"

#define READ    BIT(0)
#define WRITE   BIT(1)
#define NOT_X2  BIT(2) /* only in xAPIC mode */
#define ONLY_X2 BIT(3)

/* Version: 14h is an integrated APIC with what the Pentium 4 brought; EOI broadcasts can be
 * suppressed. */
#define VERSION     0x14u
#define VERSION_EAS BIT(24)

#define LVT_TIMER_BITS 0x700ffu
#define LVT_OTHER_BITS 0x107ffu
#define LVT_PIN_BITS   0x1a7ffu
#define LVT_ERROR_BITS 0x100ffu
#define ICR_LOW_BITS   0xccfffu

struct reg {
    uint16_t first, last; /* offsets */
    uint8_t access;
    int8_t lvt;     /* index, or -1 */
    uint32_t valid; /* writable bits; others are #GP in x2APIC mode */
};

#define REG(at, access_, valid_)    \
    {                               \
        at, at, access_, -1, valid_ \
    }
#define LVT(at, lvt_, valid_)              \
    {                                      \
        at, at, READ | WRITE, lvt_, valid_ \
    }

static const struct reg regs[] = {
    REG(APIC_ID, READ, 0),
    REG(APIC_VERSION, READ, 0),
    REG(APIC_TPR, READ | WRITE, 0xff),
    REG(0x90, READ | NOT_X2, 0), /* APR: not kept by this generation */
    REG(APIC_PPR, READ, 0),
    REG(APIC_EOI, WRITE, 0),
    REG(0xc0, READ | NOT_X2, 0), /* remote read */
    REG(APIC_LDR, READ | WRITE, 0xff000000),
    REG(APIC_DFR, READ | WRITE | NOT_X2, 0xf0000000),
    REG(APIC_SVR, READ | WRITE, 0xff | SVR_ENABLE | SVR_SUPPRESS_EOI),
    { APIC_ISR, APIC_ISR + 0x70, READ, -1, 0 },
    { APIC_TMR, APIC_TMR + 0x70, READ, -1, 0 },
    { APIC_IRR, APIC_IRR + 0x70, READ, -1, 0 },
    REG(APIC_ESR, READ | WRITE, 0),
    LVT(APIC_LVT_CMCI, LVT_CMCI, LVT_OTHER_BITS),
    REG(APIC_ICR, READ | WRITE, ICR_LOW_BITS),
    REG(APIC_ICR_HIGH, READ | WRITE | NOT_X2, 0xff000000),
    LVT(APIC_LVT_TIMER, LVT_TIMER, LVT_TIMER_BITS),
    LVT(APIC_LVT_THERMAL, LVT_THERMAL, LVT_OTHER_BITS),
    LVT(APIC_LVT_PERF, LVT_PERF, LVT_OTHER_BITS),
    LVT(APIC_LVT_LINT0, LVT_LINT0, LVT_PIN_BITS),
    LVT(APIC_LVT_LINT1, LVT_LINT1, LVT_PIN_BITS),
    LVT(APIC_LVT_ERROR, LVT_ERROR, LVT_ERROR_BITS),
    REG(APIC_TIMER_INIT, READ | WRITE, ~0u),
    REG(APIC_TIMER_CURRENT, READ, 0),
    REG(APIC_TIMER_DIVIDE, READ | WRITE, 0xb),
    REG(APIC_SELF_IPI, WRITE | ONLY_X2, 0xff),
};

/* CMCI came with Intel's corrected machine checks; AMD has no such entry. */
static bool has_cmci(const struct cpu *c)
{
    return c->model->vendor == VENDOR_INTEL;
}

uint32_t apic_max_lvt(const struct cpu *c)
{
    return has_cmci(c) ? 6 : 5;
}

uint32_t apic_version(const struct cpu *c)
{
    return VERSION | apic_max_lvt(c) << 16 | VERSION_EAS;
}

static const struct reg *find(const struct cpu *c, uint32_t off, unsigned access)
{
    unsigned not_here = apic_is_x2(c) ? NOT_X2 : ONLY_X2;

    if (off == APIC_LVT_CMCI && !has_cmci(c))
        return NULL;
    for (unsigned i = 0; i < ARRAY_SIZE(regs); i++) {
        const struct reg *r = &regs[i];

        if (off >= r->first && off <= r->last)
            return (r->access & access) && !(r->access & not_here) ? r : NULL;
    }
    return NULL;
}

static uint32_t read_reg(const struct cpu *c, const struct reg *r, uint32_t off)
{
    const struct apic *a = &c->apic;
    bool x2 = apic_is_x2(c);

    if (r->lvt >= 0)
        return a->lvt[r->lvt];
    switch (r->first) {
    case APIC_ID:
        return x2 ? a->id : a->id << 24;
    case APIC_VERSION:
        return apic_version(c);
    case APIC_TPR:
        return a->tpr;
    case APIC_PPR:
        return apic_ppr(c);
    case APIC_LDR:
        return a->ldr;
    case APIC_DFR:
        return a->dfr;
    case APIC_SVR:
        return a->svr;
    case APIC_ISR:
        return a->isr[(off - APIC_ISR) >> 4];
    case APIC_TMR:
        return a->tmr[(off - APIC_TMR) >> 4];
    case APIC_IRR:
        return a->irr[(off - APIC_IRR) >> 4];
    case APIC_ESR:
        return a->esr;
    case APIC_ICR:
        return (uint32_t)a->icr;
    case APIC_ICR_HIGH:
        return (uint32_t)(a->icr >> 32);
    case APIC_TIMER_INIT:
        return a->timer_init;
    case APIC_TIMER_CURRENT:
        return apic_timer_current(c);
    case APIC_TIMER_DIVIDE:
        return a->timer_div;
    default:
        return 0;
    }
}

static void write_lvt(struct cpu *c, const struct reg *r, uint32_t val)
{
    uint32_t old = c->apic.lvt[r->lvt];

    /* SDM 3, "Local APIC State After It Has Been Software Disabled": mask bits cannot be cleared.
     */
    if (!(c->apic.svr & SVR_ENABLE))
        val |= LVT_MASKED;
    c->apic.lvt[r->lvt] = val;
    if (r->lvt == LVT_TIMER)
        apic_timer_mode_changed(c, old);
}

/* val has only valid bits. */
static void write_reg(struct cpu *c, const struct reg *r, uint32_t val)
{
    struct apic *a = &c->apic;

    if (r->lvt >= 0) {
        write_lvt(c, r, val);
        return;
    }
    switch (r->first) {
    case APIC_TPR:
        apic_set_tpr(c, val);
        break;
    case APIC_EOI:
        apic_eoi(c);
        break;
    case APIC_LDR:
        APIC_POKE(a->ldr, val);
        break;
    case APIC_DFR:
        APIC_POKE(a->dfr, val | 0x0fffffff);
        break;
    case APIC_SVR:
        apic_set_svr(c, val);
        break;
    case APIC_ESR:
        a->esr = a->esr_pending;
        a->esr_pending = 0;
        break;
    case APIC_ICR:
        a->icr = (a->icr & ~0xffffffffull) | val;
        apic_send_icr(c);
        break;
    case APIC_ICR_HIGH:
        a->icr = (uint32_t)a->icr | (uint64_t)val << 32;
        break;
    case APIC_TIMER_INIT:
        apic_timer_start(c, val);
        break;
    case APIC_TIMER_DIVIDE:
        apic_timer_divide(c, val);
        break;
    case APIC_SELF_IPI:
        apic_send_self(c, (uint8_t)val);
        break;
    default:
        break;
    }
}

/* TSC-deadline mode is a feature; without it, bit 18 is reserved. */
static uint32_t valid_bits(const struct cpu *c, const struct reg *r)
{
    if (r->lvt == LVT_TIMER && !model_has(c->model, FEAT_TSC_DEADLINE))
        return r->valid & ~LVT_TIMER_DEADLINE;
    return r->valid;
}

/* ---- MMIO ---- */

bool apic_claims(const struct cpu *c, gpa_t at)
{
    return apic_is_on(c) && !apic_is_x2(c) && ((at.v ^ c->apic.base_msr) & ~0xfffull) == 0;
}

/* Each register is the first 4 bytes of 16; what is behind them is undefined and here nothing. */
uint32_t apic_mmio_read(struct cpu *c, uint32_t off_bytes)
{
    const struct reg *r;

    if (off_bytes & 0xf)
        return 0;
    pv_eoi_sync(c);
    r = find(c, off_bytes, READ);
    if (r)
        return read_reg(c, r, off_bytes);
    if (off_bytes != APIC_EOI) /* may not be read, but is harmless */
        apic_error(c, ESR_REGISTER);
    return 0;
}

void apic_mmio_write(struct cpu *c, uint32_t off_bytes, uint32_t val)
{
    const struct reg *r;

    if (off_bytes & 0xf)
        return;
    pv_eoi_sync(c);
    r = find(c, off_bytes, WRITE);
    if (r)
        write_reg(c, r, val & valid_bits(c, r));
    else if (!find(c, off_bytes, READ)) /* writes to read-only registers are ignored */
        apic_error(c, ESR_REGISTER);
}

/* ---- MSRs ---- */

static enum step x2apic_write(struct cpu *c, uint32_t off, uint64_t val)
{
    const struct reg *r = find(c, off, WRITE);

    /* LDR is derived from the ID and read-only. */
    if (!r || off == APIC_LDR)
        return raise_gp(c, 0);
    if (off == APIC_ICR) {
        if ((uint32_t)val & ~ICR_LOW_BITS)
            return raise_gp(c, 0);
        c->apic.icr = val;
        apic_send_icr(c);
        return STEP_NEXT;
    }
    if (val & ~(uint64_t)(valid_bits(c, r) | (r->lvt >= 0 ? LVT_STATUS : 0)))
        return raise_gp(c, 0);
    write_reg(c, r, (uint32_t)val & valid_bits(c, r));
    return STEP_NEXT;
}

/*
 * SDM 3, "x2APIC State Transitions": off to xAPIC to x2APIC, and off from either; nothing else.
 * Bits 9, 7:0 and those beyond the physical address are reserved. Whether this is the boot
 * processor is not for the guest to say.
 */
static enum step set_base(struct cpu *c, uint64_t val)
{
    struct apic *a = &c->apic;
    uint64_t old = a->base_msr, on = APIC_BASE_ENABLE, x2 = APIC_BASE_X2APIC;
    uint64_t valid = APIC_BASE_BSP | on | (BIT64(c->model->phys_bits) - PAGE_BYTES);

    if (model_has(c->model, FEAT_X2APIC))
        valid |= x2;
    if (val & ~valid)
        return raise_gp(c, 0);
    if ((val & x2) && (!(val & on) || !(old & on)))
        return raise_gp(c, 0);
    if ((old & x2) && (val & on) && !(val & x2))
        return raise_gp(c, 0);
    val = (val & ~APIC_BASE_BSP) | (old & APIC_BASE_BSP);
    APIC_POKE(a->base_msr, val);
    if ((old ^ val) & on)
        apic_clear_regs(c); /* its state is lost */
    if ((val & ~old) & x2) {
        a->icr = (uint32_t)a->icr;
        APIC_POKE(a->ldr, (a->id >> 4) << 16 | BIT(a->id & 0xf));
    }
    if (old != val) /* the page it covered, and the one it covers now, are something else */
        c->ops->tlb_flush(c, &(struct tlb_flush){ .kind = FLUSH_ALL });
    return STEP_NEXT;
}

enum step apic_rdmsr(struct cpu *c, uint32_t msr, uint64_t *val)
{
    const struct reg *r;
    uint32_t off;

    if (msr == MSR_APIC_BASE) {
        *val = c->apic.base_msr;
        return STEP_NEXT;
    }
    if (msr == MSR_TSC_DEADLINE) {
        *val = apic_timer_deadline(c);
        return STEP_NEXT;
    }
    pv_eoi_sync(c);
    off = (msr - MSR_X2APIC_FIRST) << 4;
    r = apic_is_x2(c) ? find(c, off, READ) : NULL;
    if (!r)
        return raise_gp(c, 0);
    *val = off == APIC_ICR ? c->apic.icr : read_reg(c, r, off);
    return STEP_NEXT;
}

enum step apic_wrmsr(struct cpu *c, uint32_t msr, uint64_t val)
{
    if (msr == MSR_APIC_BASE)
        return set_base(c, val);
    if (msr == MSR_TSC_DEADLINE) {
        apic_timer_set_deadline(c, val);
        return STEP_NEXT;
    }
    if (!apic_is_x2(c))
        return raise_gp(c, 0);
    pv_eoi_sync(c);
    return x2apic_write(c, (msr - MSR_X2APIC_FIRST) << 4, val);
}
