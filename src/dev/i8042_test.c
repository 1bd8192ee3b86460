/* SPDX-License-Identifier: Apache-2.0 */
/* The keyboard controller as drivers probe it, its keyboard, its mouse; ports 92h and CF9h with it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/fakeclock.h"

#include <string.h>

#include "dev/cf9.h"
#include "dev/i8042.h"
#include "dev/port92.h"

struct env {
    struct bus *bus;
    struct i8042 kbc;
    struct port92 port92;
    struct cf9 cf9;
    unsigned nr_edges[13], nr_resets;
    int level[13];
};

static void env_irq(void *ctx, unsigned idx, int level)
{
    struct env *e = ctx;

    e->nr_edges[idx] += level && !e->level[idx];
    e->level[idx] = level;
}

static void env_stop(void *ctx, enum stop_reason why, int status)
{
    struct env *e = ctx;

    (void)status;
    e->nr_resets += why == STOP_RESET;
}

static void data(struct env *e, uint8_t val)
{
    bus_port_write(e->bus, 0x60, 1, val);
}

static void command(struct env *e, uint8_t val)
{
    bus_port_write(e->bus, 0x64, 1, val);
}

static uint8_t status(struct env *e)
{
    return (uint8_t)bus_port_read(e->bus, 0x64, 1);
}

/* The next byte, or -1; from the mouse: with bit 8. */
static int get(struct env *e)
{
    uint8_t s = status(e);

    if (!(s & 0x01))
        return -1;
    return (int)bus_port_read(e->bus, 0x60, 1) | (s & 0x20 ? 0x100 : 0);
}

static void assert_bytes(struct env *e, unsigned nr, const int *want)
{
    for (unsigned i = 0; i < nr; i++)
        assert_int_equal(get(e), want[i]);
    assert_int_equal(get(e), -1);
}
#define ASSERT_BYTES(e, ...) \
    assert_bytes(e, sizeof((int[]){ __VA_ARGS__ }) / sizeof(int), (int[]){ __VA_ARGS__ })

static void mouse(struct env *e, uint8_t val)
{
    command(e, 0xd4);
    data(e, val);
}

static void key(struct env *e, unsigned nr, const uint8_t *code)
{
    lock_take(bus_lock(e->bus));
    i8042_key(&e->kbc, code, nr);
    lock_drop(bus_lock(e->bus));
}

static void move(struct env *e, int dx, int dy, int dz, uint8_t buttons)
{
    lock_take(bus_lock(e->bus));
    i8042_move(&e->kbc, dx, dy, dz, buttons);
    lock_drop(bus_lock(e->bus));
}

static void set_ctr(struct env *e, uint8_t val)
{
    command(e, 0x60);
    data(e, val);
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->bus = bus_create();
    bus_set_stop_sink(e->bus, env_stop, e);
    *state = e;
    return i8042_init(&e->kbc, &(struct i8042_config){ .bus = e->bus,
                                                       .irq_kbd = { env_irq, e, 1 },
                                                       .irq_aux = { env_irq, e, 12 } }) ||
           port92_init(&e->port92, e->bus) || cf9_init(&e->cf9, e->bus);
}

