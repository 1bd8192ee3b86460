/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a changed mapping must be seen: INVLPG, MOV CR3, MOV CR4, global pages, PCID and INVPCID.
 * What a TLB may still remember is never checked. SDM 3, "Caching Translation Information".
 */
#include "guest.h"

static uint8_t page_a[PAGE_BYTES] PAGE_ALIGNED, page_b[PAGE_BYTES] PAGE_ALIGNED;
static uint64_t other_pml4[512] PAGE_ALIGNED;
#define VA      ((volatile uint8_t *)TEST_VA)
#define ENTRY_A ((word_t)page_a | PTE_P | PTE_W)
#define ENTRY_B ((word_t)page_b | PTE_P | PTE_W)

static word_t do_read(word_t a, word_t b)
{
    (void)b;
    return read8((void *)a);
}

static word_t set_cr3(word_t v, word_t b)
{
    (void)b;
    write_cr3(v);
    return 0;
}

static word_t set_cr4(word_t v, word_t b)
{
    (void)b;
    write_cr4(v);
    return 0;
}

static word_t set_cr0(word_t v, word_t b)
{
    (void)b;
    write_cr0(v);
    return 0;
}

static word_t invpcid(word_t type, word_t desc)
{
    asm volatile("invpcid (%1), %0" : : "r"(type), "r"(desc) : "memory");
    return 0;
}

static word_t invlpg_fn(word_t a, word_t b)
{
    (void)b;
    invlpg((void *)a);
    return 0;
}

/* Points the test address at page_a, uses it, and points the entry at page_b without telling the
 * CPU. */
static void remap(uint64_t flags)
{
    uint64_t *e = page_entry(TEST_VA, 1);

    *e = ENTRY_A | flags;
    invlpg((void *)TEST_VA);
    (void)*VA;
    *e = ENTRY_B | flags;
}

static void plain(void)
{
    struct trap t;

    remap(0);
    invlpg((void *)(TEST_VA + 0xabc));
    EXPECT_EQ(*VA, 'b', "INVLPG with any address in the page");
    remap(0);
    flush_tlb();
    EXPECT_EQ(*VA, 'b', "MOV CR3");
    remap(PTE_G);
    invlpg((void *)TEST_VA);
    EXPECT_EQ(*VA, 'b', "INVLPG of a global page");

    write_cr4(read_cr4() | CR4_PGE);
    remap(PTE_G);
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    EXPECT_EQ(*VA, 'b', "clearing CR4.PGE drops global pages");
    remap(PTE_G);
    write_cr4(read_cr4() | CR4_PGE);
    EXPECT_EQ(*VA, 'b', "setting CR4.PGE drops all");
    remap(0);
    flush_tlb();
    EXPECT_EQ(*VA, 'b', "MOV CR3 with CR4.PGE and a page that is not global");
    remap(PTE_G);
    invlpg((void *)TEST_VA);
    EXPECT_EQ(*VA, 'b', "INVLPG of a global page with CR4.PGE");
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);

    *page_entry(TEST_VA, 1) = 0;
    invlpg((void *)TEST_VA);
    t = try(do_read, TEST_VA, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "an absent page");
    *page_entry(TEST_VA, 1) = ENTRY_A;
    EXPECT_EQ(*VA, 'a', "absent entries are not remembered");
    t = try(invlpg_fn, 0x800000000000, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "INVLPG of a non-canonical address does nothing");
    t = try_user(invlpg_fn, TEST_VA, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "INVLPG at CPL 3");
}

/* Entries above the leaf are cached too. */
static void upper_levels(void)
{
    uint64_t *pde = page_entry(TEST_VA, 2), was = *pde, *pt = page_table();

    *page_entry(TEST_VA, 1) = ENTRY_A;
    flush_tlb();
    (void)*VA;
    pt[TEST_VA >> 12 & 511] = ENTRY_B;
    *pde = (word_t)pt | PTE_P | PTE_W;
    invlpg((void *)TEST_VA);
    EXPECT_EQ(*VA, 'b', "INVLPG drops cached page-directory entries");
    *pde = was;
    flush_tlb();
    EXPECT_EQ(*VA, 'a', "MOV CR3 too");
}

