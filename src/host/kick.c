/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kicks: a signal with nothing to do, whose only effect is that the thread's system call ends.
 *
 * doppel's threads have all signals blocked (thread.c); those that take kicks unblock this one. The
 * handler is the process's and always the same, so installing it again changes nothing.
 */
#include "host/host.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN
#define NS_PER_S    1000000000ull

static void kick_handler(int sig)
{
    (void)sig;
}

int host_kick_accept(struct host_kick *k)
{
    struct sigaction act = { .sa_handler = kick_handler, .sa_flags = SA_RESTART };
    sigset_t set;

    (void)sigemptyset(&act.sa_mask);
    if (sigaction(KICK_SIGNAL, &act, NULL))
        return -errno;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, KICK_SIGNAL);
    BUG_ON(pthread_sigmask(SIG_UNBLOCK, &set, NULL));
    k->pid = (int)getpid();
    k->tid = (int)syscall(SYS_gettid);
    return 0;
}

void host_kick(const struct host_kick *k)
{
    /* ESRCH: the thread has ended, nobody is to be woken. */
    (void)syscall(SYS_tgkill, k->pid, k->tid, KICK_SIGNAL);
}

/* The kernel's own numbers of timers: glibc's timer_t would bring a pointer. */
int host_kick_timer_start(const struct host_kick *k, uint64_t every_ns)
{
    struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KICK_SIGNAL };
    struct itimerspec it = {
        .it_value = { .tv_sec = (time_t)(every_ns / NS_PER_S),
                      .tv_nsec = (long)(every_ns % NS_PER_S) },
    };
    int timer;

    ev._sigev_un._tid = k->tid;
    it.it_interval = it.it_value;
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &timer))
        return -errno;
    if (syscall(SYS_timer_settime, timer, 0, &it, NULL)) {
        int err = -errno;

        (void)syscall(SYS_timer_delete, timer);
        return err;
    }
    return timer;
}

void host_kick_timer_stop(int timer)
{
    (void)syscall(SYS_timer_delete, timer);
}
