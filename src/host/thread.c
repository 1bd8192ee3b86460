/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads, and sleeping on a word. doppel's threads take no asynchronous signals, so that a signal
 * meant for the process always reaches the main thread.
 */
#include "host/host.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "host/sandbox.h"

#define NS_PER_S 1000000000ull

/*
 * Less than a huge page, so that none is ever made of a stack: where the host makes them unasked,
 * each thread of the default 8 MB would cost 2 MB for the few KB that it uses. The largest frames
 * are some 16 KB. Sanitizers make them several times as large.
 */
#ifdef DOPPEL_SAN
#define STACK_BYTES MIB(8)
#else
#define STACK_BYTES KIB(1792)
#endif

static void *thread_main(void *arg)
{
    struct thread *t = arg;

    (void)pthread_setname_np(pthread_self(), t->name); /* only for ps, gdb and messages */
    sandbox_enter(t->role);
    sandbox_thread_in();
    return t->fn(t->arg);
}

static int thread_create(struct thread *t)
{
    pthread_attr_t attr;
    int err = pthread_attr_init(&attr);

    if (err)
        return err;
    err = pthread_attr_setstacksize(&attr, STACK_BYTES);
    if (!err)
        err = pthread_create(&t->t, &attr, thread_main, t);
    (void)pthread_attr_destroy(&attr); /* has nothing to free on Linux */
    return err;
}

int thread_start_as(struct thread *t, enum host_role role, const char *name, void *(*fn)(void *),
                    void *arg)
{
    /*
     * What the thread's own instructions raise stays deliverable: the handlers restore the terminal
     * after a crash, and engines turn a host #DE or #XM into the guest's. (Blocked, these would
     * kill the process without a handler.)
     */
    static const int own_faults[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT, SIGSYS };
    sigset_t block, old;
    int err;

    (void)sigfillset(&block);
    for (unsigned i = 0; i < ARRAY_SIZE(own_faults); i++)
        (void)sigdelset(&block, own_faults[i]);
    BUG_ON(t->started);
    t->role = role;
    t->fn = fn;
    t->arg = arg;
    (void)snprintf(t->name, sizeof(t->name), "%s", name);
    sandbox_thread_starts();
    BUG_ON(pthread_sigmask(SIG_SETMASK, &block, &old)); /* the new thread inherits it */
    err = thread_create(t);
    BUG_ON(pthread_sigmask(SIG_SETMASK, &old, NULL));
    if (err) {
        sandbox_thread_in();
        return -err;
    }
    t->started = true;
    return 0;
}

int thread_start(struct thread *t, const char *name, void *(*fn)(void *), void *arg)
{
    return thread_start_as(t, HOST_HELPER, name, fn, arg);
}

void thread_join(struct thread *t)
{
    if (!t->started)
        return;
    BUG_ON(pthread_join(t->t, NULL));
    t->started = false;
}

int host_pid(void)
{
    int outside = sandbox_pid_outside();

    return outside ? outside : (int)getpid();
}

int host_tid(void)
{
    return (int)gettid();
}

/* Children count when they have ended and were waited for. */
uint64_t host_cpu_ns(void)
{
    struct rusage own, children;

    (void)getrusage(RUSAGE_SELF, &own);
    (void)getrusage(RUSAGE_CHILDREN, &children);
    return (uint64_t)(own.ru_utime.tv_sec + own.ru_stime.tv_sec + children.ru_utime.tv_sec +
                      children.ru_stime.tv_sec) *
               NS_PER_S +
           (uint64_t)(own.ru_utime.tv_usec + own.ru_stime.tv_usec + children.ru_utime.tv_usec +
                      children.ru_stime.tv_usec) *
               1000;
}

void host_yield(void)
{
    (void)sched_yield();
}

void host_futex_wait(_Atomic uint32_t *word, uint32_t val, uint64_t mono_ns)
{
    struct timespec ts = { .tv_sec = (time_t)(mono_ns / NS_PER_S),
                           .tv_nsec = (long)(mono_ns % NS_PER_S) };

    /* The BITSET form takes an absolute time. Whatever it returns, the caller looks at the word
     * again. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, val,
                  mono_ns == UINT64_MAX ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

void host_futex_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT32_MAX, NULL, NULL, 0);
}
