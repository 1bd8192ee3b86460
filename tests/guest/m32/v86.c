/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual-8086 mode: entry and exit, what IOPL and the I/O map allow, what is undefined there; with
 * the virtual-mode extensions the virtual interrupt flag and INT n by the redirection map; PVI. SDM
 * 3, "8086 Emulation".
 */
#include "guest.h"

/* Real-mode style addresses: segment V_CODE is LOW_AT. */
#define V_CODE  (LOW_AT >> 4)
#define V_STACK 0x300u
#define V_DATA  0x400u
#define V_SP    0x800u

asm("  .code16\n"
    "low_code:\n"
    "v_move:    mov %ds:2, %ax\n mov %ax, %es:4\n mov $0x1234, %bx\n hlt\n"
    "v_push:    push $0x77\n hlt\n"
    "v_cli:     cli\n hlt\n"
    "v_sti:     sti\n hlt\n"
    "v_sti_cli: sti\n cli\n hlt\n"
    "v_pushf:   pushf\n pop %ax\n hlt\n"
    "v_pushfl:  pushfl\n pop %eax\n hlt\n"
    "v_popf:    pushw $0x3fd7\n popfw\n hlt\n"
    "v_popf0:   pushw $0\n popfw\n hlt\n"
    "v_iret:    pushw $0x0293\n pushw %cs\n pushw $(1f - low_code)\n iretw\n"
    "1:         hlt\n"
    "v_int42:   int $0x42\n mov $0x9999, %cx\n hlt\n"
    "v_int80:   int $0x80\n hlt\n"
    "v_int3:    int3\n hlt\n"
    "v_into:    mov $0x7fff, %ax\n inc %ax\n into\n hlt\n"
    "v_in:      mov $0x61, %dx\n in %dx, %al\n hlt\n"
    "v_inw:     mov $0x60, %dx\n in %dx, %ax\n hlt\n"
    "v_far:     ljmp $0x110, $(1f - low_code - 0x100)\n"
    "  .skip 0x100\n"
    "1:         mov %cs, %ax\n hlt\n"
    "v_wrap:    mov $0xffff, %si\n mov (%si), %al\n mov (%si), %ax\n hlt\n"
    "v_lar:     lar %ax, %bx\n hlt\n"
    "v_str:     str %ax\n hlt\n"
    "v_lldt:    lldt %ax\n hlt\n"
    "v_arpl:    .byte 0x63, 0xc0\n hlt\n"
    "v_movcr:   mov %cr0, %eax\n hlt\n"
    "v_lmsw:    lmsw %ax\n hlt\n"
    "v_smsw:    smsw %ax\n hlt\n"
    "v_clts:    clts\n hlt\n"
    "v_seg:     mov $0xffff, %ax\n mov %ax, %fs\n mov %fs:0x10, %bl\n hlt\n"
    "v_ivt:     mov $0x4242, %si\n pushf\n pop %di\n mov %sp, %bp\n iretw\n"
    "low_code_end:\n"
    "  .code32\n");
extern const uint8_t low_code[], low_code_end[], v_move[], v_push[], v_cli[], v_sti[], v_sti_cli[],
    v_pushf[], v_pushfl[], v_popf[], v_popf0[], v_iret[], v_int42[], v_int80[], v_int3[], v_into[],
    v_in[], v_inw[], v_far[], v_wrap[], v_lar[], v_str[], v_lldt[], v_arpl[], v_movcr[], v_lmsw[],
    v_smsw[], v_clts[], v_seg[], v_ivt[];

static word_t enter_v86(word_t ip, word_t flags)
{
    asm volatile("push %4\n\tpush %4\n\tpush %3\n\tpush %3\n\t" /* GS, FS, DS, ES */
                 "push %5\n\tpush %6\n\tpush %1\n\tpush %2\n\tpush %0\n\t"
                 "mov $0x5a5a5a5a, %%eax\n\tmov %%eax, %%ebx\n\tmov %%eax, %%ecx\n\tiret"
                 :
                 : "a"(ip), "b"(flags | FLAG_VM | 2), "i"(V_CODE), "i"(V_DATA), "i"(0),
                   "i"(V_STACK), "i"(V_SP)
                 : "memory");
    return 0;
}

