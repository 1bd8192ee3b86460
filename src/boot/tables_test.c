/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The firmware tables, found in guest memory the way an operating system finds them: signatures,
 * checksums, lengths, pointers, and what the guest learns of interrupts and memory. The DSDT goes
 * through iasl where that is installed.
 */
#include "boot/tables.h"
#include "boot/testmachine.h"

static uint8_t sum8(const uint8_t *p, uint64_t bytes)
{
    uint8_t sum = 0;

    while (bytes--)
        sum = (uint8_t)(sum + *p++);
    return sum;
}

/* A table's bytes, checked; free it. */
static uint8_t *get_table(struct testmachine *tm, uint64_t at, const char *signature)
{
    uint32_t bytes = (uint32_t)tm_get(tm, at + 4, 4);
    uint8_t *p = malloc(bytes);

    assert_in_range(bytes, 36, BOOT_BIOS_BYTES);
    assert_in_range(at, BOOT_BIOS_AT, BOOT_BIOS_AT + BOOT_BIOS_BYTES - bytes);
    assert_int_equal(mmu_read(tm->m, GPA(at), p, bytes), bytes);
    assert_memory_equal(p, signature, 4);
    assert_int_equal(sum8(p, bytes), 0);
    return p;
}

/* By the RSDP, then the XSDT. */
static uint64_t find_table_at(struct testmachine *tm, const char *signature)
{
    uint8_t *xsdt = get_table(tm, tm_get(tm, tm->map.rsdp.v + 24, 8), "XSDT");
    uint32_t bytes = get_le32(xsdt + 4);
    uint64_t found = 0;

    for (uint32_t off = 36; off < bytes; off += 8)
        if (tm_has(tm, get_le64(xsdt + off), signature, 4))
            found = get_le64(xsdt + off);
    free(xsdt);
    assert_true(found);
    return found;
}

static uint8_t *find_table(struct testmachine *tm, const char *signature)
{
    return get_table(tm, find_table_at(tm, signature), signature);
}

static void make_tables(struct testmachine *tm, uint32_t nr_cpus)
{
    tm_init(tm, MIB(16));
    tm->cfg.nr_cpus = nr_cpus;
    tm->cfg.vm_name = "test\tvm";
    tm->cfg.nr_virtio_mmio = 1;
    assert_int_equal(boot_tables(tm->m, &tm->cfg, &tm->map), 0);
}

/* 16-byte aligned, in the range where systems search. */
static uint64_t scan_for(struct testmachine *tm, const char *signature, uint64_t from, uint64_t end)
{
    for (uint64_t at = from; at < end; at += 16)
        if (tm_has(tm, at, signature, strlen(signature)))
            return at;
    fail_msg("no %s", signature);
    return 0;
}

static void test_tables_rsdp_is_found_by_search_and_is_valid(void **state)
{
    struct testmachine tm;
    uint8_t r[36], *rsdt, *xsdt;

    (void)state;
    make_tables(&tm, 1);
    assert_int_equal(scan_for(&tm, "RSD PTR ", 0xe0000, 0x100000), tm.map.rsdp.v);
    assert_int_equal(mmu_read(tm.m, tm.map.rsdp, r, sizeof(r)), sizeof(r));
    assert_int_equal(r[15], 2);
    assert_int_equal(sum8(r, 20), 0);
    assert_int_equal(sum8(r, 36), 0);
    rsdt = get_table(&tm, get_le32(r + 16), "RSDT");
    xsdt = get_table(&tm, get_le64(r + 24), "XSDT");
    assert_int_equal((get_le32(rsdt + 4) - 36) / 4, (get_le32(xsdt + 4) - 36) / 8);
    for (uint32_t i = 0; i < (get_le32(rsdt + 4) - 36) / 4; i++)
        assert_int_equal(get_le32(rsdt + 36 + 4 * i), get_le64(xsdt + 36 + 8 * i));
    free(rsdt);
    free(xsdt);
    tm_fini(&tm);
}

