/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Data breakpoints on what all kinds of instructions access, and debug traps that are pending while
 * something else happens: faults, MOV SS, software interrupts. SDM 3, "Debug, Branch Profile, TSC":
 * "Debug Exceptions"; "Masking Exceptions and Interrupts When Switching Stacks"; "Delivery of
 * Pending Debug Exceptions after VM Entry".
 */
#include "guest.h"

#define DR6_BD             (1u << 13)
#define DR6_BS             (1u << 14)
#define DR6_BITS           (0xf | DR6_BD | DR6_BS | 1u << 15)
#define DR7_G(n)           (2u << (n)*2)
#define DR7_GD             (1u << 13)
#define DR7_RW(n, rw, len) ((uint64_t)((len) << 2 | (rw)) << (16 + (n)*4))
enum { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };
enum { LEN_1, LEN_2, LEN_8, LEN_4 };

struct hit {
    word_t ip, cs, dr6;
};
static struct hit hits[32];
static unsigned nr_hits;
static uint8_t data[8192] PAGE_ALIGNED;
#define WATCHED ((word_t)data + 64)

/* What traced the program is off behind the first trap. */
static void note(struct frame *f)
{
    if (nr_hits < ARRAY_SIZE(hits))
        hits[nr_hits] = (struct hit){ f->ip, f->cs, read_dr6() & DR6_BITS };
    nr_hits++;
    write_dr6(0);
    f->flags &= ~(word_t)FLAG_TF;
}

static void start(void)
{
    memset(hits, 0, sizeof(hits));
    nr_hits = 0;
    write_dr6(0);
}

static void watch(word_t at, unsigned rw, unsigned len)
{
    start();
    write_dr0(at);
    write_dr7(DR7_G(0) | DR7_RW(0, rw, len));
}

static void hit_once(const char *what)
{
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "%s", what);
}

/* With the stack pointer `off` bytes above the start of data. */
#define ON_STACK(off, insn)                                                                    \
    asm volatile("mov %%rsp, %%rbx\n\tlea " #off "(%0), %%rsp\n\t" insn "\n\tmov %%rbx, %%rsp" \
                 :                                                                             \
                 : "r"(data)                                                                   \
                 : "rbx", "rax", "memory", "cc")
#define AT_DATA(insn) \
    asm volatile(insn : : "r"(data + 64) : "rax", "rcx", "rdx", "rbx", "memory", "cc")

static void kinds_of_access(void)
{
    watch(WATCHED, RW_WRITE, LEN_8);
    ON_STACK(72, "push %%rax");
    hit_once("PUSH of a register");
    watch(WATCHED, RW_WRITE, LEN_8);
    ON_STACK(72, "push $5");
    hit_once("PUSH of an immediate");
    watch(WATCHED, RW_WRITE, LEN_8);
    ON_STACK(72, "pushq 8(%%rsp)");
    hit_once("PUSH of memory");
    watch(WATCHED, RW_WRITE, LEN_8);
    ON_STACK(72, "pushf");
    hit_once("PUSHF");
    watch(WATCHED, RW_WRITE, LEN_8);
    ON_STACK(72, "call 1f\n1: add $8, %%rsp");
    hit_once("CALL");
    watch(WATCHED, RW_ACCESS, LEN_8);
    ON_STACK(64, "pop %%rax");
    hit_once("POP to a register");
    watch(WATCHED, RW_ACCESS, LEN_8);
    ON_STACK(64, "popq 16(%%rsp)");
    hit_once("POP to memory");
    watch(WATCHED, RW_WRITE, LEN_8);
    AT_DATA("movups %%xmm0, (%0)");
    hit_once("MOVUPS, a store");
    watch(WATCHED + 8, RW_WRITE, LEN_1);
    AT_DATA("movups %%xmm0, (%0)");
    hit_once("its second half");
    watch(WATCHED, RW_ACCESS, LEN_8);
    AT_DATA("movups (%0), %%xmm0");
    hit_once("MOVUPS, a load");
    watch(WATCHED, RW_WRITE, LEN_8);
    AT_DATA("movups (%0), %%xmm0");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 0, "a load does not hit what watches stores");
    watch(WATCHED, RW_WRITE, LEN_8);
    AT_DATA("fld1\n\tfstpl (%0)");
    hit_once("FSTP");
    watch(WATCHED, RW_WRITE, LEN_8);
    AT_DATA("fxsave (%0)");
    hit_once("FXSAVE");
    watch(WATCHED, RW_WRITE, LEN_8);
    AT_DATA("lock cmpxchg16b (%0)");
    hit_once("CMPXCHG16B");
    watch(WATCHED, RW_WRITE, LEN_8);
    for (unsigned i = 0; i < 100; i++)
        AT_DATA("movups %%xmm0, 64(%0)\n\tpush %%rax\n\tpop %%rax");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 0, "the rest of the page is not watched");
}

static unsigned nr_pf;

static void make_present(struct frame *f)
{
    (void)f;
    nr_pf++;
    page_set(TEST_VA, 1, (word_t)data | 3);
}

static void skip_ud(struct frame *f)
{
    f->ip += 2;
    f->flags &= ~(word_t)FLAG_TF;
}

