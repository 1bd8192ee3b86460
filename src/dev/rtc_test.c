/* SPDX-License-Identifier: Apache-2.0 */
/* The real-time clock: time, formats, alarms and the three interrupts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/fakeclock.h"

#include <stdio.h>

#include "dev/rtc.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull
/* Wednesday, 28 February 2024, 23:59:50 UTC. */
#define START_S   1709164790ull

struct env {
    struct bus *bus;
    struct rtc rtc;
    int level;
    unsigned nr_edges, nr_alarms;
};

static void env_irq(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    (void)idx;
    e->nr_edges += level && !e->level;
    e->level = level;
}

static void env_alarm(void *ctx)
{
    struct env *e = ctx;

    e->nr_alarms++;
}

static uint8_t get(struct env *e, uint8_t idx)
{
    bus_port_write(e->bus, 0x70, 1, idx);
    return (uint8_t)bus_port_read(e->bus, 0x71, 1);
}

static void put(struct env *e, uint8_t idx, uint8_t val)
{
    bus_port_write(e->bus, 0x70, 1, idx);
    bus_port_write(e->bus, 0x71, 1, val);
}

/* Century, year, month, day, weekday, hour, minute, second, as they are in the registers. */
static void assert_time(struct env *e, const char *want)
{
    static const uint8_t places[] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };
    char got[32];

    for (unsigned i = 0; i < sizeof(places); i++)
        (void)snprintf(got + 3 * i, 4, "%02x ", get(e, places[i]));
    got[3 * sizeof(places) - 1] = '\0';
    assert_string_equal(got, want);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->bus = bus_create();
    bus_clock(e->bus)->real_ns = START_S * NS_PER_S;
    *state = e;
    return rtc_init(&e->rtc, &(struct rtc_config){ .bus = e->bus,
                                                   .irq = { env_irq, e, 8 },
                                                   .alarm = env_alarm,
                                                   .ctx = e,
                                                   .low_ram_bytes = GIB(2),
                                                   .high_ram_bytes = GIB(5) });
}

static int teardown(void **state)
{
    struct env *e = *state;

    rtc_fini(&e->rtc);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_shows_the_hosts_utc_over_a_leap_day(void **state)
{
    struct env *e = *state;

    assert_time(e, "20 24 02 28 04 23 59 50");
    fakeclock_advance(e->bus, 10 * NS_PER_S);
    assert_time(e, "20 24 02 29 05 00 00 00");
    fakeclock_advance(e->bus, 86400 * NS_PER_S);
    assert_time(e, "20 24 03 01 06 00 00 00");
    assert_int_equal(get(e, 0x0d), 0x80);
}

static void test_formats_binary_and_12_hours(void **state)
{
    struct env *e = *state;

    put(e, 0x0b, 0x06);
    assert_time(e, "14 18 02 1c 04 17 3b 32");
    put(e, 0x0b, 0x00);
    assert_time(e, "20 24 02 28 04 91 59 50"); /* 11 PM */
    fakeclock_advance(e->bus, 10 * NS_PER_S);
    assert_time(e, "20 24 02 29 05 12 00 00"); /* 12 AM */
}

static void test_noon_and_midnight_in_12_hours(void **state)
{
    static const uint8_t hours[][2] = {
        { 0x92, 0x12 }, { 0x12, 0x00 }, { 0x81, 0x13 }, { 0x01, 0x01 }
    };
    struct env *e = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(hours); i++) {
        put(e, 0x0b, 0x00);
        put(e, 0x04, hours[i][0]);
        assert_int_equal(get(e, 0x04), hours[i][0]);
        put(e, 0x0b, 0x02);
        assert_int_equal(get(e, 0x04), hours[i][1]);
    }
}

/* SET, divider reset, write, SET off, divider on: as Linux sets the clock. The first second is half
 * as long. */
