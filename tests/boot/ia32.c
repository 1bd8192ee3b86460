/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An i386 program without a C library, for Debian's kernel in a guest (tests/boot/run) and for the
 * host, where it has to be content too: what 32-bit user code does under a 64-bit kernel. Prints
 * TAP. With an argument it only computes for a while.
 */
#include <stdbool.h>
#include <stdint.h>

#define NR_EXIT            1
#define NR_FORK            2
#define NR_WRITE           4
#define NR_WAITPID         7
#define NR_GETPID          20
#define NR_KILL            37
#define NR_MMAP2           192
#define NR_RT_SIGACTION    174
#define NR_SET_THREAD_AREA 243
#define SIGILL_            4
#define SIGUSR1_           10
#define SIGFPE_            8
#define SIGSEGV_           11
#define SA_SIGINFO_        4u
#define SA_RESTORER_       0x04000000u
#define AT_SYSINFO_        32
#define PROT_RWX           7
#define MAP_PRIVATE_ANON   0x22
#define PAGE               4096u

static long sys3(long nr, long a, long b, long c)
{
    long r;

    __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
    return r;
}

static long sys4(long nr, long a, long b, long c, long d)
{
    long r;

    __asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return r;
}

/* Anonymous memory, readable, writable and executable. */
static uint8_t *pages(unsigned nr)
{
    long r;

    __asm__ volatile("push %%ebp\n\tmov %[flags], %%esi\n\tmov $-1, %%edi\n\txor %%ebp, %%ebp\n\t"
                     "int $0x80\n\tpop %%ebp"
                     : "=a"(r)
                     : "a"(NR_MMAP2), "b"(0), "c"(nr * PAGE),
                       "d"(PROT_RWX), [flags] "i"(MAP_PRIVATE_ANON)
                     : "esi", "edi", "memory");
    return (uint8_t *)r;
}

/* ---- TAP ---- */

static unsigned nr_checks, nr_failed;

static unsigned put(char *to, const char *s)
{
    unsigned n = 0;

    while (s[n]) {
        to[n] = s[n];
        n++;
    }
    return n;
}

static unsigned put_number(char *to, uint32_t x)
{
    char digits[10];
    unsigned n = 0, len;

    do
        digits[n++] = (char)('0' + x % 10);
    while (x /= 10);
    len = n;
    while (n)
        *to++ = digits[--n];
    return len;
}

static void check(bool ok, const char *what)
{
    char line[128];
    unsigned n = put(line, ok ? "ok " : "not ok ");

    n += put_number(line + n, ++nr_checks);
    n += put(line + n, " - ia32: ");
    n += put(line + n, what);
    line[n++] = '\n';
    nr_failed += !ok;
    (void)sys3(NR_WRITE, 1, (long)line, (long)n);
}

static void plan(void)
{
    char line[32];
    unsigned n = put(line, "1..");

    n += put_number(line + n, nr_checks);
    line[n++] = '\n';
    (void)sys3(NR_WRITE, 1, (long)line, (long)n);
}

/* ---- computing ---- */

static uint32_t table[3 * PAGE / 4];

/* Integers, memory, branches and calls; 64-bit arithmetic in pairs of registers. */
static __attribute__((noinline)) uint32_t mix(uint32_t h, uint32_t x)
{
    return ((h ^ x) << 5 | (h ^ x) >> 27) * 0x9e3779b1u;
}

static uint32_t compute(unsigned rounds)
{
    const unsigned n = sizeof(table) / 4;
    uint32_t h = 1;
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        table[i] = i * 2654435761u;
    for (unsigned r = 0; r < rounds; r++) {
        for (unsigned i = 0; i < n; i++) {
            uint32_t *at = &table[(h >> 3) % n];

            *at += h;
            h = *at & 1 ? mix(h, *at + i) : h + i;
            sum += (uint64_t)h * i - r;
        }
    }
    return h ^ (uint32_t)sum ^ (uint32_t)(sum >> 32);
}

