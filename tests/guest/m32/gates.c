/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Far calls, call gates, returns and interrupt gates, within a ring and across rings.
 * SDM 3, "Protection": "Call Gates", "Stack Switching", "Returning from a Called Procedure";
 * "Exception- and Interrupt-Handler Procedures"; SDM 2, CALL, RET, IRET, INT n.
 */
#include "guest.h"

#define S(n)        (SEL_FREE + 8 * (n))
#define GATE        S(0) /* the gate under test */
#define CODE        S(1) /* a code segment under test */
#define SEL_CODE1   S(2) /* ring 1 */
#define SEL_DATA1   S(3)
#define CALL_GATE32 0x8cu
#define CALL_GATE16 0x84u
#define FLAT_CODE   (ACC_CODE | DESC_D | DESC_G)
#define FLAT_DATA   (ACC_DATA | DESC_D | DESC_G)

/* What a gate's target saw. */
struct seen {
    word_t sp, cs, ss, flags, stack[8];
} seen;
static uint8_t stack1[4096] __attribute__((aligned(16)));

/* Targets note their state in `seen` and return, dropping 0 or 2 parameters. DS is flat for all
 * rings or loaded here. */
asm(".macro NOTE\n"
    "push %ds\n push %eax\n push %ecx\n"
    "mov %ss, %eax\n mov %eax, %ds\n" /* flat, and good for this ring */
    "mov %esp, %eax\n add $12, %eax\n mov %eax, seen\n"
    "mov %cs, %eax\n mov %eax, seen+4\n mov %ss, %eax\n mov %eax, seen+8\n"
    "pushf\n pop %eax\n mov %eax, seen+12\n"
    "mov seen, %ecx\n"
    "mov (%ecx), %eax\n mov %eax, seen+16\n mov 4(%ecx), %eax\n mov %eax, seen+20\n"
    "mov 8(%ecx), %eax\n mov %eax, seen+24\n mov 12(%ecx), %eax\n mov %eax, seen+28\n"
    "mov 16(%ecx), %eax\n mov %eax, seen+32\n mov 20(%ecx), %eax\n mov %eax, seen+36\n"
    "pop %ecx\n pop %eax\n pop %ds\n"
    ".endm\n"
    "target_plain: NOTE\n lret\n"
    "target_params: NOTE\n lret $8\n"
    "target_params16: NOTE\n lretw $4\n"
    "target_iret: NOTE\n iret\n");
extern uint8_t target_plain[], target_params[], target_params16[], target_iret[];

/* Results: ESP before minus ESP after. */
static word_t call_gate(word_t a, word_t b)
{
    word_t diff;

    (void)a, (void)b;
    asm volatile("mov %%esp, %%ebx\n\tlcall %1, $0\n\tsub %%esp, %%ebx\n\tmov %%ebx, %0"
                 : "=r"(diff)
                 : "i"(GATE)
                 : "ebx", "memory");
    return diff;
}

static word_t call_gate_params(word_t a, word_t b)
{
    word_t diff;

    (void)a, (void)b;
    asm volatile("mov %%esp, %%ebx\n\tpush $0x2222\n\tpush $0x1111\n\tlcall %1, $0\n\tsub %%esp, "
                 "%%ebx\n\tmov %%ebx, %0"
                 : "=r"(diff)
                 : "i"(GATE)
                 : "ebx", "memory");
    return diff;
}

static word_t call_gate_params16(word_t a, word_t b)
{
    word_t diff;

    (void)a, (void)b;
    asm volatile("mov %%esp, %%ebx\n\tpushw $0x2222\n\tpushw $0x1111\n\tlcall %1, $0\n\tsub %%esp, "
                 "%%ebx\n\tmov %%ebx, %0"
                 : "=r"(diff)
                 : "i"(GATE)
                 : "ebx", "memory");
    return diff;
}

struct far_ptr {
    uint32_t off;
    uint16_t sel;
} __attribute__((packed));

static word_t far_call(word_t sel, word_t off)
{
    struct far_ptr p = { off, (uint16_t)sel };

    asm volatile("lcall *%0" : : "m"(p) : "memory");
    return 0;
}

static word_t far_jump(word_t sel, word_t off)
{
    struct far_ptr p = { off, (uint16_t)sel };

    asm volatile("push %%ebx\n\tmov %%esp, %%ebx\n\tpush %%cs\n\tpush $1f\n\tljmp *(%0)\n1:\tmov "
                 "%%ebx, %%esp\n\tpop %%ebx"
                 :
                 : "a"(&p), "m"(p)
                 : "memory");
    return 0;
}

