/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel's global pages in the upper half, reached over and over again by the same instructions,
 * from a stack that is one of them: what any TLB may remember of them, and what it must not once
 * they are changed, flushed, written as code, or somebody else comes. An engine that maps them
 * somewhere must not be seen doing so. SDM 3, "Caching Translation Information".
 */
#include "guest.h"

#define DIRECT 0xffff888000000000ull /* the first GB in 2 MB pages */
#define SMALL  0xffffc90000000000ull /* the first of its PML4 slot, small pages */
#define STACK  (SMALL + LARGE)
#define OTHER  0xffffd90000000000ull /* its slot is seen at other slots, too */
#define HUGE   0xffffe10000000000ull
#define KERNEL 0xffffffff80000000ull
#define TOP    0xfffffffffffff000ull
#define LARGE  0x200000ull
#define GIGA   0x40000000ull
#define BIG(n) (0x2000000ull + (n) * LARGE) /* RAM above the image: 2 MB pages */
#define GR     (PTE_P | PTE_G)
#define GRW    (GR | PTE_W)
#define ROUNDS 100u
#define PAGES  16u
#define SLOT   (1ull << 39)

static uint8_t pages[PAGES][PAGE_BYTES] PAGE_ALIGNED;
static uint8_t stacks[2][PAGES][PAGE_BYTES] PAGE_ALIGNED;
static uint64_t other_pml4[512] PAGE_ALIGNED;

#define PA(n)         ((word_t)pages[n])
#define INLINE        static inline __attribute__((always_inline))
#define ALONE         static __attribute__((noinline, noclone, no_icf))
#define AT(type, lin) (*(volatile type *)(lin))

/* One instruction as a function, for try(); where it is: name_at. */
#define INSN(name, insn)                                            \
    extern const uint8_t name##_at[];                               \
    ALONE word_t name(word_t at, word_t v)                          \
    {                                                               \
        asm volatile(".globl " #name "_at\n" #name "_at: " insn     \
                     : "+r"(v)                                      \
                     : "r"(at)                                      \
                     : "memory", "cc", "rcx");                      \
        return v;                                                   \
    }

/* All, global ones too. */
static void flush_all(void)
{
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    write_cr4(read_cr4() | CR4_PGE);
}

static void map(word_t lin, word_t entry)
{
    *page_entry(lin, 1) = entry;
    invlpg((void *)lin);
}

static void map_large(word_t lin, word_t entry)
{
    *page_entry(lin, 2) = entry | PTE_PS;
    invlpg((void *)lin);
}

/* Is it that exception, of that instruction? CR2 counts for a #PF only. */
static bool is_fault(const struct trap *t, word_t vec, word_t err, word_t cr2, const uint8_t *ip)
{
    bool good = t->vec == vec && t->err == err && t->f.ip == (word_t)ip &&
                (vec != VEC_PF || t->cr2 == cr2);

    if (!good)
        print("# vector %u error %x cr2 %lx at %lx, want %u, %x, %lx, %lx\n", (unsigned)t->vec,
              (unsigned)t->err, t->cr2, t->f.ip, (unsigned)vec, (unsigned)err, cr2, (word_t)ip);
    return good;
}

/* ---- all kinds of accesses ---- */

/* Written by one address and read by another. Each use is code of its own. */
INLINE unsigned sizes(word_t to, word_t from, uint64_t v)
{
    unsigned wrong = 0;
    uint64_t lo, hi;

    AT(uint64_t, to) = v;
    wrong += AT(uint64_t, from) != v;
    AT(uint32_t, to + 1) = (uint32_t)~v;
    wrong += AT(uint32_t, from + 1) != (uint32_t)~v;
    AT(uint16_t, to + 3) = (uint16_t)v;
    wrong += AT(uint16_t, from + 3) != (uint16_t)v;
    AT(uint8_t, to + 2) = (uint8_t)(v >> 8);
    wrong += AT(uint8_t, from + 2) != (uint8_t)(v >> 8);
    asm volatile("movq %4, %%xmm0\n\tpslldq $8, %%xmm0\n\tmovups %%xmm0, (%2)\n\t"
                 "movups (%3), %%xmm1\n\tmovq %%xmm1, %0\n\tpsrldq $8, %%xmm1\n\tmovq %%xmm1, %1"
                 : "=&r"(lo), "=&r"(hi)
                 : "r"(to), "r"(from), "r"(v)
                 : "memory");
    return wrong + (lo != 0) + (hi != v);
}

/* Read and written at once, by the high address; looked at by the low one. */
INLINE unsigned changes(word_t high, word_t low, uint64_t v)
{
    unsigned wrong = 0;
    uint64_t x = v, old = AT(uint64_t, low);
    word_t from, to;

    asm volatile("lock xaddq %0, (%1)" : "+r"(x) : "r"(high) : "memory", "cc");
    wrong += x != old || AT(uint64_t, low) != old + v;
    asm volatile("xchgq %0, (%1)" : "+r"(x) : "r"(high) : "memory");
    wrong += x != old + v || AT(uint64_t, low) != old;
    x = old + 1;
    asm volatile("lock cmpxchgq %2, (%1)" : "+a"(x) : "r"(high), "r"(v) : "memory", "cc");
    wrong += x != old || AT(uint64_t, low) != old;
    asm volatile("lock cmpxchgq %2, (%1)" : "+a"(x) : "r"(high), "r"(v) : "memory", "cc");
    wrong += x != old || AT(uint64_t, low) != v;
    AT(uint64_t, low) = v;
    asm volatile("addq $3, (%0)\n\tincl (%0)\n\tnotw 2(%0)" : : "r"(high) : "memory", "cc");
    wrong += AT(uint32_t, low) != (((uint32_t)v + 4) ^ 0xffff0000);
    AT(uint64_t, low) = v;
    asm volatile("pushq (%0)\n\taddq $1, (%%rsp)\n\tpopq 8(%0)" : : "r"(high) : "memory", "cc");
    wrong += AT(uint64_t, low + 8) != v + 1;
    asm volatile("fildll (%0)\n\tfistpll 16(%0)" : : "r"(high) : "memory");
    wrong += AT(uint64_t, low + 16) != v;
    from = high, to = high + 24;
    asm volatile("movsq" : "+S"(from), "+D"(to) : : "memory");
    wrong += AT(uint64_t, low + 24) != v || from != high + 8;
    asm volatile("movb $1, 32(%0)\n\tbtsl $3, 32(%0)\n\tsetc 33(%0)" : : "r"(high) : "memory", "cc");
    return wrong + ((AT(uint16_t, low + 32) & 0xff0f) != 9);
}

