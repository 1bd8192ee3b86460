/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ACPI tables (ACPI Specification 6.3, "ACPI Software Programming Model"), but for the DSDT's
 * contents: see dsdt.c.
 */
#include "boot/tables.h"

#define SDT_HEADER_BYTES 36u
#define SDT_LENGTH       4u
#define SDT_CHECKSUM     9u
#define RSDP_V1_BYTES    20u
#define RSDP_V1_CHECKSUM 8u
#define RSDP_CHECKSUM    32u

/* "Fixed ACPI Description Table (FADT)" */
#define PM1_EVT_BYTES        4u
#define PM1_CNT_BYTES        2u
#define PM_TMR_BYTES         4u
#define GPE0_BYTES           4u
#define PM1_CNT_OFF          4u
#define PM_TMR_OFF           8u
#define GPE0_OFF             0x10u
#define NO_C2_US             101u
#define NO_C3_US             1001u
#define RTC_CENTURY_IDX      0x32u
#define RESET_VALUE          6u /* CF9h: system reset, reset CPU */
#define IAPC_LEGACY_DEVICES  BIT(0)
#define IAPC_8042            BIT(1)
#define IAPC_VGA_NOT_PRESENT BIT(2)
#define FADT_WBINVD          BIT(0)
#define FADT_PROC_C1         BIT(2)
#define FADT_SLP_BUTTON \
    BIT(5) /* set: there is no fixed sleep button (PWR_BUTTON clear: there is one) */
#define FADT_TMR_VAL_EXT   BIT(8) /* 32-bit timer */
#define FADT_RESET_REG_SUP BIT(10)

/* "Generic Address Structure" */
#define GAS_MEMORY 0u
#define GAS_IO     1u
#define GAS_BYTE   1u
#define GAS_WORD   2u
#define GAS_DWORD  3u

/* "Multiple APIC Description Table (MADT)" */
#define MADT_LAPIC       0u
#define MADT_IOAPIC      1u
#define MADT_OVERRIDE    2u
#define MADT_LAPIC_NMI   4u
#define MADT_X2APIC      9u
#define MADT_X2APIC_NMI  10u
#define MADT_PCAT_COMPAT BIT(0)
#define MADT_CPU_ENABLED BIT(0)
#define LINT_NMI         1u

#define HPET_MIN_TICK 1000u /* 10 us: what dev/hpet.c promises in periodic mode */

struct gas {
    uint8_t space, bits, access;
    uint64_t at;
};

static void acpi_put_gas(struct bytes *b, const struct gas *g)
{
    put8(b, g->space);
    put8(b, g->bits);
    put8(b, 0); /* bit offset */
    put8(b, g->access);
    put64(b, g->at);
}

static void acpi_note(const struct acpi_machine *am, size_t at, size_t bytes, size_t sum_at)
{
    struct acpi_fixups *f = am->fixups;

    if (!f)
        return;
    if (f->nr == ARRAY_SIZE(f->v))
        f->full = true;
    else
        f->v[f->nr++] = (struct acpi_fixup){ .at = (uint32_t)at,
                                             .bytes = (uint32_t)bytes,
                                             .sum_at = (uint32_t)sum_at };
}

static void acpi_put_addr(struct bytes *b, const struct acpi_machine *am, gpa_t at, unsigned bytes)
{
    acpi_note(am, b->n, bytes, 0);
    put_int(b, at.v, bytes);
}

/* "System Description Table Header"; length and checksum are filled in at the end. */
static size_t sdt_begin(struct bytes *b, const char *signature, unsigned revision)
{
    size_t at;

    put_align(b, 16);
    at = b->n;
    put_mem(b, signature, 4);
    put32(b, 0);
    put8(b, revision);
    put8(b, 0);
    put_mem(b, "DOPPEL", 6);   /* OEM ID */
    put_mem(b, "DOPPELPC", 8); /* OEM table ID */
    put32(b, 1);
    put_mem(b, "DPPL", 4); /* creator */
    put32(b, 1);
    return at;
}

