/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traps in generated code (SIGFPE, SIGILL). A thread names the one host instruction that may trap
 * and where to go on instead; any other such signal goes to whoever handled it before.
 *
 * The handlers and what they read are of the process and of the thread: signals know no VM.
 */
#include "host/host.h"

#include <errno.h>
#include <signal.h>
#include <ucontext.h>

static const int trap_sigs[] = { SIGFPE, SIGILL };

static pthread_mutex_t trap_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned trap_users;                              /* guarded by trap_lock */
static struct sigaction trap_old[ARRAY_SIZE(trap_sigs)]; /* written while there is no user */
static _Thread_local struct host_trap *volatile trap_armed;
static _Thread_local bool trap_unblocked;

/* SIGNAL_SAFE */
static void trap_chain(int sig, siginfo_t *info, void *uctx)
{
    const struct sigaction *old = &trap_old[sig == trap_sigs[0] ? 0 : 1];

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
    mcontext_t *mc = &((ucontext_t *)uctx)->uc_mcontext;

    if (!t || mc->gregs[REG_RIP] != (greg_t)(uintptr_t)t->at) {
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

void host_trap_arm(struct host_trap *t)
{
    if (!trap_unblocked)
        trap_unblock();
    trap_armed = t;
}