static void call_gates(void)
{
    struct trap t;

    GDT(GATE) = gate(SEL_KCODE, (uint32_t)target_plain, CALL_GATE32 | ACC_DPL(3), 0);
    t = try(call_gate, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "call gate within ring 0");
    EXPECT_EQ(t.f.ax, 0, "balanced");
    EXPECT_EQ(seen.cs, SEL_KCODE, "target's CS");
    EXPECT_EQ(seen.stack[1], SEL_KCODE, "caller's CS on the stack");
    t = try_user(call_gate, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "call gate from ring 3 to ring 0");
    EXPECT_EQ(t.f.ax, 0, "balanced");
    EXPECT_EQ(seen.cs, SEL_KCODE, "at CPL 0");
    EXPECT_EQ(seen.ss, SEL_KDATA, "on the TSS's stack segment");
    EXPECT_EQ(seen.sp, tss.esp0 - 16, "four words below the TSS's stack pointer");
    EXPECT_EQ(seen.stack[1], SEL_UCODE32 | 3, "caller's CS");
    EXPECT_EQ(seen.stack[3], SEL_UDATA | 3, "caller's SS");

    GDT(GATE) = gate(SEL_KCODE, (uint32_t)target_params, CALL_GATE32 | ACC_DPL(3), 2);
    t = try_user(call_gate_params, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "with two parameters");
    EXPECT_EQ(t.f.ax, 0, "both stacks drop them");
    EXPECT_EQ(seen.sp, tss.esp0 - 24, "six words");
    EXPECT_EQ(seen.stack[2], 0x1111, "the last pushed parameter first");
    EXPECT_EQ(seen.stack[3], 0x2222, "then the other");
    EXPECT_EQ(seen.stack[5], SEL_UDATA | 3, "then the caller's stack");
    t = try(call_gate_params, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "within ring 0 parameters are not copied");
    EXPECT_EQ(seen.stack[2], 0x1111, "they are where they were pushed");

    GDT(GATE) = gate(SEL_KCODE, (uint32_t)target_params16, CALL_GATE16 | ACC_DPL(3), 2);
    /* 16 bits of offset are all such a gate has; returns take 16 bits of EIP too: the guest is
     * above 64 KB, so only the way in is seen. */
    GDT(CODE) = descriptor((uint32_t)target_params16 & 0xffff0000, 0xfffff, FLAT_CODE);
    GDT(GATE) = gate(CODE, (uint32_t)target_params16 & 0xffff, CALL_GATE16 | ACC_DPL(3), 2);
    t = try_user(call_gate_params16, 0, 0);
    EXPECT_EQ(seen.sp, tss.esp0 - 12, "16-bit call gate: six 16-bit words");
    EXPECT_EQ(seen.stack[0] >> 16, SEL_UCODE32 | 3, "caller's CS");
    EXPECT_EQ(seen.stack[1], 0x22221111, "parameters of 16 bits");
    EXPECT_EQ(seen.stack[2] >> 16, SEL_UDATA | 3, "caller's SS");
}

struct gate_case {
    const char *what;
    uint64_t gate, code;
    bool user;
    unsigned vec, err;
};

