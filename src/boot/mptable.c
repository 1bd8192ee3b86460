/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MP table (Intel MultiProcessor Specification 1.4, "MP Configuration Table"), for systems that
 * do not read ACPI.
 */
#include "boot/tables.h"

#define MP_LENGTH           4u
#define MP_CHECKSUM         7u
#define MP_ENTRIES          34u
#define MP_POINTER_BYTES    16u
#define MP_POINTER_CHECKSUM 10u

#define ENTRY_PROCESSOR 0u
#define ENTRY_BUS       1u
#define ENTRY_IOAPIC    2u
#define ENTRY_IO_INT    3u
#define ENTRY_LOCAL_INT 4u

#define CPU_ENABLED    BIT(0)
#define CPU_BSP        BIT(1)
#define CPU_SIGNATURE  0x600u /* family 6 */
#define CPU_FEATURES   0x201u /* FPU, APIC */
#define LAPIC_VERSION  0x14u
#define IOAPIC_VERSION 0x11u
#define IOAPIC_ENABLED BIT(0)

#define INTI_LEVEL_HIGH 0xdu /* polarity: active high; trigger mode: level */
#define INT_VECTORED    0u
#define INT_NMI         1u
#define INT_EXTINT      3u
#define BUS_PCI         0u
#define BUS_ISA         1u
#define ALL_LAPICS      0xffu

/* Entries are counted as they are written: every kind has its size, all but processors 8 bytes. */
struct mp {
    struct bytes *b;
    unsigned nr_entries;
};

static void mp_processor(struct mp *mp, unsigned id)
{
    mp->nr_entries++;
    put8(mp->b, ENTRY_PROCESSOR);
    put8(mp->b, id);
    put8(mp->b, LAPIC_VERSION);
    put8(mp->b, CPU_ENABLED | (id ? 0 : CPU_BSP));
    put32(mp->b, CPU_SIGNATURE);
    put32(mp->b, CPU_FEATURES);
    put64(mp->b, 0);
}

static void mp_bus(struct mp *mp, unsigned id, const char type[6])
{
    mp->nr_entries++;
    put8(mp->b, ENTRY_BUS);
    put8(mp->b, id);
    put_mem(mp->b, type, 6);
}

static void mp_ioapic(struct mp *mp)
{
    mp->nr_entries++;
    put8(mp->b, ENTRY_IOAPIC);
    put8(mp->b, PC_IOAPIC_ID);
    put8(mp->b, IOAPIC_VERSION);
    put8(mp->b, IOAPIC_ENABLED);
    put32(mp->b, PC_IOAPIC_AT);
}

/* "I/O Interrupt Assignment Entries" and "Local Interrupt Assignment Entries" have one form. */
struct mp_int {
    uint8_t entry, type, flags, bus, irq, apic, pin;
};

static void mp_interrupt(struct mp *mp, const struct mp_int *i)
{
    mp->nr_entries++;
    put8(mp->b, i->entry);
    put8(mp->b, i->type);
    put16(mp->b, i->flags);
    put8(mp->b, i->bus);
    put8(mp->b, i->irq);
    put8(mp->b, i->apic);
    put8(mp->b, i->pin);
}

/* IRQ 2 is the cascade of the 8259s; its I/O APIC pin belongs to the PIT. */
static void mp_isa_interrupts(struct mp *mp)
{
    for (unsigned irq = 0; irq < PC_NR_ISA_IRQS; irq++) {
        const struct mp_int i = {
            .entry = ENTRY_IO_INT,
            .type = INT_VECTORED,
            .bus = BUS_ISA,
            .irq = (uint8_t)irq,
            .flags = irq == PC_SCI_GSI ? PC_SCI_INTI_FLAGS : 0,
            .apic = PC_IOAPIC_ID,
            .pin = (uint8_t)(irq ? irq : PC_PIT_GSI),
        };

        if (irq != 2)
            mp_interrupt(mp, &i);
    }
}

