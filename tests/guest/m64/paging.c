/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Page faults of 4-level paging: the error code of every kind of refusal, reserved bits at every
 * level, accessed and dirty bits, large pages. SDM 3, "Access Rights", "Page-Fault Exceptions",
 * "Accessed and Dirty Flags".
 */
#include "guest.h"

static uint8_t page[2 * PAGE_BYTES] PAGE_ALIGNED;

enum access { READ, WRITE, FETCH };

/* The access itself; b is what EFLAGS gets in addition. */
static word_t do_read(word_t a, word_t b)
{
    write_flags(read_flags() | b);
    return read8((void *)a);
}

static word_t do_write(word_t a, word_t b)
{
    write_flags(read_flags() | b);
    write8((void *)a, 0xc3);
    return 0;
}

static word_t do_fetch(word_t a, word_t b)
{
    (void)b;
    ((void (*)(void))a)();
    return 0;
}

static guest_fn *const accesses[] = { do_read, do_write, do_fetch };

struct pf_case {
    const char *what;
    uint64_t pte;      /* flags of the leaf */
    uint64_t pde_less; /* flags taken from the entry above, or its NX added */
    enum access acc;
    bool user, wp_off;
    uint32_t cr4;   /* CR4_SMEP, CR4_SMAP */
    uint32_t flags; /* FLAG_AC */
    int err;        /* -1: no fault */
};

