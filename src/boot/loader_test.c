/* SPDX-License-Identifier: Apache-2.0 */
/* What firmware gets: the table loader's script is followed as firmware does, and gives sound
 * tables. */
#include "boot/testmachine.h"

#include "boot/bytes.h"
#include "boot/tables.h"

#define TABLES_AT 0x1fff0000ull

struct placed {
    struct boot_files files;
    uint8_t *tables, *rsdp; /* as the firmware has them in memory */
    uint32_t tables_bytes;
};

static const struct boot_file *file(const struct boot_files *files, const char *name)
{
    for (unsigned i = 0; i < files->nr; i++)
        if (!strcmp(files->f[i].name, name))
            return &files->f[i];
    fail_msg("no file %s", name);
    return NULL;
}

/* One command of 128 bytes. */
static void follow(struct placed *p, const uint8_t *cmd)
{
    const char *name = (const char *)cmd + 4;
    uint8_t *mem = strcmp(name, "etc/acpi/rsdp") ? p->tables : p->rsdp;
    uint32_t bytes = mem == p->rsdp ? ACPI_RSDP_BYTES : p->tables_bytes;

    if (get_le32(cmd) == 2) {
        uint32_t at = get_le32(cmd + 116), width = cmd[120];
        uint64_t val = 0;

        assert_string_equal((const char *)cmd + 60, "etc/acpi/tables");
        assert_true(at + width <= bytes);
        memcpy(&val, mem + at, width);
        assert_true(val < p->tables_bytes);
        val += TABLES_AT;
        memcpy(mem + at, &val, width);
    } else if (get_le32(cmd) == 3) {
        uint32_t at = get_le32(cmd + 60), from = get_le32(cmd + 64), n = get_le32(cmd + 68);
        uint8_t sum = 0;

        assert_true(from + n <= bytes && at >= from && at < from + n);
        assert_int_equal(mem[at], 0); /* or a firmware that adds it in is wrong */
        for (uint32_t i = 0; i < n; i++)
            sum = (uint8_t)(sum + mem[from + i]);
        mem[at] = (uint8_t)-sum;
    } else {
        assert_int_equal(get_le32(cmd), 1);
    }
}

static void place(struct placed *p, const struct boot_config *cfg, gpa_t ecam)
{
    const struct boot_file *f, *script;

    assert_int_equal(boot_files(&p->files, cfg, ecam), 0);
    script = file(&p->files, "etc/table-loader");
    assert_int_equal(script->bytes % 128, 0);
    f = file(&p->files, "etc/acpi/tables");
    p->tables_bytes = f->bytes;
    p->tables = f->data;
    p->rsdp = file(&p->files, "etc/acpi/rsdp")->data;
    for (uint32_t at = 0; at < script->bytes; at += 128)
        follow(p, script->data + at);
}

static bool sums_up(const uint8_t *p, uint32_t bytes)
{
    uint8_t sum = 0;

    for (uint32_t i = 0; i < bytes; i++)
        sum = (uint8_t)(sum + p[i]);
    return !sum;
}

static const uint8_t *table(const struct placed *p, uint64_t at, const char *signature)
{
    const uint8_t *t;

    assert_true(at >= TABLES_AT && at < TABLES_AT + p->tables_bytes);
    t = p->tables + (at - TABLES_AT);
    assert_memory_equal(t, signature, 4);
    assert_true(sums_up(t, get_le32(t + 4)));
    return t;
}

static void test_script_gives_sound_acpi_tables(void **state)
{
    static const char *const names[] = { "FACP", "APIC", "HPET", "MCFG" };
    const struct boot_config cfg = { .ram_bytes = GIB(3), .nr_cpus = 2 };
    struct placed p = { 0 };
    const uint8_t *xsdt, *rsdt, *fadt, *mcfg;

    (void)state;
    place(&p, &cfg, GPA(0xb0000000));
    assert_memory_equal(p.rsdp, "RSD PTR ", 8);
    assert_true(sums_up(p.rsdp, 20) && sums_up(p.rsdp, 36));
    rsdt = table(&p, get_le32(p.rsdp + 16), "RSDT");
    xsdt = table(&p, get_le64(p.rsdp + 24), "XSDT");
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        table(&p, get_le32(rsdt + 36 + 4 * i), names[i]);
        table(&p, get_le64(xsdt + 36 + 8 * i), names[i]);
    }
    fadt = table(&p, get_le64(xsdt + 36), "FACP");
    table(&p, get_le32(fadt + 40), "DSDT");
    table(&p, get_le64(fadt + 140), "DSDT");
    assert_memory_equal(p.tables + (get_le32(fadt + 36) - TABLES_AT), "FACS", 4);
    assert_int_equal((get_le32(fadt + 36)) % 64, 0);
    mcfg = table(&p, get_le64(xsdt + 36 + 24), "MCFG");
    assert_int_equal(get_le64(mcfg + 44), 0xb0000000);
    boot_files_free(&p.files);
}

