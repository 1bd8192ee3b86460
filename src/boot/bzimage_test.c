/* SPDX-License-Identifier: Apache-2.0 */
/* bzImage loading: a synthetic image, its field errors, truncations and bit flips, and Debian's
 * kernel where it is installed. */
#include "boot/testmachine.h"

#include <glob.h>

#define RAM_BYTES   MIB(64)
#define CODE_BYTES  0x3000u
#define CODE_OFF    (5 * 512u)
#define IMAGE_BYTES (CODE_OFF + CODE_BYTES)

struct hdr_field {
    unsigned off, bytes;
    uint64_t val;
};

static void set(uint8_t *img, unsigned off, uint64_t val, unsigned bytes)
{
    memcpy(img + off, &val, bytes);
}

/* Protocol 2.15 with a 64-bit entry, relocatable, preferring 16 MB. */
static void make_image(uint8_t *img)
{
    static const struct hdr_field fields[] = {
        { 0x1f1, 1, 4 },           { 0x1f4, 4, CODE_BYTES / 16 },
        { 0x1fe, 2, 0xaa55 },      { 0x200, 2, 0x6aeb },
        { 0x202, 4, 0x53726448 },  { 0x206, 2, 0x20f },
        { 0x211, 1, 1 },           { 0x22c, 4, 0x7fffffff },
        { 0x230, 4, 0x200000 },    { 0x234, 1, 1 },
        { 0x236, 2, 3 },           { 0x238, 4, 2047 },
        { 0x250, 8, 0x123456789 }, { 0x258, 8, 0x1000000 },
        { 0x260, 4, 0x800000 },
    };

    memset(img, 0x90, IMAGE_BYTES);
    memset(img, 0, CODE_OFF);
    for (unsigned i = 0; i < ARRAY_SIZE(fields); i++)
        set(img, fields[i].off, fields[i].val, fields[i].bytes);
    for (unsigned i = 0; i < CODE_BYTES; i++)
        img[CODE_OFF + i] = (uint8_t)(i * 7);
}

static uint64_t zp(struct testmachine *tm, unsigned off, unsigned bytes)
{
    return tm_get(tm, BOOT_ZERO_PAGE_AT + off, bytes);
}

static void test_bzimage_64bit_entry_gets_registers_and_boot_params(void **state)
{
    static uint8_t img[IMAGE_BYTES];
    struct testmachine tm;

    (void)state;
    make_image(img);
    tm_init(&tm, RAM_BYTES);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(tm.c.rip, 0x1000200);
    assert_int_equal(tm.c.gpr[RSI], BOOT_ZERO_PAGE_AT);
    assert_int_equal(tm.c.efer, EFER_LME | EFER_LMA);
    assert_int_equal(tm.c.cr0 & (CR0_PG | CR0_PE), CR0_PG | CR0_PE);
    assert_int_equal(tm.c.cr4, CR4_PAE);
    assert_int_equal(tm.c.rflags, RFLAGS_FIXED1);
    assert_int_equal(tm.c.seg[SEG_CS].sel, 0x10);
    assert_true(tm.c.seg[SEG_CS].attr & SEG_L);
    assert_false(tm.c.seg[SEG_CS].attr & SEG_DB);
    assert_int_equal(tm.c.seg[SEG_DS].sel, 0x18);
    assert_int_equal(tm_get(&tm, BOOT_GDT_AT + 0x10, 8), 0x00af9b000000ffff);
    assert_int_equal(tm_get(&tm, BOOT_GDT_AT + 0x18, 8), 0x00cf93000000ffff);
    assert_true(tm_has(&tm, 0x1000000, img + CODE_OFF, CODE_BYTES));
    assert_int_equal(zp(&tm, 0x202, 4), 0x53726448);
    assert_int_equal(zp(&tm, 0x210, 1), 0xff);
    assert_int_equal(zp(&tm, 0x228, 4), BOOT_CMDLINE_AT);
    assert_int_equal(zp(&tm, 0x218, 8), 0);
    assert_int_equal(zp(&tm, 0x250, 8), 0); /* the file's setup_data is not believed */
    assert_int_equal(zp(&tm, 0x1ef, 1), 0); /* sentinel */
    assert_int_equal(zp(&tm, 0x070, 8), BOOT_BIOS_AT);
    assert_int_equal(zp(&tm, 0x1e8, 1), tm.map.nr);
    assert_true(tm_has(&tm, BOOT_ZERO_PAGE_AT + 0x2d0, tm.map.e, tm.map.nr * 20));
    assert_true(tm_has(&tm, BOOT_CMDLINE_AT, "a=1", 4));
    tm_fini(&tm);
}

