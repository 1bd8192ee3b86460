/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Debug exceptions: single step, instruction, data and I/O breakpoints, general detect, ICEBP and
 * INT3; DR6 and DR7 themselves. SDM 3, "Debug, Branch Profile, TSC": "Debug Registers", "Debug
 * Exceptions".
 */
#include "guest.h"

#define DR6_B(n)           (1u << (n))
#define DR6_BD             (1u << 13)
#define DR6_BS             (1u << 14)
#define DR6_BITS           (0xf | DR6_BD | DR6_BS | 1u << 15)
#define DR7_G(n)           (2u << (n)*2)
#define DR7_GD             (1u << 13)
#define DR7_RW(n, rw, len) ((uint64_t)((len) << 2 | (rw)) << (16 + (n)*4))
enum { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };
enum { LEN_1, LEN_2, LEN_8, LEN_4 };

struct hit {
    word_t ip, dr6, flags, cx;
};
static struct hit hits[32];
static unsigned nr_hits;
static volatile uint64_t data[4] __attribute__((aligned(32)));

static void note(struct frame *f)
{
    if (nr_hits < ARRAY_SIZE(hits))
        hits[nr_hits] = (struct hit){ f->ip, read_dr6() & DR6_BITS, f->flags, f->cx };
    nr_hits++;
    write_dr6(0);
}

/* Like note(), and the instruction goes on: RF keeps its breakpoint from hitting again. */
static void note_resume(struct frame *f)
{
    note(f);
    f->flags |= FLAG_RF;
}

static void start(void)
{
    memset(hits, 0, sizeof(hits));
    nr_hits = 0;
    write_dr6(0);
}

/* Runs code with TF: set by POPF, taken away by POPF. The step behind the first POPF is the first
 * instruction of the code. */
#define STEP_ON  "pushf\n\torl $0x100, (%%rsp)\n\tpopf\n\t"
#define STEP_OFF "pushf\n\tandl $0xfffffeff, (%%rsp)\n\tpopf\n\t"
#define NR_OFF   3 /* traps that STEP_OFF's own instructions take */

static void single_step(void)
{
    word_t at, flags;

    start();
    asm volatile("lea 1f(%%rip), %0\n\t" STEP_ON "1: nop\n\tnop\n\txchg %%ax, %%ax\n\t" STEP_OFF
                 : "=r"(at)
                 :
                 : "memory", "cc");
    EXPECT_EQ(nr_hits, 3 + NR_OFF, "one trap after each instruction, none after POPF itself");
    EXPECT_EQ(hits[0].ip, at + 1, "behind the first");
    EXPECT_EQ(hits[1].ip, at + 2, "behind the second");
    EXPECT_EQ(hits[2].ip, at + 4, "behind the third");
    EXPECT_EQ(hits[0].dr6, DR6_BS, "DR6.BS");
    EXPECT_EQ(hits[0].flags & (FLAG_TF | FLAG_RF), FLAG_TF, "TF in the frame, RF not");

    start();
    asm volatile(STEP_ON "pushf\n\tpop %0\n\t" STEP_OFF : "=r"(flags) : : "memory", "cc");
    EXPECT_EQ(flags & FLAG_TF, FLAG_TF, "PUSHF shows TF");

    start();
    asm volatile("mov $3, %%ecx\n\tlea 1f(%%rip), %0\n\tmov %1, %%rsi\n\tmov %1, %%rdi\n\t" STEP_ON
                 "1: rep movsb\n\t" STEP_OFF
                 : "=&r"(at)
                 : "r"(data)
                 : "rcx", "rsi", "rdi", "memory", "cc");
    EXPECT_EQ(nr_hits, 3 + NR_OFF, "REP MOVSB traps after each iteration");
    EXPECT_EQ(hits[0].ip, at, "at the instruction");
    EXPECT_EQ(hits[0].cx, 2, "with RCX counted down");
    EXPECT_EQ(hits[2].ip, at + 2, "the last one behind it");

    start();
    asm volatile("lea 1f(%%rip), %0\n\tmov %%ss, %%ecx\n\t" STEP_ON
                 "mov %%ecx, %%ss\n\tnop\n1:\t" STEP_OFF
                 : "=&r"(at)
                 :
                 : "rcx", "memory", "cc");
    EXPECT_EQ(nr_hits, 1 + NR_OFF, "no trap between MOV SS and the next instruction");
    EXPECT_EQ(hits[0].ip, at, "but behind that");
}

