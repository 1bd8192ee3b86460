/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware would have left in low memory: the tables in the BIOS area, the MP floating pointer
 * in the EBDA, and the few fields of the BIOS data area that kernels read.
 *
 * The BIOS area is built in one piece and copied to the guest at the end:
 *     0xe0000  RSDP, ACPI tables
 *     0xfc000  SMBIOS entry point (it is searched for at 0xf0000 and above) and structures, MP
 * table 0xffff0  the reset vector's place, left alone
 */
#include "boot/tables.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/log.h"

#define ACPI_AREA_BYTES  0x1c000u
#define OTHER_AREA_BYTES (BOOT_BIOS_BYTES - ACPI_AREA_BYTES - 16)

/* BIOS data area, at 400h */
#define BDA_COM1_AT     0x400u
#define BDA_EBDA_SEG_AT 0x40eu
#define BDA_BASE_KB_AT  0x413u
#define COM1_PORT       0x3f8u
#define EBDA_KB         1u
#define EBDA_MP_OFF     0x10u

static int tables_put(struct mmu *m, uint64_t at, const void *buf, uint64_t bytes)
{
    if (mmu_write(m, GPA(at), buf, bytes) == bytes)
        return 0;
    log_error(
        "no room for firmware tables: %llu bytes at %#llx are not guest memory; give the guest "
        "at least 1 MB",
        (unsigned long long)bytes, (unsigned long long)at);
    return -ENOMEM;
}

static int tables_put16(struct mmu *m, uint64_t at, uint16_t val)
{
    return tables_put(m, at, &val, sizeof(val));
}

/* Base memory ends where the EBDA begins; Linux places its trampolines by these. */
static int tables_put_bda(struct mmu *m)
{
    int rc = tables_put16(m, BDA_COM1_AT, COM1_PORT);

    if (rc == 0)
        rc = tables_put16(m, BDA_EBDA_SEG_AT, BOOT_EBDA_AT >> 4);
    if (rc == 0)
        rc = tables_put16(m, BDA_BASE_KB_AT, BOOT_EBDA_AT >> 10);
    return rc;
}

static int tables_put_ebda(struct mmu *m, gpa_t mp_table, gpa_t *mp)
{
    uint8_t ebda[EBDA_KB << 10] = { EBDA_KB }; /* its first byte is its size */
    struct bytes b = { .p = ebda, .n = EBDA_MP_OFF, .cap = sizeof(ebda), .at = GPA(BOOT_EBDA_AT) };

    *mp = bytes_here(&b);
    mp_pointer_build(&b, mp_table);
    return tables_put(m, BOOT_EBDA_AT, ebda, sizeof(ebda));
}

int boot_tables(struct mmu *m, const struct boot_config *cfg, struct boot_map *map)
{
    uint8_t *area = calloc(1, BOOT_BIOS_BYTES);
    struct bytes acpi = { .p = area, .cap = ACPI_AREA_BYTES, .at = GPA(BOOT_BIOS_AT) };
    struct bytes other = { .p = area ? area + ACPI_AREA_BYTES : NULL,
                           .cap = OTHER_AREA_BYTES,
                           .at = GPA(BOOT_BIOS_AT + ACPI_AREA_BYTES) };
    gpa_t mp_table;
    int rc;

    if (!area)
        return -ENOMEM;
    acpi_build(&acpi, &(struct acpi_machine){ .cfg = cfg, .ecam = GPA(PC_ECAM_AT) }, &map->rsdp);
    smbios_build(&other, cfg, &map->smbios);
    mptable_build(&other, cfg, &mp_table);
    if (acpi.full || other.full) {
        log_error("the firmware tables for %u CPUs do not fit into %u KB; use fewer CPUs",
                  cfg->nr_cpus, BOOT_BIOS_BYTES >> 10);
        free(area);
        return -E2BIG;
    }
    rc = tables_put(m, BOOT_BIOS_AT, area, BOOT_BIOS_BYTES - 16);
    free(area);
    if (rc == 0)
        rc = tables_put_ebda(m, mp_table, &map->mp);
    if (rc == 0)
        rc = tables_put_bda(m);
    return rc;
}
