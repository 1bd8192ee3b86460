/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delivery in long mode: frames and alignment, IST, double fault, NMI and its blocking, the shadows
 * of STI and MOV SS, alignment check, EFLAGS.RF. SDM 3, "Interrupt and Exception Handling",
 * "Exception and Interrupt Handling in 64-bit Mode".
 */
#include "guest.h"

#define ICR_NMI  0x400u
#define ICR_SELF 0x40000u
static uint8_t ist_stack[8192] __attribute__((aligned(16)));

static word_t ud(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("ud2");
    return 0;
}

static word_t divide(word_t a, word_t b)
{
    asm volatile("div %b1" : "+a"(a) : "q"(b) : "cc");
    return a;
}

static word_t idivide(word_t a, word_t b)
{
    asm volatile("cqo\n\tidiv %1" : "+a"(a) : "r"(b) : "rdx", "cc");
    return a;
}

static word_t with_stack(word_t sp, word_t b)
{
    (void)b;
    asm volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\tud2\n\tmov %%rbx, %%rsp"
                 :
                 : "r"(sp)
                 : "rbx", "memory");
    return 0;
}

static word_t int_n(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("int $0x85");
    return 0;
}

static void frames(void)
{
    struct trap t = try(ud, 0, 0);
    struct table_ptr full = sidt(), shortened = { 0x85 * 16 - 1, full.base };

    EXPECT_TRAP(&t, VEC_UD, 0, "#UD");
    tcg_deviates("never sets it");
    EXPECT_EQ(t.f.flags & FLAG_RF, FLAG_RF, "a fault's frame has RF");
    EXPECT_EQ(t.f.ss, SEL_KDATA, "SS is pushed within ring 0 too");
    t = try(divide, 0x100, 0);
    EXPECT_TRAP(&t, VEC_DE, 0, "DIV by 0");
    t = try(divide, 0x1000, 1);
    EXPECT_TRAP(&t, VEC_DE, 0, "DIV with a quotient that does not fit");
    EXPECT_EQ(t.f.ax, 0x1000, "leaves AX");
    t = try(idivide, 1ull << 63, (word_t)-1);
    EXPECT_TRAP(&t, VEC_DE, 0, "IDIV of the smallest number by -1");

    /* The frame is aligned to 16 bytes. RSP was 3 off: five words below the boundary under it. */
    t = try(with_stack, (word_t)ist_stack + 4096 + 3, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "#UD on an odd stack");
    EXPECT_EQ(t.f.sp, (word_t)ist_stack + 4096 + 3, "the frame has RSP as it was");

    lidt(&shortened);
    t = try(int_n, 0, 0);
    lidt(&full);
    tcg_deviates("gives 16 times the vector");
    EXPECT_TRAP(&t, VEC_GP, 0x85 * 8 + 2, "a vector beyond the IDT");
    idt_set(0x85, 0x800000000000, GATE_INT, 0);
    t = try(int_n, 0, 0);
    EXPECT(t.vec == VEC_GP, "a handler at a non-canonical address: #GP");
    idt_set(0x85, trap_stub(0x85), 0x0e, 0);
    t = try(int_n, 0, 0);
    tcg_deviates("gives 16 times the vector");
    EXPECT_TRAP(&t, VEC_NP, 0x85 * 8 + 2, "a gate not present");
    idt_set(0x85, trap_stub(0x85), 0x85, 0);
    t = try(int_n, 0, 0);
    tcg_deviates("gives 16 times the vector");
    EXPECT_TRAP(&t, VEC_GP, 0x85 * 8 + 2, "a task gate");
    idt_set(0x85, trap_stub(0x85), GATE_INT, 0);
    idt[0x85].lo = (idt[0x85].lo & ~0xffff0000ull) | SEL_KCODE32 << 16;
    t = try(int_n, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_KCODE32, "a gate to a 32-bit code segment");
    idt_set(0x85, trap_stub(0x85), GATE_INT, 0);
}

static word_t handler_sp;
static void note_sp(struct frame *f)
{
    handler_sp = (word_t)(f + 1);
    f->ip += 2;
}

