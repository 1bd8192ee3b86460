/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Excursions from protected mode: to 16-bit protected mode, to real mode and to "unreal" mode (real
 * mode with segment limits kept from protected mode), with exceptions and interrupts through the
 * interrupt vector table. SDM 3, "Switching Modes", "8086 Emulation", "Real-Address Mode".
 */
#include "guest.h"

#define RESULTS 0x4000u /* where 16-bit routines leave what they saw: words */
#define SKIP    0x4100u /* word: how far the handler moves the return address */
#define S(n)    (SEL_FREE + 8 * (n))

/*
 * call_real(routine): leaves protected mode, calls the 16-bit routine at 0:routine with DS=ES=SS=0,
 * comes back. call_pm16(routine): the same without leaving protected mode, in 16-bit segments of
 * base 0. Every address inside is that of the copy at LOW_AT.
 */
asm("  .set L, 0x1000\n"
    "low_code:\n"
    "low_call_real:\n" /* 32-bit: EAX routine, EDX DS to have in real mode's hidden part */
    " pusha\n mov %esp, L + save_sp - low_code\n sidt L + save_idt - low_code\n"
    " mov %eax, L + routine - low_code\n"
    " ljmp $0x40, $(L + 1f - low_code)\n"
    "  .code16\n"
    "1: mov $0x48, %ax\n mov %ax, %ss\n mov %ax, %es\n mov %ax, %fs\n mov %ax, %gs\n mov %dx, %ds\n"
    " mov %cr0, %eax\n and $0xfe, %al\n mov %eax, %cr0\n"
    " ljmp $0, $(L + 1f - low_code)\n"
    "1: xor %ax, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov $0x4000, %sp\n"
    " lidt L + real_idt - low_code\n"
    " call *(L + routine - low_code)\n"
    " cli\n xor %ax, %ax\n mov %ax, %ds\n"
    " lidtl L + save_idt - low_code\n"
    " mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n"
    " ljmpl $0x08, $(L + 1f - low_code)\n"
    "  .code32\n"
    "1: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n mov %eax, %fs\n mov "
    "%eax, %gs\n"
    " mov L + save_sp - low_code, %esp\n popa\n ret\n"

    "low_call_pm16:\n"
    " pusha\n mov %esp, L + save_sp - low_code\n mov %eax, L + routine - low_code\n"
    " ljmp $0x40, $(L + 1f - low_code)\n"
    "  .code16\n"
    "1: mov $0x48, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov $0xabcd4000, %esp\n"
    " call *(L + routine - low_code)\n"
    " ljmpl $0x08, $(L + 9f - low_code)\n"
    "  .code32\n"
    "9: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
    " mov L + save_sp - low_code, %esp\n popa\n ret\n"

    "  .balign 4\n"
    "save_sp: .long 0\n routine: .long 0\n save_idt: .word 0\n .long 0\n"
    "  .balign 4\n"
    "real_idt: .word 0x3ff\n .long 0\n"

    "  .code16\n"
    /* The handler notes the three words of the frame, SP and flags, and returns SKIP bytes further.
     */
    "handler: push %bp\n mov %sp, %bp\n push %ax\n"
    " mov 2(%bp), %ax\n mov %ax, 0x4000+2\n mov 4(%bp), %ax\n mov %ax, 0x4000+4\n mov 6(%bp), "
    "%ax\n mov %ax, 0x4000+6\n"
    " mov %bp, 0x4000+8\n pushf\n pop %ax\n mov %ax, 0x4000+10\n"
    " incw 0x4000\n mov 0x4100, %ax\n add %ax, 2(%bp)\n pop %ax\n pop %bp\n iret\n"
    "h_timer: push %ax\n incw 0x4000\n mov $0x20, %al\n out %al, $0x20\n pop %ax\n iret\n"

    "r_smsw: smsw %ax\n mov %ax, 0x4000\n mov %cs, %ax\n mov %ax, 0x4000+2\n ret\n"
    "r_segment: mov $0x480, %ax\n mov %ax, %es\n mov %es:4, %ax\n mov %ax, 0x4000\n"
    " mov $0xffff, %ax\n mov %ax, %fs\n mov %fs:0x10, %al\n mov %al, 0x4000+2\n"
    " mov $0xfff0, %bx\n mov $0x20, %si\n mov %es:(%bx,%si), %al\n mov %al, 0x4000+4\n ret\n"
    "r_int42: std\n sti\n int $0x42\n cli\n cld\n mov %sp, 0x4000+12\n ret\n"
    "r_ud: ud2\n mov $0x77, %al\n mov %al, 0x4000+14\n ret\n"
    "r_div: xor %cx, %cx\n div %cx\n ret\n"
    "r_limit: mov $0xffff, %si\n mov (%si), %ax\n ret\n"
    "r_limit32: mov $0x10000, %esi\n addr32 mov (%esi), %al\n nop\n ret\n"
    "r_unreal: mov $0x100000, %esi\n addr32 mov (%esi), %eax\n mov %eax, 0x4000\n"
    " mov $0x480, %ax\n mov %ax, %ds\n addr32 mov 0x100000-0x4800(%esi), %eax\n"
    " xor %cx, %cx\n mov %cx, %ds\n mov %eax, 0x4000+4\n ret\n"
    "r_bound: movw $10, 0x4800\n movw $20, 0x4802\n mov $5, %ax\n bound %ax, 0x4800\n nop\n nop\n "
    "ret\n"
    "r_stac: stac\n pushfl\n pop %eax\n mov %eax, 0x4000+16\n clac\n ret\n"
    "r_lldt: lldt %ax\n nop\n ret\n"
    "r_rep: mov $0x12344, %ecx\n mov $0xfffe, %si\n mov $0x4800, %di\n mov $4, %cx\n"
    " push %ds\n mov $0x300, %ax\n mov %ax, %ds\n rep movsb\n pop %ds\n"
    " mov %cx, 0x4000\n mov %si, 0x4000+2\n mov %di, 0x4000+4\n ret\n"
    "r_size: pushl $0x12345678\n pop %ax\n pop %bx\n mov %ax, 0x4000\n mov %bx, 0x4000+2\n"
    " mov %sp, 0x4000+4\n pushal\n mov %sp, 0x4000+6\n popal\n ret\n"
    "r_far: lcall $0x100, $(1f - low_code)\n mov $0x55, %al\n mov %al, 0x4000+2\n ret\n"
    "1: mov %cs, %ax\n mov %ax, 0x4000\n lret\n"
    "r_stack: mov %sp, %bp\n xor %sp, %sp\n mov $0x700, %ax\n mov %ax, %ss\n push %ax\n mov %sp, "
    "0x4000\n"
    " xor %ax, %ax\n mov %ax, %ss\n mov %bp, %sp\n ret\n"
    "r_hlt: sti\n hlt\n cli\n ret\n"
    "r_movcr0: mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n nop\n ret\n"

    "p_state: mov %sp, 0x4000\n mov %esp, %eax\n shr $16, %eax\n mov %ax, 0x4000+2\n smsw %ax\n "
    "mov %ax, 0x4000+4\n"
    " mov %cs, %ax\n mov %ax, 0x4000+6\n pushw $1\n mov %sp, 0x4000+8\n pop %ax\n ret\n"
    "p_int: mov %sp, 0x4000+12\n int $0x83\n mov %sp, 0x4000+14\n ret\n"
    "low_end:\n"
    "  .code32\n");
