/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the local APIC, and the MSRs that touch it, share among themselves.
 */
#ifndef CPU_APIC_IMPL_H
#define CPU_APIC_IMPL_H

#include "cpu/cpu.h"

/* Registers: offsets in the page; the x2APIC MSR is 800h + offset / 16. */
enum apic_reg {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_PPR = 0xa0,
    APIC_EOI = 0xb0,
    APIC_LDR = 0xd0,
    APIC_DFR = 0xe0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ESR = 0x280,
    APIC_LVT_CMCI = 0x2f0,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERF = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INIT = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
    APIC_SELF_IPI = 0x3f0, /* x2APIC only */
};

#define SVR_ENABLE       BIT(8)
#define SVR_SUPPRESS_EOI BIT(12)

/* SDM 3, "Local Vector Table" */
#define LVT_MASKED         BIT(16)
#define LVT_STATUS         (BIT(12) | BIT(14)) /* delivery status, remote IRR: read-only */
#define LVT_MODE(v)        ((v) >> 8 & 7)
#define LVT_TIMER_PERIODIC BIT(17)
#define LVT_TIMER_DEADLINE BIT(18)
#define LVT_TIMER_MODE     (LVT_TIMER_PERIODIC | LVT_TIMER_DEADLINE)

/* SDM 3, "Error Status Register" */
#define ESR_SEND_VECTOR BIT(5)
#define ESR_RECV_VECTOR BIT(6)
#define ESR_REGISTER    BIT(7)

static inline bool apic_is_on(const struct cpu *c)
{
    return c->apic.base_msr & APIC_BASE_ENABLE;
}

static inline bool apic_is_x2(const struct cpu *c)
{
    return (c->apic.base_msr & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) ==
           (APIC_BASE_ENABLE | APIC_BASE_X2APIC);
}

/* What other threads read while this vCPU may write it: addresses and the task priority. */
#define APIC_PEEK(field)      __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define APIC_POKE(field, val) __atomic_store_n(&(field), (val), __ATOMIC_RELAXED)

/* apic.c */
void apic_raise(struct cpu *c, uint8_t vector); /* on the vCPU's own thread, edge */
void apic_error(struct cpu *c, uint32_t esr_bit);
void apic_set_tpr(struct cpu *c, uint32_t val);
void apic_set_svr(struct cpu *c, uint32_t val);
void apic_eoi(struct cpu *c);
/* Does an I/O APIC hear of the end of that vector? */
bool apic_eoi_is_heard(const struct cpu *c, uint8_t vector);
uint32_t apic_ppr(const struct cpu *c);
void apic_clear_regs(struct cpu *c);

/* apic_ipi.c */
void apic_send_icr(struct cpu *c);
void apic_send_self(struct cpu *c, uint8_t vector);

/* apic_timer.c */
uint32_t apic_timer_current(const struct cpu *c);
void apic_timer_start(struct cpu *c, uint32_t count);
void apic_timer_divide(struct cpu *c, uint32_t val);
void apic_timer_mode_changed(struct cpu *c, uint32_t old_lvt);
void apic_timer_cancel(struct cpu *c);
uint64_t apic_timer_deadline(const struct cpu *c);
void apic_timer_set_deadline(struct cpu *c, uint64_t tsc);
/* The guest's TSC jumped: an armed TSC deadline means another time now. */
void apic_tsc_changed(struct cpu *c);
/* The count or the deadline goes on from there; the platform is not told. */
void apic_timer_resume(struct cpu *c, uint32_t count, uint64_t tsc_deadline);

/* apic_regs.c */
uint32_t apic_max_lvt(const struct cpu *c);
uint32_t apic_version(const struct cpu *c);

#endif
