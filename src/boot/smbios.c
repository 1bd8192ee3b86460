/* SPDX-License-Identifier: Apache-2.0 */
/*
 * SMBIOS tables (DMTF DSP0134, System Management BIOS Reference Specification 3.0): what the
 * machine is called and how much memory it has, for dmidecode and the like.
 */
#include <stdio.h>

#include "boot/tables.h"

#define ENTRY_CHECKSUM    5u
#define ENTRY_TABLE_BYTES 12u
#define ENTRY_TABLE_AT    16u

#define HANDLE(type)         ((type) << 8)
#define HANDLE_NONE          0xffffu
#define HANDLE_NO_ERROR_INFO 0xfffeu

#define BIOS_NO_CHARACTERISTICS BIT(3)
#define BIOS_EXT1_ACPI          BIT(0)
#define BIOS_EXT2_VIRTUAL       BIT(4)
#define CHASSIS_OTHER           1u
#define STATE_SAFE              3u
#define SECURITY_UNKNOWN        2u
#define CPU_CENTRAL             3u
#define CPU_FAMILY_OTHER        1u
#define CPU_ENABLED             0x41u /* socket populated, CPU enabled */
#define CPU_UPGRADE_OTHER       1u
#define CPU_CAN_64BIT           BIT(2)
#define CPU_CAN_MULTICORE       BIT(3)
#define MEM_ON_BOARD            3u
#define MEM_USE_SYSTEM          3u
#define MEM_NO_ECC              3u
#define MEM_FORM_DIMM           9u
#define MEM_TYPE_RAM            7u
#define MEM_DETAIL_OTHER        BIT(1)
#define MEM_SIZE_EXTENDED       0x7fffu
#define MEM_CAPACITY_EXTENDED   0x80000000u

/* "Structure header format"; the length is filled in when the strings follow. Returns its place. */
static size_t smb_begin(struct bytes *b, unsigned type, unsigned nr)
{
    size_t at = b->n;

    put8(b, type);
    put8(b, 0);
    put16(b, HANDLE(type) + nr);
    return at;
}

/* "Text strings": numbered from 1, each with its NUL, then one more; two NULs when there are none.
 */
static void smb_end(struct bytes *b, size_t at, const char *const *strings, unsigned nr)
{
    patch(b, at + 1, b->n - at, 1);
    for (unsigned i = 0; i < nr; i++)
        put_mem(b, strings[i], strlen(strings[i]) + 1);
    if (!nr)
        put8(b, 0);
    put8(b, 0);
}

static void smb_bios(struct bytes *b)
{
    static const char *const strings[] = { "doppel", DOPPEL_VERSION, "01/01/2024" };
    size_t at = smb_begin(b, 0, 0);

    put8(b, 1); /* vendor */
    put8(b, 2); /* version */
    put16(b, BOOT_BIOS_AT >> 4);
    put8(b, 3);                           /* release date */
    put8(b, (BOOT_BIOS_BYTES >> 16) - 1); /* in 64 KB, minus one */
    put64(b, BIOS_NO_CHARACTERISTICS);
    put8(b, BIOS_EXT1_ACPI);
    put8(b, BIOS_EXT2_VIRTUAL);
    put16(b, 0);      /* BIOS release */
    put16(b, 0xffff); /* no embedded controller */
    smb_end(b, at, strings, ARRAY_SIZE(strings));
}

/* The VM's name, which is the user's text: printable, not empty, not endless. */
static void smb_clean_name(char *out, size_t out_bytes, const char *name)
{
    (void)snprintf(out, out_bytes, "%s", name && *name ? name : "doppel");
    for (char *s = out; *s; s++)
        if (*s < ' ' || *s > '~')
            *s = '?';
}

