/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SYSCALL and SYSRET again and again, as a busy kernel sees them, with all that may change from one
 * to the next: flags, the MSRs behind them, what the kernel does in between. (What each does alone
 * is syscall.c's.)
 */
#include "guest.h"

#define ROUNDS                40
#define ARITH                 0x8d5u
#define IPI_VEC               0x51u
#define STAR_OF(user, kernel) ((uint64_t)(user) << 48 | (uint64_t)(kernel) << 32)

extern uint8_t calls_entry[], other_entry[];
static struct {
    word_t r11, flags, cs, ss; /* as they should be */
    word_t bad_r11, bad_flags, bad_cs, bad_ss, bad_cx;
    word_t nr, others;
    word_t at; /* the first one's return address */
    void (*hook)(void);
} s;
static volatile unsigned nr_ipis, ipis_then, late;

void calls_note(word_t cx, word_t r11, word_t flags, word_t cs, word_t ss);
void calls_note(word_t cx, word_t r11, word_t flags, word_t cs, word_t ss)
{
    if (!s.nr++)
        s.at = cx;
    s.bad_cx |= cx ^ s.at;
    s.bad_r11 |= r11 ^ s.r11;
    s.bad_flags |= flags ^ s.flags;
    s.bad_cs |= cs ^ s.cs;
    s.bad_ss |= ss ^ s.ss;
    if (s.hook)
        s.hook();
}

void calls_other(void);
void calls_other(void)
{
    s.others++;
}

/* The caller's RDX says which of the flags change on the way back. */
asm("other_entry: pushf\n push %rcx\n push %rdx\n push %r11\n call calls_other\n pop %r11\n pop "
    "%rdx\n"
    " pop %rcx\n popf\n"
    "calls_entry: mov %rsp, calls_sp(%rip)\n lea calls_stack(%rip), %rsp\n pushf\n"
    " push %rcx\n push %rdx\n push %rsi\n push %rdi\n push %r11\n"
    " mov %rcx, %rdi\n mov %r11, %rsi\n mov 40(%rsp), %rdx\n mov %cs, %ecx\n mov %ss, %r8d\n"
    " call calls_note\n"
    " pop %r11\n pop %rdi\n pop %rsi\n pop %rdx\n pop %rcx\n"
    " xor %rdx, %r11\n mov calls_sp(%rip), %rsp\n sysretq\n"
    " .bss\n .balign 16\n .skip 4096\n calls_stack: .skip 16\n calls_sp: .skip 8\n .text\n");

/* Returns the bits of the flags that were ever wrong behind SYSCALL. */
static word_t rounds(word_t flags, word_t flip)
{
    word_t bad = 0, n = ROUNDS, now;

    asm volatile("1: push %3\n\tpopfq\n\tmov %4, %%rdx\n\tsyscall\n\tpushfq\n\tpop %2\n\t"
                 "xor %3, %2\n\txor %4, %2\n\tor %2, %0\n\tdec %1\n\tjnz 1b"
                 : "+r"(bad), "+r"(n), "=&r"(now)
                 : "r"(flags), "r"(flip)
                 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory");
    return bad;
}

/* As many system calls with these flags. False: something was not as it should be. */
static bool calls(word_t flags, word_t flip)
{
    void (*hook)(void) = s.hook;
    word_t cs = s.cs, ss = s.ss;
    struct trap t;

    memset(&s, 0, sizeof(s));
    s.hook = hook;
    s.cs = cs;
    s.ss = ss;
    s.r11 = flags;
    s.flags = (flags & ~rdmsr(MSR_SFMASK)) | 2;
    t = try_user(rounds, flags, flip);
    return t.vec == VEC_USER_END && !t.f.ax && s.nr == ROUNDS && !s.bad_cx && !s.bad_r11 &&
           !s.bad_flags && !s.bad_cs && !s.bad_ss;
}

static void set_up(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, STAR_OF(SEL_UCODE32 | 3, SEL_KCODE));
    wrmsr(MSR_LSTAR, (word_t)calls_entry);
    wrmsr(MSR_SFMASK, 0x257fd5); /* Linux's: all that means something */
    s.cs = SEL_KCODE;
    s.ss = SEL_KDATA;
    s.hook = NULL;
}

static void all_flags(void)
{
    unsigned bad = 0, bad_back = 0;

    for (word_t i = 0; i < 64; i++) {
        word_t f = 2 | (i & 1) | (i & 2) << 1 | (i & 4) << 2 | (i & 8) << 3 | (i & 16) << 3 |
                   (i & 32) << 6;

        bad += !calls(f, 0);
        bad_back += !calls(f, ARITH);
    }
    EXPECT_EQ(bad, 0, "the arithmetic flags go in and come back");
    EXPECT_EQ(bad_back, 0, "and as the kernel changed them");
    EXPECT(calls(2 | FLAG_DF, 0), "DF");
    EXPECT(calls(2 | FLAG_AC, 0), "AC");
    EXPECT(calls(2, FLAG_AC), "AC that the kernel sets");
    EXPECT(calls(2, FLAG_DF), "DF that the kernel sets");
    EXPECT(calls(2, FLAG_NT), "NT that the kernel sets");
}

static void other_msrs(void)
{
    wrmsr(MSR_SFMASK, 0x40000 | FLAG_CF);
    tcg_deviates("loses the arithmetic flags");
    EXPECT(calls(2 | ARITH, 0), "SFMASK with CF");
    wrmsr(MSR_SFMASK, 0x40000 | FLAG_ZF | FLAG_DF);
    tcg_deviates("loses the arithmetic flags");
    EXPECT(calls(2 | ARITH | FLAG_DF, 0), "another SFMASK");
    wrmsr(MSR_SFMASK, 0);
    tcg_deviates("loses the arithmetic flags");
    EXPECT(calls(2 | ARITH | FLAG_DF, 0), "none");
    wrmsr(MSR_SFMASK, 0x257fd5);
    EXPECT(calls(2, 0), "the first one again");
    wrmsr(MSR_LSTAR, (word_t)other_entry);
    EXPECT(calls(2, 0), "another LSTAR");
    EXPECT_EQ(s.others, ROUNDS, "leads there");
    wrmsr(MSR_LSTAR, (word_t)calls_entry);
    EXPECT(calls(2, 0), "and back");
    EXPECT_EQ(s.others, 0, "leads back");
    /* No descriptor is looked at. */
    wrmsr(MSR_STAR, STAR_OF(SEL_UCODE32 | 3, 0x1230));
    s.cs = 0x1230;
    s.ss = 0x1238;
    EXPECT(calls(2, 0), "another STAR");
    wrmsr(MSR_STAR, STAR_OF(SEL_UCODE32 | 3, SEL_KCODE));
    s.cs = SEL_KCODE;
    s.ss = SEL_KDATA;
    EXPECT(calls(2, 0), "the first one again");
}

static word_t user_cs_ss(word_t a, word_t b)
{
    word_t bad = rounds(a, b), cs, ss;

    asm volatile("mov %%cs, %k0\n\tmov %%ss, %k1" : "=r"(cs), "=r"(ss));
    return bad << 32 | cs << 16 | ss;
}

static void null_ss(void)
{
    asm volatile("mov %w0, %%ss" : : "r"(0));
}

static void segments(void)
{
    struct trap t = try_user(user_cs_ss, 2, 0);

    EXPECT_EQ(t.f.ax, (SEL_UCODE64 | 3) << 16 | SEL_UDATA | 3, "CS and SS of user code");
    s.hook = null_ss;
    t = try_user(user_cs_ss, 2, 0);
    s.hook = NULL;
    EXPECT_EQ(t.f.ax, (SEL_UCODE64 | 3) << 16 | SEL_UDATA | 3,
              "the same if the kernel's SS was null");
    EXPECT_EQ(t.f.ss, SEL_UDATA | 3, "in the frame of an interrupt");
    EXPECT(calls(2, 0), "the next ones");
}

static void on_ipi(struct frame *f)
{
    (void)f;
    nr_ipis++;
    apic_write(APIC_EOI, 0);
}

static void send_ipi(void)
{
    late += nr_ipis != ipis_then;
    ipis_then = nr_ipis + 1;
    apic_write(APIC_ICR, 0x40000 | IPI_VEC); /* to itself */
    late += nr_ipis == ipis_then;
}

/* An interrupt that comes while the kernel has IF clear is taken behind SYSRET, each time. */
static void interrupts(void)
{
    apic_init();
    trap_handle(IPI_VEC, on_ipi);
    user_flags = 2 | FLAG_IF;
    s.hook = send_ipi;
    EXPECT(calls(2 | FLAG_IF, 0), "system calls with interrupts");
    s.hook = NULL;
    user_flags = 2;
    EXPECT_EQ(nr_ipis, ROUNDS, "one for each");
    EXPECT_EQ(late, 0, "right behind SYSRET");
}

/* Always the same instruction, whose target is known after the first ones. */
static __attribute__((noinline)) void one_call(word_t flip)
{
    asm volatile("syscall" : "+d"(flip) : : "rax", "rcx", "r8", "r9", "r10", "r11", "memory");
}

static word_t then_trace(word_t a, word_t b)
{
    for (word_t i = 0; i < a + ROUNDS; i++)
        one_call(i == a ? b : 0);
    return 0;
}

static word_t some_calls(word_t a, word_t b)
{
    (void)b;
    while (a--)
        one_call(0);
    return 0;
}

static unsigned at_round;
static word_t (*at_call)(void);

static void do_at_round(void)
{
    if (s.nr == at_round)
        at_call();
}

static word_t no_sce(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    return 0;
}

static void refusals(void)
{
    unsigned wrong = 0;
    struct trap t;

    for (word_t i = 0; i < 16; i++) {
        s.nr = 0;
        t = try_user(then_trace, ROUNDS + i, FLAG_TF);
        wrong += t.vec != VEC_DB || s.nr != ROUNDS + i + 1;
    }
    EXPECT_EQ(wrong, 0, "TF that the kernel sets: #DB in user code at once");
    EXPECT(calls(2, 0), "and system calls go on");

    s.nr = 0;
    at_round = 20;
    at_call = no_sce;
    s.hook = do_at_round;
    t = try_user(some_calls, ROUNDS, 0);
    s.hook = NULL;
    EXPECT_TRAP(&t, VEC_UD, 0, "SYSRET when EFER.SCE has gone");
    t = try_user(some_calls, ROUNDS, 0);
    EXPECT_TRAP(&t, VEC_UD, 0, "SYSCALL then");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    EXPECT(calls(2, 0), "and when it is back");
}

/* RCX that is not canonical, behind many that are. */
extern uint8_t far_entry[];
asm("far_entry: cmp $1, %rsi\n jne calls_entry\n mov $0x800000000000, %rcx\n sysretq\n");

static word_t far_away(word_t a, word_t b)
{
    (void)a, (void)b;
    for (word_t i = 0; i <= ROUNDS; i++)
        asm volatile("syscall"
                     :
                     : "S"(i == ROUNDS), "d"(0)
                     : "rax", "rcx", "r8", "r9", "r10", "r11", "memory");
    return 0;
}

static void not_canonical(void)
{
    struct trap t;

    wrmsr(MSR_LSTAR, (word_t)far_entry);
    t = try_user(far_away, 0, 0);
    EXPECT(t.vec == VEC_GP, "SYSRET to an address that is not canonical: #GP");
    EXPECT_EQ(t.f.cs & 3, is_amd() ? 3 : 0, "in the ring of its vendor's processors");
    wrmsr(MSR_LSTAR, (word_t)calls_entry);
    EXPECT(calls(2, 0), "and system calls go on");
}

int main(void)
{
    set_up();
    all_flags();
    other_msrs();
    segments();
    interrupts();
    refusals();
    not_canonical();
    return 0;
}