static int teardown(void **state)
{
    struct env *e = *state;

    cf9_fini(&e->cf9);
    port92_fini(&e->port92);
    i8042_fini(&e->kbc);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static void test_controller_self_tests(void **state)
{
    struct env *e = *state;

    command(e, 0xaa);
    assert_int_equal(status(e) & 0x0d, 0x0d); /* OBF, SYS, last write was a command */
    ASSERT_BYTES(e, 0x55);
    command(e, 0xab);
    ASSERT_BYTES(e, 0x00);
    command(e, 0xa9);
    ASSERT_BYTES(e, 0x00);
    command(e, 0xa4);
    ASSERT_BYTES(e, 0xf1);
}

static void test_command_byte_and_port_enables(void **state)
{
    struct env *e = *state;

    set_ctr(e, 0x47);
    command(e, 0x20);
    ASSERT_BYTES(e, 0x47);
    command(e, 0xa7);
    command(e, 0xad);
    command(e, 0x20);
    ASSERT_BYTES(e, 0x77);
    command(e, 0xa8);
    command(e, 0xae);
    command(e, 0x20);
    ASSERT_BYTES(e, 0x47);
    command(e, 0x65);
    data(e, 0x99);
    command(e, 0x25);
    ASSERT_BYTES(e, 0x99);
}

static void test_loops_come_back_with_their_interrupt(void **state)
{
    struct env *e = *state;

    set_ctr(e, 0x47);
    command(e, 0xd3);
    data(e, 0x5a);
    assert_int_equal(e->nr_edges[12], 1);
    assert_int_equal(e->nr_edges[1], 0);
    ASSERT_BYTES(e, 0x15a);
    command(e, 0xd2);
    data(e, 0xa5);
    assert_int_equal(e->nr_edges[1], 1);
    ASSERT_BYTES(e, 0xa5);
    assert_int_equal(e->level[1], 0);
}

static void test_keyboard_commands(void **state)
{
    struct env *e = *state;

    set_ctr(e, 0x00);
    data(e, 0xff);
    ASSERT_BYTES(e, 0xfa, 0xaa);
    data(e, 0xf2);
    ASSERT_BYTES(e, 0xfa, 0xab, 0x83);
    data(e, 0xee);
    ASSERT_BYTES(e, 0xee);
    data(e, 0xed);
    ASSERT_BYTES(e, 0xfa);
    data(e, 0x07);
    ASSERT_BYTES(e, 0xfa);
    assert_int_equal(e->kbc.kbd.leds, 7);
    data(e, 0xf3);
    ASSERT_BYTES(e, 0xfa);
    data(e, 0x20);
    ASSERT_BYTES(e, 0xfa);
    data(e, 0xf0);
    ASSERT_BYTES(e, 0xfa);
    data(e, 0x00);
    ASSERT_BYTES(e, 0xfa, 0x02);
    data(e, 0xf0);
    ASSERT_BYTES(e, 0xfa);
    data(e, 0x03);
    ASSERT_BYTES(e, 0xfe);
    data(e, 0xfe);
    ASSERT_BYTES(e, 0xfe);
    data(e, 0x01);
    ASSERT_BYTES(e, 0xfe);
    data(e, 0xed); /* a command where a parameter should be is taken as a command */
    ASSERT_BYTES(e, 0xfa);
    data(e, 0xf4);
    ASSERT_BYTES(e, 0xfa);
}

static void test_keys_arrive_translated_or_raw(void **state)
{
    static const uint8_t make[] = { 0x1c }, brk[] = { 0xf0, 0x1c };
    static const uint8_t ext[] = { 0xe0, 0xf0, 0x75 }, f7[] = { 0x83 };
    struct env *e = *state;

    key(e, 1, make);
    assert_int_equal(e->nr_edges[1], 1);
    key(e, 2, brk);
    key(e, 3, ext);
    key(e, 1, f7);
    ASSERT_BYTES(e, 0x1e, 0x9e, 0xe0, 0xc8, 0x41);
    assert_int_equal(e->nr_edges[1], 5);
    set_ctr(e, 0x01);
    key(e, 2, brk);
    ASSERT_BYTES(e, 0xf0, 0x1c);
    data(e, 0xf0);
    data(e, 0x01); /* set 1 made by the keyboard itself */
    ASSERT_BYTES(e, 0xfa, 0xfa);
    key(e, 2, brk);
    ASSERT_BYTES(e, 0x9e);
}

static void test_disabled_keyboard_says_nothing(void **state)
{
    static const uint8_t make[] = { 0x1c };
    struct env *e = *state;

    command(e, 0xad);
    key(e, 1, make);
    assert_int_equal(get(e), -1);
    command(e, 0xae);
    ASSERT_BYTES(e, 0x1e);
    data(e, 0xf5); /* scanning off */
    ASSERT_BYTES(e, 0xfa);
    key(e, 1, make);
    assert_int_equal(get(e), -1);
}

static void test_too_many_keys_leave_an_overrun_code(void **state)
{
    static const uint8_t make[] = { 0x1c };
    struct env *e = *state;
    int last = -1, nr = 0;

    set_ctr(e, 0x01);
    for (unsigned i = 0; i < 40; i++)
        key(e, 1, make);
    for (int b; (b = get(e)) >= 0; nr++)
        last = b;
    assert_int_equal(nr, 17); /* 16 queued, one in the controller */
    assert_int_equal(last, 0x00);
}

static void test_reset_lines_reset(void **state)
{
    struct env *e = *state;

    command(e, 0xff);
    assert_int_equal(e->nr_resets, 0);
    command(e, 0xfe);
    assert_int_equal(e->nr_resets, 1);
    command(e, 0xd1);
    data(e, 0xde);
    assert_int_equal(e->nr_resets, 2);
    bus_port_write(e->bus, 0x92, 1, 0x03);
    bus_port_write(e->bus, 0x92, 1, 0x03); /* it is the rise that counts */
    assert_int_equal(e->nr_resets, 3);
    bus_port_write(e->bus, 0xcf9, 1, 0x02);
    assert_int_equal(e->nr_resets, 3);
    bus_port_write(e->bus, 0xcf9, 1, 0x06);
    assert_int_equal(e->nr_resets, 4);
    assert_int_equal(bus_port_read(e->bus, 0xcf9, 1), 0x06);
}

static void test_a20_has_three_switches(void **state)
{
    struct env *e = *state;

    command(e, 0xd0);
    assert_int_equal(get(e) & 0x03, 0x03);
    command(e, 0xd1);
    data(e, 0xdd);
    assert_false(bus_a20(e->bus));
    assert_int_equal(bus_port_read(e->bus, 0x92, 1), 0x00);
    bus_port_write(e->bus, 0x92, 1, 0x02);
    command(e, 0xd0);
    assert_int_equal(get(e) & 0x03, 0x03);
    command(e, 0xdd);
    assert_false(bus_a20(e->bus));
    command(e, 0xdf);
    assert_true(bus_a20(e->bus));
}

static void test_mouse_commands_and_knocks(void **state)
{
    static const uint8_t knocks[2][3] = { { 200, 100, 80 }, { 200, 200, 80 } };
    struct env *e = *state;

    set_ctr(e, 0x47);
    mouse(e, 0xff);
    ASSERT_BYTES(e, 0x1fa, 0x1aa, 0x100);
    assert_int_equal(e->nr_edges[12], 3);
    mouse(e, 0xf2);
    ASSERT_BYTES(e, 0x1fa, 0x100);
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned i = 0; i < 3; i++) {
            mouse(e, 0xf3);
            mouse(e, knocks[k][i]);
            ASSERT_BYTES(e, 0x1fa, 0x1fa);
        }
        mouse(e, 0xf2);
        ASSERT_BYTES(e, 0x1fa, 0x103 + (int)k);
    }
    mouse(e, 0xe9);
    ASSERT_BYTES(e, 0x1fa, 0x100, 0x102, 0x150);
    mouse(e, 0xee);
    ASSERT_BYTES(e, 0x1fa);
    mouse(e, 0x42);
    ASSERT_BYTES(e, 0x142);
    mouse(e, 0xec);
    ASSERT_BYTES(e, 0x1fa);
    mouse(e, 0x42);
    ASSERT_BYTES(e, 0x1fe);
}

