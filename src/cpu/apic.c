/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The local APIC's heart: how vectors come in, which one is next, and how they end (SDM 3,
 * "Handling Interrupts" and "Interrupt, Task, and Processor Priority").
 *
 * Its registers are in apic_regs.c, its timer in apic_timer.c, messages in apic_ipi.c.
 */
#include "cpu/apic_impl.h"

static int highest(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--)
        if (set[i])
            return 32 * i + 31 - __builtin_clz(set[i]);
    return -1;
}

static void put_bit(uint32_t set[8], unsigned vector, bool on)
{
    if (on)
        set[vector / 32] |= BIT(vector % 32);
    else
        set[vector / 32] &= ~BIT(vector % 32);
}

static bool get_bit(const uint32_t set[8], unsigned vector)
{
    return set[vector / 32] >> (vector % 32) & 1;
}

uint32_t apic_ppr(const struct cpu *c)
{
    int isr = highest(c->apic.isr);
    uint32_t serving = isr < 0 ? 0 : (uint32_t)isr & 0xf0;

    return (c->apic.tpr & 0xf0) >= serving ? c->apic.tpr : serving;
}

/* After whatever may have let a held vector through: have cpu_take_events() look. Own thread. */
static void look_again(struct cpu *c)
{
    if (apic_pending_vector(c) >= 0)
        cpu_note(c, REQ_IRQ);
}

/* ---- incoming ---- */

void apic_post(struct cpu *c, uint8_t vector, bool level)
{
    uint32_t bit = BIT(vector % 32);

    if (level)
        __atomic_fetch_or((uint32_t *)&c->apic.pir_tmr[vector / 32], bit, __ATOMIC_RELAXED);
    else
        __atomic_fetch_and((uint32_t *)&c->apic.pir_tmr[vector / 32], ~bit, __ATOMIC_RELAXED);
    /* Pairs with the acquire in apic_sync(): who sees the vector sees its trigger mode. */
    __atomic_fetch_or((uint32_t *)&c->apic.pir[vector / 32], bit, __ATOMIC_RELEASE);
    cpu_post(c, REQ_IRQ);
}

bool apic_waits(const struct cpu *c, uint8_t vector)
{
    const struct apic *a = &c->apic;
    uint32_t bit = 1u << vector % 32;

    return (__atomic_load_n((const uint32_t *)&a->pir[vector / 32], __ATOMIC_RELAXED) |
            __atomic_load_n(&a->irr[vector / 32], __ATOMIC_RELAXED)) &
           bit;
}

/*
 * A software-disabled APIC accepts no fixed interrupts, only NMI, INIT, SMI and SIPI (SDM 3, "Local
 * APIC State After It Has Been Software Disabled"). Vectors below 16 are an error of the sender.
 */
void apic_sync(struct cpu *c)
{
    struct apic *a = &c->apic;

    for (unsigned i = 0; i < 8; i++) {
        uint32_t in, level;

        if (likely(!__atomic_load_n((uint32_t *)&a->pir[i], __ATOMIC_RELAXED)))
            continue;
        pv_eoi_sync(c);
        /* Pairs with the release in apic_post(). */
        in = __atomic_exchange_n((uint32_t *)&a->pir[i], 0, __ATOMIC_ACQUIRE);
        level = __atomic_load_n((uint32_t *)&a->pir_tmr[i], __ATOMIC_RELAXED);
        if (!apic_is_on(c) || !(a->svr & SVR_ENABLE))
            continue;
        if (i == 0 && (in & 0xffff)) {
            apic_error(c, ESR_RECV_VECTOR);
            in &= 0xffff0000;
        }
        a->irr[i] |= in;
        a->tmr[i] = (a->tmr[i] & ~in) | (level & in);
    }
}

void apic_raise(struct cpu *c, uint8_t vector)
{
    if (vector < 16) {
        c->apic.esr_pending |= ESR_RECV_VECTOR;
        return;
    }
    pv_eoi_sync(c);
    put_bit(c->apic.irr, vector, true);
    put_bit(c->apic.tmr, vector, false);
    look_again(c);
}

/* SDM 3, "Error Handling": the interrupt comes once until ESR is written. */
void apic_error(struct cpu *c, uint32_t esr_bit)
{
    uint32_t lvt = c->apic.lvt[LVT_ERROR];
    bool again = c->apic.esr_pending & esr_bit;

    c->apic.esr_pending |= esr_bit;
    if (!again && !(lvt & LVT_MASKED))
        apic_raise(c, (uint8_t)lvt);
}

/* ---- outgoing ---- */

int apic_pending_vector(const struct cpu *c)
{
    int irr;

    if (!apic_is_on(c))
        return -1;
    irr = highest(c->apic.irr);
    if (irr < 0 || ((uint32_t)irr & 0xf0) <= (apic_ppr(c) & 0xf0))
        return -1;
    return irr;
}