static void agree(void)
{
    unsigned large = 0, small = 0, all = 0;

    for (unsigned i = 0; i < PAGES; i++)
        map(SMALL + i * PAGE_BYTES, PA(i * 5 % PAGES) | GRW);
    for (uint64_t i = 1; i <= 2 * ROUNDS; i++) {
        word_t at = BIG(i % 3) + i * 12345 % (LARGE - 64), page = i % PAGES, off = i * 77 % 4000;
        uint64_t v = i * 0x0123456789abcdef;

        large += sizes(DIRECT + at, at, v) + sizes(at, DIRECT + at, ~v);
        small += sizes(SMALL + page * PAGE_BYTES + off, PA(page * 5 % PAGES) + off, v);
        small += sizes(PA(page * 5 % PAGES) + off, SMALL + page * PAGE_BYTES + off, ~v);
        at &= ~63ull;
        off &= ~63ull;
        all += changes(DIRECT + at, at, i * 3);
        all += changes(SMALL + page * PAGE_BYTES + off, PA(page * 5 % PAGES) + off, i * 7);
    }
    EXPECT_EQ(large, 0, "2 MB pages agree with the low ones, read and written");
    EXPECT_EQ(small, 0, "small pages, too");
    EXPECT_EQ(all, 0, "instructions that read and write, strings, x87");
}

static void by_gs(void)
{
    const word_t base = rdmsr(MSR_GS_BASE);
    unsigned wrong = 0;

    for (uint64_t i = 0; i < ROUNDS; i++) {
        uint64_t v, at = i % 2 ? DIRECT + BIG(0) : SMALL;
        word_t low = i % 2 ? BIG(0) : PA(0);

        wrmsr(MSR_GS_BASE, at);
        AT(uint64_t, low + 8) = i;
        asm volatile("mov %%gs:8, %0\n\tmov %0, %%gs:16\n\tincl %%gs:16" : "=r"(v) : : "memory", "cc");
        wrong += v != i || AT(uint64_t, low + 16) != i + 1;
    }
    wrmsr(MSR_GS_BASE, base);
    EXPECT_EQ(wrong, 0, "by GS, whose base moves");
}

/* ---- across pages ---- */

/* What of [lin, lin + 16) is behind the border is found there by low addresses. */
static unsigned split_wrong(word_t border, unsigned before, word_t low, word_t low_next, uint64_t v)
{
    unsigned wrong = 0;
    uint8_t b[32];

    wrong += sizes(border - before, border - before, v);
    AT(uint64_t, border - before) = v;
    AT(uint64_t, border - before + 8) = ~v;
    memcpy(b, &v, 8);
    for (unsigned i = 0; i < 16; i++) {
        uint8_t want = i < 8 ? b[i] : (uint8_t)~b[i - 8];

        wrong += want != (i < before ? AT(uint8_t, low - before + i) : AT(uint8_t, low_next + i - before));
    }
    return wrong;
}

static void across(void)
{
    unsigned small = 0, large = 0, slot = 0;

    map(SMALL, PA(7) | GRW);
    map(SMALL + PAGE_BYTES, PA(2) | GRW);
    map_large(KERNEL, BIG(3) | GRW);
    map_large(KERNEL + LARGE, BIG(1) | GRW);
    map(SMALL - PAGE_BYTES, PA(4) | GRW);
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        uint64_t v = 0x8070605040302010 + i * 0x010203040506070ull;

        small += split_wrong(SMALL + PAGE_BYTES, i % 17, PA(8), PA(2), v);
        large += split_wrong(KERNEL + LARGE, i % 17, BIG(4), BIG(1), v);
        slot += split_wrong(SMALL, i % 17, PA(5), PA(7), v);
    }
    EXPECT_EQ(small, 0, "accesses across two small pages that are not neighbours");
    EXPECT_EQ(large, 0, "across two large ones");
    EXPECT_EQ(slot, 0, "across the border of two PML4 slots");
}

/* Far from each other by one pointer. */
INSN(three, "mov (%1), %0\n\tadd 2040(%1), %0\n\tadd -2040(%1), %0")
INSN(write_cross, "mov %0, -4(%1)")

static void half_there(void)
{
    bool sums = true, absent = true, ro = true;
    struct trap t;

    for (unsigned i = 0; i < ROUNDS; i++) {
        map(SMALL, PA(0) | GRW);
        map(SMALL + PAGE_BYTES, PA(1) | GRW);
        map(SMALL + 2 * PAGE_BYTES, PA(3) | GRW);
        AT(uint64_t, PA(1)) = 1, AT(uint64_t, PA(1) + 2040) = 2, AT(uint64_t, PA(0) + 2056) = 4;
        sums = sums && three(SMALL + PAGE_BYTES, 0) == 7;
        (void)write_cross(SMALL + PAGE_BYTES, 0);
        sums = sums && three(SMALL + 2048, 0) == AT(uint64_t, PA(0) + 2048) + AT(uint64_t, PA(0) + 4088) +
                                                     AT(uint64_t, PA(0) + 8);
        if (i % 10)
            continue;
        map(SMALL + PAGE_BYTES, 0);
        AT(uint64_t, PA(0) + 4088) = 5, AT(uint64_t, PA(1)) = 1;
        t = try(write_cross, SMALL + PAGE_BYTES, ~0ull);
        absent = absent && is_fault(&t, VEC_PF, PF_W, SMALL + PAGE_BYTES, write_cross_at) &&
                 AT(uint64_t, PA(0) + 4088) == 5;
        map(SMALL + PAGE_BYTES, PA(1) | GR);
        t = try(write_cross, SMALL + PAGE_BYTES, ~0ull);
        ro = ro && is_fault(&t, VEC_PF, PF_W | PF_P, SMALL + PAGE_BYTES, write_cross_at) &&
             AT(uint64_t, PA(0) + 4088) == 5 && (uint32_t)AT(uint64_t, PA(1)) == 1;
        map(SMALL, 0);
        t = try(three, SMALL + PAGE_BYTES, 0);
        absent = absent && t.vec == VEC_PF && t.cr2 == SMALL + PAGE_BYTES - 2040 && !t.err;
    }
    EXPECT(sums, "two pages reached by one pointer");
    EXPECT(absent, "a write across the border of an absent page: #PF, nothing written");
    EXPECT(ro, "of one that is read-only");
}

/* Down from the first byte of a slot, and up from the last one. */
INSN(down, "mov (%1), %0\n\tmov -8(%1), %%rcx\n\tadd %%rcx, %0")
INSN(up, "mov (%1), %0\n\tmov 8(%1), %%rcx\n\tadd %%rcx, %0")
INSN(read_wrap, "mov (%1), %0")

