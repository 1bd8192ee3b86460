/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers of the command line: what is taken, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/cli.h"

static void test_size_with_suffix_is_bytes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        { "0", 0 },
        { "4096", 4096 },
        { "1K", KIB(1) },
        { "512M", MIB(512) },
        { "512m", MIB(512) },
        { "2G", GIB(2) },
        { "2GB", GIB(2) },
        { "2GiB", GIB(2) },
        { "1T", GIB(1024) },
        { "18446744073709551615", UINT64_MAX },
        { "16777215T", 16777215ull << 40 },
    };
    uint64_t bytes;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        assert_true(value_size(cases[i].text, &bytes));
        assert_int_equal(bytes, cases[i].bytes);
    }
}

static void test_size_malformed_is_refused(void **state)
{
    static const char *const bad[] = { "",
                                       "M",
                                       "-1",
                                       "+1",
                                       " 1",
                                       "1 ",
                                       "1 M",
                                       "1.5G",
                                       "0x10",
                                       "1P",
                                       "1MM",
                                       "1MiBs",
                                       "1iB",
                                       "1B",
                                       "18446744073709551616",
                                       "16777216T",
                                       "99999999999999999999G" };
    uint64_t bytes;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (value_size(bad[i], &bytes))
            fail_msg("'%s' was taken as %llu", bad[i], (unsigned long long)bytes);
}

static void test_uint_outside_limits_is_refused(void **state)
{
    uint64_t val;

    (void)state;
    assert_true(value_uint("1", 1, 255, &val));
    assert_true(value_uint("255", 1, 255, &val));
    assert_int_equal(val, 255);
    assert_false(value_uint("0", 1, 255, &val));
    assert_false(value_uint("256", 1, 255, &val));
    assert_false(value_uint("1x", 1, 255, &val));
    assert_false(value_uint("", 1, 255, &val));
    assert_false(value_uint("18446744073709551617", 1, 255, &val));
}

static void test_seconds_are_positive_decimals(void **state)
{
    static const char *const bad[] = { "",    "0",   "0.0", "-1", "+1", "inf",   "nan",
                                       "1e3", "0x1", "1s",  " 1", ".5", "1.2.3", "10000000000" };
    uint64_t ns;

    (void)state;
    assert_true(value_seconds("30", &ns));
    assert_int_equal(ns, 30000000000ull);
    assert_true(value_seconds("0.5", &ns));
    assert_int_equal(ns, 500000000);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (value_seconds(bad[i], &ns))
            fail_msg("'%s' was taken as %llu ns", bad[i], (unsigned long long)ns);
}

static void test_choice_is_a_whole_word(void **state)
{
    static const char *const bad[] = { "", " ", "au", "autos", "auto split", "Auto", "off " };
    unsigned nr;

    (void)state;
    assert_true(value_choice("--x", "auto split off", "auto", &nr));
    assert_int_equal(nr, 0);
    assert_true(value_choice("--x", "auto split off", "off", &nr));
    assert_int_equal(nr, 2);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        if (value_choice("--x", "auto split off", bad[i], &nr))
            fail_msg("'%s' was taken as %u", bad[i], nr);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_with_suffix_is_bytes),
        cmocka_unit_test(test_size_malformed_is_refused),
        cmocka_unit_test(test_uint_outside_limits_is_refused),
        cmocka_unit_test(test_seconds_are_positive_decimals),
        cmocka_unit_test(test_choice_is_a_whole_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