static void pcid_cr_checks(void)
{
    word_t cr3 = read_cr3(), cr4 = read_cr4();
    struct trap t;

    write_cr3(cr3 | 8);
    t = try(set_cr4, cr4 | CR4_PCIDE, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "CR4.PCIDE with CR3[11:0] not 0");
    write_cr3(cr3);
    t = try(set_cr3, cr3 | 1ull << 63, 0);
    tcg_deviates("does not check CR3's upper bits");
    EXPECT_TRAP(&t, VEC_GP, 0, "CR3 bit 63 without CR4.PCIDE");
    t = try(set_cr4, cr4 | CR4_PCIDE, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "CR4.PCIDE with CR3[11:0] 0");
    t = try(set_cr3, cr3 | 0x123 | 1ull << 63, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "CR3 bit 63 with CR4.PCIDE");
    EXPECT_EQ(read_cr3(), cr3 | 0x123, "CR3 keeps the PCID but not bit 63");
    write_cr3(cr3);
    t = try(set_cr0, read_cr0() & ~(word_t)CR0_PG, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "clearing CR0.PG in 64-bit mode");
}

static void pcid_spaces(void)
{
    word_t cr3 = read_cr3();
    const word_t other = (word_t)other_pml4 | 2, keep = (word_t)1 << 63;
    uint64_t *pdpt = page_table(), *pd = page_table(), *pt = page_table();

    memcpy(other_pml4, pml4, sizeof(pml4));
    other_pml4[TEST_VA >> 39 & 511] = (word_t)pdpt | PTE_P | PTE_W;
    pdpt[TEST_VA >> 30 & 511] = (word_t)pd | PTE_P | PTE_W;
    pd[TEST_VA >> 21 & 511] = (word_t)pt | PTE_P | PTE_W;
    pt[TEST_VA >> 12 & 511] = ENTRY_B;
    *page_entry(TEST_VA, 1) = ENTRY_A;

    write_cr3(cr3 | 1);
    EXPECT_EQ(*VA, 'a', "PCID 1 has its mapping");
    write_cr3(other);
    EXPECT_EQ(*VA, 'b', "PCID 2 has its own");
    write_cr3(cr3 | 1 | keep);
    EXPECT_EQ(*VA, 'a', "back to PCID 1 without a flush");
    write_cr3(other | keep);
    EXPECT_EQ(*VA, 'b', "back to PCID 2 without a flush");
    /* Changed while the other is current; the flush names PCID 1. */
    *page_entry(TEST_VA, 1) = ENTRY_B;
    write_cr3(cr3 | 1);
    EXPECT_EQ(*VA, 'b', "a flushing switch sees the change");
    write_cr3(cr3);
}

/* Two PCIDs with code of their own at the same address, which changes under one or the other. */
static word_t call_at(word_t at)
{
    word_t x;

    asm volatile("call *%1" : "=a"(x) : "r"(at) : "memory");
    return x;
}

static word_t call_va(void)
{
    return call_at(TEST_VA);
}

static void put_code(uint8_t *at, uint32_t value)
{
    at[0] = 0xb8; /* mov eax, imm32 */
    memcpy(at + 1, &value, 4);
    at[5] = 0xc3;
}

/* The same code at one address under the first PCID, and at another under the second. */
static void pcid_aliases(word_t first, word_t second)
{
    enum { PAGES = 4 };
    static uint8_t fresh[PAGES * PAGE_BYTES] PAGE_ALIGNED;
    const word_t keep = (word_t)1 << 63;
    unsigned wrong = 0;

    for (uint32_t n = 0; n < PAGES; n++) {
        uint8_t *at = fresh + n * PAGE_BYTES;

        put_code(at, n);
        *page_entry(TEST_VA, 1) = (word_t)at | PTE_P;
        write_cr3(first & ~keep);
        for (unsigned i = 0; i < 5; i++) {
            wrong += call_va() != n;
            write_cr3(second);
            wrong += call_at((word_t)at) != n;
            write_cr3(first);
        }
        put_code(at, n + 100);
        wrong += call_va() != n + 100;
        write_cr3(second);
        wrong += call_at((word_t)at) != n + 100;
    }
    EXPECT_EQ(wrong, 0, "code that two PCIDs have at two addresses is written");
    *page_entry(TEST_VA, 1) = ENTRY_A;
    write_cr3(first & ~keep);
}