#define RWU (PTE_P | PTE_W | PTE_U)
#define RW  (PTE_P | PTE_W)
#define RU  (PTE_P | PTE_U)
static const struct pf_case cases[] = {
    { .what = "supervisor reads absent", .pte = 0, .acc = READ, .err = 0 },
    { .what = "supervisor writes absent", .pte = 0, .acc = WRITE, .err = PF_W },
    { .what = "supervisor fetches absent", .pte = 0, .acc = FETCH, .err = PF_I },
    { .what = "user reads absent", .pte = 0, .acc = READ, .user = true, .err = PF_U },
    { .what = "user writes absent", .pte = 0, .acc = WRITE, .user = true, .err = PF_U | PF_W },
    { .what = "user fetches absent", .pte = 0, .acc = FETCH, .user = true, .err = PF_U | PF_I },
    { .what = "user reads supervisor's", .pte = RW, .acc = READ, .user = true, .err = PF_U | PF_P },
    { .what = "user writes supervisor's",
      .pte = RW,
      .acc = WRITE,
      .user = true,
      .err = PF_U | PF_P | PF_W },
    { .what = "user fetches supervisor's",
      .pte = RW,
      .acc = FETCH,
      .user = true,
      .err = PF_U | PF_P | PF_I },
    { .what = "user reads its own", .pte = RWU, .acc = READ, .user = true, .err = -1 },
    { .what = "user writes its own", .pte = RWU, .acc = WRITE, .user = true, .err = -1 },
    { .what = "user fetches its own", .pte = RWU, .acc = FETCH, .user = true, .err = -1 },
    { .what = "user writes read-only",
      .pte = RU,
      .acc = WRITE,
      .user = true,
      .err = PF_U | PF_P | PF_W },
    { .what = "user writes read-only, WP off",
      .pte = RU,
      .acc = WRITE,
      .user = true,
      .wp_off = true,
      .err = PF_U | PF_P | PF_W },
    { .what = "user fetches no-execute",
      .pte = RWU | PTE_NX,
      .acc = FETCH,
      .user = true,
      .err = PF_U | PF_P | PF_I },
    { .what = "user reads no-execute", .pte = RWU | PTE_NX, .acc = READ, .user = true, .err = -1 },
    { .what = "supervisor writes read-only", .pte = PTE_P, .acc = WRITE, .err = PF_P | PF_W },
    { .what = "supervisor writes read-only, WP off",
      .pte = PTE_P,
      .acc = WRITE,
      .wp_off = true,
      .err = -1 },
    { .what = "supervisor writes user's read-only", .pte = RU, .acc = WRITE, .err = PF_P | PF_W },
    { .what = "supervisor fetches no-execute",
      .pte = RW | PTE_NX,
      .acc = FETCH,
      .err = PF_P | PF_I },
    { .what = "supervisor fetches user's", .pte = RWU, .acc = FETCH, .err = -1 },
    { .what = "supervisor fetches user's, SMEP",
      .pte = RWU,
      .acc = FETCH,
      .cr4 = CR4_SMEP,
      .err = PF_P | PF_I },
    { .what = "supervisor reads user's, SMEP",
      .pte = RWU,
      .acc = READ,
      .cr4 = CR4_SMEP,
      .err = -1 },
    { .what = "supervisor fetches its own, SMEP",
      .pte = RW,
      .acc = FETCH,
      .cr4 = CR4_SMEP,
      .err = -1 },
    { .what = "user fetches its own, SMEP",
      .pte = RWU,
      .acc = FETCH,
      .user = true,
      .cr4 = CR4_SMEP,
      .err = -1 },
    { .what = "supervisor reads user's, SMAP",
      .pte = RWU,
      .acc = READ,
      .cr4 = CR4_SMAP,
      .err = PF_P },
    { .what = "supervisor writes user's, SMAP",
      .pte = RWU,
      .acc = WRITE,
      .cr4 = CR4_SMAP,
      .err = PF_P | PF_W },
    { .what = "supervisor reads user's, SMAP, AC",
      .pte = RWU,
      .acc = READ,
      .cr4 = CR4_SMAP,
      .flags = FLAG_AC,
      .err = -1 },
    { .what = "supervisor writes user's, SMAP, AC",
      .pte = RWU,
      .acc = WRITE,
      .cr4 = CR4_SMAP,
      .flags = FLAG_AC,
      .err = -1 },
    { .what = "supervisor writes user's read-only, SMAP, AC, WP off",
      .pte = RU,
      .acc = WRITE,
      .cr4 = CR4_SMAP,
      .flags = FLAG_AC,
      .wp_off = true,
      .err = -1 },
    { .what = "supervisor reads its own, SMAP",
      .pte = RW,
      .acc = READ,
      .cr4 = CR4_SMAP,
      .err = -1 },
    { .what = "supervisor reads absent, SMAP", .pte = 0, .acc = READ, .cr4 = CR4_SMAP, .err = 0 },
    { .what = "user reads its own, SMAP",
      .pte = RWU,
      .acc = READ,
      .user = true,
      .cr4 = CR4_SMAP,
      .err = -1 },
    { .what = "user reads below a supervisor entry",
      .pte = RWU,
      .pde_less = PTE_U,
      .acc = READ,
      .user = true,
      .err = PF_U | PF_P },
    { .what = "supervisor reads below a supervisor entry, SMAP",
      .pte = RWU,
      .pde_less = PTE_U,
      .acc = READ,
      .cr4 = CR4_SMAP,
      .err = -1 },
    { .what = "user writes below a read-only entry",
      .pte = RWU,
      .pde_less = PTE_W,
      .acc = WRITE,
      .user = true,
      .err = PF_U | PF_P | PF_W },
    { .what = "supervisor writes below a read-only entry",
      .pte = RW,
      .pde_less = PTE_W,
      .acc = WRITE,
      .err = PF_P | PF_W },
    { .what = "user reads below an absent entry",
      .pte = RWU,
      .pde_less = PTE_P,
      .acc = READ,
      .user = true,
      .err = PF_U },
    { .what = "supervisor fetches below a no-execute entry",
      .pte = RW,
      .pde_less = PTE_NX,
      .acc = FETCH,
      .err = PF_P | PF_I },
};

