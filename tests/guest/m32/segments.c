/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data segments in protected mode: limits, types, privilege, presence, null selectors, LDT; what
 * LAR, LSL, VERR and VERW tell. SDM 3, "Protection": "Limit Checking", "Type Checking", "Privilege
 * Level Checking When Accessing Data Segments".
 */
#include "guest.h"

#define S(n)      (SEL_FREE + 8 * (n))
#define NO_LIMITS "has no segment limits"
static uint8_t window[0x20000] PAGE_ALIGNED;
static uint64_t ldt[4];

static word_t load_fs(word_t sel, word_t b)
{
    (void)b;
    asm volatile("mov %w0, %%fs" : : "r"(sel) : "memory");
    return 0;
}

static word_t load_ss(word_t sel, word_t b)
{
    (void)b;
    asm volatile("mov %%ss, %%ecx\n\tmov %w0, %%ss\n\tmov %%cx, %%ss"
                 :
                 : "r"(sel)
                 : "ecx", "memory");
    return 0;
}

#define FS_ACCESS(name, insn)                                                             \
    static word_t name(word_t sel, word_t off)                                            \
    {                                                                                     \
        word_t v = 0;                                                                     \
        asm volatile("mov %w1, %%fs\n\t" insn : "+a"(v) : "r"(sel), "r"(off) : "memory"); \
        return v;                                                                         \
    }
FS_ACCESS(fs_read8, "mov %%fs:(%2), %%al")
FS_ACCESS(fs_read16, "mov %%fs:(%2), %%ax")
FS_ACCESS(fs_read32, "mov %%fs:(%2), %%eax")
FS_ACCESS(fs_write8, "mov %%al, %%fs:(%2)")
FS_ACCESS(fs_write32, "mov %%eax, %%fs:(%2)")
FS_ACCESS(ss_read32, "mov %%ss:(%2), %%eax")

struct limit_case {
    const char *what;
    uint32_t limit;
    unsigned access;
    guest_fn *fn;
    uint32_t off;
    bool fault;
};

#define DATA32 (ACC_DATA | DESC_D)
#define DOWN32 (0x96u | DESC_D)
#define DOWN16 0x96u
static const struct limit_case limits[] = {
    { "byte at the limit", 0xfff, DATA32, fs_read8, 0xfff, false },
    { "byte above the limit", 0xfff, DATA32, fs_read8, 0x1000, true },
    { "4 bytes up to the limit", 0xfff, DATA32, fs_read32, 0xffc, false },
    { "4 bytes across the limit", 0xfff, DATA32, fs_read32, 0xffd, true },
    { "a write across the limit", 0xfff, DATA32, fs_write32, 0xffd, true },
    { "4 bytes across 4 GB", 0xfff, DATA32, fs_read32, 0xfffffffe, true },
    { "page granularity, limit 0, last byte", 0, DATA32 | DESC_G, fs_read8, 0xfff, false },
    { "page granularity, limit 0, next byte", 0, DATA32 | DESC_G, fs_read8, 0x1000, true },
    { "limit 0 has one byte", 0, DATA32, fs_read8, 0, false },
    { "limit 0 has no second byte", 0, DATA32, fs_read16, 0, true },
    { "expand-down, byte at the limit", 0xfff, DOWN32, fs_read8, 0xfff, true },
    { "expand-down, byte above the limit", 0xfff, DOWN32, fs_read8, 0x1000, false },
    { "expand-down, across the limit", 0xfff, DOWN32, fs_read32, 0xffe, true },
    { "expand-down, write above the limit", 0xfff, DOWN32, fs_write32, 0x1000, false },
    { "expand-down, 16 bits, last word", 0xfff, DOWN16, fs_read16, 0xfffe, false },
    { "expand-down, 16 bits, across 64 KB", 0xfff, DOWN16, fs_read16, 0xffff, true },
    { "expand-down, 16 bits, above 64 KB", 0xfff, DOWN16, fs_read8, 0x10000, true },
    { "16-bit segment with a limit above 64 KB", 0x1ffff, ACC_DATA, fs_read8, 0x10000, false },
};