static void slot_ends(void)
{
    static const word_t base[] = { OTHER, SMALL }; /* below: no table, and an empty one */
    bool good = true, bottom = true, wrapped = true;
    struct trap t;

    map(SMALL - PAGE_BYTES, 0);
    AT(uint64_t, PA(0)) = 3, AT(uint64_t, PA(0) + 8) = 10;
    for (unsigned k = 0; k < 2; k++) {
        map(base[k], PA(0) | GRW);
        for (unsigned i = 0; i < 20; i++)
            good = good && down(base[k] + 8, 0) == 13 && up(base[k], 0) == 13;
        for (unsigned i = 0; i < 10; i++) {
            t = try(down, base[k], 0);
            good = good && t.vec == VEC_PF && !t.err && t.cr2 == base[k] - 8;
            t = try(up, base[k] - 8, 0);
            good = good && t.vec == VEC_PF && !t.err && t.cr2 == base[k] - 8;
        }
    }
    EXPECT(good, "from the first byte of a PML4 slot down to one that has nothing: #PF");
    map(0xffff800000000000, PA(0) | GRW);
    map(0x00007ffffffff000, PA(0) | GRW);
    for (unsigned i = 0; i < 20; i++) {
        bottom = bottom && down(0xffff800000000008, 0) == 13 && down(SMALL + 8, 0) == 13;
        if (i < 10)
            continue;
        t = try(down, 0xffff800000000000, 0);
        bottom = bottom && t.vec == VEC_GP && !t.err;
        t = try(up, 0x00007ffffffffff8, 0);
        bottom = bottom && t.vec == VEC_GP && !t.err;
        t = try(read_wrap, 0xffff7ffffffffffc, 0);
        bottom = bottom && is_fault(&t, VEC_GP, 0, 0, read_wrap_at);
        t = try(read_wrap, 0x00007ffffffffffc, 0);
        bottom = bottom && is_fault(&t, VEC_GP, 0, 0, read_wrap_at);
    }
    map(0x00007ffffffff000, 0);
    EXPECT(bottom, "from the first canonical address of the upper half down: #GP");
    map(TOP, PA(5) | GRW);
    AT(uint64_t, PA(6) - 8) = 77;
    for (unsigned i = 0; i < 20; i++) {
        wrapped = wrapped && up(TOP + 4088, 0) == 77 + AT(uint64_t, 0);
        /* What an access that wraps itself does, is the processor's own affair. */
        t = try(read_wrap, TOP + 4092, 0);
    }
    map(TOP, 0);
    t = try(up, TOP + 4088, 0);
    EXPECT(wrapped && t.vec == VEC_PF && t.cr2 == TOP + 4088, "from the last address up to 0");
}

/* More slots than anybody has thought of, all with the same tables. */
static void many_slots(void)
{
    const word_t first = 0xffff920000000000, n = 24;
    unsigned wrong = 0;

    map(OTHER, PA(0) | GRW);
    for (word_t i = 0; i < n; i++)
        pml4[(first + i * SLOT) >> 39 & 511] = *page_entry(OTHER, 4);
    for (word_t i = 0; i < 4 * ROUNDS; i++) {
        word_t at = i % 64 * 8;

        AT(uint64_t, first + i % n * SLOT + at) = i;
        wrong += AT(uint64_t, first + (i * 7 + 1) % n * SLOT + at) != i || AT(uint64_t, PA(0) + at) != i;
    }
    for (word_t i = 0; i < n; i++)
        pml4[(first + i * SLOT) >> 39 & 511] = 0;
    flush_all();
    EXPECT_EQ(wrong, 0, "the same page in 24 PML4 slots");
}

/* ---- changed mappings ---- */

static void invpcid_all(void)
{
    static const uint64_t desc[2];

    asm volatile("invpcid (%1), %0" : : "r"(2ull), "r"(desc) : "memory");
}

static void remap_small(void)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < PAGES; i++)
        AT(uint64_t, PA(i)) = i, AT(uint64_t, PA(i) + 3000) = i + 100;
    for (unsigned i = 0; i < 3 * ROUNDS; i++) {
        unsigned n = i % 7;

        *page_entry(SMALL, 1) = PA(n) | GRW;
        invlpg((void *)(SMALL + i % PAGE_BYTES));
        wrong += AT(uint64_t, SMALL) != n || AT(uint64_t, SMALL + 3000) != n + 100;
        AT(uint64_t, SMALL + 2000) = i;
        wrong += AT(uint64_t, PA(n) + 2000) != i;
    }
    EXPECT_EQ(wrong, 0, "a small page elsewhere after INVLPG");
    for (unsigned how = 0; how < 2; how++) {
        if (how && !has_invpcid())
            continue;
        wrong = 0;
        for (unsigned i = 0; i < ROUNDS; i++) {
            for (unsigned n = 0; n < PAGES; n++)
                *page_entry(SMALL + n * PAGE_BYTES, 1) = PA((n * 3 + i) % PAGES) | GRW;
            how ? invpcid_all() : flush_all();
            for (unsigned n = 0; n < PAGES; n++) {
                AT(uint64_t, SMALL + n * PAGE_BYTES + 2000) = i + n;
                wrong += AT(uint64_t, SMALL + n * PAGE_BYTES) != (n * 3 + i) % PAGES ||
                         AT(uint64_t, PA((n * 3 + i) % PAGES) + 2000) != i + n;
            }
        }
        EXPECT_EQ(wrong, 0, "16 pages at once, and %s", how ? "INVPCID of all" : "CR4.PGE changed");
    }
}

static void remap_large(void)
{
    unsigned wrong = 0;

    for (unsigned i = 0; i < 4; i++)
        for (unsigned n = 0; n < 4; n++)
            AT(uint64_t, BIG(i) + n * 0x70000) = i * 10 + n;
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        *page_entry(KERNEL, 2) = BIG(i % 4) | GRW | PTE_PS;
        invlpg((void *)(KERNEL + i * 0x3210 % LARGE));
        for (unsigned n = 0; n < 4; n++) {
            wrong += AT(uint64_t, KERNEL + n * 0x70000) != i % 4 * 10 + n;
            AT(uint64_t, KERNEL + n * 0x70000 + 8) = i;
            wrong += AT(uint64_t, BIG(i % 4) + n * 0x70000 + 8) != i;
        }
    }
    EXPECT_EQ(wrong, 0, "a 2 MB page elsewhere after INVLPG of one address in it");
}

INSN(write_huge, "mov %0, (%1)")

