/* SPDX-License-Identifier: Apache-2.0 */
/* The I/O APIC: what its pins send, when, and what a guest reads of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "dev/fakeclock.h"
#include "dev/ioapic.h"

#define AT          0xfec00000ull
#define LEVEL       BIT(15)
#define MASKED      BIT(16)
#define REMOTE_IRR  BIT(14)
#define LOGICAL     BIT(11)
#define MODE_LOWEST (1u << 8)
#define MODE_NMI    (4u << 8)
#define MODE_SIPI   (6u << 8)

struct env {
    struct bus *bus;
    struct ioapic io;
    unsigned nr_sent;
    struct apic_msg last;
    unsigned nr_served, served_pin;
};

static void env_send(void *ctx, const struct apic_msg *msg)
{
    struct env *e = ctx;

    e->nr_sent++;
    e->last = *msg;
}

static void env_served(void *ctx, unsigned pin)
{
    struct env *e = ctx;

    e->nr_served++;
    e->served_pin = pin;
}

static void put(struct env *e, unsigned reg, uint32_t val)
{
    bus_mmio_write(e->bus, GPA(AT), 4, reg);
    bus_mmio_write(e->bus, GPA(AT + 0x10), 4, val);
}

static uint32_t get(struct env *e, unsigned reg)
{
    bus_mmio_write(e->bus, GPA(AT), 4, reg);
    return (uint32_t)bus_mmio_read(e->bus, GPA(AT + 0x10), 4);
}

static void route(struct env *e, unsigned pin, uint32_t low, uint8_t dest)
{
    put(e, 0x11 + 2 * pin, (uint32_t)dest << 24);
    put(e, 0x10 + 2 * pin, low);
}

static void pin(struct env *e, unsigned idx, int level)
{
    lock_take(bus_lock(e->bus));
    ioapic_set_pin(&e->io, idx, level);
    lock_drop(bus_lock(e->bus));
}

static void eoi(struct env *e, uint8_t vector)
{
    lock_take(bus_lock(e->bus));
    ioapic_eoi(&e->io, vector);
    lock_drop(bus_lock(e->bus));
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR);
    e->bus = bus_create();
    *state = e;
    return ioapic_init(&e->io, &(struct ioapic_config){ .bus = e->bus,
                                                        .at = GPA(AT),
                                                        .id = 2,
                                                        .send = env_send,
                                                        .told_pins = BIT(2) | BIT(20),
                                                        .served = env_served,
                                                        .ctx = e });
}

static int teardown(void **state)
{
    struct env *e = *state;

    ioapic_fini(&e->io);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_identification_reads_24_pins_version_20h(void **state)
{
    struct env *e = *state;

    assert_int_equal(get(e, 0), 0x02000000);
    assert_int_equal(get(e, 1), 0x00170020);
    assert_int_equal(get(e, 2), 0x02000000);
    put(e, 0, 0xffffffff);
    assert_int_equal(get(e, 0), 0x0f000000);
    assert_int_equal(get(e, 0x40), 0); /* behind the table */
    assert_int_equal(get(e, 0x0f), 0);
    assert_int_equal(bus_mmio_read(e->bus, GPA(AT), 1), 0x0f);
}

static void test_entries_are_masked_at_reset_and_keep_only_writable_bits(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        assert_int_equal(get(e, 0x10 + 2 * i), MASKED);
        put(e, 0x10 + 2 * i, 0xffffffff);
        put(e, 0x11 + 2 * i, 0xffffffff);
        assert_int_equal(get(e, 0x10 + 2 * i), 0x0001afff);
        assert_int_equal(get(e, 0x11 + 2 * i), 0xff000000);
    }
    assert_int_equal(e->nr_sent, 0);
}

static void test_edge_sends_once_with_all_of_the_entry(void **state)
{
    struct env *e = *state;

    route(e, 4, 0x31 | MODE_LOWEST | LOGICAL, 0x83);
    pin(e, 4, 1);
    pin(e, 4, 1);
    pin(e, 4, 0);
    assert_int_equal(e->nr_sent, 1);
    assert_int_equal(e->last.vector, 0x31);
    assert_int_equal(e->last.dest, 0x83);
    assert_int_equal(e->last.mode, APIC_LOWEST);
    assert_true(e->last.logical);
    assert_false(e->last.level);
    pin(e, 4, 1); /* no EOI needed between edges */
    assert_int_equal(e->nr_sent, 2);
    assert_int_equal(get(e, 0x10 + 8) & REMOTE_IRR, 0);
}

static void test_edge_at_masked_pin_is_lost(void **state)
{
    struct env *e = *state;

    route(e, 4, 0x31 | MASKED, 0);
    pin(e, 4, 1);
    route(e, 4, 0x31, 0);
    assert_int_equal(e->nr_sent, 0);
    pin(e, 4, 0);
    pin(e, 4, 1);
    assert_int_equal(e->nr_sent, 1);
}

