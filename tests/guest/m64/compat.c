/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compatibility mode and the way in and out of long mode: 32-bit and 16-bit code under long mode's
 * rules, far transfers between the two, INT n and call gates from there, segment bases and limits;
 * then out of long mode and back into it. SDM 3, "IA-32e Mode Operation"; SDM 1, "Compatibility
 * Mode Software Operation".
 */
#include "guest.h"

#define S(n)        (SEL_FREE + 8 * (n))
#define CALL_GATE64 S(6) /* two slots */
#define LARGE_BYTES 0x200000u

/* 32-bit pieces are called with RDI = argument by to_32() and leave their result in EAX. They are
 * reached below 4 GB. */
asm("  .code32\n"
    "c_add: lea 1(%edi), %eax\n lret\n"
    "c_inc: .byte 0x40, 0x40\n lret\n" /* two INCs here, a REX prefix in 64-bit mode */
    "c_wide: mov $-1, %eax\n mov %esp, %ecx\n push %eax\n mov %esp, %eax\n sub %eax, %ecx\n add "
    "$4, %esp\n mov %ecx, %eax\n lret\n"
    "c_fs: mov %edi, %fs\n mov %fs:4, %eax\n lret\n"
    "c_limit: mov %edi, %fs\n mov %fs:0x1000, %eax\n lret\n"
    "c_int: int $0x85\n mov %cs, %eax\n lret\n"
    "c_aaa: mov $0x0a, %eax\n aaa\n lret\n"
    "c_rex: xor %eax, %eax\n .byte 0x48\n lret\n" /* DEC EAX */
    "c_gate: lcall $0x90, $0\n lret\n"
    "c_high: mov $0xfffffffc, %ecx\n mov 8(%ecx), %eax\n lret\n" /* wraps at 4 GB */
    /* A MOVS whose source is in the code segment: whose it is, is all that counts. */
    "c_movs: mov %edi, %esi\n lea 4(%edi), %edi\n cs movsl\n mov -4(%edi), %eax\n lret\n"
    /* Round the 4 GB, forwards each time: the page is in four places. An interrupt leads out. */
    "  .balign 64\nc_round: sti\n1: jmp 2f + 0x40000000\n2: jmp 3f + 0x40000000\n"
    "3: jmp 4f + 0x40000000\n4: jmp 1b + 0x40000000\n"
    "c_round_end: cli\n mov $0x600d, %eax\n lret\n"
    "  .code64\n"
    /* Called through the gate from 32-bit code: notes RSP and CS, returns to 32 bits. */
    "g_64: mov %rsp, gate_sp(%rip)\n mov %cs, %eax\n mov %eax, gate_cs(%rip)\n mov 8(%rsp), %rax\n "
    "mov %rax, gate_ret_cs(%rip)\n lretq\n");
extern uint8_t c_add[], c_inc[], c_wide[], c_fs[], c_limit[], c_int[], c_aaa[], c_rex[], c_gate[],
    c_high[], c_movs[], c_round[], c_round_end[], g_64[];
uint64_t gate_sp, gate_ret_cs;
uint32_t gate_cs;

struct far_ptr {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));

/* Far call to 32-bit code. The caller's stack is below 4 GB. The return address is 32-bit, and so
 * is the far return. */
static word_t to_32(word_t code, word_t arg)
{
    struct far_ptr p = { (uint32_t)code, SEL_KCODE32 };
    word_t result = 0;

    asm volatile("lcall *%1" : "+a"(result) : "m"(p), "D"(arg) : "rcx", "rdx", "memory", "cc");
    return result;
}

static uint32_t run_32(const uint8_t *code, word_t arg)
{
    return (uint32_t)to_32((word_t)code, arg);
}

static uint32_t int_cs;
static void note_cs(struct frame *f)
{
    int_cs = (uint32_t)f->cs;
}

