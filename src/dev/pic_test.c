/* SPDX-License-Identifier: Apache-2.0 */
/* The 8259A pair as the CPU and a driver see it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/fakeclock.h"
#include "dev/pic.h"

#define SPURIOUS_MASTER 0x27
#define SPURIOUS_SLAVE  0x2f

struct env {
    struct bus *bus;
    struct pic pic;
    int intr, nr_intr_changes;
    unsigned nr_served, last_served, again; /* again: rises when line 0 is served */
};

static void env_intr(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    (void)idx;
    e->intr = level;
    e->nr_intr_changes++;
}

static void env_served(void *ctx, unsigned irq)
{
    struct env *e = ctx;

    e->nr_served++;
    e->last_served = irq;
    if (irq || !e->again)
        return;
    e->again--;
    pic_set_irq(&e->pic, 0, 0);
    pic_set_irq(&e->pic, 0, 1);
}

static void out(struct env *e, uint16_t port, uint8_t val)
{
    bus_port_write(e->bus, port, 1, val);
}

static uint8_t in(struct env *e, uint16_t port)
{
    return (uint8_t)bus_port_read(e->bus, port, 1);
}

static void line(struct env *e, unsigned irq, int level)
{
    lock_take(bus_lock(e->bus));
    pic_set_irq(&e->pic, irq, level);
    lock_drop(bus_lock(e->bus));
}

static uint8_t ack(struct env *e)
{
    uint8_t vector;

    lock_take(bus_lock(e->bus));
    vector = pic_ack(&e->pic);
    lock_drop(bus_lock(e->bus));
    return vector;
}

/* As every PC's firmware and kernel does it: vectors 20h and 28h, cascade on IR2. */
static void program(struct env *e, uint8_t icw4)
{
    out(e, 0x20, 0x11);
    out(e, 0x21, 0x20);
    out(e, 0x21, 0x04);
    out(e, 0x21, icw4);
    out(e, 0xa0, 0x11);
    out(e, 0xa1, 0x28);
    out(e, 0xa1, 0x02);
    out(e, 0xa1, icw4 & ~0x10);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->bus = bus_create();
    *state = e;
    return pic_init(
        &e->pic, &(struct pic_config){
                     .bus = e->bus, .intr = { env_intr, e, 0 }, .served = env_served, .ctx = e });
}

static int teardown(void **state)
{
    struct env *e = *state;

    pic_fini(&e->pic);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_power_on_makes_no_request_before_init(void **state)
{
    struct env *e = *state;

    line(e, 4, 1);
    assert_false(pic_pending(&e->pic));
    program(e, 0x01);
    assert_false(pic_pending(&e->pic)); /* ICW1 reset the edge sense: the line must rise anew */
    line(e, 4, 0);
    line(e, 4, 1);
    assert_true(pic_pending(&e->pic));
    assert_int_equal(e->intr, 1);
}

static void test_edge_is_delivered_once(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 4, 1);
    assert_int_equal(ack(e), 0x24);
    assert_int_equal(e->intr, 0);
    out(e, 0x20, 0x20);
    assert_false(pic_pending(&e->pic));
    assert_int_equal(e->nr_intr_changes, 2);
}

static void test_elcr_level_is_delivered_until_line_falls(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    out(e, 0x4d0, 0xff);
    out(e, 0x4d1, 0xff);
    assert_int_equal(in(e, 0x4d0), 0xf8);
    assert_int_equal(in(e, 0x4d1), 0xde);
    line(e, 10, 1);
    assert_int_equal(ack(e), 0x2a);
    assert_false(pic_pending(&e->pic));
    out(e, 0xa0, 0x20);
    out(e, 0x20, 0x20);
    assert_true(pic_pending(&e->pic));
    assert_int_equal(ack(e), 0x2a);
    line(e, 10, 0);
    out(e, 0xa0, 0x20);
    out(e, 0x20, 0x20);
    assert_false(pic_pending(&e->pic));
    assert_int_equal(ack(e), SPURIOUS_MASTER);
    assert_int_equal(e->pic.chip[0].isr, 0);
}

static void test_withdrawn_level_is_spurious(void **state)
{
    struct env *e = *state;
    struct pic_chip *m = &e->pic.chip[0], *s = &e->pic.chip[1];

    program(e, 0x01);
    out(e, 0x4d0, 0xff);
    out(e, 0x4d1, 0xff);
    line(e, 4, 1);
    line(e, 4, 0);
    assert_true(pic_pending(&e->pic));
    assert_int_equal(m->irr, 0);
    assert_int_equal(ack(e), SPURIOUS_MASTER);
    assert_int_equal(m->isr, 0);
    assert_false(pic_pending(&e->pic));

    line(e, 12, 1);
    line(e, 12, 0);
    assert_int_equal(ack(e), SPURIOUS_SLAVE);
    assert_int_equal(m->isr, 0x04);
    assert_int_equal(s->isr, 0);
    out(e, 0x20, 0x20);
    assert_false(pic_pending(&e->pic));
}