static __attribute__((noinline)) uint32_t fib(uint32_t n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint32_t twice(uint32_t x)
{
    return x * 2;
}
static uint32_t plus3(uint32_t x)
{
    return x + 3;
}
static uint32_t (*volatile const fns[])(uint32_t) = { twice, plus3, fib };

static void test_compute(void)
{
    uint32_t x = 1;

    check(compute(100) == 2313367533u, "integers, memory and branches");
    check(fib(20) == 6765, "recursion");
    for (unsigned i = 0; i < 1000; i++)
        x = fns[i % 2](x) % 1000003;
    check(x == 187337u && fns[2](10) == 55, "calls by pointer");
}

/* ---- encodings that 64-bit code does not have ---- */

static uint32_t short_forms(void)
{
    uint32_t r;

    __asm__ volatile(
        "mov $1, %%eax; mov $2, %%ecx; mov $3, %%edx; mov $-1, %%esi; xor %%edi, %%edi\n\t"
        ".byte 0x40, 0x41, 0x42, 0x46, 0x4f\n\t" /* inc eax, ecx, edx, esi; dec edi */
        ".byte 0x66, 0x49\n\t"                   /* dec cx */
        "adc %%edi, %%esi\n\t"                   /* inc and dec leave CF */
        ".byte 0x82, 0xc5, 0x07\n\t"             /* add $7, ch */
        "add %%ch, %%ah; xchg %%cl, %%ch\n\t"
        "imul $1000, %%edx, %%edx; add %%ecx, %%eax; add %%edx, %%eax; sub %%esi, %%eax"
        : "=a"(r)
        :
        : "ecx", "edx", "esi", "edi", "cc");
    return r;
}

static uint32_t stack_forms(void)
{
    static uint32_t cell = 77;
    uint32_t r;

    __asm__ volatile(
        "mov %%esp, %%edi\n\t"
        "push $-5; push $0x12345678; pushl %[cell]; push %%esp; pop %%eax\n\t"
        "sub %%edi, %%eax\n\t"            /* -12 */
        "pop %%ecx; add %%ecx, %%eax\n\t" /* 77 */
        "popl %[cell]; pop %%ecx; add %%ecx, %%eax\n\t"
        "pushw $3; pushw $4; pop %%ecx; add %%ecx, %%eax\n\t"
        "enter $16, $0; mov %%ebp, %%ecx; sub %%esp, %%ecx; leave; add %%ecx, %%eax\n\t"
        "pusha; movl $9, 28(%%esp); popa; add %[cell], %%eax\n\t"
        "cmp %%esp, %%edi; je 1f; xor %%eax, %%eax; 1:"
        : "=a"(r), [cell] "+m"(cell)
        :
        : "ecx", "edx", "edi", "cc", "memory");
    return r;
}

static uint32_t loop_forms(void)
{
    uint32_t r;

    __asm__ volatile("xor %%eax, %%eax; mov $10, %%ecx\n\t"
                     "1: add %%ecx, %%eax; loop 1b\n\t" /* 55 */
                     "jecxz 2f; xor %%eax, %%eax; 2:\n\t"
                     "mov $0x00010000, %%ecx; .byte 0x67; jecxz 3f; xor %%eax, %%eax\n\t"
                     "3: mov $0x27, %%edx; push %%eax; mov $0x19, %%al; add %%dl, %%al; daa\n\t"
                     "mov %%al, %%dl; pop %%eax; add %%edx, %%eax" /* 46h */
                     : "=a"(r)
                     :
                     : "ecx", "edx", "cc");
    return r;
}

static void test_encodings(void)
{
    /* ECX is 702h, then 207h. */
    check(short_forms() == 0x702u + 0x207u + 4000u + 1u, "INC, DEC, ADD r8 by 82h, AH to DH");
    check(stack_forms() == 9u + 0x12345678u, "PUSH, POP, PUSHA, ENTER, LEAVE");
    check(loop_forms() == 55u + 0x46u, "LOOP, JCXZ, DAA");
}

/* ---- thread-local data: GS with a base ---- */

struct user_desc {
    uint32_t entry, base, limit, bits;
};
#define DESC_32BIT   1u
#define DESC_PAGES   16u
#define DESC_USEABLE 64u

static uint32_t tls[2][64];

static uint16_t tls_entry(uint32_t base, uint32_t limit, uint32_t bits)
{
    struct user_desc d = { (uint32_t)-1, base, limit, DESC_32BIT | DESC_USEABLE | bits };

    return sys3(NR_SET_THREAD_AREA, (long)&d, 0, 0) ? 0 : (uint16_t)(d.entry * 8 + 3);
}

static uint32_t gs_sum(unsigned n)
{
    uint32_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        uint32_t x;

        __asm__ volatile("mov %%gs:(,%1,4), %0; addl $1, %%gs:(,%1,4)"
                         : "=&r"(x)
                         : "r"(i % 64)
                         : "memory", "cc");
        sum += x;
    }
    return sum;
}

