/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's clock on the host's: agreement, pausing; the timer thread: order, re-arming, cancelling.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <unistd.h>

#include "bus/bus.h"

#define MS 1000000ull

struct env {
    struct lock machine;
    struct clock *clock;
    unsigned nr;
    char order[64];
};

static struct env *env_open(struct env *e)
{
    *e = (struct env){ .nr = 0 };
    lock_init(&e->machine, LOCK_MACHINE);
    e->clock = clock_create(&e->machine);
    return e;
}

static void env_close(struct env *e)
{
    clock_destroy(e->clock);
    lock_destroy(&e->machine);
}

/* A timer that notes its name. */
struct named {
    struct timer t;
    struct env *e;
    char name;
    uint64_t again_ns, fired_at_ns;
    unsigned nr_left;
};

static void named_fn(void *arg)
{
    struct named *n = arg;

    BUG_ON(!lock_held(&n->e->machine));
    n->fired_at_ns = clock_now_ns(n->e->clock);
    n->e->order[n->e->nr++ % sizeof(n->e->order)] = n->name;
    if (n->nr_left && n->nr_left--)
        timer_arm(&n->t, n->fired_at_ns + n->again_ns);
}

static void named_init(struct named *n, struct env *e, char name)
{
    *n = (struct named){ .e = e, .name = name };
    timer_init(&n->t, e->clock, named_fn, n);
}

/* Until that many have fired, at most a minute: the host may be busy. */
static void wait_for(struct env *e, unsigned nr)
{
    for (unsigned i = 0, got; i < 60000; i++) {
        lock_take(&e->machine);
        got = e->nr;
        lock_drop(&e->machine);
        if (got >= nr)
            return;
        (void)usleep(1000);
    }
    fail();
}

static void test_tsc_and_ns_are_one_clock(void **state)
{
    struct env e;
    uint64_t tsc, ns, last = 0;

    (void)state;
    env_open(&e);
    for (int i = 0; i < 1000; i++) {
        uint64_t before = clock_tsc(e.clock), now = clock_now_ns(e.clock),
                 after = clock_tsc(e.clock);

        assert_in_range(now, clock_tsc_to_ns(e.clock, before), clock_tsc_to_ns(e.clock, after));
        assert_true(now >= last);
        last = now;
    }
    tsc = clock_tsc_khz(e.clock) * 86400000; /* a day, in ticks */
    ns = clock_tsc_to_ns(e.clock, tsc);
    assert_in_range(ns, 86400000 * MS - 1, 86400000 * MS);
    assert_true(clock_tsc_to_ns(e.clock, UINT64_MAX) > 0);
    env_close(&e);
}

static void test_clock_starts_near_zero_and_goes_as_the_hosts(void **state)
{
    struct env e;
    uint64_t before = host_mono_ns(), vm, least, most;

    (void)state;
    env_open(&e);
    vm = clock_now_ns(e.clock);
    least = host_mono_ns();
    assert_true(vm <= least - before + MS);
    (void)usleep(30000);
    /* Between any two of these the thread may have to wait for a CPU. */
    most = host_mono_ns();
    least = most - least;
    vm = clock_now_ns(e.clock) - vm;
    most = host_mono_ns() - before;
    assert_in_range(vm, least - least / 50, most + most / 50);
    env_close(&e);
}

static void test_pause_stops_and_resume_continues_without_a_jump(void **state)
{
    struct env e;
    uint64_t ns, tsc, start;

    (void)state;
    env_open(&e);
    clock_pause(e.clock);
    ns = clock_now_ns(e.clock);
    tsc = clock_tsc(e.clock);
    (void)usleep(50000);
    clock_pause(e.clock); /* again: no effect */
    assert_int_equal(clock_now_ns(e.clock), ns);
    assert_int_equal(clock_tsc(e.clock), tsc);
    start = host_mono_ns();
    clock_resume(e.clock);
    assert_true(clock_tsc(e.clock) >= tsc);
    tsc = clock_now_ns(e.clock); /* none of the 50 ms */
    assert_in_range(tsc, ns, ns + (host_mono_ns() - start) + MS);
    env_close(&e);
}

