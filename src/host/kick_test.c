/* SPDX-License-Identifier: Apache-2.0 */
/* Kicks: a system call ends, by another thread's doing and by the timer's. */
#include "host/host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>

struct sleeper {
    struct host_kick kick;
    _Atomic bool ready, done;
    uint64_t every_ns; /* 0: others kick */
    int err;
};

/* poll() is one of those that the kernel does not start again. */
static void *sleeper_main(void *arg)
{
    struct sleeper *s = arg;
    int timer = -1;

    s->err = host_kick_accept(&s->kick);
    if (!s->err && s->every_ns)
        timer = host_kick_timer_start(&s->kick, s->every_ns);
    atomic_store(&s->ready, true);
    if (!s->err && poll(NULL, 0, -1) < 0)
        s->err = errno;
    if (timer >= 0)
        host_kick_timer_stop(timer);
    atomic_store(&s->done, true);
    return NULL;
}

static void test_kick_ends_a_system_call(void **state)
{
    struct sleeper s = { .err = 0 };
    struct thread t = { .started = false };

    (void)state;
    assert_int_equal(thread_start(&t, "sleeper", sleeper_main, &s), 0);
    while (!atomic_load(&s.ready))
        host_yield();
    /* It may not be there yet: a kick that comes before has no effect. Not all the time, or it only
     * ever handles signals. */
    while (!atomic_load(&s.done)) {
        _Atomic uint32_t never = 0;

        host_kick(&s.kick);
        host_futex_wait(&never, 0, host_mono_ns() + 1000000);
    }
    thread_join(&t);
    assert_int_equal(s.err, EINTR);
    host_kick(&s.kick); /* nobody is there any more */
}

static void test_timer_kicks_by_itself(void **state)
{
    struct sleeper s = { .every_ns = 1000000 };
    struct thread t = { .started = false };

    (void)state;
    assert_int_equal(thread_start(&t, "sleeper", sleeper_main, &s), 0);
    thread_join(&t);
    assert_int_equal(s.err, EINTR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kick_ends_a_system_call),
        cmocka_unit_test(test_timer_kicks_by_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