static void ist(void)
{
    struct trap t;

    tss.ist[2] = (word_t)(ist_stack + sizeof(ist_stack));
    idt_set(VEC_UD, trap_stub(VEC_UD), GATE_INT, 3);
    trap_handle(VEC_UD, note_sp);
    t = try(ud, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "IST 3 within ring 0, and back");
    EXPECT_EQ(handler_sp, tss.ist[2], "the handler ran on IST 3");
    t = try_user(ud, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "from CPL 3");
    EXPECT_EQ(handler_sp, tss.ist[2], "on IST 3 too");
    trap_handle(VEC_UD, NULL);
    idt_set(VEC_UD, trap_stub(VEC_UD), GATE_INT, 0);
}

/* The fault cannot be pushed: a double fault, on a stack of its own. */
static void double_fault(void)
{
    struct trap t;

    tss.ist[0] = (word_t)(ist_stack + sizeof(ist_stack));
    idt_set(VEC_DF, trap_stub(VEC_DF), GATE_INT, 1);
    t = try(with_stack, TEST_VA + 64, 0);
    /* #UD is benign, the #PF of its push is then just a #PF, whose own push faults: #DF. */
    EXPECT_TRAP(&t, VEC_DF, 0, "a stack that is not there: #DF with error code 0");
    EXPECT_EQ(t.cr2, TEST_VA + 56, "CR2 is the push's");
    idt_set(VEC_PF, trap_stub(VEC_PF), 0x0e, 0);
    {
        struct trap t2 = try(with_stack, TEST_VA + 64, 0);

        EXPECT_TRAP(&t2, VEC_DF, 0, "#PF whose gate is not present: #DF");
    }
    idt_set(VEC_PF, trap_stub(VEC_PF), GATE_INT, 0);
    idt_set(VEC_DE, trap_stub(VEC_DE), 0x0e, 0);
    t = try(divide, 1, 0);
    EXPECT_TRAP(&t, VEC_DF, 0, "#DE then #NP, both contributory: #DF");
    idt_set(VEC_DE, trap_stub(VEC_DE), GATE_INT, 0);
    idt_set(VEC_UD, trap_stub(VEC_UD), 0x0e, 0);
    t = try(ud, 0, 0);
    tcg_deviates("never sets EXT");
    EXPECT_TRAP(&t, VEC_NP, VEC_UD * 8 + 3, "#UD then #NP: #NP");
    idt_set(VEC_UD, trap_stub(VEC_UD), GATE_INT, 0);
}

static unsigned nr_nmis, nr_irqs, depth, max_depth;
static word_t irq_ip;

static void send_nmi(void)
{
    apic_write(APIC_ICR2,
               apic_read(APIC_ID)); /* the shorthand "self" is for fixed interrupts only */
    apic_write(APIC_ICR, ICR_NMI);
    /* Own NMIs are taken at the next boundary or soon after. */
    for (unsigned i = 0; i < 1000; i++)
        pause();
}

/* NMIs stay blocked until IRET, whatever comes between. */
static void on_nmi(struct frame *f)
{
    (void)f;
    nr_nmis++;
    depth++;
    if (depth > max_depth)
        max_depth = depth;
    if (nr_nmis == 1) {
        send_nmi();
        send_nmi();
    }
    depth--;
}

static void nmi(void)
{
    trap_handle(VEC_NMI, on_nmi);
    cli();
    send_nmi();
    EXPECT_EQ(max_depth, 1, "NMI with IF clear; another one waits for IRET");
    EXPECT_EQ(nr_nmis, 2, "one is remembered, not two");
    send_nmi();
    EXPECT_EQ(nr_nmis, 3, "later ones come again");
    trap_handle(VEC_NMI, NULL);
}

static void on_irq(struct frame *f)
{
    nr_irqs++;
    irq_ip = f->ip;
    apic_write(APIC_EOI, 0);
}