static void nothing(struct frame *f)
{
    (void)f;
}

static word_t bp_flags;
static void note_bp(struct frame *f)
{
    bp_flags = f->flags;
}

static void step_into_handlers(void)
{
    word_t at;

    start();
    trap_handle(VEC_BP, note_bp);
    asm volatile("lea 1f(%%rip), %0\n\t" STEP_ON "int3\n\tnop\n1:\t" STEP_OFF
                 : "=&r"(at)
                 :
                 : "memory", "cc");
    EXPECT_EQ(nr_hits, 1 + NR_OFF,
              "INT3 under single step: its handler is not stepped, IRET is not followed by a trap");
    EXPECT_EQ(hits[0].ip, at, "the next trap is behind the instruction after INT3");
    EXPECT_EQ(bp_flags & FLAG_TF, FLAG_TF, "INT3's frame has TF");
    trap_handle(VEC_BP, nothing);
}

static void traps_by_code(void)
{
    word_t at;

    if (on_tcg()) {
        skip("TCG does not know it", "ICEBP");
    } else {
        start();
        asm volatile("lea 1f(%%rip), %0\n\t.byte 0xf1\n1:" : "=r"(at) : : "memory");
        EXPECT_EQ(nr_hits, 1, "ICEBP raises #DB");
        EXPECT_EQ(hits[0].ip, at, "behind it");
        EXPECT_EQ(hits[0].dr6, 0, "with nothing in DR6");
    }
    start();
    trap_handle(VEC_BP, note);
    asm volatile("lea 1f(%%rip), %0\n\tint3\n1:" : "=r"(at) : : "memory");
    EXPECT_EQ(hits[0].ip, at, "INT3 returns behind it");
    trap_handle(VEC_BP, NULL);
}

static void exec_breakpoint(void)
{
    word_t at;

    start();
    trap_handle(VEC_DB, note_resume);
    asm volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr0\n\tmov %1, %%dr7\n1:\tnop\n\tnop"
                 : "=&r"(at)
                 : "r"((word_t)DR7_G(0))
                 : "memory");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "an instruction breakpoint hits once");
    EXPECT_EQ(hits[0].ip, at, "before the instruction");
    EXPECT_EQ(hits[0].dr6, DR6_B(0), "DR6.B0");
    EXPECT_EQ(hits[0].flags & FLAG_RF, 0,
              "RF is not in this fault's frame: the handler has to set it");

    start();
    asm volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr3\n\tmov %1, %%dr7\n\tmov $3, %%ecx\n1:\tdec "
                 "%%ecx\n\tjnz 1b"
                 : "=&r"(at)
                 : "r"((word_t)DR7_G(3))
                 : "rcx", "memory", "cc");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 3, "in a loop, each time: RF lasts one instruction");
    EXPECT_EQ(hits[2].dr6, DR6_B(3), "DR6.B3");

    start();
    asm volatile("lea 1f(%%rip), %0\n\tmov %0, %%dr1\n\tmov %1, %%dr7\n\tmov $3, %%ecx\n\tmov %2, "
                 "%%rsi\n\tmov %2, %%rdi\n"
                 "1:\trep movsb"
                 : "=&r"(at)
                 : "r"((word_t)DR7_G(1)), "r"(data)
                 : "rcx", "rsi", "rdi", "memory", "cc");
    write_dr7(0);
    tcg_deviates("breaks at each iteration");
    EXPECT_EQ(nr_hits, 1, "on a string instruction once, not per iteration");
    trap_handle(VEC_DB, note);
}

struct data_case {
    const char *what;
    unsigned rw, len, off; /* the breakpoint */
    unsigned at, bytes;    /* the access */
    bool write, hit;
};

