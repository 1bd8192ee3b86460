/* SPDX-License-Identifier: Apache-2.0 */
/* The HPET on a clock that stands still until told: counter, one-shot, periodic, routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "dev/fakeclock.h"
#include "dev/hpet.h"

#define AT        0xfed00000ull
#define CONF      0x010u
#define STATUS    0x020u
#define COUNT     0x0f0u
#define T_CONF(n) (0x100u + 0x20u * (n))
#define T_CMP(n)  (0x108u + 0x20u * (n))
#define T_FSB(n)  (0x110u + 0x20u * (n))
#define ENABLE    1u
#define LEGACY    2u
#define LEVEL     BIT(1)
#define INT_ENB   BIT(2)
#define PERIODIC  BIT(3)
#define VAL_SET   BIT(6)
#define MODE32    BIT(8)
#define ROUTE(g)  ((g) << 9)
#define FSB_ENB   BIT(14)
#define TICK_NS   10ull
#define NS_PER_MS 1000000ull

struct env {
    struct bus *bus;
    struct hpet h;
    int level[32];
    unsigned nr_edges[32];
    bool legacy;
    unsigned nr_msi;
    uint64_t msi_addr;
    uint32_t msi_data;
    bool waits; /* a slow processor */
};

static void env_line(void *ctx, unsigned gsi, int level)
{
    struct env *e = ctx;

    e->nr_edges[gsi] += level && !e->level[gsi];
    e->level[gsi] = level;
}

static bool env_waits(void *ctx, unsigned gsi)
{
    (void)gsi;
    return ((struct env *)ctx)->waits;
}

static void env_msi(void *ctx, uint64_t addr, uint32_t data)
{
    struct env *e = ctx;

    e->nr_msi++;
    e->msi_addr = addr;
    e->msi_data = data;
}

static void env_legacy(void *ctx, bool on)
{
    ((struct env *)ctx)->legacy = on;
}

static void put(struct env *e, unsigned reg, uint64_t val)
{
    bus_mmio_write(e->bus, GPA(AT + reg), 8, val);
}

static uint64_t get(struct env *e, unsigned reg)
{
    return bus_mmio_read(e->bus, GPA(AT + reg), 8);
}

static void ticks(struct env *e, uint64_t nr)
{
    fakeclock_advance(e->bus, nr * TICK_NS);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->bus = bus_create();
    *state = e;
    bus_set_gsi_sink(e->bus, env_line, env_waits, e);
    bus_set_msi_sink(e->bus, env_msi, e);
    fakeclock_advance(e->bus, 12345);
    return hpet_init(&e->h, &(struct hpet_config){ .bus = e->bus,
                                                   .at = GPA(AT),
                                                   .irq0 = { env_line, e, 0, env_waits },
                                                   .irq8 = { env_line, e, 8, env_waits },
                                                   .legacy = env_legacy,
                                                   .ctx = e });
}

static int teardown(void **state)
{
    struct env *e = *state;

    hpet_fini(&e->h);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_capabilities_tell_100_mhz_3_timers_64_bits(void **state)
{
    struct env *e = *state;

    assert_int_equal(get(e, 0), 10000000ull << 32 | 0x8086a201);
    assert_int_equal(bus_mmio_read(e->bus, GPA(AT + 4), 4), 10000000);
    put(e, 0, 0);
    assert_int_equal(get(e, 0), 10000000ull << 32 | 0x8086a201);
    assert_int_equal(get(e, T_CONF(2)), 0x00f0000000008030);
    assert_int_equal(get(e, T_CONF(3)), 0);
}

static void test_counter_runs_only_while_enabled_and_can_be_set(void **state)
{
    struct env *e = *state;

    ticks(e, 100);
    assert_int_equal(get(e, COUNT), 0);
    put(e, COUNT, 0x1000);
    put(e, CONF, ENABLE);
    ticks(e, 100);
    assert_int_equal(get(e, COUNT), 0x1064);
    put(e, CONF, 0);
    ticks(e, 100);
    assert_int_equal(get(e, COUNT), 0x1064);
    put(e, CONF, ENABLE);
    ticks(e, 1);
    assert_int_equal(get(e, COUNT), 0x1065);
    bus_mmio_write(e->bus, GPA(AT + COUNT + 4), 4, 7); /* upper half alone */
    assert_int_equal(get(e, COUNT), 0x700001065);
}

static void test_one_shot_fires_once_exactly_at_its_comparator(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(2), INT_ENB | ROUTE(21));
    put(e, T_CMP(2), 1000);
    put(e, CONF, ENABLE);
    ticks(e, 999);
    assert_int_equal(e->nr_edges[21], 0);
    ticks(e, 1);
    assert_int_equal(e->nr_edges[21], 1);
    assert_int_equal(e->level[21], 0);
    ticks(e, 1ull << 33); /* 64 bits: no second match at a wrap of 32 */
    assert_int_equal(e->nr_edges[21], 1);
    put(e, T_CMP(2), get(e, COUNT)); /* a match right now counts */
    ticks(e, 1);
    assert_int_equal(e->nr_edges[21], 2);
    put(e, T_CMP(2), get(e, COUNT) - 1); /* passed: not before the wrap of 64 bits */
    ticks(e, 1ull << 40);
    assert_int_equal(e->nr_edges[21], 2);
}

