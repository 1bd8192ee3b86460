/* SPDX-License-Identifier: Apache-2.0 */
/* Files: reading them, what is not a kernel, lists of modules. */
#include "boot/testmachine.h"

static char dir[] = "/tmp/doppel-load.XXXXXX";

static const char *path_of(const char *name)
{
    static char path[4][128];
    static unsigned next;
    char *p = path[next++ % 4];

    (void)snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static const char *make_file(const char *name, const void *data, size_t bytes)
{
    const char *path = path_of(name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, bytes, f), bytes);
    assert_int_equal(fclose(f), 0);
    return path;
}

static void test_image_read_gives_the_whole_file(void **state)
{
    const size_t bytes = 5 * 1024 * 1024 + 77;
    uint8_t *data = malloc(bytes);
    struct image img;

    (void)state;
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(i * 13 >> 3);
    assert_int_equal(image_read(&img, "kernel", make_file("big", data, bytes), bytes), 0);
    assert_int_equal(img.bytes, bytes);
    assert_memory_equal(img.data, data, bytes);
    image_free(&img);
    tm_quiet();
    assert_int_equal(image_read(&img, "kernel", path_of("big"), bytes - 1), -EFBIG);
    log_set_level(LOG_INFO);
    free(data);
}

static void test_image_read_reads_pipes(void **state)
{
    struct image img;
    char path[64];
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "a pipe", 6), 6);
    (void)close(ends[1]);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[0]);
    assert_int_equal(image_read(&img, "kernel", path, 100), 0);
    assert_int_equal(img.bytes, 6);
    assert_memory_equal(img.data, "a pipe", 6);
    image_free(&img);
    (void)close(ends[0]);
}

static void test_image_read_failures_have_an_errno(void **state)
{
    struct image img;

    (void)state;
    tm_quiet();
    assert_int_equal(image_read(&img, "kernel", path_of("none"), 100), -ENOENT);
    assert_int_equal(image_read(&img, "kernel", dir, 100), -EISDIR);
    assert_int_equal(image_read(&img, "kernel", make_file("empty", "", 0), 100), -ENOEXEC);
    assert_int_equal(image_read(&img, "kernel", "/dev/zero", MIB(3)), -EFBIG);
    log_set_level(LOG_INFO);
    image_free(&img);
}

static void test_load_says_what_a_file_is_when_it_is_no_kernel(void **state)
{
    static const struct {
        const char *data;
        unsigned bytes;
        const char *want;
    } cases[] = {
        { "\x1f\x8b\x08", 3, "gzip" },
        { "\xfd"
          "7zXZ\0",
          6, "xz" },
        { "\x28\xb5\x2f\xfd", 4, "zstd" },
        { "070701000", 9, "cpio" },
        { "QFI\xfb", 4, "qcow2" },
        { "MZ\x90", 3, "EFI" },
        { "#!/bin/sh\n", 10, "neither" },
        { "\177ELF", 4, "neither" },
    };
    struct testmachine tm;

    (void)state;
    tm_init(&tm, MIB(4));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        tm_expect_refusal(&tm, cases[i].data, cases[i].bytes, cases[i].want);
    tm_fini(&tm);
}

/* A flat kernel at 1 MB. */
static const uint32_t flat[] = { 0x1badb002, 0x10000,  0u - 0x1badb002 - 0x10000,
                                 0x100000,   0x100000, 0,
                                 0,          0x100020, 0xf4f4f4f4 };

static void test_load_multiboot_modules_are_a_list_with_arguments(void **state)
{
    char initrd[512], want[160], text[160];
    struct testmachine tm;
    uint64_t mods;

    (void)state;
    tm_init(&tm, MIB(4));
    tm.cfg.kernel = make_file("flat", flat, sizeof(flat));
    (void)make_file("a", "AAAA", 4);
    (void)make_file("b,c", "BB", 2);
    (void)snprintf(initrd, sizeof(initrd), "%s/a one two,%s/b,,c", dir, dir);
    tm.cfg.initrd = initrd;
    assert_int_equal(boot_load(tm.m, &tm.cfg, &tm.map, &tm.c), 0);
    assert_int_equal(tm_get(&tm, BOOT_START_INFO_AT + 20, 4), 2);
    mods = tm_get(&tm, BOOT_START_INFO_AT + 24, 4);
    assert_int_equal(tm_get(&tm, tm_get(&tm, mods, 4), 4), 0x41414141);
    assert_int_equal(tm_get(&tm, tm_get(&tm, mods + 16, 4), 2), 0x4242);
    (void)snprintf(want, sizeof(want), "%s/a one two", dir);
    tm_get_string(&tm, tm_get(&tm, mods + 8, 4), text, sizeof(text));
    assert_string_equal(text, want);
    (void)snprintf(want, sizeof(want), "%s/b,c", dir);
    tm_get_string(&tm, tm_get(&tm, mods + 24, 4), text, sizeof(text));
    assert_string_equal(text, want);
    tm_fini(&tm);
}

static void test_load_missing_initrd_fails(void **state)
{
    struct testmachine tm;

    (void)state;
    tm_init(&tm, MIB(4));
    tm.cfg.kernel = make_file("flat", flat, sizeof(flat));
    tm.cfg.initrd = "/nonexistent,";
    tm_quiet();
    assert_int_equal(boot_load(tm.m, &tm.cfg, &tm.map, &tm.c), -ENOENT);
    log_set_level(LOG_INFO);
    tm_fini(&tm);
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    char command[128];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image_read_gives_the_whole_file),
        cmocka_unit_test(test_image_read_reads_pipes),
        cmocka_unit_test(test_image_read_failures_have_an_errno),
        cmocka_unit_test(test_load_says_what_a_file_is_when_it_is_no_kernel),
        cmocka_unit_test(test_load_multiboot_modules_are_a_list_with_arguments),
        cmocka_unit_test(test_load_missing_initrd_fails),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