static void data_breakpoints(void)
{
    static const struct data_case cases[] = {
        { "write breakpoint, write", RW_WRITE, LEN_4, 0, 0, 4, true, true },
        { "write breakpoint, read", RW_WRITE, LEN_4, 0, 0, 4, false, false },
        { "access breakpoint, write", RW_ACCESS, LEN_4, 0, 0, 4, true, true },
        { "access breakpoint, read", RW_ACCESS, LEN_4, 0, 0, 4, false, true },
        { "first byte of four", RW_WRITE, LEN_4, 4, 4, 1, true, true },
        { "last byte of four", RW_WRITE, LEN_4, 4, 7, 1, true, true },
        { "byte behind four", RW_WRITE, LEN_4, 4, 8, 1, true, false },
        { "byte before four", RW_WRITE, LEN_4, 4, 3, 1, true, false },
        { "an access that begins before and ends inside", RW_WRITE, LEN_1, 4, 1, 4, true, true },
        { "an access that covers it", RW_WRITE, LEN_1, 3, 0, 8, true, true },
        { "one byte, next byte", RW_WRITE, LEN_1, 3, 4, 1, true, false },
        { "two bytes, second", RW_WRITE, LEN_2, 2, 3, 1, true, true },
        { "eight bytes, last", RW_WRITE, LEN_8, 8, 15, 1, true, true },
        { "eight bytes, next", RW_WRITE, LEN_8, 8, 16, 1, true, false },
        { "address bits below the length do not count", RW_WRITE, LEN_4, 6, 4, 1, true, true },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct data_case *c = &cases[i];
        word_t at = (word_t)data + c->at, behind = 0;

        start();
        write_dr2((word_t)data + c->off);
        write_dr7(DR7_G(2) | DR7_RW(2, c->rw, c->len));
        if (!c->write)
            asm volatile("lea 1f(%%rip), %0\n\tmov (%1), %%eax\n1:"
                         : "=&r"(behind)
                         : "r"(at)
                         : "rax", "memory");
        else if (c->bytes == 1)
            asm volatile("lea 1f(%%rip), %0\n\tmovb $1, (%1)\n1:"
                         : "=&r"(behind)
                         : "r"(at)
                         : "memory");
        else if (c->bytes == 4)
            asm volatile("lea 1f(%%rip), %0\n\tmovl $1, (%1)\n1:"
                         : "=&r"(behind)
                         : "r"(at)
                         : "memory");
        else
            asm volatile("lea 1f(%%rip), %0\n\tmovq $1, (%1)\n1:"
                         : "=&r"(behind)
                         : "r"(at)
                         : "memory");
        write_dr7(0);
        if (c->len == LEN_4 && c->off & 3)
            tcg_deviates("takes the address as it is");
        if (EXPECT_EQ(nr_hits, c->hit, "%s: %s", c->what, c->hit ? "hits" : "does not hit") &&
            c->hit) {
            EXPECT_EQ(hits[0].ip, behind, "behind the instruction");
            EXPECT_EQ(hits[0].dr6, DR6_B(2), "DR6.B2");
        }
    }
}

static void combinations(void)
{
    word_t at;

    start();
    write_dr0((word_t)data);
    write_dr7(DR7_G(0) | DR7_RW(0, RW_WRITE, LEN_4));
    asm volatile(STEP_ON "movl $1, (%0)\n\t" STEP_OFF : : "r"(data) : "memory", "cc");
    write_dr7(0);
    tcg_deviates("raises two");
    EXPECT_EQ(nr_hits, 1 + NR_OFF, "a data breakpoint under single step: one trap");
    EXPECT_EQ(hits[0].dr6, DR6_B(0) | DR6_BS, "with both reasons");

    start();
    *(volatile uint32_t *)data = SEL_KDATA;
    write_dr0((word_t)data);
    write_dr7(DR7_G(0) | DR7_RW(0, RW_ACCESS, LEN_2));
    asm volatile("lea 1f(%%rip), %0\n\tmov (%1), %%ss\n\tnop\n1:"
                 : "=&r"(at)
                 : "r"(data)
                 : "memory");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "a data breakpoint on MOV SS's operand hits");
    tcg_deviates("does not hold it back");
    EXPECT_EQ(hits[0].ip, at, "but one instruction later");

    start();
    write_cr4(read_cr4() | CR4_DE);
    write_dr0(0x61);
    write_dr7(DR7_G(0) | DR7_RW(0, RW_IO, LEN_1));
    asm volatile("lea 1f(%%rip), %0\n\tin $0x61, %%al\n1:" : "=&r"(at) : : "rax", "memory");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "an I/O breakpoint");
    EXPECT_EQ(hits[0].ip, at, "behind the instruction");
    start();
    write_dr7(DR7_G(0) | DR7_RW(0, RW_IO, LEN_1));
    (void)inb(0x64);
    write_dr7(0);
    EXPECT_EQ(nr_hits, 0, "another port");
    write_cr4(read_cr4() & ~(word_t)CR4_DE);
}