/* Runs until an exception; the normal end is HLT's #GP(0). */
static struct trap v86(const uint8_t *code, word_t flags)
{
    return try(enter_v86, (word_t)(code - low_code), flags);
}

/* Was it the end of the snippet? All snippets end with HLT, and are told apart from other #GPs by
 * the byte at CS:IP. */
static bool finished(const struct trap *t)
{
    return t->vec == VEC_GP && t->err == 0 && read8((void *)((t->f.cs << 4) + t->f.ip)) == 0xf4;
}
#define EXPECT_DONE(t, ...)                                                                  \
    do {                                                                                     \
        if (!EXPECT(finished(t), __VA_ARGS__))                                               \
            print("# vector %u error %x at %x:%x\n", (unsigned)(t)->vec, (unsigned)(t)->err, \
                  (unsigned)(t)->f.cs, (unsigned)(t)->f.ip);                                 \
    } while (0)

static void basics(void)
{
    volatile uint16_t *data = (uint16_t *)(V_DATA << 4);
    struct trap t;

    data[1] = 0xabcd;
    t = v86(v_move, 0);
    EXPECT_DONE(&t, "real-mode code runs");
    EXPECT_EQ(data[2], 0xabcd, "segments are 16 bytes apart");
    EXPECT_EQ(t.f.ax, 0x5a5aabcd, "AX, upper half kept");
    EXPECT_EQ(t.f.flags & FLAG_VM, FLAG_VM, "the frame has VM");
    EXPECT_EQ(t.f.cs, V_CODE, "the frame has CS");
    EXPECT_EQ(t.f.ss, V_STACK, "SS");
    EXPECT_EQ(t.f.sp, V_SP, "SP");
    EXPECT_EQ(t.f.v_ds, V_DATA, "DS");
    EXPECT_EQ(t.f.v_es, V_DATA, "ES");
    t = v86(v_push, 0);
    EXPECT_EQ(t.f.sp, V_SP - 2, "a push of 16 bits");
    EXPECT_EQ(*(uint16_t *)((V_STACK << 4) + V_SP - 2), 0x77, "lands on SS:SP");
    t = v86(v_far, 0);
    EXPECT_DONE(&t, "far jump");
    EXPECT_EQ(t.f.ax & 0xffff, 0x110, "CS takes any value");
    t = v86(v_seg, 0);
    EXPECT_DONE(&t, "FS = FFFFh reaches above 1 MB");
    EXPECT_EQ(t.f.bx & 0xff, *(uint8_t *)0x100000, "without wrapping");
    t = v86(v_wrap, 0);
    tcg_deviates("has no segment limits");
    EXPECT(t.vec == VEC_GP && !finished(&t), "a word across 64 KB: #GP(0)");
    t = v86(v_smsw, 0);
    EXPECT_DONE(&t, "SMSW is allowed");
}