static void check_limits(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(limits); i++) {
        const struct limit_case *c = &limits[i];
        struct trap t;

        GDT(S(0)) = descriptor((uint32_t)window, c->limit, c->access);
        t = try(c->fn, S(0), c->off);
        if (c->fault) {
            tcg_deviates(NO_LIMITS);
            EXPECT_TRAP(&t, VEC_GP, 0, "limit: %s: #GP(0)", c->what);
        } else {
            EXPECT_TRAP(&t, VEC_NONE, 0, "limit: %s: no fault", c->what);
        }
    }
    /* The stack segment has an exception of its own. The stack stays below 4 MB. */
    GDT(S(0)) = descriptor(0, 0x3ff, DATA32 | DESC_G);
    {
        struct trap t;

        asm volatile("mov %w0, %%ss" : : "r"(S(0)) : "memory");
        t = try(ss_read32, SEL_KDATA, 0x3ffffc);
        asm volatile("mov %w0, %%ss" : : "r"(SEL_KDATA) : "memory");
        EXPECT_TRAP(&t, VEC_NONE, 0, "limit: SS, last 4 bytes: no fault");
        asm volatile("mov %w0, %%ss" : : "r"(S(0)) : "memory");
        t = try(ss_read32, SEL_KDATA, 0x3ffffd);
        asm volatile("mov %w0, %%ss" : : "r"(SEL_KDATA) : "memory");
        tcg_deviates(NO_LIMITS);
        EXPECT_TRAP(&t, VEC_SS, 0, "limit: SS, across: #SS(0)");
    }
}

struct load_case {
    const char *what;
    uint64_t desc;
    guest_fn *fn;
    unsigned rpl;
    bool user;
    unsigned vec; /* error code: the selector without RPL */
};

static void check_loads(void)
{
    const struct load_case loads[] = {
        { "data", descriptor(0, 0xfffff, DATA32), load_fs, 0, false, VEC_NONE },
        { "read-only data", descriptor(0, 0xfffff, 0x90 | DESC_D), load_fs, 0, false, VEC_NONE },
        { "readable code", descriptor(0, 0xfffff, 0x9a | DESC_D), load_fs, 0, false, VEC_NONE },
        { "execute-only code", descriptor(0, 0xfffff, 0x98 | DESC_D), load_fs, 0, false, VEC_GP },
        { "conforming execute-only code", descriptor(0, 0xfffff, 0x9c | DESC_D), load_fs, 0, false,
          VEC_GP },
        { "conforming readable code, RPL 3", descriptor(0, 0xfffff, 0x9e | DESC_D), load_fs, 3,
          false, VEC_NONE },
        { "data not present", descriptor(0, 0xfffff, 0x12 | DESC_D), load_fs, 0, false, VEC_NP },
        { "data of DPL 0, RPL 3", descriptor(0, 0xfffff, DATA32), load_fs, 3, false, VEC_GP },
        { "data of DPL 3, RPL 3", descriptor(0, 0xfffff, DATA32 | ACC_DPL(3)), load_fs, 3, false,
          VEC_NONE },
        { "data of DPL 0 not present, RPL 3", descriptor(0, 0xfffff, 0x12 | DESC_D), load_fs, 3,
          false, VEC_GP },
        { "an LDT", descriptor(0, 0xfffff, 0x82), load_fs, 0, false, VEC_GP },
        { "a TSS", descriptor(0, 0xfffff, 0x89), load_fs, 0, false, VEC_GP },
        { "a call gate", gate(SEL_KCODE, 0, 0x8c, 0), load_fs, 0, false, VEC_GP },
        { "an empty descriptor", 0, load_fs, 0, false, VEC_GP },
        { "SS: data", descriptor(0, 0xfffff, DATA32 | DESC_G), load_ss, 0, false, VEC_NONE },
        { "SS: read-only data", descriptor(0, 0xfffff, 0x90 | DESC_D), load_ss, 0, false, VEC_GP },
        { "SS: code", descriptor(0, 0xfffff, 0x9a | DESC_D), load_ss, 0, false, VEC_GP },
        { "SS: not present", descriptor(0, 0xfffff, 0x12 | DESC_D), load_ss, 0, false, VEC_SS },
        { "SS: RPL 3 at CPL 0", descriptor(0, 0xfffff, DATA32), load_ss, 3, false, VEC_GP },
        { "SS: DPL 3 at CPL 0", descriptor(0, 0xfffff, DATA32 | ACC_DPL(3)), load_ss, 0, false,
          VEC_GP },
        { "CPL 3: data of DPL 0", descriptor(0, 0xfffff, DATA32), load_fs, 3, true, VEC_GP },
        { "CPL 3: data of DPL 0, RPL 0", descriptor(0, 0xfffff, DATA32), load_fs, 0, true, VEC_GP },
        { "CPL 3: data of DPL 3, RPL 0", descriptor(0, 0xfffff, DATA32 | ACC_DPL(3)), load_fs, 0,
          true, VEC_NONE },
        { "CPL 3: conforming code of DPL 0", descriptor(0, 0xfffff, 0x9e | DESC_D), load_fs, 3,
          true, VEC_NONE },
        { "CPL 3: SS of DPL 0", descriptor(0, 0xfffff, DATA32), load_ss, 3, true, VEC_GP },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(loads); i++) {
        const struct load_case *c = &loads[i];
        struct trap t;

        GDT(S(1)) = c->desc;
        t = (c->user ? try_user : try)(c->fn, S(1) | c->rpl, 0);
        if (c->vec == VEC_NONE) {
            EXPECT_TRAP(&t, c->user ? VEC_USER_END : VEC_NONE, 0, "load: %s: no fault", c->what);
            EXPECT((GDT(S(1)) >> 40 & 1) == 1, "load: %s: accessed", c->what);
        } else {
            EXPECT_TRAP(&t, c->vec, S(1), "load: %s: vector %u", c->what, c->vec);
            EXPECT_EQ(GDT(S(1)), c->desc, "load: %s: descriptor unchanged", c->what);
        }
    }
}