static void run_case(const struct pf_case *c)
{
    uint64_t *pde = page_entry(TEST_VA, 2), pde_was = *pde;
    word_t cr0 = read_cr0(), cr4 = read_cr4();
    struct trap t;

    if ((c->cr4 & CR4_SMEP && !has_smep()) || (c->cr4 & CR4_SMAP && !has_smap())) {
        skip("not in this CPU model", "%s", c->what);
        return;
    }
    page[0] = 0xc3; /* ret */
    page_set(TEST_VA, 1, (word_t)page | c->pte);
    *pde ^= c->pde_less;
    flush_tlb();
    write_cr4(cr4 | c->cr4);
    if (c->wp_off)
        write_cr0(cr0 & ~(word_t)CR0_WP);
    t = (c->user ? try_user : try)(accesses[c->acc], TEST_VA, c->flags);
    write_cr0(cr0);
    write_cr4(cr4);
    *pde = pde_was;
    if (c->err < 0) {
        EXPECT_TRAP(&t, c->user ? VEC_USER_END : VEC_NONE, 0, "%s: no fault", c->what);
    } else {
        EXPECT_TRAP(&t, VEC_PF, (word_t)c->err, "%s: #PF", c->what);
        EXPECT_EQ(t.cr2, TEST_VA, "%s: CR2", c->what);
    }
}

/* The fault names the byte that could not be had, not the operand's first. */
static word_t read_across(word_t a, word_t b)
{
    return *(volatile uint64_t *)(a + b);
}

static word_t write_across(word_t a, word_t b)
{
    *(volatile uint64_t *)(a + b) = ~0ull;
    return 0;
}

static word_t add_to(word_t a, word_t b)
{
    asm volatile("addb %b1, (%0)" : : "r"(a), "q"(b) : "memory", "cc");
    return 0;
}

static word_t cmpxchg_fails(word_t a, word_t b)
{
    asm volatile("lock cmpxchgb %b1, (%0)" : : "r"(a), "q"(b), "a"(0x55) : "memory", "cc");
    return 0;
}

static word_t push_at(word_t sp, word_t b)
{
    asm volatile("mov %%rsp, %%rcx\n\tmov %0, %%rsp\n\tpush %1\n\tmov %%rcx, %%rsp"
                 :
                 : "r"(sp), "r"(b)
                 : "rcx", "memory");
    return 0;
}

static void across_pages(void)
{
    struct trap t;

    page_set(TEST_VA, 1, (word_t)page | RWU);
    page_set(TEST_VA + PAGE_BYTES, 1, 0);
    memset(page, 0x11, sizeof(page));
    t = try(read_across, TEST_VA, PAGE_BYTES - 3);
    EXPECT_TRAP(&t, VEC_PF, 0, "read across into an absent page");
    EXPECT_EQ(t.cr2, TEST_VA + PAGE_BYTES, "CR2 is the second page's first byte");
    t = try(write_across, TEST_VA, PAGE_BYTES - 3);
    EXPECT_TRAP(&t, VEC_PF, PF_W, "write across into an absent page");
    EXPECT_EQ(t.cr2, TEST_VA + PAGE_BYTES, "CR2 is the second page's first byte");
    EXPECT_EQ(page[PAGE_BYTES - 1], 0x11, "nothing was written to the first page");

    memset(page + PAGE_BYTES - 4, 0x90, 4);
    page[PAGE_BYTES - 2] = 0x48; /* mov $imm64, %rax, the rest on the absent page */
    page[PAGE_BYTES - 1] = 0xb8;
    t = try(do_fetch, TEST_VA + PAGE_BYTES - 4, 0);
    EXPECT_TRAP(&t, VEC_PF, PF_I, "an instruction continues on an absent page");
    EXPECT_EQ(t.cr2, TEST_VA + PAGE_BYTES, "CR2 is the second page's first byte");
    EXPECT_EQ(t.f.ip, TEST_VA + PAGE_BYTES - 2, "RIP is the instruction's first byte");

    page_set(TEST_VA, 1, 0);
    tcg_deviates("reads before it writes");
    t = try(add_to, TEST_VA, 1);
    EXPECT_TRAP(&t, VEC_PF, PF_W, "a read-modify-write of an absent page is a write");
    page_set(TEST_VA, 1, (word_t)page | PTE_P);
    t = try(cmpxchg_fails, TEST_VA, 1);
    EXPECT_TRAP(&t, VEC_PF, PF_P | PF_W, "CMPXCHG that would not store still needs to write");
    page_set(TEST_VA, 1, 0);
    t = try_user(push_at, TEST_VA + 16, 1);
    EXPECT_TRAP(&t, VEC_PF, PF_U | PF_W, "a push onto an absent stack");
    EXPECT_EQ(t.cr2, TEST_VA + 8, "CR2 of the push");
    EXPECT_EQ(t.f.sp, TEST_VA + 16, "RSP as before the push");
}