static void pcid_code(void)
{
    const word_t keep = (word_t)1 << 63, first = read_cr3() | 1 | keep;
    const word_t second = (word_t)other_pml4 | 2 | keep;
    unsigned wrong = 0;

    *page_entry(TEST_VA, 1) = ENTRY_A;
    put_code(page_a, 10);
    put_code(page_b, 20);
    write_cr3(first & ~keep);
    write_cr3(second & ~keep);
    for (unsigned i = 0; i < 200; i++) {
        write_cr3(first);
        wrong += call_va() != 10;
        write_cr3(second);
        wrong += call_va() != 20;
    }
    EXPECT_EQ(wrong, 0, "each PCID runs its own code");
    wrong = 0;
    for (uint32_t i = 0; i < 200; i++) {
        write_cr3(first);
        put_code(page_b, i); /* runs under the other one, and has been written here before */
        wrong += call_va() != (i ? 999 + i : 10);
        write_cr3(second);
        put_code(page_a, 1000 + i);
        wrong += call_va() != i;
    }
    EXPECT_EQ(wrong, 0, "what one PCID writes is what the other one runs");
    wrong = 0;
    write_cr3(second);
    for (uint32_t i = 0; i < 200; i++) {
        write_cr3(first);
        ((volatile uint8_t *)TEST_VA)[PAGE_BYTES - 1] = (uint8_t)i; /* data beside the code */
        wrong += call_va() != 1199;
        write_cr3(second);
        put_code(page_a, 1199); /* the same again */
        wrong += page_a[PAGE_BYTES - 1] != (uint8_t)i;
    }
    EXPECT_EQ(wrong, 0, "data in a page of code is written under both");
    pcid_aliases(first, second);
    write_cr3(first & ~(keep | 0xfff));
    page_a[0] = 'a';
    page_b[0] = 'b';
}

static void invpcid_types(void)
{
    struct {
        uint64_t pcid, addr;
    } desc = { 1, TEST_VA };
    word_t cr3 = read_cr3();
    struct trap t;

    write_cr3(cr3 | 1);
    remap(0);
    invpcid(0, (word_t)&desc);
    EXPECT_EQ(*VA, 'b', "INVPCID type 0: one address");
    remap(0);
    desc.addr = 0;
    invpcid(1, (word_t)&desc);
    EXPECT_EQ(*VA, 'b', "type 1: one PCID");
    write_cr4(read_cr4() | CR4_PGE);
    remap(PTE_G);
    invpcid(2, (word_t)&desc);
    EXPECT_EQ(*VA, 'b', "type 2: all, with global pages");
    write_cr4(read_cr4() & ~(word_t)CR4_PGE);
    remap(0);
    invpcid(3, (word_t)&desc);
    EXPECT_EQ(*VA, 'b', "type 3: all but global pages");
    for (word_t type = 0; type < 4; type++) {
        desc.pcid = 1;
        desc.addr = type ? 0 : TEST_VA;
        remap(0);
        write_cr3(cr3 | 2);
        invpcid(type, (word_t)&desc);
        write_cr3(cr3 | 1 | (word_t)1 << 63);
        EXPECT_EQ(*VA, 'b', "type %u from another PCID", (unsigned)type);
    }
    desc.addr = 0;
    write_cr3(cr3);

    t = try(invpcid, 4, (word_t)&desc);
    EXPECT_TRAP(&t, VEC_GP, 0, "INVPCID type 4");
    desc.pcid = 0x1000;
    t = try(invpcid, 1, (word_t)&desc);
    EXPECT_TRAP(&t, VEC_GP, 0, "INVPCID with reserved descriptor bits");
    desc.pcid = 1;
    desc.addr = 0x800000000000;
    t = try(invpcid, 0, (word_t)&desc);
    EXPECT_TRAP(&t, VEC_GP, 0, "INVPCID of a non-canonical address");
    t = try_user(invpcid, 2, (word_t)user_ptr(&desc));
    EXPECT_TRAP(&t, VEC_GP, 0, "INVPCID at CPL 3");
    write_cr4(read_cr4() & ~(word_t)CR4_PCIDE);
    desc.addr = TEST_VA;
    t = try(invpcid, 0, (word_t)&desc);
    EXPECT_TRAP(&t, VEC_GP, 0, "type 0 of PCID 1 without CR4.PCIDE");
    desc.pcid = 0;
    t = try(invpcid, 0, (word_t)&desc);
    EXPECT_TRAP(&t, VEC_NONE, 0, "type 0 of PCID 0 without CR4.PCIDE");
}

int main(void)
{
    page_a[0] = 'a';
    page_b[0] = 'b';
    *page_entry(TEST_VA, 1) = ENTRY_A;
    plain();
    upper_levels();
    if (has_pcid()) {
        pcid_cr_checks();
        pcid_spaces();
        pcid_code();
    } else {
        skip("not in this CPU model", "PCID");
    }
    if (has_pcid() && has_invpcid())
        invpcid_types();
    else
        skip("not in this CPU model", "INVPCID");
    return 0;
}