static word_t lldt(word_t sel, word_t b)
{
    (void)b;
    asm volatile("lldt %w0" : : "r"(sel) : "memory");
    return 0;
}

static word_t ltr(word_t sel, word_t b)
{
    (void)b;
    asm volatile("ltr %w0" : : "r"(sel) : "memory");
    return 0;
}

static word_t sldt(word_t a, word_t b)
{
    word_t v = 0;

    (void)a, (void)b;
    asm volatile("sldt %0" : "=r"(v));
    return v;
}

static word_t str(word_t a, word_t b)
{
    word_t v = 0;

    (void)a, (void)b;
    asm volatile("str %0" : "=r"(v));
    return v;
}

static void check_tables(void)
{
    struct trap t = try(load_fs, 0, 0);

    EXPECT_TRAP(&t, VEC_NONE, 0, "a null selector can be loaded");
    t = try(load_fs, 3, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "with any RPL");
    t = try(fs_read8, 0, 0);
    tcg_deviates("does not check the type of a loaded segment");
    EXPECT_TRAP(&t, VEC_GP, 0, "but not used");
    t = try(load_ss, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "SS takes no null selector");
    t = try(load_fs, sizeof(gdt), 0);
    EXPECT_TRAP(&t, VEC_GP, sizeof(gdt), "a selector beyond the GDT");
    t = try(load_fs, 0xffff, 0);
    EXPECT_TRAP(&t, VEC_GP, 0xfffc, "the error code has TI but not RPL");
    lldt(0, 0);
    t = try(load_fs, 0xc, 0);
    EXPECT_TRAP(&t, VEC_GP, 0xc, "an LDT selector without an LDT");

    ldt[1] = descriptor((uint32_t)window, 0xffff, DATA32);
    GDT(S(2)) = descriptor((uint32_t)ldt, sizeof(ldt) - 1, 0x82);
    t = try(lldt, S(2), 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "LLDT");
    EXPECT_EQ(sldt(0, 0), S(2), "SLDT");
    window[5] = 0x5a;
    t = try(fs_read8, 0xc, 5);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a segment of the LDT");
    EXPECT_EQ(t.f.ax, 0x5a, "is where its descriptor says");
    t = try(load_fs, sizeof(ldt) | 4, 0);
    EXPECT_TRAP(&t, VEC_GP, sizeof(ldt) | 4, "a selector beyond the LDT");
    t = try(lldt, SEL_KDATA, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_KDATA, "LLDT of a data segment");
    t = try(lldt, 0xc, 0);
    EXPECT_TRAP(&t, VEC_GP, 0xc, "LLDT from the LDT");
    GDT(S(3)) = descriptor((uint32_t)ldt, sizeof(ldt) - 1, 0x02);
    t = try(lldt, S(3), 0);
    EXPECT_TRAP(&t, VEC_NP, S(3), "LLDT of one not present");
    t = try_user(lldt, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "LLDT at CPL 3");
    t = try(lldt, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "LLDT of a null selector");

    EXPECT_EQ(str(0, 0), SEL_TSS, "STR");
    t = try(ltr, SEL_TSS, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_TSS, "LTR of a busy TSS");
    t = try(ltr, 0, 0);
    tcg_deviates("takes it");
    EXPECT_TRAP(&t, VEC_GP, 0, "LTR of a null selector");
    GDT(S(3)) = descriptor((uint32_t)&tss, sizeof(tss) - 1, 0x09);
    t = try(ltr, S(3), 0);
    EXPECT_TRAP(&t, VEC_NP, S(3), "LTR of one not present");
    GDT(S(3)) = descriptor((uint32_t)&tss, sizeof(tss) - 1, 0x89);
    t = try(ltr, S(3), 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "LTR");
    EXPECT_EQ(GDT(S(3)) >> 40 & 0xff, 0x8b, "makes it busy");
    t = try_user(str, 0, 0);
    EXPECT_EQ(t.f.ax, S(3), "STR at CPL 3");
    GDT(SEL_TSS) &= ~(2ull << 40);
    ltr(SEL_TSS, 0);
}

