/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The DSDT: what an operating system cannot find out by itself about the machine's devices. The ASL
 * that each function stands for is above it.
 */
#include <stdio.h>

#include "boot/aml.h"
#include "boot/tables.h"

#define PCI_CONFIG_PORT  0xcf8u
#define PCI_CONFIG_PORTS 8u
#define PM_PORTS         0x20u
#define FW_CFG_PORTS     12u /* selector, data, DMA address */

/* PCI Firmware Specification, "_OSC Interface for PCI Host Bridge Devices" */
#define OSC_PCI_UUID        "33db4d5b-1ff7-401c-9657-7441c03dd766"
#define OSC_BAD_UUID        0x04u
#define OSC_BAD_REVISION    0x08u
#define OSC_MASKED          0x10u
#define OSC_PCIE_CAPABILITY 0x10u

/* ACPI Specification, "_STA (Device Status)": present, enabled, functioning, hidden from the user
 * interface. */
#define STA_HIDDEN 0x0bu

/* One device of the ISA kind: ports and interrupts that are where they always were. */
struct isa_device {
    const char *name, *hid;
    struct {
        uint16_t base;
        uint8_t ports;
    } io[3];
    int irq; /* or -1 */
};

static const struct isa_device isa_devices[] = {
    { "PIC_", "PNP0000", { { 0x20, 2 }, { 0xa0, 2 }, { 0x4d0, 2 } }, 2 },
    { "TMR_", "PNP0100", { { 0x40, 4 } }, 0 },
    { "SPKR", "PNP0800", { { 0x61, 1 } }, -1 },
    { "RTC_", "PNP0B00", { { 0x70, 2 } }, 8 },
    { "KBD_", "PNP0303", { { 0x60, 1 }, { 0x64, 1 } }, 1 },
    { "MOU_", "PNP0F13", { { 0 } }, 12 },
    { "FPU_", "PNP0C04", { { 0xf0, 1 } }, 13 },
    { "COM1", "PNP0501", { { 0x3f8, 8 } }, 4 },
};

/* Device (COM1) { Name (_HID, EisaId ("PNP0501")) Name (_UID, 0) Name (_CRS, ResourceTemplate ()
 * {...}) } */
static void dsdt_isa_device(struct bytes *b, const struct isa_device *d)
{
    size_t dev = aml_device(b, d->name);
    struct aml_crs crs;

    aml_name_eisaid(b, "_HID", d->hid);
    aml_name_int(b, "_UID", 0);
    crs_init(&crs);
    for (unsigned i = 0; i < ARRAY_SIZE(d->io) && d->io[i].ports; i++)
        crs_io(&crs, d->io[i].base, d->io[i].ports);
    if (d->irq >= 0)
        crs_irq(&crs, (unsigned)d->irq);
    aml_name_crs(b, &crs);
    aml_end(b, dev);
}

/* Where 64-bit BARs go: behind RAM, by default at 32 GB, and as large. */
static void dsdt_window64(struct aml_crs *crs, uint64_t ram_bytes)
{
    uint64_t ram_end = GIB(4) + ram_bytes - MIN(ram_bytes, PC_LOW_RAM_MAX);
    uint64_t first = MAX(PC_PCI_MMIO64_AT, align_up(ram_end, GIB(1)));

    crs_window64(crs, first, first + PC_PCI_MMIO64_AT - 1);
}

/* All between RAM and the I/O APIC but for ECAM is the PCI bus's: firmware places BARs there too.
 */
static void dsdt_window32(struct aml_crs *crs, gpa_t ecam)
{
    crs_window32(crs, PC_LOW_RAM_MAX, (uint32_t)ecam.v - 1);
    crs_window32(crs, (uint32_t)(ecam.v + PC_ECAM_BYTES), PC_IOAPIC_AT - 1);
}

static void dsdt_pci_crs(struct bytes *b, const struct acpi_machine *am)
{
    struct aml_crs crs;

    crs_init(&crs);
    crs_window16(&crs, CRS_BUS, 0, 0xff);
    crs_io(&crs, PCI_CONFIG_PORT, PCI_CONFIG_PORTS);
    crs_window16(&crs, CRS_IO, 0, PCI_CONFIG_PORT - 1);
    crs_window16(&crs, CRS_IO, PCI_CONFIG_PORT + PCI_CONFIG_PORTS, 0xffff);
    crs_window32(&crs, 0xa0000, 0xbffff);
    dsdt_window32(&crs, am->ecam);
    dsdt_window64(&crs, am->cfg->ram_bytes);
    aml_name_crs(b, &crs);
}