static void test_setting_the_time_by_set_and_divider(void **state)
{
    struct env *e = *state;

    put(e, 0x0b, 0x82);
    put(e, 0x0a, 0x76);
    fakeclock_advance(e->bus, 5 * NS_PER_S + 300 * NS_PER_MS);
    assert_time(e, "20 24 02 28 04 23 59 50"); /* it stands */
    put(e, 0x32, 0x19);
    put(e, 0x09, 0x99);
    put(e, 0x08, 0x12);
    put(e, 0x07, 0x31);
    put(e, 0x06, 0x06);
    put(e, 0x04, 0x23);
    put(e, 0x02, 0x59);
    put(e, 0x00, 0x59);
    put(e, 0x0b, 0x02);
    put(e, 0x0a, 0x26);
    fakeclock_advance(e->bus, 499 * NS_PER_MS);
    assert_time(e, "19 99 12 31 06 23 59 59");
    fakeclock_advance(e->bus, 2 * NS_PER_MS);
    assert_time(e, "20 00 01 01 07 00 00 00");
    fakeclock_advance(e->bus, 59 * 86400 * NS_PER_S);
    assert_time(e, "20 00 02 29 03 00 00 00");
}

static void test_single_byte_written_while_running(void **state)
{
    struct env *e = *state;

    put(e, 0x04, 0x07);
    assert_time(e, "20 24 02 28 04 07 59 50");
    fakeclock_advance(e->bus, NS_PER_S);
    assert_time(e, "20 24 02 28 04 07 59 51");
}

static void test_nonsense_in_the_time_does_no_harm(void **state)
{
    struct env *e = *state;

    put(e, 0x0b, 0x82);
    for (uint8_t i = 0; i < 10; i++)
        put(e, i, 0xff);
    put(e, 0x32, 0xff);
    assert_time(e, "ff ff ff ff ff ff ff ff");
    put(e, 0x0b, 0x02);
    assert_time(e, "99 99 12 31 07 23 59 59");
    fakeclock_advance(e->bus, NS_PER_S);
    assert_time(e, "00 00 01 01 01 00 00 00");
}

static void test_uip_announces_the_update(void **state)
{
    struct env *e = *state;

    assert_int_equal(get(e, 0x0a), 0x26);
    fakeclock_advance(e->bus, NS_PER_S - 244000 - 1);
    assert_int_equal(get(e, 0x0a), 0x26);
    fakeclock_advance(e->bus, 1);
    assert_int_equal(get(e, 0x0a), 0xa6);
    fakeclock_advance(e->bus, 244000);
    assert_int_equal(get(e, 0x0a), 0x26);
    put(e, 0x0b, 0x82);
    fakeclock_advance(e->bus, NS_PER_S - 1000);
    assert_int_equal(get(e, 0x0a), 0x26);
}

static void test_flags_without_enables_are_seen_and_cleared_by_reading(void **state)
{
    struct env *e = *state;

    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(get(e, 0x0c), 0x50);
    assert_int_equal(get(e, 0x0c), 0x00);
    assert_int_equal(e->nr_edges, 0);
}

static void test_update_interrupt_once_until_c_is_read(void **state)
{
    struct env *e = *state;

    put(e, 0x0a, 0x20);
    put(e, 0x0b, 0x12);
    fakeclock_advance(e->bus, 3 * NS_PER_S);
    assert_int_equal(e->nr_edges, 1);
    assert_int_equal(get(e, 0x0c), 0x90);
    assert_int_equal(e->level, 0);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->nr_edges, 2);
    put(e, 0x0b, 0x92); /* SET takes UIE away */
    assert_int_equal(get(e, 0x0b), 0x82);
}

static void test_periodic_interrupt_at_every_rate(void **state)
{
    static const unsigned hz[16] = { 0,   256, 128, 8192, 4096, 2048, 1024, 512,
                                     256, 128, 64,  32,   16,   8,    4,    2 };
    struct env *e = *state;

    put(e, 0x0b, 0x42);
    for (uint8_t rs = 0; rs < 16; rs++) {
        unsigned nr = 0;

        put(e, 0x0a, 0x20 | rs);
        (void)get(e, 0x0c);
        for (unsigned i = 0; i < 20000; i++) {
            fakeclock_advance(e->bus, NS_PER_S / 20000);
            nr += !!(get(e, 0x0c) & 0x80);
        }
        assert_int_equal(nr, hz[rs]);
    }
}

struct alarm_case {
    uint8_t h, m, s;
    uint64_t after_s; /* from 23:59:50 */
};