static gpa_t sdt_end(struct bytes *b, size_t at, const struct acpi_machine *am)
{
    patch(b, at + SDT_LENGTH, b->n - at, 4);
    patch(b, at + SDT_CHECKSUM, checksum8(b, at, b->n - at), 1);
    acpi_note(am, at, b->n - at, at + SDT_CHECKSUM);
    return gpa_add(b->at, at);
}

/* "Firmware ACPI Control Structure (FACS)": no header, no checksum, 64-byte aligned. */
static gpa_t acpi_facs(struct bytes *b)
{
    gpa_t at;

    put_align(b, 64);
    at = bytes_here(b);
    put_mem(b, "FACS", 4);
    put32(b, 64);
    put32(b, 0); /* hardware signature */
    put32(b, 0); /* waking vector */
    put32(b, 0); /* global lock */
    put32(b, 0); /* flags */
    put64(b, 0); /* X waking vector */
    put8(b, 2);  /* version */
    put_zero(b, 31);
    return at;
}

static gpa_t acpi_dsdt(struct bytes *b, const struct acpi_machine *am)
{
    size_t at = sdt_begin(b, "DSDT", 2);

    dsdt_build(b, am);
    return sdt_end(b, at, am);
}

/* From "FIRMWARE_CTRL" to "GPE1_BASE": the 32-bit addresses of the fixed hardware. */
static void fadt_put_legacy(struct bytes *b, const struct acpi_machine *am, gpa_t facs, gpa_t dsdt)
{
    acpi_put_addr(b, am, facs, 4);
    acpi_put_addr(b, am, dsdt, 4);
    put8(b, 0); /* reserved */
    put8(b, 0); /* preferred PM profile: unspecified */
    put16(b, PC_SCI_GSI);
    put32(b, 0); /* SMI command port: none, the machine is always in ACPI mode */
    put32(b, 0); /* ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT */
    put32(b, PC_ACPI_PM_PORT);
    put32(b, 0); /* PM1b events */
    put32(b, PC_ACPI_PM_PORT + PM1_CNT_OFF);
    put32(b, 0); /* PM1b control */
    put32(b, 0); /* PM2 control */
    put32(b, PC_ACPI_PM_PORT + PM_TMR_OFF);
    put32(b, PC_ACPI_PM_PORT + GPE0_OFF);
    put32(b, 0); /* GPE1 */
    put8(b, PM1_EVT_BYTES);
    put8(b, PM1_CNT_BYTES);
    put8(b, 0); /* PM2 */
    put8(b, PM_TMR_BYTES);
    put8(b, GPE0_BYTES);
    put8(b, 0); /* GPE1 */
    put8(b, 0); /* GPE1_BASE */
}

/* From "CST_CNT" to "FADT Minor Version". */
static void fadt_put_features(struct bytes *b, bool has_vga)
{
    const struct gas reset = { GAS_IO, 8, GAS_BYTE, PC_RESET_PORT };

    put8(b, 0); /* CST_CNT */
    put16(b, NO_C2_US);
    put16(b, NO_C3_US);
    put16(b, 0); /* flush size, stride: WBINVD works */
    put16(b, 0);
    put16(b, 0); /* duty offset, width */
    put8(b, 0);  /* day alarm */
    put8(b, 0);  /* month alarm */
    put8(b, RTC_CENTURY_IDX);
    put16(b, IAPC_LEGACY_DEVICES | IAPC_8042 | (has_vga ? 0 : IAPC_VGA_NOT_PRESENT));
    put8(b, 0);
    put32(b, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_TMR_VAL_EXT | FADT_RESET_REG_SUP);
    acpi_put_gas(b, &reset);
    put8(b, RESET_VALUE);
    put16(b, 0); /* Arm boot flags */
    put8(b, 0);  /* minor version */
}

