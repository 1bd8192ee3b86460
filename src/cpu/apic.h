/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Local APIC, xAPIC and x2APIC (SDM 3, "Advanced Programmable Interrupt Controller"). Part of
 * struct cpu.
 *
 * Interrupts arrive from any thread by apic_post(), which only sets bits in a posted-interrupt
 * bitmap; the vCPU's own thread moves them to IRR. All other functions belong to the vCPU's thread.
 */
#ifndef CPU_APIC_H
#define CPU_APIC_H

#include "lib/types.h"

struct cpu;

enum apic_delivery { /* SDM 3, "Interrupt Command Register": delivery mode */
                     APIC_FIXED = 0,
                     APIC_LOWEST = 1,
                     APIC_SMI = 2,
                     APIC_NMI = 4,
                     APIC_INIT = 5,
                     APIC_SIPI = 6,
                     APIC_EXTINT = 7,
};

/* A message on the (imagined) APIC bus: an IPI, an MSI, or an I/O APIC's pin. */
struct apic_msg {
    uint32_t dest; /* APIC ID, or logical destination; 0xff (xAPIC form) or ~0 (x2APIC form): all */
    bool wide_dest; /* dest is an x2APIC sender's 32 bits, in which 0xff does not mean all */
    uint8_t vector;
    enum apic_delivery mode;
    bool logical;
    bool level;                     /* trigger mode */
    bool tell;                      /* of its EOI, though it is an edge (cpu_ops.apic_eoi) */
    bool deassert;                  /* INIT level de-assert */
    bool to_self, to_all, not_self; /* destination shorthands */
};

enum apic_lvt {
    LVT_TIMER,
    LVT_THERMAL,
    LVT_PERF,
    LVT_LINT0,
    LVT_LINT1,
    LVT_ERROR,
    LVT_CMCI,
    NR_LVTS
};

struct apic {
    uint64_t base_msr; /* IA32_APIC_BASE */
    uint32_t id;       /* as in the ID register: xAPIC id (unshifted) or x2APIC id */
    uint32_t tpr, ldr, dfr, svr, esr, esr_pending;
    uint64_t icr;
    uint32_t isr[8], irr[8], tmr[8];
    uint32_t lvt[NR_LVTS];
    uint32_t timer_init, timer_div;
    uint64_t timer_start_ns;    /* VM clock when the current countdown began */
    uint64_t timer_deadline_ns; /* when it fires next; UINT64_MAX: not armed */
    uint64_t tsc_deadline;
    _Atomic uint32_t pir[8];     /* posted by any thread, not yet in IRR */
    _Atomic uint32_t pir_tmr[8]; /* their trigger mode: level */
    /* Vectors that once came in a message with `tell`; others than such are told of, too. */
    _Atomic uint32_t told[8];
};

/* The APIC timer counts nanoseconds: bus frequency 1 GHz, told to guests by CPUID where there is a
 * leaf for it. */
#define APIC_BUS_HZ 1000000000ull

void apic_reset(struct cpu *c, bool power_on);
/* Register access by MMIO (off_bytes in the 4 KB page, 16-byte aligned registers, 32-bit wide) in
 * xAPIC mode. */
uint32_t apic_mmio_read(struct cpu *c, uint32_t off_bytes);
void apic_mmio_write(struct cpu *c, uint32_t off_bytes, uint32_t val);
/* By MSR in x2APIC mode, and IA32_APIC_BASE itself and TSC_DEADLINE. #GP as the SDM says. */
enum step apic_rdmsr(struct cpu *c, uint32_t msr, uint64_t *val) MUST_CHECK;
enum step apic_wrmsr(struct cpu *c, uint32_t msr, uint64_t val) MUST_CHECK;
/* Is the APIC's MMIO page at this guest-physical page, now? (xAPIC mode, enabled) */
bool apic_claims(const struct cpu *c, gpa_t at);

/* CR8 view of TPR. */
uint64_t apic_get_cr8(const struct cpu *c);
void apic_set_cr8(struct cpu *c, uint64_t val);

/* Does msg address this APIC (by ID or logically)? Any thread (reads ids only). */
bool apic_matches(const struct cpu *c, const struct apic_msg *msg);
/* Lowest-priority arbitration: the smaller, the sooner. Any thread (a hint). */
uint8_t apic_priority(const struct cpu *c);
/* Any thread: accept msg, already matched: posts the vector, NMI, INIT or SIPI and kicks the vCPU.
 */
void apic_accept(struct cpu *c, const struct apic_msg *msg);
/* Is that vector requested and not yet in service? Any thread (a hint). */
bool apic_waits(const struct cpu *c, uint8_t vector);
/* Any thread: post one vector and kick. */
void apic_post(struct cpu *c, uint8_t vector, bool level);
/* The LINT pins, wired to the PIC's INTR (LINT0) and to NMI (LINT1); does LINT0 pass ExtINT now? */
bool apic_accepts_extint(const struct cpu *c);
void apic_nmi_pin(struct cpu *c);

/* Move posted bits to IRR. */
void apic_sync(struct cpu *c);
/* Highest vector that can be delivered now (above PPR), or -1. */
int apic_pending_vector(const struct cpu *c);
/* INTA: IRR to ISR; returns the vector, which must be apic_pending_vector(). */
uint8_t apic_ack(struct cpu *c);
/* The deadline was reported passed: fire if it really has, re-arm when periodic. */
void apic_timer_expired(struct cpu *c);

/* ---- for an engine whose hypervisor has the APIC while the guest runs: apic_page.c ---- */
#define APIC_PAGE_WORDS 256u
/* The registers where their MMIO addresses are; what was posted was moved to IRR before. */
void apic_to_page(const struct cpu *c, uint32_t page[APIC_PAGE_WORDS]);
/*
 * And back, with IA32_APIC_BASE set before; tsc_deadline: the MSR, 0: none. When the timer fires is
 * known then, but the platform is not asked to say so. A one-shot count that came to its end fires
 * once more: whether it did cannot be told, and a guest misses an interrupt more than it minds one.
 */
void apic_from_page(struct cpu *c, const uint32_t page[APIC_PAGE_WORDS], uint64_t tsc_deadline);
/* Takes the vectors of page's IRR that are not in seen. */
void apic_merge_irr(struct cpu *c, const uint32_t page[APIC_PAGE_WORDS], const uint32_t seen[8]);
/* The registers in struct cpu are old from now on: nothing waits in them, no timer runs. */
void apic_set_aside(struct cpu *c);

#endif