uint8_t apic_ack(struct cpu *c)
{
    int vector = apic_pending_vector(c);

    BUG_ON(vector < 0);
    put_bit(c->apic.irr, (unsigned)vector, false);
    put_bit(c->apic.isr, (unsigned)vector, true);
    pv_eoi_offer(c, (uint8_t)vector);
    return (uint8_t)vector;
}

bool apic_eoi_is_heard(const struct cpu *c, uint8_t vector)
{
    const uint32_t *told = (const uint32_t *)&c->apic.told[vector / 32];

    if (get_bit(c->apic.tmr, vector))
        return !(c->apic.svr & SVR_SUPPRESS_EOI);
    return __atomic_load_n(told, __ATOMIC_RELAXED) >> (vector % 32) & 1;
}

void apic_eoi(struct cpu *c)
{
    int vector = highest(c->apic.isr);

    if (vector < 0)
        return;
    put_bit(c->apic.isr, (unsigned)vector, false);
    if (apic_eoi_is_heard(c, (uint8_t)vector))
        c->ops->apic_eoi(c, (uint8_t)vector);
    look_again(c);
}

/* ---- priority and enabling ---- */

void apic_set_tpr(struct cpu *c, uint32_t val)
{
    APIC_POKE(c->apic.tpr, val & 0xff);
    look_again(c);
}

uint64_t apic_get_cr8(const struct cpu *c)
{
    return c->apic.tpr >> 4;
}

void apic_set_cr8(struct cpu *c, uint64_t val)
{
    apic_set_tpr(c, (uint32_t)(val & 0xf) << 4);
}

void apic_set_svr(struct cpu *c, uint32_t val)
{
    c->apic.svr = val & (0xff | SVR_ENABLE | SVR_SUPPRESS_EOI);
    if (c->apic.svr & SVR_ENABLE)
        return;
    for (unsigned i = 0; i < NR_LVTS; i++)
        c->apic.lvt[i] |= LVT_MASKED;
}

uint8_t apic_priority(const struct cpu *c)
{
    return (uint8_t)APIC_PEEK(c->apic.tpr);
}

/* ---- the pins ---- */

/* An APIC that is switched off passes its pins through (SDM 3, "Enabling or Disabling the Local
 * APIC"). */
bool apic_accepts_extint(const struct cpu *c)
{
    uint32_t lvt = c->apic.lvt[LVT_LINT0];

    if (!apic_is_on(c))
        return true;
    return !(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_EXTINT;
}

void apic_nmi_pin(struct cpu *c)
{
    uint32_t lvt = c->apic.lvt[LVT_LINT1];

    if (!apic_is_on(c) || (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_NMI))
        cpu_post(c, REQ_NMI);
    else if (!(lvt & LVT_MASKED) && LVT_MODE(lvt) == APIC_FIXED)
        apic_post(c, (uint8_t)lvt, false);
}

/* ---- reset ---- */

/* SDM 3, "Local APIC State After Power-Up or Reset". Mode, base and ID stay. */
void apic_clear_regs(struct cpu *c)
{
    struct apic *a = &c->apic;

    pv_eoi_sync(c);
    apic_timer_cancel(c);
    APIC_POKE(a->tpr, 0);
    APIC_POKE(a->dfr, ~0u);
    /* SDM 3, "Deriving Logical x2APIC ID from the Local x2APIC ID" */
    APIC_POKE(a->ldr, apic_is_x2(c) ? (a->id >> 4) << 16 | BIT(a->id & 0xf) : 0);
    a->svr = 0xff;
    a->esr = a->esr_pending = 0;
    a->icr = 0;
    __builtin_memset(a->isr, 0, sizeof(a->isr));
    __builtin_memset(a->irr, 0, sizeof(a->irr));
    __builtin_memset(a->tmr, 0, sizeof(a->tmr));
    for (unsigned i = 0; i < NR_LVTS; i++)
        a->lvt[i] = LVT_MASKED;
    a->timer_init = a->timer_div = 0;
    a->timer_start_ns = 0;
    a->tsc_deadline = 0;
    for (unsigned i = 0; i < 8; i++) {
        __atomic_store_n((uint32_t *)&a->pir[i], 0, __ATOMIC_RELAXED);
        __atomic_store_n((uint32_t *)&a->told[i], 0, __ATOMIC_RELAXED);
    }
}

void apic_reset(struct cpu *c, bool power_on)
{
    struct apic *a = &c->apic;

    if (power_on) {
        APIC_POKE(a->base_msr,
                  APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (c->id == 0 ? APIC_BASE_BSP : 0));
        APIC_POKE(a->id, c->id);
    }
    apic_clear_regs(c);
    /*
     * Kernels are started without firmware, so what firmware leaves behind is the power-on state:
     * virtual wire mode, in which the boot processor hears the 8259s by LINT0 (MultiProcessor
     * Specification, "Virtual Wire Mode").
     */
    if (power_on && c->id == 0) {
        a->lvt[LVT_LINT0] = APIC_EXTINT << 8;
        a->lvt[LVT_LINT1] = APIC_NMI << 8;
    }
}