extern const uint8_t low_code[], low_end[], low_call_real[], low_call_pm16[], handler[], h_timer[],
    r_smsw[], r_segment[], r_int42[], r_ud[], r_div[], r_limit[], r_limit32[], r_unreal[],
    r_bound[], r_stac[], r_lldt[], r_rep[], r_size[], r_far[], r_stack[], r_hlt[], r_movcr0[],
    p_state[], p_int[];
#define LOW(label) (LOW_AT + (uint32_t)((label)-low_code))

static volatile uint16_t *const results = (uint16_t *)RESULTS;

static void call_low(const uint8_t *how, const uint8_t *routine, unsigned hidden_ds)
{
    memset((void *)RESULTS, 0, 64);
    /* Both routines save all general registers. */
    asm volatile("call *%2" : : "a"(LOW(routine)), "d"(hidden_ds), "r"(LOW(how)) : "memory", "cc");
}

/* skip_bytes: the length of the instruction that is meant to fault. */
static void real(const uint8_t *routine, unsigned skip_bytes)
{
    *(volatile uint16_t *)SKIP = (uint16_t)skip_bytes;
    call_low(low_call_real, routine, SEL_KDATA16);
}

static void ivt_set(unsigned vec, const uint8_t *handler)
{
    ((volatile uint32_t *)0)[vec] = LOW(handler);
}

