/* SPDX-License-Identifier: Apache-2.0 */
/* Who decides which format a file has, and what is said against it. */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/store_impl.h"

#define MAGIC 0x514649fbu

/* A header as QEMU makes it, in words of 32 bits. */
static const uint32_t good[28] = { MAGIC, 3, 0, 0,       0, 16,      0, 1 << 26,
                                   0,     1, 0, 0x30000, 0, 0x10000, 1 };

struct patch {
    unsigned word;
    uint32_t val;
};

/* With the file as long as said; the error, or the format. */
static int settle(const char *suffix, enum store_format format, struct patch p, off_t bytes)
{
    char path[64];
    uint32_t words[ARRAY_SIZE(good)];
    struct store d = { .cfg = { .name = "disk0", .path = path, .format = format }, .what = path };
    int err;

    for (unsigned i = 0; i < ARRAY_SIZE(good); i++)
        words[i] = htobe32(i == p.word ? p.val : good[i]);
    (void)snprintf(path, sizeof(path), "/tmp/doppel-format-test-XXXXXX%s", suffix);
    d.fd = mkstemps(path, (int)strlen(suffix));
    assert_true(d.fd >= 0);
    assert_int_equal(write(d.fd, words, sizeof(words)), sizeof(words));
    assert_int_equal(ftruncate(d.fd, bytes), 0);
    err = store_settle_format(&d);
    (void)close(d.fd);
    (void)unlink(path);
    return err ? err : (int)d.cfg.format;
}

#define NONE  ((struct patch){ 99, 0 })
#define PLAIN ((struct patch){ 0, 0x12345678 }) /* no magic */
#define WHOLE 0x31000

static void test_the_user_decides_and_the_contents_only_contradict(void **state)
{
    static const struct {
        const char *suffix;
        enum store_format format;
        struct patch p;
        int want;
    } cases[] = {
        { ".img", STORE_FORMAT_AUTO, PLAIN, STORE_FORMAT_RAW },
        { ".img", STORE_FORMAT_AUTO, NONE, -EINVAL }, /* a guest can have written it */
        { "qcow2", STORE_FORMAT_AUTO, NONE, -EINVAL },
        { ".qcow2", STORE_FORMAT_AUTO, NONE, STORE_FORMAT_QCOW2 },
        { ".qcow2", STORE_FORMAT_AUTO, PLAIN, -EINVAL }, /* or it could become one */
        { ".img", STORE_FORMAT_RAW, NONE, STORE_FORMAT_RAW },
        { ".qcow2", STORE_FORMAT_RAW, NONE, STORE_FORMAT_RAW },
        { ".qcow2", STORE_FORMAT_RAW, PLAIN, STORE_FORMAT_RAW },
        { ".img", STORE_FORMAT_QCOW2, NONE, STORE_FORMAT_QCOW2 },
        { ".img", STORE_FORMAT_QCOW2, PLAIN, -EINVAL },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(settle(cases[i].suffix, cases[i].format, cases[i].p, WHOLE),
                         cases[i].want);
}

static void test_data_in_another_file_is_refused(void **state)
{
    (void)state;
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, (struct patch){ 19, 4 }, WHOLE), -EINVAL);
    /* In version 2 there is no such field. */
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, (struct patch){ 19, 1 }, WHOLE),
                     STORE_FORMAT_QCOW2);
}

static void test_an_image_without_its_tables_is_refused(void **state)
{
    (void)state;
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, NONE, 0x30008), STORE_FORMAT_QCOW2);
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, NONE, 0x30007), -EINVAL);
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, NONE, 0x1ffff), -EINVAL);
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, NONE, 3), -EINVAL);
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, NONE, 0), -EINVAL);
    /* An L1 table that is in the header: its first entry is 514649fb00000003h, which is nowhere. */
    assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, (struct patch){ 11, 0 }, WHOLE), -EINVAL);
}

/* QEMU says what is wrong with these; here they must only do no harm. */
static void test_absurd_numbers_are_left_to_qemu(void **state)
{
    static const struct patch absurd[] = {
        { 5, 0 },          { 5, 64 },          { 5, UINT32_MAX },
        { 9, UINT32_MAX }, { 10, UINT32_MAX }, { 12, UINT32_MAX },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(absurd); i++)
        assert_int_equal(settle(".qcow2", STORE_FORMAT_AUTO, absurd[i], WHOLE), STORE_FORMAT_QCOW2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_user_decides_and_the_contents_only_contradict),
        cmocka_unit_test(test_data_in_another_file_is_refused),
        cmocka_unit_test(test_an_image_without_its_tables_is_refused),
        cmocka_unit_test(test_absurd_numbers_are_left_to_qemu),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