static void test_bzimage_page_tables_map_4_gb_to_itself(void **state)
{
    static uint8_t img[IMAGE_BYTES];
    struct testmachine tm;

    (void)state;
    make_image(img);
    tm_init(&tm, RAM_BYTES);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    for (uint64_t at = 0; at < GIB(4); at += MIB(2)) {
        uint64_t pdpt = tm_get(&tm, tm.c.cr3, 8), pd, pde;

        assert_int_equal(pdpt & 3, 3);
        pd = tm_get(&tm, (pdpt & PAGE_MASK) + (at >> 30) * 8, 8);
        assert_int_equal(pd & 3, 3);
        pde = tm_get(&tm, (pd & PAGE_MASK) + (at >> 21 & 511) * 8, 8);
        assert_int_equal(pde, at | 0x83);
    }
    tm_fini(&tm);
}

static void test_bzimage_without_64bit_entry_starts_in_protected_mode(void **state)
{
    static uint8_t img[IMAGE_BYTES];
    struct testmachine tm;

    (void)state;
    make_image(img);
    tm_init(&tm, RAM_BYTES);
    set(img, 0x236, 0, 2);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    tm_expect_flat32(&tm);
    assert_int_equal(tm.c.rip, 0x1000000);
    assert_int_equal(tm.c.gpr[RSI], BOOT_ZERO_PAGE_AT);
    assert_int_equal(tm.c.gpr[RBP] | tm.c.gpr[RDI] | tm.c.gpr[RBX], 0);
    make_image(img); /* 2.06: no xloadflags, pref_address, init_size */
    set(img, 0x206, 0x206, 2);
    set(img, 0x234, 0, 1);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    tm_expect_flat32(&tm);
    assert_int_equal(tm.c.rip, BOOT_KERNEL_AT);
    tm_fini(&tm);
}

static void test_bzimage_relocatable_moves_up_and_never_below_the_preferred_address(void **state)
{
    static uint8_t img[IMAGE_BYTES];
    struct testmachine tm;

    (void)state;
    make_image(img);
    tm_init(&tm, RAM_BYTES);
    set(img, 0x258, 0x1100000, 8);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(tm.c.rip, 0x1200200); /* the next multiple of kernel_alignment */
    set(img, 0x258, 0x40000000, 8);
    tm_expect_refusal(&tm, img, sizeof(img), "from 0x40000000 on");
    set(img, 0x234, 0, 1);
    tm_expect_refusal(&tm, img, sizeof(img), "not in the guest's RAM");
    set(img, 0x258, GIB(5), 8);
    tm_expect_refusal(&tm, img, sizeof(img), "above 4 GB");
    tm_fini(&tm);
}

static void test_bzimage_initrd_goes_high_below_its_limit(void **state)
{
    static uint8_t img[IMAGE_BYTES], initrd[0x2345];
    struct testmachine tm;

    (void)state;
    make_image(img);
    memset(initrd, 0xab, sizeof(initrd));
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(zp(&tm, 0x218, 4), RAM_BYTES - 0x3000);
    assert_int_equal(zp(&tm, 0x21c, 4), sizeof(initrd));
    assert_true(tm_has(&tm, RAM_BYTES - 0x3000, initrd, sizeof(initrd)));
    set(img, 0x22c, 0x1ffffff, 4);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(zp(&tm, 0x218, 4), 0x2000000 - 0x3000);
    set(img, 0x22c, 0x17fffff, 4); /* the kernel's init_size ends there: it goes below the kernel */
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_int_equal(zp(&tm, 0x218, 4), 0x1000000 - 0x3000);
    set(img, 0x22c, 0x100fff, 4);
    tm_expect_refusal(&tm, img, sizeof(img), "initrd 'i'");
    tm_fini(&tm);
}