static void test_32_bit_timer_matches_at_every_wrap(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(1), INT_ENB | MODE32 | ROUTE(20));
    put(e, T_CMP(1), 0xaaaaaaaa00000010);
    assert_int_equal(get(e, T_CMP(1)), 0x10);
    put(e, COUNT, 0xfffffff0);
    put(e, CONF, ENABLE);
    ticks(e, 0x1f);
    assert_int_equal(e->nr_edges[20], 0);
    ticks(e, 1);
    assert_int_equal(e->nr_edges[20], 1);
    ticks(e, 1ull << 32);
    assert_int_equal(e->nr_edges[20], 2);
}

static void test_periodic_set_as_linux_does_keeps_its_beat(void **state)
{
    struct env *e = *state;

    put(e, CONF, ENABLE);
    bus_mmio_write(e->bus, GPA(AT + T_CONF(0)), 4,
                   INT_ENB | PERIODIC | VAL_SET | MODE32 | ROUTE(22));
    bus_mmio_write(e->bus, GPA(AT + T_CMP(0)), 4, 5000); /* first match */
    ticks(e, 100);
    bus_mmio_write(e->bus, GPA(AT + T_CMP(0)), 4, 100000); /* period: 1 ms */
    assert_int_equal(get(e, T_CONF(0)) & VAL_SET, 0);
    ticks(e, 4899);
    assert_int_equal(e->nr_edges[22], 0);
    ticks(e, 1);
    assert_int_equal(e->nr_edges[22], 1);
    assert_int_equal(get(e, T_CMP(0)), 105000);
    ticks(e, 100000 * 60000ull); /* a minute, and a wrap of 32 bits */
    assert_int_equal(e->nr_edges[22], 60001);
}

static void test_late_host_loses_periods_but_not_the_beat(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    put(e, T_CMP(0), 1000);
    put(e, CONF, ENABLE);
    fakeclock_jump(e->bus, 5500 * TICK_NS);
    assert_int_equal(e->nr_edges[22], 1);
    assert_int_equal(get(e, T_CMP(0)), 6000);
    ticks(e, 500);
    assert_int_equal(e->nr_edges[22], 2);
}

static void test_late_host_delivers_some_missed_periods_soon(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    put(e, T_CMP(0), 100000); /* 1 ms */
    put(e, CONF, ENABLE);
    fakeclock_jump(e->bus, 5500000);
    assert_int_equal(e->nr_edges[22], 1);
    fakeclock_advance(e->bus, 400000); /* 5.9 ms: one is made up for */
    assert_int_equal(e->nr_edges[22], 2);
    fakeclock_advance(e->bus, 14000000);
    assert_int_equal(e->nr_edges[22], 19);
    fakeclock_jump(e->bus, 980100000);
    fakeclock_advance(e->bus, 20000000);
    assert_int_equal(e->nr_edges[22], 19 + 1 + 16 + 20);
}

static void test_slow_processor_gets_some_missed_periods_later(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    put(e, T_CMP(0), 100000);
    put(e, CONF, ENABLE);
    ticks(e, 150000);
    assert_int_equal(e->nr_edges[22], 1);
    e->waits = true;
    ticks(e, 500000); /* five, which are lost in the first one */
    assert_int_equal(e->nr_edges[22], 6);
    e->waits = false;
    ticks(e, 500000);
    assert_int_equal(e->nr_edges[22], 6 + 5 + 5);
    e->waits = true;
    ticks(e, 200000);
    put(e, T_CMP(0), 100000); /* programmed anew: those are forgotten */
    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    e->waits = false;
    ticks(e, 200000);
    assert_int_equal(e->nr_edges[22], 6 + 5 + 5 + 2 + 2);
}

static void served(struct env *e, unsigned gsi)
{
    lock_take(bus_lock(e->bus));
    hpet_irq_served(&e->h, gsi);
    lock_drop(bus_lock(e->bus));
}

