/* SPDX-License-Identifier: Apache-2.0 */
/* The option parser: forms of an option, other arguments, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "cli/cli.h"

struct got {
    const char *file;
    unsigned nr_loud;
};

static bool set_file(void *into, const char *val)
{
    ((struct got *)into)->file = val;
    return strcmp(val, "refuse") != 0;
}

static bool set_loud(void *into, const char *val)
{
    (void)val;
    ((struct got *)into)->nr_loud++;
    return true;
}

static const struct opt opts[] = {
    { "file", 0, "FILE", "a file", set_file },
    { "loud", 'l', NULL, "louder", set_loud },
};

/* The arguments, separated by '|'. */
static int parse(struct got *g, char *text, char **argv)
{
    int argc = 0;

    *g = (struct got){ 0 };
    argv[argc++] = (char[]){ "cmd" };
    for (char *word; (word = strsep(&text, "|"));)
        argv[argc++] = word;
    return options_parse(opts, ARRAY_SIZE(opts), g, argc, argv);
}

#define PARSE(g, argv, text) parse(g, (char[]){ text }, argv)

static void test_value_as_next_argument_or_behind_equals(void **state)
{
    char *argv[16];
    struct got g;

    (void)state;
    assert_int_equal(PARSE(&g, argv, "--file|a=b"), 0);
    assert_string_equal(g.file, "a=b");
    assert_int_equal(PARSE(&g, argv, "--file=x=y"), 0);
    assert_string_equal(g.file, "x=y");
    assert_int_equal(PARSE(&g, argv, "--file="), 0);
    assert_string_equal(g.file, "");
    assert_int_equal(PARSE(&g, argv, "--file|--loud"), 0);
    assert_string_equal(g.file, "--loud");
    assert_int_equal(g.nr_loud, 0);
    assert_int_equal(PARSE(&g, argv, "--file=a|--file=b"), 0);
    assert_string_equal(g.file, "b");
}

static void test_flag_by_name_and_letter(void **state)
{
    char *argv[16];
    struct got g;

    (void)state;
    assert_int_equal(PARSE(&g, argv, "--loud|-l"), 0);
    assert_int_equal(g.nr_loud, 2);
}

static void test_other_arguments_come_to_the_front(void **state)
{
    char *argv[16];
    struct got g;

    (void)state;
    assert_int_equal(PARSE(&g, argv, "one|--loud|two|-|--|--file"), 4);
    assert_string_equal(argv[1], "one");
    assert_string_equal(argv[2], "two");
    assert_string_equal(argv[3], "-");
    assert_string_equal(argv[4], "--file");
    assert_int_equal(g.nr_loud, 1);
    assert_null(g.file);
}

static void test_wrong_options_are_refused(void **state)
{
    char *argv[16];
    struct got g;

    (void)state;
    assert_int_equal(PARSE(&g, argv, "--file"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--loud=1"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--fil|x"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--filet|x"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "-file|x"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "-x"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "-ll"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--file=refuse"), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--="), OPTIONS_BAD);
    assert_int_equal(PARSE(&g, argv, "--help"), OPTIONS_HELP);
    assert_int_equal(PARSE(&g, argv, "-h"), OPTIONS_HELP);
}

static const char *word(const void *ctx, unsigned i)
{
    return ((const char *const *)ctx)[i];
}

static void test_closest_word_is_offered_if_close(void **state)
{
    static const char *const words[] = { "kernel", "initrd", "cpu", "cpus", NULL };
    char longest[200];

    (void)state;
    assert_string_equal(options_closest("kernl", word, words), "kernel");
    assert_string_equal(options_closest("intird", word, words), "initrd");
    assert_string_equal(options_closest("cpus", word, words), "cpus");
    assert_null(options_closest("disk", word, words));
    assert_null(options_closest("", word, words));
    memset(longest, 'k', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = 0;
    assert_null(options_closest(longest, word, words));
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_value_as_next_argument_or_behind_equals),
        cmocka_unit_test(test_flag_by_name_and_letter),
        cmocka_unit_test(test_other_arguments_come_to_the_front),
        cmocka_unit_test(test_wrong_options_are_refused),
        cmocka_unit_test(test_closest_word_is_offered_if_close),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
