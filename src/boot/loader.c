/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What firmware asks fw_cfg for: the memory map, the SMBIOS tables, and the ACPI tables with a
 * script that says where they go and which addresses and sums in them follow from that.
 *
 * The formats are QEMU's: "etc/e820" is a list of E820 entries, "etc/table-loader" a list of
 * commands of 128 bytes (linker/loader interface, as SeaBIOS and OVMF read it).
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/tables.h"
#include "lib/log.h"

#define ACPI_FILE_BYTES   KIB(128)
#define SMBIOS_FILE_BYTES KIB(16)

#define FILE_RSDP   "etc/acpi/rsdp"
#define FILE_TABLES "etc/acpi/tables"

enum { CMD_ALLOCATE = 1, CMD_ADD_POINTER = 2, CMD_ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_FSEG = 2 };

#define NAME_BYTES 56
struct loader_cmd {
    uint32_t what;
    union {
        struct {
            char file[NAME_BYTES];
            uint32_t align;
            uint8_t zone;
        } __attribute__((packed)) allocate;
        struct {
            char file[NAME_BYTES], to_file[NAME_BYTES];
            uint32_t at;
            uint8_t bytes;
        } __attribute__((packed)) pointer;
        struct {
            char file[NAME_BYTES];
            uint32_t at, from, bytes;
        } __attribute__((packed)) sum;
        uint8_t room[124];
    };
} __attribute__((packed));
static_assert(sizeof(struct loader_cmd) == 128, "a command of the table loader");

static int files_add(struct boot_files *to, const char *name, const void *data, size_t bytes)
{
    struct boot_file *f = &to->f[to->nr];

    BUG_ON(to->nr == ARRAY_SIZE(to->f));
    f->data = malloc(MAX(bytes, 1u));
    if (!f->data)
        return -ENOMEM;
    memcpy(f->data, data, bytes);
    f->name = name;
    f->bytes = (uint32_t)bytes;
    to->nr++;
    return 0;
}

/* Only RAM: firmware reserves of it what it needs, and adds its own devices. */
static int files_add_e820(struct boot_files *to, const struct boot_config *cfg)
{
    uint64_t low = MIN(cfg->ram_bytes, PC_LOW_RAM_MAX);
    const struct e820_entry e[] = {
        { .base = 0, .bytes = low, .type = E820_RAM },
        { .base = GIB(4), .bytes = cfg->ram_bytes - low, .type = E820_RAM },
    };

    return files_add(to, "etc/e820", e, e[1].bytes ? sizeof(e) : sizeof(e[0]));
}

/* ---- ACPI ---- */

/* What lies in the first bytes is the RSDP's, which is a file of its own. */
static const char *file_of(uint32_t at)
{
    return at < ACPI_RSDP_BYTES ? FILE_RSDP : FILE_TABLES;
}

static struct loader_cmd cmd_allocate(const char *file, uint32_t align, uint8_t zone)
{
    struct loader_cmd c = { .what = CMD_ALLOCATE };

    c.allocate.align = align;
    c.allocate.zone = zone;
    memcpy(c.allocate.file, file, strlen(file));
    return c;
}

static struct loader_cmd cmd_fixup(const struct acpi_fixup *f)
{
    const char *file = file_of(f->at);
    struct loader_cmd c = { .what = f->sum_at ? CMD_ADD_CHECKSUM : CMD_ADD_POINTER };

    if (f->sum_at) {
        memcpy(c.sum.file, file, strlen(file));
        c.sum.at = f->sum_at;
        c.sum.from = f->at;
        c.sum.bytes = f->bytes;
        return c;
    }
    memcpy(c.pointer.file, file, strlen(file));
    memcpy(c.pointer.to_file, FILE_TABLES, strlen(FILE_TABLES));
    c.pointer.at = f->at;
    c.pointer.bytes = (uint8_t)f->bytes;
    return c;
}

/* First all addresses, then the sums, which are over them too. */
static int files_add_script(struct boot_files *to, const struct acpi_fixups *fix)
{
    struct loader_cmd cmds[2 + ACPI_FIXUPS_MAX];
    unsigned nr = 0;

    cmds[nr++] = cmd_allocate(FILE_RSDP, 16, ZONE_FSEG);
    cmds[nr++] = cmd_allocate(FILE_TABLES, 64, ZONE_HIGH);
    for (unsigned i = 0; i < fix->nr; i++)
        if (!fix->v[i].sum_at)
            cmds[nr++] = cmd_fixup(&fix->v[i]);
    for (unsigned i = 0; i < fix->nr; i++)
        if (fix->v[i].sum_at)
            cmds[nr++] = cmd_fixup(&fix->v[i]);
    return files_add(to, "etc/table-loader", cmds, nr * sizeof(cmds[0]));
}

static int files_add_acpi(struct boot_files *to, const struct boot_config *cfg, gpa_t ecam)
{
    struct acpi_fixups fix = { .nr = 0 };
    const struct acpi_machine am = { .cfg = cfg, .ecam = ecam, .fixups = &fix };
    struct bytes b = { .cap = ACPI_FILE_BYTES };
    gpa_t rsdp;
    int rc;

    b.p = calloc(1, b.cap);
    if (!b.p)
        return -ENOMEM;
    acpi_build(&b, &am, &rsdp); /* addresses are offsets now */
    BUG_ON(b.full || fix.full); /* room for 255 CPUs, and the tables' number is ours */
    /* A firmware may add up what it finds, the sum's own byte included. */
    for (unsigned i = 0; i < fix.nr; i++)
        if (fix.v[i].sum_at)
            b.p[fix.v[i].sum_at] = 0;
    rc = files_add(to, FILE_RSDP, b.p, ACPI_RSDP_BYTES);
    memset(b.p, 0, ACPI_RSDP_BYTES); /* or there would be two */
    if (!rc)
        rc = files_add(to, FILE_TABLES, b.p, b.n);
    if (!rc)
        rc = files_add_script(to, &fix);
    free(b.p);
    return rc;
}

/* ---- SMBIOS ---- */

/* The entry point ("anchor") and the structures; the firmware writes the address. */
static int files_add_smbios(struct boot_files *to, const struct boot_config *cfg)
{
    struct bytes b = { .cap = SMBIOS_FILE_BYTES };
    gpa_t entry;
    int rc;

    b.p = calloc(1, b.cap);
    if (!b.p)
        return -ENOMEM;
    smbios_build(&b, cfg, &entry);
    BUG_ON(b.full);
    rc = files_add(to, "etc/smbios/smbios-anchor", b.p, SMBIOS_ENTRY_BYTES);
    if (!rc)
        rc = files_add(to, "etc/smbios/smbios-tables", b.p + SMBIOS_TABLES_OFF,
                       b.n - SMBIOS_TABLES_OFF);
    free(b.p);
    return rc;
}

int boot_files(struct boot_files *to, const struct boot_config *cfg, gpa_t ecam)
{
    int rc;

    *to = (struct boot_files){ .nr = 0 };
    rc = files_add_e820(to, cfg);
    if (!rc)
        rc = files_add_acpi(to, cfg, ecam);
    if (!rc)
        rc = files_add_smbios(to, cfg);
    if (rc)
        log_error("out of memory for the firmware's tables");
    return rc;
}

void boot_files_free(struct boot_files *files)
{
    while (files->nr)
        free(files->f[--files->nr].data);
}
