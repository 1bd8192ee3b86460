/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile guest: loads, stores, jumps, segment bases and stack pointers at addresses that are not
 * its own, encodings that try to be taken for others, and loops that try to be for ever. Everything
 * is done often enough to be translated, and has to end as the manual says.
 *
 * With "ask" on the command line the addresses come by the serial port, one in hexadecimal a line,
 * a "k" behind those that only the kernel is to try, "." last: tests/attack/run sends those of
 * the monitor and its workers.
 */
#include "upper.h"

#define REPEAT 5
#define COM1   0x3f8

typedef unsigned __int128 u128;

/* ---- accesses: a is the address, b for the instruction to do as it likes ---- */

#define FN static NOINLINE word_t

#define ACCESS(name, insn)                                                                    \
    FN name(word_t a, word_t b)                                                               \
    {                                                                                         \
        asm volatile(insn                                                                     \
                     : "+a"(a), "+d"(b)                                                       \
                     :                                                                        \
                     : "rcx", "rbx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "memory", \
                       "cc");                                                                 \
        return a;                                                                             \
    }

ACCESS(load8, "movzbl (%%rax), %%edx")
ACCESS(load64, "mov (%%rax), %%rdx")
ACCESS(load_r9,
       "mov %%rax, %%r9\n mov %%rdx, %%r10\n xor %%edx, %%edx\n mov (%%r9, %%rdx, 8), %%r11")
ACCESS(load_rcx, "mov %%rax, %%rcx\n mov (%%rcx), %%cx")
ACCESS(load_fs0, "fs mov (%%rax), %%rdx")                                     /* base 0 */
ACCESS(load_prefixes, ".byte 0x2e, 0x66, 0x48, 0x3e, 0x4d, 0x44, 0x8b, 0x10") /* mov rax -> r10d */
ACCESS(load_vec, "movups (%%rax), %%xmm0")
ACCESS(load_vex, ".byte 0xc5, 0xfc, 0x10, 0x00") /* vmovups (%rax), %ymm0 */
ACCESS(store8, "mov %%dl, (%%rax)")
ACCESS(store64, "mov %%rdx, (%%rax)")
ACCESS(store_imm, "movq $0x55, (%%rax)")
ACCESS(store_vec, "movups %%xmm0, (%%rax)")
ACCESS(store_lateral,
       "xor %%ebx, %%ebx\n mov %%rax, %%rdx\n"
       ".byte 0x48, 0x66, 0x89, 0x02\n") /* REX that does not count; mov %ax, (%rdx) */
ACCESS(rmw, "lock xadd %%rdx, (%%rax)")
ACCESS(cas, "mov %%rax, %%rdi\n lock cmpxchg %%rdx, (%%rdi)")
ACCESS(strings_from, "mov %%rax, %%rsi\n mov $1, %%ecx\n rep lodsb")
ACCESS(strings_to, "mov %%rax, %%rdi\n mov $1, %%ecx\n rep stosb")
ACCESS(x87, "fldl (%%rax)\n fstp %%st(0)")

static const struct access {
    const char *name;
    guest_fn *fn;
    uint8_t bytes;
    bool write;
} accesses[] = {
    { "8-bit load", load8, 1, false },
    { "64-bit load", load64, 8, false },
    { "load through R9", load_r9, 8, false },
    { "load through RCX", load_rcx, 2, false },
    { "load with FS", load_fs0, 8, false },
    { "load with prefixes", load_prefixes, 4, false },
    { "SSE load", load_vec, 16, false },
    { "AVX load", load_vex, 32, false },
    { "8-bit store", store8, 1, true },
    { "64-bit store", store64, 8, true },
    { "store of an immediate", store_imm, 8, true },
    { "SSE store", store_vec, 16, true },
    { "store with a misplaced REX", store_lateral, 2, true },
    { "XADD", rmw, 8, true },
    { "CMPXCHG", cas, 8, true },
    { "LODS", strings_from, 1, false },
    { "STOS", strings_to, 1, true },
    { "x87 load", x87, 8, false },
};

/* Jumps: the fault is the fetch. */
ACCESS(jump_reg, "jmp *%%rax")
ACCESS(jump_mem, "push %%rax\n jmp *(%%rsp)")
ACCESS(call_reg, "call *%%rax")
ACCESS(call_mem, "push %%rax\n call *(%%rsp)")
ACCESS(jump_ret, "push %%rax\n ret")
ACCESS(jump_iret, "mov %%rsp, %%rcx\n mov %%ss, %%edx\n push %%rdx\n push %%rcx\n pushf\n"
                  "mov %%cs, %%edx\n push %%rdx\n push %%rax\n iretq")

static const struct {
    const char *name;
    guest_fn *fn;
} jumps[] = {
    { "JMP r64", jump_reg },  { "JMP m64", jump_mem }, { "CALL r64", call_reg },
    { "CALL m64", call_mem }, { "RET", jump_ret },     { "IRET", jump_iret },
};

/* The stack: only at CPL 3, where faults have another. */
ACCESS(pivot_push, "mov %%rsp, %%rbx\n lea 8(%%rax), %%rsp\n push %%rdx\n mov %%rbx, %%rsp")
ACCESS(pivot_pop, "mov %%rsp, %%rbx\n mov %%rax, %%rsp\n pop %%rdx\n mov %%rbx, %%rsp")
ACCESS(pivot_call, "mov %%rsp, %%rbx\n lea 8(%%rax), %%rsp\n call 1f\n1: mov %%rbx, %%rsp")
ACCESS(pivot_ret, "mov %%rsp, %%rbx\n mov %%rax, %%rsp\n ret")
ACCESS(pivot_leave, "mov %%rsp, %%rbx\n mov %%rbp, %%rcx\n mov %%rax, %%rbp\n leave\n"
                    "mov %%rbx, %%rsp\n mov %%rcx, %%rbp")

static const struct access pivots[] = {
    { "PUSH", pivot_push, 8, true },    { "POP", pivot_pop, 8, false },
    { "CALL", pivot_call, 8, true },    { "RET", pivot_ret, 8, false },
    { "LEAVE", pivot_leave, 8, false },
};

/* ---- what has to come of them ---- */

static bool canonical(word_t a)
{
    return a >> 47 == 0 || a >> 47 == 0x1ffff;
}

static word_t addresses[2048];
static bool only_kernel[2048];
static unsigned nr_addresses;

/* Is it the guest's own, or only for the kernel? */
static bool left_out(unsigned n, bool user)
{
    word_t a = addresses[n];

    if (user && only_kernel[n])
        return true;
    if (a >= USER_ALIAS && a < USER_ALIAS + (1ull << 32))
        return true;
    return !user && a < 1ull << 32;
}

struct misses {
    unsigned nr;
    word_t at, vec, err, cr2;
};

/* User code that has run for so many rounds before it does what it should: 0, or enough to be kept
 * where hot code runs. */
static word_t rounds;
static unsigned repeat = REPEAT;

struct call {
    guest_fn *fn;
    word_t a, b;
};

/* Long enough at CPL 3 to be worth it. */
static word_t spin(word_t a, word_t b)
{
    while (a--)
        asm volatile("" : "+r"(b));
    return b;
}

static word_t spin_and_call(word_t call, word_t nr)
{
    const struct call *c = (const struct call *)call;

    (void)spin(nr, 0);
    return c->fn(c->a, c->b);
}

static struct trap hot_user(guest_fn *fn, word_t a, word_t b)
{
    static struct call c;

    if (!rounds)
        return try_user(fn, a, b);
    c = (struct call){ user_ptr((void *)fn), a, b };
    return try_user(spin_and_call, (word_t)user_ptr(&c), rounds);
}

static void miss(struct misses *m, word_t at, const struct trap *t)
{
    if (!m->nr++)
        *m = (struct misses){ 1, at, t->vec, t->err, t->cr2 };
}

static void report(const struct misses *m, const char *what, bool user)
{
    EXPECT(!m->nr, "%s at CPL %u: %u wrong, first at %lx: vector %u, error %x, cr2 %lx", what,
           user ? 3u : 0u, m->nr, (unsigned long)m->at, (unsigned)m->vec, (unsigned)m->err,
           (unsigned long)m->cr2);
}

static bool faults_right(const struct trap *t, word_t at, word_t err, bool stack)
{
    if (!canonical(at))
        return t->vec == (stack ? VEC_SS : VEC_GP) && !t->err;
    if ((err & PF_U) && at < 1ull << 32) /* the supervisor's (a sanitizer's shadow is there) */
        err |= PF_P;
    return t->vec == VEC_PF && (t->err & ~(word_t)PF_I) == err && t->cr2 == at;
}

static void try_access(const struct access *x, bool user, bool stack)
{
    struct misses m = { 0 };

    for (unsigned n = 0; n < nr_addresses; n++) {
        word_t at = addresses[n];

        for (unsigned i = 0; i < repeat && !left_out(n, user); i++) {
            struct trap t = user ? hot_user(x->fn, at, 0x1234) : try(x->fn, at, 0x1234);

            if (!faults_right(&t, at, (x->write ? PF_W : 0) | (user ? PF_U : 0), stack))
                miss(&m, at, &t);
        }
    }
    report(&m, x->name, user);
}

static void try_jump(unsigned which, bool user)
{
    struct misses m = { 0 };

    for (unsigned n = 0; n < nr_addresses; n++) {
        word_t at = addresses[n];

        for (unsigned i = 0; i < repeat && !left_out(n, user); i++) {
            struct trap t = user ? hot_user(jumps[which].fn, at, 0) : try(jumps[which].fn, at, 0);

            if (!faults_right(&t, at, user ? PF_U : 0, false) || (canonical(at) && t.f.ip != at))
                miss(&m, at, &t);
        }
    }
    report(&m, jumps[which].name, user);
}

/* Through the base of FS and GS. */
static word_t load_gs(word_t a, word_t b)
{
    asm volatile("gs mov (%1), %0" : "=a"(a) : "r"(b) : "memory");
    return a;
}

static word_t store_gs(word_t a, word_t b)
{
    asm volatile("gs mov %0, (%1)" : : "a"(a), "r"(b) : "memory");
    return a;
}

static void try_bases(bool user)
{
    struct misses m = { 0 };

    for (unsigned n = 0; n < nr_addresses; n++) {
        word_t at = addresses[n];

        if (!canonical(at) || left_out(n, user))
            continue;
        wrmsr(MSR_GS_BASE, at - 0x40);
        for (unsigned i = 0; i < REPEAT; i++) {
            struct trap t = user ? hot_user(load_gs, 0, 0x40) : try(load_gs, 0, 0x40);

            if (!faults_right(&t, at, user ? PF_U : 0, false))
                miss(&m, at, &t);
            t = user ? hot_user(store_gs, 0, 0x40) : try(store_gs, 0, 0x40);
            if (!faults_right(&t, at, PF_W | (user ? PF_U : 0), false))
                miss(&m, at, &t);
        }
    }
    wrmsr(MSR_GS_BASE, 0);
    report(&m, "GS base", user);
}

static void at_addresses(void)
{
    for (unsigned user = 0; user < 2; user++) {
        for (unsigned i = 0; i < ARRAY_SIZE(accesses); i++)
            try_access(&accesses[i], user, false);
        for (unsigned i = 0; i < ARRAY_SIZE(jumps); i++)
            try_jump(i, user);
        try_bases(user);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(pivots); i++)
        try_access(&pivots[i], true, true);
}

/* ---- edges of the address space ---- */

static void edges(void)
{
    static const struct {
        word_t at, cr2; /* cr2 0: #GP */
    } rows[] = {
        { 0xfffffffffffffffc, 0xfffffffffffffffc },
        { 0xffffffffffffffff, 0xffffffffffffffff },
        { 0x00007ffffffffffc, 0 },
        { 0x0000800000000000, 0 },
        { 0xffff7ffffffffffc, 0 },
        { 0xffff800000000000, 0xffff800000000000 },
        { 0x8000000000000000, 0 },
    };

    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++)
        for (unsigned i = 0; i < REPEAT; i++) {
            struct trap t = i & 1 ? try(load64, rows[n].at, 0) : try(store64, rows[n].at, 0);

            if (rows[n].at == 0xfffffffffffffffc || rows[n].at == 0xffffffffffffffff)
                tcg_deviates("is not asked about addresses that wrap");
            EXPECT(rows[n].cr2 ? t.vec == VEC_PF && t.cr2 == rows[n].cr2
                               : t.vec == VEC_GP && !t.err,
                   "8 bytes at %lx: vector %u, cr2 %lx", (unsigned long)rows[n].at, (unsigned)t.vec,
                   (unsigned long)t.cr2);
        }
}

/* ---- encodings ---- */

static uint64_t cell[4] __attribute__((aligned(32)));

/* REX prefixes that do not count, because another prefix follows. */
static word_t odd_rex(word_t a, word_t b)
{
    asm volatile(".byte 0x4f, 0x66, 0x89, 0x10\n"             /* mov %dx, (%rax) */
                 ".byte 0x4f, 0x40, 0x89, 0x50, 0x08\n"       /* mov %edx, 8(%rax) */
                 ".byte 0x4f, 0x3e, 0x01, 0x50, 0x10\n"       /* add %edx, 16(%rax) */
                 ".byte 0x48, 0x65, 0x40, 0x88, 0x50, 0x18\n" /* gs mov %dl, 24(%rax) */
                 :
                 : "a"(a), "d"(b)
                 : "memory", "cc");
    return 0;
}

/* A source of 0 leaves the destination of BSF and BSR as it is. */
static word_t bit_scans(word_t a, word_t b)
{
    word_t r9, r10, r11;

    asm volatile("mov %3, %%r9\n mov %3, %%r10\n mov %3, %%r11\n xor %%ecx, %%ecx\n"
                 "xor %%r8d, %%r8d\n bsf %%rcx, %%r9\n bsr %%r8, %%r10\n bsf %4, %%r11\n"
                 "mov %%r9, %0\n mov %%r10, %1\n mov %%r11, %2"
                 : "=&a"(r9), "=&S"(r10), "=&D"(r11)
                 : "d"(a), "m"(cell[3])
                 : "rcx", "r8", "r9", "r10", "r11", "cc");
    return r9 == a && r10 == a && r11 == a ? b : 0;
}

static void encodings(void)
{
    wrmsr(MSR_GS_BASE, 0);
    for (unsigned i = 0; i < REPEAT; i++) {
        struct trap t;

        memset(cell, 0, sizeof(cell));
        t = try(odd_rex, (word_t)cell, 0x1122334455667788);
        EXPECT_TRAP(&t, VEC_NONE, 0, "misplaced REX prefixes");
        EXPECT(cell[0] == 0x7788 && cell[1] == 0x55667788 && cell[2] == 0x55667788 &&
                   cell[3] == 0x88,
               "... do what they say: %lx %lx %lx %lx", (unsigned long)cell[0],
               (unsigned long)cell[1], (unsigned long)cell[2], (unsigned long)cell[3]);
        cell[3] = 0;
        EXPECT_EQ(try(bit_scans, 0xfedcba9876543210, 7).f.ax, 7, "BSF and BSR of 0");
    }
}

/* ---- two memory operands that want the same place in a TLB ---- */

static void same_index(void)
{
    for (unsigned i = 0; i < REPEAT; i++) {
        static uint64_t page[512] PAGE_ALIGNED;
        word_t far = TEST_VA + ((word_t)page & 0xfffffff), sp = (word_t)(page + 256), out;

        page_set(far, 1, (word_t)page | PTE_P | PTE_W);
        page[1] = 0x5555;
        asm volatile("mov %%rsp, %%rbx\n mov %1, %%rsp\n push 8(%2)\n pop %0\n mov %%rbx, %%rsp"
                     : "=&a"(out)
                     : "r"(sp), "r"(far)
                     : "rbx", "memory");
        EXPECT_EQ(out, 0x5555, "PUSH of memory whose page collides with the stack's");
        asm volatile("lea 1f(%%rip), %%rax\n mov %%rax, 8(%2)\n mov %%rsp, %%rbx\n mov %1, %%rsp\n"
                     "call *8(%2)\n1: pop %0\n mov %%rbx, %%rsp"
                     : "=&a"(out)
                     : "r"(sp), "r"(far)
                     : "rbx", "memory");
        EXPECT(out != 0, "CALL through memory whose page collides with the stack's");
        page_set(far, 1, 0);
    }
}

/* ---- state ---- */

static uint8_t image[512] __attribute__((aligned(64)));
extern uint8_t div_zero[];

/* Leaves an unmasked exception pending: then AMD's processors too store the pointers. */
static word_t pointers(word_t a, word_t b)
{
    static const double one = 1;
    static uint16_t control;

    control = 0x37f & ~4u;
    asm volatile(
        "fninit\n fldcw %0\n fldz\n .globl div_zero\ndiv_zero: fdivrl %1\n rex64 fxsave %2\n"
        "fnclex\n fninit"
        :
        : "m"(control), "m"(one), "m"(image)
        : "memory");
    memcpy(&a, image + 8, 8);
    memcpy(&b, image + 16, 8);
    return a == (word_t)div_zero && b == (word_t)&one;
}

static word_t sse_hot(word_t a, word_t b)
{
    word_t x;

    asm volatile("lea 1f(%%rip), %0\n jmp *%0\n1: xorps %%xmm0, %%xmm0" : "=&r"(x));
    return a + b;
}

static void state(void)
{
    struct trap t;

    for (unsigned i = 0; i < REPEAT; i++)
        EXPECT_EQ(try(pointers, 0, 0).f.ax, 1, "x87 pointers are the guest's: %lx, %lx",
                  *(unsigned long *)(image + 8), *(unsigned long *)(image + 16));
    for (unsigned i = 0; i < REPEAT; i++) {
        (void)try(sse_hot, 0, 0);
        (void)try_user(sse_hot, 0, 0);
    }
    write_cr0(read_cr0() | CR0_TS);
    for (unsigned i = 0; i < REPEAT; i++) {
        t = try(sse_hot, 0, 0);
        EXPECT_TRAP(&t, VEC_NM, 0, "TS stops SSE code that was hot");
        t = try_user(sse_hot, 0, 0);
        EXPECT_TRAP(&t, VEC_NM, 0, "... of the user too");
    }
    clts();
}

/* User code that runs hot with a stack pointer that is none, and a trap in the middle. */
static word_t bad_stack(word_t a, word_t b)
{
    word_t sum = 0;

    asm volatile("mov %%rsp, %%rbx\n mov %1, %%rsp\n mov $1000, %%ecx\n"
                 "1: add %%rcx, %0\n xor %%rsp, %0\n xor %%rsp, %0\n dec %%ecx\n jnz 1b\n"
                 "mov %%rbx, %%rsp"
                 : "+a"(sum)
                 : "r"(a)
                 : "rbx", "rcx", "cc");
    return sum + b;
}

static word_t bad_stack_trap(word_t a, word_t b)
{
    asm volatile("mov %0, %%rsp\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n xor %%eax, %%eax\n"
                 "div %%ecx"
                 :
                 : "r"(a), "r"(b)
                 : "rax", "rcx", "rdx", "cc");
    return 0;
}

static void stacks(void)
{
    struct misses m = { 0 }, n = { 0 };
    word_t odd[] = { 0, 8, ~0ull, 1ull << 63, 1ull << 47, (1ull << 47) - 8 };

    for (unsigned k = 0; k < ARRAY_SIZE(odd) + nr_addresses; k++) {
        word_t sp = k < ARRAY_SIZE(odd) ? odd[k] : addresses[k - ARRAY_SIZE(odd)];

        for (unsigned i = 0; i < REPEAT; i++) {
            struct trap t = hot_user(bad_stack, sp, 1);

            if (t.vec != VEC_USER_END || t.f.ax != 500501)
                miss(&m, sp, &t);
            t = hot_user(bad_stack_trap, sp, 1);
            if (t.vec != VEC_DE || t.f.sp != sp)
                miss(&n, sp, &t);
        }
    }
    report(&m, "work with a strange RSP", true);
    report(&n, "#DE with a strange RSP", true);
}

/* ---- doors of the host ---- */

#define HOST_DOOR(name, insn)                                                                  \
    static word_t name(word_t a, word_t b)                                                     \
    {                                                                                          \
        asm volatile(insn : "+a"(a), "+d"(b) : : "rcx", "rbx", "rsi", "rdi", "r11", "memory"); \
        return a;                                                                              \
    }

HOST_DOOR(int80, "mov $20, %%eax\n int $0x81")
HOST_DOOR(syscall_getpid, "mov $39, %%eax\n syscall")
HOST_DOOR(sysenter_getpid, "mov $20, %%eax\n sysenter")
HOST_DOOR(far_33,
          "sub $16, %%rsp\n movq $0x33, 8(%%rsp)\n lea 1f(%%rip), %%rax\n mov %%rax, (%%rsp)\n"
          "lretq\n1: add $0, %%rsp")
HOST_DOOR(far_23, "sub $16, %%rsp\n movl $0x23, 4(%%rsp)\n movl $0x1000, (%%rsp)\n ljmp *(%%rsp)")
HOST_DOOR(wrpkru, "xor %%eax, %%eax\n xor %%ecx, %%ecx\n xor %%edx, %%edx\n .byte 0x0f, 0x01, 0xef")
HOST_DOOR(rdpkru, "xor %%ecx, %%ecx\n .byte 0x0f, 0x01, 0xee")
HOST_DOOR(mov_cr3, "mov %%cr3, %%rax")
HOST_DOOR(wrgsbase, "wrgsbase %%rax")
HOST_DOOR(kmov, ".byte 0xc5, 0xf8, 0x93, 0xc1")             /* kmovw %k1, %eax */
HOST_DOOR(evex, ".byte 0x62, 0xf1, 0x7c, 0x48, 0x10, 0x00") /* vmovups (%rax), %zmm0 */
HOST_DOOR(xend, ".byte 0x0f, 0x01, 0xd5")
HOST_DOOR(vmcall, ".byte 0x0f, 0x01, 0xc1, 0x0f, 0x0b")
HOST_DOOR(hlt, "hlt")
HOST_DOOR(in_port, "in $0x80, %%al")

static void doors(void)
{
    static const struct {
        const char *name;
        guest_fn *fn;
        word_t vec, err;
    } rows[] = {
        { "INT 81h", int80, VEC_GP, 0x81 * 8 + 2 },
        { "SYSCALL", syscall_getpid, VEC_UD, 0 },
        { "SYSENTER", sysenter_getpid, VEC_NONE, 0 },
        { "RETF to 33h", far_33, VEC_GP, 0x30 },
        { "JMP far to 23h", far_23, VEC_GP, 0x20 },
        { "WRPKRU", wrpkru, VEC_UD, 0 },
        { "RDPKRU", rdpkru, VEC_UD, 0 },
        { "MOV from CR3", mov_cr3, VEC_GP, 0 },
        { "WRGSBASE", wrgsbase, VEC_UD, 0 },
        { "KMOV", kmov, VEC_UD, 0 },
        { "EVEX", evex, VEC_UD, 0 },
        { "XEND", xend, VEC_UD, 0 },
        { "HLT", hlt, VEC_GP, 0 },
        { "IN", in_port, VEC_GP, 0 },
    };

    (void)vmcall;
    for (unsigned n = 0; n < ARRAY_SIZE(rows); n++)
        for (unsigned i = 0; i < REPEAT; i++) {
            struct trap t = try_user(rows[n].fn, 0, 0);

            tcg_deviates("has more features");
            if (rows[n].vec == VEC_NONE) /* AMD: not in long mode; Intel: the MSR is 0 */
                EXPECT(t.vec == VEC_UD || t.vec == VEC_GP, "%s at CPL 3", rows[n].name);
            else
                EXPECT_TRAP(&t, rows[n].vec, rows[n].err, "%s at CPL 3", rows[n].name);
        }
}

/* XRSTOR of components the guest does not have: PKRU (9), AVX-512 (5 to 7), AMX (17, 18). */
static uint8_t xstate[4096] __attribute__((aligned(64)));

static word_t xrstor(word_t lo, word_t hi)
{
    asm volatile("mov %0, %%rcx\n xrstor64 %2"
                 : "+a"(lo), "+d"(hi)
                 : "m"(xstate)
                 : "rcx", "memory");
    return 0;
}

static void xrstor_bits(void)
{
    static const unsigned bits[] = { 5, 6, 7, 9, 17, 18, 62 };

    write_cr4(read_cr4() | CR4_OSXSAVE);
    for (unsigned n = 0; n < ARRAY_SIZE(bits); n++)
        for (unsigned i = 0; i < REPEAT; i++) {
            struct trap t;

            memset(xstate, 0, sizeof(xstate));
            xstate[24] = 0x80, xstate[25] = 0x1f; /* MXCSR */
            *(uint64_t *)(xstate + 512) = 1ull << bits[n];
            t = try(xrstor, ~0u, ~0u);
            EXPECT_TRAP(&t, VEC_GP, 0, "XRSTOR of component %u", bits[n]);
        }
}

/* ---- loops that nothing but an interrupt ends ---- */

#define TIMER_VEC 0x40
static volatile unsigned ticks;

/* Out of the loop after some ticks: to where RBX says, if it is the loop that was interrupted. */
static void on_tick(struct frame *f)
{
    apic_write(APIC_EOI, 0);
    if (++ticks >= 3 && f->bx - f->ip < 128) {
        f->ip = f->bx;
        f->sp = f->bp;
        f->flags &= ~(word_t)FLAG_DF;
    }
}

#define LOOP(name, insn)                                                           \
    FN name(word_t a, word_t b)                                                    \
    {                                                                              \
        asm volatile("push %%rbp\n mov %%rsp, %%rbp\n lea 9f(%%rip), %%rbx\n" insn \
                     "\n9: pop %%rbp"                                              \
                     : "+a"(a), "+d"(b)                                            \
                     :                                                             \
                     : "rbx", "rcx", "rsi", "rdi", "r8", "memory", "cc");          \
        return 0x600d;                                                             \
    }

LOOP(loop_self, "1: jmp 1b")
LOOP(loop_jcc, "clc\n1: jnc 1b")
LOOP(loop_jmp_reg, "lea 1f(%%rip), %%rax\n1: jmp *%%rax")
LOOP(loop_jmp_mem, "lea 1f(%%rip), %%rax\n push %%rax\n1: jmp *(%%rsp)")
LOOP(loop_ret, "lea 1f(%%rip), %%rax\n push %%rax\n1: sub $8, %%rsp\n mov %%rax, (%%rsp)\n ret")
LOOP(loop_call, "1: add $8, %%rsp\n call 1b")
LOOP(loop_forward, "lea 3f(%%rip), %%rax\n jmp 2f\n3: jmp 1f\n1: jmp 2f\n2: jmp *%%rax")
LOOP(loop_loop, "1: mov $-1, %%rcx\n2: loop 2b\n jmp 1b")
LOOP(loop_lods,
     "1: mov %%rsp, %%rsi\n mov $-1, %%rcx\n shr $40, %%rcx\n .byte 0x67\n rep lodsb\n jmp 1b")
LOOP(loop_scas, "1: mov %%rsp, %%rdi\n xor %%eax, %%eax\n mov $8, %%ecx\n cld\n rep scasb\n jmp 1b")

static void loops(void)
{
    static const struct {
        const char *name;
        guest_fn *fn;
        bool only_kernel; /* needs low memory for what it scans */
    } rows[] = {
        { "JMP to itself", loop_self, false },    { "JNC to itself", loop_jcc, false },
        { "JMP r64", loop_jmp_reg, false },       { "JMP m64", loop_jmp_mem, false },
        { "RET to itself", loop_ret, false },     { "CALL to itself", loop_call, false },
        { "forward jumps", loop_forward, false }, { "LOOP", loop_loop, false },
        { "REP LODS", loop_lods, true },          { "REP SCAS", loop_scas, false },
    };

    apic_init();
    trap_handle(TIMER_VEC, on_tick);
    apic_write(APIC_TIMER_DIV, 0xb);
    apic_write(APIC_LVT_TIMER, TIMER_VEC | 1u << 17);
    for (unsigned user = 0; user < 2; user++)
        for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
            struct trap t;

            if (user && rows[n].only_kernel)
                continue;
            ticks = 0;
            apic_write(APIC_TIMER_INIT, 200000);
            user_flags = 2 | FLAG_IF;
            if (user) {
                t = try_user(rows[n].fn, 0, 0);
            } else {
                sti();
                t = try(rows[n].fn, 0, 0);
                cli();
            }
            user_flags = 2;
            apic_write(APIC_TIMER_INIT, 0);
            EXPECT(t.vec == (user ? VEC_USER_END : VEC_NONE) && t.f.ax == 0x600d,
                   "an endless loop at CPL %u is interrupted: %s (vector %u)", user ? 3u : 0u,
                   rows[n].name, (unsigned)t.vec);
        }
}