struct rsvd_case {
    const char *what;
    uint64_t va;
    unsigned level;
    uint64_t bits; /* set in a good entry of that level */
};

static void reserved_bits(void)
{
    const uint64_t high = phys_bits() < 52 ? 1ull << 51 : 0;
    const struct rsvd_case rsvd[] = {
        { "PTE address bit above MAXPHYADDR", TEST_VA, 1, high },
        { "PDE address bit above MAXPHYADDR", TEST_VA, 2, high },
        { "PDPTE address bit above MAXPHYADDR", TEST_VA, 3, high },
        { "PML4E address bit above MAXPHYADDR", TEST_VA, 4, high },
        { "PML4E bit 7", TEST_VA, 4, PTE_PS },
        { "2 MB page bit 13", TEST_VA + (2 << 20), 2, 1 << 13 },
        { "2 MB page bit 20", TEST_VA + (2 << 20), 2, 1 << 20 },
        { "1 GB page bit 13", TEST_VA + (1 << 30), 3, has_1g_pages() ? 1 << 13 : 0 },
        { "1 GB page bit 29", TEST_VA + (1 << 30), 3, has_1g_pages() ? 1 << 29 : 0 },
    };

    page_set(TEST_VA, 1, (word_t)page | RWU);
    page_set(TEST_VA + (2 << 20), 2, RWU | PTE_PS);
    if (has_1g_pages())
        page_set(TEST_VA + (1 << 30), 3, RWU | PTE_PS);
    for (unsigned i = 0; i < ARRAY_SIZE(rsvd); i++) {
        const struct rsvd_case *c = &rsvd[i];
        uint64_t *e = page_entry(c->va, c->level), was = *e;
        struct trap t;

        if (!c->bits) {
            skip("this CPU model has no such bit", "%s", c->what);
            continue;
        }
        *e |= c->bits;
        flush_tlb();
        t = try_user(do_write, c->va, 0);
        tcg_deviates("leaves P clear");
        EXPECT_TRAP(&t, VEC_PF, PF_U | PF_W | PF_P | PF_RSVD, "%s is reserved", c->what);
        *e = was;
        flush_tlb();
        t = try_user(do_write, c->va + 0x800, 0);
        EXPECT_TRAP(&t, VEC_USER_END, 0, "%s clear: no fault", c->what);
    }
    page_set(TEST_VA, 1, (word_t)page | RWU | PTE_NX);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
    {
        struct trap t = try(do_read, TEST_VA, 0);

        tcg_deviates("leaves P clear");
        EXPECT_TRAP(&t, VEC_PF, PF_P | PF_RSVD, "bit 63 is reserved without EFER.NXE");
        page_set(TEST_VA, 1, 0);
        t = try(do_fetch, TEST_VA, 0);
        EXPECT_TRAP(&t, VEC_PF, 0, "a fetch is not told from a read without EFER.NXE and SMEP");
    }
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

static void accessed_dirty(void)
{
    uint64_t *e[5];

    page_set(TEST_VA, 1, (word_t)page | RWU);
    for (unsigned l = 1; l <= 4; l++) {
        e[l] = page_entry(TEST_VA, l);
        *e[l] &= ~(PTE_A | PTE_D);
    }
    flush_tlb();
    try(do_read, TEST_VA, 0);
    for (unsigned l = 1; l <= 4; l++)
        EXPECT_EQ(*e[l] & (PTE_A | PTE_D), PTE_A, "a read sets A at level %u", l);
    try(do_write, TEST_VA, 0);
    EXPECT_EQ(*e[1] & (PTE_A | PTE_D), PTE_A | PTE_D, "a later write sets D in the leaf");
    EXPECT_EQ(*e[2] & PTE_D, 0, "but not above");

    page_set(TEST_VA, 1, (word_t)page | PTE_P);
    try(do_write, TEST_VA, 0);
    EXPECT_EQ(*e[1] & PTE_D, 0, "a refused write sets no D");
    page_set(TEST_VA, 1, (word_t)page | RWU);
    try(do_fetch, TEST_VA, 0);
    EXPECT_EQ(*e[1] & (PTE_A | PTE_D), PTE_A, "a fetch sets A");

    page_set(TEST_VA + (2 << 20), 2, RWU | PTE_PS);
    try(do_read, TEST_VA + (2 << 20) + LOW_AT, 0);
    EXPECT_EQ(*page_entry(TEST_VA + (2 << 20), 2) & (PTE_A | PTE_D), PTE_A,
              "a read of a 2 MB page sets A");
    try(do_write, TEST_VA + (2 << 20) + LOW_AT, 0);
    EXPECT_EQ(*page_entry(TEST_VA + (2 << 20), 2) & (PTE_A | PTE_D), PTE_A | PTE_D,
              "a write to a 2 MB page sets D");
}

static void large_pages(void)
{
    volatile uint32_t *low = (uint32_t *)LOW_AT;

    *low = 0x12345678;
    page_set(TEST_VA + (2 << 20), 2, RWU | PTE_PS);
    EXPECT_EQ(read32((void *)(TEST_VA + (2 << 20) + LOW_AT)), 0x12345678, "2 MB page shows memory");
    page_set(TEST_VA + (4 << 20), 2, RWU | PTE_PS | 1 << 12);
    EXPECT_EQ(read32((void *)(TEST_VA + (4 << 20) + LOW_AT)), 0x12345678,
              "bit 12 of a 2 MB page is PAT, not address");
    if (has_1g_pages()) {
        page_set(TEST_VA + (1 << 30), 3, RWU | PTE_PS);
        EXPECT_EQ(read32((void *)(TEST_VA + (1 << 30) + LOW_AT)), 0x12345678,
                  "1 GB page shows memory");
    } else {
        skip("not in this CPU model", "1 GB pages");
    }
}

static word_t read_noncanonical_stack(word_t a, word_t b)
{
    word_t v;

    (void)b;
    asm volatile("xchg %%rbp, %1\n\tmov (%%rbp), %0\n\txchg %%rbp, %1"
                 : "=&r"(v), "+r"(a)
                 :
                 : "memory");
    return v;
}

static word_t jump_to(word_t a, word_t b)
{
    (void)b;
    asm volatile("jmp *%0" : : "r"(a) : "memory");
    return 0;
}

static void non_canonical(void)
{
    const word_t hole = 0x800000000000;
    struct trap t = try(do_read, hole, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "read at a non-canonical address");
    t = try(read_noncanonical_stack, hole, 0);
    tcg_deviates("raises #GP");
    EXPECT_TRAP(&t, VEC_SS, 0, "read through RBP at a non-canonical address");
    t = try(do_read, hole - 1, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "the last canonical address below the hole");
    t = try(read_across, hole - 4, 0);
    tcg_deviates("checks the first byte only");
    EXPECT_TRAP(&t, VEC_GP, 0, "read across into the hole");
    t = try(do_read, 0xffff800000000000, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "the first canonical address above the hole");
    t = try(jump_to, hole, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a jump to a non-canonical address");
    tcg_deviates("faults after the jump");
    EXPECT(t.f.ip < hole, "is refused at the jump");
}

int main(void)
{
    page_set(TEST_VA, 1, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        run_case(&cases[i]);
    across_pages();
    reserved_bits();
    accessed_dirty();
    large_pages();
    non_canonical();
    return 0;
}