static void test_withdrawn_level_gives_way(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    out(e, 0x4d0, 0xff);
    line(e, 4, 1);
    line(e, 4, 0);
    line(e, 6, 1); /* to a real request */
    assert_int_equal(ack(e), 0x26);
    line(e, 6, 0);
    out(e, 0x20, 0x20);
    assert_false(pic_pending(&e->pic));
    line(e, 4, 1);
    line(e, 4, 0);
    out(e, 0x21, 0x00); /* to a mask */
    assert_false(pic_pending(&e->pic));
    line(e, 4, 1);
    line(e, 4, 0);
    out(e, 0x20, 0x0c); /* to a poll */
    assert_int_equal(in(e, 0x20), 0);
    assert_false(pic_pending(&e->pic));
    line(e, 4, 1);
    line(e, 4, 0);
    program(e, 0x01); /* to ICW1 */
    assert_false(pic_pending(&e->pic));
    out(e, 0x21, 0xff);
    line(e, 4, 1);
    line(e, 4, 0);
    assert_false(pic_pending(&e->pic)); /* masked, it never was one */
}

static void test_priorities_nest_and_eoi_clears_the_highest(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 5, 1);
    assert_int_equal(ack(e), 0x25);
    line(e, 6, 1);
    assert_false(pic_pending(&e->pic));
    line(e, 1, 1);
    assert_int_equal(ack(e), 0x21);
    out(e, 0x20, 0x0b);
    assert_int_equal(in(e, 0x20), 0x22); /* ISR */
    out(e, 0x20, 0x0a);
    assert_int_equal(in(e, 0x20), 0x40); /* IRR */
    out(e, 0x20, 0x20);
    assert_int_equal(e->pic.chip[0].isr, 0x20);
    assert_false(pic_pending(&e->pic));
    out(e, 0x20, 0x65); /* specific */
    assert_int_equal(ack(e), 0x26);
}

static void test_mask_hides_and_unmask_shows(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    out(e, 0x21, 0xff);
    line(e, 3, 1);
    assert_false(pic_pending(&e->pic));
    out(e, 0x21, 0xf7);
    assert_int_equal(in(e, 0x21), 0xf7);
    assert_int_equal(ack(e), 0x23);
}

static void test_spurious_slave_sets_only_the_cascade_in_service(void **state)
{
    struct env *e = *state;
    struct pic_chip *m = &e->pic.chip[0], *s = &e->pic.chip[1];

    program(e, 0x01);
    line(e, 12, 1);
    assert_true(pic_pending(&e->pic));
    /* The slave's request goes away between the two INTA cycles: as if the line had been masked in
     * time. */
    s->imr = 0x10;
    assert_int_equal(ack(e), SPURIOUS_SLAVE);
    assert_int_equal(m->isr, 0x04);
    assert_int_equal(s->isr, 0);
}

static void test_masking_at_the_slave_takes_the_cascade_back(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 12, 1);
    out(e, 0xa1, 0xff);
    assert_false(pic_pending(&e->pic));
    assert_int_equal(ack(e), SPURIOUS_MASTER);
}

static void test_second_slave_request_is_held_until_both_eois(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 12, 1);
    line(e, 9, 1);
    assert_int_equal(ack(e), 0x29);
    assert_false(pic_pending(&e->pic));
    out(e, 0xa0, 0x20);
    out(e, 0x20, 0x20);
    assert_int_equal(ack(e), 0x2c);
}

static void test_special_fully_nested_lets_a_higher_slave_request_through(void **state)
{
    struct env *e = *state;

    program(e, 0x11);
    line(e, 12, 1);
    assert_int_equal(ack(e), 0x2c);
    line(e, 14, 1);
    assert_false(pic_pending(&e->pic));
    line(e, 8, 1);
    assert_int_equal(ack(e), 0x28);
}

static void test_auto_eoi_leaves_nothing_in_service(void **state)
{
    struct env *e = *state;

    program(e, 0x03);
    line(e, 4, 1);
    assert_int_equal(ack(e), 0x24);
    assert_int_equal(e->pic.chip[0].isr, 0);
    out(e, 0x20, 0x80); /* rotate in automatic EOI */
    line(e, 5, 1);
    assert_int_equal(ack(e), 0x25);
    line(e, 5, 0);
    line(e, 5, 1);
    line(e, 6, 1);
    assert_int_equal(ack(e), 0x26); /* 5 is the lowest now */
    assert_int_equal(ack(e), 0x25);
}

static void test_rotation_moves_the_lowest_priority(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 4, 1);
    assert_int_equal(ack(e), 0x24);
    out(e, 0x20, 0xa0); /* rotate on non-specific EOI */
    line(e, 3, 1);
    line(e, 5, 1);
    assert_int_equal(ack(e), 0x25);
    out(e, 0x20, 0xe5); /* rotate on specific EOI */
    assert_int_equal(ack(e), 0x23);
    out(e, 0x20, 0x20);
    out(e, 0x20, 0xc2); /* set priority: 2 lowest, 3 highest */
    line(e, 0, 1);
    line(e, 3, 0);
    line(e, 3, 1);
    assert_int_equal(ack(e), 0x23);
}