static void load_gs(uint16_t sel)
{
    __asm__ volatile("mov %0, %%gs" : : "r"((uint32_t)sel));
}

static volatile uint32_t fault_signal, fault_at, fault_eip, nr_faults;

static void test_tls(void)
{
    uint16_t a = tls_entry((uint32_t)tls[0], 0xfffff, DESC_PAGES);
    uint16_t b = tls_entry((uint32_t)tls[1], 0xfffff, DESC_PAGES);
    uint16_t small = tls_entry((uint32_t)tls[1], 15, 0);
    uint32_t x = 0;

    for (unsigned i = 0; i < 64; i++) {
        tls[0][i] = i;
        tls[1][i] = 1000;
    }
    check(a && b && small, "set_thread_area");
    load_gs(a);
    check(gs_sum(6400) == 6400u / 64 * 2016u + 64u * 4950u, "GS has a base");
    load_gs(b);
    check(gs_sum(64) == 64000, "GS has another base");
    load_gs(small);
    fault_signal = 0;
    nr_faults = 0;
    __asm__ volatile("mov %%gs:12, %0; mov %%gs:13, %0; mov %%gs:16, %0" : "+c"(x));
    check(nr_faults == 2 && fault_signal == SIGSEGV_ && x == 1001, "GS has a limit");
    nr_faults = 0;
    load_gs(0);
    __asm__ volatile("mov %%gs:12, %0" : "+c"(x));
    check(nr_faults == 1 && x == 1001, "GS is unusable");
    load_gs(a);
    check(gs_sum(1) == 100, "GS has its first base again");
}

/* ---- signals ---- */

/* What of the frame is looked at; arch/x86/include/uapi/asm/sigcontext.h has it all. */
struct frame32 {
    uint32_t flags, link, stack[3];
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, trapno, err, eip;
};
struct info32 {
    int32_t signo, err, code;
    uint32_t addr;
};

/* Faults are of instructions whose length the tests put into fault_skip. */
static volatile uint32_t fault_skip;
static volatile uint32_t nr_usr1;

static void handler(int sig, const struct info32 *info, struct frame32 *f)
{
    if (sig == SIGUSR1_) {
        nr_usr1++;
        return;
    }
    nr_faults++;
    fault_signal = (uint32_t)sig;
    fault_at = info->addr;
    fault_eip = f->eip;
    f->eip += fault_skip;
}

__asm__(".text\nrestorer: mov $173, %eax\n int $0x80\n");
extern const char restorer[];

static void catch_signal(long sig)
{
    const struct {
        void (*fn)(int, const struct info32 *, struct frame32 *);
        uint32_t flags;
        const char *restorer;
        uint32_t mask[2];
    } act = { handler, SA_SIGINFO_ | SA_RESTORER_, restorer, { 0, 0 } };

    (void)sys4(NR_RT_SIGACTION, sig, (long)&act, 0, 8);
}