/* ---- where PCI's interrupt pins arrive ---- */

static const char *const dsdt_links[PC_PCI_NR_PINS] = { "LNKA", "LNKB", "LNKC", "LNKD" };

/*
 * Device (LNKA) { Name (_HID, EisaId ("PNP0C0F")) ... }: an input of the 8259s, as firmware has
 * routed it. It can be no other one, so setting and disabling do nothing.
 */
static void dsdt_link(struct bytes *b, unsigned idx)
{
    static const uint8_t routes[] = PC_PIRQ_ROUTES;
    size_t dev = aml_device(b, dsdt_links[idx]);
    static const char *const kinds[] = { "_PRS", "_CRS" };

    aml_name_eisaid(b, "_HID", "PNP0C0F");
    aml_name_int(b, "_UID", idx);
    aml_name_int(b, "_STA", STA_HIDDEN);
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct aml_crs crs;

        crs_init(&crs);
        crs_gsi_shared(&crs, routes[idx]);
        aml_name_resources(b, kinds[i], &crs);
    }
    aml_end(b, aml_method(b, "_SRS", 1));
    aml_end(b, aml_method(b, "_DIS", 0));
    aml_end(b, dev);
}

/* Name (\PICF, 0) Method (\_PIC, 1) { Store (Arg0, PICF) }: 1 if the system uses the I/O APIC. */
static void dsdt_pic(struct bytes *b)
{
    size_t method;

    aml_name_int(b, "\\PICF", 0);
    method = aml_method(b, "\\_PIC", 1);
    aml_op(b, AML_STORE);
    aml_op(b, AML_ARG(0));
    aml_path(b, "PICF");
    aml_end(b, method);
}

/* Package () { Package () { 0x0001ffff, 0, 0, 17 }, ... }, or with LNKB, 0 for 0, 17. */
static void dsdt_pci_pins(struct bytes *b, bool links)
{
    size_t prt = aml_package(b, PC_PCI_NR_DEVS * PC_PCI_NR_PINS), row;

    for (unsigned dev = 0; dev < PC_PCI_NR_DEVS; dev++) {
        for (unsigned pin = 0; pin < PC_PCI_NR_PINS; pin++) {
            unsigned gsi = pc_pci_gsi(dev, pin);

            row = aml_package(b, 4);
            aml_int(b, (uint64_t)dev << 16 | 0xffff);
            aml_int(b, pin);
            if (links)
                aml_path(b, dsdt_links[gsi - PC_PCI_INTX_GSI]);
            else
                aml_int(b, 0); /* no link device: the next is a GSI */
            aml_int(b, links ? 0 : gsi);
            aml_end(b, row);
        }
    }
    aml_end(b, prt);
}

/* Method (_PRT, 0) { If (PICF) { Return (PRTA) } Return (PRTP) } */
static void dsdt_pci_prt(struct bytes *b)
{
    size_t method, cond;

    aml_name(b, "PRTA");
    dsdt_pci_pins(b, false);
    aml_name(b, "PRTP");
    dsdt_pci_pins(b, true);
    method = aml_method(b, "_PRT", 0);
    cond = aml_if(b);
    aml_path(b, "PICF");
    aml_op(b, AML_RETURN);
    aml_path(b, "PRTA");
    aml_end(b, cond);
    aml_op(b, AML_RETURN);
    aml_path(b, "PRTP");
    aml_end(b, method);
}

/* Or (CDW1, bits, CDW1) */
static void osc_report(struct bytes *b, unsigned bits_)
{
    aml_op(b, AML_OR);
    aml_path(b, "CDW1");
    aml_int(b, bits_);
    aml_path(b, "CDW1");
}

/*
 * Inside If (Arg0 is the PCI UUID): the OS may have the PCIe capability structures, nothing else
 * exists. CreateDWordField (Arg3, 8, CDW3) And (CDW3, OSC_PCIE_CAPABILITY, Local0) If (LNot (LEqual
 * (Arg1, 1))) { bad revision } If (LNot (LEqual (CDW3, Local0))) { masked } Store (Local0, CDW3)
 */