/* INVLPG is for all of a page, of 1 GB too. */
static void huge(void)
{
    bool good = true;
    struct trap t;

    if (!has_1g_pages()) {
        skip("not in this CPU model", "1 GB pages");
        return;
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        *page_entry(HUGE, 3) = GRW | PTE_PS;
        invlpg((void *)(HUGE + i * 0x123456));
        for (unsigned n = 0; n < 4; n++) {
            (void)write_huge(HUGE + BIG(n) + i * 8, i + n);
            good = good && AT(uint64_t, BIG(n) + i * 8) == i + n;
        }
        if (i % 10 != 9)
            continue;
        *page_entry(HUGE, 3) = GR | PTE_PS;
        invlpg((void *)(HUGE + BIG(4) + i));
        for (unsigned n = 0; n < 4; n++) {
            t = try(write_huge, HUGE + BIG(n) + i * 8, 99);
            good = good && is_fault(&t, VEC_PF, PF_W | PF_P, HUGE + BIG(n) + i * 8, write_huge_at) &&
                   AT(uint64_t, BIG(n) + i * 8) == i + n;
        }
    }
    EXPECT(good, "INVLPG of one address in a 1 GB page that is written no more");
}

INSN(read_split, "mov (%1), %0")
INSN(write_split, "mov %0, (%1)")

/* A 2 MB page becomes 512 small ones, of which some are something else; and a large one again. */
static void splitting(void)
{
    const word_t lin = KERNEL + 4 * LARGE;
    uint64_t *pt = page_table();
    bool good = true, back = true;
    struct trap t;

    for (unsigned i = 0; i < 40; i++) {
        map_large(lin, BIG(2) | GRW);
        for (unsigned n = 0; n < 12; n++) {
            (void)write_split(lin + n * PAGE_BYTES, i + n);
            back = back && AT(uint64_t, BIG(2) + n * PAGE_BYTES) == i + n &&
                   read_split(lin + n * PAGE_BYTES, 0) == i + n;
        }
        for (unsigned n = 0; n < 512; n++)
            pt[n] = (BIG(2) + n * PAGE_BYTES) | GRW;
        pt[5] &= ~PTE_W;
        pt[7] = PA(1) | GRW;
        pt[9] = 0;
        *page_entry(lin, 2) = (word_t)pt | PTE_P | PTE_W;
        flush_all();
        t = try(write_split, lin + 5 * PAGE_BYTES, 0);
        good = good && is_fault(&t, VEC_PF, PF_W | PF_P, lin + 5 * PAGE_BYTES, write_split_at);
        t = try(read_split, lin + 9 * PAGE_BYTES + 8, 0);
        good = good && is_fault(&t, VEC_PF, 0, lin + 9 * PAGE_BYTES + 8, read_split_at);
        t = try(write_split, lin + 9 * PAGE_BYTES + 8, 0);
        good = good && is_fault(&t, VEC_PF, PF_W, lin + 9 * PAGE_BYTES + 8, write_split_at);
        (void)write_split(lin + 7 * PAGE_BYTES, i * 3);
        good = good && AT(uint64_t, PA(1)) == i * 3 && AT(uint64_t, BIG(2) + 7 * PAGE_BYTES) == i + 7 &&
               AT(uint64_t, BIG(2) + 5 * PAGE_BYTES) == i + 5 &&
               read_split(lin + 5 * PAGE_BYTES, 0) == i + 5;
        *page_entry(lin, 2) = BIG(2) | GRW | PTE_PS;
        flush_all();
    }
    EXPECT(back, "a 2 MB page that has been small ones");
    EXPECT(good, "a 2 MB page split: faults where it has less");
}

/* ---- rights ---- */

/* An instruction with known flags, and registers: a byte of its own eight times in each. RDI is
 * the address. */
#define FLAGS     0x8d5u
#define R(n, reg) "movabs $0x" #n #n #n #n #n #n #n #n ", %" #reg "\n"
#define REGS(name, insn)                                                                          \
    asm(".pushsection .text\n" #name ": push %rbx\n push %rbp\n push %r12\n push %r13\n"          \
        " push %r14\n push %r15\n push $0x8d7\n popf\n" R(10, r15) R(11, r14) R(12, r13)          \
            R(13, r12) R(14, r11) R(15, r10) R(16, r9) R(17, r8) R(19, rsi) R(1a, rbp) R(1b, rbx) \
                R(1c, rdx) R(1d, rcx) R(1e, rax) #name "_at: " insn "\n"                          \
        " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"                \
        ".popsection\n");                                                                         \
    extern const uint8_t name##_at[];                                                             \
    word_t name(word_t at, word_t b)
REGS(ro_mov, "mov %rax, (%rdi)");
REGS(ro_add, "add %rax, (%rdi)");
REGS(ro_xadd, "lock xadd %rcx, (%rdi)");
REGS(ro_cmpxchg, "cmpxchg %rdx, (%rdi)");
REGS(ro_sse, "movups %xmm0, (%rdi)");

static const struct {
    const char *what;
    guest_fn *fn;
    const uint8_t *at;
} ro_cases[] = {
    { "MOV", ro_mov, ro_mov_at },    { "ADD", ro_add, ro_add_at },
    { "LOCK XADD", ro_xadd, ro_xadd_at }, { "CMPXCHG", ro_cmpxchg, ro_cmpxchg_at },
    { "MOVUPS", ro_sse, ro_sse_at },
};

/* Refused, with nothing changed. */
static bool ro_refused(unsigned n, word_t lin, word_t low)
{
    uint64_t was = AT(uint64_t, low);
    struct trap t = try(ro_cases[n].fn, lin, 0);
    const word_t *r = &t.f.r15;
    bool good = is_fault(&t, VEC_PF, PF_W | PF_P, lin, ro_cases[n].at) &&
                AT(uint64_t, low) == was && (t.f.flags & FLAGS) == FLAGS;

    for (unsigned i = 0; i < 15; i++)
        good = good && r[i] == (i == 8 ? lin : (0x10 + i) * 0x0101010101010101);
    return good;
}

INSN(ro_look, "mov (%1), %0")

