/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For the unit tests of segmentation and event delivery: a vCPU over 1 MB of flat memory with
 * descriptor tables, and stand-ins (weak: they give way) for the parts of the core that are not
 * under test. Linear memory below USER_AT is for supervisors only; page `absent` is not there.
 */
#ifndef CPU_FAKE_CPU_H
#define CPU_FAKE_CPU_H

#include "cpu/desc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define FAKE __attribute__((weak))

#define MEM_BYTES 0x100000u
#define USER_AT   0x80000u
#define GDT_AT    0x1000u
#define IDT_AT    0x2000u
#define TSS_AT    0x4000u /* the current one */
#define TSS_B_AT  0x5000u
#define TSS_C_AT  0x6000u
#define LDT_AT    0x7000u
#define STACK0                                                                         \
    0x10000u /* stack pointers of ring 0 as the program is interrupted, and in the TSS \
              */
#define TSS_SP0 0x20000u
#define TSS_SP1 0x28000u
#define TSS_IST 0x30007u /* unaligned on purpose */
#define STACK3  0x90000u
#define NO_PAGE UINT64_MAX

/* The GDT: selectors with RPL 0. */
enum {
    S_CODE0 = 0x08,
    S_DATA0 = 0x10,
    S_CODE3 = 0x18,
    S_DATA3 = 0x20,
    S_LONG0 = 0x28,
    S_LONG3 = 0x30,
    S_CONF0 = 0x38, /* conforming, DPL 0 */
    S_CODE16 = 0x40,
    S_DATA16 = 0x48,
    S_DOWN = 0x50, /* expand-down, limit fff */
    S_CODE_NP = 0x58,
    S_DATA_NP = 0x60,
    S_RO = 0x68,
    S_XO = 0x70, /* execute-only code */
    S_CODE1 = 0x78,
    S_DATA1 = 0x80,
    S_LDT = 0x88, /* 16 bytes */
    S_TSS = 0x98, /* 16 bytes */
    S_TSS_B = 0xa8,
    S_TSS_C = 0xb0,
    S_GATE = 0xb8,       /* 16 bytes */
    S_SMALL_CODE = 0xc8, /* limit fff */
    S_SMALL_DATA = 0xd0,
    S_LDT_NP = 0xd8,
    S_BAD_LONG = 0xe0, /* L and D */
    S_LONG3_NP = 0xe8,
    S_TSS_NP = 0xf0,
    S_DATA3_NP = 0xf8,
    GDT_END = 0x100,
};

enum fake_mode { REAL, PM0, PM3, VM86, LONG0, LONG3, COMPAT3 };

struct fake {
    struct cpu c;
    struct cpu_model model;
    uint64_t absent;
    unsigned nr_rmw8, nr_kicks, nr_debug_changed;
    bool pic_line, extint, timer_expired;
    uint8_t pic_vector;
    int apic_vector; /* -1: none */
    unsigned nr_acks;
    uint64_t new_cr3;
    struct log_seen seen;
    uint8_t mem[MEM_BYTES];
};

static struct fake fake;

/* ---- memory ---- */

static enum step fake_check(struct cpu *c, uint64_t at, unsigned bytes, unsigned acc)
{
    bool super = (acc & (ACC_IMPLICIT | ACC_SUPER)) || c->cpl < 3;

    for (uint64_t a = at; a < at + bytes; a++)
        if (a >= MEM_BYTES || (a & PAGE_MASK) == fake.absent || (!super && a < USER_AT))
            return raise_pf(c, GVA(a), (acc & ACC_WRITE ? PF_W : 0) | (super ? 0 : PF_U));
    return STEP_NEXT;
}

static enum step fake_read(struct cpu *c, gva_t at, void *buf, unsigned bytes, unsigned acc)
{
    enum step st = fake_check(c, at.v, bytes, acc);

    if (st == STEP_NEXT)
        memcpy(buf, fake.mem + at.v, bytes);
    return st;
}

static enum step fake_write(struct cpu *c, gva_t at, const void *buf, unsigned bytes, unsigned acc)
{
    enum step st = fake_check(c, at.v, bytes, acc | ACC_WRITE);

    if (st == STEP_NEXT)
        memcpy(fake.mem + at.v, buf, bytes);
    return st;
}

static enum step fake_probe(struct cpu *c, gva_t at, unsigned bytes, unsigned acc)
{
    return fake_check(c, at.v, bytes, acc);
}