/* ---- where the addresses come from ---- */

static uint8_t serial_in(void)
{
    while (!(inb(COM1 + 5) & 1))
        ;
    return inb(COM1);
}

static void ask(void)
{
    word_t v = 0;

    print("# addresses?\n");
    for (;;) {
        uint8_t ch = serial_in();

        if (ch == '.')
            break;
        if (ch >= '0' && ch <= '9')
            v = v << 4 | (word_t)(ch - '0');
        else if (ch >= 'a' && ch <= 'f')
            v = v << 4 | (word_t)(ch - 'a' + 10);
        else if (nr_addresses == ARRAY_SIZE(addresses))
            continue;
        else if (ch == 'k')
            only_kernel[nr_addresses] = true;
        else if (ch == '\n')
            addresses[nr_addresses++] = v, v = 0;
    }
    print("# %u addresses\n", nr_addresses);
}

/* With the kernel's own pages in the upper half and global: a translator may have other ways to
 * them (bt's kernel view). */
static void all(void)
{
    static const word_t usual[] = {
        0x555555554000, 0x7ffff7fc1000,     0x7ffffffde000,     0x7fffffffeff8, 0x10000000000,
        0x10000004000,  0xffffffff81000000, 0xffffffffff600000, 0x800000000000, 0xdead000000000000,
    };

    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE);
    write_cr0((read_cr0() & ~(word_t)CR0_EM) | CR0_MP | CR0_NE);
    asm volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    if (str_has(boot_args(), "ask")) {
        for (unsigned i = 0; i < 30; i++)
            (void)try_user(spin, 20000000, 0);
        ask();
        rounds = 40000;
        repeat = 3;
    } else {
        memcpy(addresses, usual, sizeof(usual));
        nr_addresses = ARRAY_SIZE(usual);
    }
    at_addresses();
    edges();
    encodings();
    same_index();
    state();
    stacks();
    doors();
    xrstor_bits();
    loops();
}

int main(void)
{
    static upper_fn *const fns[] = { all };

    upper_run(fns, ARRAY_SIZE(fns));
    return 0;
}