static void gate_refusals(void)
{
    const uint32_t at = (uint32_t)target_plain;
    const struct gate_case refusals[] = {
        { "gate of DPL 0 from ring 3", gate(SEL_KCODE, at, CALL_GATE32, 0), 0, true, VEC_GP, GATE },
        { "gate not present", gate(SEL_KCODE, at, 0x0c | ACC_DPL(3), 0), 0, true, VEC_NP, GATE },
        { "null target", gate(0, at, CALL_GATE32, 0), 0, false, VEC_GP, 0 },
        { "target is data", gate(SEL_KDATA, at, CALL_GATE32, 0), 0, false, VEC_GP, SEL_KDATA },
        { "target not present", gate(CODE, at, CALL_GATE32, 0),
          descriptor(0, 0xfffff, 0x1a | DESC_D | DESC_G), false, VEC_NP, CODE },
        { "target of DPL 3 from ring 0", gate(SEL_UCODE32, at, CALL_GATE32, 0), 0, false, VEC_GP,
          SEL_UCODE32 },
        { "target beyond the GDT", gate(0xfff8, at, CALL_GATE32, 0), 0, false, VEC_GP, 0xfff8 },
        { "an interrupt gate", gate(SEL_KCODE, at, GATE_INT, 0), 0, false, VEC_GP, GATE },
        { "target beyond its segment's limit", gate(CODE, at, CALL_GATE32, 0),
          descriptor(0, 0xff, ACC_CODE | DESC_D), false, VEC_GP, 0 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(refusals); i++) {
        const struct gate_case *c = &refusals[i];
        struct trap t;

        GDT(GATE) = c->gate;
        GDT(CODE) = c->code;
        t = (c->user ? try_user : try)(call_gate, 0, 0);
        if (c->vec == VEC_GP && !c->err && c->code)
            tcg_deviates("has no segment limits");
        EXPECT_TRAP(&t, c->vec, c->err, "call gate: %s", c->what);
    }
}

static void direct_transfers(void)
{
    const uint32_t at = (uint32_t)target_plain;
    struct trap t;

    t = try(far_call, SEL_KCODE, at);
    EXPECT_TRAP(&t, VEC_NONE, 0, "far call in ring 0");
    t = try(far_jump, SEL_KCODE, at);
    EXPECT_TRAP(&t, VEC_NONE, 0, "far jump in ring 0");
    t = try_user(far_call, SEL_UCODE32 | 3, at);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "far call in ring 3");
    t = try_user(far_call, SEL_KCODE, at);
    EXPECT_TRAP(&t, VEC_GP, SEL_KCODE, "far call from ring 3 to code of DPL 0");
    t = try(far_call, SEL_UCODE32, at);
    EXPECT_TRAP(&t, VEC_GP, SEL_UCODE32, "far call from ring 0 to code of DPL 3");
    t = try(far_call, SEL_KCODE | 3, at);
    EXPECT_TRAP(&t, VEC_GP, SEL_KCODE, "far call with an RPL above CPL");
    t = try(far_jump, 0, at);
    EXPECT_TRAP(&t, VEC_GP, 0, "far jump to a null selector");
    t = try(far_jump, SEL_KDATA, at);
    EXPECT_TRAP(&t, VEC_GP, SEL_KDATA, "far jump to data");
    GDT(CODE) = descriptor(0, 0xfffff, 0x1a | DESC_D | DESC_G);
    t = try(far_jump, CODE, at);
    EXPECT_TRAP(&t, VEC_NP, CODE, "far jump to code not present");
    GDT(CODE) = descriptor(0, 0xffff, ACC_CODE | DESC_D);
    t = try(far_jump, CODE, 0x10000);
    EXPECT_TRAP(&t, VEC_GP, 0, "far jump beyond the limit");
    EXPECT(t.f.cs == SEL_KCODE, "is refused before CS changes");
    GDT(GATE) = gate(SEL_KCODE, at, CALL_GATE32 | ACC_DPL(3), 0);
    t = try_user(far_jump, GATE, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_KCODE, "a jump through a call gate does not change the ring");

    GDT(CODE) = descriptor(0, 0xfffff, 0x9e | DESC_D | DESC_G);
    t = try_user(far_call, CODE, at);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "far call from ring 3 to conforming code of DPL 0");
    EXPECT_EQ(seen.cs, CODE | 3, "stays in ring 3");
    GDT(GATE) = gate(CODE, at, CALL_GATE32 | ACC_DPL(3), 0);
    t = try_user(call_gate, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "the same through a gate");
    tcg_deviates("takes the RPL from the DPL");
    EXPECT_EQ(seen.cs, CODE | 3, "stays in ring 3");
    GDT(CODE) = descriptor(0, 0xfffff, 0x9e | ACC_DPL(3) | DESC_D | DESC_G);
    t = try(far_call, CODE, at);
    EXPECT_TRAP(&t, VEC_GP, CODE, "far call from ring 0 to conforming code of DPL 3");
}

/* IRET or far RET to the given CS and SS from ring 0, with DS, ES flat and FS, GS as set by the
 * caller. */
struct way_out {
    uint32_t cs, ss, ds, fs;
    bool far_ret;
};

static word_t leave(word_t at, word_t b)
{
    const struct way_out *w = (const struct way_out *)at;
    void *sp = stack1 + sizeof(stack1);

    (void)b;
    asm volatile("mov %0, %%fs\n\tmov %1, %%gs" : : "r"(w->fs), "r"(w->ds));
    if (w->far_ret)
        asm volatile("push %0\n\tpush %1\n\tpush %2\n\tpush $outer\n\tlret"
                     :
                     : "r"(w->ss), "r"(sp), "r"(w->cs)
                     : "memory");
    else
        asm volatile("push %0\n\tpush %1\n\tpush $2\n\tpush %2\n\tpush $outer\n\tiret"
                     :
                     : "r"(w->ss), "r"(sp), "r"(w->cs)
                     : "memory");
    return 0;
}
asm("outer: mov %gs, %eax\n mov %fs, %ecx\n mov %cs, %edx\n int $0x80\n");

struct leave_case {
    const char *what;
    uint32_t cs, ss;
    unsigned vec, err;
};