/* Results of the four instructions that look and do not touch: bit 31 is ZF. */
#define LOOK(name, insn)                                                        \
    static word_t name(word_t sel, word_t b)                                    \
    {                                                                           \
        word_t v = 0x5555;                                                      \
        uint8_t zf;                                                             \
        (void)b;                                                                \
        asm volatile(insn "\n\tsetz %1" : "+a"(v), "=q"(zf) : "r"(sel) : "cc"); \
        return zf ? v | 1u << 31 : v;                                           \
    }
LOOK(lar, "lar %2, %0")
LOOK(lsl, "lsl %2, %0")
LOOK(verr, "verr %w2")
LOOK(verw, "verw %w2")
#define ZF_SET (1u << 31)

struct look_case {
    const char *what;
    uint64_t desc;
    unsigned rpl;
    bool lar, lsl, verr, verw;
};

static void check_looks(void)
{
    const struct look_case looks[] = {
        { "data", descriptor(0x12345678, 0x6789a, DATA32), 0, true, true, true, true },
        { "data, page granularity", descriptor(0, 0x6789a, DATA32 | DESC_G), 0, true, true, true,
          true },
        { "read-only data", descriptor(0, 0xff, 0x90), 0, true, true, true, false },
        { "data not present", descriptor(0, 0xff, 0x12), 0, true, true, true, true },
        { "data of DPL 0, RPL 3", descriptor(0, 0xff, 0x92), 3, false, false, false, false },
        { "readable code", descriptor(0, 0xff, 0x9a), 0, true, true, true, false },
        { "execute-only code", descriptor(0, 0xff, 0x98), 0, true, true, false, false },
        { "conforming code, RPL 3", descriptor(0, 0xff, 0x9e), 3, true, true, true, false },
        { "16-bit TSS", descriptor(0, 0xff, 0x81), 0, true, true, false, false },
        { "LDT", descriptor(0, 0xff, 0x82), 0, true, true, false, false },
        { "busy 16-bit TSS", descriptor(0, 0xff, 0x83), 0, true, true, false, false },
        { "16-bit call gate", descriptor(0, 0xff, 0x84), 0, true, false, false, false },
        { "task gate", descriptor(0, 0xff, 0x85), 0, true, false, false, false },
        { "16-bit interrupt gate", descriptor(0, 0xff, 0x86), 0, false, false, false, false },
        { "16-bit trap gate", descriptor(0, 0xff, 0x87), 0, false, false, false, false },
        { "reserved type 8", descriptor(0, 0xff, 0x88), 0, false, false, false, false },
        { "32-bit TSS", descriptor(0, 0xff, 0x89), 0, true, true, false, false },
        { "reserved type 10", descriptor(0, 0xff, 0x8a), 0, false, false, false, false },
        { "busy 32-bit TSS", descriptor(0, 0xff, 0x8b), 0, true, true, false, false },
        { "32-bit call gate", descriptor(0, 0xff, 0x8c), 0, true, false, false, false },
        { "32-bit interrupt gate", descriptor(0, 0xff, 0x8e), 0, false, false, false, false },
        { "32-bit trap gate", descriptor(0, 0xff, 0x8f), 0, false, false, false, false },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(looks); i++) {
        const struct look_case *c = &looks[i];
        uint32_t limit = (uint32_t)(c->desc & 0xffff) | (uint32_t)(c->desc >> 32 & 0xf0000);
        word_t sel = S(4) | c->rpl;

        if (c->desc >> 55 & 1)
            limit = limit << 12 | 0xfff;
        GDT(S(4)) = c->desc;
        /* Bits 16 to 19 of LAR's result are undefined. */
        EXPECT_EQ(lar(sel, 0) & ~0xf0000u,
                  c->lar ? ZF_SET | ((uint32_t)(c->desc >> 32) & 0xf0ff00) : 0x5555, "LAR: %s",
                  c->what);
        EXPECT_EQ(lsl(sel, 0), c->lsl ? ZF_SET | limit : 0x5555, "LSL: %s", c->what);
        EXPECT_EQ(verr(sel, 0) & ZF_SET, c->verr ? ZF_SET : 0, "VERR: %s", c->what);
        EXPECT_EQ(verw(sel, 0) & ZF_SET, c->verw ? ZF_SET : 0, "VERW: %s", c->what);
    }
    EXPECT_EQ(lar(0, 0), 0x5555, "LAR of a null selector");
    EXPECT_EQ(lsl(0xfff8, 0), 0x5555, "LSL beyond the GDT");
    EXPECT_EQ(verr(0, 0), 0x5555, "VERR of a null selector");
}