static void test_level_sends_again_after_eoi_while_asserted(void **state)
{
    struct env *e = *state;

    route(e, 17, 0x41 | LEVEL, 1);
    pin(e, 17, 1);
    pin(e, 17, 0);
    pin(e, 17, 1);
    assert_int_equal(e->nr_sent, 1); /* remote IRR holds it */
    assert_true(e->last.level);
    assert_true(get(e, 0x10 + 34) & REMOTE_IRR);
    eoi(e, 0x40); /* another's */
    assert_int_equal(e->nr_sent, 1);
    eoi(e, 0x41);
    assert_int_equal(e->nr_sent, 2);
    pin(e, 17, 0);
    eoi(e, 0x41);
    assert_int_equal(e->nr_sent, 2);
    assert_false(get(e, 0x10 + 34) & REMOTE_IRR);
}

static void test_level_masked_while_asserted_sends_when_unmasked(void **state)
{
    struct env *e = *state;

    route(e, 17, 0x41 | LEVEL | MASKED, 1);
    pin(e, 17, 1);
    assert_int_equal(e->nr_sent, 0);
    route(e, 17, 0x41 | LEVEL, 1);
    assert_int_equal(e->nr_sent, 1);
}

static void test_eoi_register_does_as_the_eoi_message(void **state)
{
    struct env *e = *state;

    route(e, 17, 0x41 | LEVEL, 1);
    pin(e, 17, 1);
    pin(e, 17, 0);
    bus_mmio_write(e->bus, GPA(AT + 0x40), 4, 0x41);
    assert_false(get(e, 0x10 + 34) & REMOTE_IRR);
}

static void test_switch_to_edge_clears_remote_irr(void **state)
{
    struct env *e = *state;

    route(e, 17, 0x41 | LEVEL, 1);
    pin(e, 17, 1);
    put(e, 0x10 + 34, 0x41 | MASKED);
    assert_false(get(e, 0x10 + 34) & REMOTE_IRR);
    put(e, 0x10 + 34, 0x41 | LEVEL);
    assert_int_equal(e->nr_sent, 2);
}

static void test_nmi_is_an_edge_whatever_the_trigger_bit_says(void **state)
{
    struct env *e = *state;

    route(e, 5, MODE_NMI | LEVEL, 0);
    pin(e, 5, 1);
    assert_int_equal(e->last.mode, APIC_NMI);
    assert_false(e->last.level);
    pin(e, 5, 0);
    pin(e, 5, 1);
    assert_int_equal(e->nr_sent, 2);
}

static void test_reserved_delivery_mode_sends_nothing(void **state)
{
    struct env *e = *state;

    route(e, 5, MODE_SIPI | 0x10, 0);
    pin(e, 5, 1);
    assert_int_equal(e->nr_sent, 0);
}

static void test_pins_beyond_the_last_do_nothing(void **state)
{
    struct env *e = *state;

    pin(e, IOAPIC_PINS, 1);
    pin(e, 31, 1);
    pin(e, 1000, 1);
    assert_int_equal(e->io.pins, 0);
}

static void test_saved_level_interrupt_goes_on_after_loading(void **state)
{
    struct env *e = *state;
    uint8_t buf[512];
    size_t n = state_bytes(&e->io.dev);

    assert_true(n <= sizeof(buf));
    route(e, 17, 0x41 | LEVEL, 1);
    pin(e, 17, 1);
    state_save(&e->io.dev, buf);
    e->io.dev.type->reset(&e->io.dev);
    assert_int_equal(state_load(&e->io.dev, buf, n, 1), 0);
    eoi(e, 0x41);
    assert_int_equal(e->nr_sent, 2);
}

static void test_eoi_of_a_told_pins_edge_is_passed_on(void **state)
{
    struct env *e = *state;

    route(e, 2, 0x41, 0);
    route(e, 4, 0x42, 0);
    pin(e, 2, 1);
    assert_true(e->last.tell);
    eoi(e, 0x40);
    assert_int_equal(e->nr_served, 0);
    eoi(e, 0x41);
    assert_int_equal(e->nr_served, 1);
    assert_int_equal(e->served_pin, 2);
    pin(e, 4, 1);
    assert_false(e->last.tell);
    eoi(e, 0x42);
    assert_int_equal(e->nr_served, 1);
    route(e, 2, MASKED | 0x41, 0);
    eoi(e, 0x41);
    assert_int_equal(e->nr_served, 1);
    route(e, 20, LEVEL | 0x43, 0); /* a level needs no telling: it is sent again while it is up */
    pin(e, 20, 1);
    eoi(e, 0x43);
    assert_int_equal(e->nr_sent, 4);
    assert_int_equal(e->nr_served, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_identification_reads_24_pins_version_20h),
        TEST(test_entries_are_masked_at_reset_and_keep_only_writable_bits),
        TEST(test_edge_sends_once_with_all_of_the_entry),
        TEST(test_edge_at_masked_pin_is_lost),
        TEST(test_level_sends_again_after_eoi_while_asserted),
        TEST(test_level_masked_while_asserted_sends_when_unmasked),
        TEST(test_eoi_register_does_as_the_eoi_message),
        TEST(test_eoi_of_a_told_pins_edge_is_passed_on),
        TEST(test_switch_to_edge_clears_remote_irr),
        TEST(test_nmi_is_an_edge_whatever_the_trigger_bit_says),
        TEST(test_reserved_delivery_mode_sends_nothing),
        TEST(test_pins_beyond_the_last_do_nothing),
        TEST(test_saved_level_interrupt_goes_on_after_loading),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
