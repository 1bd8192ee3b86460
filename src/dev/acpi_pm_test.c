/* SPDX-License-Identifier: Apache-2.0 */
/* ACPI fixed hardware: timer, SCI, power button, S5, ACPI mode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "dev/acpi_pm.h"
#include "dev/fakeclock.h"

#define PORT     0x600
#define STS      (PORT + 0)
#define EN       (PORT + 2)
#define CNT      (PORT + 4)
#define TMR      (PORT + 8)
#define GPE_STS  (PORT + 0x10)
#define GPE_EN   (PORT + 0x12)
#define PWRBTN   0x100u
#define SLP_EN   0x2000u
#define NS_PER_S 1000000000ull

struct env {
    struct bus *bus;
    struct acpi_pm pm;
    int sci;
    unsigned nr_sci;
    enum stop_reason stopped;
};

static void env_sci(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    (void)idx;
    e->nr_sci += level && !e->sci;
    e->sci = level;
}

static void env_stop(void *ctx, enum stop_reason why, int status)
{
    (void)status;
    ((struct env *)ctx)->stopped = why;
}

static uint32_t in(struct env *e, uint16_t port, unsigned bytes)
{
    return (uint32_t)bus_port_read(e->bus, port, bytes);
}

static void out(struct env *e, uint16_t port, unsigned bytes, uint32_t val)
{
    bus_port_write(e->bus, port, bytes, val);
}

static int make(void **state, bool is_32bit, uint16_t smi_port)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR);
    e->bus = bus_create();
    *state = e;
    bus_set_stop_sink(e->bus, env_stop, e);
    return acpi_pm_init(&e->pm, &(struct acpi_pm_config){ .bus = e->bus,
                                                          .port = PORT,
                                                          .smi_port = smi_port,
                                                          .smi_acpi_enable = 0xf1,
                                                          .smi_acpi_disable = 0xf0,
                                                          .slp_typ_s5 = 5,
                                                          .timer_is_32bit = is_32bit,
                                                          .sci = { env_sci, e, 0 } });
}

static int setup(void **state)
{
    return make(state, false, 0xb2);
}

static int setup_32bit(void **state)
{
    return make(state, true, 0xb2);
}

static int setup_no_smi(void **state)
{
    return make(state, false, 0);
}

static int teardown(void **state)
{
    struct env *e = *state;

    acpi_pm_fini(&e->pm);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void press(struct env *e)
{
    lock_take(bus_lock(e->bus));
    acpi_pm_power_button(&e->pm);
    lock_drop(bus_lock(e->bus));
}

static void test_pm_timer_counts_3579545_a_second(void **state)
{
    struct env *e = *state;

    assert_int_equal(in(e, TMR, 4), 0);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(in(e, TMR, 4), 3579545);
    fakeclock_advance(e->bus, 9 * NS_PER_S);
    assert_int_equal(in(e, TMR, 4), 35795450 & 0xffffff);
    assert_int_equal(in(e, TMR + 1, 1), 35795450 >> 8 & 0xff);
    out(e, TMR, 4, 0); /* read-only */
    assert_int_equal(in(e, TMR, 4), 35795450 & 0xffffff);
}

static void test_32_bit_pm_timer_has_its_upper_byte(void **state)
{
    struct env *e = *state;

    fakeclock_advance(e->bus, 3600 * NS_PER_S);
    assert_int_equal(in(e, TMR, 4), (uint32_t)(3579545ull * 3600));
}

static void test_timer_status_is_set_when_the_top_bit_changes(void **state)
{
    struct env *e = *state;
    uint64_t half_ns = (BIT64(23) * NS_PER_S + 3579544) / 3579545;

    fakeclock_advance(e->bus, half_ns - 1);
    assert_int_equal(in(e, STS, 2), 0);
    fakeclock_advance(e->bus, 1);
    assert_int_equal(in(e, STS, 2), 1);
    out(e, STS, 2, 1);
    assert_int_equal(in(e, STS, 2), 0);
    fakeclock_advance(e->bus, half_ns);
    assert_int_equal(in(e, STS, 2), 1);
}

static void test_rtc_alarm_raises_sci_until_cleared(void **state)
{
    struct env *e = *state;

    out(e, 0xb2, 1, 0xf1);
    lock_take(bus_lock(e->bus));
    acpi_pm_rtc_alarm(&e->pm);
    lock_drop(bus_lock(e->bus));
    assert_int_equal(in(e, STS, 2) & 0x400, 0x400);
    assert_int_equal(e->sci, 0);
    out(e, EN, 2, 0x400);
    assert_int_equal(e->sci, 1);
    out(e, STS, 2, 0x400);
    assert_int_equal(e->sci, 0);
}

static void test_timer_raises_sci_at_overflow_when_enabled(void **state)
{
    struct env *e = *state;
    uint64_t half_ns = (BIT64(23) * NS_PER_S + 3579544) / 3579545;

    out(e, 0xb2, 1, 0xf1);
    out(e, EN, 2, 1);
    fakeclock_advance(e->bus, half_ns - 1);
    assert_int_equal(e->sci, 0);
    fakeclock_advance(e->bus, 1);
    assert_int_equal(e->sci, 1);
    out(e, STS, 2, 1);
    assert_int_equal(e->sci, 0);
    fakeclock_advance(e->bus, 20 * half_ns);
    assert_int_equal(e->nr_sci, 2); /* level: up until cleared */
}