static void returns(void)
{
    static const struct leave_case cases[] = {
        { "to ring 3", SEL_UCODE32 | 3, SEL_UDATA | 3, VEC_USER_END, 0 },
        { "to ring 1", SEL_CODE1 | 1, SEL_DATA1 | 1, VEC_USER_END, 0 },
        { "to a null CS", 0, SEL_UDATA | 3, VEC_GP, 0 },
        { "to ring 3 with a null SS", SEL_UCODE32 | 3, 0, VEC_GP, 0 },
        { "to ring 3 with SS of RPL 0", SEL_UCODE32 | 3, SEL_UDATA, VEC_GP, SEL_UDATA },
        { "to ring 3 with SS of DPL 0", SEL_UCODE32 | 3, SEL_KDATA | 3, VEC_GP, SEL_KDATA },
        { "to CS of DPL 0 with RPL 3", SEL_KCODE | 3, SEL_UDATA | 3, VEC_GP, SEL_KCODE },
        { "to CS of DPL 3 with RPL 1", SEL_UCODE32 | 1, SEL_UDATA | 3, VEC_GP, SEL_UCODE32 },
        { "to data", SEL_UDATA | 3, SEL_UDATA | 3, VEC_GP, SEL_UDATA },
        { "to CS not present", S(4) | 3, SEL_UDATA | 3, VEC_NP, S(4) },
        { "to SS not present", SEL_UCODE32 | 3, S(5) | 3, VEC_SS, S(5) },
        { "to SS read-only", SEL_UCODE32 | 3, S(6) | 3, VEC_GP, S(6) },
    };

    GDT(S(4)) = descriptor(0, 0xfffff, 0x7a | DESC_D | DESC_G);
    GDT(S(5)) = descriptor(0, 0xfffff, 0x72 | DESC_D | DESC_G);
    GDT(S(6)) = descriptor(0, 0xfffff, 0xf0 | DESC_D | DESC_G);
    for (unsigned far_ret = 0; far_ret < 2; far_ret++) {
        const char *how = far_ret ? "RETF" : "IRET";

        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            const struct leave_case *c = &cases[i];
            struct way_out w = { c->cs, c->ss, SEL_KDATA, SEL_UDATA | 3, far_ret };
            struct trap t = try(leave, (word_t)&w, 0);

            /* Bochs does too, for IRET; processors do not: see m64/compat.c. */
            if (c->vec == VEC_SS)
                tcg_deviates("raises #NP");
            EXPECT_TRAP(&t, c->vec, c->err, "%s %s", how, c->what);
            if (c->vec == VEC_USER_END && (c->cs & 3) == 3) {
                EXPECT_EQ(t.f.ax, 0, "%s: a segment of DPL 0 becomes null", how);
                EXPECT_EQ(t.f.cx, SEL_UDATA | 3, "%s: one of DPL 3 stays", how);
            }
        }
    }
}

static word_t ret_to_ring0(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("push %0\n\tpush $1f\n\tlret\n1:" : : "i"(SEL_KCODE) : "memory");
    return 0;
}

static word_t int_81(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("int $0x81");
    return read_flags();
}

static word_t int_80_gate3(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("int3");
    return 0;
}

static word_t ud(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("ud2");
    return 0;
}

static word_t int_with_if(word_t a, word_t b)
{
    (void)a, (void)b;
    write_flags(read_flags() | FLAG_IF | FLAG_NT);
    asm volatile("int $0x81");
    return read_flags();
}