static void read_only(void)
{
    static const struct {
        word_t lin, low;
    } at[] = { { SMALL + 0x300, PA(3) + 0x300 }, { KERNEL + 0x12340, BIG(1) + 0x12340 } };

    for (unsigned n = 0; n < ARRAY_SIZE(ro_cases); n++) {
        bool refused = true, written = true;

        for (unsigned i = 0; i < 12; i++) {
            for (unsigned k = 0; k < 2; k++) {
                map(SMALL, PA(3) | GRW);
                map_large(KERNEL, BIG(1) | GRW);
                for (unsigned j = 0; j < 10; j++) {
                    AT(uint64_t, at[k].low) = 0x1e1e1e1e1e1e1e1e;
                    (void)ro_cases[n].fn(at[k].lin, 0);
                    written = written && (n == 0 || AT(uint64_t, at[k].low) != 0x1e1e1e1e1e1e1e1e);
                }
                map(SMALL, PA(3) | GR | (i % 2 ? 0 : PTE_A | PTE_D));
                map_large(KERNEL, BIG(1) | GR | (i % 2 ? 0 : PTE_A | PTE_D));
                (void)ro_look(at[k].lin, 0);
                for (unsigned j = 0; j < 1 + i % 3; j++)
                    refused = refused && ro_refused(n, at[k].lin, at[k].low);
                write_cr0(read_cr0() & ~(word_t)CR0_WP);
                AT(uint64_t, at[k].low) = 0x1e1e1e1e1e1e1e1e;
                (void)ro_cases[n].fn(at[k].lin, 0);
                AT(uint32_t, at[k].lin + 8) = i;
                written = written && (n == 0 || AT(uint64_t, at[k].low) != 0x1e1e1e1e1e1e1e1e) &&
                          AT(uint32_t, at[k].low + 8) == i;
                write_cr0(read_cr0() | CR0_WP);
                refused = refused && ro_refused(n, at[k].lin, at[k].low);
            }
        }
        EXPECT(refused, "%s to a read-only page: #PF, all as before", ro_cases[n].what);
        EXPECT(written, "and writes elsewhere, and with CR0.WP clear");
    }
}

/* Written with CR0.WP clear only, always by the same instruction. */
static void wp_clear(void)
{
    unsigned wrong = 0;

    map(SMALL, PA(3) | GR);
    map_large(KERNEL, BIG(1) | GR);
    write_cr0(read_cr0() & ~(word_t)CR0_WP);
    flush_all();
    for (unsigned i = 0; i < ROUNDS; i++) {
        AT(uint32_t, SMALL + i * 8) = i;
        AT(uint32_t, KERNEL + i * 8) = i;
        wrong += AT(uint32_t, PA(3) + i * 8) != i || AT(uint32_t, BIG(1) + i * 8) != i;
    }
    write_cr0(read_cr0() | CR0_WP);
    EXPECT_EQ(wrong, 0, "read-only pages written with CR0.WP clear");
}

/* Rights of an upper level. */
INSN(write_upper, "mov %0, (%1)")
INSN(read_upper, "mov (%1), %0")

static void upper_levels(void)
{
    const word_t ro = OTHER + SLOT;
    bool good = true;
    struct trap t;

    map(OTHER, PA(0) | GRW);
    pml4[ro >> 39 & 511] = *page_entry(OTHER, 4) & ~PTE_W;
    for (unsigned i = 0; i < ROUNDS; i++) {
        (void)write_upper(OTHER + i * 8, i);
        good = good && read_upper(ro + i * 8, 0) == i && read_upper(OTHER + i * 8, 0) == i;
        if (i % 16 != 15)
            continue;
        t = try(write_upper, ro + i * 8, 0);
        good = good && is_fault(&t, VEC_PF, PF_W | PF_P, ro + i * 8, write_upper_at);
    }
    pml4[ro >> 39 & 511] = 0;
    flush_all();
    EXPECT(good, "a PML4 entry that is read-only");
}

/* ---- accessed and dirty ---- */

INLINE unsigned ad_wrong(volatile uint64_t *e, word_t lin, uint64_t i)
{
    const uint64_t was = *e & ~(PTE_A | PTE_D);
    unsigned wrong = 0;

    *e = was;
    invlpg((void *)lin);
    (void)AT(uint64_t, lin + i * 8);
    wrong += (*e & (PTE_A | PTE_D)) != PTE_A;
    AT(uint64_t, lin + i * 8) = i;
    wrong += (*e & (PTE_A | PTE_D)) != (PTE_A | PTE_D);
    *e = was | PTE_A;
    invlpg((void *)lin);
    AT(uint8_t, lin + i * 8) = (uint8_t)i;
    wrong += !(*e & PTE_D);
    *e = was | PTE_D;
    invlpg((void *)lin);
    (void)AT(uint32_t, lin + i * 8);
    wrong += !(*e & PTE_A);
    *e = was;
    invlpg((void *)lin);
    asm volatile("lock incl (%0)" : : "r"(lin + i * 8) : "memory", "cc");
    wrong += (*e & (PTE_A | PTE_D)) != (PTE_A | PTE_D);
    return wrong + (AT(uint64_t, lin + i * 8) != i + 1);
}

static void accessed_dirty(void)
{
    unsigned small = 0, large = 0;

    for (unsigned i = 0; i < PAGES; i++)
        map(SMALL + i * PAGE_BYTES, PA(i) | GRW);
    map_large(KERNEL, BIG(1) | GRW);
    for (unsigned i = 0; i < ROUNDS; i++) {
        small += ad_wrong(page_entry(SMALL + i % 3 * PAGE_BYTES, 1), SMALL + i % 3 * PAGE_BYTES, i);
        large += ad_wrong(page_entry(KERNEL, 2), KERNEL, i);
    }
    EXPECT_EQ(small, 0, "A and D of a small page");
    EXPECT_EQ(large, 0, "A and D of a 2 MB page");
}

/* ---- code ---- */

INLINE void put_code(word_t at, uint32_t v)
{
    AT(uint8_t, at) = 0xb8; /* mov $v, %eax */
    AT(uint32_t, at + 1) = v;
    AT(uint8_t, at + 5) = 0xc3;
}

/* Written by another address, code is certain only after a serializing instruction. */
static uint32_t run(word_t at, word_t by)
{
    uint32_t v;

    if (at != by)
        (void)cpuid(0, 0);
    asm volatile("call *%1" : "=a"(v) : "r"(at) : "memory");
    return v;
}

/* Code that is run at `at`, and written by `by`, another address of the same page. */
INLINE void code_at(word_t at, word_t by, const char *what)
{
    unsigned wrong = 0, beside = 0;

    (void)AT(uint64_t, by + 1000);
    put_code(by, 0);
    for (unsigned i = 0; i < 6 * ROUNDS; i++) {
        if (i % 3 == 0)
            AT(uint8_t, by + 1) = (uint8_t)i;
        else if (i % 3 == 1)
            AT(uint32_t, by + 1) = i;
        else
            put_code(by, i);
        wrong += run(at, by) != (i % 3 ? i : ((i ? (i - 1) & ~0xffu : 0) | (uint8_t)i));
    }
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        for (unsigned n = 0; n < 20; n++)
            AT(uint64_t, by + 2000 + n * 8) = i + n;
        beside += run(at, by) != 6 * ROUNDS - 1;
        for (unsigned n = 0; n < 20; n++)
            beside += AT(uint64_t, at + 2000 + n * 8) != i + n;
    }
    put_code(by, 1);
    EXPECT_EQ(wrong, 0, "code %s", what);
    EXPECT_EQ(beside, 0, "data beside it");
    EXPECT_EQ(run(at, by), 1, "and the code again");
}