static void addressing(void)
{
    memset((void *)0x4800, 0, 64);
    *(volatile uint16_t *)0x4804 = 0xcafe;
    *(volatile uint8_t *)0x4810 = 0x42;
    real(r_smsw, 0);
    EXPECT_EQ(results[0] & 1, 0, "PE is clear in real mode");
    EXPECT_EQ(results[1], 0, "CS after the far jump");
    real(r_segment, 0);
    EXPECT_EQ(results[0], 0xcafe, "ES = 480h is at 4800h");
    EXPECT_EQ(results[1] & 0xff, *(uint8_t *)0x100000, "FFFF:0010 is at 1 MB: A20 is on");
    EXPECT_EQ(results[2] & 0xff, 0x42, "BX+SI wraps at 64 KB");
    real(r_far, 0);
    EXPECT_EQ(results[0], 0x100, "far call loads CS");
    EXPECT_EQ(results[1], 0x55, "far return comes back");
    real(r_stack, 0);
    EXPECT_EQ(results[0], 0xfffe, "SP wraps");
    real(r_size, 0);
    EXPECT_EQ(results[0], 0x5678, "a 32-bit push: low word");
    EXPECT_EQ(results[1], 0x1234, "high word");
    EXPECT_EQ(results[2] - results[3], 32, "PUSHAD");
    memset((void *)0x12ffe, 0, 2);
    *(volatile uint8_t *)0x12ffe = 0x11;
    *(volatile uint8_t *)0x12fff = 0x22;
    *(volatile uint8_t *)0x3000 = 0x33;
    *(volatile uint8_t *)0x3001 = 0x44;
    real(r_rep, 0);
    EXPECT_EQ(*(volatile uint32_t *)0x4800, 0x44332211, "REP MOVSB: SI wraps at 64 KB");
    EXPECT_EQ(results[0], 0, "CX is 0");
    EXPECT_EQ(results[1], 2, "SI");
    EXPECT_EQ(results[2], 0x4804, "DI");
}

static void interrupts(void)
{
    ivt_set(0x42, handler);
    real(r_int42, 0);
    EXPECT_EQ(results[0], 1, "INT n through the interrupt vector table");
    EXPECT_EQ(results[1], LOW(r_int42) + 4, "return IP");
    EXPECT_EQ(results[2], 0, "return CS");
    EXPECT_EQ(results[3] & (FLAG_IF | FLAG_DF), FLAG_IF | FLAG_DF, "flags");
    EXPECT_EQ(results[5] & (FLAG_IF | FLAG_DF), FLAG_DF, "IF is clear in the handler, DF is not");
    EXPECT_EQ(results[4], 0x4000 - 2 - 6 - 2, "six bytes of frame");
    EXPECT_EQ(results[6], 0x4000 - 2, "all gone after IRET");

    ivt_set(VEC_UD, handler);
    real(r_ud, 2);
    EXPECT_EQ(results[0], 1, "#UD is interrupt 6");
    EXPECT_EQ(results[1], LOW(r_ud), "with the instruction's IP");
    EXPECT_EQ(results[7], 0x77, "and goes on");
    ivt_set(VEC_DE, handler);
    real(r_div, 2);
    EXPECT_EQ(results[0], 1, "#DE is interrupt 0");
    EXPECT_EQ(results[1], LOW(r_div) + 2, "with the instruction's IP");
    ivt_set(VEC_GP, handler);
    real(r_limit, 2);
    tcg_deviates("has no segment limits");
    EXPECT_EQ(results[0], 1, "a word at FFFFh: interrupt 13");
    tcg_deviates("has no segment limits");
    EXPECT_EQ(results[4], 0x4000 - 2 - 6 - 2, "without an error code");
    ivt_set(VEC_BR, handler);
    real(r_bound, 4);
    EXPECT_EQ(results[0], 1, "BOUND is interrupt 5");
    if (has_smap()) {
        real(r_stac, 3);
        EXPECT_EQ(results[0], 0, "STAC is there in real mode");
        EXPECT_EQ(results[9] & FLAG_AC >> 16, FLAG_AC >> 16, "and sets AC");
    }
    real(r_lldt, 3);
    EXPECT_EQ(results[0], 1, "LLDT is undefined: interrupt 6");
    if (on_tcg()) {
        skip("TCG does not check CR0 and goes astray", "CR0.PG without PE");
        return;
    }
    real(r_movcr0, 3);
    EXPECT_EQ(results[0], 1, "CR0.PG without PE: interrupt 13");
}

