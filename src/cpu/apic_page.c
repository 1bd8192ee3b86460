/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A local APIC's registers as a page of memory, each where its MMIO address is (SDM 3, "Local APIC
 * Register Address Map"), and back: how a hypervisor that keeps the APIC hands its state over. The
 * engine that has such a one is kvm.
 *
 * What the page cannot say goes beside it: the TSC deadline, and IA32_APIC_BASE, which has to be in
 * struct cpu before.
 */
#include "cpu/apic_impl.h"

#define NOT_ARMED UINT64_MAX

static const struct {
    uint16_t reg;
    uint8_t lvt;
} lvts[] = {
    { APIC_LVT_TIMER, LVT_TIMER }, { APIC_LVT_THERMAL, LVT_THERMAL }, { APIC_LVT_PERF, LVT_PERF },
    { APIC_LVT_LINT0, LVT_LINT0 }, { APIC_LVT_LINT1, LVT_LINT1 },     { APIC_LVT_ERROR, LVT_ERROR },
    { APIC_LVT_CMCI, LVT_CMCI },
};

static unsigned nr_lvts(const struct cpu *c)
{
    return apic_max_lvt(c) == 6 ? NR_LVTS : NR_LVTS - 1;
}

void apic_to_page(const struct cpu *c, uint32_t page[APIC_PAGE_WORDS])
{
    const struct apic *a = &c->apic;

    __builtin_memset(page, 0, APIC_PAGE_WORDS * sizeof(page[0]));
    page[APIC_ID / 4] = apic_is_x2(c) ? a->id : a->id << 24;
    page[APIC_VERSION / 4] = apic_version(c);
    page[APIC_TPR / 4] = a->tpr;
    page[APIC_PPR / 4] = apic_ppr(c);
    page[APIC_LDR / 4] = a->ldr;
    page[APIC_DFR / 4] = a->dfr;
    page[APIC_SVR / 4] = a->svr;
    page[APIC_ESR / 4] = a->esr;
    page[APIC_ICR / 4] = (uint32_t)a->icr;
    page[APIC_ICR_HIGH / 4] = (uint32_t)(a->icr >> 32);
    for (unsigned i = 0; i < 8; i++) {
        page[APIC_ISR / 4 + 4 * i] = a->isr[i];
        page[APIC_TMR / 4 + 4 * i] = a->tmr[i];
        page[APIC_IRR / 4 + 4 * i] = a->irr[i];
    }
    for (unsigned i = 0; i < nr_lvts(c); i++)
        page[lvts[i].reg / 4] = a->lvt[lvts[i].lvt];
    page[APIC_TIMER_INIT / 4] = a->timer_init;
    page[APIC_TIMER_CURRENT / 4] = apic_timer_current(c);
    page[APIC_TIMER_DIVIDE / 4] = a->timer_div;
}

void apic_from_page(struct cpu *c, const uint32_t page[APIC_PAGE_WORDS], uint64_t tsc_deadline)
{
    struct apic *a = &c->apic;
    uint32_t id = page[APIC_ID / 4];

    APIC_POKE(a->id, apic_is_x2(c) ? id : id >> 24);
    APIC_POKE(a->tpr, page[APIC_TPR / 4] & 0xff);
    APIC_POKE(a->ldr, page[APIC_LDR / 4]);
    APIC_POKE(a->dfr, page[APIC_DFR / 4]);
    a->svr = page[APIC_SVR / 4];
    a->esr = page[APIC_ESR / 4];
    a->icr = page[APIC_ICR / 4] | (uint64_t)page[APIC_ICR_HIGH / 4] << 32;
    for (unsigned i = 0; i < 8; i++) {
        a->isr[i] = page[APIC_ISR / 4 + 4 * i];
        a->tmr[i] = page[APIC_TMR / 4 + 4 * i];
        a->irr[i] = page[APIC_IRR / 4 + 4 * i];
    }
    for (unsigned i = 0; i < nr_lvts(c); i++)
        a->lvt[lvts[i].lvt] = page[lvts[i].reg / 4] & ~LVT_STATUS;
    a->timer_init = page[APIC_TIMER_INIT / 4];
    a->timer_div = page[APIC_TIMER_DIVIDE / 4];
    apic_timer_resume(c, page[APIC_TIMER_CURRENT / 4], tsc_deadline);
}

void apic_merge_irr(struct cpu *c, const uint32_t page[APIC_PAGE_WORDS], const uint32_t seen[8])
{
    struct apic *a = &c->apic;

    for (unsigned i = 0; i < 8; i++) {
        uint32_t fresh = page[APIC_IRR / 4 + 4 * i] & ~seen[i];

        a->irr[i] |= fresh;
        a->tmr[i] = (a->tmr[i] & ~fresh) | (page[APIC_TMR / 4 + 4 * i] & fresh);
    }
}

void apic_set_aside(struct cpu *c)
{
    struct apic *a = &c->apic;

    for (unsigned i = 0; i < 8; i++)
        __atomic_store_n(&a->irr[i], 0, __ATOMIC_RELAXED);
    a->timer_deadline_ns = NOT_ARMED;
    a->tsc_deadline = 0;
}