static void iopl(void)
{
    static const struct {
        const char *what;
        const uint8_t *code;
    } sensitive[] = { { "CLI", v_cli },    { "STI", v_sti_cli }, { "PUSHF", v_pushf },
                      { "POPF", v_popf0 }, { "IRET", v_iret },   { "PUSHFD", v_pushfl } };
    struct trap t;

    for (unsigned i = 0; i < ARRAY_SIZE(sensitive); i++) {
        t = v86(sensitive[i].code, 0);
        EXPECT(t.vec == VEC_GP && t.err == 0 && !finished(&t), "%s with IOPL 0: #GP(0)",
               sensitive[i].what);
        t = v86(sensitive[i].code, FLAG_IOPL3);
        EXPECT_DONE(&t, "%s with IOPL 3", sensitive[i].what);
    }
    t = v86(v_pushfl, FLAG_IOPL3);
    EXPECT_EQ(t.f.ax & (FLAG_VM | FLAG_RF), 0, "PUSHFD shows neither VM nor RF");
    t = v86(v_popf, FLAG_IOPL3);
    EXPECT_EQ(t.f.flags & (FLAG_IOPL3 | FLAG_VM), FLAG_IOPL3 | FLAG_VM,
              "POPF changes neither IOPL nor VM");
    EXPECT_EQ(t.f.flags & 0xdd5, 0xdd5 & 0x3fd7, "but the others");
    t = v86(v_iret, FLAG_IOPL3);
    EXPECT_EQ(t.f.flags & 0xff, 0x93, "IRET loads flags");

    t = v86(v_int80, 0);
    EXPECT(t.vec == VEC_GP && t.err == 0 && !finished(&t), "INT n with IOPL 0: #GP(0)");
    t = v86(v_int80, FLAG_IOPL3);
    EXPECT_TRAP(&t, 0x80, 0, "INT n with IOPL 3 goes through the IDT");
    t = v86(v_int42, FLAG_IOPL3);
    EXPECT_TRAP(&t, VEC_GP, 0x42 * 8 + 2, "a gate of DPL 0");
    t = v86(v_int3, 0);
    EXPECT_TRAP(&t, VEC_BP, 0, "INT3 does not ask IOPL");
    t = v86(v_into, 0);
    EXPECT_TRAP(&t, VEC_OF, 0, "nor does INTO");
    {
        uint64_t was = idt[0x80].lo;

        idt[0x80].lo = gate(SEL_UCODE32, (uint32_t)trap_stub(0x80), GATE_INT | ACC_DPL(3), 0);
        t = v86(v_int80, FLAG_IOPL3);
        idt[0x80].lo = was;
        EXPECT_TRAP(&t, VEC_GP, SEL_UCODE32, "a handler outside ring 0");
    }
}

static void io_map(void)
{
    struct trap t = v86(v_in, FLAG_IOPL3);

    EXPECT(t.vec == VEC_GP && !finished(&t),
           "IN of a port whose bit is set: #GP(0), whatever IOPL is");
    tss.bitmap[0x61 / 8] &= (uint8_t) ~(1u << (0x61 & 7));
    t = v86(v_in, 0);
    EXPECT_DONE(&t, "IN of a port whose bit is clear");
    t = v86(v_inw, 0);
    EXPECT(t.vec == VEC_GP && !finished(&t), "a word needs both bits");
    tss.bitmap[0x61 / 8] = 0xff;
}

static void undefined(void)
{
    static const struct {
        const char *what;
        const uint8_t *code;
        unsigned vec;
    } insns[] = { { "LAR", v_lar, VEC_UD },       { "STR", v_str, VEC_UD },
                  { "LLDT", v_lldt, VEC_UD },     { "ARPL", v_arpl, VEC_UD },
                  { "MOV CR0", v_movcr, VEC_GP }, { "LMSW", v_lmsw, VEC_GP },
                  { "CLTS", v_clts, VEC_GP } };

    for (unsigned i = 0; i < ARRAY_SIZE(insns); i++) {
        struct trap t = v86(insns[i].code, FLAG_IOPL3);

        EXPECT(t.vec == insns[i].vec && t.f.ip == (word_t)(insns[i].code - low_code),
               "%s: vector %u", insns[i].what, insns[i].vec);
    }
}

