/* SPDX-License-Identifier: Apache-2.0 */
/* The six modes of an 8254 counter, pulse by pulse, against the waveforms of the data sheet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/pit.h"

#define LSB_ONLY 0x10
#define BOTH     0x30
#define BCD      0x01
#define MODE(m)  ((m) << 1)

/* The counter is programmed at this tick. */
#define T0 1000

static struct pit_counter fresh(uint8_t word, bool gate)
{
    struct pit_counter c = { .count = 1, .cr = 1, .gate = gate };

    pit_counter_control(&c, word, T0);
    return c;
}

static uint16_t ce(struct pit_counter *c, uint64_t now)
{
    uint8_t lo;

    pit_counter_latch_count(c, now);
    lo = pit_counter_read(c, now);
    return c->nr_latched ? (uint16_t)(lo | pit_counter_read(c, now) << 8) : lo;
}

/* Expected CE (low byte) and OUT at the pulses after the one that loads the count. */
struct wave {
    const char *what;
    uint8_t word, count;
    unsigned nr;
    uint8_t ce[12];
    const char *out; /* H, L */
};

static const struct wave waves[] = {
    { "mode 0", MODE(0), 4, 7, { 4, 3, 2, 1, 0, 0xff, 0xfe }, "LLLLHHH" },
    { "mode 2", MODE(2), 3, 8, { 3, 2, 1, 3, 2, 1, 3, 2 }, "HHLHHLHH" },
    { "mode 2 by its other number", MODE(6), 3, 4, { 3, 2, 1, 3 }, "HHLH" },
    { "mode 3 even", MODE(3), 4, 9, { 4, 2, 4, 2, 4, 2, 4, 2, 4 }, "HHLLHHLLH" },
    { "mode 3 odd", MODE(3), 5, 11, { 4, 2, 0, 4, 2, 4, 2, 0, 4, 2, 4 }, "HHHLLHHHLLH" },
    { "mode 4", MODE(4), 3, 7, { 3, 2, 1, 0, 0xff, 0xfe, 0xfd }, "HHHLHHH" },
    { "mode 0 BCD", MODE(0) | BCD, 0x11, 5, { 0x11, 0x10, 0x09, 0x08, 0x07 }, "LLLLL" },
};

static void test_modes_follow_the_data_sheet_waveforms(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(waves); i++) {
        const struct wave *w = &waves[i];
        struct pit_counter c = fresh(w->word | LSB_ONLY, true);

        pit_counter_write(&c, w->count, T0);
        assert_int_equal(pit_counter_out(&c, T0), w->out[0] == 'H');
        for (unsigned p = 0; p < w->nr; p++) {
            if (pit_counter_out(&c, T0 + 1 + p) != (w->out[p] == 'H'))
                fail_msg("%s: OUT is wrong at pulse %u", w->what, p);
            if (ce(&c, T0 + 1 + p) != w->ce[p])
                fail_msg("%s: CE is wrong at pulse %u", w->what, p);
        }
    }
}

static void test_triggered_modes_wait_for_the_gate(void **state)
{
    struct pit_counter one = fresh(MODE(1) | LSB_ONLY, false), five;

    (void)state;
    pit_counter_write(&one, 3, T0);
    assert_true(pit_counter_out(&one, T0 + 50));
    pit_counter_gate(&one, true, T0 + 50);
    pit_counter_gate(&one, false, T0 + 50);
    assert_true(pit_counter_out(&one, T0 + 50));
    for (unsigned p = 0; p < 3; p++)
        assert_false(pit_counter_out(&one, T0 + 51 + p));
    assert_true(pit_counter_out(&one, T0 + 54));
    pit_counter_gate(&one, true, T0 + 60); /* and again */
    assert_false(pit_counter_out(&one, T0 + 61));

    five = fresh(MODE(5) | LSB_ONLY, false);
    pit_counter_write(&five, 2, T0);
    pit_counter_gate(&five, true, T0 + 10);
    assert_true(pit_counter_out(&five, T0 + 12));
    assert_false(pit_counter_out(&five, T0 + 13));
    assert_true(pit_counter_out(&five, T0 + 14));
}

static void test_low_gate_stops_and_resumes_mode_0(void **state)
{
    struct pit_counter c = fresh(MODE(0) | LSB_ONLY, true);

    (void)state;
    pit_counter_write(&c, 10, T0);
    pit_counter_gate(&c, false, T0 + 4); /* CE is 7 */
    assert_int_equal(ce(&c, T0 + 100), 7);
    assert_false(pit_counter_out(&c, T0 + 100));
    pit_counter_gate(&c, true, T0 + 100);
    assert_false(pit_counter_out(&c, T0 + 106));
    assert_true(pit_counter_out(&c, T0 + 107));
}

static void test_low_gate_raises_out_and_rise_reloads_modes_2_and_3(void **state)
{
    (void)state;
    for (unsigned mode = 2; mode <= 3; mode++) {
        struct pit_counter c = fresh((uint8_t)(MODE(mode) | LSB_ONLY), true);

        pit_counter_write(&c, 4, T0);
        assert_false(pit_counter_out(&c, T0 + 4));
        pit_counter_gate(&c, false, T0 + 4);
        assert_true(pit_counter_out(&c, T0 + 4));
        assert_true(pit_counter_out(&c, T0 + 20));
        pit_counter_gate(&c, true, T0 + 20);
        assert_int_equal(ce(&c, T0 + 21), 4);
        assert_false(pit_counter_out(&c, T0 + 24));
    }
}