static void compatibility(void)
{
    static uint32_t words[4] = { 1, 0x22222222, 3, 4 };
    struct trap t = try(to_32, (word_t)c_add, 41);

    EXPECT_TRAP(&t, VEC_NONE, 0, "far call to 32-bit code and back");
    EXPECT_EQ((uint32_t)t.f.ax, 42, "it ran");
    EXPECT_EQ(run_32(c_inc, 0), 2, "40h is INC there");
    EXPECT_EQ(run_32(c_rex, 0), 0xffffffff, "48h is DEC there");
    EXPECT_EQ(run_32(c_wide, 0), 4, "a push takes four bytes");
    EXPECT_EQ(run_32(c_aaa, 0) & 0xffff, 0x100, "AAA exists there");
    GDT(S(0)) = descriptor((uint32_t)(word_t)words, 15, ACC_DATA | DESC_D);
    EXPECT_EQ(run_32(c_fs, S(0)), 0x22222222, "segment bases count");
    t = try(to_32, (word_t)c_limit, S(0));
    tcg_deviates("has no segment limits");
    EXPECT_TRAP(&t, VEC_GP, 0, "segment limits too");
    *(volatile uint32_t *)4 = 0x600d600d;
    EXPECT_EQ(run_32(c_high, 0), 0x600d600d, "addresses wrap at 4 GB");

    trap_handle(0x85, note_cs);
    EXPECT_EQ(run_32(c_int, 0), SEL_KCODE32, "INT n from 32-bit code returns there");
    EXPECT_EQ(int_cs, SEL_KCODE32, "the handler's frame has its CS");
    trap_handle(0x85, NULL);

    GDT(CALL_GATE64) = gate(SEL_KCODE, (uint32_t)(word_t)g_64, 0x8c, 0);
    GDT(CALL_GATE64 + 8) = (word_t)g_64 >> 32;
    t = try(to_32, (word_t)c_gate, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a 64-bit call gate from 32-bit code");
    EXPECT_EQ(gate_cs, SEL_KCODE, "leads to 64-bit code");
    EXPECT_EQ(gate_ret_cs, SEL_KCODE32, "with eight bytes for each word on the stack");
    GDT(CALL_GATE64 + 8) |= 0x0aull << 40;
    t = try(to_32, (word_t)c_gate, 0);
    EXPECT_TRAP(&t, VEC_GP, CALL_GATE64, "the type field of its upper half must be 0");
}

static word_t to_code(word_t sel, word_t arg)
{
    struct far_ptr p = { (uint32_t)(word_t)c_movs, (uint16_t)sel };
    word_t result = 0;

    asm volatile("lcall *%1"
                 : "+a"(result)
                 : "m"(p), "D"(arg)
                 : "rcx", "rdx", "rsi", "memory", "cc");
    return result;
}

/* SDM 3, "Type Checking": data may be read from a code segment only if that is readable. */
static void strings_from_code(void)
{
    static uint32_t words[2] = { 0x12345678 };
    struct trap t;

    GDT(S(0)) = descriptor(0, 0xfffff, ACC_CODE | DESC_D | DESC_G);
    for (unsigned i = 0; i < 4; i++) {
        words[1] = 0;
        t = try(to_code, S(0), (word_t)words);
        EXPECT_EQ((uint32_t)t.f.ax, 0x12345678, "MOVS from a readable code segment");
    }
    GDT(S(0)) = descriptor(0, 0xfffff, 0x98 | DESC_D | DESC_G);
    t = try(to_code, S(0), (word_t)words);
    tcg_deviates("does not check the type of a loaded segment");
    EXPECT_TRAP(&t, VEC_GP, 0, "MOVS from one that can only be run");
}

static unsigned rounds_ended;
static void end_round(struct frame *f)
{
    rounds_ended++;
    f->ip = (word_t)c_round_end;
    apic_write(APIC_EOI, 0);
}

/* A loop need not have a jump backwards. What it has run before, it runs again. */
static void round_and_round(void)
{
    word_t page = (word_t)c_round & ~(word_t)(LARGE_BYTES - 1);

    for (word_t at = 1; at < 4; at++)
        page_set(page + at * 0x40000000, 2, page | PTE_P | PTE_W | PTE_PS);
    apic_init();
    trap_handle(0x51, end_round);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 0x51);
    for (unsigned i = 1; i <= 4; i++) {
        apic_write(APIC_TIMER_INIT, 5000000);
        EXPECT_EQ(run_32(c_round, 0), 0x600d, "an interrupt comes between jumps round the 4 GB");
        EXPECT_EQ(rounds_ended, i, "once");
    }
    apic_write(APIC_LVT_TIMER, 1u << 16);
    trap_handle(0x51, NULL);
}

static word_t far_jump(word_t sel, word_t off)
{
    struct far_ptr p = { (uint32_t)off, (uint16_t)sel };

    asm volatile("ljmp *%0" : : "m"(p) : "memory");
    return 0;
}

static word_t iret_to(word_t sel, word_t ss)
{
    asm volatile("mov %%rsp, %%rcx\n\tpush %1\n\tpush %%rcx\n\tpush $2\n\tpush %0\n\tlea "
                 "1f(%%rip), %%rax\n\tpush %%rax\n\tiretq\n1:"
                 :
                 : "r"(sel), "r"(ss)
                 : "rax", "rcx", "memory", "cc");
    return 1;
}

static word_t load_ss(word_t sel, word_t b)
{
    (void)b;
    asm volatile("mov %w0, %%ss" : : "r"(sel) : "memory");
    return 0;
}

static word_t ds_read(word_t sel, word_t at)
{
    word_t v;

    asm volatile("mov %w1, %%ds\n\tmov (%2), %k0" : "=&r"(v) : "r"(sel), "r"(at) : "memory");
    asm volatile("mov %w0, %%ds" : : "r"(SEL_KDATA));
    return v;
}

/*
 * #SS is what APM 3, "IRET" and the operation in SDM 2, "IRET" have (the latter's list of
 * exceptions has #NP), and what an AMD processor was seen to raise within ring 3. TCG and Bochs
 * raise #NP.
 */
