/* SPDX-License-Identifier: Apache-2.0 */
/* The PIT at its ports: calibration as kernels do it, IRQ 0 without drift and without bursts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/fakeclock.h"
#include "dev/pit.h"

#define NS_PER_S 1000000000ull
#define PIT_HZ   1193182ull

struct env {
    struct bus *bus;
    struct pit pit;
    int level;
    unsigned nr_edges;
    bool waits; /* a slow processor */
};

static void env_irq(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    (void)idx;
    e->nr_edges += level && !e->level;
    e->level = level;
}

static bool env_waits(void *ctx, unsigned idx)
{
    (void)idx;
    return ((struct env *)ctx)->waits;
}

static void out(struct env *e, uint16_t port, uint8_t val)
{
    bus_port_write(e->bus, port, 1, val);
}

static uint8_t in(struct env *e, uint16_t port)
{
    return (uint8_t)bus_port_read(e->bus, port, 1);
}

static void periodic(struct env *e, uint8_t mode, uint16_t count)
{
    out(e, 0x43, (uint8_t)(0x30 | mode << 1));
    out(e, 0x40, (uint8_t)count);
    out(e, 0x40, (uint8_t)(count >> 8));
    e->nr_edges = 0;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->bus = bus_create();
    *state = e;
    return pit_init(&e->pit,
                    &(struct pit_config){ .bus = e->bus, .irq = { env_irq, e, 0, env_waits } });
}

static int teardown(void **state)
{
    struct env *e = *state;

    pit_fini(&e->pit);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_periodic_irq_does_not_drift_in_an_hour(void **state)
{
    struct env *e = *state;
    uint64_t ticks = 3600 * PIT_HZ;

    periodic(e, 2, 11932);
    fakeclock_advance(e->bus, 3600 * NS_PER_S);
    assert_int_equal(e->nr_edges, (ticks - 1) / 11932);
    periodic(e, 3, 11932);
    fakeclock_advance(e->bus, 10 * NS_PER_S);
    assert_in_range(e->nr_edges, 999, 1000);
}

static void test_late_host_delivers_missed_edges_one_by_one(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 4772); /* 250 Hz */
    fakeclock_jump(e->bus, 20 * 4000000);
    assert_int_equal(e->nr_edges, 1);
    fakeclock_advance(e->bus, 290000);
    assert_int_equal(e->nr_edges, 1);
    fakeclock_advance(e->bus, 20000);
    assert_int_equal(e->nr_edges, 2);
    /* 16 are kept, however many there were. */
    fakeclock_advance(e->bus, 10 * 4000000);
    assert_in_range(e->nr_edges, 1 + 16 + 9, 1 + 16 + 11);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_in_range(e->nr_edges, 27 + 249, 27 + 252);
}

static void test_shortest_period_does_not_flood_the_host(void **state)
{
    struct env *e = *state;
    unsigned before;

    periodic(e, 2, 2);
    before = bus_clock(e->bus)->nr_fired;
    fakeclock_advance(e->bus, NS_PER_S / 10);
    assert_in_range(bus_clock(e->bus)->nr_fired - before, 1000, 10001);
}

static void test_one_shot_modes_give_one_edge(void **state)
{
    struct env *e = *state;

    periodic(e, 0, 1193);
    assert_int_equal(e->level, 0);
    fakeclock_advance(e->bus, NS_PER_S / 1100);
    assert_int_equal(e->nr_edges, 0);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->nr_edges, 1);
    periodic(e, 4, 1193);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->nr_edges, 1);
}

static void test_slow_processor_gets_missed_edges_later(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 11932); /* 10 ms */
    fakeclock_advance(e->bus, 15000000);
    assert_int_equal(e->nr_edges, 1);
    e->waits = true;
    fakeclock_advance(e->bus, 50000000); /* five, which are lost in the first one */
    assert_int_equal(e->nr_edges, 6);
    e->waits = false;
    fakeclock_advance(e->bus, 50000000);
    assert_int_equal(e->nr_edges, 6 + 5 + 5);
    e->waits = true;
    fakeclock_advance(e->bus, 1000000000);
    e->waits = false;
    fakeclock_advance(e->bus, 100000000);
    assert_int_equal(e->nr_edges, 16 + 100 + 10 + 16);
}

static void served(struct env *e)
{
    lock_take(bus_lock(e->bus));
    pit_irq_served(&e->pit);
    lock_drop(bus_lock(e->bus));
}