static enum step fake_rmw8(struct cpu *c, gva_t at, uint8_t and_mask, uint8_t or_mask, unsigned acc)
{
    enum step st = fake_check(c, at.v, 1, acc | ACC_WRITE);

    fake.nr_rmw8++;
    if (st == STEP_NEXT)
        fake.mem[at.v] = (uint8_t)((fake.mem[at.v] & and_mask) | or_mask);
    return st;
}

static void fake_tlb_flush(struct cpu *c, const struct tlb_flush *what)
{
    (void)c, (void)what;
}

static void fake_debug_changed(struct cpu *c)
{
    (void)c;
    fake.nr_debug_changed++;
}

static void fake_kick(struct cpu *c)
{
    (void)c;
    fake.nr_kicks++;
}

static bool fake_pic_pending(struct cpu *c)
{
    (void)c;
    return fake.pic_line;
}

static uint8_t fake_pic_ack(struct cpu *c)
{
    (void)c;
    fake.pic_line = false;
    return fake.pic_vector;
}

static const struct cpu_ops fake_ops = {
    .read = fake_read,
    .write = fake_write,
    .probe = fake_probe,
    .rmw8 = fake_rmw8,
    .tlb_flush = fake_tlb_flush,
    .debug_changed = fake_debug_changed,
    .kick = fake_kick,
    .pic_pending = fake_pic_pending,
    .pic_ack = fake_pic_ack,
};

/* ---- the rest of the core ---- */

FAKE void apic_reset(struct cpu *c, bool power_on)
{
    if (power_on)
        c->apic.base_msr = APIC_BASE_DEFAULT | APIC_BASE_ENABLE | (c->id ? 0 : APIC_BASE_BSP);
}

FAKE void apic_sync(struct cpu *c)
{
    if (fake.apic_vector >= 0)
        c->apic.irr[fake.apic_vector / 32] |= BIT(fake.apic_vector % 32);
}

FAKE int apic_pending_vector(const struct cpu *c)
{
    (void)c;
    return fake.apic_vector;
}

FAKE uint8_t apic_ack(struct cpu *c)
{
    int v = fake.apic_vector;

    c->apic.irr[v / 32] = 0;
    fake.apic_vector = -1;
    fake.nr_acks++;
    return (uint8_t)v;
}

FAKE void pv_reset(struct cpu *c)
{
    (void)c;
}

FAKE void pv_eoi_sync(struct cpu *c)
{
    (void)c;
}

FAKE void pv_steal_update(struct cpu *c)
{
    (void)c;
}

FAKE void pv_kick(struct cpu *c)
{
    (void)c;
}

FAKE bool apic_accepts_extint(const struct cpu *c)
{
    (void)c;
    return fake.extint;
}

FAKE void apic_timer_expired(struct cpu *c)
{
    (void)c;
    fake.timer_expired = true;
}

FAKE enum step cpu_mov_to_cr(struct cpu *c, unsigned cr, uint64_t val)
{
    assert_int_equal(cr, 3);
    assert_int_equal(c->cpl, 0);
    c->cr3 = fake.new_cr3 = val;
    return STEP_NEXT;
}

/* ---- tables ---- */

static inline void put(uint64_t at, uint64_t val, unsigned bytes)
{
    memcpy(fake.mem + at, &val, bytes);
}

static inline uint64_t peek(uint64_t at, unsigned bytes)
{
    uint64_t x = 0;

    memcpy(&x, fake.mem + at, bytes);
    return x;
}

/* attr as in struct seg; limit in units of G. */
static inline uint64_t desc_encode(uint32_t base, uint32_t limit, uint32_t attr)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)attr << 40 |
           (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(base >> 24) << 56;
}

static inline void gdt_set(unsigned sel, uint32_t base, uint32_t limit, uint32_t attr)
{
    put(GDT_AT + (sel & ~7u), desc_encode(base, limit, attr), 8);
}

static inline uint32_t gdt_type(unsigned sel)
{
    return (uint32_t)peek(GDT_AT + (sel & ~7u) + 5, 1) & SEG_TYPE;
}

/* A gate of 8 bytes; 16 in IA-32e mode (x is the parameter count, or the IST). */
static inline void gate_set(uint64_t at, unsigned type, unsigned dpl, uint16_t sel, uint64_t off,
                            unsigned x)
{
    put(at,
        (off & 0xffff) | (uint64_t)sel << 16 | (uint64_t)x << 32 |
            (uint64_t)(SEG_P | type | dpl << SEG_DPL_SHIFT) << 40 | (off >> 16 & 0xffff) << 48,
        8);
    if (fake.c.mode & MODE_LMA)
        put(at + 8, off >> 32, 8);
}

