/* SPDX-License-Identifier: Apache-2.0 */
/* The flash as UEFI firmware finds and uses it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "dev/fakeclock.h"
#include "dev/flash.h"

#define AT    0xffc00000ull
#define BYTES 0x8000u

struct env {
    struct bus *bus;
    struct flash flash;
    uint8_t data[BYTES];
};

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    log_set_level(LOG_ERROR - 1);
    e->bus = bus_create();
    memset(e->data, 0xff, sizeof(e->data));
    assert_int_equal(flash_init(&e->flash, e->bus, GPA(AT), e->data, BYTES), 0);
    *state = e;
    return 0;
}

static int teardown(void **state)
{
    struct env *e = *state;

    flash_fini(&e->flash);
    bus_destroy(e->bus);
    free(e);
    return 0;
}

static uint8_t get(struct env *e, uint32_t off)
{
    return (uint8_t)bus_mmio_read(e->bus, GPA(AT + off), 1);
}

static void put(struct env *e, uint32_t off, uint8_t val)
{
    bus_mmio_write(e->bus, GPA(AT + off), 1, val);
}

static void test_ovmf_tells_it_from_ram_and_rom(void **state)
{
    struct env *e = *state;
    uint8_t before = get(e, 5), cleared;

    put(e, 5, 0x50);
    cleared = get(e, 5);
    assert_int_equal(cleared, before); /* not what was written: no RAM */
    put(e, 5, 0x70);
    assert_int_equal(get(e, 5), 0); /* the status: no ROM */
    put(e, 5, 0xff);
    assert_int_equal(get(e, 5), before);
}

static void test_program_clears_bits_and_erase_sets_a_block(void **state)
{
    struct env *e = *state;

    put(e, 0x1003, 0x10);
    put(e, 0x1003, 0xf0);
    assert_int_equal(get(e, 0x1003), 0x80); /* the status */
    put(e, 0x1003, 0x40);
    put(e, 0x1003, 0x3c);
    put(e, 0, 0xff);
    assert_int_equal(e->data[0x1003], 0x30);
    assert_int_equal(get(e, 0x1003), 0x30);
    e->data[0x0fff] = e->data[0x2000] = 0;
    put(e, 0x1800, 0x20);
    put(e, 0x1800, 0xd0);
    assert_int_equal(e->data[0x1003], 0xff);
    assert_int_equal(e->data[0x0fff] | e->data[0x2000], 0);
}

static void test_erase_without_confirmation_does_nothing(void **state)
{
    struct env *e = *state;

    e->data[7] = 0x12;
    put(e, 0, 0x20);
    put(e, 0, 0xff);
    assert_int_equal(get(e, 0), 0xb0); /* both error bits */
    assert_int_equal(e->data[7], 0x12);
}

static void test_buffered_write_stays_in_its_block(void **state)
{
    struct env *e = *state;

    put(e, 0x0ffe, 0xe8);
    put(e, 0x0ffe, 3); /* four bytes */
    for (unsigned i = 0; i < 4; i++)
        put(e, 0x0ffe + i, (uint8_t)i);
    put(e, 0x0ffe, 0xd0);
    put(e, 0, 0xff);
    assert_int_equal(get(e, 0x0ffe), 0);
    assert_int_equal(get(e, 0x0fff), 1);
    assert_int_equal(get(e, 0x1000), 0xff);
}

static void test_query_tells_size_and_blocks(void **state)
{
    struct env *e = *state;

    put(e, 0x55, 0x98);
    assert_int_equal(get(e, 0x10), 'Q');
    assert_int_equal(get(e, 0x27), 15); /* 2 to the 15th bytes */
    assert_int_equal(get(e, 0x2c), 1);
    assert_int_equal(get(e, 0x2d), BYTES / FLASH_BLOCK_BYTES - 1);
    assert_int_equal(get(e, 0x2f) | get(e, 0x30) << 8, FLASH_BLOCK_BYTES / 256);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_ovmf_tells_it_from_ram_and_rom),
        TEST(test_program_clears_bits_and_erase_sets_a_block),
        TEST(test_erase_without_confirmation_does_nothing),
        TEST(test_buffered_write_stays_in_its_block),
        TEST(test_query_tells_size_and_blocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
