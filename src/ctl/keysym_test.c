/* SPDX-License-Identifier: Apache-2.0 */
/* Keysyms as keys: what the guest's driver hears of them behind the controller's translation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "ctl/keysym.h"
#include "dev/ps2.h"

/* The bytes of set 1. */
static unsigned heard(uint16_t code, bool down, uint8_t *to)
{
    uint8_t bytes[KEY_BYTES_MAX];
    unsigned nr = key_bytes(bytes, code, down), nr_out = 0;
    bool release = false;

    for (unsigned i = 0; i < nr; i++)
        if (ps2_translate(&release, bytes[i], &to[nr_out]))
            nr_out++;
    return nr_out;
}

static void test_every_character_of_ascii_has_a_key_of_one_byte(void **state)
{
    uint8_t seen[128][2] = { 0 };

    (void)state;
    for (uint32_t c = ' '; c < 0x7f; c++) {
        struct key k = keysym_key(c);
        uint8_t out[KEY_BYTES_MAX];

        assert_int_equal(heard(k.code, true, out), 1);
        assert_in_range(out[0], 1, 0x39);
        assert_false(seen[out[0]][k.shift]); /* no two of them the same */
        seen[out[0]][k.shift] = 1;
        assert_int_equal(heard(k.code, false, &out[1]), 1);
        assert_int_equal(out[1], out[0] | 0x80);
    }
}

static void test_keys_are_heard_as_set_1_has_them(void **state)
{
    static const struct {
        uint32_t keysym;
        bool shift;
        uint8_t nr, heard[3];
    } cases[] = {
        { 'a', false, 1, { 0x1e } },          { 'A', true, 1, { 0x1e } },
        { '{', true, 1, { 0x1a } },           { '`', false, 1, { 0x29 } },
        { '|', true, 1, { 0x2b } },           { '?', true, 1, { 0x35 } },
        { ' ', false, 1, { 0x39 } },          { 0xff0d, false, 1, { 0x1c } }, /* Return */
        { 0xff1b, false, 1, { 0x01 } },                                       /* Escape */
        { 0xffc4, false, 1, { 0x41 } },                                       /* F7 */
        { 0xffc9, false, 1, { 0x58 } },                                       /* F12 */
        { 0xffe4, false, 2, { 0xe0, 0x1d } },                                 /* Control_R */
        { 0xff52, false, 2, { 0xe0, 0x48 } },                                 /* Up */
        { 0xffff, false, 2, { 0xe0, 0x53 } },                                 /* Delete */
        { 0xff8d, false, 2, { 0xe0, 0x1c } },                                 /* KP_Enter */
        { 0xffb5, false, 1, { 0x4c } },                                       /* KP_5 */
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct key k = keysym_key(cases[i].keysym);
        uint8_t out[KEY_BYTES_MAX];

        assert_int_equal(k.shift, cases[i].shift);
        assert_int_equal(heard(k.code, true, out), cases[i].nr);
        assert_memory_equal(out, cases[i].heard, cases[i].nr);
    }
}

static void test_pause_tells_all_when_it_goes_down(void **state)
{
    static const uint8_t pause[] = { 0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5 };
    uint16_t code = keysym_key(0xff13).code;
    uint8_t out[KEY_BYTES_MAX];

    (void)state;
    assert_int_equal(heard(code, true, out), sizeof(pause));
    assert_memory_equal(out, pause, sizeof(pause));
    assert_int_equal(heard(code, false, out), 0);
}

static void test_keysyms_of_no_key_are_none(void **state)
{
    (void)state;
    assert_int_equal(keysym_key(0).code, 0);
    assert_int_equal(keysym_key(0xe4).code, 0); /* adiaeresis */
    assert_int_equal(keysym_key(UINT32_MAX).code, 0);
    assert_int_equal(keysym_key(0x7f).code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_character_of_ascii_has_a_key_of_one_byte),
        cmocka_unit_test(test_keys_are_heard_as_set_1_has_them),
        cmocka_unit_test(test_pause_tells_all_when_it_goes_down),
        cmocka_unit_test(test_keysyms_of_no_key_are_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
