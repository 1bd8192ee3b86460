/* SPDX-License-Identifier: Apache-2.0 */
/* Multiboot 1: flat files by address fields, ELF32 and ELF64, modules, information structure, and
 * hostile files. */
#include "boot/testelf.h"

#define RAM_BYTES  MIB(32)
#define FLAT_BYTES 0x400u
#define FLAT_HDR   0x40u
#define FLAT_AT    0x100000u

static void set32(uint8_t *p, uint32_t val)
{
    memcpy(p, &val, sizeof(val));
}

static void make_header(uint8_t *p, uint32_t flags)
{
    set32(p, 0x1badb002);
    set32(p + 4, flags);
    set32(p + 8, 0u - 0x1badb002 - flags);
}

/* Loaded at 1 MB from file offset 0, with 1 KB of bss, entry behind the header. */
static void make_flat(uint8_t *img)
{
    for (unsigned i = 0; i < FLAT_BYTES; i++)
        img[i] = (uint8_t)(i * 3);
    make_header(img + FLAT_HDR, 0x10003);
    set32(img + FLAT_HDR + 12, FLAT_AT + FLAT_HDR);
    set32(img + FLAT_HDR + 16, FLAT_AT);
    set32(img + FLAT_HDR + 20, FLAT_AT + FLAT_BYTES);
    set32(img + FLAT_HDR + 24, FLAT_AT + 2 * FLAT_BYTES);
    set32(img + FLAT_HDR + 28, FLAT_AT + 0x60);
}

static void test_multiboot_flat_file_gets_registers_and_zeroed_bss(void **state)
{
    static const uint8_t zeros[FLAT_BYTES];
    static uint8_t img[FLAT_BYTES], dirt[2 * FLAT_BYTES];
    struct testmachine tm;

    (void)state;
    make_flat(img);
    tm_init(&tm, RAM_BYTES);
    memset(dirt, 0xee, sizeof(dirt));
    assert_int_equal(mmu_write(tm.m, GPA(FLAT_AT), dirt, sizeof(dirt)), sizeof(dirt));
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    tm_expect_flat32(&tm);
    assert_int_equal(tm.c.rip, FLAT_AT + 0x60);
    assert_int_equal(tm.c.gpr[RAX], 0x2badb002);
    assert_int_equal(tm.c.gpr[RBX], BOOT_START_INFO_AT);
    assert_true(tm_has(&tm, FLAT_AT, img, sizeof(img)));
    assert_true(tm_has(&tm, FLAT_AT + FLAT_BYTES, zeros, sizeof(zeros)));
    tm_fini(&tm);
}

static void test_multiboot_info_tells_memory_command_line_and_modules(void **state)
{
    static uint8_t img[FLAT_BYTES], initrd[5000];
    const uint64_t at = BOOT_START_INFO_AT;
    struct testmachine tm;
    uint64_t mods, mmap;
    char text[32];

    (void)state;
    make_flat(img);
    memset(initrd, 0x77, sizeof(initrd));
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(tm_get(&tm, at, 4), 0x24d); /* memory, cmdline, mods, mmap, loader name */
    assert_int_equal(tm_get(&tm, at + 4, 4), 639);
    assert_int_equal(tm_get(&tm, at + 8, 4), (RAM_BYTES - MIB(1)) >> 10);
    tm_get_string(&tm, tm_get(&tm, at + 16, 4), text, sizeof(text));
    assert_string_equal(text, "k a=1");
    tm_get_string(&tm, tm_get(&tm, at + 64, 4), text, sizeof(text));
    assert_string_equal(text, "doppel");
    assert_int_equal(tm_get(&tm, at + 20, 4), 1);
    mods = tm_get(&tm, at + 24, 4);
    assert_int_equal(tm_get(&tm, mods, 4), RAM_BYTES - 0x2000);
    assert_int_equal(tm_get(&tm, mods + 4, 4), RAM_BYTES - 0x2000 + sizeof(initrd));
    assert_true(tm_has(&tm, RAM_BYTES - 0x2000, initrd, sizeof(initrd)));
    tm_get_string(&tm, tm_get(&tm, mods + 8, 4), text, sizeof(text));
    assert_string_equal(text, "i arg");
    assert_int_equal(tm_get(&tm, at + 44, 4), tm.map.nr * 24);
    mmap = tm_get(&tm, at + 48, 4);
    for (unsigned i = 0; i < tm.map.nr; i++) {
        assert_int_equal(tm_get(&tm, mmap + i * 24, 4), 20);
        assert_true(tm_has(&tm, mmap + i * 24 + 4, &tm.map.e[i], 20));
    }
    tm_fini(&tm);
}