static void osc_pci(struct bytes *b)
{
    size_t cond;

    aml_op(b, AML_CREATE_DWORD_FIELD);
    aml_op(b, AML_ARG(3));
    aml_int(b, 8);
    aml_path(b, "CDW3");
    aml_op(b, AML_AND);
    aml_path(b, "CDW3");
    aml_int(b, OSC_PCIE_CAPABILITY);
    aml_op(b, AML_LOCAL0);
    cond = aml_if(b);
    aml_op(b, AML_LNOT);
    aml_op(b, AML_LEQUAL);
    aml_op(b, AML_ARG(1));
    aml_int(b, 1);
    osc_report(b, OSC_BAD_REVISION);
    aml_end(b, cond);
    cond = aml_if(b);
    aml_op(b, AML_LNOT);
    aml_op(b, AML_LEQUAL);
    aml_path(b, "CDW3");
    aml_op(b, AML_LOCAL0);
    osc_report(b, OSC_MASKED);
    aml_end(b, cond);
    aml_op(b, AML_STORE);
    aml_op(b, AML_LOCAL0);
    aml_path(b, "CDW3");
}

/* Method (_OSC, 4) { CreateDWordField (Arg3, 0, CDW1) If (UUID) {...} Else { bad UUID } Return
 * (Arg3) } */
static void dsdt_pci_osc(struct bytes *b)
{
    size_t method = aml_method(b, "_OSC", 4), cond;

    aml_op(b, AML_CREATE_DWORD_FIELD);
    aml_op(b, AML_ARG(3));
    aml_int(b, 0);
    aml_path(b, "CDW1");
    cond = aml_if(b);
    aml_op(b, AML_LEQUAL);
    aml_op(b, AML_ARG(0));
    aml_uuid(b, OSC_PCI_UUID);
    osc_pci(b);
    aml_end(b, cond);
    cond = aml_else(b);
    osc_report(b, OSC_BAD_UUID);
    aml_end(b, cond);
    aml_op(b, AML_RETURN);
    aml_op(b, AML_ARG(3));
    aml_end(b, method);
}

static void dsdt_pci(struct bytes *b, const struct acpi_machine *am)
{
    size_t dev = aml_device(b, "PCI0");

    aml_name_eisaid(b, "_HID", "PNP0A08"); /* PCI Express host bridge */
    aml_name_eisaid(b, "_CID", "PNP0A03"); /* PCI host bridge, for older systems */
    aml_name_int(b, "_UID", 0);
    aml_name_int(b, "_SEG", 0);
    aml_name_int(b, "_BBN", 0);
    dsdt_pci_crs(b, am);
    dsdt_pci_prt(b);
    dsdt_pci_osc(b);
    for (unsigned i = 0; i < ARRAY_SIZE(isa_devices); i++)
        dsdt_isa_device(b, &isa_devices[i]);
    aml_end(b, dev);
}

/* What no device driver owns but must stay free. Linux uses ECAM only if it is listed here (or in
 * E820). */
static void dsdt_motherboard(struct bytes *b, gpa_t ecam)
{
    size_t dev = aml_device(b, "MBRD");
    struct aml_crs crs;

    aml_name_eisaid(b, "_HID", "PNP0C02");
    aml_name_int(b, "_UID", 0);
    crs_init(&crs);
    crs_io(&crs, 0x80, 1);
    crs_io(&crs, 0x92, 1);
    crs_io(&crs, PC_ACPI_PM_PORT, PM_PORTS);
    crs_memory32(&crs, (uint32_t)ecam.v, PC_ECAM_BYTES);
    crs_memory32(&crs, PC_IOAPIC_AT, PAGE_BYTES);
    crs_memory32(&crs, PC_LAPIC_AT, PAGE_BYTES);
    aml_name_crs(b, &crs);
    aml_end(b, dev);
}

static void dsdt_hpet(struct bytes *b)
{
    size_t dev = aml_device(b, "HPET");
    struct aml_crs crs;

    aml_name_eisaid(b, "_HID", "PNP0103");
    aml_name_int(b, "_UID", 0);
    crs_init(&crs);
    crs_memory32(&crs, PC_HPET_AT, KIB(1));
    aml_name_crs(b, &crs);
    aml_end(b, dev);
}

/* QEMU's documentation, "QEMU Firmware Configuration (fw_cfg) Device": drivers look for this
 * identifier. */
static void dsdt_fw_cfg(struct bytes *b)
{
    size_t dev = aml_device(b, "FWCF");
    struct aml_crs crs;

    aml_name(b, "_HID");
    aml_string(b, "QEMU0002");
    aml_name_int(b, "_STA", STA_HIDDEN);
    crs_init(&crs);
    crs_io(&crs, PC_FW_CFG_PORT, FW_CFG_PORTS);
    aml_name_crs(b, &crs);
    aml_end(b, dev);
}