static inline uint64_t idt_at(unsigned vector)
{
    return IDT_AT + vector * (fake.c.mode & MODE_LMA ? 16u : 8u);
}

static inline void idt_set(unsigned vector, unsigned type, unsigned dpl, uint16_t sel, uint64_t off)
{
    gate_set(idt_at(vector), type, dpl, sel, off, 0);
}

#define A_CODE   (SEG_P | SEG_S | SEG_TYPE_CODE | SEG_TYPE_READABLE)
#define A_DATA   (SEG_P | SEG_S | SEG_TYPE_WRITABLE)
#define A_FLAT   (SEG_G | SEG_DB)
#define A_DPL(n) ((unsigned)(n) << SEG_DPL_SHIFT)

static inline void fake_tables(void)
{
    static const struct {
        unsigned sel;
        uint32_t base, limit, attr;
    } gdt[] = {
        { S_CODE0, 0, 0xfffff, A_CODE | A_FLAT },
        { S_DATA0, 0, 0xfffff, A_DATA | A_FLAT },
        { S_CODE3, 0, 0xfffff, A_CODE | A_FLAT | A_DPL(3) },
        { S_DATA3, 0, 0xfffff, A_DATA | A_FLAT | A_DPL(3) },
        { S_LONG0, 0, 0xfffff, A_CODE | SEG_G | SEG_L },
        { S_LONG3, 0, 0xfffff, A_CODE | SEG_G | SEG_L | A_DPL(3) },
        { S_CONF0, 0, 0xfffff, A_CODE | A_FLAT | SEG_TYPE_CONFORMING },
        { S_CODE16, 0, 0xffff, A_CODE },
        { S_DATA16, 0, 0xffff, A_DATA },
        { S_DOWN, 0, 0xfff, A_DATA | SEG_TYPE_EXPAND_DOWN | SEG_DB },
        { S_CODE_NP, 0, 0xfffff, (A_CODE | A_FLAT) & ~SEG_P },
        { S_DATA_NP, 0, 0xfffff, (A_DATA | A_FLAT) & ~SEG_P },
        { S_RO, 0, 0xfffff, (A_DATA | A_FLAT) & ~SEG_TYPE_WRITABLE },
        { S_XO, 0, 0xfffff, (A_CODE | A_FLAT) & ~SEG_TYPE_READABLE },
        { S_CODE1, 0, 0xfffff, A_CODE | A_FLAT | A_DPL(1) },
        { S_DATA1, 0, 0xfffff, A_DATA | A_FLAT | A_DPL(1) },
        { S_LDT, LDT_AT, 0xff, SEG_P | SYS_LDT },
        { S_TSS, TSS_AT, 0x2067, SEG_P | SYS_TSS_BUSY },
        { S_TSS_B, TSS_B_AT, 0x67, SEG_P | SYS_TSS_AVAIL },
        { S_TSS_C, TSS_C_AT, 0x2b, SEG_P | SYS_TSS16_AVAIL },
        { S_SMALL_CODE, 0, 0xfff, A_CODE | SEG_DB },
        { S_SMALL_DATA, 0, 0xfff, A_DATA | SEG_DB },
        { S_LDT_NP, LDT_AT, 0xff, SYS_LDT },
        { S_BAD_LONG, 0, 0xfffff, A_CODE | A_FLAT | SEG_L },
        { S_LONG3_NP, 0, 0xfffff, (A_CODE | SEG_G | SEG_L | A_DPL(3)) & ~SEG_P },
        { S_TSS_NP, TSS_B_AT, 0x67, SYS_TSS_AVAIL },
        { S_DATA3_NP, 0, 0xfffff, (A_DATA | A_FLAT | A_DPL(3)) & ~SEG_P },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(gdt); i++)
        gdt_set(gdt[i].sel, gdt[i].base, gdt[i].limit, gdt[i].attr);
    /* The LDT holds a copy of the flat ring 0 data segment at 8. */
    put(LDT_AT + 8, desc_encode(0, 0xfffff, A_DATA | A_FLAT), 8);
}

static inline void fake_tss(bool ia32e)
{
    if (ia32e) {
        put(TSS_AT + 4, TSS_SP0, 8);
        put(TSS_AT + 36, TSS_IST, 8);
    } else {
        put(TSS_AT + 4, TSS_SP0, 4);
        put(TSS_AT + 8, S_DATA0, 4);
        put(TSS_AT + 12, TSS_SP1, 4);
        put(TSS_AT + 16, S_DATA1 | 1, 4);
    }
    put(TSS_AT + 102, 0x88, 2); /* I/O map after the redirection map at 68 */
}