static void timer(void)
{
    pic_init(0x20);
    ivt_set(0x20, h_timer);
    outb(0x43, 0x30); /* channel 0, mode 0: one interrupt */
    outb(0x40, 0x00);
    outb(0x40, 0x20);
    pic_unmask(0);
    real(r_hlt, 0);
    pic_mask_all();
    EXPECT_EQ(results[0], 1, "a timer interrupt ends HLT in real mode");
}

static void unreal(void)
{
    volatile uint32_t *high = (uint32_t *)0x200000;

    *high = 0x600df00d;
    /* DS keeps the hidden limit of 4 GB that it brought from protected mode; a load in real mode
     * changes its base only. */
    call_low(low_call_real, r_unreal, SEL_KDATA);
    EXPECT_EQ(results[0] | (uint32_t)results[1] << 16, *(uint32_t *)0x100000,
              "unreal mode reaches 1 MB");
    EXPECT_EQ(results[2] | (uint32_t)results[3] << 16, *high, "and 2 MB after DS was loaded");
    ivt_set(VEC_GP, handler);
    real(r_limit32, 3);
    tcg_deviates("has no segment limits");
    EXPECT_EQ(results[0], 1, "with the limit of 64 KB it does not");
}

static void protected_16(void)
{
    call_low(low_call_pm16, p_state, 0);
    EXPECT_EQ(results[2] & 1, 1, "16-bit protected mode has PE");
    EXPECT_EQ(results[3], SEL_KCODE16, "CS");
    EXPECT_EQ(results[1], 0xabcd, "the upper half of ESP is kept");
    EXPECT_EQ(results[4], results[0] - 2, "a push takes two bytes");
    idt[0x83].lo = gate(SEL_KCODE16, LOW(handler), 0x86, 0);
    *(volatile uint16_t *)SKIP = 0;
    call_low(low_call_pm16, p_int, 0);
    EXPECT_EQ(results[0], 1, "INT n through a 16-bit interrupt gate");
    EXPECT_EQ(results[2], SEL_KCODE16, "CS in the frame");
    EXPECT_EQ(results[4], results[6] - 8, "the frame has 16-bit words");
    EXPECT_EQ(results[7], results[6], "IRET takes it away");
}

static word_t lmsw_0(word_t a, word_t b)
{
    (void)b;
    asm volatile("lmsw %w0" : : "r"(a));
    return read_cr0();
}

static void lmsw(void)
{
    struct trap t = try(lmsw_0, CR0_TS, 0);

    EXPECT_TRAP(&t, VEC_NONE, 0, "LMSW");
    EXPECT_EQ(t.f.ax & (CR0_PE | CR0_TS), CR0_PE | CR0_TS, "cannot clear PE, sets TS");
    clts();
    write_cr0(read_cr0() | CR0_MP);
}

int main(void)
{
    low_install(low_code, low_end);
    addressing();
    interrupts();
    timer();
    unreal();
    protected_16();
    lmsw();
    return 0;
}