static void test_tables_fadt_old_and_extended_fields_agree(void **state)
{
    static const struct {
        unsigned old_off, len_off, x_off;
        uint32_t at;
    } blocks[] = {
        { 56, 88, 148, 0x600 },
        { 64, 89, 172, 0x604 },
        { 76, 91, 208, 0x608 },
        { 80, 92, 220, 0x610 },
    };
    struct testmachine tm;
    uint8_t *fadt, *dsdt;

    (void)state;
    make_tables(&tm, 1);
    fadt = find_table(&tm, "FACP");
    assert_int_equal(get_le32(fadt + 4), 276);
    assert_int_equal(fadt[8], 6);
    assert_int_equal(get_le16(fadt + 46), PC_SCI_GSI);
    assert_int_equal(fadt[108], 0x32);
    for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++) {
        assert_int_equal(get_le32(fadt + blocks[i].old_off), blocks[i].at);
        assert_int_equal(fadt[blocks[i].x_off], 1);
        assert_int_equal(fadt[blocks[i].x_off + 1], fadt[blocks[i].len_off] * 8);
        assert_int_equal(get_le64(fadt + blocks[i].x_off + 4), blocks[i].at);
    }
    assert_int_equal(fadt[116], 1); /* reset register: I/O */
    assert_int_equal(get_le64(fadt + 120), 0xcf9);
    assert_int_equal(fadt[128], 6);
    assert_true(get_le32(fadt + 112) & BIT(10));
    assert_int_equal(get_le32(fadt + 36), get_le64(fadt + 132));
    assert_int_equal(get_le32(fadt + 36) % 64, 0);
    assert_true(tm_has(&tm, get_le32(fadt + 36), "FACS\x40\0\0\0", 8));
    assert_int_equal(get_le32(fadt + 40), get_le64(fadt + 140));
    dsdt = get_table(&tm, get_le32(fadt + 40), "DSDT");
    free(dsdt);
    free(fadt);
    tm_fini(&tm);
}

struct madt_counts {
    unsigned lapics, x2apics, ioapics, overrides, nmis, x2nmis;
};

static void count_madt(const uint8_t *madt, struct madt_counts *n)
{
    uint32_t bytes = get_le32(madt + 4);

    *n = (struct madt_counts){ 0 };
    for (uint32_t off = 44; off < bytes; off += madt[off + 1]) {
        const uint8_t *p = madt + off;

        assert_true(p[1] >= 2 && off + p[1] <= bytes);
        switch (p[0]) {
        case 0:
            assert_int_equal(p[3], n->lapics++);
            break;
        case 1:
            n->ioapics++;
            assert_int_equal(get_le32(p + 4), PC_IOAPIC_AT);
            break;
        case 2:
            n->overrides++;
            if (p[3] == 0)
                assert_int_equal(get_le32(p + 4), 2);
            else
                assert_int_equal(p[3] << 16 | get_le16(p + 8), PC_SCI_GSI << 16 | 0xd);
            break;
        case 4:
            n->nmis++;
            break;
        case 9:
            assert_int_equal(get_le32(p + 4), 255 + n->x2apics++);
            break;
        case 10:
            n->x2nmis++;
            break;
        default:
            fail_msg("MADT entry type %u", p[0]);
        }
    }
}

static void test_tables_madt_uses_x2apic_entries_above_254(void **state)
{
    static const struct {
        uint32_t nr_cpus;
        struct madt_counts want;
    } cases[] = {
        { 1, { 1, 0, 1, 2, 1, 0 } },
        { 255, { 255, 0, 1, 2, 1, 0 } },
        { 300, { 255, 45, 1, 2, 1, 1 } },
    };
    struct madt_counts got;
    struct testmachine tm;
    uint8_t *madt;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        make_tables(&tm, cases[i].nr_cpus);
        madt = find_table(&tm, "APIC");
        assert_int_equal(get_le32(madt + 36), PC_LAPIC_AT);
        count_madt(madt, &got);
        assert_memory_equal(&got, &cases[i].want, sizeof(got));
        free(madt);
        tm_fini(&tm);
    }
}

static void test_tables_hpet_and_mcfg_point_to_the_devices(void **state)
{
    struct testmachine tm;
    uint8_t *p;

    (void)state;
    make_tables(&tm, 1);
    p = find_table(&tm, "HPET");
    assert_int_equal(get_le32(p + 4), 56);
    assert_int_equal(get_le64(p + 44), PC_HPET_AT);
    free(p);
    p = find_table(&tm, "MCFG");
    assert_int_equal(get_le32(p + 4), 60);
    assert_int_equal(get_le64(p + 44), PC_ECAM_AT);
    assert_int_equal(p[55], 0xff);
    free(p);
    tm_fini(&tm);
}