/* From "X_FIRMWARE_CTRL" on; absent blocks are all zero. */
static void fadt_put_extended(struct bytes *b, const struct acpi_machine *am, gpa_t facs,
                              gpa_t dsdt)
{
    static const struct gas blocks[] = {
        { GAS_IO, PM1_EVT_BYTES * 8, GAS_WORD, PC_ACPI_PM_PORT },
        { 0 }, /* PM1b events */
        { GAS_IO, PM1_CNT_BYTES * 8, GAS_WORD, PC_ACPI_PM_PORT + PM1_CNT_OFF },
        { 0 }, /* PM1b control */
        { 0 }, /* PM2 control */
        { GAS_IO, PM_TMR_BYTES * 8, GAS_DWORD, PC_ACPI_PM_PORT + PM_TMR_OFF },
        { GAS_IO, GPE0_BYTES * 8, GAS_BYTE, PC_ACPI_PM_PORT + GPE0_OFF },
        { 0 }, /* GPE1 */
        { 0 }, /* sleep control */
        { 0 }, /* sleep status */
    };

    acpi_put_addr(b, am, facs, 8);
    acpi_put_addr(b, am, dsdt, 8);
    for (unsigned i = 0; i < ARRAY_SIZE(blocks); i++)
        acpi_put_gas(b, &blocks[i]);
    put_mem(b, "DOPPEL\0", 8); /* hypervisor vendor identity */
}

static gpa_t acpi_fadt(struct bytes *b, const struct acpi_machine *am, gpa_t facs, gpa_t dsdt)
{
    size_t at = sdt_begin(b, "FACP", 6);

    fadt_put_legacy(b, am, facs, dsdt);
    fadt_put_features(b, am->cfg->has_vga);
    fadt_put_extended(b, am, facs, dsdt);
    return sdt_end(b, at, am);
}

static void madt_put_cpu(struct bytes *b, uint32_t id)
{
    if (id <= PC_XAPIC_ID_MAX) {
        put8(b, MADT_LAPIC);
        put8(b, 8);
        put8(b, id); /* processor UID */
        put8(b, id);
        put32(b, MADT_CPU_ENABLED);
        return;
    }
    put8(b, MADT_X2APIC);
    put8(b, 16);
    put16(b, 0);
    put32(b, id);
    put32(b, MADT_CPU_ENABLED);
    put32(b, id); /* processor UID */
}

static void madt_put_override(struct bytes *b, unsigned irq, unsigned gsi, unsigned flags)
{
    put8(b, MADT_OVERRIDE);
    put8(b, 10);
    put8(b, 0); /* ISA */
    put8(b, irq);
    put32(b, gsi);
    put16(b, flags);
}

/* LINT1 of every CPU is the NMI input. */
static void madt_put_nmi(struct bytes *b, uint32_t nr_cpus)
{
    put8(b, MADT_LAPIC_NMI);
    put8(b, 6);
    put8(b, 0xff); /* all */
    put16(b, 0);
    put8(b, LINT_NMI);
    if (nr_cpus <= PC_XAPIC_ID_MAX + 1)
        return;
    put8(b, MADT_X2APIC_NMI);
    put8(b, 12);
    put16(b, 0);
    put32(b, ~0u);
    put8(b, LINT_NMI);
    put_zero(b, 3);
}

static gpa_t acpi_madt(struct bytes *b, const struct acpi_machine *am)
{
    uint32_t nr_cpus = am->cfg->nr_cpus;
    size_t at = sdt_begin(b, "APIC", 5);

    put32(b, PC_LAPIC_AT);
    put32(b, MADT_PCAT_COMPAT);
    for (uint32_t i = 0; i < nr_cpus && !b->full; i++)
        madt_put_cpu(b, i);
    put8(b, MADT_IOAPIC);
    put8(b, 12);
    put8(b, PC_IOAPIC_ID);
    put8(b, 0);
    put32(b, PC_IOAPIC_AT);
    put32(b, 0); /* first GSI */
    madt_put_override(b, 0, PC_PIT_GSI, 0);
    madt_put_override(b, PC_SCI_GSI, PC_SCI_GSI, PC_SCI_INTI_FLAGS);
    madt_put_nmi(b, nr_cpus);
    return sdt_end(b, at, am);
}