static inline struct seg seg_of(unsigned sel)
{
    struct desc d = { .lo = peek(GDT_AT + (sel & ~7u), 8) };
    struct seg s = desc_seg(&d, (uint16_t)sel);

    s.attr |= SEG_TYPE_ACCESSED;
    return s;
}

static inline void fake_segs(unsigned cs, unsigned data)
{
    for (unsigned i = 0; i < NR_SEGS; i++)
        fake.c.seg[i] = seg_of(i == SEG_CS ? cs : data);
    fake.c.cpl = cs & 3;
}

/* A vCPU as after a boot into that mode; RIP 1234, a two-byte instruction, IF set. */
static inline struct cpu *fake_make(enum fake_mode mode)
{
    struct cpu *c = &fake.c;
    bool ia32e = mode == LONG0 || mode == LONG3 || mode == COMPAT3;

    memset(&fake, 0, sizeof(fake));
    fake.absent = NO_PAGE;
    fake.apic_vector = -1;
    fake.model.signature = 0x806f1;
    c->ops = &fake_ops;
    c->model = &fake.model;
    c->seen = &fake.seen;
    cpu_reset(c, RESET_POWER_ON);
    fake.nr_debug_changed = 0;
    fake_tables();
    fake_tss(ia32e);
    c->rip = 0x1234;
    c->next_rip = 0x1236;
    c->rflags = RFLAGS_FIXED1 | RFLAGS_IF;
    if (mode == REAL) {
        cpu_load_seg_real(c, SEG_CS, 0x100);
        cpu_load_seg_real(c, SEG_SS, 0x200);
        c->gpr[RSP] = 0xfff0;
        return c;
    }
    c->cr0 |= CR0_PE | CR0_PG;
    c->gdtr = (struct dtable){ .base = GDT_AT, .limit = GDT_END - 1 };
    c->idtr = (struct dtable){ .base = IDT_AT, .limit = 0xfff };
    c->ldtr = seg_of(S_LDT);
    c->tr = seg_of(S_TSS);
    c->ldtr.attr = SEG_P | SYS_LDT;
    c->tr.attr = SEG_P | SYS_TSS_BUSY;
    c->gpr[RSP] = mode == PM0 || mode == LONG0 ? STACK0 : STACK3;
    if (ia32e) {
        c->efer = EFER_LME | EFER_LMA;
        c->cr4 = CR4_PAE;
    }
    switch (mode) {
    case PM0:
        fake_segs(S_CODE0, S_DATA0);
        break;
    case PM3:
    case COMPAT3:
        fake_segs(S_CODE3 | 3, S_DATA3 | 3);
        break;
    case LONG0:
        fake_segs(S_LONG0, S_DATA0);
        break;
    case LONG3:
        fake_segs(S_LONG3 | 3, S_DATA3 | 3);
        break;
    default: /* v8086: code and stack where ring 3 may go */
        c->rflags |= RFLAGS_VM;
        for (unsigned i = 0; i < NR_SEGS; i++)
            c->seg[i] = seg_vm86((uint16_t)(0x8100 + 0x100 * i));
        c->gpr[RSP] = 0xfff0;
    }
    cpu_update_mode(c);
    return c;
}

/* ---- expectations ---- */

#define NO_ERR UINT32_MAX

static inline void check_fault(const struct cpu *c, enum step st, unsigned vector, uint32_t err,
                               const char *name)
{
    if (st == STEP_FAULT && c->exc.valid && c->exc.vector == vector &&
        (err == NO_ERR ? !c->exc.has_err : c->exc.err == err))
        return;
    fail_msg("%s: step %d, vector %u (want %u), error code %#x (want %#x)", name, st, c->exc.vector,
             vector, c->exc.err, err);
}

/* The values at the top of the stack, the one pushed last first. */
static inline void check_stack(uint64_t sp, unsigned bytes, const uint64_t *want, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t got = peek(sp + i * bytes, bytes);

        if (got != want[i])
            fail_msg("stack slot %u: %#llx, want %#llx", i, (unsigned long long)got,
                     (unsigned long long)want[i]);
    }
}
#define CHECK_STACK(sp, bytes, ...)                           \
    check_stack(sp, bytes, (const uint64_t[]){ __VA_ARGS__ }, \
                sizeof((const uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t))

#endif
