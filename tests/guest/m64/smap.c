/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SMAP and the processor's own accesses: descriptors, gates and the TSS are read with supervisor
 * rights at any CPL, EFLAGS.AC does not open user pages to them, and the error code says
 * supervisor. SDM 3, "Access Rights" (implicit supervisor-mode accesses), "Page-Fault Exceptions".
 */
#include "guest.h"

#define SEL_LDT SEL_FREE /* two slots */
#define IN_LDT  4u       /* the LDT's first descriptor, RPL 0 */
#define VEC_FAR 0x82u    /* a vector in the IDT's second half */
#define PORT    0x80u

/* Mapped at TEST_VA: a page for the supervisor, then one for the user. */
static uint8_t pages[2 * PAGE_BYTES] PAGE_ALIGNED;
#define USER_PAGE  (pages + PAGE_BYTES)
#define USER_VA    (TEST_VA + PAGE_BYTES)
#define IDT_HALF   (128 * sizeof(struct idt_entry))
#define TSS_HEAD   104u /* up to the I/O map, which begins the user page */
#define RW         (PTE_P | PTE_W)
#define RWU        (RW | PTE_U)
#define DESC_BYTES 8u

static word_t load_fs(word_t sel, word_t flags)
{
    write_flags(read_flags() | flags);
    asm volatile("mov %w0, %%fs" : : "r"(sel));
    return 0;
}

static word_t lar(word_t sel, word_t flags)
{
    word_t v = 0;

    write_flags(read_flags() | flags);
    asm volatile("lar %1, %0" : "+r"(v) : "r"(sel) : "cc");
    return v;
}

static word_t int_far(word_t a, word_t flags)
{
    write_flags(read_flags() | flags);
    asm volatile("int $0x82" : "+a"(a) : : "memory");
    return a;
}

static word_t in_port(word_t port, word_t flags)
{
    write_flags(read_flags() | flags);
    return inb((uint16_t)port);
}

static word_t read_user(word_t at, word_t flags)
{
    write_flags(read_flags() | flags);
    return read8((void *)at);
}

static unsigned nr_far;
static void count_far(struct frame *f)
{
    (void)f;
    nr_far++;
}

/* Each is tried with the tables' second page as the supervisor's, and as the user's. */
struct table_case {
    const char *what;
    guest_fn *fn;
    word_t arg;
    uint64_t at; /* what the fault names */
    bool user;
};

static const struct table_case cases[] = {
    { "MOV FS, descriptor in the LDT", load_fs, IN_LDT, USER_VA, false },
    { "MOV FS at CPL 3", load_fs, IN_LDT | 3, USER_VA, true },
    { "LAR", lar, IN_LDT, USER_VA, false },
    { "LAR at CPL 3", lar, IN_LDT | 3, USER_VA, true },
    { "INT n, gate in the IDT", int_far, 0, USER_VA + (VEC_FAR - 128) * sizeof(struct idt_entry),
      false },
    { "INT n at CPL 3", int_far, 0, USER_VA + (VEC_FAR - 128) * sizeof(struct idt_entry), true },
    { "IN at CPL 3, I/O map in the TSS", in_port, PORT, USER_VA + PORT / 8, true },
};

/* Bochs does too, at CPL 3 as well. */
static const char own_too[] = "takes AC for its own accesses too";

static struct trap run(const struct table_case *c, word_t flags)
{
    return (c->user ? try_user : try)(c->fn, c->arg, flags);
}

static void refused(const struct table_case *c, word_t flags, const char *how)
{
    struct trap t = run(c, flags);

    if (flags && !c->user)
        tcg_deviates(own_too);
    EXPECT_TRAP(&t, VEC_PF, PF_P, "%s%s: #PF, a supervisor's", c->what, how);
    if (flags && !c->user)
        tcg_deviates(own_too);
    EXPECT_EQ(t.cr2, c->at, "%s%s: CR2", c->what, how);
}

static void allowed(const struct table_case *c, const char *how)
{
    struct trap t = run(c, 0);

    EXPECT_TRAP(&t, c->user ? VEC_USER_END : VEC_NONE, 0, "%s%s", c->what, how);
}

