/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A processor for unit tests: 64 KB of memory, a clock that the test sets, and records of what the
 * core asked of its platform.
 */
#ifndef CPU_FAKECPU_H
#define CPU_FAKECPU_H

#include <string.h>

#include "cpu/cpu.h"

struct fake {
    struct cpu c;
    struct cpu_model model;
    struct log_seen seen;
    uint8_t ram[KIB(64)] __attribute__((aligned(4096)));
    bool rom;           /* writes do not stick */
    unsigned race_once; /* bits that another processor sets in the entry before the next cas */
    struct tlb_flush flush;
    unsigned nr_flushes, nr_debug_changes, nr_kicks;
    uint64_t tsc, now_ns, timer_ns, real_ns, steal_ns;
    unsigned nr_timer;
    struct apic_msg sent;
    unsigned nr_sent;
    uint8_t eoi;
    unsigned nr_eois;
};

static inline struct fake *fake_of(struct cpu *c)
{
    return container_of(c, struct fake, c);
}

static inline uint64_t fake_phys_read(struct cpu *c, gpa_t at, unsigned bytes)
{
    struct fake *f = fake_of(c);
    uint64_t x = 0;

    if (at.v + bytes > sizeof(f->ram))
        return low_bytes(~0ull, bytes);
    memcpy(&x, f->ram + at.v, bytes);
    return x;
}

static inline bool fake_phys_cas(struct cpu *c, gpa_t at, uint64_t old, uint64_t val,
                                 unsigned bytes)
{
    struct fake *f = fake_of(c);
    uint64_t now = fake_phys_read(c, at, bytes) | f->race_once;

    if (f->rom || at.v + bytes > sizeof(f->ram))
        return false;
    memcpy(f->ram + at.v, &now, bytes);
    f->race_once = 0;
    if (now != old)
        return false;
    memcpy(f->ram + at.v, &val, bytes);
    return true;
}

static inline void fake_tlb_flush(struct cpu *c, const struct tlb_flush *what)
{
    fake_of(c)->flush = *what;
    fake_of(c)->nr_flushes++;
}

static inline void fake_debug_changed(struct cpu *c)
{
    fake_of(c)->nr_debug_changes++;
}

static inline void fake_kick(struct cpu *c)
{
    fake_of(c)->nr_kicks++;
}

static inline uint64_t fake_tsc(struct cpu *c)
{
    return fake_of(c)->tsc;
}

static inline uint64_t fake_now_ns(struct cpu *c)
{
    return fake_of(c)->now_ns;
}

/* 2 GHz, both counting from 0. */
static inline uint64_t fake_tsc_to_ns(struct cpu *c, uint64_t tsc)
{
    (void)c;
    return tsc / 2;
}

static inline uint64_t fake_real_ns(struct cpu *c)
{
    return fake_of(c)->real_ns;
}

static inline uint64_t fake_steal_ns(struct cpu *c)
{
    return fake_of(c)->steal_ns;
}

static inline void fake_apic_timer(struct cpu *c, uint64_t deadline_ns)
{
    fake_of(c)->timer_ns = deadline_ns;
    fake_of(c)->nr_timer++;
}

static inline void fake_apic_send(struct cpu *c, const struct apic_msg *msg)
{
    fake_of(c)->sent = *msg;
    fake_of(c)->nr_sent++;
}

static inline void fake_apic_eoi(struct cpu *c, uint8_t vector)
{
    fake_of(c)->eoi = vector;
    fake_of(c)->nr_eois++;
}

static const struct cpu_ops fake_ops = {
    .phys_read = fake_phys_read,
    .phys_cas = fake_phys_cas,
    .tlb_flush = fake_tlb_flush,
    .debug_changed = fake_debug_changed,
    .kick = fake_kick,
    .tsc = fake_tsc,
    .now_ns = fake_now_ns,
    .tsc_to_ns = fake_tsc_to_ns,
    .real_ns = fake_real_ns,
    .steal_ns = fake_steal_ns,
    .apic_timer = fake_apic_timer,
    .apic_send = fake_apic_send,
    .apic_eoi = fake_apic_eoi,
};

/* In protected mode, ring 0, 32-bit flat code, paging off; with all features and 40 address bits.
 */
static inline void fake_init(struct fake *f)
{
    memset(f, 0, sizeof(*f));
    memset(f->model.words, 0xff, sizeof(f->model.words));
    f->model.phys_bits = 40;
    f->model.lin_bits = 48;
    f->model.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
    f->model.tsc_khz = 2000000;
    f->model.nr_cpus = 1;
    f->c.model = &f->model;
    f->c.ops = &fake_ops;
    f->c.seen = &f->seen;
    f->c.cr0 = CR0_PE | CR0_ET;
    f->c.rflags = RFLAGS_FIXED1;
    f->c.xcr0 = XCR0_X87;
    f->c.dr6 = DR6_FIXED1;
    f->c.dr7 = DR7_FIXED1;
    f->c.tr.attr = SYS_TSS_BUSY | SEG_P;
    f->c.seg[SEG_CS].attr = SEG_P | SEG_S | SEG_DB | 0xb;
    f->c.seg[SEG_SS].attr = SEG_P | SEG_S | SEG_DB | 0x3;
    cpu_update_mode(&f->c);
    apic_reset(&f->c, true);
}

/* 64-bit code, 4-level paging with its root at 1000h. */
static inline void fake_long(struct fake *f)
{
    f->c.cr0 |= CR0_PG;
    f->c.cr3 = 0x1000;
    f->c.cr4 |= CR4_PAE;
    f->c.efer |= EFER_LME | EFER_LMA;
    f->c.seg[SEG_CS].attr = (f->c.seg[SEG_CS].attr & ~SEG_DB) | SEG_L;
    cpu_update_mode(&f->c);
}

static inline void fake_ring(struct fake *f, unsigned cpl)
{
    f->c.cpl = (uint8_t)cpl;
    cpu_update_mode(&f->c);
}

#endif