static void test_alarm_with_wildcards(void **state)
{
    static const struct alarm_case cases[] = {
        { 0x23, 0x59, 0x55, 5 },     { 0xff, 0xff, 0xff, 1 },     { 0xc0, 0xc0, 0x00, 10 },
        { 0xff, 0x30, 0x15, 1825 },  { 0x12, 0xff, 0xff, 43210 }, { 0x23, 0x59, 0x50, 86400 },
        { 0x23, 0x59, 0x49, 86399 },
    };
    struct env *e = *state;

    put(e, 0x0b, 0x22);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        bus_clock(e->bus)->real_ns = START_S * NS_PER_S - bus_clock(e->bus)->now_ns;
        put(e, 0x01, cases[i].s);
        put(e, 0x03, cases[i].m);
        put(e, 0x05, cases[i].h);
        (void)get(e, 0x0c);
        e->nr_edges = 0;
        fakeclock_advance(e->bus, cases[i].after_s * NS_PER_S - 1);
        assert_int_equal(e->nr_edges, 0);
        fakeclock_advance(e->bus, 1);
        assert_int_equal(e->nr_edges, 1);
        assert_int_equal(get(e, 0x0c) & 0xa0, 0xa0);
    }
    put(e, 0x05, 0x30); /* never */
    e->nr_edges = 0;
    fakeclock_advance(e->bus, 2 * 86400 * NS_PER_S);
    assert_int_equal(e->nr_edges, 0);
}

static void test_alarm_in_pm_hours(void **state)
{
    struct env *e = *state;

    put(e, 0x0b, 0x20);
    put(e, 0x01, 0x00);
    put(e, 0x03, 0x00);
    put(e, 0x05, 0x81); /* 1 PM */
    fakeclock_advance(e->bus, (10 + 13 * 3600) * NS_PER_S - 1);
    assert_int_equal(e->nr_edges, 0);
    fakeclock_advance(e->bus, 1);
    assert_int_equal(e->nr_edges, 1);
}

static void test_alarm_is_told_once_and_without_irq_8_too(void **state)
{
    struct env *e = *state;

    lock_take(bus_lock(e->bus));
    rtc_detach_irq(&e->rtc, true);
    lock_drop(bus_lock(e->bus));
    put(e, 0x01, 0x55);
    put(e, 0x03, 0x59);
    put(e, 0x05, 0x23);
    put(e, 0x0b, 0x42); /* periodic */
    fakeclock_advance(e->bus, 4 * NS_PER_S);
    put(e, 0x0b, 0x72); /* alarm and update as well */
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->nr_alarms, 1);
    fakeclock_advance(e->bus, 2 * NS_PER_S);
    assert_int_equal(e->nr_alarms, 1);
    assert_int_equal(e->nr_edges, 0);
    (void)get(e, 0x0c);
    fakeclock_advance(e->bus, 86398 * NS_PER_S);
    assert_int_equal(e->nr_alarms, 2);
}

static void test_cmos_tells_the_memory_and_its_checksum(void **state)
{
    struct env *e = *state;
    unsigned sum = 0;

    assert_int_equal(get(e, 0x15) | get(e, 0x16) << 8, 640);
    assert_int_equal(get(e, 0x17) | get(e, 0x18) << 8, 0xffff);
    assert_int_equal(get(e, 0x30) | get(e, 0x31) << 8, 0xffff);
    assert_int_equal(get(e, 0x34) | get(e, 0x35) << 8, (GIB(2) - MIB(16)) >> 16);
    assert_int_equal(get(e, 0x5b) | get(e, 0x5c) << 8 | get(e, 0x5d) << 16, GIB(5) >> 16);
    for (uint8_t i = 0x10; i <= 0x2d; i++)
        sum += get(e, i);
    assert_int_equal(get(e, 0x2e) << 8 | get(e, 0x2f), sum);
    put(e, 0x7f, 0xa5);
    assert_int_equal(get(e, 0x7f), 0xa5);
}

static void test_nmi_mask_is_bit_7_of_the_index(void **state)
{
    struct env *e = *state;

    put(e, 0x80 | 0x40, 0x11);
    assert_true(rtc_nmi_masked(&e->rtc));
    assert_int_equal(get(e, 0x40), 0x11);
    assert_false(rtc_nmi_masked(&e->rtc));
}

