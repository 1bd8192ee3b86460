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

/* All write to `b` and say by b->full that there was no room. */
void acpi_build(struct bytes *b, const struct boot_config *cfg, gpa_t *rsdp);
void dsdt_build(struct bytes *b, const struct boot_config *cfg); /* the AML behind the header */
void smbios_build(struct bytes *b, const struct boot_config *cfg, gpa_t *entry);
/* The configuration table; the floating pointer that mp_pointer_build() makes is to go to low
 * memory. */
void mptable_build(struct bytes *b, const struct boot_config *cfg, gpa_t *table);
void mp_pointer_build(struct bytes *b, gpa_t table);

#endif