/* As long as nobody waits for the clock's thread: all at the same moment. */
static void test_each_eoi_brings_a_missed_edge_at_once(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 4772); /* 4 ms */
    fakeclock_advance(e->bus, 5000000);
    e->waits = true;
    fakeclock_advance(e->bus, 44000000); /* 12, of which the processor sees one */
    served(e);                           /* another line's: the request still waits */
    assert_int_equal(e->nr_edges, 12);
    e->waits = false;
    for (unsigned i = 1; i <= 11; i++) {
        served(e);
        assert_int_equal(e->nr_edges, 12 + i);
    }
    served(e);
    assert_int_equal(e->nr_edges, 12 + 11);
    fakeclock_advance(e->bus, 1000000);
    assert_int_equal(e->nr_edges, 12 + 11);
}

static void test_eoi_finds_edges_that_a_late_clock_did_not_see(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 4772);
    fakeclock_advance(e->bus, 5000000);
    assert_int_equal(e->nr_edges, 1);
    bus_clock(e->bus)->now_ns += 20000000; /* no timer fires */
    for (unsigned i = 2; i < 10; i++)
        served(e);
    assert_int_equal(e->nr_edges, 1 + 5);
    pit_detach_irq(&e->pit, true);
    bus_clock(e->bus)->now_ns += 20000000;
    served(e);
    assert_int_equal(e->nr_edges, 1 + 5);
}

static void test_one_shot_rearmed_in_time_gives_the_later_edge_only(void **state)
{
    struct env *e = *state;

    periodic(e, 4, 2000);
    fakeclock_advance(e->bus, 1000000);
    out(e, 0x40, 0xd0);
    out(e, 0x40, 0x07);
    fakeclock_advance(e->bus, 1000000);
    assert_int_equal(e->nr_edges, 0);
    fakeclock_advance(e->bus, 1000000);
    assert_int_equal(e->nr_edges, 1);
}

/* Counter 2 in mode 0, its gate opened at port 61h: OUT2 comes after exactly 50 ms, the count falls
 * meanwhile. */
static void test_calibration_by_counter_2_and_port_61(void **state)
{
    struct env *e = *state;
    uint64_t latch = PIT_HZ / 20;
    uint8_t msb;

    out(e, 0x61, (in(e, 0x61) & ~0x02) | 0x01);
    out(e, 0x43, 0xb0);
    out(e, 0x42, (uint8_t)latch);
    out(e, 0x42, (uint8_t)(latch >> 8));
    assert_int_equal(in(e, 0x61) & 0x20, 0);
    fakeclock_advance(e->bus, NS_PER_S / 40);
    (void)in(e, 0x42);
    msb = in(e, 0x42);
    assert_in_range(msb, (latch / 2 >> 8) - 1, latch / 2 >> 8);
    fakeclock_advance(e->bus, NS_PER_S / 40 - 2000);
    assert_int_equal(in(e, 0x61) & 0x20, 0);
    fakeclock_advance(e->bus, 3000);
    assert_int_equal(in(e, 0x61) & 0x20, 0x20);
}

static void test_closed_gate_holds_counter_2(void **state)
{
    struct env *e = *state;

    out(e, 0x61, 0x00);
    out(e, 0x43, 0xb0);
    out(e, 0x42, 0x10);
    out(e, 0x42, 0x00);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(in(e, 0x61) & 0x2f, 0x00);
    out(e, 0x61, 0x01);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(in(e, 0x61) & 0x2f, 0x21);
}

static void test_refresh_bit_toggles_every_15_us(void **state)
{
    struct env *e = *state;
    unsigned nr = 0;
    uint8_t last = in(e, 0x61) & 0x10;

    for (unsigned i = 0; i < 1000; i++) {
        uint8_t now;

        fakeclock_advance(e->bus, 1000);
        now = in(e, 0x61) & 0x10;
        nr += now != last;
        last = now;
    }
    assert_in_range(nr, 66, 67);
}

static void test_read_back_latches_status_and_count_of_several(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 0x1234);
    out(e, 0x43, 0x76); /* counter 1, mode 3 */
    out(e, 0x41, 0x10);
    out(e, 0x41, 0x00);
    fakeclock_advance(e->bus, 2000);
    out(e, 0x43, 0xc6);
    fakeclock_advance(e->bus, 100000);
    assert_int_equal(in(e, 0x40), 0xb4);
    assert_int_equal(in(e, 0x40), 0x33);
    assert_int_equal(in(e, 0x40), 0x12);
    assert_int_equal(in(e, 0x41), 0xb6);
    assert_int_equal(in(e, 0x41), 0x0e);
    assert_int_equal(in(e, 0x41), 0x00);
}

