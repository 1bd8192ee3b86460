// SPDX-License-Identifier: Apache-2.0
/*
 * Signals in the middle of everything: registers of all kinds that have to survive them, faults
 * that handlers repair, contexts they change, single steps.
 */
#include "stress.h"

#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

static volatile uint64_t nr_alarms, nr_traps;

static void handle(int sig, void (*f)(int, siginfo_t *, void *))
{
    struct sigaction sa = { .sa_sigaction = f, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK };

    MUST(!sigaction(sig, &sa, NULL));
}

/* Clobbers what the interrupted code has in its registers. */
static void on_alarm(int sig, siginfo_t *info, void *uctx)
{
    volatile double x = (double)nr_alarms;
    volatile long double y = (long double)x;

    (void)sig, (void)info, (void)uctx;
    for (unsigned i = 0; i < 10; i++) {
        x = sqrt(x + i);
        y = y * 3 + x;
    }
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0; pcmpeqd %%xmm1, %%xmm1; pxor %%xmm7, %%xmm7;"
                     "pcmpeqd %%xmm15, %%xmm15; fld1; fld1; fstp %%st(1); fstp %%st(0)"
                     :
                     :
                     : "xmm0", "xmm1", "xmm7", "xmm15", "st", "st(1)");
    nr_alarms++;
}

static uint64_t of_double(double x)
{
    uint64_t u;

    memcpy(&u, &x, sizeof(u));
    return u;
}

/* The same sums in integer, SSE and x87 registers, all at once. */
static uint64_t registers(struct rng *r, unsigned size)
{
    uint64_t hash = 0;

    handle(SIGALRM, on_alarm);
    alarm_every_us(200);
    for (unsigned n = 0; n < size; n++) {
        uint64_t a = rnd(r), b = rnd(r) | 1, c = rnd(r);
        double x = (double)(a % 1000), y = 1.0 + (double)(b % 1000) / 1000;
        long double z = x;

        for (unsigned i = 0; i < 20000; i++) {
            a = a * b + c;
            c ^= a >> 29;
            x = x * 0.999 + y;
            z = z * 0.5L + x;
            y += 1e-9;
        }
        hash = mix(mix(mix(hash, a ^ c), of_double(x)), of_double((double)z));
    }
    alarm_every_us(0);
    return hash;
}

/* ---- faults that a handler steps over or repairs ---- */

static volatile uint64_t caught;
static uint8_t *guarded;

extern const char step_begin[], step_end[];
uint64_t stepped(uint64_t x);
__asm__(".globl stepped, step_begin, step_end\n"
        "stepped: mov %rdi, %rax\n"
        "step_begin: mov $5, %ecx\n"
        "1: add %rcx, %rax\n"
        "rol $3, %rax\n"
        "push %rax\n"
        "pop %rdx\n"
        "xor %edx, %eax\n"
        "dec %ecx\n"
        "jnz 1b\n"
        "step_end: ret\n");

static void on_fault(int sig, siginfo_t *info, void *uctx)
{
    greg_t *g = ((ucontext_t *)uctx)->uc_mcontext.gregs;

    caught = mix(caught, (uint64_t)sig << 32 | (uint32_t)info->si_code);
    switch (sig) {
    case SIGFPE: /* idiv %ecx: give it something to divide by */
        g[REG_RCX] = 7;
        break;
    case SIGILL: /* ud2 */
        g[REG_RIP] += 2;
        g[REG_RAX]++;
        break;
    case SIGSEGV:
        MUST(!mprotect(guarded, 4096, PROT_READ | PROT_WRITE));
        break;
    default: /* SIGTRAP: int3, or a step */
        nr_traps++;
        if (g[REG_RIP] == (greg_t)step_end)
            g[REG_EFL] &= ~0x100;
        caught = mix(caught, (uint64_t)g[REG_RAX]);
        break;
    }
}

static uint64_t stepping(uint64_t x)
{
    /* popf sets TF: the trap comes behind the next instruction. */
    __asm__ volatile("sub $128, %%rsp; pushf; orq $0x100, (%%rsp); popf; call stepped; add $128, %%rsp"
                     : "=a"(x)
                     : "D"(x)
                     : "rcx", "rdx", "memory", "cc");
    return x;
}

static uint64_t faults(struct rng *r, unsigned size)
{
    static uint8_t stack[65536];
    stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
    static const int sigs[] = { SIGFPE, SIGILL, SIGSEGV, SIGTRAP };

    MUST(!sigaltstack(&ss, NULL));
    guarded = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(guarded != MAP_FAILED);
    for (unsigned i = 0; i < sizeof(sigs) / sizeof(sigs[0]); i++)
        handle(sigs[i], on_fault);
    handle(SIGALRM, on_alarm);
    alarm_every_us(1000);
    for (unsigned n = 0; n < size * 10; n++) {
        uint64_t x = rnd(r), rax = x & 0xffff, rcx = 0, rdx = 0;

        switch (x >> 60 & 3) {
        case 0:
            __asm__ volatile("idiv %%ecx" : "+a"(rax), "+c"(rcx), "+d"(rdx) : : "cc");
            break;
        case 1:
            __asm__ volatile("ud2; int3" : "+a"(rax) : : "memory");
            break;
        case 2:
            MUST(!mprotect(guarded, 4096, x & 1 ? PROT_NONE : PROT_READ));
            *(volatile uint8_t *)guarded = (uint8_t)x;
            rax = *(volatile uint8_t *)guarded;
            break;
        default:
            rax = stepping(x);
            break;
        }
        caught = mix(caught, rax);
    }
    alarm_every_us(0);
    return mix(caught, nr_traps);
}

/* ---- handlers within handlers, and killed children ---- */

static volatile unsigned depth;

static void on_usr(int sig, siginfo_t *info, void *uctx)
{
    unsigned mine = ++depth;
    volatile uint8_t deep[500];

    (void)info, (void)uctx;
    memset((void *)deep, (int)mine, sizeof(deep));
    if (mine < 20)
        (void)raise(sig == SIGUSR1 ? SIGUSR2 : SIGUSR1);
    for (unsigned i = 0; i < sizeof(deep); i++)
        MUST(deep[i] == (uint8_t)mine);
    caught = mix(caught, mine);
}

static uint64_t nested(struct rng *r, unsigned size)
{
    struct sigaction sa = { .sa_sigaction = on_usr, .sa_flags = SA_SIGINFO | SA_NODEFER };

    MUST(!sigaction(SIGUSR1, &sa, NULL) && !sigaction(SIGUSR2, &sa, NULL));
    handle(SIGALRM, on_alarm);
    alarm_every_us(500);
    for (unsigned n = 0; n < size; n++) {
        depth = (unsigned)(rnd(r) % 20);
        MUST(!raise(SIGUSR1));
    }
    alarm_every_us(0);
    return caught;
}

const struct work signal_works[] = {
    { "registers", registers },
    { "faults", faults },
    { "nested", nested },
    { NULL, NULL },
};
