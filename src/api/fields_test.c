/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/fields.h"

static const char *const colors[] = { "red", "green", NULL };
static const struct field inner_list[] = {
    { .name = "size", .type = FIELD_UINT, .flags = FIELD_REQUIRED, .max = 10 },
};
static const struct fields inner = FIELDS(inner_list);
static const struct field outer_list[] = {
    { .name = "name", .type = FIELD_STRING, .flags = FIELD_REQUIRED },
    { .name = "color", .type = FIELD_STRING, .words = colors },
    { .name = "nr", .type = FIELD_UINT, .min = 2 },
    { .name = "on", .type = FIELD_BOOL },
    { .name = "box", .type = FIELD_OBJECT, .sub = &inner },
    { .name = "words", .type = FIELD_STRINGS },
    { .name = "boxes", .type = FIELD_OBJECTS, .sub = &inner },
    { .name = "list", .type = FIELD_LIST },
};
static const struct fields outer = FIELDS(outer_list);

static void test_objects_are_taken_or_refused_with_the_reason(void **state)
{
    static const struct {
        const char *text, *why; /* why NULL: taken */
    } cases[] = {
        { "{\"name\": \"a\"}", NULL },
        { "{\"name\": \"a\", \"color\": \"red\", \"nr\": 2, \"on\": true}", NULL },
        { "{\"name\": \"a\", \"color\": null, \"box\": null}", NULL },
        { "{\"name\": \"a\", \"box\": {\"size\": 10}, \"boxes\": [{\"size\": 0}]}", NULL },
        { "{\"name\": \"a\", \"words\": [], \"list\": [1, {}]}", NULL },
        { "{\"name\": \"a\", \"nr\": 9223372036854775807}", NULL },
        { "{}", "missing field `name`" },
        { "[]", "expected an object" },
        { "{\"name\": null}", "expected a string" },
        { "{\"name\": 5}", "expected a string" },
        { "{\"name\": \"a\", \"nmae\": 1}", "unknown field `nmae`" },
        { "{\"name\": \"a\", \"color\": \"blue\"}", "expected one of `red`, `green`" },
        { "{\"name\": \"a\", \"nr\": 1}", "invalid value of field `nr`: 1, expected 2" },
        { "{\"name\": \"a\", \"nr\": -3}", "invalid value" },
        { "{\"name\": \"a\", \"nr\": 2.0}", "expected an integer" },
        { "{\"name\": \"a\", \"on\": 0}", "expected a boolean" },
        { "{\"name\": \"a\", \"box\": []}", "expected an object" },
        { "{\"name\": \"a\", \"box\": {}}", "missing field `size`" },
        { "{\"name\": \"a\", \"box\": {\"size\": 11}}", "expected 0 to 10" },
        { "{\"name\": \"a\", \"words\": [1]}", "expected a string" },
        { "{\"name\": \"a\", \"words\": \"b\"}", "expected an array" },
        { "{\"name\": \"a\", \"boxes\": [5]}", "expected an object" },
        { "{\"name\": \"a\", \"list\": {}}", "expected an array" },
    };
    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        json_t *j = json_loads(cases[i].text, 0, NULL);
        char why[256] = "";

        assert_non_null(j);
        if (fields_check(&outer, j, why, sizeof(why)) != !cases[i].why ||
            (cases[i].why && !strstr(why, cases[i].why)))
            fail_msg("%s: '%s'", cases[i].text, why);
        json_decref(j);
    }
}

static void test_null_is_as_if_it_was_absent(void **state)
{
    json_t *j = json_loads("{\"name\": \"a\", \"nr\": null, \"on\": null}", 0, NULL);
    char why[64];

    (void)state;
    assert_true(fields_check(&outer, j, why, sizeof(why)));
    assert_int_equal(json_object_size(j), 1);
    assert_int_equal(field_uint(j, "nr", 7), 7);
    assert_true(field_bool(j, "on", true));
    assert_null(field_string(j, "color"));
    assert_string_equal(field_string(j, "name"), "a");
    json_decref(j);
}

static void test_zero_characters_are_refused(void **state)
{
    json_t *j = json_pack("{s:s#}", "name", "a\0b", 3);
    char why[64];

    (void)state;
    assert_false(fields_check(&outer, j, why, sizeof(why)));
    assert_non_null(strstr(why, "zero"));
    json_decref(j);
}

static void test_a_reason_fits_its_buffer(void **state)
{
    char name[300], why[20];
    json_t *j;

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = 0;
    j = json_pack("{s:s, s:s, s:i}", "name", "a", "color", name, name, 1);
    assert_false(fields_check(&outer, j, why, sizeof(why)));
    assert_true(strlen(why) < sizeof(why));
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_objects_are_taken_or_refused_with_the_reason),
        cmocka_unit_test(test_null_is_as_if_it_was_absent),
        cmocka_unit_test(test_zero_characters_are_refused),
        cmocka_unit_test(test_a_reason_fits_its_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