static void test_timers_fire_in_order_of_deadline_not_before(void **state)
{
    struct env e;
    struct named n[8];
    uint64_t base;

    (void)state;
    env_open(&e);
    base = clock_now_ns(e.clock) + 20 * MS;
    for (unsigned i = 0; i < 8; i++) {
        named_init(&n[i], &e, (char)('a' + i));
        timer_arm(&n[i].t, UINT64_MAX - 1 - i);
    }
    for (unsigned i = 0; i < 8; i++) /* in the order 0 5 2 7 4 1 6 3 */
        timer_arm(&n[i * 5 % 8].t, base + (i * 5 % 8) * MS / 10);
    wait_for(&e, 8);
    assert_memory_equal(e.order, "abcdefgh", 8);
    for (unsigned i = 0; i < 8; i++) {
        assert_true(n[i].fired_at_ns >= base + i * MS / 10);
        assert_int_equal(n[i].t.deadline_ns, UINT64_MAX);
    }
    env_close(&e);
}

static void test_timer_in_the_past_fires_at_once_and_may_rearm_itself(void **state)
{
    struct env e;
    struct named n;

    (void)state;
    env_open(&e);
    named_init(&n, &e, 'x');
    n.nr_left = 4;
    n.again_ns = MS;
    timer_arm(&n.t, 0);
    wait_for(&e, 5);
    env_close(&e);
    assert_int_equal(e.nr, 5);
}

static void test_cancelled_under_the_machine_lock_never_fires(void **state)
{
    struct env e;
    struct named n;

    (void)state;
    env_open(&e);
    named_init(&n, &e, 'x');
    for (int i = 0; i < 200; i++) {
        lock_take(&e.machine);
        e.nr = 0;
        timer_arm(&n.t, 0); /* due now: the thread is on its way */
        lock_drop(&e.machine);
        lock_take(&e.machine);
        timer_cancel(&n.t);
        e.nr = 0;
        lock_drop(&e.machine);
        (void)usleep(10);
        lock_take(&e.machine);
        assert_int_equal(e.nr, 0);
        lock_drop(&e.machine);
    }
    env_close(&e);
}

static void test_moved_timer_fires_once_at_its_new_time(void **state)
{
    struct env e;
    struct named n;
    uint64_t at;

    (void)state;
    env_open(&e);
    named_init(&n, &e, 'x');
    timer_arm(&n.t, clock_now_ns(e.clock) + 3600000 * MS);
    at = clock_now_ns(e.clock) + 2 * MS;
    timer_arm(&n.t, at);
    wait_for(&e, 1);
    assert_true(n.fired_at_ns >= at);
    (void)usleep(2000);
    env_close(&e);
    assert_int_equal(e.nr, 1);
}

static void test_timers_wait_while_paused(void **state)
{
    struct env e;
    struct named n;
    uint64_t at;

    (void)state;
    env_open(&e);
    named_init(&n, &e, 'x');
    clock_pause(e.clock);
    at = clock_now_ns(e.clock) + MS;
    timer_arm(&n.t, at);
    (void)usleep(20000);
    lock_take(&e.machine);
    assert_int_equal(e.nr, 0);
    lock_drop(&e.machine);
    clock_resume(e.clock);
    wait_for(&e, 1);
    assert_true(n.fired_at_ns >= at);
    env_close(&e);
}

#define HOUR_NS 3600000000000ull

static void test_catching_up_goes_on_as_if_it_had_run(void **state)
{
    struct env e;
    struct named n;
    uint64_t at, real, host, was, is;

    (void)state;
    env_open(&e);
    named_init(&n, &e, 'x');
    clock_pause(e.clock);
    real = clock_stopped_real_ns(e.clock);
    at = clock_now_ns(e.clock);
    timer_arm(&n.t, at + HOUR_NS / 2);
    assert_int_equal(clock_catch_up(e.clock, real - HOUR_NS), 0);
    assert_int_equal(clock_now_ns(e.clock), at); /* not before it goes on */
    assert_int_equal(clock_stopped_real_ns(e.clock), real - HOUR_NS);
    (void)usleep(20000);
    lock_take(&e.machine);
    assert_int_equal(e.nr, 0);
    lock_drop(&e.machine);
    host = host_real_ns();
    clock_resume(e.clock);
    assert_true(clock_now_ns(e.clock) >= at + HOUR_NS + (host - real) - MS);
    wait_for(&e, 1);
    assert_true(n.fired_at_ns >= at + HOUR_NS);
    /* Once: in the next pause it stands still. */
    (void)clock_tsc_offset(e.clock, &was);
    clock_pause(e.clock);
    (void)usleep(20000);
    clock_resume(e.clock);
    (void)clock_tsc_offset(e.clock, &is);
    assert_true(was - is >= 20 * clock_tsc_khz(e.clock));
    assert_true(was - is < HOUR_NS / MS * clock_tsc_khz(e.clock));
    env_close(&e);
    assert_int_equal(e.nr, 1);
}

