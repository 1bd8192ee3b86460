/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of boot_tables(), and the few facts about the machine's devices that the tables tell
 * the guest and that must agree with dev/.
 */
#ifndef BOOT_TABLES_H
#define BOOT_TABLES_H

#include "boot/boot.h"
#include "boot/bytes.h"

#define PC_IOAPIC_ID    0u
#define PC_IOAPIC_PINS  24u
#define PC_PIT_GSI      2u /* ISA IRQ 0 is wired to pin 2 */
#define PC_NR_ISA_IRQS  16u
#define PC_XAPIC_ID_MAX 254u /* larger ids need x2APIC */
/* INTx of PCI devices: four lines, rotated by device number. pin 0 is INTA#. */
#define PC_PCI_NR_DEVS  32u
#define PC_PCI_NR_PINS  4u
static inline unsigned pc_pci_gsi(unsigned dev, unsigned pin)
{
    return PC_PCI_INTX_GSI + (dev + pin) % 4;
}
#define PC_HPET_BLOCK_ID  0x8086a201u /* low half of the HPET's capabilities register */
/* MPS INTI flags of the SCI, the same in the MADT and in the MP table: level-triggered, active
 * high. */
#define PC_SCI_INTI_FLAGS 0xdu

/*
 * What has to be done to tables that move: the addresses in them and the sums over them, for a
 * firmware that places them (loader.c). In the order in which it is to be done. NULL: they stay.
 */
#define ACPI_RSDP_BYTES 36u /* at the start */
#define ACPI_FIXUPS_MAX 64u
struct acpi_fixup {
    uint32_t at, bytes; /* of an address; or of the table that adds up to 0 ... */
    uint32_t sum_at;    /* ... by this byte; 0: an address */
};
struct acpi_fixups {
    struct acpi_fixup v[ACPI_FIXUPS_MAX];
    unsigned nr;
    bool full;
};
/* What of the machine is in the tables. */
struct acpi_machine {
    const struct boot_config *cfg;
    gpa_t ecam;
    struct acpi_fixups *fixups;
};

/* All write to `b` and say by b->full that there was no room. */
void acpi_build(struct bytes *b, const struct acpi_machine *am, gpa_t *rsdp);
/* The AML behind the header. */
void dsdt_build(struct bytes *b, const struct acpi_machine *am);
/* The entry point, and aligned behind it the structures. */
#define SMBIOS_ENTRY_BYTES 24u
#define SMBIOS_TABLES_OFF  32u
void smbios_build(struct bytes *b, const struct boot_config *cfg, gpa_t *entry);
/* The configuration table; the floating pointer that mp_pointer_build() makes is to go to low
 * memory. */
void mptable_build(struct bytes *b, const struct boot_config *cfg, gpa_t *table);
void mp_pointer_build(struct bytes *b, gpa_t table);

#endif