static void test_each_eoi_brings_a_missed_period_at_once(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    put(e, T_CMP(0), 100000); /* 1 ms */
    put(e, CONF, ENABLE);
    ticks(e, 150000);
    e->waits = true;
    ticks(e, 400000);
    served(e, 22); /* another's: the request still waits */
    assert_int_equal(e->nr_edges[22], 5);
    e->waits = false;
    served(e, 21);
    assert_int_equal(e->nr_edges[22], 5);
    for (unsigned i = 0; i < 6; i++)
        served(e, 22);
    assert_int_equal(e->nr_edges[22], 5 + 4);
    bus_clock(e->bus)->now_ns += 300000 * TICK_NS; /* nobody looked */
    for (unsigned i = 0; i < 6; i++)
        served(e, 22);
    assert_int_equal(e->nr_edges[22], 5 + 4 + 3);
    ticks(e, 100000); /* the beat goes on */
    assert_int_equal(e->nr_edges[22], 5 + 4 + 3 + 1);
}

static void test_legacy_route_brings_missed_periods_of_irq_0(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET);
    put(e, T_CMP(0), 100000);
    put(e, CONF, ENABLE | LEGACY);
    ticks(e, 150000);
    e->waits = true;
    ticks(e, 200000);
    e->waits = false;
    for (unsigned i = 0; i < 6; i++)
        served(e, 0);
    assert_int_equal(e->nr_edges[0], 3 + 2);
    put(e, T_CONF(0), INT_ENB | VAL_SET | ROUTE(22)); /* no period, nothing to make up for */
    ticks(e, 350000);
    assert_int_equal(e->nr_edges[0], 3 + 2 + 1);
    bus_clock(e->bus)->now_ns += 300000 * TICK_NS;
    served(e, 0);
    assert_int_equal(e->nr_edges[0], 3 + 2 + 1);
}

static void test_shortest_period_does_not_flood_the_host(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22));
    put(e, T_CMP(0), 1);
    put(e, CONF, ENABLE);
    fakeclock_advance(e->bus, 10 * NS_PER_MS);
    assert_in_range(e->nr_edges[22], 100, 1001);
}

/* What Linux leaves behind when it has found a better timer. */
static void test_timer_without_interrupt_wakes_nobody_and_keeps_its_beat(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(20));
    put(e, T_CMP(0), 1000);
    put(e, CONF, ENABLE);
    ticks(e, 1500);
    assert_int_equal(e->nr_edges[20], 1);
    put(e, T_CONF(0), PERIODIC | ROUTE(20));
    ticks(e, 2000);
    assert_int_equal(e->h.timers[0].timer.deadline_ns, UINT64_MAX);
    assert_int_equal(get(e, T_CMP(0)), 4000);
    ticks(e, 1000000);
    assert_int_equal(e->nr_edges[20], 1);
    assert_int_equal(get(e, T_CMP(0)), 1004000);
    ticks(e, 10000);
    put(e, T_CONF(0), INT_ENB | PERIODIC | ROUTE(20));
    assert_int_equal(get(e, T_CMP(0)), 1014000);
    ticks(e, 499); /* at 1013999 */
    assert_int_equal(e->nr_edges[20], 1);
    ticks(e, 1);
    assert_int_equal(e->nr_edges[20], 2);
}

static void test_status_tells_of_a_match_without_interrupt(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(1), LEVEL | ROUTE(21));
    put(e, T_CMP(1), 500);
    put(e, CONF, ENABLE);
    ticks(e, 499);
    assert_int_equal(get(e, STATUS), 0);
    ticks(e, 1);
    assert_int_equal(get(e, STATUS), 2);
    assert_int_equal(e->level[21], 0);
    put(e, STATUS, 2);
    assert_int_equal(get(e, STATUS), 0);
    ticks(e, 100000);
    assert_int_equal(get(e, STATUS), 0); /* it does not match again */
    put(e, T_CMP(1), 200000);
    ticks(e, 100000);
    put(e, CONF, 0); /* the match was before the counter stopped */
    assert_int_equal(get(e, STATUS), 2);
    put(e, T_CONF(1), LEVEL | INT_ENB | ROUTE(21));
    put(e, CONF, ENABLE);
    assert_int_equal(e->level[21], 1);
}

static void test_level_stays_up_until_its_status_is_cleared(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | LEVEL | ROUTE(23));
    put(e, T_CONF(1), INT_ENB | LEVEL | ROUTE(23)); /* the same line */
    put(e, T_CMP(0), 10);
    put(e, T_CMP(1), 20);
    put(e, CONF, ENABLE);
    ticks(e, 30);
    assert_int_equal(get(e, STATUS), 3);
    assert_int_equal(e->level[23], 1);
    put(e, STATUS, 1);
    assert_int_equal(e->level[23], 1);
    put(e, STATUS, 2);
    assert_int_equal(get(e, STATUS), 0);
    assert_int_equal(e->level[23], 0);
}

