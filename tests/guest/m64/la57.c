/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 5-level paging: into it and out again by way of unpaged mode, 57-bit canonical addresses, rights,
 * reserved bits and accessed flags of the PML5, and that the TLB tells addresses apart by their
 * uppermost bits. SDM 3, "4-Level Paging and 5-Level Paging"; SDM 1, "Canonical Addressing".
 */
#include "guest.h"

#define LOW_VA   0x00a5000000000000ull
#define OTHER_VA 0x0025000000000000ull /* differs from LOW_VA in a bit of the PML5 index only */
#define HIGH_VA  0xff5a000000000000ull
#define HOLE     0x0100000000000000ull /* the first that is not canonical */
#define HOLE_4   0x0000800000000000ull /* the same for four levels */
#define RW       (PTE_P | PTE_W)
#define RWU      (RW | PTE_U)

static uint64_t pml5[512] PAGE_ALIGNED;
static uint8_t page[PAGE_BYTES] PAGE_ALIGNED, other_page[PAGE_BYTES] PAGE_ALIGNED;

/* CR3 in EDI, the new CR4 in ESI. Long mode ends with CR0.PG and begins with it again. */
asm("  .code32\n"
    "change_levels:\n"
    " mov %cr0, %eax\n and $0x7fffffff, %eax\n mov %eax, %cr0\n"
    " mov %esi, %cr4\n mov %edi, %cr3\n"
    " or $0x80000000, %eax\n mov %eax, %cr0\n lret\n"
    "  .code64\n");
extern uint8_t change_levels[];

static void use_levels(unsigned levels)
{
    struct {
        uint32_t off;
        uint16_t sel;
    } __attribute__((packed)) p = { (uint32_t)(word_t)change_levels, SEL_KCODE32 };
    word_t cr4 = read_cr4() & ~(word_t)CR4_LA57;

    if (levels == 5)
        cr4 |= CR4_LA57;
    /* Data segments survive: nothing is loaded in 32-bit code. */
    asm volatile("lcall *%0"
                 :
                 : "m"(p), "D"(levels == 5 ? pml5 : pml4), "S"(cr4)
                 : "rax", "memory", "cc");
}

static uint64_t *entry5(uint64_t va, unsigned level)
{
    uint64_t *table = pml5;

    for (unsigned l = 5;; l--) {
        uint64_t *e = &table[va >> (3 + 9 * l) & 511];

        if (l == level)
            return e;
        if (!(*e & PTE_P))
            *e = (word_t)page_table() | RWU;
        table = (uint64_t *)(*e & 0xffffffffff000);
    }
}

static void set5(uint64_t va, unsigned level, uint64_t entry)
{
    *entry5(va, level) = entry;
    flush_tlb();
}

static word_t do_read(word_t at, word_t off)
{
    return read8((void *)(at + off));
}

static word_t do_write(word_t at, word_t b)
{
    write8((void *)at, (uint8_t)b);
    return 0;
}

static word_t do_call(word_t at, word_t b)
{
    (void)b;
    ((void (*)(void))at)();
    return 0;
}

static word_t read_word(word_t at, word_t off)
{
    return *(volatile uint64_t *)(at + off);
}

static word_t push_at(word_t sp, word_t v)
{
    asm volatile("mov %%rsp, %%rcx\n\tmov %0, %%rsp\n\tpush %1\n\tmov %%rcx, %%rsp"
                 :
                 : "r"(sp), "r"(v)
                 : "rcx", "memory");
    return 0;
}

static word_t read_fs(word_t base, word_t off)
{
    word_t v;

    wrmsr(MSR_FS_BASE, base);
    asm volatile("mov %%fs:(%1), %0" : "=r"(v) : "r"(off) : "memory");
    return v & 0xff;
}

static word_t set_gs_base(word_t v, word_t b)
{
    (void)b;
    wrmsr(MSR_KERNEL_GS_BASE, v);
    return 0;
}

static word_t set_cr4(word_t v, word_t b)
{
    (void)b;
    write_cr4(v);
    return 0;
}

static void only_unpaged(const char *what)
{
    struct trap t;

    if (on_tcg()) {
        skip("TCG takes it, and goes on in the new mode", "%s in long mode", what);
        return;
    }
    t = try(set_cr4, read_cr4() ^ CR4_LA57, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "%s in long mode", what);
}

