/* SPDX-License-Identifier: Apache-2.0 */
/* The AML encoder against encodings worked out by hand from the ACPI Specification. */
#include "boot/aml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

static uint8_t mem[0x110000];

static struct bytes fresh(void)
{
    return (struct bytes){ .p = mem, .cap = sizeof(mem) };
}

static void expect(const struct bytes *b, const char *want, size_t bytes)
{
    assert_false(b->full);
    assert_int_equal(b->n, bytes);
    assert_memory_equal(b->p, want, bytes);
}

static void test_aml_integers_take_the_shortest_form(void **state)
{
    static const struct {
        uint64_t val;
        const char *want;
        size_t bytes;
    } cases[] = {
        { 0, "\x00", 1 },
        { 1, "\x01", 1 },
        { 2, "\x0a\x02", 2 },
        { 0xff, "\x0a\xff", 2 },
        { 0x100, "\x0b\x00\x01", 3 },
        { 0x10000, "\x0c\x00\x00\x01\x00", 5 },
        { 0x100000000, "\x0e\x00\x00\x00\x00\x01\x00\x00\x00", 9 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct bytes b = fresh();

        aml_int(&b, cases[i].val);
        expect(&b, cases[i].want, cases[i].bytes);
    }
}

static void test_aml_names_are_padded_and_prefixed(void **state)
{
    static const struct {
        const char *name, *want;
        size_t bytes;
    } cases[] = {
        { "_HID", "_HID", 4 },
        { "\\_S5", "\\_S5_", 5 },
        { "_SB.PCI0", "\x2e_SB_PCI0", 9 },
        { "\\A.B.C",
          "\\\x2f\x03"
          "A___B___C___",
          15 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct bytes b = fresh();

        aml_path(&b, cases[i].name);
        expect(&b, cases[i].want, cases[i].bytes);
    }
}

/* The length counts itself; the forms change at 63, 4095 and 1048575. */
static void test_aml_package_lengths_at_the_borders(void **state)
{
    static const struct {
        size_t contents; /* without the element count byte */
        const char *want;
        size_t bytes;
    } cases[] = {
        { 0, "\x02", 1 },
        { 61, "\x3f", 1 },
        { 62, "\x41\x04", 2 },
        { 4092, "\x4f\xff", 2 },
        { 4093, "\x81\x00\x01", 3 },
        { 1048571, "\x8f\xff\xff", 3 },
        { 1048572, "\xc1\x00\x00\x01", 4 },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct bytes b = fresh();
        size_t open = aml_package(&b, 1);

        put_zero(&b, cases[i].contents);
        aml_end(&b, open);
        assert_int_equal(b.n, 2 + cases[i].contents + cases[i].bytes);
        assert_memory_equal(b.p + 1, cases[i].want, cases[i].bytes);
        assert_int_equal(b.p[1 + cases[i].bytes], 1);
    }
}

static void test_aml_eisaid_and_uuid_encodings(void **state)
{
    struct bytes b = fresh();

    (void)state;
    aml_eisaid(&b, "PNP0A08");
    expect(&b, "\x0c\x41\xd0\x0a\x08", 5);
    b = fresh();
    aml_uuid(&b, "33db4d5b-1ff7-401c-9657-7441c03dd766");
    expect(&b, "\x11\x13\x0a\x10\x5b\x4d\xdb\x33\xf7\x1f\x1c\x40\x96\x57\x74\x41\xc0\x3d\xd7\x66",
           20);
}

static void test_aml_resource_template_for_a_serial_port(void **state)
{
    struct bytes b = fresh();
    struct aml_crs crs;

    (void)state;
    crs_init(&crs);
    crs_io(&crs, 0x3f8, 8);
    crs_irq(&crs, 4);
    aml_name_crs(&b, &crs);
    expect(&b, "\x08_CRS\x11\x11\x0a\x0e\x47\x01\xf8\x03\xf8\x03\x01\x08\x23\x10\x00\x01\x79\x00",
           23);
}

static void test_bytes_full_writes_nothing_beyond_the_end(void **state)
{
    uint8_t small[8];
    struct bytes b = { .p = small, .cap = 4 };
    size_t open;

    (void)state;
    memset(small, 0xaa, sizeof(small));
    open = aml_package(&b, 1);
    put16(&b, 0);
    aml_end(&b, open);
    assert_true(b.full);
    assert_int_equal(small[4], 0xaa);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aml_integers_take_the_shortest_form),
        cmocka_unit_test(test_aml_names_are_padded_and_prefixed),
        cmocka_unit_test(test_aml_package_lengths_at_the_borders),
        cmocka_unit_test(test_aml_eisaid_and_uuid_encodings),
        cmocka_unit_test(test_aml_resource_template_for_a_serial_port),
        cmocka_unit_test(test_bytes_full_writes_nothing_beyond_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