static void test_legacy_route_takes_irq_0_and_8_and_gives_them_back(void **state)
{
    struct env *e = *state;

    put(e, CONF, ENABLE | LEGACY);
    assert_true(e->legacy);
    put(e, T_CONF(0), INT_ENB);
    put(e, T_CONF(1), INT_ENB | ROUTE(20));
    put(e, T_CMP(0), get(e, COUNT) + 10);
    put(e, T_CMP(1), get(e, COUNT) + 20);
    ticks(e, 15);
    assert_int_equal(e->nr_edges[0], 1);
    ticks(e, 15);
    assert_int_equal(e->nr_edges[8], 1);
    assert_int_equal(e->nr_edges[20], 0);
    put(e, CONF, ENABLE);
    assert_false(e->legacy);
    put(e, T_CMP(0), get(e, COUNT) + 10); /* route 0: leads nowhere now */
    ticks(e, 15);
    assert_int_equal(e->nr_edges[0], 1);
}

static void test_fsb_delivery_is_a_message_and_no_line(void **state)
{
    struct env *e = *state;

    put(e, T_FSB(1), 0xfee0100000004141);
    put(e, T_CONF(1), INT_ENB | FSB_ENB | ROUTE(20));
    put(e, T_CMP(1), 10);
    put(e, CONF, ENABLE);
    ticks(e, 10);
    assert_int_equal(e->nr_msi, 1);
    assert_int_equal(e->msi_addr, 0xfee01000);
    assert_int_equal(e->msi_data, 0x4141);
    assert_int_equal(e->nr_edges[20], 0);
}

static void test_route_that_is_not_offered_does_not_read_back(void **state)
{
    struct env *e = *state;

    put(e, T_CONF(0), INT_ENB | ROUTE(21));
    put(e, T_CONF(0), INT_ENB | ROUTE(5));
    assert_int_equal(get(e, T_CONF(0)) & ROUTE(31), ROUTE(21));
}

static void test_saved_timer_fires_after_loading(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];
    size_t n = state_bytes(&e->h.dev);

    assert_true(n <= sizeof(buf));
    put(e, T_CONF(0), INT_ENB | ROUTE(22));
    put(e, T_CMP(0), 1000);
    put(e, CONF, ENABLE);
    ticks(e, 10);
    state_save(&e->h.dev, buf);
    e->h.dev.type->reset(&e->h.dev);
    ticks(e, 2);
    assert_int_equal(state_load(&e->h.dev, buf, n, 1), 0);
    ticks(e, 987);
    assert_int_equal(e->nr_edges[22], 0);
    ticks(e, 1);
    assert_int_equal(e->nr_edges[22], 1);
}

/* As a restored machine, whose clock has gone on for years. */
static void test_after_years_a_few_periods_come_not_all(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];

    for (unsigned i = 0; i < 2; i++) {
        const uint64_t width = i ? BIT64(8) : 0;

        put(e, CONF, 0);
        put(e, T_CONF(0), INT_ENB | PERIODIC | VAL_SET | ROUTE(22) | width);
        put(e, COUNT, 0);
        put(e, T_CMP(0), 100000); /* 1 ms */
        put(e, CONF, ENABLE);
        state_save(&e->h.dev, buf);
        assert_int_equal(state_load(&e->h.dev, buf, state_bytes(&e->h.dev), 1), 0);
        e->nr_edges[22] = bus_clock(e->bus)->nr_fired = 0;
        fakeclock_jump(e->bus, 10ull * 365 * 86400 * 1000000000);
        assert_int_equal(e->nr_edges[22], 1);
        fakeclock_advance(e->bus, 100000000);
        assert_in_range(e->nr_edges[22], 1 + 16 + 99, 1 + 16 + 101);
        assert_true(bus_clock(e->bus)->nr_fired < 150);
    }
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_capabilities_tell_100_mhz_3_timers_64_bits),
        TEST(test_counter_runs_only_while_enabled_and_can_be_set),
        TEST(test_one_shot_fires_once_exactly_at_its_comparator),
        TEST(test_32_bit_timer_matches_at_every_wrap),
        TEST(test_periodic_set_as_linux_does_keeps_its_beat),
        TEST(test_late_host_loses_periods_but_not_the_beat),
        TEST(test_late_host_delivers_some_missed_periods_soon),
        TEST(test_slow_processor_gets_some_missed_periods_later),
        TEST(test_each_eoi_brings_a_missed_period_at_once),
        TEST(test_legacy_route_brings_missed_periods_of_irq_0),
        TEST(test_shortest_period_does_not_flood_the_host),
        TEST(test_timer_without_interrupt_wakes_nobody_and_keeps_its_beat),
        TEST(test_status_tells_of_a_match_without_interrupt),
        TEST(test_level_stays_up_until_its_status_is_cleared),
        TEST(test_legacy_route_takes_irq_0_and_8_and_gives_them_back),
        TEST(test_fsb_delivery_is_a_message_and_no_line),
        TEST(test_route_that_is_not_offered_does_not_read_back),
        TEST(test_saved_timer_fires_after_loading),
        TEST(test_after_years_a_few_periods_come_not_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