static void check_types(void)
{
    struct trap t;

    GDT(S(5)) = descriptor((uint32_t)window, 0xffff, 0x90 | DESC_D);
    t = try(fs_write8, S(5), 0);
    tcg_deviates("does not check the type of a loaded segment");
    EXPECT_TRAP(&t, VEC_GP, 0, "a write to read-only data");
    GDT(S(5)) = descriptor((uint32_t)window, 0xffff, 0x9a | DESC_D);
    t = try(fs_write8, S(5), 0);
    tcg_deviates("does not check the type of a loaded segment");
    EXPECT_TRAP(&t, VEC_GP, 0, "a write to code");
    t = try(fs_read8, S(5), 5);
    EXPECT_EQ(t.f.ax, 0x5a, "a read of readable code");
    /* What was loaded stays until the next load. */
    GDT(S(5)) = descriptor((uint32_t)window, 0xffff, DATA32);
    load_fs(S(5), 0);
    GDT(S(5)) = 0;
    {
        uint8_t v;

        asm volatile("mov %%fs:5, %0" : "=q"(v));
        EXPECT_EQ(v, 0x5a, "the hidden part keeps a descriptor that is gone");
    }
}

static word_t sp_after_push(word_t a, word_t sel)
{
    word_t sp;

    asm volatile(
        "mov %%esp, %%ebx\n\tmov %w2, %%ss\n\tmov %1, %%esp\n\tpush %%eax\n\tmov %%esp, %%ecx\n\t"
        "mov %w3, %%ss\n\tmov %%ebx, %%esp"
        : "=&c"(sp)
        : "r"(a), "r"(sel), "r"(SEL_KDATA)
        : "ebx", "memory");
    return sp;
}

static void check_16_bit(void)
{
    uint32_t v;

    GDT(S(6)) = descriptor((uint32_t)window, 0xffff, ACC_DATA);
    EXPECT_EQ(sp_after_push(0xabcd0000, S(6)), 0xabcdfffc,
              "a 16-bit stack wraps SP and leaves the upper half");
    GDT(S(6)) = descriptor((uint32_t)window, 0xfffff, DATA32);
    EXPECT_EQ(sp_after_push(0x10000, S(6)), 0xfffc, "a 32-bit stack uses ESP");
    memset(window, 0, sizeof(window));
    window[0x12] = 0x77;
    load_fs(S(6), 0);
    asm volatile("mov $0xffff, %%ebx\n\tmov $0x13, %%esi\n\tmovzbl %%fs:(%%bx,%%si), %0"
                 : "=r"(v)
                 :
                 : "ebx", "esi");
    EXPECT_EQ(v, 0x77, "16-bit addresses wrap at 64 KB");
    v = 0xdead0000 | SEL_UDATA;
    asm volatile("mov %0, %%fs\n\tmov %%fs, %0" : "+r"(v));
    EXPECT_EQ(v, SEL_UDATA, "MOV r32 from a segment register clears the upper half");
    asm volatile("mov $0x13, %%ecx\n\tmov $0x30, %%edx\n\tarpl %%cx, %%dx\n\tmov %%edx, %0"
                 : "=r"(v)
                 :
                 : "ecx", "edx", "cc");
    EXPECT_EQ(v, 0x33, "ARPL raises the RPL");
}

int main(void)
{
    check_limits();
    check_loads();
    check_tables();
    check_looks();
    check_types();
    check_16_bit();
    return 0;
}
