/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernel loaders and the tables firmware would have left: E820, ACPI, SMBIOS, MP table.
 *
 * Image files are hostile: every offset and length is checked, and a refusal names the file, the
 * field and the value.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "cpu/cpu.h"
#include "mmu/mmu.h"

/* Where things are in guest-physical memory. Kept below 1 MB where old kernels look for them. */
#define BOOT_GDT_AT        0x500ull
#define BOOT_START_INFO_AT 0x6000ull /* PVH hvm_start_info, modules, memmap; multiboot info */
#define BOOT_ZERO_PAGE_AT  0x7000ull /* struct boot_params */
#define BOOT_STACK_AT      0x8ff0ull
#define BOOT_PML4_AT       0x9000ull /* and the following: identity map of the first 4 GB */
#define BOOT_CMDLINE_AT    0x20000ull
#define BOOT_CMDLINE_MAX   0x10000u
#define BOOT_EBDA_AT       0x9fc00ull /* RSDP pointer area, MP floating pointer */
#define BOOT_BIOS_AT       0xe0000ull /* ROM area: RSDP, ACPI tables, SMBIOS (RAM, reserved in E820) */
#define BOOT_BIOS_BYTES    0x20000u
#define BOOT_KERNEL_AT     0x100000ull

/* The PC's memory holes. RAM is [0, low) and [4 GB, 4 GB + high). */
/* What a Q35 leaves its firmware to put there decides: SeaBIOS has its ECAM at 0xb0000000. */
#define PC_LOW_RAM_MAX 0x80000000ull
#define PC_ECAM_AT                                                                \
    0xe0000000ull /* 256 buses would be 256 MB; doppel has one bus segment of 256 \
                   */
#define PC_ECAM_BYTES     0x10000000ull
#define PC_PCI_MMIO_AT    0xc0000000ull /* 32-bit BARs */
#define PC_PCI_MMIO_BYTES 0x20000000ull
#define PC_BOOT_TIMER_AT \
    PC_PCI_MMIO_AT /* where Firecracker's guests look; never with PCI devices */
#define PC_PCI_MMIO64_AT 0x800000000ull /* 64-bit BARs, above RAM when RAM is larger */
#define PC_IOAPIC_AT     0xfec00000ull
#define PC_HPET_AT       0xfed00000ull
#define PC_LAPIC_AT      0xfee00000ull
#define PC_ACPI_PM_PORT \
    0x600u /* PM1a event (4), control (2) at +4, PM timer (4) at +8, GPE0 at +0x10 */
#define PC_SCI_GSI     9u
#define PC_VMGENID_GPE 5u
#define PC_S5_SLP_TYP  5u /* SLP_TYP that means "off" in PM1a control */
#define PC_IOAPIC_ID   0u
/* Where PCI's interrupt lines A to H (GSIs from 16 on) arrive at the 8259s, if they are used: what
 * SeaBIOS and OVMF set up, and the DSDT tells. */
#define PC_PIRQ_ROUTES                 \
    {                                  \
        10, 10, 11, 11, 10, 10, 11, 11 \
    }
#define PC_PCI_INTX_GSI 16u /* four lines; pin p (0: INTA#) of device d is (d + p) % 4 of them */
#define PC_RESET_PORT   0xcf9u
#define PC_FW_CFG_PORT  0x510u

/* Virtio devices over MMIO: pages behind each other, interrupts shared by every fourth. */
#define PC_VIRTIO_MMIO_AT    0xfec40000ull
#define PC_VIRTIO_MMIO_BYTES 0x1000u
#define PC_VIRTIO_GSI        20u
#define PC_VIRTIO_NR_GSIS    4u
#define PC_VIRTIO_MAX        32u

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };
struct e820_entry {
    uint64_t base, bytes;
    uint32_t type;
} __attribute__((packed));
#define E820_MAX 32

struct boot_config {
    const char *firmware;                 /* path; NULL: the kernel is booted without one */
    const char *kernel, *initrd, *append; /* paths; append may be NULL or "" */
    uint64_t ram_bytes;
    uint32_t nr_cpus;
    unsigned nr_virtio_mmio; /* of the devices at PC_VIRTIO_MMIO_AT */
    bool has_vga;
    const char *vm_name; /* for SMBIOS */
};

/*
 * Where the VM's generation identifier is, 16 bytes, in a machine without firmware: in the EBDA,
 * which is RAM that a guest leaves alone.
 */
#define PC_VMGENID_AT    (BOOT_EBDA_AT + 0x100u)
#define PC_VMGENID_BYTES 16u

struct boot_map {
    struct e820_entry e[E820_MAX];
    unsigned nr;
    gpa_t rsdp, smbios, mp; /* filled by boot_tables() */
};

/* The memory map of a machine with that much RAM (RAM, EBDA, BIOS area, ECAM, APICs reserved). */
void boot_map_init(struct boot_map *map, uint64_t ram_bytes);
/* Writes ACPI (RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG, DSDT), SMBIOS 3 and the MP table; fills
 * map->rsdp etc. 0 or -errno. */
int boot_tables(struct mmu *m, const struct boot_config *cfg, struct boot_map *map) MUST_CHECK;
/*
 * Recognises the image (bzImage, ELF64 with a PVH note, multiboot1 ELF32 or flat), loads it, its
 * initrd and its boot information, and sets the vCPU's registers for its entry. 0, or -errno after
 * a message.
 */
int boot_load(struct mmu *m, const struct boot_config *cfg, const struct boot_map *map,
              struct cpu *c) MUST_CHECK;

/* ---- firmware.c: a machine that boots by a ROM image ---- */

/* Reads the ROM image and makes the slot for it that ends at 4 GB. Once per machine. */
int boot_firmware_load(struct mmu *m, const char *path) MUST_CHECK;
/* Its end as the chip set shows it below 1 MB, where the processor's first instructions jump to.
 * At each reset. */
int boot_firmware_shadow(struct mmu *m) MUST_CHECK;

/* Files that firmware gets by fw_cfg. */
struct boot_file {
    const char *name;
    uint8_t *data; /* malloc'ed */
    uint32_t bytes;
};
#define BOOT_FILES_MAX 8
struct boot_files {
    struct boot_file f[BOOT_FILES_MAX];
    unsigned nr;
};
/*
 * The memory map, the ACPI tables with the script by which the firmware places and links them, and
 * the SMBIOS tables. ecam: where the firmware has put PCI's configuration space. The sizes do not
 * depend on it. 0 or -errno; boot_files_free() either way.
 */
int boot_files(struct boot_files *to, const struct boot_config *cfg, gpa_t ecam) MUST_CHECK;
void boot_files_free(struct boot_files *files);

#endif