static void interrupt_gates(void)
{
    const uint32_t at = (uint32_t)target_iret;
    struct table_ptr full = sidt(), shortened = { 0x81 * 8 - 1, full.base };
    uint64_t was;
    struct trap t;

    t = try_user(ret_to_ring0, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_KCODE, "RETF to an inner ring");

    idt[0x81].lo = gate(SEL_KCODE, at, GATE_INT, 0);
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0x81 * 8 + 2, "INT n at CPL 3 through a gate of DPL 0");
    t = try(int_with_if, 0, 0);
    EXPECT_EQ(seen.flags & (FLAG_IF | FLAG_NT), 0, "an interrupt gate clears IF and NT");
    EXPECT_EQ(t.f.ax & (FLAG_IF | FLAG_NT), FLAG_IF | FLAG_NT, "IRET brings them back");
    idt[0x81].lo = gate(SEL_KCODE, at, GATE_TRAP, 0);
    t = try(int_with_if, 0, 0);
    EXPECT_EQ(seen.flags & (FLAG_IF | FLAG_NT), FLAG_IF, "a trap gate clears NT only");
    EXPECT_EQ(seen.stack[2] & (FLAG_IF | FLAG_NT), FLAG_IF | FLAG_NT,
              "the flags on the stack are those before");
    idt[0x81].lo = gate(SEL_KCODE, at, 0x0e | ACC_DPL(3), 0);
    t = try(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_NP, 0x81 * 8 + 2, "a gate not present");
    idt[0x81].lo = gate(SEL_KCODE, at, CALL_GATE32, 0);
    t = try(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0x81 * 8 + 2, "a call gate in the IDT");
    idt[0x81].lo = gate(SEL_KDATA, at, GATE_INT, 0);
    t = try(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_KDATA, "a gate to data");
    idt[0x81].lo = gate(0, at, GATE_INT, 0);
    t = try(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "a gate to a null selector");
    idt[0x81].lo = gate(SEL_UCODE32, at, GATE_INT, 0);
    t = try(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, SEL_UCODE32, "a gate to an outer ring");
    lidt(&shortened);
    t = try(int_81, 0, 0);
    lidt(&full);
    EXPECT_TRAP(&t, VEC_GP, 0x81 * 8 + 2, "a vector beyond the IDT");

    was = idt[VEC_UD].lo;
    idt[VEC_UD].lo = gate(SEL_KCODE, at, 0x0e, 0);
    t = try(ud, 0, 0);
    idt[VEC_UD].lo = was;
    tcg_deviates("never sets EXT");
    EXPECT_TRAP(&t, VEC_NP, VEC_UD * 8 + 3, "an exception whose gate is not present: EXT is set");
    was = idt[VEC_BP].lo;
    idt[VEC_BP].lo = gate(SEL_KCODE, at, GATE_INT, 0);
    t = try_user(int_80_gate3, 0, 0);
    idt[VEC_BP].lo = was;
    EXPECT_TRAP(&t, VEC_GP, VEC_BP * 8 + 2, "INT3 at CPL 3 through a gate of DPL 0");

    GDT(CODE) = descriptor(0, 0xfffff, 0x9e | DESC_D | DESC_G);
    idt[0x81].lo = gate(CODE, at, GATE_TRAP | ACC_DPL(3), 0);
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "INT n from ring 3 to conforming code");
    EXPECT_EQ(seen.cs, CODE | 3, "stays in ring 3");
}

/* Handlers and gates of ring 1, whose stack the TSS may get wrong without harm to ring 0. */
static void ring_1(void)
{
    const uint32_t at = (uint32_t)target_iret;
    struct trap t;

    tss.ss1 = SEL_DATA1 | 1;
    tss.esp1 = (uint32_t)(stack1 + sizeof(stack1));
    idt[0x81].lo = gate(SEL_CODE1, at, GATE_TRAP | ACC_DPL(3), 0);
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_USER_END, 0, "INT n from ring 3 to ring 1");
    EXPECT_EQ(seen.cs, SEL_CODE1 | 1, "at CPL 1");
    EXPECT_EQ(seen.ss, SEL_DATA1 | 1, "on ring 1's stack");
    EXPECT_EQ(seen.sp, tss.esp1 - 20, "with five words");

    tss.ss1 = 0;
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_TS, 0, "a null SS in the TSS");
    tss.ss1 = SEL_UDATA | 1;
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_TS, SEL_UDATA, "an SS of the wrong DPL in the TSS");
    tss.ss1 = SEL_DATA1 | 2;
    t = try_user(int_81, 0, 0);
    EXPECT_TRAP(&t, VEC_TS, SEL_DATA1, "an SS of the wrong RPL in the TSS");
    tss.ss1 = S(7) | 1;
    GDT(S(7)) = descriptor(0, 0xfffff, 0x32 | DESC_D | DESC_G);
    t = try_user(int_81, 0, 0);
    tcg_deviates("raises #TS");
    EXPECT_TRAP(&t, VEC_SS, S(7), "an SS not present in the TSS");
    GDT(S(7)) = descriptor(0, 0xf, 0xb2 | DESC_D);
    tss.esp1 = 16;
    t = try_user(int_81, 0, 0);
    tcg_deviates("has no segment limits");
    EXPECT_TRAP(&t, VEC_SS, S(7), "an inner stack too small");
}

int main(void)
{
    GDT(SEL_CODE1) = descriptor(0, 0xfffff, FLAT_CODE | ACC_DPL(1));
    GDT(SEL_DATA1) = descriptor(0, 0xfffff, FLAT_DATA | ACC_DPL(1));
    call_gates();
    gate_refusals();
    direct_transfers();
    returns();
    interrupt_gates();
    ring_1();
    return 0;
}