static void check(const struct table_case *c)
{
    const word_t cr4 = read_cr4();
    struct trap t;

    page_set(USER_VA, 1, (word_t)USER_PAGE | RWU);
    allowed(c, ", user's page without SMAP");
    write_cr4(cr4 | CR4_SMAP);
    refused(c, 0, ", user's page");
    refused(c, FLAG_AC, ", user's page, AC set");
    t = try(read_user, USER_VA, FLAG_AC);
    EXPECT_TRAP(&t, VEC_NONE, 0, "which opens it to a program's own accesses");
    page_set(USER_VA, 1, (word_t)USER_PAGE | RW);
    allowed(c, ", supervisor's page");
    write_cr4(cr4);
}

/* The accessed flag is written by the processor too. */
static void accessed_flag(void)
{
    const struct table_case c = { "accessed flag", load_fs, IN_LDT, USER_VA, false };
    uint64_t *desc = (uint64_t *)USER_PAGE;

    *desc = descriptor(0, 0xfffff, ACC_DATA | ACC_DPL(3) | DESC_D | DESC_G);
    page_set(USER_VA, 1, (word_t)USER_PAGE | RWU);
    write_cr4(read_cr4() | CR4_SMAP);
    refused(&c, FLAG_AC, ", user's page, AC set");
    tcg_deviates(own_too);
    EXPECT_EQ(*desc >> 40 & 1, 0, "accessed flag: still clear");
    write_cr4(read_cr4() & ~(word_t)CR4_SMAP);
}

/* The LDT is the user page; the IDT and the TSS straddle both. Only one can have it at a time. */
static void use_ldt(void)
{
    memset(USER_PAGE, 0, PAGE_BYTES);
    *(uint64_t *)USER_PAGE = descriptor(0, 0xfffff, ACC_DATA | 1 | ACC_DPL(3) | DESC_D | DESC_G);
    GDT(SEL_LDT) = descriptor((uint32_t)USER_VA, DESC_BYTES - 1, 0x82);
    GDT(SEL_LDT + 8) = USER_VA >> 32;
    asm volatile("lldt %w0" : : "r"(SEL_LDT) : "memory");
}

static void use_idt(void)
{
    const struct table_ptr p = { sizeof(idt) - 1, USER_VA - IDT_HALF };

    memcpy(USER_PAGE - IDT_HALF, idt, sizeof(idt));
    lidt(&p);
}

static void use_idt_again(void)
{
    const struct table_ptr p = { sizeof(idt) - 1, (word_t)idt };

    lidt(&p);
}

static void use_tss(void)
{
    struct tss *moved = (struct tss *)(USER_PAGE - TSS_HEAD);

    memset(USER_PAGE, 0, PAGE_BYTES);
    memcpy(moved, &tss, TSS_HEAD);
    moved->iomap = TSS_HEAD;
    GDT(SEL_TSS) = descriptor((uint32_t)(USER_VA - TSS_HEAD), TSS_HEAD + 0x100, 0x89);
    GDT(SEL_TSS + 8) = (USER_VA - TSS_HEAD) >> 32;
    load_tss(SEL_TSS);
}

int main(void)
{
    if (!has_smap()) {
        skip("not in this CPU model", "SMAP");
        return 0;
    }
    idt_set(VEC_FAR, trap_stub(VEC_FAR), GATE_INT | ACC_DPL(3), 0);
    trap_handle(VEC_FAR, count_far);
    page_set(TEST_VA, 1, (word_t)pages | RW);
    page_set(USER_VA, 1, (word_t)USER_PAGE | RW);
    use_ldt();
    for (unsigned i = 0; i < 4; i++)
        check(&cases[i]);
    EXPECT_EQ(lar(IN_LDT, 0) & 0xf0ff00, 0xc0f300, "LAR saw the descriptor");
    accessed_flag();
    use_idt();
    check(&cases[4]);
    check(&cases[5]);
    use_idt_again();
    EXPECT(nr_far >= 4, "the gate led to its handler");
    use_tss();
    check(&cases[6]);
    return 0;
}
