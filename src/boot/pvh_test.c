/* SPDX-License-Identifier: Apache-2.0 */
/* PVH: the entry note, the start info, the ELF checks on the way, hostile files, and Debian's
 * vmlinux where it can be had. */
#include "boot/testelf.h"

#include <glob.h>

#define RAM_BYTES  MIB(32)
#define EHDR_BYTES 64u

/* Another owner's note, then Xen's PHYS32_ENTRY with a descriptor of that many bytes. */
static void put_note(uint8_t *img, uint32_t entry, uint32_t desc_bytes)
{
    const uint32_t head1[3] = { 3, 2, 18 }, head2[3] = { 4, desc_bytes, 18 };
    uint8_t *p = img + TESTELF_NOTE_OFF;

    memcpy(p, head1, 12);
    memcpy(p + 12, "Xe", 3);
    memcpy(p + 20, head2, 12);
    memcpy(p + 32, "Xen", 4);
    memcpy(p + 36, &entry, 4);
}

static void make_pvh(uint8_t *img, bool is64)
{
    testelf_make(img, is64);
    put_note(img, TESTELF_PADDR + TESTELF_PVH_OFF, 4);
}

static void test_pvh_entry_gets_registers_and_start_info(void **state)
{
    static uint8_t img[TESTELF_BYTES], initrd[3000];
    const uint64_t at = BOOT_START_INFO_AT;
    struct testmachine tm;
    uint64_t mod, memmap;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_pvh(img, is64);
        assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
        tm_expect_flat32(&tm);
        assert_int_equal(tm.c.rip, TESTELF_PADDR + TESTELF_PVH_OFF);
        assert_int_equal(tm.c.gpr[RBX], at);
        assert_true(tm_has(&tm, TESTELF_PADDR, img + TESTELF_CODE_OFF, TESTELF_CODE_BYTES));
    }
    assert_int_equal(tm_get(&tm, at, 4), 0x336ec578);
    assert_int_equal(tm_get(&tm, at + 4, 4), 1);
    assert_int_equal(tm_get(&tm, at + 12, 4), 1);
    mod = tm_get(&tm, at + 16, 8);
    assert_int_equal(tm_get(&tm, mod, 8), RAM_BYTES - 0x1000);
    assert_int_equal(tm_get(&tm, mod + 8, 8), sizeof(initrd));
    assert_true(tm_has(&tm, tm_get(&tm, at + 24, 8), "a=1", 4));
    assert_int_equal(tm_get(&tm, at + 32, 8), BOOT_BIOS_AT);
    memmap = tm_get(&tm, at + 40, 8);
    assert_int_equal(tm_get(&tm, at + 48, 4), tm.map.nr);
    for (unsigned i = 0; i < tm.map.nr; i++) {
        assert_true(tm_has(&tm, memmap + i * 24, &tm.map.e[i], 20));
        assert_int_equal(tm_get(&tm, memmap + i * 24 + 20, 4), 0);
    }
    tm_fini(&tm);
}