static word_t read_dr7_fn(word_t a, word_t b)
{
    (void)a, (void)b;
    return read_dr7();
}

static word_t write_dr6_fn(word_t v, word_t b)
{
    (void)b;
    write_dr6(v);
    return 0;
}

static word_t write_dr7_fn(word_t v, word_t b)
{
    (void)b;
    write_dr7(v);
    return 0;
}

static word_t read_dr4(word_t a, word_t b)
{
    word_t v;

    (void)a, (void)b;
    asm volatile(".byte 0x0f, 0x21, 0xe0" : "=a"(v)); /* mov %dr4, %rax */
    return v;
}

static word_t dr7_seen;
static void note_dr7(struct frame *f)
{
    note(f);
    dr7_seen = read_dr7();
}

static void registers(void)
{
    struct trap t;

    write_dr6(0);
    write_dr7(0);
    EXPECT_EQ(read_dr6() & 0xffff0ff0, 0xffff0ff0, "DR6's fixed ones");
    EXPECT_EQ(read_dr7(), 0x400, "DR7's fixed one");
    t = try(write_dr6_fn, 1ull << 32, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "DR6 bit 32");
    t = try(write_dr7_fn, 1ull << 32, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "DR7 bit 32");
    t = try_user(read_dr7_fn, 0, 0);
    EXPECT_TRAP(&t, VEC_GP, 0, "MOV DR at CPL 3");
    t = try(read_dr4, 0, 0);
    EXPECT_TRAP(&t, VEC_NONE, 0, "DR4 is DR6");
    EXPECT_EQ(t.f.ax, read_dr6(), "with its value");
    write_cr4(read_cr4() | CR4_DE);
    t = try(read_dr4, 0, 0);
    write_cr4(read_cr4() & ~(word_t)CR4_DE);
    EXPECT_TRAP(&t, VEC_UD, 0, "DR4 with CR4.DE");

    start();
    trap_handle(VEC_DB, note_dr7);
    write_dr7(DR7_GD);
    (void)read_dr7();
    tcg_deviates("has no general detect");
    EXPECT_EQ(nr_hits, 1, "MOV DR with DR7.GD raises #DB");
    tcg_deviates("has no general detect");
    EXPECT_EQ(hits[0].dr6, DR6_BD, "DR6.BD");
    EXPECT_EQ(dr7_seen & DR7_GD, 0, "the handler finds GD clear");
    write_dr7(0);
}

static volatile unsigned ticks;

static void tick(struct frame *f)
{
    (void)f;
    ticks++;
    apic_write(APIC_EOI, 0);
}

/* Interrupts at any place of code that runs for the first time, and then goes by the same way
 * without them. */
static void watched_and_interrupted(void)
{
    static uint8_t jumps[1 << 14] PAGE_ALIGNED;
    word_t (*run)(void);
    unsigned wrong = 0;

    start();
    apic_init();
    trap_handle(0x51, tick);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, 1u << 17 | 0x51);
    apic_write(APIC_TIMER_INIT, 50000);
    write_dr0((word_t)&data[1]);
    write_dr7(DR7_G(0) | DR7_RW(0, RW_WRITE, LEN_8));
    run = (word_t(*)(void))(word_t)jumps;
    sti();
    for (unsigned pass = 0; pass < 1000 && ticks < 200; pass++) {
        /* jmp to the next one, often; mov $pass, %eax; ret */
        for (unsigned i = 0; i < sizeof(jumps) - 8; i += 2) {
            jumps[i] = 0xeb;
            jumps[i + 1] = 0;
        }
        jumps[sizeof(jumps) - 8] = 0xb8;
        memcpy(jumps + sizeof(jumps) - 7, &pass, 4);
        jumps[sizeof(jumps) - 3] = 0xc3;
        for (unsigned i = 0; i < 3; i++)
            wrong += (uint32_t)run() != pass;
    }
    cli();
    apic_write(APIC_LVT_TIMER, 1u << 16);
    write_dr7(0);
    EXPECT(ticks >= 200, "interrupts come while data is watched");
    EXPECT_EQ(wrong, 0, "and go back to where they came");
    EXPECT_EQ(nr_hits, 0, "what is watched was not touched");
}

int main(void)
{
    trap_handle(VEC_DB, note);
    single_step();
    step_into_handlers();
    traps_by_code();
    exec_breakpoint();
    data_breakpoints();
    combinations();
    registers();
    watched_and_interrupted();
    return 0;
}