static void code(void)
{
    map(SMALL, PA(9) | GRW);
    map(SMALL + PAGE_BYTES, PA(9) | GRW);
    map(SMALL + 2 * PAGE_BYTES, PA(10) | GRW);
    map(SMALL + 3 * PAGE_BYTES, PA(11) | GRW);
    map_large(KERNEL, BIG(1) | GRW);
    code_at(PA(9), SMALL, "written by a small page");
    code_at(SMALL + PAGE_BYTES + 64, SMALL + 64, "run and written by two small pages");
    code_at(SMALL + 2 * PAGE_BYTES, SMALL + 2 * PAGE_BYTES, "run and written by one");
    code_at(BIG(0) + 0x5000, DIRECT + BIG(0) + 0x5000, "written by a 2 MB page");
    code_at(KERNEL + 0x7000, DIRECT + BIG(1) + 0x7000, "run and written by two 2 MB pages");
    code_at(KERNEL + 0x9000, KERNEL + 0x9000, "run and written by one 2 MB page");
    code_at(SMALL + 3 * PAGE_BYTES, DIRECT + PA(11), "of a small page, written by a 2 MB page");
    /* Run before there was a mapping to write it by. */
    put_code(BIG(3) + 0xa000, 5);
    put_code(PA(12), 5);
    for (unsigned i = 0; i < 10; i++)
        (void)(run(BIG(3) + 0xa000, 0) + run(PA(12), 0));
    map_large(KERNEL + 8 * LARGE, BIG(3) | GRW | PTE_A | PTE_D);
    map(SMALL + 5 * PAGE_BYTES, PA(12) | GRW | PTE_A | PTE_D);
    code_at(BIG(3) + 0xa000, KERNEL + 8 * LARGE + 0xa000, "that there was before its 2 MB page");
    code_at(PA(12), SMALL + 5 * PAGE_BYTES, "that there was before its small page");
    /* Written for long before there was code. */
    for (unsigned i = 0; i < ROUNDS; i++)
        AT(uint64_t, DIRECT + BIG(2) + i * 8) = i;
    code_at(BIG(2) + 0x8000, DIRECT + BIG(2) + 0x8000, "where there was data");
}

/* ---- users ---- */

INSN(read_u, "mov (%1), %0")
INSN(write_u, "mov %0, (%1)")
INSN(read_ac, "mov (%1), %0")

static void user_pages(void)
{
    const word_t lin = SMALL + 20 * PAGE_BYTES, kernel = lin + PAGE_BYTES;
    bool good = true, smap = true, ac = true;
    struct trap t;

    map(lin, PA(1) | GRW | PTE_U);
    map(kernel, PA(2) | GRW);
    for (unsigned i = 0; i < ROUNDS; i++) {
        (void)write_u(i % 2 ? lin : kernel, i);
        good = good && read_u(i % 2 ? lin : kernel, 0) == i && AT(uint64_t, PA(1 + !(i % 2))) == i;
    }
    EXPECT(good, "a user's page and the supervisor's, by one instruction");
    if (!has_smap()) {
        skip("not in this CPU model", "SMAP");
        return;
    }
    write_cr4(read_cr4() | CR4_SMAP);
    AT(uint64_t, PA(2)) = 2;
    AT(uint64_t, PA(1)) = 1;
    for (unsigned i = 0; i < 20; i++) {
        t = try(read_u, lin, 0);
        smap = smap && is_fault(&t, VEC_PF, PF_P, lin, read_u_at);
        t = try(write_u, lin, 0);
        smap = smap && is_fault(&t, VEC_PF, PF_P | PF_W, lin, write_u_at);
        asm volatile("stac" : : : "memory");
        ac = ac && read_u(lin, 0) == 1 && read_ac(lin, 0) == 1 && read_ac(kernel, 0) == 2;
        asm volatile("clac" : : : "memory");
        t = try(read_ac, lin, 0);
        smap = smap && is_fault(&t, VEC_PF, PF_P, lin, read_ac_at);
        ac = ac && read_u(kernel, 0) == 2 && read_ac(kernel, 0) == 2;
    }
    write_cr4(read_cr4() & ~(word_t)CR4_SMAP);
    EXPECT(smap, "SMAP: the user's page is refused");
    EXPECT(ac, "and is not with AC set");
    EXPECT(read_u(lin, 0) == 1 && read_ac(lin, 0) == 1, "nor without SMAP");
}

INSN(read_both, "mov (%1), %0")
INSN(write_both, "mov %0, (%1)")

static void user_code(void)
{
    static const word_t at[] = { SMALL + 30 * PAGE_BYTES, DIRECT + BIG(1), KERNEL };
    bool refused = true, lower = true, good = true;
    struct trap t;

    map(at[0], PA(1) | GRW);
    map_large(KERNEL, BIG(0) | GRW);
    for (unsigned i = 0; i < ROUNDS; i++) {
        const word_t lin = at[i % 3], low = lin & 0x7fffffffffff;

        for (unsigned k = 0; k < 5; k++) {
            (void)write_both(lin, i + k);
            good = good && read_both(lin, 0) == i + k;
        }
        t = try_user(read_both, lin, 0);
        refused = refused && t.vec == VEC_PF && t.err == (PF_P | PF_U) && t.cr2 == lin;
        t = try_user(write_both, lin, 0);
        refused = refused && t.vec == VEC_PF && t.err == (PF_P | PF_U | PF_W) && t.cr2 == lin;
        t = try_user(read_both, low, 0);
        lower = lower && t.vec == VEC_PF && t.err == PF_U && t.cr2 == low;
        t = try(read_both, low, 0);
        lower = lower && is_fault(&t, VEC_PF, 0, low, read_both_at);
        good = good && read_both(lin, 0) == i + 4;
    }
    EXPECT(good, "pages the kernel uses while users try to");
    EXPECT(refused, "are not the user's: #PF");
    EXPECT(lower, "and are not in the lower half");
}

/* ---- the same instruction, other addresses ---- */

INSN(any_read, "mov (%1), %0")
INSN(any_write, "mov %0, (%1)")
INSN(any_movaps, "movaps (%1), %%xmm0")
/* By RBP a non-canonical address is #SS. */
INSN(by_rbp, "push %%rbp; mov %1, %%rbp; mov (%%rbp), %0; pop %%rbp")

