/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 32-bit paging with 4 KB and 4 MB pages, and PAE paging with its four PDPTEs; switching them on
 * and off. SDM 3, "32-Bit Paging", "PAE Paging".
 */
#include "guest.h"

#define VA 0x40000000u /* the test's 4 MB (or 2 MB) */
static uint32_t dir[1024] PAGE_ALIGNED, table[1024] PAGE_ALIGNED;
static uint64_t pdpt[4] __attribute__((aligned(32))), pae_dirs[4][512] PAGE_ALIGNED,
    pae_table[512] PAGE_ALIGNED;
static uint8_t page[2 * PAGE_BYTES] PAGE_ALIGNED;

static word_t do_read(word_t a, word_t b)
{
    (void)b;
    return read32((void *)a);
}

static word_t do_write(word_t a, word_t b)
{
    write8((void *)a, (uint8_t)b);
    return 0;
}

static word_t set_cr3(word_t v, word_t b)
{
    (void)b;
    write_cr3(v);
    return 0;
}

static word_t set_cr0(word_t v, word_t b)
{
    (void)b;
    write_cr0(v);
    return 0;
}

static word_t set_cr4(word_t v, word_t b)
{
    (void)b;
    write_cr4(v);
    return 0;
}

static void paging_on(void)
{
    write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void paging_off(void)
{
    write_cr0(read_cr0() & ~(word_t)CR0_PG);
}

struct pf_case {
    const char *what;
    uint32_t pde, pte; /* flags */
    bool user, write;
    int err; /* -1: none */
};

static const struct pf_case cases[] = {
    { "supervisor reads absent table", 0, 7, false, false, 0 },
    { "user reads absent table", 0, 7, true, false, PF_U },
    { "supervisor writes absent page", 7, 0, false, true, PF_W },
    { "user reads absent page", 7, 0, true, false, PF_U },
    { "user reads supervisor's page", 7, 3, true, false, PF_U | PF_P },
    { "user reads below supervisor's table", 3, 7, true, false, PF_U | PF_P },
    { "user writes read-only page", 7, 5, true, true, PF_U | PF_P | PF_W },
    { "user writes below read-only table", 5, 7, true, true, PF_U | PF_P | PF_W },
    { "supervisor writes read-only page", 7, 5, false, true, PF_P | PF_W },
    { "user writes its own", 7, 7, true, true, -1 },
    { "supervisor writes its own", 3, 3, false, true, -1 },
};

/* The same table for both formats: what differs is where the entries go. */
static void run_cases(const char *format, void (*set)(uint32_t pde, uint32_t pte))
{
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct pf_case *c = &cases[i];
        struct trap t;

        set(c->pde, c->pte);
        paging_on();
        t = (c->user ? try_user : try)(c->write ? do_write : do_read, VA, 0x77);
        paging_off();
        if (c->err < 0) {
            EXPECT_TRAP(&t, c->user ? VEC_USER_END : VEC_NONE, 0, "%s: %s: no fault", format,
                        c->what);
        } else {
            EXPECT_TRAP(&t, VEC_PF, (word_t)c->err, "%s: %s: #PF", format, c->what);
            EXPECT_EQ(t.cr2, VA, "%s: %s: CR2", format, c->what);
        }
    }
}

static void set_32(uint32_t pde, uint32_t pte)
{
    dir[VA >> 22] = pde ? (uint32_t)table | pde : 0;
    table[0] = pte ? (uint32_t)page | pte : 0;
}