#define SELF_IPI(vec) (ICR_SELF | (vec))
static void shadows(void)
{
    word_t at;

    trap_handle(0x90, on_irq);
    cli();
    apic_write(APIC_ICR, SELF_IPI(0x90));
    for (unsigned i = 0; i < 1000; i++)
        pause();
    EXPECT_EQ(nr_irqs, 0, "nothing comes while IF is clear");
    asm volatile("lea 1f(%%rip), %0\n\tsti\n\tnop\n1:\tnop\n\tnop\n\tcli" : "=r"(at) : : "memory");
    EXPECT_EQ(nr_irqs, 1, "an interrupt that waited comes after STI");
    EXPECT_EQ(irq_ip, at, "one instruction later");

    nr_irqs = 0;
    apic_write(APIC_ICR, SELF_IPI(0x90));
    for (unsigned i = 0; i < 1000; i++)
        pause();
    asm volatile("sti\n\tcli" : : : "memory");
    EXPECT_EQ(nr_irqs, 0, "STI, CLI lets nothing in");
    asm volatile("lea 1f(%%rip), %0\n\tmov %%ss, %%ecx\n\tpushf\n\torl $0x200, "
                 "(%%rsp)\n\tpopf\n1:\tnop\n\tcli"
                 : "=&r"(at)
                 :
                 : "rcx", "memory", "cc");
    EXPECT_EQ(nr_irqs, 1, "POPF that sets IF");
    EXPECT_EQ(irq_ip, at, "has no shadow");

    nr_irqs = 0;
    apic_write(APIC_ICR, SELF_IPI(0x90));
    for (unsigned i = 0; i < 1000; i++)
        pause();
    asm volatile(
        "lea 1f(%%rip), %0\n\tmov %%ss, %%ecx\n\tsti\n\tmov %%ecx, %%ss\n\tnop\n1:\tnop\n\tcli"
        : "=&r"(at)
        :
        : "rcx", "memory");
    EXPECT_EQ(nr_irqs, 1, "STI followed by MOV SS");
    EXPECT(irq_ip == at || irq_ip == at - 1,
           "the interrupt comes after MOV SS or the instruction behind it");

    nr_irqs = 0;
    apic_write(APIC_ICR, SELF_IPI(0x90));
    sti_hlt_cli();
    EXPECT_EQ(nr_irqs, 1, "STI, HLT: the interrupt ends HLT");
    trap_handle(0x90, NULL);
}

static word_t unaligned(word_t at, word_t flags)
{
    write_flags(read_flags() | flags);
    return *(volatile uint32_t *)(at + 1);
}

static void alignment(void)
{
    static uint64_t words[2];
    struct trap t;

    write_cr0(read_cr0() | CR0_AM);
    t = try_user(unaligned, (word_t)user_ptr(words), FLAG_AC);
    tcg_deviates("has no alignment check");
    EXPECT_TRAP(&t, VEC_AC, 0, "an unaligned access with AM and AC at CPL 3");
    t = try_user(unaligned, (word_t)user_ptr(words), 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "without AC");
    t = try(unaligned, (word_t)words, FLAG_AC);
    EXPECT_TRAP(&t, VEC_NONE, 0, "at CPL 0");
    write_cr0(read_cr0() & ~(word_t)CR0_AM);
    t = try_user(unaligned, (word_t)user_ptr(words), FLAG_AC);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "without AM");
}

static word_t undefined_64(word_t which, word_t b)
{
    (void)b;
    if (which == 0)
        asm volatile(".byte 0x06"); /* push %es */
    else if (which == 1)
        asm volatile(".byte 0x37"); /* aaa */
    else if (which == 2)
        asm volatile(".byte 0xce"); /* into */
    else if (which == 3)
        asm volatile(".byte 0x60"); /* pusha */
    else if (which == 4)
        asm volatile(".byte 0xf0, 0x89, 0xc0"); /* lock mov %eax, %eax */
    else if (which == 5)
        asm volatile(".byte 0xea, 0, 0, 0, 0, 0, 0"); /* ljmp, direct */
    else
        asm volatile(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, "
                     "0x66, 0x66, 0x66, 0x66, 0x90");
    return 0;
}

static void undefined(void)
{
    static const char *const names[] = { "PUSH ES", "AAA",      "INTO",
                                         "PUSHA",   "LOCK MOV", "far JMP with an immediate" };
    struct trap t;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        t = try(undefined_64, i, 0);
        if (i == 4)
            tcg_deviates("lets it pass");
        EXPECT_TRAP(&t, VEC_UD, 0, "%s in 64-bit mode", names[i]);
    }
    t = try(undefined_64, ARRAY_SIZE(names), 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "an instruction of 16 bytes");
}

int main(void)
{
    frames();
    ist();
    double_fault();
    apic_init();
    nmi();
    shadows();
    alignment();
    undefined();
    return 0;
}