static void other_addresses(void)
{
    static const word_t good[] = { DIRECT + BIG(1) + 0x100, SMALL + 8, KERNEL + 0x2000 };
    static const word_t absent[] = { 0x700000000008, 0x7ffffffffff8, 0xffff80007ffffff8,
                                     SMALL + 200 * PAGE_BYTES, 0xffffffff40000010, 0x88802200100 };
    bool fine = true, gp = true, pf = true;
    struct trap t;

    map(SMALL, PA(4) | GRW);
    map_large(KERNEL, BIG(2) | GRW);
    for (unsigned i = 0; i < ROUNDS; i++) {
        word_t lin = good[i % 3];

        (void)any_write(lin, i);
        fine = fine && any_read(lin, 0) == i && (lin % 16 || any_movaps(lin, i) == i);
        if (i < 20)
            continue;
        for (unsigned bit = 47; bit < 64; bit++) {
            t = try(i % 2 ? any_read : any_write, lin ^ 1ull << bit, 0);
            gp = gp && is_fault(&t, VEC_GP, 0, 0, i % 2 ? any_read_at : any_write_at);
        }
        lin = absent[i % ARRAY_SIZE(absent)];
        t = try(any_read, lin, 0);
        pf = pf && is_fault(&t, VEC_PF, 0, lin, any_read_at);
        t = try(any_write, lin, 0);
        pf = pf && is_fault(&t, VEC_PF, PF_W, lin, any_write_at);
        t = try(any_movaps, good[0] + 8, 0);
        gp = gp && is_fault(&t, VEC_GP, 0, 0, any_movaps_at);
        fine = fine && any_read((word_t)pages, 0) == AT(uint64_t, pages);
    }
    EXPECT(fine, "good addresses between bad ones");
    EXPECT(gp, "addresses that are not canonical, and one not aligned: #GP");
    EXPECT(pf, "absent ones: #PF");
    fine = gp = true;
    for (unsigned i = 0; i < ROUNDS; i++) {
        fine = fine && by_rbp(SMALL + 8, 0) == AT(uint64_t, PA(4) + 8);
        if (i % 20 < 19)
            continue;
        t = try(by_rbp, SMALL ^ 1ull << 60, 0);
        gp = gp && t.vec == VEC_SS && !t.err;
    }
    tcg_deviates("has #GP for it");
    EXPECT(fine && gp, "by RBP: #SS");
}

/* ---- devices ---- */

INSN(dev_read, "mov (%1), %k0")
INSN(dev_write, "mov %k0, (%1)")

static void devices(void)
{
    const word_t apic = SMALL + 40 * PAGE_BYTES, io = apic + PAGE_BYTES, ram = io + PAGE_BYTES;
    const word_t large = KERNEL + 6 * LARGE;
    const uint32_t version = apic_read(APIC_VERSION), io_version = ioapic_read(1);
    bool good = true, tpr = true;

    map(apic, APIC_AT | GRW | PTE_PCD);
    map(io, IOAPIC_AT | GRW | PTE_PCD);
    map(ram, PA(6) | GRW);
    map_large(large, APIC_AT | GRW | PTE_PCD);
    for (unsigned i = 0; i < 2 * ROUNDS; i++) {
        (void)dev_write(ram + 8, i);
        good = good && dev_read(ram + 8, 0) == i && AT(uint32_t, PA(6) + 8) == i;
        (void)dev_write(io, 1);
        good = good && (i % 4 < 3 || dev_read(io + 0x10, 0) == io_version);
        good = good && (i % 4 || dev_read(apic + APIC_VERSION, 0) == version);
        good = good && dev_read(large + APIC_VERSION, 0) == version;
        (void)dev_write(i % 2 ? apic + APIC_TPR : large + APIC_TPR, i % 16 << 4);
        tpr = tpr && apic_read(APIC_TPR) == i % 16 << 4;
    }
    apic_write(APIC_TPR, 0);
    EXPECT(good, "RAM, the local APIC and the I/O APIC by one instruction");
    EXPECT(tpr, "registers written");
}

INSN(moved_read, "mov (%1), %k0")
INSN(moved_write, "mov %k0, (%1)")

/* The local APIC comes to lie on RAM that is in use, and goes again. */
static void moved_apic(void)
{
    const uint64_t base = rdmsr(MSR_APIC_BASE);
    const word_t lin = SMALL + 44 * PAGE_BYTES, at = BIG(3) + 0x6000;
    const uint32_t version = apic_read(APIC_VERSION);
    bool good = true;

    wrmsr(MSR_APIC_BASE, (base & (PAGE_BYTES - 1)) | at);
    good = AT(uint32_t, at + APIC_VERSION) == version;
    wrmsr(MSR_APIC_BASE, base);
    if (!good) {
        skip("it stays where it is here", "the local APIC moved");
        return;
    }
    map(lin, at | GRW);
    map(lin + PAGE_BYTES, (at + PAGE_BYTES) | GRW);
    AT(uint32_t, at + APIC_VERSION) = 0x1234;
    AT(uint32_t, at + APIC_TPR) = 0;
    for (unsigned i = 0; i < 4 * ROUNDS; i++) {
        const bool here = i % 40 >= 30;
        const word_t by = i % 2 ? lin : DIRECT + at;

        if (i % 40 == 30)
            wrmsr(MSR_APIC_BASE, (base & (PAGE_BYTES - 1)) | at);
        good = good && moved_read(by + APIC_VERSION, 0) == (here ? version : 0x1234);
        (void)moved_write(by + APIC_TPR, i % 16 << 4);
        good = good && (here ? AT(uint32_t, at + APIC_TPR) : AT(uint32_t, by + APIC_TPR)) == i % 16 << 4;
        good = good && moved_read(by + PAGE_BYTES, 0) == AT(uint32_t, at + PAGE_BYTES);
        if (i % 40 == 39) {
            wrmsr(MSR_APIC_BASE, base);
            good = good && AT(uint32_t, at + APIC_VERSION) == 0x1234 &&
                   AT(uint32_t, at + APIC_TPR) == (i - 10) % 16 << 4 && apic_read(APIC_TPR) == i % 16 << 4;
        }
    }
    apic_write(APIC_TPR, 0);
    EXPECT(good, "the local APIC moved onto RAM, and away");
}

/* ---- the stack ---- */

static word_t stack_page(unsigned of, word_t page)
{
    return (word_t)stacks[of][page * 7 % PAGES];
}

ALONE unsigned deep(unsigned n)
{
    volatile unsigned local[24];

    local[n % 24] = n;
    return n ? deep(n - 1) + local[n % 24] : 0;
}