static void test_mouse_packets(void **state)
{
    struct env *e = *state;

    move(e, 5, 5, 0, 0);
    assert_int_equal(get(e), -1);
    mouse(e, 0xf6);
    mouse(e, 0xf4);
    ASSERT_BYTES(e, 0x1fa, 0x1fa);
    move(e, 3, -2, 0, 1);
    ASSERT_BYTES(e, 0x129, 0x103, 0x1fe);
    move(e, 300, 0, 1, 0);
    ASSERT_BYTES(e, 0x108, 0x1ff, 0x100, 0x108, 0x12d, 0x100);
    mouse(e, 0xf0); /* remote: only when asked */
    ASSERT_BYTES(e, 0x1fa);
    move(e, 7, 0, 0, 0);
    assert_int_equal(get(e), -1);
    mouse(e, 0xeb);
    ASSERT_BYTES(e, 0x1fa, 0x108, 0x107, 0x100);
}

static void test_state_survives_saving(void **state)
{
    static const uint8_t keys[] = { 0x1c, 0x32 };
    struct env *e = *state;
    uint8_t buf[512];

    key(e, 2, keys);
    assert_true(state_bytes(&e->kbc.dev) <= sizeof(buf));
    state_save(&e->kbc.dev, buf);
    e->kbc.dev.type->reset(&e->kbc.dev);
    assert_int_equal(e->level[1], 0);
    assert_int_equal(state_load(&e->kbc.dev, buf, state_bytes(&e->kbc.dev), 1), 0);
    assert_int_equal(e->level[1], 1);
    ASSERT_BYTES(e, 0x1e, 0x30);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_controller_self_tests),
        TEST(test_command_byte_and_port_enables),
        TEST(test_loops_come_back_with_their_interrupt),
        TEST(test_keyboard_commands),
        TEST(test_keys_arrive_translated_or_raw),
        TEST(test_disabled_keyboard_says_nothing),
        TEST(test_too_many_keys_leave_an_overrun_code),
        TEST(test_reset_lines_reset),
        TEST(test_a20_has_three_switches),
        TEST(test_mouse_commands_and_knocks),
        TEST(test_mouse_packets),
        TEST(test_state_survives_saving),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