static void test_reset_keeps_time_and_drops_interrupts(void **state)
{
    struct env *e = *state;

    put(e, 0x0b, 0x72);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->level, 1);
    e->rtc.dev.type->reset(&e->rtc.dev);
    assert_int_equal(e->level, 0);
    assert_int_equal(get(e, 0x0b), 0x02);
    assert_time(e, "20 24 02 28 04 23 59 51");
}

static void test_state_survives_saving(void **state)
{
    struct env *e = *state;
    uint8_t buf[256];

    put(e, 0x04, 0x07);
    put(e, 0x0b, 0x12);
    assert_true(state_bytes(&e->rtc.dev) <= sizeof(buf));
    state_save(&e->rtc.dev, buf);
    put(e, 0x04, 0x11);
    put(e, 0x0b, 0x02);
    assert_int_equal(state_load(&e->rtc.dev, buf, state_bytes(&e->rtc.dev), 1), 0);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->level, 1);
    assert_time(e, "20 24 02 28 04 07 59 51");
}

static void test_alarm_that_fell_due_meanwhile_comes_after_loading(void **state)
{
    struct env *e = *state;
    uint8_t buf[256];

    put(e, 0x01, 0x00);
    put(e, 0x03, 0x30);
    put(e, 0x05, 0x04);
    put(e, 0x0b, 0x22);
    state_save(&e->rtc.dev, buf);
    fakeclock_advance(e->bus, 10 * 365 * 86400 * NS_PER_S);
    (void)get(e, 0x0c);
    e->nr_edges = e->nr_alarms = 0;
    assert_int_equal(state_load(&e->rtc.dev, buf, state_bytes(&e->rtc.dev), 1), 0);
    assert_int_equal(e->nr_edges, 0); /* the interrupt controller is not loaded yet */
    fakeclock_advance(e->bus, 0);
    assert_int_equal(e->nr_edges, 1);
    assert_int_equal(e->nr_alarms, 1);
    assert_int_equal(get(e, 0x0c), 0xf0);
}

static void test_any_date_in_a_saved_state_does_no_harm(void **state)
{
    static const uint64_t dates[] = { 0, INT64_MAX, UINT64_MAX };
    struct env *e = *state;
    uint8_t buf[256];

    put(e, 0x0b, 0x72);
    for (unsigned i = 0; i < ARRAY_SIZE(dates); i++) {
        e->rtc.synced_ns = dates[i];
        state_save(&e->rtc.dev, buf);
        assert_int_equal(state_load(&e->rtc.dev, buf, state_bytes(&e->rtc.dev), 1), 0);
        bus_clock(e->bus)->nr_fired = 0;
        fakeclock_advance(e->bus, 0);
        (void)get(e, 0x0c);
        fakeclock_advance(e->bus, 2 * NS_PER_S);
        assert_int_equal(get(e, 0x0c) & 0xd0, 0xd0);
        assert_true(bus_clock(e->bus)->nr_fired < 5);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_shows_the_hosts_utc_over_a_leap_day),
        TEST(test_formats_binary_and_12_hours),
        TEST(test_noon_and_midnight_in_12_hours),
        TEST(test_setting_the_time_by_set_and_divider),
        TEST(test_single_byte_written_while_running),
        TEST(test_nonsense_in_the_time_does_no_harm),
        TEST(test_uip_announces_the_update),
        TEST(test_flags_without_enables_are_seen_and_cleared_by_reading),
        TEST(test_update_interrupt_once_until_c_is_read),
        TEST(test_periodic_interrupt_at_every_rate),
        TEST(test_alarm_with_wildcards),
        TEST(test_alarm_in_pm_hours),
        TEST(test_alarm_is_told_once_and_without_irq_8_too),
        TEST(test_cmos_tells_the_memory_and_its_checksum),
        TEST(test_nmi_mask_is_bit_7_of_the_index),
        TEST(test_reset_keeps_time_and_drops_interrupts),
        TEST(test_state_survives_saving),
        TEST(test_alarm_that_fell_due_meanwhile_comes_after_loading),
        TEST(test_any_date_in_a_saved_state_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