/* The page that holds the stack's end is another one from now on. */
ALONE void move_stack(unsigned to)
{
    word_t sp, page, from, dst, nr = PAGE_BYTES / 8;

    asm volatile("mov %%rsp, %0" : "=r"(sp));
    page = (sp - STACK) / PAGE_BYTES;
    from = stack_page(!to, page);
    dst = stack_page(to, page);
    asm volatile("cld\n\trep movsq\n\tmov %3, (%4)\n\tinvlpg (%%rsp)"
                 : "+S"(from), "+D"(dst), "+c"(nr)
                 : "r"(stack_page(to, page) | GRW), "r"(page_entry(sp, 1))
                 : "memory");
    memset((void *)stack_page(!to, page), 0xcc, PAGE_BYTES);
}

/* A call chain that is longer by each step, so that the stack's end is everywhere. */
ALONE bool walk_down(unsigned n)
{
    volatile word_t local[16];
    bool good;

    local[n % 16] = n;
    move_stack(1);
    good = deep(60) == 1830 && local[n % 16] == n;
    move_stack(0);
    good = good && (n == 0 || walk_down(n - 1));
    move_stack(1);
    good = good && deep(5) == 15 && local[n % 16] == n;
    move_stack(0);
    return good && local[n % 16] == n;
}

static void the_stack(void)
{
    bool good = true;

    for (unsigned i = 0; i < ROUNDS / 2; i++)
        good = good && deep(200) == 20100;
    EXPECT(good, "a chain of calls across pages of the stack");
    for (unsigned i = 0; i < 3; i++)
        good = good && walk_down(50);
    EXPECT(good, "the stack's page is another one after INVLPG");
}

/* ---- other CR3s, and without CR4.PGE ---- */

/* OTHER is page n: read and written by the same code, whatever the mode. */
typedef unsigned visit_fn(unsigned n, unsigned i);
#define VISIT(name)                                           \
    ALONE unsigned name(unsigned n, unsigned i)               \
    {                                                         \
        unsigned wrong = AT(uint64_t, OTHER) != 10 + n;       \
                                                              \
        AT(uint64_t, OTHER + 8) = i;                          \
        return wrong + (AT(uint64_t, PA(n) + 8) != i);        \
    }
VISIT(visit_global)
VISIT(visit_not)
VISIT(visit_pcid)

static unsigned visits(visit_fn *visit)
{
    unsigned wrong = 0;

    flush_all();
    for (unsigned i = 0; i < 20; i++)
        wrong += visit(0, i);
    return wrong;
}

/* OTHER is page 0 by pml4, and page 1 by other_pml4. */
static void two_spaces(void)
{
    uint64_t *pdpt = page_table(), *pd = page_table(), *pt = page_table();
    const word_t here = read_cr3(), there = (word_t)other_pml4, keep = 1ull << 63;
    unsigned wrong = 0;

    map(OTHER, PA(0) | GRW);
    memcpy(other_pml4, pml4, sizeof(other_pml4));
    other_pml4[OTHER >> 39 & 511] = (word_t)pdpt | PTE_P | PTE_W;
    pdpt[OTHER >> 30 & 511] = (word_t)pd | PTE_P | PTE_W;
    pd[OTHER >> 21 & 511] = (word_t)pt | PTE_P | PTE_W;
    pt[OTHER >> 12 & 511] = PA(1) | GRW;
    AT(uint64_t, PA(0)) = 10, AT(uint64_t, PA(1)) = 11;
    for (unsigned i = 0; i < ROUNDS; i++) {
        write_cr3(i % 2 ? there : here);
        flush_all();
        wrong += visit_global(i % 2, i);
    }
    write_cr3(here);
    EXPECT_EQ(wrong, 0, "another CR3, and CR4.PGE changed");
    wrong = visits(visit_not);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        write_cr3(i % 2 ? there : here);
        wrong += visit_not(i % 2, i);
    }
    write_cr3(here);
    EXPECT_EQ(wrong, 0, "another CR3 without CR4.PGE");
    if (!has_pcid()) {
        skip("not in this CPU model", "PCID");
        return;
    }
    wrong = 0;
    write_cr4(read_cr4() | CR4_PCIDE);
    wrong += visits(visit_pcid);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    for (unsigned i = 1; i < 20; i++) { /* nothing of either has been kept */
        write_cr3((i % 2 ? there | 2 : here | 1) | keep);
        wrong += visit_pcid(i % 2, i);
    }
    write_cr3(here);
    write_cr4(read_cr4() & ~(word_t)CR4_PCIDE);
    EXPECT_EQ(wrong, 0, "another PCID without CR4.PGE, nothing flushed");
}

/* SMALL and KERNEL are pages n. */
ALONE unsigned visit_both(unsigned n, unsigned i)
{
    unsigned wrong = (AT(uint64_t, SMALL) != n) + (AT(uint64_t, KERNEL + 0x1000) != n);

    AT(uint64_t, SMALL + 8) = i, AT(uint64_t, KERNEL + 0x1008) = i;
    return wrong + (AT(uint64_t, PA(n) + 8) != i) + (AT(uint64_t, BIG(n) + 0x1008) != i);
}

static void not_global(void)
{
    unsigned wrong = 0;

    map(SMALL, PA(0) | GRW);
    map_large(KERNEL, BIG(0) | GRW);
    for (unsigned i = 0; i < 4; i++)
        AT(uint64_t, PA(i)) = i, AT(uint64_t, BIG(i) + 0x1000) = i;
    flush_all();
    for (unsigned i = 0; i < 20; i++)
        wrong += visit_both(0, i);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        *page_entry(SMALL, 1) = PA(i % 4) | GRW;
        *page_entry(KERNEL, 2) = BIG(i % 4) | GRW | PTE_PS;
        flush_tlb();
        wrong += visit_both(i % 4, i);
    }
    EXPECT_EQ(wrong, 0, "without CR4.PGE a CR3 load is enough for all");
}

/* ---- all of it ---- */

static void checks(void)
{
    static void (*const all[])(void) = {
        slot_ends, agree, huge, two_spaces, by_gs, across, half_there, remap_small, remap_large,
        splitting, read_only, wp_clear, upper_levels, accessed_dirty, code, user_pages, user_code,
        other_addresses, devices, moved_apic, the_stack, not_global, many_slots,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        flush_all();
        all[i]();
    }
}

int main(void)
{
    for (word_t at = 0; at < GIGA; at += LARGE)
        *page_entry(DIRECT + at, 2) = at | GRW | PTE_PS;
    for (unsigned i = 0; i < PAGES; i++)
        *page_entry(STACK + i * PAGE_BYTES, 1) = stack_page(0, i) | GRW;
    asm volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tcall *%1\n\tmov %%rbx, %%rsp"
                 :
                 : "r"(STACK + PAGES * PAGE_BYTES), "r"(checks)
                 : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory", "cc");
    return 0;
}