static void test_signals(void)
{
    uint8_t *page = pages(2);
    uint32_t a = 1, b = 2, c = 3, at;

    (void)sys3(NR_KILL, sys3(NR_GETPID, 0, 0, 0), SIGUSR1_, 0);
    check(nr_usr1 == 1, "a signal to itself");
    fault_skip = 2;
    __asm__ volatile("mov $1f, %[at]\n1: mov %%ebx, (%%eax)\n"
                     : "+a"(a), "+b"(b), "+c"(c), [at] "=&S"(at)
                     :
                     : "memory");
    check(fault_signal == SIGSEGV_ && fault_at == 1 && fault_eip == at && a == 1 && b == 2 &&
              c == 3,
          "a fault has its address, and registers as they were");
    fault_signal = 0;
    __asm__ volatile("mov $5, %%eax; cltd; xor %%ecx, %%ecx; mov $1f, %[at]\n1: idiv %%ecx"
                     : "=&a"(a), [at] "=&S"(at)
                     :
                     : "ecx", "edx", "cc");
    check(fault_signal == SIGFPE_ && fault_eip == at && a == 5, "a division by zero");
    fault_signal = 0;
    __asm__ volatile("mov $1f, %[at]\n1: ud2" : [at] "=&S"(at));
    check(fault_signal == SIGILL_ && fault_eip == at, "an undefined instruction");
    *(volatile uint32_t *)(page + PAGE - 2) = 0x11223344;
    check(*(volatile uint32_t *)(page + PAGE - 3) == 0x22334400, "accesses across pages");
}

/* ---- processes and the kernel's doors ---- */

static long by_vsyscall(uint32_t entry, long nr)
{
    long r;

    __asm__ volatile("call *%1" : "=a"(r) : "r"(entry), "a"(nr) : "memory", "ecx", "edx");
    return r;
}

static void test_kernel(uint32_t sysinfo)
{
    int status = 0;
    long pid, sum = 0;

    check(sysinfo && by_vsyscall(sysinfo, NR_GETPID) == sys3(NR_GETPID, 0, 0, 0),
          "the vDSO's door and INT 80h");
    for (unsigned i = 0; i < 5; i++) {
        pid = sys3(NR_FORK, 0, 0, 0);
        if (!pid)
            (void)sys3(NR_EXIT, (long)(fib(10) + i), 0, 0);
        if (sys3(NR_WAITPID, pid, (long)&status, 0) == pid)
            sum += status >> 8 & 255;
    }
    check(sum == 5 * 55 + 10, "processes and their exit statuses");
}

/* ---- floating point and vectors ---- */

static bool has_avx(void)
{
    uint32_t a = 1, b, c, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    if ((c >> 27 & 3) != 3)
        return false;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & 6) == 6;
}

/* SDM 1, "x87 FPU Instruction and Data (Operand) Pointers": only with unmasked exceptions? */
static bool fdp_excptn_only(void)
{
    uint32_t a = 7, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return b >> 6 & 1;
}

static __attribute__((target("sse2"))) void test_vectors(void)
{
    static uint32_t in[8] __attribute__((aligned(32))) = { 1, 2, 3, 4, 5, 6, 7, 8 };
    static uint32_t out[8] __attribute__((aligned(32)));
    volatile double x = 0.0, y = 1.0;
    uint32_t env[7] = { 0 };

    for (unsigned i = 1; i < 100; i++) { /* x87 */
        x += 1.0 / (double)i;
        y *= 1.0 + 1.0 / 1024;
    }
    check((uint32_t)(int32_t)(x * 1000000) == 5177377u && (uint32_t)(int32_t)(y * 1000) == 1101u,
          "x87");
    __asm__ volatile("fld1; fstpl %1; fnstenv %0; fldcw %0" : "=m"(env), "=m"(x));
    check((env[5] == (uint32_t)&x) == !fdp_excptn_only() && x == 1.0, "the x87 operand's address");
    __asm__ volatile(
        "movdqa %1, %%xmm7; paddd 16+%1, %%xmm7; movd %%xmm7, %%ecx; pxor %%xmm0, %%xmm0\n\t"
        "cvtsi2sd %%ecx, %%xmm0; addsd %%xmm0, %%xmm0; cvttsd2si %%xmm0, %%edx\n\t"
        "movd %%edx, %%xmm1; punpckldq %%xmm1, %%xmm7; movdqa %%xmm7, %0"
        : "=m"(out)
        : "m"(in)
        : "ecx", "edx");
    check(out[0] == 6 && out[1] == 12 && out[2] == 8 && out[3] == 0, "SSE2");
    if (!has_avx()) {
        check(true, "AVX # SKIP not offered");
        return;
    }
    __asm__ volatile("vmovaps %1, %%ymm6; vaddps %%ymm6, %%ymm6, %%ymm6; vmovaps %%ymm6, %%ymm5\n\t"
                     "vzeroupper; vinsertf128 $1, %%xmm5, %%ymm6, %%ymm4; vmovaps %%ymm5, %0"
                     : "=m"(out)
                     : "m"(in));
    check(out[0] == 2 && out[3] == 8 && !out[4] && !out[7], "AVX and VZEROUPPER");
}