static void iret_to_absent_ss(void)
{
    struct trap t;

    GDT(S(3)) = descriptor(0, 0xfffff, 0x12 | DESC_D | DESC_G);
    GDT(S(4)) = descriptor(0, 0xfffff, 0x12 | ACC_DPL(3) | DESC_D | DESC_G);
    t = try(iret_to, SEL_KCODE, S(3));
    tcg_deviates("raises #NP");
    EXPECT_TRAP(&t, VEC_SS, S(3), "IRET within ring 0 to an SS not present");
    t = try(iret_to, SEL_UCODE64 | 3, S(4) | 3);
    tcg_deviates("raises #NP");
    EXPECT_TRAP(&t, VEC_SS, S(4), "IRET from ring 0 to ring 3");
    t = try_user(iret_to, SEL_UCODE64 | 3, S(4) | 3);
    tcg_deviates("raises #NP");
    EXPECT_TRAP(&t, VEC_SS, S(4), "IRET within ring 3");
}

static void rules_of_64_bit_mode(void)
{
    static uint32_t word = 0x5555aaaa;
    struct trap t;

    GDT(S(1)) = descriptor(0, 0xfffff, ACC_CODE | DESC_L | DESC_D | DESC_G);
    if (on_tcg()) {
        skip("TCG takes it, and the jump leads nowhere", "a code segment with both L and D");
    } else {
        t = try(far_jump, S(1), (word_t)far_jump);
        EXPECT_TRAP(&t, VEC_GP, S(1), "a code segment with both L and D");
        t = try(iret_to, S(1), SEL_KDATA);
        EXPECT_TRAP(&t, VEC_GP, S(1), "IRET to a code segment with both L and D");
    }
    t = try(load_ss, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "a null SS at CPL 0");
    t = try(ds_read, 0, (word_t)&word);
    EXPECT_EQ((uint32_t)t.f.ax, 0x5555aaaa, "a null DS can be used");
    GDT(S(2)) = descriptor(0x1000, 3, ACC_DATA);
    t = try(ds_read, S(2), (word_t)&word);
    EXPECT_EQ((uint32_t)t.f.ax, 0x5555aaaa, "DS has neither base nor limit");
    t = try(iret_to, SEL_KCODE, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "IRET within ring 0 with a null SS");
    t = try(iret_to, SEL_UCODE64 | 3, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "but not to ring 3");
    iret_to_absent_ss();
}

/* Out of long mode: 32-bit code turns paging off, then EFER.LME, and comes back the same way. */
asm("  .code32\n"
    "leave_long:\n"
    " push %ebx\n"
    " mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %ss\n mov %eax, %es\n"
    " mov %cr0, %eax\n and $0x7fffffff, %eax\n mov %eax, %cr0\n"
    " mov $0xc0000080, %ecx\n rdmsr\n mov %eax, out_efer\n"
    " and $0xfffffeff, %eax\n wrmsr\n rdmsr\n mov %eax, out_efer+4\n"
    " mov %cr4, %eax\n and $0xffffffdf, %eax\n mov %eax, %cr4\n" /* PAE off is possible now */
    " mov %cr4, %eax\n mov %eax, out_cr4\n or $0x20, %eax\n mov %eax, %cr4\n"
    " rdmsr\n or $0x100, %eax\n wrmsr\n"
    " mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"
    " rdmsr\n mov %eax, out_efer+8\n"
    " mov $1, %eax\n pop %ebx\n lret\n"
    "  .code64\n"
    "  .bss\n .balign 8\n .globl out_efer, out_cr4\n out_efer: .skip 12\n out_cr4: .skip 4\n "
    ".text\n");
extern uint8_t leave_long[];
extern uint32_t out_efer[3], out_cr4;

static word_t set_cr4(word_t v, word_t b)
{
    (void)b;
    write_cr4(v);
    return 0;
}

static void there_and_back(void)
{
    if (on_tcg()) {
        skip("TCG takes it", "CR4.PAE cannot be cleared in long mode");
    } else {
        struct trap t = try(set_cr4, read_cr4() & ~(word_t)CR4_PAE, 0);

        EXPECT_TRAP(&t, VEC_GP, 0, "CR4.PAE cannot be cleared in long mode");
    }
    EXPECT_EQ(run_32(leave_long, 0), 1, "out of long mode and back");
    EXPECT_EQ(out_efer[0] & (EFER_LME | EFER_LMA), EFER_LME, "clearing CR0.PG clears LMA, not LME");
    EXPECT_EQ(out_efer[1] & EFER_LME, 0, "LME can be cleared then");
    EXPECT_EQ(out_cr4 & CR4_PAE, 0, "and PAE");
    EXPECT_EQ(out_efer[2] & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA,
              "setting CR0.PG sets LMA again");
}

int main(void)
{
    compatibility();
    strings_from_code();
    round_and_round();
    rules_of_64_bit_mode();
    there_and_back();
    return 0;
}