/* Device (VR00) { Name (_HID, "LNRO0005") Name (_UID, 0) Name (_CRS, ...) }: virtio over MMIO. */
static void dsdt_virtio_mmio(struct bytes *b, unsigned idx)
{
    struct aml_crs crs;
    char name[8];
    size_t dev;

    (void)snprintf(name, sizeof(name), "VR%02X", idx & 0xff);
    dev = aml_device(b, name);
    aml_name(b, "_HID");
    aml_string(b, "LNRO0005");
    aml_name_int(b, "_UID", idx);
    crs_init(&crs);
    crs_memory32(&crs, (uint32_t)PC_VIRTIO_MMIO_AT + idx * PC_VIRTIO_MMIO_BYTES,
                 PC_VIRTIO_MMIO_BYTES);
    crs_gsi_shared(&crs, PC_VIRTIO_GSI + idx % PC_VIRTIO_NR_GSIS);
    aml_name_crs(b, &crs);
    aml_end(b, dev);
}

/* Device (C000) { Name (_HID, "ACPI0007") Name (_UID, 0) }: the UID is that of the MADT. */
static void dsdt_cpu(struct bytes *b, uint32_t id)
{
    char name[8];
    size_t dev;

    (void)snprintf(name, sizeof(name), "C%03X", id & 0xfff);
    dev = aml_device(b, name);
    aml_name(b, "_HID");
    aml_string(b, "ACPI0007");
    aml_name_int(b, "_UID", id);
    aml_end(b, dev);
}

/* Name (\_S5, Package (4) { SLP_TYPa, SLP_TYPb, 0, 0 }) */
static void dsdt_s5(struct bytes *b)
{
    size_t pkg;

    aml_name(b, "\\_S5");
    pkg = aml_package(b, 4);
    aml_int(b, PC_S5_SLP_TYP);
    aml_int(b, PC_S5_SLP_TYP);
    aml_int(b, 0);
    aml_int(b, 0);
    aml_end(b, pkg);
}

/*
 * Microsoft, "Virtual Machine Generation ID": Device (VGEN) { Name (_HID, ...) Name (_CID,
 * "VM_Gen_Counter") Name (_DDN, "VM_Gen_Counter") Name (ADDR, Package () { low, high }) }. Where
 * firmware places the tables there is no memory that is known to be left alone.
 */
static void dsdt_vmgenid(struct bytes *b)
{
    size_t dev = aml_device(b, "VGEN"), pkg;

    aml_name(b, "_HID");
    aml_string(b, "DOPL0001");
    aml_name(b, "_CID");
    aml_string(b, "VM_Gen_Counter");
    aml_name(b, "_DDN");
    aml_string(b, "VM_Gen_Counter");
    aml_name(b, "ADDR");
    pkg = aml_package(b, 2);
    aml_int(b, (uint32_t)PC_VMGENID_AT);
    aml_int(b, PC_VMGENID_AT >> 32);
    aml_end(b, pkg);
    aml_end(b, dev);
}

/* Scope (\_GPE) { Method (_E05) { Notify (\_SB.VGEN, 0x80) } }: an edge of that GPE says that the
 * identifier has changed. */
static void dsdt_vmgenid_event(struct bytes *b)
{
    size_t gpe = aml_scope(b, "\\_GPE"), method;
    char name[8];

    (void)snprintf(name, sizeof(name), "_E%02X", PC_VMGENID_GPE);
    method = aml_method(b, name, 0);
    aml_op(b, AML_NOTIFY);
    aml_path(b, "\\_SB.VGEN");
    aml_int(b, 0x80);
    aml_end(b, method);
    aml_end(b, gpe);
}

void dsdt_build(struct bytes *b, const struct acpi_machine *am)
{
    size_t sb;

    dsdt_pic(b);
    sb = aml_scope(b, "\\_SB");
    for (unsigned i = 0; i < PC_PCI_NR_PINS; i++)
        dsdt_link(b, i);
    dsdt_pci(b, am);
    dsdt_motherboard(b, am->ecam);
    dsdt_hpet(b);
    dsdt_fw_cfg(b);
    for (unsigned i = 0; i < am->cfg->nr_virtio_mmio; i++)
        dsdt_virtio_mmio(b, i);
    for (uint32_t i = 0; i < am->cfg->nr_cpus && !b->full; i++)
        dsdt_cpu(b, i);
    if (!am->cfg->firmware)
        dsdt_vmgenid(b);
    aml_end(b, sb);
    if (!am->cfg->firmware)
        dsdt_vmgenid_event(b);
    dsdt_s5(b);
}