static void test_tables_too_many_cpus_is_an_error(void **state)
{
    struct testmachine tm;

    (void)state;
    tm_init(&tm, MIB(16));
    tm.cfg.nr_cpus = 100000;
    tm_quiet();
    assert_int_equal(boot_tables(tm.m, &tm.cfg, &tm.map), -E2BIG);
    log_set_level(LOG_INFO);
    tm_fini(&tm);
}

static void test_tables_too_little_memory_is_an_error(void **state)
{
    struct testmachine tm;

    (void)state;
    tm_init(&tm, KIB(512));
    tm_quiet();
    assert_int_equal(boot_tables(tm.m, &tm.cfg, &tm.map), -ENOMEM);
    log_set_level(LOG_INFO);
    tm_fini(&tm);
}

/* Walks the structures by length and strings to the end marker; returns which types were there as
 * bits. */
static uint64_t walk_smbios(const uint8_t *p, uint32_t bytes)
{
    uint64_t types = 0;
    uint32_t off = 0;

    while (off + 4 <= bytes) {
        uint8_t type = p[off];

        assert_true(p[off + 1] >= 4);
        off += p[off + 1];
        while (off + 2 <= bytes && (p[off] || p[off + 1]))
            off++;
        off += 2;
        if (type == 127) {
            assert_int_equal(off, bytes);
            return types;
        }
        types |= BIT64(type);
    }
    fail_msg("no end marker");
    return 0;
}

static void test_tables_smbios_is_found_and_walks_to_its_end(void **state)
{
    struct testmachine tm;
    uint8_t e[24], *p;
    uint32_t bytes;

    (void)state;
    make_tables(&tm, 3);
    assert_int_equal(scan_for(&tm, "_SM3_", 0xf0000, 0x100000), tm.map.smbios.v);
    assert_int_equal(mmu_read(tm.m, tm.map.smbios, e, sizeof(e)), sizeof(e));
    assert_int_equal(sum8(e, sizeof(e)), 0);
    bytes = get_le32(e + 12);
    p = malloc(bytes);
    assert_int_equal(mmu_read(tm.m, GPA(get_le64(e + 16)), p, bytes), bytes);
    assert_int_equal(walk_smbios(p, bytes), BIT64(0) | BIT64(1) | BIT64(3) | BIT64(4) | BIT64(16) |
                                                BIT64(17) | BIT64(19) | BIT64(32));
    assert_non_null(memmem(p, bytes, "test?vm", 8));
    free(p);
    tm_fini(&tm);
}

static void test_tables_mp_table_agrees_with_the_madt(void **state)
{
    static const uint8_t sizes[] = { 20, 8, 8, 8, 8 };
    unsigned nr[5] = { 0 }, off;
    struct testmachine tm;
    uint8_t fp[16], *p;
    uint64_t at;
    uint16_t bytes;

    (void)state;
    make_tables(&tm, 2);
    assert_int_equal(scan_for(&tm, "_MP_", BOOT_EBDA_AT, BOOT_EBDA_AT + 1024), tm.map.mp.v);
    assert_int_equal(tm_get(&tm, 0x40e, 2) << 4, BOOT_EBDA_AT);
    assert_int_equal(mmu_read(tm.m, tm.map.mp, fp, sizeof(fp)), sizeof(fp));
    assert_int_equal(sum8(fp, sizeof(fp)), 0);
    at = get_le32(fp + 4);
    bytes = (uint16_t)tm_get(&tm, at + 4, 2);
    p = malloc(bytes);
    assert_int_equal(mmu_read(tm.m, GPA(at), p, bytes), bytes);
    assert_memory_equal(p, "PCMP", 4);
    assert_int_equal(sum8(p, bytes), 0);
    for (off = 44; off < bytes; off += sizes[p[off]]) {
        assert_in_range(p[off], 0, 4);
        nr[p[off]]++;
        if (p[off] == 3 && p[off + 4] == 1 && p[off + 5] == 0)
            assert_int_equal(p[off + 7], 2);                      /* the PIT */
        if (p[off] == 3 && p[off + 4] == 1 && p[off + 5] >= 16) { /* virtio over MMIO */
            assert_int_equal(p[off + 7], p[off + 5]);
            assert_int_equal(p[off + 2], 0xd);
        }
        if (p[off] == 3 && p[off + 4] == 0)
            assert_int_equal(p[off + 7], 16 + ((p[off + 5] >> 2) + (p[off + 5] & 3)) % 4);
    }
    assert_int_equal(off, bytes);
    assert_int_equal(get_le16(p + 34), nr[0] + nr[1] + nr[2] + nr[3] + nr[4]);
    assert_int_equal(nr[0], 2);
    assert_int_equal(nr[3], 15 + 128 + PC_VIRTIO_NR_GSIS);
    free(p);
    tm_fini(&tm);
}

