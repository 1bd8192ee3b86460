/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile program under Linux in the guest: runs for long enough to be worth the direct tier,
 * asks the console for addresses (those of the monitor that runs its guest), and aims loads,
 * stores, jumps, stack pointers and segment bases at them. Each has to end in the signal that Linux
 * sends for an address where nothing is.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_ADDRESSES 2048
#define ARCH_SET_GS   0x1001
#define NEAR          (64ull << 20) /* of its own mappings: stacks grow */

static uint64_t addresses[MAX_ADDRESSES];
static unsigned nr_addresses;
static sigjmp_buf back;
static volatile int got_signal;
static volatile uint64_t got_address;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)context;
    got_signal = sig;
    got_address = (uint64_t)info->si_addr;
    siglongjmp(back, 1);
}

static void spin(uint64_t rounds)
{
    while (rounds--)
        __asm__ volatile("");
}

#define ATTACK(name, insn)                                                               \
    static void name(uint64_t a)                                                         \
    {                                                                                    \
        __asm__ volatile(insn : : "a"(a) : "rbx", "rcx", "rdx", "rsi", "rdi", "memory"); \
    }
ATTACK(load, "mov (%%rax), %%rdx")
ATTACK(store, "mov %%rdx, (%%rax)")
ATTACK(add, "lock addq $1, (%%rax)")
ATTACK(copy_from,
       "mov %%rax, %%rsi\n mov $8, %%ecx\n sub $64, %%rsp\n mov %%rsp, %%rdi\n rep movsb")
ATTACK(copy_to, "mov %%rax, %%rdi\n mov $8, %%ecx\n rep stosb")
ATTACK(jump, "jmp *%%rax")
ATTACK(call, "call *%%rax")
ATTACK(ret, "push %%rax\n ret")
ATTACK(push_there, "lea 8(%%rax), %%rsp\n push %%rdx")
ATTACK(pop_there, "mov %%rax, %%rsp\n pop %%rdx")

static void by_gs(uint64_t a)
{
    if (syscall(SYS_arch_prctl, ARCH_SET_GS, a))
        load(a); /* a kernel's: Linux refuses */
    __asm__ volatile("mov %%gs:0, %%rdx" : : : "rdx", "memory");
}

static const struct {
    const char *name;
    void (*fn)(uint64_t a);
} attacks[] = {
    { "load", load },        { "store", store },   { "locked add", add }, { "rep movs", copy_from },
    { "rep stos", copy_to }, { "jmp", jump },      { "call", call },      { "ret", ret },
    { "push", push_there },  { "pop", pop_there }, { "gs", by_gs },
};

/* Is it this program's own, or so near that its stack might grow there? */
static bool own(uint64_t a)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long from, to;
    char line[256];
    bool found = false;

    while (maps && fgets(line, sizeof(line), maps))
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && a + NEAR >= from && a < to + NEAR)
            found = true;
    if (maps)
        fclose(maps);
    return found;
}

static void ask(void)
{
    char line[64];

    printf("# addresses?\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) && line[0] != '.') {
        uint64_t a = strtoull(line, NULL, 16);

        if (!strchr(line, 'k') && nr_addresses < MAX_ADDRESSES && !own(a))
            addresses[nr_addresses++] = a;
    }
}

int main(void)
{
    static char stack[65536];
    stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
    struct sigaction sa = { .sa_sigaction = on_signal,
                            .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

    (void)sigaltstack(&ss, NULL);
    for (int s = 1; s < 32; s++)
        (void)sigaction(s, &sa, NULL);
    spin(500000000);
    ask();
    for (unsigned k = 0; k < sizeof(attacks) / sizeof(attacks[0]); k++) {
        volatile unsigned wrong = 0;

        for (volatile unsigned n = 0; n < nr_addresses; n++)
            for (volatile unsigned i = 0; i < 2; i++) {
                got_signal = 0;
                if (!sigsetjmp(back, 1)) {
                    spin(150000); /* a burst that is worth the direct tier */
                    attacks[k].fn(addresses[n]);
                }
                wrong += got_signal != SIGSEGV || got_address != addresses[n];
            }
        printf("%s - %s: %u wrong\n", wrong ? "not ok" : "ok", attacks[k].name, wrong);
    }
    printf("end\n");
    return 0;
}
