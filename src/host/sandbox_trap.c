/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A thread that makes a system call it may not make: SIGSYS with a handler, which writes a line
 * that names the call. The call has not happened, and fails with EPERM; or, with --sandbox on, the
 * process ends.
 */
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>
#include <unistd.h>

#include "host/sandbox_priv.h"

#define NR_NAMES   512 /* system calls of x86-64 are fewer */
#define NAME_BYTES 28

/* The process's, as signal handlers are. */
static struct {
    char names[NR_NAMES][NAME_BYTES]; /* looked up before: a handler may not allocate */
    struct sigaction before;
    bool caught, lets_live;
    bool said[NR_NAMES];
} sandbox_trap;

/* SIGNAL_SAFE */
static size_t put(char *line, size_t at, size_t bytes, const char *text)
{
    for (; *text && at < bytes; text++)
        line[at++] = *text;
    return at;
}

/* SIGNAL_SAFE */
static size_t put_number(char *line, size_t at, size_t bytes, uint64_t nr)
{
    char digits[24];
    unsigned i = sizeof(digits) - 1;

    digits[i] = 0;
    do
        digits[--i] = (char)('0' + nr % 10);
    while ((nr /= 10) && i);
    return put(line, at, bytes, digits + i);
}

/* SIGNAL_SAFE */
static void say(unsigned nr, uint64_t first_arg)
{
    char line[200], thread[16] = "?";
    size_t at = 0, bytes = sizeof(line);

    (void)prctl(PR_GET_NAME, thread);
    at = put(line, at, bytes, "doppel: error: sandbox: thread '");
    at = put(line, at, bytes, thread);
    at = put(line, at, bytes, "' made the system call ");
    if (nr < NR_NAMES && sandbox_trap.names[nr][0])
        at = put(line, at, bytes, sandbox_trap.names[nr]);
    else
        at = put_number(line, at, bytes, nr);
    at = put(line, at, bytes, " (first argument ");
    at = put_number(line, at, bytes, first_arg);
    at = put(line, at, bytes, "), which it may not make: ");
    at = put(line, at, bytes, sandbox_trap.lets_live ? "it fails\r\n" : "the VM ends here\r\n");
    if (write(STDERR_FILENO, line, at) < 0)
        return;
}

/* SIGNAL_SAFE */
static void on_sigsys(int sig, siginfo_t *info, void *uctx)
{
    const struct sigaction dfl = { .sa_handler = SIG_DFL };
    greg_t *gregs = ((ucontext_t *)uctx)->uc_mcontext.gregs;
    bool is_call = info->si_code == 1; /* SYS_SECCOMP, and not somebody's kill() */
    unsigned nr = (unsigned)info->si_syscall;
    sigset_t set;

    if (is_call && (nr >= NR_NAMES || !sandbox_trap.said[nr])) {
        say(nr, (uint64_t)gregs[REG_RDI]);
        if (nr < NR_NAMES)
            sandbox_trap.said[nr] = true;
    }
    if (is_call && sandbox_trap.lets_live) {
        gregs[REG_RAX] = -EPERM;
        return;
    }
    /* Whoever had the signal before: the terminal is restored. */
    if (sandbox_trap.before.sa_flags & SA_SIGINFO)
        sandbox_trap.before.sa_sigaction(sig, info, uctx);
    (void)sigaction(sig, &dfl, NULL);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, sig);
    (void)raise(sig);
    (void)sigprocmask(SIG_UNBLOCK, &set, NULL);
    _exit(128 + sig); /* not reached: the signal has ended us */
}

static void look_names_up(void)
{
    for (int nr = 0; nr < NR_NAMES; nr++) {
        char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, nr);

        if (name)
            (void)snprintf(sandbox_trap.names[nr], NAME_BYTES, "%s", name);
        free(name);
    }
}

int trap_catch_sigsys(bool lets_live)
{
    struct sigaction ours = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    struct sigaction old;

    if (!sandbox_trap.caught)
        look_names_up();
    if (sigaction(SIGSYS, &ours, &old) < 0)
        return -errno;
    if (!(old.sa_flags & SA_SIGINFO) || old.sa_sigaction != on_sigsys)
        sandbox_trap.before = old;
    sandbox_trap.caught = true;
    sandbox_trap.lets_live = lets_live;
    return 0;
}