static void test_pvh_bss_is_zeroed(void **state)
{
    static const uint8_t zeros[TESTELF_MEM_BYTES - TESTELF_CODE_BYTES];
    static uint8_t img[TESTELF_BYTES], dirt[TESTELF_MEM_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    memset(dirt, 0xee, sizeof(dirt));
    assert_int_equal(mmu_write(tm.m, GPA(TESTELF_PADDR), dirt, sizeof(dirt)), sizeof(dirt));
    make_pvh(img, true);
    assert_int_equal(tm_load(&tm, img, sizeof(img)), 0);
    assert_true(tm_has(&tm, TESTELF_PADDR + TESTELF_CODE_BYTES, zeros, sizeof(zeros)));
    tm_fini(&tm);
}

static void test_pvh_entry_outside_segments_is_refused(void **state)
{
    static uint8_t img[TESTELF_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    make_pvh(img, true);
    put_note(img, TESTELF_PADDR + TESTELF_CODE_BYTES, 4);
    tm_expect_refusal(&tm, img, sizeof(img), "PVH entry point 0x400300");
    testelf_make(img, true);
    tm_expect_refusal(&tm, img, sizeof(img), "without a PVH entry note");
    put_note(img, TESTELF_PADDR, 5); /* a descriptor of no known size is no entry note */
    tm_expect_refusal(&tm, img, sizeof(img), "without a PVH entry note");
    tm_fini(&tm);
}

static void test_elf_field_errors_are_named(void **state)
{
    const unsigned ph = EHDR_BYTES;
    const struct {
        unsigned off, bytes;
        uint64_t val;
        const char *want;
    } cases[] = {
        { 4, 1, 3, "ELF class 3" },
        { 5, 1, 2, "data encoding 2" },
        { 16, 2, ET_REL, "ELF type 1" },
        { 18, 2, EM_AARCH64, "ELF machine 183" },
        { 32, 8, ~0ull - 8, "e_phoff" },
        { 54, 2, 32, "e_phentsize 32" },
        { 56, 2, 0, "0 program headers" },
        { 56, 2, 0xffff, "65535 program headers" },
        { 56, 2, 200, "reach beyond" },
        { ph, 4, PT_NULL, "not in a segment" },
        { ph + 8, 8, ~0ull - 4, "reaches beyond" },
        { ph + 32, 8, TESTELF_CODE_BYTES + 1, "reaches beyond" },
        { ph + 40, 8, TESTELF_CODE_BYTES - 1, "p_memsz 0x2ff" },
        { ph + 40, 8, 0, "p_memsz 0" }, /* an empty segment with an entry in its file part */
        { ph + 40, 8, ~0ull, "reaches beyond 4 GB" },
        { ph + 40, 8, MIB(40), "not in the guest's RAM" },
    };
    static uint8_t img[TESTELF_BYTES];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make_pvh(img, true);
        memcpy(img + cases[i].off, &cases[i].val, cases[i].bytes);
        tm_expect_refusal(&tm, img, sizeof(img), cases[i].want);
    }
    tm_fini(&tm);
}

static void test_elf_segments_over_each_other_or_boot_data_are_refused(void **state)
{
    static const struct {
        uint64_t paddr;
        const char *want;
    } cases[] = {
        { TESTELF_PADDR + TESTELF_MEM_BYTES - 1, "overlaps the ELF segment" },
        { BOOT_GDT_AT, "overlaps the boot GDT" },
        { BOOT_START_INFO_AT + 8, "overlaps the PVH start info" },
        { BOOT_CMDLINE_AT, "overlaps the command line" },
        { BOOT_EBDA_AT, "not in the guest's RAM" },
    };
    static uint8_t img[TESTELF_BYTES];
    struct testmachine tm;
    Elf64_Phdr ph = { .p_type = PT_LOAD, .p_filesz = 16, .p_memsz = 16 };
    const uint16_t phnum = 3;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make_pvh(img, true);
        /* A third program header does not fit before the notes: move the table. */
        memmove(img + TESTELF_CODE_OFF + 0x100, img + EHDR_BYTES, 2 * sizeof(ph));
        memcpy(img + 32, &(uint64_t){ TESTELF_CODE_OFF + 0x100 }, 8);
        memcpy(img + 56, &phnum, 2);
        ph.p_paddr = cases[i].paddr;
        memcpy(img + TESTELF_CODE_OFF + 0x100 + 2 * sizeof(ph), &ph, sizeof(ph));
        tm_expect_refusal(&tm, img, sizeof(img), cases[i].want);
    }
    tm_fini(&tm);
}

static void test_pvh_truncated_and_flipped_images_never_crash(void **state)
{
    static uint8_t img[TESTELF_BYTES], initrd[5000];
    struct testmachine tm;

    (void)state;
    tm_init(&tm, RAM_BYTES);
    tm_set_initrd(&tm, initrd, sizeof(initrd));
    for (unsigned is64 = 0; is64 < 2; is64++) {
        make_pvh(img, is64);
        tm_torture(&tm, img, sizeof(img), TESTELF_NOTE_OFF + TESTELF_NOTE_BYTES, 10000);
    }
    tm_fini(&tm);
}

/* Needs tools/extract-vmlinux, so it runs from the top of the tree. */
static void test_pvh_debian_vmlinux_loads(void **state)
{
    char out[] = "/tmp/doppel-vmlinux.XXXXXX", command[512];
    struct boot_config cfg = { .kernel = out, .ram_bytes = MIB(256), .nr_cpus = 1 };
    struct testmachine tm;
    glob_t g;
    int fd, rc;

    (void)state;
    if (glob("/boot/vmlinuz-*-cloud-amd64", 0, NULL, &g) != 0 ||
        access("tools/extract-vmlinux", X_OK)) {
        globfree(&g);
        skip(); /* package linux-image-cloud-amd64 is not installed */
    }
    fd = mkstemp(out);
    assert_true(fd >= 0);
    (void)close(fd);
    (void)snprintf(command, sizeof(command), "tools/extract-vmlinux %s %s", g.gl_pathv[0], out);
    globfree(&g);
    assert_int_equal(system(command), 0);
    tm_init(&tm, MIB(256));
    rc = boot_load(tm.m, &cfg, &tm.map, &tm.c);
    (void)unlink(out);
    assert_int_equal(rc, 0);
    tm_expect_flat32(&tm);
    assert_true(tm.c.rip >= MIB(16) && tm.c.rip < MIB(256));
    tm_fini(&tm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pvh_entry_gets_registers_and_start_info),
        cmocka_unit_test(test_pvh_bss_is_zeroed),
        cmocka_unit_test(test_pvh_entry_outside_segments_is_refused),
        cmocka_unit_test(test_elf_field_errors_are_named),
        cmocka_unit_test(test_elf_segments_over_each_other_or_boot_data_are_refused),
        cmocka_unit_test(test_pvh_truncated_and_flipped_images_never_crash),
        cmocka_unit_test(test_pvh_debian_vmlinux_loads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