/* ---- code that is written ---- */

static void test_code(void)
{
    uint8_t *page = pages(1);
    uint32_t sum = 0;

    for (uint32_t i = 0; i < 3000; i++) {
        page[0] = 0xb8; /* mov $i, %eax; inc %eax; ret */
        __builtin_memcpy(page + 1, &i, 4);
        page[5] = i % 3 ? 0x40 : 0x90;
        page[6] = 0xc3;
        sum += ((uint32_t(*)(void))(uintptr_t)page)();
    }
    check(sum == 2999u * 3000 / 2 + 2000, "code that is written and run");
}

/* ---- to 64-bit code and back ---- */

__asm__(".text\n.code64\n"
        "set64: mov $0x1122334455667788, %r8; mov %r8, %r15; not %r15; lretl\n"
        "get64: mov %r8, %rax; add %r15, %rax; inc %rax; setz %al; movzx %al, %eax\n"
        "       shr $32, %r8; cmp $0x11223344, %r8d; setz %cl; and %cl, %al; lretl\n"
        "dirty64: mov $0x5500000000, %rdx; or %rdx, %rax; or %rdx, %rcx; lretl\n"
        ".code32\n"
        "bump: mov (%ecx), %eax; inc %eax; ret\n");
extern const char set64[], get64[], dirty64[], bump[];

static void test_64bit_code(void)
{
    uint32_t r;

    __asm__ volatile("lcall $0x33, $set64" : : : "memory");
    r = fib(12);
    __asm__ volatile("lcall $0x33, $get64" : "=a"(r) : : "ecx", "cc", "memory");
    check(r == 1, "R8 and R15 outlive a stay in 32-bit code");
    __asm__ volatile("lcall $0x33, $dirty64; call *%%eax"
                     : "=a"(r)
                     : "a"(bump), "c"(&nr_usr1)
                     : "edx", "cc", "memory");
    check(r == nr_usr1 + 1, "32-bit code does not see upper halves");
}

/* ---- beginning and end ---- */

static __attribute__((used)) void start(const uint32_t *stack)
{
    uint32_t argc = stack[0], sysinfo = 0, n = 1 + argc + 1;

    if (argc > 1) {
        const char *arg = (const char *)stack[2];
        uint32_t rounds = 0;

        while (*arg)
            rounds = rounds * 10 + (uint32_t)(*arg++ - '0');
        (void)sys3(NR_EXIT, (long)(compute(rounds) & 127), 0, 0);
    }
    while (stack[n++]) /* the environment */
        ;
    for (; stack[n]; n += 2)
        if (stack[n] == AT_SYSINFO_)
            sysinfo = stack[n + 1];
    catch_signal(SIGUSR1_);
    catch_signal(SIGSEGV_);
    catch_signal(SIGFPE_);
    catch_signal(SIGILL_);
    test_compute();
    test_encodings();
    fault_skip = 7; /* mov %gs:N, %ecx */
    test_tls();
    test_signals();
    test_kernel(sysinfo);
    test_vectors();
    test_code();
    test_64bit_code();
    plan();
    (void)sys3(NR_EXIT, nr_failed != 0, 0, 0);
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n "
        "push %eax\n call start\n");
