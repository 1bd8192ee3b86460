/* SPDX-License-Identifier: Apache-2.0 */
/* State tables: what goes into the buffer, what is refused, older versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "bus/bus.h"

struct thing {
    uint32_t not_saved;
    struct device dev;
    uint8_t a;
    uint64_t b;
    bool on[2];
    uint8_t blob[3];
    uint16_t newer;
    unsigned nr_loaded;
};

static void thing_loaded(struct device *dev)
{
    container_of(dev, struct thing, dev)->nr_loaded++;
}

static const struct state_field thing_state[] = {
    FIELD(struct thing, a, U8, 1),       FIELD(struct thing, b, U64, 1),
    FIELD(struct thing, on, BOOL, 1),    FIELD(struct thing, newer, U16, 2),
    FIELD(struct thing, blob, BYTES, 1),
};

static const struct device_type thing_type = { .name = "thing",
                                               .loaded = thing_loaded,
                                               .state = thing_state,
                                               .nr_state = ARRAY_SIZE(thing_state),
                                               .version = 2 };

static struct thing thing_make(void)
{
    return (struct thing){ .not_saved = 1,
                           .dev = { .type = &thing_type },
                           .a = 0x11,
                           .b = 0x2233445566778899,
                           .on = { false, true },
                           .blob = { 7, 8, 9 },
                           .newer = 0xaabb };
}

static void test_saved_bytes_are_the_fields_in_table_order(void **state)
{
    static const uint8_t want[] = { 0x11, 0x99, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33,
                                    0x22, 0,    1,    0xbb, 0xaa, 7,    8,    9 };
    struct thing t = thing_make();
    uint8_t buf[sizeof(want)];

    (void)state;
    t.dev.state_base = &t;
    assert_int_equal(state_bytes(&t.dev), sizeof(want));
    state_save(&t.dev, buf);
    assert_memory_equal(buf, want, sizeof(want));
}

static void test_loaded_state_is_what_was_saved(void **state)
{
    struct thing from = thing_make(), to = { .dev = { .type = &thing_type } };
    uint8_t buf[16];

    (void)state;
    from.dev.state_base = &from;
    to.dev.state_base = &to;
    state_save(&from.dev, buf);
    buf[9] = 0x80; /* a bool of 80h must not survive as such */
    assert_int_equal(state_load(&to.dev, buf, sizeof(buf), 2), 0);
    assert_int_equal(to.b, from.b);
    assert_int_equal(to.newer, from.newer);
    assert_memory_equal(to.blob, from.blob, 3);
    assert_int_equal(*(uint8_t *)&to.on[0], 1);
    assert_int_equal(to.not_saved, 0);
    assert_int_equal(to.nr_loaded, 1);
}

static void test_older_version_leaves_newer_fields_alone(void **state)
{
    static const uint8_t v1[] = { 5, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 2, 1 };
    struct thing t = thing_make();

    (void)state;
    t.dev.state_base = &t;
    assert_int_equal(state_load(&t.dev, v1, sizeof(v1), 1), 0);
    assert_int_equal(t.a, 5);
    assert_int_equal(t.blob[0], 3);
    assert_int_equal(t.newer, 0xaabb);
}

static void test_wrong_version_or_size_is_refused_and_changes_nothing(void **state)
{
    static const uint8_t buf[64] = { 0 };
    struct thing t = thing_make();

    (void)state;
    log_set_level(LOG_ERROR - 1);
    t.dev.state_base = &t;
    assert_int_equal(state_load(&t.dev, buf, 16, 3), -EINVAL);
    assert_int_equal(state_load(&t.dev, buf, 15, 2), -EINVAL);
    assert_int_equal(state_load(&t.dev, buf, 17, 2), -EINVAL);
    assert_int_equal(state_load(&t.dev, buf, 16, 1), -EINVAL);
    assert_int_equal(t.a, 0x11);
    assert_int_equal(t.nr_loaded, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saved_bytes_are_the_fields_in_table_order),
        cmocka_unit_test(test_loaded_state_is_what_was_saved),
        cmocka_unit_test(test_older_version_leaves_newer_fields_alone),
        cmocka_unit_test(test_wrong_version_or_size_is_refused_and_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