static void test_new_count_waits_for_the_cycle_in_mode_2_and_half_cycle_in_mode_3(void **state)
{
    struct pit_counter c = fresh(MODE(2) | LSB_ONLY, true);

    (void)state;
    pit_counter_write(&c, 4, T0);
    pit_counter_write(&c, 6, T0 + 2);
    assert_int_equal(ce(&c, T0 + 4), 1);
    assert_int_equal(ce(&c, T0 + 5), 6);

    c = fresh(MODE(3) | LSB_ONLY, true);
    pit_counter_write(&c, 8, T0);
    pit_counter_write(&c, 4, T0 + 2);
    assert_true(pit_counter_out(&c, T0 + 4));
    assert_false(pit_counter_out(&c, T0 + 5)); /* the low half, with the new count */
    assert_false(pit_counter_out(&c, T0 + 6));
    assert_true(pit_counter_out(&c, T0 + 7));
}

static void test_first_byte_of_two_stops_mode_0(void **state)
{
    struct pit_counter c = fresh(MODE(0) | BOTH, true);

    (void)state;
    pit_counter_write(&c, 2, T0);
    pit_counter_write(&c, 0, T0);
    assert_true(pit_counter_out(&c, T0 + 10));
    pit_counter_write(&c, 0x34, T0 + 10);
    assert_false(pit_counter_out(&c, T0 + 1000));
    pit_counter_write(&c, 0x12, T0 + 1000);
    assert_int_equal(ce(&c, T0 + 1001), 0x1234);
}

static void test_zero_is_the_largest_count(void **state)
{
    struct pit_counter c = fresh(MODE(2) | BOTH, true);

    (void)state;
    pit_counter_write(&c, 0, T0);
    pit_counter_write(&c, 0, T0);
    assert_int_equal(ce(&c, T0 + 1), 0);
    assert_int_equal(ce(&c, T0 + 2), 0xffff);
    assert_int_equal(pit_counter_next(&c, T0 + 2), T0 + 1 + 65536);
    c = fresh(MODE(2) | BOTH | BCD, true);
    pit_counter_write(&c, 0, T0);
    pit_counter_write(&c, 0, T0);
    assert_int_equal(ce(&c, T0 + 2), 0x9999);
    assert_int_equal(pit_counter_next(&c, T0 + 2), T0 + 1 + 10000);
}

static void test_latched_count_holds_until_read(void **state)
{
    struct pit_counter c = fresh(MODE(2) | BOTH, true);

    (void)state;
    pit_counter_write(&c, 0x34, T0);
    pit_counter_write(&c, 0x12, T0);
    pit_counter_latch_count(&c, T0 + 2);
    pit_counter_latch_count(&c, T0 + 9); /* ignored */
    assert_int_equal(pit_counter_read(&c, T0 + 10), 0x33);
    assert_int_equal(pit_counter_read(&c, T0 + 11), 0x12);
    assert_int_equal(pit_counter_read(&c, T0 + 12), 0x29); /* live */
}

static void test_status_shows_out_null_count_and_mode(void **state)
{
    struct pit_counter c = fresh(MODE(2) | BOTH, true);

    (void)state;
    pit_counter_latch_status(&c, T0);
    assert_int_equal(pit_counter_read(&c, T0), 0xc0 | BOTH | MODE(2));
    pit_counter_write(&c, 4, T0);
    pit_counter_write(&c, 0, T0);
    pit_counter_latch_status(&c, T0 + 4);
    assert_int_equal(pit_counter_read(&c, T0 + 4), BOTH | MODE(2));
}

static void test_count_of_one_in_a_periodic_mode_never_rises(void **state)
{
    (void)state;
    for (unsigned mode = 2; mode <= 3; mode++) {
        struct pit_counter c = fresh((uint8_t)(MODE(mode) | LSB_ONLY), true);

        pit_counter_write(&c, 1, T0);
        assert_true(pit_counter_next(&c, T0 + 5) == UINT64_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_modes_follow_the_data_sheet_waveforms),
        cmocka_unit_test(test_triggered_modes_wait_for_the_gate),
        cmocka_unit_test(test_low_gate_stops_and_resumes_mode_0),
        cmocka_unit_test(test_low_gate_raises_out_and_rise_reloads_modes_2_and_3),
        cmocka_unit_test(test_new_count_waits_for_the_cycle_in_mode_2_and_half_cycle_in_mode_3),
        cmocka_unit_test(test_first_byte_of_two_stops_mode_0),
        cmocka_unit_test(test_zero_is_the_largest_count),
        cmocka_unit_test(test_latched_count_holds_until_read),
        cmocka_unit_test(test_status_shows_out_null_count_and_mode),
        cmocka_unit_test(test_count_of_one_in_a_periodic_mode_never_rises),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
