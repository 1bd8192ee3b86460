/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What may not be done to a kernel's global pages in the upper half, by instructions that have just
 * done it many times: rights, A and D, code that is written, users, addresses that are none, and
 * pages that are devices. See kview.c. SDM 3, "Access Rights", "Accessed and Dirty Flags".
 */
#include "upper.h"

/* ---- rights ---- */

/* An instruction with known flags, and registers: a byte of its own eight times in each. RDI is
 * the address. */
#define FLAGS     0x8d5u
#define R(n, reg) "movabs $0x" #n #n #n #n #n #n #n #n ", %" #reg "\n"
#define REGS(name, insn)                                                                          \
    asm(".pushsection .text\n" #name ": push %rbx\n push %rbp\n push %r12\n push %r13\n"          \
        " push %r14\n push %r15\n push $0x8d7\n popf\n" R(10, r15) R(11, r14) R(12, r13)          \
            R(13, r12) R(14, r11) R(15, r10) R(16, r9) R(17, r8) R(19, rsi) R(1a, rbp) R(1b, rbx) \
                R(1c, rdx) R(1d, rcx) R(1e, rax) #name                                            \
        "_at: " insn "\n"                                                                         \
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
    { "MOV", ro_mov, ro_mov_at },         { "ADD", ro_add, ro_add_at },
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
    static const word_t absent[] = { 0x700000000008,     0x7ffffffffff8,
                                     0xffff80007ffffff8, SMALL + 200 * PAGE_BYTES,
                                     0xffffffff40000010, 0x88802200100 };
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
        good = good &&
               (here ? AT(uint32_t, at + APIC_TPR) : AT(uint32_t, by + APIC_TPR)) == i % 16 << 4;
        good = good && moved_read(by + PAGE_BYTES, 0) == AT(uint32_t, at + PAGE_BYTES);
        if (i % 40 == 39) {
            wrmsr(MSR_APIC_BASE, base);
            good = good && AT(uint32_t, at + APIC_VERSION) == 0x1234 &&
                   AT(uint32_t, at + APIC_TPR) == (i - 10) % 16 << 4 &&
                   apic_read(APIC_TPR) == i % 16 << 4;
        }
    }
    apic_write(APIC_TPR, 0);
    EXPECT(good, "the local APIC moved onto RAM, and away");
}

int main(void)
{
    static upper_fn *const all[] = {
        read_only,  wp_clear,  upper_levels,    accessed_dirty, code,
        user_pages, user_code, other_addresses, devices,        moved_apic,
    };

    upper_run(all, ARRAY_SIZE(all));
    return 0;
}