static void paging_32(void)
{
    struct trap t;

    /* One to one in 4 MB pages, for the user too: the guest runs at both. */
    write_cr4(CR4_PSE);
    for (unsigned i = 0; i < 1024; i++)
        dir[i] = i << 22 | 0x87;
    write_cr3((word_t)dir);
    run_cases("32-bit", set_32);

    set_32(7, 7);
    table[0] &= ~0x60u;
    dir[VA >> 22] &= ~0x20u;
    paging_on();
    read32((void *)VA);
    EXPECT_EQ(table[0] & 0x60, 0x20, "32-bit: a read sets A");
    EXPECT_EQ(dir[VA >> 22] & 0x20, 0x20, "32-bit: in the directory too");
    write8((void *)VA, 1);
    EXPECT_EQ(table[0] & 0x60, 0x60, "32-bit: a write sets D");
    dir[(VA >> 22) + 1] = 0x87;
    flush_tlb();
    *(volatile uint32_t *)LOW_AT = 0xfeedbeef;
    EXPECT_EQ(read32((void *)(VA + (4 << 20) + LOW_AT)), 0xfeedbeef,
              "32-bit: a 4 MB page shows memory");
    dir[(VA >> 22) + 1] = 0x87 | 1u << 21;
    flush_tlb();
    t = try(do_read, VA + (4 << 20), 0);
    tcg_deviates("leaves P clear");
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_RSVD, "32-bit: bit 21 of a 4 MB page is reserved");
    paging_off();
    write_cr4(0);
    /* Without PSE the bit means nothing and the entry points to a table. */
    memset(table, 0, sizeof(table));
    for (unsigned i = 0; i < 1024; i++)
        table[i] = i << 12 | 7;
    dir[0] = (uint32_t)table | 0x80 | 7;
    paging_on();
    EXPECT_EQ(*(volatile uint32_t *)LOW_AT, 0xfeedbeef,
              "32-bit: without PSE bit 7 of a PDE is ignored");
    paging_off();
}

static void set_pae(uint32_t pde, uint32_t pte)
{
    pae_dirs[VA >> 30][VA >> 21 & 511] = pde ? (uint32_t)pae_table | pde : 0;
    pae_table[0] = pte ? (uint32_t)page | pte : 0;
}

static void pae(void)
{
    const uint64_t nx = 1ull << 63;
    struct trap t;

    for (unsigned i = 0; i < 2048; i++)
        pae_dirs[i / 512][i % 512] = (uint64_t)i << 21 | 0x87;
    for (unsigned i = 0; i < 4; i++)
        pdpt[i] = (uint32_t)pae_dirs[i] | 1;
    write_cr4(CR4_PAE);
    write_cr3((word_t)pdpt);
    run_cases("PAE", set_pae);

    set_pae(7, 7);
    paging_on();
    pae_table[0] |= nx;
    flush_tlb();
    t = try(do_read, VA, 0);
    tcg_deviates("leaves P clear");
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_RSVD, "PAE: bit 63 is reserved without EFER.NXE");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    t = try(do_read, VA, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "PAE: with EFER.NXE data can be read there");
    page[0] = 0xc3;
    t = try((guest_fn *)VA, 0, 0);
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_I, "PAE: but not fetched");
    pae_table[0] = (uint32_t)page | 7 | 1ull << 62;
    flush_tlb();
    t = try(do_read, VA, 0);
    tcg_deviates("leaves P clear");
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_RSVD, "PAE: bit 62 is reserved");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);

    /* PDPTEs are registers: loaded by MOV CR3, and checked there. */
    set_pae(7, 7);
    flush_tlb();
    pdpt[1] = 0;
    t = try(do_read, VA, 0);
    tcg_deviates("reads them from memory");
    EXPECT_TRAP(&t, VEC_NONE, 0, "PAE: a PDPTE changed in memory has no effect");
    flush_tlb();
    t = try(do_read, VA, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "PAE: until CR3 is loaded");
    pdpt[1] = (uint32_t)pae_dirs[1] | 1 | 2;
    t = try(set_cr3, (word_t)pdpt, 0);
    tcg_deviates("does not check them");
    EXPECT_TRAP(&t, VEC_GP, 0, "PAE: MOV CR3 with a reserved bit in a PDPTE");
    paging_off();
    t = try(set_cr0, read_cr0() | CR0_PG, 0);
    tcg_deviates("does not check them");
    EXPECT_TRAP(&t, VEC_GP, 0, "PAE: so does setting CR0.PG");
    paging_off();
    pdpt[1] = (uint32_t)pae_dirs[1] | 1;
    write_cr4(0);
}

static void control_registers(void)
{
    struct trap t = try(set_cr0, (read_cr0() | CR0_PG) & ~(word_t)CR0_PE, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "CR0.PG without PE");
    t = try(set_cr0, (read_cr0() | CR0_NW) & ~(word_t)CR0_CD, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "CR0.NW without CD");
    write_cr0(read_cr0() & ~(word_t)(CR0_NW | CR0_CD));
    t = try(set_cr4, 1u << 31, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a reserved bit of CR4");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_LME);
    t = try(set_cr0, read_cr0() | CR0_PG, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "long mode without CR4.PAE");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_LME);
}

int main(void)
{
    paging_32();
    pae();
    if (on_tcg())
        skip("TCG goes astray without its checks", "control registers");
    else
        control_registers();
    return 0;
}
