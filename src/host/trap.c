/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traps in generated code. A thread names the one host instruction that may trap (interp's stubs),
 * or a region of them (translated code), and where to go on instead; any other such signal goes to
 * whoever handled it before.
 *
 * The handlers and what they read are of the process and of the thread: signals know no VM.
 */
#include "host/host.h"

#include <errno.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#define VECTOR_PF 14

static const int trap_sigs[] = { SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGTRAP };

static pthread_mutex_t trap_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned trap_users;                              /* guarded by trap_lock */
static struct sigaction trap_old[ARRAY_SIZE(trap_sigs)]; /* written while there is no user */
static _Thread_local struct host_trap *volatile trap_armed;
static _Thread_local struct host_trap_region *volatile trap_region;
static _Thread_local bool trap_unblocked;

/* SIGNAL_SAFE */
static void trap_chain(int sig, siginfo_t *info, void *uctx)
{
    const struct sigaction *old = &trap_old[0];

    for (unsigned i = 0; i < ARRAY_SIZE(trap_sigs); i++)
        if (trap_sigs[i] == sig)
            old = &trap_old[i];
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, uctx);
        return;
    }
    if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(sig);
        return;
    }
    /* The instruction traps again and ends the process, as it would have without us. */
    (void)signal(sig, SIG_DFL);
}

/* SIGNAL_SAFE */
static void trap_handler(int sig, siginfo_t *info, void *uctx)
{
    struct host_trap *t = trap_armed;
    struct host_trap_region *r = trap_region;
    mcontext_t *mc = &((ucontext_t *)uctx)->uc_mcontext;
    const uint8_t *pc = (const uint8_t *)(uintptr_t)mc->gregs[REG_RIP];

    if (r && pc >= r->lo && pc < r->hi) {
        r->at = pc;
        r->sig = sig;
        r->page_fault = mc->gregs[REG_TRAPNO] == VECTOR_PF;
        r->fault_at = (uint64_t)mc->gregs[REG_CR2];
        r->error = (uint64_t)mc->gregs[REG_ERR];
        r->rcx = (uint64_t)mc->gregs[REG_RCX];
        r->r10 = (uint64_t)mc->gregs[REG_R10];
        r->r11 = (uint64_t)mc->gregs[REG_R11];
        mc->gregs[REG_RIP] = (greg_t)(uintptr_t)r->resume;
        return;
    }
    if ((sig != SIGFPE && sig != SIGILL) || !t || mc->gregs[REG_RIP] != (greg_t)(uintptr_t)t->at) {
        trap_chain(sig, info, uctx);
        return;
    }
    t->hit = sig == SIGFPE ? HOST_TRAP_FP : HOST_TRAP_INSN;
    mc->gregs[REG_RIP] = (greg_t)(uintptr_t)t->resume;
}

static void trap_restore(unsigned nr)
{
    while (nr--)
        (void)sigaction(trap_sigs[nr], &trap_old[nr], NULL);
}

int host_trap_install(void)
{
    struct sigaction sa = { .sa_sigaction = trap_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    int err = 0;

    (void)sigemptyset(&sa.sa_mask);
    (void)pthread_mutex_lock(&trap_lock);
    for (unsigned i = 0; !trap_users && i < ARRAY_SIZE(trap_sigs); i++) {
        if (!sigaction(trap_sigs[i], &sa, &trap_old[i]))
            continue;
        err = -errno;
        trap_restore(i);
        break;
    }
    if (!err)
        trap_users++;
    (void)pthread_mutex_unlock(&trap_lock);
    return err;
}

void host_trap_remove(void)
{
    (void)pthread_mutex_lock(&trap_lock);
    BUG_ON(!trap_users);
    if (--trap_users == 0)
        trap_restore(ARRAY_SIZE(trap_sigs));
    (void)pthread_mutex_unlock(&trap_lock);
}

/* A blocked SIGFPE would end the process, and our threads start with all signals blocked. */
static NOINLINE void trap_unblock(void)
{
    sigset_t set;

    (void)sigemptyset(&set);
    for (unsigned i = 0; i < ARRAY_SIZE(trap_sigs); i++)
        (void)sigaddset(&set, trap_sigs[i]);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    trap_unblocked = true;
}

void host_trap_region(struct host_trap_region *r)
{
    if (!trap_unblocked)
        trap_unblock();
    trap_region = r;
}

int host_trap_stack_set(struct host_trap_stack *s)
{
    stack_t ss;

    if (!s->base) {
        s->bytes = align_up(getauxval(AT_MINSIGSTKSZ) + KIB(32), PAGE_BYTES);
        s->base = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (s->base == MAP_FAILED) {
            s->base = NULL;
            return -ENOMEM;
        }
    }
    /* Disarmed while a handler runs: else a guest RSP that lies in it would make the kernel believe
     * that it is in use already. */
    ss = (stack_t){ .ss_sp = s->base, .ss_size = s->bytes, .ss_flags = (int)(1u << 31) };
    return sigaltstack(&ss, NULL) ? -errno : 0;
}

void host_trap_stack_free(struct host_trap_stack *s)
{
    stack_t ss = { .ss_flags = SS_DISABLE }, now;

    if (!s->base)
        return;
    if (!sigaltstack(NULL, &now) && now.ss_sp == s->base)
        (void)sigaltstack(&ss, NULL);
    (void)munmap(s->base, s->bytes);
    s->base = NULL;
}

void host_trap_arm(struct host_trap *t)
{
    if (!trap_unblocked)
        trap_unblock();
    trap_armed = t;
}