/* IA-PC HPET Specification, "The ACPI 2.0 HPET Description Table" */
static gpa_t acpi_hpet(struct bytes *b, const struct acpi_machine *am)
{
    const struct gas base = { GAS_MEMORY, 64, 0, PC_HPET_AT };
    size_t at = sdt_begin(b, "HPET", 1);

    put32(b, PC_HPET_BLOCK_ID);
    acpi_put_gas(b, &base);
    put8(b, 0); /* number of this HPET */
    put16(b, HPET_MIN_TICK);
    put8(b, 0); /* no page protection */
    return sdt_end(b, at, am);
}

/* PCI Firmware Specification, "MCFG Table Description" */
static gpa_t acpi_mcfg(struct bytes *b, const struct acpi_machine *am)
{
    size_t at = sdt_begin(b, "MCFG", 1);

    put64(b, 0);
    put64(b, am->ecam.v);
    put16(b, 0);   /* segment */
    put8(b, 0);    /* first bus */
    put8(b, 0xff); /* last bus */
    put32(b, 0);
    return sdt_end(b, at, am);
}

/* RSDT and XSDT differ in the width of their entries. */
struct acpi_root {
    const char *signature;
    unsigned entry_bytes;
    const gpa_t *tables;
    unsigned nr;
};

static gpa_t acpi_root(struct bytes *b, const struct acpi_machine *am, const struct acpi_root *root)
{
    size_t at = sdt_begin(b, root->signature, 1);

    for (unsigned i = 0; i < root->nr; i++)
        acpi_put_addr(b, am, root->tables[i], root->entry_bytes);
    return sdt_end(b, at, am);
}

/* "Root System Description Pointer (RSDP)", over the room that was left for it at the start of b.
 */
static void acpi_rsdp(struct bytes *b, const struct acpi_machine *am, gpa_t rsdt, gpa_t xsdt)
{
    struct bytes r = { .p = b->p, .cap = ACPI_RSDP_BYTES };

    put_mem(&r, "RSD PTR ", 8);
    put8(&r, 0); /* checksum of the first 20 bytes */
    put_mem(&r, "DOPPEL", 6);
    put8(&r, 2); /* revision */
    acpi_put_addr(&r, am, rsdt, 4);
    put32(&r, ACPI_RSDP_BYTES);
    acpi_put_addr(&r, am, xsdt, 8);
    put8(&r, 0); /* checksum of all */
    put_zero(&r, 3);
    patch(&r, RSDP_V1_CHECKSUM, checksum8(&r, 0, RSDP_V1_BYTES), 1);
    acpi_note(am, 0, RSDP_V1_BYTES, RSDP_V1_CHECKSUM);
    patch(&r, RSDP_CHECKSUM, checksum8(&r, 0, ACPI_RSDP_BYTES), 1);
    acpi_note(am, 0, ACPI_RSDP_BYTES, RSDP_CHECKSUM);
}

void acpi_build(struct bytes *b, const struct acpi_machine *am, gpa_t *rsdp)
{
    gpa_t facs, dsdt, tables[4], rsdt, xsdt;

    *rsdp = bytes_here(b);
    put_zero(b, ACPI_RSDP_BYTES);
    facs = acpi_facs(b);
    dsdt = acpi_dsdt(b, am);
    tables[0] = acpi_fadt(b, am, facs, dsdt);
    tables[1] = acpi_madt(b, am);
    tables[2] = acpi_hpet(b, am);
    tables[3] = acpi_mcfg(b, am);
    rsdt = acpi_root(b, am, &(struct acpi_root){ "RSDT", 4, tables, ARRAY_SIZE(tables) });
    xsdt = acpi_root(b, am, &(struct acpi_root){ "XSDT", 8, tables, ARRAY_SIZE(tables) });
    acpi_rsdp(b, am, rsdt, xsdt);
}