static void vme(void)
{
    uint32_t *ivt = (uint32_t *)(0x42 * 4);
    const uint32_t was = *ivt;
    struct trap t;

    write_cr4(read_cr4() | CR4_VME);
    memset(tss.intmap, 0xff, sizeof(tss.intmap));
    t = v86(v_sti, 0);
    EXPECT_DONE(&t, "VME: STI with IOPL 0");
    EXPECT_EQ(t.f.flags & (FLAG_VIF | FLAG_IF), FLAG_VIF, "VME: sets VIF, not IF");
    t = v86(v_cli, FLAG_VIF | FLAG_IF);
    EXPECT_DONE(&t, "VME: CLI with IOPL 0");
    EXPECT_EQ(t.f.flags & (FLAG_VIF | FLAG_IF), FLAG_IF, "VME: clears VIF, not IF");
    t = v86(v_sti, FLAG_VIP);
    EXPECT(t.vec == VEC_GP && !finished(&t), "VME: STI with VIP: #GP(0)");
    t = v86(v_pushf, FLAG_VIF);
    EXPECT_DONE(&t, "VME: PUSHF with IOPL 0");
    EXPECT_EQ(t.f.ax & (FLAG_IF | FLAG_IOPL3), FLAG_IF | FLAG_IOPL3,
              "VME: shows VIF as IF, and IOPL 3");
    t = v86(v_popf0, FLAG_VIF | FLAG_IF);
    EXPECT_DONE(&t, "VME: POPF with IOPL 0");
    EXPECT_EQ(t.f.flags & (FLAG_VIF | FLAG_IF), FLAG_IF, "VME: loads VIF, not IF");
    t = v86(v_popf, FLAG_VIP);
    EXPECT(t.vec == VEC_GP && !finished(&t), "VME: POPF with TF: #GP(0)");
    t = v86(v_pushfl, 0);
    EXPECT(t.vec == VEC_GP && !finished(&t), "VME: PUSHFD with IOPL 0: #GP(0)");
    t = v86(v_iret, 0);
    EXPECT_DONE(&t, "VME: IRET with IOPL 0");
    EXPECT_EQ(t.f.flags & (FLAG_VIF | FLAG_IF), FLAG_VIF, "VME: IRET loads VIF");

    t = v86(v_int42, 0);
    EXPECT(t.vec == VEC_GP && t.err == 0 && !finished(&t), "VME: INT n, bit set, IOPL 0: #GP(0)");
    tss.intmap[0x42 / 8] &= (uint8_t) ~(1u << (0x42 & 7));
    *ivt = V_CODE << 16 | (uint32_t)(v_ivt - low_code);
    t = v86(v_int42, FLAG_VIF);
    EXPECT_DONE(&t, "VME: INT n, bit clear: through the interrupt vector table");
    EXPECT_EQ(t.f.si & 0xffff, 0x4242, "VME: its handler ran");
    EXPECT_EQ(t.f.cx & 0xffff, 0x9999, "VME: and returned");
    EXPECT_EQ(t.f.di & FLAG_IF, 0, "VME: with VIF clear in the handler");
    EXPECT_EQ(t.f.bp & 0xffff, V_SP - 6, "VME: three words on the stack");
    EXPECT_EQ(t.f.flags & FLAG_VIF, FLAG_VIF, "VME: and set after");
    EXPECT_EQ(*(uint16_t *)((V_STACK << 4) + V_SP - 2) & (FLAG_IF | FLAG_IOPL3),
              FLAG_IF | FLAG_IOPL3, "VME: pushed flags show VIF as IF, and IOPL 3");
    t = v86(v_int42, FLAG_IOPL3 | FLAG_IF);
    EXPECT_DONE(&t, "VME: with IOPL 3 too");
    EXPECT_EQ(t.f.di & FLAG_IF, 0, "VME: then IF is cleared");
    EXPECT_EQ(t.f.flags & FLAG_IF, FLAG_IF, "VME: and restored");
    *ivt = was;
    write_cr4(read_cr4() & ~(word_t)CR4_VME);
}

static word_t user_sti(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("sti");
    return read_flags();
}

static word_t user_cli(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("cli");
    return read_flags();
}

static void pvi(void)
{
    struct trap t = try_user(user_cli, 0, 0);

    EXPECT_TRAP(&t, VEC_GP, 0, "CLI at CPL 3 with IOPL 0");
    write_cr4(read_cr4() | CR4_PVI);
    t = try_user(user_sti, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "PVI: STI");
    EXPECT_EQ(t.f.flags & (FLAG_VIF | FLAG_IF), FLAG_VIF, "PVI: sets VIF");
    user_flags = 2 | FLAG_VIF;
    t = try_user(user_cli, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "PVI: CLI");
    EXPECT_EQ(t.f.flags & FLAG_VIF, 0, "PVI: clears VIF");
    user_flags = 2 | FLAG_VIP;
    t = try_user(user_sti, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "PVI: STI with VIP");
    user_flags = 2;
    write_cr4(read_cr4() & ~(word_t)CR4_PVI);
}

int main(void)
{
    low_install(low_code, low_code_end);
    basics();
    iopl();
    io_map();
    undefined();
    if (cpuid(1, 0).d & 2) {
        vme();
        pvi();
    } else {
        skip("not in this CPU model", "VME and PVI");
    }
    return 0;
}
