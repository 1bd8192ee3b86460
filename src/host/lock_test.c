/* SPDX-License-Identifier: Apache-2.0 */
/* Locks, ranks and condition variables. A wrong order must end the program: tried in a child. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/host.h"

/* The signal that ended fn in a child process; 0 if it returned. */
static int signal_of(void (*fn)(void))
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (!pid) {
        int null = open("/dev/null", O_WRONLY);

        (void)dup2(null, 2); /* the message is expected */
        (void)signal(SIGABRT, SIG_DFL);
        fn();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void take_two(enum lock_rank first, enum lock_rank second)
{
    struct lock a, b;

    lock_init(&a, first);
    lock_init(&b, second);
    lock_take(&a);
    lock_take(&b);
    lock_drop(&a); /* in any order */
    lock_drop(&b);
    lock_take(&a); /* nothing is left behind */
    lock_drop(&a);
}

static void ascending(void)
{
    take_two(LOCK_MACHINE, LOCK_TIMERS);
}

static void descending(void)
{
    take_two(LOCK_TIMERS, LOCK_MACHINE);
}

static void equal(void)
{
    take_two(LOCK_LEAF, LOCK_LEAF);
}

static void drop_not_held(void)
{
    struct lock a;

    lock_init(&a, LOCK_LEAF);
    lock_drop(&a);
}

static void test_locks_in_rank_order_are_taken(void **state)
{
    (void)state;
    assert_int_equal(signal_of(ascending), 0);
}

static void test_lock_of_lower_rank_aborts(void **state)
{
    (void)state;
    assert_int_equal(signal_of(descending), SIGABRT);
}

static void test_second_lock_of_same_rank_aborts(void **state)
{
    (void)state;
    assert_int_equal(signal_of(equal), SIGABRT);
}

static void test_drop_of_lock_not_held_aborts(void **state)
{
    (void)state;
    assert_int_equal(signal_of(drop_not_held), SIGABRT);
}

struct shared {
    struct lock lock;
    struct cond cond;
    unsigned long counter;
    bool ready, seen_as_held;
    _Atomic uint32_t word;
};

static void *other_thread(void *arg)
{
    struct shared *s = arg;

    s->seen_as_held = lock_held(&s->lock); /* the other one holds it, not we */
    for (int i = 0; i < 20000; i++) {
        lock_take(&s->lock);
        s->counter++;
        lock_drop(&s->lock);
    }
    lock_take(&s->lock);
    s->ready = true;
    cond_wake_all(&s->cond);
    lock_drop(&s->lock);
    return NULL;
}

static void test_lock_excludes_and_cond_wakes(void **state)
{
    struct shared s = { .counter = 0 };
    struct thread t = { .started = false };

    (void)state;
    lock_init(&s.lock, LOCK_LEAF);
    cond_init(&s.cond);
    lock_take(&s.lock);
    assert_int_equal(thread_start(&t, "a name longer than the kernel takes", other_thread, &s), 0);
    while (!s.ready) {
        s.counter++;
        cond_wait(&s.cond, &s.lock);
        assert_true(lock_held(&s.lock));
    }
    lock_drop(&s.lock);
    thread_join(&t);
    assert_false(lock_held(&s.lock));
    assert_false(s.seen_as_held);
    assert_true(s.counter >= 20001);
    cond_destroy(&s.cond);
    lock_destroy(&s.lock);
}

static void test_cond_wait_until_times_out_no_sooner_than_asked(void **state)
{
    struct lock l;
    struct cond c;
    uint64_t end_ns = host_mono_ns() + 5000000;

    (void)state;
    lock_init(&l, LOCK_LEAF);
    cond_init(&c);
    lock_take(&l);
    while (cond_wait_until(&c, &l, end_ns))
        ; /* a spurious wake-up */
    assert_true(host_mono_ns() >= end_ns);
    assert_true(lock_held(&l));
    lock_drop(&l);
    cond_destroy(&c);
    lock_destroy(&l);
}

static void *wake_word(void *arg)
{
    struct shared *s = arg;

    atomic_store(&s->word, 1);
    host_futex_wake(&s->word);
    return NULL;
}

static void test_futex_sleeps_until_the_word_changes(void **state)
{
    struct shared s = { .word = 0 };
    struct thread t = { .started = false };
    uint64_t end_ns = host_mono_ns() + 2000000;

    (void)state;
    host_futex_wait(&s.word, 7, UINT64_MAX); /* not 7: returns at once */
    while (host_mono_ns() < end_ns)
        host_futex_wait(&s.word, 0, end_ns);
    assert_int_equal(thread_start(&t, "waker", wake_word, &s), 0);
    while (!atomic_load(&s.word))
        host_futex_wait(&s.word, 0, UINT64_MAX);
    thread_join(&t);
}

static void *own_mask(void *arg)
{
    (void)pthread_sigmask(SIG_BLOCK, NULL, arg);
    return NULL;
}

static void test_thread_blocks_all_but_its_own_faults(void **state)
{
    struct thread t = { .started = false };
    sigset_t mask, mine;

    (void)state;
    assert_int_equal(thread_start(&t, "mask", own_mask, &mask), 0);
    thread_join(&t);
    assert_int_equal(sigismember(&mask, SIGTERM), 1);
    assert_int_equal(sigismember(&mask, SIGALRM), 1);
    assert_int_equal(sigismember(&mask, SIGSEGV), 0);
    assert_int_equal(sigismember(&mask, SIGFPE), 0);
    (void)pthread_sigmask(SIG_BLOCK, NULL, &mine);
    assert_int_equal(sigismember(&mine, SIGTERM), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_locks_in_rank_order_are_taken),
        cmocka_unit_test(test_lock_of_lower_rank_aborts),
        cmocka_unit_test(test_second_lock_of_same_rank_aborts),
        cmocka_unit_test(test_drop_of_lock_not_held_aborts),
        cmocka_unit_test(test_lock_excludes_and_cond_wakes),
        cmocka_unit_test(test_cond_wait_until_times_out_no_sooner_than_asked),
        cmocka_unit_test(test_futex_sleeps_until_the_word_changes),
        cmocka_unit_test(test_thread_blocks_all_but_its_own_faults),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
