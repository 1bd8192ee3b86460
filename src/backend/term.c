/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Raw mode, and the signals that must not leave the terminal in it. A terminal and signal handlers
 * belong to the process, so this is the one piece of state here that hangs off nothing.
 *
 * Termination requests (SIGTERM, SIGINT, SIGHUP) are handled here only if nobody else does: the
 * command blocks them and ends the VM cleanly.
 */
#include "backend/term.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

/* All that end a process by default; SIGPIPE is never raised in our threads. The first ones are
 * raised by an instruction: whoever handles them has no way to go on but to end. */
#define NR_FAULTS 6
static const int term_fatal[] = { SIGSEGV, SIGBUS,  SIGILL,  SIGFPE, SIGSYS, SIGTRAP,
                                  SIGABRT, SIGQUIT, SIGTERM, SIGINT, SIGHUP, SIGXCPU,
                                  SIGXFSZ, SIGALRM, SIGUSR1, SIGUSR2 };
#define NR_FATAL ARRAY_SIZE(term_fatal)

static struct {
    volatile sig_atomic_t held; /* cooked and raw are valid */
    int fd;
    struct termios cooked, raw;
    struct sigaction old_fatal[NR_FATAL], old_cont, old_tstp;
    bool has_atexit;
} term_state;

/* SIGNAL_SAFE */
void term_restore(void)
{
    int err = errno;
    sigset_t ttou, old;

    if (!term_state.held)
        return;
    /* In the background this would stop us; blocked, it is simply done (tcsetattr(3)). */
    (void)sigemptyset(&ttou);
    (void)sigaddset(&ttou, SIGTTOU);
    (void)pthread_sigmask(SIG_BLOCK, &ttou, &old);
    (void)tcsetattr(term_state.fd, TCSANOW, &term_state.cooked);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = err;
}

/* SIGNAL_SAFE. Only in the foreground: the terminal is the shell's otherwise, and SIGCONT comes
 * later. */
static void term_make_raw(void)
{
    int err = errno;

    if (term_state.held && tcgetpgrp(term_state.fd) == getpgrp())
        (void)tcsetattr(term_state.fd, TCSANOW, &term_state.raw);
    errno = err;
}

/*
 * SIGNAL_SAFE. What would have happened without us follows when the handler returns: a fault
 * happens again, anything else is raised again (it is blocked until then).
 */
static void term_on_fatal(int sig, siginfo_t *info, void *uctx)
{
    bool again = false;

    (void)uctx;
    term_restore();
    for (unsigned i = 0; i < NR_FATAL; i++) {
        if (term_fatal[i] != sig)
            continue;
        (void)sigaction(sig, &term_state.old_fatal[i], NULL);
        again = i < NR_FAULTS && info->si_code > 0; /* not just sent by kill() */
    }
    if (!again)
        (void)raise(sig);
}

/* SIGNAL_SAFE */
static void term_on_cont(int sig)
{
    (void)sig;
    term_make_raw();
}

/* SIGNAL_SAFE. Stops as if there were no handler, with the terminal as the shell wants it. */
static void term_on_tstp(int sig)
{
    struct sigaction ours, dfl = { .sa_handler = SIG_DFL };
    sigset_t set, old;
    int err = errno;

    term_restore();
    (void)sigaction(sig, &dfl, &ours);
    (void)raise(sig);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, sig);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, &old); /* stops here */
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)sigaction(sig, &ours, NULL);
    term_make_raw();
    errno = err;
}

/* Other handlers and an inherited "ignore" (nohup) stay, but for handlers of faults (a
 * sanitizer's): they come after ours. */
static bool term_takes(unsigned idx)
{
    const struct sigaction *old = &term_state.old_fatal[idx];

    if (old->sa_flags & SA_SIGINFO)
        return idx < NR_FAULTS;
    return old->sa_handler == SIG_DFL || (idx < NR_FAULTS && old->sa_handler != SIG_IGN);
}

static void term_catch(void)
{
    struct sigaction fatal = { .sa_sigaction = term_on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct sigaction cont = { .sa_handler = term_on_cont, .sa_flags = SA_RESTART };
    struct sigaction tstp = { .sa_handler = term_on_tstp, .sa_flags = SA_RESTART };

    for (unsigned i = 0; i < NR_FATAL; i++) {
        (void)sigaction(term_fatal[i], NULL, &term_state.old_fatal[i]);
        if (term_takes(i))
            (void)sigaction(term_fatal[i], &fatal, NULL);
    }
    (void)sigaction(SIGCONT, &cont, &term_state.old_cont);
    (void)sigaction(SIGTSTP, &tstp, &term_state.old_tstp);
}

int term_acquire(int fd)
{
    if (term_state.held)
        return -EBUSY;
    if (tcgetattr(fd, &term_state.cooked) < 0)
        return -errno;
    term_state.fd = fd;
    term_state.raw = term_state.cooked;
    cfmakeraw(&term_state.raw);
    if (!term_state.has_atexit && atexit(term_restore) == 0)
        term_state.has_atexit = true;
    term_catch();
    term_state.held = 1;
    term_make_raw();
    return 0;
}

void term_release(void)
{
    if (!term_state.held)
        return;
    term_restore();
    term_state.held = 0;
    for (unsigned i = 0; i < NR_FATAL; i++)
        (void)sigaction(term_fatal[i], &term_state.old_fatal[i], NULL);
    (void)sigaction(SIGCONT, &term_state.old_cont, NULL);
    (void)sigaction(SIGTSTP, &term_state.old_tstp, NULL);
}