static void smb_system(struct bytes *b, const struct boot_config *cfg)
{
    char name[65];
    const char *const strings[] = { "doppel", "doppel PC", DOPPEL_VERSION, name };
    size_t at = smb_begin(b, 1, 0);

    smb_clean_name(name, sizeof(name), cfg->vm_name);
    put8(b, 1);      /* manufacturer */
    put8(b, 2);      /* product */
    put8(b, 3);      /* version */
    put8(b, 4);      /* serial number */
    put_zero(b, 16); /* UUID: not present */
    put8(b, 6);      /* wake-up: power switch */
    put8(b, 0);      /* SKU */
    put8(b, 0);      /* family */
    smb_end(b, at, strings, ARRAY_SIZE(strings));
}

static void smb_chassis(struct bytes *b)
{
    static const char *const strings[] = { "doppel" };
    size_t at = smb_begin(b, 3, 0);

    put8(b, 1); /* manufacturer */
    put8(b, CHASSIS_OTHER);
    put_zero(b, 3);      /* version, serial number, asset tag */
    put8(b, STATE_SAFE); /* boot-up, power supply, thermal */
    put8(b, STATE_SAFE);
    put8(b, STATE_SAFE);
    put8(b, SECURITY_UNKNOWN);
    put32(b, 0);
    put8(b, 0);     /* height */
    put8(b, 0);     /* power cords */
    put_zero(b, 2); /* contained elements */
    put8(b, 0);     /* SKU */
    smb_end(b, at, strings, ARRAY_SIZE(strings));
}

/* One socket with all CPUs as its cores. */
static void smb_processor(struct bytes *b, const struct boot_config *cfg)
{
    static const char *const strings[] = { "CPU 0", "doppel" };
    unsigned nr = cfg->nr_cpus, nr8 = MIN(nr, 0xffu);
    size_t at = smb_begin(b, 4, 0);

    put8(b, 1); /* socket */
    put8(b, CPU_CENTRAL);
    put8(b, CPU_FAMILY_OTHER);
    put8(b, 2);  /* manufacturer */
    put64(b, 0); /* processor ID: what CPUID says is in CPUID */
    put8(b, 0);  /* version */
    put8(b, 0);  /* voltage */
    put16(b, 0); /* external clock: unknown */
    put16(b, 0); /* maximum speed: unknown */
    put16(b, 0); /* current speed: unknown */
    put8(b, CPU_ENABLED);
    put8(b, CPU_UPGRADE_OTHER);
    put16(b, HANDLE_NONE); /* caches */
    put16(b, HANDLE_NONE);
    put16(b, HANDLE_NONE);
    put_zero(b, 3); /* serial number, asset tag, part number */
    put8(b, nr8);   /* cores, enabled cores, threads */
    put8(b, nr8);
    put8(b, nr8);
    put16(b, CPU_CAN_64BIT | (nr > 1 ? CPU_CAN_MULTICORE : 0));
    put16(b, CPU_FAMILY_OTHER);
    put16(b, nr);
    put16(b, nr);
    put16(b, nr);
    smb_end(b, at, strings, ARRAY_SIZE(strings));
}

static void smb_memory_array(struct bytes *b, uint64_t ram_bytes)
{
    uint64_t ram_kb = ram_bytes >> 10;
    bool is_large = ram_kb >= MEM_CAPACITY_EXTENDED;
    size_t at = smb_begin(b, 16, 0);

    put8(b, MEM_ON_BOARD);
    put8(b, MEM_USE_SYSTEM);
    put8(b, MEM_NO_ECC);
    put32(b, is_large ? MEM_CAPACITY_EXTENDED : ram_kb);
    put16(b, HANDLE_NO_ERROR_INFO);
    put16(b, 1); /* devices */
    put64(b, is_large ? ram_bytes : 0);
    smb_end(b, at, NULL, 0);
}