static void canonical(void)
{
    struct trap t = try(do_read, HOLE, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "bit 56 set alone is not canonical");
    t = try(do_read, HOLE - 1, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "the last address below the hole is");
    EXPECT_EQ(t.cr2, HOLE - 1, "CR2 has 57 bits");
    t = try(do_read, -HOLE, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "the first above it is");
    t = try(do_read, -HOLE - 1, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "and the one before is not");
    t = try(read_word, HOLE, -4);
    tcg_deviates("checks the first byte only");
    EXPECT_TRAP(&t, VEC_GP, 0, "a read across into the hole");
    t = try(do_read, HOLE_4, 0);
    EXPECT_TRAP(&t, VEC_PF, 0, "the hole of four levels is none");
    t = try(do_call, HOLE, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a jump into the hole");
    t = try(set_gs_base, LOW_VA, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a base of 57 bits");
    EXPECT_EQ(rdmsr(MSR_KERNEL_GS_BASE), LOW_VA, "is kept");
    t = try(set_gs_base, HOLE, 0);
    tcg_deviates("takes any");
    EXPECT_TRAP(&t, VEC_GP, 0, "a base in the hole");
    wrmsr(MSR_KERNEL_GS_BASE, 0);
}

static void translation(void)
{
    struct trap t;

    set5(LOW_VA, 1, (word_t)page | RWU);
    set5(HIGH_VA, 1, (word_t)other_page | RWU);
    page[0] = 0xc3; /* RET */
    page[1] = 0x11;
    other_page[1] = 0x22;
    t = try(do_read, LOW_VA, 1);
    EXPECT_EQ(t.f.ax, 0x11, "a page in the lower half");
    t = try(do_read, HIGH_VA, 1);
    EXPECT_EQ(t.f.ax, 0x22, "and in the upper half");
    t = try_user(do_read, HIGH_VA, 1);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "CPL 3 can have either half");
    t = try(do_call, LOW_VA, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "code there runs");
    t = try(push_at, LOW_VA + PAGE_BYTES, 0x77);
    EXPECT_EQ(page[PAGE_BYTES - 8], 0x77, "a stack there works");
    t = try(read_fs, LOW_VA - 0x1000, 0x1001);
    EXPECT_EQ(t.f.ax, 0x11, "so does a base of FS");

    set5(OTHER_VA, 1, (word_t)other_page | RWU);
    t = try(do_read, LOW_VA, 1);
    EXPECT_EQ(t.f.ax, 0x11, "the TLB tells addresses apart");
    t = try(do_read, OTHER_VA, 1);
    EXPECT_EQ(t.f.ax, 0x22, "by the PML5 index");
    *entry5(OTHER_VA, 1) = (word_t)page | RWU;
    invlpg((void *)OTHER_VA);
    t = try(do_read, OTHER_VA, 1);
    EXPECT_EQ(t.f.ax, 0x11, "INVLPG takes all 57 bits");
    set5(OTHER_VA, 5, 0);
    t = try(do_read, OTHER_VA, 1);
    EXPECT_TRAP(&t, VEC_PF, 0, "an absent PML5E");
    EXPECT_EQ(t.cr2, OTHER_VA + 1, "CR2");
}

static void pml5_entry(void)
{
    static const struct {
        const char *what;
        uint64_t flip;
        guest_fn *fn;
        bool user, rsvd;
        word_t err;
    } cases[] = {
        { "user, read", PTE_U, do_read, true, false, PF_P | PF_U },
        { "writable, write", PTE_W, do_write, false, false, PF_P | PF_W },
        { "not no-execute, fetch", PTE_NX, do_call, false, false, PF_P | PF_I },
        { "present, write", PTE_P, do_write, true, false, PF_U | PF_W },
        { "with bit 7 clear, read", PTE_PS, do_read, false, true, PF_P | PF_RSVD },
        { "below MAXPHYADDR, read", 1ull << 51, do_read, false, true, PF_P | PF_RSVD },
    };
    uint64_t *e = entry5(LOW_VA, 5);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t was = *e;
        struct trap t;

        if (cases[i].flip == 1ull << 51 && phys_bits() == 52) {
            skip("this CPU model has no such bit", "a PML5E not %s", cases[i].what);
            continue;
        }
        set5(LOW_VA, 5, was ^ cases[i].flip);
        t = (cases[i].user ? try_user : try)(cases[i].fn, LOW_VA, 0);
        set5(LOW_VA, 5, was);
        if (cases[i].rsvd)
            tcg_deviates("leaves P clear, or has no such bit");
        EXPECT_TRAP(&t, VEC_PF, cases[i].err, "a PML5E not %s", cases[i].what);
    }
    set5(LOW_VA, 5, *e & ~PTE_A);
    try(do_read, LOW_VA, 0);
    EXPECT_EQ(*e & (PTE_A | PTE_D), PTE_A, "a read sets A in the PML5E");
    try(do_write, LOW_VA, 0);
    EXPECT_EQ(*e & PTE_D, 0, "a write sets no D there");
}

int main(void)
{
    struct trap t;

    if (!(cpuid(7, 0).c >> 16 & 1)) {
        skip("not in this CPU model", "5-level paging");
        return 0;
    }
    EXPECT_EQ(cpuid(0x80000008, 0).a >> 8 & 0xff, 57, "CPUID: linear addresses of 57 bits");
    only_unpaged("CR4.LA57 cannot be set");
    t = try(do_read, HOLE_4, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "with four levels 48 bits count");
    pml5[0] = (word_t)pml4 | RWU;
    use_levels(5);
    EXPECT_EQ(read_cr4() & CR4_LA57, CR4_LA57, "five levels");
    EXPECT_EQ(rdmsr(MSR_EFER) & EFER_LMA, EFER_LMA, "in long mode");
    only_unpaged("CR4.LA57 cannot be cleared");
    canonical();
    translation();
    pml5_entry();
    use_levels(4);
    EXPECT_EQ(read_cr4() & CR4_LA57, 0, "four levels again");
    t = try(do_read, LOW_VA, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "no address of 57 bits then");
    return 0;
}