static void test_bzimage_field_errors_are_named(void **state)
{
    static const struct {
        struct hdr_field f;
        const char *want;
    } cases[] = {
        { { 0x206, 2, 0x205 }, "boot protocol 2.05" },
        { { 0x211, 1, 0 }, "loadflags 0" },
        { { 0x201, 1, 0x20 }, "setup header ends at 0x222" },
        { { 0x1f1, 1, 64 }, "setup_sects says 64" },
        { { 0x1f4, 4, 0x10000 }, "syssize says 0x100000" },
        { { 0x230, 4, 0x300000 }, "kernel_alignment 0x300000" },
        { { 0x260, 4, 0x80000000 }, "init_size" },
        { { 0x238, 4, 2 }, "takes at most 2" },
    };
    static uint8_t img[IMAGE_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make_image(img);
        set(img, cases[i].f.off, cases[i].f.val, cases[i].f.bytes);
        tm_expect_refusal(&tm, img, sizeof(img), cases[i].want);
    }
    make_image(img);
    tm_expect_refusal(&tm, img, sizeof(img) - 1000, "truncated");
    tm_fini(&tm);
}

static void test_bzimage_command_line_at_and_above_the_limit(void **state)
{
    static uint8_t img[IMAGE_BYTES];
    char line[2050];
    struct testmachine tm;

    (void)state;
    make_image(img);
    memset(line, 'x', sizeof(line));
    line[2047] = '\0';
    tm_init(&tm, RAM_BYTES);
    tm.cfg.append = line;
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_true(tm_has(&tm, BOOT_CMDLINE_AT, line, 2048));
    line[2047] = 'x';
    line[2048] = '\0';
    tm_expect_refusal(&tm, img, sizeof(img), "2048 bytes");
    tm_fini(&tm);
}

static void test_bzimage_truncated_and_flipped_images_never_crash(void **state)
{
    static uint8_t img[IMAGE_BYTES], initrd[5000];
    struct testmachine tm;

    (void)state;
    make_image(img);
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    tm_torture(&tm, img, sizeof(img), 0x290, 10000);
    tm_fini(&tm);
}

static void test_bzimage_debian_kernel_loads(void **state)
{
    struct boot_config cfg = { .ram_bytes = MIB(256), .nr_cpus = 1, .append = "console=ttyS0" };
    struct testmachine tm;
    glob_t g;

    (void)state;
    if (glob("/boot/vmlinuz-*-cloud-amd64", 0, NULL, &g) != 0) {
        globfree(&g);
        skip(); /* package linux-image-cloud-amd64 is not installed */
    }
    tm_init(&tm, MIB(256));
    cfg.kernel = g.gl_pathv[0];
    assert_int_equal(boot_load(tm.m, &cfg, &tm.map, &tm.c), 0);
    assert_int_equal(tm.c.rip, 0x1000200);
    assert_int_equal(tm.c.efer, EFER_LME | EFER_LMA);
    tm_fini(&tm);
    globfree(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bzimage_64bit_entry_gets_registers_and_boot_params),
        cmocka_unit_test(test_bzimage_page_tables_map_4_gb_to_itself),
        cmocka_unit_test(test_bzimage_without_64bit_entry_starts_in_protected_mode),
        cmocka_unit_test(test_bzimage_relocatable_moves_up_and_never_below_the_preferred_address),
        cmocka_unit_test(test_bzimage_initrd_goes_high_below_its_limit),
        cmocka_unit_test(test_bzimage_field_errors_are_named),
        cmocka_unit_test(test_bzimage_command_line_at_and_above_the_limit),
        cmocka_unit_test(test_bzimage_truncated_and_flipped_images_never_crash),
        cmocka_unit_test(test_bzimage_debian_kernel_loads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
