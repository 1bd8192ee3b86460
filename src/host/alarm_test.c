/* SPDX-License-Identifier: Apache-2.0 */
/* Alarms, and what the scheduler tells of delays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/host.h"

#define HOUR_NS 3600000000000ull

static void test_an_alarm_goes_off_no_sooner_than_set(void **state)
{
    uint64_t at_ns = host_mono_ns() + 3000000;
    struct host_alarm a;

    (void)state;
    assert_int_equal(host_alarm_open(&a), 0);
    host_alarm_set(&a, at_ns);
    host_alarm_wait(&a);
    assert_true(host_mono_ns() >= at_ns);
    host_alarm_close(&a);
}

static void *set_soon(void *arg)
{
    host_alarm_set(arg, 0);
    return NULL;
}

static void test_another_thread_sets_it_to_now_while_one_waits(void **state)
{
    struct thread t = { 0 };
    struct host_alarm a;

    (void)state;
    assert_int_equal(host_alarm_open(&a), 0);
    host_alarm_set(&a, host_mono_ns() + HOUR_NS);
    assert_int_equal(thread_start(&t, "setter", set_soon, &a), 0);
    host_alarm_wait(&a);
    thread_join(&t);
    host_alarm_set(&a, UINT64_MAX);
    host_alarm_close(&a);
}

static void test_delays_grow_and_a_closed_one_is_0(void **state)
{
    struct host_delay d = { .open = false };
    uint64_t last = 0;

    (void)state;
    assert_int_equal(host_delay_ns(&d), 0);
    if (!host_delay_known()) {
        print_message("# no /proc/thread-self/schedstat here\n");
        skip();
    }
    host_delay_open(&d, 0);
    for (unsigned i = 0; i < 100; i++) {
        uint64_t ns;

        host_yield();
        ns = host_delay_ns(&d);
        assert_true(ns >= last);
        last = ns;
    }
    host_delay_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_alarm_goes_off_no_sooner_than_set),
        cmocka_unit_test(test_another_thread_sets_it_to_now_while_one_waits),
        cmocka_unit_test(test_delays_grow_and_a_closed_one_is_0),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