static void test_count_is_exact_between_interrupts(void **state)
{
    struct env *e = *state;
    uint64_t want;

    periodic(e, 2, 0);
    fakeclock_advance(e->bus, 12345678);
    want = 65536 - (12345678 * PIT_HZ / NS_PER_S - 1);
    out(e, 0x43, 0x00);
    assert_int_equal(in(e, 0x40), want & 0xff);
    assert_int_equal(in(e, 0x40), want >> 8);
}

static void test_detached_irq_stays_low(void **state)
{
    struct env *e = *state;

    periodic(e, 2, 1193);
    pit_detach_irq(&e->pit, true);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(e->nr_edges, 0);
    assert_int_equal(e->level, 0);
    pit_detach_irq(&e->pit, false);
    fakeclock_advance(e->bus, NS_PER_S / 100);
    assert_in_range(e->nr_edges, 10, 11);
}

static void test_state_survives_saving(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];

    periodic(e, 2, 11932);
    fakeclock_advance(e->bus, NS_PER_S / 2);
    assert_true(state_bytes(&e->pit.dev) <= sizeof(buf));
    state_save(&e->pit.dev, buf);
    e->pit.dev.type->reset(&e->pit.dev);
    fakeclock_advance(e->bus, 0);
    assert_int_equal(state_load(&e->pit.dev, buf, state_bytes(&e->pit.dev), 1), 0);
    e->nr_edges = 0;
    fakeclock_advance(e->bus, NS_PER_S);
    assert_in_range(e->nr_edges, 99, 101);
}

/* As a restored machine, whose clock has gone on for years. */
static void test_after_years_a_few_edges_come_not_all(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];
    unsigned before;

    periodic(e, 2, 4772); /* 250 Hz */
    state_save(&e->pit.dev, buf);
    e->pit.dev.type->reset(&e->pit.dev);
    assert_int_equal(state_load(&e->pit.dev, buf, state_bytes(&e->pit.dev), 1), 0);
    before = bus_clock(e->bus)->nr_fired;
    e->nr_edges = 0;
    fakeclock_jump(e->bus, 10 * 365 * 86400 * NS_PER_S);
    assert_int_equal(e->nr_edges, 1);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_in_range(e->nr_edges, 1 + 16 + 249, 1 + 16 + 251);
    assert_true(bus_clock(e->bus)->nr_fired - before < 300);
}

static void test_a_rise_between_saving_and_loading_comes_when_time_goes_on(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];

    periodic(e, 0, 1193); /* one-shot: a lost edge would be the last */
    bus_clock(e->bus)->now_ns += NS_PER_S;
    state_save(&e->pit.dev, buf);
    e->pit.dev.type->reset(&e->pit.dev);
    assert_int_equal(state_load(&e->pit.dev, buf, state_bytes(&e->pit.dev), 1), 0);
    assert_int_equal(e->nr_edges, 0); /* the interrupt controllers are not loaded yet */
    fakeclock_advance(e->bus, 0);
    assert_int_equal(e->nr_edges, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_periodic_irq_does_not_drift_in_an_hour),
        TEST(test_late_host_delivers_missed_edges_one_by_one),
        TEST(test_shortest_period_does_not_flood_the_host),
        TEST(test_one_shot_modes_give_one_edge),
        TEST(test_slow_processor_gets_missed_edges_later),
        TEST(test_each_eoi_brings_a_missed_edge_at_once),
        TEST(test_eoi_finds_edges_that_a_late_clock_did_not_see),
        TEST(test_one_shot_rearmed_in_time_gives_the_later_edge_only),
        TEST(test_calibration_by_counter_2_and_port_61),
        TEST(test_closed_gate_holds_counter_2),
        TEST(test_refresh_bit_toggles_every_15_us),
        TEST(test_read_back_latches_status_and_count_of_several),
        TEST(test_count_is_exact_between_interrupts),
        TEST(test_detached_irq_stays_low),
        TEST(test_state_survives_saving),
        TEST(test_after_years_a_few_edges_come_not_all),
        TEST(test_a_rise_between_saving_and_loading_comes_when_time_goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