static void test_sizes_do_not_depend_on_where_ecam_is(void **state)
{
    const struct boot_config cfg = { .ram_bytes = MIB(64), .nr_cpus = 1 };
    struct boot_files a, b;

    (void)state;
    assert_int_equal(boot_files(&a, &cfg, GPA(PC_ECAM_AT)), 0);
    assert_int_equal(boot_files(&b, &cfg, GPA(0xb0000000)), 0);
    assert_int_equal(a.nr, b.nr);
    for (unsigned i = 0; i < a.nr; i++) {
        assert_string_equal(a.f[i].name, b.f[i].name);
        assert_int_equal(a.f[i].bytes, b.f[i].bytes);
    }
    boot_files_free(&a);
    boot_files_free(&b);
}

static void test_e820_is_the_ram(void **state)
{
    const struct boot_config small = { .ram_bytes = MIB(64), .nr_cpus = 1 };
    const struct boot_config large = { .ram_bytes = GIB(3), .nr_cpus = 1 };
    struct boot_files files;
    const struct boot_file *f;

    (void)state;
    assert_int_equal(boot_files(&files, &small, GPA(PC_ECAM_AT)), 0);
    f = file(&files, "etc/e820");
    assert_int_equal(f->bytes, 20);
    assert_int_equal(get_le64(f->data + 8), MIB(64));
    boot_files_free(&files);
    assert_int_equal(boot_files(&files, &large, GPA(PC_ECAM_AT)), 0);
    f = file(&files, "etc/e820");
    assert_int_equal(f->bytes, 40);
    assert_int_equal(get_le64(f->data + 8), PC_LOW_RAM_MAX);
    assert_int_equal(get_le64(f->data + 20), GIB(4));
    assert_int_equal(get_le64(f->data + 28), GIB(3) - PC_LOW_RAM_MAX);
    assert_int_equal(get_le32(f->data + 36), E820_RAM);
    boot_files_free(&files);
}

static void test_firmware_is_below_4g_and_its_end_below_1m(void **state)
{
    char path[] = "/tmp/firmware_test.XXXXXX";
    int fd = mkstemp(path);
    struct mmu *m = mmu_create();
    uint8_t byte, block[4096];

    (void)state;
    tm_quiet();
    tm_add_ram(m, 0, MIB(2));
    for (unsigned i = 0; i < 64; i++) {
        memset(block, (int)i, sizeof(block));
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    }
    assert_int_equal(boot_firmware_load(m, path), 0);
    assert_int_equal(boot_firmware_shadow(m), 0);
    assert_int_equal(mmu_read(m, GPA(GIB(4) - KIB(256)), &byte, 1), 1);
    assert_int_equal(byte, 0);
    assert_int_equal(mmu_read(m, GPA(GIB(4) - 16), &byte, 1), 1);
    assert_int_equal(byte, 63);
    assert_int_equal(mmu_read(m, GPA(0xe0000), &byte, 1), 1);
    assert_int_equal(byte, 32);
    assert_int_equal(mmu_read(m, GPA(0xffff0), &byte, 1), 1);
    assert_int_equal(byte, 63);
    mmu_destroy(m);
    /* An image that is none. */
    m = mmu_create();
    assert_int_equal(ftruncate(fd, 4095), 0);
    assert_int_equal(boot_firmware_load(m, path), -ENOEXEC);
    assert_int_equal(boot_firmware_load(m, "/nonexistent"), -ENOENT);
    mmu_destroy(m);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_script_gives_sound_acpi_tables),
        cmocka_unit_test(test_sizes_do_not_depend_on_where_ecam_is),
        cmocka_unit_test(test_e820_is_the_ram),
        cmocka_unit_test(test_firmware_is_below_4g_and_its_end_below_1m),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