static void behind_faults(void)
{
    word_t at, behind;

    trap_handle(VEC_PF, make_present);
    trap_handle(VEC_UD, skip_ud);
    page_set(TEST_VA, 1, 0);
    watch(TEST_VA + 64, RW_WRITE, LEN_8);
    asm volatile("lea 1f(%%rip), %0\n\tmovl $1, (%1)\n1:"
                 : "=&r"(behind)
                 : "r"(TEST_VA + 64)
                 : "memory");
    write_dr7(0);
    EXPECT_EQ(nr_pf, 1, "a watched page that is absent: one #PF");
    EXPECT_EQ(nr_hits, 1, "and one #DB");
    EXPECT_EQ(hits[0].ip, behind, "behind the store, once it was made");

    start();
    asm volatile("mov %%ss, %%ecx\n\tpushf\n\torl $0x100, (%%rsp)\n\tpopf\n\tmov %%ecx, %%ss\n"
                 "1:\tud2\n\tnop"
                 :
                 :
                 : "rcx", "memory", "cc");
    EXPECT_EQ(nr_hits, 0, "MOV SS under TF, then #UD: no trap in its handler");

    start();
    write_dr7(DR7_GD);
    asm volatile("mov %%ss, %%ecx\n\tpushf\n\torl $0x100, (%%rsp)\n\tlea 1f(%%rip), %0\n\tpopf\n\t"
                 "mov %%ecx, %%ss\n1:\tmov %%dr6, %%rax\n\tnop"
                 : "=&r"(at)
                 :
                 : "rax", "rcx", "memory", "cc");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "MOV SS under TF, then MOV DR with GD: one #DB");
    tcg_deviates("has no general detect");
    EXPECT_EQ(hits[0].ip, at, "at MOV DR");
    tcg_deviates("has no general detect");
    EXPECT_EQ(hits[0].dr6, DR6_BD, "for BD alone");
}

static word_t int3_ip;

static void note_int3(struct frame *f)
{
    int3_ip = f->ip;
}

static void behind_mov_ss(void)
{
    static volatile uint64_t value __attribute__((aligned(8)));
    word_t at;

    trap_handle(VEC_BP, note_int3);
    value = SEL_KDATA;
    watch((word_t)&value, RW_ACCESS, LEN_8);
    asm volatile("mov %0, %%ss\n\t.byte 0xf1" : : "m"(value) : "memory");
    write_dr7(0);
    EXPECT_EQ(nr_hits, 1, "a watched MOV SS, then ICEBP: one #DB");
    watch((word_t)&value, RW_ACCESS, LEN_8);
    asm volatile("lea 1f(%%rip), %0\n\tmov %1, %%ss\n\tint3\n1:"
                 : "=&r"(at)
                 : "m"(value)
                 : "memory");
    write_dr7(0);
    EXPECT_EQ(int3_ip, at, "a watched MOV SS, then INT3: #BP");
    EXPECT_EQ(nr_hits, 1, "and #DB");

    start();
    asm volatile("mov %%ss, %%ecx\n\tpushf\n\torl $0x100, (%%rsp)\n\tlea 1f(%%rip), %0\n\tpopf\n\t"
                 "mov %%ecx, %%ss\n\tnop\n1:\tnop"
                 : "=&r"(at)
                 :
                 : "rcx", "memory", "cc");
    EXPECT_EQ(nr_hits, 1, "MOV SS under TF is not traced, what follows is");
    EXPECT_EQ(hits[0].ip, at, "behind that");
}

/* A kernel's entry without a stack of its own yet must not be interrupted by what user code sets
 * up. */
extern const uint8_t syscall_entry[];
asm("syscall_entry: nop\n\tandl $~0x100, %r11d\n\tsysretq");

static word_t user_syscall(word_t a, word_t b)
{
    (void)a, (void)b;
    asm volatile("mov %%ss, %%ebx\n\tpushf\n\torl $0x100, (%%rsp)\n\tpopf\n\tmov %%ebx, %%ss\n\t"
                 "syscall"
                 :
                 :
                 : "rbx", "rcx", "r11", "memory", "cc");
    return 1;
}

static void into_the_kernel(void)
{
    struct trap t;

    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (uint64_t)(SEL_UCODE32 | 3) << 48 | (uint64_t)SEL_KCODE << 32);
    wrmsr(MSR_LSTAR, (word_t)syscall_entry);
    wrmsr(MSR_SFMASK, FLAG_TF | FLAG_IF | FLAG_DF);
    start();
    t = try_user(user_syscall, 0, 0);
    (void)t;
    EXPECT_EQ(nr_hits, 0,
              "MOV SS under TF at CPL 3, then SYSCALL: no #DB in the kernel, but at %lx",
              hits[0].ip);
}

static void ports(void)
{
    word_t si = (word_t)data, cx = 4;

    watch(0x80, RW_IO, LEN_1);
    asm volatile("rep outsb" : "+S"(si), "+c"(cx) : "d"(0x80) : "memory");
    write_dr7(0);
    tcg_deviates("traps once");
    EXPECT_EQ(nr_hits, 4, "each of REP OUTSB's accesses hits");
}

int main(void)
{
    trap_handle(VEC_DB, note);
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_DE);
    kinds_of_access();
    behind_faults();
    behind_mov_ss();
    into_the_kernel();
    ports();
    return 0;
}