static void save_table(struct testmachine *tm, const char *dir, uint64_t at, const char *signature)
{
    uint8_t *p = get_table(tm, at, signature);
    char path[128];
    FILE *f;

    (void)snprintf(path, sizeof(path), "%s/%s.aml", dir, signature);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, get_le32(p + 4), f), get_le32(p + 4));
    assert_int_equal(fclose(f), 0);
    free(p);
}

/* iasl disassembles every table, and compiles the DSDT again without a complaint. */
static void test_tables_survive_iasl(void **state)
{
    static const char *const signatures[] = { "FACP", "APIC", "HPET", "MCFG" };
    char dir[] = "/tmp/doppel-acpi.XXXXXX", command[512];
    struct testmachine tm;
    int rc;

    (void)state;
    if (system("command -v iasl >/dev/null") != 0)
        skip(); /* package acpica-tools is not installed */
    make_tables(&tm, 300);
    assert_non_null(mkdtemp(dir));
    for (unsigned i = 0; i < ARRAY_SIZE(signatures); i++) {
        uint8_t *p = find_table(&tm, signatures[i]);

        save_table(&tm, dir, find_table_at(&tm, signatures[i]), signatures[i]);
        if (i == 0)
            save_table(&tm, dir, get_le32(p + 40), "DSDT");
        free(p);
    }
    (void)snprintf(command, sizeof(command),
                   "cd %s && for t in *.aml; do iasl -d $t; done >out 2>&1; "
                   "iasl -p again DSDT.dsl >>out 2>&1; ls *.dsl | wc -l | grep -qx 5 && "
                   "! grep -iE 'invalid|unknown|incorrect|length mismatch' out *.dsl && "
                   "grep -q ' 0 Errors, 0 Warnings, 0 Remarks' out",
                   dir);
    rc = system(command);
    if (rc) {
        (void)snprintf(command, sizeof(command), "cat %s/out", dir);
        (void)!system(command);
    }
    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    (void)!system(command);
    assert_int_equal(rc, 0);
    tm_fini(&tm);
}

static void test_map_covers_ram_exactly(void **state)
{
    static const uint64_t sizes[] = {
        KIB(64), KIB(640), MIB(1), MIB(1) + 4096, MIB(512), PC_LOW_RAM_MAX, PC_LOW_RAM_MAX + 4096,
        GIB(64)
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint64_t ram = 0, end = 0, hole = MIB(1) - BOOT_EBDA_AT, want = sizes[i];
        struct boot_map map;

        boot_map_init(&map, sizes[i]);
        for (unsigned k = 0; k < map.nr; k++) {
            assert_true(map.e[k].base >= end); /* sorted, no overlap */
            assert_true(map.e[k].bytes > 0);
            end = map.e[k].base + map.e[k].bytes;
            if (map.e[k].type == E820_RAM)
                ram += map.e[k].bytes;
        }
        want = want <= MIB(1) ? MIN(want, BOOT_EBDA_AT) : want - hole;
        assert_int_equal(ram, want);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_rsdp_is_found_by_search_and_is_valid),
        cmocka_unit_test(test_tables_fadt_old_and_extended_fields_agree),
        cmocka_unit_test(test_tables_madt_uses_x2apic_entries_above_254),
        cmocka_unit_test(test_tables_hpet_and_mcfg_point_to_the_devices),
        cmocka_unit_test(test_tables_too_many_cpus_is_an_error),
        cmocka_unit_test(test_tables_too_little_memory_is_an_error),
        cmocka_unit_test(test_tables_smbios_is_found_and_walks_to_its_end),
        cmocka_unit_test(test_tables_mp_table_agrees_with_the_madt),
        cmocka_unit_test(test_tables_survive_iasl),
        cmocka_unit_test(test_map_covers_ram_exactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
