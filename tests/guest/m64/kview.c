/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A kernel's global pages in the upper half, reached over and over again by the same instructions,
 * from a stack that is one of them: what any TLB may remember of them, and what it must not once
 * they are changed, flushed, written as code, or somebody else comes. An engine that maps them
 * somewhere must not be seen doing so. SDM 3, "Caching Translation Information".
 */
#include "upper.h"

static uint64_t other_pml4[512] PAGE_ALIGNED;

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
    asm volatile("movb $1, 32(%0)\n\tbtsl $3, 32(%0)\n\tsetc 33(%0)"
                 :
                 : "r"(high)
                 : "memory", "cc");
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
        asm volatile("mov %%gs:8, %0\n\tmov %0, %%gs:16\n\tincl %%gs:16"
                     : "=r"(v)
                     :
                     : "memory", "cc");
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

        wrong += want !=
                 (i < before ? AT(uint8_t, low - before + i) : AT(uint8_t, low_next + i - before));
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
        sums = sums && three(SMALL + 2048, 0) == AT(uint64_t, PA(0) + 2048) +
                                                     AT(uint64_t, PA(0) + 4088) +
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
        wrong +=
            AT(uint64_t, first + (i * 7 + 1) % n * SLOT + at) != i || AT(uint64_t, PA(0) + at) != i;
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

        *page_entry(SMALL, 1) = PA(n) | GRW | (i % 2 ? PTE_A | PTE_D : 0);
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
        *page_entry(KERNEL, 2) = BIG(i % 4) | GRW | PTE_PS | (i % 2 ? PTE_A | PTE_D : 0);
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
            good = good &&
                   is_fault(&t, VEC_PF, PF_W | PF_P, HUGE + BIG(n) + i * 8, write_huge_at) &&
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
        good = good && AT(uint64_t, PA(1)) == i * 3 &&
               AT(uint64_t, BIG(2) + 7 * PAGE_BYTES) == i + 7 &&
               AT(uint64_t, BIG(2) + 5 * PAGE_BYTES) == i + 5 &&
               read_split(lin + 5 * PAGE_BYTES, 0) == i + 5;
        *page_entry(lin, 2) = BIG(2) | GRW | PTE_PS;
        flush_all();
    }
    EXPECT(back, "a 2 MB page that has been small ones");
    EXPECT(good, "a 2 MB page split: faults where it has less");
}

/* ---- the stack ---- */

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
#define VISIT(name)                                     \
    ALONE unsigned name(unsigned n, unsigned i)         \
    {                                                   \
        unsigned wrong = AT(uint64_t, OTHER) != 10 + n; \
                                                        \
        AT(uint64_t, OTHER + 8) = i;                    \
        return wrong + (AT(uint64_t, PA(n) + 8) != i);  \
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

static uint64_t *other_entry;

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
    other_entry = &pt[OTHER >> 12 & 511];
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

/* ---- pages that are not global beside those that are ---- */

#define RW         (PTE_P | PTE_W)
#define MANY       24u
#define MANY_AT(n) (SMALL + 0x10000000ull + (n)*LARGE)

ALONE unsigned visit_local(unsigned n, unsigned i)
{
    unsigned wrong = (AT(uint64_t, SMALL) != n) + (AT(uint64_t, KERNEL + 0x1000) != n);

    AT(uint64_t, SMALL + 8) = i, AT(uint64_t, KERNEL + 0x1008) = i;
    return wrong + (AT(uint64_t, PA(n) + 8) != i) + (AT(uint64_t, BIG(n) + 0x1008) != i);
}

/* Those of more regions than anybody keeps books of: page n + i each. */
ALONE unsigned visit_many(unsigned i)
{
    unsigned wrong = 0;

    for (unsigned n = 0; n < MANY; n++) {
        wrong += AT(uint64_t, MANY_AT(n)) != (n + i) % PAGES;
        AT(uint64_t, MANY_AT(n) + 16) = i;
    }
    return wrong;
}

VISIT(visit_local_cr3)
VISIT(visit_local_pcid)

static void some_local(void)
{
    const word_t here = read_cr3(), there = (word_t)other_pml4, keep = 1ull << 63;
    unsigned wrong = 0;

    for (unsigned i = 0; i < PAGES; i++)
        AT(uint64_t, PA(i)) = i;
    for (unsigned i = 0; i < 4; i++)
        AT(uint64_t, BIG(i) + 0x1000) = i;
    for (unsigned i = 0; i < ROUNDS; i++) {
        *page_entry(SMALL, 1) = PA(i % 4) | RW;
        *page_entry(KERNEL, 2) = BIG(i % 4) | RW | PTE_PS;
        flush_tlb();
        wrong += visit_local(i % 4, i);
    }
    EXPECT_EQ(wrong, 0, "pages that are not global are others after a CR3 load");
    wrong = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        map(SMALL, PA(i % 4) | RW);
        map_large(KERNEL, BIG(i % 4) | RW);
        wrong += visit_local(i % 4, i);
    }
    EXPECT_EQ(wrong, 0, "and after INVLPG");
    wrong = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (unsigned n = 0; n < MANY; n++)
            *page_entry(MANY_AT(n), 1) = PA((n + i) % PAGES) | RW;
        flush_tlb();
        wrong += visit_many(i);
    }
    EXPECT_EQ(wrong, 0, "so are those of many regions");
    wrong = 0;
    *page_entry(OTHER, 1) = PA(0) | RW;
    *other_entry = PA(1) | RW; /* of two_spaces() */
    AT(uint64_t, PA(0)) = 10, AT(uint64_t, PA(1)) = 11;
    flush_all();
    for (unsigned i = 0; i < ROUNDS; i++) {
        write_cr3(i % 2 ? there : here);
        wrong += visit_local_cr3(i % 2, i);
    }
    write_cr3(here);
    EXPECT_EQ(wrong, 0, "or by another CR3");
    if (!has_pcid()) {
        skip("not in this CPU model", "PCID");
        return;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned i = 1; i < ROUNDS; i++) {
        write_cr3((i % 2 ? there | 2 : here | 1) | (i > 2 ? keep : 0));
        wrong += visit_local_pcid(i % 2, i);
    }
    write_cr3(here);
    write_cr4(read_cr4() & ~(word_t)CR4_PCIDE);
    EXPECT_EQ(wrong, 0, "or by another PCID, nothing flushed");
}

int main(void)
{
    static upper_fn *const all[] = {
        slot_ends,   agree,       huge,      two_spaces, by_gs,      across,     half_there,
        remap_small, remap_large, splitting, the_stack,  not_global, some_local, many_slots,
    };

    upper_run(all, ARRAY_SIZE(all));
    return 0;
}