static void test_special_mask_mode_opens_lower_levels(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 1, 1);
    assert_int_equal(ack(e), 0x21);
    line(e, 6, 1);
    assert_false(pic_pending(&e->pic));
    out(e, 0x21, 0x02);
    out(e, 0x20, 0x68);
    assert_int_equal(ack(e), 0x26);
    out(e, 0x20, 0x20); /* must not hit the masked level 1 */
    assert_int_equal(e->pic.chip[0].isr, 0x02);
    out(e, 0x20, 0x48); /* off */
    out(e, 0x20, 0x20);
    assert_int_equal(e->pic.chip[0].isr, 0);
}

static void test_poll_acknowledges(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    out(e, 0x20, 0x0c);
    assert_int_equal(in(e, 0x20), 0);
    line(e, 6, 1);
    out(e, 0x20, 0x0c);
    assert_int_equal(in(e, 0x20), 0x86);
    assert_int_equal(e->pic.chip[0].isr, 0x40);
    assert_false(pic_pending(&e->pic));
    assert_int_equal(in(e, 0x20), 0); /* IRR again */
}

static void test_eoi_tells_which_line_was_served(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    line(e, 12, 1);
    assert_int_equal(ack(e), 0x2c);
    assert_int_equal(e->nr_served, 0);
    out(e, 0xa0, 0x20);
    assert_int_equal(e->nr_served, 1);
    assert_int_equal(e->last_served, 12);
    out(e, 0x20, 0x62); /* specific: the cascade */
    assert_int_equal(e->last_served, 2);
    out(e, 0x20, 0x60); /* nothing of line 0 is in service */
    out(e, 0x20, 0x20);
    assert_int_equal(e->nr_served, 2);
}

/* What keeps missed edges gives the next at the EOI of the one before: all without a pause. */
static void test_line_that_rises_at_its_eoi_is_acknowledged_again(void **state)
{
    struct env *e = *state;

    program(e, 0x01);
    e->again = 3;
    line(e, 0, 1);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(e->intr, 1);
        assert_int_equal(ack(e), 0x20);
        assert_int_equal(e->intr, 0);
        out(e, 0x20, 0x20);
    }
    assert_int_equal(e->intr, 0);
    out(e, 0x21, 0x01); /* as Linux does it: masked until the handler is through */
    e->again = 1;
    out(e, 0x21, 0x00);
    line(e, 0, 0);
    line(e, 0, 1);
    assert_int_equal(ack(e), 0x20);
    out(e, 0x21, 0x01);
    out(e, 0x20, 0x60);
    assert_int_equal(e->intr, 0);
    out(e, 0x21, 0x00);
    assert_int_equal(e->intr, 1);
    assert_int_equal(ack(e), 0x20);
}

static void test_auto_eoi_tells_with_the_acknowledge(void **state)
{
    struct env *e = *state;

    program(e, 0x03);
    e->again = 1;
    line(e, 0, 1);
    assert_int_equal(ack(e), 0x20);
    assert_int_equal(e->nr_served, 1);
    assert_int_equal(ack(e), 0x20);
    assert_false(pic_pending(&e->pic));
}

static void test_state_survives_saving(void **state)
{
    struct env *e = *state;
    struct pic_chip chip;
    uint8_t buf[256];

    program(e, 0x01);
    out(e, 0x21, 0x01);
    line(e, 12, 1);
    line(e, 5, 1);
    chip = e->pic.chip[1];
    assert_true(state_bytes(&e->pic.dev) <= sizeof(buf));
    state_save(&e->pic.dev, buf);
    e->pic.dev.type->reset(&e->pic.dev);
    assert_false(pic_pending(&e->pic));
    lock_take(bus_lock(e->bus));
    assert_int_equal(state_load(&e->pic.dev, buf, state_bytes(&e->pic.dev), 1), 0);
    lock_drop(bus_lock(e->bus));
    assert_memory_equal(&chip, &e->pic.chip[1], sizeof(chip));
    assert_int_equal(e->intr, 1);
    assert_int_equal(ack(e), 0x2c);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_power_on_makes_no_request_before_init),
        TEST(test_edge_is_delivered_once),
        TEST(test_elcr_level_is_delivered_until_line_falls),
        TEST(test_withdrawn_level_is_spurious),
        TEST(test_withdrawn_level_gives_way),
        TEST(test_priorities_nest_and_eoi_clears_the_highest),
        TEST(test_mask_hides_and_unmask_shows),
        TEST(test_spurious_slave_sets_only_the_cascade_in_service),
        TEST(test_masking_at_the_slave_takes_the_cascade_back),
        TEST(test_second_slave_request_is_held_until_both_eois),
        TEST(test_special_fully_nested_lets_a_higher_slave_request_through),
        TEST(test_auto_eoi_leaves_nothing_in_service),
        TEST(test_rotation_moves_the_lowest_priority),
        TEST(test_special_mask_mode_opens_lower_levels),
        TEST(test_poll_acknowledges),
        TEST(test_eoi_tells_which_line_was_served),
        TEST(test_line_that_rises_at_its_eoi_is_acknowledged_again),
        TEST(test_auto_eoi_tells_with_the_acknowledge),
        TEST(test_state_survives_saving),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