static void test_acpi_mode_is_switched_by_the_smi_port(void **state)
{
    struct env *e = *state;

    assert_int_equal(in(e, CNT, 2) & 1, 0);
    out(e, CNT, 2, 1); /* not the guest's to set */
    assert_int_equal(in(e, CNT, 2) & 1, 0);
    out(e, 0xb2, 1, 0xf1);
    assert_int_equal(in(e, CNT, 2) & 1, 1);
    out(e, 0xb2, 1, 0x77);
    assert_int_equal(in(e, CNT, 2) & 1, 1);
    out(e, 0xb2, 1, 0xf0);
    assert_int_equal(in(e, CNT, 2) & 1, 0);
    out(e, 0xb3, 1, 0x5a);
    assert_int_equal(in(e, 0xb3, 1), 0x5a);
}

static void test_without_smi_port_acpi_mode_is_always_on(void **state)
{
    struct env *e = *state;

    assert_int_equal(in(e, CNT, 2), 1);
    assert_int_equal(in(e, 0xb2, 1), 0xff);
}

static void test_power_button_raises_sci_until_cleared(void **state)
{
    struct env *e = *state;

    out(e, EN, 2, PWRBTN);
    press(e);
    assert_int_equal(e->sci, 0); /* legacy mode */
    out(e, 0xb2, 1, 0xf1);
    assert_int_equal(e->sci, 1);
    out(e, STS + 1, 1, 0); /* writing zeros clears nothing */
    assert_int_equal(e->sci, 1);
    out(e, STS + 1, 1, PWRBTN >> 8);
    assert_int_equal(e->sci, 0);
    assert_int_equal(in(e, EN, 2), PWRBTN);
}

static void test_gpe_raises_sci_while_status_and_enable(void **state)
{
    struct env *e = *state;

    out(e, 0xb2, 1, 0xf1);
    lock_take(bus_lock(e->bus));
    acpi_pm_gpe(&e->pm, 9);
    lock_drop(bus_lock(e->bus));
    assert_int_equal(in(e, GPE_STS, 2), BIT(9));
    assert_int_equal(e->sci, 0);
    out(e, GPE_EN + 1, 1, 2);
    assert_int_equal(e->sci, 1);
    out(e, GPE_STS, 2, 0xffff);
    assert_int_equal(e->sci, 0);
}

static void test_sleep_type_s5_with_enable_powers_off(void **state)
{
    struct env *e = *state;

    out(e, CNT, 2, 5 << 10); /* without SLP_EN nothing */
    assert_int_equal(e->stopped, STOP_NONE);
    out(e, CNT, 2, 1 << 10 | SLP_EN); /* not offered */
    assert_int_equal(e->stopped, STOP_NONE);
    out(e, CNT, 2, 5 << 10 | SLP_EN);
    assert_int_equal(e->stopped, STOP_POWEROFF);
    assert_int_equal(in(e, CNT, 2) & SLP_EN, 0); /* write-only */
}

static void test_reset_lowers_sci_and_leaves_acpi_mode(void **state)
{
    struct env *e = *state;

    out(e, 0xb2, 1, 0xf1);
    out(e, EN, 2, PWRBTN);
    press(e);
    assert_int_equal(e->sci, 1);
    e->pm.dev.type->reset(&e->pm.dev);
    assert_int_equal(e->sci, 0);
    assert_int_equal(in(e, CNT, 2), 0);
}

static void test_hostile_saved_state_is_cut_to_what_exists(void **state)
{
    struct env *e = *state;
    uint8_t buf[64];
    size_t n = state_bytes(&e->pm.dev);

    for (size_t i = 0; i < n; i++)
        buf[i] = 0xff;
    assert_int_equal(state_load(&e->pm.dev, buf, n, 1), 0);
    fakeclock_advance(e->bus, 100 * NS_PER_S);
    assert_int_equal(in(e, CNT, 2) & SLP_EN, 0);
}

static void test_an_overflow_meanwhile_comes_after_loading(void **state)
{
    struct env *e = *state;
    uint8_t buf[64];

    out(e, 0xb2, 1, 0xf1);
    out(e, EN, 2, 1);
    state_save(&e->pm.dev, buf);
    bus_clock(e->bus)->now_ns += 10ull * 365 * 86400 * NS_PER_S;
    assert_int_equal(state_load(&e->pm.dev, buf, state_bytes(&e->pm.dev), 1), 0);
    assert_int_equal(e->sci, 0); /* the interrupt controllers are not loaded yet */
    bus_clock(e->bus)->nr_fired = 0;
    fakeclock_advance(e->bus, 0);
    assert_int_equal(e->sci, 1);
    fakeclock_advance(e->bus, NS_PER_S);
    assert_int_equal(bus_clock(e->bus)->nr_fired, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_pm_timer_counts_3579545_a_second),
        cmocka_unit_test_setup_teardown(test_32_bit_pm_timer_has_its_upper_byte, setup_32bit,
                                        teardown),
        TEST(test_timer_status_is_set_when_the_top_bit_changes),
        TEST(test_timer_raises_sci_at_overflow_when_enabled),
        TEST(test_acpi_mode_is_switched_by_the_smi_port),
        cmocka_unit_test_setup_teardown(test_without_smi_port_acpi_mode_is_always_on, setup_no_smi,
                                        teardown),
        TEST(test_rtc_alarm_raises_sci_until_cleared),
        TEST(test_power_button_raises_sci_until_cleared),
        TEST(test_gpe_raises_sci_while_status_and_enable),
        TEST(test_sleep_type_s5_with_enable_powers_off),
        TEST(test_reset_lowers_sci_and_leaves_acpi_mode),
        TEST(test_hostile_saved_state_is_cut_to_what_exists),
        TEST(test_an_overflow_meanwhile_comes_after_loading),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