static void smb_memory_device(struct bytes *b, uint64_t ram_bytes)
{
    static const char *const strings[] = { "DIMM 0", "doppel" };
    uint64_t ram_mb = ram_bytes >> 20;
    bool is_large = ram_mb >= MEM_SIZE_EXTENDED;
    size_t at = smb_begin(b, 17, 0);

    put16(b, HANDLE(16));
    put16(b, HANDLE_NO_ERROR_INFO);
    put16(b, 0xffff); /* total width: unknown */
    put16(b, 0xffff); /* data width: unknown */
    put16(b, is_large ? MEM_SIZE_EXTENDED : ram_mb);
    put8(b, MEM_FORM_DIMM);
    put8(b, 0); /* set */
    put8(b, 1); /* locator */
    put8(b, 0); /* bank */
    put8(b, MEM_TYPE_RAM);
    put16(b, MEM_DETAIL_OTHER);
    put16(b, 0);    /* speed: unknown */
    put8(b, 2);     /* manufacturer */
    put_zero(b, 3); /* serial number, asset tag, part number */
    put8(b, 0);     /* rank: unknown */
    put32(b, is_large ? ram_mb : 0);
    put16(b, 0);    /* configured speed: unknown */
    put_zero(b, 6); /* voltages: unknown */
    smb_end(b, at, strings, ARRAY_SIZE(strings));
}

static void smb_mapped_range(struct bytes *b, unsigned nr, uint64_t first, uint64_t end)
{
    bool is_high = (end - 1) >> 10 >= 0xffffffff;
    size_t at = smb_begin(b, 19, nr);

    put32(b, is_high ? 0xffffffff : first >> 10);
    put32(b, is_high ? 0xffffffff : (end - 1) >> 10);
    put16(b, HANDLE(16));
    put8(b, 1); /* one device makes up a row */
    put64(b, is_high ? first : 0);
    put64(b, is_high ? end - 1 : 0);
    smb_end(b, at, NULL, 0);
}

static void smb_boot_status(struct bytes *b)
{
    size_t at = smb_begin(b, 32, 0);

    put_zero(b, 6);
    put8(b, 0); /* no errors */
    smb_end(b, at, NULL, 0);
}

static void smb_structures(struct bytes *b, const struct boot_config *cfg)
{
    uint64_t low_bytes_ = MIN(cfg->ram_bytes, PC_LOW_RAM_MAX);

    smb_bios(b);
    smb_system(b, cfg);
    smb_chassis(b);
    smb_processor(b, cfg);
    smb_memory_array(b, cfg->ram_bytes);
    smb_memory_device(b, cfg->ram_bytes);
    smb_mapped_range(b, 0, 0, low_bytes_);
    if (cfg->ram_bytes > low_bytes_)
        smb_mapped_range(b, 1, GIB(4), GIB(4) + cfg->ram_bytes - low_bytes_);
    smb_boot_status(b);
    smb_end(b, smb_begin(b, 127, 0), NULL, 0);
}

void smbios_build(struct bytes *b, const struct boot_config *cfg, gpa_t *entry)
{
    size_t at, table;

    put_align(b, 16);
    at = b->n;
    *entry = bytes_here(b);
    /* "SMBIOS 3.0 (64-bit) Entry Point" */
    put_mem(b, "_SM3_", 5);
    put8(b, 0); /* checksum */
    put8(b, SMBIOS_ENTRY_BYTES);
    put8(b, 3); /* version 3.0 */
    put8(b, 0);
    put8(b, 0); /* docrev */
    put8(b, 1); /* entry point revision */
    put8(b, 0);
    put32(b, 0); /* table size */
    put64(b, 0); /* table address */
    put_align(b, 16);
    table = b->n;
    patch(b, at + ENTRY_TABLE_AT, bytes_here(b).v, 8);
    smb_structures(b, cfg);
    patch(b, at + ENTRY_TABLE_BYTES, b->n - table, 4);
    patch(b, at + ENTRY_CHECKSUM, checksum8(b, at, SMBIOS_ENTRY_BYTES), 1);
}