static void test_multiboot_elf32_and_elf64_load_by_physical_address(void **state)
{
    static uint8_t img[TESTELF_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    for (unsigned is64 = 0; is64 < 2; is64++) {
        testelf_make(img, is64);
        make_header(img + TESTELF_CODE_OFF, 3);
        assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
        tm_expect_flat32(&tm);
        assert_int_equal(tm.c.rip, TESTELF_PADDR + TESTELF_ENTRY_OFF);
        assert_true(tm_has(&tm, TESTELF_PADDR, img + TESTELF_CODE_OFF, TESTELF_CODE_BYTES));
    }
    tm_fini(&tm);
}

static void test_multiboot_header_errors_are_named(void **state)
{
    static const struct {
        unsigned off;
        uint32_t val;
        const char *want;
    } cases[] = {
        { 12, FLAT_AT + FLAT_HDR + 4, "header_addr 0x100044" },
        { 12, FLAT_AT - 4, "header_addr 0xffffc" },
        { 16, FLAT_AT + FLAT_HDR + 4, "load_addr 0x100044" },
        { 20, FLAT_AT + FLAT_BYTES + 1, "load_end_addr 0x100401" },
        { 20, FLAT_AT - 1, "load_end_addr 0xfffff" },
        { 24, FLAT_AT + FLAT_BYTES - 1, "bss_end_addr 0x1003ff" },
        { 24, 0xffffffff, "not in the guest's RAM" },
        { 28, FLAT_AT - 1, "entry_addr 0xfffff" },
        { 28, FLAT_AT + FLAT_BYTES, "entry_addr 0x100400" },
    };
    static uint8_t img[FLAT_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make_flat(img);
        set32(img + FLAT_HDR + cases[i].off, cases[i].val);
        tm_expect_refusal(&tm, img, sizeof(img), cases[i].want);
    }
    make_flat(img);
    make_header(img + FLAT_HDR, 0x10007);
    tm_expect_refusal(&tm, img, sizeof(img), "video mode");
    make_header(img + FLAT_HDR, 0x10010);
    tm_expect_refusal(&tm, img, sizeof(img), "bits 0x10");
    make_header(img + FLAT_HDR, 3);
    tm_expect_refusal(&tm, img, sizeof(img), "not an ELF file");
    img[FLAT_HDR + 8] ^= 1;
    tm_expect_refusal(&tm, img, sizeof(img), "neither");
    make_flat(img);
    tm_expect_refusal(&tm, img, FLAT_HDR + 20, "cut off");
    tm_fini(&tm);
}

static void test_multiboot_kernel_over_boot_information_is_refused(void **state)
{
    static uint8_t img[FLAT_BYTES];
    struct testmachine tm;

    (void)state;
    make_flat(img);
    set32(img + FLAT_HDR + 12, 0x6000 + FLAT_HDR);
    set32(img + FLAT_HDR + 16, 0x6000);
    set32(img + FLAT_HDR + 20, 0);
    set32(img + FLAT_HDR + 24, 0);
    set32(img + FLAT_HDR + 28, 0x6060);
    tm_init(&tm, RAM_BYTES);
    tm_expect_refusal(&tm, img, sizeof(img), "overlaps the multiboot information");
    tm_fini(&tm);
}

static void test_multiboot_header_is_found_only_in_the_first_8_kb(void **state)
{
    static uint8_t img[8192 + 64];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    make_header(img + 8192 - 12, 3);
    tm_expect_refusal(&tm, img, sizeof(img), "not an ELF file");
    memset(img, 0, sizeof(img));
    make_header(img + 8192 - 8, 3);
    tm_expect_refusal(&tm, img, sizeof(img), "neither");
    tm_fini(&tm);
}

static void test_multiboot_truncated_and_flipped_images_never_crash(void **state)
{
    static uint8_t flat[FLAT_BYTES], elf[TESTELF_BYTES], initrd[5000];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    make_flat(flat);
    tm_torture(&tm, flat, sizeof(flat), FLAT_HDR + 0x40, 10000);
    testelf_make(elf, false);
    make_header(elf + TESTELF_CODE_OFF, 3);
    tm_torture(&tm, elf, sizeof(elf), TESTELF_CODE_OFF + 12, 10000);
    tm_fini(&tm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_multiboot_flat_file_gets_registers_and_zeroed_bss),
        cmocka_unit_test(test_multiboot_info_tells_memory_command_line_and_modules),
        cmocka_unit_test(test_multiboot_elf32_and_elf64_load_by_physical_address),
        cmocka_unit_test(test_multiboot_header_errors_are_named),
        cmocka_unit_test(test_multiboot_kernel_over_boot_information_is_refused),
        cmocka_unit_test(test_multiboot_header_is_found_only_in_the_first_8_kb),
        cmocka_unit_test(test_multiboot_truncated_and_flipped_images_never_crash),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