static void test_nobody_catches_up_with_the_future_or_over_decades(void **state)
{
    struct env e;
    uint64_t khz;

    (void)state;
    env_open(&e);
    khz = clock_tsc_khz(e.clock);
    clock_pause(e.clock);
    assert_int_equal(clock_catch_up(e.clock, host_real_ns() + HOUR_NS), -ERANGE);
    assert_int_equal(clock_catch_up(e.clock, UINT64_MAX), -ERANGE);
    assert_int_equal(clock_restore(e.clock, BIT64(62), khz), 0);
    assert_int_equal(clock_catch_up(e.clock, host_real_ns() - HOUR_NS), -ERANGE);
    assert_int_equal(clock_restore(e.clock, INT64_MAX, khz), 0);
    assert_int_equal(clock_catch_up(e.clock, host_real_ns() - HOUR_NS), -ERANGE);
    assert_int_equal(clock_tsc(e.clock), INT64_MAX);
    /* What was agreed on is forgotten by a restore. */
    assert_int_equal(clock_restore(e.clock, 1000, khz), 0);
    assert_int_equal(clock_catch_up(e.clock, host_real_ns() - HOUR_NS), 0);
    assert_int_equal(clock_restore(e.clock, 1000, khz), 0);
    clock_resume(e.clock);
    assert_true(clock_now_ns(e.clock) < HOUR_NS / 2);
    env_close(&e);
}

static void test_a_pause_can_be_as_if_it_had_not_been(void **state)
{
    struct env e;
    uint64_t before, was, is;

    (void)state;
    env_open(&e);
    before = host_mono_ns();
    was = clock_now_ns(e.clock);
    clock_pause(e.clock);
    (void)usleep(50000);
    clock_resume_as_if_run(e.clock);
    is = clock_now_ns(e.clock);
    assert_in_range(is - was, 49 * MS, host_mono_ns() - before + MS);
    env_close(&e);
}

static void test_use_tsc_counts_the_hosts_tsc_only_where_the_clock_did_not(void **state)
{
    struct env e;
    uint64_t offset, khz;

    (void)state;
    env_open(&e);
    khz = clock_tsc_khz(e.clock);
    clock_pause(e.clock);
    clock_use_tsc(e.clock, 0); /* not known: as it was */
    assert_int_equal(clock_tsc_khz(e.clock), khz);
    clock_use_tsc(e.clock, 2000000);
    assert_int_equal(clock_tsc_khz(e.clock), host_tsc_khz() ? khz : 2000000);
    clock_resume(e.clock);
    assert_true(clock_tsc_offset(e.clock, &offset));
    env_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tsc_and_ns_are_one_clock),
        cmocka_unit_test(test_clock_starts_near_zero_and_goes_as_the_hosts),
        cmocka_unit_test(test_pause_stops_and_resume_continues_without_a_jump),
        cmocka_unit_test(test_timers_fire_in_order_of_deadline_not_before),
        cmocka_unit_test(test_timer_in_the_past_fires_at_once_and_may_rearm_itself),
        cmocka_unit_test(test_cancelled_under_the_machine_lock_never_fires),
        cmocka_unit_test(test_moved_timer_fires_once_at_its_new_time),
        cmocka_unit_test(test_timers_wait_while_paused),
        cmocka_unit_test(test_catching_up_goes_on_as_if_it_had_run),
        cmocka_unit_test(test_nobody_catches_up_with_the_future_or_over_decades),
        cmocka_unit_test(test_a_pause_can_be_as_if_it_had_not_been),
        cmocka_unit_test(test_use_tsc_counts_the_hosts_tsc_only_where_the_clock_did_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