/* "Source Bus IRQ" of PCI: device number and pin. */
static void mp_pci_interrupts(struct mp *mp)
{
    for (unsigned dev = 0; dev < PC_PCI_NR_DEVS; dev++) {
        for (unsigned pin = 0; pin < PC_PCI_NR_PINS; pin++) {
            const struct mp_int i = {
                .entry = ENTRY_IO_INT,
                .type = INT_VECTORED,
                .bus = BUS_PCI,
                .irq = (uint8_t)(dev << 2 | pin),
                .apic = PC_IOAPIC_ID,
                .pin = (uint8_t)pc_pci_gsi(dev, pin),
            };

            mp_interrupt(mp, &i);
        }
    }
}

/* For kernels without ACPI, which know the devices from their command line and the interrupts by
 * their pins only. As the DSDT has them: level-triggered, active high. */
static void mp_virtio_interrupts(struct mp *mp)
{
    for (unsigned i = 0; i < PC_VIRTIO_NR_GSIS; i++) {
        const struct mp_int line = {
            .entry = ENTRY_IO_INT,
            .type = INT_VECTORED,
            .bus = BUS_ISA,
            .irq = (uint8_t)(PC_VIRTIO_GSI + i),
            .flags = INTI_LEVEL_HIGH,
            .apic = PC_IOAPIC_ID,
            .pin = (uint8_t)(PC_VIRTIO_GSI + i),
        };

        mp_interrupt(mp, &line);
    }
}

static void mp_local_interrupts(struct mp *mp)
{
    const struct mp_int extint = {
        .entry = ENTRY_LOCAL_INT, .type = INT_EXTINT, .bus = BUS_ISA, .apic = ALL_LAPICS, .pin = 0
    };
    const struct mp_int nmi = {
        .entry = ENTRY_LOCAL_INT, .type = INT_NMI, .bus = BUS_ISA, .apic = ALL_LAPICS, .pin = 1
    };

    mp_interrupt(mp, &extint);
    mp_interrupt(mp, &nmi);
}

/* The specification's APIC IDs have 8 bits: CPUs above 254 are only in the MADT. */
void mptable_build(struct bytes *b, const struct boot_config *cfg, gpa_t *table)
{
    unsigned nr_cpus = MIN(cfg->nr_cpus, PC_XAPIC_ID_MAX + 1);
    struct mp mp = { .b = b };
    size_t at;

    put_align(b, 16);
    at = b->n;
    *table = bytes_here(b);
    put_mem(b, "PCMP", 4);
    put16(b, 0); /* length */
    put8(b, 4);  /* specification 1.4 */
    put8(b, 0);  /* checksum */
    put_mem(b, "DOPPEL  ", 8);
    put_mem(b, "DOPPEL PC   ", 12);
    put32(b, 0); /* OEM table */
    put16(b, 0);
    put16(b, 0); /* entries */
    put32(b, PC_LAPIC_AT);
    put32(b, 0); /* no extended table */
    for (unsigned i = 0; i < nr_cpus; i++)
        mp_processor(&mp, i);
    mp_bus(&mp, BUS_PCI, "PCI   ");
    mp_bus(&mp, BUS_ISA, "ISA   ");
    mp_ioapic(&mp);
    mp_isa_interrupts(&mp);
    mp_pci_interrupts(&mp);
    if (cfg->nr_virtio_mmio)
        mp_virtio_interrupts(&mp);
    mp_local_interrupts(&mp);
    patch(b, at + MP_LENGTH, b->n - at, 2);
    patch(b, at + MP_ENTRIES, mp.nr_entries, 2);
    patch(b, at + MP_CHECKSUM, checksum8(b, at, b->n - at), 1);
}

/* "MP Floating Pointer Structure" */
void mp_pointer_build(struct bytes *b, gpa_t table)
{
    size_t at = b->n;

    put_mem(b, "_MP_", 4);
    put32(b, table.v);
    put8(b, MP_POINTER_BYTES / 16);
    put8(b, 4); /* specification 1.4 */
    put8(b, 0); /* checksum */
    put8(b, 0); /* there is a configuration table */
    put8(b, 0); /* no IMCR: virtual wire mode */
    put_zero(b, 3);
    patch(b, at + MP_POINTER_CHECKSUM, checksum8(b, at, MP_POINTER_BYTES), 1);
}
